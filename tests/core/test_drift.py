"""Devices against the baseline: each finding where it belongs, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dmimad.core.baseline import Baseline, parse_baseline
from dmimad.core.configuration import configuration_of
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
from dmimad.core.event import Identity
from dmimad.core.finding import CODES, Difference, Finding, Severity, make_finding
from dmimad.core.observation import LiveDevice, LiveTable, LiveTarget
from dmimad.core.table import Provenance, Table
from tests.core.histories import BOUNDED

GOOD, BAD, OTHER = (Table(bytes([value]) * 32, b"a", b"", 1) for value in (0xAA, 0xBB, 0xCC))
#: What is said of a bad table where a good one's hash is approved.
AGAINST_HASHES = {
    "expected": GOOD.label,
    "actual": BAD.label,
    "baseline": "b.toml:2",
    "witness": "measured",
    "hash": BAD.label,
}
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
    data = {**AGAINST_HASHES, "slot": "active"}
    text = "a (254:0) runs a table that is not approved"
    finding = Finding("drift.active", Severity.CRITICAL, text, "254:0", 2, data)
    assert found == Judgement(Verdict.DRIFT, True, False, (finding,))


def test_a_staged_table_that_is_not_approved() -> None:
    found = judged(device(GOOD, BAD), APPROVED)
    data = {**AGAINST_HASHES, "slot": "inactive"}
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


# -- more than hashes ----------------------------------------------------------------------

CRYPT = (
    "target_name=crypt,target_version=1.24.0,allow_discards=n,cipher_string=aes-xts-plain64,"
    "key_size=64,device_name=8:3;"
)
WEAK = CRYPT.replace("aes-xts-plain64", "aes-cbc-essiv").replace("key_size=64", "key_size=32")
VERITY = "target_name=verity,target_version=1.9.0,hash_failed=V,root_digest=8343,data_device_name=8:4;"
SANE = '[[device.target]]\ntype = "crypt"\nkey_size = ">= 64"\ncipher_string = "aes-xts-plain64"\n'


def names(number: tuple[int, int]) -> tuple[str, ...]:
    return ("partuuid:12",) if number == (8, 3) else ()


def table(*targets: str, told: bool = True, number: int | None = None, value: int = 0xAA) -> Table:
    """A table as the list tells it, or one of which the list only knows the hash."""
    text = "name=a;" + "".join(
        f"target_index={index},target_begin={8 * index},target_len=8,{target}"
        for index, target in enumerate(targets)
    )
    texts = (text.encode(),) if told else ()
    return Table(bytes([value]) * 32, b"a", b"", len(targets) if number is None else number, texts, 1)


def print_of(*targets: str) -> str:
    found = configuration_of(table(*targets), None, names).fingerprint
    assert found is not None
    return found


def seen(*targets: tuple[str, str]) -> LiveTable:
    found = (LiveTarget(8 * index, 8, kind, text.encode()) for index, (kind, text) in enumerate(targets))
    return LiveTable(tuple(found))


def around(now: float = 0.0, active: LiveTable | None = None, record: int | None = None) -> Surroundings:
    live = None if active is None else LiveDevice(254, 0, b"a", b"", False, False, 0, active, None)
    return Surroundings(now, names, live, record)


def held(
    made: Device, text: str, *, now: float = 0.0, active: LiveTable | None = None, **how: Any
) -> Judgement:
    how = {"report_unexpected": True, **how}
    return judge(made, baseline(text), surroundings=around(now, active, how.pop("record", None)), **how)


def told(judgement: Judgement) -> list[tuple[str, str, list[str]]]:
    """Code, severity and differences."""
    return [(f.code, f.severity.value, [str(one) for one in f.differences]) for f in judgement.findings]


def entry(*lines: str) -> str:
    return "\n".join(("[[device]]", 'name = "a"', *lines)) + "\n"


BY_PRINT = f'fingerprints = ["{print_of(CRYPT)}"]'


def test_a_fingerprint_approves_whatever_the_hash_is() -> None:
    for value in (1, 2):
        assert held(device(table(CRYPT, value=value)), entry(BY_PRINT)) == Judgement(Verdict.APPROVED)


def test_another_configuration_is_drift_with_its_fingerprint() -> None:
    found = held(device(table(WEAK)), entry(BY_PRINT))
    assert told(found) == [("drift.active", "critical", [])]
    (finding,) = found.findings
    assert finding.data == {
        "expected": print_of(CRYPT),
        "actual": print_of(WEAK),
        "baseline": "b.toml:2",
        "witness": "measured",
        "slot": "active",
        "hash": "sha256:" + "aa" * 32,
        "fingerprint": print_of(WEAK),
    }


def test_an_attribute_that_no_rule_speaks_of_is_named_where_only_the_fingerprint_differs() -> None:
    rules = '[[device.target]]\ntype = "crypt"\ncipher_string = ["aes-xts-plain64", "aes-cbc-essiv"]'
    (finding,) = held(device(table(WEAK)), entry(BY_PRINT, rules)).findings
    assert finding.code == "drift.active"
    assert {one.expected for one in finding.differences} == {"not named"}
    assert "key_size" in {one.attribute for one in finding.differences}
    assert not {"cipher_string", "target_name", "target_version"} & {
        one.attribute for one in finding.differences
    }


def test_devices_below_that_only_have_a_number_are_named() -> None:
    (finding,) = held(device(table(VERITY)), entry(BY_PRINT)).findings
    assert finding.data["unnamed"] == "8:4"


def test_a_hash_or_a_fingerprint_is_enough() -> None:
    text = entry(f'hashes = ["{"bb" * 32}"]', BY_PRINT)
    assert held(device(table(CRYPT)), text).verdict is Verdict.APPROVED
    assert held(device(table(WEAK, value=0xBB)), text).verdict is Verdict.APPROVED
    (finding,) = held(device(table(WEAK)), text).findings
    assert finding.data["expected"] == f"{print_of(CRYPT)} or sha256:{'bb' * 32}"
    assert finding.data["actual"] == "sha256:" + "aa" * 32


def test_rules_alone() -> None:
    assert held(device(table(CRYPT)), entry(SANE)) == Judgement(Verdict.APPROVED)
    found = held(device(table(WEAK), table(VERITY)), entry(SANE))
    assert told(found) == [
        (
            "policy.attribute",
            "critical",
            [
                "target 0: key_size is 32, not >= 64",
                "target 0: cipher_string is aes-cbc-essiv, not aes-xts-plain64",
            ],
        ),
        ("policy.attribute", "warning", ["target 0: type is verity, not crypt"]),
    ]
    assert (found.drift_active, found.drift_inactive) == (True, True)
    first, second = found.findings
    assert first.message == (
        "a (254:0) runs a table that is not approved: target 0: key_size is 32, not >= 64, and 1 more"
    )
    assert first.data["expected"] == "target 0: key_size=>= 64; target 0: cipher_string=aes-xts-plain64"
    assert first.data["actual"] == "target 0: key_size=32; target 0: cipher_string=aes-cbc-essiv"
    assert second.message.endswith("staged a table that is not approved: target 0: type is verity, not crypt")
    assert (first.record, second.record, second.data["slot"]) == (2, 3, "inactive")


def test_an_approved_table_must_obey_the_rules_as_well() -> None:
    for line in (BY_PRINT.replace(print_of(CRYPT), print_of(WEAK)), f'hashes = ["{"aa" * 32}"]'):
        assert [found[0] for found in told(held(device(table(WEAK)), entry(line, SANE)))] == [
            "policy.attribute"
        ]
        assert held(device(table(WEAK)), entry(line)).verdict is Verdict.APPROVED


def test_what_is_not_approved_is_drift_and_says_what_is_different() -> None:
    found = held(device(table(WEAK)), entry(BY_PRINT, SANE))
    assert told(found)[0][0] == "drift.active"
    assert len(told(found)[0][2]) == 2
    assert found.findings[0].data["expected"] == print_of(CRYPT)


@pytest.mark.parametrize(
    ("made", "lines"),
    [
        (table(CRYPT, told=False), [BY_PRINT]),
        (table(CRYPT, told=False), [SANE]),
        (table(CRYPT, told=False, value=0xBB), [f'hashes = ["{"bb" * 32}"]', SANE]),
        (table(CRYPT, number=2), [BY_PRINT]),
        (table(CRYPT, number=2), [SANE]),
        (Table(b"", b"a", b"", 0), [f'hashes = ["{"bb" * 32}"]']),
    ],
    ids=["fingerprint", "rules", "hash and rules", "last target", "rules for the last target", "no hash"],
)
def test_what_nobody_has_told_is_neither_approved_nor_drift(made: Table, lines: list[str]) -> None:
    assert held(device(made), entry(*lines)) == Judgement(Verdict.UNKNOWN)


def test_what_is_known_already_to_be_wrong_does_not_wait_for_the_rest() -> None:
    found = held(device(table(WEAK, number=2)), entry(BY_PRINT, SANE))
    assert [code for code, *_ in told(found)] == ["policy.attribute"]


def test_the_kernel_tells_what_the_list_does_not() -> None:
    thin = entry('[[device.target]]\ntype = "thin"')
    made = table("")._replace(provenance=Provenance.BOTH)
    assert held(device(made), thin).verdict is Verdict.APPROVED
    assert held(device(made), thin, active=seen(("thin", ""))).verdict is Verdict.APPROVED
    assert told(held(device(made), thin, active=seen(("zero", "")))) == [
        ("policy.attribute", "critical", ["target 0: type is zero, not thin"])
    ]


def test_of_several_alternatives_the_closest_says_what_is_different() -> None:
    far = '[[device.target]]\ntype = "verity"\n'
    near = '[[device.target]]\ntype = "crypt"\nkey_size = 64\n'
    weak = device(table(CRYPT.replace("=64", "=32")))
    for text in (entry(far) + entry(near), entry(near) + entry(far)):
        assert told(held(weak, text))[0][2] == ["target 0: key_size is 32, not 64"]
    assert held(device(table(VERITY)), entry(far) + entry(near)).verdict is Verdict.APPROVED
    # One that can say it comes before one that cannot; one whose table it may be before one whose it is not.
    listed = entry(f'hashes = ["{"bb" * 32}"]')
    assert told(held(weak, listed + entry(BY_PRINT, near)))[0] == (
        "drift.active",
        "critical",
        ["target 0: key_size is 32, not 64"],
    )
    assert told(held(weak, listed + entry(near)))[0][0] == "policy.attribute"


def test_so_many_approved_states_are_named_in_part() -> None:
    hashes = ", ".join(f'"{number:064x}"' for number in range(20))
    (finding,) = held(device(table(CRYPT)), entry(f"hashes = [{hashes}]")).findings
    assert finding.data["expected"].count(" or ") == 16
    assert finding.data["expected"].endswith(" or 4 more")


# -- severity ------------------------------------------------------------------------------


@pytest.mark.parametrize("told_by", ["list", "kernel"])
def test_a_table_staged_over_a_verity_one_is_critical(told_by: str) -> None:
    text = entry(f'hashes = ["{"aa" * 32}"]')
    protected = table(VERITY, told=told_by == "list")
    active = seen(("verity", VERITY)) if told_by == "kernel" else None
    found = held(device(protected, table(CRYPT, value=0xBB)), text, active=active)
    assert told(found) == [("drift.inactive", "critical", [])]
    other = held(device(table(CRYPT), table(VERITY, value=0xBB)), text)
    assert told(other) == [("drift.inactive", "warning", [])]
    assert told(held(device(None, table(CRYPT, value=0xBB)), text)) == [("drift.inactive", "warning", [])]
    assert (
        told(held(device(protected, table(CRYPT, value=0xBB)), text + 'staged_severity = "info"'))[0][1]
        == "info"
    )


def test_severities_of_an_entry() -> None:
    text = entry(f'hashes = ["{"aa" * 32}"]', 'severity = "info"', 'staged_severity = "critical"')
    bad = table(CRYPT, value=0xBB)
    assert [severity for _, severity, _ in told(held(device(bad, bad), text))] == ["info", "critical"]


# -- for a time ----------------------------------------------------------------------------

UNTIL = "not_after = 1970-01-01T00:01:40Z"
FROM = "not_before = 1970-01-01T00:01:40Z"


def test_a_roll_out_from_an_old_state_to_a_new_one() -> None:
    text = entry(BY_PRINT, UNTIL) + entry(f'fingerprints = ["{print_of(WEAK)}"]', FROM)
    old, new = device(table(CRYPT)), device(table(WEAK))
    assert [held(old, text, now=now).verdict for now in (99.0, 100.0)] == [Verdict.APPROVED, Verdict.DRIFT]
    assert [held(new, text, now=now).verdict for now in (99.0, 100.0)] == [Verdict.DRIFT, Verdict.APPROVED]
    both = entry(BY_PRINT) + entry(f'fingerprints = ["{print_of(WEAK)}"]', FROM)
    assert [held(old, both, now=now).verdict for now in (99.0, 100.0)] == [Verdict.APPROVED, Verdict.APPROVED]


def test_an_approval_that_is_not_in_force_is_none() -> None:
    found = held(device(table(CRYPT), table(CRYPT)), entry(BY_PRINT, UNTIL, SANE), now=100.0)
    assert told(found) == [("drift.active", "critical", []), ("drift.inactive", "warning", [])]
    first = found.findings[0]
    assert first.message == "a (254:0) runs a table that is not approved at this time (b.toml:2)"
    assert (first.data["expected"], first.data["actual"]) == ("an approval that is in force", print_of(CRYPT))
    assert held(device(), entry(BY_PRINT, UNTIL), now=100.0).verdict is Verdict.APPROVED  # no table


def test_a_lapsed_approval_does_not_say_which_attribute_is_wrong() -> None:
    found = held(device(table(WEAK)), entry(UNTIL, SANE), now=100.0)
    assert (found.findings[0].code, found.findings[0].data["actual"]) == ("drift.active", print_of(WEAK))


def test_a_device_that_was_expected_until_then() -> None:
    text = entry(UNTIL)
    assert held(device(GOOD), text, now=99.0).verdict is Verdict.APPROVED
    found = held(device(GOOD), text, now=100.0)
    assert found.verdict is Verdict.UNEXPECTED
    assert found.findings[0].message == "a (254:0) is not approved at this time (b.toml:2)"
    assert held(device(GOOD), text, now=100.0, report_unexpected=False).verdict is Verdict.UNKNOWN


def test_what_is_asked_for_is_asked_for_in_its_time() -> None:
    text = entry("required = true", UNTIL)
    assert list(missing([], baseline(text), now=99.0)) == ["b.toml:2"]
    assert missing([], baseline(text), now=100.0) == {}
    assert removed(device(GOOD), baseline(entry(UNTIL)), 9, now=99.0) is not None
    assert removed(device(GOOD), baseline(entry(UNTIL)), 9, now=100.0) is None


@pytest.mark.parametrize(
    ("text", "until"),
    [
        (entry(BY_PRINT), None),
        (entry(BY_PRINT, UNTIL), 100.0),
        (entry(UNTIL), 100.0),
        (entry(BY_PRINT, UNTIL) + entry(BY_PRINT), None),  # another one approves it for ever
        (entry(BY_PRINT, UNTIL) + entry(BY_PRINT, FROM), None),  # and goes on without a gap
        (entry(BY_PRINT, UNTIL) + entry(BY_PRINT, "not_before = 1970-01-01T00:01:41Z"), 100.0),
        (entry(BY_PRINT, UNTIL) + entry(BY_PRINT, "not_after = 1970-01-01T00:03:20Z"), 200.0),
        ('[[device]]\nname = "a*"\n' + entry(f'fingerprints = ["{print_of(WEAK)}"]', FROM), 100.0),
        ('[[device]]\nname = "b*"\n' + UNTIL + "\n" + entry(BY_PRINT), None),  # of others
    ],
)
def test_until_when_a_device_is_approved(text: str, until: float | None) -> None:
    found, made = baseline(text), device(table(CRYPT))
    assert held(made, text, now=50.0).verdict is Verdict.APPROVED
    ends = approved_until(made, found, report_unexpected=True, surroundings=around(50.0))
    assert ends == until
    if until is not None:
        assert held(made, text, now=until).verdict is not Verdict.APPROVED
        after = around(until)
        assert approved_until(made, found, report_unexpected=True, surroundings=after) in (None, 101.0)


def test_until_when_a_renamed_device_is_approved() -> None:
    text = '[[device]]\nname = "a"\nallow = ["rename"]\n' + UNTIL + "\n"
    made = device(GOOD, name=b"b")._replace(former=(Identity(b"a", b""),))
    assert held(made, text, now=50.0).verdict is Verdict.APPROVED
    ends = approved_until(made, baseline(text), report_unexpected=True, surroundings=around(50.0))
    assert ends == 100.0


# -- who it is -----------------------------------------------------------------------------


def renamed(*, uuid: bytes = b"", active: Table | None = GOOD) -> Device:
    """``a``, which is called ``b`` now."""
    return device(active, name=b"b")._replace(uuid=uuid, former=(Identity(b"a", uuid),))


def test_an_approved_device_that_is_called_otherwise() -> None:
    found = held(renamed(), APPROVED, record=7)
    text = "the approved device a is called b now (254:0)"
    data = {"expected": "a", "actual": "b", "baseline": "b.toml:2"}
    difference = (Difference(None, "name", "a", "b"),)
    finding = Finding("device.renamed", Severity.WARNING, text, "254:0", 7, data, difference)
    assert found == Judgement(Verdict.DRIFT, findings=(finding,), renamed_from=frozenset({"b.toml:2"}))


def test_a_uuid_tells_that_it_was_renamed_before_anybody_watched() -> None:
    text = '[[device]]\nname = "a"\nuuid = "U"\n'
    assert told(held(device(GOOD, name=b"b")._replace(uuid=b"U"), text)) == [
        ("device.renamed", "warning", ["name is b, not a"])
    ]
    assert held(device(GOOD)._replace(uuid=b"U"), text).verdict is Verdict.APPROVED


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('[[device]]\nname = "a*"\n', "device.unexpected"),  # it never was one by itself
        (APPROVED + '[[device]]\nname = "b"\n', None),  # approved under the new name
        (APPROVED + '[[device]]\nname = "b*"\n', "device.renamed"),
        (entry(UNTIL), "device.unexpected"),
        (entry('severity = "critical"'), "device.renamed"),
    ],
)
def test_whose_rename_is_news(text: str, code: str | None) -> None:
    found = held(renamed(), text, now=100.0)
    assert [finding.code for finding in found.findings] == ([] if code is None else [code])
    if "severity" in text:
        assert found.findings[0].severity is Severity.CRITICAL


def test_a_device_that_may_be_renamed_is_still_held_to_its_entry() -> None:
    text = APPROVED + 'allow = ["rename"]\n'
    good = held(renamed(), text)
    assert good == Judgement(Verdict.APPROVED, renamed_from=frozenset({"b.toml:2"}))
    assert [finding.code for finding in held(renamed(active=BAD), text).findings] == ["drift.active"]
    assert held(renamed(), entry('allow = ["rename"]')).verdict is Verdict.APPROVED


def test_who_takes_the_name_of_another_approved_device_is_critical() -> None:
    text = (
        '[[device]]\nname = "a"\nuuid = "U1"\nrequired = true\n'
        '[[device]]\nname = "b"\nuuid = "U2"\nrequired = true\n'
    )
    impostor = device(GOOD)._replace(uuid=b"U2", former=(Identity(b"b", b"U2"),))
    found = held(impostor, text)
    assert told(found) == [("device.renamed", "critical", ["name is a, not b"])]
    assert found.findings[0].message.endswith("is called a now (254:0), the name of another approved device")
    assert found.excuses == {"b.toml:2", "b.toml:6"}
    assert found.renamed_from == {"b.toml:6"}
    harmless = held(impostor._replace(name=b"c"), text)
    assert told(harmless) == [("device.renamed", "warning", ["name is c, not b"])]


def test_who_was_renamed_is_not_missing_as_well_unless_it_does_not_run() -> None:
    text = baseline(entry("required = true"))
    for made, origins in ((renamed(), {"b.toml:2"}), (renamed(active=None), set())):
        found = judge(made, text, report_unexpected=True)
        assert found.renamed_from == origins
        assert set(missing([made], text, excused=found.renamed_from)) == {"b.toml:2"} - origins


@pytest.mark.parametrize("report_unexpected", [True, False])
@pytest.mark.parametrize(("uuid", "actual"), [(b"V", "V"), (b"", "none")])
def test_who_uses_the_name_of_an_approved_device_is_always_told(
    report_unexpected: bool, uuid: bytes, actual: str
) -> None:
    text = '[[device]]\nname = "a"\nuuid = "U*"\n'
    found = held(device(GOOD)._replace(uuid=uuid), text, report_unexpected=report_unexpected)
    assert told(found) == [("device.unexpected", "critical", [f"uuid is {actual}, not U*"])]
    assert found.findings[0].message == "a (254:0) has the name of an approved device, but not its uuid"
    assert found.excuses == {"b.toml:2"}  # that the approved one is missing need not be said as well
    nothing = held(device()._replace(uuid=uuid), text, report_unexpected=report_unexpected)
    assert nothing.excuses == frozenset()


def test_missing_looks_at_name_and_uuid() -> None:
    text = baseline('[[device]]\nname = "a"\nuuid = "U*"\nrequired = true\nseverity = "info"\n')
    assert missing([device(GOOD)._replace(uuid=b"U1")], text) == {}
    (found,) = missing([device(GOOD)._replace(uuid=b"V")], text).values()
    assert found.severity is Severity.INFO


# -- what may be done ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        (entry('allow = ["remove"]'), False),
        (entry('allow = ["rename"]'), True),
        (f'[[device]]\nname = "*"\n{BY_PRINT}\n', True),
        (f'[[device]]\nname = "*"\n{SANE}', False),  # says what may be, not that it must be
    ],
)
def test_removal(text: str, reported: bool) -> None:
    assert (removed(device(GOOD), baseline(text), 9) is not None) is reported


def test_a_device_does_not_go_unseen_under_another_name() -> None:
    found = removed(renamed(), baseline(APPROVED), 9)
    assert found is not None
    assert (found.message, found.data["expected"]) == ("b (254:0) was removed", "a")


def test_a_table_that_is_not_to_be_replaced() -> None:
    text = entry(f'hashes = ["{GOOD.label}", "{OTHER.label}"]', "allow = []", 'severity = "critical"')
    found = held(device(GOOD, OTHER), text)
    assert [finding.code for finding in found.findings] == ["drift.inactive"]
    assert found.findings[0].message.endswith("though its entry does not allow it to be reloaded")
    assert held(device(GOOD, GOOD), text).findings == ()  # the same once more
    assert held(device(None, OTHER), text).findings == ()
    assert held(device(GOOD, OTHER), text.replace("allow = []", "")).findings == ()
    finding = reloaded(device(OTHER), GOOD, baseline(text), now=0.0)
    data = {"expected": GOOD.label, "actual": OTHER.label, "baseline": "b.toml:2"}
    words = "the table of a (254:0) was replaced, which its entry does not allow"
    assert finding == Finding("device.reloaded", Severity.CRITICAL, words, "254:0", 2, data)
    observed = OTHER._replace(provenance=Provenance.OBSERVED)
    finding = reloaded(device(observed), GOOD, baseline(text), now=0.0)
    assert finding is not None
    assert finding.record is None


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("", device(OTHER)),
        (entry("allow = []"), device(None)),
        (entry('allow = ["reload"]'), device(OTHER)),
        (entry(), device(OTHER)),
        (entry("allow = []") + entry(), device(OTHER)),
        (entry("allow = []", UNTIL), device(OTHER)),
    ],
)
def test_a_table_that_may_be_replaced(text: str, made: Device) -> None:
    assert reloaded(made, GOOD, baseline(text), now=100.0) is None


# -- whatever is edited is found -----------------------------------------------------------

FULL = (
    '[[device.target]]\nindex = 0\ntype = "crypt"\nlength = 8\nallow_discards = "n"\nkey_size = 64\n'
    'cipher_string = "aes-xts-plain64"\ndevice_name = "partuuid:12"\n'
    '[[device.target]]\nindex = 1\ntype = "verity"\nlength = 8\nroot_digest = "8343"\n'
    'data_device_name = "8:4"\n'
)
ATTRIBUTES = [
    (0, "allow_discards=n", "allow_discards"),
    (0, "key_size=64", "key_size"),
    (0, "cipher_string=aes-xts-plain64", "cipher_string"),
    (0, "device_name=8:3", "device_name"),
    (1, "root_digest=8343", "root_digest"),
    (1, "data_device_name=8:4", "data_device_name"),
]


@BOUNDED
@given(st.sampled_from(ATTRIBUTES), st.text("abyz019:-", min_size=1, max_size=8), st.booleans())
def test_an_edited_attribute_is_found_by_its_name(
    edit: tuple[int, str, str], value: str, remove: bool
) -> None:
    index, written, key = edit
    targets = [CRYPT, VERITY]
    value = "" if remove else f",{key}={value}"
    targets[index] = targets[index].replace("," + written, value)
    assume(value not in (f",{written}", ",device_name=08:3"))
    assume(not (key == "allow_discards" and remove))  # what is not there is taken for n
    found = told(held(device(table(*targets)), entry(FULL)))
    assert [(code, len(differences)) for code, _, differences in found] == [("policy.attribute", 1)]
    assert found[0][2][0].startswith(f"target {index}: {key} is ")


@pytest.mark.parametrize(
    "targets", [(CRYPT,), (VERITY, CRYPT), (CRYPT, VERITY, VERITY), (CRYPT, ""), ("", VERITY), ()]
)
def test_an_edited_order_is_found_by_the_type(targets: tuple[str, ...]) -> None:
    assert held(device(table(CRYPT, VERITY)), entry(FULL)).verdict is Verdict.APPROVED
    ((code, _, differences),) = told(held(device(table(*targets)), entry(FULL)))
    assert code == "policy.attribute"
    assert "type is " in differences[0]
