"""One record of the list: both printed forms of every template, and what is refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from dmimad.core.errors import MalformedError
from dmimad.core.measurement import (
    BANK_OF_DIGEST_SIZE,
    TEMPLATE_FIELDS,
    Buffer,
    Fault,
    Measurement,
    hashed_form,
    parse_buffer,
    parse_line,
    split_fields,
)
from tests.core.lists import (
    BANKS,
    ORDERS,
    Item,
    Order,
    ascii_record,
    boot_aggregate,
    buffer,
    digest_field,
    file,
    violation,
)
from tests.core.recorded import ALL_FORMS, Form, items

EVM = Item(
    b"evm-sig",
    (
        digest_field(b"content", "sha512"),
        b"/etc/a file\0",
        b"\x05\x02sig",
        b"security.ima|security.evm\0",
        b"\x04\0\0\0\x02\0\0\0",
        b"\x01\x02\x03\x04\x05\x06",
        b"\xe8\x03\0\0",
        b"\x01\0\0\0",
        b"\xa4\x81",
    ),
)
MODSIG = Item(
    b"ima-modsig", (digest_field(b"m"), b"/lib/a.ko\0", b"\x03sig", digest_field(b"mod", "sha1"), b"\x30\x82")
)
ITEMS = {
    "ima": file(b"/usr/bin/two words", b"x", template=b"ima"),
    "ima-ng": file(b"/usr/bin/env", b"x"),
    "ima-sig": file(b"/usr/bin/env", b"x", template=b"ima-sig", signature=b"\x03\x02\x04 sig"),
    "ima-sig unsigned": boot_aggregate(),
    "ima-buf": buffer("dm_table_load", b"dm_version=4.50.0;name=a b,uuid=;"),
    "ima-buf empty": buffer("", b"", "sha1"),
    "ima-modsig": MODSIG,
    "ima-modsig unsigned": replace(MODSIG, fields=(*MODSIG.fields[:2], b"", b"", b"")),
    "evm-sig": EVM,
    "evm-sig without a file": Item(b"evm-sig", (digest_field(b"x"), b"boot_aggregate\0", *[b""] * 7)),
    "custom": Item(b"d-ng|n-ng|sig", (digest_field(b"c"), b"/a b c\0", b"\xff")),
    "custom, name first": Item(b"n-ng|d-ng", (b" two  spaces \0", digest_field(b"c"))),
    "custom, no name": Item(b"d-ng|buf", (digest_field(b"c"), b"data")),
    "custom, name only": Item(b"n-ng", (b"a b\0",)),
    "spaces": file(b"/a  b (deleted) "),
    "newlines": file(b"/a\n10 b\n", template=b"ima-sig", signature=b"\x01"),
    "not text": file(b"/\xff\xfe\x80", template=b"ima-sig"),
    "violation": violation(),
    "no algorithm": Item(b"ima-ng", (b"\x12" * 20, b"/a\0")),
}


def in_order(item: Item, order: Order) -> Item:
    """The numbers among the fields of `EVM` are in the host's byte order too."""
    if item.template != b"evm-sig" or order == "little":
        return item
    return replace(item, fields=(*item.fields[:6], *(field[::-1] for field in item.fields[6:])))


def line(template: bytes, fields: bytes) -> bytes:
    """A line whose digest nobody looks at."""
    return b"10 " + b"ab" * 20 + b" " + template + b" " + fields


def record(template: bytes, data: bytes | None, digest: bytes = b"\1" * 20) -> Measurement:
    return Measurement(0, 10, digest, template, data)


# -- ASCII ---------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bank", BANKS)
@pytest.mark.parametrize("name", ITEMS)
def test_a_line_gives_the_template_data_back(name: str, bank: str, order: Order) -> None:
    item = in_order(ITEMS[name], order)
    printed = ascii_record(item, bank, order).removesuffix(b"\n")
    if not any(item.fields[2:]):  # the builder prints an empty number as 0, the kernel as nothing
        printed = printed.replace(b" 0 0 0", b"   ")
    data = b"".join(item.fields) if item.template == b"ima" else item.data(order)
    digest = item.template_digest(bank, order)
    assert parse_line(printed, 7, order) == Measurement(7, 10, digest, item.template, data, order)
    assert BANK_OF_DIGEST_SIZE[len(digest)] == bank
    if not item.violation:
        assert hashlib.new(bank, hashed_form(item.template, data)).digest() == digest


@pytest.mark.parametrize("kind", [b"ima", b"verity"])
def test_digests_of_the_second_version_have_a_type(kind: bytes) -> None:
    digest = hashlib.sha256(b"content").digest()
    field = kind + b":sha256:\0" + digest
    text = kind + b":sha256:" + digest.hex().encode() + b" /a b"
    for template, tail, extra in ((b"ima-ngv2", b"", ()), (b"ima-sigv2", b" 0302", (b"\x03\x02",))):
        expected = Item(template, (field, b"/a b\0", *extra))
        parsed = parse_line(line(template, text + tail), 0, "little")
        assert parsed.data == expected.data()
        assert parsed.fields() == expected.fields


@pytest.mark.parametrize(
    "template",
    [b"my-template", b"|", b"d-ng|", b"d|n", b"d-ng|unheard-of", b"IMA-NG", b"!" * 255],
)
def test_unknown_templates_are_kept_without_data(template: bytes) -> None:
    parsed = parse_line(line(template, b"any thing"), 3, "big")
    assert parsed == Measurement(3, 10, b"\xab" * 20, template, None, "big")
    assert (parsed.fields(), parsed.event_name(), parsed.is_violation) == ((), b"", False)


@pytest.mark.parametrize(("text", "pcr"), [(b"0", 0), (b" 9", 9), (b"9", 9), (b"10", 10), (b"23", 23)])
def test_pcr_numbers(text: bytes, pcr: int) -> None:
    """The kernel prints them two characters wide."""
    assert parse_line(text + line(b"ima-ng", b"sha1:00 /a")[2:], 0, "little").pcr == pcr


@pytest.mark.parametrize("pcr", [24, 99])
def test_a_pcr_no_tpm_has(pcr: int) -> None:
    with pytest.raises(MalformedError, match=rf"^PCR {pcr} does not exist$"):
        parse_line(b"%d" % pcr + line(b"ima-ng", b"sha1:00 /a")[2:], 0, "little")


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\n",
        b"10",
        b"100" + line(b"ima-ng", b"sha1:00 /a")[2:],
        b" 10" + line(b"ima-ng", b"sha1:00 /a")[2:],
        b"  9" + line(b"ima-ng", b"sha1:00 /a")[2:],
        b"-1" + line(b"ima-ng", b"sha1:00 /a")[2:],
        b"10 " + b"ab" * 19 + b" ima-ng sha1:00 /a",
        b"10 " + b"ab" * 65 + b" ima-ng sha1:00 /a",
        b"10 " + b"AB" * 20 + b" ima-ng sha1:00 /a",
        b"10  " + b"ab" * 20 + b" ima-ng sha1:00 /a",
        line(b"", b"sha1:00 /a"),
        line(b"x" * 256, b"sha1:00 /a"),
        line(b"ima\xff", b"sha1:00 /a"),
        line(b"ima-ng", b"")[:-1],
        line(b"ima-ng", b"sha1:00 /a").replace(b" ", b"\t"),
    ],
)
def test_what_is_no_line(bad: bytes) -> None:
    with pytest.raises(MalformedError, match=r"^not a line of a measurement list$"):
        parse_line(bad, 0, "little")


@pytest.mark.parametrize(
    ("template", "fields", "reason"),
    [
        (b"ima", b"00", "ima: 1 fields instead of 2"),
        (b"ima-ng", b"sha1:00", "ima-ng: 1 fields instead of 2"),
        (b"ima-ng", b"", "ima-ng: 1 fields instead of 2"),
        (b"ima-buf", b"sha1:00 name", "ima-buf: 2 fields instead of 3"),
        (b"ima-modsig", b"sha1:00 name 00 00", "ima-modsig: 4 fields instead of 5"),
        (b"d-ng|buf", b"sha1:00", "d-ng|buf: 1 fields instead of 2"),
        (b"d-ng|buf", b"sha1:00 00 00", "d-ng|buf: 3 fields instead of 2"),
        (b"ima", b"0g /a", "field d is not what it should be"),
        (b"ima-ng", b"sha1:0 /a", "field d-ng is not what it should be"),
        (b"ima-ng", b"sha1:\xff\xff /a", "field d-ng is not what it should be"),
        (b"ima-buf", b"sha1:00 name 0", "field buf is not what it should be"),
        (b"ima-sig", b"sha1:00 name x:00", "field sig is not what it should be"),
        (b"evm-sig", b"sha1:00 n 00 a 00 00 x 0 0", "field iuid is not what it should be"),
        (b"evm-sig", b"sha1:00 n 00 a 00 00 4294967296 0 0", "field iuid is not what it should be"),
        (b"evm-sig", b"sha1:00 n 00 a 00 00 0 -1 0", "field igid is not what it should be"),
        (b"evm-sig", b"sha1:00 n 00 a 00 00 0 0 65536", "field imode is not what it should be"),
        (b"evm-sig", b"sha1:00 n 00 a 00 00 0 0 " + b"9" * 5000, "field imode is not what it should be"),
    ],
)
def test_lines_whose_fields_are_wrong(template: bytes, fields: bytes, reason: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_line(line(template, fields), 0, "little")
    assert str(caught.value) == reason


@pytest.mark.parametrize(("name", "form"), [pair for pair in ALL_FORMS if pair[1].ascii], ids=str)
def test_recorded_lines(name: str, form: Form) -> None:
    lines = form.path.read_bytes().splitlines()
    assert len(lines) == len(items(name))
    for index, (printed, item) in enumerate(zip(lines, items(name), strict=True)):
        parsed = parse_line(printed, index, "little")
        assert (parsed.data, parsed.fields()) == (item.data(), item.fields)
        assert parsed.template_digest == item.template_digest(form.bank)
        assert parsed.event_name().decode("latin-1") == item.event


# -- template data -------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", [name for name in ITEMS if name != "ima"])
def test_fields_and_event_name(name: str, order: Order) -> None:
    item = ITEMS[name]
    measured = Measurement(0, 10, b"\1", item.template, item.data(order), order)
    assert measured.fields() == item.fields
    assert measured.event_name() == (item.fields[1].rstrip(b"\0") if len(item.fields) > 1 else b"")


def test_fields_of_the_old_template() -> None:
    item = ITEMS["ima"]
    measured = record(b"ima", b"".join(item.fields))
    assert measured.fields() == item.fields
    assert measured.event_name() == b"/usr/bin/two words"
    assert hashed_form(b"ima", item.fields[0] + b"/a") == item.fields[0] + b"/a" + bytes(254)
    assert hashed_form(b"ima-ng", b"/a") == b"/a"


def test_every_built_in_template_has_its_fields_tried() -> None:
    assert {item.template for item in ITEMS.values()} | {b"ima-ngv2", b"ima-sigv2"} >= set(TEMPLATE_FIELDS)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"\1\0\0\0", 0),
        (b"\1\0\0\0a\1\0", 1),
        (b"\1\0\0\0a\0\0\0\0\3\0\0\0bc", 2),
        (b"\xff\xff\xff\xffa", 0),
        (b"\0\0\0", 0),
    ],
)
def test_fields_that_are_longer_than_their_record(data: bytes, field: int) -> None:
    with pytest.raises(MalformedError, match=rf"^ima-ng: field {field} is longer than the record$"):
        split_fields(b"ima-ng", data, "little")
    with pytest.raises(MalformedError):
        record(b"ima-ng", data).event_name()


def test_no_fields_at_all() -> None:
    assert split_fields(b"ima-ng", b"", "little") == ()
    assert record(b"ima-ng", b"").event_name() == b""


def test_a_violation_has_a_digest_of_zeros() -> None:
    assert record(b"ima-ng", b"", bytes(20)).is_violation
    assert not record(b"ima-ng", b"", bytes(19) + b"\1").is_violation
    malformed = Measurement(0, 10, b"", b"", None, fault=Fault.MALFORMED, reason="broken")
    assert not malformed.is_violation


# -- buffers -------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("algorithm", ["md5", *BANKS])
@pytest.mark.parametrize(("name", "text"), [("dm_table_load", b"a;\0b"), ("", b""), ("x" * 300, b"y" * 5000)])
def test_buffers(name: str, text: bytes, algorithm: str, order: Order) -> None:
    parsed = parse_buffer(buffer(name, text, algorithm).data(order), order)
    assert parsed == Buffer(algorithm, hashlib.new(algorithm, text).digest(), name.encode(), text)
    assert parsed.digest_matches() is True
    assert parsed._replace(data=text + b"!").digest_matches() is False


@pytest.mark.parametrize("algorithm", ["", "sm99", "shake_128", "sha\0"])
def test_digests_that_cannot_be_checked(algorithm: str) -> None:
    assert Buffer(algorithm, b"\1" * 16, b"n", b"data").digest_matches() is None


def fields(*values: bytes) -> bytes:
    """Template data."""
    return Item(b"ima-buf", values).data()


GOOD = digest_field(b"text")


@pytest.mark.parametrize(
    "data",
    [
        fields(GOOD, b"name", b"text"),
        fields(GOOD, b"name\0", b"text", b""),
        fields(GOOD, b"name\0", b"text") + b"!",
        fields(GOOD, b"name\0", b"text")[:-1],
        fields(b"sha256:" + GOOD[8:], b"name\0", b"text"),
        fields(b"sha\xe9:\0" + GOOD[8:], b"name\0", b"text"),
        fields(b"", b"name\0", b"text"),
    ],
)
def test_what_is_no_buffer(data: bytes) -> None:
    with pytest.raises(MalformedError, match=r"^ima-buf: not a digest, an event name and data$"):
        parse_buffer(data, "little")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x28\0",
        fields(GOOD),
        fields(GOOD)[:20],
        fields(GOOD) + b"\1\0",
        fields(GOOD, b"name\0"),
        fields(GOOD) + b"\xff\xff\xff\xffname",
        fields(b"sha1:\0" + bytes(20), b"name\0"),
        b"\xff\xff\xff\xff" + fields(GOOD, b"name\0", b"text")[4:],
    ],
)
def test_buffers_cut_short(data: bytes) -> None:
    """Lengths that lead out of the record, in either of the two ways a buffer is read."""
    with pytest.raises(MalformedError, match=r"^ima-buf: the fields are longer than the record$"):
        parse_buffer(data, "little")


def test_any_cut_of_a_buffer_is_malformed() -> None:
    for algorithm in ("sha256", "sha1"):
        for order in ORDERS:
            data = buffer("dm_table_load", b"text", algorithm).data(order)
            for length in range(len(data)):
                with pytest.raises(MalformedError):
                    parse_buffer(data[:length], order)


def test_recorded_buffers() -> None:
    for item in items("systematic-7.2"):
        if item.template == b"ima-buf":
            parsed = parse_buffer(item.data(), "little")
            assert (parsed.event_name.decode("latin-1"), parsed.data) == (item.event, item.text)
            assert parsed.digest_matches() is True
