"""What there is to see of a host, made when somebody asks: documents, retained payloads, series.

Source: none; the shapes are those of `status`, `detail`, `capture`, `view` and `snapshot`.

Decides nothing, and leaves the monitor's parts as they are (what is described of changes is what the next
commit would describe anyway).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dmimad.core import cloudevent
from dmimad.core.baseline import Baseline
from dmimad.core.capture import Captured, captured_device, configurations_document
from dmimad.core.delivery import Delivery
from dmimad.core.detail import KnownDevice, detail_document
from dmimad.core.device import Device
from dmimad.core.event import one_line, printable
from dmimad.core.memory import Memory
from dmimad.core.observation import LiveDevice
from dmimad.core.reading import Reading
from dmimad.core.snapshot import DeviceSeries
from dmimad.core.status import Known, Surroundings, status_document


@dataclass(frozen=True, slots=True)
class Sight:
    """The parts of a monitor, to look at.

    Attributes:
        records: read by this process, of whatever list.
        last_read: when, in Unix seconds; None: never.
    """

    host: str
    baseline: Baseline
    records: int
    last_read: float | None
    reading: Reading
    delivery: Delivery
    memory: Memory

    def retained(self) -> Mapping[str, bytes]:
        """Topic -> retained payload, for every device that exists."""
        return self.reading.watch.retained(self.host)

    def series(self) -> list[DeviceSeries]:
        """The devices for metrics."""
        return [
            self.reading.watch.series(device, maintenance=self.delivery.awaits(printable(device.name)))
            for device in self.reading.devices
        ]

    def approved_until(self, now: float) -> float | None:
        """When the first of the approved devices will no longer be; None: never, or not known yet."""
        reading = self.reading
        return reading.watch.approved_until(reading.devices, now) if reading.caught_up else None

    def key_of(self, device: str) -> str | None:
        """The key of a device, by its name, in full or as a terminal shows it, or by its key."""
        keys = {printable(each.name): each.key for each in self.reading.devices}
        if device in keys.values():
            return device
        return keys.get(device) or {one_line(name): key for name, key in keys.items()}.get(device)

    def status(self, around: Surroundings, now: float) -> dict[str, object]:
        """The status document; ``around``: what the monitor does not know."""
        retained, host, continuity = self.retained(), self.host, self.reading.continuity
        views = {device.key: cloudevent.device_topic(host, device.key) for device in self.reading.devices}
        known = Known(
            host=host,
            position=continuity.position,
            records=self.records,
            trimmed=continuity.trimmed,
            gap=continuity.gap,
            broken=continuity.broken,
            last_read=self.last_read,
            observations=self.reading.fusion.observations,
            pcr_verified=continuity.pcr_verified,
            entries=len(self.baseline.entries),
            devices={key: retained[topic] for key, topic in views.items() if topic in retained},
            moments={key: self.reading.watch.moments(key) for key in views},
            alerts=self.delivery.present(),
            maintenance=self.delivery.maintenance,
            recent=self.memory.recent.newest_first(),
        )
        return status_document(known, around, now)

    def detail(self, key: str, version: str, now: float) -> dict[str, object] | None:
        """The document of one device; None: there is no such device."""
        device = next((device for device in self.reading.devices if device.key == key), None)
        if device is None:
            return None
        watch, history = self.reading.watch, self.memory.history
        history.describe(watch.described)
        changes, left_out = history.of(key)
        known = KnownDevice(
            host=self.host,
            device=device,
            view=self.retained()[cloudevent.device_topic(self.host, key)],
            moments=watch.moments(key),
            live=self._live(device),
            names=watch.names,
            baseline=self.baseline,
            alerts=self.delivery.present(),
            recent=self.memory.recent.newest_first(),
            changes=changes,
            changes_left_out=left_out,
        )
        return detail_document(known, version, now)

    def configurations(self) -> dict[str, object]:
        """The devices with all that is needed to judge them elsewhere."""
        devices = (
            captured_device(device, self._live(device), self.reading.watch.names)
            for device in self.reading.devices
        )
        observed = bool(self.reading.fusion.observations)
        return configurations_document(Captured(self.host, observed, tuple(devices)))

    def _live(self, device: Device) -> LiveDevice | None:
        """As it was last observed."""
        return self.reading.fusion.live.get((device.major or 0, device.minor or 0))
