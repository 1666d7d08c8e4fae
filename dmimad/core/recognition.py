"""Which measured table a live one is.

Source: `rebuild`: the SHA-256 over the records that a live table's load would leave is its kernel table hash,
under the names it was loaded under, unless an attribute has moved by itself since (`health`).

So the live table is rebuilt under each name that tables of its device are known to have been loaded under,
and looked up among the hashes that were measured in this boot.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from dmimad.core.device import Device, Dialect
from dmimad.core.event import Identity, Metadata
from dmimad.core.health import stable_digest
from dmimad.core.knowledge import Knowledge
from dmimad.core.observation import LiveDevice, LiveTarget
from dmimad.core.rebuild import rebuilt
from dmimad.core.table import Provenance, Table
from dmimad.core.tracker import Tracker

#: Names tried for one table; a device has one or two.
MAX_IDENTITIES_TRIED = 96


class Relation(enum.Enum):
    """How a live table relates to what was measured."""

    MEASURED = "its load was measured"
    MOVED = "its load was measured, but attributes have moved since"
    UNKNOWN = "its load was never measured"


@dataclass(frozen=True, slots=True)
class Recognised:
    """A live table.

    Attributes:
        table: what to keep for it: as measured if it was, else as it is live.
        live: as it is live.
        loaded_as: the name and uuid it was loaded under, as far as is known.
    """

    relation: Relation
    table: Table
    live: Table

    @property
    def loaded_as(self) -> Identity:
        """Name and uuid in the table's hash."""
        return Identity(self.live.name, self.live.uuid)


def recognise(
    live: LiveDevice,
    targets: tuple[LiveTarget, ...],
    device: Device,
    slot: Table | None,
    tracker: Tracker,
    dm_version: tuple[int, int, int],
) -> Recognised:
    """A live table's place among the measured ones.

    Args:
        targets: the live table, in the slot that the list says holds ``slot``.
        device: the tracked device, with the names it had.
    """
    knowledge = tracker.knowledge
    tables: list[Table] = []
    measured: list[Table] = []
    for table in _candidates(live, targets, device, slot, tracker, dm_version):
        tables.append(table)
        if not _is_measured(table, live, slot, knowledge):
            continue
        if slot is not None and table.hash == slot.hash:
            kept = slot if slot.texts else slot._replace(texts=table.texts, unmeasured=table.unmeasured)
            return Recognised(Relation.MEASURED, kept, table)
        measured.append(table)
    if measured:
        return Recognised(Relation.MEASURED, measured[0], measured[0])
    return _moved(live, tables, slot, tracker) or Recognised(Relation.UNKNOWN, tables[0], tables[0])


def _is_measured(table: Table, live: LiveDevice, slot: Table | None, knowledge: Knowledge) -> bool:
    """Whether the list holds the load, be it in records of several others that share them all."""
    if table.hash in knowledge.loaded:
        return True
    if slot is not None and table.hash == slot.hash and slot.provenance is not Provenance.OBSERVED:
        return True  # more was loaded than is remembered
    metadata = Metadata(table.name, table.uuid, live.major, live.minor, table.num_targets)
    return knowledge.fragments.holds(metadata, table.texts)


def _moved(live: LiveDevice, tables: list[Table], slot: Table | None, tracker: Tracker) -> Recognised | None:
    """The measured table that differs from this one only in what moves by itself."""
    knowledge = tracker.knowledge
    earlier: Recognised | None = None
    for table in tables:
        metadata = Metadata(table.name, table.uuid, live.major, live.minor, table.num_targets)
        stable = stable_digest(metadata, table.texts)
        if stable is None:
            return None
        if slot is not None and knowledge.stable_of.get(slot.hash) == stable:
            return Recognised(Relation.MOVED, slot, table)
        known = knowledge.by_stable.get(stable)
        if known is not None and earlier is None:
            earlier = Recognised(Relation.MOVED, table._replace(hash=known), table)
    return earlier


def _candidates(
    live: LiveDevice,
    targets: tuple[LiveTarget, ...],
    device: Device,
    slot: Table | None,
    tracker: Tracker,
    dm_version: tuple[int, int, int],
) -> Iterator[Table]:
    """The table rebuilt under each name it may have been loaded under, the present one first."""
    names = [Identity(live.name, live.uuid), Identity(device.name, device.uuid), *reversed(device.former)]
    if slot is not None:
        names.append(Identity(slot.name, slot.uuid))
    names += tracker.knowledge.identities((live.major, live.minor))
    for dialect in _dialects(tracker):
        for identity in list(dict.fromkeys(names))[:MAX_IDENTITIES_TRIED]:
            yield rebuilt(live, targets, identity, dm_version, dialect)


def _dialects(tracker: Tracker) -> tuple[Dialect, ...]:
    """The dialect records are read in; and where nothing has proven it, the one it may be instead."""
    dialect = tracker.dialect
    if dialect is Dialect.V1 or tracker.evidence.proven is not None:
        return (dialect,)
    other = Dialect.LEGACY if dialect is Dialect.ORDERED else Dialect.ORDERED
    return (dialect, other)
