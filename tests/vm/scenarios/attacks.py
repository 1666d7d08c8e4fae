"""Tables changed under a running daemon that knows what is approved; records dropped or not."""

from __future__ import annotations

from tests.vm.guest import truth
from tests.vm.guest.actions import Action, create, remove, swap, together
from tests.vm.guest.guest import DaemonSettings, Guest
from tests.vm.guest.subscriber import Alert
from tests.vm.scenarios import _tables as t

SUMMARY = "each way to change an approved table is reported critical, and resolved when it is undone"

IMAGE, DATA, FLIP = "image-ro", "vg0-data", "flip"
IMAGE_TABLE, IMAGE_LINEAR = t.verity(0, 1), t.linear(0, 0, 8192)
DATA_TABLE, DATA_ELSEWHERE = t.linear(2, 0, 64), t.linear(2, 4096, 64)
FLIP_TABLE, FLIP_OTHER = t.linear(3, 0, 64), t.linear(4, 0, 64)
APPROVED = {IMAGE: IMAGE_TABLE, DATA: DATA_TABLE, FLIP: FLIP_TABLE}

SWAPPING = ("drift.active", "drift.inactive")
REMAKING = (*SWAPPING, "device.missing", "device.removed")


def run(guest: Guest) -> None:
    guest.start(DaemonSettings(hold_off_seconds=0.2))
    guest.forget_past()
    for name, table in APPROVED.items():
        guest.step(f"create {name}", create(name, table))
    guest.step("the other table is seen once, before approval", swap(FLIP, FLIP_OTHER))
    guest.step("and the good one is back, unrecorded", swap(FLIP, FLIP_TABLE))
    guest.approve(*APPROVED)
    guest.quiet()
    guest.only()

    _attack(guest, "reload to another offset", DATA, swap(DATA, DATA_ELSEWHERE), recorded=True)
    _attack(guest, "the same, records dropped", DATA, swap(DATA, DATA_ELSEWHERE), recorded=False)
    _attack(guest, "swap, all dropped since before approval", FLIP, swap(FLIP, FLIP_OTHER), recorded=False)
    _remade(guest, recorded=True)
    _remade(guest, recorded=False)
    _fast(guest)
    guest.compare_now("at the end")
    assert not guest.tally.wrong, "\n".join(guest.tally.wrong)


def _attack(guest: Guest, label: str, name: str, action: Action, *, recorded: bool) -> None:
    """Do it, wait for the alert, undo it, wait for that too."""
    after, records = len(guest.alerts), truth.record_count()
    guest.step(label, action)
    assert (truth.record_count() > records) == recorded, f"{label}: not what this scenario is to show"
    fired = guest.expect("drift.active", "critical", device=name, after=after)
    guest.step(f"{label}, undone", swap(name, APPROVED[name]))
    resolved = guest.expect("drift.active", "critical", status="resolved", device=name, after=after)
    guest.quiet()
    guest.only(*SWAPPING, after=after)
    _once(guest, after, name, fired, resolved)


def _once(guest: Guest, after: int, name: str, fired: Alert, resolved: Alert) -> None:
    """An attack is one alert, not several."""
    mine = [alert for alert in guest.alerts[after:] if (alert.code, alert.device) == ("drift.active", name)]
    assert mine == [fired, resolved], "\n".join(map(str, mine))


def _remade(guest: Guest, *, recorded: bool) -> None:
    """The device itself goes, and another has its name: kernels replace a verity target in no other way."""
    after, records = len(guest.alerts), truth.record_count()
    guest.step("verity for linear under the same name", together(remove(IMAGE), create(IMAGE, IMAGE_LINEAR)))
    assert (truth.record_count() > records) == recorded, "not what this scenario is to show"
    guest.expect("drift.active", "critical", device=IMAGE, after=after)
    guest.step("removed and made well again", together(remove(IMAGE), create(IMAGE, IMAGE_TABLE)))
    guest.expect("drift.active", "critical", status="resolved", device=IMAGE, after=after)
    guest.quiet()
    guest.only(*REMAKING, after=after)


def _fast(guest: Guest) -> None:
    """Over before anybody can look, and no record of it: only that something happened can be known."""
    after, records = len(guest.alerts), truth.record_count()
    guest.step("swap and back at once", together(swap(FLIP, FLIP_OTHER), swap(FLIP, FLIP_TABLE)))
    assert truth.record_count() == records, "not what this scenario is to show: there are records"
    guest.expect("activity.unrecorded", "info", after=after)
    guest.quiet()
    guest.only("activity.unrecorded", after=after)
