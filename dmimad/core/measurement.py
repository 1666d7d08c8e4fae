"""Records of the IMA runtime measurement list: what they are made of, in ASCII and binary.

Source: ``security/integrity/ima/ima_fs.c`` (the two printed forms) and ``ima_template_lib.c``
(the fields), Linux 5.15 to 7.2, compared with lists of real kernels.

A record is ``pcr, template digest, template name, template data``; template data is, per field,
a 32-bit length and the bytes.  This module turns one printed record into a `Measurement` and
takes template data apart.  It does not split a stream into records (`reader`), extend PCRs
(`pcr`) or know anything of device-mapper (`event`).
"""

from __future__ import annotations

import enum
import hashlib
import re
import struct
from dataclasses import dataclass
from typing import Literal, NamedTuple

from dmimad.core.errors import MalformedError

#: Longest template name accepted; a custom template's name is its whole format string.
MAX_TEMPLATE_NAME_BYTES = 255
#: Largest template data accepted; real ones stay below 64 KiB.
MAX_TEMPLATE_DATA_BYTES = 4 << 20
#: Longest ASCII line accepted: hex doubles the data, and a digest and a name come before it.
MAX_LINE_BYTES = 2 * MAX_TEMPLATE_DATA_BYTES + 4096
#: TPM 2.0 platforms have 24 PCRs; IMA refuses to measure into others.
MAX_PCR = 23

ByteOrder = Literal["little", "big"]

#: Digest size in bytes -> TPM bank the list's template digests belong to.
BANK_OF_DIGEST_SIZE = {20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}

#: Field identifiers of the templates built into the kernel (``ima_template.c``).
TEMPLATE_FIELDS: dict[bytes, tuple[str, ...]] = {
    b"ima": ("d", "n"),
    b"ima-ng": ("d-ng", "n-ng"),
    b"ima-ngv2": ("d-ngv2", "n-ng"),
    b"ima-sig": ("d-ng", "n-ng", "sig"),
    b"ima-sigv2": ("d-ngv2", "n-ng", "sig"),
    b"ima-buf": ("d-ng", "n-ng", "buf"),
    b"ima-modsig": ("d-ng", "n-ng", "sig", "d-modsig", "modsig"),
    b"evm-sig": (
        "d-ng",
        "n-ng",
        "evmsig",
        "xattrnames",
        "xattrlengths",
        "xattrvalues",
        "iuid",
        "igid",
        "imode",
    ),
}
_NAME_FIELDS = frozenset({"n", "n-ng"})
_DIGEST_FIELDS = frozenset({"d-ng", "d-ngv2", "d-modsig"})
_STRING_FIELDS = frozenset({"xattrnames"})
_IDENTIFIER_FIELDS = {"iuid": 4, "igid": 4, "imode": 2}

#: The old template pads the name to this many bytes before hashing.
_IMA_NAME_PADDED_BYTES = 256
_SHA256_LITTLE = b"\x28\0\0\0sha256:\0"
_SHA256_NAME_AT = 48
_LENGTH_LITTLE = struct.Struct("<I").unpack_from
_LENGTH_BIG = struct.Struct(">I").unpack_from
_LINE = re.compile(
    rb"([ 0-9]?[0-9]) ([0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128}) ([!-~]{1,255}) (.*)", re.DOTALL
)


class Fault(enum.Enum):
    """What is wrong with a record; none on an honest list."""

    TEMPLATE_DIGEST = "template_digest"
    EVENT_DIGEST = "event_digest"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One record of the list.

    ``data`` is the template data as the kernel hashed it (rebuilt, if the list is ASCII), or
    None where an ASCII record of an unknown template cannot be rebuilt.  Of the old template it is
    the digest and the name, without the length that the binary list has between them.
    """

    index: int
    pcr: int
    template_digest: bytes
    template: bytes
    data: bytes | None
    order: ByteOrder = "little"
    fault: Fault | None = None
    reason: str = ""

    @property
    def is_violation(self) -> bool:
        """All-zero template digest: IMA saw a file change while it was measured."""
        return bool(self.template_digest) and not any(self.template_digest)

    def fields(self) -> tuple[bytes, ...]:
        """The fields of the template data, in order, as raw bytes.

        Raises:
            MalformedError: lengths that do not add up.
        """
        if self.data is None:
            return ()
        return split_fields(self.template, self.data, self.order)

    def event_name(self) -> bytes:
        """The file or event name, without its NUL; empty where the template has none."""
        fields = self.fields()
        return fields[1].rstrip(b"\0") if len(fields) > 1 else b""


class Buffer(NamedTuple):
    """The three fields of an ``ima-buf`` record, which is how critical data is measured."""

    algorithm: str
    digest: bytes
    event_name: bytes
    data: bytes

    def digest_matches(self) -> bool | None:
        """Whether ``digest`` is the hash of ``data``; None where hashlib lacks the algorithm."""
        if self.algorithm == "sha256":
            return hashlib.sha256(self.data).digest() == self.digest
        try:
            return hashlib.new(self.algorithm, self.data).digest() == self.digest
        except (ValueError, TypeError):  # TypeError: an algorithm whose digest has no fixed length
            return None


def split_fields(template: bytes, data: bytes, order: ByteOrder) -> tuple[bytes, ...]:
    """Template data -> its fields.  Linear in ``len(data)``; raises MalformedError."""
    if template == b"ima":
        return (data[:20], data[20:])
    fields: list[bytes] = []
    position, end = 0, len(data)
    while position < end:
        length = int.from_bytes(data[position : position + 4], order)
        start = position + 4
        position = start + length
        if position > end or start > end:
            raise MalformedError(
                f"{template.decode('latin-1')}: field {len(fields)} is longer than the record"
            )
        fields.append(data[start:position])
    return tuple(fields)


def parse_buffer(data: bytes, order: ByteOrder) -> Buffer:
    """Template data of an ``ima-buf`` record -> its event; raises MalformedError."""
    length = _LENGTH_LITTLE if order == "little" else _LENGTH_BIG
    if data.startswith(_SHA256_LITTLE) and order == "little" and len(data) >= _SHA256_NAME_AT:
        # What nearly every list has, without the detours below.
        buffer_at = _SHA256_NAME_AT + 4 + length(data, _SHA256_NAME_AT - 4)[0]
        if buffer_at <= len(data) == buffer_at + length(data, buffer_at - 4)[0] and not data[buffer_at - 5]:
            return Buffer("sha256", data[12:44], data[_SHA256_NAME_AT : buffer_at - 5], data[buffer_at:])
    try:
        name_at = 8 + length(data, 0)[0]
        buffer_at = name_at + 4 + length(data, name_at - 4)[0]
        whole = buffer_at + length(data, buffer_at - 4)[0]
    except struct.error as error:
        raise MalformedError("ima-buf: the fields are longer than the record") from error
    algorithm, colon, digest = data[4 : name_at - 4].partition(b":\0")
    if whole != len(data) or not colon or not algorithm.isascii() or data[buffer_at - 5] != 0:
        raise MalformedError("ima-buf: not a digest, an event name and data")
    return Buffer(algorithm.decode("ascii"), digest, data[name_at : buffer_at - 5], data[buffer_at:])


def hashed_form(template: bytes, data: bytes) -> bytes:
    """The bytes the template digest is computed over: ``data``, but for the padded old template."""
    if template == b"ima":
        return data[:20] + data[20:].ljust(_IMA_NAME_PADDED_BYTES, b"\0")
    return data


def parse_line(line: bytes, index: int, order: ByteOrder) -> Measurement:
    """One line of the ASCII list, without its newline, -> a record.

    Raises:
        MalformedError: not a line of a measurement list.
    """
    match = _LINE.fullmatch(line)
    if match is None:
        raise MalformedError("not a line of a measurement list")
    pcr = int(match[1])
    if pcr > MAX_PCR:
        raise MalformedError(f"PCR {pcr} does not exist")
    template = match[3]
    identifiers = TEMPLATE_FIELDS.get(template) or _custom_fields(template)
    data = _rebuild(template, identifiers, match[4], order) if identifiers else None
    return Measurement(index, pcr, bytes.fromhex(match[2].decode("ascii")), template, data, order)


def _custom_fields(template: bytes) -> tuple[str, ...]:
    """Fields of a template given by ``ima_template_fmt=``, whose name is the format itself."""
    identifiers = tuple(template.decode("ascii").split("|"))
    known = {field for fields in TEMPLATE_FIELDS.values() for field in fields}
    return identifiers if set(identifiers) <= known and "d" not in identifiers else ()


def _rebuild(template: bytes, identifiers: tuple[str, ...], text: bytes, order: ByteOrder) -> bytes:
    """ASCII fields -> template data.  Only the name may contain spaces, so split from both ends."""
    before = next((i for i, field in enumerate(identifiers) if field in _NAME_FIELDS), len(identifiers))
    after = max(len(identifiers) - before - 1, 0)
    head = text.split(b" ", before)
    tail = head.pop().rsplit(b" ", after) if len(head) > before else []
    values = head + tail
    if len(values) != len(identifiers):
        raise MalformedError(
            f"{template.decode('ascii')}: {len(values)} fields instead of {len(identifiers)}"
        )
    raw = [_field_bytes(field, value, order) for field, value in zip(identifiers, values, strict=True)]
    if template == b"ima":
        return raw[0] + raw[1].rstrip(b"\0")
    return b"".join(len(value).to_bytes(4, order) + value for value in raw)


def _field_bytes(field: str, value: bytes, order: ByteOrder) -> bytes:
    """One printed field -> its bytes in the template data."""
    if not value and field not in _NAME_FIELDS:
        return b""  # of an empty field nothing is printed, not even of a number; a name has its NUL
    if field in _NAME_FIELDS or field in _STRING_FIELDS:
        return value + b"\0"
    try:
        if field in _IDENTIFIER_FIELDS:
            return int(value).to_bytes(_IDENTIFIER_FIELDS[field], order)
        prefix, colon, digits = value.rpartition(b":")
        if field in _DIGEST_FIELDS and colon:
            return prefix + b":\0" + bytes.fromhex(digits.decode("ascii"))
        return bytes.fromhex(value.decode("ascii"))
    except (ValueError, OverflowError) as error:
        raise MalformedError(f"field {field} is not what it should be") from error
