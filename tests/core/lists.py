"""Measurement lists made to order: every template, bank, byte order and both printed forms, honest or not.

Source: ``security/integrity/ima/ima_fs.c`` (the printed forms), ``ima_template_lib.c`` (fields) and
``ima_crypto.c`` (what is hashed), Linux 5.15 to 7.2; `read_binary` and `binary_list` together give the
recorded lists back byte by byte, which a test holds.

Written without `dmimad`, so that a mistake there is not repeated here.  Knows nothing of device-mapper
but the names of its events; what dm-ima writes is `tests.core.kernel`'s.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Order = Literal["little", "big"]
ORDERS: tuple[Order, ...] = ("little", "big")
BANKS = ("sha1", "sha256", "sha384", "sha512")

#: How the fields of each template are printed in ASCII.
FORMATS: dict[bytes, tuple[str, ...]] = {
    b"ima": ("hex", "name"),
    b"ima-ng": ("digest", "name"),
    b"ima-sig": ("digest", "name", "hex"),
    b"ima-buf": ("digest", "name", "hex"),
    b"ima-modsig": ("digest", "name", "hex", "digest", "hex"),
    b"evm-sig": ("digest", "name", "hex", "text", "hex", "hex", "u32", "u32", "u16"),
}


@dataclass(frozen=True, slots=True)
class Item:
    """One record: its template and fields, names with their NUL.

    ``digest`` overrides the template digest (every bank gets as much of it as it needs); ``violation``
    prints zeros there, as IMA does.
    """

    template: bytes
    fields: tuple[bytes, ...]
    pcr: int = 10
    digest: bytes | None = None
    violation: bool = False

    def data(self, order: Order = "little") -> bytes:
        """The template data."""
        if self.template == b"ima":
            return self.fields[0] + len(self.fields[1]).to_bytes(4, order) + self.fields[1]
        return b"".join(len(field).to_bytes(4, order) + field for field in self.fields)

    def hashed(self, order: Order = "little") -> bytes:
        """What the template digest is computed over."""
        if self.template == b"ima":
            return self.fields[0] + self.fields[1].ljust(256, b"\0")
        return self.data(order)

    def template_digest(self, bank: str = "sha1", order: Order = "little") -> bytes:
        """The digest printed in the list of a bank."""
        size = hashlib.new(bank).digest_size
        if self.violation:
            return bytes(size)
        if self.digest is not None:
            return self.digest.ljust(size, b"\x55")[:size]
        return hashlib.new(bank, self.hashed(order)).digest()

    @property
    def event(self) -> str:
        """The event name of a buffer, the file name of others."""
        return self.fields[1].rstrip(b"\0").decode("latin-1") if len(self.fields) > 1 else ""

    @property
    def text(self) -> bytes:
        """The data of a buffer."""
        return self.fields[2]

    @property
    def is_dm(self) -> bool:
        """Whether this is a record of dm-ima."""
        return self.template == b"ima-buf" and self.event.removeprefix("dm_") in DM_EVENTS


DM_EVENTS = ("table_load", "device_resume", "device_remove", "table_clear", "device_rename", "target_update")


# -- making records ------------------------------------------------------------------------


def digest_field(data: bytes, algorithm: str = "sha256") -> bytes:
    """A ``d-ng`` field with the digest of ``data``."""
    return algorithm.encode() + b":\0" + hashlib.new(algorithm, data).digest()


def buffer(event: str, text: bytes, algorithm: str = "sha256", pcr: int = 10) -> Item:
    """Critical data, the template of all dm records."""
    return Item(b"ima-buf", (digest_field(text, algorithm), event.encode() + b"\0", text), pcr)


def file(name: bytes, content: bytes = b"", *, template: bytes = b"ima-ng", signature: bytes = b"") -> Item:
    """A measured file."""
    if template == b"ima":
        return Item(template, (hashlib.sha1(content).digest(), name))
    extra = (signature,) if template == b"ima-sig" else ()
    return Item(template, (digest_field(content), name + b"\0", *extra))


def boot_aggregate(content: bytes = b"", *, template: bytes = b"ima-sig") -> Item:
    """The first record of a boot."""
    return file(b"boot_aggregate", content, template=template)


def kernel_version(release: str = "6.1.0-50-amd64") -> Item:
    """What IMA measures while it starts, where the policy says ``critical_data`` from the beginning."""
    return buffer("kernel_version", release.encode())


def violation(name: bytes = b"/var/log/messages") -> Item:
    """A file that was written while it was measured."""
    return Item(b"ima-ng", (b"sha256:\0" + bytes(32), name + b"\0"), violation=True)


def boot(release: str = "6.1.0-50-amd64") -> list[Item]:
    """How the list of a host begins that measures from the first moment on."""
    return [boot_aggregate(), kernel_version(release)]


def rewritten(item: Item, old: bytes, new: bytes, *, fix_event: bool, fix_template: bool = True) -> Item:
    """A buffer whose text was edited; ``fix_…`` tells which digests the editor put right."""
    text = item.text.replace(old, new)
    if text == item.text:
        raise ValueError(f"{old!r} is not in {item.text[:200]!r}")
    algorithm = item.fields[0].partition(b":")[0].decode()
    digest = digest_field(text, algorithm) if fix_event else item.fields[0]
    edited = replace(item, fields=(digest, item.fields[1], text))
    return edited if fix_template else replace(edited, digest=item.template_digest())


# -- printing ------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def binary_record(item: Item, bank: str = "sha1", order: Order = "little") -> bytes:
    """A record as ``binary_runtime_measurements…`` has it."""
    prefix = "<" if order == "little" else ">"
    data = item.data(order)
    length = b"" if item.template == b"ima" else struct.pack(prefix + "I", len(data))
    header = struct.pack(prefix + "I", item.pcr) + item.template_digest(bank, order)
    return header + struct.pack(prefix + "I", len(item.template)) + item.template + length + data


def ascii_record(item: Item, bank: str = "sha1", order: Order = "little") -> bytes:
    """A line of ``ascii_runtime_measurements…``, newline included."""
    printed = [_printed(form, field, order) for form, field in zip(_formats(item), item.fields, strict=True)]
    head = b"%2d %s %s " % (item.pcr, item.template_digest(bank, order).hex().encode(), item.template)
    return head + b" ".join(printed) + b"\n"


def _formats(item: Item) -> tuple[str, ...]:
    return FORMATS.get(item.template) or tuple(
        {"d-ng": "digest", "n-ng": "name", "sig": "hex", "buf": "hex"}[field]
        for field in item.template.decode().split("|")
    )


def _printed(form: str, field: bytes, order: Order) -> bytes:
    if form in ("name", "text"):
        return field.rstrip(b"\0")
    if form == "digest" and b":\0" in field:
        algorithm, _, digest = field.partition(b":\0")
        return algorithm + b":" + digest.hex().encode()
    if form in ("u16", "u32"):
        return b"%d" % int.from_bytes(field, order)
    return field.hex().encode()


def binary_list(items: Iterable[Item], bank: str = "sha1", order: Order = "little") -> bytes:
    """A whole list."""
    return b"".join(binary_record(item, bank, order) for item in items)


def ascii_list(items: Iterable[Item], bank: str = "sha1", order: Order = "little") -> bytes:
    """A whole list."""
    return b"".join(ascii_record(item, bank, order) for item in items)


def printed(items: Sequence[Item], *, ascii: bool, bank: str = "sha1", order: Order = "little") -> bytes:
    """A whole list in either form."""
    return (ascii_list if ascii else binary_list)(items, bank, order)


def replayed(items: Iterable[Item], bank: str, order: Order = "little", pcr: int = 10) -> bytes:
    """The PCR value a TPM has after these records."""
    size = hashlib.new(bank).digest_size
    value = bytes(size)
    for item in items:
        if item.pcr == pcr:
            digest = b"\xff" * size if item.violation else hashlib.new(bank, item.hashed(order)).digest()
            value = hashlib.new(bank, value + digest).digest()
    return value


# -- reading recorded lists, to change them ------------------------------------------------


def read_binary(data: bytes, bank: str = "sha1", order: Order = "little") -> list[Item]:
    """The records of a well-formed binary list; ``digest`` is set only where it is not the right one."""
    size = hashlib.new(bank).digest_size
    items: list[Item] = []
    at = 0

    def number() -> int:
        nonlocal at
        at += 4
        return int.from_bytes(data[at - 4 : at], order)

    while at < len(data):
        pcr = number()
        seen, at = data[at : at + size], at + size
        length = number()
        template, at = data[at : at + length], at + length
        length = number()
        end = at + length
        fields = []
        while at < end:
            length = number()
            fields.append(data[at : at + length])
            at += length
        item = Item(template, tuple(fields), pcr, violation=not any(seen))
        items.append(item if item.template_digest(bank, order) == seen else replace(item, digest=seen))
    return items
