"""Baseline files: what is refused and with which words, and which entry speaks for a device."""

from __future__ import annotations

import pytest

from dmimad.core import baseline
from dmimad.core.baseline import Baseline, Entry, merge, parse_baseline
from dmimad.core.errors import BaselineError, DmimadError

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
    assert parse().entry_for(b"any", b"") is None


def test_origins_are_the_lines_of_the_entries() -> None:
    found = parse("", "[[device]] # first", 'name = "a"', "  [[ device ]]", 'name = "b"')
    assert [entry.origin for entry in found.entries] == ["site.toml:3", "site.toml:5"]


def test_entries_written_inline_have_the_first_line_as_origin() -> None:
    found = parse('device = [{name = "a"}, {name = "b"}]')
    assert [(entry.name, entry.origin) for entry in found.entries] == [
        ("a", "site.toml:1"),
        ("b", "site.toml:1"),
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
    "fingerprints": (
        "fingerprints = ['config:00']",
        "name = 'a'",
        4,
        "device.fingerprints",
        "not supported by this version; approve table hashes with `hashes`",
    ),
    "target rules": (
        "[[device.target]]\ntype = 'verity'",
        "name = 'a'",
        4,
        "device.target",
        "not supported by this version; approve table hashes with `hashes`",
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
    assert (found.entry_for(name, uuid) is not None) is matches


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
        chosen = found.entry_for(b"vg0-data", b"LVM-1")
        assert chosen is not None
        assert chosen.origin == found.entries[order.index(better)].origin


def test_equally_specific_entries_are_taken_together() -> None:
    first = parse("[[device]]", 'name = "a"', f'hashes = ["{A}"]')
    second = parse("[[device]]", 'name = "a"', "required = true", f'hashes = ["{B}"]')
    third = parse("[[device]]", 'name = "*"', f'hashes = ["{C}"]')
    together = merge([third, first, second]).entry_for(b"a", b"")
    assert together is not None
    assert (together.name, together.hashes, together.required) == ("a", digests(A, B), True)
    assert together.origin == first.entries[0].origin
    assert together.matches("a", "")
    assert not together.matches("b", "")


def test_one_that_is_alone_is_taken_as_it_is() -> None:
    found = merge([parse("[[device]]", 'name = "a"'), parse("[[device]]", 'name = "b"', "required = true")])
    assert found.entry_for(b"a", b"") is found.entries[0]
    assert found.entry_for(b"b", b"") is found.entries[1]


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
