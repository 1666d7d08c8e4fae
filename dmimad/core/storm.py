"""Storms: more notices at once than anybody reads, told as one.

Source: none; the rules are dmimad's own.

Firing alerts are counted by severity, with those of higher severities: when more than the threshold
came within the window, alerts of this severity and of lower ones are told by the summary alone until
it has been calm for a while.  So noise never hides what matters more than it.  What comes at one
instant is looked at before any of it is told.  The end of an alert that was told by itself always is,
too: who heard that it fires would believe it for ever, and there are no more of them than there were.

When it is calm the summary resolves.  If few of the alerts it stood for still hold, they are told one
by one then; otherwise the summary's resolution names them, and their own ends are not told.

Which alerts a storm stands for is noted beside each of them (`marks`), everything else is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from dmimad.core.alert import RANK, Alert, Notice, State, Status, notice_id, shifted
from dmimad.core.checkpoint import items, table
from dmimad.core.errors import MalformedError
from dmimad.core.finding import Severity, make_finding
from dmimad.core.flapping import moment
from dmimad.core.marks import Marks
from dmimad.core.summary import Tally, count, read_tally

#: The summary is told again for codes that are new in it, so often at most.
MAX_UPDATES = 3
#: It is calm when there were so many windows in which not more than the threshold came ...
CALM_WINDOWS = 3
#: ... and twice as long after each storm that follows the last one soon, up to this.
MAX_CALM_SECONDS = 600.0
#: Times of one kind that are stored; the threshold's limit is below it.
MAX_TIMES = 1001

#: What no storm swallows, beside those of ``list.``.
NEVER_SWALLOWED = frozenset(
    {"alerts.storm", "maintenance.active", "pcr.mismatch", "baseline.signature", "state.unavailable"}
)
#: Before the storm's key in the note of an alert.
_HEARD = "!"
#: Counted apart: firing alerts of a severity and above, by its name.
_KINDS = tuple(severity.value for severity in Severity)


def swallowable(code: str) -> bool:
    """Whether a storm may stand for alerts of this code."""
    return code not in NEVER_SWALLOWED and not code.startswith("list.")


class Storm:
    """One storm: what it stands for and what was told of it."""

    def __init__(self, key: str, began: float, calm_seconds: float) -> None:
        self.key = key
        self.began = self.last = self.told_at = began
        self.calm_seconds = calm_seconds
        self.occurrence = 0
        self.updates = 0
        self.severity: Severity | None = None
        self.named: set[str] = set()
        self.highest = Severity.INFO
        self.tally = Tally()
        self.standing: dict[str, None] = {}

    def take(self, notice: Notice, now: float) -> None:
        """An alert that fires and is not told by itself."""
        finding = notice.alert.finding
        self.tally.add(finding.code, notice.severity, notice.alert.subject or finding.device)
        self.last = now
        if RANK[notice.severity] > RANK[self.highest]:
            self.highest = notice.severity

    def is_news(self, now: float, window_seconds: float) -> bool:
        """Whether the summary is to be told, for the first time or again."""
        if self.severity is None or RANK[self.highest] > RANK[self.severity]:
            return True
        due = self.next_update(window_seconds)
        return due is not None and due <= now

    def next_update(self, window_seconds: float) -> float | None:
        """When codes that are not named yet may be told; None if there are none."""
        if self.updates >= MAX_UPDATES or self.tally.codes.keys() <= self.named:
            return None
        return self.told_at + window_seconds

    def firing(self, now: float) -> Notice:
        """The summary so far."""
        self.updates += self.severity is self.highest
        self.severity, self.told_at = self.highest, now
        self.named = set(self.tally.codes)
        self.occurrence += 1
        summary = self.tally.summary()
        text = (
            f"too many alerts at once are told as one: {summary.words()} so far; "
            "the retained states of the devices tell the present"
        )
        return self._notice(Status.FIRING, text, now, self.tally)

    def resolved(self, now: float, holding: Iterable[Notice], *, one_by_one: bool) -> Notice:
        """The summary of all of it."""
        left, summary = Tally(), self.tally.summary()
        for notice in holding:
            finding = notice.alert.finding
            left.add(finding.code, notice.severity, notice.alert.subject or finding.device)
        seconds = round(self.last - self.began)
        within = f"within {seconds} s" if seconds else "at once"
        text = f"no storm any more: {summary.alerts} alerts {within}: "
        text += summary.words()
        if not left.alerts:
            text += "; none of those that fired holds"
        elif one_by_one:
            text += f"; {left.alerts} still hold and follow one by one"
        else:
            text += f"; {left.alerts} still hold: {left.summary().words()}; "
            text += "the retained states of the devices tell them all, and their ends are not told"
        return self._notice(Status.RESOLVED, text, now, self.tally, left)

    def _notice(
        self, status: Status, text: str, now: float, tally: Tally, left: Tally | None = None
    ) -> Notice:
        finding = make_finding("alerts.storm", text, severity=self.highest)
        state = State.FIRING if status is Status.FIRING else State.RESOLVED
        alert = Alert(self.key, finding, "", state, self.began, now, self.occurrence)
        summary = tally.summary(None if left is None else left.summary())
        return Notice(
            notice_id(alert, status),
            status,
            alert,
            now,
            None,
            count=summary.alerts,
            first=self.began,
            last=self.last,
            summary=summary,
        )

    def document(self) -> dict[str, object]:
        """As JSON to store."""
        return {
            "key": self.key,
            "moments": [self.began, self.last, self.told_at],
            "calm": self.calm_seconds,
            "numbers": [self.occurrence, self.updates],
            "severity": None if self.severity is None else self.severity.value,
            "highest": self.highest.value,
            "named": sorted(self.named),
            "tally": self.tally.document(),
        }


class Storms:
    """What is told one by one, and what by a summary.

    Attributes:
        threshold: more notices than this within ``window_seconds`` are a storm; 0: there is none.
    """

    def __init__(self) -> None:
        self.threshold = 0
        self.window_seconds = 10.0
        self._times: dict[str, list[float]] = {kind: [] for kind in _KINDS}
        self._on: set[str] = set()
        self._storm: Storm | None = None
        self._former = (0.0, 0.0)  # when the last one ended, and how long it had to be calm
        self._marks = Marks("swallowed")

    # -- notices ---------------------------------------------------------------------------

    def admit(
        self,
        notices: list[Notice],
        now: float,
        tell: Callable[[str], Notice | None],
        coming: Callable[[], Mapping[Severity, int]] = dict,
    ) -> list[Notice]:
        """What to tell of notices that come at one instant.

        Args:
            tell: makes the firing notice of an alert that fires, by its key; None: it does not any more.
            coming: how many are about to fire, so that the first of a storm are seen to be such.
        """
        told = self._calm(now, tell)
        left = {(notice.alert.key, notice.alert.occurrence) for notice in told}
        notices = [
            notice
            for notice in notices
            if notice.status is Status.RESOLVED or (notice.alert.key, notice.alert.occurrence) not in left
        ]
        fired = [notice for notice in notices if notice.status is Status.FIRING]
        self._count([notice for notice in fired if swallowable(notice.alert.finding.code)], now, coming)
        untold: set[tuple[str, int]] = set()
        for notice in notices:
            alert = notice.alert
            name = (alert.key, alert.occurrence)
            if name in untold and notice.status is Status.RESOLVED:
                continue  # nobody heard that it fired
            if not self._swallows(notice):
                if notice.status is Status.FIRING:
                    self._drop(alert.key)
                told.append(notice)
                continue
            storm = self._swallow(notice, now)
            untold.add(name)
            now_firing = tell(alert.key)
            if now_firing is not None and now_firing.alert.occurrence == alert.occurrence:
                storm.standing[alert.key] = None
                self._marks.put(alert.key, storm.key)
        if self._storm is not None and self._storm.is_news(now, self.window_seconds):
            told.append(self._storm.firing(now))
        return told

    def stands_for(self, key: str) -> bool:
        """Whether an alert is told by a summary."""
        return key in self._marks

    def alone(self, key: str) -> bool:
        """Whether by nothing else, ever."""
        text = self._marks.get(key)
        return text is not None and not text.startswith(_HEARD)

    def heard_before(self, key: str) -> None:
        """An alert that a storm stands for was told before, with a lower severity: its end is told."""
        if (text := self._marks.get(key)) is not None:
            self._marks.put(key, _HEARD + text.removeprefix(_HEARD))

    def ended(self, key: str) -> None:
        """An alert that a storm stands for fires no longer."""
        self._drop(key)

    # -- time ------------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """When `admit` has something to do, if nothing happens before."""
        if self._storm is None:
            return None
        update = self._storm.next_update(self.window_seconds)
        end = max((self._calm_at(kind) for kind in self._on), default=0.0)
        return end if update is None else min(end, update)

    def clock_stepped(self, by: float) -> None:
        """The wall clock was set: everything was as long ago as before."""
        self._times = {kind: [shifted(time, by) for time in times] for kind, times in self._times.items()}
        self._former = (shifted(self._former[0], by), self._former[1])
        if self._storm is not None:
            storm = self._storm
            storm.began, storm.last = shifted(storm.began, by), shifted(storm.last, by)
            storm.told_at = shifted(storm.told_at, by)

    def clock_stepped_back(self, now: float) -> None:
        """The wall clock was set back: nothing happened later than now."""
        self._times = {kind: [min(time, now) for time in times] for kind, times in self._times.items()}
        self._former = (min(self._former[0], now), self._former[1])
        if self._storm is not None:
            storm = self._storm
            storm.began, storm.last = min(storm.began, now), min(storm.last, now)
            storm.told_at = min(storm.told_at, now)

    def _calm(self, now: float, tell: Callable[[str], Notice | None]) -> list[Notice]:
        self._on = {kind for kind in self._on if self._calm_at(kind) > now}
        if self._storm is None or self._on:
            return []
        storm, self._storm = self._storm, None
        self._former = (now, storm.calm_seconds)
        holding = [notice for key in sorted(storm.standing) if (notice := tell(key)) is not None]
        one_by_one = len(holding) <= self.threshold
        told = [storm.resolved(now, holding, one_by_one=one_by_one)]
        if one_by_one:
            for notice in sorted(holding, key=lambda notice: (notice.at, notice.alert.key)):
                self._marks.pop(notice.alert.key)
                told.append(replace(notice, id=notice_id(notice.alert, Status.FIRING, storm.key)))
        return told

    def _calm_at(self, kind: str) -> float:
        """When there will not have been more than the threshold for long enough."""
        times, calm = self._times[kind], self._calm_seconds()
        if not self.threshold or len(times) <= self.threshold:
            return 0.0
        return times[-self.threshold - 1] + calm

    def _calm_seconds(self) -> float:
        calm = CALM_WINDOWS * self.window_seconds
        return calm if self._storm is None else max(self._storm.calm_seconds, calm)

    # -- counting --------------------------------------------------------------------------

    def _count(self, notices: list[Notice], now: float, coming: Callable[[], Mapping[Severity, int]]) -> None:
        if not self.threshold or not notices:
            return
        waiting = coming()
        for kind in _KINDS:
            new = sum(_counts_as(notice, kind) for notice in notices)
            if not new:
                continue
            recent = sum(time > now - self.window_seconds for time in self._times[kind])
            more = _at_least(waiting, Severity(kind))
            if kind not in self._on and more > self.threshold:
                new += more  # these are its beginning
            if recent + new > self.threshold:
                self._on.add(kind)
            times = self._times[kind] + [now] * min(new, self.threshold + 1)
            self._times[kind] = times[-self.threshold - 1 :]

    def _swallows(self, notice: Notice) -> bool:
        return (
            notice.status is Status.FIRING
            and notice.severity.value in self._on
            and swallowable(notice.alert.finding.code)
        )

    def _swallow(self, notice: Notice, now: float) -> Storm:
        if self._storm is None:
            ended, calm = self._former
            soon = calm > 0 and now - ended < 2 * calm
            calm = min(2 * calm, MAX_CALM_SECONDS) if soon else 0.0
            self._storm = Storm(f"storm|{notice.id}", now, max(calm, CALM_WINDOWS * self.window_seconds))
        self._storm.take(notice, now)
        return self._storm

    def _drop(self, key: str) -> None:
        self._marks.pop(key)
        if self._storm is not None:
            self._storm.standing.pop(key, None)

    # -- what is stored --------------------------------------------------------------------

    def take_changed(self) -> dict[str, dict[str, object] | None]:
        """Documents that changed since the last call; None: gone."""
        return self._marks.take_changed()

    def store_all(self) -> None:
        """Everything is in the next `take_changed`."""
        self._marks.store_all()

    def document(self) -> dict[str, object]:
        """The rest, as JSON."""
        return {
            "times": self._times,
            "on": sorted(self._on),
            "former": list(self._former),
            "storm": None if self._storm is None else self._storm.document(),
        }

    def restore(
        self,
        stored: object,
        documents: Mapping[str, Mapping[str, object]],
        fires: Callable[[str], bool],
    ) -> None:
        """Take over what was stored; raises MalformedError."""
        document = table(stored)
        times = table(document.get("times"))
        for kind in _KINDS:
            self._times[kind] = [moment(time) for time in items(times.get(kind))][-MAX_TIMES:]
        self._on = {kind for kind in _KINDS if kind in items(document.get("on"))}
        ended, calm = (*items(document.get("former")), None, None)[:2]
        self._former = (moment(ended), moment(calm))
        if document.get("storm") is not None:
            self._storm = _read_storm(table(document["storm"]))
        for key, of in self._marks.restore(documents, fires):
            if self._storm is not None and of.removeprefix(_HEARD) == self._storm.key:
                self._storm.standing[key] = None


def _counts_as(notice: Notice, kind: str) -> bool:
    """An alert counts for its severity and all lower ones."""
    return RANK[notice.severity] >= RANK[Severity(kind)]


def _at_least(numbers: Mapping[Severity, int], severity: Severity) -> int:
    """How many there are of a severity and above."""
    return sum(number for each, number in numbers.items() if RANK[each] >= RANK[severity])


def _read_storm(document: Mapping[str, object]) -> Storm:
    began, last, told_at = (*items(document.get("moments")), None, None, None)[:3]
    occurrence, updates = (*items(document.get("numbers")), None, None)[:2]
    storm = Storm(str(document.get("key")), moment(began), moment(document.get("calm")))
    storm.last, storm.told_at = moment(last), moment(told_at)
    storm.occurrence, storm.updates = count(occurrence), count(updates)
    severity = document.get("severity")
    try:
        storm.severity = None if severity is None else Severity(str(severity))
        storm.highest = Severity(str(document.get("highest")))
    except ValueError as error:
        raise MalformedError("a stored severity is damaged") from error
    storm.named = {str(code) for code in items(document.get("named"))}
    storm.tally = read_tally(document.get("tally"))
    return storm
