"""The fuzz target with the same thousands of inputs in every run: random bytes, mutated lists, odd texts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dmimad.core.errors import MalformedError
from dmimad.core.event import EventKind, escape, parse_event, unescape
from tests.core.histories import BOUNDED
from tests.core.lists import Item, binary_list, boot, buffer, file
from tests.core.recorded import ALL_FORMS, Form, items
from tests.fuzz import __main__ as by_hand
from tests.fuzz.seeds import small_lists
from tests.fuzz.target import check_baseline, check_list, check_monitor, mutated, steps_of

MANY = settings(BOUNDED, max_examples=300)
CUTS = st.lists(st.integers(0, 1 << 30), max_size=5)


HEADS = st.sampled_from(
    [
        b"",
        b"10 " + b"0" * 40 + b" ima-ng ",
        b"10 " + b"a" * 64 + b" ima-buf sha256:",
        binary_list([file(b"/bin/sh")]),
        binary_list([file(b"/bin/sh")], "sha256", "big"),
        binary_list(boot()),
        b"\x0a\0\0\0" + bytes(20) + b"\7\0\0\0ima-buf",
        b"\x0a\0\0\0" + bytes(20) + b"\3\0\0\0ima",
    ]
)


@given(head=HEADS, data=st.binary(max_size=2000), cuts=CUTS)
@example(head=b"10 " + b"0" * 40 + b" ima-ng ", data=b"\n" * 20, cuts=[50, 51, 60])
@MANY
def test_random_bytes(head: bytes, data: bytes, cuts: list[int]) -> None:
    check_list(head + data, cuts)
    check_monitor(head + data, cuts)


@pytest.mark.parametrize("number", range(12))
def test_mutated_small_lists(number: int) -> None:
    """Each of the short lists, changed a few dozen times."""
    seeds, choose = small_lists(), random.Random(number)
    for _ in range(40):
        data = mutated(seeds[number], choose.choice(seeds), choose)
        cuts = [choose.randrange(1 << 30) for _ in range(choose.randrange(4))]
        check_list(data, cuts)
        check_monitor(data, cuts[:2])


@pytest.mark.parametrize(("name", "form"), ALL_FORMS, ids=str)
def test_mutated_real_lists(name: str, form: Form) -> None:
    data, choose = form.path.read_bytes(), random.Random(name)
    for _ in range(3):
        check_list(mutated(data, data, choose), [choose.randrange(1 << 30) for _ in range(3)])


def test_the_search_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It works without atheris, and leaves nothing behind where nothing fails."""
    monkeypatch.chdir(tmp_path)
    assert by_hand.run(float("inf"), seed=1, most=4) == 0
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(by_hand, "check_list", lambda data, cuts: 1 // 0)
    assert by_hand.run(float("inf"), seed=1, most=2) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["failed-1-0", "failed-1-1"]


# -- texts of dm events --------------------------------------------------------------------

NAME = st.binary(max_size=12).map(escape) | st.sampled_from([b"a", b"root", b"a\\", b"=", b""])
NUMBER = st.integers(0, 300).map(lambda number: b"%d" % number) | st.sampled_from(
    [b"", b"-1", b"9" * 30, b"0x1"]
)
METADATA = st.builds(
    lambda name, uuid, major, minor, targets: (
        b"name=%s,uuid=%s,major=%s,minor=%s,minor_count=1,num_targets=%s;"
        % (name, uuid, major, minor, targets)
    ),
    *(NAME, NAME, st.just(b"254") | NUMBER, st.sampled_from([b"0", b"1"]) | NUMBER),
    st.sampled_from([b"0", b"1", b"2"]) | NUMBER,
)
TARGET = st.builds(
    lambda index, begin, length, text: (
        b"target_index=%s,target_begin=%s,target_len=%s,%s" % (index, begin, length, text)
    ),
    *(st.sampled_from([b"0", b"1"]) | NUMBER, NUMBER, NUMBER),
    st.sampled_from([b"", b"target_name=linear,target_version=1.4.0,device_name=1:0,start=0;"])
    | st.binary(max_size=20),
)
HASH = st.sampled_from([b"sha256:" + b"ab" * 32, b"ab" * 32, b"sha256:" + b"cd" * 32, b"sha256:", b"md5:00"])
PIECE = st.one_of(
    METADATA,
    TARGET,
    st.builds(lambda name, uuid: b"name=%s,uuid=%s;" % (name, uuid), NAME, NAME),
    st.builds(lambda name, uuid: b"new_name=%s,new_uuid=%s;" % (name, uuid), NAME, NAME),
    st.builds(
        lambda key, hash_, end: key + b"_table_hash=" + hash_ + end,
        st.sampled_from([b"active", b"inactive"]),
        HASH,
        st.sampled_from([b";", b","]),
    ),
    NUMBER.map(lambda number: b"current_device_capacity=%s;" % number),
    st.sampled_from(
        [
            *(
                b"dm_version=4.47.0;",
                b"dm_version=4.50.0;",
                b"(null)",
                b"remove_all=n;",
                b"remove_all=y;",
                b"\0\0",
            ),
            *(
                b"device_resume=no_data;",
                b"table_clear=no_data;",
                b"device_remove=no_data;",
                b"device_rename=no_data;",
            ),
            *(b"device_active_metadata=", b"device_inactive_metadata="),
        ]
    ),
)
#: What the kernel writes, with any of its parts another, missing, or twice.
SHAPES = {
    "table_load": (METADATA, TARGET),
    "device_resume": (
        METADATA,
        HASH.map(lambda hash_: b"active_table_hash=%s;" % hash_),
        st.just(b"current_device_capacity=8;"),
    ),
    "table_clear": (
        METADATA,
        HASH.map(lambda hash_: b"inactive_table_hash=%s;" % hash_),
        st.just(b"current_device_capacity=8;"),
    ),
    "device_remove": (
        *(st.just(b"device_active_metadata="), METADATA, st.just(b"device_inactive_metadata="), METADATA),
        *(
            HASH.map(lambda hash_: b"active_table_hash=%s," % hash_),
            st.just(b"remove_all=n;current_device_capacity=8;"),
        ),
    ),
    "device_rename": (
        METADATA,
        st.builds(lambda name, uuid: b"new_name=%s,new_uuid=%s;" % (name, uuid), NAME, NAME),
        st.just(b"current_device_capacity=0;"),
    ),
}


@st.composite
def dm_records(draw: st.DrawFn) -> Item:
    """A dm record with digests that are right and a text that need not be."""
    event = draw(st.sampled_from([*SHAPES, "target_update"]))
    parts = [draw(part) for part in SHAPES.get(event, ())] or draw(st.lists(PIECE, max_size=4))
    version = draw(st.sampled_from([b"", b"dm_version=4.47.0;", b"dm_version=4.50.0;"]))
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(parts)))
        parts[at : at + draw(st.integers(0, 1))] = draw(st.lists(PIECE, max_size=2))
    prefix = draw(st.sampled_from(["dm_", "dm_", ""]))
    return buffer(
        prefix + event, version + b"".join(parts), draw(st.sampled_from(["sha256", "sha256", "sha1"]))
    )


@given(records=st.lists(dm_records(), max_size=12), cuts=CUTS)
@MANY
def test_odd_texts_in_valid_lists(records: list[Item], cuts: list[int]) -> None:
    data = binary_list([*boot(), *records])
    check_list(data, cuts)
    check_monitor(data, cuts)
    steps, reader, tracker = steps_of([data])
    assert (reader.records, tracker.dm_records, reader.broken) == (2 + len(records), len(records), None)
    assert len(steps) == len(records)
    codes = {finding.code for step in steps for finding in step.findings}
    assert not codes & {
        "record.template_digest",
        "record.event_digest",
        "violations.increased",
        "list.restarted",
    }


@given(
    kind=st.sampled_from(list(EventKind)),
    data=st.binary(max_size=300) | st.lists(PIECE, max_size=8).map(b"".join),
)
@MANY
def test_any_text_is_an_event_or_malformed(kind: EventKind, data: bytes) -> None:
    try:
        event = parse_event(kind, data)
    except MalformedError:
        return
    assert event.version in data


@given(name=st.binary(max_size=200))
@BOUNDED
def test_names_survive_escaping(name: bytes) -> None:
    assert unescape(escape(name)) == name
    assert not any(
        separator in escape(name).replace(b"\\\\", b"").replace(b"\\" + separator, b"")
        for separator in (b";", b"=", b",")
    )


# -- baselines -----------------------------------------------------------------------------

LINES = st.sampled_from(
    [
        *(
            "version = 1",
            "version = true",
            "version = 1.0",
            "[[device]]",
            "[device]",
            "device = 1",
            "device = []",
        ),
        *(
            'name = "x"',
            'name = ""',
            "name = 1",
            'uuid = "[a-"',
            'uuid = "***"',
            "required = true",
            "required = 1",
        ),
        *(
            "hashes = []",
            f'hashes = ["sha256:{"0" * 64}"]',
            'hashes = ["x"]',
            "hashes = 1",
            "fingerprints = []",
        ),
        *(
            "[[device.target]]",
            'type = "verity"',
            "nmae = 1",
            "[x]",
            "\x00",
            "é = 1",
            '"na\\u006de" = "y"',
            "# x",
        ),
    ]
)


@given(lines=st.lists(LINES, max_size=8))
@MANY
def test_any_baseline(lines: list[str]) -> None:
    found = check_baseline("\n".join(lines).encode())
    if found is not None:
        assert len(found.entries) == sum(line == "[[device]]" for line in lines)
        for entry in found.entries:
            found.entries_for(b"x" * 100, b"\xff")
            assert entry.origin.startswith("file:")


@given(text=st.text(max_size=100))
@BOUNDED
def test_any_text_as_a_baseline(text: str) -> None:
    check_baseline(text.encode("utf-8", "replace"))


def test_lists_of_the_corpus_hold_what_any_bytes_must() -> None:
    """So that the target itself is known to pass."""
    data = binary_list(items("random-6.12"))
    check_list(data, [100, 5000, 70_000])
    check_monitor(data, [100, 5000, 70_000])
