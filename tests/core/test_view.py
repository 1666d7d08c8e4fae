"""A device's retained document and series, slot by slot and witness by witness."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from dmimad.core.device import Device
from dmimad.core.drift import Judgement, Verdict
from dmimad.core.observation import LiveDevice, LiveTable, LiveTarget
from dmimad.core.snapshot import DeviceSeries
from dmimad.core.table import Provenance, Table
from dmimad.core.view import MAX_TARGETS_TOLD, DeviceView, device_series, device_view

HASH = bytes(range(32))
LABEL = "sha256:" + HASH.hex()
TEXT = (
    b"dm_version=4.50.0;name=a,uuid=,major=254,minor=0,minor_count=1,num_targets=2;"
    b"target_index=0,target_begin=0,target_len=8,target_name=linear,target_version=1.4.0,start=0;"
    b"target_index=1,target_begin=8,target_len=16,"
)
#: Two targets, of which the second is opaque: its type is no part of it.
FINGERPRINT = (
    "config:" + hashlib.sha256(b'["dmimad-config-1",[[8,"linear",[["start","0"]]],[16,null,[]]]]').hexdigest()
)
MEASURED_TARGETS = [
    {"begin": 0, "length": 8, "type": "linear"},
    {"begin": 8, "length": 16, "type": None},
]
LIVE_TABLE = LiveTable((LiveTarget(0, 8, "linear", b"target_name=linear;"), LiveTarget(8, 16, "zero", b"")))
LIVE_TARGETS = [
    {"begin": 0, "length": 8, "type": "linear"},
    {"begin": 8, "length": 16, "type": "zero"},
]


def table(provenance: Provenance = Provenance.MEASURED, **changes: Any) -> Table:
    return Table(HASH, b"a\xff", b"u", 2, (TEXT,), 3, provenance=provenance)._replace(**changes)


def device(**changes: Any) -> Device:
    made = Device("254:0", 254, 0, b"a\xff", b"u", since=2, changed_at=5, staged_at=6)
    return made._replace(**changes)


def live(**changes: Any) -> LiveDevice:
    values: dict[str, Any] = {"suspended": False, "event_nr": 0, "active": None, "inactive": None, **changes}
    return LiveDevice(254, 0, b"a\xff", b"u", read_only=False, **values)


def view(made: Device, seen: LiveDevice | None = None, **judged: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        device_view(made, Judgement(judged.pop("verdict", Verdict.UNKNOWN), **judged), seen).payload
    )
    return document


def test_a_device_without_tables_that_nobody_has_seen() -> None:
    assert view(device()) == {
        "key": "254:0",
        "name": "a\\xff",
        "uuid": "u",
        "major": 254,
        "minor": 0,
        "active": None,
        "inactive": None,
        "live": False,
        "suspended": None,
        "event_nr": None,
        "verdict": "unknown",
        "drift": {"active": False, "inactive": False},
    }


def test_a_device_without_numbers() -> None:
    document = view(device(key="name-1", major=None, minor=None))
    assert (document["key"], document["major"], document["minor"]) == ("name-1", None, None)


def test_what_the_kernel_says_of_the_device() -> None:
    document = view(device(), live(suspended=True, event_nr=4_000_000_000))
    assert (document["live"], document["suspended"], document["event_nr"]) == (True, True, 4_000_000_000)


def test_what_the_baseline_says_of_the_device() -> None:
    document = view(device(), verdict=Verdict.DRIFT, drift_inactive=True)
    assert (document["verdict"], document["drift"]) == ("drift", {"active": False, "inactive": True})


@pytest.mark.parametrize("slot", ["active", "inactive"])
@pytest.mark.parametrize(
    ("provenance", "seen", "targets"),
    [
        (Provenance.MEASURED, None, MEASURED_TARGETS),
        (Provenance.MEASURED, LIVE_TABLE, MEASURED_TARGETS),  # of the table before, perhaps
        (Provenance.BOTH, LIVE_TABLE, LIVE_TARGETS),
        (Provenance.BOTH, None, MEASURED_TARGETS),
        (Provenance.BOTH, LiveTable(None), MEASURED_TARGETS),
        (Provenance.OBSERVED, LIVE_TABLE, LIVE_TARGETS),
        (Provenance.OBSERVED, LiveTable(()), []),
    ],
)
def test_a_slot(
    slot: str, provenance: Provenance, seen: LiveTable | None, targets: list[dict[str, object]]
) -> None:
    document = view(device(**{slot: table(provenance)}), live(**{slot: seen}))
    measured_at = 5 if slot == "active" else 6
    assert document[slot] == {
        "hash": LABEL,
        "fingerprint": FINGERPRINT,
        "name": "a\\xff",
        "uuid": "u",
        "num_targets": 2,
        "provenance": provenance.value,
        "record": None if provenance is Provenance.OBSERVED else measured_at,
        "targets": targets,
    }
    assert document["inactive" if slot == "active" else "active"] is None


def test_the_live_table_of_one_slot_is_not_taken_for_the_others() -> None:
    both = device(active=table(Provenance.BOTH), inactive=table(Provenance.BOTH))
    document = view(both, live(inactive=LIVE_TABLE))
    assert document["active"]["targets"] == MEASURED_TARGETS
    assert document["inactive"]["targets"] == LIVE_TARGETS


def test_a_table_that_nobody_has_told() -> None:
    unknown = Table(b"", b"a", b"", 0, provenance=Provenance.OBSERVED)
    assert view(device(active=unknown), live(active=LiveTable(None)))["active"] == {
        "hash": "unknown",
        "fingerprint": None,
        "name": "a",
        "uuid": "",
        "num_targets": 0,
        "provenance": "observed",
        "record": None,
        "targets": [],
    }


@pytest.mark.parametrize("count", [MAX_TARGETS_TOLD, MAX_TARGETS_TOLD + 1, 5 * MAX_TARGETS_TOLD])
def test_of_a_long_table_not_all_targets_are_told(count: int) -> None:
    targets = tuple(LiveTarget(8 * index, 8, "error", b"") for index in range(count))
    text = b"".join(b"target_index=%d,target_begin=%d,target_len=8," % (i, 8 * i) for i in range(count))
    for made in (
        table(Provenance.OBSERVED, num_targets=count),
        table(Provenance.MEASURED, num_targets=count, texts=(text,)),
    ):
        active = view(device(active=made), live(active=LiveTable(targets)))["active"]
        assert (active["num_targets"], len(active["targets"])) == (count, MAX_TARGETS_TOLD)
        assert active["targets"][-1]["begin"] == 8 * (MAX_TARGETS_TOLD - 1)


def test_series() -> None:
    assert device_series(device(), Judgement(Verdict.UNKNOWN), DeviceView(b"")) == DeviceSeries(
        "a\\xff", "u", None, None, False, False
    )
    made = device(active=table(Provenance.BOTH), inactive=table(Provenance.OBSERVED, hash=b"\1" * 32))
    drift, seen = Judgement(Verdict.DRIFT, True, False), DeviceView(b"{}", "config:a", "config:b")
    assert device_series(made, drift, seen) == DeviceSeries(
        "a\\xff", "u", LABEL, "sha256:" + "01" * 32, True, False, "both", "observed", "config:a", "config:b"
    )
    assert device_series(made, Judgement(Verdict.DRIFT, False, True), seen).drift_inactive is True
    assert device_series(made, drift, seen, maintenance=True).maintenance is True


def test_the_fingerprints_of_a_view_are_those_in_its_document() -> None:
    made = device(active=table(), inactive=table(num_targets=3))  # of which one was not told
    shown = device_view(made, Judgement(Verdict.UNKNOWN), None)
    assert (shown.active_fingerprint, shown.inactive_fingerprint) == (FINGERPRINT, None)
    document = json.loads(shown.payload)
    assert (document["active"]["fingerprint"], document["inactive"]["fingerprint"]) == (FINGERPRINT, None)
    nothing = device_view(device(), Judgement(Verdict.UNKNOWN), None)
    assert (nothing.active_fingerprint, nothing.inactive_fingerprint) == (None, None)
