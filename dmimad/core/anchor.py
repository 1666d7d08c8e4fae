"""Where to go on in a list that was trimmed: after the last record seen before, recognised by its digest.

Source: ``ima_fs.c`` and ``ima_queue.c`` of Linux 7.2, which deletes the first records of the list on
request.  What is left keeps its order and its bytes, so that record i was record i + trimmed before.
Violations all look the same: the anchor is the last record that is none, and as many violations as
came after it must follow it, or something else than trimming happened to the list.

Which record it is, where several carry the anchor's digest: a kernel adds no digest twice, so the
first one is.  Not so where a kexec brought records along (`Position.carried_over`): of those, the
anchor's digest may be a copy, which the kernel does not know of.  What was measured later comes later,
so there the last one counts, and what follows it is held until the list's end has been seen.  A kernel
built with ``CONFIG_IMA_DISABLE_HTABLE`` does add digests twice; on such a kernel the place may be too
early by some records, which replaying the PCR shows.

It checks no digest (the records after the place are still to be read, those before it were), and does
not decide what an anchor that is gone means: everything seen may be trimmed, or more than that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from dmimad.core.measurement import Measurement
from dmimad.core.reader import ListReader, Position

#: Where a kexec brought records along: what follows a match is held up to this size.  More than that
#: between the match and the list's end: it is taken for a copy, rather than records being read twice.
HELD_MAX_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """The place in the trimmed list.

    Attributes:
        position: the former one but for ``offset``; records are still counted from the boot on.
        rest: the bytes fed so far that come after the place.
        trimmed: so many records are gone from the beginning of the list.
    """

    position: Position
    rest: bytes
    trimmed: int


class Anchor:
    """Sans-IO search for the place; feed it the list from byte 0 on, until it is found or the list ends.

    Time is linear; memory is bounded by `HELD_MAX_BYTES`, the piece fed and one record.

    Args:
        position: where the reading of the list was before it was trimmed.
    """

    def __init__(self, position: Position) -> None:
        self._position = position
        self._reader = ListReader(
            Position(format=position.format), banks=(), verify=False, seek=position.anchor_digest
        )
        self._tail = bytearray()  # from the reader's position on: less than a record
        self._candidate = -1  # index of the last record with the anchor's digest
        self._violations = 0  # so many have followed it
        self._found: Found | None = None  # its rest is in `_rest` as long as it is held
        self._rest = bytearray()
        self._over = not position.anchor_digest

    @property
    def records(self) -> int:
        """Records looked at so far; it ends where the anchor cannot be any more."""
        return self._reader.records

    def feed(self, data: bytes) -> Found | None:
        """Take the next bytes of the list; returns the place once it is certain, and nothing after that."""
        if self._over:
            return None
        start = self._reader.position
        self._tail += data
        if self._found is not None:
            self._rest += data
        end = self._search(self._reader.feed(data))
        if end is not None:
            self._locate(start, end)
        del self._tail[: self._reader.position.offset - start.offset]
        certain = self._found is not None and not self._position.carried_over
        if certain or self._over or self._reader.records >= self._position.records:
            return self.close()  # nothing that comes later can be the place
        if len(self._rest) > HELD_MAX_BYTES:
            self._found = None
            self._rest.clear()
        return None

    def close(self) -> Found | None:
        """The list ends here, or the rest is of no interest: the place, if there is one."""
        found, self._found, self._over = self._found, None, True
        return None if found is None else replace(found, rest=bytes(self._rest))

    def _search(self, records: Iterable[Measurement]) -> int | None:
        """How many records there are up to the place, if it is behind one of these."""
        end: int | None = None
        wanted = self._position.after_anchor
        for record in records:
            if record.fault is not None:
                self._found, self._over = None, True  # no measurement list
                return None
            if record.template_digest == self._position.anchor_digest:
                self._candidate, self._violations = record.index, 0
            elif record.is_violation and record.index == self._candidate + self._violations + 1:
                self._violations += 1
            else:
                continue
            if self._violations == wanted and 0 <= self._candidate < self._position.records - wanted:
                end = self._candidate + wanted + 1
                if not self._position.carried_over:
                    break
        return end

    def _locate(self, start: Position, end: int) -> None:
        """Read the bytes at hand once more, up to the place."""
        reader = ListReader(start, banks=(), verify=False, limit=end)
        reader.feed(bytes(self._tail))
        place, former = reader.position, self._position
        if (place.last_length, place.last_digest) != (former.last_length, former.last_digest):
            return
        self._rest = self._tail[place.offset - start.offset :]
        self._found = Found(replace(former, offset=place.offset), b"", former.records - end)
