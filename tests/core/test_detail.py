"""One device as a document: its tables beside what is approved, and what was told of it and of no other."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dmimad.core import detail
from dmimad.core.baseline import Baseline, parse_baseline
from dmimad.core.status import Surroundings
from tests.core.kernel import Target, linear, linears, opaque
from tests.core.monitored import BAD, GOOD, OTHER, Host, approved, label, listed

ZEROES = "config:" + "0" * 64
Rows = list[tuple[int | None, str, str | None, str | None, bool]]


def document(host: Host, key: str = "254:0", now: float = 1000.0) -> dict[str, Any]:
    made = host.monitor.detail(key, now, Surroundings(version="9"))
    assert made is not None
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]  # it can be encoded, and comes back so


def running(baseline: Baseline | None, *tables: tuple[Any, ...], name: bytes = b"a") -> Host:
    host = Host(baseline)
    host.kernel.create(name, tables[0])
    for table in tables[1:]:
        host.kernel.load(name, table)
    host.look(100.0)
    return host


def rows(table: dict[str, Any]) -> Rows:
    keys = ("target", "attribute", "approved", "actual", "differs")
    return [tuple(row[key] for key in keys) for row in table["rows"]]


def target_rows(host: Host, *, slot: int = 0) -> Rows:
    return [row for row in rows(document(host)["tables"][slot]) if row[0] is not None]


def rule(*lines: str) -> Baseline:
    text = 'version = 1\n[[device]]\nname = "a"\n' + "\n".join(lines)
    return parse_baseline(text, "b.toml")


PLACE: Rows = [(0, "begin", None, "0", False), (0, "length", None, "8", False)]
VERSION = (0, "target_version", None, "1.4.0", False)


def test_all_of_it() -> None:
    host = running(approved(a=(GOOD,)), GOOD, BAD)
    host.kernel.create(b"b", BAD)
    host.look(200.0)
    made = document(host)
    status = host.monitor.status(1000.0)
    devices = {each["key"]: each for each in json.loads(json.dumps(status["devices"]))}
    assert list(made) == [
        "host",
        "time",
        "version",
        "device",
        "alerts",
        "recent",
        "history",
        "history_left_out",
        "tables",
        "former",
    ]
    assert (made["host"], made["version"], made["former"]) == ("h", "9", False)
    assert made["time"] == "1970-01-01T00:16:40.000Z"
    assert made["device"] == devices["254:0"]
    assert [(each["code"], each["device"]) for each in made["alerts"]] == [("drift.inactive", "a")]
    assert [(each["code"], each["device"]) for each in made["recent"]] == [("drift.inactive", "a")]
    assert len(status["recent"]) == 2  # type: ignore[arg-type]  # a list, in a document
    assert (len(made["history"]), made["history_left_out"]) == (4, 0)
    active, inactive = made["tables"]
    assert (active["slot"], active["approved"], active["hash"]) == ("active", True, label("a", GOOD))
    assert (inactive["slot"], inactive["approved"], inactive["hash"]) == ("inactive", False, label("a", BAD))
    assert {active["baseline"], inactive["baseline"]} == {"b.toml:2"}
    assert active["fingerprint"] == made["device"]["active"]["fingerprint"]


def test_there_is_no_such_device() -> None:
    assert Host().monitor.detail("254:0", 1.0) is None
    assert running(None, GOOD).monitor.detail("254:9", 1.0) is None


def test_a_device_is_found_by_name_and_by_number() -> None:
    host = running(None, GOOD, name=b"a\xff")
    host.kernel.create(b"254:0", GOOD)
    host.look(200.0)
    found = [host.monitor.key_of(name) for name in ("a\\xff", "254:0", "254:1", "b", "")]
    assert found == ["254:0", "254:0", "254:1", None, None]


def test_a_device_is_found_by_what_a_terminal_shows_of_its_name() -> None:
    host = running(None, GOOD, name=b"a\x1b[2J\xe2\x80\xae")
    host.kernel.create(b"b\x07", GOOD)
    host.kernel.create(b"b\\x07", GOOD)
    host.look(200.0)
    found = [host.monitor.key_of(name) for name in ("a\\x1b[2J\\u202e", "a\x1b[2J\u202e", "b\\x07", "b\x07")]
    assert found == ["254:0", "254:0", "254:2", "254:1"]


def test_without_a_baseline_nothing_is_approved_and_nothing_differs() -> None:
    host = running(None, GOOD)
    (table,) = document(host)["tables"]
    assert (table["approved"], table["baseline"], table["others"]) == (None, "", 0)
    assert rows(table) == [
        (None, "hash", None, label("a", GOOD), False),
        (None, "fingerprint", None, table["fingerprint"], False),
        (0, "type", None, "linear", False),
        *PLACE,
        VERSION,
        (0, "device_name", None, "1:0", False),
        (0, "start", None, "0", False),
    ]


def test_an_entry_that_does_not_look_at_tables() -> None:
    (table,) = document(running(rule(), GOOD))["tables"]
    assert (table["approved"], table["baseline"]) == (None, "b.toml:2")


class TestHashesAndFingerprints:
    def test_the_one_that_is_approved(self) -> None:
        (table,) = document(running(approved(a=(GOOD, BAD)), BAD))["tables"]
        assert rows(table)[0] == (None, "hash", label("a", BAD), label("a", BAD), False)

    def test_the_ones_that_are_approved_instead(self) -> None:
        labels = sorted(label("a", (linear(8 * n),)) for n in range(6))
        baseline = approved(a=tuple((linear(8 * n),) for n in range(6)))
        (table,) = document(running(baseline, (linear(80),)))["tables"]
        assert rows(table)[0] == (
            None,
            "hash",
            " or ".join(labels[:4]) + " or 2 more",
            label("a", (linear(80),)),
            True,
        )

    def test_one_of_the_two_is_enough(self) -> None:
        fingerprint = document(running(None, GOOD))["tables"][0]["fingerprint"]
        baseline = rule(f'hashes = ["{label("a", BAD)}"]', f'fingerprints = ["{fingerprint}"]')
        (table,) = document(running(baseline, GOOD))["tables"]
        assert table["approved"] is True
        assert rows(table)[:2] == [
            (None, "hash", label("a", BAD), label("a", GOOD), False),
            (None, "fingerprint", fingerprint, fingerprint, False),
        ]
        (table,) = document(running(baseline, OTHER))["tables"]
        assert [row[-1] for row in rows(table)[:2]] == [True, True]

    def test_a_table_that_nobody_has_told(self) -> None:
        host = Host(rule(f'fingerprints = ["{ZEROES}"]'))
        host.kernel.create(b"a", GOOD)
        host.kernel.items.pop(-2)  # its load
        host.look(100.0)
        (table,) = document(host)["tables"]
        assert (table["approved"], table["fingerprint"]) == (None, None)
        assert rows(table) == [
            (None, "hash", None, label("a", GOOD), False),
            (None, "fingerprint", ZEROES, None, False),
        ]

    def test_the_closest_of_several_entries(self) -> None:
        text = "version = 1\n"
        for start in ('"9"\nsectors = "1"', '"0"', '"0"\ndevice_name = "2:0"'):
            text += f'[[device]]\nname = "a"\n[[device.target]]\ntype = "linear"\nstart = {start}\n'
        host = running(parse_baseline(text, "b.toml"), BAD)
        (table,) = document(host)["tables"]
        assert (table["approved"], table["baseline"], table["others"]) == (False, "b.toml:8", 2)
        (alert,) = document(host)["alerts"]
        assert "start is 8, not 0" in alert["message"]
        (table,) = document(running(parse_baseline(text, "b.toml"), GOOD))["tables"]
        assert (table["approved"], table["baseline"]) == (True, "b.toml:8")


class TestBesideTheOtherSlot:
    """A hash says nothing of what is in the table; that of an approved one beside it does."""

    def staged(self, *tables: tuple[Any, ...]) -> dict[str, Any]:
        active, inactive = document(running(approved(a=(tables[0],)), *tables))["tables"]
        assert (active["approved"], active["compared_with"]) == (True, "baseline")
        assert all(row["approved"] is None for row in active["rows"] if row["target"] is not None)
        assert (inactive["approved"], inactive["compared_with"]) == (False, "active")
        return dict(inactive)

    def test_what_differs(self) -> None:
        assert [row for row in rows(self.staged(GOOD, BAD)) if row[0] is not None] == [
            (0, "type", "linear", "linear", False),
            (0, "begin", "0", "0", False),
            (0, "length", "8", "8", False),
            (0, "target_version", "1.4.0", "1.4.0", False),
            (0, "device_name", "1:0", "1:0", False),
            (0, "start", "0", "8", True),
        ]

    def test_targets_and_attributes_of_one_alone(self) -> None:
        two = (linear(0), Target(8, b"target_name=x,target_version=1.0.0,a=1,b=n;"))
        other = Target(8, b"target_name=verity,target_version=2.0.0,hash_failed=C,c=n;")
        found = rows(self.staged(two, (other, opaque(), linear(16))))
        assert [row for row in found if row[0] is not None and row[-1]] == [
            (0, "type", "linear", "verity", True),
            (0, "device_name", "1:0", None, True),
            (0, "start", "0", None, True),
            (1, "type", "x", "opaque", True),
            (1, "a", "1", None, True),
            (2, "type", None, "linear", True),
            (2, "begin", None, "16", True),
            (2, "length", None, "8", True),
            (2, "device_name", None, "1:0", True),
            (2, "start", None, "16", True),
        ]
        assert (0, "hash_failed", None, "C", False) in found
        (*_, last) = rows(self.staged(two, (linear(0),)))
        assert last == (1, "type", "x", None, True)

    def test_an_entry_with_rules_says_it_itself(self) -> None:
        baseline = rule(f'hashes = ["{label("a", GOOD)}"]', '[[device.target]]\ntype = "linear"\nstart = 0')
        inactive = document(running(baseline, GOOD, BAD))["tables"][1]
        assert (inactive["approved"], inactive["compared_with"]) == (False, "baseline")

    def test_one_that_is_not_approved_itself(self) -> None:
        tables = document(running(approved(a=(OTHER,)), GOOD, BAD))["tables"]
        assert [each["compared_with"] for each in tables] == ["baseline", "baseline"]


class TestRules:
    def test_what_is_demanded_stands_beside_what_there_is(self) -> None:
        baseline = rule(
            "[[device.target]]",
            'type = ["linear", "crypt"]',
            "start = [0, 4]",
            'extra = "1"',
            'target_name = "linear"',
        )
        found = target_rows(running(baseline, BAD))
        assert found == [
            (0, "type", "linear or crypt", "linear", False),
            *PLACE,
            (0, "target_name", "linear", "linear", False),
            VERSION,
            (0, "device_name", None, "1:0", False),
            (0, "start", "0 or 4", "8", True),
            (0, "extra", "1", None, True),
        ]

    def test_what_obeys_them(self) -> None:
        baseline = rule("[[device.target]]", "start = 8", "length = 8", "[[device.target]]", 'start = "> 4"')
        found = {row[1]: row[2:] for row in target_rows(running(baseline, BAD))}
        assert found["start"] == ("8, > 4", "8", False)
        assert found["length"] == ("8", "8", False)

    def test_another_type_and_targets_too_many_or_too_few(self) -> None:
        baseline = rule(
            '[[device.target]]\nindex = 0\ntype = "crypt"', '[[device.target]]\nindex = 7\ntype = "x"'
        )
        found = target_rows(running(baseline, (linear(0), linear(8))))
        assert [row for row in found if row[-1]] == [
            (0, "type", "crypt", "linear", True),
            (1, "type", "no such target", "linear", True),
            (7, "type", "x", None, True),
        ]
        assert (1, "start", None, "8", False) in found

    def test_what_no_rule_speaks_of_where_only_the_fingerprint_differs(self) -> None:
        baseline = rule(f'fingerprints = ["{ZEROES}"]', '[[device.target]]\ntype = "linear"\nstart = 0')
        found = target_rows(running(baseline, GOOD))
        assert [row for row in found if row[-1]] == [(0, "device_name", None, "1:0", True)]

    def test_a_device_below_by_its_name(self) -> None:
        host = running(None, GOOD, name=b"below")
        host.kernel.create(b"a", (linear(0, "254:0"),))
        host.look(200.0)
        found = [row for row in rows(document(host, "254:1")["tables"][0]) if row[1] == "device_name"]
        assert found == [(0, "device_name", None, "dm-name:below (254:0)", False)]

    def test_an_opaque_target(self) -> None:
        assert target_rows(running(None, (opaque(),))) == [(0, "type", None, "opaque", False), *PLACE]

    def test_an_approval_that_is_over(self) -> None:
        baseline = rule("not_after = 1970-01-01T00:00:50Z", '[[device.target]]\ntype = "linear"\nstart = 0')
        host = running(baseline, GOOD)
        (table,) = document(host)["tables"]
        assert (table["approved"], table["baseline"], table["others"]) == (False, "b.toml:2", 0)
        assert not any(row[-1] for row in rows(table))

    def test_an_approved_table_that_must_not_be_loaded(self) -> None:
        baseline = rule("allow = []", f'hashes = ["{label("a", GOOD)}", "{label("a", BAD)}"]')
        active, inactive = document(running(baseline, GOOD, BAD))["tables"]
        assert (active["approved"], inactive["approved"]) == (True, False)
        assert not any(row[-1] for row in rows(inactive))


def test_of_a_long_table_what_differs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detail, "MAX_ROWS", 10)
    baseline = rule("[[device.target]]", 'type = "linear"', "[[device.target]]", "index = 2", "start = 7")
    (table,) = document(running(baseline, linears(5)))["tables"]
    assert len(table["rows"]) == 10
    assert table["rows_left_out"] == 2 + 5 * 6 - 10
    assert [row[:2] for row in rows(table)[:3]] == [(None, "hash"), (None, "fingerprint"), (0, "type")]
    assert rows(table)[-1] == (2, "start", "7", "16", True)


def test_long_values_are_cut() -> None:
    host = running(rule('[[device.target]]\nx = ["' + "y" * 600 + '"]'), (linear(0, "z" * 600),))
    found = {row[1]: row[2:4] for row in target_rows(host)}
    assert found["device_name"][1] == "z" * 500
    assert found["x"] == ("y" * 500, None)


def test_a_renamed_device_has_the_alerts_of_its_former_name() -> None:
    host = running(approved(a=(GOOD,)), BAD)
    host.kernel.rename(b"a", b"c")
    host.look(200.0)
    assert [each["device"] for each in document(host)["recent"]] == ["c", "a", "a", "a"]


def test_a_device_that_is_missed_for_want_of_a_table() -> None:
    host = Host(listed('name = "a"\nrequired = true'))
    host.kernel.create(b"a", None)
    host.kernel.load(b"a", GOOD)
    host.kernel.create(b"b", GOOD)
    host.look(200.0)
    assert [each["code"] for each in document(host)["alerts"]] == ["device.missing"]
    assert [each["code"] for each in document(host, "254:1")["alerts"]] == ["device.unexpected"]
