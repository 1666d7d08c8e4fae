"""Devices against the baseline: which findings hold now.

Source: the finding codes are a promise to subscribers (``docs/findings.md``).

Pure comparison of one moment; that something held before, or has just ceased to, is `alert`'s.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from dmimad.core.baseline import Baseline, Entry
from dmimad.core.device import Device
from dmimad.core.event import printable
from dmimad.core.finding import Finding, make_finding
from dmimad.core.table import Provenance, Table


class Verdict(enum.StrEnum):
    """What the baseline says about a device."""

    UNKNOWN = "unknown"
    APPROVED = "approved"
    DRIFT = "drift"
    UNEXPECTED = "unexpected"


@dataclass(frozen=True, slots=True)
class Judgement:
    """One device against the baseline."""

    verdict: Verdict
    drift_active: bool = False
    drift_inactive: bool = False
    findings: tuple[Finding, ...] = ()


def judge(device: Device, baseline: Baseline, *, report_unexpected: bool) -> Judgement:
    """What holds of a device now.  Without any baseline entry nothing is judged."""
    if not baseline.entries:
        return Judgement(Verdict.UNKNOWN)
    entry = baseline.entry_for(device.name, device.uuid)
    if entry is None:
        if not report_unexpected:
            return Judgement(Verdict.UNKNOWN)
        text = f"{_shown(device)} is not in the baseline"
        actual = device.active.label if device.active is not None else "no active table"
        found = make_finding("device.unexpected", text, device=device.key, record=device.since, actual=actual)
        return Judgement(Verdict.UNEXPECTED, findings=(found,))
    if not entry.hashes:
        return Judgement(Verdict.APPROVED)
    active = _slot(device, device.active, entry, "drift.active", device.changed_at)
    inactive = _slot(device, device.inactive, entry, "drift.inactive", device.staged_at)
    found_in = tuple(finding for finding in (active, inactive) if finding is not None)
    untold = any(table is not None and not table.hash for table in (device.active, device.inactive))
    verdict = Verdict.DRIFT if found_in else Verdict.UNKNOWN if untold else Verdict.APPROVED
    return Judgement(verdict, active is not None, inactive is not None, found_in)


def _slot(device: Device, table: Table | None, entry: Entry, code: str, record: int) -> Finding | None:
    if table is None or not table.hash or table.hash in entry.hashes:
        return None
    verb = "runs" if code == "drift.active" else "has staged"
    text = f"{_shown(device)} {verb} a table that is not approved"
    expected = " or ".join(sorted("sha256:" + digest.hex() for digest in entry.hashes))
    return make_finding(
        code,
        text,
        device=device.key,
        record=None if table.provenance is Provenance.OBSERVED else record,
        expected=expected,
        actual=table.label,
        baseline=entry.origin,
        witness=table.provenance.value,
    )


def missing(devices: Iterable[Device], baseline: Baseline) -> dict[str, Finding]:
    """Required entries that no device with an active table fulfils: entry's origin -> finding."""
    if not any(entry.required for entry in baseline.entries):
        return {}
    present = [
        (printable(device.name), printable(device.uuid)) for device in devices if device.active is not None
    ]
    return {
        entry.origin: make_finding(
            "device.missing",
            f"{entry.label} is required, but no such device has an active table",
            expected=entry.label,
            actual="none",
            baseline=entry.origin,
        )
        for entry in baseline.entries
        if entry.required and not any(entry.matches(name, uuid) for name, uuid in present)
    }


def removed(device: Device, baseline: Baseline, record: int | None) -> Finding | None:
    """A device that went: a finding if it was approved (and is not reported as missing anyway).

    An entry that only says with a pattern what may exist does not say that it must go on existing.
    """
    entry = baseline.entry_for(device.name, device.uuid)
    if entry is None or entry.required or not (entry.is_exact or entry.hashes):
        return None
    text = f"{_shown(device)} was removed"
    return make_finding(
        "device.removed",
        text,
        device=device.key,
        record=record,
        expected=entry.label,
        actual="none",
        baseline=entry.origin,
    )


def _shown(device: Device) -> str:
    return f"{printable(device.name)} ({device.key})"
