"""What subscribers are told of the alerts there are.

Source: none; the rules are dmimad's own, in ``docs/alerts.md``.

Notices of the book pass three questions: is it an expected change (`maintenance`), does it repeat
(`flapping`), are there too many at once (`storm`)?  What ends by itself (a maintenance, a group that
flapped, a storm) is told when time says so.  Every alert that fires is told, by a notice of its own
or by one that says it speaks for others, and no resolution is told of what was not.

What was decided follows from what happened and when alone, so a process that goes on from the stored
state decides the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from dmimad.core.alert import Alert, AlertBook, Notice, State, Status, notice_id, shifted
from dmimad.core.checkpoint import table
from dmimad.core.errors import MalformedError
from dmimad.core.finding import Severity, make_finding
from dmimad.core.flapping import Repeats, moment
from dmimad.core.maintenance import Maintenance, Plan, read_plan
from dmimad.core.marks import Marks
from dmimad.core.storm import Storms, swallowable


class Delivery:
    """Between the book of alerts and the messages.

    Args:
        book: whose notices these are.
    """

    def __init__(self, book: AlertBook) -> None:
        self.repeats = Repeats()
        self.storms = Storms()
        self._book = book
        self._plan = Plan()
        self._eased = Marks("eased")
        self._announced: list[Notice] = []
        self._now = 0.0
        self._damaged: set[str] = set()

    # -- maintenance -----------------------------------------------------------------------

    @property
    def maintenance(self) -> tuple[Maintenance, ...]:
        """Those in force."""
        return self._plan.active

    def start_maintenance(self, device: str, seconds: float, reason: str, by: str, now: float) -> Maintenance:
        """As `Plan.start`."""
        self.tick(now)
        begun = self._plan.start(device, seconds, reason, by, now)
        self._announced.append(_maintenance_notice(begun, Status.FIRING, now))
        return begun

    def end_maintenance(self, id_: str, by: str, now: float) -> bool:
        """End one; returns whether there was one of this id."""
        self.tick(now)
        ended = self._plan.end(id_)
        if ended is not None:
            self._announced.append(_maintenance_notice(ended, Status.RESOLVED, now, f"ended by {by}"))
        return ended is not None

    def awaits(self, subject: str) -> bool:
        """Whether changes of a device of this name are expected."""
        return self._plan.awaits(subject)

    # -- time ------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Time has passed; what follows from it is in the next `take`."""
        if now < self._now:
            self.repeats.clock_stepped_back(now)
            self.storms.clock_stepped_back(now)
        self._now = now
        for over in self._plan.tick(now):
            self._announced.append(_maintenance_notice(over, Status.RESOLVED, now, "its time is over"))

    def clock_stepped(self, by: float) -> None:
        """The wall clock was set by so many seconds: nothing becomes longer or shorter by that."""
        for part in (self._plan, self.repeats, self.storms):
            part.clock_stepped(by)
        self._now = shifted(self._now, by)

    def next_due(self) -> float | None:
        """When `tick` and `take` have something to do next."""
        due = (self._plan.next_due(), self.repeats.next_due(), self.storms.next_due())
        return min((each for each in due if each is not None), default=None)

    # -- notices ---------------------------------------------------------------------------

    def take(self) -> list[Notice]:
        """What to tell of everything since the last call, in order."""
        batch, announced = self._book.take_notices(), self._announced
        self._announced = []
        self._now = max([self._now, *(notice.at for notice in batch)])
        notices, heard = [*announced], list[Alert]()
        for notice in batch:
            firing = notice.status is Status.FIRING
            notices += self._fired(notice) if firing else self._resolved(notice)
        for ended in self._plan.take_ended():
            raised = self._in_earnest(ended)
            heard += [each.alert for each in raised if not self.storms.stands_for(each.alert.key)]
            notices += raised
        notices += self.repeats.quiet(self._now, self._present)
        # Who speaks for a group replaces what was told of it: the ends of that come first.
        speaking = {(notice.alert.key, notice.alert.occurrence) for notice in notices if notice.flapping}
        notices.sort(key=lambda notice: (notice.alert.key, notice.alert.occurrence) in speaking)
        told = self.storms.admit(notices, self._now, self._owed, self._coming)
        for alert in heard:
            self.storms.heard_before(alert.key)
        self.repeats.heard(told)
        return told

    def _coming(self) -> Counter[Severity]:
        """How many alerts are about to fire, by the severity they would be told with."""
        coming: Counter[Severity] = Counter()
        for alert in self._book.waiting():
            finding = alert.finding
            if swallowable(finding.code):
                expected = self._plan.expecting(finding.code, alert.subject, self._now)
                coming[finding.severity if expected is None else Severity.INFO] += 1
        return coming

    def _fired(self, notice: Notice) -> list[Notice]:
        alert = notice.alert
        expected = self._plan.expecting(alert.finding.code, alert.subject, notice.at)
        if expected is not None:
            if alert.state is State.FIRING:
                self._eased.put(alert.key, expected.id)
            id_ = notice_id(alert, Status.FIRING, expected.id)
            notice = replace(notice, id=id_, maintenance=expected)
        told = self.repeats.fired(notice)
        return [] if told is None else [told]

    def _resolved(self, notice: Notice) -> list[Notice]:
        alert = notice.alert
        expected = self._eased.pop(alert.key)
        if expected is not None:
            notice = replace(notice, maintenance=self._plan.get(expected))
        untold = self.storms.alone(alert.key) and not self.repeats.covers(alert)
        self.storms.ended(alert.key)
        told = self.repeats.resolved(notice)
        return [] if untold else told

    def _in_earnest(self, ended: Maintenance) -> list[Notice]:
        """What a maintenance leaves behind is no longer expected."""
        notices = []
        for key in sorted(key for key in self._eased if self._eased.get(key) == ended.id):
            self._eased.pop(key)
            alert = self._present(key).alert  # what is no longer so has lost its mark
            other = self._plan.expecting(alert.finding.code, alert.subject, self._now)
            if other is not None:
                self._eased.put(key, other.id)
                continue
            told = self.repeats.raised(self._notice(alert, self._now))
            notices += [] if told is None else [told]
        return notices

    def _present(self, key: str) -> Notice:
        """The firing notice of an alert that fires."""
        alert = self._book.get(key)
        assert alert is not None, "firing alerts stay in the book"  # for the type checker
        return self._notice(alert, alert.changed)

    def _present_if_firing(self, key: str) -> Notice | None:
        alert = self._book.get(key)
        if alert is None or alert.state is not State.FIRING:
            return None
        return self.repeats.counted(self._notice(alert, alert.changed))

    def _owed(self, key: str) -> Notice | None:
        """As `_present_if_firing`, but for what is told well enough by another."""
        notice = self._present_if_firing(key)
        return None if notice is None or self.repeats.outweighs(notice) else notice

    def _notice(self, alert: Alert, at: float) -> Notice:
        expected = self._plan.get(self._eased.get(alert.key) or "")
        again = () if expected is None else (expected.id,)
        return Notice(
            notice_id(alert, Status.FIRING, *again),
            Status.FIRING,
            alert,
            at,
            alert.finding.record,
            first=alert.changed,
            last=alert.changed,
            maintenance=expected,
        )

    # -- what there is ---------------------------------------------------------------------

    def present(self) -> list[Notice]:
        """Of each alert that fires, what would be told of it now."""
        found = (self._present_if_firing(alert.key) for alert in self._book.holding())
        return [notice for notice in found if notice is not None]

    def firing(self) -> dict[Severity, int]:
        """How many alerts fire, by the severity they are told with."""
        counts = self._book.firing()
        for key in self._eased:
            if (present := self._present_if_firing(key)) is not None:
                counts[present.alert.finding.severity] -= 1
                counts[Severity.INFO] += 1
        return counts

    # -- what is stored --------------------------------------------------------------------

    def take_changed(self) -> dict[str, dict[str, object] | None]:
        """Documents beside the alerts that changed since the last call; None: gone."""
        damaged, self._damaged = self._damaged, set()
        return {
            **dict.fromkeys(damaged),
            **self.repeats.take_changed(),
            **self.storms.take_changed(),
            **self._eased.take_changed(),
        }

    def store_all(self) -> None:
        """Everything is in the next `take_changed`."""
        for part in (self.repeats, self.storms, self._eased):
            part.store_all()

    def document(self) -> dict[str, object]:
        """The rest, as JSON for the checkpoint."""
        return {"now": self._now, "storms": self.storms.document(), "maintenance": self._plan.document()}

    def adopt(self, stored: object) -> None:
        """Take over the maintenances of a stored `document`, if there are none; raises MalformedError."""
        if stored is not None and not self._plan.active:
            self._plan = read_plan(table(stored).get("maintenance"))

    def restore(self, stored: object, documents: Mapping[str, Mapping[str, object]]) -> None:
        """Take over what was stored, when the book has; raises MalformedError.

        Args:
            stored: the document of `document`; None: of a version that had none.
            documents: those of `take_changed`.
        """
        try:
            self._restore(stored, documents)
        except MalformedError:
            self._damaged = set(documents)  # who cannot be read is not to be read again
            raise

    def _restore(self, stored: object, documents: Mapping[str, Mapping[str, object]]) -> None:
        repeats, storms, plan, eased = Repeats(), Storms(), Plan(), Marks("eased")
        repeats.threshold, repeats.window_seconds = self.repeats.threshold, self.repeats.window_seconds
        storms.threshold, storms.window_seconds = self.storms.threshold, self.storms.window_seconds
        firing = {alert.key: alert for alert in self._book.holding() if alert.state is State.FIRING}
        now = 0.0
        repeats.restore(documents, firing)
        eased.restore(documents, lambda key: key in firing)
        if stored is not None:
            document = table(stored)
            now = moment(document.get("now"))
            storms.restore(document.get("storms"), documents, lambda key: key in firing)
            plan = read_plan(document.get("maintenance"))
        self.repeats, self.storms, self._plan, self._eased = repeats, storms, plan, eased
        self._now = now


def _maintenance_notice(maintenance: Maintenance, status: Status, now: float, why: str = "") -> Notice:
    """That one begins or ends, as an alert of its own."""
    whose = f"{maintenance.by}: {maintenance.reason}"
    text = f"maintenance of {maintenance.device} by {whose}"
    if status is Status.FIRING:
        text += f"; its changes are expected for {maintenance.until - now:.0f} s"
    else:
        text += f"; over: {why}"
    finding = make_finding(
        "maintenance.active",
        text,
        maintenance=maintenance.id,
        pattern=maintenance.device,
        reason=maintenance.reason,
        by=maintenance.by,
    )
    state = State.FIRING if status is Status.FIRING else State.RESOLVED
    alert = Alert(f"maintenance|{maintenance.id}", finding, "", state, maintenance.since, now, 1)
    began = maintenance.since
    return Notice(notice_id(alert, status), status, alert, now, None, first=began, last=began)
