"""What was told lately: as it was told, the newest first, and not more than can be kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dmimad.core import recent
from dmimad.core.alert import Alert, Notice, State, Status
from dmimad.core.finding import make_finding
from dmimad.core.maintenance import Maintenance
from dmimad.core.recent import Recent
from tests.core.monitored import BAD, GOOD, OTHER, Host, approved


def notice(number: int, **more: Any) -> Notice:
    finding = make_finding("drift.active", f"message {number}", device="254:0")
    alert = Alert(f"k{number}", finding, more.pop("subject", "linear1"), State.FIRING, 1.0, 2.0, 1)
    return Notice(f"id{number}", more.pop("status", Status.FIRING), alert, 3.0, None, **more)


def test_as_it_was_told() -> None:
    told = Recent()
    told.add(notice(1, count=4, status=Status.RESOLVED))
    told.add(notice(2, maintenance=Maintenance("1f", "l*", "update", "root", 0.0, 60.0)))
    second, first = told.newest_first()
    assert first.document() == {
        "id": "id1",
        "code": "drift.active",
        "severity": "critical",
        "status": "resolved",
        "device": "linear1",
        "key": "254:0",
        "message": "message 1",
        "time": "1970-01-01T00:00:03.000Z",
        "count": 4,
    }
    assert (second.id, second.severity) == ("id2", "info")


def test_the_newest_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Recent()
    for number in range(250):
        told.add(notice(number, subject="x" * 5000))
    assert [each.id for each in told.newest_first()] == [f"id{number}" for number in range(249, 149, -1)]
    assert {len(each.device) for each in told.newest_first()} == {recent.MAX_TEXT_CHARS}


def test_what_subscribers_are_sent_and_nothing_else() -> None:
    host = Host(approved(a=(GOOD,)), hold_off=5.0)
    host.kernel.create(b"a", GOOD)
    host.look(100.0)
    for table, at, seconds in ((BAD, 200.0, 4.0), (OTHER, 300.0, 6.0)):
        host.kernel.load(b"a", table)
        host.look(at)
        host.tick(at + seconds)
        host.kernel.clear(b"a")
        host.look(at + 10.0)
    sent = [json.loads(message.payload) for message in reversed(host.disk.messages)]
    told = host.monitor.status(400.0)["recent"]
    assert [(each["id"], each["time"], each["data"]["status"]) for each in sent] == [
        (each["id"], each["time"], each["status"])
        for each in told  # type: ignore[attr-defined]  # a list of objects, in a document
    ]
    assert [each["data"]["code"] for each in sent] == ["drift.inactive", "drift.inactive"]
