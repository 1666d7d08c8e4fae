"""The state machine of a device, written out: every state, event and dialect."""

from __future__ import annotations

import pytest

from dmimad.core.device import (
    MAX_FORMER_NAMES,
    TRANSITIONS,
    Action,
    Device,
    Dialect,
    Slots,
    advance,
)
from dmimad.core.errors import TransitionError
from dmimad.core.event import EventKind, Identity
from dmimad.core.table import Table

ACTIVE = Table(b"A" * 32, b"old", b"", 1, (b"a",), 3)
INACTIVE = Table(b"B" * 32, b"old", b"", 2, (b"b",), 4)
LOADED = Table(b"C" * 32, b"old", b"", 3, (b"c",), 9)
NEW = Identity(b"new", b"UUID")

DEVICES = {
    Slots.EMPTY: Device("253:0", 253, 0, b"old", b"", since=1, changed_at=2, staged_at=2),
    Slots.STAGED: Device("253:0", 253, 0, b"old", b"", None, INACTIVE, since=1, changed_at=2, staged_at=4),
    Slots.ACTIVE: Device("253:0", 253, 0, b"old", b"", ACTIVE, None, since=1, changed_at=2, staged_at=2),
    Slots.BOTH: Device("253:0", 253, 0, b"old", b"", ACTIVE, INACTIVE, since=1, changed_at=2, staged_at=4),
}
OLD = (Dialect.V1, Dialect.LEGACY)
REWORKED = (Dialect.ORDERED,)
EVERY = tuple(Dialect)


def named(table: Table | None) -> Table | None:
    """The table after a rename that reaches it."""
    return None if table is None else table._replace(name=b"new", uuid=b"UUID")


def go(device: Device, kind: EventKind, dialect: Dialect) -> Device | None:
    """The event at record 9, with everything it may need."""
    return advance(device, kind, dialect, at=9, staged=LOADED, new=NEW)


#: State, event, dialects -> active, inactive, aliased, name, changed_at, staged_at.
STEPS = [
    (Slots.EMPTY, EventKind.TABLE_LOAD, EVERY, None, LOADED, False, b"old", 2, 9),
    (Slots.STAGED, EventKind.TABLE_LOAD, EVERY, None, LOADED, False, b"old", 2, 9),
    (Slots.ACTIVE, EventKind.TABLE_LOAD, EVERY, ACTIVE, LOADED, False, b"old", 2, 9),
    (Slots.BOTH, EventKind.TABLE_LOAD, EVERY, ACTIVE, LOADED, False, b"old", 2, 9),
    (Slots.EMPTY, EventKind.DEVICE_RESUME, EVERY, None, None, False, b"old", 2, 2),
    (Slots.STAGED, EventKind.DEVICE_RESUME, EVERY, INACTIVE, None, False, b"old", 9, 9),
    (Slots.ACTIVE, EventKind.DEVICE_RESUME, EVERY, ACTIVE, None, False, b"old", 2, 2),
    (Slots.BOTH, EventKind.DEVICE_RESUME, EVERY, INACTIVE, None, False, b"old", 9, 9),
    (Slots.EMPTY, EventKind.TABLE_CLEAR, EVERY, None, None, False, b"old", 2, 2),
    (Slots.STAGED, EventKind.TABLE_CLEAR, EVERY, None, None, False, b"old", 2, 9),
    (Slots.ACTIVE, EventKind.TABLE_CLEAR, EVERY, ACTIVE, None, False, b"old", 2, 2),
    (Slots.BOTH, EventKind.TABLE_CLEAR, OLD, ACTIVE, None, True, b"old", 2, 9),
    (Slots.BOTH, EventKind.TABLE_CLEAR, REWORKED, ACTIVE, None, False, b"old", 2, 9),
    (Slots.EMPTY, EventKind.DEVICE_RENAME, EVERY, None, None, False, b"new", 2, 2),
    (Slots.STAGED, EventKind.DEVICE_RENAME, OLD, None, INACTIVE, False, b"new", 2, 4),
    (Slots.STAGED, EventKind.DEVICE_RENAME, REWORKED, None, named(INACTIVE), False, b"new", 2, 4),
    (Slots.ACTIVE, EventKind.DEVICE_RENAME, EVERY, named(ACTIVE), None, False, b"new", 2, 2),
    (Slots.BOTH, EventKind.DEVICE_RENAME, OLD, named(ACTIVE), INACTIVE, False, b"new", 2, 4),
    (Slots.BOTH, EventKind.DEVICE_RENAME, REWORKED, named(ACTIVE), named(INACTIVE), False, b"new", 2, 4),
    (Slots.EMPTY, EventKind.TARGET_UPDATE, EVERY, None, None, False, b"old", 2, 2),
    (Slots.STAGED, EventKind.TARGET_UPDATE, EVERY, None, INACTIVE, False, b"old", 2, 4),
    (Slots.ACTIVE, EventKind.TARGET_UPDATE, EVERY, ACTIVE, None, False, b"old", 2, 2),
    (Slots.BOTH, EventKind.TARGET_UPDATE, EVERY, ACTIVE, INACTIVE, False, b"old", 2, 4),
]  # fmt: skip


def test_every_case_is_told_once() -> None:
    told = [(state, kind, dialect) for state, kind, dialects, *_ in STEPS for dialect in dialects]
    every = {
        (state, kind, dialect)
        for state in Slots
        for kind in EventKind
        for dialect in Dialect
        if kind is not EventKind.DEVICE_REMOVE
    }
    assert set(told) == every
    assert len(told) == len(every) == 60


@pytest.mark.parametrize(
    ("state", "kind", "dialect", "expected"),
    [(state, kind, dialect, rest) for state, kind, dialects, *rest in STEPS for dialect in dialects],
)
def test_step(state: Slots, kind: EventKind, dialect: Dialect, expected: list[object]) -> None:
    before = DEVICES[state]
    assert before.slots is state
    after = go(before, kind, dialect)
    assert after is not None
    told = [after.active, after.inactive, after.aliased, after.name, after.changed_at, after.staged_at]
    assert told == expected
    renamed = kind is EventKind.DEVICE_RENAME
    assert after.uuid == (b"UUID" if renamed else b"")
    assert after.former == ((Identity(b"old", b""),) if renamed else ())
    assert (after.key, after.major, after.minor, after.since) == ("253:0", 253, 0, 1)
    assert after.slots is TRANSITIONS[state, kind].to


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("state", Slots)
def test_a_removed_device_is_gone(state: Slots, dialect: Dialect) -> None:
    assert go(DEVICES[state], EventKind.DEVICE_REMOVE, dialect) is None
    assert TRANSITIONS[state, EventKind.DEVICE_REMOVE].to is None


def test_the_table_is_whole() -> None:
    assert set(TRANSITIONS) == {(state, kind) for state in Slots for kind in EventKind}
    assert all(set(transition.actions) == set(Dialect) for transition in TRANSITIONS.values())
    used = {action for transition in TRANSITIONS.values() for action in transition.actions.values()}
    assert used == set(Action)


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("state", Slots)
@pytest.mark.parametrize(
    ("kind", "reason"),
    [(EventKind.TABLE_LOAD, "no table was loaded"), (EventKind.DEVICE_RENAME, "no new name")],
)
def test_what_an_event_needs(state: Slots, dialect: Dialect, kind: EventKind, reason: str) -> None:
    device = DEVICES[state]
    copy = Device(*device)
    with pytest.raises(TransitionError) as caught:
        advance(device, kind, dialect, at=9)
    assert str(caught.value) == f"{kind.value} in state {state.value}: {reason}"
    assert (caught.value.event, caught.value.state, caught.value.reason) == (kind, state, reason)
    assert device == copy
    assert device.slots is state


def test_the_alias_lasts_until_a_table_is_staged() -> None:
    aliased = go(DEVICES[Slots.BOTH], EventKind.TABLE_CLEAR, Dialect.LEGACY)
    assert aliased is not None
    assert (aliased.aliased, aliased.slots) == (True, Slots.ACTIVE)
    for kind in (EventKind.DEVICE_RESUME, EventKind.TABLE_CLEAR, EventKind.TARGET_UPDATE):
        assert go(aliased, kind, Dialect.LEGACY) == aliased
    renamed = go(aliased, EventKind.DEVICE_RENAME, Dialect.LEGACY)
    assert renamed is not None
    assert renamed.aliased
    loaded = go(aliased, EventKind.TABLE_LOAD, Dialect.LEGACY)
    assert loaded is not None
    assert (loaded.aliased, loaded.slots) == (False, Slots.BOTH)
    resumed = go(loaded._replace(aliased=True), EventKind.DEVICE_RESUME, Dialect.LEGACY)
    assert resumed is not None
    assert (resumed.aliased, resumed.active) == (False, LOADED)


@pytest.mark.parametrize("dialect", Dialect)
def test_a_rename_to_the_same_is_no_former_name(dialect: Dialect) -> None:
    device = DEVICES[Slots.BOTH]
    assert advance(device, EventKind.DEVICE_RENAME, dialect, at=9, new=Identity(b"old", b"")) == device


def test_setting_a_uuid() -> None:
    device = advance(
        DEVICES[Slots.ACTIVE], EventKind.DEVICE_RENAME, Dialect.LEGACY, at=9, new=Identity(b"old", b"U")
    )
    assert device is not None
    assert (device.name, device.uuid, device.former) == (b"old", b"U", (Identity(b"old", b""),))
    assert device.active == ACTIVE._replace(uuid=b"U")


def test_the_oldest_former_names_are_forgotten() -> None:
    device: Device | None = DEVICES[Slots.EMPTY]
    for number in range(MAX_FORMER_NAMES + 5):
        assert device is not None
        device = advance(
            device, EventKind.DEVICE_RENAME, Dialect.ORDERED, at=9, new=Identity(b"%d" % number, b"")
        )
    assert device is not None
    assert device.name == b"%d" % (MAX_FORMER_NAMES + 4)
    assert device.former == tuple(Identity(b"%d" % number, b"") for number in range(4, MAX_FORMER_NAMES + 4))
