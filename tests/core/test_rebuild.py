"""Records rebuilt from live tables: held to what the model kernel and real ones wrote."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmimad.core.device import Dialect
from dmimad.core.event import Identity, Metadata
from dmimad.core.observation import LiveDevice, LiveTarget
from dmimad.core.rebuild import (
    MAX_TARGET_OWN_TEXT_BYTES,
    load_texts,
    metadata_text,
    rebuilt,
    version_text,
)
from tests.core.histories import BOUNDED, TABLES
from tests.core.kernel import DIALECTS, VERSIONS, Kernel, Table, Target, linear, linears
from tests.core.live import dm_version, live_table

HEAD = b"head;"


def targets_of(table: Table) -> tuple[LiveTarget, ...]:
    live = live_table(table)
    assert live is not None
    assert live.targets is not None
    return live.targets


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("identity", [Identity(b"a", b""), Identity(b"d;=,\\\xff", b"LVM-\\;=,")])
def test_a_table_rebuilt_is_its_load(dialect: str, table: Table, identity: Identity) -> None:
    """Records, hash, and how many targets are in none."""
    kernel = Kernel(dialect)
    kernel.create(identity.name, None, identity.uuid)
    before = len(kernel.items)
    kernel.load(identity.name, table)
    device = kernel.devices[identity.name]
    live = LiveDevice(254, 0, *identity, False, False, 0, None, live_table(table))
    head = VERSIONS[dialect]
    ours = rebuilt(live, targets_of(table), identity, dm_version(head), Dialect(dialect))
    assert [item.text for item in kernel.items[before:]] == list(dict.fromkeys(ours.texts))
    assert ours.hash == device.loaded == hashlib.sha256(b"".join(ours.texts)).digest()
    assert (ours.name, ours.uuid, ours.num_targets, ours.loaded_at) == (*identity, len(table), None)
    measured = sum(text.count(b"target_index=") for text in ours.texts)
    assert measured + ours.unmeasured == len(table)


def test_version_and_metadata() -> None:
    assert version_text((4, 50, 0), Dialect.ORDERED) == b"dm_version=4.50.0;"
    assert version_text((4, 47, 12), Dialect.LEGACY) == b"dm_version=4.47.12;"
    assert version_text((4, 45, 0), Dialect.V1) == b""
    metadata = Metadata(b"a;b", b"=,\\", 254, 3, 12)
    assert (
        metadata_text(metadata)
        == b"name=a\\;b,uuid=\\=\\,\\\\,major=254,minor=3,minor_count=1,num_targets=12;"
    )


def test_a_target_has_so_much_text_and_no_more() -> None:
    """The kernel cuts it where its buffer ends; the live one is told whole."""
    long = LiveTarget(0, 8, "crypt", b"x" * (MAX_TARGET_OWN_TEXT_BYTES + 10))
    (text,), _ = load_texts(HEAD, [long], Dialect.ORDERED)
    assert text == HEAD + b"target_index=0,target_begin=0,target_len=8," + b"x" * MAX_TARGET_OWN_TEXT_BYTES
    assert MAX_TARGET_OWN_TEXT_BYTES == 2047


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize(("spare", "records"), [(1, 1), (0, 2)])
def test_where_a_record_is_full(dialect: Dialect, spare: int, records: int) -> None:
    """4095 bytes fit, 4096 do not; what the last target would open is forgotten by older kernels."""
    prefix = len(b"target_index=0,target_begin=0,target_len=8,")
    lengths = [2000, 4096 - spare - len(HEAD) - 2 * prefix - 2000]
    targets = [LiveTarget(0, 8, "x", b"y" * length) for length in lengths]
    texts, missing = load_texts(HEAD, targets, dialect)
    forgotten = records == 2 and dialect is not Dialect.ORDERED
    assert (len(texts), missing) == (1 if forgotten else records, 1 if forgotten else 0)
    texts, missing = load_texts(HEAD, [*targets, LiveTarget(8, 8, "x", b"")], dialect)
    forgotten = records == 1 and dialect is not Dialect.ORDERED
    assert (len(texts), missing) == ((1, 1) if forgotten else (2, 0))


def test_no_targets() -> None:
    assert load_texts(HEAD, [], Dialect.LEGACY) == ((HEAD,), 0)


@given(st.lists(st.integers(0, 3000), max_size=12), st.sampled_from(Dialect))
@BOUNDED
def test_nothing_is_lost_but_the_last(lengths: list[int], dialect: Dialect) -> None:
    """Every record begins alike, stays under the limit, and together they are the table."""
    targets = [LiveTarget(8 * at, 8, "x", b"y" * length) for at, length in enumerate(lengths)]
    texts, missing = load_texts(HEAD, targets, dialect)
    assert all(text.startswith(HEAD) and len(text) < 4096 for text in texts)
    count = sum(text.count(b"target_index=") for text in texts)
    assert count + missing == len(targets)
    assert missing == 0 or dialect is not Dialect.ORDERED


def test_the_hole_hides_a_target() -> None:
    """Two tables with one hash: their last target is in no record."""
    live = LiveDevice(254, 0, b"a", b"", False, False, 0, None, None)
    one, two = ((*linears(36), linear(start, sectors=sectors)) for start, sectors in ((0, 8), (4096, 80)))
    both = [
        rebuilt(live, targets_of(table), Identity(b"a", b""), (4, 47, 0), Dialect.LEGACY)
        for table in (one, two)
    ]
    assert both[0].hash == both[1].hash
    assert both[0].unmeasured == 1
    assert (
        rebuilt(live, targets_of((Target(8, b"x;"),)), Identity(b"a", b""), (4, 47, 0), Dialect.LEGACY).hash
        != both[0].hash
    )
