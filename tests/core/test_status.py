"""The status document: what is in it, in which order, and what is left out of one that would be too long."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dmimad.core import status
from dmimad.core.alert import Alert, Notice, State, Status
from dmimad.core.finding import Severity, make_finding
from dmimad.core.maintenance import Maintenance
from dmimad.core.moments import Moments
from dmimad.core.status import Known, Surroundings, status_document, timeless
from tests.core.monitored import BAD, GOOD, Host, approved, label

NOW = 1_795_358_234.203
NOW_TEXT = "2026-11-22T14:37:14.203Z"


def view(key: str, name: str, verdict: str = "approved", **more: object) -> bytes:
    document = {"key": key, "name": name, "verdict": verdict, "drift": {"active": False, "inactive": False}}
    return json.dumps({**document, **more}, separators=(",", ":")).encode()


def alert(code: str, *, since: float = NOW, maintenance: Maintenance | None = None, **more: Any) -> Notice:
    key = str(more.pop("key", f"{code}|{since}"))
    made = Alert(key, make_finding(code, f"about {code}", **more), "linear1", State.FIRING, since, since, 2)
    return Notice("id", Status.FIRING, made, since, None, 3, flapping=True, maintenance=maintenance)


def known(**changes: Any) -> Known:
    values: dict[str, Any] = {
        "host": "web-1",
        "position": 10,
        "records": 12,
        "trimmed": 0,
        "gap": False,
        "broken": "",
        "last_read": None,
        "observations": 3,
        "pcr_verified": None,
        "entries": 1,
        "devices": {},
        "moments": {},
        "alerts": (),
        "maintenance": (),
    }
    return Known(**{**values, **changes})


def document(around: Surroundings | None = None, **changes: Any) -> dict[str, Any]:
    made = status_document(known(**changes), around or Surroundings(), NOW)
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]  # it can be encoded, and comes back so


def test_all_of_it() -> None:
    around = Surroundings(
        version="1.2",
        source="auto",
        source_up=True,
        lag=4,
        live_up=True,
        mqtt_connected=False,
        outbox_pending=5,
        outbox_dead=6,
        store_problem="disk full",
        settings_accepted=False,
        baseline_accepted=False,
        baseline_directory="/b",
        refused=(status.Refused("mqtt", "/c: no certificate", NOW),),
        restart_needed=("host",),
    )
    made = document(
        around,
        last_read=NOW - 1,
        trimmed=2,
        gap=True,
        broken="damaged",
        pcr_verified=True,
        devices={"254:0": view("254:0", "linear1")},
        moments={"254:0": Moments(verdict=NOW - 2, inactive=NOW - 3)},
        alerts=(alert("drift.active", device="254:0"),),
        maintenance=(Maintenance("1f", "vg0-*", "update", "root (user 0)", NOW - 60, NOW + 60),),
    )
    assert made == {
        "host": "web-1",
        "time": NOW_TEXT,
        "version": "1.2",
        "list": {
            "source": "auto",
            "source_up": True,
            "position": 10,
            "records": 12,
            "lag": 4,
            "trimmed": 2,
            "gap": True,
            "problem": "damaged",
            "last_read": "2026-11-22T14:37:13.203Z",
        },
        "witnesses": {"live": {"up": True, "observations": 3}},
        "pcr_verified": True,
        "mqtt_connected": False,
        "mqtt_problem": "",
        "outbox": {"pending": 5, "dead": 6},
        "store": {"problem": "disk full"},
        "settings": {"accepted": False, "restart_needed": ["host"]},
        "baseline": {"directory": "/b", "entries": 1, "accepted": False},
        "refused": [{"what": "mqtt", "reason": "/c: no certificate", "since": NOW_TEXT}],
        "maintenance": [
            {
                "id": "1f",
                "device": "vg0-*",
                "reason": "update",
                "by": "root (user 0)",
                "since": "2026-11-22T14:36:14.203Z",
                "until": "2026-11-22T14:38:14.203Z",
            }
        ],
        "firing": {"critical": 1, "warning": 0, "info": 0},
        "devices": [
            {
                "key": "254:0",
                "name": "linear1",
                "verdict": "approved",
                "drift": {"active": False, "inactive": False},
                "since": {
                    "verdict": "2026-11-22T14:37:12.203Z",
                    "active": None,
                    "inactive": "2026-11-22T14:37:11.203Z",
                },
            }
        ],
        "devices_left_out": 0,
        "alerts": [
            {
                "code": "drift.active",
                "severity": "critical",
                "device": "linear1",
                "key": "254:0",
                "message": "about drift.active",
                "since": NOW_TEXT,
                "count": 3,
                "flapping": True,
                "maintenance": None,
            }
        ],
        "alerts_left_out": 0,
        "recent": [],
    }


def test_devices_are_told_by_name() -> None:
    devices = {"254:0": view("254:0", "b"), "254:1": view("254:1", "a"), "254:10": view("254:10", "a")}
    made = document(devices=devices)["devices"]
    assert [device["key"] for device in made] == ["254:1", "254:10", "254:0"]
    assert made[0]["since"] == {"verdict": None, "active": None, "inactive": None}


def test_of_too_many_devices_those_that_are_not_approved_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = ("approved", "approved", "unknown", "unexpected", "drift", "something new")
    lie = '"verdict":"drift"'
    devices = {
        f"254:{n}": view(f"254:{n}", f"n{n}{lie}", verdict, uuid=lie) for n, verdict in enumerate(verdicts)
    }
    monkeypatch.setattr(status, "MAX_DEVICE_BYTES", sum(map(len, devices.values())))
    assert len(document(devices=devices)["devices"]) == 6
    monkeypatch.setattr(status, "MAX_DEVICE_BYTES", sum(len(devices[f"254:{n}"]) for n in (2, 3, 4, 5)))
    made = document(devices=devices)
    assert [device["key"] for device in made["devices"]] == ["254:2", "254:3", "254:4", "254:5"]
    assert made["devices_left_out"] == 2


def test_alerts_that_fire_are_told_the_most_severe_first() -> None:
    alerts = (
        alert("device.removed", since=NOW - 5),
        alert("drift.inactive", since=NOW - 1),
        alert("drift.active", since=NOW - 2, key="b"),
        alert("drift.active", since=NOW - 2, key="a", device="254:1"),
        alert("device.missing", severity=Severity.INFO),
        alert("policy.attribute", maintenance=Maintenance("1f", "l*", "update", "root", NOW, NOW + 60)),
    )
    made = document(alerts=alerts)
    assert [(each["severity"], each["code"], each["key"]) for each in made["alerts"]] == [
        ("critical", "drift.active", "254:1"),
        ("critical", "drift.active", ""),
        ("warning", "device.removed", ""),
        ("warning", "drift.inactive", ""),
        ("info", "device.missing", ""),
        ("info", "policy.attribute", ""),
    ]
    assert made["alerts"][-1]["maintenance"] == "1f"
    assert made["firing"] == {"critical": 2, "warning": 2, "info": 2}


def test_of_too_many_alerts_the_most_severe_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "MAX_ALERTS_TOLD", 2)
    alerts = [alert("device.removed", key=str(n)) for n in range(5)] + [alert("drift.active")]
    made = document(alerts=alerts)
    assert [each["code"] for each in made["alerts"]] == ["drift.active", "device.removed"]
    assert (made["alerts_left_out"], made["firing"]["warning"]) == (4, 5)


def test_that_time_passes_is_no_change() -> None:
    first = status_document(known(last_read=1.0), Surroundings(), 2.0)
    later = status_document(known(last_read=3.0), Surroundings(), 4.0)
    changed = status_document(known(last_read=3.0, position=11), Surroundings(), 4.0)
    assert timeless(first) == timeless(later) != timeless(changed)
    assert timeless({"list": None}) == {"list": None, "time": ""}


def status_of(host: Host, now: float) -> dict[str, Any]:
    return host.monitor.status(now, Surroundings(version="9"))


def test_the_monitors_document() -> None:
    host = Host(approved(a=(GOOD,)))
    host.kernel.create(b"a", GOOD)
    host.look(100.0)
    made = status_of(host, 200.0)
    (device,) = made["devices"]
    assert (device["name"], device["verdict"], device["active"]["hash"]) == (
        "a",
        "approved",
        label("a", GOOD),
    )
    assert (made["host"], made["alerts"], made["baseline"]["entries"]) == ("h", [], 1)
    assert (made["list"]["position"], made["list"]["source_up"]) == (len(host.kernel.items), False)
    host.kernel.load(b"a", BAD)
    host.kernel.resume(b"a")
    host.look(300.0)
    made = status_of(host, 400.0)
    (device,) = made["devices"]
    assert (device["verdict"], made["version"]) == ("drift", "9")
    assert device["since"]["verdict"] == "1970-01-01T00:05:00.000Z"
    assert device["since"]["active"] == "1970-01-01T00:05:00.000Z"
    assert [(each["code"], each["device"]) for each in made["alerts"]] == [("drift.active", "a")]
    assert made["firing"] == {"critical": 1, "warning": 0, "info": 0}


def test_the_monitors_document_tells_maintenance() -> None:
    host = Host(approved(a=(GOOD,)))
    begun = host.monitor.start_maintenance("a*", 60.0, "update", "root", 100.0)
    made = status_of(host, 110.0)
    (told,) = made["maintenance"]
    assert told == {
        "id": begun.id,
        "device": "a*",
        "reason": "update",
        "by": "root",
        "since": "1970-01-01T00:01:40.000Z",
        "until": "1970-01-01T00:02:40.000Z",
    }
    host.kernel.create(b"a", BAD)
    host.look(111.0)
    assert [
        (each["code"], each["severity"], each["maintenance"]) for each in status_of(host, 112.0)["alerts"]
    ] == [("drift.active", "info", begun.id)]
    assert host.monitor.end_maintenance(begun.id, "root", 120.0)
    assert status_of(host, 121.0)["maintenance"] == []
