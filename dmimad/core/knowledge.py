"""What one boot's list has shown so far, kept to tell deduplication from tampering.

Source: ``ima_lookup_digest_entry`` in ``security/integrity/ima/ima_queue.c``: a record whose
template digest is already in the list is dropped.  So what is missing from the list can only be
what was in it before, and that is what is remembered here: which tables were loaded, which were
made active, which devices went, in forms small enough to keep for a whole boot.  Records carried
over by kexec do not count (``ima_restore_measurement_entry`` leaves them out of the hash table).

Every addition is also noted as a *fact*, ``(kind, value)``, to be stored; feeding the facts back
gives the same knowledge again.  They may be stored as a set: no two are equal, and those whose
order matters carry a number.  Nothing here judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Sized

from dmimad.core.errors import MalformedError
from dmimad.core.event import Identity, Metadata
from dmimad.core.health import stable_digest
from dmimad.core.table import Fragment, FragmentStore

#: Facts of each kind kept; beyond that a missing record can no longer be proven to be one.
MAX_FACTS_PER_KIND = 262_144

#: Names remembered per device number, to rebuild what a live table was loaded under.
MAX_IDENTITIES_PER_NUMBER = 64

#: Kinds of facts whose order matters: a number comes before their other parts.
_ORDERED = ("resumed", "fragment")

#: ``(kind, value)``, value made by `pack`.
Fact = tuple[str, bytes]

Removal = tuple[tuple[int, int] | None, bytes]
Rename = tuple[tuple[int, int] | None, bytes, bytes]


class Knowledge:
    """Facts of one boot, by kind; all lookups are O(1).

    Args:
        keep_facts: note additions for `take_facts`; a caller who never takes them must not ask for it.
    """

    def __init__(self, *, keep_facts: bool) -> None:
        self._keep = keep_facts
        self._fresh: list[Fact] = []
        self.begin(1)

    def begin(self, boot: int) -> None:
        """Forget everything: the list's ``boot``-th boot begins, and facts of others are not its own."""
        self.records: set[bytes] = set()
        self.loaded: set[bytes] = set()
        self.stable_of: dict[bytes, bytes] = {}
        self.by_stable: dict[bytes, bytes] = {}
        self._identities: dict[tuple[int, int], dict[Identity, None]] = {}
        self.resumed: set[bytes] = set()
        self.removed: set[Removal] = set()
        self.renamed: set[Rename] = set()
        self.renamed_numbers: set[tuple[int, int] | None] = set()
        self.last_active: dict[Metadata, bytes] = {}
        self.fragments = FragmentStore()
        self.overflowed = False
        self._resumes = 0
        self._serial = 0
        self._suffix = "" if boot <= 1 else f"@{boot}"

    def take_facts(self) -> list[Fact]:
        """Facts added since the last call, in order."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def restore(self, facts: Iterable[Fact]) -> None:
        """Take stored facts in, in any order.

        Raises:
            MalformedError: a fact that was never made here.
        """
        ordered: list[tuple[int, str, list[bytes]]] = []
        try:
            for kind, value in facts:
                name, at, boot = kind.partition("@")
                if at + boot != self._suffix:
                    continue
                parts = unpack(value)
                if name in _ORDERED:
                    ordered.append((int(parts[0]), name, parts[1:]))
                else:
                    self._restore(name, parts)
            for serial, kind, parts in sorted(ordered):
                self._restore(kind, parts)
                self._serial = serial
        except (ValueError, IndexError) as error:
            raise MalformedError("a stored fact is damaged") from error
        known: tuple[Sized, ...] = (self.records, self.loaded, self.removed, self.renamed)
        if max(self._resumes, *map(len, known)) >= MAX_FACTS_PER_KIND:
            self.overflowed = True  # it may have been, and that is no fact

    def _restore(self, kind: str, parts: list[bytes]) -> None:
        if kind == "record":
            self.records.add(parts[0])
        elif kind == "loaded":
            self.loaded.add(parts[0])
        elif kind == "resumed":
            self.resumed.add(parts[0])
            self.last_active[_metadata(parts[1:])] = parts[0]
            self._resumes += 1
        elif kind == "stable":
            self._add_stable(parts[0], parts[1])
        elif kind == "identity":
            number, identity = (int(parts[0]), int(parts[1])), Identity(parts[2], parts[3])
            self._identities.setdefault(number, {})[identity] = None
        elif kind == "removed":
            self.removed.add(((int(parts[0]), int(parts[1])) if parts[0] else None, parts[2]))
        elif kind == "renamed":
            renamed = (int(parts[0]), int(parts[1])) if parts[0] else None
            self.renamed.add((renamed, parts[2], parts[3]))
            self.renamed_numbers.add(renamed)
        elif kind == "fragment":
            self.fragments.add(_metadata(parts[3:]), Fragment(int(parts[0]), int(parts[1]), parts[2]))
        else:
            raise ValueError(kind)

    def note_record(self, digest: bytes) -> bool:
        """A dm record with this template digest; False if it was there before."""
        records = self.records
        if digest in records:
            return False
        if len(records) < MAX_FACTS_PER_KIND:
            records.add(digest)
            if self._keep:
                self._note("record", digest)
        else:
            self.overflowed = True
        return True

    def note_load(self, table_hash: bytes, metadata: Metadata, texts: tuple[bytes, ...] = ()) -> None:
        """A table was loaded, as ``texts`` if they are known."""
        if table_hash in self.loaded or not self._room(self.loaded):
            return
        self.loaded.add(table_hash)
        self._note("loaded", table_hash)
        self._note_identity(metadata.device, Identity(metadata.name, metadata.uuid))
        stable = stable_digest(metadata, texts)
        if stable is not None:
            self._add_stable(table_hash, stable)
            self._note("stable", table_hash, stable)

    def _add_stable(self, table_hash: bytes, stable: bytes) -> None:
        self.stable_of[table_hash] = stable
        # Of several that differ only in what moves by itself any will do, if it is always the same.
        self.by_stable[stable] = min(table_hash, self.by_stable.get(stable, table_hash))

    def _note_identity(self, number: tuple[int, int], identity: Identity) -> None:
        known = self._identities.setdefault(number, {})
        if identity not in known and len(known) < MAX_IDENTITIES_PER_NUMBER:
            known[identity] = None
            self._note("identity", *_number_parts(number), *identity)

    def identities(self, number: tuple[int, int]) -> Iterable[Identity]:
        """Names and uuids that tables of devices with this number were loaded under."""
        return self._identities.get(number, {}).keys()

    def note_resume(self, table_hash: bytes, metadata: Metadata) -> None:
        """A table was reported active by a resume."""
        if self.last_active.get(metadata) == table_hash:
            return
        if self._resumes >= MAX_FACTS_PER_KIND:
            self.overflowed = True
            return
        self._resumes += 1
        self.resumed.add(table_hash)
        self.last_active[metadata] = table_hash
        if self._keep:
            self._note("resumed", self._next(), table_hash, *_parts(metadata))

    def note_removal(self, number: tuple[int, int] | None, name: bytes) -> None:
        """A device went."""
        if (number, name) not in self.removed and self._room(self.removed):
            self.removed.add((number, name))
            if self._keep:
                self._note("removed", *_number_parts(number), name)

    def note_rename(self, number: tuple[int, int] | None, new: Identity) -> None:
        """A device was renamed; without ``number`` the record does not say which one."""
        rename = (number, new.name, new.uuid)
        if rename not in self.renamed and self._room(self.renamed):
            self.renamed.add(rename)
            self.renamed_numbers.add(number)
            self._note("renamed", *_number_parts(number), new.name, new.uuid)

    def was_renamed(self, number: tuple[int, int], new: Identity) -> bool:
        """Whether this device may have got this name (again) by a rename whose record was dropped."""
        return (number, new.name, new.uuid) in self.renamed or (None, new.name, new.uuid) in self.renamed

    def note_fragment(self, metadata: Metadata, fragment: Fragment) -> None:
        """A record of a load that has several."""
        self.fragments.add(metadata, fragment)
        if self._keep:
            first, last, text = fragment
            self._note("fragment", self._next(), b"%d" % first, b"%d" % last, text, *_parts(metadata))

    def _next(self) -> bytes:
        """The number of a fact whose order matters."""
        self._serial += 1
        return b"%d" % self._serial

    def _note(self, kind: str, *parts: bytes) -> None:
        if self._keep:
            self._fresh.append((kind + self._suffix, pack(parts)))

    def _room(self, known: Sized) -> bool:
        if len(known) < MAX_FACTS_PER_KIND:
            return True
        self.overflowed = True
        return False


def pack(parts: Iterable[bytes]) -> bytes:
    """Byte strings -> one, each behind its length (32 bits, little-endian)."""
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def unpack(value: bytes) -> list[bytes]:
    """The inverse of `pack`; raises ValueError."""
    parts, at = [], 0
    while at < len(value):
        stop = at + 4 + int.from_bytes(value[at : at + 4], "little")
        if stop > len(value):
            raise ValueError("longer than it is")
        parts.append(value[at + 4 : stop])
        at = stop
    return parts


def _number_parts(number: tuple[int, int] | None) -> tuple[bytes, bytes]:
    return (b"%d" % number[0], b"%d" % number[1]) if number else (b"", b"")


def _parts(metadata: Metadata) -> tuple[bytes, ...]:
    numbers = (metadata.major, metadata.minor, metadata.num_targets)
    return (metadata.name, metadata.uuid, *(b"%d" % number for number in numbers))


def _metadata(parts: list[bytes]) -> Metadata:
    name, uuid, major, minor, num_targets = parts
    return Metadata(name, uuid, int(major), int(minor), int(num_targets))
