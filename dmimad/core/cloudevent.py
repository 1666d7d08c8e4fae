"""Notices as CloudEvents: the bytes that subscribers receive.

Source: CloudEvents 1.0.2, JSON format in structured mode, with the documented extensions
``sequence`` and ``severity`` (``severitytext``, ``severitynumber``, after OpenTelemetry).

The same bytes go out under MQTT 5 and 3.1.1.  How an event is signed is `verifiability`'s.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from urllib.parse import quote

from dmimad.core.alert import MAX_DIFFERENCES, Notice, Status
from dmimad.core.commit import Message
from dmimad.core.finding import Severity
from dmimad.core.summary import Summary

#: An event -> the same with its signature.
Sign = Callable[[Mapping[str, object]], Mapping[str, object]]

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
TOPIC_ROOT = "dmimad/v1"

_SEVERITY_NUMBER = {Severity.INFO: 9, Severity.WARNING: 13, Severity.CRITICAL: 18}
#: Digits of the sequence: enough for ever, and orderable as text.
_SEQUENCE_DIGITS = 20


def alert_topic(host: str, severity: Severity) -> str:
    """Where alerts of a severity go."""
    return f"{TOPIC_ROOT}/{host}/alert/{severity.value}"


def device_topic(host: str, key: str) -> str:
    """Where a device's retained state stands."""
    return f"{TOPIC_ROOT}/{host}/device/{key}"


def notice_message(notice: Notice, host: str, sequence: int, sign: Sign | None = None) -> Message:
    """The message to publish for a notice; ``sign``: events are signed."""
    alert, finding = notice.alert, notice.alert.finding
    evidence = {name: value for name, value in finding.data.items() if name not in ("expected", "actual")}
    data: dict[str, object] = {
        "code": finding.code,
        "severity": notice.severity.value,
        "status": notice.status.value,
        "message": finding.message,
        "device": {"name": alert.subject, "key": finding.device},
        "expected": finding.data.get("expected"),
        "actual": finding.data.get("actual"),
        "since": timestamp(alert.since),
        "occurrence": alert.occurrence,
        "count": notice.count,
        "first": timestamp(notice.at if notice.first is None else notice.first),
        "last": timestamp(notice.at if notice.last is None else notice.last),
        "flapping": notice.flapping,
        "maintenance": _maintenance(notice),
        "differences": [
            {
                "target": each.target,
                "attribute": each.attribute,
                "expected": each.expected,
                "actual": each.actual,
            }
            for each in finding.differences[:MAX_DIFFERENCES]
        ],
        "summary": None if notice.summary is None else _summary(notice.summary),
        "evidence": {"record": finding.record, **evidence},
    }
    if notice.status is Status.RESOLVED:
        data["duration_seconds"] = round(max(notice.at - alert.since, 0.0), 3)
        data["resolved_by_record"] = notice.record
    event: Mapping[str, object] = {
        "specversion": "1.0",
        "id": notice.id,
        "source": quote(host, safe=""),
        "type": f"dmimad.alert.{finding.code}",
        "subject": alert.subject or host,
        "time": timestamp(notice.at),
        "datacontenttype": "application/json",
        "sequence": str(sequence).zfill(_SEQUENCE_DIGITS),
        "severitytext": notice.severity.value.upper(),
        "severitynumber": _SEVERITY_NUMBER[notice.severity],
        "data": data,
    }
    if sign is not None:
        event = sign(event)
    return Message(alert_topic(host, notice.severity), encode(event), CONTENT_TYPE)


def _maintenance(notice: Notice) -> dict[str, object] | None:
    if notice.maintenance is None:
        return None
    return {
        "id": notice.maintenance.id,
        "reason": notice.maintenance.reason,
        "until": timestamp(notice.maintenance.until),
        "severity": notice.alert.finding.severity.value,
    }


def _summary(summary: Summary) -> dict[str, object]:
    return {
        "alerts": summary.alerts,
        "by_code": dict(summary.by_code),
        "by_severity": {severity.value: count for severity, count in summary.by_severity.items()},
        "devices": list(summary.devices),
        "more_devices": summary.more_devices,
        "holding": None if summary.holding is None else _summary(summary.holding),
    }


def encode(document: object) -> bytes:
    """JSON without spare spaces, in UTF-8; lone surrogates cannot occur in what the core makes."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def timestamp(seconds: float) -> str:
    """Unix seconds -> RFC 3339 in UTC with milliseconds."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
