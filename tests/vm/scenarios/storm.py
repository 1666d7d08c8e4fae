"""All devices of a large host change at once: a handful of alerts, and the whole truth in the documents."""

from __future__ import annotations

import time

from tests.vm.guest.guest import DaemonSettings, Guest
from tests.vm.guest.subscriber import Alert

SUMMARY = "hundreds of devices drift at once: a handful of alerts, every device's document says so"
KERNELS = ("6.1.",)

DEVICES = 500
DISK = "/dev/vda"
SECTORS = 8
MOST_ALERTS = 8
SECONDS = 240.0
SETTINGS = DaemonSettings(live_interval_seconds=5.0, storm_threshold=20)
NAMES = tuple(f"dev{index:03}" for index in range(DEVICES))


def run(guest: Guest) -> None:
    began = time.monotonic()
    for index, name in enumerate(NAMES):
        guest.dm.create(name.encode())
        _load(guest, index, moved=False)
    guest.start(SETTINGS)
    guest.until_all("unknown", NAMES, seconds=SECONDS)
    made = time.monotonic()
    guest.capture(seconds=SECONDS)
    approved = time.monotonic()
    guest.quiet()
    guest.only()
    guest.say(f"{DEVICES} devices made and read in {made - began:.0f} s, approved in {approved - made:.0f} s")
    _storm(guest, moved=True, verdict="drift", statuses={"firing"})
    _storm(guest, moved=False, verdict="approved", statuses={"resolved"})


def _storm(guest: Guest, *, moved: bool, verdict: str, statuses: set[str]) -> None:
    """Reload all of them one after the other, until every document says what it must."""
    after, began = len(guest.alerts), time.monotonic()
    for index in range(DEVICES):
        _load(guest, index, moved=moved)
    loaded = time.monotonic()
    guest.until_all(verdict, NAMES, seconds=SECONDS)
    right = time.monotonic()
    guest.quiet()
    alerts = guest.alerts[after:]
    guest.say(
        f"all {DEVICES} reloaded in {loaded - began:.1f} s, their documents say {verdict} "
        f"{right - loaded:.1f} s later; {len(alerts)} alerts:",
        *(f"  {_shown(alert)}" for alert in alerts),
    )
    assert 0 < len(alerts) <= MOST_ALERTS, f"{len(alerts)} alerts, not 1 to {MOST_ALERTS}"
    assert statuses <= {alert.status for alert in alerts}, "\n".join(map(str, alerts))


def _load(guest: Guest, index: int, *, moved: bool) -> None:
    offset = SECTORS * (index + DEVICES * moved)
    guest.dm.load(NAMES[index].encode(), f"0 {SECTORS} linear {DISK} {offset}")
    guest.dm.resume(NAMES[index].encode())


def _shown(alert: Alert) -> str:
    summary = alert.event["data"].get("summary")
    return f"{alert}" + ("" if summary is None else f" ({summary['alerts']} in it: {summary['by_code']})")
