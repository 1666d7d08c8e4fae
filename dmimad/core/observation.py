"""What the kernel holds live, as the second witness tells it: devices, their slots, their targets.

Source: ``struct dm_ioctl`` and ``struct dm_target_spec`` of ``include/uapi/linux/dm-ioctl.h``, answers to
``DM_LIST_DEVICES``, ``DM_DEV_STATUS`` and ``DM_TABLE_STATUS`` with ``DM_IMA_MEASUREMENT_FLAG``.

Pure records: who asks the kernel is `dmimad.adapters.live`, what follows from the answers is `fusion`'s.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LiveTarget:
    """One target of a table the kernel holds.

    Attributes:
        begin_sectors, length_sectors: in sectors of 512 bytes.
        type: the target's type, for opaque targets too.
        text: what a load would measure of it now (it ends in ``;``); empty for an opaque target.
    """

    begin_sectors: int
    length_sectors: int
    type: str
    text: bytes


@dataclass(frozen=True, slots=True)
class LiveTable:
    """A table in one of a device's slots; ``targets`` is None if the kernel did not tell them."""

    targets: tuple[LiveTarget, ...] | None


@dataclass(frozen=True, slots=True)
class LiveDevice:
    """A mapped device as the kernel holds it: ``active`` and ``inactive`` are None if that slot is empty.

    ``event_nr`` counts the events its targets have raised; ``name`` and ``uuid`` are any bytes but NUL.
    """

    major: int
    minor: int
    name: bytes
    uuid: bytes
    suspended: bool
    read_only: bool
    event_nr: int
    active: LiveTable | None
    inactive: LiveTable | None


@dataclass(frozen=True, slots=True)
class Observation:
    """All mapped devices of a host at about one instant.

    ``dm_version`` is the version in the ioctl header, which is the one measured (``dm_version=``).
    The kernel is asked about one device after the other, so what changes meanwhile may be seen by halves:
    only what two observations agree on is to be judged.
    """

    dm_version: tuple[int, int, int]
    devices: tuple[LiveDevice, ...]
