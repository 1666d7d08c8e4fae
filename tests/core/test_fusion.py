"""The two witnesses made one: recorded kernels, the model's under random histories, and attacks on it.

What is honest never alarms, whatever the interleaving; what is not is told with both sides.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmimad.core import fusion as module
from dmimad.core.device import MAX_FORMER_NAMES, Device
from dmimad.core.errors import MalformedError
from dmimad.core.event import Identity
from dmimad.core.finding import Finding, Severity
from dmimad.core.fusion import UNKNOWN_LOOKS, Fused, Fusion
from dmimad.core.observation import LiveDevice, LiveTable, LiveTarget, Observation
from dmimad.core.table import Provenance
from dmimad.core.tracker import Tracker
from tests.core import recorded
from tests.core.histories import BOUNDED, RENAMES, TABLES, Operation, operations, perform
from tests.core.kernel import DIALECTS, Kernel, Table, Target, linear, linears, opaque
from tests.core.lists import Item, boot_aggregate, file
from tests.core.live import (
    UNTOLD,
    Watcher,
    live_table,
    observation,
    recorded_observation,
    wrong,
)
from tests.core.recorded import LISTS, Action, TrueDevice
from tests.core.truth import Expectation, table_hashes, version

GOOD, BAD, OTHER = (linear(0),), (linear(8),), (linear(16),)

# -- what real kernels recorded ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """A recorded list with an observation after each step."""

    wrong: list[str]
    alarms: list[str]
    corrected: int
    most: int
    slots: Counter[str]
    hashes: Counter[str]
    degraded: set[str]


@functools.cache
def run(name: str) -> Run:
    """Follow a list to its end."""
    dialect, items = LISTS[name][0], recorded.items(name)
    head = version(next(item for item in items if item.is_dm))
    watcher, outcome = Watcher(), Run([], [], 0, 0, Counter(), Counter(), set())
    corrected = most = 0
    for action in recorded.actions(name):
        seen = recorded_observation(action, head)
        watcher.feed(items[: action.after])
        fused, count = watcher.settle(functools.partial(watcher.observe, seen))
        corrected, most = corrected + (count > 1), max(most, count)
        outcome.wrong.extend(_untrue(action, watcher, head, dialect == "ordered", outcome))
        outcome.degraded.update(
            finding.data["attributes"] for finding in fused.holding.values() if finding.code != UNTOLD
        )
    outcome.alarms.extend(watcher.alarms)
    return replace(outcome, corrected=corrected, most=most)


def _untrue(action: Action, watcher: Watcher, head: bytes, ordered: bool, outcome: Run) -> list[str]:
    """Where the devices are not dmsetup's."""
    tracked, found = watcher.devices, []
    for true in action.devices:
        ours = tracked.pop("{}:{}".format(*true.number), None)
        if ours is None:
            found.append(f"{action.label}: {true.name!r} is missing")
            continue
        have = (ours.name, ours.uuid, (ours.major, ours.minor), ours.active is not None)
        if have != (true.name, true.uuid, true.number, true.active):
            found.append(f"{action.label}: {have} is not {true}")
        if (ours.inactive is not None) != true.inactive:
            found.append(f"{action.label}: inactive of {true.name!r} is {ours.inactive}")
        outcome.slots.update(
            f"{slot} {table.provenance}"
            for slot, table in (("active", ours.active), ("inactive", ours.inactive))
            if table is not None
        )
        found += _another_table(action, true, ours, head, ordered, outcome)
    return found + [f"{action.label}: {key} does not exist" for key in tracked]


def _another_table(
    action: Action, true: TrueDevice, ours: Device, head: bytes, ordered: bool, outcome: Run
) -> list[str]:
    if ours.active is None or not true.measure:
        return []
    names = {(true.name, true.uuid), *((former.name, former.uuid) for former in ours.former)}
    expected = Expectation(true, true.number, frozenset(), frozenset(), frozenset(names))
    types = {line.split(" ")[2] for line in true.measure.split("\n") if line}
    if ours.active.hash in table_hashes(head, expected, ordered=ordered):
        outcome.hashes["equal"] += 1
    elif types & {"raid", "cache"}:
        outcome.hashes["moved"] += 1
    else:
        return [f"{action.label}: the active table of {true.name!r} is {ours.active.label}"]
    return []


#: List -> devices compared, steps that needed a correction, hashes that have moved, slots by who tells them.
RUNS: dict[str, tuple[int, int, int, dict[str, int]]] = {
    "lvm-6.1": (198, 6, 0, {"active both": 155, "active observed": 43, "inactive measured": 1}),
    "lvm-7.2": (198, 6, 0, {"active both": 155, "active observed": 43, "inactive measured": 1}),
    "random-6.1": (
        *(691, 7, 0),
        {"active both": 516, "active measured": 134, "inactive measured": 124, "inactive observed": 24},
    ),
    "random-6.12": (
        *(687, 10, 0),
        {"active both": 430, "active measured": 171, "inactive measured": 157, "inactive observed": 3},
    ),
    "random-7.2": (
        *(880, 2, 0),
        {"active both": 702, "active measured": 173, "inactive measured": 273, "inactive observed": 1},
    ),
    **{
        name: (
            *(517, 6, moved),
            {
                "active both": 492,
                "active observed": 4,
                "active measured": 14,
                "inactive measured": 13,
                "inactive observed": 1,
            },
        )
        for name, moved in (
            *(("systematic-6.1", 15), ("systematic-6.12", 19)),
            *(("systematic-7.2", 19), ("systematic-v1", 15)),
        )
    },
}
#: What moved by itself in the systematic lists, and is no more than that.
MOVED = {
    "systematic-6.1": {"target 0: no_discard_passdown=n -> y"},
    "systematic-6.12": {"target 0: raid_state=frozen -> idle"},
    "systematic-7.2": {"target 0: raid_state=frozen -> idle"},
    "systematic-v1": {"target 0: no_discard_passdown=n -> y"},
}


@pytest.mark.parametrize("name", LISTS)
def test_after_every_recorded_step_the_devices_are_dmsetups(name: str) -> None:
    """All of them, all of each, whatever was dropped from the list."""
    outcome = run(name)
    compared = sum(len(action.devices) for action in recorded.actions(name))
    assert outcome.wrong == []
    assert outcome.alarms == []
    assert outcome.most <= 2
    assert (compared, outcome.corrected, outcome.hashes["moved"], dict(outcome.slots)) == RUNS[name]
    assert outcome.degraded == MOVED.get(name, set())


# -- honest histories ----------------------------------------------------------------------

#: What a watcher does between two operations; stale: an observation is taken in after later records.
WATCHING = ("nothing", "nothing", "nothing", "feed", "look", "stale", "early", "restart", "settle")
#: A refused resume leaves dm-ima with books that are wrong: harmless if they are known from the beginning.
LATE = tuple(verb for verb in RENAMES if verb != "refuse")


def watch(
    watcher: Watcher, kernel: Kernel, done: Iterable[Operation], ways: list[str], *, whole: bool = True
) -> list[str]:
    """Perform a history and watch it in all these ways; returns where the settled devices were wrong."""
    stale: Observation | None = None
    early, found = False, []
    for index, _ in enumerate(perform(kernel, list(done))):
        way = ways[index % len(ways)]
        if way == "nothing":
            continue
        if stale is not None or (way == "early" and early):
            watcher.feed(kernel.items)  # an observation is never older than the records before the last one
        if stale is not None:
            watcher.observe(stale)
            stale = None
        early = way == "early"
        if way == "feed":
            watcher.feed(kernel.items)
        elif way == "look":
            watcher.look(kernel)
        elif way == "stale":
            stale = observation(kernel)
        elif way == "early":
            watcher.observe(observation(kernel))  # the records of what it saw have not been read
        elif way == "restart":
            watcher.feed(kernel.items)
            watcher.restart()
        else:
            watcher.settle(lambda: watcher.look(kernel))
            found += wrong(watcher, kernel, whole=whole)
    watcher.feed(kernel.items)
    if stale is not None:
        watcher.observe(stale)
    watcher.settle(lambda: watcher.look(kernel))
    return found + wrong(watcher, kernel, whole=whole)


def ways() -> st.SearchStrategy[list[str]]:
    """Ways to watch, used in turn."""
    return st.lists(st.sampled_from(WATCHING), min_size=1, max_size=40)


@pytest.mark.parametrize("dialect", DIALECTS)
@given(done=operations(RENAMES), how=ways())
@BOUNDED
def test_honest_devices_are_the_kernels_and_alarm_nobody(
    dialect: str, done: list[Operation], how: list[str]
) -> None:
    """However the watching falls between what is done, and through restarts."""
    kernel, watcher = Kernel(dialect), Watcher()
    assert watch(watcher, kernel, done, how) == []
    assert watcher.alarms == []
    assert all(
        device.active is None or device.active.provenance is not Provenance.MEASURED
        for device in watcher.tracker.devices
    )


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("seed", range(40))
def test_long_honest_histories(dialect: str, seed: int) -> None:
    """Longer than hypothesis makes them; rare cases need many devices' pasts."""
    random = Random(seed)
    done = [
        Operation(random.choice(RENAMES), random.randrange(4), random.randrange(len(TABLES)))
        for _ in range(150)
    ]
    kernel, watcher = Kernel(dialect), Watcher()
    assert watch(watcher, kernel, done, random.choices(WATCHING, k=60)) == []
    assert watcher.alarms == []


@pytest.mark.parametrize("dialect", DIALECTS)
@given(before=operations(LATE, least=4, most=20), after=operations(LATE), how=ways())
@BOUNDED
def test_what_was_loaded_before_measuring_began_is_no_critical_finding(
    dialect: str, before: list[Operation], after: list[Operation], how: list[str]
) -> None:
    """A policy that is loaded late, while somebody watches already."""
    kernel = Kernel(dialect, start=[boot_aggregate(), file(b"/usr/lib/systemd/systemd")])
    watcher = Watcher()
    kernel.measuring = False
    assert watch(watcher, kernel, before, how, whole=False) == []
    assert watcher.alarms == []  # nothing is known to be measured
    kernel.measuring = True
    assert watch(watcher, kernel, after, how, whole=False) == []
    assert {alarm.partition(" 254")[0] for alarm in watcher.alarms} <= {"warning measurement.absent"}


@pytest.mark.parametrize("dialect", DIALECTS)
@given(before=operations(RENAMES, least=4, most=20), after=operations(RENAMES), how=ways())
@BOUNDED
def test_a_list_that_was_trimmed_honestly_is_no_critical_finding(
    dialect: str, before: list[Operation], after: list[Operation], how: list[str]
) -> None:
    """At worst a table went back to one whose load was trimmed, which is a warning."""
    kernel, watcher = Kernel(dialect), Watcher()
    for _ in perform(kernel, before):
        pass
    watcher.read = len(kernel.items)
    assert watch(watcher, kernel, after, how, whole=False) == []
    assert {alarm.partition(" 254")[0] for alarm in watcher.alarms} <= {"warning drift.live"}


# -- attacks -------------------------------------------------------------------------------


class Host:
    """A model kernel that somebody watches, as a rule from its boot on."""

    def __init__(self, dialect: str = "ordered", *, late: bool = False) -> None:
        start = [boot_aggregate(), file(b"/bin/sh")] if late else None
        self.kernel = Kernel(dialect, start=start)
        self.watcher = Watcher()

    def look(self, active: Iterable[tuple[int, int]] = ()) -> Fused:
        """One observation, the list read behind it."""
        return self.watcher.look(self.kernel, active)

    def settle(self) -> Fused:
        """As many as it takes."""
        return self.watcher.settle(self.look)[0]

    def swap(self, name: bytes, table: Table | None, slot: str = "live") -> None:
        """Put a table in a slot without a record: dm itself was got around."""
        setattr(self.kernel.devices[name], slot, table)


def told(fused: Fused) -> list[tuple[str, str]]:
    """Code and severity of what holds."""
    return sorted((finding.code, finding.severity.value) for finding in fused.holding.values())


def only(fused: Fused) -> Finding:
    """The one thing that is wrong."""
    (finding,) = fused.holding.values()
    return finding


def test_who_changes_one_unmeasured_table_for_another_before_each_look_is_told() -> None:
    host = Host()
    host.kernel.create(b"a", GOOD)
    host.settle()
    looks = []
    for number in range(UNKNOWN_LOOKS):
        host.swap(b"a", (linear(100 + number),))
        looks.append(host.look())
    assert [told(look) for look in looks] == [[]] * (UNKNOWN_LOOKS - 1) + [[("drift.live", "critical")]]
    assert [look.unsettled for look in looks] == [True] * (UNKNOWN_LOOKS - 1) + [False]
    # It stays told while that goes on, and takes as long to be told anew of tables that are measured again.
    host.swap(b"a", (linear(200),))
    assert told(host.look()) == [("drift.live", "critical")]
    host.swap(b"a", GOOD)
    assert told(host.look()) == [("drift.live", "critical")]
    assert told(host.look()) == []


def test_what_a_record_touched_is_not_believed_for_being_seen_often() -> None:
    host = Host()
    host.kernel.create(b"a", GOOD)
    host.settle()
    for number in range(2 * UNKNOWN_LOOKS):
        host.kernel.load(b"a", (linear(300 + number),))  # its record says nothing of the active table
        host.swap(b"a", (linear(100 + number),))
        assert told(host.look()) == []


@pytest.mark.parametrize(
    "damage",
    [
        {"appeared": [[1]]},
        {"appeared": [["x", 1]]},
        {"appeared": 1},
        {"expected": [[254, 0, "active"]]},
        {"recognised": [[254, 0, "active", "xy"]]},
        {"recognised": [254]},
        {"recognised": [[254, 0, "ab"]]},
    ],
    ids=str,
)
def test_a_damaged_document(damage: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        Fusion(Tracker()).restore(damage)


def test_an_empty_slot_is_no_expectation() -> None:
    fusion = Fusion(Tracker())
    fusion.restore({"expected": [[254, 0, "inactive", None]]})
    assert fusion.document() == Fusion(Tracker()).document()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("slot", "kind"), [("live", "active"), ("staged", "inactive")])
def test_a_table_that_no_load_measured(dialect: str, slot: str, kind: str) -> None:
    """Both sides are told after two observations, and it goes when the table is put back."""
    host = Host(dialect)
    host.kernel.create(b"a", GOOD)
    host.kernel.load(b"a", OTHER)
    assert told(host.settle()) == []
    host.swap(b"a", BAD, slot)
    first = host.look()
    assert (first.unsettled, first.holding, first.changed) == (True, {}, ())
    fused = host.look()
    found = only(fused)
    assert not fused.unsettled
    assert (found.code, found.severity, found.device) == ("drift.live", Severity.CRITICAL, "254:0")
    assert found.data["slot"] == kind
    before, after = ("start=0;", "start=8;") if slot == "live" else ("start=16;", "start=8;")
    assert found.data["measured_table"].endswith(before)
    assert found.data["live_table"].endswith(after)
    assert found.data["expected"].startswith("sha256:")
    assert found.data["actual"].startswith("sha256:")
    assert found.data["expected"] != found.data["actual"]
    assert list(fused.holding) == [f"drift.live|254:0|{kind}|{found.data['actual']}"]
    (device,) = fused.changed
    table = device.active if kind == "active" else device.inactive
    assert table is not None
    assert (table.label, table.provenance) == (found.data["actual"], Provenance.OBSERVED)
    assert host.look().holding == fused.holding
    host.swap(b"a", GOOD if slot == "live" else OTHER, slot)
    undone = host.look()
    assert (undone.unsettled, undone.holding) == (True, fused.holding)
    assert host.look().holding == {}
    assert wrong(host.watcher, host.kernel) == []


def test_an_attack_after_the_table_was_deduplicated_tells_that_one() -> None:
    """What is expected is what was recognised last, though no record put it there."""
    host = Host()
    for table in (GOOD, BAD, GOOD):
        host.kernel.create(b"a", GOOD) if b"a" not in host.kernel.devices else None
        host.kernel.load(b"a", table)
        host.kernel.resume(b"a")
    host.settle()
    host.swap(b"a", OTHER)
    found = only(host.settle())
    assert found.data["measured_table"].endswith("start=0;")


def test_an_attack_goes_on_while_the_tables_change() -> None:
    """What was measured is still told, not the former unmeasured one; and it survives a restart."""
    host = Host()
    host.kernel.create(b"a", GOOD)
    host.settle()
    host.swap(b"a", BAD)
    first = only(host.settle())
    host.swap(b"a", OTHER)
    second = only(host.settle())
    assert first.data["actual"] != second.data["actual"]
    assert first.data["expected"] == second.data["expected"]
    host.watcher.restart()
    again = only(host.settle())
    assert (again.code, again.severity, again.data["actual"]) == (
        *("drift.live", Severity.CRITICAL),
        second.data["actual"],
    )
    assert again.data["expected"] == first.data["expected"]
    assert again.data["measured_table"] == first.data["measured_table"] != ""


def test_the_attack_ends_with_the_slot() -> None:
    host = Host()
    host.kernel.create(b"a", GOOD)
    host.kernel.load(b"a", OTHER)
    host.settle()
    host.swap(b"a", BAD, "staged")
    assert told(host.settle()) == [("drift.live", "critical")]
    host.swap(b"a", None, "staged")
    assert told(host.settle()) == []
    (device,) = host.watcher.tracker.devices
    assert device.inactive is None


def test_suspending_hides_nothing() -> None:
    """Only names and tables have to stay the same to be believed."""
    host = Host()
    host.kernel.create(b"a", GOOD)
    host.settle()
    host.swap(b"a", BAD)
    host.look()
    host.kernel.suspend(b"a")
    assert told(host.look()) == [("drift.live", "critical")]


def test_a_record_in_between_asks_for_another_look() -> None:
    """What was seen before a record proves nothing: it may have been on its way."""
    host = Host()
    host.kernel.create(b"a", GOOD)
    host.settle()
    host.swap(b"a", BAD)
    assert host.look().unsettled
    host.kernel.clear(b"a")
    assert host.look().unsettled
    assert told(host.look()) == [("drift.live", "critical")]


def test_a_record_without_numbers_asks_for_another_look_at_all() -> None:
    host = Host()
    host.kernel.create(b"a", GOOD)
    host.settle()
    host.swap(b"a", BAD)
    host.look()
    host.kernel.items += [item for item in _nameless_rename() if item not in host.kernel.items]
    assert host.look([(254, 0)]).unrecorded == ()
    fused = host.look([(254, 0)])
    assert told(fused) == [("drift.live", "critical")]
    assert fused.unrecorded == ()


def _nameless_rename() -> list[Item]:
    kernel = Kernel("ordered")
    kernel.create(b"x")
    kernel.rename(b"x", b"y")
    return kernel.items[-1:]


def test_a_list_that_is_not_whole_makes_it_a_warning() -> None:
    host = Host()
    host.kernel.create(b"a", GOOD)
    host.watcher.read = 1
    host.settle()
    host.swap(b"a", BAD)
    found = only(host.settle())
    assert (found.code, found.severity) == ("drift.live", Severity.WARNING)
    assert "not whole" in found.message


def test_more_than_can_be_remembered_makes_it_a_warning() -> None:
    """And what the list says is in the slot needs no memory."""
    host = Host()
    host.kernel.create(b"a", GOOD)
    host.watcher.feed(host.kernel.items)
    knowledge = host.watcher.tracker.knowledge
    knowledge.overflowed = True
    knowledge.loaded.clear()
    assert told(host.settle()) == []
    host.swap(b"a", BAD)
    assert told(host.settle()) == [("drift.live", "warning")]
    host.kernel.measuring = False
    host.kernel.create(b"b", GOOD)
    assert told(host.settle()) == [("drift.live", "warning"), ("measurement.absent", "warning")]


@pytest.mark.parametrize(("table", "severity"), [(linears(40), "warning"), (GOOD, "critical")])
def test_parts_that_were_forgotten_matter_to_long_tables_only(table: Table, severity: str) -> None:
    host = Host()
    host.kernel.create(b"a", OTHER)
    host.settle()
    host.watcher.tracker.knowledge.fragments.evicted = True
    host.swap(b"a", table)
    assert told(host.settle()) == [("drift.live", severity)]


# -- never measured ------------------------------------------------------------------------


def unmeasured(host: Host, name: bytes = b"x", table: Table = GOOD) -> None:
    """A device of which no record exists."""
    before, host.kernel.measuring = host.kernel.measuring, False
    host.kernel.create(name, table)
    host.kernel.measuring = before


def test_a_device_that_was_never_measured_since_the_boot() -> None:
    host = Host()
    unmeasured(host)
    assert host.look().holding == {}
    found = only(host.look())
    assert (found.code, found.severity, found.device) == ("measurement.absent", Severity.CRITICAL, "254:0")
    assert found.data["live_table"].endswith("start=0;")
    assert "expected" not in found.data


def test_a_renamed_device_is_still_the_one_that_was_measured() -> None:
    """Another name does not make an attack a device that was forgotten."""
    host = Host()
    host.kernel.create(b"a", GOOD, b"LVM-1")
    host.settle()
    host.kernel.measuring = False
    host.kernel.rename(b"a", b"b")
    host.settle()
    host.swap(b"b", BAD)
    assert told(host.settle()) == [("drift.live", "critical")]
    host.watcher.restart()
    assert told(host.settle()) == [("drift.live", "critical")]


def test_nothing_is_missing_where_nothing_is_measured() -> None:
    """Not even after long; and as soon as one record says that dm is measured, it is."""
    host = Host(late=True)
    unmeasured(host)
    for _ in range(4):
        assert host.look().holding == {}
    host.kernel.create(b"a", GOOD)
    found = only(host.settle())
    assert (found.code, found.severity) == ("measurement.absent", Severity.WARNING)
    assert found.message.endswith("or was loaded before measuring began")


def test_what_appears_while_measured_must_have_been_measured() -> None:
    """Though measuring began late; and it stays critical as long as it is there."""
    host = Host(late=True)
    host.kernel.create(b"a", GOOD)
    host.settle()
    host.look()
    unmeasured(host)
    for _ in range(2):
        assert told(host.settle()) == [("measurement.absent", "critical")]
    host.kernel.measuring = False
    host.kernel.remove(b"x")
    assert told(host.settle()) == []
    # The first observation after the policy may be of a time before it.
    host = Host(late=True)
    host.kernel.create(b"a", GOOD)
    host.look()
    unmeasured(host)
    host.look()
    assert told(host.settle()) == [("measurement.absent", "warning")]


def test_what_was_recognised_is_critical_though_measuring_began_late() -> None:
    """By the record's own text, by both witnesses, or by the second alone."""
    host = Host(late=True)
    host.kernel.create(b"a", GOOD)
    host.settle()
    host.swap(b"a", BAD)
    assert told(host.settle()) == [("drift.live", "critical")]
    host = Host(late=True)
    for table in (GOOD, BAD, GOOD):
        host.kernel.create(b"a", table) if b"a" not in host.kernel.devices else host.kernel.load(b"a", table)
        host.kernel.resume(b"a")
    (device,) = host.settle().changed
    assert device.active is not None
    assert device.active.provenance is Provenance.OBSERVED
    host.swap(b"a", OTHER)
    assert told(host.settle()) == [("drift.live", "critical")]


def test_a_table_from_before_under_a_name_from_before_is_no_drift() -> None:
    """The reworked kernels put the later name into the metadata, and keep the hash of the former one."""
    host = Host(late=True)
    unmeasured(host, b"old")
    host.kernel.measuring = False
    host.kernel.rename(b"old", b"new")
    host.kernel.suspend(b"new")
    host.kernel.measuring = True
    host.kernel.resume(b"new")
    assert told(host.settle()) == [("measurement.absent", "warning")]
    assert host.watcher.step_findings[-1].severity is Severity.INFO


def test_a_table_from_before_on_a_device_that_is_measured_now_is_no_drift() -> None:
    """Its second table was loaded when measuring had begun; the first, still active, was not."""
    host = Host(late=True)
    unmeasured(host)
    host.kernel.load(b"x", OTHER)
    assert told(host.settle()) == [("measurement.absent", "warning")]
    host.kernel.resume(b"x")
    assert told(host.settle()) == []


def test_of_a_trimmed_list_absence_says_little() -> None:
    host = Host()
    host.kernel.create(b"a", GOOD)
    unmeasured(host)
    host.watcher.read = 1
    assert told(host.settle()) == [("measurement.absent", "info")]
    assert "does not begin with the boot" in only(host.look()).message


# -- health --------------------------------------------------------------------------------


def verity(state: str) -> Table:
    text = f"target_name=verity,target_version=1.8.0,hash_failed={state},verity_version=1,root_digest=aa;"
    return (Target(8, text.encode()),)


def raid(state: str) -> Table:
    text = f"target_name=raid,target_version=1.15.1,raid_type=raid1,raid_state={state};"
    return (Target(8, text.encode()),)


@pytest.mark.parametrize(
    ("before", "after", "severity", "attributes"),
    [
        (verity("V"), verity("C"), Severity.WARNING, "target 0: hash_failed=C"),
        (raid("resync"), raid("idle"), Severity.INFO, "target 0: raid_state=resync -> idle"),
    ],
)
def test_what_moves_by_itself_is_health(
    before: Table, after: Table, severity: Severity, attributes: str
) -> None:
    """It is no drift, needs no second look, and the table is still the measured one."""
    host = Host()
    host.kernel.create(b"a", before)
    host.settle()
    host.swap(b"a", after)
    fused = host.look()
    found = only(fused)
    assert not fused.unsettled
    assert (found.code, found.severity, found.device) == ("target.degraded", severity, "254:0")
    assert found.data["attributes"] == attributes
    assert found.data["expected"] != found.data["actual"]
    assert list(fused.holding) == [f"target.degraded|254:0|active|{attributes}"]
    (device,) = host.watcher.tracker.devices
    assert device.active is not None
    assert (device.active.label, device.active.provenance) == (found.data["expected"], Provenance.BOTH)
    host.swap(b"a", before)
    assert host.look().holding == {}


def test_a_broken_target_is_told_though_it_was_loaded_so() -> None:
    host = Host()
    host.kernel.create(b"a", verity("C"))
    assert told(host.settle()) == [("target.degraded", "warning")]


def test_health_is_no_hiding_place() -> None:
    """Another root digest is not what moves."""
    host = Host()
    host.kernel.create(b"a", verity("V"))
    host.settle()
    changed = (Target(8, verity("C")[0].text.replace(b"=aa", b"=bb")),)
    host.swap(b"a", changed)
    assert told(host.settle()) == [("drift.live", "critical")]


def test_moved_from_a_table_whose_text_is_not_known() -> None:
    """It was measured, deduplicated, and has moved since: nobody can say from what."""
    host = Host()
    host.kernel.create(b"a", raid("resync"))
    host.kernel.load(b"a", GOOD)
    host.kernel.resume(b"a")
    host.settle()
    host.kernel.load(b"a", raid("resync"))
    host.kernel.resume(b"a")
    host.swap(b"a", raid("idle"))
    found = only(host.settle())
    assert (found.code, found.severity) == ("target.degraded", Severity.INFO)
    assert found.data["attributes"] == "attributes have moved since the load"
    (device,) = host.watcher.tracker.devices
    assert device.active is not None
    assert device.active.hash == host.kernel.devices[b"a"].running


# -- devices -------------------------------------------------------------------------------


def test_devices_come_and_go_unrecorded() -> None:
    host = Host()
    host.kernel.create(b"a", GOOD)
    host.kernel.remove(b"a")
    host.kernel.create(b"b", GOOD)
    host.kernel.remove(b"b")
    host.kernel.create(b"b", GOOD)
    host.settle()
    records = len(host.kernel.items)
    host.kernel.remove(b"b")
    host.kernel.create(b"a", GOOD)
    assert len(host.kernel.items) == records  # all of it dropped
    fused = host.settle()
    assert [device.name for device in fused.gone] == [b"b"]
    assert [device.name for device in fused.changed] == [b"a"]
    assert wrong(host.watcher, host.kernel) == []
    host.kernel.remove(b"a")
    fused = host.look()
    assert (fused.unsettled, fused.gone) == (True, ())
    (device,) = host.look().gone
    assert (device.key, device.name) == ("254:0", b"a")
    assert list(host.watcher.tracker.devices) == []
    assert host.look() == Fused(False, (), (), {}, ())
    assert host.watcher.alarms == []


def test_nothing_goes_at_the_first_observation() -> None:
    """A new process has seen nothing before; and what it keeps is not there at the second one."""
    host = Host()
    host.kernel.create(b"a", GOOD)
    host.watcher.feed(host.kernel.items)
    host.watcher.restart()
    first = host.watcher.observe(Observation((4, 50, 0), ()))
    assert (first.unsettled, first.gone) == (True, ())
    second = host.watcher.observe(Observation((4, 50, 0), ()))
    assert [device.name for device in second.gone] == [b"a"]
    assert not second.unsettled


def test_a_vanishing_device_keeps_its_findings() -> None:
    host = Host()
    host.kernel.create(b"a", GOOD)
    host.settle()
    host.swap(b"a", BAD)
    holding = host.settle().holding
    host.kernel.measuring = False
    host.kernel.remove(b"a")
    assert host.look().holding == holding
    assert host.look().holding == {}


@pytest.mark.parametrize(
    ("uuid", "new"), [(b"LVM-1", Identity(b"b", b"LVM-1")), (b"", Identity(b"a", b"CRYPT-2"))]
)
def test_an_unrecorded_rename_keeps_the_device(uuid: bytes, new: Identity) -> None:
    host = Host("legacy")
    host.kernel.create(b"a", GOOD, uuid)
    host.settle()
    host.kernel.measuring = False
    host.kernel.rename(b"a", new.name, new.uuid)
    fused = host.settle()
    assert fused.gone == ()
    (device,) = fused.changed
    assert (device.name, device.uuid, device.former) == (*new, (Identity(b"a", uuid),))
    assert device.active is not None
    assert device.active.provenance is Provenance.BOTH
    assert fused.holding == {}


def test_a_rename_back_that_was_dropped() -> None:
    """Without a uuid only the former record tells that it is the same device."""
    host = Host()
    host.kernel.create(b"a", GOOD)
    host.kernel.rename(b"a", b"b")
    host.kernel.rename(b"b", b"a")
    host.kernel.rename(b"a", b"b")
    fused = host.settle()
    assert (fused.gone, [device.name for device in fused.changed]) == ((), [b"b"])
    assert wrong(host.watcher, host.kernel) == []


def test_former_names_are_bounded() -> None:
    host = Host()
    host.kernel.create(b"a0", GOOD, b"LVM-1")
    host.settle()
    host.kernel.measuring = False
    for number in range(MAX_FORMER_NAMES + 3):
        host.kernel.rename(b"a%d" % number, b"a%d" % (number + 1))
        host.settle()
    (device,) = host.watcher.tracker.devices
    assert len(device.former) == MAX_FORMER_NAMES


def test_a_number_is_used_again() -> None:
    """Another name and uuid on it is another device."""
    host = Host()
    host.kernel.create(b"a", GOOD, b"LVM-1")
    host.settle()
    host.kernel.measuring = False
    host.kernel.remove(b"a")
    host.kernel.create(b"b", OTHER, b"LVM-2")
    fused = host.settle()
    assert [(device.key, device.name) for device in fused.gone] == [("254:0", b"a")]
    assert [(device.key, device.name) for device in fused.changed] == [("254:0", b"b")]
    assert told(fused) == [("measurement.absent", "critical")]


def test_names_that_were_exchanged() -> None:
    """Each of two devices has the other's name now, and neither goes for that."""
    host = Host()
    host.kernel.create(b"a", GOOD, b"LVM-1")
    host.kernel.create(b"b", GOOD, b"LVM-2")
    host.settle()
    host.kernel.measuring = False
    for old, new in ((b"a", b"c"), (b"b", b"a"), (b"c", b"b")):
        host.kernel.rename(old, new)
    fused = host.settle()
    assert (fused.gone, fused.holding) == ((), {})
    assert wrong(host.watcher, host.kernel) == []


def test_a_name_that_a_device_still_in_doubt_had() -> None:
    """It is called otherwise by now: it keeps its place, and is found by its name when it is settled."""
    host = Host()
    host.kernel.create(b"a", GOOD, b"LVM-1")
    host.kernel.create(b"b", GOOD, b"LVM-2")
    host.settle()
    host.kernel.measuring = False
    host.kernel.rename(b"a", b"c")
    host.kernel.rename(b"b", b"a")
    host.look()
    host.kernel.load(b"c", OTHER)
    host.swap(b"c", BAD, "staged")
    fused = host.look()
    assert (fused.unsettled, fused.gone) == (True, ())
    assert [device.name for device in fused.changed] == [b"a"]
    assert host.settle().gone == ()
    assert {device.name for device in host.watcher.tracker.devices} == {b"a", b"c"}
    assert host.watcher.tracker.registry.by_name.keys() == {b"a", b"c"}


def test_a_device_of_which_only_the_name_was_known() -> None:
    """It gets its number, under which it is known from then on."""
    host = Host()
    host.kernel.create(b"a")
    host.kernel.rename(b"a", b"b")
    host.watcher.feed(host.kernel.items)
    (before,) = host.watcher.tracker.devices
    assert before.major is None
    fused = host.settle()
    assert [device.key for device in fused.gone] == [before.key]
    assert [(device.key, device.since) for device in fused.changed] == [("254:0", before.since)]
    assert wrong(host.watcher, host.kernel) == []


def test_a_device_that_was_made_up_goes() -> None:
    """A rename that says not of whom: the device itself is known already."""
    host = Host("legacy")
    host.kernel.create(b"a")
    host.kernel.create(b"b")
    host.settle()
    host.kernel.rename(b"a", b"c")
    host.watcher.feed(host.kernel.items)
    assert len(list(host.watcher.tracker.devices)) == 3
    host.settle()
    assert wrong(host.watcher, host.kernel) == []


@pytest.mark.parametrize("known", [True, False])
def test_a_table_that_the_kernel_does_not_tell(known: bool) -> None:
    """What the list says stays; of what it does not say it is known that there is one."""
    host = Host()
    if known:
        host.kernel.create(b"a", GOOD)
        host.kernel.load(b"a", OTHER)
        host.watcher.feed(host.kernel.items)
    untold = LiveDevice(254, 0, b"a", b"", False, False, 0, LiveTable(None), LiveTable(None))
    seen = Observation((4, 50, 0), (untold,))
    fused, _ = host.watcher.settle(lambda: host.watcher.observe(seen))
    assert [(found.code, found.severity, found.data["slot"]) for found in fused.holding.values()] == [
        ("table.untold", Severity.WARNING, "active"),
        ("table.untold", Severity.WARNING, "inactive"),
    ]
    (device,) = host.watcher.tracker.devices
    tables = [device.active, device.inactive]
    labels = [table.label for table in tables if table is not None]
    kinds = {table.provenance for table in tables if table is not None}
    if known:
        true = host.kernel.devices[b"a"]
        assert [table.hash for table in tables if table is not None] == [true.running, true.loaded]
    else:
        assert labels == ["unknown", "unknown"]
    assert kinds == {Provenance.MEASURED if known else Provenance.OBSERVED}
    # Told at last, it is what it is.
    if not known:
        host.kernel.create(b"a", GOOD)
        host.kernel.load(b"a", OTHER)
        assert told(host.settle()) == []
        assert wrong(host.watcher, host.kernel) == []


def test_what_changed_is_marked() -> None:
    """With the number of records read when it was found, and only for the slot that did."""
    host = Host()
    host.kernel.create(b"a", GOOD)
    host.kernel.load(b"a", BAD)
    host.kernel.resume(b"a")
    host.kernel.load(b"a", GOOD)
    host.watcher.feed(host.kernel.items)
    (before,) = host.watcher.tracker.devices
    (staged,) = host.settle().changed
    assert (staged.changed_at, staged.staged_at) == (before.changed_at, host.watcher.read)
    host.kernel.resume(b"a")
    host.kernel.items.append(file(b"/bin/true"))
    (active,) = host.settle().changed
    assert (active.changed_at, active.staged_at) == (host.watcher.read, host.watcher.read)


# -- activity ------------------------------------------------------------------------------


def test_activity_without_a_record() -> None:
    """Something was done and undone between two looks; a record, before or after, would explain it."""
    host = Host()
    host.kernel.create(b"a", GOOD)
    host.kernel.create(b"n")
    number = (254, 0)
    host.settle()
    host.look()
    assert host.look([number]).unrecorded == (number,)
    assert host.look().unrecorded == ()
    host.kernel.load(b"a", BAD)
    assert host.look([number]).unrecorded == ()  # recorded
    assert host.look([number]).unrecorded == ()  # or announced late
    assert host.look([number]).unrecorded == (number,)
    assert host.look([(254, 1)]).unrecorded == ()  # it had no table: nothing of it is measured
    assert host.look([(254, 9)]).unrecorded == ((254, 9),)  # came and went
    host.swap(b"a", OTHER)
    assert host.look([number]).unrecorded == ()  # it is in doubt
    assert host.look([number]).unrecorded == ()  # and told otherwise


# -- hostile -------------------------------------------------------------------------------


NAMED = st.sampled_from([b"a", b"b", b"", b"\xff,=;\\"])
LIVE = st.one_of(
    st.none(),
    st.just(LiveTable(None)),
    st.just(LiveTable(())),
    st.sampled_from([live_table(GOOD), live_table(BAD), live_table(linears(38)), live_table((opaque(),))]),
    st.builds(
        lambda kind, text: LiveTable((LiveTarget(0, 1 << 63, kind, text),)),
        st.sampled_from(["", "verity", "\xff"]),
        st.binary(max_size=40),
    ),
)
DEVICES = st.builds(
    LiveDevice,
    *(st.just(254), st.integers(0, 2), NAMED, NAMED),
    *(st.booleans(), st.booleans(), st.integers(0, 2), LIVE, LIVE),
)
SEEN = st.builds(
    Observation, st.sampled_from([(4, 47, 0), (0, 0, 0)]), st.lists(DEVICES, max_size=4).map(tuple)
)


@pytest.mark.parametrize("dialect", DIALECTS)
@given(done=operations(RENAMES, most=30), seen=st.lists(SEEN, min_size=1, max_size=8))
@BOUNDED
def test_any_observation(dialect: str, done: list[Operation], seen: list[Observation]) -> None:
    """Whatever is claimed, it is believed after a while, and one name leads to one device."""
    kernel, watcher = Kernel(dialect), Watcher()
    for index, _ in enumerate(perform(kernel, done)):
        watcher.feed(kernel.items)
        watcher.observe(seen[index % len(seen)])
    last = seen[-1]
    watcher.settle(lambda: watcher.observe(last))
    true = {f"{live.major}:{live.minor}": live for live in last.devices}
    tracked = watcher.devices
    assert tracked.keys() == true.keys()
    for key, live in true.items():
        ours = tracked[key]
        assert (ours.name, ours.uuid) == (live.name, live.uuid)
        assert (ours.active is None, ours.inactive is None) == (live.active is None, live.inactive is None)
    assert watcher.tracker.registry.by_name.keys() == {live.name for live in true.values()}
    for name, device in watcher.tracker.registry.by_name.items():
        assert tracked[device.key] is device
        assert device.name == name
    watcher.restart()
    watcher.feed(kernel.items)


def test_evidence_is_bounded() -> None:
    host = Host()
    host.kernel.create(b"a", GOOD)
    host.settle()
    host.swap(b"a", linears(200))
    found = only(host.settle())
    assert len(found.data["live_table"]) == module.MAX_EVIDENCE_CHARS
    fusion = Fusion(Tracker())
    assert fusion.live == {}
    assert fusion.observations == 0


# -- what random histories have found ------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("watched", [False, True])
def test_a_long_load_from_parts_of_others_renamed_before_its_resume(dialect: str, watched: bool) -> None:
    """Its parts are known under the name it was loaded under, the rework's resume has the present one."""
    host = Host(dialect)
    host.kernel.create(b"a", GOOD)
    mixed = (*linears(36), *linears(20, "1:8", first=36))
    host.kernel.load(b"a", (*linears(36), *linears(20, first=36)))
    host.kernel.load(b"a", (*linears(36, "1:8"), *linears(20, "1:8", first=36)))
    host.kernel.load(b"a", mixed)
    if watched:
        assert told(host.settle()) == []
    host.kernel.rename(b"a", b"b")
    host.kernel.resume(b"b")
    assert told(host.settle()) == []
    assert host.watcher.alarms == []
    assert wrong(host.watcher, host.kernel) == []


@pytest.mark.parametrize("dialect", ["v1", "legacy"])
def test_a_device_whose_only_resume_was_refused_goes_in_silence(dialect: str) -> None:
    """dm-ima has nothing to say of its removal, though its table was live."""
    host = Host(dialect)
    host.kernel.create(b"a")
    host.kernel.load(b"a", GOOD)
    host.kernel.resume(b"a", refused=True)
    host.settle()
    host.kernel.clear(b"a")
    host.kernel.devices[b"a"].inactive.metadata = host.kernel.devices[b"a"].inactive.hash = None
    records = len(host.kernel.items)
    host.kernel.remove(b"a")
    assert len(host.kernel.items) == records
    host.kernel.create(b"b", GOOD)
    assert told(host.settle()) == []
    assert host.watcher.alarms == []
    assert wrong(host.watcher, host.kernel) == []
