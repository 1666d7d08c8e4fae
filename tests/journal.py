"""The other side of the journal's socket, for tests."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

Entry = list[tuple[bytes, bytes]]


def parse(datagram: bytes) -> Entry:
    """The fields of an entry, read as systemd's JOURNAL_NATIVE_PROTOCOL says; ValueError: it is none."""
    fields: Entry = []
    rest = datagram
    while rest:
        line, feed, after = rest.partition(b"\n")
        if not feed:
            raise ValueError("the last field does not end")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", after)
            value, end, after = after[8 : 8 + length], after[8 + length : 9 + length], after[9 + length :]
            if len(value) != length or end != b"\n":
                raise ValueError("the length is wrong")
        fields.append((name, value))
        rest = after
    return fields


class FakeJournal:
    """A journal's socket; what came is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(self.path)

    def datagrams(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.socket.recv(1 << 20))
            except BlockingIOError:
                return found

    def entries(self) -> list[dict[str, str]]:
        """What came, where each field is there once."""
        found = []
        for fields in map(parse, self.datagrams()):
            entry = {name.decode("ascii"): value.decode("utf-8") for name, value in fields}
            assert len(entry) == len(fields), "a field is there twice"
            found.append(entry)
        return found


@contextmanager
def fake_journal(path: Path) -> Iterator[FakeJournal]:
    """Listens at `path` until the end."""
    journal = FakeJournal(path)
    try:
        yield journal
    finally:
        journal.socket.close()
        path.unlink(missing_ok=True)
