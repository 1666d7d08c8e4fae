"""Devices against the baseline: which findings hold now.

Source: the finding codes are a promise to subscribers (``docs/findings.md``).

Pure comparison of one moment; that something held before, or has just ceased to, is `alert`'s.  Here is which
entries speak for a device; what is wrong with one of its tables is `judged_slot`'s.
"""

from __future__ import annotations

import enum
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace

from dmimad.core.backing import Names, no_names
from dmimad.core.baseline import Baseline, Entry, Operation
from dmimad.core.device import Device
from dmimad.core.event import printable
from dmimad.core.finding import Difference, Finding, Severity, make_finding
from dmimad.core.judged_slot import JudgedSlot, shown
from dmimad.core.observation import LiveDevice
from dmimad.core.table import Provenance, Table


class Verdict(enum.StrEnum):
    """What the baseline says about a device."""

    UNKNOWN = "unknown"
    APPROVED = "approved"
    DRIFT = "drift"
    UNEXPECTED = "unexpected"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What beside the device itself is needed to judge it.

    Attributes:
        now: Unix seconds; approvals begin and end.
        names: of backing devices.
        live: the device as last observed.
        record: index of the record that the device is looked at for, if there is one.
    """

    now: float = 0.0
    names: Names = no_names
    live: LiveDevice | None = None
    record: int | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """One device against the baseline.

    ``renamed_from`` are origins of the entries that speak for the device under a name it no longer has, if it
    has an active table; ``impersonated`` those of which it only has the name.
    """

    verdict: Verdict
    drift_active: bool = False
    drift_inactive: bool = False
    findings: tuple[Finding, ...] = ()
    renamed_from: frozenset[str] = frozenset()
    impersonated: frozenset[str] = frozenset()

    @property
    def excuses(self) -> frozenset[str]:
        """Origins of entries that need not be called missing: what has become of them is said already."""
        return self.renamed_from | self.impersonated


@dataclass(frozen=True, slots=True)
class Closest:
    """What is approved in the place of a table, as far as entries speak for the device.

    Attributes:
        approved: whether the table is; None: not judged, or nobody has told enough of it.
        entry: the one that approves it or, of those that do not, the one that it comes closest to.
        named: whether it is one that the entry names; None: not known, or not asked.
        others: how many other entries speak for the device.
    """

    approved: bool | None
    entry: Entry | None
    named: bool | None = None
    others: int = 0


def judge(
    device: Device,
    baseline: Baseline,
    *,
    report_unexpected: bool,
    surroundings: Surroundings = Surroundings(),
) -> Judgement:
    """What holds of a device now.  Without any baseline entry nothing is judged."""
    if not baseline.entries:
        return Judgement(Verdict.UNKNOWN)
    entries, valid, former = _entries(device, baseline, surroundings.now)
    if any(entry.demands for entry in entries):
        judgement = _judge_tables(device, entries, valid, surroundings)
    elif valid:
        judgement = Judgement(Verdict.APPROVED)
    else:
        judgement = _judge_stranger(device, baseline, entries, report_unexpected=report_unexpected)
    others = _namesakes(device, baseline) if former else ()
    renamed = _renamed(device, former, others, surroundings.record)
    if renamed is not None:
        findings = (renamed, *judgement.findings)
        judgement = replace(
            judgement, verdict=Verdict.DRIFT, findings=findings, impersonated=_origins(device, others)
        )
    return replace(judgement, renamed_from=_origins(device, former))


def approved_until(
    device: Device, baseline: Baseline, *, report_unexpected: bool, surroundings: Surroundings
) -> float | None:
    """When a device that is approved now will no longer be, if it stays as it is; None: never.

    That is not simply the end of its entry: others may approve the same, and one that is more specific and
    begins later takes the place of those before it.
    """
    for moment in baseline.changes_for(((device.name, device.uuid), *device.former)):
        if moment > surroundings.now:
            then = replace(surroundings, now=moment)
            found = judge(device, baseline, report_unexpected=report_unexpected, surroundings=then)
            if found.verdict is not Verdict.APPROVED:
                return moment
    return None


def _entries(
    device: Device, baseline: Baseline, now: float
) -> tuple[tuple[Entry, ...], tuple[Entry, ...], tuple[Entry, ...]]:
    """Those that speak for a device, of these the ones in force, and those that do under a former name."""
    entries = baseline.entries_for(device.name, device.uuid, now=now)
    valid = tuple(entry for entry in entries if entry.is_valid(now))
    former = () if any(entry.is_exact for entry in valid) else _former_entries(device, baseline, now)
    if former:  # whatever it is called, its tables are held to what was approved
        return former, former, former
    return entries, valid, former


def closest(device: Device, which: str, baseline: Baseline, surroundings: Surroundings) -> Closest:
    """What is approved in the place of a table that is in a slot: ``active`` or ``inactive``."""
    entries, valid, _ = _entries(device, baseline, surroundings.now)
    if not any(entry.demands for entry in entries):
        return Closest(None, valid[0] if valid else None)
    active, inactive = _slots(device, entries, valid, surroundings)
    slot, over = (active, None) if which == "active" else (inactive, active)
    found, finding = slot.closest(), slot.finding(over)
    approved = None if finding is None and slot.untold else finding is None
    return Closest(approved, found.entry, found.named, slot.alternatives - 1)


def _slots(
    device: Device, entries: tuple[Entry, ...], valid: tuple[Entry, ...], surroundings: Surroundings
) -> tuple[JudgedSlot, JudgedSlot]:
    """Both against the entries that demand something, of which there is at least one."""
    demanding = tuple(entry for entry in valid if entry.demands)
    speaking = demanding or tuple(entry for entry in entries if entry.demands)
    names, live = surroundings.names, surroundings.live
    active = JudgedSlot("active", device, speaking, names, live, lapsed=not demanding)
    return active, JudgedSlot("inactive", device, speaking, names, live, lapsed=not demanding)


def _judge_tables(
    device: Device, entries: tuple[Entry, ...], valid: tuple[Entry, ...], surroundings: Surroundings
) -> Judgement:
    """Both tables against the entries that demand something of them; none of these may be valid now."""
    active, inactive = _slots(device, entries, valid, surroundings)
    found_active, found_inactive = active.finding(), inactive.finding(over=active)
    findings = tuple(finding for finding in (found_active, found_inactive) if finding is not None)
    verdict = Verdict.APPROVED
    if findings:
        verdict = Verdict.DRIFT
    elif active.untold or inactive.untold:
        verdict = Verdict.UNKNOWN
    return Judgement(verdict, found_active is not None, found_inactive is not None, findings)


# -- who it is -----------------------------------------------------------------------------


def _judge_stranger(
    device: Device, baseline: Baseline, lapsed: tuple[Entry, ...], *, report_unexpected: bool
) -> Judgement:
    """No entry speaks for the device now; one that uses the name of an approved one is always told."""
    actual = device.active.label if device.active is not None else "no active table"
    uuid, namesakes = printable(device.uuid), _namesakes(device, baseline)
    severity: Severity | None = None
    difference: tuple[Difference, ...] = ()
    if namesakes:
        text = f"{shown(device)} has the name of an approved device, but not its uuid"
        severity = Severity.CRITICAL
        difference = (Difference(None, "uuid", namesakes[0].uuid, uuid or "none"),)
    elif not report_unexpected:
        return Judgement(Verdict.UNKNOWN)
    elif lapsed:
        text = f"{shown(device)} is not approved at this time ({lapsed[0].origin})"
    else:
        text = f"{shown(device)} is not in the baseline"
    found = make_finding(
        "device.unexpected",
        text,
        device=device.key,
        record=device.since,
        severity=severity,
        differences=difference,
        actual=actual,
    )
    return Judgement(Verdict.UNEXPECTED, findings=(found,), impersonated=_origins(device, namesakes))


def _former_entries(device: Device, baseline: Baseline, now: float) -> tuple[Entry, ...]:
    """Entries that speak for the device by a name it had, or by its uuid, and not by its present name."""
    name, uuid = printable(device.name), printable(device.uuid)
    entries = [entry for former in device.former for entry in baseline.entries_for(*former, now=now)]
    if device.uuid:
        entries += baseline.identified(device.uuid)
    return tuple(
        entry
        for entry in dict.fromkeys(entries)
        if entry.is_exact and entry.is_valid(now) and not entry.matches(name, uuid)
    )


def _namesakes(device: Device, baseline: Baseline) -> tuple[Entry, ...]:
    """Entries for exactly this name, and another uuid."""
    uuid = printable(device.uuid)
    return tuple(entry for entry in baseline.named(device.name) if not entry.matches_uuid(uuid))


def _renamed(
    device: Device, former: tuple[Entry, ...], others: tuple[Entry, ...], record: int | None
) -> Finding | None:
    """An approved device is called otherwise; that it is unexpected under this name is no other news.

    Args:
        others: whose name it has now.
    """
    entry = next((entry for entry in former if Operation.RENAME not in entry.allow), None)
    if entry is None:
        return None
    actual = printable(device.name)
    text = f"the approved device {entry.label} is called {actual} now ({device.key})"
    return make_finding(
        "device.renamed",
        text + (", the name of another approved device" if others else ""),
        device=device.key,
        record=record,
        severity=entry.severity or (Severity.CRITICAL if others else None),
        differences=(Difference(None, "name", entry.label, actual),),
        expected=entry.label,
        actual=actual,
        baseline=entry.origin,
    )


def _origins(device: Device, former: tuple[Entry, ...]) -> frozenset[str]:
    """Of entries that a device that is there tells of."""
    return frozenset(entry.origin for entry in former if device.active is not None)


# -- all devices ---------------------------------------------------------------------------


def missing(
    devices: Iterable[Device], baseline: Baseline, *, now: float = 0.0, excused: Container[str] = ()
) -> dict[str, Finding]:
    """Required entries that no device with an active table fulfils: entry's origin -> finding.

    ``excused`` are origins of entries whose device is there under another name, which is said already.
    """
    required = [entry for entry in baseline.entries if entry.required and entry.is_valid(now)]
    if not required:
        return {}
    present: dict[str, set[str]] = {}
    for device in devices:
        if device.active is not None:
            present.setdefault(printable(device.name), set()).add(printable(device.uuid))
    return {
        entry.origin: make_finding(
            "device.missing",
            f"{entry.label} is required, but no such device has an active table",
            severity=entry.severity,
            expected=entry.label,
            actual="none",
            baseline=entry.origin,
        )
        for entry in required
        if entry.origin not in excused and not _is_present(entry, present)
    }


def _is_present(entry: Entry, present: Mapping[str, set[str]]) -> bool:
    """Whether there is a device that an entry asks for, among uuids by name."""
    if entry.exact_name:
        return any(map(entry.matches_uuid, present.get(entry.exact_name, ())))
    return any(entry.matches(name, uuid) for name, uuids in present.items() for uuid in uuids)


def removed(device: Device, baseline: Baseline, record: int | None, *, now: float = 0.0) -> Finding | None:
    """A device that went: a finding if it was approved (and is not reported as missing anyway).

    An entry that only says with a pattern what may exist does not say that it must go on existing.
    """
    entries = _approving(device, baseline, now)
    if any(entry.required or Operation.REMOVE in entry.allow for entry in entries):
        return None
    entry = next((one for one in entries if one.is_exact or one.hashes or one.fingerprints), None)
    if entry is None:
        return None
    text = f"{shown(device)} was removed"
    return make_finding(
        "device.removed",
        text,
        device=device.key,
        record=record,
        severity=entry.severity,
        expected=entry.label,
        actual="none",
        baseline=entry.origin,
    )


def reloaded(device: Device, before: Table, baseline: Baseline, *, now: float) -> Finding | None:
    """Another table took the place of ``before``: a finding if no entry allows that."""
    entries = _approving(device, baseline, now)
    if not entries or any(Operation.RELOAD in entry.allow for entry in entries) or device.active is None:
        return None
    return make_finding(
        "device.reloaded",
        f"the table of {shown(device)} was replaced, which its entry does not allow",
        device=device.key,
        record=None if device.active.provenance is Provenance.OBSERVED else device.changed_at,
        severity=entries[0].severity,
        expected=before.label,
        actual=device.active.label,
        baseline=entries[0].origin,
    )


def _approving(device: Device, baseline: Baseline, now: float) -> tuple[Entry, ...]:
    """The entries in force for a device, be it under a name it no longer has."""
    entries = baseline.entries_for(device.name, device.uuid, now=now)
    valid = tuple(entry for entry in entries if entry.is_valid(now))
    return (
        valid if any(entry.is_exact for entry in valid) else _former_entries(device, baseline, now) or valid
    )
