"""A mapped device and its two slots; the state machine, as a table.

Source: ``drivers/md/dm-ioctl.c`` (what happens) and ``drivers/md/dm-ima.c`` (what each dialect
makes of it), Linux 5.15 to 7.2, compared with what dmsetup said after each step on real kernels.

The machine is device-mapper's own: which tables a device has.  The kernel's IMA bookkeeping
differs from it in known ways, and those are the columns of the table.  Records that claim
something else than the machine expects are judged by `tracker`, which knows what deduplication
may have hidden; nothing here does.

`Device` and `Table` are named tuples for speed, like the events.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dmimad.core.errors import TransitionError
from dmimad.core.event import EventKind, Identity
from dmimad.core.table import Provenance, Table


class Dialect(enum.StrEnum):
    """The three ways dm-ima has been written."""

    __hash__ = str.__hash__  # for speed, as `EventKind`

    V1 = "v1"
    LEGACY = "legacy"
    ORDERED = "ordered"


class Slots(enum.StrEnum):
    """State of a device: which of its slots hold a table."""

    __hash__ = str.__hash__  # for speed, as `EventKind`

    EMPTY = "empty"
    STAGED = "staged"
    ACTIVE = "active"
    BOTH = "both"


class Action(enum.Enum):
    """What a transition does to the two slots."""

    KEEP = "nothing changes"
    STAGE = "inactive := the loaded table"
    SWAP = "active := inactive, inactive := empty"
    CLEAR = "inactive := empty"
    CLEAR_ALIAS = "inactive := empty, though IMA's bookkeeping now aliases the active one"
    RENAME_ACTIVE = "name and uuid of the device and of the active table"
    RENAME_BOTH = "name and uuid of the device and of both tables"
    REMOVE = "the device is gone"


@dataclass(frozen=True, slots=True)
class Transition:
    """Where an event leads, and what it does in each dialect."""

    to: Slots | None
    actions: Mapping[Dialect, Action]


def _same(to: Slots | None, action: Action) -> Transition:
    return Transition(to, dict.fromkeys(Dialect, action))


def _clear(to: Slots, old: Action = Action.CLEAR_ALIAS) -> Transition:
    return Transition(to, {Dialect.V1: old, Dialect.LEGACY: old, Dialect.ORDERED: Action.CLEAR})


def _rename(to: Slots) -> Transition:
    old = Action.RENAME_ACTIVE
    return Transition(to, {Dialect.V1: old, Dialect.LEGACY: old, Dialect.ORDERED: Action.RENAME_BOTH})


#: The state machine.  A clear with nothing staged is measured too; a remove ends the device.
TRANSITIONS: Mapping[tuple[Slots, EventKind], Transition] = {
    (Slots.EMPTY, EventKind.TABLE_LOAD): _same(Slots.STAGED, Action.STAGE),
    (Slots.STAGED, EventKind.TABLE_LOAD): _same(Slots.STAGED, Action.STAGE),
    (Slots.ACTIVE, EventKind.TABLE_LOAD): _same(Slots.BOTH, Action.STAGE),
    (Slots.BOTH, EventKind.TABLE_LOAD): _same(Slots.BOTH, Action.STAGE),
    (Slots.EMPTY, EventKind.DEVICE_RESUME): _same(Slots.EMPTY, Action.KEEP),
    (Slots.STAGED, EventKind.DEVICE_RESUME): _same(Slots.ACTIVE, Action.SWAP),
    (Slots.ACTIVE, EventKind.DEVICE_RESUME): _same(Slots.ACTIVE, Action.KEEP),
    (Slots.BOTH, EventKind.DEVICE_RESUME): _same(Slots.ACTIVE, Action.SWAP),
    (Slots.EMPTY, EventKind.TABLE_CLEAR): _same(Slots.EMPTY, Action.KEEP),
    (Slots.STAGED, EventKind.TABLE_CLEAR): _clear(Slots.EMPTY, Action.CLEAR),
    (Slots.ACTIVE, EventKind.TABLE_CLEAR): _same(Slots.ACTIVE, Action.KEEP),
    (Slots.BOTH, EventKind.TABLE_CLEAR): _clear(Slots.ACTIVE),
    (Slots.EMPTY, EventKind.DEVICE_RENAME): _rename(Slots.EMPTY),
    (Slots.STAGED, EventKind.DEVICE_RENAME): _rename(Slots.STAGED),
    (Slots.ACTIVE, EventKind.DEVICE_RENAME): _rename(Slots.ACTIVE),
    (Slots.BOTH, EventKind.DEVICE_RENAME): _rename(Slots.BOTH),
    **{(slots, EventKind.DEVICE_REMOVE): _same(None, Action.REMOVE) for slots in Slots},
    **{(slots, EventKind.TARGET_UPDATE): _same(slots, Action.KEEP) for slots in Slots},
}


class Device(NamedTuple):
    """A mapped device, from its first record to its removal.

    Attributes:
        key: what it is called towards the outside while it lives, ``major:minor`` if known.
        major, minor: its numbers; None while only records without them have been seen.
        name, uuid: what dm calls it now.
        active, inactive: its slots; None is empty.
        aliased: a kernel before the rework now believes the active table to be staged as well.
        former: names and uuids it had before; records of older kernels may still carry them.
        since: index of the record that showed it first.
        changed_at: index of the record that changed its active table last.
        staged_at: index of the record that changed its inactive slot last.
    """

    key: str
    major: int | None
    minor: int | None
    name: bytes
    uuid: bytes
    active: Table | None = None
    inactive: Table | None = None
    aliased: bool = False
    former: tuple[Identity, ...] = ()
    since: int = 0
    changed_at: int = 0
    staged_at: int = 0

    @property
    def slots(self) -> Slots:
        """The state the device is in."""
        if self.inactive is None:
            return Slots.EMPTY if self.active is None else Slots.ACTIVE
        return Slots.STAGED if self.active is None else Slots.BOTH


#: Former names remembered per device; a device renamed more often has its oldest forgotten.
MAX_FORMER_NAMES = 16


def advance(
    device: Device,
    kind: EventKind,
    dialect: Dialect,
    *,
    at: int,
    staged: Table | None = None,
    new: Identity | None = None,
) -> Device | None:
    """The device after an event; None once it is removed.

    Args:
        at: index of the record.
        staged: the table loaded, for a load.
        new: name and uuid, for a rename.

    Raises:
        TransitionError: a load without a table or a rename without names; the device is unchanged.
    """
    action = TRANSITIONS[device.slots, kind].actions[dialect]
    if action is Action.KEEP:
        return device
    if action is Action.STAGE:
        if staged is None:
            raise TransitionError(kind, device.slots, "no table was loaded")
        return _with_slots(device, device.active, staged, device.changed_at, at)
    if action is Action.SWAP:
        active = device.inactive
        if active is not None and active.provenance is not Provenance.MEASURED:
            active = active._replace(provenance=Provenance.MEASURED)  # nobody has seen it in this slot
        return device._replace(active=active, inactive=None, aliased=False, changed_at=at, staged_at=at)
    if action is Action.CLEAR or action is Action.CLEAR_ALIAS:
        return device._replace(inactive=None, aliased=action is Action.CLEAR_ALIAS, staged_at=at)
    if action is Action.REMOVE:
        return None
    if new is None:
        raise TransitionError(kind, device.slots, "no new name")
    return _renamed(device, new, both=action is Action.RENAME_BOTH)


def _with_slots(
    device: Device, active: Table | None, inactive: Table | None, changed_at: int, staged_at: int
) -> Device:
    """The same device with other tables; written out because `_replace` costs as much as all the rest."""
    return Device(
        device.key,
        device.major,
        device.minor,
        device.name,
        device.uuid,
        active,
        inactive,
        False,
        device.former,
        device.since,
        changed_at,
        staged_at,
    )


def former_names(device: Device, another: Identity) -> tuple[Identity, ...]:
    """The names a device had, and another one; the oldest is forgotten if there are too many."""
    return (*device.former, another)[-MAX_FORMER_NAMES:]


def _renamed(device: Device, new: Identity, *, both: bool) -> Device:
    def carry(table: Table | None) -> Table | None:
        return None if table is None else table._replace(name=new.name, uuid=new.uuid)

    former = device.former
    if new != (device.name, device.uuid):
        former = former_names(device, Identity(device.name, device.uuid))
    inactive = carry(device.inactive) if both else device.inactive
    active = carry(device.active)
    return device._replace(name=new.name, uuid=new.uuid, active=active, inactive=inactive, former=former)
