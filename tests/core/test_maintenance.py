"""Maintenance: what somebody has said to expect is information, until the time is over."""

from __future__ import annotations

import pytest

from dmimad.core.alert import Notice, Status
from dmimad.core.errors import MalformedError, RequestError
from dmimad.core.finding import Severity
from dmimad.core.maintenance import (
    MAX_AT_ONCE,
    Maintenance,
    Plan,
    covers,
    maintenance_document,
    read_maintenance,
    read_plan,
)
from tests.core.delivering import Desk
from tests.core.monitored import BAD, GOOD, Host, approved

START, END = ("maintenance.active", "firing", "info"), ("maintenance.active", "resolved", "info")


def begin(desk: Desk, seconds: float = 100.0, device: str = "vg0-*") -> Maintenance:
    return desk.delivery.start_maintenance(device, seconds, "new disks", "alice", desk.now)


def told(notices: list[Notice]) -> list[tuple[str, str, str]]:
    return [(n.alert.finding.code, n.status.value, n.severity.value) for n in notices]


def test_it_is_announced_and_its_end() -> None:
    desk = Desk()
    begun = begin(desk)
    (notice,) = desk.commit()
    assert told([notice]) == [START]
    assert notice.alert.finding.message == (
        "maintenance of vg0-* by alice: new disks; its changes are expected for 100 s"
    )
    assert notice.alert.finding.data == {
        "maintenance": begun.id,
        "pattern": "vg0-*",
        "reason": "new disks",
        "by": "alice",
    }
    assert (desk.delivery.maintenance, desk.next_due()) == ((begun,), 1100.0)
    assert desk.tick(99.9) == []
    (notice,) = desk.due()
    assert told([notice]) == [END]
    assert notice.alert.finding.message == "maintenance of vg0-* by alice: new disks; over: its time is over"
    assert (notice.at - notice.alert.since, desk.delivery.maintenance) == (100.0, ())


def test_somebody_ends_it() -> None:
    desk = Desk()
    begun = begin(desk)
    desk.commit()
    assert [desk.delivery.awaits(name) for name in ("vg0-root", "vg1-root")] == [True, False]
    assert desk.delivery.end_maintenance(begun.id, "bob", desk.now)
    assert not desk.delivery.end_maintenance(begun.id, "bob", desk.now)
    assert not desk.delivery.awaits("vg0-root")
    (notice,) = desk.commit()
    assert notice.alert.finding.message.endswith("; over: ended by bob")
    assert desk.due() == []


def test_expected_changes_are_information() -> None:
    desk = Desk()
    begun = begin(desk)
    desk.hold("k", device="vg0-root")
    desk.hold("l", device="vg1-root")
    _, expected, other = desk.commit()
    assert (expected.severity, expected.maintenance) == (Severity.INFO, begun)
    assert expected.alert.finding.severity is Severity.CRITICAL
    assert (other.severity, other.maintenance) == (Severity.CRITICAL, None)
    assert desk.delivery.firing() == {Severity.INFO: 1, Severity.WARNING: 0, Severity.CRITICAL: 1}
    desk.cease("k")
    (resolved,) = desk.commit()
    assert (resolved.status, resolved.severity, resolved.maintenance) == (
        Status.RESOLVED,
        Severity.INFO,
        begun,
    )
    assert told(desk.due()) == [END]


@pytest.mark.parametrize("early", [False, True])
def test_what_still_holds_fires_in_earnest(early: bool) -> None:
    desk = Desk()
    begun = begin(desk)
    desk.hold("k", device="vg0-root")
    before = desk.commit()[-1]
    if early:
        desk.delivery.end_maintenance(begun.id, "bob", desk.now)
        end, after = desk.commit()
    else:
        end, after = desk.due()
    assert told([end, after]) == [END, ("drift.active", "firing", "critical")]
    assert (after.maintenance, after.at) == (None, desk.now)
    assert after.id != before.id
    desk.cease("k")
    assert told(desk.commit()) == [("drift.active", "resolved", "critical")]
    plain = Desk()
    plain.hold("k", device="vg0-root")
    assert plain.commit()[0].id == after.id


def test_what_fired_before_stays_as_it_is() -> None:
    desk = Desk()
    desk.hold("k", device="vg0-root")
    desk.commit()
    begin(desk)
    desk.commit()
    assert desk.delivery.firing()[Severity.CRITICAL] == 1
    assert told(desk.due()) == [END]
    desk.cease("k")
    assert told(desk.commit()) == [("drift.active", "resolved", "critical")]


def test_what_fires_and_has_not_been_told_yet_counts_as_it_will_be() -> None:
    desk = Desk()
    begin(desk)
    desk.hold("k", device="vg0-root")
    desk.commit()
    desk.cease("k")
    assert desk.delivery.firing()[Severity.INFO] == 0
    assert desk.delivery.present() == []
    desk.hold("k", device="vg0-root")
    assert [n.severity for n in desk.delivery.present()] == [Severity.INFO]


def test_what_waits_for_the_end_of_its_hold_off_when_the_time_is_over_is_in_earnest() -> None:
    desk = Desk(hold_off=2.0)
    begin(desk, 100.0)
    desk.now += 99.0
    desk.hold("k", device="vg0-root")
    assert told(desk.due()) == [START, END, ("drift.active", "firing", "critical")]


def test_of_several_the_one_that_lasts_longest_counts_and_takes_over() -> None:
    desk = Desk()
    first = begin(desk, 100.0)
    desk.hold("k", device="vg0-root")
    desk.commit()
    second = begin(desk, 200.0, "*")
    desk.hold("l", device="vg0-root")
    assert [n.maintenance for n in desk.commit()[1:]] == [second]
    assert told(desk.tick(100.0)) == [END]
    assert desk.delivery.maintenance == (second,)
    assert first.id != second.id
    assert told(desk.due())[1:] == [("drift.active", "firing", "critical")] * 2


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("drift.active", True),
        ("drift.inactive", True),
        ("policy.attribute", True),
        ("device.unexpected", True),
        ("device.missing", True),
        ("device.renamed", True),
        ("drift.live", False),
        ("measurement.absent", False),
        ("record.malformed", False),
        ("table.unmeasured", False),
        ("list.gap", False),
        ("pcr.mismatch", False),
        ("state.impossible", False),
        ("baseline.signature", False),
    ],
)
def test_which_changes_may_be_expected(code: str, expected: bool) -> None:
    assert covers(code) is expected
    desk = Desk()
    begin(desk, device="*")
    desk.hold("k", code=code)
    assert (desk.commit()[-1].maintenance is not None) is expected


def test_what_is_announced_is_expected_too() -> None:
    desk = Desk()
    begin(desk, device="*")
    desk.announce("k", code="device.reloaded")
    assert desk.commit()[-1].severity is Severity.INFO
    assert told(desk.due()) == [END]


def test_it_survives_a_restart_and_ends_meanwhile() -> None:
    desk = Desk()
    begin(desk)
    desk.hold("k", device="vg0-root")
    desk.commit()
    desk.restart()
    assert [each.reason for each in desk.delivery.maintenance] == ["new disks"]
    assert desk.delivery.firing()[Severity.INFO] == 1
    desk.hold("l", device="vg0-new")
    assert [n.severity for n in desk.commit()] == [Severity.INFO]
    desk.restart()
    assert told(desk.tick(5000.0)) == [END] + [("drift.active", "firing", "critical")] * 2


def test_a_clock_that_is_set_back_does_not_prolong_it() -> None:
    desk = Desk()
    begin(desk)
    desk.tick(60.0)
    desk.restart()
    desk.now = 100.0
    desk.tick()
    (each,) = desk.delivery.maintenance
    assert (each.since, each.until) == (40.0, 140.0)
    desk.now = 10.0
    desk.tick()
    (each,) = desk.delivery.maintenance
    assert (each.since, each.until) == (0.0, 100.0)
    assert told(desk.due()) == [END]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"device": ""}, "the device pattern is missing"),
        ({"device": "x" * 257}, "the device pattern is longer than 256 characters"),
        ({"device": "a\nb"}, "the device pattern must be one line without control characters"),
        ({"reason": " "}, "the reason is missing"),
        ({"reason": "x" * 501}, "the reason is longer than 500 characters"),
        ({"reason": "\x1b[2J"}, "the reason must be one line without control characters"),
        ({"by": ""}, "the name of who asks is missing"),
        ({"seconds": 0.5}, "the duration must be 1 to 2592000 seconds"),
        ({"seconds": 2592001}, "the duration must be 1 to 2592000 seconds"),
        ({"seconds": float("nan")}, "the duration must be 1 to 2592000 seconds"),
        ({"seconds": True}, "the duration must be a number of seconds"),
        ({"seconds": "60"}, "the duration must be a number of seconds"),
    ],
)
def test_what_is_refused(changes: dict[str, object], problem: str) -> None:
    plan = Plan()
    asked: dict[str, object] = {"device": "a", "seconds": 60, "reason": "r", "by": "me", **changes}
    with pytest.raises(RequestError) as refused:
        plan.start(now=1.0, **asked)  # type: ignore[arg-type]  # wrong ones are what this is about
    assert str(refused.value) == problem
    assert (plan.active, plan.document()) == ((), Plan().document())


def test_there_is_a_limit() -> None:
    plan = Plan()
    for _ in range(MAX_AT_ONCE):
        plan.start("a", 60, "r", "me", 1.0)
    assert len({each.id for each in plan.active}) == MAX_AT_ONCE
    with pytest.raises(RequestError, match=r"^there are 100 maintenances already; end some first$"):
        plan.start("a", 60, "r", "me", 1.0)


STORED = maintenance_document(Maintenance("id", "a*", "r", "me", 1.0, 61.0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", 1),
        ("device", ""),
        ("reason", "\n"),
        ("by", "x" * 200),
        ("since", -1.0),
        ("until", 0.5),
        ("until", 1e12),
        ("until", float("nan")),
    ],
)
def test_a_damaged_one(name: str, value: object) -> None:
    assert read_maintenance(STORED).until == 61.0
    with pytest.raises(MalformedError):
        read_maintenance({**STORED, name: value})


def test_a_damaged_plan() -> None:
    plan = {"number": 1, "seen": 1.0, "active": [STORED]}
    assert read_plan(plan).active[0].device == "a*"
    for changes in ({"seen": -1.0}, {"active": [STORED] * 101}, {"number": "x"}, {"active": [1]}):
        with pytest.raises(MalformedError):
            read_plan({**plan, **changes})


# -- in the monitor ------------------------------------------------------------------------


def test_of_a_monitor() -> None:
    host = Host(approved(a=(GOOD,)))
    host.kernel.create(b"a", GOOD)
    host.look(10.0)
    begun = host.monitor.start_maintenance("a", 60.0, "disks", "root", 11.0)
    assert host.commit() == [("maintenance.active", "firing", "h")]
    assert host.monitor.maintenance == (begun,)
    assert host.monitor.next_due() == 71.0
    host.kernel.load(b"a", BAD)
    host.kernel.resume(b"a")
    assert ("drift.active", "firing", "a") in host.look(20.0)
    assert host.last()["severity"] == "info"
    assert host.last()["maintenance"] == {
        "id": begun.id,
        "reason": "disks",
        "until": "1970-01-01T00:01:11.000Z",
        "severity": "critical",
    }
    assert host.monitor.firing() == {"info": 1, "warning": 0, "critical": 0}
    host.restart()
    host.look(30.0)
    assert host.monitor.maintenance == (begun,)
    assert host.tick(71.0) == [("maintenance.active", "resolved", "h"), ("drift.active", "firing", "a")]
    assert (host.last()["severity"], host.last()["maintenance"]) == ("critical", None)
    assert not host.monitor.end_maintenance(begun.id, "root", 72.0)
