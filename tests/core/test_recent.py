"""What was told lately: as it was told, the newest first, and not more than can be kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dmimad.core import recent
from dmimad.core.alert import Alert, Notice, State, Status
from dmimad.core.errors import MalformedError
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


def test_another_process_goes_on_and_forgets_as_many() -> None:
    first = Recent()
    for number in range(99):
        first.add(notice(number))
    stored = dict(first.take_changed())
    assert first.take_changed() == {}
    again = Recent()
    again.restore({key: document for key, document in stored.items() if document is not None})
    assert again.newest_first() == first.newest_first()
    for number in (99, 100):
        again.add(notice(number))
    changed = again.take_changed()
    assert {key: document is None for key, document in changed.items()} == {
        "told|0000000000000001": True,
        "told|0000000000000100": False,
        "told|0000000000000101": False,
    }
    again.store_all()
    assert len(again.take_changed()) == 100


@pytest.mark.parametrize(
    "damage",
    [
        {"id": 7},
        {"message": "x" * 1001},
        {"severity": "x"},
        {"status": "x"},
        {"at": -1},
        {"at": "x"},
        {"count": None},
    ],
)
def test_a_damaged_one_is_refused(damage: dict[str, object]) -> None:
    first = Recent()
    first.add(notice(1))
    ((key, document),) = first.take_changed().items()
    again = Recent()
    with pytest.raises(MalformedError):
        again.restore({key: {**(document or {}), **damage}})
    assert (again.newest_first(), again.take_changed()) == ([], {key: None})
    with pytest.raises(MalformedError):
        again.restore({"told|x": document or {}})


def test_a_restart_of_the_daemon() -> None:
    host = Host(approved(a=(GOOD,)))
    host.kernel.create(b"a", BAD)
    host.look(100.0)
    told = host.monitor.status(400.0)["recent"]
    host.restart()
    assert told
    assert host.monitor.status(400.0)["recent"] == told


def test_what_is_taken_over_was_told_before() -> None:
    first, second = Recent(), Recent()
    for number in range(70):
        first.add(notice(number))
        second.add(notice(1000 + number))
    first.go_on_from(second)
    ids = [each.id for each in first.newest_first()]
    assert (len(ids), ids[0], ids[69], ids[70], ids[-1]) == (100, "id1069", "id1000", "id69", "id40")
