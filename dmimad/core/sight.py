"""What there is to see of a host, made when somebody asks: documents, retained payloads, series.

Source: none; the shapes are those of `status`, `detail`, `capture`, `view` and `snapshot`.

Decides nothing, and leaves the monitor's parts as they are (what is described of changes the next commit would
describe anyway).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dmimad.core import cloudevent
from dmimad.core.baseline import Baseline
from dmimad.core.capture import Captured, captured_device, configurations_document
from dmimad.core.continuity import Continuity
from dmimad.core.delivery import Delivery
from dmimad.core.detail import KnownDevice, detail_document
from dmimad.core.device import Device
from dmimad.core.event import one_line, printable
from dmimad.core.fusion import Fusion
from dmimad.core.memory import Memory
from dmimad.core.observation import LiveDevice
from dmimad.core.snapshot import DeviceSeries
from dmimad.core.status import Known, Surroundings, status_document
from dmimad.core.supervision import Supervision
from dmimad.core.tracker import Tracker


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
    tracker: Tracker
    fusion: Fusion
    watch: Supervision
    continuity: Continuity
    delivery: Delivery
    memory: Memory

    def retained(self) -> Mapping[str, bytes]:
        """Topic -> retained payload, for every device that exists."""
        return self.watch.retained(self.host)

    def series(self) -> list[DeviceSeries]:
        """The devices for metrics."""
        return [
            self.watch.series(device, maintenance=self.delivery.awaits(printable(device.name)))
            for device in self.tracker.devices
        ]

    def key_of(self, device: str) -> str | None:
        """The key of a device, by its name, in full or as a terminal shows it, or by its key."""
        keys = {printable(each.name): each.key for each in self.tracker.devices}
        if device in keys.values():
            return device
        return keys.get(device) or {one_line(name): key for name, key in keys.items()}.get(device)

    def status(self, around: Surroundings, now: float) -> dict[str, object]:
        """The status document; ``around``: what the monitor does not know."""
        retained, host, continuity = self.retained(), self.host, self.continuity
        views = {device.key: cloudevent.device_topic(host, device.key) for device in self.tracker.devices}
        known = Known(
            host=host,
            position=continuity.position,
            records=self.records,
            trimmed=continuity.trimmed,
            gap=continuity.gap,
            broken=continuity.broken,
            last_read=self.last_read,
            observations=self.fusion.observations,
            pcr_verified=continuity.pcr_verified,
            entries=len(self.baseline.entries),
            devices={key: retained[topic] for key, topic in views.items() if topic in retained},
            moments={key: self.watch.moments(key) for key in views},
            alerts=self.delivery.present(),
            maintenance=self.delivery.maintenance,
            recent=self.memory.recent.newest_first(),
        )
        return status_document(known, around, now)

    def detail(self, key: str, version: str, now: float) -> dict[str, object] | None:
        """The document of one device; None: there is no such device."""
        device = next((device for device in self.tracker.devices if device.key == key), None)
        if device is None:
            return None
        watch, history = self.watch, self.memory.history
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
            captured_device(device, self._live(device), self.watch.names) for device in self.tracker.devices
        )
        observed = bool(self.fusion.observations)
        return configurations_document(Captured(self.host, observed, tuple(devices)))

    def _live(self, device: Device) -> LiveDevice | None:
        """As it was last observed."""
        return self.fusion.live.get((device.major or 0, device.minor or 0))
