"""The bytes that subscribers receive are CloudEvents 1.0, with what an operator needs in them."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from dmimad.core.alert import MAX_SECONDS, Alert, Notice, State, Status
from dmimad.core.cloudevent import CONTENT_TYPE, alert_topic, device_topic, encode, notice_message, timestamp
from dmimad.core.finding import CODES, Difference, Severity, make_finding
from dmimad.core.maintenance import Maintenance
from dmimad.core.summary import Tally

#: RFC 3339 in UTC, as CloudEvents wants ``time``.
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
#: CloudEvents: attribute names are lower-case letters and digits.
ATTRIBUTE = re.compile(r"[a-z0-9]+")
#: RFC 3986, what a relative reference without path separators may consist of.
URI_SEGMENT = re.compile(r"(?:[A-Za-z0-9._~-]|%[0-9A-F]{2})+")

FOUND = make_finding(
    "drift.active",
    "a runs a table that is not approved",
    device="254:0",
    record=7,
    expected="sha256:aa",
    actual="sha256:bb",
    baseline="b.toml:2",
    template_digest="1234",
    event="device_resume",
)
ALERT = Alert("k", FOUND, "a", State.FIRING, 1_700_000_000.25, 1_700_000_002.5, 1)
FIRED = 1_700_000_002.5
FIRING = Notice("id-1", Status.FIRING, ALERT, FIRED, 7)
RESOLVED = Notice("id-2", Status.RESOLVED, ALERT, 1_700_000_010.75, 9, first=FIRED, last=FIRED)


def event(notice: Notice, host: str = "web-1", sequence: int = 3) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(notice_message(notice, host, sequence).payload)
    return loaded


def test_a_firing_alert() -> None:
    message = notice_message(FIRING, "web-1", 3)
    assert message.topic == "dmimad/v1/web-1/alert/critical"
    assert message.content_type == CONTENT_TYPE == "application/cloudevents+json; charset=utf-8"
    assert json.loads(message.payload) == {
        "specversion": "1.0",
        "id": "id-1",
        "source": "web-1",
        "type": "dmimad.alert.drift.active",
        "subject": "a",
        "time": "2023-11-14T22:13:22.500Z",
        "datacontenttype": "application/json",
        "sequence": "00000000000000000003",
        "severitytext": "CRITICAL",
        "severitynumber": 18,
        "data": {
            "code": "drift.active",
            "severity": "critical",
            "status": "firing",
            "message": "a runs a table that is not approved",
            "device": {"name": "a", "key": "254:0"},
            "expected": "sha256:aa",
            "actual": "sha256:bb",
            "since": "2023-11-14T22:13:20.250Z",
            "occurrence": 1,
            "count": 1,
            "first": "2023-11-14T22:13:22.500Z",
            "last": "2023-11-14T22:13:22.500Z",
            "flapping": False,
            "maintenance": None,
            "differences": [],
            "summary": None,
            "evidence": {
                "record": 7,
                "baseline": "b.toml:2",
                "template_digest": "1234",
                "event": "device_resume",
            },
        },
    }


def test_a_resolved_alert_says_how_long_it_was_and_what_ended_it() -> None:
    found = event(RESOLVED)
    fired = event(FIRING)
    assert found["time"] == "2023-11-14T22:13:30.750Z"
    assert found["data"].pop("duration_seconds") == 10.5
    assert found["data"].pop("resolved_by_record") == 9
    assert found["data"].pop("status") == "resolved"
    fired["data"].pop("status")
    assert found["data"] == fired["data"]


def test_a_duration_is_never_negative() -> None:
    early = Notice("id", Status.RESOLVED, ALERT, ALERT.since - 100, None)
    assert event(early)["data"]["duration_seconds"] == 0.0


@pytest.mark.parametrize("code", sorted(CODES))
@pytest.mark.parametrize("status", Status)
def test_every_event_is_a_cloudevent(code: str, status: Status) -> None:
    alert = Alert("k", make_finding(code, "text"), "", State.FIRING, 1.0, 2.0, 1)
    found = event(Notice("id", status, alert, 3.0, None))
    assert all(ATTRIBUTE.fullmatch(name) for name in found)
    assert found["specversion"] == "1.0"
    assert all(isinstance(found[name], str) and found[name] for name in ("id", "source", "type", "subject"))
    assert RFC_3339.fullmatch(found["time"])
    assert RFC_3339.fullmatch(found["data"]["since"])
    assert found["type"] == f"dmimad.alert.{code}"
    assert (found["data"]["expected"], found["data"]["actual"]) == (None, None)
    assert found["data"]["evidence"] == {"record": None}


@pytest.mark.parametrize(
    ("severity", "number"), [(Severity.INFO, 9), (Severity.WARNING, 13), (Severity.CRITICAL, 18)]
)
def test_severities(severity: Severity, number: int) -> None:
    alert = Alert("k", make_finding("drift.active", "text", severity=severity), "", State.FIRING, 1.0, 2.0, 1)
    notice = Notice("id", Status.FIRING, alert, 3.0, None)
    found = event(notice)
    assert (found["severitytext"], found["severitynumber"]) == (severity.value.upper(), number)
    assert notice_message(notice, "h", 1).topic == f"dmimad/v1/h/alert/{severity.value}"


def test_what_has_repeated_says_how_often() -> None:
    found = event(replace(FIRING, count=7, first=FIRED - 60, last=FIRED, flapping=True))["data"]
    assert (found["count"], found["flapping"]) == (7, True)
    assert (found["first"], found["last"]) == ("2023-11-14T22:12:22.500Z", "2023-11-14T22:13:22.500Z")


def test_an_expected_change_is_information_and_says_what_it_would_be() -> None:
    maintenance = Maintenance("m1", "a*", "new disks", "alice", FIRED - 60, FIRED + 60)
    notice = replace(FIRING, maintenance=maintenance)
    found = event(notice)
    assert notice_message(notice, "h", 1).topic == "dmimad/v1/h/alert/info"
    assert (found["severitytext"], found["severitynumber"], found["data"]["severity"]) == ("INFO", 9, "info")
    assert found["data"]["maintenance"] == {
        "id": "m1",
        "reason": "new disks",
        "until": "2023-11-14T22:14:22.500Z",
        "severity": "critical",
    }


def test_differences_are_told_and_bounded() -> None:
    many = tuple(Difference(number, "cipher", "aes", "null") for number in range(100))
    finding = replace(FOUND, differences=(Difference(None, "name", "a", "b"), *many))
    found = event(replace(FIRING, alert=replace(ALERT, finding=finding)))["data"]["differences"]
    assert len(found) == 64
    assert found[0] == {"target": None, "attribute": "name", "expected": "a", "actual": "b"}
    assert found[1]["target"] == 0


def test_a_summary() -> None:
    left, tally = Tally(), Tally()
    left.add("drift.active", Severity.CRITICAL, "a")
    tally.add("drift.active", Severity.CRITICAL, "a")
    tally.add("device.removed", Severity.WARNING, "b")
    found = event(replace(FIRING, summary=tally.summary(left.summary())))["data"]["summary"]
    assert found == {
        "alerts": 2,
        "by_code": {"device.removed": 1, "drift.active": 1},
        "by_severity": {"info": 0, "warning": 1, "critical": 1},
        "devices": ["a", "b"],
        "more_devices": 0,
        "holding": {
            "alerts": 1,
            "by_code": {"drift.active": 1},
            "by_severity": {"info": 0, "warning": 0, "critical": 1},
            "devices": ["a"],
            "more_devices": 0,
            "holding": None,
        },
    }


def test_an_event_is_signed_as_it_is_sent() -> None:
    def sign(unsigned: Mapping[str, object]) -> Mapping[str, object]:
        return {**unsigned, "dssematerial": str(unsigned["id"])}

    found = json.loads(notice_message(FIRING, "web-1", 3, sign).payload)
    assert found == {**event(FIRING), "dssematerial": "id-1"}


def test_an_alert_about_no_device_is_about_the_host() -> None:
    alert = Alert("k", make_finding("list.restarted", "text"), "", State.RESOLVED, 1.0, 1.0, 1)
    assert event(Notice("id", Status.FIRING, alert, 1.0, None), "web-1")["subject"] == "web-1"


@pytest.mark.parametrize(
    ("host", "source"), [("web-1", "web-1"), ("a b/ü", "a%20b%2F%C3%BC"), ("a?b#c:d%", "a%3Fb%23c%3Ad%25")]
)
def test_the_source_is_a_uri_reference(host: str, source: str) -> None:
    found = event(FIRING, host)["source"]
    assert found == source
    assert URI_SEGMENT.fullmatch(found)


def test_sequences_are_ordered_as_text() -> None:
    texts = [event(FIRING, sequence=sequence)["sequence"] for sequence in (1, 2, 9, 10, 100, 2**63)]
    assert texts == sorted(texts)
    assert {len(text) for text in texts} == {20}


def test_topics() -> None:
    assert alert_topic("h", Severity.WARNING) == "dmimad/v1/h/alert/warning"
    assert device_topic("h", "254:0") == "dmimad/v1/h/device/254:0"


def test_encoding() -> None:
    assert encode({"a": [1, "ü"], "b": None}) == '{"a":[1,"ü"],"b":null}'.encode()
    assert json.loads(encode("\ud800")) == "\ud800"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1.9996, "1970-01-01T00:00:01.999Z"),
        (1_700_000_000, "2023-11-14T22:13:20.000Z"),
        (MAX_SECONDS, "9999-12-31T23:59:59.000Z"),
    ],
)
def test_timestamps(seconds: float, text: str) -> None:
    assert timestamp(seconds) == text
    assert abs(datetime.datetime.fromisoformat(text).timestamp() - seconds) < 0.001
