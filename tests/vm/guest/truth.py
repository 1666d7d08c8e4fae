"""What the kernel holds, read without the product, and the hashes its tables must have in the log.

Source: ``drivers/md/dm-ima.c`` for the text of a load: version, escaped device metadata, then the targets'
own texts; a new record whenever the next target would bring it to 4096 bytes; kernels before the rework
leave a target out that alone would open the last record.

A table's hash contains the name and uuid it was loaded under, which nobody can see afterwards.  So every
identity a device has had is good for an acceptable hash; as long as it has had one, there is one hash.
The attributes a target changes by itself (a mirror's state, blocks found corrupt) may have moved since the
load: for such tables the log is looked at for a load that differs in nothing else.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.vm.guest.dm import ACTIVE_PRESENT, INACTIVE_PRESENT, SUSPENDED, Control, Number, Spec

LIST = Path("/sys/kernel/security/integrity/ima/binary_runtime_measurements")
COUNT = LIST.with_name("runtime_measurements_count")
RECORD_BYTES = 4096

Identity = tuple[bytes, bytes]

_VOLATILE = re.compile(
    rb"(?:hash_failed|mirror_device_\d+_status|raid_state|raid_device_\d+_status|stripe_\d+_status"
    rb"|pg_state_\d+|is_active_\d+_\d+|fail_count_\d+_\d+|path_selector_status_\d+|snap_valid"
    rb"|snap_merge_failed|snapshot_overflowed|metadata_mode|no_discard_passdown|log_type_status)=[^,;]*"
)


@dataclass(frozen=True, slots=True)
class Table:
    """What is in one slot."""

    targets: tuple[Spec, ...]


@dataclass(frozen=True, slots=True)
class Device:
    """One mapped device as the kernel holds it; a slot without a table is None."""

    number: Number
    name: bytes
    uuid: bytes
    suspended: bool
    event_nr: int
    active: Table | None
    inactive: Table | None

    @property
    def key(self) -> str:
        return "{}:{}".format(*self.number)


def printable(text: bytes) -> str:
    """As documents show a name: UTF-8, bytes that are not as ``\\xNN``."""
    return text.decode("utf-8", "backslashreplace")


def read(control: Control) -> list[Device]:
    """All devices now; nobody else changes them meanwhile."""
    return [_device(control, number) for number in control.numbers()]


def _device(control: Control, number: Number) -> Device:
    status = control.status(number)

    def slot(flag: int, *, inactive: bool) -> Table | None:
        return Table(tuple(control.targets(number, inactive=inactive))) if status.flags & flag else None

    return Device(
        number,
        status.name,
        status.uuid,
        bool(status.flags & SUSPENDED),
        status.event_nr,
        slot(ACTIVE_PRESENT, inactive=False),
        slot(INACTIVE_PRESENT, inactive=True),
    )


# -- the hash a load has ----------------------------------------------------------------------


def escaped(text: bytes) -> bytes:
    """A name as dm-ima writes it."""
    return re.sub(rb"[\\;=,]", rb"\\\g<0>", text)


def head(version: tuple[int, int, int], identity: Identity, number: Number, num_targets: int) -> bytes:
    """What every record of a load begins with."""
    name, uuid = (escaped(text) for text in identity)
    return b"dm_version=%d.%d.%d;name=%s,uuid=%s,major=%d,minor=%d,minor_count=1,num_targets=%d;" % (
        *version,
        name,
        uuid,
        *number,
        num_targets,
    )


def load_text(begin: bytes, targets: Sequence[Spec], *, legacy: bool) -> bytes:
    """All that is hashed of a load: its records one after the other."""
    records, text, opened_by_last = [], begin, False
    for index, target in enumerate(targets):
        piece = b"target_index=%d,target_begin=%d,target_len=%d,%s" % (
            index,
            target.begin,
            target.length,
            target.text,
        )
        if len(text) + len(piece) >= RECORD_BYTES:
            records.append(text)
            text = begin
            opened_by_last = index == len(targets) - 1
        text += piece
    if not (opened_by_last and legacy):
        records.append(text)
    return b"".join(records)


def label(text: bytes) -> str:
    return "sha256:" + hashlib.sha256(text).hexdigest()


def without_volatile(text: bytes) -> bytes:
    """A load's text without what targets change by themselves."""
    return _VOLATILE.sub(b"", text)


# -- what devices have been called -------------------------------------------------------------


class History:
    """The identities that each living device has had, and with them the hashes its tables may have."""

    def __init__(self, version: tuple[int, int, int], *, legacy: bool, measured: Callable[[], Loads]) -> None:
        self._version = version
        self._legacy = legacy
        self._measured = measured
        self._identities: dict[Number, list[Identity]] = {}

    def take(self, devices: Iterable[Device]) -> None:
        """The devices after a step; those that are not there have ended."""
        kept: dict[Number, list[Identity]] = {}
        for device in devices:
            identities = kept[device.number] = self._identities.get(device.number, [])
            if (device.name, device.uuid) not in identities:
                identities.append((device.name, device.uuid))
        self._identities = kept

    def unambiguous(self, device: Device) -> bool:
        return len(self._identities[device.number]) == 1

    def acceptable(self, device: Device, table: Table) -> set[str]:
        """Hashes this table may have, by the live table alone."""
        return {label(text) for text in self._texts(device, table)}

    def measured(self, device: Device, table: Table) -> set[str]:
        """Hashes of loads in the log that differ from this table in nothing but volatile attributes."""
        texts = [without_volatile(text) for text in self._texts(device, table)]
        if not any(_VOLATILE.search(target.text) for target in table.targets):
            return set()
        loads = self._measured()
        return {hash_ for text in texts for hash_ in loads.get(text, ())}

    def _texts(self, device: Device, table: Table) -> Iterator[bytes]:
        for identity in self._identities[device.number]:
            begin = head(self._version, identity, device.number, len(table.targets))
            yield load_text(begin, table.targets, legacy=self._legacy)


# -- the log, for loads only --------------------------------------------------------------------

Loads = dict[bytes, set[str]]
"""Text of a load without its volatile attributes -> hashes of the loads that had it."""

_LOAD = re.compile(
    rb"(?P<head>dm_version=[0-9.]+;name=.*?num_targets=\d+;)target_index=(?P<first>\d+),", re.DOTALL
)


def loads(records: Iterable[tuple[bytes, bytes]]) -> Loads:
    """The loads among (event name, data) of a list's records."""
    found: Loads = {}
    text, begin = b"", b""

    def end() -> None:
        if text:
            found.setdefault(without_volatile(text), set()).add(label(text))

    for event, data in records:
        match = _LOAD.match(data) if event == b"dm_table_load" else None
        if match is None or match["first"] == b"0" or match["head"] != begin:
            end()
            text, begin = b"", b""
        if match is not None:
            text, begin = text + data, match["head"]
    end()
    return found


def dm_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Event name and data of each ima-buf record of a binary list with SHA-1 template digests."""
    offset = 0
    while offset < len(data):
        (name_bytes,) = struct.unpack_from("<I", data, offset + 24)
        template = data[offset + 28 : offset + 28 + name_bytes]
        offset += 28 + name_bytes
        (template_bytes,) = struct.unpack_from("<I", data, offset)
        fields, at, end = [], offset + 4, offset + 4 + template_bytes
        offset = end
        while template == b"ima-buf" and at < end:
            (length,) = struct.unpack_from("<I", data, at)
            fields.append(data[at + 4 : at + 4 + length])
            at += 4 + length
        if len(fields) == 3:
            yield fields[1].rstrip(b"\0"), fields[2]


class Log:
    """The loads in the kernel's list, read again when it has grown; it is never held open."""

    def __init__(self, path: Path = LIST) -> None:
        self._path = path
        self._size = -1
        self._loads: Loads = {}

    def __call__(self) -> Loads:
        size = record_count(self._path.with_name(COUNT.name))
        if size != self._size:
            self._loads = loads(dm_records(self._path.read_bytes()))
            self._size = size
        return self._loads


def record_count(path: Path = COUNT) -> int:
    return int(path.read_text())
