"""What the observer and its clients say to each other over a Unix stream socket; pure functions.

A frame is a header (magic, version, kind, length of the body) and a body, in network byte order.  The header
never changes its layout, so that two versions can at least tell each other apart.

    client: OBSERVE     observer: DEVICE … DEVICE END, or FAILURE
    client: WATCH       observer: ACTIVITY when the watch is in force and at each event then, or FAILURE

Requests have no body: there is nothing in them to get wrong.  ACTIVITY may come between two DEVICEs.

What it does not do: any IO.  Decoders raise MalformedError, in time linear in what they are given.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from dmimad.core.errors import AdapterError, MalformedError
from dmimad.core.observation import LiveDevice, LiveTable, LiveTarget, Observation

VERSION = 1

MAX_NAME_BYTES = 127
MAX_UUID_BYTES = 128
MAX_TYPE_BYTES = 64
MAX_DEVICES = 1 << 16
MAX_FRAME_BYTES = 20 << 20
"""One device with its two tables."""
MAX_OBSERVATION_BYTES = 64 << 20
"""All frames of one observation."""
MAX_FAILURE_TEXT_BYTES = 1000

_MAGIC = b"dmlv"
_HEADER = struct.Struct("!4sHHI")
_DEVICE = struct.Struct("!IIIB")
_COUNT = struct.Struct("!I")
_TARGET = struct.Struct("!QQBI")
_END = struct.Struct("!IIII")
_TEXT = struct.Struct("!H")

HEADER_BYTES = _HEADER.size
REQUEST_BYTES = _HEADER.size

# Bits of a DEVICE.
_SUSPENDED = 1 << 0
_READ_ONLY = 1 << 1
_ACTIVE = 1 << 2
_ACTIVE_TOLD = 1 << 3
_INACTIVE = 1 << 4
_INACTIVE_TOLD = 1 << 5
_ALL_BITS = (1 << 6) - 1


class Request(IntEnum):
    """What a client may ask for; CONNECTION stands in a FAILURE that concerns no request."""

    CONNECTION = 0
    OBSERVE = 1
    WATCH = 2


class Kind(IntEnum):
    """What an observer answers with."""

    DEVICE = 16
    END = 17
    ACTIVITY = 18
    FAILURE = 19


@dataclass(frozen=True, slots=True)
class End:
    """An observation is complete: so many devices came before."""

    dm_version: tuple[int, int, int]
    devices: int


@dataclass(frozen=True, slots=True)
class Activity:
    """The watch is in force now, or device-mapper had an event."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The request cannot be met."""

    request: Request
    what: str
    where: str
    remedy: str


Answer = LiveDevice | End | Activity | Failure


@dataclass(frozen=True, slots=True)
class Header:
    """Of an answer: what follows, in how many bytes."""

    kind: Kind
    body_bytes: int


def encode_request(request: Request) -> bytes:
    """REQUEST_BYTES bytes."""
    return _HEADER.pack(_MAGIC, VERSION, request, 0)


def decode_request(data: bytes) -> Request:
    """The request in exactly REQUEST_BYTES bytes."""
    kind, length = _decode_header(data, "the client")
    if kind not in (Request.OBSERVE, Request.WATCH) or length:
        raise MalformedError(f"no such request: {kind} with {length} bytes")
    return Request(kind)


def encode_observation(observation: Observation) -> Iterator[bytes]:
    """Its frames, one by one."""
    for device in observation.devices:
        yield _frame(Kind.DEVICE, _encode_device(device))
    yield _frame(Kind.END, _END.pack(*observation.dm_version, len(observation.devices)))


def encode_activity() -> bytes:
    """One frame."""
    return _frame(Kind.ACTIVITY, b"")


def encode_failure(request: Request, error: AdapterError) -> bytes:
    """One frame; overlong texts are cut."""
    texts = (error.what, error.where, error.remedy)
    parts = [text.encode("utf-8", "backslashreplace")[:MAX_FAILURE_TEXT_BYTES] for text in texts]
    return _frame(Kind.FAILURE, bytes([request]) + b"".join(_TEXT.pack(len(part)) + part for part in parts))


def decode_header(data: bytes) -> Header:
    """The header in exactly HEADER_BYTES bytes of an answer."""
    kind, length = _decode_header(data, "the observer")
    try:
        return Header(Kind(kind), length)
    except ValueError:
        raise MalformedError(f"no such answer: {kind}") from None


def decode_answer(header: Header, body: bytes) -> Answer:
    """The answer whose header and body these are."""
    reader = _Body(body)
    answer: Answer
    match header.kind:
        case Kind.DEVICE:
            answer = _decode_device(reader)
        case Kind.END:
            major, minor, patch, devices = reader.unpack(_END)
            answer = End((major, minor, patch), devices)
        case Kind.ACTIVITY:
            answer = Activity()
        case Kind.FAILURE:
            answer = _decode_failure(reader)
    reader.finish()
    return answer


def _frame(kind: Kind, body: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, VERSION, kind, len(body)) + body


def _decode_header(data: bytes, sender: str) -> tuple[int, int]:
    if len(data) != HEADER_BYTES:
        raise MalformedError(f"a header of {len(data)} bytes")
    magic, version, kind, length = _HEADER.unpack(data)
    if magic != _MAGIC:
        raise MalformedError(f"{sender} is no dmimad: it begins with {magic!r}")
    if version != VERSION:
        raise MalformedError(
            f"{sender} speaks version {version}, this dmimad version {VERSION}; restart what was not upgraded"
        )
    if length > MAX_FRAME_BYTES:
        raise MalformedError(f"a frame of {length} bytes, at most {MAX_FRAME_BYTES} are allowed")
    return kind, length


class _Body:
    """A frame's body, taken from its beginning on."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def unpack(self, form: struct.Struct) -> tuple[int, ...]:
        return form.unpack(self.take(form.size))

    def take(self, length: int) -> bytes:
        end = self._offset + length
        if end > len(self._data):
            raise MalformedError(f"{length} bytes wanted, {len(self._data) - self._offset} left")
        taken = self._data[self._offset : end]
        self._offset = end
        return taken

    def text(self, length: int, limit: int) -> bytes:
        """Bytes without NUL, at most `limit`."""
        if length > limit:
            raise MalformedError(f"a text of {length} bytes, at most {limit} are allowed")
        taken = self.take(length)
        if 0 in taken:
            raise MalformedError("a NUL inside a text")
        return taken

    def finish(self) -> None:
        if self._offset != len(self._data):
            raise MalformedError(f"{len(self._data) - self._offset} bytes too many")


def _encode_device(device: LiveDevice) -> bytes:
    bits = device.suspended * _SUSPENDED | device.read_only * _READ_ONLY
    tables = []
    for table, present, told in (
        (device.active, _ACTIVE, _ACTIVE_TOLD),
        (device.inactive, _INACTIVE, _INACTIVE_TOLD),
    ):
        if table is None:
            continue
        bits |= present
        if table.targets is not None:
            bits |= told
            tables.append(_encode_targets(table.targets))
    fixed = _DEVICE.pack(device.major, device.minor, device.event_nr, bits)
    names = bytes([len(device.name)]) + device.name + bytes([len(device.uuid)]) + device.uuid
    return b"".join((fixed, names, *tables))


def _encode_targets(targets: tuple[LiveTarget, ...]) -> bytes:
    parts = [_COUNT.pack(len(targets))]
    for target in targets:
        kind = target.type.encode("utf-8", "backslashreplace")
        parts += (
            _TARGET.pack(target.begin_sectors, target.length_sectors, len(kind), len(target.text)),
            kind,
            target.text,
        )
    return b"".join(parts)


def _decode_device(body: _Body) -> LiveDevice:
    major, minor, event_nr, bits = body.unpack(_DEVICE)
    if bits & ~_ALL_BITS:
        raise MalformedError(f"unknown bits {bits:#x}")
    name = body.text(body.take(1)[0], MAX_NAME_BYTES)
    uuid = body.text(body.take(1)[0], MAX_UUID_BYTES)
    return LiveDevice(
        major=major,
        minor=minor,
        name=name,
        uuid=uuid,
        suspended=bool(bits & _SUSPENDED),
        read_only=bool(bits & _READ_ONLY),
        event_nr=event_nr,
        active=_decode_table(body, bits & _ACTIVE, bits & _ACTIVE_TOLD),
        inactive=_decode_table(body, bits & _INACTIVE, bits & _INACTIVE_TOLD),
    )


def _decode_table(body: _Body, present: int, told: int) -> LiveTable | None:
    if not present:
        if told:
            raise MalformedError("targets of an empty slot")
        return None
    if not told:
        return LiveTable(None)
    (count,) = body.unpack(_COUNT)
    # However large `count` claims to be: each target takes some bytes of a body that has an end.
    return LiveTable(tuple(_decode_target(body) for _ in range(count)))


def _decode_target(body: _Body) -> LiveTarget:
    begin, length, kind_bytes, text_bytes = body.unpack(_TARGET)
    kind = body.text(kind_bytes, MAX_TYPE_BYTES)
    text = body.text(text_bytes, MAX_FRAME_BYTES)
    try:
        return LiveTarget(begin, length, kind.decode("utf-8"), text)
    except UnicodeDecodeError as error:
        raise MalformedError("a target type that is not UTF-8") from error


def _decode_failure(body: _Body) -> Failure:
    try:
        request = Request(body.take(1)[0])
    except ValueError:
        raise MalformedError("a failure of no request") from None
    what, where, remedy = (
        body.text(body.unpack(_TEXT)[0], MAX_FAILURE_TEXT_BYTES).decode("utf-8", "replace") for _ in range(3)
    )
    return Failure(request, what, where, remedy)
