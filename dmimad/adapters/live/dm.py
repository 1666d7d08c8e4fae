"""Asks device-mapper what it holds: every mapped device, its slots, the measurement text of its targets.

Source: include/uapi/linux/dm-ioctl.h and drivers/md/dm-ioctl.c of Linux 5.15 to 7.2: DM_VERSION,
DM_LIST_DEVICES, DM_DEV_STATUS, DM_TABLE_STATUS and DM_DEV_ARM_POLL on /dev/mapper/control.  They need
CAP_SYS_ADMIN; a descriptor open for reading is enough.

Every request is one of these five, and reads only.  A table's status is always asked for as measurement
text (DM_IMA_MEASUREMENT_FLAG), never in the table form (DM_STATUS_TABLE_FLAG), which holds the volume key
of a dm-crypt target.  Devices are addressed by number: a name may belong to another one a moment later.

What it does not do: keep the kernel from changing meanwhile (see `Observation`), or compare with anything.
The kernel's answers are read with the same suspicion as a file's: no offset or length is believed unchecked.
"""

from __future__ import annotations

import errno
import fcntl
import heapq
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dmimad.core.errors import AdapterError, MalformedError
from dmimad.core.observation import LiveDevice, LiveTable, LiveTarget, Observation

DEFAULT_CONTROL = Path("/dev/mapper/control")

FIRST_BUFFER_BYTES = 16 << 10
MAX_BUFFER_BYTES = 8 << 20
"""A table that does not fit into so much is present but untold."""

MAX_TOLD_BYTES = 16 << 20
"""All tables of an observation together; beyond it the largest ones are untold."""

MAX_DEVICES = 1 << 16
MAX_READINGS = 3
"""So often is a device read that changes while it is read."""

OLDEST_VERSION = (4, 45)
"""Linux 5.15, the first to know the measurement text; older ones would take the flag and answer otherwise."""

# DM_NAME_LEN and DM_UUID_LEN; both count the NUL.
_NAME_BYTES = 128
_UUID_BYTES = 129
# struct dm_ioctl: version[3], data_size, data_start, target_count, open_count, flags, event_nr, padding,
# dev, name, uuid, data[7].
_HEADER = struct.Struct(f"=6IiIIIQ{_NAME_BYTES}s{_UUID_BYTES}s7x")
# struct dm_target_spec: sector_start, length, status, next, target_type[16]; the text follows.
_SPEC = struct.Struct("=QQiI16s")
# struct dm_name_list: dev, next; the name follows.
_NAME_LIST = struct.Struct("=QI")

_IOWR_DM = 3 << 30 | _HEADER.size << 16 | 0xFD << 8
DM_VERSION = _IOWR_DM | 0
DM_LIST_DEVICES = _IOWR_DM | 2
DM_DEV_STATUS = _IOWR_DM | 7
DM_TABLE_STATUS = _IOWR_DM | 12
DM_DEV_ARM_POLL = _IOWR_DM | 16

DM_READONLY_FLAG = 1 << 0
DM_SUSPEND_FLAG = 1 << 1
DM_ACTIVE_PRESENT_FLAG = 1 << 5
DM_INACTIVE_PRESENT_FLAG = 1 << 6
DM_BUFFER_FULL_FLAG = 1 << 8
DM_NOFLUSH_FLAG = 1 << 11
DM_QUERY_INACTIVE_TABLE_FLAG = 1 << 12
DM_IMA_MEASUREMENT_FLAG = 1 << 19

_ASK_ACTIVE = DM_IMA_MEASUREMENT_FLAG | DM_NOFLUSH_FLAG
_ASK_INACTIVE = _ASK_ACTIVE | DM_QUERY_INACTIVE_TABLE_FLAG
# What must be the same before and after a device's tables were read.
_SLOT_FLAGS = DM_READONLY_FLAG | DM_SUSPEND_FLAG | DM_ACTIVE_PRESENT_FLAG | DM_INACTIVE_PRESENT_FLAG

Ioctl = Callable[[int, int, bytearray], object]
"""ioctl(descriptor, request, buffer): answers in the buffer; raises OSError."""


def kernel_ioctl(descriptor: int, request: int, buffer: bytearray) -> None:
    """The real one."""
    fcntl.ioctl(descriptor, request, buffer, True)


def open_control(path: Path) -> int:
    """A descriptor of the control node; raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)


def encode_device_number(major: int, minor: int) -> int:
    """huge_encode_dev() of include/linux/kdev_t.h."""
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12


def decode_device_number(number: int) -> tuple[int, int]:
    """huge_decode_dev(): major and minor."""
    return number >> 8 & 0xFFF, (number & 0xFF) | (number >> 12 & 0xFFF00)


class DmControl:
    """What asks the kernel.  The control node is opened at the first question, and again after a failure.

    Args:
        path: the control node.
        opener: opens it; may raise OSError.
        ioctl: asks the kernel.
        max_buffer_bytes, max_told_bytes: see the constants of these names.
    """

    def __init__(
        self,
        path: Path = DEFAULT_CONTROL,
        *,
        opener: Callable[[Path], int] = open_control,
        ioctl: Ioctl = kernel_ioctl,
        max_buffer_bytes: int = MAX_BUFFER_BYTES,
        max_told_bytes: int = MAX_TOLD_BYTES,
    ) -> None:
        self._path = path
        self._opener = opener
        self._ioctl = ioctl
        self._max_buffer_bytes = max_buffer_bytes
        self._max_told_bytes = max_told_bytes
        self._fd = -1
        self._version = (0, 0, 0)

    def check(self) -> None:
        """Raises AdapterError if the kernel cannot be asked."""
        try:
            self._open()
        except OSError as error:
            self.close()
            raise _explained(error, self._path) from error

    def observe(self) -> Observation:
        """Every mapped device, by number.  Raises AdapterError."""
        try:
            self._open()
            told = _Told(self._max_told_bytes)
            for number in self._numbers():
                device = self._device(number)
                if device is not None:
                    told.add(device)
            return Observation(self._version, tuple(told.devices))
        except OSError as error:
            self.close()
            raise _explained(error, self._path) from error
        except MalformedError as error:
            self.close()
            raise AdapterError(
                f"device-mapper's answer makes no sense: {error}",
                str(self._path),
                "report this, with the output of uname -a",
            ) from error

    def watch(self) -> DmWatch:
        """A new watch for device-mapper's events.  Raises AdapterError."""
        try:
            return DmWatch(self._opener(self._path), self._ioctl, self._path)
        except OSError as error:
            raise _explained(error, self._path) from error

    def close(self) -> None:
        """Close the control node; the next question opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        if self._fd >= 0:
            return
        self._fd = self._opener(self._path)
        version = _header(self._asked(DM_VERSION, 0, 0, _HEADER.size)).version
        if not OLDEST_VERSION <= version[:2] < (5, 0):
            self.close()
            raise AdapterError(
                f"device-mapper {'.'.join(map(str, version))} does not tell what it measures",
                str(self._path),
                "Linux 5.15 or later is needed (device-mapper 4.45)",
            )
        self._version = version

    def _asked(self, request: int, number: int, flags: int, size: int) -> bytearray:
        # All zeros beyond the header: a target type that writes nothing leaves what was there.
        buffer = bytearray(size)
        _HEADER.pack_into(buffer, 0, 4, 0, 0, size, _HEADER.size, 0, 0, flags, 0, 0, number, b"", b"")
        self._ioctl(self._fd, request, buffer)
        return buffer

    def _asked_at_length(self, request: int, number: int, flags: int) -> bytearray | None:
        """The answer in a buffer that is large enough; None if that would be too large."""
        size = min(FIRST_BUFFER_BYTES, self._max_buffer_bytes)
        while True:
            buffer = self._asked(request, number, flags, size)
            if not _header(buffer).flags & DM_BUFFER_FULL_FLAG:
                return buffer
            if size >= self._max_buffer_bytes:
                return None
            size = min(2 * size, self._max_buffer_bytes)

    def _numbers(self) -> list[int]:
        buffer = self._asked_at_length(DM_LIST_DEVICES, 0, 0)
        numbers = [] if buffer is None else sorted(set(_listed(buffer)), key=decode_device_number)
        if buffer is None or len(numbers) > MAX_DEVICES:
            raise AdapterError(f"more than {MAX_DEVICES} mapped devices", str(self._path), "remove some")
        return numbers

    def _device(self, number: int) -> LiveDevice | None:
        """None if it is gone meanwhile."""
        try:
            before = _header(self._asked(DM_DEV_STATUS, number, 0, _HEADER.size))
            for _ in range(MAX_READINGS):
                active = self._table(number, before.flags & DM_ACTIVE_PRESENT_FLAG, _ASK_ACTIVE)
                inactive = self._table(number, before.flags & DM_INACTIVE_PRESENT_FLAG, _ASK_INACTIVE)
                after = _header(self._asked(DM_DEV_STATUS, number, 0, _HEADER.size))
                if after.identity == before.identity:
                    break
                before = after
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            raise
        major, minor = decode_device_number(number)
        return LiveDevice(
            major=major,
            minor=minor,
            name=after.name,
            uuid=after.uuid,
            suspended=bool(after.flags & DM_SUSPEND_FLAG),
            read_only=bool(after.flags & DM_READONLY_FLAG),
            event_nr=after.event_nr,
            active=active,
            inactive=inactive,
        )

    def _table(self, number: int, present: int, flags: int) -> LiveTable | None:
        if not present:
            return None
        buffer = self._asked_at_length(DM_TABLE_STATUS, number, flags)
        if buffer is None:
            return LiveTable(None)
        if not _header(buffer).flags & present:
            return None  # emptied since the device was asked
        return LiveTable(tuple(_targets(buffer)))


class DmWatch:
    """A descriptor that becomes readable when a mapped device came, went, changed its name or had an event.

    Reloads and clears do not wake it.  Source: dm_poll() and dev_arm_poll() of drivers/md/dm-ioctl.c.
    """

    def __init__(self, descriptor: int, ioctl: Ioctl, path: Path) -> None:
        self._fd = descriptor
        self._ioctl = ioctl
        self._path = path

    def fileno(self) -> int:
        """The descriptor to poll for reading."""
        return self._fd

    def arm(self) -> None:
        """Take notice of all events so far: only later ones make it readable.  Raises AdapterError."""
        buffer = bytearray(_HEADER.size)
        _HEADER.pack_into(buffer, 0, 4, 0, 0, _HEADER.size, _HEADER.size, 0, 0, 0, 0, 0, 0, b"", b"")
        try:
            self._ioctl(self._fd, DM_DEV_ARM_POLL, buffer)
        except OSError as error:
            raise _explained(error, self._path) from error

    def close(self) -> None:
        """End the watch."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Told:
    """Devices whose tables together stay below a limit: beyond it the largest are given up first.

    So one huge table, which anybody who may load tables can make, hides itself and not the others.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.devices: list[LiveDevice] = []
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._largest: list[tuple[int, int]] = []  # heap of (-bytes, index)

    def add(self, device: LiveDevice) -> None:
        size = _told_bytes(device.active) + _told_bytes(device.inactive)
        heapq.heappush(self._largest, (-size, len(self.devices)))
        self.devices.append(device)
        self._bytes += size
        while self._bytes > self._limit_bytes:
            negative_size, index = heapq.heappop(self._largest)
            self._bytes += negative_size
            large = self.devices[index]
            self.devices[index] = replace(
                large, active=_untold(large.active), inactive=_untold(large.inactive)
            )


def _told_bytes(table: LiveTable | None) -> int:
    targets = table.targets if table is not None else None
    return sum(_SPEC.size + len(target.text) for target in targets or ())


def _untold(table: LiveTable | None) -> LiveTable | None:
    return None if table is None else LiveTable(None)


@dataclass(frozen=True, slots=True)
class _Header:
    """What is used of an answered struct dm_ioctl; `end` is where the answer's data ends in its buffer."""

    version: tuple[int, int, int]
    start: int
    end: int
    target_count: int
    flags: int
    event_nr: int
    name: bytes
    uuid: bytes

    @property
    def identity(self) -> tuple[bytes, bytes, int]:
        return self.name, self.uuid, self.flags & _SLOT_FLAGS


def _header(buffer: bytearray) -> _Header:
    *version, size, start, count, _, flags, event_nr, _, _, name, uuid = _HEADER.unpack_from(buffer)
    return _Header(
        (version[0], version[1], version[2]),
        start,
        min(size, len(buffer)),
        count,
        flags,
        event_nr,
        _until_nul(name, 0, _NAME_BYTES),
        _until_nul(uuid, 0, _UUID_BYTES),
    )


def _until_nul(data: bytes | bytearray, start: int, end: int) -> bytes:
    found = data.find(0, start, end)
    if found < 0:
        raise MalformedError("text without its end", offset=start)
    return bytes(data[start:found])


def _data_start(header: _Header) -> int:
    if not _HEADER.size <= header.start <= header.end:
        raise MalformedError(f"data from {header.start} to {header.end}")
    return header.start


def _listed(buffer: bytearray) -> Iterator[int]:
    """Device numbers of an answer to DM_LIST_DEVICES."""
    header = _header(buffer)
    if header.end <= header.start:
        return  # no data at all: no device
    offset = _data_start(header)
    while True:
        if offset + _NAME_LIST.size > header.end:
            raise MalformedError("list entry beyond the answer's end", offset=offset)
        number, following = _NAME_LIST.unpack_from(buffer, offset)
        if not number:
            return  # the other way to say that there is no device
        yield number
        if not following:
            return
        if following <= _NAME_LIST.size:
            raise MalformedError(f"next list entry after {following} bytes", offset=offset)
        offset += following


def _targets(buffer: bytearray) -> Iterator[LiveTarget]:
    """Targets of an answer to DM_TABLE_STATUS."""
    header = _header(buffer)
    start = offset = _data_start(header)
    for index in range(header.target_count):
        text_start = offset + _SPEC.size
        if text_start >= header.end:
            raise MalformedError(f"target {index} of {header.target_count} beyond the answer's end")
        begin, length, _, following, kind = _SPEC.unpack_from(buffer, offset)
        text = _until_nul(buffer, text_start, header.end)
        name = _until_nul(kind + b"\0", 0, len(kind) + 1)
        yield LiveTarget(begin, length, name.decode("utf-8", "replace"), text)
        if start + following <= text_start + len(text) and index + 1 < header.target_count:
            raise MalformedError(f"target {index} ends after the next one begins", offset=offset)
        offset = start + following


def _explained(error: OSError, path: Path) -> AdapterError:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            what, remedy = (
                "no such file",
                "load device-mapper: modprobe dm_mod; in a container, pass the node in",
            )
        case errno.ENODEV | errno.ENXIO:
            what, remedy = "the kernel has no device-mapper", "load it: modprobe dm_mod"
        case errno.EACCES | errno.EPERM:
            what = "not allowed to ask device-mapper"
            remedy = "run the observer as root or with CAP_SYS_ADMIN and access to the node"
        case errno.ENOTTY:
            what, remedy = "not device-mapper's control node", "give the right one"
        case _:
            what, remedy = error.strerror or str(error), "see the kernel's log"
    return AdapterError(what, str(path), remedy)
