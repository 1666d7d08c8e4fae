"""The place in a trimmed list: found for every length of list and of what is gone, or honestly not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmimad.core import anchor
from dmimad.core.anchor import Anchor, Found
from dmimad.core.measurement import Measurement
from dmimad.core.reader import ListReader, Position
from tests.core.lists import (
    BANKS,
    ORDERS,
    Item,
    Order,
    ascii_list,
    ascii_record,
    binary_list,
    binary_record,
    boot_aggregate,
    buffer,
    file,
    kernel_version,
    printed,
    violation,
)
from tests.core.recorded import forms, items

RECORDS = (
    boot_aggregate(),
    kernel_version(),
    file(b"/usr/bin/a"),
    violation(),
    buffer("dm_table_load", b"dm_version=4.50.0;name=a,uuid=;"),
    file(b"/two\nlines\n", template=b"ima-sig"),
    violation(),
    violation(b"/other"),
    file(b"/the old one", template=b"ima"),
    replace(file(b"/wrong"), digest=b"\xee"),
    buffer("dm_device_resume", b"dm_version=4.50.0;"),
    replace(file(b"/pcr/11"), pcr=11),
    violation(),
)
both = pytest.mark.parametrize("ascii", [False, True], ids=["binary", "ascii"])


def position_after(
    records: Sequence[Item], *, ascii: bool, bank: str = "sha1", order: Order = "little"
) -> Position:
    """Where a reader is that has read these."""
    reader = ListReader(limit=len(records))
    # What follows settles where a damaged last record ends.
    reader.feed(printed([*records, kernel_version()], ascii=ascii, bank=bank, order=order))
    assert reader.records == len(records)
    return reader.position


def search(position: Position, pieces: Iterable[bytes]) -> Found | None:
    """Feed the pieces until the place is found; `rest` then has those after it too."""
    there, pieces = Anchor(position), iter(pieces)
    for piece in pieces:
        found = there.feed(piece)
        if found is not None:
            return replace(found, rest=found.rest + b"".join(pieces))
    return there.close()


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def go_on(found: Found) -> tuple[list[Measurement], Position]:
    """Read what comes after the place."""
    reader = ListReader(found.position)
    records = reader.feed(found.rest) + reader.close()
    assert reader.broken is None
    return records, reader.position


def last_that_is_no_violation(records: Sequence[Item]) -> int:
    return max(index for index, item in enumerate(records) if not item.violation)


# -- every length --------------------------------------------------------------------------


@both
@pytest.mark.parametrize("bank", ["sha1", "sha384"])
def test_every_place_and_every_trimmed_length(bank: str, ascii: bool) -> None:
    """What was read goes on as if nothing had been trimmed; without the anchor there is no place."""
    whole = printed(RECORDS, ascii=ascii, bank=bank)
    for seen in range(1, len(RECORDS) + 1):
        position = position_after(RECORDS[:seen], ascii=ascii, bank=bank)
        untrimmed = ListReader(position)
        wanted = untrimmed.feed(whole[position.offset :]) + untrimmed.close()
        former_index = last_that_is_no_violation(RECORDS[:seen])
        for trimmed in range(len(RECORDS) + 1):
            data = printed(RECORDS[trimmed:], ascii=ascii, bank=bank)
            gone = len(whole) - len(data)
            found = search(position, [data])
            if trimmed > former_index:
                assert found is None
                continue
            assert found == Found(
                replace(position, offset=position.offset - gone), whole[position.offset :], trimmed
            )
            records, after = go_on(found)
            assert records == wanted
            assert after == replace(untrimmed.position, offset=untrimmed.position.offset - gone)


@both
@pytest.mark.parametrize("size", [1, 5, 64, 300])
def test_cut_anywhere(size: int, ascii: bool) -> None:
    for seen, trimmed in ((4, 2), (8, 3), (9, 8), (13, 5), (13, 11)):
        position = position_after(RECORDS[:seen], ascii=ascii)
        data = printed(RECORDS[trimmed:], ascii=ascii)
        found = search(position, cut(data, size))
        assert found is not None
        assert found.trimmed == trimmed
        assert found == search(position, [data])


@both
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bank", BANKS)
def test_every_form(ascii: bool, bank: str, order: Order) -> None:
    position = position_after(RECORDS[:8], ascii=ascii, bank=bank, order=order)
    found = search(position, [printed(RECORDS[4:], ascii=ascii, bank=bank, order=order)])
    assert found is not None
    assert (found.trimmed, found.position.records) == (4, 8)
    assert found.rest == printed(RECORDS[8:], ascii=ascii, bank=bank, order=order)


@both
def test_trimmed_more_than_once(ascii: bool) -> None:
    """Records are counted from the boot on, so what was trimmed is always the sum."""
    position = position_after(RECORDS[:9], ascii=ascii)
    for trimmed, seen in ((3, 10), (8, 11), (9, 11), (10, 11)):
        there = Anchor(position)
        found = there.feed(printed(RECORDS[trimmed:seen], ascii=ascii))
        assert found is not None
        assert found.trimmed == trimmed
        records, position = go_on(found)
        assert position.records == seen
        assert [record.index for record in records if record.index >= seen] == []


@pytest.mark.parametrize("name", ["lvm-7.2", "random-7.2"])
def test_recorded_lists(name: str) -> None:
    for form in forms(name):
        data, records = form.path.read_bytes(), items(name)
        seen = len(records) // 2
        reader = ListReader(limit=seen)
        reader.feed(data)
        whole = ListReader()
        wanted = [record for record in whole.feed(data) if record.index >= seen]
        for trimmed in (0, 1, seen // 2, seen - 1):
            gone = len(printed(records[:trimmed], ascii=form.ascii, bank=form.bank))
            found = search(reader.position, cut(data[gone:], 10_000))
            assert found is not None
            assert found.trimmed == trimmed
            after, position = go_on(found)
            assert after == wanted
            assert position == replace(whole.position, offset=len(data) - gone)
        gone = len(printed(records[:seen], ascii=form.ascii, bank=form.bank))
        assert search(reader.position, cut(data[gone:], 10_000)) is None


# -- what is no place ----------------------------------------------------------------------


@both
def test_violations_that_are_not_the_former_ones(ascii: bool) -> None:
    """Fewer, or another record among them: something else than trimming happened."""
    position = position_after([boot_aggregate(), file(b"/a"), violation(), violation()], ascii=ascii)
    for after, there in (
        ([violation(), violation()], True),
        ([violation(), violation(), violation()], True),
        ([violation(), violation(), file(b"/b")], True),
        ([], False),
        ([violation()], False),
        ([violation(), file(b"/b"), violation()], False),
        ([file(b"/b"), violation(), violation()], False),
    ):
        for before in ([boot_aggregate()], []):
            data = printed([*before, file(b"/a"), *after], ascii=ascii)
            for pieces in ([data], cut(data, 1)):
                found = search(position, pieces)
                assert (found is not None) is there
                if found is not None:
                    assert found.rest == printed(after[2:], ascii=ascii)


@both
def test_an_anchor_later_than_it_was(ascii: bool) -> None:
    """Trimming takes away, so nothing can move towards the end."""
    records = [boot_aggregate(), file(b"/a"), file(b"/b")]
    position = position_after(records, ascii=ascii)
    there = Anchor(position)
    assert there.feed(printed([file(b"/c"), *records], ascii=ascii)) is None
    assert there.close() is None
    there = Anchor(position)
    assert there.feed(printed([file(b"/%d" % n) for n in range(3)], ascii=ascii)) is None
    assert there.records == 3
    assert there.feed(printed(records, ascii=ascii)) is None  # it was not to be read that far
    assert there.records == 3
    assert there.close() is None


@both
def test_nothing_left(ascii: bool) -> None:
    position = position_after(RECORDS, ascii=ascii)
    assert search(position, []) is None
    assert search(position, [printed(RECORDS[-1:], ascii=ascii)]) is None


@both
def test_nothing_to_recognise_it_by(ascii: bool) -> None:
    assert search(Position(), [printed(RECORDS, ascii=ascii)]) is None
    position = position_after([violation(), violation()], ascii=ascii)
    there = Anchor(position)
    assert there.feed(printed([violation(), violation()], ascii=ascii)) is None
    assert there.records == 0
    assert there.close() is None


def test_the_digest_elsewhere_in_a_record_is_no_anchor() -> None:
    digest = file(b"/a").template_digest()
    position = position_after([boot_aggregate(), kernel_version(), file(b"/a")], ascii=False)
    data = binary_list([buffer("x", (10).to_bytes(4, "little") + digest), file(b"/a"), file(b"/b")])
    found = search(position, [data])
    assert found is not None
    assert (found.trimmed, found.rest) == (1, binary_record(file(b"/b")))
    hexadecimal = b"\n10 " + digest.hex().encode() + b" ima-ng x"
    position = position_after([boot_aggregate(), kernel_version(), file(b"/a")], ascii=True)
    found = search(position, [ascii_list([file(hexadecimal), file(b"/a"), file(b"/b")])])
    assert found is not None
    assert (found.trimmed, found.rest) == (1, ascii_record(file(b"/b")))


def test_a_record_of_another_length_with_the_same_digest() -> None:
    """As a damaged list may have it; what comes after it would not be contiguous with what was read."""
    wanted = file(b"/a")
    position = position_after([boot_aggregate(), kernel_version(), wanted], ascii=False)
    other = replace(file(b"/longer"), digest=wanted.template_digest())
    assert search(position, [binary_list([boot_aggregate(), other])]) is None


@pytest.mark.parametrize(
    ("ascii", "bad"),
    [
        (False, b"\xff" * 4000),
        (False, b"10 text that is no list\n" * 20),
        (True, b"junk\n"),
        (True, binary_list(RECORDS)),
    ],
)
def test_a_malformed_list(ascii: bool, bad: bytes) -> None:
    position = position_after(RECORDS[:3], ascii=ascii)
    for head in ([], [kernel_version()]):
        there = Anchor(position)
        assert there.feed(printed(head, ascii=ascii) + bad + b"\n") is None
        assert there.feed(printed(RECORDS[2:], ascii=ascii)) is None
        assert there.close() is None
    # What is wrong behind the place is for the reader that goes on there.
    found = search(position, [printed([RECORDS[2]], ascii=ascii) + bad])
    assert found is not None
    assert found.rest == bad


@both
def test_a_list_that_ends_inside_a_record(ascii: bool) -> None:
    position = position_after(RECORDS[:5], ascii=ascii)
    data = printed(RECORDS[2:6], ascii=ascii)
    end = len(printed(RECORDS[2:5], ascii=ascii))
    for length in range(len(data)):
        found = search(position, [data[:length]])
        assert (found is not None) is (length >= end)
        if found is not None:
            assert found.rest == data[end:length]


@both
def test_found_once(ascii: bool) -> None:
    there = Anchor(position_after(RECORDS[:5], ascii=ascii))
    assert there.feed(printed(RECORDS[1:5], ascii=ascii)) is not None
    assert there.feed(printed(RECORDS[1:5], ascii=ascii)) is None
    assert there.close() is None


# -- copies of the anchor ------------------------------------------------------------------

#: As after a kexec: what the former kernel measured, then this one's, mostly the same.
FORMER = (boot_aggregate(b"1"), kernel_version(), file(b"/a"), violation(), file(b"/b"))
KEXEC = (*FORMER, boot_aggregate(b"2"), kernel_version(), file(b"/a"), violation(), file(b"/b"), file(b"/c"))


@both
@pytest.mark.parametrize("size", [1, 50, 10_000])
def test_the_last_copy_is_the_anchor_where_a_kexec_brought_copies_along(size: int, ascii: bool) -> None:
    for seen in range(7, 11):
        position = position_after(KEXEC[:seen], ascii=ascii)
        assert position.carried_over
        for trimmed in range(last_that_is_no_violation(KEXEC[:seen]) + 1):
            found = search(position, cut(printed(KEXEC[trimmed:], ascii=ascii), size))
            assert found is not None
            assert found.trimmed == trimmed
            assert found.rest == printed(KEXEC[seen:], ascii=ascii)
            assert found.position.records == seen


@both
def test_a_copy_alone_is_taken_for_the_anchor(ascii: bool) -> None:
    """Nothing tells it from the anchor, had all before it been trimmed; replaying the PCR does."""
    position = position_after(KEXEC[:8], ascii=ascii)
    found = search(position, [printed(FORMER, ascii=ascii)])
    assert found is not None
    assert (found.trimmed, found.rest) == (5, printed(FORMER[3:], ascii=ascii))


@both
def test_a_copy_whose_violations_are_still_to_come_does_not_move_the_place(ascii: bool) -> None:
    """The last whole match counts, not the digest alone."""
    records = [boot_aggregate(), file(b"/a"), violation(), file(b"/b"), boot_aggregate(b"2")]
    records += [file(b"/a"), violation()]
    position = position_after(records, ascii=ascii)
    data = printed([file(b"/a"), violation(), file(b"/b"), file(b"/a")], ascii=ascii)
    found = search(position, [data, printed([file(b"/d")], ascii=ascii)])
    assert found is not None
    assert found.trimmed == 5
    assert found.rest == printed([file(b"/b"), file(b"/a"), file(b"/d")], ascii=ascii)


@both
def test_the_first_one_is_the_anchor_where_there_are_no_copies(ascii: bool) -> None:
    """And it is told at once: what follows is not waited for."""
    position = position_after(RECORDS[:9], ascii=ascii)
    assert not position.carried_over
    there = Anchor(position)
    assert there.feed(printed(RECORDS[3:8], ascii=ascii)) is None
    found = there.feed(printed(RECORDS[8:9], ascii=ascii))
    assert found is not None
    assert found.rest == b""


@both
def test_what_follows_a_match_is_held_up_to_a_size(ascii: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond that it is taken for a copy; a later one may still be the anchor."""
    monkeypatch.setattr(anchor, "HELD_MAX_BYTES", len(printed(KEXEC[3:5], ascii=ascii)))
    position = position_after(KEXEC[:8], ascii=ascii)
    there = Anchor(position)
    for item in KEXEC[:7]:
        assert there.feed(printed([item], ascii=ascii)) is None
    assert there.close() is None
    there = Anchor(position)
    for item in KEXEC[:5]:
        assert there.feed(printed([item], ascii=ascii)) is None
    found = there.close()
    assert found is not None
    assert found.rest == printed(KEXEC[3:5], ascii=ascii)
    found = search(position, [printed([item], ascii=ascii) for item in KEXEC])
    assert found is not None
    assert (found.trimmed, found.rest) == (0, printed(KEXEC[8:], ascii=ascii))


def test_malformed_behind_a_match_that_is_held() -> None:
    position = position_after(KEXEC[:9], ascii=False)
    there = Anchor(position)
    assert there.feed(binary_list(FORMER)) is None
    assert there.feed(b"\xff" * 4000) is None
    assert there.close() is None


# -- hostile bytes -------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, database=None, max_examples=200)
@given(
    st.lists(st.sampled_from([*KEXEC, violation(), file(b"/d")]), max_size=12),
    st.integers(1, len(KEXEC)),
    st.booleans(),
    st.integers(1, 400),
    st.binary(max_size=3),
)
def test_any_order_of_records(records: list[Item], seen: int, ascii: bool, size: int, damage: bytes) -> None:
    """Whatever is found is a place behind the anchor and its violations, and no earlier than it can be."""
    position = position_after(KEXEC[:seen], ascii=ascii)
    data = printed(records, ascii=ascii)
    at = len(data) // 2
    data = data[:at] + damage + data[at:]
    found = search(position, cut(data, size))
    if found is None:
        return
    assert data.endswith(found.rest)
    assert found.position == replace(position, offset=len(data) - len(found.rest))
    assert 0 <= found.trimmed < seen
    if not damage:
        end = seen - found.trimmed
        assert data[: found.position.offset] == printed(records[:end], ascii=ascii)
        before = records[:end]
        assert len(before) - 1 - last_that_is_no_violation(before) == position.after_anchor
        assert before[-1 - position.after_anchor].template_digest() == position.anchor_digest
