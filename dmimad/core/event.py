"""device-mapper events: the text that dm-ima measures, parsed.

Source: ``drivers/md/dm-ima.c`` and the ``STATUSTYPE_IMA`` branches of the targets, Linux 5.15 to
7.2, and the first form of the patch series (July 2021), compared with records of real kernels.

Names and uuids are arbitrary bytes.  The kernel puts a backslash before each of ``\\ ; = ,`` in
them, so the grammar below is regular and every expression is written without backtracking.
Targets are not looked into here: a table load keeps its text and `table.parse_targets` reads it
when somebody asks.

The records here are named tuples, not frozen dataclasses as elsewhere: they are as immutable,
and making one costs a third, which is what half of the time per event went into.
"""

from __future__ import annotations

import enum
import re
from binascii import unhexlify
from functools import lru_cache
from typing import NamedTuple

from dmimad.core.errors import MalformedError

#: ``DM_IMA_MEASUREMENT_BUF_LEN``: a load whose text would reach this is split over several records.
MEASUREMENT_BUFFER_BYTES = 4096
#: Largest event data accepted; the kernel never writes more than the buffer above.
MAX_EVENT_BYTES = 64 << 10


class EventKind(enum.StrEnum):
    """The device-mapper operations that are measured."""

    __hash__ = str.__hash__  # the enum's own is Python code, and kinds are looked up for every event

    TABLE_LOAD = "table_load"
    DEVICE_RESUME = "device_resume"
    DEVICE_REMOVE = "device_remove"
    TABLE_CLEAR = "table_clear"
    DEVICE_RENAME = "device_rename"
    TARGET_UPDATE = "target_update"


#: Event name in the record -> (kind, whether it is the first form of the patches, without ``dm_``).
EVENT_NAMES: dict[bytes, tuple[EventKind, bool]] = {
    prefix + kind.value.encode(): (kind, not prefix) for kind in EventKind for prefix in (b"", b"dm_")
}


class Identity(NamedTuple):
    """Name and uuid of a mapped device, unescaped."""

    name: bytes
    uuid: bytes


class Metadata(NamedTuple):
    """Device metadata as dm-ima keeps it with a table."""

    name: bytes
    uuid: bytes
    major: int
    minor: int
    num_targets: int

    @property
    def device(self) -> tuple[int, int]:
        """``major, minor``."""
        return (self.major, self.minor)


class TableLoad(NamedTuple):
    """One record of a table load; a long table has several.

    ``text`` is the record's data, ``first`` to ``last`` the target indices in it (last is first - 1
    if there is none), ``targets`` how often ``target_index=`` stands in it.
    """

    version: bytes
    metadata: Metadata
    text: bytes
    first: int
    last: int
    targets: int


class DeviceResume(NamedTuple):
    """A resume.  Without ``metadata`` the device had no table (``no_data``)."""

    version: bytes
    metadata: Metadata | None
    identity: Identity | Metadata
    active_hash: bytes | None
    capacity_sectors: int


class TableClear(NamedTuple):
    """A clear of the inactive table, measured even if nothing was staged."""

    version: bytes
    metadata: Metadata | None
    identity: Identity | Metadata
    inactive_hash: bytes | None
    capacity_sectors: int


class DeviceRemove(NamedTuple):
    """A removal, with what the kernel believed to be in the two slots."""

    version: bytes
    active: Metadata | None
    inactive: Metadata | None
    identity: Identity | None
    active_hash: bytes | None
    inactive_hash: bytes | None
    remove_all: bool
    capacity_sectors: int


class DeviceRename(NamedTuple):
    """A rename, or the setting of a uuid.

    ``metadata`` is the device before it; None where the kernel had none: ``null`` tells that the
    record says so by ``(null)``, as kernels before the rework do.
    """

    version: bytes
    metadata: Metadata | None
    null: bool
    new: Identity
    capacity_sectors: int


class TargetUpdate(NamedTuple):
    """A proposed event that no released kernel writes; parsed, never relied on."""

    version: bytes
    metadata: Metadata
    text: bytes


Event = TableLoad | DeviceResume | TableClear | DeviceRemove | DeviceRename | TargetUpdate

_RAW = rb"[^\\;=,]*+(?:\\.[^\\;=,]*+)*+"
_TEXT = rb"(" + _RAW + rb")"
_METADATA = (
    rb"(name=" + _RAW + rb",uuid=" + _RAW + rb",major=[0-9]{1,7},minor=[0-9]{1,7},"
    rb"minor_count=[0-9]{1,7},num_targets=[0-9]{1,10};)"
)
_METADATA_FIELDS = re.compile(
    rb"name=" + _TEXT + rb",uuid=" + _TEXT + rb",major=([0-9]+),minor=([0-9]+),"
    rb"minor_count=[0-9]+,num_targets=([0-9]+);",
    re.DOTALL,
)
_IDENTITY = rb"name=" + _TEXT + rb",uuid=" + _TEXT + rb";"
_VERSION = rb"(?:dm_version=([0-9.]{1,32});)?"
_HASH = rb"(?:sha256:)?([0-9a-f]{64})"
#: Early 5.15 kernels left NULs of their buffer between the two parts.
_CAPACITY = rb"\0*+current_device_capacity=([0-9]{1,20});"

_LOAD = re.compile(_VERSION + _METADATA, re.DOTALL)
_FIRST_TARGET = re.compile(rb"target_index=([0-9]{1,10}),target_begin=[0-9]{1,20},target_len=[0-9]{1,20},")
_RESUME = re.compile(
    _VERSION + rb"(?:" + _METADATA + rb"(?:active_table_hash=" + _HASH + rb";)?|"
    + _IDENTITY + rb"device_resume=no_data;)" + _CAPACITY,
    re.DOTALL,
)  # fmt: skip
_CLEAR = re.compile(
    _VERSION + rb"(?:" + _METADATA + rb"(?:inactive_table_hash=" + _HASH + rb";)?|"
    + _IDENTITY + rb"table_clear=no_data;)" + _CAPACITY,
    re.DOTALL,
)  # fmt: skip
_REMOVE = re.compile(
    _VERSION + rb"(?:device_active_metadata=" + _METADATA + rb")?"
    rb"(?:device_inactive_metadata=" + _METADATA + rb")?"
    rb"(?:active_table_hash=" + _HASH + rb",)?(?:inactive_table_hash=" + _HASH + rb",)?"
    rb"(?:" + _IDENTITY + rb"device_remove=no_data;)?\0*+remove_all=([yn]);" + _CAPACITY,
    re.DOTALL,
)  # fmt: skip
_RENAME = re.compile(
    _VERSION + rb"(?:" + _METADATA + rb"|(\(null\))|(?:" + _IDENTITY + rb")?device_rename=no_data;)?\0*+"
    rb"new_name=" + _TEXT + rb",new_uuid=" + _TEXT + rb";" + _CAPACITY,
    re.DOTALL,
)  # fmt: skip
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


def parse_event(kind: EventKind, data: bytes) -> Event:
    """The data of a dm record -> the event.

    Args:
        kind: from the record's event name, by `EVENT_NAMES`.
        data: the ``buf`` field.

    Raises:
        MalformedError: not what any known dm-ima writes.
    """
    if len(data) > MAX_EVENT_BYTES:
        raise MalformedError(f"{kind}: {len(data)} bytes of event data, more than any kernel writes")
    event = _PARSERS[kind](data)
    if event is None:
        raise MalformedError(f"{kind}: the event data does not follow dm-ima's format")
    return event


def unescape(text: bytes) -> bytes:
    """Undo dm-ima's backslashes."""
    return _ESCAPED.sub(rb"\1", text) if b"\\" in text else text


def escape(text: bytes) -> bytes:
    """Put dm-ima's backslashes: before each of ``\\ ; = ,``."""
    return re.sub(rb"([\\;=,])", rb"\\\1", text)


def printable(text: bytes) -> str:
    """A name for people and JSON: UTF-8, bytes that are not as ``\\xNN``."""
    return text.decode("utf-8", "backslashreplace")


def one_line(text: str) -> str:
    """A text of any length without what moves the cursor, ends the line or turns its direction."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


#: The records of one device carry the same metadata again and again.
@lru_cache(maxsize=4096)
def _metadata(text: bytes | None) -> Metadata | None:
    match = None if text is None else _METADATA_FIELDS.fullmatch(text)
    if match is None:
        return None
    name, uuid, major, minor, num_targets = match.groups()
    return Metadata(unescape(name), unescape(uuid), int(major), int(minor), int(num_targets))


def _identity(name: bytes, uuid: bytes) -> Identity:
    return Identity(unescape(name), unescape(uuid))


def _hash(digits: bytes | None) -> bytes | None:
    return None if digits is None else unhexlify(digits)


def _parse_load(data: bytes) -> TableLoad | None:
    match = _LOAD.match(data)
    metadata = None if match is None else _metadata(match[2])
    if match is None or metadata is None:
        return None
    version, targets_at = match[1] or b"", match.end()
    first = _FIRST_TARGET.match(data, targets_at)
    if first is None:
        return TableLoad(version, metadata, data, 0, -1, 0) if targets_at == len(data) else None
    last_at = data.rfind(b"target_index=")
    if last_at == targets_at:
        index = int(first[1])
        return TableLoad(version, metadata, data, index, index, 1)
    last = _FIRST_TARGET.match(data, last_at)
    if last is None:
        return None
    count = data.count(b"target_index=", targets_at)
    return TableLoad(version, metadata, data, int(first[1]), int(last[1]), count)


def _parse_resume(data: bytes) -> DeviceResume | None:
    match = _RESUME.fullmatch(data)
    if match is None:
        return None
    version, text, digits, name, uuid, capacity = match.groups()
    metadata = _metadata(text)
    return DeviceResume(
        version or b"", metadata, metadata or _identity(name, uuid), _hash(digits), int(capacity)
    )


def _parse_clear(data: bytes) -> TableClear | None:
    match = _CLEAR.fullmatch(data)
    if match is None:
        return None
    version, text, digits, name, uuid, capacity = match.groups()
    metadata = _metadata(text)
    return TableClear(
        version or b"", metadata, metadata or _identity(name, uuid), _hash(digits), int(capacity)
    )


def _parse_remove(data: bytes) -> DeviceRemove | None:
    match = _REMOVE.fullmatch(data)
    if match is None:
        return None
    version, active, inactive, active_hash, inactive_hash, name, uuid, remove_all, capacity = match.groups()
    if active is None and inactive is None and name is None:
        return None
    return DeviceRemove(
        version or b"",
        _metadata(active),
        _metadata(inactive),
        None if name is None else _identity(name, uuid),
        _hash(active_hash),
        _hash(inactive_hash),
        remove_all == b"y",
        int(capacity),
    )


def _parse_rename(data: bytes) -> DeviceRename | None:
    match = _RENAME.fullmatch(data)
    if match is None:
        return None
    version, text, null, _, _, name, uuid, capacity = match.groups()
    return DeviceRename(
        version or b"", _metadata(text), null is not None, _identity(name, uuid), int(capacity)
    )


def _parse_target_update(data: bytes) -> TargetUpdate | None:
    match = _LOAD.match(data)
    metadata = None if match is None else _metadata(match[2])
    if match is None or metadata is None:
        return None
    return TargetUpdate(match[1] or b"", metadata, data)


_PARSERS = {
    EventKind.TABLE_LOAD: _parse_load,
    EventKind.DEVICE_RESUME: _parse_resume,
    EventKind.TABLE_CLEAR: _parse_clear,
    EventKind.DEVICE_REMOVE: _parse_remove,
    EventKind.DEVICE_RENAME: _parse_rename,
    EventKind.TARGET_UPDATE: _parse_target_update,
}
