"""Two devices that claim one name, and tables that come in ever more parts."""

from __future__ import annotations

from dmimad.core.event import Metadata
from dmimad.core.reader import ListReader
from dmimad.core.table import MAX_PARTS_PER_TABLE, Fragment, FragmentStore
from dmimad.core.tracker import Tracker
from tests.core import lists


def metadata(name: str, minor: int) -> str:
    return f"name={name},uuid=,major=253,minor={minor},minor_count=1,num_targets=1;"


def load(name: str, minor: int, start: int = 0) -> lists.Item:
    target = f"target_name=linear,target_version=1.4.0,device_name=1:0,start={start};"
    text = metadata(name, minor) + "target_index=0,target_begin=0,target_len=8," + target
    return lists.buffer("dm_table_load", b"dm_version=4.48.0;" + text.encode())


def rename(name: str, minor: int, new: str) -> lists.Item:
    text = metadata(name, minor) + f"new_name={new},new_uuid=;current_device_capacity=8;"
    return lists.buffer("dm_device_rename", b"dm_version=4.48.0;" + text.encode())


def test_the_later_claim_to_a_name_stands_until_a_record_says_otherwise() -> None:
    """253:0 was renamed to x, and away from it by a record that was dropped; then 253:1 is made as x."""
    items = [
        *lists.boot(),
        load("a", 0),
        rename("a", 0, "x"),
        load("x", 1),
        load("x", 0, start=64),
    ]
    tracker = Tracker()
    steps = [tracker.apply(record) for record in ListReader().feed(lists.binary_list(items))]
    assert not [finding for step in steps if step is not None for finding in step.findings]
    assert sorted((device.key, device.name) for device in tracker.devices) == [
        ("253:0", b"x"),
        ("253:1", b"x"),
    ]
    assert all(device.inactive is not None for device in tracker.devices)


def test_parts_of_one_table_are_kept_in_bounded_number() -> None:
    store = FragmentStore()
    table = Metadata(b"big", b"", 253, 0, 100)
    for number in range(MAX_PARTS_PER_TABLE):
        store.add(table, Fragment(0, 9, b"%d" % number))
    assert not store.evicted
    store.add(table, Fragment(10, 19, b"next"))
    assert store.evicted
    chain = store.leading_to(table, 20)
    assert chain is not None
    assert [part.text for part in chain] == [b"%d" % (MAX_PARTS_PER_TABLE - 1), b"next"]
