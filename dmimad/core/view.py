"""A device as subscribers and metrics see it: the retained document and the series.

Source: none; the shapes are a promise (``docs/mqtt.md``).  Decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dmimad.core import cloudevent
from dmimad.core.backing import Names, no_names
from dmimad.core.configuration import configuration_of
from dmimad.core.device import Device
from dmimad.core.drift import Judgement
from dmimad.core.event import printable
from dmimad.core.observation import LiveDevice, LiveTable, LiveTarget
from dmimad.core.snapshot import DeviceSeries
from dmimad.core.table import Provenance, Table, Target, parse_targets

#: Targets told of one table; a table may have a million.
MAX_TARGETS_TOLD = 1024


@dataclass(frozen=True, slots=True)
class DeviceView:
    """The retained document, and the fingerprints in it: to make one costs a hash of the whole table."""

    payload: bytes
    active_fingerprint: str | None = None
    inactive_fingerprint: str | None = None


def device_view(
    device: Device, judgement: Judgement, live: LiveDevice | None, names: Names = no_names
) -> DeviceView:
    """A device as subscribers see it.

    Args:
        live: what the last observation said of the device.
        names: of the devices below, for the fingerprints.
    """
    active = _fingerprint(device.active, None if live is None else live.active, names)
    inactive = _fingerprint(device.inactive, None if live is None else live.inactive, names)
    document = _document(device, judgement, live, (active, inactive))
    return DeviceView(cloudevent.encode(document), active, inactive)


def _fingerprint(slot: Table | None, live: LiveTable | None, names: Names) -> str | None:
    return None if slot is None else configuration_of(slot, live, names).fingerprint


def _document(
    device: Device, judgement: Judgement, live: LiveDevice | None, fingerprints: tuple[str | None, str | None]
) -> dict[str, object]:
    active = None if live is None else live.active
    inactive = None if live is None else live.inactive
    return {
        "key": device.key,
        "name": printable(device.name),
        "uuid": printable(device.uuid),
        "major": device.major,
        "minor": device.minor,
        "active": _slot_view(device.active, device.changed_at, active, fingerprints[0]),
        "inactive": _slot_view(device.inactive, device.staged_at, inactive, fingerprints[1]),
        "live": live is not None,
        "suspended": None if live is None else live.suspended,
        "event_nr": None if live is None else live.event_nr,
        "verdict": judgement.verdict.value,
        "drift": {"active": judgement.drift_active, "inactive": judgement.drift_inactive},
    }


def _slot_view(
    slot: Table | None, record: int, live: LiveTable | None, fingerprint: str | None
) -> dict[str, object] | None:
    if slot is None:
        return None
    observed = slot.provenance is Provenance.OBSERVED
    return {
        "hash": slot.label,
        "fingerprint": fingerprint,
        "name": printable(slot.name),
        "uuid": printable(slot.uuid),
        "num_targets": slot.num_targets,
        "provenance": slot.provenance.value,
        "record": None if observed else record,
        "targets": _targets(slot, live),
    }


def _targets(slot: Table, live: LiveTable | None) -> list[dict[str, object]]:
    """As the kernel holds them if the slot has been seen; the list does not tell an opaque one's type."""
    seen = None if live is None or slot.provenance is Provenance.MEASURED else live.targets
    targets: Sequence[Target | LiveTarget] = parse_targets(slot.texts) if seen is None else seen
    return [
        {"begin": target.begin_sectors, "length": target.length_sectors, "type": target.type}
        for target in targets[:MAX_TARGETS_TOLD]
    ]


def device_series(
    device: Device, judgement: Judgement, view: DeviceView, *, maintenance: bool = False
) -> DeviceSeries:
    """The device for metrics.

    Args:
        view: of the same device.
        maintenance: whether changes of it are expected.
    """
    return DeviceSeries(
        printable(device.name),
        printable(device.uuid),
        None if device.active is None else device.active.label,
        None if device.inactive is None else device.inactive.label,
        judgement.drift_active,
        judgement.drift_inactive,
        None if device.active is None else device.active.provenance.value,
        None if device.inactive is None else device.inactive.provenance.value,
        view.active_fingerprint,
        view.inactive_fingerprint,
        maintenance,
    )
