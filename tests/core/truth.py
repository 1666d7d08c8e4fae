"""What a list lets anybody know of the kernel's truth, step by step: the reference the tracker is held to.

Source: the steps of the recorded lists (dmsetup's view after each), the records each step added, and
one rule: a change of the truth that left no record in its step is hidden, because the kernel drops
records it has written before, until a later record tells that part of the device again.

The parts are judged apart: that a device exists, its name and uuid, its numbers, whether it has an
active and an inactive table, and the active table's hash.  Nothing here uses `dmimad`; records are
looked at with three regular expressions, and a table's hash is rebuilt from dmsetup's own text.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.core.lists import Item
from tests.core.recorded import Action, TrueDevice

Number = tuple[int, int]
Identity = tuple[bytes, bytes]


class Part(enum.Enum):
    """What can be known of a device, each on its own."""

    EXISTS = "exists"
    IDENTITY = "identity"
    NUMBER = "number"
    ACTIVE = "active"
    INACTIVE = "inactive"
    HASH = "hash"


_VALUE = rb"((?:[^\\;=,]|\\.)*)"
_METADATA = re.compile(rb"name=" + _VALUE + rb",uuid=" + _VALUE + rb",major=(\d+),minor=(\d+),", re.DOTALL)
_NAMED = re.compile(rb"name=" + _VALUE + rb",uuid=" + _VALUE + rb";", re.DOTALL)
_ACTIVE = re.compile(rb"active_table_hash=(?:sha256:)?([0-9a-f]{64});")
_RENAMED = re.compile(rb"new_name=" + _VALUE + rb",new_uuid=" + _VALUE + rb";", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Mention:
    """A dm record: its event, whom it mentions, and the table hash a resume reports.

    ``missing`` is how many targets of the table come after the last one in the record of a load.
    """

    event: str
    number: Number | None
    identity: Identity | None
    new: Identity | None
    hash: bytes | None
    version: bytes
    missing: int


def mention(item: Item) -> Mention:
    """Whom a dm record is about."""
    number = identity = None
    if found := _METADATA.search(item.text):
        number = (int(found[3]), int(found[4]))
    elif b"=no_data" in item.text:
        found = _NAMED.search(item.text)
    if found:
        identity = (_unescaped(found[1]), _unescaped(found[2]))
    renamed = _RENAMED.search(item.text) if item.event.endswith("device_rename") else None
    new = (_unescaped(renamed[1]), _unescaped(renamed[2])) if renamed else None
    event = item.event.removeprefix("dm_")
    reported = _ACTIVE.search(item.text) if event == "device_resume" else None
    hash_ = bytes.fromhex(reported[1].decode()) if reported else None
    count = re.search(rb"num_targets=(\d+);", item.text)
    targets = re.findall(rb"target_index=(\d+),", item.text)
    missing = int(count[1]) - 1 - int(targets[-1]) if count and targets else 0
    return Mention(event, number, identity, new, hash_, version(item), missing)


def version(item: Item) -> bytes:
    """What a dm record begins with, up to the metadata."""
    found = re.match(rb"dm_version=[0-9.]+;", item.text)
    return found[0] if found else b""


def _unescaped(text: bytes) -> bytes:
    return re.sub(rb"\\(.)", rb"\1", text, flags=re.DOTALL)


@dataclass(slots=True)
class _Instance:
    """One life of a device, from its creation to its removal."""

    device: TrueDevice
    hidden: set[Part] = field(default_factory=set)
    identities: set[Identity] = field(default_factory=set)
    measure: str = ""
    confused: bool = False
    told: bool = False


@dataclass(frozen=True, slots=True)
class Expectation:
    """What must be known of one device after a step; ``device`` None: it is gone, and that is hidden.

    A ghost without a number is a device that a rename of nobody knows which device may have made up.
    """

    device: TrueDevice | None
    number: Number | None
    known: frozenset[Part]
    names: frozenset[bytes]
    identities: frozenset[Identity]


def expectations(
    records: Sequence[Item], actions: Iterable[Action], *, ordered: bool
) -> Iterator[tuple[Action, list[Expectation]]]:
    """Every step with what is known after it; ``records`` may still grow while this is iterated over."""
    reference = _Reference(records, ordered=ordered)
    done = 0
    for action in actions:
        yield action, reference.step(action, done)
        done = action.after


class _Reference:
    def __init__(self, records: Sequence[Item], *, ordered: bool) -> None:
        self._records = records
        self._ordered = ordered
        self._living: dict[Number, _Instance] = {}
        self._before: dict[Number, _Instance] = {}
        self._ghosts: list[_Instance] = []
        self._resumed: set[bytes] = set()
        self._phantoms: set[bytes] = set()

    def step(self, action: Action, done: int) -> list[Expectation]:
        mentions = [mention(item) for item in self._records[done : action.after] if item.is_dm]
        before = self._before = self._living
        self._living = {}
        truth = {device.number: device for device in action.devices}
        for number in before.keys() - truth.keys():
            instance = before[number]
            if instance.told and not _of(mentions, instance, "device_remove"):
                self._ghosts.append(instance)
        for m in mentions:
            if m.event == "device_rename" and m.identity is None:
                self._nameless(before)
        for number, device in truth.items():
            former = before.get(number)
            if former is not None and not self._same(former, device, mentions):
                if former.told and not _of(mentions, former, "device_remove"):
                    self._ghosts.append(former)
                former = None  # or renamed, unrecorded: that looks the same
            if former is None:
                ghosts = [*self._ghosts, *([before[number]] if number in before else [])]
                former = self._began(device, [ghost for ghost in ghosts if ghost.device.number == number])
            self._living[number] = former
            self._observe(self._living[number], device, mentions)
        if not self._ordered:
            self._stale(mentions)
        self._ghosts = [ghost for ghost in self._ghosts if not _laid(ghost, mentions)]
        return [self._expect(instance) for instance in self._living.values()] + [
            Expectation(None, number, frozenset(), names, frozenset())
            for number, names in [
                *((ghost.device.number, _names(ghost)) for ghost in self._ghosts),
                *((None, frozenset({name})) for name in self._phantoms),
            ]
        ]

    def _nameless(self, living: dict[Number, _Instance]) -> None:
        """A rename that does not say of which device hides all it may be of, if they are several."""
        possible = [
            instance
            for instance in (*living.values(), *self._ghosts)
            if not instance.device.active or instance.hidden & {Part.EXISTS, Part.ACTIVE}
        ]
        if len(possible) > 1:
            for instance in possible:
                instance.hidden |= set(Part)
                instance.confused = True
                self._phantoms |= _names(instance)

    @staticmethod
    def _same(instance: _Instance, device: TrueDevice, mentions: list[Mention]) -> bool:
        """Whether this is the device that was on the number before, renamed perhaps."""
        old = (instance.device.name, instance.device.uuid)
        new = (device.name, device.uuid)
        removed = any(m.event == "device_remove" and m.number == device.number for m in mentions)
        return not removed and (
            old == new or any(m.event == "device_rename" and m.new == new for m in mentions)
        )

    @staticmethod
    def _began(device: TrueDevice, before: list[_Instance]) -> _Instance:
        """A new device; one on the number of another whose removal was hidden cannot be told from that."""
        nothing = TrueDevice(device.name, device.uuid, device.number, False, False, False, "")
        hidden = set(Part) if before else set(Part) - {Part.ACTIVE, Part.INACTIVE, Part.HASH}
        return _Instance(
            nothing, hidden, {identity for instance in before for identity in instance.identities}
        )

    def _observe(self, instance: _Instance, device: TrueDevice, mentions: list[Mention]) -> None:
        """Take the new truth over; what changed without a record is hidden, what a record tells is not."""
        old, instance.device = instance.device, device
        identity = (device.name, device.uuid)
        instance.identities.add(identity)
        mine = [m for m in mentions if _about(m, instance)]
        hidden = instance.hidden
        if identity != (old.name, old.uuid):
            hidden.add(Part.IDENTITY)
        if device.active != old.active:
            hidden |= {Part.ACTIVE, Part.HASH}
        if device.inactive != old.inactive:
            hidden.add(Part.INACTIVE)
            if old.inactive and not any(m.event == "table_clear" for m in mine):
                hidden.add(Part.HASH)  # it may have been made the active one
        if device.measure and instance.measure and device.measure != instance.measure:
            hidden.add(Part.HASH)
        instance.measure = device.measure or instance.measure
        for m in mine:
            if (instance.confused and m.event != "table_load") or self._ambiguous(instance, m):
                continue  # nobody can tell that it is this device
            instance.confused = False
            instance.told = True
            if m.event == "device_remove":
                hidden |= set(Part)  # it is there nevertheless: made again, unrecorded
            else:
                hidden -= _told(m, device, identity, ordered=self._ordered)
            if m.hash is not None:
                if self._returned(instance, m):
                    hidden.add(Part.HASH)
                self._resumed.add(m.hash)

    def _stale(self, mentions: list[Mention]) -> None:
        """Older kernels' records carry names of before; a device that has the name by now is hidden then."""
        for m in mentions:
            if m.identity is None or m.number is None or m.event == "table_load":
                continue
            known = self._before.get(m.number)
            loaded = any(other.event == "table_load" and other.number == m.number for other in mentions)
            if loaded or (known is not None and Part.IDENTITY not in known.hidden):
                continue
            for instance in self._living.values():
                if instance.device.name == m.identity[0] and instance.device.number != m.number:
                    instance.hidden |= set(Part)

    def _ambiguous(self, instance: _Instance, m: Mention) -> bool:
        """Whether a record without numbers may be of another device, whose present name is hidden."""
        others = [*self._before.values(), *self._living.values(), *self._ghosts]
        return m.number is None and any(
            m.identity in other.identities and (Part.IDENTITY in other.hidden or other in self._ghosts)
            for other in others
            if other is not instance
        )

    def _returned(self, instance: _Instance, m: Mention) -> bool:
        """Whether the table is another one than a resume in this step says, and was resumed before.

        One step may do many things (LVM does): back to a table of before is a record dropped.
        """
        if not instance.device.measure:
            return False
        hashes = {
            hash_
            for ordered in (False, True)
            for hash_ in table_hashes(m.version, self._expect(instance), ordered=ordered)
        }
        return m.hash not in hashes and bool(hashes & self._resumed)

    @staticmethod
    def _expect(instance: _Instance) -> Expectation:
        known = frozenset() if Part.EXISTS in instance.hidden else frozenset(set(Part) - instance.hidden)
        return Expectation(
            instance.device, instance.device.number, known, _names(instance), frozenset(instance.identities)
        )


def _laid(ghost: _Instance, mentions: list[Mention]) -> bool:
    """Whether a record speaks of another device under the number or name of one whose removal was hidden."""
    numbered = Part.NUMBER not in ghost.hidden and ghost.device.number in {m.number for m in mentions}
    return numbered or (ghost.device.name, ghost.device.uuid) in {m.identity for m in mentions}


def _names(instance: _Instance) -> frozenset[bytes]:
    return frozenset(name for name, _ in instance.identities)


def _about(m: Mention, instance: _Instance) -> bool:
    if m.number is not None:
        return m.number == instance.device.number
    return (instance.device.name, instance.device.uuid) in (m.identity, m.new)


def _of(mentions: list[Mention], instance: _Instance, event: str) -> bool:
    return any(m.event == event and _about(m, instance) for m in mentions)


def _told(m: Mention, device: TrueDevice, identity: Identity, *, ordered: bool) -> set[Part]:
    """The parts of a device that a record tells."""
    told = {Part.EXISTS}
    if m.number is not None:
        told.add(Part.NUMBER)
    # In all but these, older kernels write the name a table was loaded under, whatever its device's is now.
    present = ordered or m.event in ("table_load", "device_rename") or m.number is None
    if present and identity == (m.identity if m.new is None else m.new):
        told.add(Part.IDENTITY)
    if m.event == "device_resume":
        told |= {Part.ACTIVE, Part.HASH, Part.INACTIVE}
    elif m.event == "table_clear":
        told.add(Part.INACTIVE)
    elif m.event == "table_load" and device.inactive and (m.missing == 0 or (m.missing == 1 and not ordered)):
        told.add(
            Part.INACTIVE
        )  # the load's last record (older kernels leave out one that would open another)
    return told


# -- tables --------------------------------------------------------------------------------

BUFFER = 4096


def escaped(text: bytes) -> bytes:
    """A name as dm-ima writes it."""
    return re.sub(rb"[\\;=,]", rb"\\\g<0>", text)


def metadata(identity: Identity, number: Number, num_targets: int) -> bytes:
    """Device metadata as dm-ima writes it."""
    name, uuid = (escaped(text) for text in identity)
    return b"name=%s,uuid=%s,major=%d,minor=%d,minor_count=1,num_targets=%d;" % (
        name,
        uuid,
        *number,
        num_targets,
    )


def load_texts(
    head: bytes, targets: Sequence[tuple[int, int, bytes]], *, ordered: bool
) -> tuple[list[bytes], int]:
    """The records a load writes, and how many of its last targets are in none.

    ``head`` is version and metadata; ``targets`` are begin, length and text of each.
    """
    records, text, opened_by_last = [], head, False
    for index, (begin, length, own) in enumerate(targets):
        piece = b"target_index=%d,target_begin=%d,target_len=%d,%s" % (index, begin, length, own)
        if len(text) + len(piece) >= BUFFER:
            records.append(text)
            text = head
            opened_by_last = index == len(targets) - 1
        text += piece
    if opened_by_last and not ordered:
        return records, 1
    return [*records, text], 0


def measured_targets(measure: str) -> list[tuple[int, int, bytes]]:
    """Lines of ``dmsetup measure`` -> begin, length and text of the targets."""
    targets = []
    for line in measure.splitlines():
        begin, length, _, text = line.split(" ", 3)
        targets.append((int(begin), int(length), text.encode("utf-8", "surrogateescape")))
    return targets


def table_hashes(version: bytes, expectation: Expectation, *, ordered: bool) -> set[bytes]:
    """The hash the active table must have, under each name it may have been loaded under."""
    if expectation.device is None or expectation.number is None:
        return set()
    targets = measured_targets(expectation.device.measure)
    hashes = set()
    for identity in expectation.identities:
        head = version + metadata(identity, expectation.number, len(targets))
        texts, _ = load_texts(head, targets, ordered=ordered)
        hashes.add(hashlib.sha256(b"".join(texts)).digest())
    return hashes
