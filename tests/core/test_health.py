"""Attributes that move by themselves: which they are, what stays of a table without them, what is broken."""

from __future__ import annotations

import pytest

from dmimad.core.event import Metadata
from dmimad.core.health import VOLATILE, degraded, is_volatile, moved, stable_digest
from dmimad.core.table import Target, parse_targets

METADATA = Metadata(b"a", b"u", 254, 0, 1)
#: Target type, attribute, a healthy value or None if any is, and a bad one or None if none is.
ATTRIBUTES = [
    ("verity", "hash_failed", "V", "C"),
    ("mirror", "mirror_device_0_status", "A", "D"),
    ("mirror", "mirror_device_12_status", "A", "F"),
    ("raid", "raid_device_3_status", "a", "D"),
    ("raid", "raid_device_3_status", "-", "D"),
    ("striped", "stripe_0_status", "A", "D"),
    ("multipath", "pg_state_0", "E", "D"),
    ("multipath", "is_active_0_1", "A", "F"),
    ("snapshot", "snap_valid", "y", "n"),
    ("snapshot", "snap_merge_failed", "n", "y"),
    ("snapshot-merge", "snapshot_overflowed", "n", "y"),
    ("cache", "metadata_mode", "rw", "ro"),
]
#: What moves in honest use, and says nothing by its value.
NEUTRAL = [
    ("raid", "raid_state", "idle", "resync"),
    ("cache", "no_discard_passdown", "n", "y"),
    ("multipath", "fail_count_0_1", "0", "7"),
    ("multipath", "path_selector_status_0", "", "1"),
    ("mirror", "log_type_status", "1 core 0", ""),
]


def text(kind: str, **attributes: str) -> bytes:
    pairs = "".join(f",{key}={value}" for key, value in attributes.items())
    return f"name=a;target_index=0,target_begin=0,target_len=8,target_name={kind}{pairs};".encode()


def targets(kind: str, **attributes: str) -> tuple[Target, ...]:
    return parse_targets((text(kind, **attributes),))


@pytest.mark.parametrize(("kind", "key", "good", "bad"), ATTRIBUTES)
def test_what_is_broken(kind: str, key: str, good: str, bad: str) -> None:
    assert degraded(targets(kind, **{key: good})) == ()
    assert degraded(targets(kind, **{key: bad})) == (f"target 0: {key}={bad}",)


@pytest.mark.parametrize(("kind", "key", "one", "other"), NEUTRAL)
def test_what_only_moves(kind: str, key: str, one: str, other: str) -> None:
    """None of its values says that something is broken."""
    assert degraded(targets(kind, **{key: one})) == degraded(targets(kind, **{key: other})) == ()


@pytest.mark.parametrize(("kind", "key", "one", "other"), ATTRIBUTES + NEUTRAL)
def test_what_stays_of_a_table(kind: str, key: str, one: str, other: str) -> None:
    """The same without it; another one with any other change."""
    first = stable_digest(METADATA, (text(kind, kept="1", **{key: one}),))
    assert first is not None
    assert len(first) == 32
    assert first == stable_digest(METADATA, (text(kind, kept="1", **{key: other}),))
    assert first == stable_digest(METADATA, (b"dm_version=9;" + text(kind, kept="1", **{key: one}),))
    different = [
        (METADATA, text(kind, kept="2", **{key: one})),
        (METADATA, text(kind, kept="1", more="", **{key: one})),
        (METADATA, text("linear", kept="1", **{key: one})),
        (METADATA, text(kind, kept="1", **{key: one}).replace(b"len=8", b"len=9")),
        (METADATA, text(kind, kept="1", **{key: one}).replace(b"begin=0", b"begin=9")),
        (METADATA, text(kind, kept="1", **{key: one}).replace(b"index=0", b"index=9")),
        *(
            (changed, text(kind, kept="1", **{key: one}))
            for changed in (
                METADATA._replace(name=b"b"),
                METADATA._replace(uuid=b""),
                METADATA._replace(minor=1),
                METADATA._replace(num_targets=2),
            )
        ),
    ]
    digests = {stable_digest(metadata, (changed,)) for metadata, changed in different}
    assert first not in digests
    assert len(digests) == len(different)


@pytest.mark.parametrize(("kind", "key", "one", "other"), ATTRIBUTES + NEUTRAL)
def test_what_moved(kind: str, key: str, one: str, other: str) -> None:
    before, now = targets(kind, kept="1", **{key: one}), targets(kind, kept="2", **{key: other})
    assert is_volatile(kind, key)
    assert moved(before, now) == (f"target 0: {key}={one} -> {other}",)
    assert moved(before, before) == ()
    assert moved((), now) == ()


def test_a_table_without_any_of_it_has_nothing_to_compare() -> None:
    assert stable_digest(METADATA, (text("linear", start="0"),)) is None
    assert stable_digest(METADATA, ()) is None
    # A name that only looks like it is no attribute.
    assert stable_digest(METADATA, (text("crypt", xhash_failed="C"),)) is None


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("linear", "hash_failed"),
        ("verity", "root_digest"),
        ("verity", "hash_failed_"),
        ("mirror", "mirror_device_status"),
        ("mirror", "mirror_device_0"),
        ("raid", "raid_device_0"),
        ("multipath", "pg_state"),
        ("cache", "policy"),
    ],
)
def test_everything_else_is_configuration(kind: str, key: str) -> None:
    assert not is_volatile(kind, key)
    assert degraded(targets(kind, **{key: "broken"})) == ()
    assert moved(targets(kind, **{key: "1"}), targets(kind, **{key: "2"})) == ()


def test_an_opaque_target_has_nothing() -> None:
    opaque = parse_targets((b"target_index=0,target_begin=0,target_len=8,",))
    assert opaque[0].type is None
    assert not is_volatile(None, "hash_failed")
    assert degraded(opaque) == ()


def test_every_volatile_attribute_is_searched_for() -> None:
    """The quick look finds all that the slow one would leave out."""
    kinds = {kind for kind, *_ in ATTRIBUTES + NEUTRAL}
    assert kinds == VOLATILE.keys()


def test_hostile_text() -> None:
    """What is not UTF-8 is compared all the same, and a value that mimics a target is its own."""
    one = text("verity", hash_failed="V", x="1").replace(b"x=1", b"x=\xff")
    two = text("verity", hash_failed="V", x="1").replace(b"x=1", b"x=\xfe")
    assert stable_digest(METADATA, (one,)) != stable_digest(METADATA, (two,)) is not None
