"""The parts of the guest that need no kernel: hashes, comparison, the reading of metrics and packets."""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from typing import Any

import pytest

from dmimad.config import parse
from tests.core import recorded
from tests.vm.guest import compare, truth
from tests.vm.guest.dm import Spec
from tests.vm.guest.guest import DaemonSettings
from tests.vm.guest.processes import samples
from tests.vm.guest.truth import Device, History, Table
from tests.vm.guest.wire import Acknowledgements

VERSION = (4, 50, 0)
TEXT = b"target_name=linear,target_version=1.4.0,device_name=1:0,start=0;"
TABLE = Table((Spec(0, 8, "linear", TEXT), Spec(8, 8, "zero", b"")))
DEVICE = Device((254, 3), b"l\xe4t", b"U;1", False, 2, TABLE, None)


def history(device: Device = DEVICE, *, loads: truth.Loads | None = None) -> History:
    made = History(VERSION, legacy=False, measured=lambda: loads or {})
    made.take([device])
    return made


def document(device: Device = DEVICE) -> dict[str, Any]:
    """What a daemon that is right says."""
    known = history(device)

    def slot(table: Table | None) -> dict[str, Any] | None:
        if table is None:
            return None
        (hash_,) = known.acceptable(device, table)
        targets = [{"begin": t.begin, "length": t.length, "type": t.type} for t in table.targets]
        return {"hash": hash_, "num_targets": len(targets), "targets": targets, "provenance": "both"}

    return {
        "key": device.key,
        "name": truth.printable(device.name),
        "uuid": truth.printable(device.uuid),
        "major": device.number[0],
        "minor": device.number[1],
        "live": True,
        "suspended": device.suspended,
        "active": slot(device.active),
        "inactive": slot(device.inactive),
    }


# -- hashes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["systematic-6.1", "systematic-7.2", "random-6.12"])
def test_loads_of_a_real_list_have_the_hashes_that_the_kernel_reports(name: str) -> None:
    data = recorded.binary(name)
    found = {hash_ for hashes in truth.loads(truth.dm_records(data)).values() for hash_ in hashes}
    reported = {b.decode() for b in re.findall(rb"[^n]active_table_hash=(sha256:[0-9a-f]{64})", data)}
    assert len(reported) > 10
    assert reported <= found


@pytest.mark.parametrize(("name", "legacy"), [("systematic-6.1", True), ("systematic-7.2", False)])
def test_rebuilt_tables_have_the_hashes_of_the_list(name: str, legacy: bool) -> None:
    data = recorded.binary(name)
    version = re.search(rb"dm_version=(\d+)\.(\d+)\.(\d+);", data)
    assert version is not None
    numbers = (int(version[1]), int(version[2]), int(version[3]))
    checked = 0
    for action in recorded.actions(name):
        for device in action.devices:
            if not action.label.startswith("many ") or not device.measure:
                continue
            rows = [line.split(" ", 3) for line in device.measure.splitlines()]
            specs = [Spec(int(b), int(length), kind, text.encode()) for b, length, kind, text in rows]
            head = truth.head(numbers, (device.name, device.uuid), device.number, len(specs))
            assert truth.label(truth.load_text(head, specs, legacy=legacy)).encode() in data
            checked += 1
    assert checked > 30


def test_every_name_a_device_has_had_gives_a_hash_until_it_is_gone() -> None:
    known = history()
    renamed = dataclasses.replace(DEVICE, name=b"other")
    assert known.unambiguous(DEVICE)
    known.take([renamed])
    assert known.acceptable(renamed, TABLE) == {
        *history(DEVICE).acceptable(DEVICE, TABLE),
        *history(renamed).acceptable(renamed, TABLE),
    }
    assert not known.unambiguous(renamed)
    known.take([])
    known.take([renamed])
    assert known.acceptable(renamed, TABLE) == history(renamed).acceptable(renamed, TABLE)


def test_a_volatile_attribute_may_have_moved_since_the_load() -> None:
    loaded = b"target_name=verity,target_version=1.9.0,hash_failed=V,root_digest=00;"
    moved, other = loaded.replace(b"=V", b"=C"), loaded.replace(b"=00", b"=01")
    head = truth.head(VERSION, (DEVICE.name, DEVICE.uuid), DEVICE.number, 1)
    text = truth.load_text(head, [Spec(0, 8, "verity", loaded)], legacy=False)
    known = history(loads=truth.loads([(b"dm_table_load", text), (b"dm_device_resume", b"")]))
    assert known.measured(DEVICE, Table((Spec(0, 8, "verity", moved),))) == {truth.label(text)}
    assert known.measured(DEVICE, Table((Spec(0, 8, "verity", other),))) == set()


# -- comparison --------------------------------------------------------------------------------


def test_equal_documents_differ_in_nothing() -> None:
    both = dataclasses.replace(DEVICE, inactive=TABLE, suspended=True)
    assert compare.differences([DEVICE], {DEVICE.key: document()}, history()) == []
    assert compare.differences([both], {both.key: document(both)}, history(both)) == []
    assert document()["name"] == r"l\xe4t"


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("name", "lät", "name"),
        ("uuid", "", "uuid"),
        ("minor", 4, "minor"),
        ("live", False, "live"),
        ("suspended", True, "suspended"),
        ("suspended", None, "suspended"),
        ("active", None, "active is null"),
        ("inactive", {"hash": "sha256:00"}, "inactive is 'sha256:00', not null"),
    ],
)
def test_each_field_is_compared(field: str, value: object, word: str) -> None:
    (wrong,) = compare.differences([DEVICE], {DEVICE.key: document() | {field: value}}, history())
    assert word in wrong


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hash", "sha256:" + "0" * 64),
        ("num_targets", 1),
        ("provenance", "measured"),
        ("targets", None),
        ("targets", [{"begin": 0, "length": 8, "type": "linear"}]),
        ("targets", [{"begin": 0, "length": 8, "type": "linear"}, {"begin": 8, "length": 8, "type": None}]),
    ],
)
def test_each_field_of_a_slot_is_compared(field: str, value: object) -> None:
    shown = document()
    shown["active"] = shown["active"] | {field: value}
    (wrong,) = compare.differences([DEVICE], {DEVICE.key: shown}, history())
    assert f"active {field}" in wrong


def test_missing_and_spare_documents_are_told() -> None:
    wrong = compare.differences([DEVICE], {"254:9": document()}, history())
    assert [text.split(":", 2)[1].split(" ")[0] for text in wrong] == ["9", "3"]
    assert "there is no such device" in wrong[0]
    assert "no document" in wrong[1]


# -- what processes say ------------------------------------------------------------------------


def test_metrics_are_read_with_their_labels() -> None:
    text = '# HELP a b\ndmimad_up 1.0\ndmimad_drift{device="a\\"b{}",slot="active"} 0.0\n'
    assert samples(text) == {
        ("dmimad_up", frozenset()): 1.0,
        ("dmimad_drift", frozenset({("device", 'a\\"b{}'), ("slot", "active")})): 0.0,
    }


def test_settings_are_the_products() -> None:
    settings = parse(DaemonSettings(hold_open=False, wake_ups=False).text().encode(), "vm.toml")
    assert (settings.host.id, settings.source.hold_open, settings.live.wake_ups) == ("vm", False, False)


def publish(topic: bytes, packet: int, event: dict[str, str]) -> bytes:
    """A PUBLISH of QoS 1 with an empty set of properties."""
    payload = json.dumps({"specversion": "1.0", **event}, separators=(",", ":")).encode()
    body = struct.pack(">H", len(topic)) + topic + struct.pack(">HB", packet, 0) + payload
    return bytes([0x32, len(body) & 0x7F | 0x80, len(body) >> 7]) + body


def test_acknowledgements_are_found_however_the_stream_is_cut() -> None:
    long = {"id": "a", "filling": "x" * 200}
    other = publish(b"dmimad/v1/vm/device/254:0/and-something-to-make-it-longer-than-that", 7, long)
    sent = other + publish(b"dmimad/v1/vm/alert/critical", 8, long)
    for cut in range(1, len(sent), 7):
        seen = Acknowledgements(1883)
        seen.feed((40000, 1883), sent[:cut], 1.0)
        seen.feed((40000, 1883), sent[cut:], 2.0)
        seen.feed((1883, 40000), b"\x40\x02\x00\x07", 3.0)
        seen.feed((1883, 40001), b"\x40\x02\x00\x08", 4.0)
        assert seen.times == {}
        seen.feed((1883, 40000), b"\x40\x02\x00", 5.0)
        seen.feed((1883, 40000), b"\x08", 6.0)
        assert seen.times == {"a": 6.0}
