"""Devices against the baseline: each finding where it belongs, and nowhere else."""

from __future__ import annotations

import pytest

from dmimad.core.baseline import Baseline, parse_baseline
from dmimad.core.device import Device
from dmimad.core.drift import Judgement, Verdict, judge, missing, removed
from dmimad.core.finding import CODES, Finding, Severity, make_finding
from dmimad.core.table import Table

GOOD, BAD, OTHER = (Table(bytes([value]) * 32, b"a", b"", 1) for value in (0xAA, 0xBB, 0xCC))
APPROVED = f'[[device]]\nname = "a"\nhashes = ["{GOOD.label}"]\n'


def baseline(text: str) -> Baseline:
    return parse_baseline("version = 1\n" + text, "b.toml")


def device(active: Table | None = None, inactive: Table | None = None, name: bytes = b"a") -> Device:
    return Device("254:0", 254, 0, name, b"", active, inactive, since=1, changed_at=2, staged_at=3)


def judged(device: Device, text: str, *, report_unexpected: bool = True) -> Judgement:
    return judge(device, baseline(text), report_unexpected=report_unexpected)


def test_without_entries_nothing_is_judged() -> None:
    assert judged(device(BAD, BAD), "") == Judgement(Verdict.UNKNOWN)


@pytest.mark.parametrize(
    "slots",
    [(None, None), (GOOD, None), (None, GOOD), (GOOD, GOOD)],
    ids=["empty", "active", "staged", "both"],
)
def test_approved_tables(slots: tuple[Table | None, Table | None]) -> None:
    assert judged(device(*slots), APPROVED) == Judgement(Verdict.APPROVED)


def test_an_active_table_that_is_not_approved() -> None:
    found = judged(device(BAD, GOOD), APPROVED)
    data = {"expected": GOOD.label, "actual": BAD.label, "baseline": "b.toml:2", "witness": "measured"}
    text = "a (254:0) runs a table that is not approved"
    finding = Finding("drift.active", Severity.CRITICAL, text, "254:0", 2, data)
    assert found == Judgement(Verdict.DRIFT, True, False, (finding,))


def test_a_staged_table_that_is_not_approved() -> None:
    found = judged(device(GOOD, BAD), APPROVED)
    data = {"expected": GOOD.label, "actual": BAD.label, "baseline": "b.toml:2", "witness": "measured"}
    text = "a (254:0) has staged a table that is not approved"
    finding = Finding("drift.inactive", Severity.WARNING, text, "254:0", 3, data)
    assert found == Judgement(Verdict.DRIFT, False, True, (finding,))


def test_both_slots_at_once() -> None:
    found = judged(device(BAD, OTHER), APPROVED)
    assert (found.drift_active, found.drift_inactive) == (True, True)
    assert [(finding.code, finding.data["actual"]) for finding in found.findings] == [
        ("drift.active", BAD.label),
        ("drift.inactive", OTHER.label),
    ]


def test_all_approved_hashes_are_named() -> None:
    text = f'[[device]]\nname = "a"\nhashes = ["{OTHER.label}", "{GOOD.label}"]\n'
    (finding,) = judged(device(BAD), text).findings
    assert finding.data["expected"] == f"{GOOD.label} or {OTHER.label}"
    assert judged(device(OTHER), text).verdict is Verdict.APPROVED


def test_an_entry_without_hashes_approves_any_table() -> None:
    assert judged(device(BAD, OTHER), '[[device]]\nname = "a"\n') == Judgement(Verdict.APPROVED)


@pytest.mark.parametrize(("table", "actual"), [(BAD, BAD.label), (None, "no active table")])
def test_an_unexpected_device(table: Table | None, actual: str) -> None:
    found = judged(device(table, name=b"\xff"), APPROVED)
    text = "\\xff (254:0) is not in the baseline"
    finding = Finding("device.unexpected", Severity.WARNING, text, "254:0", 1, {"actual": actual})
    assert found == Judgement(Verdict.UNEXPECTED, findings=(finding,))


def test_unexpected_devices_can_be_left_alone() -> None:
    assert judged(device(BAD, name=b"x"), APPROVED, report_unexpected=False) == Judgement(Verdict.UNKNOWN)


REQUIRED = '[[device]]\nname = "a*"\nrequired = true\n[[device]]\nuuid = "LVM-1"\nrequired = true\n'


def test_missing() -> None:
    found = missing([device(BAD, name=b"b")], baseline(REQUIRED))
    text = "a* is required, but no such device has an active table"
    data = {"expected": "a*", "actual": "none", "baseline": "b.toml:2"}
    assert list(found) == ["b.toml:2", "b.toml:5"]
    assert found["b.toml:2"] == Finding("device.missing", Severity.CRITICAL, text, "", None, data)
    assert found["b.toml:5"].data["expected"] == "LVM-1"


def test_a_required_device_needs_an_active_table() -> None:
    assert list(missing([device(None, GOOD)], baseline(REQUIRED))) == ["b.toml:2", "b.toml:5"]
    assert list(missing([device(BAD, name=b"abc")], baseline(REQUIRED))) == ["b.toml:5"]
    by_uuid = device(BAD, name=b"abc")._replace(uuid=b"LVM-1")
    assert missing([by_uuid], baseline(REQUIRED)) == {}


def test_nothing_is_missing_that_is_not_required() -> None:
    assert missing([], baseline(APPROVED)) == {}
    assert missing([], Baseline()) == {}
    assert list(missing([], baseline(APPROVED + REQUIRED))) == ["b.toml:5", "b.toml:8"]


def test_removed() -> None:
    data = {"expected": "a", "actual": "none", "baseline": "b.toml:2"}
    finding = Finding("device.removed", Severity.WARNING, "a (254:0) was removed", "254:0", 9, data)
    assert removed(device(), baseline(APPROVED), 9) == finding


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ('[[device]]\nname = "a"\n', True),
        ('[[device]]\nname = "*"\n', False),
        (f'[[device]]\nname = "*"\nhashes = ["{GOOD.label}"]\n', True),
        ('[[device]]\nname = "a"\nrequired = true\n', False),
        ('[[device]]\nname = "b"\n', False),
        ("", False),
    ],
    ids=["exact", "pattern", "pattern with hashes", "required: missing says it", "another", "no baseline"],
)
def test_whose_removal_is_news(text: str, reported: bool) -> None:
    assert (removed(device(), baseline(text), 9) is not None) is reported


def test_findings_have_their_codes_severity_unless_told() -> None:
    for code, (severity, meaning) in CODES.items():
        assert make_finding(code, "text") == Finding(code, severity, "text", "", None, {})
        assert meaning
    assert make_finding("drift.active", "text", severity=Severity.INFO).severity is Severity.INFO
    with pytest.raises(KeyError):
        make_finding("drift.unheard", "text")
