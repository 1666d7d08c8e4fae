"""What happens while the daemon does not run: stopped by its service manager, or killed."""

from __future__ import annotations

import time

from tests.vm.guest import truth
from tests.vm.guest.actions import create, swap
from tests.vm.guest.guest import DaemonSettings, Guest, Step
from tests.vm.scenarios import _tables as t

SUMMARY = "changes while the daemon was stopped or killed are reported once, changes undone leave the truth"

NAMES = tuple(f"dev{index}" for index in range(6))
SETTINGS = DaemonSettings(hold_off_seconds=0.2)
KILLED_AFTER = 3
MOMENTS_SECONDS = (0.05, 0.25)
"""How long after a change the daemon is killed; nothing is waited for."""


def _good(index: int) -> str:
    return t.linear(index, 0, 64)


def _bad(index: int) -> str:
    return t.linear(index, 4096, 64)


def run(guest: Guest) -> None:
    guest.start(SETTINGS)
    guest.forget_past()
    guest.run(Step(f"create {name}", create(name, _good(index))) for index, name in enumerate(NAMES))
    guest.step("another table, before approval", swap(NAMES[0], _bad(0)))
    guest.step("and back", swap(NAMES[0], _good(0)))
    guest.approve(*NAMES)
    guest.quiet()
    guest.only()
    _changed(guest)
    _changed_unrecorded(guest)
    _changed_and_back(guest)
    for moment in MOMENTS_SECONDS:
        _killed(guest, moment)
    guest.compare_now("at the end")
    assert not guest.tally.wrong, "\n".join(guest.tally.wrong)


def _changed(guest: Guest) -> None:
    after = len(guest.alerts)
    guest.stop()
    _do(guest, 1, _bad(1), records=2)
    guest.start(SETTINGS)
    guest.expect("drift.active", "critical", device=NAMES[1], after=after)
    guest.compare_now("changed while stopped")
    guest.step("undone", swap(NAMES[1], _good(1)))
    guest.expect("drift.active", "critical", status="resolved", device=NAMES[1], after=after)
    guest.quiet()
    guest.only("drift.active", "watch.interrupted", after=after)


def _changed_unrecorded(guest: Guest) -> None:
    after = len(guest.alerts)
    guest.stop()
    _do(guest, 0, _bad(0), records=0)
    guest.start(SETTINGS)
    guest.expect("drift.active", "critical", device=NAMES[0], after=after)
    guest.compare_now("changed while stopped, unrecorded")
    guest.step("undone", swap(NAMES[0], _good(0)))
    guest.expect("drift.active", "critical", status="resolved", device=NAMES[0], after=after)


def _changed_and_back(guest: Guest) -> None:
    after = len(guest.alerts)
    guest.stop()
    _do(guest, 0, _bad(0), records=0)
    _do(guest, 0, _good(0), records=0)
    guest.start(SETTINGS)
    guest.compare_now("changed and changed back while stopped")
    guest.expect("watch.interrupted", "info", after=after)
    guest.quiet()
    guest.only("watch.interrupted", after=after)


def _do(guest: Guest, index: int, table: str, *, records: int) -> None:
    """A change that nobody watches."""
    before = truth.record_count()
    swap(NAMES[index], table)(guest)
    added = truth.record_count() - before
    assert added == records, f"not what this scenario is to show: {added} records"


def _killed(guest: Guest, moment_seconds: float) -> None:
    """Killed in the midst of changes, which go on: each is one alert, which may come twice with one id."""
    after = len(guest.alerts)
    for status, table in (("firing", _worse), ("resolved", lambda index, _: _good(index))):
        for index, name in enumerate(NAMES):
            swap(name, table(index, moment_seconds))(guest)
            if index == KILLED_AFTER:
                time.sleep(moment_seconds)  # the moment of death, not a synchronisation
                guest.kill()
        guest.start(SETTINGS)
        for name in NAMES:
            guest.expect("drift.active", "critical", status=status, device=name, after=after)
        guest.compare_now(f"{status}, killed {moment_seconds} s after a change")
    guest.quiet()
    mine = [alert for alert in guest.alerts[after:] if alert.code == "drift.active"]
    ids = {(name, status): set[str]() for name in NAMES for status in ("firing", "resolved")}
    for alert in mine:
        ids[alert.device, alert.status].add(alert.id)
    several = {what: found for what, found in ids.items() if len(found) != 1}
    assert not several, f"not one id each: {several}"
    guest.only("drift.active", "drift.inactive", "watch.interrupted", after=after)


def _worse(index: int, moment_seconds: float) -> str:
    """A table of its own for each killing, so that there are records."""
    return t.linear(index, 8192 + round(moment_seconds * 1000) * 8, 64)
