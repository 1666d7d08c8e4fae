"""What a boot has shown: remembered, stored as facts in whatever order, and limited."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmimad.core import knowledge as module
from dmimad.core.errors import MalformedError
from dmimad.core.event import Identity, Metadata
from dmimad.core.health import stable_digest
from dmimad.core.knowledge import Fact, Knowledge, pack, unpack
from dmimad.core.table import Fragment
from tests.core.histories import BOUNDED

HASH_A, HASH_B, HASH_C = b"a" * 32, b"b" * 32, b"c" * 32
METADATA = Metadata(b"na,me\0\xff", b"", 253, 3, 2)
OTHER = Metadata(b"", b"u", 253, 4, 1)
#: Two loads that differ in what moves by itself.
MOVING = tuple(
    b"name=x;target_index=0,target_begin=0,target_len=8,target_name=verity,hash_failed=%s;" % state
    for state in (b"V", b"C")
)
NEW = Identity(b"new", b"\0")


#: Numbers that tests use: identities are asked for by number.
NUMBERED = [(major, minor) for major in (*range(4), 253) for minor in range(5)]
STABLE = stable_digest(OTHER, MOVING[:1])


def filled() -> Knowledge:
    """One of everything, and what is order-dependent several times."""
    known = Knowledge(keep_facts=True)
    known.note_record(b"r" * 20)
    known.note_load(HASH_A, METADATA)
    known.note_load(HASH_C, OTHER, MOVING[:1])
    known.note_resume(HASH_A, METADATA)
    known.note_resume(HASH_B, METADATA)
    known.note_resume(HASH_A, METADATA)
    known.note_resume(HASH_C, OTHER)
    known.note_removal((253, 3), b"name")
    known.note_removal(None, b"nameless")
    known.note_rename((253, 3), NEW)
    known.note_rename(None, Identity(b"", b""))
    for text in (b"z", b"y", b"x"):
        known.note_fragment(METADATA, Fragment(0, 0, text))
    return known


def state(known: Knowledge) -> list[object]:
    """All of it, as it is now."""
    return [
        set(known.records),
        set(known.loaded),
        dict(known.stable_of),
        dict(known.by_stable),
        {number: set(known.identities(number)) for number in NUMBERED if known.identities(number)},
        set(known.resumed),
        set(known.removed),
        set(known.renamed),
        set(known.renamed_numbers),
        dict(known.last_active),
        known.overflowed,
        known.fragments.evicted,
        *(known.fragments.leading_to(metadata, 1) for metadata in (METADATA, OTHER)),
    ]


def test_what_is_noted_is_known() -> None:
    known = filled()
    assert state(known) == [
        {b"r" * 20},
        {HASH_A, HASH_C},
        {HASH_C: STABLE},
        {STABLE: HASH_C},
        {(253, 3): {Identity(b"na,me\0\xff", b"")}, (253, 4): {Identity(b"", b"u")}},
        {HASH_A, HASH_B, HASH_C},
        {((253, 3), b"name"), (None, b"nameless")},
        {((253, 3), b"new", b"\0"), (None, b"", b"")},
        {(253, 3), None},
        {METADATA: HASH_A, OTHER: HASH_C},
        False,
        False,
        (Fragment(0, 0, b"x"),),
        None,
    ]


def test_records_are_new_once() -> None:
    known = Knowledge(keep_facts=False)
    assert known.note_record(b"1")
    assert not known.note_record(b"1")
    assert known.note_record(b"2")


def test_renames() -> None:
    known = filled()
    assert known.was_renamed((253, 3), NEW)
    assert not known.was_renamed((253, 4), NEW)
    assert not known.was_renamed((253, 3), Identity(b"new", b""))
    assert known.was_renamed((9, 9), Identity(b"", b""))  # of a device that the record did not tell


# -- facts ---------------------------------------------------------------------------------


def test_facts_are_taken_once_and_noted_once() -> None:
    known = filled()
    facts = known.take_facts()
    assert [kind for kind, _ in facts] == [
        *("record", "loaded", "identity", "loaded", "identity", "stable"),
        *("resumed", "resumed", "resumed", "resumed", "removed", "removed"),
        *("renamed", "renamed", "fragment", "fragment", "fragment"),
    ]
    assert known.take_facts() == []
    known.note_record(b"r" * 20)
    known.note_load(HASH_A, METADATA)
    known.note_resume(HASH_A, METADATA)
    known.note_removal(None, b"nameless")
    known.note_rename((253, 3), NEW)
    assert known.take_facts() == []
    known.note_load(HASH_B, METADATA)
    assert known.take_facts() == [("loaded", pack([HASH_B]))]


def test_nothing_is_kept_for_nobody() -> None:
    known = Knowledge(keep_facts=False)
    known.note_record(b"r")
    known.note_load(HASH_A, METADATA)
    known.note_resume(HASH_A, METADATA)
    known.note_removal((1, 2), b"")
    known.note_rename(None, NEW)
    known.note_fragment(METADATA, Fragment(0, 0, b"x"))
    assert known.take_facts() == []
    assert known.last_active == {METADATA: HASH_A}
    assert known.fragments.leading_to(METADATA, 1) is not None


NUMBERS = st.one_of(st.none(), st.tuples(st.integers(0, 2), st.integers(0, 1 << 20)))
SHORT = st.binary(max_size=3)
METADATAS = st.builds(Metadata, SHORT, SHORT, st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
NOTES: st.SearchStrategy[Callable[[Knowledge], object]] = st.one_of(
    st.builds(lambda digest: lambda known: known.note_record(digest), SHORT),
    st.builds(
        lambda digest, metadata, texts: lambda known: known.note_load(digest, metadata, texts),
        SHORT,
        METADATAS,
        st.sampled_from([(), (b"x",), MOVING[:1], MOVING[1:], MOVING]),
    ),
    st.builds(
        lambda digest, metadata: lambda known: known.note_resume(digest, metadata),
        st.sampled_from([HASH_A, HASH_B, b""]),
        st.one_of(st.just(METADATA), METADATAS),
    ),
    st.builds(lambda number, name: lambda known: known.note_removal(number, name), NUMBERS, SHORT),
    st.builds(
        lambda number, name, uuid: lambda known: known.note_rename(number, Identity(name, uuid)),
        NUMBERS,
        SHORT,
        SHORT,
    ),
    st.builds(
        lambda metadata, first, last, text: (
            lambda known: known.note_fragment(metadata, Fragment(first, last, text))
        ),
        st.one_of(st.just(METADATA), METADATAS),
        st.just(0),
        st.integers(-1, 2),
        SHORT,
    ),
)


@BOUNDED
@given(st.lists(NOTES, max_size=30), st.lists(NOTES, max_size=10), st.randoms(use_true_random=False))
def test_stored_as_a_set_and_restored(
    before: list[Callable[[Knowledge], object]],
    after: list[Callable[[Knowledge], object]],
    random: Random,
) -> None:
    """Facts in any order give the same knowledge, also after a second stop."""
    known = Knowledge(keep_facts=True)
    stored: set[Fact] = set()
    for notes in (before, after):
        for note in notes:
            note(known)
        facts = known.take_facts()
        assert not stored & set(facts)
        assert len(set(facts)) == len(facts)
        stored.update(facts)
        again = Knowledge(keep_facts=True)
        shuffled = sorted(stored)
        random.shuffle(shuffled)
        again.restore(shuffled)
        assert state(again) == state(known)
        assert again.take_facts() == []
        known = again


def test_the_next_boot_knows_nothing_of_the_one_before() -> None:
    known = filled()
    first = known.take_facts()
    known.begin(2)
    assert state(known) == state(Knowledge(keep_facts=True))
    known.note_load(HASH_B, METADATA)
    known.note_resume(HASH_B, OTHER)
    facts = known.take_facts()
    assert [kind for kind, _ in facts] == ["loaded@2", "identity@2", "resumed@2"]
    again = Knowledge(keep_facts=True)
    again.begin(2)
    again.restore(first + facts)
    assert state(again) == state(known)
    again.begin(1)
    again.restore(facts + first)
    assert state(again) == state(filled())


@pytest.mark.parametrize(
    "fact",
    [
        ("other", pack([b"x"])),
        ("", pack([b"x"])),
        ("record", b""),
        ("record", b"\1"),
        ("record", pack([b"x"])[:-1]),
        ("resumed", b""),
        ("resumed", pack([b"1", HASH_A])),
        ("resumed", pack([b"x", HASH_A, b"n", b"u", b"1", b"2", b"3"])),
        ("resumed", pack([b"1", HASH_A, b"n", b"u", b"1", b"2", b"x"])),
        ("stable", pack([b"1"])),
        ("identity", pack([b"1", b"2", b"n"])),
        ("identity", pack([b"1", b"x", b"n", b"u"])),
        ("removed", pack([b"1", b"x", b"n"])),
        ("removed", pack([b"1", b"2"])),
        ("renamed", pack([b"x", b"2", b"n", b"u"])),
        ("renamed", pack([b"1", b"2", b"n"])),
        ("fragment", pack([b"1", b"0", b"x", b"t", b"n", b"u", b"1", b"2", b"3"])),
        ("fragment", pack([b"1", b"0", b"0", b"t", b"n", b"u", b"1", b"2"])),
    ],
)
def test_damaged_facts(fact: Fact) -> None:
    with pytest.raises(MalformedError, match="a stored fact is damaged"):
        Knowledge(keep_facts=True).restore([fact])


@BOUNDED
@given(st.lists(st.binary(max_size=300)))
def test_pack_and_unpack(parts: list[bytes]) -> None:
    assert unpack(pack(parts)) == parts


@BOUNDED
@given(st.binary(max_size=40))
def test_unpack_anything(value: bytes) -> None:
    """Only what was packed is unpacked."""
    try:
        parts = unpack(value)
    except ValueError:
        return
    assert pack(parts) == value


def test_of_tables_that_differ_in_what_moves_the_same_one_is_found() -> None:
    """In whatever order they came: a restart must not change the answer."""
    answers = set()
    for digests in ((HASH_A, HASH_B), (HASH_B, HASH_A)):
        known = Knowledge(keep_facts=True)
        for digest, text in zip(digests, MOVING, strict=True):
            known.note_load(digest, METADATA, (text,))
        stable = stable_digest(METADATA, MOVING[:1])
        assert stable is not None
        assert known.stable_of == dict.fromkeys(digests, stable)
        answers.add(known.by_stable[stable])
    assert answers == {HASH_A}


def test_identities_are_by_number_in_order_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_IDENTITIES_PER_NUMBER", 2)
    known = Knowledge(keep_facts=True)
    for index, name in enumerate((b"b", b"a", b"b", b"c")):
        known.note_load(b"%d" % index, METADATA._replace(name=name, num_targets=index))
    assert list(known.identities((253, 3))) == [Identity(b"b", b""), Identity(b"a", b"")]
    assert list(known.identities((253, 4))) == []
    assert not known.overflowed
    assert [kind for kind, _ in known.take_facts()].count("identity") == 2


def test_a_load_is_noted_once() -> None:
    """The first time it is known: under which name, and with which text, says the first one."""
    known = Knowledge(keep_facts=True)
    known.note_load(HASH_A, METADATA)
    known.note_load(HASH_A, OTHER, MOVING[:1])
    assert (known.stable_of, list(known.identities(OTHER.device))) == ({}, [])


def test_pack_is_as_documented() -> None:
    assert pack([b"ab", b""]) == b"\2\0\0\0ab\0\0\0\0"
    with pytest.raises(ValueError, match="longer than it is"):
        unpack(b"\xff\xff\xff\xff")


# -- limits --------------------------------------------------------------------------------

LIMITED: dict[str, Callable[[Knowledge, int], object]] = {
    "record": lambda known, number: known.note_record(b"%d" % number),
    "loaded": lambda known, number: known.note_load(b"%d" % number, METADATA),
    "resumed": lambda known, number: known.note_resume(b"%d" % number, METADATA),
    "removed": lambda known, number: known.note_removal((1, number), b""),
    "renamed": lambda known, number: known.note_rename((1, number), NEW),
}


@pytest.mark.parametrize("kind", LIMITED)
def test_limits(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """What no longer fits is not known, and that is known; of every kind, and after a restart."""
    monkeypatch.setattr(module, "MAX_FACTS_PER_KIND", 3)
    known, note = Knowledge(keep_facts=True), LIMITED[kind]
    for number in range(3):
        note(known, number)
    note(known, 2)
    assert not known.overflowed
    before = state(known)
    assert note(known, 3) in (None, True)
    assert known.overflowed
    known.overflowed = False
    assert state(known) == before
    known.overflowed = True
    facts = known.take_facts()
    assert [name for name, _ in facts if name != "identity"] == [kind] * 3
    again = Knowledge(keep_facts=True)
    again.restore(facts)
    assert again.overflowed
    assert state(again) == state(known)
    fewer = Knowledge(keep_facts=True)
    fewer.restore(facts[:2])
    assert not fewer.overflowed
