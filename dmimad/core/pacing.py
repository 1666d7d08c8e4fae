"""When to observe the live tables: soon after activity, rarely in quiet times, never too often.

Source: none; a rule of dmimad's own.  One LVM command makes dozens of uevents within some 100 ms, and an
observation in the middle of it would see half of the change.  So activity is followed by an observation once
it has been quiet for a moment, or when patience ends.  The rules, each with its name in `Pacing`:

- *quiet*, *patience*: a burst costs one observation after its end, and one per patience while it goes on;
- *rest*: after an observation comes a pause of at least the least gap, and of nine times what it took: what
  is asked for costs no more than a tenth of the time;
- *backoff*: an unsettled observation wants another after the least gap, without the rest that it may have
  cost, for then the answer is near; while it goes on unsettled, the gap doubles up to the interval;
- *interval*: so long after an observation comes the next, whatever happened or not, and whatever it costs.

After the last activity an observation always begins, later than that activity.

What it does not do: read a clock, wait, or observe.
"""

from __future__ import annotations

from typing import Final

#: An observation of t seconds is followed by a rest of this many t: it costs a tenth of the time at most.
REST_FACTOR: Final = 9
#: Clock readings this close to an observation's beginning count as after it; an observation too many harms
#: nobody, one too few would.
SLACK_SECONDS: Final = 0.001


class Pacing:
    """The time of the next observation; all times are seconds of one monotonic clock.

    Args:
        interval_seconds: from the end of an observation to the beginning of the next, at the latest.
        quiet_seconds: a burst of activity has ended when nothing came for so long.
        patience_seconds: a burst that does not end is looked at so long after it began.
        least_gap_seconds: pause between observations that activity or unsettledness ask for.
    """

    def __init__(
        self,
        interval_seconds: float,
        quiet_seconds: float = 0.05,
        patience_seconds: float = 0.3,
        least_gap_seconds: float = 0.1,
    ) -> None:
        self._interval = interval_seconds
        self._quiet = quiet_seconds
        self._patience = patience_seconds
        self._least_gap = least_gap_seconds
        self._first_ask: float | None = None  # of the activity that no observation has followed yet
        self._last_ask = 0.0
        self._periodic = 0.0  # the first observation is due at once
        self._rested = 0.0
        self._again: float | None = None  # when an unsettled observation wants another
        self._backoff = 0.0

    def ask(self, now: float) -> None:
        """There was activity."""
        if self._first_ask is None:
            self._first_ask = now
        self._last_ask = now

    def done(self, now: float, settled: bool, took_seconds: float) -> None:
        """An observation has ended, or failed (then it is unsettled).

        Args:
            now: its end.
            settled: False if what it saw cannot be judged yet.
            took_seconds: since its beginning; activity since then it may have missed.
        """
        began = now - took_seconds - SLACK_SECONDS
        if self._first_ask is not None:
            # Of the activity meanwhile only the last is known; the first was no earlier than the beginning.
            self._first_ask = max(self._first_ask, began) if self._last_ask >= began else None
        self._periodic = now + self._interval
        self._rested = now + max(self._least_gap, REST_FACTOR * took_seconds)
        if settled:
            self._again, self._backoff = None, 0.0
        else:
            self._backoff = min(max(self._least_gap, 2 * self._backoff), self._interval)
            self._again = now + max(self._backoff, took_seconds)

    def due(self) -> float:
        """When to begin the next observation; in the past if it is high time.

        Activity moves it: ask again after each `ask` and `done`.
        """
        due = self._periodic
        if self._first_ask is not None:
            asked = min(self._last_ask + self._quiet, self._first_ask + self._patience)
            due = min(due, max(asked, self._rested))
        if self._again is not None:
            due = min(due, self._again)
        return due
