"""What the daemon tells of itself, made when somebody asks: beside a status, as metrics.

Looks at the daemon's parts, and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from dmimad import __version__
from dmimad.adapters.file_list import FileList
from dmimad.adapters.ima_list import KernelList
from dmimad.adapters.mqtt import Publisher
from dmimad.core.monitor import Monitor
from dmimad.core.snapshot import Snapshot
from dmimad.core.status import Surroundings
from dmimad.reloading import BASELINE, SETTINGS, Reloading
from dmimad.settings import Settings
from dmimad.storing import Storing
from dmimad.witnesses import LiveWitness


@dataclass(frozen=True, slots=True)
class SelfReport:
    """The daemon's parts, to look at; ``source_up``: the list can be read."""

    settings: Settings
    monitor: Monitor
    source: KernelList | FileList
    source_up: bool
    live: LiveWitness | None
    storing: Storing
    publisher: Publisher | None
    reloading: Reloading

    def surroundings(self) -> Surroundings:
        """What a status tells beside what the monitor knows."""
        return Surroundings(
            version=__version__,
            source=self.settings.source.path,
            source_up=self.source_up,
            lag=self._lag(),
            live_up=None if self.live is None else self.live.up,
            mqtt_connected=None if self.publisher is None else self.publisher.connected,
            outbox_pending=self.storing.pending_count(),
            outbox_dead=self.storing.dead_count(),
            store_problem=self.storing.problem,
            mqtt_problem="" if self.publisher is None else self.publisher.rival,
            settings_accepted=self.reloading.accepted(SETTINGS),
            baseline_accepted=self.reloading.accepted(BASELINE),
            baseline_directory=self.settings.baseline.directory,
            refused=self.reloading.refused,
            restart_needed=self.reloading.restart_needed,
        )

    def snapshot(self, now: float) -> Snapshot:
        """What metrics are made of."""
        monitor = self.monitor
        return Snapshot(
            records=monitor.records,
            dm_events=dict(monitor.dm_events),
            devices=monitor.series(),
            findings=dict(monitor.findings),
            firing=monitor.firing(),
            position=monitor.position,
            lag=self._lag(),
            pcr_verified=monitor.pcr_verified,
            last_read=monitor.last_read,
            outbox_pending=self.storing.pending_count(),
            outbox_dead=self.storing.dead_count(),
            mqtt_connected=self.publisher is not None and self.publisher.connected,
            reload_ok=not self.reloading.refused,
            reload_success=self.reloading.last_success,
            certificate_expiry=self.reloading.certificate_expiry,
            source_up=self.source_up,
            live_up=None if self.live is None else self.live.up,
            observations=monitor.observations,
            store_up=not self.storing.problem,
            mqtt_rival=self.publisher is not None and bool(self.publisher.rival),
            baseline_expiry=monitor.approved_until(now),
            mqtt_enabled=self.settings.mqtt.enabled,
        )

    def _lag(self) -> int | None:
        """Records that are in the list and not processed yet."""
        count = self.source.count if isinstance(self.source, KernelList) else None
        if count is None:
            return None
        return max(count + self.monitor.trimmed - self.monitor.position, 0)
