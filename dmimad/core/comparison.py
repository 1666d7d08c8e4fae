"""Captured devices against a baseline, for people: what differs, attribute by attribute.

Source: the verdicts are `drift`'s, so what is shown here is what the daemon would say.

Beside what differs from a rule, it names what no rule speaks of where only the fingerprint differs.  Nothing
here prints.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dmimad.core.baseline import Baseline, Entry
from dmimad.core.capture import CapturedDevice, CapturedTable
from dmimad.core.drift import Judgement, Verdict, judge, missing
from dmimad.core.finding import Difference, Finding
from dmimad.core.rules import differences, unspoken

#: Told of one table; a table may have a million targets.
MAX_ROWS = 256
#: Approved values named in one row.
MAX_ALTERNATIVES = 4


class Result(enum.StrEnum):
    """What is to be said of a device."""

    APPROVED = "approved"
    DIFFERS = "differs"
    RENAMED = "renamed"
    UNEXPECTED = "unexpected"
    MISSING = "missing"
    UNKNOWN = "unknown"
    NOT_JUDGED = "not judged"


#: Results that are no reason to act.
FINE = frozenset({Result.APPROVED, Result.NOT_JUDGED})


@dataclass(frozen=True, slots=True)
class SlotComparison:
    """A table that is not approved: ``which`` is ``active`` or ``inactive``; ``rows`` are what differs."""

    which: str
    finding: Finding
    rows: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """A device, or a required one that is not there.

    Attributes:
        label: its name as printed.
        key: ``major:minor``, "" if it is missing.
        entry: ``file:line`` of what speaks for it, "" if nothing does.
        findings: that are not about a table's content.
        slots: tables that are not approved.
        renamed_from: origins of the entries that speak for it under a name it no longer has.
    """

    result: Result
    label: str
    key: str
    uuid: str = ""
    entry: str = ""
    findings: tuple[Finding, ...] = ()
    slots: tuple[SlotComparison, ...] = ()
    renamed_from: frozenset[str] = frozenset()


def compare(
    devices: Iterable[CapturedDevice], baseline: Baseline, now: float, *, report_unexpected: bool = True
) -> tuple[Compared, ...]:
    """All devices and what is missing, by name.  ``now``: Unix seconds."""
    captured = list(devices)
    found, excused = [], set[str]()
    for one in captured:
        judgement = _judged(one, baseline, now, report_unexpected=report_unexpected)
        excused |= judgement.excuses
        found.append(_compared(one, judgement, baseline, now))
    for origin, finding in missing(
        (one.device for one in captured), baseline, now=now, excused=excused
    ).items():
        label = finding.data.get("expected", "")
        found.append(Compared(Result.MISSING, label, "", entry=origin, findings=(finding,)))
    return tuple(sorted(found, key=lambda each: (each.label, each.key)))


def compare_device(captured: CapturedDevice, baseline: Baseline, now: float) -> Compared:
    """One device."""
    return _compared(captured, _judged(captured, baseline, now, report_unexpected=True), baseline, now)


def _judged(
    captured: CapturedDevice, baseline: Baseline, now: float, *, report_unexpected: bool
) -> Judgement:
    around = captured.surroundings(now)
    return judge(captured.device, baseline, report_unexpected=report_unexpected, surroundings=around)


def _compared(captured: CapturedDevice, judgement: Judgement, baseline: Baseline, now: float) -> Compared:
    entries = baseline.entries_for(captured.device.name, captured.device.uuid, now=now)
    slots, others = [], []
    for finding in judgement.findings:
        table = captured.active if finding.data.get("slot") == "active" else captured.inactive
        if "slot" in finding.data and table is not None:
            slots.append(SlotComparison(finding.data["slot"], finding, _rows(finding, table, entries)))
        else:
            others.append(finding)
    told = next((f.data["baseline"] for f in judgement.findings if f.data.get("baseline")), "")
    return Compared(
        _result(judgement, entries),
        captured.name,
        captured.key,
        captured.uuid,
        told or (entries[0].origin if entries else ""),
        tuple(others),
        tuple(slots),
        judgement.renamed_from,
    )


def _result(judgement: Judgement, entries: tuple[Entry, ...]) -> Result:
    match judgement.verdict:
        case Verdict.APPROVED:
            return Result.APPROVED
        case Verdict.UNEXPECTED:
            return Result.UNEXPECTED
        case Verdict.UNKNOWN:
            return Result.UNKNOWN if entries else Result.NOT_JUDGED
        case _:
            renamed = any(finding.code == "device.renamed" for finding in judgement.findings)
            return Result.RENAMED if renamed else Result.DIFFERS


def _rows(finding: Finding, table: CapturedTable, entries: tuple[Entry, ...]) -> tuple[Difference, ...]:
    """What differs from the entry that the finding names, which is the one that comes closest."""
    configuration = table.configuration
    entry = next(one for one in entries if one.origin == finding.data["baseline"])
    rows = list(differences(entry.rules, configuration))
    if rows or finding.code not in ("drift.active", "drift.inactive"):
        return tuple(rows[:MAX_ROWS])
    if entry.rules:
        rows += unspoken(entry.rules, configuration)
    return (*rows[:MAX_ROWS], *_identities(finding, table, entries))


def _identities(finding: Finding, table: CapturedTable, entries: tuple[Entry, ...]) -> Iterator[Difference]:
    """Fingerprints and hashes, where no attribute says what is the matter."""
    fingerprints = sorted({label for entry in entries for label in entry.fingerprints})
    hashes = sorted({"sha256:" + digest.hex() for entry in entries for digest in entry.hashes})
    actual = table.configuration.fingerprint
    if fingerprints and actual not in fingerprints:
        yield Difference(None, "fingerprint", _alternatives(fingerprints), actual or "unknown")
    if hashes and table.label not in hashes:
        yield Difference(None, "hash", _alternatives(hashes), table.label)


def _alternatives(values: list[str]) -> str:
    more = len(values) - MAX_ALTERNATIVES
    return " or ".join(values[:MAX_ALTERNATIVES]) + (f" or {more} more" if more > 0 else "")
