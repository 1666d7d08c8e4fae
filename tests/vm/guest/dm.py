"""device-mapper by its ioctls: what dmsetup does, without half a second for each process.

Source: ``include/uapi/linux/dm-ioctl.h`` (Linux 5.15 to 7.2).

This is the tests' own code, so that nothing the product gets wrong about the interface is wrong here too.
Whether it is right about the kernel is checked against dmsetup itself now and then (`truth`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CONTROL = Path("/dev/mapper/control")

_HEADER = struct.Struct("=3I3Ii3IQ128s129s7x")
_SPEC = struct.Struct("=QQiI16s")
_MAGIC = 0xFD

(
    VERSION,
    REMOVE_ALL,
    LIST_DEVICES,
    DEV_CREATE,
    DEV_REMOVE,
    DEV_RENAME,
    DEV_SUSPEND,
    DEV_STATUS,
    _DEV_WAIT,
    TABLE_LOAD,
    TABLE_CLEAR,
    _TABLE_DEPS,
    TABLE_STATUS,
    _LIST_VERSIONS,
    TARGET_MESSAGE,
) = range(15)

READ_ONLY = 1 << 0
SUSPENDED = 1 << 1
ACTIVE_PRESENT = 1 << 5
INACTIVE_PRESENT = 1 << 6
BUFFER_FULL = 1 << 8
NO_FLUSH = 1 << 11
QUERY_INACTIVE = 1 << 12
NEW_UUID = 1 << 14
IMA_MEASUREMENT = 1 << 19

SMALL_BYTES = 16 << 10
LARGE_BYTES = 4 << 20
BUSY_SECONDS = 5.0
"""How long a remove is tried again while somebody (a scan for signatures) has the device open."""

Number = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Answer:
    """What an ioctl returned: the header's fields and the data after it."""

    version: tuple[int, int, int]
    target_count: int
    flags: int
    event_nr: int
    number: Number
    name: bytes
    uuid: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Spec:
    """A target as TABLE_STATUS returns it."""

    begin: int
    length: int
    type: str
    text: bytes


class Illegal(AssertionError):
    """A step that a kernel of before the rework may not survive."""


class Control:
    """An open ``/dev/mapper/control``.

    Args:
        legacy: the kernel frees metadata it still uses if a device is renamed after a clear of its staged
            table and then loaded or resumed; so a device that was cleared is never renamed.
    """

    def __init__(self, path: Path = CONTROL, *, legacy: bool) -> None:
        self._legacy = legacy
        self._cleared: set[Number] = set()
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.version = self._ask(VERSION).version

    def close(self) -> None:
        os.close(self._fd)

    # -- questions ---------------------------------------------------------------------------

    def numbers(self) -> list[Number]:
        """The numbers of all mapped devices."""
        data, offset, found = self._ask(LIST_DEVICES).data, 0, []
        while len(data) >= offset + 12:
            dev, following = struct.unpack_from("=QI", data, offset)
            if dev:
                found.append(_number(dev))
            if not following:
                break
            offset += following
        return sorted(found)

    def status(self, number: Number) -> Answer:
        return self._ask(DEV_STATUS, number=number)

    def targets(self, number: Number, *, inactive: bool) -> list[Spec]:
        """The targets of a slot, each with what a load would measure of it now."""
        flags = NO_FLUSH | IMA_MEASUREMENT | (QUERY_INACTIVE if inactive else 0)
        return list(_specs(self._ask(TABLE_STATUS, number=number, flags=flags)))

    def number_of(self, name: bytes) -> Number:
        return self._ask(DEV_STATUS, name=name).number

    # -- actions -----------------------------------------------------------------------------

    def create(self, name: bytes, uuid: bytes = b"") -> Number:
        number = self._ask(DEV_CREATE, name=name, uuid=uuid).number
        self._cleared.discard(number)
        return number

    def load(self, name: bytes, table: str, *, read_only: bool = False) -> None:
        """Stage a table given as for dmsetup; ``@other`` stands for the number of the device ``other``."""
        lines = [line for line in table.splitlines() if line]
        data = b"".join(self._spec(line, last=line is lines[-1]) for line in lines)
        self._ask(TABLE_LOAD, name=name, flags=READ_ONLY if read_only else 0, data=data, count=len(lines))

    def resume(self, name: bytes) -> None:
        self._ask(DEV_SUSPEND, name=name)

    def suspend(self, name: bytes) -> None:
        self._ask(DEV_SUSPEND, name=name, flags=SUSPENDED)

    def clear(self, name: bytes) -> None:
        self._cleared.add(self._ask(TABLE_CLEAR, name=name).number)

    def may_rename(self, name: bytes) -> bool:
        """Whether it is safe to rename the device."""
        return not (self._legacy and self.number_of(name) in self._cleared)

    def rename(self, name: bytes, new: bytes) -> None:
        self._check_rename(name)
        self._ask(DEV_RENAME, name=name, data=new + b"\0")

    def set_uuid(self, name: bytes, uuid: bytes) -> None:
        self._check_rename(name)
        self._ask(DEV_RENAME, name=name, flags=NEW_UUID, data=uuid + b"\0")

    def _check_rename(self, name: bytes) -> None:
        if not self.may_rename(name):
            raise Illegal(f"{name!r} was cleared: this kernel may not survive its renaming")

    def message(self, name: bytes, text: str, sector: int = 0) -> None:
        self._ask(TARGET_MESSAGE, name=name, data=struct.pack("=Q", sector) + text.encode() + b"\0")

    def remove(self, name: bytes) -> None:
        self._until_not_busy(name=name)

    def remove_number(self, number: Number, *, patient: bool = True) -> None:
        self._until_not_busy(number=number, seconds=BUSY_SECONDS if patient else 0)

    def _until_not_busy(
        self, name: bytes = b"", number: Number | None = None, seconds: float = BUSY_SECONDS
    ) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._ask(DEV_REMOVE, name=name, number=number)
                return
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)  # nothing tells when it is closed

    # -- the ioctl ---------------------------------------------------------------------------

    def _spec(self, line: str, *, last: bool) -> bytes:
        begin, length, kind, *parameters = line.split(" ", 3)
        words = (parameters or [""])[0].split(" ")
        words = [self._named(word) if word.startswith("@") else word for word in words]
        text = " ".join(words).encode() + b"\0"
        text += bytes(-len(text) % 8)
        following = 0 if last else _SPEC.size + len(text)
        return _SPEC.pack(int(begin), int(length), 0, following, kind.encode()) + text

    def _named(self, word: str) -> str:
        major, minor = self.number_of(word[1:].encode())
        return f"{major}:{minor}"

    def _ask(
        self,
        command: int,
        *,
        name: bytes = b"",
        uuid: bytes = b"",
        number: Number | None = None,
        flags: int = 0,
        data: bytes = b"",
        count: int = 0,
    ) -> Answer:
        size = max(SMALL_BYTES, _HEADER.size + len(data))
        while True:
            dev = 0 if number is None else _dev(number)
            header = _HEADER.pack(4, 0, 0, size, _HEADER.size, count, 0, flags, 0, 0, dev, name, uuid)
            buffer = bytearray(header + data + bytes(size - len(header) - len(data)))
            try:
                fcntl.ioctl(self._fd, _request(command), buffer, True)
            except OSError as error:
                words = data[:200].decode(errors="backslashreplace").replace("\0", " ")
                what = f"{error.strerror}: dm ioctl {command} on {name or number!r}: {words}"
                raise OSError(error.errno, what) from None
            answer = _answer(buffer)
            if not answer.flags & BUFFER_FULL or size >= LARGE_BYTES:
                return answer
            size = LARGE_BYTES


def _request(command: int) -> int:
    return (3 << 30) | (_HEADER.size << 16) | (_MAGIC << 8) | command


def _answer(buffer: bytearray) -> Answer:
    v0, v1, v2, size, start, count, _, flags, event_nr, _, dev, name, uuid = _HEADER.unpack_from(buffer)
    return Answer(
        (v0, v1, v2),
        count,
        flags,
        event_nr,
        _number(dev),
        name.split(b"\0", 1)[0],
        uuid.split(b"\0", 1)[0],
        bytes(buffer[start:size]),
    )


def _specs(answer: Answer) -> Iterator[Spec]:
    offset = 0
    for _ in range(answer.target_count):
        begin, length, _, following, kind = _SPEC.unpack_from(answer.data, offset)
        text = answer.data[offset + _SPEC.size :].split(b"\0", 1)[0]
        yield Spec(begin, length, kind.split(b"\0", 1)[0].decode(), text)
        offset = following


def _dev(number: Number) -> int:
    """As huge_encode_dev does."""
    major, minor = number
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def _number(dev: int) -> Number:
    return (dev & 0xFFF00) >> 8, (dev & 0xFF) | ((dev >> 12) & 0xFFF00)
