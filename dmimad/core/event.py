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

_TEXT = rb"([^\\;=,]*+(?:\\.[^\\;=,]*+)*+)"
_METADATA = (
    rb"name=" + _TEXT + rb",uuid=" + _TEXT + rb",major=([0-9]{1,7}),minor=([0-9]{1,7}),"
    rb"minor_count=[0-9]{1,7},num_targets=([0-9]{1,10});"
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
    _VERSION + rb"(?:device_active_metadata=" + _METADATA + rb")?(?:device_inactive_metadata=" + _METADATA + rb")?"
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


def _metadata(match: re.Match[bytes], group: int) -> Metadata | None:
    if match[group + 2] is None:
        return None
    return _make_metadata(*match.group(group, group + 1, group + 2, group + 3, group + 4))


#: The records of one device carry the same metadata again and again.
@lru_cache(maxsize=1024)
def _make_metadata(name: bytes, uuid: bytes, major: bytes, minor: bytes, num_targets: bytes) -> Metadata:
    return Metadata(unescape(name), unescape(uuid), int(major), int(minor), int(num_targets))


def _identity(match: re.Match[bytes], group: int) -> Identity:
    return Identity(unescape(match[group]), unescape(match[group + 1]))


def _hash(digits: bytes | None) -> bytes | None:
    return None if digits is None else bytes.fromhex(digits.decode("ascii"))


def _parse_load(data: bytes) -> TableLoad | None:
    match = _LOAD.match(data)
    metadata = None if match is None else _metadata(match, 2)
    if match is None or metadata is None:
        return None
    first = _FIRST_TARGET.match(data, match.end())
    if first is None:
        if match.end() != len(data):
            return None
        return TableLoad(match[1] or b"", metadata, data, 0, -1, 0)
    last = _FIRST_TARGET.match(data, data.rfind(b"target_index="))
    if last is None:
        return None
    count = data.count(b"target_index=", match.end())
    return TableLoad(match[1] or b"", metadata, data, int(first[1]), int(last[1]), count)


def _parse_resume(data: bytes) -> DeviceResume | None:
    match = _RESUME.fullmatch(data)
    if match is None:
        return None
    metadata = _metadata(match, 2)
    return DeviceResume(
        match[1] or b"", metadata, metadata or _identity(match, 8), _hash(match[7]), int(match[10])
    )


def _parse_clear(data: bytes) -> TableClear | None:
    match = _CLEAR.fullmatch(data)
    if match is None:
        return None
    metadata = _metadata(match, 2)
    return TableClear(
        match[1] or b"", metadata, metadata or _identity(match, 8), _hash(match[7]), int(match[10])
    )


def _parse_remove(data: bytes) -> DeviceRemove | None:
    match = _REMOVE.fullmatch(data)
    if match is None:
        return None
    active, inactive = _metadata(match, 2), _metadata(match, 7)
    if active is None and inactive is None and match[14] is None:
        return None
    identity = None if match[14] is None else _identity(match, 14)
    return DeviceRemove(
        match[1] or b"",
        active,
        inactive,
        identity,
        _hash(match[12]),
        _hash(match[13]),
        match[16] == b"y",
        int(match[17]),
    )


def _parse_rename(data: bytes) -> DeviceRename | None:
    match = _RENAME.fullmatch(data)
    if match is None:
        return None
    new = _identity(match, 10)
    return DeviceRename(match[1] or b"", _metadata(match, 2), match[7] is not None, new, int(match[12]))


def _parse_target_update(data: bytes) -> TargetUpdate | None:
    match = _LOAD.match(data)
    metadata = None if match is None else _metadata(match, 2)
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
