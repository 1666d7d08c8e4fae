"""Prometheus metrics: a collector over a snapshot; `http.metrics` serves it.

Source: Prometheus' text exposition format 0.0.4 and its naming practices (`promtool check metrics`).

The families are a table of data (`FAMILIES`).  Everything is read from one snapshot per scrape, so a device
that is gone has no series, and the parts of an answer agree with each other.  Snapshot and answer are made in
the event loop, one after the other, so nothing here is shared between threads.

What this module does not do: count anything but the detection latency, nor know any setting.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from dmimad.core.snapshot import DeviceSeries, Snapshot

DM_EVENTS = ("table_load", "device_resume", "device_remove", "table_clear", "device_rename", "target_update")
LATENCY_BUCKETS_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip

SEVERITIES = ("info", "warning", "critical")

Labels = tuple[str, ...]
Series = dict[Labels, float]


# --- the metrics ---


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family: its kind (counter, gauge, info or histogram), its name as exposed, its labels."""

    kind: str
    name: str
    help: str
    labels: Labels = ()


FAMILIES = (
    Family("info", "dmimad_build_info", "The version that runs; the value is always 1.", ("version",)),
    Family("counter", "dmimad_records_total", "Records of the measurement list processed, of any kind."),
    Family("counter", "dmimad_dm_events_total", "Device-mapper records processed.", ("event",)),
    Family("gauge", "dmimad_devices", "Mapped devices that exist."),
    Family(
        "gauge",
        "dmimad_device_drift",
        "Whether the table in this slot of the device is not an approved one.",
        ("device", "uuid", "slot"),
    ),
    Family(
        "info",
        "dmimad_device_table_info",
        "Hash of the table in this slot of the device; the value is always 1.",
        ("device", "uuid", "slot", "hash"),
    ),
    Family(
        "info",
        "dmimad_device_witness_info",
        "Who says that the table is in this slot: measured, observed or both; the value is always 1.",
        ("device", "uuid", "slot", "provenance"),
    ),
    Family(
        "info",
        "dmimad_device_configuration_info",
        "Fingerprint of the configuration in this slot, the same at every boot; the value is always 1.",
        ("device", "uuid", "slot", "fingerprint"),
    ),
    Family(
        "gauge",
        "dmimad_device_maintenance",
        "Whether a maintenance expects changes of the device.",
        ("device", "uuid"),
    ),
    Family("counter", "dmimad_findings_total", "Findings made.", ("code", "severity")),
    Family("gauge", "dmimad_alerts_firing", "Alerts that fire now.", ("severity",)),
    Family("gauge", "dmimad_list_position", "Records of the present measurement list that are processed."),
    Family("gauge", "dmimad_list_lag_records", "Records in the measurement list that are not processed yet."),
    Family(
        "gauge",
        "dmimad_pcr_verified",
        "Whether the TPM's PCR value agrees with the list; absent without TPM.",
    ),
    Family("gauge", "dmimad_last_read_timestamp_seconds", "When the list was last read, in Unix time."),
    Family("gauge", "dmimad_outbox_pending", "Messages that the broker has not acknowledged yet."),
    Family(
        "counter",
        "dmimad_outbox_dead_total",
        "Messages given up: the broker kept rejecting them, or too many could not be stored.",
    ),
    Family("gauge", "dmimad_mqtt_connected", "Whether there is a connection to the broker."),
    Family("gauge", "dmimad_mqtt_enabled", "Whether there is to be a connection to a broker."),
    Family("gauge", "dmimad_mqtt_host_id_taken", "Whether another client uses this host's client id."),
    Family("gauge", "dmimad_store_up", "Whether what was found can be stored."),
    Family(
        "gauge",
        "dmimad_config_last_reload_successful",
        "Whether settings, baseline, certificates and keys are in force as they were last read.",
    ),
    Family(
        "gauge",
        "dmimad_config_last_reload_success_timestamp_seconds",
        "When settings, baseline, certificates and keys were last taken in without a refusal, in Unix time.",
    ),
    Family(
        "gauge",
        "dmimad_tls_certificate_expiry_timestamp_seconds",
        "When our own certificate for this use expires, in Unix time; absent without one.",
        ("use",),
    ),
    Family(
        "gauge",
        "dmimad_baseline_expiry_timestamp_seconds",
        "When the first of the approved devices will no longer be approved, in Unix time; absent: never.",
    ),
    Family("gauge", "dmimad_source_up", "Whether the measurement list can be read."),
    Family(
        "gauge",
        "dmimad_live_up",
        "Whether the live tables can be observed; absent where they are not to be, or nobody has tried yet.",
    ),
    Family("counter", "dmimad_live_observations_total", "Observations of the live tables taken in."),
)
LATENCY = Family(
    "histogram",
    "dmimad_detection_latency_seconds",
    "Time from seeing a change in the list to its alerts being recorded for delivery.",
)


class DaemonCollector(Collector):
    """All metrics of the daemon, from what `snapshot` gives at each scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot], version: str) -> None:
        self._snapshot = snapshot
        self._version = version
        self._latency = Histogram(LATENCY.name, LATENCY.help, buckets=LATENCY_BUCKETS_SECONDS, registry=None)

    def observe_detection_latency(self, seconds: float) -> None:
        """One change was seen and its alerts are on their way after `seconds`."""
        if math.isfinite(seconds):
            self._latency.observe(max(seconds, 0.0))

    def describe(self) -> Iterator[Metric]:
        """The families without series: registering a collector must not need a snapshot."""
        for family in FAMILIES:
            yield _metric(family, {})

    def collect(self) -> Iterator[Metric]:
        values = _values(self._snapshot(), self._version)
        for family in FAMILIES:
            if series := values[family.name]:
                yield _metric(family, series)
        for metric in self._latency.collect():
            # When this process began to count is in process_start_time_seconds already.
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


def registry(collector: DaemonCollector) -> CollectorRegistry:
    """A registry with the daemon's metrics and process_*; the library's global one is not touched."""
    own = CollectorRegistry()
    own.register(collector)
    ProcessCollector(registry=own)
    return own


def _metric(family: Family, series: Series) -> Metric:
    if family.kind == "info":
        info = InfoMetricFamily(family.name.removesuffix("_info"), family.help, labels=family.labels)
        for labels in series:
            info.add_metric(labels, {})
        return info
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, value in series.items():
        metric.add_metric(labels, value)
    return metric


def _values(now: Snapshot, version: str) -> Mapping[str, Series]:
    """Each family's series.  What has a fixed set of labels is there from the start, at 0."""
    drift, tables = _device_series(now.devices)
    events = {**dict.fromkeys(DM_EVENTS, 0), **now.dm_events}
    firing = {**dict.fromkeys(SEVERITIES, 0), **now.firing}
    return {
        "dmimad_build_info": {(version,): 1},
        "dmimad_records_total": {(): now.records},
        "dmimad_dm_events_total": _summed(((event,), count) for event, count in events.items()),
        "dmimad_devices": {(): len(now.devices)},
        "dmimad_device_drift": drift,
        "dmimad_device_table_info": tables,
        "dmimad_findings_total": _summed(now.findings.items()),
        "dmimad_alerts_firing": _summed(((severity,), count) for severity, count in firing.items()),
        "dmimad_list_position": {(): now.position},
        "dmimad_list_lag_records": _optional(now.lag),
        "dmimad_pcr_verified": _optional(now.pcr_verified),
        "dmimad_last_read_timestamp_seconds": _optional(now.last_read),
        "dmimad_outbox_pending": {(): now.outbox_pending},
        "dmimad_outbox_dead_total": {(): now.outbox_dead},
        "dmimad_mqtt_connected": {(): now.mqtt_connected},
        "dmimad_mqtt_host_id_taken": {(): now.mqtt_rival},
        "dmimad_store_up": {(): now.store_up},
        "dmimad_config_last_reload_successful": {(): now.reload_ok},
        "dmimad_config_last_reload_success_timestamp_seconds": _optional(now.reload_success),
        "dmimad_tls_certificate_expiry_timestamp_seconds": {
            (use,): seconds for use, seconds in now.certificate_expiry.items()
        },
        "dmimad_source_up": {(): now.source_up},
        "dmimad_device_witness_info": _slot_series(
            (device, device.active_provenance, device.inactive_provenance) for device in now.devices
        ),
        "dmimad_device_configuration_info": _slot_series(
            (device, device.active_fingerprint, device.inactive_fingerprint) for device in now.devices
        ),
        "dmimad_device_maintenance": _maintenance_series(now.devices),
        "dmimad_mqtt_enabled": {(): now.mqtt_enabled},
        "dmimad_baseline_expiry_timestamp_seconds": _optional(now.baseline_expiry),
        "dmimad_live_up": _optional(now.live_up),
        "dmimad_live_observations_total": {(): now.observations},
    }


def _device_series(devices: Iterable[DeviceSeries]) -> tuple[Series, Series]:
    """Drift and table series.  Two devices may share name and uuid for a while: they share series then."""
    drift: Series = {}
    tables: Series = {}
    for device in devices:
        name, uuid = _label(device.device), _label(device.uuid)
        slots = (
            ("active", device.active_hash, device.drift_active),
            ("inactive", device.inactive_hash, device.drift_inactive),
        )
        for slot, table_hash, drifted in slots:
            drift[name, uuid, slot] = max(drift.get((name, uuid, slot), 0), drifted)
            if table_hash is not None:
                tables[name, uuid, slot, _label(table_hash)] = 1
    return drift, tables


def _slot_series(devices: Iterable[tuple[DeviceSeries, str | None, str | None]]) -> Series:
    """What is said of the active and of the inactive slot, as a label."""
    series: Series = {}
    for device, active, inactive in devices:
        name, uuid = _label(device.device), _label(device.uuid)
        for slot, value in (("active", active), ("inactive", inactive)):
            if value is not None:
                series[name, uuid, slot, value] = 1
    return series


def _maintenance_series(devices: Iterable[DeviceSeries]) -> Series:
    series: Series = {}
    for device in devices:
        labels = (_label(device.device), _label(device.uuid))
        series[labels] = max(series.get(labels, 0), device.maintenance)
    return series


def _summed(counts: Iterable[tuple[Labels, int]]) -> Series:
    """Series by label values; what is the same once it is fit for a label is one series."""
    series: Series = {}
    for labels, count in counts:
        key = tuple(map(_label, labels))
        series[key] = series.get(key, 0) + count
    return series


def _optional(value: float | None) -> Series:
    return {} if value is None else {(): value}


def _label(value: str) -> str:
    """A value that can be encoded, should a surrogate get here; Prometheus takes all else, NUL too."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")
