"""Tables: targets as the kernel writes them, hashes, and loads put together from parts."""

from __future__ import annotations

import functools
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmimad.core import table as module
from dmimad.core.event import DeviceResume, EventKind, Metadata, TableLoad, parse_event
from dmimad.core.table import (
    MAX_COMBINATIONS,
    MAX_TARGET_TEXT_BYTES,
    Fragment,
    FragmentStore,
    LoadAssembly,
    Table,
    Target,
    fragment_of,
    make_table,
    opaque_targets,
    parse_targets,
)
from tests.core.histories import BOUNDED
from tests.core.recorded import LISTS, actions, items

HEAD = b"dm_version=4.47.0;name=a,uuid=,major=253,minor=0,minor_count=1,num_targets=3;"
LINEAR = b"target_name=linear,target_version=1.4.0,device_name=7:0,start=0;"
LINEAR_PAIRS = (
    ("target_name", "linear"),
    ("target_version", "1.4.0"),
    ("device_name", "7:0"),
    ("start", "0"),
)
#: Attributes that change by themselves: what is loaded and what dmsetup sees later may differ.
HEALTH = ("raid_state", "no_discard_passdown", "_status", "hash_failed", "snap_valid", "snap_merge_failed")


def written(index: int, text: bytes) -> bytes:
    """A target as it stands in a load, 8 sectors long."""
    return b"target_index=%d,target_begin=%d,target_len=8,%s" % (index, 8 * index, text)


def plain(index: int) -> Target:
    """What `LINEAR` says."""
    return Target(index, 8 * index, 8, "linear", LINEAR_PAIRS)


def opaque(index: int) -> Target:
    """What nothing says."""
    return Target(index, 8 * index, 8, None, ())


# -- targets -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((HEAD,), ()),
        ((), ()),
        ((HEAD + written(0, LINEAR),), (plain(0),)),
        ((HEAD + written(0, b"") + written(1, LINEAR),), (opaque(0), plain(1))),
        (
            (HEAD + written(0, LINEAR) + written(1, b"") + written(2, LINEAR),),
            (plain(0), opaque(1), plain(2)),
        ),
        ((HEAD + written(0, LINEAR) + written(1, b""),), (plain(0), opaque(1))),
        ((HEAD + written(0, b"") + written(1, b""),), (opaque(0), opaque(1))),
        (
            (HEAD + written(0, LINEAR), HEAD + written(1, b""), HEAD + written(2, LINEAR)),
            (plain(0), opaque(1), plain(2)),
        ),
        ((HEAD + written(0, LINEAR + b"\0\0"),), (plain(0),)),
    ],
)  # fmt: skip
def test_targets(texts: tuple[bytes, ...], expected: tuple[Target, ...]) -> None:
    assert parse_targets(texts) == expected
    assert opaque_targets(texts) == sum(target.type is None for target in expected)


def attributes(text: bytes) -> dict[str, str]:
    """Of the only target."""
    (target,) = parse_targets((HEAD + written(0, text),))
    pairs = dict(target.attributes)
    assert len(pairs) == len(target.attributes)
    return pairs


def test_values_with_commas() -> None:
    """The cipher of authenticated dm-crypt; only what looks like a key begins an attribute."""
    text = b"target_name=crypt,cipher_string=capi:authenc(hmac(sha256),xts(aes))-random,key_size=96;"
    assert attributes(text) == {
        "target_name": "crypt",
        "cipher_string": "capi:authenc(hmac(sha256),xts(aes))-random",
        "key_size": "96",
    }


def test_odd_values() -> None:
    text = b"target_name=mirror,a=,b=x=y,c=1,2,d=\xff,\xc3\xa9,log_type_status=;"
    assert attributes(text) == {
        "target_name": "mirror",
        "a": "",
        "b": "x=y",
        "c": "1,2",
        "d": "\\xff,é",
        "log_type_status": "",
    }


def test_a_text_that_does_not_begin_with_a_type() -> None:
    (target,) = parse_targets((HEAD + written(0, b"other=1,target_name=linear;"),))
    assert (target.type, target.attributes) == (None, (("other", "1"), ("target_name", "linear")))


def test_a_name_that_looks_like_a_target_is_none() -> None:
    head = HEAD.replace(b"name=a,", rb"name=target_index\=0\,target_begin\=0\,target_len\=1\,,")
    assert parse_targets((head + written(0, LINEAR),)) == (plain(0),)


@BOUNDED
@given(st.binary(max_size=300))
def test_any_text_is_some_targets(text: bytes) -> None:
    targets = parse_targets((HEAD + written(0, text),))
    assert (targets[0].index, targets[0].begin_sectors, targets[0].length_sectors) == (0, 0, 8)
    assert all("target_name" in dict(target.attributes) for target in targets if target.type is not None)


def test_many_commas_are_split_at_once() -> None:
    assert len(attributes(b"a=" + b",a" * 30_000 + b";")) == 1
    assert len(parse_targets((HEAD + b"target_index=0," * 4000 + written(1, b""),))) == 1


# -- against dmsetup -----------------------------------------------------------------------


@functools.cache
def loads(name: str) -> tuple[tuple[int, Metadata, tuple[Target, ...]], ...]:
    """The loads of a recorded list that are whole: index of the last record, metadata, targets."""
    made: list[tuple[int, Metadata, tuple[Target, ...]]] = []
    parts: list[TableLoad] = []
    for index, item in enumerate(items(name)):
        if not item.is_dm or not item.event.endswith("table_load"):
            continue
        event = parse_event(EventKind.TABLE_LOAD, item.text)
        assert isinstance(event, TableLoad)
        if event.first == 0:
            parts = []
        parts.append(event)
        targets = parse_targets(tuple(part.text for part in parts))
        assert [target.index for target in targets][-1] == event.last
        if len(targets) >= event.metadata.num_targets - 1:
            made.append((index, event.metadata, targets))
    return tuple(made)


def steady(
    targets: tuple[Target, ...],
) -> list[tuple[int, int, int, str | None, tuple[tuple[str, str], ...]]]:
    """Without what changes by itself."""
    return [
        (
            target.index,
            target.begin_sectors,
            target.length_sectors,
            target.type,
            tuple(pair for pair in target.attributes if not pair[0].endswith(HEALTH)),
        )
        for target in targets
    ]


def measured(measure: str) -> tuple[list[str], tuple[Target, ...]]:
    """The lines of ``dmsetup measure``: types and what the texts say, taken apart without `dmimad`."""
    types, targets = [], []
    for index, line in enumerate(measure.splitlines()):
        begin, length, kind, text = line.split(" ", 3)
        assert "(" not in text  # no value of the recorded lists has commas in it
        pairs = tuple(tuple(part.split("=", 1)) for part in text.rstrip(";").split(",")) if text else ()
        types.append(kind)
        own = tuple((key, value) for key, value in pairs)
        targets.append(Target(index, int(begin), int(length), kind if text else None, own))
    return types, tuple(targets)


@pytest.mark.parametrize("name", LISTS)
def test_targets_are_those_of_dmsetup(name: str) -> None:
    """Every active table of every step is one that was loaded, in all its targets, keys and values.

    The last target may be unmeasured in older kernels.
    """
    confirmed: set[int] = set()
    for action in actions(name):
        for device in action.devices:
            if not device.measure:
                continue
            types, targets = measured(device.measure)
            assert all(target.type in (None, kind) for kind, target in zip(types, targets, strict=True))
            same = [
                index
                for index, metadata, loaded in loads(name)
                if index < action.after
                and metadata.device == device.number
                and metadata.num_targets == len(targets)
                and steady(loaded) == steady(targets[: len(loaded)])
            ]
            assert same, (action.label, device)
            confirmed.update(same)
    assert len(confirmed) >= 0.4 * len(loads(name))  # not every table is made active


@pytest.mark.parametrize("name", LISTS)
def test_hashes_are_those_of_the_kernel(name: str) -> None:
    """Of every load that a resume reports, long ones included."""
    known: set[bytes] = set()
    store = FragmentStore()
    loaded: set[Metadata] = set()
    reported = 0
    for index, item in enumerate(items(name)):
        if not item.is_dm:
            continue
        if item.event.endswith("table_load"):
            event = parse_event(EventKind.TABLE_LOAD, item.text)
            assert isinstance(event, TableLoad)
            store.add(event.metadata, fragment_of(event))
            loaded.add(event.metadata)
            known.add(make_table(event.metadata, (event.text,), index, 0).hash)
        elif item.event.endswith("device_resume"):
            resume = parse_event(EventKind.DEVICE_RESUME, item.text)
            assert isinstance(resume, DeviceResume)
            if resume.active_hash is not None and resume.active_hash not in known:
                # The name is the one the table was loaded under, or a newer one.
                assert any(store.matching(metadata, resume.active_hash) for metadata in loaded)
            reported += resume.active_hash is not None
    assert reported > 20


# -- hashes --------------------------------------------------------------------------------

METADATA = Metadata(b"a", b"u", 253, 0, 3)


def test_the_hash_is_over_all_records() -> None:
    table = make_table(METADATA, (b"one", b"two"), 7, 0)
    assert table == Table(hashlib.sha256(b"onetwo").digest(), b"a", b"u", 3, (b"one", b"two"), 7, 0)
    assert table.label == "sha256:" + hashlib.sha256(b"onetwo").hexdigest()


def test_a_hash_that_is_known_is_not_computed() -> None:
    assert make_table(METADATA, (b"one",), 7, 1, b"\1" * 32) == Table(
        b"\1" * 32, b"a", b"u", 3, (b"one",), 7, 1
    )


def test_no_table_has_a_negative_number_of_unmeasured_targets() -> None:
    assert make_table(METADATA, (), 7, -2).unmeasured == 0


# -- loads under way -----------------------------------------------------------------------


def part(first: int, last: int, text: bytes = b"") -> Fragment:
    """A record of a long load."""
    return Fragment(first, last, text or b"%d-%d" % (first, last))


def test_assembly() -> None:
    assembly = LoadAssembly(METADATA, [part(0, 0)])
    assert (assembly.next_index, assembly.complete) == (1, False)
    assert assembly.table(4).unmeasured == 2
    assembly.parts.append(part(1, 2))
    assert (assembly.next_index, assembly.complete) == (3, True)
    expected = hashlib.sha256(b"0-01-2").digest()
    assert assembly.table(5) == Table(expected, b"a", b"u", 3, (b"0-0", b"1-2"), 5, 0)
    assembly.parts.append(part(3, 9))
    assert (assembly.complete, assembly.table(5).unmeasured) == (True, 0)


@pytest.mark.parametrize(
    ("last", "length", "expected"),
    [
        (1, 4096 - MAX_TARGET_TEXT_BYTES, True),
        (1, 4095, True),
        (1, 4095 - MAX_TARGET_TEXT_BYTES, False),
        (0, 4095, False),
        (2, 4095, False),
    ],
)
def test_what_older_kernels_may_have_left_out(last: int, length: int, *, expected: bool) -> None:
    """One target, and only if it may not have fitted in the last record."""
    assembly = LoadAssembly(METADATA, [part(0, last, b"x" * length)])
    assert assembly.may_lack_last is expected


def test_a_fragment_is_a_record() -> None:
    assert fragment_of(TableLoad(b"", METADATA, b"text", 3, 5, 3)) == Fragment(3, 5, b"text")


# -- parts remembered ----------------------------------------------------------------------


def digest(*parts: Fragment) -> bytes:
    """The hash of a load that has these parts."""
    return hashlib.sha256(b"".join(fragment.text for fragment in parts)).digest()


def store_of(*parts: Fragment, metadata: Metadata = METADATA) -> FragmentStore:
    """A store with the parts of one device."""
    store = FragmentStore()
    for fragment in parts:
        store.add(metadata, fragment)
    return store


def test_the_newest_parts_lead_to_an_index() -> None:
    old, new, other, end = part(0, 0, b"old"), part(0, 0, b"new"), part(0, 1), part(1, 1)
    store = store_of(old, end, other, new)
    assert store.leading_to(METADATA, 1) == (new,)
    assert store.leading_to(METADATA, 2) == (new, end)
    assert store.leading_to(METADATA, 3) is None
    assert store.leading_to(METADATA._replace(minor=1), 1) is None
    store.add(METADATA, part(0, 1, b"newest"))
    assert store.leading_to(METADATA, 2) == (part(0, 1, b"newest"),)


def test_parts_by_hash() -> None:
    a, b, c, d = part(0, 0, b"a"), part(0, 0, b"b"), part(1, 2, b"c"), part(1, 2, b"d")
    store = store_of(a, c, b, d)
    for start in (a, b):
        for end in (c, d):
            assert store.matching(METADATA, digest(start, end)) == (start, end)
    assert store.matching(METADATA, digest(c, a)) is None
    assert store.matching(METADATA, digest(a)) is None
    assert store.matching(METADATA._replace(name=b"b"), digest(a, c)) is None


def test_parts_by_hash_without_the_last_target() -> None:
    a, b = part(0, 0, b"a"), part(1, 1, b"b")
    store = store_of(a, b)
    assert store.matching(METADATA, digest(a, b)) == (a, b)
    assert store.matching(METADATA._replace(num_targets=4), digest(a, b)) is None


def test_parts_beyond_the_end_are_passed_over() -> None:
    assert store_of(part(0, 5)).leading_to(METADATA, 3) is None
    assert store_of(part(0, 0), part(1, 5)).matching(METADATA, digest(part(0, 0), part(1, 5))) is None


def test_parts_that_lead_nowhere() -> None:
    """Loads without targets, or backwards: no walk in circles, however many there are."""
    circles = [part(0, -1, b"%d" % number) for number in range(3000)]
    store = store_of(*circles, part(0, 0), part(1, 0))
    assert store.leading_to(METADATA, 1) == (part(0, 0),)
    assert store.leading_to(METADATA, 2) is None
    assert store.matching(METADATA._replace(num_targets=1), digest(circles[-1])) is None


def test_a_bounded_number_of_ways_is_tried() -> None:
    """The newest are among them, the oldest of too many are not."""
    starts = [part(0, 0, b"%d" % number) for number in range(MAX_COMBINATIONS)]
    end = part(1, 2)
    store = store_of(*starts, end)
    assert store.matching(METADATA, digest(starts[-1], end)) == (starts[-1], end)
    reached = MAX_COMBINATIONS // 2  # two parts are looked at for each
    assert store.matching(METADATA, digest(starts[-reached], end)) == (starts[-reached], end)
    assert store.matching(METADATA, digest(starts[-reached - 1], end)) is None


def test_the_oldest_devices_parts_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FRAGMENT_STORE_BYTES", 100)
    first, second = METADATA, METADATA._replace(minor=1)
    store = FragmentStore()
    old, young = part(0, 0, b"o" * 40), part(1, 1, b"y" * 40)
    store.add(first, old)
    store.add(second, old)
    assert not store.evicted
    store.add(first, young)  # now the second device is the oldest
    assert store.evicted
    assert store.leading_to(second, 1) is None
    assert store.leading_to(first, 2) == (old, young)
    store.add(first, part(2, 2, b"z" * 60))
    assert store.leading_to(first, 1) is None
    assert store.matching(first, digest(old, young)) is None
    store.add(first, old)
    assert store.leading_to(first, 1) == (old,)


def test_a_part_that_is_too_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FRAGMENT_STORE_BYTES", 100)
    store = store_of(part(0, 0, b"x" * 101))
    assert store.evicted
    assert store.leading_to(METADATA, 1) is None
    store.add(METADATA, part(0, 0, b"x" * 100))
    assert store.leading_to(METADATA, 1) == (part(0, 0, b"x" * 100),)
