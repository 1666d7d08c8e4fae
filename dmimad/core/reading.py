"""One reading of a list, from its first byte on: what its records and the live tables make of the devices.

Source: none; of what is read, `tracker` and `fusion` say what it means, `supervision` how long what is found
lasts, `continuity` whether all of it was read.  Here is only who is told what, in which order.

A list that begins again is another reading: nothing of the former one is in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from dmimad.core import cloudevent
from dmimad.core.alert import AlertBook
from dmimad.core.backing import Names, names_on_host
from dmimad.core.checkpoint import Document, device_document, table
from dmimad.core.commit import Stored
from dmimad.core.continuity import Continuity
from dmimad.core.device import Device
from dmimad.core.event import printable
from dmimad.core.finding import make_finding
from dmimad.core.fusion import Fusion
from dmimad.core.measurement import Measurement
from dmimad.core.observation import Observation
from dmimad.core.registry import number_key
from dmimad.core.supervision import Supervision
from dmimad.core.tracker import Step, Tracker


class Reading:
    """All that is known of one reading of a list.

    Args:
        scope: names the list and its reading, so that records of different lists differ.
        book: where conditions become alerts.
        findings, events: by code and severity, and by kind; counted up.
        others: what block devices that are not mapped ones are called on the list's host.

    Attributes:
        caught_up: the list has been read to its end.
    """

    def __init__(
        self,
        scope: str,
        book: AlertBook,
        findings: Counter[tuple[str, str]],
        events: Counter[str],
        others: Names,
    ) -> None:
        self.tracker = Tracker(keep_facts=True)
        self.fusion = Fusion(self.tracker)
        self.watch = Supervision(book, scope, findings)
        self.watch.names = names_on_host(self.tracker.registry, others)
        self.continuity = Continuity(self.tracker, self.watch)
        self.caught_up = False
        self._book = book
        self._events = events

    @property
    def devices(self) -> Iterable[Device]:
        """Those that exist."""
        return self.tracker.devices

    # -- records ---------------------------------------------------------------------------

    def read(self, following: bytes, now: float, *, at_once: bool) -> int:
        """Follow the list on; returns how many records that were.

        Args:
            following: as `Continuity.feed` gives it.
            at_once: what is active has been so for all of the hold-off, perhaps.
        """
        reader = self.continuity.reader
        before = reader.records
        for record in reader.feed(following):
            step = self.tracker.apply(record)
            if step is not None:
                self._take(step, record, now, at_once=at_once)
        return reader.records - before

    def _take(self, step: Step, record: Measurement, now: float, *, at_once: bool) -> None:
        event = "" if step.kind is None else step.kind.value
        if event:
            self._events[event] += 1
        device, watch, digest = step.device, self.watch, record.template_digest.hex()
        for gone in step.removed:
            self.fusion.touch(gone)
            if gone.major is None or (device is not None and gone.name == device.name):
                watch.forget(gone, now, step.record)
            else:
                watch.gone(gone, now, step.record)
        if device is not None:
            self.fusion.touch(device)
            watch.note(device, step.record, digest, event)
        for finding in step.findings:
            watch.report(finding, now, device=device, template_digest=digest)
        if device is None:
            return
        if step.gone:
            watch.gone(device, now, step.record)
        else:
            watch.present(device, now, step.record, at_once=at_once)
        if self.caught_up:
            watch.check_missing(self.devices, now, step.record, template_digest=digest, event=event)

    def judge_all(self, now: float, *, at_once: bool) -> None:
        """Baseline, settings or time are others: every device is compared anew."""
        self.watch.look_for_all()
        for device in list(self.devices):
            self.watch.judge(device, now, None, at_once=at_once)
        self.watch.cease_removed(now)
        if self.caught_up:
            self.check_missing(now)

    def refresh(self, now: float) -> None:
        """Look again at devices whose backing devices go by other names now."""
        self.watch.refresh(self.devices, now)

    def check_missing(self, now: float) -> None:
        """Look for what must be there."""
        self.watch.check_missing(self.devices, now, None)

    def recall(self, now: float) -> None:
        """The history goes on from how things are now."""
        self.watch.recall(self.devices, now)

    # -- the second witness ----------------------------------------------------------------

    def observe(self, observation: Observation, active: Iterable[tuple[int, int]], now: float) -> bool:
        """Take in what the kernel holds live; returns whether anything of it is in doubt."""
        watch, fusion = self.watch, self.fusion
        before = watch.live
        fused = fusion.observe(observation, self.continuity.position, active)
        watch.live = fusion.live
        changed = {device.key for device in fused.changed}
        for device in fused.gone:
            if any(device.name == other.name for other in fused.changed):  # there under another key
                watch.forget(device, now, None)
            else:
                watch.gone(device, now, None)
        for device in fused.changed:
            watch.present(device, now, None)
        for device in self.devices:
            number = (device.major or 0, device.minor or 0)
            if device.key not in changed and fusion.live.get(number) != before.get(number):
                if watch.baseline.looks_at_configuration:
                    watch.judge(device, now, None)  # a target that is not measured has told its type, perhaps
                watch.view(device, now)
        self.refresh(now)
        names = {number_key(number): printable(live.name) for number, live in fusion.live.items()}
        watch.hold_live(fused.holding, names, now, settled=not fused.unsettled)
        self._announce_activity(fused.unrecorded, names, now)
        return fused.unsettled

    def _announce_activity(
        self, numbers: Iterable[tuple[int, int]], names: Mapping[str, str], now: float
    ) -> None:
        for number in numbers:
            key = number_key(number)
            name = names.get(key, "")
            text = f"device {key} came and went without leaving a new record"
            if name:
                text = f"something was done to {name} ({key}) that left no new record; it is as it was"
            finding = make_finding("activity.unrecorded", text, device=key, witness="live")
            self.watch.announce(f"{key}|{self.continuity.position}", finding, name, now)

    def announce_interruption(self, since: float, now: float) -> None:
        """What cannot be known is said: records tell what is new, and nobody saw what was undone."""
        begun, ended = cloudevent.timestamp(since), cloudevent.timestamp(now)
        if now < since:
            ended += " (the clock has been set back)"
        text = (
            f"nobody watched from {begun} to {ended}; the records of that time have been read and the live "
            "tables looked at, but a change undone meanwhile that left no new record cannot be known"
        )
        finding = make_finding("watch.interrupted", text, since=begun, until=cloudevent.timestamp(now))
        self.watch.announce(f"{since}", finding, "", now)

    # -- what is stored --------------------------------------------------------------------

    def take_changed_devices(self) -> dict[str, Document | None]:
        """Documents of devices that changed since the last call; None: gone."""
        changed, self.watch.changed = self.watch.changed, set()
        by_key = {device.key: device for device in self.devices} if changed else {}
        documents: dict[str, Document | None] = dict.fromkeys(changed)
        for key in changed & by_key.keys():
            documents[key] = {**device_document(by_key[key]), **self.watch.stored(key)}
        return documents

    def store_all(self) -> None:
        """All devices are in the next `take_changed_devices`."""
        self.watch.changed |= {device.key for device in self.devices}

    def document(self) -> dict[str, object]:
        """The rest, as JSON to store."""
        return {
            **self.continuity.document(),
            "tracker": self.tracker.document(),
            "fusion": self.fusion.document(),
            "caught_up": self.caught_up,
        }

    def restore(self, stored: Stored, checkpoint: Document) -> int:
        """Take over what was stored; returns the byte to read the list from.

        The book must have its alerts already.

        Raises:
            MalformedError: it is damaged.
        """
        offset = self.continuity.restore(checkpoint)
        self.tracker.restore(table(checkpoint.get("tracker")), stored.devices, stored.facts)
        self.fusion.restore(table(checkpoint.get("fusion", {})))
        self.caught_up = checkpoint.get("caught_up") is True
        # Older states have both in the checkpoint.
        evidence = dict(table(checkpoint.get("evidence", {})))
        moments = dict(table(checkpoint.get("moments", {})))
        for key, document in stored.devices.items():
            evidence[key] = document.get("evidence", evidence.get(key, {}))
            moments[key] = document.get("moments", moments.get(key, [None, None, None]))
        self.watch.restore(list(self._book.holding()), evidence, moments)
        return offset

    def view_all(self, now: float) -> None:
        """Renew the documents of all devices, which may have been restored."""
        for device in self.devices:
            self.watch.view(device, now)
