"""The two witnesses made one: recorded kernels, the model's under random histories, and attacks on it.

What is honest never alarms, whatever the interleaving; what is not is told with both sides.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmimad.core import fusion as module
from dmimad.core.device import MAX_FORMER_NAMES, Device
from dmimad.core.event import Identity
from dmimad.core.finding import Finding, Severity
from dmimad.core.fusion import Fused, Fusion
from dmimad.core.observation import LiveDevice, LiveTable, LiveTarget, Observation
from dmimad.core.table import Provenance
from dmimad.core.tracker import Tracker
from tests.core import recorded
from tests.core.histories import BOUNDED, RENAMES, Operation, operations, perform
from tests.core.kernel import DIALECTS, Kernel, Table, Target, linear, linears, opaque
from tests.core.lists import boot, boot_aggregate, file
from tests.core.live import (
    HOLE,
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
        changes = []

        def look(seen: Observation = seen, changes: list[Fused] = changes) -> Fused:
            changes.append(watcher.observe(seen))
            return changes[-1]

        fused, count = watcher.settle(look)
        corrected, most = corrected + (count > 1), max(most, count)
        outcome.wrong.extend(_untrue(action, watcher, head, dialect == "ordered", outcome))
        outcome.degraded.update(finding.data["attributes"] for finding in fused.holding.values())
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


#: List -> devices compared; steps that needed a correction; hashes that have moved; slots by who tells them.
RUNS: dict[str, tuple[int, int, int, dict[str, int]]] = {}


@pytest.mark.parametrize("name", LISTS)
def test_after_every_recorded_step_the_devices_are_dmsetups(name: str) -> None:
    """All of them, all of each, whatever was dropped from the list."""
    outcome = run(name)
    assert outcome.wrong == []
    assert outcome.alarms == []
    assert outcome.most <= 2
    true = sum(len(action.devices) for action in recorded.actions(name))
    print(name, true, outcome.corrected, dict(outcome.hashes), dict(outcome.slots))
