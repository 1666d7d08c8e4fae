"""The doctor's checks: what each line says, and the order of the lines.

Source: ``docs/doctor.md``, which has an entry for every id.  Pure: facts in, lines out.

To add a check, add a function to `measuring` or `serving`, a line to `examination.CHECKS`, and an entry to
the documentation.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

#: What to do where rights are missing.
AS_ROOT = "look again as root: sudo dmimad doctor"


class Status(enum.StrEnum):
    """What a check found: nothing to do, something to consider, something to do, or not to be seen."""

    FINE = "fine"
    ADVICE = "advice"
    PROBLEM = "problem"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was found, and what to do about it (empty if nothing).

    `details` has JSON values, for other programs; more of them may come.
    """

    id: str
    status: Status
    summary: str
    remedy: str = ""
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a check would say if nothing that comes before applies."""

    status: Status
    text: str
    remedy: str = ""


def first(id: str, details: Mapping[str, object], answers: Iterable[Answer]) -> Check:
    """A check that gives the first of its answers; later ones are not even thought of."""
    answer = next(iter(answers))
    return Check(id, answer.status, answer.text, answer.remedy, details)


def count(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def verdict(checks: tuple[Check, ...]) -> Status:
    """All of them together; what could not be looked at, though more rights would help, is worth advice."""
    statuses = {check.status for check in checks if check.status is not Status.UNKNOWN or check.remedy}
    if Status.PROBLEM in statuses:
        return Status.PROBLEM
    return Status.ADVICE if statuses & {Status.ADVICE, Status.UNKNOWN} else Status.FINE
