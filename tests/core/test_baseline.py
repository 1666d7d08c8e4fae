"""Baseline files: what is refused and with which words, and which entry speaks for a device."""

from __future__ import annotations

import pytest

from dmimad.core import baseline
from dmimad.core.baseline import Baseline, Entry, Operation, merge, parse_baseline
from dmimad.core.errors import BaselineError, DmimadError
from dmimad.core.finding import Severity

A, B, C = "a" * 64, "b" * 64, "c" * 64
HEAD = "version = 1\n"


def parse(*lines: str) -> Baseline:
    """A file with these lines after the version."""
    return parse_baseline(HEAD + "\n".join(lines) + "\n", "site.toml")


def entry(*lines: str) -> Entry:
    """The only entry of a file."""
    (found,) = parse("[[device]]", *lines).entries
    return found


def digests(*hashes: str) -> frozenset[bytes]:
    return frozenset(map(bytes.fromhex, hashes))


# -- what is understood --------------------------------------------------------------------


def test_all_keys_of_an_entry() -> None:
    found = entry(
        'name = "image-ro"', 'uuid = "CRYPT-*"', "required = true", f'hashes = ["sha256:{A}", "{B}"]'
    )
    assert (found.name, found.uuid, found.required) == ("image-ro", "CRYPT-*", True)
    assert found.hashes == digests(A, B)
    assert found.origin == "site.toml:2"
    assert found.label == "image-ro"


def test_what_is_left_out_has_a_default() -> None:
    found = entry('uuid = "LVM-1"')
    assert (found.name, found.required, found.hashes, found.label) == ("", False, frozenset(), "LVM-1")


def test_an_empty_file_approves_nothing() -> None:
    assert parse().entries == ()
    assert parse().entries_for(b"any", b"") == ()


def test_origins_are_the_lines_of_the_entries() -> None:
    found = parse("", "[[device]] # first", 'name = "a"', "  [[ device ]]", 'name = "b"')
    assert [entry.origin for entry in found.entries] == ["site.toml:3", "site.toml:5"]


def test_entries_written_inline_are_told_apart() -> None:
    found = parse('device = [{name = "a"}, {name = "b"}]')
    assert [(entry.name, entry.origin) for entry in found.entries] == [
        ("a", "site.toml:1#1"),
        ("b", "site.toml:1#2"),
    ]


def test_files_merge_in_order() -> None:
    files = [parse("[[device]]", f'name = "{name}"') for name in "ab"]
    assert [entry.name for entry in merge(files).entries] == ["a", "b"]
    assert merge([]) == Baseline()


# -- what is refused -----------------------------------------------------------------------

REFUSED = {
    "unknown key": ("versoin = 1", "", 1, "versoin", "unknown key; did you mean version?"),
    "unknown key, nothing like it": ("version = 1\nqqq = 1", "", 2, "qqq", "unknown key"),
    "unknown table": (
        "version = 1\n[devices]\nname='a'",
        "",
        2,
        "devices",
        "unknown key; did you mean device?",
    ),
    "no version": ("[[device]]\nname='a'", "", None, "version", "must be 1"),
    "another version": ("\nversion = 2", "", 2, "version", "must be 1"),
    "version true": ("version = true", "", 1, "version", "must be 1"),
    "device a table": ("version = 1\n[device]\nname='a'", "", 2, "device", "entries are written [[device]]"),
    "device a list of numbers": (
        "version = 1\ndevice = [1]",
        "",
        2,
        "device",
        "entries are written [[device]]",
    ),
    "misspelt": ("hash = []", "name = 'a'", 4, "device.hash", "unknown key; did you mean hashes?"),
    "quoted key": (
        "'requird' = true",
        "name = 'a'",
        4,
        "device.requird",
        "unknown key; did you mean required?",
    ),
    "name a number": ("name = 1", "", 3, "device.name", "must be a text, or left out"),
    "empty name": ("name = ''", "uuid = 'x'", 4, "device.name", "must be a text, or left out"),
    "empty uuid": ("uuid = ''", "name = 'x'", 4, "device.uuid", "must be a text, or left out"),
    "nothing to match": ("required = true", "", 2, "device", "needs a name or a uuid"),
    "required a text": ("required = 'yes'", "name = 'a'", 4, "device.required", "must be true or false"),
    "hashes a text": (
        "hashes = 'x'",
        "name = 'a'",
        4,
        "device.hashes",
        'must be a list of texts like "sha256:…"',
    ),
    "hashes of numbers": (
        "hashes = [1]",
        "name = 'a'",
        4,
        "device.hashes",
        'must be a list of texts like "sha256:…"',
    ),
    "upper case": (
        f"hashes = ['sha256:{'A' * 64}']",
        "name = 'a'",
        4,
        "device.hashes",
        f"'sha256:{'A' * 64}' is not a table hash: sha256: and 64 hexadecimal digits",
    ),
    "another digest": (
        f"hashes = ['{A}', 'sha1:{'a' * 40}']",
        "name = 'a'",
        4,
        "device.hashes",
        f"'sha1:{'a' * 40}' is not a table hash: sha256: and 64 hexadecimal digits",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_refusals_say_file_line_key_and_reason(case: tuple[str, str, int | None, str, str]) -> None:
    text, before, line, key, reason = case
    if key.startswith("device") and "version" not in text:
        text = HEAD + f"[[device]]\n{before}\n{text}" if before else HEAD + f"[[device]]\n{text}"
    with pytest.raises(BaselineError) as raised:
        parse_baseline(text, "site.toml")
    error = raised.value
    assert (error.file, error.line, error.key, error.reason) == ("site.toml", line, key, reason)
    where = "site.toml" if line is None else f"site.toml:{line}"
    assert str(error) == f"{where}: {key}: {reason}"
    assert isinstance(error, DmimadError)


def test_the_line_is_that_of_the_entry_at_fault() -> None:
    lines = ("[[device]]", 'name = "a"', "required = true", "[[device]]", 'name = "b"', "required = 1")
    with pytest.raises(BaselineError, match=r"^site\.toml:7: device\.required: must be true or false$"):
        parse(*lines)


def test_a_key_written_dotted_is_found() -> None:
    with pytest.raises(BaselineError) as raised:
        parse("[[device]]", 'name = "a"', 'target.type = "verity"')
    assert (raised.value.key, raised.value.line) == ("device.target", None)


def test_text_that_is_not_toml() -> None:
    with pytest.raises(BaselineError) as raised:
        parse_baseline("version = 1\n[[device]]\nname = \n", "site.toml")
    assert raised.value.line == 3
    assert str(raised.value) == "site.toml:3: Invalid value"


def test_toml_that_ends_too_early_has_no_line() -> None:
    with pytest.raises(BaselineError) as raised:
        parse_baseline('version = """1', "site.toml")
    assert raised.value.line is None
    assert str(raised.value).startswith("site.toml: ")
    assert "column" not in str(raised.value)


def test_size_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "MAX_BASELINE_BYTES", 60)
    monkeypatch.setattr(baseline, "MAX_ENTRIES", 2)
    two = HEAD + 'device = [{name = "a"}, {name = "b"}]'
    assert len(parse_baseline(two.ljust(60), "site.toml").entries) == 2
    with pytest.raises(BaselineError, match=r"^site\.toml: larger than 60 bytes$"):
        parse_baseline(two.ljust(61), "site.toml")
    with pytest.raises(BaselineError, match=r"^site\.toml: device: more than 2 entries$"):
        parse_baseline("version=1\ndevice=[{name='a'},{name='b'},{name='c'}]", "site.toml")


# -- which entry speaks for a device -------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "name", "uuid", "matches"),
    [
        (('name = "a"',), b"a", b"", True),
        (('name = "a"',), b"ab", b"", False),
        (('name = "a"',), b"A", b"", False),
        (('name = "a*"',), b"abc", b"anything", True),
        (('name = "a?"',), b"a", b"", False),
        (('name = "a?"',), b"ab", b"", True),
        (('name = "a[0-3]"',), b"a2", b"", True),
        (('name = "a[0-3]"',), b"a4", b"", False),
        (('name = "a[!0-3]"',), b"a4", b"", True),
        (('name = "a.c"',), b"abc", b"", False),
        (('name = "*"',), b"two\nlines", b"", True),
        (('uuid = "LVM-*"',), b"any", b"LVM-1", True),
        (('uuid = "LVM-*"',), b"any", b"CRYPT-1", False),
        (('uuid = "?*"',), b"any", b"", False),
        (('name = "a"', 'uuid = "LVM-1"'), b"a", b"LVM-1", True),
        (('name = "a"', 'uuid = "LVM-1"'), b"a", b"LVM-2", False),
        (('name = "a"', 'uuid = "LVM-1"'), b"b", b"LVM-1", False),
        (("name = 'a\\xff'",), b"a\xff", b"", True),
        (("name = 'a\\xff'",), b"a\xfe", b"", False),
        (('name = "ä"',), "ä".encode(), b"", True),
    ],
)
def test_patterns(lines: tuple[str, ...], name: bytes, uuid: bytes, matches: bool) -> None:
    found = parse("[[device]]", *lines)
    assert (found.entries_for(name, uuid) == found.entries) is matches


#: Each beats all that come after it, for the device vg0-data with the uuid LVM-1.
RANKED = (
    ('name = "vg0-data"', 'uuid = "LVM-1"'),
    ('name = "vg0-data"', 'uuid = "LVM-*"'),
    ('name = "vg0-data"',),
    ('uuid = "LVM-1"',),
    ('name = "vg0-d[abc]ta"', 'uuid = "?VM-?"'),
    ('name = "vg0-dat?"',),
    ('name = "vg0-*"',),
    ('uuid = "LVM*"',),
    ('name = "*"',),
)


@pytest.mark.parametrize("upper", range(len(RANKED) - 1))
def test_the_most_specific_entry_speaks(upper: int) -> None:
    better, worse = RANKED[upper], RANKED[upper + 1]
    for order in ((better, worse), (worse, better)):
        found = parse(*(line for lines in order for line in ("[[device]]", *lines)))
        (chosen,) = found.entries_for(b"vg0-data", b"LVM-1")
        assert chosen.origin == found.entries[order.index(better)].origin


def test_equally_specific_entries_are_taken_together() -> None:
    first = parse("[[device]]", 'name = "a"', f'hashes = ["{A}"]')
    second = parse("[[device]]", 'name = "a"', "required = true", f'hashes = ["{B}"]')
    third = parse("[[device]]", 'name = "*"', f'hashes = ["{C}"]')
    together = merge([third, first, second]).entries_for(b"a", b"")
    assert together == (*first.entries, *second.entries)


def test_one_that_is_alone_is_taken_as_it_is() -> None:
    found = merge([parse("[[device]]", 'name = "a"'), parse("[[device]]", 'name = "b"', "required = true")])
    assert found.entries_for(b"a", b"") == found.entries[:1]
    assert found.entries_for(b"b", b"") == found.entries[1:]


@pytest.mark.parametrize(
    ("lines", "exact"),
    [
        (('name = "a"',), True),
        (('uuid = "a"',), True),
        (('name = "a*"', 'uuid = "a"'), True),
        (('name = "a*"',), False),
        (('name = "a?"', 'uuid = "[ab]"'), False),
    ],
)
def test_is_exact(lines: tuple[str, ...], exact: bool) -> None:
    assert entry(*lines).is_exact is exact


def test_wildcards_that_stand_for_themselves() -> None:
    found = parse("[[device]]", 'name = "a[*][?][[]"', 'uuid = "LVM-[*]"')
    (one,) = found.entries
    assert (one.label, one.exact_name, one.exact_uuid, one.is_exact) == ("a*?[", "a*?[", "LVM-*", True)
    assert found.entries_for(b"a*?[", b"LVM-*") == found.entries
    assert found.entries_for(b"abc[", b"LVM-*") == ()
    assert found.named(b"a*?[") == found.identified(b"LVM-*") == found.entries
    mixed = entry('name = "a[*]*"')
    assert (mixed.label, mixed.exact_name, mixed.is_exact) == ("a**", "", False)
    assert mixed.matches("a*b", "")
    assert not mixed.matches("abb", "")
    # A quoted wildcard is one character of literal text, a set of characters is none.
    assert entry('name = "a[*]*"').specificity > entry('name = "a[xy]*"').specificity


# -- everything but hashes -----------------------------------------------------------------

FINGERPRINT = "config:" + "a" * 64


def test_all_further_keys_of_an_entry() -> None:
    found = entry(
        'name = "a"',
        f'fingerprints = ["{FINGERPRINT}"]',
        'allow = ["rename", "remove"]',
        'severity = "warning"',
        'staged_severity = "critical"',
        "not_before = 2026-12-24T18:00:00+01:00",
        "not_after = 2026-12-24T18:00:00Z",
        'description = "the data"',
        "[[device.target]]",
        'type = "verity"',
        'root_digest = "8343"',
        "[[device.target]]",
        "index = 1",
    )
    assert found.fingerprints == {FINGERPRINT}
    assert found.allow == {Operation.RENAME, Operation.REMOVE}
    assert (found.severity, found.staged_severity) == (Severity.WARNING, Severity.CRITICAL)
    assert (found.not_before, found.not_after) == (1_798_131_600.0, 1_798_135_200.0)
    assert found.description == "the data"
    assert [(rule.index, rule.types) for rule in found.rules] == [(None, ("verity",)), (1, ())]
    assert found.rules[0].conditions[0].attribute == "root_digest"


def test_what_an_entry_demands() -> None:
    assert not entry('name = "a"').demands
    assert not entry('name = "a"', "hashes = []", "fingerprints = []").demands
    for line in (f'hashes = ["{A}"]', f'fingerprints = ["{FINGERPRINT}"]', "target = [{index = 0}]"):
        assert entry('name = "a"', line).demands
        assert entry('name = "a"', line).looks_at_configuration is not line.startswith("hashes")
        assert parse("[[device]]", 'name = "a"', line).looks_at_configuration is not line.startswith("hashes")
    assert entry('name = "a"').allow == {Operation.RELOAD}
    assert entry('name = "a"', "allow = []").allow == frozenset()


def test_a_serial() -> None:
    assert parse("serial = 7").serial == 7
    assert parse().serial is None
    assert merge([parse("serial = 7"), parse("serial = 8")]).serial is None
    assert merge([parse("serial = 7")]).serial is None


RULE = "[[device]]\nname = 'a'\n[[device.target]]\n"
REFUSED_TOO = {
    "fingerprints of another kind": (
        "[[device]]\nname = 'a'\nfingerprints = ['sha256:00']",
        "4: device.fingerprints: 'sha256:00' is not a fingerprint: config: and 64 hexadecimal digits",
    ),
    "fingerprints in upper case": (
        f"[[device]]\nname = 'a'\nfingerprints = ['config:{'A' * 64}']",
        f"4: device.fingerprints: 'config:{'A' * 64}' is not a fingerprint: "
        "config: and 64 hexadecimal digits",
    ),
    "operation": (
        "[[device]]\nname = 'a'\nallow = ['resize']",
        "4: device.allow: 'resize' is not a valid Operation; the operations are rename, reload, remove",
    ),
    "operations in a text": (
        "[[device]]\nname = 'a'\nallow = 'rename'",
        '4: device.allow: must be a list of texts like "rename"',
    ),
    "severity": (
        "[[device]]\nname = 'a'\nseverity = 'low'",
        "4: device.severity: must be info, warning, critical",
    ),
    "severity a number": (
        "[[device]]\nname = 'a'\nstaged_severity = 1",
        "4: device.staged_severity: must be info, warning, critical",
    ),
    "time without an offset": (
        "[[device]]\nname = 'a'\nnot_after = 2026-12-24T18:00:00",
        "4: device.not_after: must be a time with its offset, like 2026-12-24T18:00:00Z",
    ),
    "date": (
        "[[device]]\nname = 'a'\nnot_before = 2026-12-24",
        "4: device.not_before: must be a time with its offset, like 2026-12-24T18:00:00Z",
    ),
    "time as a text": (
        "[[device]]\nname = 'a'\nnot_before = '2026-12-24T18:00:00Z'",
        "4: device.not_before: must be a time with its offset, like 2026-12-24T18:00:00Z",
    ),
    "end before the beginning": (
        "[[device]]\nname = 'a'\nnot_before = 2026-12-24T18:00:00Z\nnot_after = 2026-12-24T18:00:00Z",
        "5: device.not_after: must be later than not_before",
    ),
    "description": (
        "[[device]]\nname = 'a'\ndescription = 1",
        "4: device.description: must be a text, or left out",
    ),
    "serial": ("serial = -1", "2: serial: must be a number from 0"),
    "serial true": ("serial = true", "2: serial: must be a number from 0"),
    "serial too large": (f"serial = {1 << 63}", "2: serial: must be a number from 0"),
    "rules in one table": (
        "[[device]]\nname = 'a'\n[device.target]\ntype = 'x'",
        "4: device.target: rules are written [[device.target]]",
    ),
    "no rules": ("[[device]]\nname = 'a'\ntarget = []", "4: device.target: has no rules; leave it out"),
    "an empty rule": (RULE, "4: device.target: needs an index, a type or an attribute"),
    "a rule": (
        RULE + "key_size = '>= x'",
        "5: device.target.key_size: '>= x' is not a comparison like '>= 64'",
    ),
    "the second rule of the second entry": (
        RULE + "type = 'x'\n" + RULE + "type = 'x'\n[[ device . target ]]\nindex = 0\ntype = []",
        "12: device.target.type: must name at least one target type",
    ),
    "a rule in one line": (
        "[[device]]\nname = 'a'\ntarget = [{v = []}]\n" + RULE + "v = 1",
        "8: device.target.v: must allow at least one value",
    ),
    "a key of a rule on the entry": (
        "[[device]]\nname = 'a'\nroot_digest = 'x'",
        "4: device.root_digest: unknown key",
    ),
}


@pytest.mark.parametrize("case", REFUSED_TOO.values(), ids=REFUSED_TOO.keys())
def test_refusals_of_further_keys(case: tuple[str, str]) -> None:
    text, problem = case
    with pytest.raises(BaselineError) as raised:
        parse_baseline(HEAD + text + "\n", "site.toml")
    assert str(raised.value) == f"site.toml:{problem}"


def test_rules_are_limited_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "MAX_RULES", 1)
    with pytest.raises(BaselineError, match=r"^site\.toml:4: device\.target: more than 1 rules$"):
        parse("[[device]]", 'name = "a"', "[[device.target]]", "index = 0", "[[device.target]]", "index = 1")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = " + "[" * 200_000, "is nested too deeply"),
        ("a = " + "9" * 5000, ""),
        ("a = 2026-13-01", ""),
        ("\0", ""),
    ],
    ids=["nested", "a long number", "no such date", "NUL"],
)
def test_hostile_toml_is_refused_in_one_line(text: str, problem: str) -> None:
    with pytest.raises(BaselineError, match=rf"^site\.toml.*{problem}") as raised:
        parse_baseline(HEAD + text, "site.toml")
    assert "\n" not in str(raised.value)


def test_a_description_is_kept_in_part() -> None:
    assert entry('name = "a"', f'description = "{"x" * 900}"').description == "x" * 500


# -- for a time ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "valid"),
    [
        ((), [True, True, True, True]),
        (("not_before = 1970-01-01T00:01:40Z",), [False, True, True, True]),
        (("not_after = 1970-01-01T00:03:20Z",), [True, True, True, False]),
        (
            ("not_before = 1970-01-01T00:01:40Z", "not_after = 1970-01-01T00:03:20Z"),
            [False, True, True, False],
        ),
    ],
)
def test_when_an_approval_is_valid(lines: tuple[str, ...], valid: list[bool]) -> None:
    found = entry('name = "a"', *lines)
    assert [found.is_valid(now) for now in (99.9, 100.0, 199.9, 200.0)] == valid


def test_when_something_changes_next() -> None:
    found = parse(
        "[[device]]",
        'name = "a"',
        "not_after = 1970-01-01T00:03:20Z",
        "[[device]]",
        'name = "b"',
        "not_before = 1970-01-01T00:01:40Z",
    )
    assert [found.next_change(now) for now in (0.0, 99.9, 100.0, 199.9, 200.0)] == [
        100.0,
        100.0,
        200.0,
        200.0,
        None,
    ]
    assert parse("[[device]]", 'name = "a"').next_change(0.0) is None


def test_when_something_changes_for_a_device() -> None:
    found = parse(
        "[[device]]",
        'name = "a"',
        "not_before = 1970-01-01T00:00:10Z",
        "not_after = 1970-01-01T00:00:40Z",
        "[[device]]",
        'uuid = "U"',
        "not_after = 1970-01-01T00:00:20Z",
        "[[device]]",
        'name = "a*"',
        "not_after = 1970-01-01T00:00:30Z",
        "[[device]]",
        'name = "b"',
        "not_after = 1970-01-01T00:00:50Z",
    )
    assert found.changes_for([(b"a", b"")]) == (10.0, 30.0, 40.0)
    assert found.changes_for([(b"ab", b"U")]) == (20.0, 30.0)
    assert found.changes_for([(b"c", b""), (b"b", b"")]) == (50.0,)
    assert found.changes_for([(b"c", b"")]) == ()


def test_what_has_not_begun_takes_nothing_from_what_is_approved_until_then() -> None:
    found = parse(
        "[[device]]",
        'name = "a*"',
        "[[device]]",
        'name = "abc"',
        "not_before = 1970-01-01T00:01:40Z",
        "not_after = 1970-01-01T00:03:20Z",
    )
    general, special = found.entries
    assert found.entries_for(b"abc", b"") == (special,)
    assert found.entries_for(b"abc", b"", now=99.0) == (general,)
    assert found.entries_for(b"abc", b"", now=100.0) == (special,)
    assert found.entries_for(b"abc", b"", now=200.0) == (special,)  # what has ended is not made up for
    alone = Baseline((special,))
    assert alone.entries_for(b"abc", b"", now=0.0) == (special,)


# -- thousands of entries ------------------------------------------------------------------


def test_a_device_is_held_only_to_entries_that_may_be_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f'[[device]]\nname = "n{number}"\n' for number in range(3000)]
    lines += [f'[[device]]\nuuid = "u{number}"\n[[device.target]]\nindex = 0\n' for number in range(3000)]
    found = parse(*lines, "[[device]]", 'name = "n*"')
    assert len(found.entries) == 6001
    asked: list[str] = []
    matches = Entry.matches

    def counted(self: Entry, name: str, uuid: str) -> bool:
        asked.append(self.label)
        return matches(self, name, uuid)

    monkeypatch.setattr(Entry, "matches", counted)
    (chosen,) = found.entries_for(b"n2999", b"u0")
    assert asked == ["n2999", "u0", "n*"]
    assert chosen.origin == "site.toml:" + str(2 + 2999 * 3)
    assert found.entries[5999].origin == "site.toml:" + str(2 + 3000 * 3 + 2999 * 5)


def test_an_entry_found_by_name_and_by_uuid_is_one() -> None:
    found = parse("[[device]]", 'name = "a"', 'uuid = "u"')
    assert found.entries_for(b"a", b"u") == found.entries
    assert (found.entries_for(b"a", b"v"), found.entries_for(b"b", b"u")) == ((), ())
    assert found.named(b"a") == found.identified(b"u") == found.entries
    assert (found.named(b"b"), found.identified(b"v")) == ((), ())
