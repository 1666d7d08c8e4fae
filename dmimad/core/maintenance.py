"""Maintenance: somebody has said that some devices are going to change, and for how long.

Source: none; what is expected then, and what never is, is dmimad's own rule (`COVERED`).

Findings of these codes about these devices are information until the maintenance ends.  What shows
that the list, the measuring or the kernel is not to be trusted is never expected.  Nothing here
decides what becomes of alerts (`delivery`).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from fnmatch import translate

from dmimad.core.errors import MalformedError, RequestError

MAX_PATTERN_CHARS = 256
MAX_REASON_CHARS = 500
MAX_BY_CHARS = 128
MIN_SECONDS = 1.0
MAX_SECONDS = 30 * 86400.0
MAX_AT_ONCE = 100
#: Beyond the year 9000 a time is damage; the longest maintenance still ends in one that can be written.
_LAST_MOMENT = 2.2e11
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ID_DIGITS = 12

#: Codes whose findings may be expected changes, beside those of ``device.``.
COVERED = frozenset({"drift.active", "drift.inactive", "policy.attribute"})


@dataclass(frozen=True, slots=True)
class Maintenance:
    """Changes of some devices are expected.

    Attributes:
        device: shell-style pattern of names, as they are printed.
        by: who said so.
        since, until: wall-clock seconds.
    """

    id: str
    device: str
    reason: str
    by: str
    since: float
    until: float


def covers(code: str) -> bool:
    """Whether findings of this code may be expected changes."""
    return code in COVERED or code.startswith("device.")


class Plan:
    """The maintenances in force, and those that have ended since they were last asked for."""

    def __init__(self) -> None:
        self._active: dict[str, Maintenance] = {}
        self._patterns: dict[str, re.Pattern[str]] = {}
        self._ended: dict[str, Maintenance] = {}
        self._number = 0
        self._seen = 0.0

    @property
    def active(self) -> tuple[Maintenance, ...]:
        """Those in force, in the order they began."""
        return tuple(self._active.values())

    def start(self, device: str, seconds: float, reason: str, by: str, now: float) -> Maintenance:
        """Begin one.

        Args:
            seconds: how long, from `MIN_SECONDS` to `MAX_SECONDS`.

        Raises:
            RequestError: something is missing, too long, or there are too many; nothing has changed then.
        """
        _check_text("the device pattern", device, MAX_PATTERN_CHARS)
        _check_text("the reason", reason, MAX_REASON_CHARS)
        _check_text("the name of who asks", by, MAX_BY_CHARS)
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise RequestError("the duration must be a number of seconds")
        if not MIN_SECONDS <= seconds <= MAX_SECONDS:
            raise RequestError(f"the duration must be {MIN_SECONDS:g} to {MAX_SECONDS:.0f} seconds")
        if len(self._active) >= MAX_AT_ONCE:
            raise RequestError(f"there are {MAX_AT_ONCE} maintenances already; end some first")
        self._number += 1
        text = json.dumps([self._number, device, reason, by, now])
        id_ = hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS]
        begun = Maintenance(id_, device, reason, by, now, now + seconds)
        self._take(begun)
        self._seen = max(self._seen, now)
        return begun

    def end(self, id_: str) -> Maintenance | None:
        """End one before its time; None: there is none of this id."""
        ended = self._active.pop(id_, None)
        if ended is not None:
            del self._patterns[id_]
            self._ended[id_] = ended
        return ended

    def tick(self, now: float) -> list[Maintenance]:
        """Time has passed; returns those whose time is over.

        A clock that was set back takes the maintenances along, so that none becomes longer than it was
        asked to be.
        """
        if now < self._seen:
            back = self._seen - now
            for each in self.active:
                begun = max(each.since - back, 0.0)
                self._active[each.id] = replace(each, since=begun, until=begun + each.until - each.since)
        self._seen = now
        over = [each for each in self.active if each.until <= now]
        for each in over:
            self.end(each.id)
        return over

    def clock_stepped(self, by: float) -> None:
        """The wall clock was set: each lasts as long as it was asked to, by whatever clock."""
        for each in self.active:
            begun = max(each.since + by, 0.0)
            self._active[each.id] = replace(each, since=begun, until=begun + each.until - each.since)
        self._seen = max(self._seen + by, 0.0)

    def next_due(self) -> float | None:
        """When the next one ends."""
        return min((each.until for each in self._active.values()), default=None)

    def expecting(self, code: str, subject: str, at: float) -> Maintenance | None:
        """The maintenance that a finding belongs to: of several the one that lasts longest."""
        if not self._active or not covers(code):
            return None
        fitting = [
            each
            for each in self._active.values()
            if each.since <= at < each.until and self._patterns[each.id].fullmatch(subject) is not None
        ]
        return max(fitting, key=lambda each: each.until, default=None)

    def awaits(self, subject: str) -> bool:
        """Whether changes of a device of this name are expected."""
        return any(pattern.fullmatch(subject) is not None for pattern in self._patterns.values())

    def get(self, id_: str) -> Maintenance | None:
        """One that is in force, or has just ended."""
        return self._active.get(id_) or self._ended.get(id_)

    def take_ended(self) -> list[Maintenance]:
        """Those that have ended since the last call."""
        ended, self._ended = list(self._ended.values()), {}
        return ended

    def document(self) -> dict[str, object]:
        """As JSON to store."""
        return {
            "number": self._number,
            "seen": self._seen,
            "active": [maintenance_document(each) for each in self._active.values()],
        }

    def restore(self, number: int, seen: float, active: list[Maintenance]) -> None:
        """Take over what was stored."""
        self._number, self._seen = number, seen
        for each in active:
            self._take(each)

    def _take(self, begun: Maintenance) -> None:
        self._active[begun.id] = begun
        self._patterns[begun.id] = re.compile(translate(begun.device), re.DOTALL)


def read_plan(stored: object) -> Plan:
    """The inverse of `Plan.document`; raises MalformedError."""
    plan = Plan()
    match stored:
        case {"number": int(number), "seen": float() | int() as seen, "active": list(active)} if (
            len(active) <= MAX_AT_ONCE and 0 <= seen <= _LAST_MOMENT
        ):
            plan.restore(number, seen, [read_maintenance(each) for each in active])
        case _:
            raise MalformedError("the stored maintenances are damaged")
    return plan


def maintenance_document(maintenance: Maintenance) -> dict[str, object]:
    """A maintenance as JSON to store."""
    return {
        "id": maintenance.id,
        "device": maintenance.device,
        "reason": maintenance.reason,
        "by": maintenance.by,
        "since": maintenance.since,
        "until": maintenance.until,
    }


def read_maintenance(stored: object) -> Maintenance:
    """The inverse; raises MalformedError."""
    match stored:
        case {
            "id": str(id_),
            "device": str(device),
            "reason": str(reason),
            "by": str(by),
            "since": float() | int() as since,
            "until": float() | int() as until,
        } if 0 <= since <= _LAST_MOMENT and 0 <= until - since <= MAX_SECONDS + 1:
            try:
                _check_text("", device, MAX_PATTERN_CHARS)
                _check_text("", reason, MAX_REASON_CHARS)
                _check_text("", by, MAX_BY_CHARS)
            except RequestError as error:
                raise MalformedError("a stored maintenance is damaged") from error
            return Maintenance(id_, device, reason, by, since, until)
    raise MalformedError("a stored maintenance is damaged")


def _check_text(what: str, text: str, longest: int) -> None:
    if not isinstance(text, str) or not text.strip():
        raise RequestError(f"{what} is missing")
    if len(text) > longest:
        raise RequestError(f"{what} is longer than {longest} characters")
    if _CONTROL.search(text):
        raise RequestError(f"{what} must be one line without control characters")
