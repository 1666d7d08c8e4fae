"""The core's state as JSON documents, and back: what a restarted process goes on from.

Source: none; this is the project's own format, versioned by `FORMAT`.

Bytes (names, table texts) are written as Latin-1 text, which any byte string survives.  A
document that does not say what it should raises `MalformedError`; the caller then reads the list
from its start, as if there had been none.  Alerts have their own documents (`alert`).
"""

from __future__ import annotations

from collections.abc import Mapping

from dmimad.core.device import Device, Dialect
from dmimad.core.errors import MalformedError
from dmimad.core.event import Identity, Metadata
from dmimad.core.list_format import ListFormat
from dmimad.core.measurement import BANK_OF_DIGEST_SIZE, ByteOrder
from dmimad.core.reader import Position
from dmimad.core.table import Fragment, LoadAssembly, Provenance, Table

#: Raised when older documents can no longer be read.
FORMAT = 1

Document = Mapping[str, object]


def to_text(data: bytes) -> str:
    """Any bytes as text that JSON can carry."""
    return data.decode("latin-1")


def to_bytes(value: object) -> bytes:
    """The inverse of `to_text`."""
    if not isinstance(value, str):
        raise MalformedError("a stored text is missing")
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError as error:
        raise MalformedError("a stored text is damaged") from error


def integer(value: object) -> int:
    """A stored integer."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise MalformedError("a stored number is missing")
    return value


def table(value: object) -> Document:
    """A stored JSON object."""
    if not isinstance(value, dict):
        raise MalformedError("a stored object is missing")
    return value


def items(value: object) -> list[object]:
    """A stored JSON list."""
    if not isinstance(value, list):
        raise MalformedError("a stored list is missing")
    return value


def hexadecimal(value: object) -> bytes:
    """Stored hexadecimal digits."""
    try:
        return bytes.fromhex(str(value))
    except ValueError as error:
        raise MalformedError("a stored digest is damaged") from error


# -- the reader ----------------------------------------------------------------------------


def position_document(position: Position) -> dict[str, object]:
    """Where a reader is."""
    form = position.format
    return {
        "format": None if form is None else [form.ascii, form.digest_bytes, form.order],
        "records": position.records,
        "offset": position.offset,
        "last_length": position.last_length,
        "last_digest": position.last_digest.hex(),
        "violations": position.violations,
        "pcrs": {
            bank: {str(pcr): None if value is None else value.hex() for pcr, value in values.items()}
            for bank, values in position.pcrs.items()
        },
        "anchor_digest": position.anchor_digest.hex(),
        "after_anchor": position.after_anchor,
        "carried_over": position.carried_over,
    }


def read_position(document: Document) -> Position:
    """The inverse of `position_document`."""
    form: ListFormat | None = None
    if document.get("format") is not None:
        ascii_form, digest_bytes, order = (*items(document["format"]), None, None, None)[:3]
        if (
            order not in ("little", "big")
            or not isinstance(ascii_form, bool)
            or integer(digest_bytes) not in BANK_OF_DIGEST_SIZE
        ):
            raise MalformedError("the stored list format is damaged")
        known: ByteOrder = "little" if order == "little" else "big"
        form = ListFormat(ascii_form, integer(digest_bytes), known)
    pcrs = {
        bank: {
            _number(pcr): None if value is None else hexadecimal(value)
            for pcr, value in table(values).items()
        }
        for bank, values in table(document.get("pcrs")).items()
    }
    numbers = [integer(document.get(name)) for name in ("records", "offset", "last_length", "violations")]
    records, offset, last_length, violations = numbers
    if min(numbers) < 0 or last_length > offset:
        raise MalformedError("the stored position is damaged")
    last_digest = hexadecimal(document.get("last_digest"))
    anchor_digest, after_anchor = _read_anchor(document, last_digest, records)
    carried_over = document.get("carried_over") is True
    return Position(
        form,
        records,
        offset,
        last_length,
        last_digest,
        violations,
        pcrs,
        anchor_digest,
        after_anchor,
        carried_over,
    )


def _read_anchor(document: Document, last_digest: bytes, records: int) -> tuple[bytes, int]:
    """By what the place is found in a trimmed list; earlier documents do not say it."""
    if document.get("anchor_digest") is None:
        return (last_digest, 0) if any(last_digest) else (b"", 0)
    anchor_digest = hexadecimal(document["anchor_digest"])
    after_anchor = integer(document.get("after_anchor"))
    if (anchor_digest and not any(anchor_digest)) or not 0 <= after_anchor <= records:
        raise MalformedError("the stored position is damaged")
    return anchor_digest, after_anchor


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise MalformedError("a stored number is damaged") from error


# -- devices -------------------------------------------------------------------------------


def device_document(device: Device) -> dict[str, object]:
    """A device with all that is known of its slots."""
    return {
        "major": device.major,
        "minor": device.minor,
        "name": to_text(device.name),
        "uuid": to_text(device.uuid),
        "active": table_document(device.active),
        "inactive": table_document(device.inactive),
        "aliased": device.aliased,
        "former": [[to_text(former.name), to_text(former.uuid)] for former in device.former],
        "since": device.since,
        "changed_at": device.changed_at,
        "staged_at": device.staged_at,
    }


def read_device(key: str, document: Document) -> Device:
    """The inverse of `device_document`."""
    former = []
    for pair in items(document.get("former")):
        name, uuid = (*items(pair), None, None)[:2]
        former.append(Identity(to_bytes(name), to_bytes(uuid)))
    major, minor = document.get("major"), document.get("minor")
    return Device(
        key,
        None if major is None else integer(major),
        None if minor is None else integer(minor),
        to_bytes(document.get("name")),
        to_bytes(document.get("uuid")),
        read_table(document.get("active")),
        read_table(document.get("inactive")),
        document.get("aliased") is True,
        tuple(former),
        integer(document.get("since")),
        integer(document.get("changed_at")),
        integer(document.get("staged_at")),
    )


def table_document(stored: Table | None) -> dict[str, object] | None:
    """A table with its texts; None for an empty slot."""
    if stored is None:
        return None
    return {
        "hash": stored.hash.hex(),
        "name": to_text(stored.name),
        "uuid": to_text(stored.uuid),
        "num_targets": stored.num_targets,
        "texts": [to_text(text) for text in stored.texts],
        "loaded_at": stored.loaded_at,
        "unmeasured": stored.unmeasured,
        "provenance": stored.provenance.value,
    }


def read_table(value: object) -> Table | None:
    """The inverse of `table_document`."""
    if value is None:
        return None
    document = table(value)
    loaded_at = document.get("loaded_at")
    return Table(
        hexadecimal(document.get("hash")),
        to_bytes(document.get("name")),
        to_bytes(document.get("uuid")),
        integer(document.get("num_targets")),
        tuple(to_bytes(text) for text in items(document.get("texts"))),
        None if loaded_at is None else integer(loaded_at),
        integer(document.get("unmeasured")),
        _read_provenance(document.get("provenance")),
    )


def _read_provenance(value: object) -> Provenance:
    """Who says that a table is in its slot; older states had one witness."""
    if value is None:
        return Provenance.MEASURED
    try:
        return Provenance(str(value))
    except ValueError as error:
        raise MalformedError("a stored table is damaged") from error


# -- loads under way -----------------------------------------------------------------------


def load_document(load: LoadAssembly) -> dict[str, object]:
    """A table load of which some records have been seen."""
    metadata = load.metadata
    return {
        "name": to_text(metadata.name),
        "uuid": to_text(metadata.uuid),
        "numbers": [metadata.major, metadata.minor, metadata.num_targets],
        "parts": [[part.first, part.last, to_text(part.text)] for part in load.parts],
    }


def read_load(document: Document) -> LoadAssembly:
    """The inverse of `load_document`."""
    numbers = [integer(number) for number in items(document.get("numbers"))]
    parts = [(*items(part), None, None, None)[:3] for part in items(document.get("parts"))]
    if len(numbers) != len(("major", "minor", "num_targets")) or not parts:
        raise MalformedError("a stored load is damaged")
    metadata = Metadata(to_bytes(document.get("name")), to_bytes(document.get("uuid")), *numbers)
    return LoadAssembly(
        metadata, [Fragment(integer(first), integer(last), to_bytes(text)) for first, last, text in parts]
    )


def read_dialect(value: object) -> Dialect | None:
    """A stored dialect."""
    if value is None:
        return None
    try:
        return Dialect(str(value))
    except ValueError as error:
        raise MalformedError("the stored dialect is damaged") from error
