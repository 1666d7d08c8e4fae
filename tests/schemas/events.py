"""Alerts as the core makes them, in every form; and the CloudEvents library of the CNCF, which reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

from cloudevents.core.formats.json import JSONFormat

from dmimad.core.alert import Alert, Notice, State, Status, notice_id
from dmimad.core.cloudevent import Sign, notice_message
from dmimad.core.finding import CODES, Difference, Finding, Severity, make_finding
from dmimad.core.maintenance import Maintenance, covers
from dmimad.core.summary import Tally

BEGAN, FIRED, ENDED = 1_700_000_000.25, 1_700_000_002.5, 1_700_000_300.125
HASH = "sha256:" + "a1" * 32
MAINTENANCE = Maintenance("0123456789ab", "vg0-*", "new disks", "root", BEGAN, ENDED + 600)
DIFFERENCES = (Difference(0, "cipher_string", "aes-xts-plain64", "null"), Difference(None, "uuid", "A", "B"))
EVIDENCE = {
    "expected": HASH,
    "actual": "unknown",
    "baseline": "/etc/dmimad/baseline.d/main.toml:2",
    "witness": "both",
    "slot": "active",
    "template_digest": "c3" * 20,
    "event": "device_resume",
}


def summary_of(alerts: int) -> Tally:
    """Counted alerts of three codes and all severities."""
    tally = Tally()
    for number in range(alerts):
        severity = list(Severity)[number % 3]
        code = ("drift.active", "device.removed", "list.gap")[number % 3]
        tally.add(code, severity, f"dev{number}" if number % 3 < 2 else "")
    return tally


def notices(code: str) -> Iterator[Notice]:
    """Of a code, firing and resolved: with little and with much to tell, in and out of maintenance."""
    for severity in Severity:
        yield from _both(Finding(code, severity, "something", device="name-0123456789ab"), "a\\xff b")
    yield from _both(make_finding(code, "something"), "")
    many = DIFFERENCES * 50  # more than are told
    much = Finding(code, CODES[code][0], "schlüssel ☃", "254:0", 7, EVIDENCE, many)
    for notice in _both(much, "linear1"):
        yield replace(notice, count=5, first=BEGAN, last=FIRED, flapping=True)
        if covers(code):
            yield replace(notice, maintenance=MAINTENANCE)


def _both(finding: Finding, subject: str) -> Iterator[Notice]:
    alert = Alert(f"k|{finding.code}", finding, subject, State.FIRING, BEGAN, FIRED, 3)
    storm = finding.code == "alerts.storm"
    for status, at, record in ((Status.FIRING, FIRED, finding.record), (Status.RESOLVED, ENDED, None)):
        holding = summary_of(7).summary() if status is Status.RESOLVED else None
        summary = summary_of(400).summary(holding) if storm else None
        yield Notice(notice_id(alert, status), status, alert, at, record, summary=summary)


def payload(notice: Notice, sign: Sign | None = None) -> bytes:
    """What subscribers get."""
    return notice_message(notice, "web-1", 42, sign).payload


def every_code() -> tuple[str, ...]:
    return tuple(CODES)


def check_with_sdk(message: bytes) -> dict[str, Any]:
    """The CNCF's own library takes it for an event with the attributes and the data that are in it."""
    plain: dict[str, Any] = json.loads(message)
    event = JSONFormat().read(None, message)
    assert event.get_specversion() == "1.0"
    assert event.get_id() == plain["id"]
    assert event.get_source() == plain["source"]
    assert event.get_type() == plain["type"] == "dmimad.alert." + plain["data"]["code"]
    assert event.get_subject() == plain["subject"]
    assert event.get_time() == datetime.fromisoformat(plain["time"])
    assert event.get_datacontenttype() == "application/json"
    assert event.get_data() == plain["data"]
    extensions = ("sequence", "severitytext", "severitynumber", "dssematerial")
    assert [event.get_extension(name) for name in extensions] == [plain.get(name) for name in extensions]
    names = {"specversion", "id", "source", "type", "subject", "time", "datacontenttype"}
    assert set(event.get_attributes()) - {"dssematerial"} == names | set(extensions[:3])
    return plain
