"""Honest kernels alarm nobody, and what their lists tell is true: histories far beyond the recorded ones.

The lists are written by `tests.core.kernel`, which is held to the real kernels by its own test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given

from dmimad.core.finding import Severity
from dmimad.core.reader import ListReader
from dmimad.core.table import parse_targets
from dmimad.core.tracker import Tracker
from tests.core.compare import differences
from tests.core.histories import BOUNDED, RENAMES, USUAL, Operation, operations, perform
from tests.core.kernel import DIALECTS, Kernel, Table, Target, linear, linears
from tests.core.lists import Item, binary_list, boot_aggregate, file
from tests.core.recorded import Action
from tests.core.replaying import replay_items
from tests.core.truth import expectations

#: The one finding above info that an honest kernel raises, and only an old one.
HOLE = "target.unmeasured"
#: A refused resume leaves dm-ima with books that are wrong: harmless if they are known from the beginning.
LATE = tuple(verb for verb in RENAMES if verb != "refuse")


def alarms(items: list[Item]) -> Counter[str]:
    """Codes above info, but for the real hole."""
    codes = replay_items(items).codes
    codes.pop(HOLE, None)
    return codes


def history(dialect: str, done: list[Operation]) -> Kernel:
    """A kernel with a history behind it."""
    kernel = Kernel(dialect)
    for _ in perform(kernel, done):
        pass
    return kernel


@pytest.mark.parametrize("dialect", DIALECTS)
@given(done=operations((*RENAMES, "kexec")))
@BOUNDED
def test_no_history_alarms(dialect: str, done: list[Operation]) -> None:
    items = history(dialect, done).items
    outcome = replay_items(items)
    assert outcome.codes.keys() <= ({HOLE} if dialect != "ordered" else set())
    if items[-1].is_dm:
        assert outcome.tracker.dialect.value == dialect


@pytest.mark.parametrize("dialect", DIALECTS)
@given(done=operations(tuple(verb for verb in USUAL if verb != "refuse")))
@BOUNDED
def test_devices_are_the_kernels_wherever_the_list_can_tell(dialect: str, done: list[Operation]) -> None:
    kernel, tracker, reader, counts = Kernel(dialect), Tracker(), ListReader(), Counter[str]()
    fed = 0

    def steps() -> Iterable[Action]:
        nonlocal fed
        for operation in perform(kernel, done):
            if kernel.dropped["device_rename"]:
                return  # names are anybody's guess then
            for record in reader.feed(binary_list(kernel.items[fed:])):
                tracker.apply(record)
            fed = len(kernel.items)
            yield Action(operation.verb, "", None, 0, "", fed, kernel.truth())

    for action, expected in expectations(kernel.items, steps(), ordered=kernel.ordered):
        wrong = differences(
            expected, tracker.devices, version=kernel.version, ordered=kernel.ordered, counts=counts
        )
        assert wrong == [], action.label


@pytest.mark.parametrize("dialect", DIALECTS)
@given(before=operations(LATE, least=4, most=20), after=operations(LATE))
@BOUNDED
def test_what_was_there_before_measuring_began_is_no_alarm(
    dialect: str, before: list[Operation], after: list[Operation]
) -> None:
    """A policy that is loaded late: tables whose load nobody measured are in use, and files were measured."""
    kernel = Kernel(dialect, start=[boot_aggregate(), file(b"/usr/lib/systemd/systemd")])
    kernel.measuring = False
    for _ in perform(kernel, before):
        pass
    kernel.measuring = True
    for _ in perform(kernel, after):
        pass
    assert alarms(kernel.items) == {}


@pytest.mark.parametrize("dialect", DIALECTS)
@given(done=operations(RENAMES))
@BOUNDED
def test_a_list_that_was_trimmed_honestly_is_no_alarm(dialect: str, done: list[Operation]) -> None:
    """Kernel 7.2 deletes records from the front; an attestation agent does so as a matter of course."""
    items = history(dialect, done).items
    for trimmed in range(1, len(items), 3):
        assert alarms(items[trimmed:]) == {}


# -- loads of several records, some of them dropped ----------------------------------------

#: How many targets of a long table fit into each record (v1 has more room: it writes no version).
SPLIT = {"v1": (36, 36, 7), "legacy": (36, 35, 8), "ordered": (36, 35, 8)}


def mixture(dialect: str, devices: str) -> Table:
    """A long table whose first, second and third record have targets on 1:7 or another device."""
    table: list[Target] = []
    for count, device in zip(SPLIT[dialect], devices, strict=False):
        table += linears(count, f"1:{device}", first=len(table))
    return tuple(table)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("before", "then", "dropped"),
    [
        pytest.param(["777"], "778", 2, id="first two of three"),
        pytest.param(["777"], "877", 2, id="last two of three"),
        pytest.param(["777"], "787", 2, id="first and last of three"),
        pytest.param(["777"], "878", 1, id="middle of three"),
        pytest.param(["777", "888"], "787", 3, id="all of three, mixed"),
        pytest.param(["777", "888", "999"], "798", 3, id="all of three, of three tables"),
        pytest.param(["777"], "777", 3, id="all of three, the same table"),
        pytest.param(["77"], "87", 1, id="last of two"),
        pytest.param(["77"], "78", 1, id="first of two"),
    ],
)
@pytest.mark.parametrize("cleared", [False, True], ids=["staged before", "cleared before"])
def test_a_long_load_of_which_records_were_dropped(
    dialect: str, before: list[str], then: str, dropped: int, *, cleared: bool
) -> None:
    """The parts that were recorded before make it whole, at the latest when it is resumed."""
    kernel = Kernel(dialect)
    kernel.create(b"long", linears(1))
    for devices in before:
        kernel.load(b"long", mixture(dialect, devices))
        if cleared:
            kernel.clear(b"long")
    assert kernel.dropped.total() == 0
    kernel.load(b"long", mixture(dialect, then))
    assert kernel.dropped.total() == dropped
    assert replay_items(kernel.items).codes == {}
    kernel.resume(b"long")
    outcome = replay_items(kernel.items)
    assert outcome.codes == {}
    (device,) = outcome.devices.values()
    assert device.active is not None
    assert device.inactive is None
    assert device.active.hash == kernel.devices[b"long"].running
    assert device.active.num_targets == sum(SPLIT[dialect][: len(then)])
    if not (cleared and then in before):  # that one was known whole, and is not put together again
        found = [len(parse_targets((text,))) for text in device.active.texts]
        assert found == list(SPLIT[dialect][: len(then)])


@pytest.mark.parametrize("dialect", ["v1", "legacy"])
def test_the_hole_hides_a_swap(dialect: str) -> None:
    """Tables that differ in the target that opens the last record have one hash: a known hole, reported."""
    kernel = Kernel(dialect)
    kernel.create(b"long", (*linears(36), linear(0)))
    before = len(kernel.items)
    kernel.load(b"long", (*linears(36), linear(4096, "8:0")))
    kernel.resume(b"long")
    assert len(kernel.items) == before
    outcome = replay_items(kernel.items)
    assert outcome.codes == {HOLE: 1}
    (device,) = outcome.devices.values()
    assert device.active is not None
    assert (device.active.unmeasured, device.active.num_targets) == (1, 37)


@pytest.mark.parametrize("first", DIALECTS)
@pytest.mark.parametrize("second", DIALECTS)
def test_kexec_into_another_kernel(first: str, second: str) -> None:
    """The new kernel's own dialect, and none of the old devices; the same device again is no repetition."""
    kernel = Kernel(first)
    kernel.create(b"root", linears(2), b"LVM-1")
    kernel.create(b"gone", linears(2))
    kernel.load(b"root", (linear(8),))
    kernel.kexec(b"another", second)
    kernel.create(b"root", (linear(4),), b"LVM-1")
    kernel.rename(b"root", b"new root")
    outcome = replay_items(kernel.items)
    assert outcome.codes == {}
    assert [finding.code for finding in outcome.findings] == ["list.restarted"]
    assert outcome.findings[0].severity is Severity.INFO
    assert {gone.name for step in outcome.steps for gone in step.removed} == {b"root", b"gone"}
    (device,) = outcome.devices.values()
    assert (device.name, device.active is not None, device.inactive) == (b"new root", True, None)
    assert outcome.tracker.dialect.value == second


def test_what_an_earlier_kernel_measured_counts_no_more() -> None:
    """After kexec a resume of a table that only the former kernel loaded is not explained by repetition."""
    kernel = Kernel("legacy")
    kernel.create(b"root", linears(1))
    resume = kernel.items[-1]
    kernel.kexec(b"another")
    outcome = replay_items([*kernel.items, resume])
    assert outcome.alarms == [("table.unmeasured", "critical", len(kernel.items))]
