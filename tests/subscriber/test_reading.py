"""What is taken for a topic, an event and an alert, and what is not."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from dmimad.core.alert import Status
from dmimad.core.errors import MalformedError
from dmimad.core.finding import Severity
from dmimad.subscriber.events import Signature, Trust
from dmimad.subscriber.reading import (
    MAX_DEPTH,
    MAX_DEVICE_CHARS,
    MAX_HOST_CHARS,
    MAX_MESSAGE_CHARS,
    MAX_PAYLOAD_BYTES,
    Kind,
    Place,
    read_alert,
    read_event,
    read_topic,
)
from tests.subscriber.publishing import alert, changed

UNSIGNED = Signature(Trust.UNSIGNED)


def read(payload: bytes) -> Any:
    return read_alert("web-1", read_event(payload), UNSIGNED)


@pytest.mark.parametrize(
    ("topic", "place"),
    [
        ("dmimad/v1/web-1/status", Place("web-1", Kind.STATUS)),
        ("dmimad/v1/web 1 ü/alert/critical", Place("web 1 ü", Kind.ALERT, "critical")),
        ("dmimad/v1/web-1/alert/nonsense", Place("web-1", Kind.ALERT, "nonsense")),
        ("dmimad/v1/web-1/device/254:0", None),
        ("dmimad/v1/web-1/alert", None),
        ("dmimad/v1/web-1/alert/critical/more", None),
        ("dmimad/v1/web-1/status/more", None),
        ("dmimad/v1//status", None),
        ("other/dmimad/v1/web-1/status", None),
        ("dmimad/v2/web-1/status", None),
        (f"dmimad/v1/{'x' * (MAX_HOST_CHARS + 1)}/status", None),
        ("", None),
    ],
)
def test_topics(topic: str, place: Place | None) -> None:
    assert read_topic(topic) == place


def test_an_alert_is_read_as_it_was_made() -> None:
    made = read(alert(7, status=Status.RESOLVED, severity=Severity.WARNING).payload)
    assert (made.host, made.id, made.sequence) == ("web-1", f"{7:032x}", 7)
    assert made.time == datetime.datetime(2026, 11, 22, 14, 37, 21, 203000, tzinfo=datetime.UTC)
    assert (made.code, made.severity, made.status) == ("drift.active", Severity.WARNING, Status.RESOLVED)
    assert (made.device, made.message[:15]) == ("linear1", "linear1 (254:0)")
    assert made.data["evidence"]["record"] == 6
    assert made.data["duration_seconds"] == 7.0


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"specversion": "0.3"}, "no CloudEvent 1.0"),
        ({"data": None}, "no CloudEvent 1.0"),
        ({"data": "text"}, "no CloudEvent 1.0"),
        ({"type": "dmimad.alert.device.missing"}, "type is not that of its code"),
        ({"data_code": None}, "code is not a text"),
        ({"id": ""}, "id is not a text"),
        ({"id": "x" * 129}, "id is not a text"),
        ({"id": 7}, "id is not a text"),
        ({"sequence": None}, "sequence is not a text"),
        ({"sequence": 7}, "sequence is not a text"),
        ({"sequence": "-7"}, "sequence is not a number"),
        ({"sequence": "٧"}, "sequence is not a number"),
        ({"sequence": "1" * 21}, "sequence is not a text"),
        ({"time": "2026-11-22"}, "time is not one of RFC 3339"),
        ({"time": "0001-01-01T00:00:00+23:00"}, "time is not one of RFC 3339"),
        ({"time": "soon"}, "time is not one of RFC 3339"),
        ({"data_severity": "harmless"}, "severity is none that is known"),
        ({"data_status": "gone"}, "status is none that is known"),
    ],
)
def test_what_is_no_alert(members: dict[str, Any], reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        read(changed(alert(1), **members))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"a":1,"a":2}', "is not JSON"),
        (b'{"a":{"b":NaN}}', "a number that JSON cannot tell"),
        (b'{"a":1e999}', "a number that JSON cannot tell"),
        (b'{"a":["\\ud800"]}', "half a surrogate pair"),
        (b'{"\\udc00":1}', "half a surrogate pair"),
        (b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "nested too deeply"),
        (b'{"a":' * 100_000, "is larger|is not JSON"),
        (b"[" * 200_000, "is not JSON"),
        (b'{"a":"' + b"x" * MAX_PAYLOAD_BYTES + b'"}', "is larger"),
        (b'{"a":' + b"1" * 200_000 + b"}", "is not JSON"),
    ],
)
def test_what_is_no_event(payload: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        read_event(payload)


def test_the_deepest_that_is_read() -> None:
    depth = MAX_DEPTH - 1
    assert read_event(b'{"a":' + b"[" * depth + b"]" * depth + b"}")


def test_long_texts_are_cut_and_wrong_ones_empty() -> None:
    long = read(changed(alert(1), data_message="m" * 5000, data_device={"name": "d" * 2000, "key": "254:0"}))
    assert long.message == "m" * (MAX_MESSAGE_CHARS - 1) + "…"
    assert long.device == "d" * (MAX_DEVICE_CHARS - 1) + "…"
    wrong = read(changed(alert(1), data_message=[1], data_device="linear1"))
    assert (wrong.message, wrong.device) == ("", "")
    assert json.loads(alert(1).payload)["data"]["device"]["name"] == "linear1"
