"""The list as a stream: every form, any cut, any place to stop and go on, and what hostile bytes do."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest

from dmimad.core.list_format import ListFormat
from dmimad.core.measurement import (
    MAX_LINE_BYTES,
    MAX_TEMPLATE_DATA_BYTES,
    MAX_TEMPLATE_NAME_BYTES,
    Fault,
    Measurement,
)
from dmimad.core.reader import (
    DEFAULT_BANKS,
    MAX_LINES_PER_RECORD,
    ListReader,
    Position,
)
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
    digest_field,
    file,
    kernel_version,
    printed,
    replayed,
    violation,
)
from tests.core.recorded import LISTS, binary, forms, items, pcr_values

EVM = Item(
    b"evm-sig",
    (digest_field(b"e"), b"/evm\0", b"\5", b"a|b\0", bytes(8), b"\1\2", bytes(4), bytes(4), b"\x81\x81"),
)
MODSIG = Item(b"ima-modsig", (digest_field(b"m"), b"/a.ko\0", b"", digest_field(b"n", "sha1"), b"\x30"))
#: Something of everything; the last record is one that a later line cannot complete.
MIXED = (
    boot_aggregate(),
    kernel_version(),
    file(b"/usr/bin/a", b"1"),
    file(b"/with  spaces (deleted)", b"2"),
    buffer("dm_table_load", b"dm_version=4.50.0;name=a,uuid=;", "sha1"),
    file(b"/signed", b"3", template=b"ima-sig", signature=b"\3\2\4"),
    violation(),
    replace(file(b"/pcr/11", b"4"), pcr=11),
    file(b"/two\nlines\n", b"5", template=b"ima-sig"),
    buffer("dm_device_resume", b"dm_version=4.50.0;", pcr=9),
    MODSIG,
    EVM,
    replace(file(b"/digest/wrong", b"6"), digest=b"\xee"),
    file(b"/x/boot_aggregate", b"7"),
    Item(b"d-ng|n-ng|buf", (digest_field(b"c"), b"/my own\0", b"data")),
    replace(buffer("dm_table_clear", b"dm_version=4.50.0;"), digest=b"\xdd"),
    violation(b"/twice"),
    file(b"/the old one", b"8", template=b"ima"),
    boot_aggregate(b"kexec", template=b"ima-ng"),
    file(b"/usr/bin/b", b"9"),
)
#: What `ListReader` hands out of them: it tells nothing but names, so it is written down.
HANDED_OUT = (0, 1, 4, 6, 9, 12, 15, 16, 18)
#: The second boot_aggregate.
KEXEC = 18

FORMS = [(ascii, bank, order) for ascii in (False, True) for bank in BANKS for order in ORDERS]
FORM_IDS = [f"{'ascii' if ascii else 'binary'}-{bank}-{order}" for ascii, bank, order in FORMS]
every_form = pytest.mark.parametrize(("ascii", "bank", "order"), FORMS, ids=FORM_IDS)

#: A bank that only OpenSSL has, so that there is no function in hashlib of its name.
ODD_BANK = next(bank for bank in ("sha512_256", "sm3", "ripemd160") if bank in hashlib.algorithms_available)


def measurement(item: Item, index: int, bank: str = "sha1", order: Order = "little") -> Measurement:
    """The record as the reader hands it out."""
    data = b"".join(item.fields) if item.template == b"ima" else item.data(order)
    record = Measurement(index, item.pcr, item.template_digest(bank, order), item.template, data, order)
    if item.digest is None:
        return record
    reason = f"the template digest is not the {bank} of the template data"
    return replace(record, fault=Fault.TEMPLATE_DIGEST, reason=reason)


def malformed(index: int, reason: str) -> Measurement:
    """What is handed out for something that is no record."""
    return Measurement(index, 10, b"", b"", None, fault=Fault.MALFORMED, reason=reason)


def not_a_line(index: int) -> Measurement:
    return malformed(index, "not a line of a measurement list")


def expected(bank: str, order: Order) -> list[Measurement]:
    return [measurement(MIXED[index], index, bank, order) for index in HANDED_OUT]


@functools.cache
def mixed(ascii: bool, bank: str, order: Order) -> bytes:
    return printed(MIXED, ascii=ascii, bank=bank, order=order)


def position_after(
    count: int,
    ascii: bool,
    bank: str,
    order: Order,
    banks: Iterable[str] = DEFAULT_BANKS,
) -> Position:
    """Where a reader is that has read so many records of `MIXED`."""
    if count == 0:
        return Position(pcrs={name: {10: bytes(hashlib.new(name).digest_size)} for name in banks})
    before = printed(MIXED[: count - 1], ascii=ascii, bank=bank, order=order)
    last = printed([MIXED[count - 1]], ascii=ascii, bank=bank, order=order)
    numbers = {10, *(item.pcr for item in MIXED[:count])}
    return Position(
        ListFormat(ascii, hashlib.new(bank).digest_size, order),
        count,
        len(before + last),
        len(last),
        MIXED[count - 1].template_digest(bank, order),
        sum(item.violation for item in MIXED[:count]),
        {name: {pcr: replayed(MIXED[:count], name, order, pcr) for pcr in numbers} for name in banks},
        *anchor_of(MIXED[:count], bank, order),
        count > KEXEC,
    )


def anchor_of(records: Sequence[Item], bank: str, order: Order) -> tuple[bytes, int]:
    """The template digest of the last record that is no violation, and how many came after it."""
    index = max(index for index, item in enumerate(records) if not item.violation)
    return records[index].template_digest(bank, order), len(records) - 1 - index


def read(reader: ListReader, pieces: Iterable[bytes], *, close: bool = True) -> list[Measurement]:
    """Feed the pieces; what came out."""
    found = [record for piece in pieces for record in reader.feed(piece)]
    return found + reader.close() if close else found


def by_bytes(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


# -- every form ----------------------------------------------------------------------------


@every_form
def test_every_template_in_every_form(ascii: bool, bank: str, order: Order) -> None:
    reader = ListReader()
    assert read(reader, [mixed(ascii, bank, order)]) == expected(bank, order)
    assert reader.position == position_after(len(MIXED), ascii, bank, order)
    assert (reader.records, reader.violations, reader.broken, reader.finished) == (20, 2, None, False)
    assert reader.position.format is not None
    assert reader.position.format.bank == bank
    for name, number in itertools.product(DEFAULT_BANKS, (9, 10, 11)):
        assert reader.pcr(name, number) == replayed(MIXED, name, order, number)
    assert reader.pcr("sha1", 12) is None


@every_form
@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_cut_anywhere(ascii: bool, bank: str, order: Order, size: int) -> None:
    data = mixed(ascii, bank, order)
    reader = ListReader()
    assert read(reader, [data[at : at + size] for at in range(0, len(data), size)]) == expected(bank, order)
    assert reader.position == position_after(len(MIXED), ascii, bank, order)


@pytest.mark.parametrize("ascii", [False, True])
def test_any_two_pieces(ascii: bool) -> None:
    data = mixed(ascii, "sha256", "big")
    for place in range(1, len(data), 5):
        reader = ListReader()
        assert read(reader, [data[:place], data[place:]]) == expected("sha256", "big")


@every_form
def test_stop_after_any_record_and_go_on(ascii: bool, bank: str, order: Order) -> None:
    data = mixed(ascii, bank, order)
    for count in range(len(MIXED) + 1):
        first = ListReader(limit=count)
        found = read(first, [data])
        assert first.position == position_after(count, ascii, bank, order)
        assert (first.finished, first.records) == (True, count)
        second = ListReader(first.position)
        assert second.position == first.position
        found += read(second, [data[first.position.offset :]])
        assert found == expected(bank, order)
        assert second.position == position_after(len(MIXED), ascii, bank, order)


@pytest.mark.parametrize("ascii", [False, True])
def test_a_position_does_not_change_with_its_reader(ascii: bool) -> None:
    data = mixed(ascii, "sha1", "little")
    reader = ListReader(limit=5)
    reader.feed(data)
    position = reader.position
    other = ListReader(position)
    other.feed(data[position.offset :])
    assert position == position_after(5, ascii, "sha1", "little")
    assert reader.position == position


@pytest.mark.parametrize("ascii", [False, True])
@pytest.mark.parametrize(
    "banks",
    [(), ("sha1",), ("sha256",), ("sha512",), ("sha384", "sha1"), ("sha256", "sha512"), BANKS, (ODD_BANK,)],
    ids="+".join,
)
def test_banks(banks: Sequence[str], ascii: bool) -> None:
    reader = ListReader(banks=banks)
    assert read(reader, [mixed(ascii, "sha256", "little")]) == expected("sha256", "little")
    assert reader.position == position_after(len(MIXED), ascii, "sha256", "little", banks)


@pytest.mark.parametrize("ascii", [False, True])
def test_old_template_at_a_big_endian_boot(ascii: bool) -> None:
    """Neither it nor a violation tells the byte order of an ASCII list; the first other record does."""
    old = boot_aggregate(template=b"ima")
    records = [old, violation(), file(b"/a", template=b"ima"), kernel_version(), file(b"/b")]
    reader = ListReader()
    found = read(reader, [printed(records, ascii=ascii, order="big")])
    assert [(record.index, record.fault, record.event_name()) for record in found if record.index != 1] == [
        (0, None, b"boot_aggregate"),
        (3, None, b"kernel_version"),
    ]
    assert found[1].is_violation
    assert found[0].fields() == old.fields
    assert found[2].order == "big"
    assert reader.pcr("sha256") == replayed(records, "sha256", "big")


def test_the_byte_order_is_found_out_once() -> None:
    records = [boot_aggregate(), kernel_version()]
    for order, other in (ORDERS, ORDERS[::-1]):
        data = ascii_list(records[:1], order=order) + ascii_list(records[1:], order=other)
        found = read(ListReader(), [data])
        assert [(record.fault, record.order) for record in found] == [
            (None, order),
            (Fault.TEMPLATE_DIGEST, order),
        ]


@pytest.mark.parametrize("ascii", [False, True])
@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
@pytest.mark.parametrize("template", [b"ima-ng", b"ima-sig", b"ima-modsig", b"evm-sig"])
def test_the_second_boot_aggregate_is_seen(template: bytes, algorithm: str, ascii: bool) -> None:
    """It has no file, so everything behind its name is empty; the first of a length is read with care."""
    more = {b"ima-ng": 0, b"ima-sig": 1, b"ima-modsig": 3, b"evm-sig": 7}[template]
    fields = (digest_field(b"x", algorithm), b"boot_aggregate\0", *[b""] * more)
    records = [
        Item(template, fields),
        file(b"/a"),
        Item(template, (digest_field(b"y", algorithm), *fields[1:])),
    ]
    data = printed(records, ascii=ascii)
    if ascii:  # the builder prints an empty number as 0, the kernel as nothing
        data = data.replace(b" 0 0 0\n", b"   \n")
    found = read(ListReader(), [data])
    assert [(record.index, record.fault, record.event_name()) for record in found] == [
        (0, None, b"boot_aggregate"),
        (2, None, b"boot_aggregate"),
    ]


@pytest.mark.parametrize("name", ["systematic-v1", "lvm-7.2", "random-6.12"])
def test_recorded_lists(name: str) -> None:
    watch = pcr_values(name)
    wanted = [index for index, item in enumerate(items(name)) if item.template == b"ima-buf" or index == 0]
    for form in forms(name):
        reader = ListReader(watch=watch)
        found = read(reader, [form.path.read_bytes()])
        assert [record.index for record in found] == wanted
        assert [record for record in found if record.fault is not None] == []
        assert [record.data for record in found] == [items(name)[index].data() for index in wanted]
        assert {bank: reader.pcr(bank) for bank in watch} == watch
        assert reader.matches == dict.fromkeys(watch, LISTS[name][1] - 1)


# -- watching a PCR, limits, not verifying -------------------------------------------------


@pytest.mark.parametrize("ascii", [False, True])
@pytest.mark.parametrize("bank", ["sha1", "sha384"])
def test_watched_values_match_where_the_replay_has_them(bank: str, ascii: bool) -> None:
    data = mixed(ascii, bank, "little")
    values = {
        name: [replayed(MIXED[: index + 1], name) for index in range(len(MIXED))]
        for name in ("sha1", "sha384")
    }
    for index in range(len(MIXED)):
        watch = {name: those[index] for name, those in values.items()}
        reader = ListReader(banks=(), watch=watch)
        read(reader, [data])
        # Records of other PCRs leave the value as it is: the first record that had it counts.
        assert reader.matches == {name: those.index(those[index]) for name, those in values.items()}


def test_what_never_matches() -> None:
    reader = ListReader(watch={"sha256": b"\1" * 32})
    read(reader, [mixed(False, "sha1", "little")])
    assert reader.matches == {"sha256": None}
    assert ListReader().matches == {}


@pytest.mark.parametrize("ascii", [False, True])
def test_nothing_is_read_behind_the_limit(ascii: bool) -> None:
    data = mixed(ascii, "sha1", "little")
    for pieces in ([data], by_bytes(data)):
        reader = ListReader(limit=7)
        assert read(reader, pieces) == expected("sha1", "little")[:4]
        assert (reader.finished, reader.records) == (True, 7)
        assert (reader.feed(b"\xff" * 5000), reader.close(), reader.broken) == ([], [], None)
        assert reader.position == position_after(7, ascii, "sha1", "little")


def test_a_limit_that_has_been_passed() -> None:
    data = mixed(False, "sha1", "little")
    for limit in (-1, 0):
        reader = ListReader(limit=limit)
        assert (read(reader, [data]), reader.finished, reader.records) == ([], True, 0)
    start = position_after(5, False, "sha1", "little")
    for limit in (2, 5):
        reader = ListReader(start, limit=limit)
        assert (read(reader, [data[start.offset :]]), reader.finished) == ([], True)
        assert reader.position == start
    reader = ListReader(start, limit=6)
    read(reader, [data[start.offset :]])
    assert reader.records == 6
    reader = ListReader(limit=1000)
    read(reader, [data])
    assert (reader.finished, reader.records) == (False, 20)


@pytest.mark.parametrize("ascii", [False, True])
def test_unverified(ascii: bool) -> None:
    """Wrong digests pass, but violations are still known by theirs."""
    reader = ListReader(banks=("sha256",), verify=False)
    found = read(reader, [mixed(ascii, "sha1", "little")])
    assert [record.index for record in found] == [index for index in HANDED_OUT if index != 12]
    assert {record.fault for record in found} == {None}
    assert reader.position == position_after(len(MIXED), ascii, "sha1", "little", ("sha256",))


@every_form
def test_watching_something_else_on_the_way(ascii: bool, bank: str, order: Order) -> None:
    """From any record on, for values of any other; what was found before is forgotten."""
    data = mixed(ascii, bank, order)
    values = {
        name: [replayed(MIXED[:count], name, order) for count in range(len(MIXED) + 1)] for name in BANKS
    }
    for begin in range(0, len(MIXED), 3):
        reader = ListReader(banks=BANKS, watch={"sha1": values["sha1"][1]})
        at = position_after(begin, ascii, bank, order).offset
        assert read(reader, [data[:at]], close=False) == [r for r in expected(bank, order) if r.index < begin]
        for wanted in range(begin, len(MIXED) + 1, 2):
            again = ListReader(reader.position, banks=BANKS)
            again.watch({name: those[wanted] for name, those in values.items()})
            assert again.matches == dict.fromkeys(BANKS)
            read(again, [data[at:]])
            # Not where it stood when it was asked, unless a record of another PCR left it there.
            counts = [
                n for n in range(begin + 1, len(MIXED) + 1) if values["sha1"][n] == values["sha1"][wanted]
            ]
            assert again.matches == dict.fromkeys(BANKS, counts[0] - 1 if counts else None)
        reader.watch({})
        assert reader.matches == {}
        read(reader, [data[at:]])
        assert reader.matches == {}


@pytest.mark.parametrize("ascii", [False, True])
def test_watching_a_run_of_ordinary_records(ascii: bool) -> None:
    records = [boot_aggregate(), *(file(b"/usr/bin/%d" % number) for number in range(50))]
    data = printed(records, ascii=ascii)
    half = len(printed(records[:25], ascii=ascii))
    reader = ListReader(watch={"sha1": replayed(records[:20], "sha1")})
    reader.feed(data[:half])
    assert reader.matches == {"sha1": 19}
    reader.watch({"sha256": replayed(records[:40], "sha256"), "sha1": replayed(records[:20], "sha1")})
    reader.feed(data[half:])
    assert reader.matches == {"sha256": 39, "sha1": None}


def test_watching_a_bank_that_is_not_replayed() -> None:
    reader = ListReader(banks=("sha1",))
    reader.watch({"sha1": replayed(MIXED[:1], "sha1"), "sha512": replayed(MIXED[:1], "sha512")})
    read(reader, [mixed(False, "sha1", "little")])
    assert reader.matches == {"sha1": 0, "sha512": None}
    assert set(reader.position.pcrs) == {"sha1"}


# -- by what a place is found again --------------------------------------------------------


@pytest.mark.parametrize("ascii", [False, True])
def test_anchors_behind_violations(ascii: bool) -> None:
    records = [
        violation(),
        violation(),
        boot_aggregate(),
        file(b"/a"),
        *[violation()] * 3,
        file(b"/b"),
        violation(),
    ]
    digests = [item.template_digest() for item in records]
    wanted = [(b"", 1), (b"", 2), (digests[2], 0), (digests[3], 0), (digests[3], 1), (digests[3], 2)]
    wanted += [(digests[3], 3), (digests[7], 0), (digests[7], 1)]
    reader = ListReader()
    for item, anchor in zip(records, wanted, strict=True):
        reader.feed(printed([item], ascii=ascii))
        assert (reader.position.anchor_digest, reader.position.after_anchor) == anchor
    for verify in (False, True):
        reader = ListReader(verify=verify)
        reader.feed(printed(records, ascii=ascii))
        assert (reader.position.anchor_digest, reader.position.after_anchor) == (digests[7], 1)
        reader = ListReader(reader.position)
        reader.feed(printed([violation()], ascii=ascii))
        assert (reader.position.anchor_digest, reader.position.after_anchor) == (digests[7], 2)


def test_no_anchor_behind_what_is_no_record() -> None:
    reader = ListReader()
    reader.feed(ascii_list([boot_aggregate(), violation()]))
    assert reader.position.anchor_digest == boot_aggregate().template_digest()
    reader.feed(b"junk\n" + ascii_record(kernel_version())[:20])
    reader.close()
    assert (reader.position.anchor_digest, reader.position.after_anchor) == (b"", 0)


@pytest.mark.parametrize("ascii", [False, True])
@pytest.mark.parametrize("template", [b"ima-sig", b"ima"])
def test_what_a_kexec_carried_over_is_known_by_a_boot_aggregate_behind_it(
    template: bytes, ascii: bool
) -> None:
    first, second = boot_aggregate(b"1"), boot_aggregate(b"2", template=template)
    reader = ListReader()
    reader.feed(printed([first, file(b"/a"), file(b"/b")], ascii=ascii))
    assert not reader.position.carried_over
    reader = ListReader(reader.position)
    reader.feed(printed([file(b"/c"), second, file(b"/a")], ascii=ascii))
    assert reader.position.carried_over
    reader = ListReader(reader.position)
    reader.feed(printed([file(b"/d")], ascii=ascii))
    assert reader.position.carried_over


@every_form
def test_seeking_a_digest(ascii: bool, bank: str, order: Order) -> None:
    """Any record can be sought; it is handed out once, with those that are anyway."""
    data = mixed(ascii, bank, order)
    usual = [index for index in HANDED_OUT if index != 12]  # its wrong digest is not noticed
    for index, item in enumerate(MIXED):
        seek = item.template_digest(bank, order)
        reader = ListReader(banks=(), verify=False, seek=seek)
        found = read(reader, [data])
        assert [record.index for record in found] == sorted({index, *usual})
        assert next(record for record in found if record.index == index).template_digest == seek
        assert reader.records == len(MIXED)


# -- PCRs that cannot be replayed ----------------------------------------------------------


def test_an_unknown_template_can_only_be_replayed_in_its_own_bank() -> None:
    digest = hashlib.sha1(b"whatever").digest()
    head, tail = [boot_aggregate()], [kernel_version(), file(b"/a")]
    data = ascii_list(head) + b"10 %s my-own a b c\n" % digest.hex().encode() + ascii_list(tail)
    reader = ListReader()
    assert [record.index for record in read(reader, by_bytes(data))] == [0, 2]
    value = hashlib.sha1(replayed(head, "sha1") + digest).digest()
    for item in tail:
        value = hashlib.sha1(value + item.template_digest()).digest()
    assert (reader.pcr("sha1"), reader.pcr("sha256")) == (value, None)
    again = ListReader(reader.position)
    again.feed(ascii_record(file(b"/b")))
    assert again.pcr("sha1") == hashlib.sha1(value + file(b"/b").template_digest()).digest()
    assert again.pcr("sha256") is None
    # Where the record was of another PCR, only that is lost.
    reader = ListReader()
    read(reader, [data.replace(b"10 %s" % digest.hex().encode(), b"11 %s" % digest.hex().encode())])
    assert reader.pcr("sha1", 11) == hashlib.sha1(bytes(20) + digest).digest()
    assert reader.pcr("sha256", 11) is None
    assert reader.pcr("sha256") == replayed(head + tail, "sha256")


def test_an_unknown_template_in_binary_is_hashed_like_any_other() -> None:
    records = [boot_aggregate(), Item(b"my-own", (b"a", b"bc\0")), Item(b"MY", (b"",)), file(b"/a")]
    reader = ListReader()
    assert [record.index for record in read(reader, [binary_list(records)])] == [0]
    assert reader.pcr("sha256") == replayed(records, "sha256")


@pytest.mark.parametrize("ascii", [False, True])
def test_a_bank_asked_for_too_late_is_lost(ascii: bool) -> None:
    """It must not be taken for one that begins with zeros."""
    data, start = mixed(ascii, "sha1", "little"), position_after(3, ascii, "sha1", "little")
    reader = ListReader(start, banks=("sha1",), watch={"sha512": replayed(MIXED[3:], "sha512")})
    found = read(reader, [data[start.offset :]])
    assert found == [record for record in expected("sha1", "little") if record.index >= 3]
    assert {reader.pcr("sha512", number) for number in range(24)} == {None}
    assert reader.matches == {"sha512": None}
    assert reader.pcr("sha1") == replayed(MIXED, "sha1")


# -- small and odd records -----------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_records_with_hardly_any_data(order: Order) -> None:
    empty, tiny = Item(b"ima-ng", ()), Item(b"d-ng", (b"abc",))
    records = [boot_aggregate(), empty, tiny, Item(b"ima-sig", (b"", b"")), file(b"/a"), empty]
    data = binary_list(records, order=order)
    for pieces in ([data], by_bytes(data)):
        reader = ListReader()
        assert read(reader, pieces) == [measurement(records[0], 0, order=order)]
        assert reader.records == 6
        assert reader.pcr("sha256") == replayed(records, "sha256", order)
        assert reader.position.last_length == len(binary_record(empty))


def test_a_short_record_is_not_waited_for_longer_than_it_is() -> None:
    """Its template's name begins like that of the old one, which has no length of data."""
    data = binary_list([boot_aggregate(), Item(b"ima-ng", (b"",)), Item(b"ima", (bytes(20), b""))])
    reader = ListReader()
    records = [len(reader.feed(piece)) + reader.records for piece in by_bytes(data)]
    assert records[-1] == 3
    assert reader.position.offset == len(data)
    assert [records.index(count) for count in (2, 3)][1] == len(data) - 1


def test_a_first_record_with_the_longest_template_name() -> None:
    template = b"|".join([b"d-ng"] * 51)
    assert len(template) == MAX_TEMPLATE_NAME_BYTES - 1
    item = Item(template + b"|", (digest_field(b"x"),))
    for bank, order in itertools.product(BANKS, ORDERS):
        reader = ListReader()
        read(reader, by_bytes(binary_record(item, bank, order)))
        assert (reader.records, reader.broken) == (1, None)
        assert reader.position.format == ListFormat(False, hashlib.new(bank).digest_size, order)


# -- the end -------------------------------------------------------------------------------


def test_nothing_at_all() -> None:
    reader = ListReader()
    assert (reader.feed(b""), reader.close(), reader.broken) == ([], [], None)
    assert reader.position == position_after(0, False, "sha1", "little")


@pytest.mark.parametrize("order", ORDERS)
def test_a_binary_list_that_ends_inside_a_record(order: Order) -> None:
    records = [boot_aggregate(), file(b"/old", template=b"ima"), kernel_version()]
    ends = list(itertools.accumulate(len(binary_record(item)) for item in records))
    data = binary_list(records, order=order)
    named = 4 + 20 + 4 + len(b"ima-sig")  # from here on it is known to be a list
    for cut in range(1, len(data)):
        whole = sum(end <= cut for end in ends)
        reader = ListReader()
        found = reader.feed(data[:cut])
        assert [record.index for record in found] == [0][:whole]
        if cut in ends:
            assert (reader.close(), reader.broken) == ([], None)
            continue
        begin = ends[whole - 1] if whole else 0
        what = "the list ends inside a record" if cut >= named else "not an IMA measurement list"
        assert reader.close() == [malformed(whole, f"{what} (at byte {begin})")]
        assert reader.broken is not None
        assert reader.broken.offset == begin
        assert (reader.records, reader.position.offset) == (whole, begin)
        assert (reader.close(), reader.feed(data[cut:])) == ([], [])


def test_an_ascii_list_that_ends_inside_a_line() -> None:
    """Never taken for a record with a wrong digest, which would mean that somebody changed it."""
    records = [boot_aggregate(), kernel_version(), file(b"/a b", template=b"ima-sig", signature=b"\3\2")]
    last = file(b"/usr/bin/env")
    for final in (*records[1:], last):
        head, tail = ascii_list(records), ascii_record(final)
        for cut in range(1, len(tail) - 1):
            reader = ListReader()
            assert read(reader, [head + tail[:cut]]) == [
                measurement(records[0], 0),
                measurement(records[1], 1),
                malformed(3, f"the list ends inside a record (at byte {len(head)})"),
            ]
            assert (reader.records, reader.position.offset) == (3, len(head))
            assert reader.pcr("sha1") == replayed(records, "sha1")


def test_a_last_line_without_its_newline_is_whole() -> None:
    records = [boot_aggregate(), kernel_version()]
    data = ascii_list(records).removesuffix(b"\n")
    for pieces in ([data], by_bytes(data)):
        reader = ListReader()
        assert [record.index for record in read(reader, pieces, close=False)] == [0]
        assert reader.close() == [measurement(records[1], 1)]
        assert (reader.position.offset, reader.broken) == (len(data), None)
        assert reader.position.last_length == len(ascii_record(records[1])) - 1


def test_an_ascii_list_shorter_than_its_first_line() -> None:
    data = ascii_record(boot_aggregate())
    for cut in range(1, len(data) - 1):
        reader = ListReader()
        what = "the list ends inside a record" if cut >= 43 else "not an IMA measurement list"
        assert read(reader, [data[:cut]]) == [malformed(0, f"{what} (at byte 0)")]
        assert reader.broken is not None


# -- malformed records ---------------------------------------------------------------------

HEADER = (10).to_bytes(4, "little") + b"\xab" * 20


def words(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in values)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (HEADER + words(0), "no template name where one should be"),
        (HEADER + words(256), "no template name where one should be"),
        (HEADER + words(0xFFFFFFFF), "no template name where one should be"),
        (HEADER + words(6) + b"ima-ng" + words(0xFFFFFFFF), "template data is longer than any real one"),
        (
            HEADER + words(6) + b"ima-ng" + words(MAX_TEMPLATE_DATA_BYTES + 1),
            "template data is longer than any real one",
        ),
        (
            HEADER + words(3) + b"ima" + bytes(20) + words(0xFFFFFFFF),
            "template data is longer than any real one",
        ),
        (words(24) + binary_record(file(b"/a"))[4:], "PCR 24 does not exist"),
        (words(0xFFFFFFFF) + binary_record(file(b"/a"))[4:], "PCR 4294967295 does not exist"),
    ],
)
def test_binary_that_leads_nowhere(bad: bytes, reason: str) -> None:
    """Known as soon as the number has been read, whatever is claimed to follow; nothing is read behind it."""
    head = [boot_aggregate(), kernel_version(), file(b"/a")]
    before = binary_list(head)
    end = f"{reason} (at byte {len(before)})"
    for pieces in ([before + bad], [before, bad], by_bytes(before + bad), [before + bad + before]):
        reader = ListReader()
        assert read(reader, pieces, close=False) == [
            measurement(head[0], 0),
            measurement(head[1], 1),
            malformed(3, end),
        ]
        assert str(reader.broken) == end
        position = reader.position
        assert (position.records, position.offset) == (3, len(before))
        assert (position.last_length, position.last_digest) == (
            len(binary_record(head[2])),
            head[2].template_digest(),
        )
        assert reader.pcr("sha1") == replayed(head, "sha1")
        assert (reader.feed(before), reader.close()) == ([], [])
        assert reader.position == position


def test_the_largest_template_data() -> None:
    item = Item(b"ima-buf", (digest_field(b"x"), b"n\0", bytes(MAX_TEMPLATE_DATA_BYTES - 54)))
    assert len(item.data()) == MAX_TEMPLATE_DATA_BYTES
    for ascii in (False, True):
        data = printed([boot_aggregate(), item, file(b"/a")], ascii=ascii)
        reader = ListReader()
        found = read(reader, [data[at : at + 65536] for at in range(0, len(data), 65536)])
        assert found == [measurement(boot_aggregate(), 0), measurement(item, 1)]
        assert (reader.records, reader.position.offset) == (3, len(data))


def test_template_data_that_is_no_fields_is_a_record() -> None:
    """The reader looks no further than the digest."""
    data = b"\xff" * 60
    bad = words(10) + hashlib.sha1(data).digest() + words(7) + b"ima-buf" + words(60) + data
    reader = ListReader()
    found = read(reader, [binary_record(boot_aggregate()) + bad + binary_record(file(b"/a"))])
    assert [(record.index, record.data, record.fault) for record in found[1:]] == [(1, data, None)]
    assert reader.records == 3


#: Lines that are no record, one of them after the other between records.
JUNK = (
    b"\n",
    b"junk\n",
    b"24" + ascii_record(file(b"/a"))[2:],
    b"\xff" * 200 + b"\n",
    ascii_record(file(b"/a"))[9:],
)


def test_lines_that_are_no_records() -> None:
    """Each is reported, and the next line is read as if nothing had been."""
    records = [boot_aggregate(), *(buffer("dm_x", b"%d" % index) for index in range(len(JUNK)))]
    lines = [ascii_record(records[0])]
    wanted = [measurement(records[0], 0)]
    digests = [records[0].template_digest()]
    for index, (junk, item) in enumerate(zip(JUNK, records[1:], strict=True)):
        lines += [junk, ascii_record(item)]
        digests += [b"", item.template_digest()]
        wanted += [not_a_line(2 * index + 1), measurement(item, 2 * index + 2)]
    data = b"".join(lines)
    for pieces in ([data], by_bytes(data)):
        reader = ListReader()
        assert read(reader, pieces) == wanted
        assert (reader.records, reader.broken) == (len(lines), None)
        assert reader.pcr("sha256") == replayed(records, "sha256")
    for count, length in enumerate(itertools.accumulate(map(len, lines)), start=1):
        first = ListReader(limit=count)
        found = read(first, [data])
        position = first.position
        assert (position.records, position.offset) == (count, length)
        assert (position.last_length, position.last_digest) == (len(lines[count - 1]), digests[count - 1])
        second = ListReader(position)
        assert found + read(second, by_bytes(data[length:])) == wanted
        assert second.position == reader.position


def test_a_list_that_ends_with_junk() -> None:
    data = ascii_record(boot_aggregate())
    assert read(ListReader(), [data + b"junk\njunk\n"])[1:] == [not_a_line(1), not_a_line(2)]
    assert read(ListReader(), [data + b"junk\njunk"])[1:] == [
        not_a_line(1),
        malformed(2, f"the list ends inside a record (at byte {len(data) + 5})"),
    ]


def test_ascii_whose_first_line_is_junk() -> None:
    digest = b"ab" * 25  # of no bank
    reader = ListReader()
    found = read(reader, [b"10 " + digest + b" ima-ng sha1:00 /a\n" + ascii_record(boot_aggregate())])
    assert found == [not_a_line(0), measurement(boot_aggregate(), 1)]
    assert reader.position.format == ListFormat(True, 20, "little")


# -- names with newlines -------------------------------------------------------------------


@pytest.mark.parametrize("template", [b"ima-ng", b"ima-sig", b"ima"])
@pytest.mark.parametrize(
    "name", [b"\n", b"/a\n", b"\n\n/a\n b\n", b"/a" + b"\n" * (MAX_LINES_PER_RECORD - 1)]
)
def test_lines_are_put_together(name: bytes, template: bytes) -> None:
    records = [boot_aggregate(), file(name, template=template), kernel_version(), file(name, b"x")]
    data = ascii_list(records)
    for pieces in ([data], by_bytes(data)):
        reader = ListReader()
        assert read(reader, pieces) == [measurement(records[0], 0), measurement(records[2], 2)]
        assert reader.records == 4
        assert reader.pcr("sha256") == replayed(records, "sha256")
        assert reader.position.last_length == len(ascii_record(records[3]))


def test_a_name_of_too_many_lines() -> None:
    item = file(b"/a" + b"\n" * MAX_LINES_PER_RECORD)
    head, tail = ascii_record(boot_aggregate()), ascii_record(kernel_version())
    found = read(ListReader(), [head + ascii_record(item) + tail])
    assert [(record.index, record.fault) for record in found] == [
        (0, None),
        (1, Fault.TEMPLATE_DIGEST),
        *((2 + index, Fault.MALFORMED) for index in range(MAX_LINES_PER_RECORD)),
        (2 + MAX_LINES_PER_RECORD, None),
    ]


def test_what_is_damaged_does_not_hold_up_the_next_record() -> None:
    """A good record behind a bad one settles that no more lines belong to the bad one."""
    bad = replace(file(b"/a"), digest=b"\xee")
    reader = ListReader()
    assert len(reader.feed(ascii_list([boot_aggregate(), bad]))) == 1
    assert reader.position.records == 1  # its name may go on in the next line
    assert reader.feed(ascii_record(kernel_version())) == [
        measurement(bad, 1),
        measurement(kernel_version(), 2),
    ]
    # A buffer's name has no newlines: its digest is known to be wrong at once.
    bad = replace(buffer("dm_x", b"x"), digest=b"\xee")
    assert reader.feed(ascii_record(bad)) == [measurement(bad, 3)]


def test_a_name_cut_at_its_newline() -> None:
    head = ascii_record(boot_aggregate())
    line = ascii_record(file(b"/a\nb\nc", template=b"ima-sig"))
    cut = line.index(b"\nc") + 1
    reader = ListReader()
    assert reader.feed(head + line[:cut])[1:] == []
    assert reader.position.offset == len(head)
    assert reader.close() == [not_a_line(1), not_a_line(2)]
    assert reader.position.offset == len(head) + cut


# -- size ----------------------------------------------------------------------------------


def long_line(size: int) -> list[bytes]:
    """A line without an end, in pieces."""
    return [b"x" * (1 << 20)] * (size // (1 << 20) + 1)


def test_a_line_without_end() -> None:
    head = ascii_record(boot_aggregate())
    reader = ListReader()
    assert read(reader, [head, *long_line(MAX_LINE_BYTES)], close=False)[1:] == [
        malformed(1, f"a line longer than any real one (at byte {len(head)})")
    ]
    assert reader.broken is not None
    assert reader.broken.offset == len(head)


def test_a_bad_line_and_one_without_end() -> None:
    """Waiting for the lines that may belong to the bad one must have an end too."""
    head = ascii_record(boot_aggregate())
    for pieces in (
        [head, b"bad\n", *long_line(MAX_LINE_BYTES)],
        [head + b"bad\n" + b"x" * (MAX_LINE_BYTES + 1)],
    ):
        reader = ListReader()
        assert read(reader, pieces, close=False)[1:] == [
            not_a_line(1),
            malformed(2, f"a line longer than any real one (at byte {len(head) + 4})"),
        ]


def test_lines_too_long_to_be_one_record() -> None:
    head = ascii_record(boot_aggregate())
    data = head + b"bad\n" + b"x" * MAX_LINE_BYTES + b"\n" + ascii_record(file(b"/a"))
    reader = ListReader()
    assert read(reader, [data])[1:] == [not_a_line(1), not_a_line(2)]
    assert (reader.records, reader.position.offset) == (4, len(data))


def test_a_long_line_in_small_pieces() -> None:
    records = [boot_aggregate(), buffer("dm_x", bytes(100_000)), file(b"/a")]
    data = ascii_list(records)
    reader = ListReader()
    pieces = [data[at : at + 100] for at in range(0, len(data), 100)]
    assert read(reader, pieces) == [measurement(records[0], 0), measurement(records[1], 1)]
    assert reader.records == 3


# -- what is a list ------------------------------------------------------------------------

NO_LISTS = {
    "zeros": bytes(1000),
    "ones": b"\xff" * 1000,
    "text": b"PCR measurements of this host\n" * 40,
    "program": b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 4,
    "steps": b"10 " * 300,
    "uppercase digest": b"10 " + b"AB" * 20 + b" ima-ng sha1:00 /a\n" * 30,
    "name with capitals": HEADER + words(6) + b"IMA-NG" + words(400) + bytes(400),
    "no PCR": words(24) + binary_record(file(b"/a" * 200))[4:],
    "no name": HEADER + words(0, 400) + bytes(400),
}


@pytest.mark.parametrize("name", NO_LISTS)
def test_what_is_no_list(name: str) -> None:
    data = NO_LISTS[name]
    wanted = [malformed(0, "not an IMA measurement list (at byte 0)")]
    for pieces in ([data], by_bytes(data)):
        reader = ListReader()
        assert read(reader, pieces, close=False) == wanted
        assert reader.position == position_after(0, False, "sha1", "little")
        assert (reader.feed(binary("lvm-6.1")), reader.close()) == ([], [])
    reader = ListReader()
    assert (reader.feed(data[:50]), reader.close()) == ([], wanted)


def test_a_list_in_a_low_pcr() -> None:
    """The kernel puts a space before PCR numbers of one digit."""
    records = [replace(item, pcr=9) for item in (boot_aggregate(), kernel_version(), file(b"/a"))]
    data = ascii_list(records)
    assert data.startswith(b" 9 ")
    reader = ListReader()
    assert read(reader, by_bytes(data)) == [measurement(records[0], 0), measurement(records[1], 1)]
    assert reader.pcr("sha256", 9) == replayed(records, "sha256", pcr=9)
    assert reader.pcr("sha256") == bytes(32)
