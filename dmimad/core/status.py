"""What the daemon knows at one moment, as the document that `dmimad status` shows.

Source: none; the shape is a promise to other programs (``docs/status.md``).

It is made of what the monitor knows (`Known`) and of what only the daemon does (`Surroundings`).  It is
bounded: of too many devices or alerts the most important are told, and how many others there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dmimad.core.alert import Notice
from dmimad.core.cloudevent import timestamp
from dmimad.core.drift import Verdict
from dmimad.core.finding import Severity
from dmimad.core.maintenance import Maintenance
from dmimad.core.moments import Moments
from dmimad.core.recent import Told

#: Bytes of device documents told; one with two long tables has about 100 kB.
MAX_DEVICE_BYTES = 32 << 20
#: Firing alerts told.
MAX_ALERTS_TOLD = 2_000

#: The most important first.
_VERDICTS: tuple[str, ...] = (Verdict.DRIFT, Verdict.UNEXPECTED, Verdict.UNKNOWN, Verdict.APPROVED)
_SEVERITIES = (Severity.CRITICAL, Severity.WARNING, Severity.INFO)


@dataclass(frozen=True, slots=True)
class Refused:
    """What is configured and not in force: `what` of it, for which `reason`, `since` when (Unix seconds)."""

    what: str
    reason: str
    since: float


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the daemon knows beside the monitor.

    Attributes:
        version: the daemon's.
        source: where the list is read, as in the settings.
        source_up: the list can be read.
        lag: records that are not read yet; None if the source does not count them.
        live_up: the live tables can be observed; None if they are not to be, or nobody has tried yet.
        mqtt_connected: None if nothing is to be published.
        outbox_pending, outbox_dead: messages that wait, and those given up.
        mqtt_problem: what else is wrong with the connection to the broker; "" if nothing is.
        store_problem: why nothing can be stored; "" if it can.
        settings_accepted, baseline_accepted: the last ones read are in force.
        baseline_directory: as in the settings.
        refused: what is not in force; the last good one is in its place, where there was one.
        restart_needed: sections of the settings that have changed, and wait for a restart.
    """

    version: str = ""
    source: str = ""
    source_up: bool = False
    lag: int | None = None
    live_up: bool | None = None
    mqtt_connected: bool | None = None
    outbox_pending: int = 0
    outbox_dead: int = 0
    mqtt_problem: str = ""
    store_problem: str = ""
    settings_accepted: bool = True
    baseline_accepted: bool = True
    baseline_directory: str = ""
    refused: Sequence[Refused] = ()
    restart_needed: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """What the monitor knows.

    Attributes:
        devices, moments: the retained documents, and since when they are so, by key.
        alerts: what is told of each that fires.
        recent: what was told lately, the newest first.
        entries: of the baseline.

    The rest is as the monitor's properties of the same names.
    """

    host: str
    position: int
    records: int
    trimmed: int
    gap: bool
    broken: str
    last_read: float | None
    observations: int
    pcr_verified: bool | None
    entries: int
    devices: Mapping[str, bytes]
    moments: Mapping[str, Moments]
    alerts: Sequence[Notice]
    maintenance: Sequence[Maintenance]
    recent: Sequence[Told] = ()


def status_document(known: Known, around: Surroundings, now: float) -> dict[str, object]:
    """The document, as of ``now`` (Unix seconds)."""
    devices = _devices(known.devices, known.moments)
    firing = most_important(known.alerts)
    return {
        "host": known.host,
        "time": timestamp(now),
        "version": around.version,
        "list": {
            "source": around.source,
            "source_up": around.source_up,
            "position": known.position,
            "records": known.records,
            "lag": around.lag,
            "trimmed": known.trimmed,
            "gap": known.gap,
            "problem": known.broken,
            "last_read": _moment(known.last_read),
        },
        "witnesses": {"live": {"up": around.live_up, "observations": known.observations}},
        "pcr_verified": known.pcr_verified,
        "mqtt_connected": around.mqtt_connected,
        "mqtt_problem": around.mqtt_problem,
        "outbox": {"pending": around.outbox_pending, "dead": around.outbox_dead},
        "store": {"problem": around.store_problem},
        "settings": {
            "accepted": around.settings_accepted,
            "restart_needed": list(around.restart_needed),
        },
        "baseline": {
            "directory": around.baseline_directory,
            "entries": known.entries,
            "accepted": around.baseline_accepted,
        },
        "refused": [
            {"what": each.what, "reason": each.reason, "since": timestamp(each.since)}
            for each in around.refused
        ],
        "maintenance": [maintenance_status(each) for each in known.maintenance],
        "firing": {
            severity.value: sum(notice.severity is severity for notice in firing) for severity in _SEVERITIES
        },
        "devices": devices,
        "devices_left_out": len(known.devices) - len(devices),
        "alerts": list(map(alert_status, firing[:MAX_ALERTS_TOLD])),
        "alerts_left_out": max(len(firing) - MAX_ALERTS_TOLD, 0),
        "recent": [told.document() for told in known.recent],
    }


def maintenance_status(maintenance: Maintenance) -> dict[str, object]:
    """One maintenance that is in force."""
    return {
        "id": maintenance.id,
        "device": maintenance.device,
        "reason": maintenance.reason,
        "by": maintenance.by,
        "since": timestamp(maintenance.since),
        "until": timestamp(maintenance.until),
    }


def timeless(document: Mapping[str, object]) -> dict[str, object]:
    """The document without what changes by itself: two that are equal then tell the same."""
    reading = document["list"]
    calm = {**reading, "last_read": None} if isinstance(reading, dict) else reading
    return {**document, "time": "", "list": calm}


def device_status(view: bytes, moments: Moments) -> dict[str, object]:
    """A device: its retained document, and since when it is so."""
    since = {
        "verdict": _moment(moments.verdict),
        "active": _moment(moments.active),
        "inactive": _moment(moments.inactive),
    }
    return {**json.loads(view), "since": since}


def most_important(alerts: Iterable[Notice]) -> list[Notice]:
    """The most severe first, then the oldest."""
    return sorted(alerts, key=_importance)


def alert_status(notice: Notice) -> dict[str, object]:
    """One alert that fires."""
    alert, finding = notice.alert, notice.alert.finding
    return {
        "code": finding.code,
        "severity": notice.severity.value,
        "device": alert.subject,
        "key": finding.device,
        "message": finding.message,
        "since": timestamp(alert.since),
        "count": notice.count,
        "flapping": notice.flapping,
        "maintenance": None if notice.maintenance is None else notice.maintenance.id,
    }


def _devices(views: Mapping[str, bytes], moments: Mapping[str, Moments]) -> list[dict[str, object]]:
    """By name; if they are too many, those that are not approved are told."""
    if sum(map(len, views.values())) > MAX_DEVICE_BYTES:
        views = _most_important(views)
    told = [device_status(view, moments.get(key, Moments())) for key, view in views.items()]
    return sorted(told, key=lambda device: (str(device["name"]), str(device["key"])))


def _most_important(views: Mapping[str, bytes]) -> dict[str, bytes]:
    """As many as the limit allows, by verdict."""
    told, size = {}, 0
    for key, view in sorted(views.items(), key=lambda each: (_rank(each[1]), each[0])):
        size += len(view)
        if size <= MAX_DEVICE_BYTES:
            told[key] = view
    return told


def _rank(view: bytes) -> int:
    """Of its verdict, without decoding all of it: what is within a text of JSON has its quotes escaped."""
    verdict = view.rpartition(b'"verdict":"')[2].partition(b'"')[0].decode("utf-8", "replace")
    return _VERDICTS.index(verdict) if verdict in _VERDICTS else 0


def _importance(notice: Notice) -> tuple[int, float, str]:
    return _SEVERITIES.index(notice.severity), notice.alert.since, notice.alert.key


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else timestamp(seconds)
