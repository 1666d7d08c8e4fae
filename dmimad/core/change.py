"""One change of a device's slot, as it is remembered, told and stored.

Source: none; the shape is a promise to other programs (``docs/status.md``).

Does not know what changes when (`history`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from dmimad.core.alert import MAX_SECONDS
from dmimad.core.checkpoint import Document, hexadecimal, integer, items, to_bytes, to_text
from dmimad.core.cloudevent import timestamp
from dmimad.core.drift import Verdict
from dmimad.core.errors import MalformedError
from dmimad.core.event import printable
from dmimad.core.observation import LiveTable
from dmimad.core.table import Provenance, Table, types_told

#: Longer names are the same if they begin so; the kernel's have 127 bytes at most.
MAX_NAME_BYTES = 255
#: Target types told of one table, and their length.
MAX_TYPES = 8
MAX_TYPE_CHARS = 64
#: Of a stored text.
MAX_TEXT_CHARS = 100

ACTIVE, INACTIVE = "active", "inactive"
#: Events that no record tells of.
OBSERVED, JUDGED, BOOT = "observed", "judged", "boot"
#: The type of a target of which nobody has told it.
UNTOLD_TYPE = "opaque"


class Cause(NamedTuple):
    """Why something is noted; a named tuple for speed, as `Device`.

    Attributes:
        event: as the record has it, `OBSERVED`, `JUDGED` or `BOOT`; "" where it is only found to be so.
        record: index of the record.
        late: it happened before it was noted.
        after: and after this, in Unix seconds; None: not known.
    """

    event: str = ""
    record: int | None = None
    late: bool = False
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Description:
    """What a table is: its fingerprint, None if that is not known, and the types of its targets."""

    fingerprint: str | None
    types: tuple[str, ...]


def described(table: Table, live: LiveTable | None, fingerprint: str | None) -> Description:
    """A table; ``live``: what was seen in its slot, which may tell the types of opaque targets."""
    types = types_told(table.texts)
    measured = table.provenance is Provenance.MEASURED
    if not measured and live is not None and live.targets is not None and (None in types or not types):
        types = tuple(target.type for target in live.targets)
    return Description(fingerprint, _shown(types))


def _shown(types: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((each or UNTOLD_TYPE)[:MAX_TYPE_CHARS] for each in types))[:MAX_TYPES]


class Change(NamedTuple):
    """One slot is another than before; a named tuple for speed, as `Device`.

    Attributes:
        seq: its number among all changes that were ever noted, and ``number`` among those of the device.
        line: whose it is.
        hash: None if the slot is empty, b"" if nobody has told.
        description: None until somebody wanted it.
    """

    seq: int
    line: int
    number: int
    key: str
    name: bytes
    slot: str
    hash: bytes | None
    provenance: Provenance | None
    drift: bool
    verdict: Verdict
    cause: Cause
    at: float
    description: Description | None = None

    def document(self) -> dict[str, object]:
        """As it is told."""
        cause, described = self.cause, self.description or _NOTHING
        return {
            "time": timestamp(self.at),
            "slot": self.slot,
            "name": printable(self.name),
            "hash": None if self.hash is None else "sha256:" + self.hash.hex() if self.hash else "unknown",
            "fingerprint": described.fingerprint,
            "types": list(described.types),
            "provenance": None if self.provenance is None else self.provenance.value,
            "verdict": self.verdict.value,
            "drift": self.drift,
            "record": cause.record,
            "event": cause.event,
            "late": cause.late,
            "after": None if cause.after is None else timestamp(cause.after),
        }


_NOTHING = Description(None, ())


# -- what is stored ------------------------------------------------------------------------

_DIGITS = 16
_PREFIX = "change|"


def key_of(seq: int) -> str:
    """To store a change under: in order."""
    return f"{_PREFIX}{seq:0{_DIGITS}}"


def is_change(key: str) -> bool:
    """Whether such a document is stored under this key."""
    return key.startswith(_PREFIX)


def change_to_document(change: Change) -> dict[str, object]:
    """A change as JSON to store."""
    cause, description = change.cause, change.description or _NOTHING
    return {
        "line": change.line,
        "number": change.number,
        "key": change.key,
        "name": to_text(change.name),
        "slot": change.slot,
        "hash": None if change.hash is None else change.hash.hex(),
        "provenance": None if change.provenance is None else change.provenance.value,
        "drift": change.drift,
        "verdict": change.verdict.value,
        "event": cause.event,
        "record": cause.record,
        "late": cause.late,
        "after": cause.after,
        "at": change.at,
        "fingerprint": description.fingerprint,
        "types": list(description.types),
    }


def change_from_document(key: str, document: Document) -> Change:
    """The inverse; raises MalformedError on what was never stored here."""
    digits = key.removeprefix(_PREFIX)
    if not (len(digits) == _DIGITS and digits.isascii() and digits.isdecimal()):
        raise MalformedError("a stored change is damaged")
    hashed, provenance, record = document.get("hash"), document.get("provenance"), document.get("record")
    after, name = document.get("after"), to_bytes(document.get("name"))
    slot, fingerprint = document.get("slot"), document.get("fingerprint")
    known = slot in (ACTIVE, INACTIVE) and (hashed is None) == (provenance is None)
    if not known or len(name) > MAX_NAME_BYTES:
        raise MalformedError("a stored change is damaged")
    try:
        return Change(
            int(digits),
            integer(document.get("line")),
            integer(document.get("number")),
            _text(document.get("key")),
            name,
            ACTIVE if slot == ACTIVE else INACTIVE,
            None if hashed is None else hexadecimal(hashed),
            None if provenance is None else Provenance(str(provenance)),
            document.get("drift") is True,
            Verdict(str(document.get("verdict"))),
            Cause(
                _text(document.get("event")),
                None if record is None else integer(record),
                document.get("late") is True,
                None if after is None else _seconds(after),
            ),
            _seconds(document.get("at")),
            None
            if hashed is None
            else Description(
                None if fingerprint is None else _text(fingerprint),
                tuple(map(_text, items(document.get("types"))[:MAX_TYPES])),
            ),
        )
    except ValueError as error:
        raise MalformedError("a stored change is damaged") from error


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARS:
        raise MalformedError("a stored change is damaged")
    return value


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, float | int) or not 0 <= value <= MAX_SECONDS:
        raise MalformedError("a stored change is damaged")
    return value
