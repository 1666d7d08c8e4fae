"""What has become of devices over time: every change once, none invented, bounded, true of the present."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given

from dmimad.core import history, memory
from dmimad.core.baseline import Baseline
from dmimad.core.change import JUDGED, Cause, Change, Description, described
from dmimad.core.device import Device
from dmimad.core.drift import Judgement, Verdict
from dmimad.core.errors import ResumeError
from dmimad.core.history import History
from dmimad.core.monitor import Monitor, Policy
from dmimad.core.observation import LiveTable, LiveTarget
from dmimad.core.table import Provenance, Table
from tests.core.histories import BOUNDED, RENAMES, Operation, operations, perform
from tests.core.kernel import Kernel, linear, opaque
from tests.core.lists import binary_record
from tests.core.live import observation
from tests.core.monitored import BAD, GOOD, OTHER, Disk, Host, approved, label, listed
from tests.core.recorded import LISTS, binary

APPROVED = Judgement(Verdict.APPROVED)
LOADED, RESUMED = Cause("table_load", 1), Cause("device_resume", 2)
Told = tuple[str, str | None, str, float]


def table(number: int) -> Table:
    return Table(bytes([number]) * 32, b"a", b"", 1)


def device(name: bytes = b"a", minor: int = 0, **changes: Any) -> Device:
    return Device(f"254:{minor}", 254, minor, name, b"")._replace(**changes)


def items(host: Host, name: str = "a") -> list[dict[str, Any]]:
    """The history of the device of this name."""
    found = detail(host, name)["history"]
    assert isinstance(found, list)
    return found


def detail(host: Host, name: str = "a") -> dict[str, Any]:
    keys = {each.name: each.key for each in host.monitor._reading.tracker.devices}
    made = host.monitor.detail(keys[name.encode()], 1000.0)
    assert made is not None
    return made


def short(changes: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    """Slot, hash, event, record, late, minute and second."""
    return [
        (each["slot"], each["hash"], each["event"], each["record"], each["late"], each["time"][14:19])
        for each in changes
    ]


A, B = label("a", GOOD), label("a", BAD)


class TestWhatIsNoted:
    def test_each_change_of_a_slot_by_its_record(self) -> None:
        host = Host(approved(a=(GOOD,)))
        host.look(0.0)
        host.kernel.create(b"a", GOOD)
        host.look(10.0)
        host.kernel.load(b"a", BAD)
        host.kernel.clear(b"a")
        host.look(20.0)
        first = len(host.kernel.items) - 4
        assert short(items(host)) == [
            ("inactive", A, "table_load", first, False, "00:10"),
            ("active", A, "device_resume", first + 1, False, "00:10"),
            ("inactive", None, "device_resume", first + 1, False, "00:10"),
            ("inactive", B, "table_load", first + 2, False, "00:20"),
            ("inactive", None, "table_clear", first + 3, False, "00:20"),
        ]
        assert [(each["verdict"], each["drift"]) for each in items(host)] == [
            ("approved", False),
            ("approved", False),
            ("approved", False),
            ("drift", True),
            ("approved", False),
        ]
        staged, active, *_ = items(host)
        assert (active["types"], active["provenance"], active["name"]) == (["linear"], "measured", "a")
        assert (
            active["fingerprint"] == staged["fingerprint"] == detail(host)["device"]["active"]["fingerprint"]
        )
        assert items(host)[-1]["fingerprint"] is None

    def test_what_is_in_the_list_at_the_start_happened_before(self) -> None:
        host = Host()
        host.kernel.create(b"a", GOOD)
        host.look(10.0)
        host.kernel.load(b"a", BAD)
        host.look(20.0)
        assert [(each["late"], each["after"]) for each in items(host)] == [(True, None)] * 3 + [(False, None)]

    def test_what_is_read_after_a_restart_happened_meanwhile(self) -> None:
        host = Host()
        host.kernel.create(b"a", GOOD)
        host.look(10.0)
        host.monitor.lost_sight()
        host.kernel.load(b"a", BAD)
        host.look(60.0)
        last = items(host)[-1]
        assert (last["late"], last["after"], last["time"]) == (
            True,
            "1970-01-01T00:00:10.000Z",
            "1970-01-01T00:01:00.000Z",
        )

    def test_another_witness(self) -> None:
        host = Host()
        host.kernel.create(b"a", GOOD)
        host.settle(10.0)
        assert short(items(host))[-1] == ("active", A, "observed", None, True, "00:10")
        assert items(host)[-1]["provenance"] == "both"
        host.kernel.load(b"a", BAD)
        host.settle(20.0)
        assert short(items(host))[-2:] == [
            ("inactive", B, "table_load", len(host.kernel.items) - 1, False, "00:20"),
            ("inactive", B, "observed", None, False, "00:20"),
        ]

    def test_another_baseline(self) -> None:
        host = Host()
        host.kernel.create(b"a", GOOD)
        host.look(10.0)
        before = items(host)
        host.monitor.set_baseline(listed('name = "a"'), 20.0)
        host.monitor.set_baseline(listed('name = "a"'), 21.0)
        host.monitor.set_baseline(approved(a=(BAD,)), 30.0)
        assert short(items(host)[len(before) :]) == [
            ("active", A, "judged", None, False, "00:20"),
            ("active", A, "judged", None, False, "00:30"),
        ]
        assert [(each["verdict"], each["drift"]) for each in items(host)[-2:]] == [
            ("approved", False),
            ("drift", True),
        ]

    def test_a_verdict_on_what_is_only_staged(self) -> None:
        host = Host()
        host.kernel.create(b"a", None)
        host.kernel.load(b"a", GOOD)
        host.look(10.0)
        host.monitor.set_baseline(listed('name = "a"'), 20.0)
        assert short(items(host))[-1] == ("inactive", A, "judged", None, False, "00:20")

    def test_a_renamed_device_goes_on(self) -> None:
        host = Host()
        host.kernel.create(b"b", GOOD)
        host.look(10.0)
        host.kernel.rename(b"b", b"a")
        host.look(20.0)
        assert [each["name"] for each in items(host)] == ["b", "b", "b", "a"]
        assert short(items(host))[-1][2:] == ("device_rename", 4, False, "00:20")

    def test_a_removed_device_that_is_made_again_goes_on(self) -> None:
        host = Host()
        host.kernel.create(b"a", GOOD)
        host.kernel.load(b"a", BAD)
        host.look(10.0)
        host.kernel.remove(b"a")
        host.look(20.0)
        assert host.monitor.detail("254:0", 20.0) is None
        host.kernel.create(b"x", GOOD)
        host.kernel.create(b"a", OTHER)
        host.look(30.0)
        assert [each[:3] for each in short(items(host))[4:]] == [
            ("active", None, "device_remove"),
            ("inactive", None, "device_remove"),
            ("inactive", items(host)[-1 - 1]["hash"], "table_load"),
            ("active", items(host)[-2]["hash"], "device_resume"),
            ("inactive", None, "device_resume"),
        ]
        assert {each["name"] for each in items(host)} == {"a"}

    def test_one_that_nobody_recorded_the_end_of(self) -> None:
        host = Host()
        host.kernel.create(b"a", GOOD)
        host.settle(10.0)
        host.take(observation(Kernel("ordered")), 20.0)
        host.take(observation(Kernel("ordered")), 21.0)
        host.kernel.create(b"b", GOOD)
        found = host.monitor._memory.history._former[b"a"].active
        assert found is not None
        assert (found.hash, found.cause.event) == (None, "observed")

    def test_a_clock_that_is_set_moves_what_it_told(self) -> None:
        host = Host()
        host.kernel.create(b"a", GOOD)
        host.look(10.0)
        host.monitor.lost_sight()
        host.kernel.load(b"a", BAD)
        host.look(20.0)
        host.monitor.clock_stepped(60.0)
        assert [each["time"][14:19] for each in items(host)] == ["01:10"] * 3 + ["01:20"]
        assert items(host)[-1]["after"] == "1970-01-01T00:01:10.000Z"


class TestTheListBeginsAgain:
    def test_of_another_boot_nothing_is_left(self) -> None:
        host = Host()
        host.kernel.create(b"a", GOOD)
        host.look(10.0)
        host.monitor.start_over("another", 50.0)
        host.kernel, host.read = Kernel("ordered"), 0
        host.kernel.create(b"a", BAD)
        host.look(60.0)
        assert short(items(host))[3:] == [
            ("active", None, "boot", None, True, "00:50"),
            ("inactive", B, "table_load", 2, True, "01:00"),
            ("active", B, "device_resume", 3, True, "01:00"),
            ("inactive", None, "device_resume", 3, True, "01:00"),
        ]
        host.monitor.clock_stepped(60.0)
        assert [each["time"][14:19] for each in items(host)] == ["00:10"] * 3 + ["00:50"] + ["02:00"] * 3

    def test_of_the_same_boot_only_what_is_otherwise_is_noted(self) -> None:
        host = Host()
        for name in (b"a", b"b", b"c"):
            host.kernel.create(name, GOOD)
        host.look(10.0)
        before = {name: items(host, name) for name in ("a", "b")}
        host.monitor.start_over("boot", 50.0)
        host.read = 0
        host.kernel.load(b"a", BAD)
        host.kernel.remove(b"c")
        host.feed(60.0)
        host.monitor.tick(60.0)
        host.look(60.0)
        assert items(host, "b") == before["b"]
        assert items(host)[:-1] == before["a"]
        assert short(items(host))[-1] == ("inactive", B, "", 8, True, "01:00")
        last = host.monitor._memory.history._former[b"c"].active
        assert last is not None
        assert (last.hash, last.cause) == (None, Cause(late=True))

    def test_without_a_history_all_is_noted(self) -> None:
        host = Host()
        host.monitor.start_over("boot", 5.0)
        host.kernel.create(b"a", GOOD)
        host.look(10.0)
        assert [each["event"] for each in items(host)] == ["table_load", "device_resume", "device_resume"]


class TestWhatIsFoundToBeSo:
    """Of what nothing was noted before, nobody knows since when it is so."""

    def test_a_slot_that_the_record_did_not_change(self) -> None:
        known = History()
        both = device(active=table(1), inactive=table(2), changed_at=4, staged_at=9)
        known.note(both, APPROVED, Cause("table_load", 9), 1.0)
        found, loaded = known.of("254:0")[0]
        assert (found.slot, found.cause) == ("active", Cause("", 4, True))
        assert (loaded.slot, loaded.cause) == ("inactive", Cause("table_load", 9))

    def test_a_verdict_that_tells_of_it(self) -> None:
        known = History()
        seen = table(1)._replace(provenance=Provenance.OBSERVED)
        known.note(device(active=seen, changed_at=4), APPROVED, Cause(JUDGED), 1.0)
        known.note(device(b"b", 1, active=table(1), changed_at=4), APPROVED, Cause(JUDGED), 1.0)
        assert [known.of(key)[0][0].cause for key in ("254:0", "254:1")] == [
            Cause("", None, True),
            Cause("", 4, True),
        ]

    def test_a_hash_that_nobody_has_told(self) -> None:
        known = History()
        known.note(device(active=Table(b"", b"a", b"", 1)), APPROVED, RESUMED, 1.0)
        assert known.of("254:0")[0][0].document()["hash"] == "unknown"

    def test_a_device_without_tables_has_no_history(self) -> None:
        known = History()
        known.note(device(), APPROVED, LOADED, 1.0)
        known.note(device(b"b"), Judgement(Verdict.DRIFT), LOADED, 2.0)
        known.gone(device(b"b"), LOADED, 3.0)
        known.gone(device(b"b"), LOADED, 3.0)
        assert (known.of("254:0"), len(known), known._former) == (((), 0), 0, {})


class TestBounds:
    def test_of_one_device_the_oldest_are_forgotten_but_not_what_is_in_its_slots(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(history, "MAX_CHANGES", 5)
        known = History()
        for number in range(1, 11):
            known.note(device(active=table(1), inactive=table(number)), APPROVED, LOADED, float(number))
        changes, left_out = known.of("254:0")
        assert [(each.slot, each.hash and each.hash[0]) for each in changes] == [
            ("active", 1),
            *(("inactive", number) for number in (7, 8, 9, 10)),
        ]
        assert (left_out, len(known)) == (6, 5)

    def test_names_that_are_gone_are_forgotten_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(history, "MAX_CHANGES_IN_ALL", 6)
        known = History()
        for minor, name in enumerate((b"a", b"b", b"c")):
            known.note(device(name, minor, active=table(1)), APPROVED, RESUMED, 1.0)
        known.gone(device(b"b", 1), RESUMED, 2.0)
        known.note(device(b"a", 0, active=table(2)), APPROVED, RESUMED, 3.0)
        assert (len(known), list(known._former)) == (5, [b"b"])
        known.note(device(b"a", 0, active=table(2), inactive=table(1)), APPROVED, RESUMED, 4.0)
        known.note(device(b"a", 0, active=table(3), inactive=table(1)), APPROVED, RESUMED, 5.0)
        assert (len(known), list(known._former)) == (5, [])
        for number in (4, 5, 6):
            known.note(device(b"a", 0, active=table(number), inactive=table(1)), APPROVED, RESUMED, 6.0)
        assert [len(known.of(f"254:{minor}")[0]) for minor in (0, 2)] == [6, 0]
        known.note(device(b"c", 2, active=table(1), changed_at=7), APPROVED, Cause("device_rename", 8), 7.0)
        assert [each.cause for each in known.of("254:2")[0]] == [Cause("", 7, True)]

    def test_a_million_devices_that_come_and_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(history, "MAX_CHANGES_IN_ALL", 100)
        known = History()
        known.note(device(b"a", 999_999, active=table(1)), APPROVED, RESUMED, 1.0)
        for minor in range(3000):
            one = device(b"%d" % minor, minor, active=table(1))
            known.note(one, APPROVED, RESUMED, 1.0)
            known.gone(one, RESUMED, 2.0)
        assert (len(known), len(known._former), len(known.of("254:999999")[0])) == (99, 49, 1)
        assert len(known._undescribed) <= 100
        for minor in range(3000):
            known.note(device(b"%d" % minor, minor, active=table(1)), APPROVED, RESUMED, 1.0)
        assert (len(known), len(known._former), len(known._changing)) == (100, 0, 100)
        assert known.of("254:2999")[0]

    def test_devices_that_are_forgotten_while_they_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(history, "MAX_CHANGES_IN_ALL", 3)
        known = History()
        for minor in range(3):
            known.note(device(b"%d" % minor, minor, active=table(1)), APPROVED, RESUMED, 1.0)
        known.start_over(2.0, rebooted=True)
        assert [[each.hash is None for each in line.changes.values()] for line in known._former.values()] == [
            [False, True]
        ]

    def test_another_of_the_same_name_takes_its_place(self) -> None:
        known = History()
        for minor in (0, 1):
            known.note(device(b"a", minor, active=table(minor)), APPROVED, RESUMED, 1.0)
        known.leave("254:0")
        known.leave("254:1")
        known.settle(2.0)
        assert [each.hash for each in known._former[b"a"].changes.values()] == [bytes([1]) * 32, None]
        assert len(known) == 2

    def test_one_that_comes_back_under_another_number_has_not_gone(self) -> None:
        known = History()
        known.note(device(active=table(1)), APPROVED, RESUMED, 1.0)
        known.leave("254:0")
        known.note(device(minor=1, active=table(1)), APPROVED, RESUMED, 1.0)
        known.settle(2.0)
        assert len(known.of("254:1")[0]) == 1

    def test_long_names_and_many_types(self) -> None:
        targets = tuple(LiveTarget(at, 1, f"{at}" * 99, b"") for at in range(20))
        seen = Table(b"", b"a", b"", 20, provenance=Provenance.OBSERVED)
        told = described(seen, LiveTable(targets), None)
        assert (len(told.types), {len(each) for each in told.types}) == (8, {64})
        known = History()
        known.note(device(b"x" * 1000, active=table(1)), APPROVED, RESUMED, 1.0)
        assert len(known.of("254:0")[0][0].name) == 255


class TestDescriptions:
    def test_each_table_once(self) -> None:
        known, asked = History(), list[tuple[str, Table]]()

        def told(change: Change, one: Table) -> Description:
            asked.append((change.slot, one))
            return Description("config:1", ("linear",))

        one = table(1)
        known.note(device(inactive=one), APPROVED, LOADED, 1.0)
        known.note(device(active=one), APPROVED, RESUMED, 1.0)
        known.describe(told)
        known.describe(told)
        assert asked == [("inactive", one)]
        assert [each.document()["types"] for each in known.of("254:0")[0]] == [["linear"], ["linear"], []]

    def test_what_the_kernel_says_of_an_opaque_target(self) -> None:
        host = Host()
        host.kernel.create(b"a", (opaque(),))
        host.kernel.load(b"a", (opaque(), opaque()))
        host.look(10.0)
        assert [each["types"] for each in items(host)] == [["opaque"], ["opaque"], [], ["opaque"]]
        host.settle(20.0)
        assert [each["types"] for each in items(host)[-2:]] == [["zero"], ["zero"]]
        host.kernel.load(b"a", GOOD)
        host.feed(30.0)
        host.kernel.clear(b"a")
        host.look(31.0)
        assert [each["types"] for each in items(host)[-2:]] == [["linear"], []]


class TestWhatIsStored:
    def test_another_process_goes_on(self) -> None:
        host = Host()
        host.kernel.create(b"a", GOOD)
        host.kernel.create(b"gone", GOOD)
        host.kernel.remove(b"gone")
        host.look(10.0)
        host.kernel.load(b"a", BAD)
        host.settle(20.0)
        before = items(host)
        host.restart()
        assert items(host) == before
        host.look(30.0)
        assert items(host) == before
        host.kernel.clear(b"a")
        host.kernel.create(b"gone", OTHER)
        host.look(40.0)
        assert short(items(host))[len(before) :] == [
            ("inactive", None, "table_clear", len(host.kernel.items) - 3, False, "00:40")
        ]
        assert len(items(host, "gone")) == 7
        assert host.monitor.history_lost == ""

    def test_what_happened_while_nobody_watched(self) -> None:
        host = Host()
        host.kernel.create(b"a", GOOD)
        host.settle(10.0)
        host.kernel.load(b"a", BAD)
        host.restart()
        host.see(60.0)
        told = [(each["event"], each["late"], each["after"]) for each in items(host)[-2:]]
        assert told == [
            ("table_load", True, "1970-01-01T00:00:10.000Z"),
            ("observed", True, "1970-01-01T00:00:10.000Z"),
        ]

    def test_only_what_is_new_is_written(self) -> None:
        host = Host()
        for name in (b"a", b"b"):
            host.kernel.create(name, GOOD)
        host.look(10.0)
        host.kernel.load(b"a", BAD)
        host.feed(20.0)
        commit = host.monitor.commit()
        assert list(commit.history) == ["change|0000000000000007"]
        host.kernel.clear(b"a")
        host.feed(21.0)
        assert list(host.monitor.commit().history) == ["change|0000000000000007", "change|0000000000000008"]
        host.monitor.committed()
        host.feed(22.0)
        assert host.monitor.commit().history == {}

    def test_while_nothing_can_be_stored_no_more_is_kept_than_there_is(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(history, "MAX_CHANGES", 6)
        monkeypatch.setattr(memory, "MAX_PENDING", 20)
        host = Host(listed('name = "b"'))
        host.kernel.create(b"a", GOOD)
        host.look(1.0)
        stored = dict(host.disk.history)
        for number in range(1, 40):
            host.kernel.load(b"a", (linear(8 * number),))
            host.feed(float(number))
            commit = host.monitor.commit()
            assert len(commit.history) <= 20
        assert (commit.anew, len(commit.history)) == (True, 7)
        assert None not in commit.history.values()
        disk = Disk()
        disk.history = stored
        disk.store(commit)
        host.monitor.committed()
        assert len(disk.history) == 7
        now, host.disk = items(host), disk
        host.restart()
        assert items(host) == now
        host.kernel.clear(b"a")
        host.feed(50.0)
        again = host.monitor.commit()
        assert (again.anew, [key for key in sorted(again.history) if key.startswith("change|")]) == (
            False,
            ["change|0000000000000038", "change|0000000000000043"],
        )

    def test_what_is_forgotten_is_forgotten_there_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(history, "MAX_CHANGES", 4)
        host = Host()
        host.kernel.create(b"a", GOOD)
        for number in range(6):
            host.kernel.load(b"a", (linear(80 * number),))
            host.look(float(number))
        assert len(host.disk.history) == 4
        monkeypatch.setattr(history, "MAX_CHANGES", 3)
        host.restart()
        assert (len(items(host)), detail(host)["history_left_out"]) == (3, 5)
        host.look(20.0)
        assert len(host.disk.history) == 3

    def test_of_too_many_in_all_the_names_that_are_gone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        host = Host()
        for name in (b"gone", b"a"):
            host.kernel.create(name, GOOD)
        host.kernel.remove(b"gone")
        host.look(1.0)
        monkeypatch.setattr(history, "MAX_CHANGES_IN_ALL", 5)
        host.restart()
        host.look(2.0)
        assert len(items(host)) == len(host.disk.history) == 3

    def test_of_two_of_one_name_the_last_counts(self) -> None:
        known = History()
        for minor in (0, 1):
            known.note(device(b"a", minor, active=table(minor)), APPROVED, RESUMED, 1.0)
        stored = {key: value for key, value in known.take_changed().items() if value is not None}
        again = History()
        again.restore(stored, known.document())
        again.attach_all([device(b"a", 1)])
        assert [each.hash for each in again.of("254:1")[0]] == [bytes([1]) * 32]
        assert again.take_changed() == {"change|0000000000000001": None}

    def test_after_another_boot_it_goes_on(self) -> None:
        host = Host()
        host.kernel.create(b"a", GOOD)
        host.look(10.0)
        host.monitor = Monitor(host.policy, host.baseline, "another")
        with pytest.raises(ResumeError):
            host.monitor.resume(host.disk.load())
        host.monitor.start_over("another", 60.0)
        host.read = 0
        host.look(70.0)
        ended = items(host)[3]
        assert short([ended]) == [("active", None, "boot", None, True, "01:00")]
        assert ended["after"] == "1970-01-01T00:00:10.000Z"
        assert len(items(host)) == len(host.disk.history) == 7

    def test_a_list_that_is_read_again_and_again(self) -> None:
        host = Host()
        host.kernel.create(b"a", GOOD)
        host.look(10.0)
        before = items(host)
        host.monitor.start_over("boot", 20.0)
        host.read = 0
        host.monitor.feed(binary_record(host.kernel.items[0]), 21.0)
        host.read = 1
        host.commit()
        host.restart()
        host.look(30.0)
        assert items(host) == before

    @pytest.mark.parametrize(
        "damage",
        [
            {"at": -1},
            {"at": True},
            {"at": None},
            {"after": "x"},
            {"slot": "third"},
            {"hash": "xy"},
            {"hash": None},
            {"provenance": "nobody"},
            {"provenance": None},
            {"verdict": 7},
            {"line": "x"},
            {"number": None},
            {"number": 0},
            {"record": 1.5},
            {"event": 3},
            {"event": "x" * 101},
            {"key": None},
            {"name": "x" * 256},
            {"name": "\u1234"},
            {"types": "linear"},
            {"types": [7]},
            {"fingerprint": 7},
        ],
    )
    def test_a_damaged_one_begins_anew_and_nothing_else_does(self, damage: dict[str, object]) -> None:
        host = Host(approved(a=(GOOD,)))
        host.kernel.create(b"a", BAD)
        host.look(10.0)
        key = "change|0000000000000002"
        host.disk.history[key] = json.dumps({**json.loads(host.disk.history[key]), **damage})
        host.restart()
        assert "damaged" in host.monitor.history_lost or "missing" in host.monitor.history_lost
        assert host.look(20.0) == []
        assert short(items(host)) == [("active", B, "", 3, True, "00:20")]
        assert detail(host)["recent"][0]["code"] == "drift.active"
        assert list(host.disk.history)[-1] == "change|0000000000000001"
        assert len([each for each in host.disk.history if each.startswith("change|")]) == 1

    @pytest.mark.parametrize("key", ["change|1", "change|000000000000000x", "change|"])
    def test_keys_that_nobody_wrote(self, key: str) -> None:
        host = Host()
        host.kernel.create(b"a", GOOD)
        host.look(10.0)
        host.disk.history[key] = host.disk.history.pop("change|0000000000000001")
        host.restart()
        assert host.monitor.history_lost == "a stored change is damaged"

    def test_a_state_from_before_there_was_a_history(self) -> None:
        host = Host()
        host.kernel.create(b"a", GOOD)
        host.look(10.0)
        host.disk.history = {}
        checkpoint = json.loads(host.disk.checkpoint or "")
        del checkpoint["history"]
        host.disk.checkpoint = json.dumps(checkpoint)
        host.restart()
        host.kernel.load(b"a", BAD)
        host.look(20.0)
        assert host.monitor.history_lost == ""
        assert short(items(host)) == [
            ("active", A, "", 3, True, "00:20"),
            ("inactive", B, "table_load", 4, True, "00:20"),
        ]


class TestAStateThatTurnsUp:
    """A daemon that could not read its state at the start has read the list meanwhile."""

    def begun_without(self, host: Host, boot: str = "boot") -> Host:
        other = Host(host.baseline, boot=boot)
        other.kernel = host.kernel
        other.look(100.0)
        other.kernel.load(b"a", BAD)
        other.look(110.0)
        return other

    def adopted(self, other: Host, host: Host) -> Disk:
        other.monitor.adopt(host.disk.load(), 120.0)
        disk = Disk()
        disk.history = dict(host.disk.history)
        disk.store(other.monitor.everything())
        return disk

    def test_what_is_known_is_taken_over(self) -> None:
        host = Host()
        for name in (b"a", b"b", b"c"):
            host.kernel.create(name, GOOD)
        host.look(10.0)
        before = items(host)
        host.kernel.remove(b"c")
        other = self.begun_without(host)
        disk = self.adopted(other, host)
        assert items(other)[:3] == before
        assert short(items(other))[3:] == [
            ("inactive", B, "table_load", len(host.kernel.items) - 1, False, "01:50")
        ]
        lost = other.monitor._memory.history._former[b"c"].active
        assert lost is not None
        assert (lost.hash, lost.cause, lost.at) == (None, Cause(late=True), 120.0)
        assert sorted(disk.history) == sorted(
            f"change|{seq:016}"
            for line in other.monitor._memory.history._lines_kept()
            for seq in line.changes
        )
        other.disk = disk
        now = items(other)
        other.restart()
        assert items(other) == now

    def test_of_another_boot(self) -> None:
        host = Host()
        host.kernel.create(b"a", GOOD)
        host.look(10.0)
        other = self.begun_without(host, "another")
        self.adopted(other, host)
        assert [(each["slot"], each["hash"], each["event"]) for each in items(other)[3:]] == [
            ("active", None, "boot"),
            ("inactive", B, "table_load"),
            ("active", A, ""),
        ]

    def test_a_damaged_one(self) -> None:
        host = Host()
        host.kernel.create(b"a", GOOD)
        host.look(10.0)
        host.disk.history["change|0000000000000001"] = "{}"
        other = self.begun_without(host)
        before = items(other)
        disk = self.adopted(other, host)
        assert items(other) == before
        assert len(disk.history) == 4
        assert other.monitor.history_lost


def present(monitor: Monitor) -> Iterator[tuple[str | None, str | None, str | None, str | None]]:
    """Of each device, what its slots hold, and what its history says of them."""
    for each in monitor._reading.tracker.devices:
        made = monitor.detail(each.key, 1.0)
        assert made is not None
        told: dict[str, str | None] = {"active": None, "inactive": None}
        assert isinstance(made["history"], list)
        for change in made["history"]:
            told[change["slot"]] = change["hash"]
        yield (
            None if each.active is None else each.active.label,
            None if each.inactive is None else each.inactive.label,
            told["active"],
            told["inactive"],
        )


@pytest.mark.parametrize("name", LISTS)
def test_the_last_of_a_recorded_list_is_what_there_is(name: str) -> None:
    monitor, data = Monitor(Policy("h"), Baseline(), "boot"), binary(name)
    seen = 0
    for at in range(0, len(data), 2000):
        monitor.feed(data[at : at + 2000], 1.0)
        for active, inactive, told_active, told_inactive in present(monitor):
            assert (active, inactive) == (told_active, told_inactive)
            seen += 1
    assert seen


@BOUNDED
@given(operations(RENAMES))
def test_the_last_of_any_history_is_what_there_is(drawn: list[Operation]) -> None:
    host = Host(listed('name = "a"'))
    known = host.monitor._memory.history
    for number, _ in enumerate(perform(host.kernel, drawn)):
        if number % 3 == 2:
            host.see(float(number))
        elif number % 5:
            host.look(float(number))
        for active, inactive, told_active, told_inactive in present(host.monitor):
            assert (active, inactive) == (told_active, told_inactive)
    lines = [*known._live.values(), *known._former.values()]
    assert len(known) == sum(len(line.changes) for line in lines)
    assert known._undescribed == {}
    for line in known._former.values():
        assert not line.filled
