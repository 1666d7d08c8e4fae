"""Device-mapper tables as measured: their hash, their targets, and how a long load is put together.

Source: ``dm_ima_measure_on_table_load`` in ``drivers/md/dm-ima.c``, Linux 5.15 to 7.2.

The table hash is the SHA-256 over the data of all records of a load.  A load may have lost
records to the kernel's deduplication (its first half is that of an earlier table, say), so the
parts of long loads are remembered and the hash that the kernel reports tells which belong
together.  Nothing here knows what a device is doing.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from dmimad.core.event import MEASUREMENT_BUFFER_BYTES, Metadata, TableLoad

#: ``DM_IMA_TARGET_DATA_BUF_LEN`` and the text before it: the most one target can add to a record.
MAX_TARGET_TEXT_BYTES = 2048 + 128
#: Text of long loads kept for putting loads together whose parts were deduplicated.
MAX_FRAGMENT_STORE_BYTES = 8 << 20
#: Ways to put a load together that are tried before giving up.
MAX_COMBINATIONS = 512
#: Parts kept of one device's tables of one length: what each of its records may cost is bounded by it.
MAX_PARTS_PER_TABLE = 1024

_TARGET = re.compile(rb"target_index=([0-9]{1,10}),target_begin=([0-9]{1,20}),target_len=([0-9]{1,20}),")
_TYPE = re.compile(_TARGET.pattern + rb"(?:target_name=([^,;]*))?")
_ATTRIBUTE = re.compile(rb",(?=[a-z][a-z0-9_]*=)")


class Provenance(enum.StrEnum):
    """Which witness says that a table is in its slot: the list, the live table, or both."""

    MEASURED = "measured"
    OBSERVED = "observed"
    BOTH = "both"


class Table(NamedTuple):
    """A table in one of a device's two slots.

    Attributes:
        hash: the kernel's table hash, 32 bytes; empty if there is a table and nobody has told which.
        name, uuid, num_targets: the metadata dm-ima keeps with it.
        texts: data of the load's records; empty if the load was not recorded for this slot.
        loaded_at: index of the load's last record, None if not recorded.
        unmeasured: how many targets at the end the kernel neither measured nor hashed (0 or 1).
        provenance: who says that it is in this slot.
    """

    hash: bytes
    name: bytes
    uuid: bytes
    num_targets: int
    texts: tuple[bytes, ...] = ()
    loaded_at: int | None = None
    unmeasured: int = 0
    provenance: Provenance = Provenance.MEASURED

    @property
    def label(self) -> str:
        """The hash as it is written everywhere: ``sha256:<hex>``."""
        return "sha256:" + self.hash.hex() if self.hash else "unknown"


@dataclass(frozen=True, slots=True)
class Target:
    """One target of a table.  ``type`` is None for an opaque one, which measures no text."""

    index: int
    begin_sectors: int
    length_sectors: int
    type: str | None
    attributes: tuple[tuple[str, str], ...]


def parse_targets(texts: tuple[bytes, ...]) -> tuple[Target, ...]:
    """The targets of a load, attributes in the kernel's order and spelling, unknown ones included."""
    return tuple(target for text in texts for target in _targets_of(text))


def _targets_of(text: bytes) -> Iterator[Target]:
    matches = list(_TARGET.finditer(text))
    ends = [match.start() for match in matches[1:]] + [len(text)]
    for match, end in zip(matches, ends, strict=False):  # without targets there is an end too many
        pairs = parse_pairs(text[match.end() : end])
        name = pairs[0][1] if pairs and pairs[0][0] == "target_name" else None
        yield Target(int(match[1]), int(match[2]), int(match[3]), name, pairs)


def types_told(texts: tuple[bytes, ...]) -> tuple[str | None, ...]:
    """The types of a load's targets, in order: what `parse_targets` says of them, for less."""
    found = (match for text in texts for match in _TYPE.finditer(text))
    return tuple(None if match[4] is None else _pair(b"type=" + match[4])[1] for match in found)


def parse_pairs(text: bytes) -> tuple[tuple[str, str], ...]:
    """The attributes of one target's own text; bytes that are not UTF-8 as ``\\xNN``, a backslash doubled."""
    body = text.rstrip(b"\0").removesuffix(b";")
    return tuple(_pair(part) for part in _ATTRIBUTE.split(body)) if body else ()


def _pair(part: bytes) -> tuple[str, str]:
    key, _, value = part.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace").partition("=")
    return key, value


def opaque_targets(texts: tuple[bytes, ...]) -> int:
    """How many targets of a load left no text."""
    return sum(text.count(b"target_index=") - text.count(b"target_name=") for text in texts)


class Fragment(NamedTuple):
    """One record of a load that has several: targets ``first`` to ``last``."""

    first: int
    last: int
    text: bytes


class FragmentStore:
    """Parts of long loads by metadata, newest last; the oldest devices' go when it is full."""

    def __init__(self) -> None:
        self._parts: OrderedDict[Metadata, list[Fragment]] = OrderedDict()
        self._bytes = 0
        self.evicted = False

    def add(self, metadata: Metadata, fragment: Fragment) -> None:
        """Remember a part; one without targets leads nowhere and is not kept."""
        if fragment.last < fragment.first:
            return
        parts = self._parts.setdefault(metadata, [])
        parts.append(fragment)
        self._parts.move_to_end(metadata)
        if len(parts) > MAX_PARTS_PER_TABLE:
            self._bytes -= len(parts.pop(0).text)
            self.evicted = True
        self._bytes += len(fragment.text)
        while self._bytes > MAX_FRAGMENT_STORE_BYTES:
            oldest = next(iter(self._parts))
            self._bytes -= len(self._parts[oldest].pop(0).text)
            if not self._parts[oldest]:
                del self._parts[oldest]
            self.evicted = True

    def holds(self, metadata: Metadata, texts: Iterable[bytes]) -> bool:
        """Whether all of these parts are known."""
        return set(texts) <= {part.text for part in self._parts.get(metadata, [])}

    def leading_to(self, metadata: Metadata, index: int) -> tuple[Fragment, ...] | None:
        """The newest parts that cover targets 0 to ``index - 1``; None if there are none."""
        return next((chain for chain, _ in self._chains(metadata, index)), None)

    def matching(self, metadata: Metadata, table_hash: bytes) -> tuple[Fragment, ...] | None:
        """The parts whose text has ``table_hash``, with all targets or all but the last."""
        for stop in (metadata.num_targets, metadata.num_targets - 1):
            for chain, digest in self._chains(metadata, stop):
                if digest == table_hash:
                    return chain
        return None

    def _chains(self, metadata: Metadata, stop: int) -> Iterator[tuple[tuple[Fragment, ...], bytes]]:
        """Sequences of parts from target 0 to before ``stop`` and their hashes, newest parts first.

        At most `MAX_COMBINATIONS` parts are looked at, each of them hashed once.
        """
        starting: dict[int, list[Fragment]] = {}
        for part in self._parts.get(metadata, []):
            starting.setdefault(part.first, []).append(part)
        levels: list[tuple[tuple[Fragment, ...], hashlib._Hash, Iterator[Fragment]]] = []
        levels.append(((), hashlib.sha256(), reversed(starting.get(0, []))))
        looked_at = 0
        while levels and looked_at < MAX_COMBINATIONS:
            chain, before, following = levels[-1]
            found = next(following, None)
            if found is None:
                levels.pop()
                continue
            looked_at += 1
            longer, hashed, after = (*chain, found), before.copy(), found.last + 1
            hashed.update(found.text)
            if after == stop:
                yield longer, hashed.digest()
            elif after < stop:
                levels.append((longer, hashed, reversed(starting.get(after, []))))


@dataclass(slots=True)
class LoadAssembly:
    """A table load under way: some of its records have been seen."""

    metadata: Metadata
    parts: list[Fragment]

    @property
    def next_index(self) -> int:
        """The target the next record must begin with."""
        return self.parts[-1].last + 1

    @property
    def complete(self) -> bool:
        """All targets are there."""
        return self.next_index >= self.metadata.num_targets

    @property
    def may_lack_last(self) -> bool:
        """One target is missing and would have overflowed the record: older kernels then forget it."""
        full = len(self.parts[-1].text) + MAX_TARGET_TEXT_BYTES >= MEASUREMENT_BUFFER_BYTES
        return self.next_index == self.metadata.num_targets - 1 and full

    def table(self, loaded_at: int) -> Table:
        """The table as far as it was measured."""
        texts = tuple(part.text for part in self.parts)
        return make_table(self.metadata, texts, loaded_at, self.metadata.num_targets - self.next_index)


def make_table(
    metadata: Metadata, texts: tuple[bytes, ...], loaded_at: int, unmeasured: int, digest: bytes | None = None
) -> Table:
    """The table whose load has ``texts``, with its hash recomputed unless it is given."""
    if digest is None:
        digest = hashlib.sha256(b"".join(texts)).digest()
    return Table(
        digest, metadata.name, metadata.uuid, metadata.num_targets, texts, loaded_at, max(unmeasured, 0)
    )


def fragment_of(event: TableLoad) -> Fragment:
    """The part of a load that one record is."""
    return Fragment(event.first, event.last, event.text)
