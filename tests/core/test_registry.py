"""Which devices exist: by number, by name, and what goes when another takes either."""

from __future__ import annotations

import pytest

from dmimad.core import registry as module
from dmimad.core.event import Identity, Metadata
from dmimad.core.knowledge import Knowledge
from dmimad.core.registry import Registry, is_recorded, name_key, number_key, number_of
from dmimad.core.table import Fragment, LoadAssembly, Provenance, Table

A, B = Identity(b"a", b""), Identity(b"b", b"u")


def registry() -> Registry:
    return Registry(Knowledge(keep_facts=False))


def test_a_device_is_found_by_number_and_name() -> None:
    known = registry()
    device = known.create("254:0", (254, 0), A, 7)
    assert (device.key, device.major, device.minor, device.name, device.uuid) == ("254:0", 254, 0, *A)
    assert (device.since, device.changed_at, device.staged_at) == (7, 7, 7)
    unnumbered = known.create("name-1", None, B, 8)
    assert number_of(device) == (254, 0)
    assert number_of(unnumbered) is None
    assert known.by_number == {(254, 0): device}
    assert known.by_name == {b"a": device, b"b": unnumbered}
    assert known.devices == (device, unnumbered)
    changed = known.put(device._replace(uuid=b"x"))
    assert known.devices == (changed, unnumbered)
    known.clear()
    assert len(known.devices) == 0


def test_a_device_goes() -> None:
    known = Registry(knowledge := Knowledge(keep_facts=False))
    device = known.create("254:0", (254, 0), A, 0)._replace(former=(Identity(b"old", b""),))
    known.loads["254:0"] = LoadAssembly(Metadata(b"a", b"", 254, 0, 2), [Fragment(0, 0, b"x")])
    known.drop(device)
    assert not known.devices
    assert (known.by_name, known.loads, known.seen_numbers) == ({}, {}, set())
    assert knowledge.removed == {((254, 0), b"a"), ((254, 0), b"old")}
    known.drop(device, recorded=True)
    assert known.seen_numbers == {(254, 0)}
    known.drop(known.create("name-1", None, B, 0), recorded=True)
    assert known.seen_numbers == {(254, 0)}


def test_a_name_that_another_device_takes() -> None:
    """It is gone, and was not noticed before; callers are told."""
    known = registry()
    old = known.create("254:0", (254, 0), A, 0)
    new = known.create("254:1", (254, 1), A, 1)
    assert known.devices == (new,)
    assert known.take_removed() == (old,)
    assert known.take_removed() == ()
    unnumbered = known.create("name-1", None, B, 2)
    numbered = known.create("254:2", (254, 2), B, 3)
    assert known.take_removed() == (unnumbered,)
    assert known.by_name == {b"a": new, b"b": numbered}


def test_a_name_that_a_renamed_device_leaves() -> None:
    """Its rename was dropped, as a former one tells: it goes on under its number."""
    known = Registry(knowledge := Knowledge(keep_facts=False))
    old = known.create("254:0", (254, 0), A, 0)
    knowledge.note_rename((254, 0), B)
    new = known.create("254:1", (254, 1), A, 1)
    assert known.take_removed() == ()
    assert known.devices == (old, new)
    assert known.by_name == {b"a": new}
    stale = known.put(old._replace(uuid=b"x"))  # its claim to the name is the older one
    assert known.by_name == {b"a": new}
    assert known.by_number[254, 0] is stale
    known.forget_name(stale)
    assert known.by_name == {b"a": new}
    # One that was removed under that name once may have been again.
    other = Registry(knowledge)
    gone = other.create("254:0", (254, 0), A, 0)
    knowledge.note_removal((254, 0), b"a")
    other.create("254:1", (254, 1), A, 1)
    assert other.take_removed() == (gone,)


def test_too_many_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go, with or without numbers."""
    monkeypatch.setattr(module, "MAX_DEVICES", 2)
    known = registry()
    for minor in range(3):
        known.create(f"254:{minor}", (254, minor), Identity(b"%d" % minor, b""), minor)
    assert [device.key for device in known.devices] == ["254:1", "254:2"]
    assert [device.key for device in known.take_removed()] == ["254:0"]
    known = registry()
    for index in range(3):
        known.create(f"name-{index}", None, Identity(b"%d" % index, b""), index)
    assert [device.key for device in known.devices] == ["name-1", "name-2"]


def test_keys() -> None:
    assert number_key((254, 3)) == "254:3"
    assert name_key(b"a", 1) == "name-" + name_key(b"a", 1)[5:]
    assert len(name_key(b"a", 1)) == len("name-") + 12
    assert len({name_key(b"a", 1), name_key(b"a", 2), name_key(b"b", 1)}) == 3


def test_who_says_so() -> None:
    table = Table(b"h" * 32, b"a", b"", 1)
    assert is_recorded(table)
    assert is_recorded(table._replace(provenance=Provenance.BOTH))
    assert not is_recorded(table._replace(provenance=Provenance.OBSERVED))
    assert not is_recorded(None)
