"""The one object the daemon drives: list, observations, PCR values, settings, time in; alerts and state out.

Source: the design's third idea.  What was read and what follows from it leave here as one
`Commit`; until the caller says it is stored (`committed`), it is kept and asked for again, so a
full disk delays and loses nothing.

The monitor joins the parts of the core and decides nothing about the kernel itself.  What is known of the
list is a `reading`, made anew when the list begins again; what outlives it is here: settings, alerts,
`memory`, when nobody watched, when approvals begin and end, what is not stored yet (`unstored`).  `sight`
makes of all that what somebody asks for.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dmimad.core import cloudevent
from dmimad.core.alert import MAX_SECONDS, AlertBook, alert_to_document, shifted
from dmimad.core.backing import Names, no_names
from dmimad.core.baseline import Baseline
from dmimad.core.checkpoint import (
    FORMAT,
    Document,
    integer,
    table,
)
from dmimad.core.commit import Commit, Stored
from dmimad.core.delivery import Delivery
from dmimad.core.errors import MalformedError, ResumeError
from dmimad.core.event import EventKind
from dmimad.core.finding import make_finding
from dmimad.core.maintenance import Maintenance
from dmimad.core.marks import is_beside
from dmimad.core.memory import Memory
from dmimad.core.observation import Observation
from dmimad.core.reading import Reading
from dmimad.core.sight import Sight
from dmimad.core.snapshot import DeviceSeries
from dmimad.core.status import Surroundings
from dmimad.core.supervision import OF_BASELINE, OF_STATE
from dmimad.core.unstored import Unstored


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings the monitor works by; as they are here, every alert is told by itself."""

    host: str
    hold_off_seconds: float = 2.0
    report_unexpected: bool = True
    trim_expected: bool = False
    storm_threshold: int = 0
    storm_window_seconds: float = 10.0
    flap_threshold: int = 0
    flap_window_seconds: float = 600.0


class Monitor:
    """All that is known of one host's list.

    Args:
        policy: settings; replaced by `set_policy`.
        baseline: what is approved; replaced by `set_baseline` and `set_policy`.
        boot: names this boot (or this mirrored list), so that records of different boots differ.
        names: what block devices that are not mapped ones are called on the list's host.
        sign: signs each alert when its message is made, before it is stored; None: they are not signed.
            May be set again, for the alerts from then on.
    """

    def __init__(
        self,
        policy: Policy,
        baseline: Baseline,
        boot: str,
        *,
        names: Names = no_names,
        sign: cloudevent.Sign | None = None,
    ) -> None:
        self.policy = policy
        self.sign = sign
        self.baseline = baseline
        self.records = 0
        self.dm_events: Counter[str] = Counter(dict.fromkeys((kind.value for kind in EventKind), 0))
        self.findings: Counter[tuple[str, str]] = Counter()
        self.last_read: float | None = None
        self._boot = boot
        self._names = names
        self._generation = 0
        self._counting = False  # the generations of this boot: one of it is known
        self._blind_since: float | None = None
        self._unwatched_since: float | None = None
        self._book = AlertBook(policy.hold_off_seconds)
        self._delivery = Delivery(self._book)
        self._set_delivery(policy)
        self._memory = Memory(boot)
        self._unstored = Unstored()
        self._next_approval: float | None = None
        self._judged_at = 0.0
        self._baseline_refused = self._state_lost = False
        self._begin(fresh=False)

    def _begin(self, *, fresh: bool) -> None:
        """Nothing of the list has been read."""
        self._judge_again = False
        self._fresh = fresh
        scope = hashlib.sha256(f"{self._boot}|{self._generation}".encode()).hexdigest()[:16]
        reading = Reading(scope, self._book, self.findings, self.dm_events, self._names)
        reading.watch.history = self._memory.history
        reading.watch.baseline = self.baseline
        reading.watch.report_unexpected = self.policy.report_unexpected
        reading.continuity.trim_expected = self.policy.trim_expected
        self._reading = reading

    # -- going on after a restart ----------------------------------------------------------

    def resume(self, stored: Stored) -> int:
        """Take stored state in; returns the byte offset to read the list from.

        The first bytes fed must be the record the checkpoint ends with, by which the list is
        recognised; `feed` raises `ResumeError` if it is another.

        Raises:
            ResumeError: the state is of another boot, or damaged.  Alerts are kept; begin anew.
        """
        if stored.checkpoint is None:
            return 0
        try:
            return self._restore(stored, stored.checkpoint)
        except MalformedError as error:
            raise ResumeError(str(error)) from error

    def _restore(self, stored: Stored, checkpoint: Document) -> int:
        self._unstored.sequence = integer(checkpoint.get("sequence"))
        self._generation = integer(checkpoint.get("generation"))
        documents = {key: table(document) for key, document in stored.alerts.items()}
        self._book.restore({key: each for key, each in documents.items() if not is_beside(key)})
        beside = {key: each for key, each in documents.items() if is_beside(key)}
        self._delivery.restore(checkpoint.get("delivery"), beside)
        self._memory.restore(stored, checkpoint, _moment(checkpoint.get("last_read")))
        if checkpoint.get("format") != FORMAT:
            raise ResumeError("the stored state has another format")
        if checkpoint.get("boot") != self._boot:
            raise ResumeError("the stored state is of another boot")
        self._counting = True
        self._begin(fresh=False)
        offset = self._reading.restore(stored, checkpoint)
        self.last_read = self._blind_since = _moment(checkpoint.get("last_read"))
        # A former process may have ended before it had looked, too.
        unwatched = _moment(checkpoint.get("unwatched_since"))
        self._unwatched_since = self.last_read if unwatched is None else unwatched
        self._memory.history.attach_all(self._reading.devices)
        self._reading.view_all(self.last_read or 0.0)
        self._judge_again = True  # baseline and settings may be others now
        return offset

    def recognise_again(self) -> int:
        """The list may be another one now: as `resume`, for what this process has read itself."""
        return self._reading.continuity.recognise_again()

    def start_over(self, boot: str, now: float, reason: str = "") -> None:
        """Read the list from its first byte; alerts of before stay until that is done.

        Args:
            reason: why the list begins again, for the finding; "" if that is no news.
        """
        # Another boot needs no number to be told from those before: so its first reading has the same names
        # whether or not there is a stored state.
        self._generation = self._generation + 1 if self._counting and boot == self._boot else 0
        self._memory.start_over(boot, now)
        self._boot, self._counting = boot, True
        self._begin(fresh=True)
        if reason:
            finding = make_finding("list.restarted", f"the list begins again: {reason}")
            self._reading.watch.report(finding, now)

    # -- a list that was trimmed -----------------------------------------------------------

    def find_place(self) -> None:
        """Records were deleted from the list: what is fed next begins at its first byte."""
        self._reading.continuity.find_place()

    def after_gap(self) -> None:
        """The place was not found: the whole list is new, and what was before it may be lost.

        What is fed next begins at its first byte.
        """
        self._reading.continuity.after_gap()

    # -- input -----------------------------------------------------------------------------

    def feed(self, data: bytes, now: float) -> None:
        """Take the next bytes of the list, read at ``now``.

        Raises:
            ResumeError: the list is not the one the checkpoint is of; `find_place` or `start_over`, and
                read from byte 0.
        """
        following = self._reading.continuity.feed(data, now)
        if following is not None:
            self._read(following, now)

    def _read(self, following: bytes, now: float) -> None:
        """Follow the list on."""
        history, self._counting = self._memory.history, True
        history.late = not self.up_to_date or self._blind_since is not None
        history.after = self._blind_since
        self.records += self._reading.read(following, now, at_once=self._was_blind(now))
        self.last_read = now

    def caught_up(self, now: float) -> None:
        """Everything in the list has been fed.

        Raises:
            ResumeError: the list ends before the checkpoint does; as `feed`.
            ListGapError: the place was looked for and not found; `after_gap`, and read from byte 0.
        """
        following = self._reading.continuity.end(now)
        if following is not None:
            self._read(following, now)
        self.last_read = now
        self._blind_since = None
        reading, was_caught_up = self._reading, self.up_to_date
        if not was_caught_up:
            reading.caught_up = True
            self._judged_at = now
            reading.watch.cease_others(now)
        if self._judge_again or (not was_caught_up and self.baseline.next_change(now) is not None):
            self._judge_again = False
            self._judge_all(now)
        else:
            reading.refresh(now)
        reading.check_missing(now)
        if self._memory.history.paused:
            self._memory.history.paused = False
            reading.recall(now)
        self.tick(now)

    def lost_sight(self) -> None:
        """The list cannot be read for the time being."""
        if self._blind_since is None:
            self._blind_since = self.last_read

    def tick(self, now: float) -> None:
        """Time has passed."""
        begins_or_ends = self._approval_due()
        if (begins_or_ends is not None and now >= begins_or_ends) or self._approvals_undone(now):
            self._judge_all(now)
        self._memory.history.settle(now)
        self._delivery.tick(now)
        self._book.clock_stepped_back(now)
        self._book.tick(now)

    def clock_stepped(self, by: float) -> None:
        """The wall clock was set by so many seconds: what lasts has lasted for as long as before.

        Moments at which approvals begin and end are the calendar's, and stay.
        """
        for part in (self._book, self._delivery, self._reading.watch, self._memory.history):
            part.clock_stepped(by)
        self.last_read = _shifted(self.last_read, by)
        self._blind_since = _shifted(self._blind_since, by)
        self._unwatched_since = _shifted(self._unwatched_since, by)

    def next_due(self) -> float | None:
        """When `tick` should be called next, in wall-clock seconds; None if nothing waits."""
        moments = (self._book.next_due(), self._delivery.next_due(), self._approval_due())
        return min((moment for moment in moments if moment is not None), default=None)

    def _approval_due(self) -> float | None:
        """When an approval begins or ends, if that can be judged."""
        return self._next_approval if self.up_to_date else None

    def _approvals_undone(self, now: float) -> bool:
        """The clock was set back behind a moment at which an approval begins or ends."""
        if now >= self._judged_at or not self.up_to_date:
            return False
        self._judged_at = now
        return self.baseline.next_change(now) != self._next_approval

    def set_baseline(self, baseline: Baseline, now: float) -> None:
        """Another baseline is in force."""
        self.baseline = self._reading.watch.baseline = baseline
        self._judge_all(now)

    def hold_baseline(self, problem: str, now: float) -> None:
        """The baseline is not signed as it must be, until `cease_baseline`: one alert, while it lasts."""
        finding = make_finding("baseline.signature", problem)
        if not self._baseline_refused:
            self._baseline_refused = True
            self.findings[finding.code, finding.severity.value] += 1
        key = f"{OF_BASELINE}|{finding.code}"
        self._book.hold(key, finding, "", since=now, now=now)

    def cease_baseline(self, now: float) -> None:
        """It is in order, or need not be signed."""
        self._baseline_refused = False
        self._book.cease(f"{OF_BASELINE}|baseline.signature", now=now, record=None)

    def hold_state(self, problem: str, now: float) -> None:
        """Nothing can be stored, until `cease_state`: one alert, while it lasts."""
        finding = make_finding("state.unavailable", f"{problem}; alerts are told from memory meanwhile")
        key = f"{OF_STATE}|{finding.code}"
        if not self._state_lost:
            self._state_lost = True
            self.findings[finding.code, finding.severity.value] += 1
        self._book.hold(key, finding, "", since=now, now=now)

    def cease_state(self, now: float) -> None:
        """What there is can be stored."""
        self._state_lost = False
        self._book.cease(f"{OF_STATE}|state.unavailable", now=now, record=None)

    def set_policy(self, policy: Policy, now: float, baseline: Baseline | None = None) -> None:
        """Other settings are in force, and another baseline if one is given: nothing is judged between."""
        if baseline is not None:
            self.baseline = self._reading.watch.baseline = baseline
        self.policy = policy
        self._reading.watch.report_unexpected = policy.report_unexpected
        self._reading.continuity.trim_expected = policy.trim_expected
        self._book.hold_off_seconds = policy.hold_off_seconds
        self._set_delivery(policy)
        self._judge_all(now)
        self.tick(now)

    def _judge_all(self, now: float) -> None:
        self._next_approval, self._judged_at = self.baseline.next_change(now), now
        self._reading.judge_all(now, at_once=self._was_blind(now))

    def _was_blind(self, now: float) -> bool:
        """Nobody watched for so long that an active table may have been in use for all of the hold-off.

        If the clock was set back meanwhile, that may have been longer than it says.
        """
        return self._blind_since is not None and abs(now - self._blind_since) >= self.policy.hold_off_seconds

    def _set_delivery(self, policy: Policy) -> None:
        repeats, storms = self._delivery.repeats, self._delivery.storms
        repeats.threshold, repeats.window_seconds = policy.flap_threshold, policy.flap_window_seconds
        storms.threshold, storms.window_seconds = policy.storm_threshold, policy.storm_window_seconds

    # -- maintenance -----------------------------------------------------------------------

    @property
    def maintenance(self) -> tuple[Maintenance, ...]:
        """The maintenances in force."""
        return self._delivery.maintenance

    def start_maintenance(
        self, device_pattern: str, seconds: float, reason: str, by: str, now: float
    ) -> Maintenance:
        """Changes of the devices with such names are expected from now on; commit afterwards.

        Args:
            device_pattern: shell-style, of names as they are printed.
            by: who says so.

        Raises:
            RequestError: something is missing, too long, or there are too many.
        """
        return self._delivery.start_maintenance(device_pattern, seconds, reason, by, now)

    def end_maintenance(self, id: str, by: str, now: float) -> bool:
        """End one before its time; returns whether there was one of this id.  Commit afterwards."""
        return self._delivery.end_maintenance(id, by, now)

    # -- the second witness ----------------------------------------------------------------

    def observed(self, observation: Observation, active: Iterable[tuple[int, int]], now: float) -> bool:
        """Take in what the kernel holds live; returns whether to look again soon.

        The observation was begun after everything in the list had been fed, and everything that was in the
        list after its end has been fed since.

        Args:
            active: numbers of devices that the kernel has announced something about since the last one.
        """
        history = self._memory.history
        history.late = not self._reading.fusion.observations or self._unwatched_since is not None
        history.after = self._unwatched_since
        unsettled = self._reading.observe(observation, active, now)
        if not unsettled and self._unwatched_since is not None:
            self._reading.announce_interruption(self._unwatched_since, now)
            self._unwatched_since = None
        self._reading.check_missing(now)
        self.tick(now)
        return unsettled

    # -- the TPM ---------------------------------------------------------------------------

    def pcr_read(self, values: Mapping[str, bytes], now: float) -> None:
        """PCR 10 was read, bank by bank, after everything in the list had been fed.

        Read the list on, then call `pcr_settled`.  Without a TPM ``values`` is empty.
        """
        self._reading.continuity.pcr_read(values)

    def pcr_settled(self, now: float, *, tpm: bool) -> bool:
        """What was in the list when the PCR was read has been fed; returns whether to try again soon."""
        return self._reading.continuity.pcr_settled(now, tpm=tpm)

    @property
    def pcr_verified(self) -> bool | None:
        """Whether the list leads to the TPM's PCR; None if that is not known, or there is no TPM."""
        return self._reading.continuity.pcr_verified

    # -- what there is to see --------------------------------------------------------------

    def retained(self) -> Mapping[str, bytes]:
        """Topic -> retained payload, for every device that exists."""
        return self._sight().retained()

    def series(self) -> list[DeviceSeries]:
        """The devices for metrics."""
        return self._sight().series()

    def approved_until(self, now: float) -> float | None:
        """When the first of the approved devices will no longer be; None: never, or not known yet."""
        return self._sight().approved_until(now)

    def firing(self) -> dict[str, int]:
        """How many alerts fire, by severity."""
        return {severity.value: count for severity, count in self._delivery.firing().items()}

    @property
    def position(self) -> int:
        """Records of the present list that have been processed, those trimmed since included."""
        return self._reading.continuity.position

    @property
    def trimmed(self) -> int:
        """Records known to be gone from the front of the list; all of them had been read."""
        return self._reading.continuity.trimmed

    @property
    def history_lost(self) -> str:
        """What was wrong with the history that was stored, which begins anew then; "" if nothing was."""
        return self._memory.lost

    @property
    def dm_records(self) -> int:
        """Device-mapper records processed, of the present list."""
        return self._reading.tracker.dm_records

    @property
    def searching(self) -> bool:
        """Whether the place in a trimmed list is being looked for."""
        return self._reading.continuity.searching

    @property
    def gap(self) -> bool:
        """Whether records may be lost, as far as the PCR has not settled it."""
        return self._reading.continuity.gap

    @property
    def observations(self) -> int:
        """How often the live tables have been looked at."""
        return self._reading.fusion.observations

    @property
    def broken(self) -> str:
        """Why the list cannot be read on; "" if it can."""
        return self._reading.continuity.broken

    def status(self, now: float, around: Surroundings | None = None) -> dict[str, object]:
        """The status document, see `status`; ``around``: what the monitor does not know."""
        return self._sight().status(around or Surroundings(), now)

    def detail(self, key: str, now: float, around: Surroundings | None = None) -> dict[str, object] | None:
        """The document of one device, see `detail`; None: there is no such device."""
        return self._sight().detail(key, "" if around is None else around.version, now)

    def key_of(self, device: str) -> str | None:
        """The key of a device, by its name, in full or as a terminal shows it, or by its key."""
        return self._sight().key_of(device)

    def configurations(self) -> dict[str, object]:
        """The devices with all that is needed to judge them elsewhere, see `capture`."""
        return self._sight().configurations()

    def _sight(self) -> Sight:
        return Sight(
            host=self.policy.host,
            baseline=self.baseline,
            records=self.records,
            last_read=self.last_read,
            reading=self._reading,
            delivery=self._delivery,
            memory=self._memory,
        )

    # -- output ----------------------------------------------------------------------------

    def commit(self) -> Commit:
        """Everything since the last `committed`, to be stored in one transaction."""
        self._memory.describe(self._reading.watch.described)
        for notice in self._delivery.take():
            self._memory.recent.add(notice)
            self._unstored.tell(notice, self.policy.host, self.sign)
        new = Commit(
            devices=self._reading.take_changed_devices(),
            alerts=self._changed_alerts(),
            facts=self._reading.tracker.knowledge.take_facts(),
            messages=self._unstored.messages,
            fresh=self._fresh,
            history=self._memory.changes(),
            anew=self._memory.anew,
            checkpoint=self._checkpoint(),
        )
        self._fresh = False
        return self._unstored.join(new)

    def _changed_alerts(self) -> dict[str, Document | None]:
        changed = self._book.take_changed().items()
        alerts = {key: None if alert is None else alert_to_document(alert) for key, alert in changed}
        return {**alerts, **self._delivery.take_changed()}

    @property
    def up_to_date(self) -> bool:
        """Whether the list has been read to its end."""
        return self._reading.caught_up

    def adopt(self, stored: Stored, now: float) -> None:
        """Take over the alerts, maintenances and histories of a stored state that this one began without.

        The list must have been read to its end: what it does not show has ended.

        Raises:
            MalformedError: they are damaged.
        """
        documents = {key: table(document) for key, document in stored.alerts.items() if not is_beside(key)}
        self._reading.watch.settle(self._book.adopt(documents), now)
        self._memory.describe(self._reading.watch.described)
        if self._memory.adopt(stored, self._reading.devices, now):
            history = self._reading.watch.history = self._memory.history
            self._reading.recall(now)
            history.settle(now)
        if stored.checkpoint is not None:
            self._delivery.adopt(stored.checkpoint.get("delivery"))

    def everything(self) -> Commit:
        """As `commit`, for a store that has nothing of it yet.

        The facts of former commits that were stored are not in it.
        """
        self._reading.store_all()
        self._book.store_all()
        self._delivery.store_all()
        self._memory.store_all()
        self._fresh = True
        return self.commit()

    def handed_over(self) -> None:
        """The caller sees to the messages of the last `commit`: the next has only those that are new."""
        self._unstored.handed_over()

    def committed(self) -> None:
        """The last `commit` is stored."""
        self._unstored.committed()
        self._memory.committed()

    def _checkpoint(self) -> dict[str, object]:
        return {
            "format": FORMAT,
            "boot": self._boot,
            "generation": self._generation,
            "sequence": self._unstored.sequence,
            "delivery": self._delivery.document(),
            **self._reading.document(),
            "last_read": self.last_read,
            "unwatched_since": self._unwatched_since,
            "history": self._memory.history.document(),
        }


def _shifted(moment: float | None, by: float) -> float | None:
    return None if moment is None else shifted(moment, by)


def _moment(stored: object) -> float | None:
    """A time as it was stored, if it is one that can be told."""
    return stored if isinstance(stored, float) and 0 <= stored <= MAX_SECONDS else None
