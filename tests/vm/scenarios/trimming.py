"""The list is shortened under the daemon: refused while it holds the list, reported where it lets others."""

from __future__ import annotations

import errno

from tests.vm.guest import truth
from tests.vm.guest.actions import create, load, remove, resume, swap
from tests.vm.guest.guest import DaemonSettings, Guest, Step
from tests.vm.guest.processes import wait
from tests.vm.scenarios import _tables as t

SUMMARY = "trimming is refused while the list is held open, and reported with its number where it is not"
KERNELS = ("7.",)

NAMES = ("kept", "changed")
TRIMMED = 4
TRIMMED_AS_PLANNED = 3
PATIENCE_SECONDS = 15.0


def run(guest: Guest) -> None:
    _held(guest)
    _cooperative(guest)
    _planned(guest)
    _unseen(guest)
    guest.compare_now("at the end")
    assert not guest.tally.wrong, "\n".join(guest.tally.wrong)


def _held(guest: Guest) -> None:
    guest.start(DaemonSettings(hold_off_seconds=0.2))
    guest.forget_past()
    for index, name in enumerate(NAMES):
        guest.step(f"create {name}", create(name, t.linear(index, 0, 64)))
    records = truth.record_count()
    for _ in range(3):
        error = _trim(1)
        assert error == errno.EBUSY, f"trimming a list that is held: {errno.errorcode.get(error, error)}"
    assert truth.record_count() == records, "records are gone"
    guest.run(_work(1))
    guest.stop()
    guest.only()


def _cooperative(guest: Guest) -> None:
    guest.start(DaemonSettings(hold_off_seconds=0.2, hold_open=False))
    guest.run(_work(2))
    after, number = len(guest.alerts), TRIMMED
    _trim_now(guest, number)
    alert = guest.expect("list.trimmed", "critical", after=after)
    assert str(number) in alert.message or number in alert.event["data"]["evidence"].values(), str(
        alert.event
    )
    guest.compare_now("after trimming")
    guest.run(_work(3))
    guest.quiet()
    guest.only("list.trimmed", after=after)
    assert (verified := guest.metric("dmimad_pcr_verified")) == 1, f"dmimad_pcr_verified is {verified}"
    guest.stop()


def _planned(guest: Guest) -> None:
    guest.start(DaemonSettings(hold_off_seconds=0.2, hold_open=False, trim_expected=True))
    guest.compare_now("started on a trimmed list")
    after = len(guest.alerts)
    _trim_now(guest, TRIMMED_AS_PLANNED)
    guest.expect("list.trimmed", "info", after=after)
    guest.run(_work(4))
    guest.quiet()
    guest.only("list.trimmed", after=after)
    guest.stop()


def _unseen(guest: Guest) -> None:
    """Records nobody has read are trimmed while the daemon does not run."""
    for step in _work(5):
        step.action(guest)
    error = _trim(truth.record_count())
    assert not error, f"trimming: {errno.errorcode.get(error, error)}"
    after = len(guest.alerts)
    guest.start(DaemonSettings(hold_off_seconds=0.2))
    guest.expect("list.gap", "", after=after)
    guest.compare_now("after a gap")
    guest.run(_work(6))


def _work(number: int) -> tuple[Step, ...]:
    """Some honest changes with records of their own."""
    name, table = f"work{number}", t.linear(number, 64 * number)
    return (
        Step(f"create {name}", create(name, table)),
        Step(f"load {name}", load(name, t.linear(number, 64 * number + 8))),
        Step(f"resume {name}", resume(name)),
        Step(f"back {name}", swap(name, table)),
        Step(f"remove {name}", remove(name)),
        Step("change", swap("changed", t.linear(1, 1024 + 64 * number, 64))),
    )


def _trim_now(guest: Guest, number: int) -> None:
    """Trim between two looks of the daemon at the list."""
    guest.settle()
    records = truth.record_count()
    wait(lambda: not _trim(number), PATIENCE_SECONDS, "the list can be trimmed")
    assert truth.record_count() == records - number, f"{records} records became {truth.record_count()}"


def _trim(number: int) -> int:
    """Delete the list's first records; the error number, 0 if there was none."""
    try:
        with truth.LIST.open("wb", buffering=0) as file:
            file.write(b"%d\n" % number)
    except OSError as error:
        return error.errno or -1
    return 0
