"""Attribute rules: what they demand, of which targets, and what is said where it is not so."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from dmimad.core import rules
from dmimad.core.configuration import Configuration, configuration_of, configuration_of_live
from dmimad.core.observation import LiveTarget
from dmimad.core.rules import RuleError, TargetRule, differences, parse_rule
from dmimad.core.table import Table

CRYPT = "target_name=crypt,target_version=1.24.0,allow_discards=n,cipher_string=aes-xts-plain64,key_size=64;"
LINEAR = "target_name=linear,target_version=1.4.0,device_name=8:3,start=2048;"
#: Instead of a text: an opaque target of this type.
ZERO, THIN = "zero", "thin"


def names(number: tuple[int, int]) -> tuple[str, ...]:
    return ("partuuid:12", "serial:x-part3") if number == (8, 3) else ()


def of(*targets: str) -> Configuration:
    """A configuration of these targets of 8 sectors, as the kernel holds them."""
    found = []
    for index, target in enumerate(targets):
        opaque = not target.startswith("target_name=")
        kind = target if opaque else target.partition("=")[2].partition(",")[0].rstrip(";")
        found.append(LiveTarget(8 * index, 8, kind, b"" if opaque else target.encode()))
    return configuration_of_live(found, names)


def listed(*targets: str, count: int | None = None) -> Configuration:
    """As the list tells them: of an opaque target not even the type."""
    text = "name=a;"
    for index, target in enumerate(targets):
        text += f"target_index={index},target_begin={8 * index},target_len=8,{target}"
    number = len(targets) if count is None else count
    return configuration_of(Table(b"\1" * 32, b"a", b"", number, (text.encode(),)), None, names)


def rule(text: str) -> TargetRule:
    return parse_rule(tomllib.loads(text))


def told(configuration: Configuration, *texts: str) -> list[tuple[int | None, str, str, str]]:
    found = differences(tuple(map(rule, texts)), configuration)
    return [(one.target, one.attribute, one.expected, one.actual) for one in found]


def with_value(value: str) -> Configuration:
    return of(f"target_name=x,v={value};")


# -- values --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "passing", "failing"),
    [
        ('"aes"', ["aes"], ["AES", "aes ", "aes-x", "", "n"]),
        ('["a", "b"]', ["a", "b"], ["ab", "a,b"]),
        ("true", ["y"], ["n", "true", "Y", "1"]),
        ("false", ["n"], ["y", "false", "0", ""]),
        ("64", ["64"], ["064", "64.0", "640"]),
        ("-1", ["-1"], ["1"]),
        (
            '">= 64"',
            ["64", "65", "18446744073709551615"],
            ["63", "", "x", "-64", "6４", "9" * 21, "9" * 5000],
        ),
        ('">=64"', ["64"], ["0"]),
        ('"<= 64"', ["0", "64"], ["65"]),
        ('"> 64"', ["65"], ["64"]),
        ('"< 64"', ["63"], ["64"]),
        ('"!= 0"', ["1"], ["0", "00", "n"]),
        ('{ pattern = "aes-xts-*" }', ["aes-xts-plain64", "aes-xts-"], ["xaes-xts-", "AES-XTS-x"]),
        ('{ pattern = "a[12]?" }', ["a1x", "a2y"], ["a3x", "a1"]),
        ('{ pattern = "*" }', ["", "n", "a\nb"], []),
        ('[64, ">= 512", { pattern = "x*" }, true]', ["64", "512", "x1", "y"], ["65", "n"]),
        ('""', [""], ["n", "x"]),
        (r"'a\\b'", ["a\\b"], ["a"]),  # measured as one backslash, written as two
    ],
)
def test_values(written: str, passing: list[str], failing: list[str]) -> None:
    for value in passing:
        assert told(with_value(value), f"v = {written}") == [], value
    for value in failing:
        (difference,) = told(with_value(value), f"v = {written}")
        assert difference[:2] == (0, "v")
        assert difference[3] == value[:300]


def test_what_is_expected_is_written_as_a_rule_has_it() -> None:
    text = 'v = ["a", ">=64", true, 7, { pattern = "b*" }]'
    assert told(with_value("z"), text) == [(0, "v", "a or >= 64 or y or 7 or b*", "z")]


@pytest.mark.parametrize(
    ("written", "absent_passes"),
    [
        ('"n"', True),
        ("false", True),
        ('["y", "n"]', True),
        ('{ pattern = "*" }', True),
        ("true", False),
        ('"x"', False),
        ('">= 0"', False),
        ('"!= 1"', False),
        ('""', False),
    ],
)
def test_what_a_kernel_does_not_write_is_taken_for_n(written: str, absent_passes: bool) -> None:
    found = told(of(LINEAR), f"type = 'linear'\nv = {written}")
    assert (found == []) is absent_passes
    assert [difference[3] for difference in found] == [] if absent_passes else ["none"]


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("partuuid:12", True),
        ("serial:x-part3", True),
        ("number:8:3", True),
        ("8:3", True),
        ("partuuid:13", False),
        ("8:4", False),
    ],
)
def test_a_device_below_by_any_of_its_names(name: str, passes: bool) -> None:
    found = told(of(LINEAR), f"device_name = '{name}'")
    assert found == ([] if passes else [(0, "device_name", name, "partuuid:12")])
    assert (told(of(LINEAR.replace("8:3", "8:4")), "device_name = 'number:8:4'")) == []


def test_place_and_length() -> None:
    two = of(LINEAR, CRYPT)
    assert told(two, "index = 0\nbegin = 0\nlength = 8", "index = 1\nbegin = 8\nlength = '>= 8'") == []
    assert told(two, "index = 0\nbegin = 8", "index = 1\nlength = 16") == [
        (0, "begin", "8", "0"),
        (1, "length", "16", "8"),
    ]


def test_all_that_differs_is_told_in_the_order_of_targets_and_rules() -> None:
    found = told(
        of(CRYPT, LINEAR),
        "type = 'crypt'\nallow_discards = true\nkey_size = 32",
        "type = 'linear'\nstart = 0",
    )
    assert found == [
        (0, "allow_discards", "y", "n"),
        (0, "key_size", "32", "64"),
        (1, "start", "0", "2048"),
    ]


def test_a_value_cannot_hide_behind_one_that_mimics_it() -> None:
    mimic = "target_name=verity,check_at_most_once=y,root_hash_sig_key_desc=x,check_at_most_once=n;"
    assert told(of(mimic), "check_at_most_once = 'n'") == [(0, "check_at_most_once", "n", "y")]
    late = "target_name=verity,check_at_most_once=n,root_hash_sig_key_desc=x,check_at_most_once=y;"
    assert told(of(late), "check_at_most_once = 'n'") == [(0, "check_at_most_once", "n", "y")]


# -- targets -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "texts", "expected"),
    [
        ((CRYPT,), ["type = 'crypt'"], []),
        ((CRYPT,), ["index = 0"], []),
        ((CRYPT, LINEAR), ["type = ['crypt', 'linear']"], []),
        ((CRYPT, LINEAR), ["key_size = [64, 'n']"], []),  # all targets
        ((LINEAR,), ["type = 'crypt'"], [(0, "type", "crypt", "linear")]),
        ((LINEAR,), ["index = 0\ntype = 'crypt'"], [(0, "type", "crypt", "linear")]),
        ((ZERO,), ["type = 'crypt'"], [(0, "type", "crypt", "zero")]),
        ((ZERO,), ["type = 'zero'"], []),
        ((ZERO,), ["type = 'error'"], [(0, "type", "error", "zero")]),
        ((ZERO,), ["type = 'zero'\nv = 'x'"], [(0, "v", "x", "none")]),
        ((CRYPT, LINEAR), ["type = 'crypt'"], [(1, "type", "crypt", "linear")]),
        ((CRYPT, LINEAR), ["index = 0"], [(1, "type", "no such target", "linear")]),
        ((CRYPT,), ["index = 0", "index = 1"], [(1, "type", "a target", "no such target")]),
        ((CRYPT,), ["index = 0", "index = 1\ntype = 'linear'"], [(1, "type", "linear", "no such target")]),
        ((CRYPT,), ["type = 'crypt'", "type = 'linear'"], [(None, "type", "linear", "no such target")]),
        ((ZERO,), ["type = 'crypt'", "type = 'linear'"], [(0, "type", "crypt or linear", "zero")]),
        ((), ["type = 'crypt'"], [(None, "type", "crypt", "no such target")]),
        ((), ["v = 1"], [(None, "type", "a target", "no such target")]),
        ((), [], []),
        ((LINEAR,), [], []),
    ],
)
def test_the_rules_describe_the_whole_table(
    targets: tuple[str, ...], texts: list[str], expected: list[tuple[int | None, str, str, str]]
) -> None:
    assert told(of(*targets), *texts) == expected


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["type = 'thin'"], []),  # it may be one
        (["type = ['linear', 'thin']"], []),
        (["index = 0\ntype = 'thin'"], []),
        (["type = 'linear'"], [(0, "type", "linear", "opaque")]),
        (["type = ['linear', 'verity']"], [(0, "type", "linear or verity", "opaque")]),
        (["index = 0\ntype = 'crypt'"], [(0, "type", "crypt", "opaque")]),
        (["index = 0\ncipher_string = 'aes'"], [(0, "cipher_string", "aes", "none")]),
        (["cipher_string = 'aes'"], [(0, "cipher_string", "aes", "none")]),
        (["type = 'thin'\npool = 'x'"], [(0, "pool", "x", "none")]),
        (["type = 'thin'\nlength = 8"], []),
        (["index = 0\nallow_discards = false"], []),
    ],
)
def test_a_type_that_nobody_has_told(
    texts: list[str], expected: list[tuple[int | None, str, str, str]]
) -> None:
    assert told(listed(""), *texts) == expected


def test_a_rule_may_wait_for_a_target_that_is_not_known() -> None:
    hole = listed(LINEAR, count=2)
    assert not hole.complete
    assert told(hole, "index = 0", "index = 1\ntype = 'crypt'") == []
    assert told(hole, "index = 0\nstart = 1", "index = 1") == [(0, "start", "1", "2048")]


def test_thousands_of_rules_and_targets_take_no_time_in_their_product() -> None:
    """Each target is held to the rules for it, not to all."""
    asked = 0

    class Counted(TargetRule):
        def concerns(self, target: Any) -> bool:
            nonlocal asked
            asked += 1
            return super().concerns(target)

    many = tuple(Counted(index, ("zero",), ()) for index in range(2000))
    assert differences(many, of(*[ZERO] * 2000)) == ()
    assert asked == 2000


# -- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("", "", "needs an index, a type or an attribute"),
        ("index = -1", "index", "must be a number from 0"),
        ("index = true", "index", "must be a number from 0"),
        ("index = '0'", "index", "must be a number from 0"),
        ("index = 0.0", "index", "must be a number from 0"),
        ("type = 1", "type", "must be a target type, or a list of them"),
        ("type = ''", "type", "must be a target type, or a list of them"),
        ("type = ['linear', 1]", "type", "must be a target type, or a list of them"),
        ("type = []", "type", "must name at least one target type"),
        ("Key = 1", "Key", "is not the name of an attribute"),
        ("'key-size' = 1", "key-size", "is not the name of an attribute"),
        ("'' = 1", "", "is not the name of an attribute"),
        (f"{'k' * 65} = 1", "k" * 65, "is not the name of an attribute"),
        ("v = []", "v", "must allow at least one value"),
        ("v = 1.5", "v", "must be a text, a number, true, false, a pattern or a list of these"),
        ("v = [[1]]", "v", "must be a text, a number, true, false, a pattern or a list of these"),
        ("v = 2026-01-01", "v", "must be a text, a number, true, false, a pattern or a list of these"),
        ("v = { regex = 'x' }", "v", 'the only such form is { pattern = "…" }'),
        ("v = { pattern = 1 }", "v", 'the only such form is { pattern = "…" }'),
        ("v = { pattern = 'a', or = 'b' }", "v", 'the only such form is { pattern = "…" }'),
        ("v.w = 1", "v", 'the only such form is { pattern = "…" }'),
        ("v = '>= '", "v", "'>= ' is not a comparison like '>= 64'"),
        ("v = '>= -1'", "v", "'>= -1' is not a comparison like '>= 64'"),
        ("v = '!aes'", "v", "'!aes' is not a comparison like '>= 64'"),
        ("v = '>= 64k'", "v", "'>= 64k' is not a comparison like '>= 64'"),
        (f"v = '> {'9' * 21}'", "v", f"'> {'9' * 21}' is not a comparison like '>= 64'"),
    ],
)
def test_refusals_name_key_and_reason(text: str, key: str, reason: str) -> None:
    with pytest.raises(RuleError) as raised:
        rule(text)
    assert raised.value.key == key
    assert raised.value.reason == reason
    assert str(raised.value) == (f"{key}: {reason}" if key else reason)


def test_values_are_limited_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_ALTERNATIVES", 2)
    assert told(with_value("b"), "v = ['a', 'b']") == []
    with pytest.raises(RuleError, match=r"^v: more than 2 values$"):
        rule("v = ['a', 'b', 'c']")


def test_a_long_value_is_repeated_in_part() -> None:
    ((_, _, _, actual),) = told(with_value("x" * 1000), "v = 'y'")
    assert actual == "x" * 300
