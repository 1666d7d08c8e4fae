"""Somebody sets the wall clock: what lasts lasts as long as before, and times that are told are the clock's.

The daemon runs in this process with a clock of its own beside the real one; the monitor alone is asked where
the moment matters.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from dmimad.clock import Clock
from dmimad.config import load
from dmimad.daemon import Daemon
from dmimad.parts import Outside
from tests.broker import Broker, subscribed_to
from tests.core.monitored import BAD, GOOD, approved
from tests.core.monitored import Host as Monitored
from tests.service.host import Host, entry
from tests.service.lists import ascii_records, load_hash
from tests.service.witness import alerts, arrived

YEAR = 365 * 86400.0
JUMPS = pytest.mark.parametrize("by", [YEAR, -YEAR], ids=["forward", "back"])


def drifting() -> Monitored:
    """A device that runs another table than the approved one, before the hold-off of that is over."""
    host = Monitored(approved(d=(GOOD,)), hold_off=10.0)
    host.kernel.create(b"d", BAD)
    assert host.look(1000 + 2 * YEAR) == []
    return host


@JUMPS
def test_a_hold_off_is_neither_skipped_nor_endless(by: float) -> None:
    host, began = drifting(), 1000 + 2 * YEAR
    host.monitor.clock_stepped(by)
    assert host.monitor.next_due() == began + by + 10
    assert host.tick(began + by + 9.9) == []
    assert host.tick(began + by + 10) == [("drift.active", "firing", "d")]


@JUMPS
def test_a_duration_does_not_know_of_it(by: float) -> None:
    host, began = Monitored(approved(d=(GOOD,))), 1000 + 2 * YEAR
    host.kernel.create(b"d", BAD)
    assert ("drift.active", "firing", "d") in host.look(began)
    host.monitor.clock_stepped(by)
    host.kernel.remove(b"d")
    assert ("drift.active", "resolved", "d") in host.look(began + by + 30)
    resolved = [json.loads(message.payload)["data"] for message in host.disk.messages]
    [data] = [each for each in resolved if (each["code"], each["status"]) == ("drift.active", "resolved")]
    assert data["duration_seconds"] == 30


@JUMPS
def test_ids_do_not_depend_on_it(by: float) -> None:
    calm, jumping = drifting(), drifting()
    jumping.monitor.clock_stepped(by)
    assert calm.tick(1010 + 2 * YEAR) == jumping.tick(1010 + 2 * YEAR + by)
    ids = [json.loads(host.disk.messages[-1].payload)["id"] for host in (calm, jumping)]
    assert ids[0] == ids[1]


@JUMPS
def test_a_maintenance_is_as_long_as_it_was_asked_to_be(by: float) -> None:
    host, began = Monitored(approved(d=(GOOD,))), 1000 + 2 * YEAR
    host.look(began)
    host.monitor.start_maintenance("*", 60, "work", "root", began)
    host.commit()
    host.monitor.clock_stepped(by)
    assert host.tick(began + by + 59) == []
    assert host.tick(began + by + 60) == [("maintenance.active", "resolved", "h")]


def test_what_is_stored_is_moved_along() -> None:
    """Before NTP a clock may say 1970; who starts again afterwards has not waited for decades."""
    host = Monitored(approved(d=(GOOD,)), hold_off=10.0)
    host.kernel.create(b"d", BAD)
    host.look(5.0)
    host.restart()
    host.monitor.clock_stepped(50 * YEAR)
    host.look(50 * YEAR + 6)
    assert host.tick(50 * YEAR + 14.9) == []
    assert host.tick(50 * YEAR + 15) == [("drift.active", "firing", "d")]


def test_other_machines_with_the_same_host_id_have_other_ids() -> None:
    """The boot is in what an id is made of."""
    found = []
    for boot in ("one", "other"):
        host = Monitored(approved(d=(GOOD,)), boot=boot)
        host.kernel.create(b"d", BAD)
        host.look()
        found.append({json.loads(message.payload)["id"] for message in host.disk.messages})
    assert found[0]
    assert not found[0] & found[1]


class Hands:
    """The two clocks of a host, to be set."""

    def __init__(self, wall: float) -> None:
        self.by = wall - time.time()

    def wall(self) -> float:
        return time.time() + self.by


class TestClock:
    def test_tells_a_step_and_not_a_slew(self) -> None:
        wall, elapsed, steps = 1000.0, 5.0, list[float]()
        clock = Clock(lambda: wall, lambda: elapsed)
        clock.stepped = steps.append
        for _ in range(1000):
            wall, elapsed = wall + 1.001, elapsed + 1
            assert clock.now() == wall
        assert steps == []
        wall, elapsed = wall + YEAR + 60, elapsed + 60
        assert clock.now() == wall
        assert steps == [pytest.approx(YEAR)]
        wall -= YEAR
        assert clock.now() == wall
        assert steps[1:] == [pytest.approx(-YEAR)]

    def test_tells_a_step_since_another_process(self) -> None:
        wall, elapsed, steps = 10.0, 5.0, list[float]()
        reading = Clock(lambda: wall, lambda: elapsed).reading()
        wall, elapsed = 50 * YEAR + 3, elapsed + 3
        clock = Clock(lambda: wall, lambda: elapsed)
        clock.stepped = steps.append
        clock.since(reading)
        assert steps == [pytest.approx(50 * YEAR - 10)]


@contextlib.asynccontextmanager
async def within(host: Host, hands: Hands) -> AsyncIterator[Daemon]:
    """The daemon in this process."""
    log = structlog.wrap_logger(
        structlog.ReturnLogger(), wrapper_class=structlog.make_filtering_bound_logger(50)
    )
    settings = load(host.settings)
    environ = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
    daemon = Daemon(settings, Outside(lambda: settings, environ, wall_clock=hands.wall), log)
    task = asyncio.create_task(daemon.run())
    try:
        await daemon.ready.wait()
        yield daemon
    finally:
        daemon.stop()
        await task


@JUMPS
async def test_the_daemon_goes_on(broker: Broker, tmp_path: Path, corpus: Path, by: float) -> None:
    """Set before the hold-off is over, and set right again before the alert ends."""
    records = ascii_records(corpus / "systematic-6.1")
    host, hands = Host(tmp_path / "host", broker.port), Hands(2 * YEAR)
    host.approve(entry("linear1", [load_hash(records[2])]))
    host.configure(alerts={"hold_off_seconds": 1})
    async with subscribed_to(broker) as subscriber, within(host, hands) as daemon:
        host.append(b"".join(records[:7]))
        await host.settled(7)
        hands.by += by
        [fired] = await arrived(subscriber, 1)
        assert fired.summary[:3] == ("drift.active", "firing", "linear1")
        hands.by -= by
        host.append(b"".join(records[7:11]))
        await arrived(subscriber, 2)
        found = alerts(subscriber.messages)
        assert [alert.sequence for alert in found] == list(range(1, len(found) + 1))
        [ended] = [alert for alert in found if alert.event["data"]["status"] == "resolved"]
        assert 0 <= ended.event["data"]["duration_seconds"] < 600
        devices = daemon.monitor.status(hands.wall())["devices"]
        assert isinstance(devices, list)
