"""Since when a device is as it is.

Source: none.  Nothing here knows what time it is, or judges a device (`drift`).
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from dmimad.core.alert import MAX_SECONDS, shifted
from dmimad.core.checkpoint import items
from dmimad.core.errors import MalformedError


@dataclass(frozen=True, slots=True)
class Moments:
    """Since when a device is as it is, in Unix seconds; None where that is not known."""

    verdict: float | None = None
    active: float | None = None
    inactive: float | None = None

    def shifted(self, by: float) -> Moments:
        """The same when the clock was set by so many seconds."""
        return Moments(*(None if each is None else shifted(each, by) for each in astuple(self)))

    def document(self) -> list[object]:
        """As JSON to store."""
        return [self.verdict, self.active, self.inactive]


def read_moments(stored: object) -> Moments:
    """Three times as they were stored; raises MalformedError."""
    times = items(stored)
    if len(times) != 3:  # verdict, active, inactive
        raise MalformedError("stored moments are damaged")
    for moment in times:
        if moment is not None and not (isinstance(moment, float | int) and 0 <= moment <= MAX_SECONDS):
            raise MalformedError("stored moments are damaged")
    verdict, active, inactive = (moment if isinstance(moment, float | int) else None for moment in times)
    return Moments(verdict, active, inactive)
