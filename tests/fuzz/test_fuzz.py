"""Any bytes as a list: findings or a clear refusal, never another exception, in the time of the suite."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import CORPUS
from tests.core import lists
from tests.fuzz.target import run

BINARY = (CORPUS / "random-6.1" / "binary_runtime_measurements").read_bytes()
ASCII = (CORPUS / "random-7.2" / "ascii_runtime_measurements").read_bytes()
BOUNDED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

#: Bytes that dm-ima's grammar is made of, so that random text comes close to it.
GRAMMAR = st.lists(
    st.sampled_from(
        [
            b"dm_version=4.50.0;",
            b"name=",
            b"uuid=",
            b"root",
            b"\\",
            b"\\,",
            b",",
            b";",
            b"=",
            b"major=253,minor=0,minor_count=1,num_targets=2;",
            b"name=root,uuid=,major=253,minor=0,minor_count=1,num_targets=1;",
            b"target_index=0,target_begin=0,target_len=8,",
            b"target_index=1,target_begin=8,target_len=8,",
            b"target_name=linear,target_version=1.4.0;",
            b"active_table_hash=sha256:" + b"ab" * 32 + b";",
            b"inactive_table_hash=" + b"cd" * 32 + b",",
            b"device_active_metadata=",
            b"device_inactive_metadata=",
            b"(null)",
            b"new_name=other,new_uuid=;",
            b"table_clear=no_data;",
            b"device_rename=no_data;",
            b"remove_all=y;",
            b"current_device_capacity=8;",
            b"\0",
            b"\xff",
        ]
    ),
    max_size=12,
).map(b"".join)
EVENTS = ["table_load", "device_resume", "device_remove", "table_clear", "device_rename", "target_update"]


@BOUNDED
@given(st.binary(max_size=3000), st.integers(0, 64))
def test_random_bytes(data: bytes, piece: int) -> None:
    run(data, piece)


@BOUNDED
@given(st.data())
def test_recorded_lists_with_bytes_changed(data: st.DataObject) -> None:
    original = data.draw(st.sampled_from([BINARY, ASCII]))
    changed = bytearray(original[: data.draw(st.integers(1, 20_000))])
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
        changed = changed or bytearray(b"\0")
    run(bytes(changed), data.draw(st.sampled_from([0, 1000, 4096])))


@BOUNDED
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.booleans(), GRAMMAR), max_size=12), st.booleans())
def test_events_that_are_nearly_right(events: list[tuple[str, bool, bytes]], ascii: bool) -> None:
    items = [*lists.boot()]
    items += [lists.buffer(("dm_" if prefixed else "") + name, text) for name, prefixed, text in events]
    records, _ = run(lists.printed(items, ascii=ascii))
    assert records == len(items)


@pytest.mark.parametrize("size", [1 << 20])
def test_long_inputs_that_a_parser_might_choke_on(size: int) -> None:
    """Quadratic code would take minutes here, and the suite would not end."""
    name = b"name=" + b"\\" * size
    for listed in (
        b"10 " + b"0" * size,
        b"10 " + b"a" * 40 + b" ima-buf " + b" " * size,
        b"\n" * (size // 4),
        lists.binary_list([*lists.boot(), lists.buffer("dm_table_load", name[:60_000])]),
        lists.binary_list([*lists.boot(), lists.buffer("dm_device_rename", b"new_name=" + b"\\," * 30_000)]),
    ):
        run(listed, 4096)
