"""A list through the core, as every shell drives it: bytes in, steps and devices out."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from dmimad.core.device import Device, Dialect
from dmimad.core.finding import Finding, Severity
from dmimad.core.reader import ListReader
from dmimad.core.tracker import Step, Tracker
from tests.core.lists import Item, binary_list


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a list led to."""

    reader: ListReader
    tracker: Tracker
    steps: tuple[Step, ...]

    @property
    def findings(self) -> list[Finding]:
        """All findings, in order."""
        return [finding for step in self.steps for finding in step.findings]

    @property
    def alarms(self) -> list[tuple[str, str, int | None]]:
        """Code, severity and record of the findings above info."""
        return [
            (finding.code, finding.severity.value, finding.record)
            for finding in self.findings
            if finding.severity is not Severity.INFO
        ]

    @property
    def codes(self) -> Counter[str]:
        """How many findings above info there are of each code."""
        return Counter(code for code, _, _ in self.alarms)

    @property
    def devices(self) -> dict[str, Device]:
        """The devices at the end, by key."""
        return {device.key: device for device in self.tracker.devices}


def replay(
    data: bytes | Iterable[bytes],
    *,
    reader: ListReader | None = None,
    tracker: Tracker | None = None,
    dialect: str | None = None,
    close: bool = True,
) -> Outcome:
    """Feed a list, whole or in pieces."""
    reader = reader or ListReader()
    tracker = tracker or Tracker(None if dialect is None else Dialect(dialect))
    pieces: Iterable[bytes] = [data] if isinstance(data, bytes) else data
    records = [record for piece in pieces for record in reader.feed(piece)]
    if close:
        records += reader.close()
    steps = (tracker.apply(record) for record in records)
    return Outcome(reader, tracker, tuple(step for step in steps if step is not None))


def replay_items(items: Sequence[Item], *, dialect: str | None = None) -> Outcome:
    """Feed records as a binary list."""
    return replay(binary_list(items), dialect=dialect)


def pieces_of(data: bytes, size: int) -> Iterator[bytes]:
    """The data in pieces of one size."""
    return (data[at : at + size] for at in range(0, len(data), size))


def cut_at(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The data cut at some places."""
    bounds = [0, *sorted(places), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(bounds)]
