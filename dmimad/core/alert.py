"""Findings over time: conditions that hold become alerts that fire once and resolve once.

A condition is a finding under a key.  It fires when it has held for the hold-off (so that the
dozens of short-lived states of one LVM command pass unnoticed) and resolves when it ceases.
The key names the cause (the record that brought the table, the device, the boot), so the same
cause never fires twice, whatever dies in between, and the notice's id follows from it.

Times are wall-clock seconds, given in; nothing here reads a clock, and nothing is published here.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from dmimad.core.errors import MalformedError
from dmimad.core.finding import Finding, Severity

#: Resolved alerts remembered, so that one that comes back is told from one that is read again.
MAX_RESOLVED = 10_000
#: The end of the year 9999, in Unix seconds: later times cannot be written as RFC 3339.
MAX_SECONDS = 253_402_300_799


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
    """Something to tell subscribers: an alert fires or resolves."""

    id: str
    status: Status
    alert: Alert
    at: float
    record: int | None


class AlertBook:
    """All alerts of one host.

    Args:
        hold_off_seconds: how long a condition must hold before it fires.
    """

    def __init__(self, hold_off_seconds: float) -> None:
        self.hold_off_seconds = hold_off_seconds
        self._alerts: dict[str, Alert] = {}
        self._pending: set[str] = set()
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
            self._pending.add(key)

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
        self._notices.append(
            Notice(_notice_id(resolved, Status.RESOLVED), Status.RESOLVED, resolved, now, record)
        )

    def announce(self, key: str, finding: Finding, subject: str, *, now: float) -> None:
        """Something that happened and has no end: told once, never resolved."""
        if key in self._alerts:
            return
        alert = Alert(key, finding, subject, State.RESOLVED, now, now, 1)
        self._put(alert)
        self._remember_resolved(key)
        self._notices.append(
            Notice(_notice_id(alert, Status.FIRING), Status.FIRING, alert, now, finding.record)
        )

    def tick(self, now: float) -> None:
        """Fire what has held for long enough."""
        due = [key for key in self._pending if now - self._alerts[key].since >= self.hold_off_seconds]
        for key in sorted(due, key=lambda key: (self._alerts[key].since, key)):
            self._pending.discard(key)
            self._fire(self._alerts[key], now)

    def next_due(self) -> float | None:
        """When `tick` has something to do next; None if nothing is pending."""
        if not self._pending:
            return None
        return min(self._alerts[key].since for key in self._pending) + self.hold_off_seconds

    def clock_stepped_back(self, now: float) -> None:
        """The wall clock was set back: what is pending would otherwise wait for the difference."""
        for key in self._pending:
            if self._alerts[key].since > now:
                self._put(replace(self._alerts[key], since=now))

    # -- what there is ---------------------------------------------------------------------

    def holding(self) -> Iterator[Alert]:
        """Alerts that are pending or firing."""
        return (alert for alert in self._alerts.values() if alert.state is not State.RESOLVED)

    def firing(self) -> dict[Severity, int]:
        """How many alerts fire, by severity."""
        counts = dict.fromkeys(Severity, 0)
        for alert in self._alerts.values():
            if alert.state is State.FIRING:
                counts[alert.finding.severity] += 1
        return counts

    def take_notices(self) -> list[Notice]:
        """Notices since the last call, in order."""
        notices, self._notices = self._notices, []
        return notices

    def take_changed(self) -> dict[str, Alert | None]:
        """Alerts that changed since the last call; None: forgotten."""
        changed = {key: self._alerts.get(key) for key in self._changed}
        self._changed = set()
        return changed

    def restore(self, documents: Mapping[str, Mapping[str, object]]) -> None:
        """Take stored alerts in; raises MalformedError."""
        for key, document in documents.items():
            alert = alert_from_document(key, document)
            self._alerts[key] = alert
            if alert.state is State.PENDING:
                self._pending.add(key)
            elif alert.state is State.RESOLVED:
                self._resolved[key] = None

    def _fire(self, alert: Alert, now: float) -> None:
        fired = replace(alert, state=State.FIRING, changed=now, occurrence=alert.occurrence + 1)
        self._put(fired)
        self._notices.append(
            Notice(_notice_id(fired, Status.FIRING), Status.FIRING, fired, now, fired.finding.record)
        )

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


def _notice_id(alert: Alert, status: Status) -> str:
    """The same cause gives the same id, in any process, so that a redelivery is recognised."""
    text = json.dumps([alert.key, alert.occurrence, status.value])
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
