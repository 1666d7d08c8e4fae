"""Capturing devices: what is told is read back the same, and what is written approves what it was made of."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmimad.core import baseline_text, capture
from dmimad.core.approval import add_entry
from dmimad.core.backing import names_on_host
from dmimad.core.baseline import Baseline, Operation, parse_baseline
from dmimad.core.baseline_text import (
    Terms,
    TooLargeError,
    can_be_approved,
    describe,
    entry_text,
    for_people,
    literal_pattern,
    quoted,
    remarks,
    terms_of,
)
from dmimad.core.capture import (
    Captured,
    CapturedDevice,
    captured_device,
    captured_live,
    configurations_document,
    read_configurations,
    staged_as_active,
    without_staged,
)
from dmimad.core.comparison import Result, compare, compare_device
from dmimad.core.drift import Verdict, judge
from dmimad.core.errors import BaselineError, MalformedError
from dmimad.core.finding import NOT_NAMED, Severity
from dmimad.core.monitor import Monitor, Policy
from dmimad.core.observation import LiveTable, LiveTarget, Observation
from dmimad.core.reader import ListReader
from dmimad.core.table import Provenance
from dmimad.core.tracker import Tracker
from tests.core.histories import BOUNDED
from tests.core.kernel import Kernel, Table, Target, linear, linears, opaque
from tests.core.lists import binary_record
from tests.core.live import Watcher, observation
from tests.core.recorded import LISTS, binary
from tests.core.replaying import replay_items

NOW = 1_795_000_000.0


def names(number: tuple[int, int]) -> tuple[str, ...]:
    """A host whose disks have serials."""
    return (f"serial:QM{number[1]}",) if number[0] == 1 else ()


def captured_of(kernel: Kernel) -> list[CapturedDevice]:
    """What a list alone tells of the model's devices."""
    tracker = replay_items(kernel.items).tracker
    return [captured_device(one, None, names_on_host(tracker.registry, names)) for one in tracker.devices]


def seen_of(kernel: Kernel) -> list[CapturedDevice]:
    """What list and live tables tell together."""
    watcher = Watcher()
    watcher.settle(lambda: watcher.look(kernel))
    known = names_on_host(watcher.tracker.registry, names)
    live = watcher.fusion.live
    return [
        captured_device(one, live.get((one.major or 0, one.minor or 0)), known)
        for one in watcher.tracker.devices
    ]


def only(
    table: Table, *, name: bytes = b"a", uuid: bytes = b"", staged: Table | None = None
) -> CapturedDevice:
    """One device, as list and live tables tell it."""
    kernel = Kernel("ordered")
    kernel.create(name, table, uuid)
    if staged is not None:
        kernel.load(name, staged)
    (device,) = seen_of(kernel)
    return device


def written(*devices: CapturedDevice, **options: Any) -> Baseline:
    return parse_baseline(baseline_text.capture(devices, **options).text, "b.toml")


def is_approved(device: CapturedDevice, baseline: Baseline, now: float = NOW) -> bool:
    around = device.surroundings(now)
    found = judge(device.device, baseline, report_unexpected=True, surroundings=around)
    return found.verdict is Verdict.APPROVED


def told(*devices: CapturedDevice) -> Any:
    """The document, after it went through JSON."""
    return json.loads(json.dumps(configurations_document(Captured("h", True, devices))))


def crypt(sectors: int = 64, **changed: str) -> Target:
    pairs = {"allow_discards": "n", "cipher_string": "aes-xts-plain64", "key_size": "64", **changed}
    text = ",".join(f"{key}={value}" for key, value in pairs.items())
    return Target(sectors, f"target_name=crypt,target_version=1.29.0,{text};".encode())


VERITY = Target(
    32768,
    b"target_name=verity,target_version=1.9.0,hash_failed=V,data_device_name=1:1,hash_device_name=1:2,"
    b"root_digest=8343d3,ignore_zero_blocks=n;",
)


# -- told and read --------------------------------------------------------------------------


def recorded(name: str) -> list[CapturedDevice]:
    """The devices of a recorded list, each as it was when it last had an active table."""
    reader, tracker = ListReader(banks=()), Tracker()
    known = names_on_host(tracker.registry, names)
    found: dict[tuple[str, bytes, bytes], CapturedDevice] = {}
    for record in [*reader.feed(binary(name)), *reader.close()]:
        step = tracker.apply(record)
        if step is not None and step.device is not None and not step.gone and step.device.active is not None:
            device = step.device
            found[device.key, device.name, device.uuid] = captured_device(device, None, known)
    return list(found.values())


@pytest.mark.parametrize("name", LISTS)
def test_what_is_told_is_read_back_the_same(name: str) -> None:
    devices = recorded(name)
    found = read_configurations(told(*devices))
    assert sorted(map(repr, found.devices)) == sorted(map(repr, devices))
    assert (found.host, found.observed) == ("h", True)


def test_what_was_observed_is_told_where_it_says_more() -> None:
    device = only((linear(0), opaque()), staged=(opaque(),))
    assert device.live is not None
    assert device.active is not None
    assert [target.type for target in device.active.configuration.targets] == ["linear", "zero"]
    (found,) = read_configurations(told(device)).devices
    assert (found.active, found.inactive) == (device.active, device.inactive)


def test_what_was_observed_is_left_out_where_the_list_has_told_all() -> None:
    assert only((linear(0),)).live is None


def test_a_slot_that_was_not_observed_is_told_as_such() -> None:
    device = only((opaque(),), staged=(linear(0),))
    document = told(device)
    assert document["devices"][0]["live"][1] is None
    assert read_configurations(document).devices[0].inactive == device.inactive


def test_of_the_largest_tables_only_the_hash_is_told_if_there_is_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = Kernel("ordered")
    kernel.create(b"small", (linear(0),))
    kernel.create(b"large", linears(30))
    monkeypatch.setattr(capture, "MAX_TOLD_BYTES", 1000)
    large, small = read_configurations(told(*captured_of(kernel))).devices
    assert small.active is not None
    assert small.active.configuration.fingerprint is not None
    assert large.active is not None
    assert large.device.active is not None
    assert (large.active.configuration.fingerprint, len(large.device.active.hash)) == (None, 32)


def test_a_device_without_numbers_can_be_told() -> None:
    device = only((opaque(),))
    unnumbered = captured_device(device.device._replace(key="name-1", major=None, minor=None), None, names)
    (found,) = read_configurations(told(unnumbered)).devices
    assert found.device.major is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((), 5),
        (("devices",), {}),
        (("observed",), None),
        (("host",), "\ud800"),
        (("host",), "h" * 5000),
        (("devices", 0), []),
        (("devices", 0, "key"), 5),
        (("devices", 0, "device", "active", "hash"), "ab"),
        (("devices", 0, "device", "active", "num_targets"), -1),
        (("devices", 0, "device", "active", "provenance"), "hearsay"),
        (("devices", 0, "names"), []),
        (("devices", 0, "names"), {"a": []}),
        (("devices", 0, "names"), {"1:0": ["x"] * 100}),
        (("devices", 0, "names"), {"1:0": [5]}),
        (("devices", 0, "live"), 5),
        (("devices", 0, "live", 0), 5),
        (("devices", 0, "live", 0, 0), [0, 8, "zero"]),
        (("devices", 0, "live", 0, 0), [-1, 8, "zero", ""]),
        (("devices", 0, "live", 0, 0), [0, 1 << 64, "zero", ""]),
    ],
)
def test_what_is_not_as_it_is_told_is_refused(path: tuple[Any, ...], value: object) -> None:
    document = told(only((linear(0), opaque())))
    if not path:
        document = value
    else:
        place = document
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
    with pytest.raises(MalformedError):
        read_configurations(document)


def test_more_than_a_host_can_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    document = told(only((linear(0),)))
    monkeypatch.setattr(capture, "MAX_BACKING", 0)
    with pytest.raises(MalformedError, match="backing"):
        read_configurations(document)
    monkeypatch.setattr(capture, "MAX_DEVICES", 0)
    with pytest.raises(MalformedError, match="devices"):
        read_configurations(document)


def test_the_kernel_alone_tells_the_same_configuration_but_no_hash() -> None:
    kernel = Kernel("ordered")
    kernel.create(b"below", (linear(0),), b"LVM-1")
    kernel.create(b"above", (linear(8, "254:0"), opaque()))
    kernel.load(b"above", (linear(16),))
    seen = {one.name: one for one in seen_of(kernel)}
    live = {one.name: one for one in captured_live(observation(kernel), names)}
    for name in ("above", "below"):
        ours, theirs = live[name].active, seen[name].active
        assert ours is not None
        assert theirs is not None
        assert ours.configuration.fingerprint == theirs.configuration.fingerprint
        assert (ours.label, ours.provenance) == ("unknown", Provenance.OBSERVED)
    assert live["above"].inactive is not None
    assert live["below"].inactive is None


def test_of_a_live_table_that_was_not_told_nothing_is_known() -> None:
    kernel = Kernel("ordered")
    kernel.create(b"a", (linear(0),))
    (device,) = observation(kernel).devices
    untold = Observation((4, 48, 0), (replace(device, active=LiveTable(None)),))
    (found,) = captured_live(untold, names)
    assert found.active is not None
    assert not can_be_approved(found, found.active)
    made = baseline_text.capture([found])
    assert (made.devices, made.left_out) == (0, ("a (254:0): nobody has told what its table is",))


# -- what is written approves what it was made of -------------------------------------------


@pytest.mark.parametrize("name", LISTS)
def test_captured_devices_of_real_kernels_are_approved(name: str) -> None:
    devices = [without_staged(device) for device in recorded(name)]
    for device in devices:
        assert is_approved(device, written(device)), device
    together = written(*devices)
    for device in devices:
        assert is_approved(device, together), device


def test_a_staged_table_is_never_captured_but_is_said_to_be_there() -> None:
    device = only((linear(0),), staged=(linear(8),))
    made = baseline_text.capture([device])
    assert "another table was staged" in made.text
    baseline = parse_baseline(made.text, "b.toml")
    assert is_approved(without_staged(device), baseline)
    assert not is_approved(device, baseline)


hostile_bytes = st.binary(min_size=1, max_size=127).map(
    lambda name: name.replace(b"\0", b"*").replace(b"/", b"[")
)
hostile = hostile_bytes | st.text(
    "*?[]\\\"'#=\n\r\x1b\x85\u2028\u202e\U0001f600a", min_size=1, max_size=20
).map(str.encode)
values = st.text("<>!*?[]{}\"'\\ \n\x1b\u202e,=:ab0", max_size=12).map(str.encode)


@BOUNDED
@given(
    hostile,
    st.just(b"") | hostile,
    st.lists(st.tuples(st.sampled_from(["a", "a", "b", "index"]), values), max_size=5),
)
def test_whatever_devices_are_called_and_their_attributes_hold(
    name: bytes, uuid: bytes, pairs: list[tuple[str, bytes]]
) -> None:
    body = b"".join(b",%s=%s" % (key.encode(), value) for key, value in pairs)
    target = LiveTarget(0, 8, "linear", b"target_name=linear,target_version=1.4.0%s;" % body)
    kernel = Kernel("ordered")
    kernel.create(b"a", (linear(0),))
    (device,) = observation(kernel).devices
    live = replace(device, name=name, uuid=uuid, active=LiveTable((target,)))
    (found,) = captured_live(Observation((4, 48, 0), (live,)), names)
    made = baseline_text.capture([found], ["by \x1b[31m me"], serial=7)
    assert all(line.isprintable() for line in made.text.split("\n"))
    baseline = parse_baseline(made.text, "b.toml")
    assert is_approved(found, baseline)
    (entry,) = baseline.entries
    assert entry.is_exact
    assert baseline.serial == 7
    (read,) = read_configurations(told(found)).devices
    assert read.active == found.active


@BOUNDED
@given(st.text(max_size=30))
def test_a_quoted_text_is_the_text(text: str) -> None:
    assert tomllib.loads(f"a = {quoted(text)}")["a"] == text


# -- what is written ------------------------------------------------------------------------


def test_a_captured_file() -> None:
    kernel = Kernel("ordered")
    kernel.create(b"vg0-image", (linear(2048, "1:3", 32768),), b"LVM-1")
    kernel.create(b"home", (crypt(204800),), b"CRYPT-LUKS2-e31e-home")
    kernel.create(b"none")
    device = {one.name: one for one in seen_of(kernel)}
    image, home = device["vg0-image"].active, device["home"].active
    assert image is not None
    assert home is not None
    made = baseline_text.capture(device.values(), ["Captured."], serial=3, hashes=True)
    assert (
        made.text
        == f"""# Captured.
version = 1
serial = 3

# home (254:1): LUKS2 (crypt aes-xts-plain64, 512 bit), 100 MiB
[[device]]
name = "home"
uuid = "CRYPT-LUKS2-e31e-home"
required = true
fingerprints = ["{home.configuration.fingerprint}"]
hashes = ["{home.label}"]

[[device.target]]
index = 0
type = "crypt"
length = 204800
allow_discards = "n"
cipher_string = "aes-xts-plain64"
key_size = 64

# left out: none (254:2): no active table

# vg0-image (254:0): LVM volume, linear on serial:QM3, 16 MiB
[[device]]
name = "vg0-image"
uuid = "LVM-1"
required = true
fingerprints = ["{image.configuration.fingerprint}"]
hashes = ["{image.label}"]

[[device.target]]
index = 0
type = "linear"
length = 32768
device_name = "serial:QM3"
start = 2048
"""
    )
    assert (made.devices, made.left_out, made.warnings) == (2, ("none (254:2): no active table",), ())


def test_without_header_and_serial() -> None:
    assert baseline_text.capture([]).text == "version = 1\n"


def test_only_a_staged_table_is_said() -> None:
    kernel = Kernel("ordered")
    kernel.create(b"a")
    kernel.load(b"a", (linear(0),))
    made = baseline_text.capture(seen_of(kernel))
    assert made.left_out == ("a (254:0): no active table, only a staged one",)


def test_what_moves_by_itself_and_the_version_are_not_written() -> None:
    text = baseline_text.capture([only((VERITY,))]).text
    assert "hash_failed" not in text
    assert "target_version" not in text
    assert 'root_digest = "8343d3"' in text


def test_a_backing_device_with_only_a_number_is_warned_of() -> None:
    made = baseline_text.capture([only((linear(0, "7:4"),))])
    assert "# WARNING: of 7:4 only the number is known" in made.text
    assert len(made.warnings) == 1
    assert 'device_name = "number:7:4"' in made.text


def test_of_a_table_that_is_not_wholly_known_the_hash_is_approved() -> None:
    kernel = Kernel("legacy")
    kernel.create(b"many", linears(37))
    (device,) = captured_of(kernel)
    made = baseline_text.capture([device])
    assert "# WARNING: not all of this table is known" in made.text
    baseline = parse_baseline(made.text, "b.toml")
    assert device.active is not None
    (entry,) = baseline.entries
    assert (entry.fingerprints, entry.rules) == (frozenset(), ())
    assert {"sha256:" + digest.hex() for digest in entry.hashes} == {device.active.label}
    assert is_approved(device, baseline)


def test_many_targets_are_approved_by_the_fingerprint_alone() -> None:
    device = only(linears(33))
    made = baseline_text.capture([device])
    assert "# 33 targets, which are approved by the fingerprint alone" in made.text
    (entry,) = parse_baseline(made.text, "b.toml").entries
    assert (len(entry.fingerprints), entry.rules) == (1, ())


def test_what_one_file_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    device = only((linear(0),))
    whole = baseline_text.capture([device]).text
    monkeypatch.setattr(baseline_text, "MAX_BASELINE_BYTES", len(whole) - 1)
    made = baseline_text.capture([device])
    assert "[[device.target]]" not in made.text
    assert "1 targets, which are approved by the fingerprint alone" in made.text
    assert is_approved(device, parse_baseline(made.text, "b.toml"))
    monkeypatch.setattr(baseline_text, "MAX_ENTRIES", 0)
    with pytest.raises(TooLargeError):
        baseline_text.capture([device])


def test_an_opaque_target_is_written_with_its_type_if_that_was_seen() -> None:
    device = only((opaque(),))
    text = baseline_text.capture([device]).text
    assert 'type = "zero"' in text
    assert "# 1 of 1 targets opaque" in text
    kernel = Kernel("ordered")
    kernel.create(b"a", (opaque(),))
    assert "type" not in baseline_text.capture(captured_of(kernel)).text.partition("index")[2]


def test_more_values_of_one_name_than_a_rule_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(8, b"target_name=linear,target_version=1.4.0,a=1,a=2,b=1;")
    assert "a = [1, 2]\nb = 1" in baseline_text.capture([only((target,))]).text
    monkeypatch.setattr(baseline_text, "MAX_ALTERNATIVES", 1)
    text = baseline_text.capture([only((target,))]).text
    assert "a = " not in text
    assert "b = 1" in text


@pytest.mark.parametrize(
    ("uuid", "table", "expected"),
    [
        (b"", (VERITY,), "dm-verity, data on serial:QM1, hash tree on serial:QM2, 16 MiB"),
        (b"", (crypt(key_size="x"),), "crypt aes-xts-plain64, 32 KiB"),
        (b"CRYPT-PLAIN-a", (crypt(),), "PLAIN (crypt aes-xts-plain64, 512 bit), 32 KiB"),
        (b"", linears(3, "1:9"), "linear on serial:QM9, 3 segments, 12 KiB"),
        (b"LVM-1", (linear(0), opaque()), "LVM volume, linear and zero on serial:QM0, 2 segments, 8 KiB"),
        (
            b"",
            tuple(linear(0, f"1:{minor}", 1) for minor in range(6)),
            "linear on serial:QM0, serial:QM1, serial:QM2, serial:QM3 and 2 more, 6 segments, 3 KiB",
        ),
        (b"CRYPT-LUKS1-x", (linear(0, "9:1"),), "LUKS1, linear on 9:1, 4 KiB"),
    ],
)
def test_what_a_device_is_said_to_be(uuid: bytes, table: Table, expected: str) -> None:
    device = only(table, uuid=uuid)
    assert device.active is not None
    assert describe(device.uuid, device.active) == expected


def test_devices_below_are_called_by_their_names() -> None:
    kernel = Kernel("ordered")
    kernel.create(b"vg0-pool", (linear(0),), b"LVM-1")
    kernel.create(b"top", (linear(0, "254:0"),))
    table = {one.name: one for one in seen_of(kernel)}["top"].active
    assert table is not None
    assert describe("", table) == "linear on vg0-pool, 4 KiB"
    assert 'device_name = "dm-uuid:LVM-1"' in entry_text(table, Terms("top", ""))


def test_a_table_of_which_nothing_is_known_is_said_so() -> None:
    device = only((linear(0),))
    assert device.device.active is not None
    bare = captured_device(
        device.device._replace(active=device.device.active._replace(texts=())), None, names
    )
    assert bare.active is not None
    assert describe("", bare.active) == "a table of which only the hash is known"


@pytest.mark.parametrize(
    ("size", "text"), [(512, "512 bytes"), (1536, "1.5 KiB"), (1 << 20, "1 MiB"), (5 << 40, "5 TiB")]
)
def test_sizes(size: int, text: str) -> None:
    assert for_people(size) == text


def test_long_comments_are_cut() -> None:
    text = baseline_text.capture([], ["x" * 1000]).text
    assert max(map(len, text.splitlines())) < 310


@pytest.mark.parametrize("name", ["a*", "[a]", "??", "[[*]]"])
def test_wildcards_in_names_stand_for_themselves(name: str) -> None:
    entry = written(only((linear(0),), name=name.encode())).entries[0]
    assert entry.name == literal_pattern(name)
    assert entry.is_exact
    assert entry.label == name
    assert not entry.matches("abc", "")


def test_all_that_an_entry_can_say() -> None:
    device = only((linear(0),))
    assert device.active is not None
    terms = Terms(
        "a",
        "u",
        required=False,
        allow=frozenset({Operation.RENAME, Operation.REMOVE}),
        severity=Severity.WARNING,
        staged_severity=Severity.INFO,
        not_before=NOW,
        not_after=NOW + 60,
        description='new "key"',
    )
    (entry,) = parse_baseline("version = 1\n" + entry_text(device.active, terms, rules=False), "b").entries
    assert (entry.name, entry.uuid, entry.required, entry.allow) == ("a", "u", False, terms.allow)
    assert (entry.severity, entry.staged_severity) == (Severity.WARNING, Severity.INFO)
    assert (entry.not_before, entry.not_after) == (NOW, NOW + 60)
    assert (entry.description, entry.rules) == ('new "key"', ())


# -- compared -------------------------------------------------------------------------------


def test_each_device_has_its_result() -> None:
    kernel = Kernel("ordered")
    for name, uuid in ((b"same", b""), (b"other", b""), (b"old", b"LVM-1"), (b"gone", b"")):
        kernel.create(name, (linear(0),), uuid)
    baseline = written(*seen_of(kernel))
    for name in (b"other", b"gone"):
        kernel.load(name, (linear(8),))
    kernel.resume(b"other")
    kernel.rename(b"old", b"new")
    kernel.create(b"extra", (linear(0),))
    del kernel.devices[b"gone"]
    found = compare(captured_live(observation(kernel), names), baseline, NOW)
    assert {one.label: one.result for one in found} == {
        "same": Result.APPROVED,
        "other": Result.DIFFERS,
        "new": Result.RENAMED,
        "extra": Result.UNEXPECTED,
        "gone": Result.MISSING,
    }
    assert [one.label for one in found] == sorted(one.label for one in found)
    (other,) = (one for one in found if one.label == "other")
    ((difference,),) = (slot.rows for slot in other.slots)
    assert str(difference) == "target 0: start is 8, not 0"
    assert other.entry.startswith("b.toml:")


def test_what_no_entry_speaks_of_is_not_judged_if_that_is_not_wanted() -> None:
    baseline, device = written(only((linear(0),), name=b"b")), only((linear(0),))
    results = {one.label: one.result for one in compare([device], baseline, NOW, report_unexpected=False)}
    assert results == {"a": Result.NOT_JUDGED, "b": Result.MISSING}


def test_a_table_of_which_too_little_is_known_is_not_approved() -> None:
    device = only((linear(0),))
    assert device.device.active is not None
    bare = device.device._replace(active=device.device.active._replace(texts=()))
    found = compare_device(captured_device(bare, None, names), written(device), NOW)
    assert found.result is Result.UNKNOWN


def test_a_staged_table_is_compared_too() -> None:
    device = only((linear(0),), staged=(linear(8),))
    (slot,) = compare_device(device, written(device), NOW).slots
    assert (slot.which, [row.attribute for row in slot.rows]) == ("inactive", ["start"])
    view = staged_as_active(device)
    assert view.active == device.inactive
    (slot,) = compare_device(view, written(device), NOW).slots
    assert slot.which == "active"


def test_a_staged_table_as_active_takes_what_was_observed_along() -> None:
    view = staged_as_active(only((linear(0),), staged=(opaque(),)))
    again = captured_device(view.device, view.live, names)
    assert view.active is not None
    assert again.active == view.active
    assert view.active.configuration.targets[0].type == "zero"


def test_what_no_rule_speaks_of_is_named_where_only_the_fingerprint_differs() -> None:
    text = baseline_text.capture([only((crypt(),))]).text
    found = compare_device(only((crypt(integrity_tag_size="16"),)), parse_baseline(text, "b.toml"), NOW)
    rows = [(row.target, row.attribute, row.expected) for slot in found.slots for row in slot.rows]
    assert rows[0] == (0, "integrity_tag_size", NOT_NAMED)
    assert [row[1] for row in rows] == ["integrity_tag_size", "fingerprint"]


def test_hashes_are_compared_where_there_is_nothing_else() -> None:
    approved = [f"sha256:{number:064x}" for number in range(6)]
    text = f'version = 1\n[[device]]\nname = "a"\nhashes = {json.dumps(approved)}\n'
    device = only((linear(0),))
    ((row,),) = (slot.rows for slot in compare_device(device, parse_baseline(text, "b"), NOW).slots)
    assert device.active is not None
    assert (row.attribute, row.actual) == ("hash", device.active.label)
    assert row.expected == " or ".join(approved[:4]) + " or 2 more"


def test_an_approval_that_is_over_is_said_without_differences() -> None:
    device = only((linear(0),))
    assert device.active is not None
    text = entry_text(device.active, Terms("a", "", not_after=NOW - 1))
    found = compare_device(device, parse_baseline("version = 1\n" + text, "b"), NOW)
    (slot,) = found.slots
    assert (found.result, slot.rows) == (Result.DIFFERS, ())
    assert "at this time" in slot.finding.message


# -- added to a file ------------------------------------------------------------------------


def entry_of(start: int, name: str = "a") -> str:
    table = only((linear(start),)).active
    assert table is not None
    return entry_text(table, Terms(name, ""))


def test_what_was_there_stays_byte_for_byte() -> None:
    before = "# ours\r\nversion = 1 \n\n" + entry_of(0).rstrip("\n")
    edit = add_entry(before, "b", entry_of(8))
    assert edit.text == before + "\n\n" + entry_of(8)
    assert (edit.serial, edit.removed) == (None, 0)
    assert len(parse_baseline(edit.text, "b").entries) == 2


def test_a_new_file() -> None:
    assert add_entry("", "b", entry_of(8)).text == "version = 1\n\n" + entry_of(8)


def test_a_serial_is_raised_in_its_place() -> None:
    before = "version = 1\nserial = 9 # last\n" + entry_of(0)
    edit = add_entry(before, "b", entry_of(8))
    assert edit.serial == 10
    assert edit.text.startswith("version = 1\nserial = 10 # last\n[[device]]\n")


@pytest.mark.parametrize("written_as", ["0x9", "9_0", '"serial" = 9', f"{(1 << 63) - 1}"])
def test_a_serial_that_cannot_be_raised_is_refused(written_as: str) -> None:
    line = written_as if "=" in written_as else f"serial = {written_as}"
    with pytest.raises(BaselineError, match="serial"):
        add_entry(f"version = 1\n{line}\n{entry_of(0)}", "b", entry_of(8))


def test_a_serial_in_a_file_without_entries_that_cannot_be_raised_is_refused() -> None:
    with pytest.raises(BaselineError, match="serial"):
        add_entry("version = 1\nserial = 0x9\n", "b", entry_of(8))


def test_former_entries_go_with_their_comments_and_rules() -> None:
    kept = f"# second\n# of two\n{entry_of(8, 'b')}\n"
    before = f"version = 1\n\n# first\n{entry_of(0)}\n{kept}# third\n{entry_of(16)}"
    entries = parse_baseline(before, "b").entries
    origins = [one.origin for one in entries if one.name == "a"]
    edit = add_entry(before, "b", entry_of(24), remove=[*origins, "elsewhere:1"])
    assert edit.removed == 2
    assert edit.text == f"version = 1\n\n{kept}\n{entry_of(24)}"


def test_what_cannot_be_taken_out_safely_is_refused() -> None:
    described = 'description = """\n[[device]]\n"""\n'
    before = f'version = 1\n[[device]]\nname = "x"\n{described}{entry_of(0)}'
    origin = parse_baseline(before, "b").entries[1].origin
    with pytest.raises(BaselineError, match="by hand"):
        add_entry(before, "b", entry_of(8), remove=[origin])


def test_a_file_in_which_entries_are_written_otherwise_is_refused() -> None:
    with pytest.raises(BaselineError, match="by hand"):
        add_entry('version = 1\ndevice = [{ name = "x" }]\n', "b", entry_of(8))


def test_remarks_are_none_where_there_is_nothing_to_say() -> None:
    device = only((linear(0),))
    assert device.active is not None
    assert remarks(device, device.active) == ()
    assert terms_of(device) == Terms("a", "")


def test_a_monitor_tells_its_devices_to_whoever_approves_them() -> None:
    kernel = Kernel("ordered")
    kernel.create(b"a", (linear(0),), b"LVM-1")
    monitor = Monitor(Policy("h"), Baseline(), "boot", names=lambda number: ("serial:x",))
    for item in kernel.items:
        monitor.feed(binary_record(item), 10.0)
    monitor.caught_up(10.0)
    captured = read_configurations(json.loads(json.dumps(monitor.configurations())))
    (device,) = captured.devices
    assert (captured.host, device.device.name) == ("h", b"a")
    assert device.active is not None
    assert device.active.configuration.backing == (((1, 0), ("serial:x",)),)
