"""Findings about one list and its devices, as conditions that hold and cease in the alert book.

Source: none; which finding lasts how long is dmimad's own rule:

- what the baseline says of a device holds until the device is otherwise;
- what the tracker found about a table holds as long as the table is in one of the device's slots;
- what an observation of the live tables says holds until the next one no longer says it;
- a removal holds until the device is back, a missing device until there is one;
- what merely happened is announced once.

Every condition has a key that names its cause, so that the same cause is one alert, whatever dies in between.
Nothing here knows records, observations or time but what it is given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from dmimad.core import cloudevent
from dmimad.core.alert import Alert, AlertBook
from dmimad.core.backing import Names, Number, as_number, no_names
from dmimad.core.baseline import Baseline
from dmimad.core.change import JUDGED, OBSERVED, Cause, Change, Description, described
from dmimad.core.checkpoint import Document
from dmimad.core.device import Device
from dmimad.core.drift import (
    Judgement,
    Surroundings,
    Verdict,
    approved_until,
    judge,
    missing,
    reloaded,
    removed,
)
from dmimad.core.event import printable
from dmimad.core.evidence import Evidence
from dmimad.core.finding import Finding, Severity
from dmimad.core.history import History
from dmimad.core.moments import Moments, read_moments
from dmimad.core.observation import LiveDevice
from dmimad.core.registry import number_of
from dmimad.core.snapshot import DeviceSeries
from dmimad.core.table import Table
from dmimad.core.view import DeviceView, device_series, device_view

#: Findings that are told once and have no end.
ANNOUNCED = frozenset({"list.restarted", "list.trimmed", "activity.unrecorded", "watch.interrupted"})
#: Kind of a key: of the baseline itself, whatever list is read.
OF_BASELINE = "baseline"
#: Kind of a key: of the daemon's own state.
OF_STATE = "state"
#: In keys: what an observation says.
_LIVE = "live:"
#: In keys: of the whole list, until it is taken back.
_LIST = "|list"


@dataclass(frozen=True, slots=True)
class _Known:
    """What a device was when it was looked at last."""

    judgement: Judgement
    active: Table | None
    inactive: Table | None
    moments: Moments
    presence: tuple[bytes, bytes, bool]


#: Nothing was done to the device: the baseline, the settings or the time is another.
_JUDGED_ANEW = Cause(JUDGED)


class Supervision:
    """What holds of one list and its devices.

    Args:
        book: where conditions become alerts.
        scope: names the list and its reading, so that records of different lists differ.
        counts: findings by code and severity, counted up.
    """

    def __init__(self, book: AlertBook, scope: str, counts: Counter[tuple[str, str]]) -> None:
        self.scope = scope
        self.baseline = Baseline()
        self.report_unexpected = True
        self.changed: set[str] = set()
        self.live: Mapping[Number, LiveDevice] = {}
        self.names: Names = no_names
        self.history = History()
        self._book = book
        self._counts = counts
        self._conditions: dict[str, set[str]] = {}
        self._live_keys: set[str] = set()
        self._unconfirmed: set[str] = set()  # held before a restart; no observation has settled them yet
        self._known: dict[str, _Known] = {}
        self._presence: tuple[Baseline, float | None] | None = None  # what was looked for, and until when
        # What the devices below were called when a device was judged, and when its document was made.
        self._judged_by: dict[str, dict[Number, tuple[str, ...]]] = {}
        self._shown_with: dict[str, dict[Number, tuple[str, ...]]] = {}
        self._stored_moments: dict[str, Moments] = {}
        self._evidence = Evidence()
        self._views: dict[str, DeviceView] = {}
        self._outdated: dict[str, Device] = {}  # devices whose documents are made when they are asked for
        self._expiries: dict[
            str, tuple[_Known, float | None]
        ] = {}  # what was known then, and until when it holds

    def restore(self, holding: Iterable[Alert], evidence: Document, moments: Document) -> None:
        """Take over what alerts held before a restart, and what was stored; raises MalformedError."""
        self._stored_moments = {key: read_moments(stored) for key, stored in moments.items()}
        self._evidence.restore(evidence)
        for alert in holding:
            kind, _, cause = alert.key.partition("|")
            subject = alert.finding.device
            if kind == self.scope and cause.startswith(_LIVE):
                self._live_keys.add(alert.key)
                self._unconfirmed.add(alert.key)
            elif kind == self.scope and cause.endswith(_LIST):
                self._conditions.setdefault("list", set()).add(alert.key)
            elif kind == "missing" or (kind == self.scope and subject):
                self._conditions.setdefault(subject, set()).add(alert.key)

    # -- one device ------------------------------------------------------------------------

    def note(self, device: Device, record: int, template_digest: str, event: str) -> None:
        """A record was about this device."""
        self._evidence.note(device.key, record, template_digest, event)

    def present(self, device: Device, now: float, record: int | None, *, at_once: bool = False) -> None:
        """The device exists, and is as it is."""
        self._book.cease(f"removed|{printable(device.name)}", now=now, record=record)
        self.judge(device, now, record, at_once=at_once, cause=self._cause(device, record))

    def judge(
        self,
        device: Device,
        now: float,
        record: int | None,
        *,
        at_once: bool = False,
        cause: Cause = _JUDGED_ANEW,
    ) -> None:
        """Compare a device with the baseline; ``at_once``: drift has lasted for long enough already."""
        judgement = self._look(device, now, record)
        self.history.note(device, judgement, cause, now)
        self.changed.add(device.key)
        holding = {self._key(found, device): found for found in judgement.findings}
        mine = self._conditions.setdefault(device.key, set())
        for key in sorted(key for key in mine if key not in holding and not _stays(key, device)):
            mine.discard(key)
            self._book.cease(key, now=now, record=record)
        for key, finding in holding.items():
            if key in mine:
                continue
            mine.add(key)
            self._count(finding)
            urgent = _is_urgent(finding, at_once=at_once)
            shown = printable(device.name)
            self._book.hold(key, self._evidence.told_with(finding), shown, since=now, now=now, at_once=urgent)
        self._evidence.prune(device)

    def _cause(self, device: Device, record: int | None) -> Cause:
        """Why a device is looked at: for a record, else for an observation."""
        history = self.history
        event = OBSERVED
        if record is not None:
            event = self._evidence.event(device.key, record)
        return Cause(event, record, history.late, history.after)

    def _key(self, found: Finding, device: Device) -> str:
        """What made it so: the place in the list, and of a drift the table too, which no record may tell."""
        slot = found.data.get("slot", "")
        if slot:
            at = device.changed_at if slot == "active" else device.staged_at
            code = found.code if found.code.startswith("drift.") else f"{found.code}.{slot}"
            return f"{self.scope}|{code}|{device.key}|{at}|{found.data['hash']}"
        if found.code == "device.renamed":
            return f"{self.scope}|{found.code}|{device.key}|{found.data['expected']}|{found.data['actual']}"
        return f"{self.scope}|{found.code}|{device.key}|{found.record}"

    def _look(
        self, device: Device, now: float, record: int | None = None, *, restored: bool = False
    ) -> Judgement:
        """What the baseline says of a device, and since when it is so; ``restored``: as it was stored."""
        asked: dict[Number, tuple[str, ...]] = {}
        around = Surroundings(now, self._noting(asked), self._live_device(device), record)
        judgement = judge(
            device, self.baseline, report_unexpected=self.report_unexpected, surroundings=around
        )
        self._judged_by[device.key] = asked
        before = self._known.get(device.key)
        if before is None:
            unknown = Moments() if restored else Moments(now, now, now)
            moments = self._stored_moments.pop(device.key, unknown)
        else:
            moments = _moments(before, judgement, device, now)
            self._told_reload(device, before.active, now)
        known = _Known(
            judgement,
            device.active,
            device.inactive,
            moments,
            (device.name, device.uuid, device.active is None),
        )
        if before is None or (before.presence, before.judgement.excuses) != (
            known.presence,
            judgement.excuses,
        ):
            self._presence = None
        self._known[device.key] = known
        self._outdated[device.key] = device
        return judgement

    def _noting(self, asked: dict[Number, tuple[str, ...]]) -> Names:
        """Names, and what is answered is kept in ``asked``."""

        def names(number: Number) -> tuple[str, ...]:
            asked[number] = self.names(number)
            return asked[number]

        return names

    def _told_reload(self, device: Device, before: Table | None, now: float) -> None:
        """Another table has taken the place of the active one, be it an approved one."""
        after = device.active
        if before is None or after is None or not after.hash or before.hash in (b"", after.hash):
            return
        finding = reloaded(device, before, self.baseline, now=now)
        if finding is not None:
            finding = self._evidence.told_with(finding)
            # Without a record nothing but the time tells this swap from the same one earlier.
            at = str(now) if finding.record is None else str(finding.record)
            self.announce(f"{device.key}|{at}|{after.label}", finding, printable(device.name), now)

    def refresh(self, devices: Iterable[Device], now: float) -> None:
        """Look again at those whose backing devices go by other names now."""
        present: dict[Number, tuple[str, ...]] = {}

        def differ(asked: Mapping[Number, tuple[str, ...]]) -> bool:
            for number in asked.keys() - present.keys():
                present[number] = self.names(number)
            return any(present[number] != names for number, names in asked.items())

        for device in devices:
            if differ(self._judged_by.get(device.key, {})):
                self.judge(device, now, None)
            elif differ(self._shown_with.get(device.key, {})):
                self._outdated[device.key] = device

    def moments(self, key: str) -> Moments:
        """Since when a device is as it is."""
        known = self._known.get(key)
        return Moments() if known is None else known.moments

    def clock_stepped(self, by: float) -> None:
        """The wall clock was set: each device has been as it is for as long as before."""
        for key, known in self._known.items():
            self._known[key] = replace(known, moments=known.moments.shifted(by))
        self._stored_moments = {key: each.shifted(by) for key, each in self._stored_moments.items()}
        self.changed |= self._known.keys()

    def _live_device(self, device: Device) -> LiveDevice | None:
        number = number_of(device)
        return None if number is None else self.live.get(number)

    def report(
        self, finding: Finding, now: float, *, device: Device | None = None, template_digest: str = ""
    ) -> None:
        """A finding of the reader or tracker: evidence of itself, so it waits for no hold-off."""
        self._count(finding)
        if template_digest and "template_digest" not in finding.data:
            finding = replace(finding, data={**finding.data, "template_digest": template_digest})
        key = "|".join((self.scope, finding.code, finding.device, str(finding.record)))
        subject = printable(device.name) if device is not None and device.key == finding.device else ""
        if finding.code in ANNOUNCED:
            self._book.announce(key, finding, subject, now=now)
        elif finding.severity is not Severity.INFO:
            if finding.device:
                label = finding.data.get("table")
                key = key if label is None else f"{key}|{label}"
                self._conditions.setdefault(finding.device, set()).add(key)
            self._book.hold(key, finding, subject, since=now, now=now, at_once=True)

    def announce(self, cause: str, finding: Finding, subject: str, now: float) -> None:
        """Something that happened, told once per cause."""
        self._count(finding)
        self._book.announce(f"{self.scope}|{finding.code}|{cause}", finding, subject, now=now)

    def gone(self, device: Device, now: float, record: int | None) -> None:
        """The device was removed, by ``record`` if there is one."""
        finding = removed(device, self.baseline, record, now=now)
        if finding is not None:
            finding = self._evidence.told_with(finding)
        self.history.gone(device, self._cause(device, record), now)
        self.forget(device, now, record)
        if finding is not None:
            self._count(finding)
            # By the name that the baseline has for it: under that one it will come back.
            former = {printable(name) for name, _ in device.former}
            name, expected = printable(device.name), finding.data["expected"]
            name = expected if expected in former else name
            self._book.hold(f"removed|{name}", finding, name, since=now, now=now)

    def forget(self, device: Device, now: float, record: int | None) -> None:
        """There is no such device any more, or it has another key."""
        for key in sorted(self._conditions.pop(device.key, ())):
            self._book.cease(key, now=now, record=record)
        self._known.pop(device.key, None)
        self._presence = None
        self._judged_by.pop(device.key, None)
        self._shown_with.pop(device.key, None)
        self._evidence.forget(device.key)
        self._views.pop(device.key, None)
        self._expiries.pop(device.key, None)
        self._outdated.pop(device.key, None)
        self.history.leave(device.key)
        self.changed.add(device.key)

    # -- all of them -----------------------------------------------------------------------

    def hold_live(
        self, holding: Mapping[str, Finding], names: Mapping[str, str], now: float, *, settled: bool
    ) -> None:
        """What the last observation says is wrong; what it no longer says has ended.

        ``settled``: it is in no doubt of anything; one that is does not know what held before a restart.
        """
        if settled:
            self._unconfirmed = set()
        keys = {
            f"{self.scope}|{_LIVE}{key}|{finding.severity.value}": finding for key, finding in holding.items()
        }
        for key in sorted(self._live_keys - keys.keys() - self._unconfirmed):
            self._book.cease(key, now=now, record=None)
        for key, finding in keys.items():
            if key not in self._live_keys:
                self._count(finding)
                if finding.severity is not Severity.INFO:
                    subject = names.get(finding.device, "")
                    self._book.hold(key, finding, subject, since=now, now=now, at_once=True)
        self._live_keys = keys.keys() | self._unconfirmed

    def hold_list(self, finding: Finding, now: float) -> None:
        """Something is wrong with the list itself, until `cease_list`."""
        key = f"{self.scope}|{finding.code}{_LIST}"
        if key not in self._conditions.setdefault("list", set()):
            self._conditions["list"].add(key)
            self._count(finding)
        self._book.hold(key, finding, "", since=now, now=now, at_once=True)

    def cease_list(self, code: str, now: float) -> None:
        """That is no longer so."""
        key = f"{self.scope}|{code}{_LIST}"
        self._conditions.get("list", set()).discard(key)
        self._book.cease(key, now=now, record=None)

    def look_for_all(self) -> None:
        """What is asked for may be other than it was: the next `check_missing` looks at everything."""
        self._presence = None

    def check_missing(
        self, devices: Iterable[Device], now: float, record: int | None, **evidence: str
    ) -> None:
        """``evidence`` is of the record that may have made a required device go."""
        if self._presence is not None:
            baseline, until = self._presence
            if baseline is self.baseline and (until is None or now < until):
                return  # nobody has come or gone, and the same is asked for
        self._presence = (self.baseline, self.baseline.next_change(now))
        excused = {origin for known in self._known.values() for origin in known.judgement.excuses}
        found = missing(devices, self.baseline, now=now, excused=excused)
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

    def cease_others(self, now: float) -> None:
        """The list has been read: what an earlier reading left and this one does not show has ended."""
        current = {key for keys in self._conditions.values() for key in keys} | self._live_keys
        for alert in list(self._book.holding()):
            kind = alert.key.partition("|")[0]
            if kind == "missing":
                self._conditions.setdefault("", set()).add(alert.key)
                self._presence = None
            elif kind not in ("removed", OF_BASELINE, OF_STATE, self.scope) and alert.key not in current:
                self._book.cease(alert.key, now=now, record=None)

    def settle(self, adopted: Iterable[Alert], now: float) -> None:
        """End those alerts that the list, read from its first record to its end, has not led to.

        What another observation, or the next look for what is missing, will judge is left to it.
        """
        present = {f"removed|{printable(known.presence[0])}" for known in self._known.values()}
        for alert in adopted:
            kind, _, cause = alert.key.partition("|")
            left = kind in ("missing", "removed", OF_BASELINE, OF_STATE)
            left = left or (kind == self.scope and (cause.startswith(_LIVE) or cause.endswith(_LIST)))
            if not left or alert.key in present:
                self._book.cease(alert.key, now=now, record=None)

    def cease_removed(self, now: float) -> None:
        """A removal is no news once no entry asks for the device, or one asks for it by `missing`."""
        wanted = {entry.label for entry in self.baseline.entries if not entry.required}
        for alert in list(self._book.holding()):
            if alert.key.startswith("removed|") and alert.finding.data.get("expected") not in wanted:
                self._book.cease(alert.key, now=now, record=None)

    # -- what there is to see --------------------------------------------------------------

    def recall(self, devices: Iterable[Device], now: float) -> None:
        """The list has been read once more: the history goes on from how things are now."""
        for device in devices:
            self.history.note(device, self.judgement(device.key), Cause(late=True), now)

    def judgement(self, key: str) -> Judgement:
        """What was said of a device when it was looked at last."""
        known = self._known.get(key)
        return Judgement(Verdict.UNKNOWN) if known is None else known.judgement

    def described(self, change: Change, table: Table) -> Description:
        """What the table of a change is, as far as that is known now."""
        known, number = self._known.get(change.key), as_number(change.key)
        if known is None or (table is not known.active and table is not known.inactive):
            return described(table, None, None)  # names of devices below it may be others now
        self._renew_views()
        live = None if number is None else self.live.get(number)
        view = self._views.get(change.key) or DeviceView(b"")
        if table is known.active:
            return described(table, None if live is None else live.active, view.active_fingerprint)
        return described(table, None if live is None else live.inactive, view.inactive_fingerprint)

    def view(self, device: Device, now: float) -> None:
        """Renew the document of a device, which may be one restored, before it is asked for the next time."""
        if device.key not in self._known:
            self._look(device, now, restored=True)
        self._outdated[device.key] = device

    def retained(self, host: str) -> Mapping[str, bytes]:
        """Topic -> retained payload, for every device that exists."""
        self._renew_views()
        return {cloudevent.device_topic(host, key): view.payload for key, view in self._views.items()}

    def _renew_views(self) -> None:
        for key, device in self._outdated.items():
            judgement = self.judgement(key)
            asked: dict[Number, tuple[str, ...]] = {}
            self._shown_with[key] = asked
            live = self._live_device(device)
            self._views[key] = device_view(device, judgement, live, self._noting(asked))
        self._outdated = {}

    def series(self, device: Device, *, maintenance: bool = False) -> DeviceSeries:
        """The device for metrics; ``maintenance``: changes of it are expected."""
        self._renew_views()
        view = self._views.get(device.key)
        return device_series(
            device, self.judgement(device.key), view or DeviceView(b""), maintenance=maintenance
        )

    def approved_until(self, devices: Iterable[Device], now: float) -> float | None:
        """When the first of the approved devices will no longer be; None: never, as far as is known."""
        if self.baseline.next_change(now) is None:
            return None
        ends = [self._approved_until(device, now) for device in devices]
        return min((end for end in ends if end is not None), default=None)

    def _approved_until(self, device: Device, now: float) -> float | None:
        known = self._known.get(device.key)
        if known is None or known.judgement.verdict is not Verdict.APPROVED:
            return None
        found = self._expiries.get(device.key)
        if found is None or found[0] is not known:  # it has been judged anew: by another baseline, perhaps
            around = Surroundings(now, self.names, self._live_device(device))
            end = approved_until(
                device, self.baseline, report_unexpected=self.report_unexpected, surroundings=around
            )
            self._expiries[device.key] = found = (known, end)
        return found[1]

    def stored(self, key: str) -> dict[str, object]:
        """What is kept with a device, as JSON to store."""
        return {"evidence": self._evidence.document(key), "moments": self.moments(key).document()}

    def _count(self, finding: Finding) -> None:
        self._counts[finding.code, finding.severity.value] += 1


def _is_urgent(finding: Finding, *, at_once: bool) -> bool:
    """Whether a finding about the baseline waits for no hold-off.

    What is staged is about to be active, so what is critical of it cannot wait; ``at_once``: what is active
    has been so for long enough already.
    """
    staged = finding.data.get("slot") == "inactive"
    return finding.severity is Severity.CRITICAL if staged else at_once and "slot" in finding.data


def _moments(before: _Known, judgement: Judgement, device: Device, now: float) -> Moments:
    def since(was: object, is_: object, moment: float | None) -> float | None:
        return moment if was == is_ else now

    def place(slot: Table | None) -> bytes | None:
        return None if slot is None else slot.hash

    return Moments(
        since(before.judgement.verdict, judgement.verdict, before.moments.verdict),
        since(place(before.active), place(device.active), before.moments.active),
        since(place(before.inactive), place(device.inactive), before.moments.inactive),
    )


def _stays(key: str, device: Device) -> bool:
    """A tracker's finding about a table stays while the table is in one of the slots."""
    _, code, _, _, *label = key.split("|")
    if code.startswith(("drift.", "device.", "policy.")):
        return False
    labels = {slot.label for slot in (device.active, device.inactive) if slot is not None}
    return not label or label[0] in labels
