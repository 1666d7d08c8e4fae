"""Configuration fingerprints: the same wherever the configuration is, another one wherever it is not.

The vectors are computed twice: by the project, and by the lines in this file that were written from
``docs/fingerprint.md`` alone.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmimad.core.backing import names_on_host, no_names
from dmimad.core.configuration import (
    Attribute,
    Configuration,
    canonical,
    configuration_of,
    configuration_of_live,
)
from dmimad.core.health import is_volatile
from dmimad.core.observation import LiveTable, LiveTarget
from dmimad.core.reader import ListReader
from dmimad.core.table import Provenance, Table
from dmimad.core.tracker import Tracker
from tests.core import recorded
from tests.core.histories import BOUNDED
from tests.core.kernel import Kernel, linear, linears, opaque
from tests.core.lists import binary_list
from tests.core.live import Watcher, live_table, recorded_observation

VECTORS = json.loads((Path(__file__).parent / "fingerprint-vectors.json").read_text("utf-8"))["vectors"]


def names(number: tuple[int, int]) -> tuple[str, ...]:
    """Every device has a name."""
    return (f"serial:{number[0]}-{number[1]}",)


def live(*texts: bytes, kind: str = "linear", sectors: int = 8) -> tuple[LiveTarget, ...]:
    """Targets as the kernel holds them."""
    found, begin = [], 0
    for text in texts:
        name = re.match(rb"target_name=([^,;]*)", text)
        found.append(LiveTarget(begin, sectors, name[1].decode() if name else kind, text))
        begin += sectors
    return tuple(found)


def of(*texts: bytes, **how: Any) -> Configuration:
    return configuration_of_live(live(*texts, **how), names)


def measured(*targets: bytes, number: int | None = None, **changes: Any) -> Table:
    """A table as the list tells it."""
    text = b"name=a,uuid=,major=254,minor=0,minor_count=1,num_targets=%d;" % len(targets)
    for index, target in enumerate(targets):
        text += b"target_index=%d,target_begin=%d,target_len=8,%s" % (index, 8 * index, target)
    count = len(targets) if number is None else number
    return Table(b"\1" * 32, b"a", b"", count, (text,), 3)._replace(**changes)


# -- the vectors, and who else computes them -----------------------------------------------

MOVING = {
    "verity": "hash_failed",
    "mirror": "mirror_device_N_status|log_type_status",
    "raid": "raid_state|raid_device_N_status",
    "striped": "stripe_N_status",
    "multipath": "pg_state_N|is_active_N|fail_count_N|path_selector_status_N",
    "snapshot": "snap_valid|snap_merge_failed|snapshot_overflowed",
    "snapshot-merge": "snap_valid|snap_merge_failed|snapshot_overflowed",
    "cache": "metadata_mode|no_discard_passdown",
}


def quoted(text: str) -> str:
    """A JSON string."""
    short = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
    return '"' + "".join(short.get(c, f"\\u{ord(c):04x}" if c < " " else c) for c in text) + '"'


def computed_elsewhere(vector: dict[str, Any]) -> str:
    """The canonical form as the document says it, and nothing of the project's."""
    targets = []
    for target in vector["targets"]:
        text = bytes.fromhex(target["hex"]) if "hex" in target else target["text"].encode()
        text = text[:2047].rstrip(b"\0").removesuffix(b";")
        if not text.startswith(b"target_name="):
            targets.append(f"[{target['length']},null,[]]")  # the vectors have no other opaque text
            continue
        parts = re.split(rb",(?=[a-z][a-z0-9_]*=)", text)
        shown = [part.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace") for part in parts]
        pairs = [part.split("=", 1) for part in shown]
        kind = pairs.pop(0)[1]
        if pairs and pairs[0][0] == "target_version":
            del pairs[0]
        moving = MOVING.get(kind, "").replace("N", "[0-9]+(_[0-9]+)?")
        kept = [(k, v) for k, v in pairs if v != "n" and not (moving and re.fullmatch(moving, k))]
        settings: list[tuple[str, ...]] = []
        for key, value in kept:
            if re.fullmatch(r"[0-9]{1,10}:[0-9]{1,10}", value):
                settings.append((key, vector["backing"].get(value, f"number:{value}"), "device"))
            else:
                settings.append((key, value))
        lines = ",".join("[" + ",".join(map(quoted, setting)) + "]" for setting in sorted(settings))
        targets.append(f"[{target['length']},{quoted(kind)},[{lines}]]")
    return f'["dmimad-config-1",[{",".join(targets)}]]'


def of_vector(vector: dict[str, Any]) -> Configuration:
    found, begin = [], 0
    for target in vector["targets"]:
        text = bytes.fromhex(target["hex"]) if "hex" in target else target["text"].encode()
        found.append(LiveTarget(begin, target["length"], target["type"], text))
        begin += target["length"]

    def known(number: tuple[int, int]) -> tuple[str, ...]:
        name = vector["backing"].get(f"{number[0]}:{number[1]}")
        return () if name is None else (name,)

    return configuration_of_live(found, known)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_vectors_are_computed_by_us_and_from_the_document(vector: dict[str, Any]) -> None:
    assert canonical(of_vector(vector)).decode() == vector["canonical"]
    assert computed_elsewhere(vector) == vector["canonical"]
    digest = "config:" + hashlib.sha256(vector["canonical"].encode()).hexdigest()
    assert of_vector(vector).fingerprint == vector["fingerprint"] == digest


def test_vectors_show_what_is_equal_and_what_is_not() -> None:
    found = {vector["name"]: vector["fingerprint"] for vector in VECTORS}
    assert found["linear on a partition"] == found["the same after a reboot, on a newer kernel"]
    assert found["verity"] == found["verity that found a corrupted block"]
    assert len(set(found.values())) == len(found) - 3


# -- real kernels: whoever tells it --------------------------------------------------------


def told_tables(data: bytes) -> list[tuple[str, str, str | None]]:
    """Key, hash and fingerprint of every table that was in a slot, as a list tells them."""
    reader, tracker = ListReader(), Tracker()
    found: dict[tuple[str, str, str | None], None] = {}
    name = names_on_host(tracker.registry, names)
    for record in [*reader.feed(data), *reader.close()]:
        step = tracker.apply(record)
        for device in () if step is None or step.device is None else (step.device,):
            for slot in (device.active, device.inactive):
                if slot is not None:
                    found[device.key, slot.label, configuration_of(slot, None, name).fingerprint] = None
    return list(found)


@functools.cache
def binary_tables(name: str) -> list[tuple[str, str, str | None]]:
    return told_tables(recorded.binary(name))


@pytest.mark.parametrize(("name", "form"), recorded.ALL_FORMS, ids=str)
def test_every_form_of_a_list_tells_the_same(name: str, form: recorded.Form) -> None:
    found = told_tables(form.path.read_bytes())
    assert found == binary_tables(name)
    assert sum(fingerprint is not None for *_, fingerprint in found) > 15


@functools.cache
def seen_tables(name: str) -> tuple[dict[tuple[str, str], set[str]], int, int, list[str]]:
    """After each step: what list and live table together say, and the live table alone.

    Returns fingerprints by the step's label and the device's name, how many were compared, how many of these
    tables the list alone does not tell, and where the two differ.
    """
    head = _head(name)
    watcher, wrong = Watcher(), []
    found: dict[tuple[str, str], set[str]] = {}
    compared = holes = 0
    for action in recorded.actions(name):
        observation = recorded_observation(action, head)
        watcher.feed(recorded.items(name)[: action.after])
        watcher.settle(functools.partial(watcher.observe, observation))
        name_of = names_on_host(watcher.tracker.registry, names)
        for seen in observation.devices:
            device = watcher.devices[f"{seen.major}:{seen.minor}"]
            if seen.active is None or seen.active.targets is None or device.active is None:
                continue
            both = configuration_of(device.active, seen.active, name_of)
            alone = configuration_of_live(seen.active.targets, name_of)
            listed = configuration_of(device.active, None, name_of)
            compared += 1
            holes += listed.fingerprint is None
            if {both.fingerprint, listed.fingerprint or both.fingerprint} != {alone.fingerprint}:
                wrong.append(f"{action.label}: {canonical(both)!r} is not {canonical(alone)!r}")
            key = (f"{action.label}|{action.command}|{action.table}", seen.name.decode("latin-1"))
            found.setdefault(key, set()).add(alone.fingerprint or "")
    return found, compared, holes, wrong


def _head(name: str) -> bytes:
    """What each record of a list begins with."""
    first = next(item for item in recorded.items(name) if item.is_dm)
    found = re.match(rb"dm_version=[^;]*;", first.text)
    return found[0] if found else b""


@pytest.mark.parametrize("name", recorded.LISTS)
def test_list_and_live_table_tell_the_same(name: str) -> None:
    _, compared, holes, wrong = seen_tables(name)
    assert wrong == []
    assert compared > 20
    assert (holes > 0) is (name in {"systematic-v1", "systematic-6.1", "systematic-6.12"})


@pytest.mark.parametrize("name", ["systematic-v1", "systematic-6.12", "systematic-7.2"])
def test_kernels_agree_where_the_same_was_done(name: str) -> None:
    """Keys that only one of them has are at their defaults."""
    ours, theirs = seen_tables("systematic-6.1")[0], seen_tables(name)[0]
    same = ours.keys() & theirs.keys()
    assert len(same) > 60
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}


# -- real tables, changed ------------------------------------------------------------------


@functools.cache
def texts() -> tuple[tuple[str, bytes], ...]:
    """A few target texts of each kind and kernel."""
    found: dict[tuple[str, tuple[bytes, ...]], bytes] = {}
    for name in recorded.LISTS:
        for action in recorded.actions(name):
            for device in recorded_observation(action, _head(name)).devices:
                for target in (device.active and device.active.targets) or ():
                    keys = tuple(re.findall(rb"[a-z0-9_]+=", target.text))
                    found.setdefault((target.type, keys), target.text)
    return tuple((kind, text) for (kind, _), text in found.items() if text)


KINDS = [(kind, text) for kind, text in texts()]


def changes(text: bytes) -> Iterator[tuple[str, bytes]]:
    """Each attribute with another value: key, text."""
    parts = text.removesuffix(b";").split(b",")
    for place, part in enumerate(parts):
        key, _, value = part.partition(b"=")
        other = {b"n": b"y", b"y": b"n"}.get(value, b"9:9" if b":" in value else value + b"1")
        edited = [*parts[:place], key + b"=" + other, *parts[place + 1 :]]
        yield key.decode(), b",".join(edited) + b";"


def test_all_kinds_of_targets_are_among_those_changed() -> None:
    assert {kind for kind, _ in KINDS} >= {
        "linear",
        "crypt",
        "verity",
        "integrity",
        "mirror",
        "striped",
        "raid",
    }
    assert {kind for kind, _ in KINDS} >= {"cache", "snapshot"}


@pytest.mark.parametrize(("kind", "text"), KINDS, ids=[f"{n} {kind}" for n, (kind, _) in enumerate(KINDS)])
def test_each_change_of_configuration_is_another_fingerprint_and_nothing_else_is(
    kind: str, text: bytes
) -> None:
    before, seen = of(text).fingerprint, set()
    for key, changed in changes(text):
        after = of(changed).fingerprint
        assert (after == before) is (key == "target_version" or is_volatile(kind, key)), key
        seen.add(after)
    assert of(text.replace(b";", b",brand_new=n;")).fingerprint == before
    assert of(text.replace(b";", b",brand_new=y;")).fingerprint not in (before, *seen)
    assert of(text, sectors=16).fingerprint != before
    assert of(text, text).fingerprint != before
    assert of(b"", kind=kind).fingerprint != before


@pytest.mark.parametrize(("kind", "text"), KINDS, ids=[f"{n} {kind}" for n, (kind, _) in enumerate(KINDS)])
def test_another_boot_gives_other_numbers_and_the_same_fingerprint(kind: str, text: bytes) -> None:
    renumbered = re.sub(rb"=([0-9]+):([0-9]+)(?=[,;])", lambda m: b"=%s:1%s" % (m[1], m[2]), text)

    def after(number: tuple[int, int]) -> tuple[str, ...]:
        return names((number[0], int(str(number[1])[1:])))

    found = configuration_of_live(live(renumbered), after)
    assert found.fingerprint == of(text).fingerprint
    if renumbered != text:
        assert configuration_of_live(live(renumbered), names).fingerprint != of(text).fingerprint
        numbered = configuration_of_live(live(text), no_names)
        assert numbered.fingerprint != of(text).fingerprint
        assert set(numbered.unnamed) == {number for number, _ in of(text).backing}
    assert of(text).unnamed == ()
    assert kind


def test_order_of_targets_counts_and_that_of_attributes_does_not() -> None:
    one, other = b"target_name=linear,start=0;", b"target_name=linear,start=8;"
    assert of(one, other).fingerprint != of(other, one).fingerprint
    assert of(b"target_name=x,a=1,b=2;").fingerprint == of(b"target_name=x,b=2,a=1;").fingerprint


def test_a_rename_of_the_device_and_of_one_below_with_a_uuid_change_nothing() -> None:
    kernel = Kernel("ordered")
    kernel.create(b"below", (linear(0),), b"LVM-1")
    kernel.create(b"plain", (linear(0),))
    kernel.create(b"above", (linear(0, "254:0"),))
    kernel.create(b"other", (linear(0, "254:1"),))
    watcher = Watcher()

    def found(key: str) -> tuple[str | None, tuple[str, ...]]:
        watcher.feed(kernel.items)
        table = watcher.devices[key].active
        assert table is not None
        configuration = configuration_of(table, None, names_on_host(watcher.tracker.registry, no_names))
        (device,) = configuration.targets[0].get("device_name")
        return configuration.fingerprint, device.names

    above, other = found("254:2"), found("254:3")
    assert above[1] == ("dm-uuid:LVM-1", "dm-name:below", "number:254:0", "254:0")
    assert other[1] == ("dm-name:plain", "number:254:1", "254:1")
    kernel.rename(b"above", b"above2")
    kernel.rename(b"below", b"below2")
    kernel.rename(b"plain", b"plain2")
    assert found("254:2") == (above[0], ("dm-uuid:LVM-1", "dm-name:below2", "number:254:0", "254:0"))
    assert found("254:3")[0] != other[0]
    kernel.rename(b"plain2", b"plain")
    assert found("254:3") == other


# -- who says what -------------------------------------------------------------------------

CRYPT = b"target_name=crypt,target_version=1.24.0,key_size=64;"


def test_the_list_and_the_kernel_make_one_configuration() -> None:
    listed, seen = measured(CRYPT, b"", provenance=Provenance.BOTH), LiveTable(live(CRYPT, b"", kind="zero"))
    alone, both = configuration_of(listed, None, names), configuration_of(listed, seen, names)
    assert [target.type for target in alone.targets] == ["crypt", None]
    assert [target.type for target in both.targets] == ["crypt", "zero"]
    assert [target.opaque for target in both.targets] == [False, True]
    assert [(t.index, t.begin_sectors, t.length_sectors) for t in both.targets] == [(0, 0, 8), (1, 8, 8)]
    assert (
        alone.fingerprint == both.fingerprint == configuration_of_live(seen.targets or (), names).fingerprint
    )


@pytest.mark.parametrize("provenance", [Provenance.BOTH, Provenance.OBSERVED])
def test_a_last_target_that_was_not_measured_is_told_by_the_kernel(provenance: Provenance) -> None:
    hole = measured(CRYPT, number=2, provenance=provenance)
    assert configuration_of(hole, None, names).fingerprint is None
    assert not configuration_of(hole, LiveTable(None), names).complete
    found = configuration_of(hole, LiveTable(live(CRYPT, b"target_name=linear,device_name=8:1;")), names)
    assert found.fingerprint == of(CRYPT, b"target_name=linear,device_name=8:1;").fingerprint
    assert found.backing == (((8, 1), ("serial:8-1",)),)


@pytest.mark.parametrize(
    ("table", "seen"),
    [
        (measured(CRYPT, number=2), live(CRYPT, b"")),  # the observation may be of the table before
        (measured(CRYPT, number=2, provenance=Provenance.BOTH), live(CRYPT, b"", b"")),
        (measured(CRYPT, number=2, provenance=Provenance.BOTH), live(CRYPT, b"", sectors=16)),
        (measured(CRYPT, number=2, provenance=Provenance.BOTH), live(b"", b"")),
        (measured(CRYPT, number=2, provenance=Provenance.BOTH), live(b"target_name=linear;", b"")),
    ],
    ids=["not seen in its slot", "more targets", "longer ones", "opaque", "another type"],
)
def test_what_the_kernel_holds_for_another_table_is_not_taken(
    table: Table, seen: tuple[LiveTarget, ...]
) -> None:
    found = configuration_of(table, LiveTable(seen), names)
    assert (found.fingerprint, len(found.targets)) == (None, 1)


def test_a_table_that_nobody_has_told_has_no_fingerprint() -> None:
    unknown = Table(b"\1" * 32, b"a", b"", 0)
    assert configuration_of(unknown, None, names).fingerprint is None
    assert configuration_of(measured(), None, names).fingerprint == of().fingerprint


def test_long_loads_are_one_configuration() -> None:
    for count in (36, 37, 38, 74, 200):
        for dialect in ("ordered", "legacy"):
            kernel = Kernel(dialect)
            kernel.create(b"a", linears(count))
            watcher = Watcher()
            watcher.feed(kernel.items)
            table = watcher.devices["254:0"].active
            assert table is not None
            seen = live_table(linears(count))
            assert seen is not None
            assert seen.targets is not None
            whole = configuration_of_live(seen.targets, names).fingerprint
            told = configuration_of(table, None, names).fingerprint
            assert told == (None if table.unmeasured else whole)
            both = configuration_of(table._replace(provenance=Provenance.BOTH), seen, names)
            assert both.fingerprint == whole
    assert len(binary_list(kernel.items)) > 4096


# -- hostile text --------------------------------------------------------------------------


def test_targets_that_are_only_mimicked_make_no_fingerprint() -> None:
    evil = b"target_name=odd,v=x,target_index=1,target_begin=8,target_len=8,target_name=linear;"
    assert configuration_of(measured(evil), None, names).fingerprint is None
    assert (
        configuration_of(measured(evil.replace(b"index=1", b"index=7"), number=2), None, names).complete
        is False
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"target_name=x,v=\xff;", rb"target_name=x,v=\xff;"),
        (b"target_name=x,v=\\;", b"target_name=x,v=\\\\;"),
        (b"target_name=x,v=1,2;", b"target_name=x,v=1;"),
        (b"target_name=x,v=a,x=b;", b"target_name=x,v=a;"),
        (b"target_name=x,v=a;", b"target_name=x,v=a,target_name=y;"),
        (b"target_name=x,v=a;", b"target_name=x,v=a,target_version=y;"),
        (b"target_name=x,v=8:1;", b"target_name=x,v=serial:8-1;"),
        (b"target_name=x,v=1,v=2;", b"target_name=x,v=2;"),
        (b'target_name=x,v="],["w","1;', b"target_name=x,v=,w=1;"),
        (b"odd=1;", b"target_name=odd;"),
        (b"odd=1;", b""),
        (b"target_name=x;", b"target_name=y;"),
        (b"target_name=;", b""),
        (b"target_name=x,v=N;", b"target_name=x,v=n;"),
        (b"target_name=x,v=8:1\n;", b"target_name=x,v=8:1;"),
    ],
)
def test_what_looks_alike_is_not_the_same(one: bytes, other: bytes) -> None:
    assert of(one).fingerprint != of(other).fingerprint


def test_a_text_is_cut_where_the_kernel_cuts_it() -> None:
    long = b"target_name=x,v=" + b"a" * 5000
    assert of(long + b"b;").fingerprint == of(long[:2047]).fingerprint
    assert of(long[:2046]).fingerprint != of(long[:2047]).fingerprint


def test_names_that_are_no_text_are_written_all_the_same() -> None:
    found = configuration_of_live(live(b"target_name=x,v=8:1;"), lambda _: ("serial:\udcff",))
    assert canonical(found) == rb'["dmimad-config-1",[[8,"x",[["v","serial:\udcff","device"]]]]]'


def test_a_device_is_asked_for_once() -> None:
    asked: list[tuple[int, int]] = []

    def known(number: tuple[int, int]) -> tuple[str, ...]:
        asked.append(number)
        return ()

    configuration_of_live(live(*[b"target_name=x,a=8:1,b=8:2,c=8:1;"] * 20), known)
    assert asked == [(8, 1), (8, 2)]


def test_an_attribute_that_is_twice_there_is_found_twice() -> None:
    (target,) = of(b"target_name=x,v=1,w=2,v=3;").targets
    assert target.get("v") == (Attribute("v", "1"), Attribute("v", "3"))
    assert target.get("u") == ()


VALUES = st.text(st.sampled_from('ab,=;\\"\n:18é€'), max_size=6)
SETTINGS = st.lists(st.tuples(st.sampled_from(["a", "b", "target_name"]), VALUES), max_size=4)
TARGETS = st.lists(
    st.tuples(st.integers(1, 3), st.one_of(st.none(), st.tuples(st.sampled_from("xy"), SETTINGS))), max_size=3
)
Drawn = list[tuple[int, tuple[str, list[tuple[str, str]]] | None]]


def made(drawn: Drawn) -> tuple[Configuration, list[Any]]:
    """A configuration, and what it is as plain values."""
    found, plain, begin = [], [], 0
    for length, target in drawn:
        text = b""
        if target is not None:
            pairs = [("target_name", target[0]), *target[1]]
            text = (",".join(f"{key}={value}" for key, value in pairs) + ";").encode()
        found.append(LiveTarget(begin, length, "x", text))
        begin += length
        parsed = configuration_of_live([found[-1]], no_names).targets[0]
        kept = sorted((a.key, a.value, bool(a.names)) for a in parsed.attributes[1:] if a.value != "n")
        plain.append((length, None if target is None else target[0], kept))
    return configuration_of_live(found, no_names), plain


@BOUNDED
@given(TARGETS, TARGETS)
def test_two_configurations_have_one_form_if_they_are_one(one: Drawn, other: Drawn) -> None:
    (first, plain), (second, another) = made(one), made(other)
    assert (canonical(first) == canonical(second)) is (plain == another)
    assert json.loads(canonical(first))[0] == "dmimad-config-1"


def test_opaque_targets_differ_by_their_place_alone() -> None:
    assert live_table((opaque(8), opaque(16))) is not None
    zero, error = live(b"", kind="zero"), live(b"", kind="error")
    assert configuration_of_live(zero, names).fingerprint == configuration_of_live(error, names).fingerprint
