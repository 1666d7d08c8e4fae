"""A book of alerts with its delivery for tests, which can be killed at any commit, and who hears of it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from dmimad.core.alert import AlertBook, Notice, State, Status, alert_to_document
from dmimad.core.delivery import Delivery
from dmimad.core.finding import Severity, make_finding
from dmimad.core.marks import is_beside


class Desk:
    """What a monitor has of alerts, and the disk it is stored on."""

    def __init__(
        self,
        *,
        storm: int = 0,
        flap: int = 0,
        hold_off: float = 0.0,
        storm_window: float = 10.0,
        flap_window: float = 600.0,
    ) -> None:
        self.settings = (storm, storm_window, flap, flap_window, hold_off)
        self.now = 1000.0
        self.stored: dict[str, str] = {}
        self.checkpoint = "null"
        self.told: list[Notice] = []
        self._begin()

    def _begin(self) -> None:
        storm, storm_window, flap, flap_window, hold_off = self.settings
        self.book = AlertBook(hold_off)
        self.delivery = Delivery(self.book)
        self.delivery.storms.threshold, self.delivery.storms.window_seconds = storm, storm_window
        self.delivery.repeats.threshold, self.delivery.repeats.window_seconds = flap, flap_window

    def configure(self, *, storm: int = 0, flap: int = 0) -> None:
        """Other settings."""
        _, storm_window, _, flap_window, hold_off = self.settings
        self.settings = (storm, storm_window, flap, flap_window, hold_off)
        self.delivery.storms.threshold, self.delivery.repeats.threshold = storm, flap

    def hold(
        self,
        key: str,
        *,
        code: str = "drift.active",
        device: str = "a",
        severity: Severity | None = None,
    ) -> None:
        finding = make_finding(code, f"{device} is not as it should be", device=device, severity=severity)
        self.book.hold(key, finding, device, since=self.now, now=self.now)

    def cease(self, key: str) -> None:
        self.book.cease(key, now=self.now, record=None)

    def announce(self, key: str, *, code: str = "activity.unrecorded", device: str = "a") -> None:
        self.book.announce(key, make_finding(code, "happened", device=device), device, now=self.now)

    def commit(self) -> list[Notice]:
        """What is told of everything since the last time."""
        notices = self.delivery.take()
        for key, alert in self.book.take_changed().items():
            self._store(key, None if alert is None else alert_to_document(alert))
        for key, document in self.delivery.take_changed().items():
            self._store(key, document)
        self.checkpoint = json.dumps(self.delivery.document(), allow_nan=False)
        self.told += notices
        return notices

    def _store(self, key: str, document: Mapping[str, object] | None) -> None:
        self.stored.pop(key, None)
        if document is not None:
            self.stored[key] = json.dumps(document, allow_nan=False)

    def tick(self, seconds: float = 0.0) -> list[Notice]:
        """Time passes, nothing else happens."""
        self.now += seconds
        self.delivery.tick(self.now)
        self.book.clock_stepped_back(self.now)
        self.book.tick(self.now)
        return self.commit()

    def due(self) -> list[Notice]:
        """Time passes until nothing is due any more."""
        told: list[Notice] = []
        while (due := self.next_due()) is not None:
            told += self.tick(max(due - self.now, 0.0))
        return told

    def next_due(self) -> float | None:
        both = (self.book.next_due(), self.delivery.next_due())
        return min((each for each in both if each is not None), default=None)

    def restart(self) -> None:
        """Another process goes on from what was stored."""
        documents = {key: json.loads(text) for key, text in sorted(self.stored.items())}
        self._begin()
        self.book.restore({key: each for key, each in documents.items() if not is_beside(key)})
        beside = {key: each for key, each in documents.items() if is_beside(key)}
        self.delivery.restore(json.loads(self.checkpoint), beside)

    def firing(self) -> list[str]:
        """Keys of the alerts that fire."""
        return [alert.key for alert in self.book.holding() if alert.state is State.FIRING]


def shown(notices: list[Notice]) -> list[tuple[str, str, str]]:
    """Code, status and device."""
    return [
        (notice.alert.finding.code, notice.status.value, notice.alert.finding.device) for notice in notices
    ]


class Subscriber:
    """Believes what it is told, by the rules of docs/alerts.md.

    A firing one that says flapping replaces what was told of its code and device before; from then on each
    firing one replaces the former, until that resolves.
    """

    def __init__(self) -> None:
        self.believed: dict[tuple[str, str], dict[str, Severity]] = {}
        self.collapsed: set[tuple[str, str]] = set()

    def hear(self, notice: Notice) -> None:
        alert = notice.alert
        group = (alert.finding.code, alert.subject)
        believed = self.believed.setdefault(group, {})
        if notice.status is Status.RESOLVED:
            if believed.pop(alert.key, None) is not None:
                self.collapsed.discard(group)
            return
        if notice.flapping or group in self.collapsed:
            believed.clear()
        if notice.flapping:
            self.collapsed.add(group)
        if alert.state is State.FIRING:  # what merely happened has no end
            believed[alert.key] = notice.severity
