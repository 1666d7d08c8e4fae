"""Devices as they are, with all that is needed to judge them elsewhere: what `dmimad baseline` works on.

Source: the daemon tells it on its control socket (request ``configurations``, ``docs/status.md``), as
`configurations_document` writes and `read_configurations` reads it.

The texts that were measured go along and not what follows from them, so whoever reads them comes to the same
configurations, fingerprints and verdicts by the same code.  Nothing here writes baselines (`baseline_text`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dmimad.core.backing import Names, Number, as_number, mapped_names
from dmimad.core.checkpoint import (
    Document,
    device_document,
    integer,
    items,
    read_device,
    table,
    to_bytes,
    to_text,
)
from dmimad.core.configuration import Configuration, configuration_of
from dmimad.core.device import Device, Dialect
from dmimad.core.drift import Surroundings
from dmimad.core.errors import MalformedError
from dmimad.core.event import Identity, printable
from dmimad.core.observation import LiveDevice, LiveTable, LiveTarget, Observation
from dmimad.core.rebuild import rebuilt
from dmimad.core.registry import MAX_DEVICES, number_key
from dmimad.core.table import Provenance, Table, parse_targets

#: Bytes of measured text told of all tables together; of larger ones only the hash is told.
MAX_TOLD_BYTES = 8 << 20
MAX_KEY_CHARS = 64
MAX_NAME_CHARS = 1024
MAX_NAMES = 16
MAX_BACKING = 1 << 20

_HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class CapturedTable:
    """A table in a slot.

    Attributes:
        label: its hash as ``sha256:<hex>``, or ``unknown``.
        provenance: who says that it is there.
        configuration: what it is.
    """

    label: str
    provenance: Provenance
    configuration: Configuration


@dataclass(frozen=True, slots=True)
class CapturedDevice:
    """A mapped device.

    Attributes:
        device: as it is tracked.
        live: what its slots were last seen to be, where that says more than ``device``.
        names: of the devices below it.
        active, inactive: its slots; None is empty.
    """

    device: Device
    live: LiveDevice | None
    names: Mapping[Number, tuple[str, ...]]
    active: CapturedTable | None
    inactive: CapturedTable | None

    @property
    def key(self) -> str:
        """``major:minor``."""
        return self.device.key

    @property
    def name(self) -> str:
        """As it is printed."""
        return printable(self.device.name)

    @property
    def uuid(self) -> str:
        """As it is printed; "" if it has none."""
        return printable(self.device.uuid)

    def surroundings(self, now: float) -> Surroundings:
        """What `drift.judge` needs beside the device."""
        return Surroundings(now, lambda number: self.names.get(number, ()), self.live)


@dataclass(frozen=True, slots=True)
class Captured:
    """The devices of a host.

    Attributes:
        host: its id, "" if that is not known.
        observed: whether the live tables were looked at.
    """

    host: str
    observed: bool
    devices: tuple[CapturedDevice, ...]


def captured_device(device: Device, live: LiveDevice | None, names: Names) -> CapturedDevice:
    """A tracked device, what was last observed of it, and how the devices below it are called."""
    seen_active = _telling(device.active, None if live is None else live.active)
    seen_inactive = _telling(device.inactive, None if live is None else live.inactive)
    active = _captured_table(device.active, seen_active, names)
    inactive = _captured_table(device.inactive, seen_inactive, names)
    kept = None
    if live is not None and not (seen_active is None and seen_inactive is None):
        kept = replace(live, active=seen_active, inactive=seen_inactive)
    known = {
        number: found
        for slot in (active, inactive)
        if slot is not None
        for number, found in slot.configuration.backing
    }
    return CapturedDevice(device, kept, known, active, inactive)


def captured_live(observation: Observation, others: Names) -> tuple[CapturedDevice, ...]:
    """Devices as the kernel holds them, where no list is read; ``others`` names what is no mapped device.

    The hashes of their tables are not known: they contain the name that each was loaded under.
    """
    mapped = {(live.major, live.minor): mapped_names(live.name, live.uuid) for live in observation.devices}

    def names(number: Number) -> tuple[str, ...]:
        return mapped[number] if number in mapped else others(number)

    return tuple(
        captured_device(_observed_device(live, observation.dm_version), live, names)
        for live in observation.devices
    )


def _observed_device(live: LiveDevice, dm_version: tuple[int, int, int]) -> Device:
    def observed(seen: LiveTable | None) -> Table | None:
        if seen is None:
            return None
        found = Table(b"", live.name, live.uuid, 0)
        if seen.targets is not None:
            identity = Identity(live.name, live.uuid)
            found = rebuilt(live, seen.targets, identity, dm_version, Dialect.ORDERED)
        return found._replace(hash=b"", provenance=Provenance.OBSERVED)

    number = (live.major, live.minor)
    active, inactive = observed(live.active), observed(live.inactive)
    return Device(number_key(number), *number, live.name, live.uuid, active, inactive)


def staged_as_active(captured: CapturedDevice) -> CapturedDevice:
    """The device as it will be when its staged table has been resumed."""
    device = captured.device._replace(active=captured.device.inactive, inactive=None)
    live = captured.live
    if live is not None:
        live = replace(live, active=live.inactive, inactive=None)
    return replace(captured, device=device, live=live, active=captured.inactive, inactive=None)


def without_staged(captured: CapturedDevice) -> CapturedDevice:
    """The device with its active table alone."""
    return replace(captured, device=captured.device._replace(inactive=None), inactive=None)


def _captured_table(slot: Table | None, seen: LiveTable | None, names: Names) -> CapturedTable | None:
    if slot is None:
        return None
    return CapturedTable(slot.label, slot.provenance, configuration_of(slot, seen, names))


def _telling(slot: Table | None, seen: LiveTable | None) -> LiveTable | None:
    """What was observed, if it says more than was measured: types of opaque targets, a last target."""
    if slot is None or seen is None or seen.targets is None or slot.provenance is Provenance.MEASURED:
        return None
    parsed = parse_targets(slot.texts)
    whole = len(parsed) == slot.num_targets and all(target.type is not None for target in parsed)
    return None if whole else seen


# -- as it is told -------------------------------------------------------------------------


def configurations_document(captured: Captured) -> dict[str, object]:
    """The devices as JSON has them; of the largest, if there is too much, only the hashes."""
    left = MAX_TOLD_BYTES
    told = []
    for device in sorted(captured.devices, key=_text_bytes):
        left -= _text_bytes(device)
        told.append(device if left >= 0 else _without_texts(device))
    return {
        "host": captured.host,
        "observed": captured.observed,
        "devices": [_device_document(device) for device in sorted(told, key=lambda one: (one.name, one.key))],
    }


def _text_bytes(captured: CapturedDevice) -> int:
    device, live = captured.device, captured.live
    tables = (device.active, device.inactive)
    measured = sum(len(text) for slot in tables if slot is not None for text in slot.texts)
    seen = () if live is None else (live.active, live.inactive)
    return measured + sum(
        len(target.text) for slot in seen if slot is not None for target in slot.targets or ()
    )


def _without_texts(captured: CapturedDevice) -> CapturedDevice:
    device = captured.device
    active, inactive = (
        None if slot is None else slot._replace(texts=()) for slot in (device.active, device.inactive)
    )
    return captured_device(device._replace(active=active, inactive=inactive), None, lambda _: ())


def _device_document(captured: CapturedDevice) -> dict[str, object]:
    live = captured.live
    return {
        "key": captured.key,
        "device": device_document(captured.device),
        "live": None if live is None else [_live_document(live.active), _live_document(live.inactive)],
        "names": {f"{major}:{minor}": list(names) for (major, minor), names in captured.names.items()},
    }


def _live_document(seen: LiveTable | None) -> list[object] | None:
    if seen is None or seen.targets is None:
        return None
    return [
        [target.begin_sectors, target.length_sectors, target.type, to_text(target.text)]
        for target in seen.targets
    ]


# -- and as it is read ---------------------------------------------------------------------


def read_configurations(document: object) -> Captured:
    """The inverse of `configurations_document`; raises MalformedError for anything else."""
    whole = table(document)
    devices = items(whole.get("devices"))
    if len(devices) > MAX_DEVICES:
        raise MalformedError(f"more than {MAX_DEVICES} devices")
    observed = whole.get("observed")
    if not isinstance(observed, bool):
        raise MalformedError("it is not said whether the live tables were looked at")
    host = _text(whole.get("host"), MAX_NAME_CHARS)
    return Captured(host, observed, tuple(_read_device(table(device)) for device in devices))


def _read_device(document: Document) -> CapturedDevice:
    device = read_device(_text(document.get("key"), MAX_KEY_CHARS), table(document.get("device")))
    for slot in (device.active, device.inactive):
        if slot is not None and (len(slot.hash) not in (0, _HASH_BYTES) or slot.num_targets < 0):
            raise MalformedError("a table is damaged")
    live = _read_live(device, document.get("live"))
    names = _read_names(table(document.get("names")))
    return captured_device(device, live, lambda number: names.get(number, ()))


def _read_live(device: Device, document: object) -> LiveDevice | None:
    if document is None:
        return None
    active, inactive = (*items(document), None, None)[:2]
    return LiveDevice(
        device.major or 0,
        device.minor or 0,
        device.name,
        device.uuid,
        False,
        False,
        0,
        _read_live_table(active),
        _read_live_table(inactive),
    )


def _read_live_table(document: object) -> LiveTable | None:
    if document is None:
        return None
    targets = []
    for entry in items(document):
        begin, length, kind, text = (*items(entry), None, None, None, None)[:4]
        sectors = (integer(begin), integer(length))
        if min(sectors) < 0 or max(sectors) >= 1 << 64:
            raise MalformedError("a target is damaged")
        targets.append(LiveTarget(*sectors, _text(kind, MAX_NAME_CHARS), to_bytes(text)))
    return LiveTable(tuple(targets))


def _read_names(document: Document) -> dict[Number, tuple[str, ...]]:
    found: dict[Number, tuple[str, ...]] = {}
    if len(document) > MAX_BACKING:
        raise MalformedError("too many backing devices")
    for key, names in document.items():
        number = as_number(key)
        if number is None or len(items(names)) > MAX_NAMES:
            raise MalformedError("a backing device is damaged")
        found[number] = tuple(_text(name, MAX_NAME_CHARS) for name in items(names))
    return found


def _text(value: object, limit: int) -> str:
    """A text that can be written as UTF-8."""
    if not isinstance(value, str) or len(value) > limit:
        raise MalformedError("a text is missing or too long")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise MalformedError("a text is damaged") from error
    return value
