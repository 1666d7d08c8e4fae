"""A made-up but coherent device-mapper history, as the records a legacy kernel writes about it.

Devices are created, loaded, reloaded, resumed, cleared, renamed and removed at random (seeded); every
record's text and table hash are built as `drivers/md/dm-ima.c` of Linux 6.12 builds them
(`dm_version=4.48.0`): loads that reach 4096 bytes are split, a cleared slot aliases the active table,
minors are reused. Every table is unique, because the kernel drops a record that is already in the list.

It shares no code with dmimad: what it says about the devices at the end is a second opinion. It makes no
record that an honest kernel would not make, and leaves out what only errors lead to (`no_data`,
`(null)`, overflow holes).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

VERSION = b"dm_version=4.48.0;"
MAJOR = 254
RECORD_LIMIT_BYTES = 4096

# Relative weights of what happens to a device next.
ACTIONS = {"reload": 5, "replace": 1, "clear": 1, "rename": 1, "remove": 2, "remove_staged": 1}
# Relative weights of table kinds.
KINDS = {
    "linear": 8,
    "crypt": 4,
    "verity": 3,
    "striped": 2,
    "integrity": 1,
    "snapshot": 1,
    "zero": 1,
    "large": 1,
}

# What each target says of itself; an opaque one nothing.
_LINEAR = b"target_name=linear,target_version=1.4.0,device_name=8:2,start=%(serial)d;"
TARGET_TEXTS = {
    "linear": _LINEAR,
    "large": _LINEAR,
    "zero": b"",
    "crypt": (
        b"target_name=crypt,target_version=1.28.0,allow_discards=y,same_cpu_crypt=n,high_priority=n,"
        b"submit_from_crypt_cpus=n,no_read_workqueue=n,no_write_workqueue=n,iv_large_sectors=n,"
        b"cipher_string=aes-xts-plain64,key_size=64,key_parts=1,key_extra_size=0,key_mac_size=0;"
    ),
    "verity": (
        b"target_name=verity,target_version=1.10.0,hash_failed=V,verity_version=1,data_device_name=7:0,"
        b"hash_device_name=7:1,verity_algorithm=sha256,root_digest=%(digits)b,salt=%(digits)b,"
        b"ignore_zero_blocks=n,check_at_most_once=n;"
    ),
    "striped": (
        b"target_name=striped,target_version=1.6.0,stripes=2,chunk_size=128,stripe_0_device_name=8:1,"
        b"stripe_0_physical_start=%(serial)d,stripe_0_status=A,stripe_1_device_name=8:17,"
        b"stripe_1_physical_start=%(serial)d,stripe_1_status=A;"
    ),
    "integrity": (
        b"target_name=integrity,target_version=1.13.0,dev_name=8:3,start=%(serial)d,tag_size=4,mode=J,"
        b"recalculate=n,allow_discards=n,fix_padding=n,fix_hmac=n,legacy_recalculate=n,"
        b"journal_sectors=176,interleave_sectors=32768,buffer_sectors=128;"
    ),
    "snapshot": (
        b"target_name=snapshot,target_version=1.16.0,snap_origin_name=254:%(serial)d,snap_cow_name=254:0,"
        b"snap_valid=y,snap_merge_failed=n,snapshot_overflowed=n;"
    ),
}


@dataclass(frozen=True, slots=True)
class DmRecord:
    """One measurement of device-mapper's: the event's name and its data."""

    event: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Table:
    """A table as dm-ima keeps it: the metadata text it was loaded with, its hash, its size."""

    metadata: bytes
    hash: bytes
    capacity_sectors: int
    num_targets: int


@dataclass(slots=True)
class Device:
    """One mapped device and its two slots; `alias` is what a legacy kernel keeps in the cleared one."""

    minor: int
    name: bytes
    uuid: bytes
    active: Table | None = None
    staged: Table | None = None
    alias: bool = False


def escape(text: bytes) -> bytes:
    """Put a backslash before each separator, as `fix_separator_chars` does."""
    for separator in (b"\\", b";", b"=", b","):
        text = text.replace(separator, b"\\" + separator)
    return text


def metadata(device: Device, num_targets: int) -> bytes:
    """The device's part of a record, with the trailing `;`."""
    return b"name=%b,uuid=%b,major=%d,minor=%d,minor_count=1,num_targets=%d;" % (
        escape(device.name), escape(device.uuid), MAJOR, device.minor, num_targets,
    )  # fmt: skip


def split_load(prefix: bytes, targets: list[bytes]) -> list[bytes]:
    """The data of a table's load records: a new one whenever the next target would bring it to 4096 bytes."""
    records = [prefix]
    for target in targets:
        if len(records[-1]) + len(target) >= RECORD_LIMIT_BYTES:
            records.append(prefix)
        records[-1] += target
    return records


class History:
    """The machine whose devices change; `records()` never ends."""

    def __init__(self, random_source: random.Random, live_devices: int) -> None:
        self.devices: dict[int, Device] = {}
        self._random = random_source
        self._live_devices = live_devices
        self._serial = 0

    def records(self) -> Iterator[DmRecord]:
        """One random operation after another; state changes when the record that shows it is handed out."""
        while True:
            if len(self.devices) < self._live_devices:
                yield from self.create()
                continue
            device = self._random.choice(list(self.devices.values()))
            action = self._random.choices(list(ACTIONS), list(ACTIONS.values()))[0]
            yield from getattr(self, f"_{action}")(device)

    def create(self, name: bytes | None = None) -> Iterator[DmRecord]:
        """A new device on the lowest free minor: a load and a resume."""
        minor = next(n for n in range(len(self.devices) + 1) if n not in self.devices)
        device = Device(minor, name or self._new_name(), self._new_uuid())
        self.devices[minor] = device
        yield from self.load(device)
        yield from self.resume(device)

    def load(self, device: Device) -> Iterator[DmRecord]:
        """Stage a new, unique table."""
        targets, length_sectors = self._targets()
        while True:
            text = metadata(device, len(targets))
            parts = split_load(VERSION + text, targets)
            if len(parts) == 1 or parts[-1].count(b"target_index=") > 1:
                break
            targets.pop()  # these kernels do not measure a last target that overflows: not wanted here
        table_hash = hashlib.sha256(b"".join(parts)).hexdigest().encode()
        for part in parts[:-1]:
            yield DmRecord(b"dm_table_load", part)
        device.staged = Table(text, b"sha256:" + table_hash, len(targets) * length_sectors, len(targets))
        device.alias = False
        yield DmRecord(b"dm_table_load", parts[-1])

    def resume(self, device: Device) -> Iterator[DmRecord]:
        """Make the staged table the active one."""
        if device.staged is None:
            return
        device.active, device.staged = device.staged, None
        yield DmRecord(
            b"dm_device_resume",
            VERSION
            + device.active.metadata
            + b"active_table_hash="
            + device.active.hash
            + b";"
            + self._capacity(device),
        )

    def remove(self, device: Device) -> Iterator[DmRecord]:
        """The device goes, with whatever its slots hold; the cleared slot still names the active table."""
        inactive = device.active if device.alias else device.staged
        text = VERSION
        if device.active:
            text += b"device_active_metadata=" + device.active.metadata
        if inactive:
            text += b"device_inactive_metadata=" + inactive.metadata
        if device.active:
            text += b"active_table_hash=" + device.active.hash + b","
        if inactive:
            text += b"inactive_table_hash=" + inactive.hash + b","
        del self.devices[device.minor]
        yield DmRecord(b"dm_device_remove", text + b"remove_all=n;" + self._capacity(device))

    def _reload(self, device: Device) -> Iterator[DmRecord]:
        yield from self.load(device)
        yield from self.resume(device)

    def _replace(self, device: Device) -> Iterator[DmRecord]:
        yield from self.load(device)
        yield from self._reload(device)

    def _clear(self, device: Device) -> Iterator[DmRecord]:
        yield from self.load(device)
        staged, device.staged, device.alias = device.staged, None, True
        if staged:
            text = VERSION + staged.metadata + b"inactive_table_hash=" + staged.hash + b";"
            yield DmRecord(b"dm_table_clear", text + self._capacity(device))

    def _rename(self, device: Device) -> Iterator[DmRecord]:
        # Renaming after a clear is a use-after-free in these kernels: an honest history has none.
        if device.active is None or device.alias or device.staged:
            return
        old = device.active
        device.name = self._new_name()
        device.active = Table(
            metadata(device, old.num_targets), old.hash, old.capacity_sectors, old.num_targets
        )
        text = (
            VERSION + old.metadata + b"new_name=%b,new_uuid=%b;" % (escape(device.name), escape(device.uuid))
        )
        yield DmRecord(b"dm_device_rename", text + self._capacity(device))

    def _remove(self, device: Device) -> Iterator[DmRecord]:
        yield from self.remove(device)

    def _remove_staged(self, device: Device) -> Iterator[DmRecord]:
        yield from self.load(device)
        yield from self.remove(device)

    def _capacity(self, device: Device) -> bytes:
        return b"current_device_capacity=%d;" % (device.active.capacity_sectors if device.active else 0)

    def _new_name(self) -> bytes:
        self._serial += 1
        pattern = self._random.choice(
            (b"vg%d-root", b"luks-%08x", b"image-%d", b"vg0-home=%d,old", b"daten tr\xc3\xa4ger %d")
        )
        return pattern % self._serial

    def _new_uuid(self) -> bytes:
        digits = self._random.randbytes(16).hex().encode()
        return self._random.choice((b"", b"LVM-%b" % (digits * 2), b"CRYPT-LUKS2-%b" % digits))

    def _targets(self) -> tuple[list[bytes], int]:
        """Texts of a new table's targets, and the length of each in sectors (which no other table has)."""
        kind = self._random.choices(list(KINDS), list(KINDS.values()))[0]
        count = {"linear": self._random.randint(1, 4), "large": self._random.randint(40, 80)}.get(kind, 1)
        self._serial += 1
        length = 8 * self._serial
        texts = [
            b"target_index=%d,target_begin=%d,target_len=%d,%b"
            % (index, index * length, length, self._target_text(kind))
            for index in range(count)
        ]
        return texts, length

    def _target_text(self, kind: str) -> bytes:
        values = {b"serial": self._serial, b"digits": self._random.randbytes(32).hex().encode()}
        return TARGET_TEXTS[kind] % values
