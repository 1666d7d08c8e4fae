"""Stored state comes back as it was, and damaged documents are refused in one way only."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmimad.core import checkpoint
from dmimad.core.checkpoint import (
    device_document,
    load_document,
    position_document,
    read_device,
    read_dialect,
    read_load,
    read_position,
)
from dmimad.core.device import Device, Dialect
from dmimad.core.errors import MalformedError
from dmimad.core.event import Identity, Metadata
from dmimad.core.list_format import ListFormat
from dmimad.core.reader import Position
from dmimad.core.table import Fragment, LoadAssembly, Provenance, Table

BOUNDED = settings(derandomize=True, deadline=None, database=None, max_examples=100)
#: There are many places to damage.
DAMAGED = settings(BOUNDED, max_examples=300)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)

NUMBERS = st.integers(0, 2**40)
DIGESTS = st.binary(min_size=32, max_size=32)
TABLES = st.builds(
    Table,
    DIGESTS,
    st.binary(),
    st.binary(),
    NUMBERS,
    st.lists(st.binary(), max_size=3).map(tuple),
    st.none() | NUMBERS,
    st.integers(0, 1),
    st.sampled_from(Provenance),
)
DEVICES = st.builds(
    Device,
    st.just("254:0"),
    st.none() | NUMBERS,
    st.none() | NUMBERS,
    st.binary(),
    st.binary(),
    st.none() | TABLES,
    st.none() | TABLES,
    st.booleans(),
    st.lists(st.builds(Identity, st.binary(), st.binary()), max_size=2).map(tuple),
    NUMBERS,
    NUMBERS,
    NUMBERS,
)
LOADS = st.builds(
    LoadAssembly,
    st.builds(Metadata, st.binary(), st.binary(), NUMBERS, NUMBERS, NUMBERS),
    st.lists(st.builds(Fragment, NUMBERS, NUMBERS, st.binary()), min_size=1, max_size=3),
)
FORMATS = st.builds(
    ListFormat, st.booleans(), st.sampled_from((20, 32, 48, 64)), st.sampled_from(("little", "big"))
)
POSITIONS = st.builds(
    Position,
    st.none() | FORMATS,
    NUMBERS,
    st.just(2**41),
    NUMBERS,
    st.binary(max_size=64),
    NUMBERS,
    st.dictionaries(st.text(), st.dictionaries(st.integers(0, 23), st.none() | DIGESTS)),
    st.just(b"") | st.binary(min_size=64, max_size=64).filter(any),
    st.just(0),
    st.booleans(),
)


def through_json(document: object) -> dict[str, object]:
    """A document as a store gives it back."""
    loaded: dict[str, object] = json.loads(json.dumps(document, allow_nan=False))
    return loaded


@BOUNDED
@given(POSITIONS)
def test_positions_round_trip(position: Position) -> None:
    assert read_position(through_json(position_document(position))) == position


@BOUNDED
@given(DEVICES)
def test_devices_round_trip(device: Device) -> None:
    assert read_device(device.key, through_json(device_document(device))) == device


@BOUNDED
@given(LOADS)
def test_loads_round_trip(load: LoadAssembly) -> None:
    assert read_load(through_json(load_document(load))) == load


@pytest.mark.parametrize("dialect", [None, *Dialect])
def test_dialects_round_trip(dialect: Dialect | None) -> None:
    assert read_dialect(None if dialect is None else dialect.value) is dialect


# -- damage --------------------------------------------------------------------------------

TABLE = Table(b"\xaa" * 32, b"n\xff", b"u", 3, (b"x", b"\0"), 4, 1)
DEVICE = Device("254:0", 254, 0, b"n", b"u", TABLE, TABLE, True, (Identity(b"f", b""),), 1, 2, 3)
POSITION = Position(
    ListFormat(False, 20, "big"),
    3,
    900,
    300,
    b"\x01" * 20,
    1,
    {"sha1": {10: b"\x02" * 20, 11: None}},
    b"\x03" * 20,
    2,
    True,
)
LOAD = LoadAssembly(Metadata(b"n", b"u", 254, 0, 40), [Fragment(0, 9, b"x"), Fragment(10, 12, b"y")])
DOCUMENTS: dict[str, tuple[dict[str, object], Callable[[dict[str, object]], object]]] = {
    "position": (through_json(position_document(POSITION)), read_position),
    "device": (through_json(device_document(DEVICE)), lambda document: read_device("254:0", document)),
    "load": (through_json(load_document(LOAD)), read_load),
}

Place = tuple[str | int, ...]


def places(value: object, at: Place = ()) -> Iterator[Place]:
    """The way to every value in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*at, key)
        yield from places(part, (*at, key))


def changed(
    document: dict[str, object], place: Place, change: Callable[[object], object]
) -> dict[str, object]:
    """A copy in which one value is replaced, or taken away if ``change`` returns Ellipsis."""
    whole = copy.deepcopy(document)
    holder: object = whole
    for key in place[:-1]:
        holder = holder[key]  # type: ignore[index]  # a document is whatever it is
    value = change(holder[place[-1]])  # type: ignore[index]
    if value is ...:
        del holder[place[-1]]  # type: ignore[attr-defined]
    else:
        holder[place[-1]] = value  # type: ignore[index]
    return whole


EVERYWHERE = [(name, place) for name, (document, _) in DOCUMENTS.items() for place in places(document)]
#: What may be missing or null without being damage.
OPTIONAL: dict[str, set[Place]] = {
    "position": {
        ("format",),
        ("pcrs", "sha1", "10"),
        ("pcrs", "sha1", "11"),
        ("pcrs", "sha1"),
        ("anchor_digest",),
        ("carried_over",),
    },
    "device": {
        ("major",),
        ("minor",),
        ("active",),
        ("inactive",),
        ("active", "loaded_at"),
        ("inactive", "loaded_at"),
        ("active", "provenance"),
        ("inactive", "provenance"),
        ("aliased",),
    },
    "load": set(),
}


@pytest.mark.parametrize(("name", "place"), EVERYWHERE, ids=str)
def test_null_is_damage_but_where_it_means_something(name: str, place: Place) -> None:
    document, read = DOCUMENTS[name]
    damaged = changed(document, place, lambda _: None)
    if place in OPTIONAL[name] - {("pcrs", "sha1")}:
        read(damaged)
    else:
        with pytest.raises(MalformedError):
            read(damaged)


@pytest.mark.parametrize(("name", "place"), EVERYWHERE, ids=str)
def test_what_is_missing_is_damage(name: str, place: Place) -> None:
    document, read = DOCUMENTS[name]
    damaged = changed(document, place, lambda _: ...)
    whole_elements: set[Place] = {
        ("former", 0),
        ("active", "texts", 0),
        ("active", "texts", 1),
        ("parts", 0),
        ("parts", 1),
    }
    whole_elements |= {("inactive", "texts", 0), ("inactive", "texts", 1)}
    if place in OPTIONAL[name] | whole_elements:
        read(damaged)
    else:
        with pytest.raises(MalformedError):
            read(damaged)


@DAMAGED
@given(st.sampled_from(EVERYWHERE), JSON)
def test_damage_raises_malformed_error_only(where: tuple[str, Place], value: object) -> None:
    name, place = where
    document, read = DOCUMENTS[name]
    try:
        found = read(changed(document, place, lambda _: value))
    except MalformedError:
        return
    write: dict[str, Callable[..., object]] = {
        "position": position_document,
        "device": device_document,
        "load": load_document,
    }
    assert read(through_json(write[name](found))) == found  # whatever it is, it can be stored again


@BOUNDED
@given(
    st.dictionaries(st.sampled_from(sorted({place[0] for _, place in EVERYWHERE}, key=str)).map(str), JSON)
)
def test_any_other_document_raises_malformed_error_only(document: dict[str, object]) -> None:
    for _, read in DOCUMENTS.values():
        with pytest.raises(MalformedError):
            read(document)


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (("format", 0), 1, "the stored list format is damaged"),
        (("format", 1), "20", "a stored number is missing"),
        (("format", 1), 21, "the stored list format is damaged"),
        (("format", 2), "middle", "the stored list format is damaged"),
        (("format",), [], "the stored list format is damaged"),
        (("format",), {}, "a stored list is missing"),
        (("records",), -1, "the stored position is damaged"),
        (("records",), True, "a stored number is missing"),
        (("records",), 1.0, "a stored number is missing"),
        (("last_length",), 901, "the stored position is damaged"),
        (("last_digest",), "0g", "a stored digest is damaged"),
        (("anchor_digest",), "0g", "a stored digest is damaged"),
        (("anchor_digest",), "00" * 20, "the stored position is damaged"),
        (("after_anchor",), None, "a stored number is missing"),
        (("after_anchor",), -1, "the stored position is damaged"),
        (("after_anchor",), 4, "the stored position is damaged"),
        (("pcrs",), [], "a stored object is missing"),
        (("pcrs", "sha1"), "x", "a stored object is missing"),
        (("pcrs", "sha1"), {"ten": None}, "a stored number is damaged"),
        (("pcrs", "sha1", "10"), 5, "a stored digest is damaged"),
    ],
)
def test_reasons_for_positions(place: Place, value: object, reason: str) -> None:
    document, read = DOCUMENTS["position"]
    with pytest.raises(MalformedError) as raised:
        read(changed(document, place, lambda _: value))
    assert raised.value.reason == reason


@pytest.mark.parametrize(
    ("name", "place", "value", "reason"),
    [
        ("device", ("name",), 1, "a stored text is missing"),
        ("device", ("name",), "€", "a stored text is damaged"),
        ("device", ("former", 0), ["a"], "a stored text is missing"),
        ("device", ("active",), [], "a stored object is missing"),
        ("device", ("active", "texts"), "", "a stored list is missing"),
        ("device", ("active", "provenance"), "rumour", "a stored table is damaged"),
        ("load", ("numbers",), [1, 2], "a stored load is damaged"),
        ("load", ("parts",), [], "a stored load is damaged"),
        ("load", ("parts", 0), [], "a stored number is missing"),
    ],
)
def test_reasons(name: str, place: Place, value: object, reason: str) -> None:
    document, read = DOCUMENTS[name]
    with pytest.raises(MalformedError) as raised:
        read(changed(document, place, lambda _: value))
    assert raised.value.reason == reason


@pytest.mark.parametrize(
    ("last_digest", "anchor_digest"), [(b"\1" * 20, b"\1" * 20), (bytes(20), b""), (b"", b"")]
)
def test_a_position_stored_before_there_were_anchors(last_digest: bytes, anchor_digest: bytes) -> None:
    """The last record is the anchor, unless it is a violation, of which there are many."""
    position = replace(POSITION, last_digest=last_digest)
    document = position_document(position)
    for name in ("anchor_digest", "after_anchor", "carried_over"):
        del document[name]
    assert read_position(through_json(document)) == replace(
        position, anchor_digest=anchor_digest, after_anchor=0, carried_over=False
    )


@pytest.mark.parametrize("value", ["v2", 1, True, [], {}])
def test_a_damaged_dialect(value: object) -> None:
    with pytest.raises(MalformedError, match=r"^the stored dialect is damaged$"):
        read_dialect(value)


def test_an_alias_is_only_what_was_stored_as_one() -> None:
    document, read = DOCUMENTS["device"]
    device = read(changed(document, ("aliased",), lambda _: "yes"))
    assert isinstance(device, Device)
    assert device.aliased is False


def test_the_format_is_the_documented_one() -> None:
    assert checkpoint.FORMAT == 1
