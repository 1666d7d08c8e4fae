"""The packets between the daemon and its broker, with the time the kernel saw them.

Source: packet(7), AF_PACKET with SO_TIMESTAMPNS; MQTT 5.0 sections 2.1 and 3.3, 3.4.

Nothing is put between the two, so nothing is slower for being measured.  On the loopback nothing is lost or
reordered, so a stream is its segments one after the other.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

_ETH_P_IP = 0x0800
_SO_TIMESTAMPNS = 35
_SO_RCVBUFFORCE = 33
_OUTGOING = 4
_BUFFER_BYTES = 16 << 20
_CONNECT, _PUBLISH, _PUBACK = 1, 3, 4

Stream = tuple[int, int]
"""Source and destination port."""


@dataclass(slots=True)
class Packets:
    """MQTT packets of one direction, out of segments as they come."""

    _rest: bytes = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The first byte of each complete packet, and what comes after its length."""
        self._rest += data
        while (found := _packet(self._rest)) is not None:
            first, body, self._rest = found
            yield first, body


def _packet(data: bytes) -> tuple[int, bytes, bytes] | None:
    """The first packet and what comes after it; None: not all of it is there yet."""
    length, at = 0, 1
    while True:
        if at >= len(data):
            return None
        length |= (data[at] & 0x7F) << (7 * (at - 1))
        at += 1
        if not data[at - 1] & 0x80:
            break
    if len(data) < at + length:
        return None
    return data[0], data[at : at + length], data[at + length :]


@dataclass(slots=True)
class Acknowledgements:
    """When each alert's PUBACK was on the wire; fed with both directions of the broker's connections."""

    port: int
    times: dict[str, float] = field(default_factory=dict)
    _streams: dict[Stream, Packets] = field(default_factory=dict)
    _waiting: dict[tuple[int, int], str] = field(default_factory=dict)

    def feed(self, stream: Stream, data: bytes, at: float) -> None:
        """A segment's payload, seen ``at`` that time, from the beginning of its stream on."""
        source, destination = stream
        for first, body in self._streams.setdefault(stream, Packets()).feed(data):
            kind = first >> 4
            if kind == _PUBLISH and destination == self.port:
                self._published(source, first, body)
            elif kind == _PUBACK and source == self.port:
                (packet,) = struct.unpack_from(">H", body)
                if id_ := self._waiting.pop((destination, packet), None):
                    self.times[id_] = at

    def _published(self, client: int, first: int, body: bytes) -> None:
        (topic_bytes,) = struct.unpack_from(">H", body)
        topic, rest = body[2 : 2 + topic_bytes], body[2 + topic_bytes :]
        if b"/alert/" not in topic or not first & 0x06:
            return
        (packet,) = struct.unpack_from(">H", rest)
        event = json.loads(rest[rest.index(b'{"specversion"') :])
        self._waiting[client, packet] = str(event["id"])


class Tap:
    """Listens on the loopback until it is closed; begin before the daemon connects."""

    def __init__(self, port: int) -> None:
        self._found = Acknowledgements(port)
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._socket.bind(("lo", _ETH_P_IP))
        self._socket.settimeout(0.2)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._socket.close()

    def acknowledged(self, id_: str) -> float | None:
        """When the alert's PUBACK was on the wire, in time.time() seconds."""
        with self._lock:
            return self._found.times.get(id_)

    def _listen(self) -> None:
        while not self._closing.is_set():
            try:
                data, ancillary, _, address = self._socket.recvmsg(65536 + 128, 64)
            except TimeoutError:
                continue
            if address[2] == _OUTGOING:
                continue  # each packet is seen going out and coming in
            at = next((_seconds(text) for _, kind, text in ancillary if kind == _SO_TIMESTAMPNS), 0.0)
            segment = _segment(data)
            if segment is not None and self._found.port in segment[0]:
                with self._lock:
                    self._found.feed(*segment, at)


def _seconds(timespec: bytes) -> float:
    seconds, nanoseconds = struct.unpack("=qq", timespec)
    return float(seconds + nanoseconds / 1e9)


def _segment(packet: bytes) -> tuple[Stream, bytes] | None:
    """Ports and payload of a TCP segment over IPv4."""
    header_bytes = (packet[0] & 0x0F) * 4
    (total_bytes,) = struct.unpack_from(">H", packet, 2)
    if packet[9] != socket.IPPROTO_TCP:
        return None
    segment = packet[header_bytes:total_bytes]
    source, destination = struct.unpack_from(">HH", segment)
    return (source, destination), segment[(segment[12] >> 4) * 4 :]
