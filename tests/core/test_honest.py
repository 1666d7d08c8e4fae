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
from dmimad.core.tracker import Tracker
from tests.core.compare import differences
from tests.core.histories import BOUNDED, RENAMES, USUAL, Operation, operations, perform
from tests.core.kernel import DIALECTS, Kernel, Table, linear, linears
from tests.core.lists import Item, binary_list, boot_aggregate, file
from tests.core.recorded import Action
from tests.core.replaying import replay_items
from tests.core.truth import expectations

#: The one finding above info that an honest kernel raises, and only an old one.
HOLE = "target.unmeasured"


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
    outcome = replay_items(history(dialect, done).items)
    assert outcome.codes.keys() <= ({HOLE} if dialect != "ordered" else set())
    if outcome.tracker.dm_records:
        assert outcome.tracker.dialect.value == dialect


@pytest.mark.parametrize("dialect", DIALECTS)
@given(done=operations(USUAL))
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
@given(before=operations(USUAL, most=20), after=operations(RENAMES))
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

FIRST, OTHER_FIRST = linears(36), linears(36, "1:8")
MIDDLE, OTHER_MIDDLE = linears(30, first=36), linears(30, "1:8", first=36)
LAST, OTHER_LAST = linears(8, first=66), linears(8, "1:8", first=66)
LONG = (*FIRST, *MIDDLE, *LAST)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("before", "then", "dropped"),
    [
        pytest.param([LONG], (*FIRST, *MIDDLE, *OTHER_LAST), 2, id="first two of three"),
        pytest.param([LONG], (*OTHER_FIRST, *MIDDLE, *LAST), 2, id="last two of three"),
        pytest.param([LONG], (*FIRST, *OTHER_MIDDLE, *LAST), 1, id="first of three, the others differ"),
        pytest.param([LONG, (*OTHER_FIRST, *OTHER_MIDDLE, *OTHER_LAST)], LONG, 3, id="all of three"),
        pytest.param([LONG, (*OTHER_FIRST, *OTHER_MIDDLE, *OTHER_LAST)], (*FIRST, *OTHER_MIDDLE, *OTHER_LAST), 3, id="all, a new mixture"),
        pytest.param([(*FIRST, *linears(2, first=36))], (*OTHER_FIRST, *linears(2, first=36)), 1, id="last of two"),
        pytest.param([(*FIRST, *linears(2, first=36))], (*FIRST, *linears(2, "1:8", first=36)), 1, id="first of two"),
    ],
)
@pytest.mark.parametrize("resumed", [True, False], ids=["resumed", "staged"])
def test_a_long_load_of_which_records_were_dropped(
    dialect: str, before: list[Table], then: Table, dropped: int, *, resumed: bool
) -> None:
    kernel = Kernel(dialect)
    kernel.create(b"long", before[0])
    for table in before[1:]:
        kernel.load(b"long", table)
        kernel.resume(b"long")
    assert kernel.dropped.total() == 0
    kernel.load(b"long", then)
    assert kernel.dropped.total() == dropped
    if resumed:
        kernel.resume(b"long")
    outcome = replay_items(kernel.items)
    assert outcome.codes == {}
    (device,) = outcome.devices.values()
    mapped = kernel.devices[b"long"]
    assert device.active is not None
    if resumed and not (dropped == 3 and then == LONG):  # the resume was dropped as well: nothing is left to see
        assert (device.active.hash, device.inactive) == (mapped.running, None)
    if resumed:
        assert device.active.hash in (mapped.running, *(None for _ in ()))
