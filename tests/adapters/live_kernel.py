"""A model of drivers/md/dm-ioctl.c, as far as an observer asks it: give `ioctl` and `open` to a DmControl.

It answers in the same bytes as the kernel: struct dm_ioctl, dm_name_list and dm_target_spec, the flag for a
buffer that is too small, ENXIO for a device that is gone, a global event number per open file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

DM_VERSION, DM_LIST_DEVICES, DM_DEV_STATUS, DM_TABLE_STATUS, DM_DEV_ARM_POLL = (
    0xC138FD00 + number for number in (0, 2, 7, 12, 16)
)

READ_ONLY, SUSPENDED, TABLE_FORM, ACTIVE, INACTIVE, FULL, NOFLUSH, QUERY_INACTIVE, IMA = (
    1 << bit for bit in (0, 1, 4, 5, 6, 8, 11, 12, 19)
)
VOLUME_KEY = b"00112233445566778899aabbccddeeff"

_IOCTL = struct.Struct("=3I I I I i I I I Q 128s 129s 7s")
_SPEC = struct.Struct("=QQiI16s")


@dataclass(frozen=True, slots=True)
class ModelTarget:
    begin: int
    length: int
    type: bytes
    text: bytes = b""


@dataclass(slots=True)
class ModelDevice:
    name: bytes
    uuid: bytes = b""
    flags: int = 0
    event_nr: int = 0
    active: tuple[ModelTarget, ...] | None = None
    inactive: tuple[ModelTarget, ...] | None = None

    def all_flags(self) -> int:
        return (
            self.flags
            | (ACTIVE if self.active is not None else 0)
            | (INACTIVE if self.inactive is not None else 0)
        )


@dataclass(frozen=True, slots=True)
class Asked:
    request: int
    number: int
    flags: int
    size: int


@dataclass(slots=True)
class ModelKernel:
    """Devices by (major, minor); `before` is called with what is asked, and may change them or raise."""

    devices: dict[tuple[int, int], ModelDevice] = field(default_factory=dict)
    version: tuple[int, int, int] = (4, 48, 0)
    asked: list[Asked] = field(default_factory=list)
    before: Callable[[Asked], None] = lambda asked: None
    damage: Callable[[int, bytearray], None] = lambda request, buffer: None
    open_files: list[int] = field(default_factory=list)
    refusal: int = 0

    def open(self, path: Path) -> int:
        if self.refusal:
            raise OSError(self.refusal, os.strerror(self.refusal))
        # Readable when there was an event, as the control node is.
        self.open_files.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        return self.open_files[-1]

    def event(self) -> None:
        for descriptor in self.open_files:
            with contextlib.suppress(OSError):  # closed since
                os.eventfd_write(descriptor, 1)

    def ioctl(self, descriptor: int, request: int, buffer: bytearray) -> None:
        fields = _IOCTL.unpack_from(buffer)
        asked = Asked(request, fields[10], fields[7], fields[3])
        self.asked.append(asked)
        self.before(asked)
        assert fields[0] == 4
        assert fields[1] <= self.version[1]
        assert asked.size == len(buffer)
        assert not fields[11].strip(b"\0"), "addressed by name"
        assert not any(buffer[_IOCTL.size :]), "what the kernel does not write must be zero"
        if request == DM_VERSION:
            self._answer(buffer, asked, b"")
        elif request == DM_LIST_DEVICES:
            self._answer(buffer, asked, self._list())
        elif request == DM_DEV_ARM_POLL:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(descriptor)
            self._answer(buffer, asked, b"")
        elif request in (DM_DEV_STATUS, DM_TABLE_STATUS):
            self._device(buffer, asked)
        else:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        self.damage(request, buffer)

    def _device(self, buffer: bytearray, asked: Asked) -> None:
        key = (asked.number >> 8 & 0xFFF, asked.number & 0xFF | asked.number >> 12 & 0xFFF00)
        device = self.devices.get(key)
        if device is None:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        table = device.inactive if asked.flags & QUERY_INACTIVE else device.active
        data = b""
        if asked.request == DM_TABLE_STATUS and table is not None:
            data = table_bytes(table, asked.flags)
        self._answer(buffer, asked, data, device, table or ())

    def _list(self) -> bytes:
        entries = []
        for (major, minor), device in self.devices.items():
            name = device.name + b"\0"
            name += bytes(-(12 + len(name)) % 8)
            number = minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
            entries.append((number, name + struct.pack("=II", device.event_nr, 2)))
        result = b""
        for index, (number, rest) in enumerate(entries):
            last = index + 1 == len(entries)
            entry = rest + bytes(-(12 + len(rest)) % 8)
            result += struct.pack("=QI", number, 0 if last else 12 + len(entry)) + entry
        return result

    def _answer(
        self,
        buffer: bytearray,
        asked: Asked,
        data: bytes,
        device: ModelDevice | None = None,
        table: tuple[ModelTarget, ...] = (),
    ) -> None:
        flags = asked.flags
        name = uuid = b""
        event_nr = 0
        if device is not None:
            flags |= device.all_flags()
            name, uuid, event_nr = device.name, device.uuid, device.event_nr
        used = 305  # offsetof(struct dm_ioctl, data): what stays if there is no data
        if data:
            used = 312 + len(data)
            if used >= asked.size:
                flags |= FULL
                data = data[: asked.size - 312]
                used = asked.size
        count, version = len(table), self.version
        _IOCTL.pack_into(
            buffer, 0, *version, used, 312, count, 0, flags, event_nr, 0, asked.number, name, uuid, b""
        )
        buffer[312 : 312 + len(data)] = data


def table_bytes(table: tuple[ModelTarget, ...], flags: int) -> bytes:
    """What retrieve_status() writes."""
    result = b""
    for target in table:
        text = target.text
        if flags & TABLE_FORM and target.type == b"crypt":
            text = b"aes-xts-plain64 " + VOLUME_KEY
        elif not flags & IMA:
            text = b"status"
        end = len(result) + _SPEC.size + len(text) + 1
        padding = -end % 8
        result += _SPEC.pack(target.begin, target.length, 0, end + padding, target.type) + text
        result += bytes(1 + padding)
    return result[: len(result) - padding] if table else b""


def linear(begin: int, length: int, start: int = 0) -> ModelTarget:
    text = f"target_name=linear,target_version=1.4.0,device_name=7:0,start={start};"
    return ModelTarget(begin, length, b"linear", text.encode())


ZERO = ModelTarget(0, 8, b"zero")
CRYPT = ModelTarget(8, 64, b"crypt", b"target_name=crypt,target_version=1.24.0,key_size=32;")


def example() -> ModelKernel:
    """One device of each sort."""
    return ModelKernel(
        {
            (253, 0): ModelDevice(b"lin", b"LVM-uuid;=,", active=(linear(0, 8),)),
            (253, 1): ModelDevice(
                b"odd \xc3\xa4\xff;=,\\", flags=SUSPENDED, event_nr=7, active=(ZERO, CRYPT)
            ),
            (253, 2): ModelDevice(b"staged", active=(ZERO,), inactive=(replace(ZERO, type=b"error"),)),
            (253, 3): ModelDevice(b"new", inactive=(linear(0, 8, 5),)),
            (253, 4): ModelDevice(b"n" * 127, b"u" * 128),
            (253, 70000): ModelDevice(b"far", flags=READ_ONLY, active=(linear(0, 1), linear(1, 2, 9))),
        }
    )
