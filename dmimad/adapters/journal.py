"""Hands entries to systemd's journal, with fields that can be searched for.

Source: systemd's JOURNAL_NATIVE_PROTOCOL, `systemd.journal-fields(7)`.  One datagram is one entry; a field is
`NAME=value` and a line feed or, if the value has line feeds of its own, its name, a line feed, the length as
64 bits little-endian, and the value.

The daemon never waits for its log: what a full queue does not take is lost, and counted.  Entries are bounded
(`MAX_ENTRY_BYTES`), so that each fits into a datagram and none needs a descriptor passed along.

What this module does not do: know events or levels, or speak to a journal on another host.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"
MAX_FIELDS = 64
MAX_FIELD_BYTES = 32 * 1024
MAX_ENTRY_BYTES = 128 * 1024
"""A datagram's limit is net.core.wmem_default, which is 208 KiB if nobody changed it."""

#: What journald accepts; it drops every other field, silently.
_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
#: So much may wait for a journal that is busy; the kernel takes net.core.wmem_max instead if that is less.
_QUEUE_BYTES = 8 * 1024 * 1024


class Journal:
    """The journal of this host."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self.dropped = 0
        """Entries that were lost since one was last taken."""

    def send(self, fields: Mapping[str, str]) -> bool:
        """Never waits or raises.  False: there is no journal, or none that takes this; say it elsewhere."""
        try:
            if self._socket is None:
                self._socket = _open()
            # By name each time: a journal that was started again has another socket there.
            self._socket.sendto(encode(fields), self._path)
        except BlockingIOError:
            self.dropped += 1
            return True  # to say it elsewhere would be to wait for the same journal there
        except OSError:
            return False
        self.dropped = 0
        return True

    def close(self) -> None:
        """Give the socket back."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _open() -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _QUEUE_BYTES)
    except OSError:
        channel.close()
        raise
    return channel


def encode(fields: Mapping[str, str]) -> bytes:
    """An entry as a datagram; of too many or too long fields, the first are kept."""
    entry = bytearray()
    names = [name for name in fields if _NAME.fullmatch(name)]
    for name in names[:MAX_FIELDS]:
        value = _cut(fields[name].encode("utf-8", "backslashreplace"))
        if b"\n" in value:
            field = name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
        else:
            field = name.encode() + b"=" + value + b"\n"
        if len(entry) + len(field) <= MAX_ENTRY_BYTES:
            entry += field
    return bytes(entry)


def _cut(value: bytes) -> bytes:
    """Not in the middle of a character: what is no UTF-8, journalctl does not show."""
    if len(value) <= MAX_FIELD_BYTES:
        return value
    return value[:MAX_FIELD_BYTES].decode("utf-8", "ignore").encode()
