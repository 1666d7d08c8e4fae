"""The one object the daemon drives: list bytes, settings and time in; alerts and state out.

Source: the design's third idea.  What was read and what follows from it leave here as one
`Commit`; until the caller says it is stored (`committed`), it is kept and asked for again, so a
full disk delays and loses nothing.

The monitor joins the parts of the core and decides nothing about the kernel itself: `reader`
verifies, `tracker` follows devices, `drift` compares, `alert` gives findings their time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dmimad.core import cloudevent
from dmimad.core.alert import AlertBook, alert_to_document
from dmimad.core.baseline import Baseline
from dmimad.core.checkpoint import (
    FORMAT,
    Document,
    device_document,
    integer,
    position_document,
    read_position,
    table,
)
from dmimad.core.commit import Commit, Message, Stored
from dmimad.core.device import Device
from dmimad.core.drift import Judgement, Verdict, judge, missing, removed
from dmimad.core.errors import MalformedError, ResumeError
from dmimad.core.event import EventKind, printable
from dmimad.core.finding import Finding, Severity, make_finding
from dmimad.core.measurement import Measurement
from dmimad.core.reader import ListReader, Position
from dmimad.core.snapshot import DeviceSeries
from dmimad.core.table import Table
from dmimad.core.tracker import Step, Tracker

#: Findings that are told once and have no end.
_ANNOUNCED = frozenset({"list.restarted", "list.trimmed"})


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings the monitor works by."""

    host: str
    hold_off_seconds: float = 2.0
    report_unexpected: bool = True


class Monitor:
    """All that is known of one host's list.

    Args:
        policy: settings; replaced by `set_policy`.
        baseline: what is approved; replaced by `set_baseline`.
        boot: names this boot (or this mirrored list), so that records of different boots differ.
    """

    def __init__(self, policy: Policy, baseline: Baseline, boot: str) -> None:
        self.policy = policy
        self.baseline = baseline
        self.records = 0
        self.dm_events: Counter[str] = Counter(dict.fromkeys((kind.value for kind in EventKind), 0))
        self.findings: Counter[tuple[str, str]] = Counter()
        self.last_read: float | None = None
        self._boot = boot
        self._generation = 0
        self._blind_since: float | None = None
        self._sequence = 0
        self._book = AlertBook(policy.hold_off_seconds)
        self._messages: list[Message] = []
        self._pending: Commit | None = None
        self._begin(fresh=False)

    def _begin(self, *, fresh: bool) -> None:
        """Nothing of the list has been read."""
        self._reader = ListReader()
        self._tracker = Tracker(keep_facts=True)
        self._caught_up = False
        self._judge_again = False
        self._verify: tuple[Position, bytes] | None = None
        self._conditions: dict[str, set[str]] = {}
        self._judgements: dict[str, Judgement] = {}
        self._evidence: dict[str, dict[int, tuple[str, str]]] = {}
        self._changed: set[str] = set()
        self._documents: dict[str, bytes] = {}
        self._fresh = fresh
        self._scope = hashlib.sha256(f"{self._boot}|{self._generation}".encode()).hexdigest()[:16]

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
        self._sequence = integer(checkpoint.get("sequence"))
        self._generation = integer(checkpoint.get("generation"))
        self._book.restore({key: table(document) for key, document in stored.alerts.items()})
        if checkpoint.get("format") != FORMAT:
            raise ResumeError("the stored state has another format")
        if checkpoint.get("boot") != self._boot:
            raise ResumeError("the stored state is of another boot")
        position = read_position(table(checkpoint.get("position")))
        self._begin(fresh=False)
        self._reader = ListReader(position)
        self._tracker.restore(table(checkpoint.get("tracker")), stored.devices, stored.facts)
        last_read = checkpoint.get("last_read")
        self.last_read = self._blind_since = last_read if isinstance(last_read, float) else None
        self._restore_evidence(table(checkpoint.get("evidence")))
        self._caught_up = checkpoint.get("caught_up") is True
        if position.records:
            self._verify = (position, b"")
        for alert in self._book.holding():
            kind, subject = alert.key.partition("|")[0], alert.finding.device
            if kind == "missing" or (kind == self._scope and subject):
                self._conditions.setdefault(subject, set()).add(alert.key)
        for device in self._tracker.devices:
            self._view(device)
        self._judge_again = True  # baseline and settings may be others now
        return position.offset - position.last_length

    def _restore_evidence(self, document: Document) -> None:
        for key, records in document.items():
            self._evidence[key] = {}
            for index, pair in table(records).items():
                if not (index.isdecimal() and isinstance(pair, list) and len(pair) == 2):  # a pair
                    raise MalformedError("stored evidence is damaged")
                self._evidence[key][int(index)] = (str(pair[0]), str(pair[1]))

    def recognise_again(self) -> int:
        """The list may be another one now: as `resume`, for what this process has read itself."""
        position = self._reader.position
        self._reader = ListReader(position)
        self._verify = (position, b"") if position.records else None
        return position.offset - position.last_length

    def start_over(self, boot: str, now: float, reason: str = "") -> None:
        """Read the list from its first byte; alerts of before stay until that is done.

        Args:
            reason: why the list begins again, for the finding; "" if that is no news.
        """
        self._boot = boot
        self._generation += 1
        self._begin(fresh=True)
        if reason:
            code = "list.trimmed" if reason == "trimmed" else "list.restarted"
            self._report(make_finding(code, f"the list begins again: {reason}"), None, None, now)
        if reason == "trimmed":
            self._tracker.complete = False

    # -- input -----------------------------------------------------------------------------

    def feed(self, data: bytes, now: float) -> None:
        """Take the next bytes of the list, read at ``now``.

        Raises:
            ResumeError: the list is not the one the checkpoint is of; `start_over`, and read from byte 0.
        """
        if self._verify is not None:
            data = self._recognise(*self._verify, data)
        before = self._reader.records
        for record in self._reader.feed(data):
            step = self._tracker.apply(record)
            if step is not None:
                self._take(step, record, now)
        self.records += self._reader.records - before
        self.last_read = now

    def _recognise(self, position: Position, seen: bytes, data: bytes) -> bytes:
        """The record before the checkpoint must still be there; returns what comes after it."""
        seen += data
        if len(seen) < position.last_length:
            self._verify = (position, seen)
            return b""
        self._verify = None
        record, digest = seen[: position.last_length], position.last_digest
        if position.format is not None and position.format.ascii:
            fits = record.split(None, 2)[1:2] == [digest.hex().encode()]
        else:
            fits = record[4 : 4 + len(digest)] == digest
        if digest and not fits:
            raise ResumeError("the record before the checkpoint is another one")
        return seen[position.last_length :]

    def caught_up(self, now: float) -> None:
        """Everything in the list has been fed.

        Raises:
            ResumeError: the list ends before the checkpoint does; `start_over`, and read from byte 0.
        """
        if self._verify is not None:
            raise ResumeError("the list ends before the checkpoint")
        self.last_read = now
        self._blind_since = None
        if not self._caught_up:
            self._caught_up = True
            self._cease_others(now)
        if self._judge_again:
            self._judge_again = False
            self._judge_all(now)
        self._check_missing(now, None)
        self.tick(now)

    def lost_sight(self) -> None:
        """The list cannot be read for the time being."""
        if self._blind_since is None:
            self._blind_since = self.last_read

    def tick(self, now: float) -> None:
        """Time has passed."""
        self._book.clock_stepped_back(now)
        self._book.tick(now)

    def next_due(self) -> float | None:
        """When `tick` should be called next, in wall-clock seconds; None if nothing waits."""
        return self._book.next_due()

    def set_baseline(self, baseline: Baseline, now: float) -> None:
        """Another baseline is in force."""
        self.baseline = baseline
        self._judge_all(now)

    def set_policy(self, policy: Policy, now: float) -> None:
        """Other settings are in force."""
        self.policy = policy
        self._book.hold_off_seconds = policy.hold_off_seconds
        self._judge_all(now)
        self.tick(now)

    def _judge_all(self, now: float) -> None:
        for device in list(self._tracker.devices):
            self._judge(device, now, None)
        self._cease_removed(now)
        if self._caught_up:
            self._check_missing(now, None)

    def _cease_removed(self, now: float) -> None:
        """A removal is no news once no entry asks for the device, or one asks for it by `missing`."""
        wanted = {entry.label for entry in self.baseline.entries if not entry.required}
        for alert in list(self._book.holding()):
            if alert.key.startswith("removed|") and alert.finding.data.get("expected") not in wanted:
                self._book.cease(alert.key, now=now, record=None)

    # -- one record ------------------------------------------------------------------------

    def _take(self, step: Step, record: Measurement, now: float) -> None:
        if step.kind is not None:
            self.dm_events[step.kind.value] += 1
        device = step.device
        for gone in step.removed:
            if gone.major is None or (device is not None and gone.name == device.name):
                self._forget(gone, now, step.record)
            else:
                self._gone(gone, step, now)
        if device is not None:
            event = "" if step.kind is None else step.kind.value
            self._evidence.setdefault(device.key, {})[step.record] = (record.template_digest.hex(), event)
        for finding in step.findings:
            self._report(finding, record, device, now)
        if device is None:
            return
        if step.gone:
            self._gone(device, step, now)
        else:
            self._book.cease(f"removed|{printable(device.name)}", now=now, record=step.record)
            self._judge(device, now, step.record)
        if self._caught_up:
            event = "" if step.kind is None else step.kind.value
            self._check_missing(now, step.record, template_digest=record.template_digest.hex(), event=event)

    def _judge(self, device: Device, now: float, record: int | None) -> None:
        judgement = judge(device, self.baseline, report_unexpected=self.policy.report_unexpected)
        self._judgements[device.key] = judgement
        self._changed.add(device.key)
        self._view(device)
        self._prune_evidence(device)
        holding = {
            f"{self._scope}|{found.code}|{device.key}|{found.record}": found for found in judgement.findings
        }
        mine = self._conditions.setdefault(device.key, set())
        for key in sorted(key for key in mine if key not in holding and not self._stays(key, device)):
            mine.discard(key)
            self._book.cease(key, now=now, record=record)
        for key, finding in holding.items():
            if key in mine:
                continue
            mine.add(key)
            self._count(finding)
            at_once = finding.code == "drift.active" and self._was_blind(now)
            shown = printable(device.name)
            self._book.hold(key, self._with_evidence(finding), shown, since=now, now=now, at_once=at_once)

    def _was_blind(self, now: float) -> bool:
        """Nobody watched for so long that an active table may have been in use for all of the hold-off."""
        return self._blind_since is not None and now - self._blind_since >= self.policy.hold_off_seconds

    def _stays(self, key: str, device: Device) -> bool:
        """A tracker's finding about a table stays while the table is in one of the slots."""
        _, code, _, _, *label = key.split("|")
        if code.startswith(("drift.", "device.")):
            return False
        labels = {slot.label for slot in (device.active, device.inactive) if slot is not None}
        return not label or label[0] in labels

    def _report(
        self, finding: Finding, record: Measurement | None, device: Device | None, now: float
    ) -> None:
        """A finding of the reader or tracker: evidence of itself, so it waits for no hold-off."""
        self._count(finding)
        if record is not None and "template_digest" not in finding.data:
            data = {**finding.data, "template_digest": record.template_digest.hex()}
            finding = Finding(
                finding.code, finding.severity, finding.message, finding.device, finding.record, data
            )
        key = "|".join((self._scope, finding.code, finding.device, str(finding.record)))
        subject = printable(device.name) if device is not None and device.key == finding.device else ""
        if finding.code in _ANNOUNCED:
            self._book.announce(key, finding, subject, now=now)
        elif finding.severity is not Severity.INFO:
            if finding.device:
                label = finding.data.get("table")
                key = key if label is None else f"{key}|{label}"
                self._conditions.setdefault(finding.device, set()).add(key)
            self._book.hold(key, finding, subject, since=now, now=now, at_once=True)

    def _gone(self, device: Device, step: Step, now: float) -> None:
        finding = removed(device, self.baseline, step.record)
        if finding is not None:
            finding = self._with_evidence(finding)
        self._forget(device, now, step.record)
        if finding is not None:
            self._count(finding)
            name = printable(device.name)
            self._book.hold(f"removed|{name}", finding, name, since=now, now=now)

    def _forget(self, device: Device, now: float, record: int) -> None:
        for key in sorted(self._conditions.pop(device.key, ())):
            self._book.cease(key, now=now, record=record)
        self._judgements.pop(device.key, None)
        self._evidence.pop(device.key, None)
        self._documents.pop(device.key, None)
        self._changed.add(device.key)

    def _check_missing(self, now: float, record: int | None, **evidence: str) -> None:
        """``evidence`` is of the record that may have made a required device go."""
        found = missing(self._tracker.devices, self.baseline)
        mine = self._conditions.setdefault("", set())
        keys = {f"missing|{finding.data['expected']}": finding for finding in found.values()}
        for key in sorted(mine - keys.keys()):
            mine.discard(key)
            self._book.cease(key, now=now, record=record)
        for key, finding in keys.items():
            if key not in mine:
                mine.add(key)
                self._count(finding)
                shown = replace(finding, record=record, data={**finding.data, **evidence})
                self._book.hold(key, shown, finding.data["expected"], since=now, now=now)

    def _cease_others(self, now: float) -> None:
        """The list has been read: what an earlier reading left and this one does not show has ended."""
        current = {key for keys in self._conditions.values() for key in keys}
        for alert in list(self._book.holding()):
            kind = alert.key.partition("|")[0]
            if kind == "missing":
                self._conditions.setdefault("", set()).add(alert.key)
            elif kind not in ("removed", self._scope) and alert.key not in current:
                self._book.cease(alert.key, now=now, record=None)

    def _count(self, finding: Finding) -> None:
        self.findings[finding.code, finding.severity.value] += 1

    # -- evidence and views ----------------------------------------------------------------

    def _with_evidence(self, finding: Finding) -> Finding:
        known = self._evidence.get(finding.device, {}).get(-1 if finding.record is None else finding.record)
        if known is None:
            return finding
        data = {**finding.data, "template_digest": known[0], "event": known[1]}
        return Finding(finding.code, finding.severity, finding.message, finding.device, finding.record, data)

    def _prune_evidence(self, device: Device) -> None:
        wanted = {device.since, device.changed_at, device.staged_at}
        kept = self._evidence.get(device.key, {})
        self._evidence[device.key] = {index: pair for index, pair in kept.items() if index in wanted}

    def _view(self, device: Device) -> None:
        """The device as subscribers see it."""
        judgement = self._judgements.get(device.key)
        if judgement is None:
            judgement = judge(device, self.baseline, report_unexpected=self.policy.report_unexpected)
            self._judgements[device.key] = judgement
        self._documents[device.key] = cloudevent.encode(
            {
                "key": device.key,
                "name": printable(device.name),
                "uuid": printable(device.uuid),
                "major": device.major,
                "minor": device.minor,
                "active": _slot_view(device.active, device.changed_at),
                "inactive": _slot_view(device.inactive, device.staged_at),
                "verdict": judgement.verdict.value,
                "drift": {"active": judgement.drift_active, "inactive": judgement.drift_inactive},
            }
        )

    def retained(self) -> Mapping[str, bytes]:
        """Topic -> retained payload, for every device that exists."""
        host = self.policy.host
        return {cloudevent.device_topic(host, key): payload for key, payload in self._documents.items()}

    def series(self) -> list[DeviceSeries]:
        """The devices for metrics."""
        return [self._series(device) for device in self._tracker.devices]

    def _series(self, device: Device) -> DeviceSeries:
        judgement = self._judgements.get(device.key, Judgement(Verdict.UNKNOWN))
        return DeviceSeries(
            printable(device.name),
            printable(device.uuid),
            None if device.active is None else device.active.label,
            None if device.inactive is None else device.inactive.label,
            judgement.drift_active,
            judgement.drift_inactive,
        )

    def firing(self) -> dict[str, int]:
        """How many alerts fire, by severity."""
        return {severity.value: count for severity, count in self._book.firing().items()}

    @property
    def position(self) -> int:
        """Records of the present list that have been processed."""
        return self._reader.records

    @property
    def broken(self) -> str:
        """Why the list cannot be read on; "" if it can."""
        return "" if self._reader.broken is None else str(self._reader.broken)

    # -- output ----------------------------------------------------------------------------

    def commit(self) -> Commit:
        """Everything since the last `committed`, to be stored in one transaction."""
        for notice in self._book.take_notices():
            self._sequence += 1
            self._messages.append(cloudevent.notice_message(notice, self.policy.host, self._sequence))
        previous = self._pending
        devices: dict[str, Document | None] = {} if previous is None else dict(previous.devices)
        by_key = {device.key: device for device in self._tracker.devices} if self._changed else {}
        for key in self._changed:
            devices[key] = device_document(by_key[key]) if key in by_key else None
        self._changed = set()
        alerts: dict[str, Document | None] = {} if previous is None else dict(previous.alerts)
        for key, alert in self._book.take_changed().items():
            alerts[key] = None if alert is None else alert_to_document(alert)
        facts = list(() if previous is None else previous.facts) + self._tracker.knowledge.take_facts()
        fresh = self._fresh or (previous is not None and previous.fresh)
        self._fresh = False
        self._pending = Commit(self._checkpoint(), devices, alerts, facts, tuple(self._messages), fresh)
        return self._pending

    def committed(self) -> None:
        """The last `commit` is stored."""
        self._pending = None
        self._messages = []

    def _checkpoint(self) -> dict[str, object]:
        return {
            "format": FORMAT,
            "boot": self._boot,
            "generation": self._generation,
            "sequence": self._sequence,
            "position": position_document(self._reader.position),
            "tracker": self._tracker.document(),
            "evidence": {
                key: {str(index): list(pair) for index, pair in records.items()}
                for key, records in self._evidence.items()
            },
            "caught_up": self._caught_up,
            "last_read": self.last_read,
        }


def _slot_view(slot: Table | None, record: int) -> dict[str, object] | None:
    if slot is None:
        return None
    return {
        "hash": slot.label,
        "name": printable(slot.name),
        "uuid": printable(slot.uuid),
        "num_targets": slot.num_targets,
        "provenance": "measured",
        "record": record,
    }
