"""Whether the daemon's essential tasks get on: what the service manager's watchdog is fed by.

Each task counts its turns: the list's reader each look at the list or piece of it, the alert timer and the
publisher each round of theirs.  A task whose number stays the same for longer than its allowance hangs.  A
turn is made whether it succeeds or not: a broker that is away, a list that cannot be read and a full disk are
no reason for a restart, which would mend none of them.

Source: sd_watchdog_enabled(3) for what the answer is used for.

What it does not do: count, read a clock, feed the watchdog, or do anything about a task that hangs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

#: Of the time between two looks, no more is held against the tasks: if the whole process stood still
#: (SIGSTOP, a frozen virtual machine), they could not get on.
MAX_STEP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Allowances:
    """For how many seconds a task may make no turn.

    Attributes:
        pipeline: opening a list and going to a position is one turn, and the kernel formats all of it.
        list_state: whoever holds the monitor's lock gives it back, which is who reads a PCR.
        alert_timer: it only judges and stores.
        publisher: looking up the broker's name and connecting to it is one turn.
    """

    pipeline: float = 60.0
    list_state: float = 60.0
    alert_timer: float = 60.0
    publisher: float = 600.0


class Liveness:
    """Remembers when each task's number of turns has last changed."""

    def __init__(self, allowances: Allowances) -> None:
        self._allowances = {each.name: getattr(allowances, each.name) for each in fields(allowances)}
        self._turns: Mapping[str, int] = {}
        self._still: dict[str, float] = {}  # seconds without a turn
        self._looked: float | None = None

    def hanging(self, turns: Mapping[str, int], now: float) -> tuple[str, ...]:
        """The tasks that hang, given each one's number of turns now (monotonic seconds).

        A task that is not named is not running, and does not hang.
        """
        step = 0.0 if self._looked is None else min(max(now - self._looked, 0.0), MAX_STEP_SECONDS)
        self._looked = now
        self._still = {
            task: self._still.get(task, 0.0) + step if number == self._turns.get(task) else 0.0
            for task, number in turns.items()
        }
        self._turns = dict(turns)
        return tuple(sorted(task for task, still in self._still.items() if still > self._allowances[task]))
