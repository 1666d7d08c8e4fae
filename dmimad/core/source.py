"""What a source of list bytes says: the records between a list adapter and the monitor.

Source: none; these are dmimad's own words.  An adapter (the kernel's list, a mirrored file) turns
whatever happens to its list into these four, and the core needs to know nothing else about it.
What they do not do: say anything about records.  A chunk is cut anywhere, also inside a record;
the parser in `measurement` puts the pieces together.

The order an adapter keeps:
- the `Chunk`s between two `Restarted` are contiguous: each begins where the one before it ended,
  the first at the offset asked for, or at 0 after `Restarted`;
- `CaughtUp` follows the first full read, every batch of new data, and the end of an `Unavailable`;
  it also answers whoever asks the kernel's list to look again, once a round of reading that began after
  the question is over: what was counted when it was asked has been delivered, even if nothing was new;
- `Unavailable` comes once per problem, and the source goes on trying by itself; a writer that has the
  kernel's list for a moment is no problem, only one that keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chunk:
    """Raw bytes of the list.

    Attributes:
        data: one byte or more, cut anywhere.
        offset: byte offset of data[0] in the list's byte stream.
    """

    data: bytes
    offset: int


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Everything there is has been delivered.

    Attributes:
        count: the kernel's number of records, read before the list itself was: at least so many
            records have been delivered.  None where nobody counts (a file) or the count is unreadable.
        looks: the source was asked to look so often before it began this round of reading.
    """

    count: int | None
    looks: int = 0


@dataclass(frozen=True, slots=True)
class Restarted:
    """What was read so far is not the beginning of the list any more; reading begins again at byte 0.

    Attributes:
        reason: "truncated" (shorter than the position, or rewritten), "replaced" (another file is in
            its place) or "trimmed" (records were deleted from the kernel's list).
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The list cannot be read now; the source keeps trying.

    Attributes:
        problem: one line: where, what, and what to do about it.
        lasting: waiting alone will not help (no IMA, no rights): a person has to do something.
    """

    problem: str
    lasting: bool = False


SourceEvent = Chunk | CaughtUp | Restarted | Unavailable
