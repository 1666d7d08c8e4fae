"""A kernel that measures device-mapper: what dm does, and what dm-ima writes of it, in each dialect.

Source: ``drivers/md/dm-ima.c`` and ``drivers/md/dm-ioctl.c`` of Linux 6.1 (``legacy``; ``v1`` is the same
with other spellings) and 7.2 (``ordered``), and ``ima_add_template_entry``, which drops a record that is in
the list already.  Fed with the steps of the recorded lists it writes their dm records byte by byte; a test
holds that.  So its lists are honest ones, whatever is done to its devices, and nothing in them may alarm.

Left out: what crashes real kernels (a rename while dm-ima aliases the staged table to the active one frees
memory that is still in use; `Kernel.rename` refuses it).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.core.lists import Item, boot, boot_aggregate, buffer, kernel_version
from tests.core.recorded import TrueDevice
from tests.core.truth import escaped, load_texts, metadata

DIALECTS = ("v1", "legacy", "ordered")
VERSIONS = {"v1": b"", "legacy": b"dm_version=4.47.0;", "ordered": b"dm_version=4.50.0;"}
RELEASES = {"v1": "5.13.0", "legacy": "6.1.0-50-amd64", "ordered": "7.2.13+deb14-amd64"}


@dataclass(frozen=True, slots=True)
class Target:
    """One target: its length, and the text it measures (empty: an opaque one)."""

    sectors: int
    text: bytes


Table = tuple[Target, ...]


def linear(start: int, device: str = "1:0", sectors: int = 8) -> Target:
    """A target that measures its configuration."""
    text = f"target_name=linear,target_version=1.4.0,device_name={device},start={start};"
    return Target(sectors, text.encode())


def opaque(sectors: int = 8) -> Target:
    """A target that does not: zero, error, thin, …"""
    return Target(sectors, b"")


def linears(count: int, device: str = "1:7", first: int = 0) -> Table:
    """A table long enough to be split over records, if ``count`` is above 36 or so."""
    return tuple(linear(8 * (first + index), device) for index in range(count))


@dataclass(slots=True)
class Ima:
    """What dm-ima keeps of a table; the same metadata in both places is the alias of older kernels."""

    metadata: bytes | None = None
    num_targets: int = 0
    hash: bytes | None = None


@dataclass(slots=True)
class Mapped:
    """A mapped device: dm's own two slots, and dm-ima's."""

    name: bytes
    uuid: bytes
    minor: int
    live: Table | None = None
    staged: Table | None = None
    suspended: bool = False
    active: Ima = field(default_factory=Ima)
    inactive: Ima = field(default_factory=Ima)
    loaded: bytes | None = None
    running: bytes | None = None

    @property
    def aliased(self) -> bool:
        """Whether dm-ima believes the active table to be staged as well."""
        return self.active.metadata is not None and self.active.metadata is self.inactive.metadata


class Kernel:
    """One boot.  ``items`` is the measurement list so far.

    Names are bytes; numbers are ``major`` and the lowest free minor.  ``dropped`` counts by event
    the records that were not written because they were in the list before.  ``measuring`` is False
    before an IMA policy asks for critical data: dm-ima keeps its books, and nothing is written.
    """

    def __init__(
        self,
        dialect: str = "legacy",
        *,
        major: int = 254,
        start: Sequence[Item] | None = None,
        version: bytes = b"",
        deduplicate: bool = True,
    ) -> None:
        self.dialect = dialect
        self.major = major
        self.version = version or VERSIONS[dialect]
        self.items: list[Item] = list(boot(RELEASES[dialect]) if start is None else start)
        self.devices: dict[bytes, Mapped] = {}
        self.dropped: Counter[str] = Counter()
        self.measuring = True
        self._deduplicate = deduplicate
        self._known = {item.template_digest() for item in self.items}

    @property
    def ordered(self) -> bool:
        """Whether this is the reworked dm-ima."""
        return self.dialect == "ordered"

    # -- operations, as dmsetup has them ---------------------------------------------------

    def create(self, name: bytes, table: Table | None = None, uuid: bytes = b"") -> None:
        """Make a device; with a table, load and resume it."""
        used = {device.minor for device in self.devices.values()}
        minor = next(number for number in range(len(used) + 1) if number not in used)
        self.devices[name] = Mapped(name, uuid, minor)
        if table is not None:
            self.load(name, table)
            self.resume(name)

    def load(self, name: bytes, table: Table) -> None:
        """Stage a table."""
        device = self.devices[name]
        targets, begin = [], 0
        for target in table:
            targets.append((begin, target.sectors, target.text))
            begin += target.sectors
        described = self._metadata(device, len(table))
        texts, _ = load_texts(self.version + described, targets, ordered=self.ordered)
        for text in texts:
            self._measure("table_load", text)
        device.inactive = Ima(described, len(table), hashlib.sha256(b"".join(texts)).digest())
        device.staged = table
        device.loaded = device.inactive.hash

    def resume(self, name: bytes, *, refused: bool = False) -> None:
        """Make the staged table the active one; without one, measured only if the device was suspended.

        ``refused``: a target of the staged table does not resume; it is swapped in, and nothing is measured.
        """
        device = self.devices[name]
        swap = device.staged is not None
        if not swap and not (device.suspended and device.live is not None):
            return
        if swap:
            device.live, device.staged = device.staged, None
            device.running, device.loaded = device.loaded, None
        if refused:
            device.suspended = True
            return
        if swap:
            device.active, device.inactive = device.inactive, Ima()
        device.suspended = False
        text = device.active.metadata or b""
        if device.active.hash is not None:
            text += b"active_table_hash=" + self._label(device.active.hash) + b";"
        self._measure(
            "device_resume", self.version + (text or self._no_data(device, b"device_resume")), device
        )

    def suspend(self, name: bytes) -> None:
        """Not measured."""
        self.devices[name].suspended = True

    def clear(self, name: bytes) -> None:
        """Drop the staged table; measured even if there is none."""
        device = self.devices[name]
        described, digest = device.inactive.metadata, device.inactive.hash
        if described is not None and digest is not None:
            text = described + b"inactive_table_hash=" + self._label(digest) + b";"
        else:
            text = self._no_data(device, b"table_clear")
        self._measure("table_clear", self.version + text, device)
        if device.staged is not None:
            kept = device.active
            device.inactive = Ima() if self.ordered else Ima(kept.metadata, kept.num_targets, kept.hash)
            device.staged = device.loaded = None

    def rename(self, name: bytes, new: bytes, uuid: bytes | None = None) -> None:
        """Give a device another name, or its first uuid."""
        device = self.devices.pop(name)
        if device.aliased:
            self.devices[name] = device
            raise ValueError("a rename now would make dm-ima use freed memory")
        device.name, device.uuid = new, device.uuid if uuid is None else uuid
        self.devices[new] = device
        old = device.active.metadata
        if self.ordered:
            if old is None:
                old = device.inactive.metadata
            for kept in (device.active, device.inactive):
                if kept.metadata is not None:
                    kept.metadata = self._metadata(device, kept.num_targets)
            old = b"device_rename=no_data;" if old is None else old
        else:
            device.active.metadata = self._metadata(device, device.active.num_targets)
            old = b"(null)" if old is None else old
        named = b"new_name=%s,new_uuid=%s;" % (escaped(device.name), escaped(device.uuid))
        self._measure("device_rename", self.version + old + named, device)

    def remove(self, name: bytes, *, all_of_them: bool = False) -> None:
        """Take a device away."""
        device = self.devices.pop(name)
        active, inactive = device.active, device.inactive
        text = b""
        if active.metadata is not None:
            text += b"device_active_metadata=" + active.metadata
        if inactive.metadata is not None:
            text += b"device_inactive_metadata=" + inactive.metadata
        if active.hash is not None:
            text += b"active_table_hash=" + self._label(active.hash) + b","
        if inactive.hash is not None:
            text += b"inactive_table_hash=" + self._label(inactive.hash) + b","
        if not text:
            if not self.ordered:
                return  # the name is gone from dm's tables already, and dm-ima gives up
            text = self._no_data(device, b"device_remove")
        text += b"remove_all=y;" if all_of_them else b"remove_all=n;"
        self._measure("device_remove", self.version + text, device)

    def kexec(self, aggregate: bytes, dialect: str | None = None) -> None:
        """Another kernel takes over, with the list; what is in it does not keep it from writing that again.

        Source: ``ima_restore_measurement_entry``, which leaves those records out of the hash table.
        """
        self.dialect = dialect or self.dialect
        self.version = VERSIONS[self.dialect] if dialect else self.version
        self.devices = {}
        begun = [boot_aggregate(aggregate), kernel_version(RELEASES[self.dialect])]
        self.items += begun
        self._known = {item.template_digest() for item in begun}

    def truth(self) -> tuple[TrueDevice, ...]:
        """What dmsetup would show."""
        return tuple(self._true(device) for device in self.devices.values())

    def _true(self, device: Mapped) -> TrueDevice:
        lines, begin = [], 0
        for target in device.live or ():
            kind = "linear" if target.text else "zero"
            lines.append(f"{begin} {target.sectors} {kind} {target.text.decode()}\n")
            begin += target.sectors
        return TrueDevice(
            device.name,
            device.uuid,
            (self.major, device.minor),
            device.live is not None,
            device.staged is not None,
            device.suspended,
            "".join(lines),
        )

    # -- what is written -------------------------------------------------------------------

    def _measure(self, event: str, text: bytes, device: Mapped | None = None) -> None:
        if device is not None:
            capacity = sum(target.sectors for target in device.live or ())
            text += b"current_device_capacity=%d;" % capacity
        item = buffer(event if self.dialect == "v1" else "dm_" + event, text)
        digest = item.template_digest()
        if not self.measuring:
            return
        if digest in self._known and self._deduplicate:
            self.dropped[event] += 1
            return
        self._known.add(digest)
        self.items.append(item)

    def _metadata(self, device: Mapped, num_targets: int) -> bytes:
        return metadata((device.name, device.uuid), (self.major, device.minor), num_targets)

    def _label(self, digest: bytes) -> bytes:
        return (b"" if self.dialect == "v1" else b"sha256:") + digest.hex().encode()

    @staticmethod
    def _no_data(device: Mapped, what: bytes) -> bytes:
        return b"name=%s,uuid=%s;%s=no_data;" % (escaped(device.name), escaped(device.uuid), what)
