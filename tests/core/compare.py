"""A tracker held to the truth: the devices it has against what `tests.core.truth` says is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from dmimad.core.device import Device
from tests.core.truth import Expectation, Part, table_hashes


def differences(
    expected: Sequence[Expectation],
    tracked: Iterable[Device],
    *,
    version: bytes,
    ordered: bool,
    counts: Counter[str],
) -> list[str]:
    """Where the tracker is wrong, one line each.

    ``counts`` is added to: by part, how many comparisons were made (``exists`` …) and how many could not be,
    because deduplication hides the part (``hidden exists`` …); ``hash moved`` are tables whose text changes
    by itself after the load.
    """
    left = {device.key: device for device in tracked}
    wrong: list[str] = []
    for expectation in sorted(expected, key=lambda expectation: Part.EXISTS not in expectation.known):
        found = _take(left, expectation)
        if expectation.device is None:
            counts["ghosts"] += expectation.number is not None
            continue
        for part in Part:
            counts[part.value if part in expectation.known else f"hidden {part.value}"] += 1
        if Part.EXISTS not in expectation.known:
            continue
        if found is None:
            wrong.append(f"{expectation.device.name!r} is missing")
            continue
        wrong += _compare(expectation, found, version, ordered, counts)
    # What is hidden of a device may have made two of it.
    hidden = {name for e in expected if Part.IDENTITY not in e.known for name in e.names}
    wrong += [
        f"{device.name!r} ({device.key}) does not exist"
        for device in left.values()
        if device.name not in hidden
    ]
    return wrong


def _take(left: dict[str, Device], expectation: Expectation) -> Device | None:
    """The tracked device that is meant: by number, or by name where no record has told the number."""
    truth = expectation.device
    for device in left.values():
        if (device.major, device.minor) == expectation.number:
            return left.pop(device.key)
    unnumbered = [device for device in left.values() if device.major is None]
    for device in unnumbered:
        if truth is not None and (device.name, device.uuid) == (truth.name, truth.uuid):
            return left.pop(device.key)
    for device in unnumbered:
        if device.name in expectation.names:
            return left.pop(device.key)
    return None


#: Targets whose text changes without a load: ``raid_state``, ``no_discard_passdown``.
MOVING = frozenset({"raid", "cache"})


def _compare(
    expectation: Expectation, device: Device, version: bytes, ordered: bool, counts: Counter[str]
) -> list[str]:
    truth = expectation.device
    if truth is None:
        return []
    seen = {
        Part.IDENTITY: ((device.name, device.uuid), (truth.name, truth.uuid)),
        Part.NUMBER: ((device.major, device.minor), truth.number),
        Part.ACTIVE: (device.active is not None, truth.active),
        Part.INACTIVE: (device.inactive is not None, truth.inactive),
    }
    wrong = [
        f"{truth.name!r}: {part.value} is {ours!r}, not {theirs!r}"
        for part, (ours, theirs) in seen.items()
        if part in expectation.known and ours != theirs
    ]
    if Part.HASH in expectation.known and truth.measure and device.active is not None:
        types = {line.split(" ")[2] for line in truth.measure.splitlines()}
        if device.active.hash in table_hashes(version, expectation, ordered=ordered):
            counts["hash equal"] += 1
        elif types & MOVING:
            counts["hash moved"] += 1
        else:
            wrong.append(f"{truth.name!r}: the active table is not {device.active.label}")
    return wrong
