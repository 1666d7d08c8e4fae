"""The wall clock, and when somebody sets it.

Source: clock_gettime(2), CLOCK_BOOTTIME, which nobody can set and which goes on while the host sleeps.

Times that are told, stored and compared are those of the wall clock; a step of it is noticed by the other
clock when the time is asked for, and told before the answer, so that whoever has noted moments can move them
along and nothing becomes longer or shorter by it.  A clock that is merely slewed is right.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Less is no step: clocks are read one after the other, and slewing moves them apart slowly.
STEP_SECONDS = 0.5


def boottime() -> float:
    """Seconds since the host was booted."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock:
    """The wall clock, watched.

    Args:
        wall: Unix seconds.
        elapsed: seconds that only go forward, at the pace of time.

    Attributes:
        stepped: told by how many seconds the wall clock was set, in the thread that made this; until somebody
            wants to know, nobody has noted a moment.
    """

    def __init__(self, wall: Callable[[], float], elapsed: Callable[[], float]) -> None:
        self.stepped: Callable[[float], None] = lambda by: None
        self._wall = wall
        self._elapsed = elapsed
        self._thread = threading.get_ident()
        self._apart = wall() - elapsed()

    def now(self) -> float:
        """Unix seconds."""
        wall = self._wall()
        if threading.get_ident() != self._thread:
            return wall
        apart = wall - self._elapsed()
        by, self._apart = apart - self._apart, apart
        if abs(by) >= STEP_SECONDS:
            self.stepped(by)
        return wall

    def reading(self) -> tuple[float, float]:
        """What both clocks say, to be given to `since` of a later process of this boot."""
        elapsed = self._elapsed()
        return elapsed + self._apart, elapsed

    def since(self, reading: tuple[float, float]) -> None:
        """A former process read this: tell of a step since then."""
        by = self._apart - (reading[0] - reading[1])
        if abs(by) >= STEP_SECONDS:
            self.stepped(by)
