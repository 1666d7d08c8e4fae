"""The monitor with its second witness: what an observation leads to, and who dies in between.

What `fusion` makes of an observation has its own tests; here is what becomes of it: alerts, documents, and
that the same cause is told once, under the same id, whatever is killed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dmimad.core.baseline import Baseline
from dmimad.core.observation import LiveDevice, LiveTable, LiveTarget, Observation
from tests.core.kernel import Kernel, Target, linear, opaque
from tests.core.lists import boot_aggregate
from tests.core.live import observation
from tests.core.monitored import BAD, GOOD, OTHER, Host, Told, approved, label, listed

EVIL = (linear(666),)
VERITY = (
    Target(
        8, b"target_name=verity,target_version=1.8.0,hash_failed=V,verity_version=1,data_device_name=1:0;"
    ),
)


def ids(host: Host) -> list[str]:
    """The ids of all messages so far."""
    return [json.loads(message.payload)["id"] for message in host.disk.messages]


def document(host: Host, key: str = "254:0") -> dict[str, Any]:
    """The retained document of a device."""
    found: dict[str, Any] = json.loads(host.monitor.retained()[f"dmimad/v1/h/device/{key}"])
    return found


def swapped_unseen(host: Host) -> None:
    """a has GOOD, BAD and GOOD again, all of it recorded or seen; then BAD again, which leaves no record."""
    for table in (GOOD, BAD, GOOD):
        swap(host.kernel, table)
        host.settle(10.0)
    swap(host.kernel, BAD)


def swap(kernel: Kernel, table: tuple[Target, ...], name: bytes = b"a") -> None:
    """Load and resume."""
    if name not in kernel.devices:
        kernel.create(name)
    kernel.load(name, table)
    kernel.resume(name)


def swapped_for(seen: Observation, table: tuple[Target, ...], number: int = 0) -> Observation:
    """An observation where a device's active table is one that nobody loaded."""
    targets = tuple(LiveTarget(0, target.sectors, "linear", target.text) for target in table)
    devices = list(seen.devices)
    devices[number] = replace(devices[number], active=LiveTable(targets))
    return replace(seen, devices=tuple(devices))


# -- what there is to see ------------------------------------------------------------------


def test_an_observed_device_as_subscribers_see_it() -> None:
    host = Host()
    swap(host.kernel, GOOD)
    host.look()
    measured = document(host)
    assert (measured["live"], measured["suspended"], measured["event_nr"]) == (False, None, None)
    assert host.settle() == []
    seen = document(host)
    expected: dict[str, Any] = {**measured, "live": True, "suspended": False, "event_nr": 0}
    expected["active"] = {**measured["active"], "provenance": "both"}
    assert seen == expected
    assert [(each.active_provenance, each.inactive_provenance) for each in host.monitor.series()] == [
        ("both", None)
    ]
    assert host.monitor.observations == 1


def test_what_only_the_kernel_tells_is_kept_up_to_date() -> None:
    host = Host()
    swap(host.kernel, GOOD)
    host.settle()
    host.kernel.suspend(b"a")
    (device,) = observation(host.kernel).devices
    seen = Observation((4, 50, 0), (replace(device, event_nr=7),))
    assert host.take(seen) == (False, [])
    assert (document(host)["suspended"], document(host)["event_nr"]) == (True, 7)


def test_a_table_that_only_the_kernel_tells() -> None:
    """Its targets' types are told although the list does not have them."""
    host = Host()
    mixed = (linear(0), opaque(16))
    for table in (mixed, BAD):
        swap(host.kernel, table)
    host.settle()
    assert document(host)["active"]["record"] == 5
    swap(host.kernel, mixed)
    assert host.see() == (True, [])
    assert document(host)["active"]["hash"] == label("a", BAD)
    assert host.see() == (False, [])
    active = document(host)["active"]
    assert (active["hash"], active["provenance"], active["record"]) == (label("a", mixed), "observed", None)
    assert active["targets"] == [
        {"begin": 0, "length": 8, "type": "linear"},
        {"begin": 8, "length": 16, "type": "zero"},
    ]
    host.restart()
    host.look()
    again = document(host)
    assert (again["live"], again["active"]["provenance"]) == (False, "observed")
    assert host.see() == (False, [("watch.interrupted", "firing", "h")])
    assert document(host)["active"] == active


# -- what deduplication hid ----------------------------------------------------------------


def test_a_swap_without_a_record_from_the_look_that_finds_it_to_its_end() -> None:
    host = Host(approved(a=(GOOD,)), hold_off=2.0)
    swapped_unseen(host)
    position = host.monitor.position
    assert host.monitor.firing()["critical"] == 0
    assert host.see(20.0) == (True, [])
    assert document(host)["verdict"] == "approved"
    assert host.see(20.1) == (False, [])
    assert (document(host)["verdict"], host.monitor.position) == ("drift", position)
    assert host.tick(22.0) == []
    assert host.tick(22.1) == [("drift.active", "firing", "a")]
    assert host.last()["actual"] == label("a", BAD)
    assert host.last()["expected"] == label("a", GOOD)
    assert host.last()["evidence"] == {
        "record": None,
        "baseline": "b.toml:2",
        "witness": "observed",
        "slot": "active",
        "hash": label("a", BAD),
    }
    swap(host.kernel, GOOD)
    assert host.see(30.0) == (True, [])
    assert host.see(30.1) == (False, [("drift.active", "resolved", "a")])
    assert (host.last()["duration_seconds"], host.last()["resolved_by_record"]) == (10.0, None)


@pytest.mark.parametrize("stored", [False, True], ids=["before the commit", "after the commit"])
def test_killed_around_the_commit_of_an_observation(stored: bool) -> None:
    expected = Host(approved(a=(GOOD,)))
    swapped_unseen(expected)
    before = len(expected.disk.messages)
    expected.settle(20.0)
    assert len(ids(expected)) == before + 1

    host = Host(approved(a=(GOOD,)))
    swapped_unseen(host)
    host.see(20.0)
    if stored:
        host.see(20.0)
    else:
        host.monitor.observed(observation(host.kernel), (), 20.0)
        assert len(host.monitor.commit().messages) == 1  # which nobody will ever see
    host.restart()
    host.settle(20.0)
    host.settle(21.0)
    drift = [each for each in ids(host) if each not in ids(expected)]
    assert len(drift) == 1  # watch.interrupted
    assert set(ids(expected)) <= set(ids(host))
    assert host.monitor.firing()["critical"] == 1


def test_unsettled_observations_change_nothing() -> None:
    host = Host(approved(a=(GOOD,)))
    swap(host.kernel, GOOD)
    for start in range(100, 110):
        host.kernel.load(b"a", (linear(start),))
    host.kernel.clear(b"a")
    host.settle(10.0)
    stored, shown, series = host.disk.holds(), host.monitor.retained(), host.monitor.series()
    # Each time another table that was measured: nothing is ever seen twice.
    for start in range(100, 110):
        seen = swapped_for(observation(host.kernel), (linear(start),))
        assert host.monitor.observed(seen, (), 10.0)
        assert host.commit() == []
        assert (host.monitor.retained(), host.monitor.series()) == (shown, series)
    assert host.disk.holds()[:4] == stored[:4]


def test_a_record_between_two_looks_makes_it_look_once_more() -> None:
    host = Host(approved(a=(GOOD,)))
    swapped_unseen(host)
    assert host.see(20.0) == (True, [])
    host.kernel.load(b"a", OTHER)
    assert host.see(21.0) == (True, [("drift.inactive", "firing", "a")])
    assert host.see(22.0) == (False, [("drift.active", "firing", "a")])


# -- what no record explains ---------------------------------------------------------------


def evil(host: Host) -> Observation:
    """a has GOOD, as the list says; the kernel shows EVIL."""
    swap(host.kernel, GOOD)
    assert host.settle(10.0) == []
    return swapped_for(observation(host.kernel), EVIL)


def test_a_live_table_that_was_never_measured() -> None:
    host = Host(hold_off=60.0)
    seen = evil(host)
    assert host.take(seen, 20.0) == (True, [])
    assert host.take(seen, 20.1) == (False, [("drift.live", "firing", "a")])
    data = host.last()
    assert (data["severity"], data["expected"], data["since"]) == (
        "critical",
        label("a", GOOD),
        "1970-01-01T00:00:20.100Z",
    )
    assert data["actual"] == label("a", EVIL)
    assert (data["evidence"]["witness"], data["evidence"]["slot"]) == ("live", "active")
    assert "start=666;" in data["evidence"]["live_table"]
    assert "start=0;" in data["evidence"]["measured_table"]
    assert document(host)["active"]["hash"] == label("a", EVIL)
    for now in (21.0, 22.0, 23.0):
        assert host.take(seen, now) == (False, [])
    assert host.monitor.findings["drift.live", "critical"] == 1
    assert host.see(30.0) == (True, [])
    assert host.monitor.firing()["critical"] == 1
    assert host.see(30.1) == (False, [("drift.live", "resolved", "a")])
    assert host.monitor.firing()["critical"] == 0


BOOTS: dict[str, Callable[[], Kernel]] = {
    "measured since the boot": lambda: Kernel("ordered"),
    "measured later": lambda: Kernel("ordered", start=[boot_aggregate()]),
}


@pytest.mark.parametrize("boot", BOOTS)
def test_a_live_table_that_was_never_measured_over_a_restart(boot: str) -> None:
    host = Host()
    host.kernel = BOOTS[boot]()
    seen = evil(host)
    host.take(seen, 20.0)
    assert host.take(seen, 20.1) == (False, [("drift.live", "firing", "a")])
    fired = ids(host)[-1]
    host.restart()
    assert host.monitor.firing()["critical"] == 1
    unsettled, found = host.take(seen, 30.0)
    assert [told for told in found if told[0] != "watch.interrupted"] == []
    assert host.take(seen, 31.0) == (False, [] if not unsettled else [("watch.interrupted", "firing", "h")])
    assert host.monitor.firing()["critical"] == 1
    host.see(40.0)
    assert host.see(40.1) == (False, [("drift.live", "resolved", "a")])
    assert ids(host).count(fired) == 1
    # The same again is another occurrence of the same cause.
    host.take(seen, 50.0)
    host.take(seen, 50.1)
    assert (host.last()["code"], host.last()["occurrence"]) == ("drift.live", 2)


def test_a_doubtful_look_after_a_restart_takes_nothing_back() -> None:
    host = Host()
    seen = evil(host)
    host.take(seen, 20.0)
    host.take(seen, 20.1)
    host.restart()
    staged = replace(seen.devices[0], inactive=LiveTable((LiveTarget(0, 8, "zero", b""),)))
    assert host.take(replace(seen, devices=(staged,)), 30.0) == (True, [])
    assert host.monitor.firing()["critical"] == 1
    assert host.see(31.0) == (True, [])
    assert host.see(31.1) == (
        False,
        [("drift.live", "resolved", "a"), ("watch.interrupted", "firing", "h")],
    )


def test_the_id_of_an_unmeasured_table_is_the_same_after_death() -> None:
    found = []
    for killed in (False, True):
        host = Host()
        seen = evil(host)
        host.take(seen, 20.0)
        if killed:
            host.monitor.observed(seen, (), 20.1)
            assert len(host.monitor.commit().messages) == 1
            host.restart()
            host.take(seen, 20.0)
        host.take(seen, 20.1)
        found.append([each for each in ids(host) if json.loads(host.disk.messages[0].payload)])
    assert set(found[0]) < set(found[1])
    assert len(found[1]) == len(found[0]) + 1


def test_doubt_that_became_certainty_is_told() -> None:
    """While records may be lost, a table nobody measured is a warning; when none were, it is critical."""
    host = Host()
    seen = evil(host)
    host.lose(len(host.kernel.items))
    host.look(15.0)
    host.take(seen, 20.0)
    assert host.take(seen, 20.1) == (False, [("drift.live", "firing", "a")])
    assert host.last()["severity"] == "warning"
    assert host.compare(21.0) == (False, [("list.trimmed", "firing", "h")])
    unsettled, found = host.take(seen, 22.0)
    assert (unsettled, sorted(found)) == (
        False,
        [("drift.live", "firing", "a"), ("drift.live", "resolved", "a")],
    )
    assert host.monitor.firing() == {"info": 0, "warning": 0, "critical": 1}


def test_what_broke_by_itself() -> None:
    host = Host()
    swap(host.kernel, VERITY)
    assert host.settle(10.0) == []
    broken = (replace(VERITY[0], text=VERITY[0].text.replace(b"hash_failed=V", b"hash_failed=C")),)
    seen = swapped_for(observation(host.kernel), broken)
    assert host.take(seen, 20.0) == (False, [("target.degraded", "firing", "a")])
    assert host.take(seen, 20.1) == (False, [])
    assert host.last()["severity"] == "warning"
    assert "hash_failed" in host.last()["evidence"]["attributes"]
    assert document(host)["active"]["hash"] == label("a", VERITY)
    assert host.see(30.0) == (False, [("target.degraded", "resolved", "a")])


def test_a_device_that_was_never_measured() -> None:
    host = Host()
    swap(host.kernel, GOOD)
    host.settle(10.0)
    device = replace(observation(host.kernel).devices[0], minor=9, name=b"ghost\xff")
    seen = replace(observation(host.kernel), devices=(*observation(host.kernel).devices, device))
    assert host.take(seen, 20.0) == (True, [])
    assert host.take(seen, 20.1) == (False, [("measurement.absent", "firing", r"ghost\xff")])
    assert (host.last()["severity"], host.last()["device"]["key"]) == ("critical", "254:9")
    assert document(host, "254:9")["active"]["provenance"] == "observed"
    host.see(30.0)
    assert host.see(30.1) == (False, [("measurement.absent", "resolved", r"ghost\xff")])
    assert list(host.monitor.retained()) == ["dmimad/v1/h/device/254:0"]


def test_information_about_live_tables_is_counted_once_and_not_told() -> None:
    """Nobody knows what was measured before the list begins."""
    host = Host()
    host.kernel = Kernel("ordered", start=[])
    swap(host.kernel, GOOD)
    seen = replace(observation(host.kernel).devices[0], minor=9, name=b"b")
    for now in (10.0, 11.0, 12.0, 13.0):
        host.take(replace(observation(host.kernel), devices=(seen,)), now)
    assert host.disk.messages == []
    assert host.monitor.findings == {("measurement.absent", "info"): 1}


# -- devices that went ---------------------------------------------------------------------


def deactivated_unseen(host: Host) -> None:
    """a was removed and made again, as it was; then removed again, which leaves no record."""
    swap(host.kernel, GOOD)
    host.settle(10.0)
    host.kernel.remove(b"a")
    host.settle(11.0)
    swap(host.kernel, GOOD)
    host.settle(12.0)
    assert list(host.monitor.retained()) == ["dmimad/v1/h/device/254:0"]
    host.kernel.remove(b"a")


@pytest.mark.parametrize(
    ("entry", "code"),
    [('name = "a"', "device.removed"), ('name = "a"\nrequired = true', "device.missing")],
)
def test_a_device_that_went_and_came_back_without_a_record(entry: str, code: str) -> None:
    host = Host(listed(entry))
    deactivated_unseen(host)
    assert host.monitor.firing() == {"info": 0, "warning": 0, "critical": 0}
    records = len(host.kernel.items)
    assert host.see(20.0) == (True, [])
    assert host.see(20.1) == (False, [(code, "firing", "a")])
    assert host.last()["evidence"]["record"] is None
    assert (host.monitor.retained(), host.disk.devices) == ({}, {})
    swap(host.kernel, GOOD)
    assert host.see(30.0) == (True, [])
    assert host.see(30.1) == (False, [(code, "resolved", "a")])
    assert (len(host.kernel.items), host.last()["resolved_by_record"]) == (records, None)
    assert document(host)["active"]["hash"] == label("a", GOOD)


def test_a_device_that_went_while_nobody_watched() -> None:
    host = Host(listed('name = "a"'))
    deactivated_unseen(host)
    host.restart()
    assert host.see(20.0) == (True, [])
    assert host.see(20.1) == (
        False,
        [("device.removed", "firing", "a"), ("watch.interrupted", "firing", "h")],
    )


def test_a_device_in_the_place_of_another() -> None:
    """The number is the same, the device is not, and neither the removal nor the creation is in the list."""
    host = Host(listed('name = "a"', 'name = "b"'))
    for name in (b"a", b"b"):
        swap(host.kernel, GOOD, name)
        host.settle(10.0)
        host.kernel.remove(name)
        host.settle(11.0)
    swap(host.kernel, GOOD, b"a")
    host.settle(12.0)
    assert host.monitor.firing()["warning"] == 1  # b
    host.kernel.remove(b"a")
    swap(host.kernel, GOOD, b"b")
    assert host.see(20.0) == (True, [])
    unsettled, found = host.see(20.1)
    assert (unsettled, sorted(found)) == (
        False,
        [("device.removed", "firing", "a"), ("device.removed", "resolved", "b")],
    )
    assert document(host)["name"] == "b"


def test_a_device_under_another_number_is_not_removed() -> None:
    host = Host(listed('name = "a"'))
    host.kernel.create(b"x", GOOD)
    host.kernel.create(b"a", GOOD)
    host.settle(10.0)
    before = observation(host.kernel)
    other = replace(before.devices[1], minor=5)
    host.take(replace(before, devices=(before.devices[0], other)), 20.0)
    _, found = host.take(replace(before, devices=(before.devices[0], other)), 20.1)
    assert ("device.removed", "firing", "a") not in found
    assert sorted(host.monitor.retained()) == ["dmimad/v1/h/device/254:0", "dmimad/v1/h/device/254:5"]


# -- what left no trace --------------------------------------------------------------------


def test_activity_without_a_record_is_announced_once_for_device_and_position() -> None:
    host = Host(hold_off=60.0)
    swap(host.kernel, GOOD)
    host.settle(10.0)
    host.settle(11.0)
    told = ("activity.unrecorded", "firing", "a")
    assert host.see(20.0, active=[(254, 0)]) == (False, [told])
    assert (host.last()["severity"], host.last()["evidence"]["witness"]) == ("info", "live")
    assert "a (254:0)" in host.last()["message"]
    assert host.see(21.0, active=[(254, 0)]) == (False, [])
    assert host.see(22.0, active=[(254, 7)]) == (False, [("activity.unrecorded", "firing", "h")])
    assert "device 254:7 came and went" in host.last()["message"]
    host.restart()
    assert host.see(30.0, active=[(254, 0)]) == (False, [("watch.interrupted", "firing", "h")])
    host.kernel.create(b"b", GOOD)
    host.settle(40.0)
    host.settle(41.0)
    assert host.see(42.0, active=[(254, 0)]) == (False, [told])
    assert len(set(ids(host))) == len(ids(host)) == 4


def test_an_interruption_is_announced_once_and_only_to_those_who_look() -> None:
    host = Host()
    swap(host.kernel, GOOD)
    assert host.settle(10.0) == []  # nobody had been watching before
    host.restart()
    assert host.look(20.0) == []
    swap(host.kernel, BAD)
    swap(host.kernel, GOOD)
    assert host.see(21.0) == (True, [])
    assert host.see(22.0) == (False, [("watch.interrupted", "firing", "h")])
    assert host.last()["severity"] == "info"
    assert host.last()["evidence"]["since"] == "1970-01-01T00:00:10.000Z"
    assert host.last()["evidence"]["until"] == "1970-01-01T00:00:22.000Z"
    assert host.settle(30.0) == []
    host.restart()
    assert host.settle(40.0) == [("watch.interrupted", "firing", "h")]
    assert host.last()["evidence"]["since"] == "1970-01-01T00:00:30.000Z"


def test_an_interruption_begins_with_the_first_of_several_deaths() -> None:
    host = Host()
    swap(host.kernel, GOOD)
    host.settle(10.0)
    for now in (20.0, 30.0):
        host.restart()
        host.look(now)  # and nobody has looked at the live tables when it dies
    host.restart()
    assert host.settle(40.0) == [("watch.interrupted", "firing", "h")]
    assert host.last()["evidence"]["since"] == "1970-01-01T00:00:10.000Z"


@pytest.mark.parametrize("stored", [1e300, -1.0, "x", None, 5, 253_402_300_800.0])
def test_a_stored_time_that_is_none(stored: object) -> None:
    host = Host()
    host.kernel.create(b"a", GOOD)
    host.look(10.0)
    assert host.disk.checkpoint is not None
    whole = json.loads(host.disk.checkpoint)
    host.disk.checkpoint = json.dumps({**whole, "last_read": stored, "unwatched_since": stored})
    host.restart()
    assert host.settle(20.0) == []


def test_an_observation_of_nothing_with_a_baseline() -> None:
    host = Host(listed('name = "m"\nrequired = true'))
    assert host.see(10.0) == (False, [("device.missing", "firing", "m")])
    assert host.see(11.0) == (False, [])
    assert host.monitor.retained() == {}


def test_a_device_without_numbers_is_seen_under_them() -> None:
    host = Host(Baseline())
    host.kernel.create(b"a")
    host.kernel.clear(b"a")
    host.look(10.0)
    assert next(iter(host.monitor.retained())).startswith("dmimad/v1/h/device/name-")
    told: Told = host.settle(20.0)
    assert told == []
    assert list(host.monitor.retained()) == ["dmimad/v1/h/device/254:0"]
    assert list(host.disk.devices) == ["254:0"]
    assert document(host)["live"] is True


def live_device(**changes: Any) -> LiveDevice:
    """Some device."""
    return replace(LiveDevice(254, 0, b"a", b"", False, False, 0, None, None), **changes)


def test_slots_that_the_kernel_does_not_tell() -> None:
    host = Host()
    unknown = live_device(active=LiveTable(None))
    host.take(Observation((4, 50, 0), (unknown,)), 10.0)
    host.take(Observation((4, 50, 0), (unknown,)), 11.0)
    active = document(host)["active"]
    assert (active["hash"], active["targets"], active["record"]) == ("unknown", [], None)
