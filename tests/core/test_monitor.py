"""The monitor as the daemon drives it: bytes and time in, one commit out, killed at any record.

The lists are those of the model kernel and the recorded ones; the disk here has the store's semantics
without its database.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmimad.core.baseline import Baseline
from dmimad.core.commit import Stored
from dmimad.core.errors import ResumeError
from dmimad.core.event import printable
from dmimad.core.monitor import Monitor, Policy
from dmimad.core.snapshot import DeviceSeries
from dmimad.core.source import CaughtUp, Chunk, Restarted, SourceEvent, Unavailable
from tests.core import recorded
from tests.core.histories import BOUNDED, RENAMES, Operation, operations, perform
from tests.core.kernel import DIALECTS, Kernel, linears, opaque
from tests.core.lists import Item, ascii_record, binary_record, violation
from tests.core.monitored import BAD, GOOD, OTHER, Disk, Host, Told, approved, encoded, label, listed, told
from tests.core.replaying import replay


def fingerprint(start: int) -> str:
    """Of the model kernel's linear target of 8 sectors on a device that nobody names."""
    text = f'["dmimad-config-1",[[8,"linear",[["device_name","number:1:0","device"],["start","{start}"]]]]]'
    return "config:" + hashlib.sha256(text.encode()).hexdigest()


def at(start: str) -> str:
    """The fingerprint of a linear table that begins there."""
    settings = f'["device_name","number:1:0","device"],["start","{start}"]'
    text = f'["dmimad-config-1",[[8,"linear",[{settings}]]]]'
    return "config:" + hashlib.sha256(text.encode()).hexdigest()


# -- the main path -------------------------------------------------------------------------


def test_without_a_baseline_devices_are_followed_and_nothing_is_told() -> None:
    host = Host()
    host.kernel.create(b"a", GOOD)
    host.kernel.load(b"a", BAD)
    assert host.look() == []
    good, bad = label("a", GOOD), label("a", BAD)
    staged = DeviceSeries("a", "", good, bad, False, False, "measured", "measured", at("0"), at("8"))
    assert host.monitor.series() == [staged]
    assert (host.monitor.records, host.monitor.position, host.monitor.broken) == (5, 5, "")
    assert {kind: count for kind, count in host.monitor.dm_events.items() if count} == {
        "table_load": 2,
        "device_resume": 1,
    }
    assert len(host.monitor.dm_events) == 6
    (topic,) = host.monitor.retained()
    assert topic == "dmimad/v1/h/device/254:0"
    assert json.loads(host.monitor.retained()[topic]) == {
        "key": "254:0",
        "name": "a",
        "uuid": "",
        "major": 254,
        "minor": 0,
        "active": {
            "hash": good,
            "fingerprint": fingerprint(0),
            "name": "a",
            "uuid": "",
            "num_targets": 1,
            "provenance": "measured",
            "record": 3,
            "targets": [{"begin": 0, "length": 8, "type": "linear"}],
        },
        "inactive": {
            "hash": bad,
            "fingerprint": fingerprint(8),
            "name": "a",
            "uuid": "",
            "num_targets": 1,
            "provenance": "measured",
            "record": 4,
            "targets": [{"begin": 0, "length": 8, "type": "linear"}],
        },
        "live": False,
        "suspended": None,
        "event_nr": None,
        "verdict": "unknown",
        "drift": {"active": False, "inactive": False},
    }


def test_a_table_that_is_not_approved_from_load_to_repair() -> None:
    host = Host(approved(a=(GOOD, OTHER)))
    host.kernel.create(b"a", GOOD)
    assert host.look(10.0) == []
    host.kernel.load(b"a", BAD)
    assert host.look(20.0) == [("drift.inactive", "firing", "a")]
    assert host.monitor.firing() == {"info": 0, "warning": 1, "critical": 0}
    host.kernel.resume(b"a")
    assert host.look(30.0) == [("drift.inactive", "resolved", "a"), ("drift.active", "firing", "a")]
    found = json.loads(host.disk.messages[-1].payload)
    assert found["data"]["evidence"] == {
        "record": 5,
        "baseline": "b.toml:2",
        "witness": "measured",
        "slot": "active",
        "hash": label("a", BAD),
        "template_digest": host.kernel.items[5].template_digest().hex(),
        "event": "device_resume",
    }
    assert found["data"]["actual"] == label("a", BAD)
    assert found["time"] == "1970-01-01T00:00:30.000Z"
    (document,) = map(json.loads, host.monitor.retained().values())
    assert (document["verdict"], document["drift"]) == ("drift", {"active": True, "inactive": False})
    assert host.monitor.firing() == {"info": 0, "warning": 0, "critical": 1}
    host.kernel.load(b"a", OTHER)
    assert host.look(40.0) == []
    host.kernel.resume(b"a")
    assert host.look(50.0) == [("drift.active", "resolved", "a")]
    assert (host.last()["duration_seconds"], host.last()["resolved_by_record"]) == (20.0, 7)
    sequences = [json.loads(message.payload)["sequence"] for message in host.disk.messages]
    assert [int(sequence) for sequence in sequences] == [1, 2, 3, 4]
    assert host.monitor.findings == {("drift.inactive", "warning"): 1, ("drift.active", "critical"): 1}


def test_what_goes_within_the_hold_off_is_not_told() -> None:
    host = Host(approved(a=(GOOD,)), hold_off=2.0)
    host.kernel.create(b"a", GOOD)
    host.kernel.load(b"a", BAD)
    assert host.look(10.0) == []
    assert host.monitor.next_due() == 12.0
    host.kernel.clear(b"a")
    assert host.look(11.0) == []
    assert host.monitor.next_due() is None
    assert host.disk.alerts == {}


def test_what_stays_is_told_when_the_hold_off_is_over() -> None:
    host = Host(approved(a=(GOOD,)), hold_off=2.0)
    host.kernel.create(b"a", BAD)
    assert host.look(10.0) == []
    assert host.tick(11.9) == []
    assert host.tick(12.0) == [("drift.active", "firing", "a")]
    assert host.tick(13.0) == []
    assert json.loads(host.disk.messages[0].payload)["data"]["since"] == "1970-01-01T00:00:10.000Z"


def test_a_clock_that_was_set_back() -> None:
    host = Host(approved(a=(GOOD,)), hold_off=2.0)
    host.kernel.create(b"a", BAD)
    host.look(1000.0)
    assert host.tick(10.0) == []
    assert host.tick(12.0) == [("drift.active", "firing", "a")]


def test_a_device_that_goes_takes_its_alerts_and_its_topic_along() -> None:
    host = Host(approved(a=(GOOD,)))
    host.kernel.create(b"a", BAD)
    host.look(10.0)
    host.kernel.remove(b"a")
    assert host.look(20.0) == [("drift.active", "resolved", "a"), ("device.removed", "firing", "a")]
    evidence = host.last()["evidence"]
    assert (evidence["record"], evidence["event"]) == (4, "device_remove")
    assert evidence["template_digest"] == host.kernel.items[4].template_digest().hex()
    assert (host.monitor.retained(), host.monitor.series(), host.disk.devices) == ({}, [], {})
    host.kernel.create(b"a", OTHER)
    assert host.look(30.0) == [
        ("device.removed", "resolved", "a"),
        ("drift.inactive", "firing", "a"),
        ("drift.inactive", "resolved", "a"),
        ("drift.active", "firing", "a"),
    ]


def test_unexpected_devices() -> None:
    host = Host(listed('name = "a"'))
    host.kernel.create(b"a", GOOD)
    host.kernel.create(b"x", GOOD)
    assert host.look(10.0) == [("device.unexpected", "firing", "x")]
    host.kernel.rename(b"x", b"y")
    assert host.look(20.0) == []
    host.kernel.remove(b"y")
    assert host.look(30.0) == [("device.unexpected", "resolved", "x")]


# -- missing and removed -------------------------------------------------------------------


def test_a_required_device_is_missing_only_when_the_list_has_been_read() -> None:
    host = Host(listed('name = "a"\nrequired = true'))
    host.feed(10.0)
    assert host.commit() == []
    assert host.look(11.0) == [("device.missing", "firing", "a")]
    assert host.last()["evidence"] == {"record": None, "baseline": "b.toml:2"}
    host.kernel.create(b"a")
    host.kernel.load(b"a", GOOD)
    assert host.look(12.0) == []
    host.kernel.resume(b"a")
    assert host.look(13.0) == [("device.missing", "resolved", "a")]
    assert host.last()["resolved_by_record"] == 3
    host.kernel.remove(b"a")
    assert host.look(14.0) == [("device.missing", "firing", "a")]
    assert host.last()["evidence"] == {
        "record": 4,
        "baseline": "b.toml:2",
        "template_digest": host.kernel.items[4].template_digest().hex(),
        "event": "device_remove",
    }
    assert host.last()["occurrence"] == 2


@pytest.mark.parametrize(
    ("lines", "after"),
    [
        (('name = "a"', 'name = "b"'), []),
        (('name = "b"',), [("device.removed", "resolved", "a")]),
        ((), [("device.removed", "resolved", "a")]),
        (
            ('name = "a"\nrequired = true',),
            [("device.removed", "resolved", "a"), ("device.missing", "firing", "a")],
        ),
    ],
    ids=["still wanted", "another", "no baseline", "required now"],
)
def test_a_removal_ends_when_nobody_asks_for_the_device(lines: tuple[str, ...], after: Told) -> None:
    host = Host(listed('name = "a"'))
    host.kernel.create(b"a", GOOD)
    host.kernel.remove(b"a")
    assert host.look(10.0) == [("device.removed", "firing", "a")]
    host.monitor.set_baseline(listed(*lines), 20.0)
    assert host.commit() == after


# -- reloads -------------------------------------------------------------------------------


def test_another_baseline_resolves_and_fires() -> None:
    host = Host(approved(a=(GOOD,)))
    host.kernel.create(b"a", BAD)
    host.kernel.create(b"b", GOOD)
    host.look(10.0)
    assert host.monitor.firing() == {"info": 0, "warning": 1, "critical": 1}
    host.monitor.set_baseline(approved(a=(BAD,), b=(OTHER,)), 20.0)
    assert host.commit() == [
        ("drift.active", "resolved", "a"),
        ("device.unexpected", "resolved", "b"),
        ("drift.active", "firing", "b"),
    ]
    host.monitor.set_baseline(approved(a=(BAD,), b=(OTHER,)), 30.0)
    assert host.commit() == []
    host.monitor.set_baseline(Baseline(), 40.0)
    assert host.commit() == [("drift.active", "resolved", "b")]


def test_a_reload_before_the_list_is_read_says_nothing_of_missing_devices() -> None:
    host = Host()
    host.feed(10.0)
    host.monitor.set_baseline(listed('name = "a"\nrequired = true'), 11.0)
    assert host.commit() == []
    assert host.look(12.0) == [("device.missing", "firing", "a")]


def test_other_settings() -> None:
    host = Host(listed('name = "a"'), hold_off=60.0)
    host.kernel.create(b"x", GOOD)
    assert host.look(10.0) == []
    host.monitor.set_policy(Policy("other", 1.0), 20.0)
    assert host.commit() == [("device.unexpected", "firing", "x")]
    assert json.loads(host.disk.messages[0].payload)["source"] == "other"
    host.monitor.set_policy(Policy("other", 1.0, report_unexpected=False), 30.0)
    assert host.commit() == [("device.unexpected", "resolved", "x")]
    assert list(host.monitor.retained()) == ["dmimad/v1/other/device/254:0"]


def test_settings_and_a_baseline_are_in_force_at_one_instant() -> None:
    host = Host(listed('name = "x"'), hold_off=0.0)
    host.kernel.create(b"x", GOOD)
    assert host.look(10.0) == []
    other = listed('name = "y"')
    host.monitor.set_policy(Policy("other", 0.0, report_unexpected=False), 20.0, other)
    assert (host.commit(), host.monitor.baseline) == ([], other)


# -- evidence of the list itself -----------------------------------------------------------


def test_a_forged_record_is_told_at_once_and_stays() -> None:
    host = Host(hold_off=60.0)
    host.kernel.create(b"a", GOOD)
    host.kernel.items[2] = replace(host.kernel.items[2], digest=b"\x66" * 20)
    assert host.look(10.0) == [("record.template_digest", "firing", "h")]
    assert host.last()["evidence"] == {"record": 2, "template_digest": "66" * 20}
    host.kernel.remove(b"a")
    assert host.look(20.0) == []
    assert host.monitor.firing()["critical"] == 1


def test_a_finding_about_a_device_names_it() -> None:
    host = Host(hold_off=60.0, dialect="legacy")
    host.kernel.create(b"a", GOOD)
    del host.kernel.items[2]
    assert host.look(10.0) == [("table.unmeasured", "firing", "a")]
    evidence = host.last()["evidence"]
    assert (evidence["record"], evidence["table"]) == (2, label("a", GOOD, "legacy"))
    assert evidence["template_digest"] == host.kernel.items[2].template_digest().hex()
    host.kernel.load(b"a", BAD)
    host.kernel.resume(b"a")
    assert host.look(20.0) == [("table.unmeasured", "resolved", "a")]


def test_information_is_counted_and_not_told() -> None:
    host = Host()
    host.kernel.create(b"a", (opaque(),))
    host.kernel.items.append(violation())
    assert host.look() == []
    assert host.monitor.findings == {("target.opaque", "info"): 1, ("violations.increased", "info"): 1}


def test_a_target_that_is_not_measured_is_told_while_the_table_is_there() -> None:
    host = Host(hold_off=60.0, dialect="legacy")
    count = next(
        count
        for count in range(30, 45)
        if ("target.unmeasured", "warning", 2) in replay_of(linears(count)).alarms
    )
    host.kernel.create(b"a", linears(count))
    assert host.look(10.0) == [("target.unmeasured", "firing", "a")]
    host.kernel.load(b"a", GOOD)
    assert host.look(20.0) == []
    host.kernel.resume(b"a")
    assert host.look(30.0) == [("target.unmeasured", "resolved", "a")]


def replay_of(table: tuple[Any, ...]) -> Any:
    kernel = Kernel("legacy")
    kernel.create(b"a", table)
    return replay(b"".join(map(binary_record, kernel.items)))


def test_a_state_no_kernel_writes_stays_with_its_device() -> None:
    host = Host(dialect="legacy")
    host.kernel.create(b"a", GOOD)
    host.kernel.create(b"b", BAD)
    host.kernel.remove(b"b")
    host.look(10.0)
    del host.kernel.items[4:6]  # b has never been loaded nor resumed
    other = Host(dialect="legacy")
    other.kernel.items = host.kernel.items
    assert ("table.unmeasured", "firing", "b") in other.look(10.0)


def test_a_list_that_cannot_be_read_on() -> None:
    host = Host()
    host.look()
    host.monitor.feed(b"\xff" * 200, 101.0)
    assert host.commit() == [("record.malformed", "firing", "h")]
    assert "no template name" in host.monitor.broken


def test_a_device_whose_number_is_told_later_keeps_no_former_key() -> None:
    host = Host(listed('name = "nothing"'))
    host.kernel.create(b"a")
    host.kernel.clear(b"a")
    assert host.look(10.0) == [("device.unexpected", "firing", "a")]
    (former,) = host.disk.devices
    assert former.startswith("name-")
    host.kernel.load(b"a", GOOD)
    assert host.look(20.0) == [("device.unexpected", "resolved", "a"), ("device.unexpected", "firing", "a")]
    assert list(host.disk.devices) == ["254:0"]
    assert list(host.monitor.retained()) == ["dmimad/v1/h/device/254:0"]


def test_a_device_replaced_unseen_is_removed() -> None:
    host = Host(listed('name = "a"', 'name = "b"'), dialect="legacy")
    host.kernel.create(b"a", GOOD)
    host.kernel.remove(b"a")
    host.kernel.create(b"b", GOOD)
    del host.kernel.items[4]
    assert ("device.removed", "firing", "a") in host.look(10.0)
    assert next(map(json.loads, host.disk.devices.values()))["name"] == "b"


# -- the list begins again -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("replaced", "list.restarted"),
        ("truncated", "list.restarted"),
        ("", None),
    ],
)
def test_a_list_that_begins_again_is_announced_once(reason: str, code: str | None) -> None:
    host = Host(hold_off=60.0)
    host.look(10.0)
    host.monitor.start_over("boot-2", 20.0, reason)
    assert host.commit() == ([] if code is None else [(code, "firing", "h")])
    host.read = 0
    assert host.look(30.0) == []
    host.boot = "boot-2"
    host.restart()
    assert host.look(40.0) == []


def test_kexec_is_announced_and_forgets_devices_quietly() -> None:
    host = Host(listed('name = "a*"'))
    host.kernel.create(b"a", GOOD)
    host.kernel.create(b"x", GOOD)
    assert host.look(10.0) == [("device.unexpected", "firing", "x")]
    host.kernel.kexec(b"another", "legacy")
    assert host.look(20.0) == [("device.unexpected", "resolved", "x"), ("list.restarted", "firing", "h")]
    assert host.disk.devices == {}
    assert host.monitor.firing() == {"info": 0, "warning": 0, "critical": 0}


def test_alerts_of_before_resolve_when_the_new_list_is_read() -> None:
    host = Host(listed('name = "a"', 'name = "m"\nrequired = true', 'name = "n"\nrequired = true'))
    host.kernel.create(b"a", GOOD)
    host.kernel.create(b"x", GOOD)
    host.kernel.create(b"y", GOOD)
    host.kernel.remove(b"a")
    assert sorted(host.look(10.0)) == [
        ("device.missing", "firing", "m"),
        ("device.missing", "firing", "n"),
        ("device.removed", "firing", "a"),
        ("device.unexpected", "firing", "x"),
        ("device.unexpected", "firing", "y"),
    ]
    host.kernel = Kernel("ordered")
    host.kernel.create(b"x", GOOD)
    host.kernel.create(b"m", GOOD)
    host.monitor.start_over("boot-2", 20.0)
    host.read = 0
    host.feed(21.0)
    assert host.commit() == [("device.unexpected", "firing", "x")]
    host.monitor.caught_up(22.0)
    # What is still missing, and still removed, is not told again.
    assert sorted(host.commit()) == [
        ("device.missing", "resolved", "m"),
        ("device.unexpected", "resolved", "x"),
        ("device.unexpected", "resolved", "y"),
    ]
    host.kernel.create(b"a", GOOD)
    host.kernel.create(b"n", GOOD)
    assert sorted(host.look(30.0)) == [
        ("device.missing", "resolved", "n"),
        ("device.removed", "resolved", "a"),
    ]


def test_a_removed_device_that_the_new_list_has_resolves_when_it_is_read() -> None:
    host = Host(listed('name = "a"'))
    host.kernel.create(b"a", GOOD)
    host.kernel.remove(b"a")
    assert host.look(10.0) == [("device.removed", "firing", "a")]
    disk, kernel = host.disk, Kernel("ordered")
    kernel.create(b"a", GOOD)
    other = Host(listed('name = "a"'), boot="boot-2")
    other.disk, other.kernel = disk, kernel
    with pytest.raises(ResumeError, match=r"^the stored state is of another boot$"):
        other.monitor.resume(disk.load())
    other.monitor.start_over("boot-2", 20.0)
    assert other.look(30.0) == [("device.removed", "resolved", "a")]


def test_the_same_list_read_again_tells_nothing_twice() -> None:
    """The ids and keys of one reading are not those of the next, but each cause is told and resolved once."""
    host = Host(approved(a=(GOOD,)))
    host.kernel.create(b"a", BAD)
    assert host.look(10.0) == [
        ("drift.inactive", "firing", "a"),
        ("drift.inactive", "resolved", "a"),
        ("drift.active", "firing", "a"),
    ]
    host.monitor.start_over("boot", 20.0, "replaced")
    host.read = 0
    counted = host.look(30.0)
    assert (
        counted.count(("drift.active", "firing", "a"))
        == counted.count(("drift.active", "resolved", "a"))
        == 1
    )
    assert host.monitor.firing()["critical"] == 1
    assert host.look(40.0) == []


# -- going on after a restart --------------------------------------------------------------


def test_nothing_stored_begins_at_the_first_byte() -> None:
    assert Monitor(Policy("h"), Baseline(), "boot").resume(Stored()) == 0


def test_an_empty_list_that_was_stored() -> None:
    host = Host()
    host.monitor.caught_up(1.0)
    host.commit()
    other = Monitor(Policy("h"), Baseline(), "boot")
    assert other.resume(host.disk.load()) == 0
    other.feed(b"".join(map(binary_record, host.kernel.items)), 2.0)
    assert other.position == 2


def test_a_restart_goes_on_where_it_was() -> None:
    host = Host(approved(a=(GOOD,)))
    host.kernel.create(b"a", BAD)
    host.look(10.0)
    before = host.monitor.retained()
    host.restart()
    assert (host.monitor.retained(), host.monitor.last_read) == (before, 10.0)
    assert host.monitor.firing()["critical"] == 1
    assert host.look(20.0) == []
    assert host.monitor.position == 4
    host.kernel.load(b"a", GOOD)
    host.kernel.resume(b"a")
    assert host.look(30.0) == [("drift.active", "resolved", "a")]
    assert host.last()["duration_seconds"] == 20.0


def test_a_baseline_changed_while_the_daemon_was_down() -> None:
    host = Host(approved(a=(GOOD,)))
    host.kernel.create(b"a", GOOD)
    assert host.look(10.0) == []
    host.baseline = approved(a=(OTHER,))
    host.restart()
    (document,) = map(json.loads, host.monitor.retained().values())
    assert document["verdict"] == "drift"
    host.feed(20.0)
    assert host.commit() == []
    host.monitor.caught_up(21.0)
    assert host.commit() == [("drift.active", "firing", "a")]
    evidence = host.last()["evidence"]
    assert (evidence["record"], evidence["event"]) == (3, "device_resume")


@pytest.mark.parametrize(
    ("gap", "table", "at_once"), [(2.0, BAD, True), (1.9, BAD, False), (9.0, GOOD, False)]
)
def test_a_drift_that_nobody_watched(gap: float, table: tuple[Any, ...], at_once: bool) -> None:
    host = Host(approved(a=(GOOD,)), hold_off=2.0)
    host.kernel.create(b"a", GOOD)
    host.look(10.0)
    host.restart()
    host.kernel.load(b"a", BAD)
    if table is BAD:
        host.kernel.resume(b"a")
        host.kernel.load(b"a", GOOD)
    else:
        host.kernel.clear(b"a")
    assert host.look(10.0 + gap) == ([("drift.active", "firing", "a")] if at_once else [])


def test_what_is_lost_from_sight_and_seen_again() -> None:
    host = Host(approved(a=(GOOD,)), hold_off=2.0)
    host.kernel.create(b"a", GOOD)
    host.look(10.0)
    host.monitor.lost_sight()
    host.monitor.lost_sight()
    host.kernel.load(b"a", BAD)
    host.kernel.resume(b"a")
    assert host.look(20.0) == [("drift.active", "firing", "a")]
    host.kernel.load(b"a", OTHER)
    host.kernel.resume(b"a")
    assert host.look(30.0) == [("drift.active", "resolved", "a")]  # watched again: the new one has to hold


def test_a_tracker_finding_is_kept_over_a_restart() -> None:
    host = Host(dialect="legacy")
    host.kernel.create(b"a", GOOD)
    del host.kernel.items[2]
    host.look(10.0)
    host.restart()
    assert host.look(20.0) == []
    host.kernel.load(b"a", BAD)
    host.kernel.resume(b"a")
    assert host.look(30.0) == [("table.unmeasured", "resolved", "a")]


Change = Callable[[dict[str, Any]], None]


def stored_with(change: Change) -> Stored:
    """The state of a host with a device and an alert, changed."""
    host = Host(approved(a=(GOOD,)))
    host.kernel.create(b"a", BAD)
    host.look(10.0)
    stored = host.disk.load()
    assert stored.checkpoint is not None
    whole: dict[str, Any] = {
        "checkpoint": stored.checkpoint,
        "devices": stored.devices,
        "alerts": stored.alerts,
    }
    change(whole)
    return Stored(whole["checkpoint"], whole["devices"], whole["alerts"], stored.facts)


REFUSED: dict[str, tuple[Change, str]] = {
    "format": (lambda whole: whole["checkpoint"].update(format=2), "the stored state has another format"),
    "boot": (lambda whole: whole["checkpoint"].update(boot="b"), "the stored state is of another boot"),
    "sequence": (lambda whole: whole["checkpoint"].pop("sequence"), "a stored number is missing"),
    "position": (lambda whole: whole["checkpoint"].update(position=[]), "a stored object is missing"),
    "tracker": (lambda whole: whole["checkpoint"].pop("tracker"), "a stored object is missing"),
    "evidence": (lambda whole: whole["checkpoint"].update(evidence=1), "a stored object is missing"),
    "evidence of a device": (
        lambda whole: whole["devices"]["254:0"].update(evidence=1),
        "a stored object is missing",
    ),
    "index": (
        lambda whole: whole["devices"]["254:0"]["evidence"].update(x=["", ""]),
        "stored evidence is damaged",
    ),
    "pair": (
        lambda whole: whole["devices"]["254:0"]["evidence"].update({"2": ""}),
        "stored evidence is damaged",
    ),
    "triple": (
        lambda whole: whole["devices"]["254:0"]["evidence"].update({"2": ["", "", ""]}),
        "stored evidence is damaged",
    ),
    "alert": (lambda whole: whole["alerts"].update(k={}), "a stored alert is damaged"),
    "device": (lambda whole: whole["devices"]["254:0"].pop("name"), "a stored text is missing"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_state_that_is_refused(case: tuple[Change, str]) -> None:
    change, reason = case
    monitor = Monitor(Policy("h"), Baseline(), "boot")
    with pytest.raises(ResumeError) as raised:
        monitor.resume(stored_with(change))
    assert str(raised.value) == reason
    monitor.start_over("boot", 20.0)
    host = Host()
    host.kernel.create(b"a", GOOD)
    for item in host.kernel.items:
        monitor.feed(binary_record(item), 21.0)
    monitor.caught_up(22.0)
    assert len(monitor.series()) == 1


def test_alerts_and_sequence_are_kept_when_the_list_is_another() -> None:
    host = Host(approved(a=(GOOD,)))
    host.kernel.create(b"a", BAD)
    host.look(10.0)
    other = Host(approved(a=(GOOD,)), boot="boot-2")
    with pytest.raises(ResumeError):
        other.monitor.resume(host.disk.load())
    other.monitor.start_over("boot-2", 20.0, "the stored state is of another boot")
    other.disk = host.disk
    assert other.look(21.0) == [("list.restarted", "firing", "h"), ("drift.active", "resolved", "a")]
    assert [int(json.loads(message.payload)["sequence"]) for message in host.disk.messages] == [1, 2, 3, 4, 5]
    assert host.disk.devices == {}


PRINTED: dict[str, Callable[[Item], bytes]] = {"binary": binary_record, "ascii": ascii_record}


@pytest.mark.parametrize("form", PRINTED)
@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_the_list_is_recognised_by_its_last_record(form: str, piece: int) -> None:
    host = Host()
    host.kernel.create(b"a", GOOD)
    whole = b"".join(map(PRINTED[form], host.kernel.items))
    host.monitor.feed(whole, 10.0)
    host.commit()
    monitor = Monitor(Policy("h"), Baseline(), "boot")
    at = monitor.resume(host.disk.load())
    assert at == len(whole) - len(PRINTED[form](host.kernel.items[-1]))
    host.kernel.load(b"a", BAD)
    rest = b"".join(map(PRINTED[form], host.kernel.items))[at:]
    for start in range(0, len(rest), piece):
        monitor.feed(rest[start : start + piece], 20.0)
    assert monitor.position == 5
    assert [device.inactive_hash for device in monitor.series()] == [label("a", BAD)]


@pytest.mark.parametrize("form", PRINTED)
def test_another_list_is_not_taken_for_this_one(form: str) -> None:
    host, other = Host(), Host()
    host.kernel.create(b"a", GOOD)
    other.kernel.create(b"a", BAD)
    host.monitor.feed(b"".join(map(PRINTED[form], host.kernel.items)), 10.0)
    host.commit()
    monitor = Monitor(Policy("h"), Baseline(), "boot")
    at = monitor.resume(host.disk.load())
    with pytest.raises(ResumeError, match=r"^the record before the checkpoint is another one$"):
        monitor.feed(b"".join(map(PRINTED[form], other.kernel.items))[at:], 20.0)


def test_a_list_that_ends_before_the_checkpoint_is_another_one() -> None:
    host = Host()
    host.kernel.create(b"a", GOOD)
    host.look(10.0)
    host.restart()
    host.monitor.feed(b"\x0a", 20.0)
    with pytest.raises(ResumeError, match=r"^the list ends before the checkpoint$"):
        host.monitor.caught_up(20.0)


def test_a_list_opened_anew_is_recognised_by_the_same_process() -> None:
    host = Host()
    assert host.monitor.recognise_again() == 0
    host.kernel.create(b"a", GOOD)
    host.look(10.0)
    at = host.monitor.recognise_again()
    host.kernel.load(b"a", BAD)
    host.monitor.feed(b"".join(map(binary_record, host.kernel.items))[at:], 20.0)
    assert host.monitor.position == 5
    host.monitor.recognise_again()
    with pytest.raises(ResumeError):
        host.monitor.feed(binary_record(host.kernel.items[0]) * 9, 30.0)


def test_the_words_of_a_source_are_enough_to_drive_it() -> None:
    host = Host()
    host.kernel.create(b"a", GOOD)
    data = b"".join(map(binary_record, host.kernel.items))
    events: list[SourceEvent] = [
        Unavailable("no such file"),
        Chunk(data[:50], 0),
        Restarted("replaced"),
        Chunk(data[:300], 0),
        Chunk(data[300:], 300),
        CaughtUp(4),
    ]
    for now, event in enumerate(events, 10):
        match event:
            case Chunk(piece):
                host.monitor.feed(piece, float(now))
            case CaughtUp(count):
                host.monitor.caught_up(float(now))
                assert host.monitor.position == count
            case Restarted(reason):
                host.monitor.start_over("boot", float(now), reason)
            case Unavailable(lasting=lasting):
                assert lasting is False
                host.monitor.lost_sight()
    assert host.commit() == [("list.restarted", "firing", "h")]


# -- commits -------------------------------------------------------------------------------


def test_a_commit_is_kept_and_merged_until_it_is_stored() -> None:
    """A disk that is full for a while leaves the same as one that never was."""
    disks = []
    for full in (False, True):
        host = Host(approved(a=(GOOD,)))
        host.monitor.start_over("boot", 5.0, "replaced")
        for number, name in enumerate((b"a", b"b", b"c")):
            host.kernel.create(name, BAD)
            if name == b"c":
                host.kernel.remove(b"b")
            host.feed(10.0 + number)
            host.monitor.caught_up(10.0 + number)
            commit = host.monitor.commit()
            if not full or name == b"c":
                host.disk.store(commit)
                host.monitor.committed()
        assert told(host.disk.messages)[0] == ("list.restarted", "firing", "h")
        disks.append(host.disk.holds())
    assert disks[0] == disks[1]


def test_a_commit_asked_for_again_is_the_same() -> None:
    host = Host(approved(a=(GOOD,)))
    host.monitor.start_over("boot", 5.0)
    host.kernel.create(b"a", BAD)
    host.feed()
    first, second = host.monitor.commit(), host.monitor.commit()
    assert first == second
    assert first.fresh is True
    assert len(first.messages) == 3
    host.monitor.committed()
    third = host.monitor.commit()
    assert (third.fresh, third.devices, third.alerts, third.facts, third.messages) == (False, {}, {}, [], ())


# -- killed at every record ----------------------------------------------------------------


def baseline_of(name: str) -> Baseline:
    """Of every four devices of a list, one is approved, one required, one free, one unknown."""
    first: dict[bytes, str] = {}
    for step in replay(recorded.binary(name)).steps:
        if step.device is not None and step.device.active is not None:
            first.setdefault(step.device.name, step.device.active.label)
    lines = []
    for number, (device, table) in enumerate(sorted(first.items())):
        line = f"name = {json.dumps(printable(device))}\n"
        if number % 4 < 2:
            line += f'hashes = ["{table}"]\n'
        if number % 4 == 1:
            line += "required = true\n"
        if number % 4 < 3:
            lines.append(line)
    return listed(*lines)


class Run:
    """A list that is read record by record, at times that the records tell, with or without being killed."""

    def __init__(self, records: list[bytes], baseline: Baseline, *, live: bool) -> None:
        self.records, self.baseline, self.live = records, baseline, live
        self.data = b"".join(records)
        self.disk = Disk()
        self.monitor = self._monitor()

    def _monitor(self) -> Monitor:
        return Monitor(Policy("h", 0.0), self.baseline, "boot")

    def step(self, index: int, data: bytes | None = None) -> None:
        self.monitor.feed(self.records[index] if data is None else data, 1000.0 + index)
        if self.live:
            self.monitor.caught_up(1000.0 + index)

    def commit(self) -> None:
        self.disk.store(self.monitor.commit())
        self.monitor.committed()

    def revive(self, index: int) -> None:
        """Another process, which reads the last record again and then record ``index``."""
        self.monitor = self._monitor()
        end = sum(map(len, self.records[:index]))
        at = self.monitor.resume(self.disk.load())
        assert at == end - (len(self.records[index - 1]) if index else 0)
        self.step(index, self.data[at : end + len(self.records[index])])

    def end(self) -> tuple[object, ...]:
        """What is left: messages, devices, alerts, topics, series."""
        self.monitor.caught_up(9000.0)
        self.commit()
        return (*self.disk.holds(), self.monitor.retained(), sorted(map(repr, self.monitor.series())))


def records_of(items: Iterable[Item]) -> list[bytes]:
    return [binary_record(item) for item in items]


@pytest.mark.parametrize(
    ("name", "live", "every"),
    [("random-6.1", True, 1), ("random-6.1", False, 5), ("systematic-7.2", True, 9), ("lvm-6.1", True, 67)],
)
def test_killed_at_any_record_it_tells_the_same(name: str, live: bool, every: int) -> None:
    records, baseline = records_of(recorded.items(name)), baseline_of(name)
    run, snapshots = Run(records, baseline, live=live), []
    for index in range(len(records)):
        snapshots.append(run.disk.copy())
        run.step(index)
        run.commit()
    expected = run.end()
    assert len(run.disk.messages) > 50
    for index, disk in list(enumerate(snapshots))[::every]:
        again = Run(records, baseline, live=live)
        again.disk = disk
        again.revive(index)
        for later in range(index + 1, len(records)):
            again.step(later)
        assert again.end() == expected, f"killed before record {index}"


@pytest.mark.parametrize("live", [False, True], ids=["read in one go", "watched"])
@pytest.mark.parametrize("name", recorded.LISTS)
def test_killed_after_every_record_it_tells_the_same(name: str, live: bool) -> None:
    records, baseline = records_of(recorded.items(name)), baseline_of(name)
    run, again = Run(records, baseline, live=live), Run(records, baseline, live=live)
    for index in range(len(records)):
        run.step(index)
        again.revive(index)
        again.commit()
    assert again.end() == run.end()
    assert len({message.payload for message in run.disk.messages}) == len(run.disk.messages) > 50


@settings(BOUNDED, max_examples=15)
@given(st.sampled_from(DIALECTS), operations(RENAMES))
def test_killed_after_every_record_of_any_history(dialect: str, history: list[Operation]) -> None:
    kernel = Kernel(dialect)
    for _ in perform(kernel, history):
        pass
    baseline = listed(
        'name = "a"\nrequired = true', f'name = "b"\nhashes = ["{label("b", GOOD)}"]', 'uuid = "LVM*"'
    )
    records = records_of(kernel.items)
    run, again = Run(records, baseline, live=True), Run(records, baseline, live=True)
    for index in range(len(records)):
        run.step(index)
        again.revive(index)
        again.commit()
    assert again.end() == run.end()


# -- damaged state -------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@settings(BOUNDED, max_examples=200)
@given(st.data())
def test_damaged_state_is_refused_or_harmless(data: st.DataObject) -> None:
    """Whatever stands in the stored documents: it is refused in one way, or reading goes on."""
    stored = rich_state()
    assert stored.checkpoint is not None
    holder: Any = {"checkpoint": stored.checkpoint, "devices": stored.devices, "alerts": stored.alerts}
    whole, kept = holder, None
    while isinstance(holder, dict | list) and holder and (kept is None or data.draw(st.integers(0, 3))):
        keys = sorted(holder) if isinstance(holder, dict) else list(range(len(holder)))
        kept = (holder, data.draw(st.sampled_from(keys)))
        holder = holder[kept[1]]
    assert kept is not None
    kept[0][kept[1]] = data.draw(JSON)
    if not all(isinstance(whole[name], dict) for name in whole) or not all(
        isinstance(document, dict) for name in ("devices", "alerts") for document in whole[name].values()
    ):
        return  # the store itself sees to that
    host = rich_host()
    monitor = Monitor(host.policy, host.baseline, "boot")
    rest = b"".join(records_of(host.kernel.items))
    try:
        at = monitor.resume(Stored(whole["checkpoint"], whole["devices"], whole["alerts"], stored.facts))
        monitor.feed(rest[at:], 50.0)
        monitor.caught_up(51.0)
    except ResumeError:
        monitor.start_over("boot", 50.0)
        monitor.feed(rest, 50.0)
        monitor.caught_up(51.0)
    monitor.tick(60.0)
    encoded(monitor.commit().checkpoint)


@functools.cache
def rich_host() -> Host:
    """Devices in many states, a load under way, alerts of all kinds; then some more of the list."""
    host = Host(
        listed('name = "a"\nhashes = []', 'name = "m"\nrequired = true'), dialect="legacy", hold_off=2.0
    )
    host.kernel.create(b"a", GOOD)
    host.kernel.create(b"x", BAD, uuid=b"LVM-1")
    host.kernel.create(b"gone", BAD)
    host.kernel.remove(b"gone")
    host.kernel.rename(b"x", b"y")
    host.kernel.load(b"y", linears(80))
    del host.kernel.items[-1]
    return host


@functools.cache
def _rich_disk() -> Disk:
    host = rich_host()
    for index, record in enumerate(records_of(host.kernel.items)):
        host.monitor.feed(record, 10.0 + index)
    host.monitor.caught_up(30.0)
    host.commit()
    host.kernel.resume(b"y")
    host.kernel.load(b"a", BAD)
    host.kernel.remove(b"a")
    return host.disk


def rich_state() -> Stored:
    return _rich_disk().load()


# -- approvals for a time, and what is kept over a restart ---------------------------------


def for_a_time(*lines: str) -> Baseline:
    return listed(f'name = "a"\nhashes = ["{label("a", GOOD)}"]\n' + "\n".join(lines))


def test_an_approval_that_begins_and_ends_is_judged_when_it_does() -> None:
    baseline = for_a_time("not_before = 1970-01-01T00:01:40Z", "not_after = 1970-01-01T00:03:20Z")
    host = Host(baseline, hold_off=2.0)
    assert host.monitor.next_due() is None  # nothing has been read
    host.kernel.create(b"a", GOOD)
    assert host.look(97.0) == []
    assert host.tick(99.0) == [("drift.active", "firing", "a")]
    assert host.monitor.next_due() == 100.0
    assert host.tick(100.0) == [("drift.active", "resolved", "a")]
    assert host.monitor.next_due() == 200.0
    assert host.tick(199.9) == []
    assert host.tick(200.0) == []
    assert host.tick(202.0) == [("drift.active", "firing", "a")]
    assert "not approved at this time" in host.last()["message"]
    assert host.monitor.next_due() is None


def test_an_approval_ends_although_the_daemon_was_restarted() -> None:
    host = Host(for_a_time("not_after = 1970-01-01T00:03:20Z"))
    host.kernel.create(b"a", GOOD)
    assert host.look(100.0) == []
    host.restart()
    assert host.look(150.0) == []
    assert host.monitor.next_due() == 200.0
    host.restart()
    assert host.look(250.0) == [("drift.active", "firing", "a")]


def test_a_clock_set_back_behind_the_beginning_of_an_approval() -> None:
    host = Host(for_a_time("not_before = 1970-01-01T00:01:40Z"))
    host.kernel.create(b"a", GOOD)
    assert host.look(150.0) == []
    assert host.tick(140.0) == []
    assert host.tick(50.0) == [("drift.active", "firing", "a")]
    assert host.tick(100.0) == [("drift.active", "resolved", "a")]


def test_a_device_below_that_changes_its_name_is_found_when_the_list_is_read() -> None:
    names: dict[tuple[int, int], tuple[str, ...]] = {}
    text = '["dmimad-config-1",[[8,"linear",[["device_name","serial:x","device"],["start","0"]]]]]'
    wanted = "config:" + hashlib.sha256(text.encode()).hexdigest()
    host = Host(listed(f'name = "a"\nfingerprints = ["{wanted}"]'), hold_off=2.0)
    host.monitor = Monitor(host.policy, host.baseline, host.boot, names=lambda number: names.get(number, ()))
    host.kernel.create(b"a", GOOD)
    host.look(10.0)
    names[1, 0] = ("serial:x",)
    host.look(11.0)
    assert host.tick(20.0) == []
    (document,) = map(json.loads, host.monitor.retained().values())
    assert (document["active"]["fingerprint"], document["verdict"]) == (wanted, "approved")
    names[1, 0] = ("serial:y",)
    host.see(30.0)
    assert host.tick(40.0) == [("drift.active", "firing", "a")]


def test_until_when_the_devices_are_approved() -> None:
    host = Host(
        listed(
            f'name = "a"\nhashes = ["{label("a", GOOD)}"]\nnot_after = 1970-01-01T00:03:20Z',
            'name = "b"\nnot_after = 1970-01-01T00:05:00Z',
            'name = "c"\nnot_after = 1970-01-01T00:02:00Z',
        )
    )
    host.kernel.create(b"a", GOOD)
    host.kernel.create(b"b", BAD)
    assert host.monitor.approved_until(90.0) is None  # nothing has been read
    host.look(100.0)
    assert host.monitor.approved_until(100.0) == 200.0  # there is no c
    assert host.monitor.approved_until(110.0) == 200.0
    host.kernel.load(b"a", BAD)
    host.look(120.0)
    assert host.monitor.approved_until(120.0) == 300.0  # a is not approved now, whatever comes
    host.kernel.clear(b"a")
    host.look(130.0)
    assert host.monitor.approved_until(130.0) == 200.0
    host.tick(200.0)
    assert host.monitor.approved_until(200.0) == 300.0
    host.tick(300.0)
    assert host.monitor.approved_until(300.0) is None
    host.monitor.set_baseline(approved(a=(GOOD,)), 301.0)
    assert host.monitor.approved_until(301.0) is None


def test_another_baseline_approves_for_another_time() -> None:
    host = Host(for_a_time("not_after = 1970-01-01T00:03:20Z"))
    host.kernel.create(b"a", GOOD)
    host.look(100.0)
    assert host.monitor.approved_until(100.0) == 200.0
    host.monitor.set_baseline(for_a_time("not_after = 1970-01-01T00:05:00Z"), 101.0)
    assert host.monitor.approved_until(101.0) == 300.0
    host.kernel.remove(b"a")
    host.look(102.0)
    assert host.monitor.approved_until(102.0) is None


def moments_of(host: Host) -> list[float | None]:
    moments: list[float | None] = json.loads(host.disk.devices["254:0"])["moments"]
    return moments


def test_a_state_without_moments_is_read_and_a_damaged_one_refused() -> None:
    host = Host(approved(a=(GOOD,)))
    host.kernel.create(b"a", GOOD)
    host.look(10.0)
    assert moments_of(host) == [10.0, 10.0, 10.0]
    device = json.loads(host.disk.devices["254:0"])
    host.disk.devices["254:0"] = encoded({**device, "moments": "x"})
    with pytest.raises(ResumeError):
        host.restart()
    del device["moments"]
    host.disk.devices["254:0"] = encoded(device)
    host.restart()
    assert host.look(20.0) == []
    assert moments_of(host) == [None, None, None]


def test_a_state_of_before_has_evidence_and_moments_in_the_checkpoint() -> None:
    host = Host(approved(a=(GOOD,)))
    host.kernel.create(b"a", GOOD)
    host.look(10.0)
    device, checkpoint = json.loads(host.disk.devices["254:0"]), json.loads(host.disk.checkpoint or "")
    for name in ("evidence", "moments"):
        checkpoint[name] = {"254:0": device.pop(name)}
    host.disk.devices["254:0"], host.disk.checkpoint = encoded(device), encoded(checkpoint)
    host.restart()
    assert host.look(20.0) == []
    assert moments_of(host) == [10.0, 10.0, 10.0]
    (stored,) = host.disk.devices.values()
    assert set(json.loads(stored)["evidence"]) == set(checkpoint["evidence"]["254:0"])


def test_what_was_done_to_a_device_is_not_told_again_after_a_restart() -> None:
    both = f'hashes = ["{label("a", GOOD)}", "{label("a", OTHER)}"]'
    host = Host(listed(f'name = "a"\n{both}\nallow = []', 'name = "c"'))
    host.kernel.create(b"a", GOOD)
    host.kernel.create(b"c", GOOD)
    assert host.look(10.0) == []
    host.kernel.load(b"a", OTHER)
    host.kernel.resume(b"a")
    host.kernel.rename(b"c", b"d")
    assert sorted(host.look(20.0)) == [
        ("device.reloaded", "firing", "a"),
        ("device.renamed", "firing", "d"),
        ("drift.inactive", "firing", "a"),
        ("drift.inactive", "resolved", "a"),
    ]
    host.restart()
    assert host.look(30.0) == []
    host.kernel.rename(b"d", b"c")
    assert host.look(40.0) == [("device.renamed", "resolved", "d")]
