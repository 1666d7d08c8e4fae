"""The order of one host's alerts: what is new, what has been told before, what is missing.

Source: docs/mqtt.md: ``id`` is the same for a redelivery, ``sequence`` counts without gaps.  A broker may
deliver a little out of order, so a gap has a while to be filled.

Rules: a number above all others is new, and what it leaves out is a gap; one that fills a gap is new.  Any
other number has been used before: if the time of its alert is later than that of the last new one, the host
counts anew; if not, it is late and changes nothing.  Nor does a number that leaves others out and is of an
earlier time: such an alert is from before the host counted anew.
"""

from __future__ import annotations

import datetime
import enum

#: Alerts remembered of one host, to know a redelivery by.
MAX_REMEMBERED = 500
#: Of one host; with more the oldest is told at once.
MAX_GAPS = 64
#: A host that counts anew began at 1, if what is seen of it is not above this.
MAX_FIRST_SEEN = 100


class Rank(enum.Enum):
    """What a number says of an alert."""

    NEW = "new"
    RESTARTED = "restarted"
    LATE = "late"


class Order:
    """What has been told by one host; `now` is in seconds.

    Args:
        grace_seconds: how long a gap may be filled.
    """

    def __init__(self, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._highest: int | None = None
        self._latest = datetime.datetime.min.replace(tzinfo=datetime.UTC)
        self._gaps: list[tuple[int, int, float]] = []  # first, last, when to tell of it
        self._remembered: dict[str, bytes] = {}  # id -> digest of what was told under it

    def told(self, id: str) -> bytes | None:
        """The digest of what this id was used for; None if it is not remembered."""
        return self._remembered.get(id)

    def remember(self, id: str, digest: bytes) -> None:
        """Something was told under this id."""
        self._remembered.pop(id, None)
        self._remembered[id] = digest
        if len(self._remembered) > MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]

    def place(self, sequence: int, time: datetime.datetime, now: float) -> Rank:
        """Take the number of an alert in."""
        if self._highest is None:
            self._go_on(sequence, time)
            return Rank.NEW
        if sequence > self._highest:
            first = self._highest + 1
            if first < sequence:
                if time < self._latest:
                    return Rank.LATE
                self._add_gap(first, sequence - 1, now)
            self._go_on(sequence, time)
            return Rank.NEW
        if self._fill(sequence):
            return Rank.NEW
        if time <= self._latest:
            return Rank.LATE
        self._gaps = [(first, last, now) for first, last, _ in self._gaps]  # nobody will fill them
        if 1 < sequence <= MAX_FIRST_SEEN:
            self._add_gap(1, sequence - 1, now)
        self._go_on(sequence, time)
        return Rank.RESTARTED

    def take_missing(self, now: float) -> list[tuple[int, int]]:
        """First and last number of each gap that was not filled in time; they are not told again."""
        surplus = len(self._gaps) - MAX_GAPS
        due = [gap for index, gap in enumerate(self._gaps) if gap[2] <= now or index < surplus]
        self._gaps = [gap for gap in self._gaps if gap not in due]
        return [(first, last) for first, last, _ in due]

    def grant(self, until: float) -> None:
        """What is missing may come until then: what was held back is being delivered."""
        self._gaps = [(first, last, max(due, until)) for first, last, due in self._gaps]

    def _go_on(self, sequence: int, time: datetime.datetime) -> None:
        self._highest, self._latest = sequence, time

    def _add_gap(self, first: int, last: int, now: float) -> None:
        self._gaps.append((first, last, now + self._grace_seconds))

    def _fill(self, sequence: int) -> bool:
        for index, (first, last, due) in enumerate(self._gaps):
            if first <= sequence <= last:
                rest = [(first, sequence - 1, due), (sequence + 1, last, due)]
                self._gaps[index : index + 1] = [gap for gap in rest if gap[0] <= gap[1]]
                return True
        return False
