"""Findings over time: conditions that hold become alerts that fire once and resolve once.

A condition is a finding under a key.  It fires when it has held for the hold-off (so that the
dozens of short-lived states of one LVM command pass unnoticed) and resolves when it ceases.
The key names the cause (the record that brought the table, the device, the boot), so the same
cause never fires twice, whatever dies in between, and the notice's id follows from it.  While it
holds, an alert stays what it was when it began: a key that is held again with another severity or
content says nothing new.  What becomes worse needs a key of its own.

The book says which alerts there are.  Which of its notices subscribers get is `delivery`'s to say.

Times are wall-clock seconds, given in; nothing here reads a clock, and nothing is published here.
"""

from __future__ import annotations

import enum
import hashlib
import heapq
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from dmimad.core.errors import MalformedError
from dmimad.core.finding import Difference, Finding, Severity
from dmimad.core.maintenance import Maintenance
from dmimad.core.summary import Summary

#: Resolved alerts remembered, so that one that comes back is told from one that is read again.
MAX_RESOLVED = 10_000
#: The end of the year 9999, in Unix seconds: later times cannot be written as RFC 3339.
MAX_SECONDS = 253_402_300_799
#: Differences of one alert that are stored and told.
MAX_DIFFERENCES = 64
#: The higher, the more it matters.
RANK: Mapping[Severity, int] = {severity: rank for rank, severity in enumerate(Severity)}
#: Entries of the queue of pending alerts that may be out of date, beside as many as are not.
_MAX_STALE = 64


class Status(enum.StrEnum):
    """What a notice says of its alert."""

    FIRING = "firing"
    RESOLVED = "resolved"


class State(enum.StrEnum):
    """Where an alert is in its life."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert: a condition and how far it has come.

    ``since`` is when the condition began, ``changed`` when the state did; ``occurrence`` counts
    how often this very cause has fired.
    """

    key: str
    finding: Finding
    subject: str
    state: State
    since: float
    changed: float
    occurrence: int = 0


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell subscribers: an alert fires or resolves.

    Attributes:
        at: when it did, which may be a while before it is told.
        record: of the list, that made it so; None if none did.
        count, first, last: how often this has fired, and the first and last time.
        flapping: it speaks for all alerts of this code about this device, until one that does not.
        maintenance: for which it is only information.
        summary: what it stands for, if that is other alerts.
    """

    id: str
    status: Status
    alert: Alert
    at: float
    record: int | None
    count: int = 1
    first: float | None = None
    last: float | None = None
    flapping: bool = False
    maintenance: Maintenance | None = None
    summary: Summary | None = None

    @property
    def severity(self) -> Severity:
        """The one it is told with."""
        return self.alert.finding.severity if self.maintenance is None else Severity.INFO


class AlertBook:
    """All alerts of one host.

    Args:
        hold_off_seconds: how long a condition must hold before it fires.
    """

    def __init__(self, hold_off_seconds: float) -> None:
        self.hold_off_seconds = hold_off_seconds
        self._alerts: dict[str, Alert] = {}
        self._pending: set[str] = set()
        self._queue: list[tuple[float, str]] = []  # a heap of (since, key); some have been settled meanwhile
        self._newest = 0.0
        self._resolved: dict[str, None] = {}
        self._notices: list[Notice] = []
        self._changed: set[str] = set()

    # -- conditions ------------------------------------------------------------------------

    def hold(
        self, key: str, finding: Finding, subject: str, *, since: float, now: float, at_once: bool = False
    ) -> None:
        """The condition ``key`` holds (since ``since``, if it is new); ``at_once`` waits for no hold-off."""
        alert = self._alerts.get(key)
        if alert is not None and alert.state is not State.RESOLVED:
            return
        occurrence = 0 if alert is None else alert.occurrence
        alert = Alert(key, finding, subject, State.PENDING, min(since, now), now, occurrence)
        self._resolved.pop(key, None)
        self._put(alert)
        if at_once or now - alert.since >= self.hold_off_seconds:
            self._fire(alert, now)
        else:
            self._wait(alert)

    def cease(self, key: str, *, now: float, record: int | None) -> None:
        """The condition no longer holds."""
        alert = self._alerts.get(key)
        if alert is None or alert.state is State.RESOLVED:
            return
        if alert.state is State.PENDING:
            self._pending.discard(key)
            self._forget_or_keep(alert)
            return
        resolved = replace(alert, state=State.RESOLVED, changed=now)
        self._put(resolved)
        self._remember_resolved(key)
        self._tell(Status.RESOLVED, resolved, now, record, fired=alert.changed)

    def announce(self, key: str, finding: Finding, subject: str, *, now: float) -> None:
        """Something that happened and has no end: told once, never resolved."""
        if key in self._alerts:
            return
        alert = Alert(key, finding, subject, State.RESOLVED, now, now, 1)
        self._put(alert)
        self._remember_resolved(key)
        self._tell(Status.FIRING, alert, now, finding.record, fired=now)

    def tick(self, now: float) -> None:
        """Fire what has held for long enough."""
        while (due := self.next_due()) is not None and due <= now:
            _, key = heapq.heappop(self._queue)
            self._pending.discard(key)
            self._fire(self._alerts[key], now)

    def next_due(self) -> float | None:
        """When `tick` has something to do next; None if nothing is pending."""
        while self._queue and not self._waits(*self._queue[0]):
            heapq.heappop(self._queue)
        return self._queue[0][0] + self.hold_off_seconds if self._queue else None

    def clock_stepped(self, by: float) -> None:
        """The wall clock was set: what lasts began as long ago as before, by the clock as it is now."""
        for alert in list(self.holding()):
            since, changed = shifted(alert.since, by), shifted(alert.changed, by)
            self._put(replace(alert, since=since, changed=changed))
        self._renew_queue()

    def clock_stepped_back(self, now: float) -> None:
        """The wall clock was set back: what is pending would otherwise wait for the difference."""
        if now >= self._newest:
            return
        for key in self._pending:
            if self._alerts[key].since > now:
                self._put(replace(self._alerts[key], since=now))
        self._renew_queue()

    # -- what there is ---------------------------------------------------------------------

    def holding(self) -> Iterator[Alert]:
        """Alerts that are pending or firing."""
        return (alert for alert in self._alerts.values() if alert.state is not State.RESOLVED)

    def get(self, key: str) -> Alert | None:
        """The alert of a condition, if there is or was one."""
        return self._alerts.get(key)

    def firing(self) -> dict[Severity, int]:
        """How many alerts fire, by severity."""
        counts = dict.fromkeys(Severity, 0)
        for alert in self._alerts.values():
            if alert.state is State.FIRING:
                counts[alert.finding.severity] += 1
        return counts

    def waiting(self) -> list[Alert]:
        """Alerts that fire when their hold-off is over, if they still hold then."""
        return [self._alerts[key] for key in self._pending]

    def take_notices(self) -> list[Notice]:
        """Notices since the last call, in order."""
        notices, self._notices = self._notices, []
        return notices

    def take_changed(self) -> dict[str, Alert | None]:
        """Alerts that changed since the last call; None: forgotten."""
        changed = {key: self._alerts.get(key) for key in self._changed}
        self._changed = set()
        return changed

    def store_all(self) -> None:
        """All alerts are in the next `take_changed`."""
        self._changed |= self._alerts.keys()

    def restore(self, documents: Mapping[str, Mapping[str, object]]) -> None:
        """Take stored alerts in; raises MalformedError."""
        for key, document in documents.items():
            alert = alert_from_document(key, document)
            self._alerts[key] = alert
            if alert.state is State.PENDING:
                self._pending.add(key)
            elif alert.state is State.RESOLVED:
                self._resolved[key] = None
        self._renew_queue()

    def adopt(self, documents: Mapping[str, Mapping[str, object]]) -> list[Alert]:
        """Take in stored alerts beside those there are; returns those that fire.  Raises MalformedError.

        Of an alert that is there, too, only how often it has fired matters: no id may be used twice.
        """
        firing = []
        for key, document in documents.items():
            alert, mine = alert_from_document(key, document), self._alerts.get(key)
            if mine is not None:
                self._put(replace(mine, occurrence=max(mine.occurrence, alert.occurrence)))
            elif alert.state is State.FIRING:
                self._put(alert)
                firing.append(alert)
            elif alert.occurrence:
                self._put(replace(alert, state=State.RESOLVED))
                self._remember_resolved(key)
        return firing

    def _wait(self, alert: Alert) -> None:
        self._pending.add(alert.key)
        self._newest = max(self._newest, alert.since)
        heapq.heappush(self._queue, (alert.since, alert.key))
        if len(self._queue) > 2 * len(self._pending) + _MAX_STALE:
            self._renew_queue()

    def _waits(self, since: float, key: str) -> bool:
        return key in self._pending and self._alerts[key].since == since

    def _renew_queue(self) -> None:
        self._queue = [(self._alerts[key].since, key) for key in self._pending]
        heapq.heapify(self._queue)
        self._newest = max((since for since, _ in self._queue), default=0.0)

    def _fire(self, alert: Alert, now: float) -> None:
        fired = replace(alert, state=State.FIRING, changed=now, occurrence=alert.occurrence + 1)
        self._put(fired)
        self._tell(Status.FIRING, fired, now, fired.finding.record, fired=now)

    def _tell(self, status: Status, alert: Alert, now: float, record: int | None, *, fired: float) -> None:
        id_ = notice_id(alert, status)
        self._notices.append(Notice(id_, status, alert, now, record, first=fired, last=fired))

    def _put(self, alert: Alert) -> None:
        self._alerts[alert.key] = alert
        self._changed.add(alert.key)

    def _forget_or_keep(self, alert: Alert) -> None:
        """A pending alert that never fired leaves no trace, one that fired before is resolved as it was."""
        if alert.occurrence:
            self._put(replace(alert, state=State.RESOLVED))
            self._remember_resolved(alert.key)
        else:
            del self._alerts[alert.key]
            self._changed.add(alert.key)

    def _remember_resolved(self, key: str) -> None:
        self._resolved[key] = None
        while len(self._resolved) > MAX_RESOLVED:
            oldest = next(iter(self._resolved))
            del self._resolved[oldest]
            del self._alerts[oldest]
            self._changed.add(oldest)


def shifted(moment: float, by: float) -> float:
    """A moment when the clock was set by so many seconds; what would be before 1970 is then."""
    return min(max(moment + by, 0.0), MAX_SECONDS)


def notice_id(alert: Alert, status: Status, *again: str) -> str:
    """The same cause gives the same id, in any process, so that a redelivery is recognised.

    ``again`` tells apart what is said of one occurrence for different reasons.
    """
    text = json.dumps([alert.key, alert.occurrence, status.value, *again])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def alert_to_document(alert: Alert) -> dict[str, object]:
    """An alert as JSON to store."""
    finding = alert.finding
    return {
        "code": finding.code,
        "severity": finding.severity.value,
        "message": finding.message,
        "device": finding.device,
        "record": finding.record,
        "data": dict(finding.data),
        "differences": [
            [each.target, each.attribute, each.expected, each.actual]
            for each in finding.differences[:MAX_DIFFERENCES]
        ],
        "subject": alert.subject,
        "state": alert.state.value,
        "since": alert.since,
        "changed": alert.changed,
        "occurrence": alert.occurrence,
    }


def alert_from_document(key: str, document: Mapping[str, object]) -> Alert:
    """The inverse; raises MalformedError on what was never stored here."""
    try:
        data, record = document["data"], document["record"]
        if not isinstance(data, dict) or not (record is None or isinstance(record, int)):
            raise MalformedError("a stored alert is damaged")
        finding = Finding(
            str(document["code"]),
            Severity(str(document["severity"])),
            str(document["message"]),
            str(document["device"]),
            record,
            {str(name): str(value) for name, value in data.items()},
            _read_differences(document.get("differences", [])),
        )
        times = [float(str(document[name])) for name in ("since", "changed")]
        if not all(0 <= seconds <= MAX_SECONDS for seconds in times):
            raise MalformedError("a stored alert is damaged")
        state = State(str(document["state"]))
        return Alert(
            key,
            finding,
            str(document["subject"]),
            state,
            times[0],
            times[1],
            int(str(document["occurrence"])),
        )
    except (KeyError, ValueError) as error:
        raise MalformedError("a stored alert is damaged") from error


def _read_differences(stored: object) -> tuple[Difference, ...]:
    """Differences as they were stored; earlier versions knew none."""
    found = []
    for each in stored if isinstance(stored, list) and len(stored) <= MAX_DIFFERENCES else [None]:
        match each:
            case [int() | None as target, str(attribute), str(expected), str(actual)]:
                found.append(Difference(target, attribute, expected, actual))
            case _:
                raise MalformedError("a stored alert is damaged")
    return tuple(found)
