"""After every step of every recorded list: the tracked devices are the kernel's, wherever the list can tell.

`tests.core.truth` says, without our code, what a step's records leave hidden.  The numbers of what was
compared and what was not are part of the test: a reference that hides more, or a list of which less is
looked at, fails.
"""

from __future__ import annotations

from collections import Counter

import pytest

from dmimad.core.reader import ListReader
from dmimad.core.tracker import Tracker
from tests.core.compare import differences
from tests.core.recorded import LISTS, actions, binary, items
from tests.core.truth import expectations, version

PARTS = ("exists", "identity", "number", "active", "inactive", "hash")
#: Comparisons of each part, over all steps and devices; and those that deduplication forbids.
COMPARED = {
    "lvm-6.1": (180, 180, 180, 180, 180, 155),
    "lvm-7.2": (180, 180, 180, 180, 180, 155),
    "random-6.1": (672, 672, 672, 672, 637, 632),
    "random-6.12": (669, 669, 654, 669, 661, 657),
    "random-7.2": (877, 877, 877, 877, 876, 877),
    "systematic-6.1": (513, 513, 511, 513, 509, 510),
    "systematic-6.12": (513, 513, 511, 513, 509, 510),
    "systematic-7.2": (513, 513, 511, 513, 509, 510),
    "systematic-v1": (513, 513, 511, 513, 509, 510),
}
HIDDEN = {
    "lvm-6.1": (18, 18, 18, 18, 18, 43),
    "lvm-7.2": (18, 18, 18, 18, 18, 43),
    "random-6.1": (19, 19, 19, 19, 54, 59),
    "random-6.12": (18, 18, 33, 18, 26, 30),
    "random-7.2": (3, 3, 3, 3, 4, 3),
    "systematic-6.1": (4, 4, 6, 4, 8, 7),
    "systematic-6.12": (4, 4, 6, 4, 8, 7),
    "systematic-7.2": (4, 4, 6, 4, 8, 7),
    "systematic-v1": (4, 4, 6, 4, 8, 7),
}
#: Active tables whose hash was rebuilt from dmsetup's text and is the tracked one; those whose text has
#: moved since (cache: ``no_discard_passdown``, raid: ``raid_state``); devices gone without a record.
HASHES = {
    "lvm-6.1": (155, 0, 2),
    "lvm-7.2": (155, 0, 2),
    "random-6.1": (476, 0, 0),
    "random-6.12": (425, 0, 0),
    "random-7.2": (702, 0, 0),
    "systematic-6.1": (477, 15, 0),
    "systematic-6.12": (473, 19, 0),
    "systematic-7.2": (473, 19, 0),
    "systematic-v1": (477, 15, 0),
}


def compare(name: str) -> Counter[str]:
    """Hold the tracker to the truth after every step; returns what was compared."""
    ordered = LISTS[name][0] == "ordered"
    head = version(next(item for item in items(name) if item.is_dm))
    tracker, counts, done = Tracker(), Counter[str](), 0
    records = {record.index: record for record in ListReader().feed(binary(name))}
    for action, expected in expectations(items(name), actions(name), ordered=ordered):
        for index in range(done, action.after):
            if index in records:
                tracker.apply(records[index])
        done = action.after
        wrong = differences(expected, tracker.devices, version=head, ordered=ordered, counts=counts)
        assert wrong == [], f"{action.label}: {action.command}"
    return counts


@pytest.mark.parametrize("name", LISTS)
def test_the_devices_are_the_kernels(name: str) -> None:
    counts = compare(name)
    assert tuple(counts[part] for part in PARTS) == COMPARED[name]
    assert tuple(counts[f"hidden {part}"] for part in PARTS) == HIDDEN[name]
    assert (counts["hash equal"], counts["hash moved"], counts["ghosts"]) == HASHES[name]
