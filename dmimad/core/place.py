"""Where a list is read on, and how that place is found again in one that may be another, or was trimmed.

Source: none; the list is recognised by the record that was read last, which must still be there, byte for
byte in its template digest (`Place.feed`).  In a kernel's list that was trimmed it is elsewhere (`anchor`).

What follows from records that are gone is `monitor`'s to say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dmimad.core.anchor import Anchor, Found
from dmimad.core.errors import ListGapError, ResumeError
from dmimad.core.reader import ListReader, Position
from dmimad.core.tracker import begins_boot


@dataclass(frozen=True, slots=True)
class Following:
    """What of the bytes fed comes after the place.

    ``trimmed``: the place has just been found, and so many records before it are gone; else None.
    """

    data: bytes
    trimmed: int | None = None


class Place:
    """A list's reader, and its place in the list.

    Args:
        position: of what was read before; what is fed first is the record it ends with.
    """

    def __init__(self, position: Position | None = None) -> None:
        self.reader = ListReader() if position is None else ListReader(position)
        self._anchor: Anchor | None = None
        self._head, self._begins_boot = ListReader(), False
        self._seen: bytes | None = None  # of the record to recognise; None: there is none
        if position is not None and position.last_length:  # else reading had just begun anew, behind a gap
            self._seen = b""

    @property
    def offset(self) -> int:
        """The byte that must be fed next, of a place that was just made."""
        position = self.reader.position
        return position.offset - position.last_length

    @property
    def searching(self) -> bool:
        """Whether the place in a trimmed list is being looked for."""
        return self._anchor is not None

    def search(self) -> None:
        """Records were deleted from the list: what is fed next begins at its first byte."""
        self._seen = None
        self._anchor = Anchor(self.reader.position)
        self._head, self._begins_boot = ListReader(banks=(), limit=1), False

    def begin_behind_gap(self) -> None:
        """The place is not in the list any more: what is fed next is its first byte, and all of it is new."""
        self._anchor, self._seen = None, None
        self.reader = ListReader(replace(self.reader.position, offset=0, last_length=0, last_digest=b""))

    def feed(self, data: bytes) -> Following | None:
        """Take the next bytes of the list; None if nothing is to be read of them yet.

        Raises:
            ResumeError: the record before the place is another one.
        """
        if self._anchor is not None:
            self._see_first(data)
            found = self._anchor.feed(data)
            return None if found is None else self._found(found)
        return Following(data if self._seen is None else self._recognise(self._seen + data))

    def end(self) -> Following | None:
        """The list ends here, for the time being; returns what is still to be read, if there is anything.

        Raises:
            ResumeError: the list ends before the place.
            ListGapError: the place was looked for, and is not in the list.
        """
        if self._seen is not None:
            raise ResumeError("the list ends before the checkpoint")
        if self._anchor is None:
            return None
        found = self._anchor.close()
        if found is None and self._begins_boot:
            raise ResumeError("the list is another one")
        if found is None:
            raise ListGapError("the last record read is not in the list any more")
        return self._found(found)

    def _found(self, found: Found) -> Following:
        self._anchor = None
        self.reader = ListReader(found.position)
        return Following(found.rest, found.trimmed)

    def _see_first(self, data: bytes) -> None:
        """A list that begins with the boot was not trimmed."""
        for record in self._head.feed(data):
            self._begins_boot = begins_boot(record)

    def _recognise(self, seen: bytes) -> bytes:
        """The record before the place must still be there; returns what comes after it."""
        position = self.reader.position
        if len(seen) < position.last_length:
            self._seen = seen
            return b""
        self._seen = None
        record, digest = seen[: position.last_length], position.last_digest
        if position.format is not None and position.format.ascii:
            fits = record.split(None, 2)[1:2] == [digest.hex().encode()]
        else:
            fits = record[4 : 4 + len(digest)] == digest
        if digest and not fits:
            raise ResumeError("the record before the checkpoint is another one")
        return seen[position.last_length :]
