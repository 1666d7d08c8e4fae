"""The devices that exist, by number and by name.

Source: ``drivers/md/dm-ioctl.c``: a name and a number belong to one device at a time, and both are used again
at once.

Two may claim one name for a while, because a rename between them was dropped from the list: the numbers are
what counts then.  What a device does is `device`'s, what it means that one goes is the callers'.
"""

from __future__ import annotations

import hashlib

from dmimad.core.device import Device
from dmimad.core.event import Identity
from dmimad.core.knowledge import Knowledge
from dmimad.core.table import LoadAssembly, Provenance, Table

#: Devices tracked at once; Linux allows 2**20 minors, no host comes near this.
MAX_DEVICES = 65_536

#: Key of a device whose numbers no record has told yet: this and a part of a hash.
_NAME_KEY = "name-"


class Registry:
    """The devices of one host.

    Attributes:
        by_number, by_name: where they are found.
        loads: table loads under way, by the device's key.
        seen_numbers: numbers of devices that went while they were measured: what has them now is newer.
        removed: devices that went because another took their place; callers empty it.
    """

    def __init__(self, knowledge: Knowledge) -> None:
        self.removed: list[Device] = []
        self._knowledge = knowledge
        self.clear()

    def clear(self) -> None:
        """Forget all devices and numbers."""
        self.by_number: dict[tuple[int, int], Device] = {}
        self.by_name: dict[bytes, Device] = {}
        self.seen_numbers: set[tuple[int, int]] = set()
        self.loads: dict[str, LoadAssembly] = {}

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices that exist."""
        unnumbered = (device for device in self.by_name.values() if device.major is None)
        return (*self.by_number.values(), *unnumbered)

    def create(self, key: str, number: tuple[int, int] | None, identity: Identity, at: int) -> Device:
        """A new device without tables; the oldest goes if there are too many."""
        if len(self.by_number) >= MAX_DEVICES or len(self.by_name) >= MAX_DEVICES:
            oldest = next(iter((self.by_number or self.by_name).values()))
            self.drop(oldest)
            self.removed.append(oldest)
        major, minor = number or (None, None)
        device = Device(
            key, major, minor, identity.name, identity.uuid, since=at, changed_at=at, staged_at=at
        )
        return self.put(device)

    def put(self, device: Device) -> Device:
        """Take a device in, or its new state."""
        number = number_of(device)
        holder = self.by_name.get(device.name)
        if holder is None or holder.key == device.key:
            self.by_name[device.name] = device
        elif number is None or number not in self.by_number or self.by_number[number].name != device.name:
            self._displaced(holder)
            self.by_name[device.name] = device
        # Else two claim the name, and this one's claim is the older.
        if number is not None:
            self.by_number[number] = device
        return device

    def _displaced(self, device: Device) -> None:
        """Another device has its name now: it is gone, or was renamed by a record that was dropped."""
        number = number_of(device)
        known = self._knowledge
        if number is None or number not in known.renamed_numbers or (number, device.name) in known.removed:
            self.drop(device)
            self.removed.append(device)

    def forget_name(self, device: Device) -> None:
        """The device is about to be called otherwise, or to go."""
        current = self.by_name.get(device.name)
        if current is not None and current.key == device.key:
            del self.by_name[device.name]

    def drop(self, device: Device, *, recorded: bool = False) -> None:
        """The device is gone; ``recorded``: while it was measured, so what has its number next is newer."""
        self.forget_name(device)
        self.loads.pop(device.key, None)
        number = number_of(device)
        if number is not None:
            self.by_number.pop(number, None)
            if recorded:
                self.seen_numbers.add(number)
        for name in {device.name, *(former.name for former in device.former)}:
            self._knowledge.note_removal(number, name)

    def take_removed(self) -> tuple[Device, ...]:
        """Devices that went because another took their place, since the last call."""
        removed, self.removed = tuple(self.removed), []
        return removed


def is_recorded(table: Table | None) -> bool:
    """Whether a record says that this table is in its slot; without, it may be from before measuring."""
    return table is not None and table.provenance is not Provenance.OBSERVED


def number_of(device: Device) -> tuple[int, int] | None:
    """``major, minor``, if they are known."""
    return None if device.major is None or device.minor is None else (device.major, device.minor)


def number_key(number: tuple[int, int]) -> str:
    """What a device is called towards the outside."""
    return f"{number[0]}:{number[1]}"


def name_key(name: bytes, at: int) -> str:
    """Not by the name alone: a device keeps its key when it is renamed, and another may get its name."""
    return _NAME_KEY + hashlib.sha256(b"%d %s" % (at, name)).hexdigest()[:12]
