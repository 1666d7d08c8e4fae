"""A state that could not be read at the start turns up: nothing is told twice, and everything ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dmimad.core.errors import MalformedError
from dmimad.core.marks import is_beside
from dmimad.core.monitor import Monitor, Policy
from tests.core.delivering import Desk
from tests.core.monitored import GOOD, Disk, Host, listed


def begun_without(host: Host, now: float) -> Host:
    """Another process on the same kernel that could not read the state, and has read the list."""
    other = Host(host.baseline, hold_off=host.policy.hold_off_seconds)
    other.kernel = host.kernel
    other.feed(now)
    assert not other.monitor.up_to_date
    other.look(now)
    assert other.monitor.up_to_date
    return other


def adopt(other: Host, disk: Disk, now: float) -> list[tuple[str, str, str]]:
    other.monitor.adopt(disk.load(), now)
    return other.commit()


def test_what_fired_and_is_so_no_longer_ends() -> None:
    host = Host(listed('name = "a"'), hold_off=60.0)
    host.kernel.create(b"x", GOOD)
    host.look(0.0)
    assert host.tick(60.0) == [("device.unexpected", "firing", "x")]
    host.kernel.remove(b"x")
    other = begun_without(host, 100.0)
    assert adopt(other, host.disk, 100.0) == [("device.unexpected", "resolved", "x")]


def test_what_fires_here_too_is_told_no_more_and_no_id_comes_twice() -> None:
    host = Host(listed('name = "a"'), hold_off=60.0)
    host.kernel.create(b"x", GOOD)
    host.look(0.0)
    host.tick(60.0)
    first = host.disk.messages[-1]
    other = begun_without(host, 100.0)
    assert other.tick(160.0) == [("device.unexpected", "firing", "x")]
    assert other.disk.messages[-1].payload.partition(b'"time"')[0] == first.payload.partition(b'"time"')[0]
    assert adopt(other, host.disk, 161.0) == []
    other.kernel.remove(b"x")
    assert other.look(162.0) == [("device.unexpected", "resolved", "x")]


def test_how_often_something_has_fired_is_not_forgotten() -> None:
    host = Host(listed('name = "a"\nrequired = true'))
    host.look(0.0)
    host.kernel.create(b"a", GOOD)
    assert host.look(1.0) == [("device.missing", "resolved", "a")]
    other = begun_without(host, 2.0)
    assert adopt(other, host.disk, 3.0) == []
    other.kernel.remove(b"a")
    assert ("device.missing", "firing", "a") in other.look(4.0)
    (ids, again) = ([message.payload[:400] for message in disk.messages] for disk in (host.disk, other.disk))
    assert again[-1] not in ids


def test_what_the_next_look_judges_is_left_to_it() -> None:
    host = Host(listed('name = "a"\nrequired = true'), hold_off=0.0)
    host.look(0.0)
    other = Host(listed('name = "b"'))
    other.look(1.0)
    assert adopt(other, host.disk, 2.0) == []
    assert [alert.key.partition("|")[0] for alert in other.monitor._book.holding()] == ["missing"]


def test_a_damaged_one_is_refused() -> None:
    host = Host(listed('name = "a"'))
    host.kernel.create(b"x", GOOD)
    host.look(0.0)
    host.disk.alerts = dict.fromkeys(host.disk.alerts, "{}")
    monitor = Monitor(host.policy, host.baseline, host.boot)
    with pytest.raises(MalformedError):
        monitor.adopt(host.disk.load(), 1.0)


def test_maintenances_are_taken_over_where_there_are_none() -> None:
    before, now = Desk(), Desk()
    before.delivery.start_maintenance("vg0-*", 600.0, "disk swap", "root", before.now)
    now.delivery.adopt(before.delivery.document())
    assert [each.reason for each in now.delivery.maintenance] == ["disk swap"]
    own = Desk()
    own.delivery.start_maintenance("*", 60.0, "another", "root", own.now)
    own.delivery.adopt(before.delivery.document())
    own.delivery.adopt(None)
    assert [each.reason for each in own.delivery.maintenance] == ["another"]


def test_that_nothing_can_be_stored_is_one_alert() -> None:
    host = Host()
    host.monitor.hold_state("the disk is full", 1.0)
    host.monitor.hold_state("the disk is full", 2.0)
    assert host.commit() == [("state.unavailable", "firing", "h")]
    assert host.monitor.findings["state.unavailable", "warning"] == 1
    host.monitor.cease_state(3.0)
    assert host.commit() == [("state.unavailable", "resolved", "h")]
    host.monitor.hold_state("the disk is full", 4.0)
    assert host.commit() == [("state.unavailable", "firing", "h")]
    assert host.monitor.findings["state.unavailable", "warning"] == 2


def test_what_only_waited_is_left_to_the_list() -> None:
    host = Host(listed('name = "a"'), hold_off=60.0)
    host.kernel.create(b"x", GOOD)
    host.look(0.0)
    host.kernel.remove(b"x")
    other = begun_without(host, 10.0)
    stored = host.disk.load()
    assert stored.alerts
    other.monitor.adopt(replace(stored, checkpoint=None), 10.0)
    assert (other.commit(), other.monitor.next_due()) == ([], None)


def test_everything_is_all_that_was_stored() -> None:
    host = Host(listed('name = "a"\nrequired = true', 'name = "c"'))
    host.monitor.set_policy(Policy("h", 0.0, storm_threshold=3, flap_threshold=2), 0.0)
    for number in range(8):
        host.kernel.create(f"x{number}".encode(), GOOD)
    host.look(1.0)
    for at in (2.0, 4.0, 6.0):
        host.kernel.create(b"a", GOOD)
        host.look(at)
        host.kernel.remove(b"a")
        host.look(at + 1.0)
    host.monitor.start_maintenance("x*", 600.0, "moving", "root", 8.0)
    host.commit()
    disk = Disk()
    commit = host.monitor.everything()
    disk.store(replace(commit, facts=tuple(host.disk.facts)))
    assert commit.messages == ()
    assert disk.holds()[:3] == host.disk.holds()[:3]
    assert len(disk.devices) == 8
    assert {is_beside(key) for key in disk.alerts} == {True, False}


def test_messages_that_were_handed_over_come_once_whatever_is_stored() -> None:
    host = Host(listed('name = "a"'))
    host.kernel.create(b"x", GOOD)
    host.feed()
    host.monitor.caught_up(1.0)
    assert len(host.monitor.commit().messages) == 1
    assert len(host.monitor.commit().messages) == 1
    host.monitor.handed_over()
    again = host.monitor.commit()
    assert (len(again.messages), len(again.alerts)) == (0, 1)
