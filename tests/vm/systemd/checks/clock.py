"""The clock is set while the daemon runs, and far off when it starts: numbers and durations stay sane."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from typing import Any

from tests.vm.systemd.host import SERVICE, Host

HOUR = 3600.0
LATE_SECONDS = 30.0
"""Less than the certificates' age, or they would not be valid yet."""
DEVICE = "timed"
BEFORE_NTP = 86400.0 * 30
"""The clock of a machine without a battery: some time in 1970."""
PLAUSIBLE_SECONDS = 1800.0


def prepare(host: Host) -> None:
    host.running()
    known = len(host.subscriber.alerts())
    host.create(DEVICE)
    host.drift("device.unexpected", DEVICE, after=known)


def restore(host: Host) -> None:
    host.right_time()


def jumps_do_no_harm(host: Host) -> None:
    """An hour forward, an alert; a bit more than that back, another; and right again."""
    told, known = [], len(host.subscriber.alerts())
    for offset in (HOUR, -LATE_SECONDS, 0.0):
        host.right_time(offset)
        told.append(_fires_and_resolves(host, f"jump{offset:+.0f}"))
        firing, _ = told[-1]
        drift = abs(_seconds(firing["time"]) - time.time())
        assert drift < PLAUSIBLE_SECONDS, f"the alert is from {drift:.0f} s before or after the clock's time"
    host.numbers_are_whole(known)
    host.settled()


def starts_before_the_time_is_known(host: Host) -> None:
    """In 1970 no certificate is valid: the daemon watches, and tells when the clock is right."""
    host.stop()
    known = len(host.subscriber.alerts())
    host.right_time(BEFORE_NTP - time.time())
    host.run("systemctl", "start", SERVICE)
    host.create("early")
    host.until(lambda: "early" in [device["name"] for device in _status(host)["devices"]], "it is seen")
    host.until(lambda: _status(host)["outbox"]["pending"], "an alert waits")
    assert not _status(host)["mqtt_connected"]
    host.right_time()
    host.settled(seconds=300)
    host.drift("device.unexpected", "early", after=known)
    host.remove("early")
    event = host.resolution("device.unexpected", "early", after=known)
    assert 0 <= event["data"]["duration_seconds"] < PLAUSIBLE_SECONDS, event
    assert abs(_seconds(event["time"]) - time.time()) < PLAUSIBLE_SECONDS, event
    host.numbers_are_whole(known)


def _fires_and_resolves(host: Host, name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    known = len(host.subscriber.alerts())
    host.create(name)
    firing = host.drift("device.unexpected", name, after=known)
    host.remove(name)
    resolved = host.resolution("device.unexpected", name, after=known)
    assert 0 <= resolved["data"]["duration_seconds"] < PLAUSIBLE_SECONDS, resolved
    assert _seconds(resolved["time"]) >= _seconds(firing["time"]), (firing, resolved)
    return firing, resolved


def _status(host: Host) -> dict[str, Any]:
    return host.status() or {"devices": [], "outbox": {"pending": 0}, "mqtt_connected": False}


def _seconds(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()


CHECKS = (jumps_do_no_harm, starts_before_the_time_is_known)
