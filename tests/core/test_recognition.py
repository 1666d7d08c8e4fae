"""Which measured table a live one is: by name, dialect, parts, or all but what moves."""

from __future__ import annotations

import pytest

from dmimad.core import recognition as module
from dmimad.core.device import Device, Dialect
from dmimad.core.event import Identity
from dmimad.core.recognition import Recognised, Relation, recognise
from dmimad.core.table import Provenance, Table
from dmimad.core.tracker import Tracker
from tests.core.histories import TABLES
from tests.core.kernel import DIALECTS, Kernel, Target, linear, linears
from tests.core.kernel import Table as Targets
from tests.core.lists import binary_list, kernel_version
from tests.core.live import dm_version, live_device, live_table
from tests.core.replaying import replay

GOOD, BAD = (linear(0),), (linear(8),)


def tracked(kernel: Kernel) -> tuple[Tracker, Device]:
    """The tracker behind a list, and its one device."""
    tracker = replay(binary_list(kernel.items)).tracker
    (device,) = tracker.devices
    return tracker, device


def ask(
    kernel: Kernel, tracker: Tracker, device: Device, table: Targets, slot: Table | None = None
) -> Recognised:
    """What a table is, were it live on the kernel's one device."""
    (mapped,) = kernel.devices.values()
    live = live_table(table)
    assert live is not None
    assert live.targets is not None
    return recognise(live_device(mapped), live.targets, device, slot, tracker, dm_version(kernel.version))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("table", TABLES)
def test_a_measured_table(dialect: str, table: Targets) -> None:
    """In the slot it is the slot's; elsewhere it is one of before."""
    kernel = Kernel(dialect)
    kernel.create(b"a", table, b"LVM-1")
    tracker, device = tracked(kernel)
    found = ask(kernel, tracker, device, table, device.active)
    assert found.relation is Relation.MEASURED
    assert found.table is device.active
    assert found.loaded_as == Identity(b"a", b"LVM-1")
    elsewhere = ask(kernel, tracker, device, table)
    assert elsewhere.relation is Relation.MEASURED
    assert elsewhere.table == elsewhere.live
    assert elsewhere.table.hash == kernel.devices[b"a"].running


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_table_that_was_never_measured(dialect: str) -> None:
    kernel = Kernel(dialect)
    kernel.create(b"a", GOOD)
    tracker, device = tracked(kernel)
    found = ask(kernel, tracker, device, BAD, device.active)
    assert found.relation is Relation.UNKNOWN
    assert found.table == found.live
    assert found.table.texts[0].endswith(b"start=8;")
    assert found.loaded_as == Identity(b"a", b"")


def test_the_text_of_a_table_that_was_only_reported_is_filled_in() -> None:
    kernel = Kernel()
    kernel.create(b"a", GOOD)
    tracker, device = tracked(kernel)
    assert device.active is not None
    slot = device.active._replace(texts=(), loaded_at=9)
    found = ask(kernel, tracker, device, GOOD, slot)
    assert found.table == slot._replace(texts=device.active.texts)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_table_loaded_under_a_former_name(dialect: str) -> None:
    """Told by the device's past, the slot, or what is known of the number."""
    kernel = Kernel(dialect)
    kernel.create(b"a", GOOD)
    kernel.rename(b"a", b"b")
    tracker, device = tracked(kernel)
    found = ask(kernel, tracker, device, GOOD, device.active)
    assert (found.relation, found.loaded_as) == (Relation.MEASURED, Identity(b"a", b""))
    nameless = device._replace(former=(), active=None)
    assert ask(kernel, tracker, nameless, GOOD).loaded_as == Identity(b"a", b"")
    tracker.knowledge._identities.clear()
    assert ask(kernel, tracker, nameless, GOOD).relation is Relation.UNKNOWN
    assert device.active is not None
    slot = device.active._replace(name=b"a")
    assert ask(kernel, tracker, nameless, GOOD, slot).table is slot


def test_no_more_names_are_tried_than_make_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    kernel.create(b"a", GOOD)
    kernel.rename(b"a", b"b")
    tracker, device = tracked(kernel)
    monkeypatch.setattr(module, "MAX_IDENTITIES_TRIED", 1)
    assert ask(kernel, tracker, device, GOOD).relation is Relation.UNKNOWN
    monkeypatch.setattr(module, "MAX_IDENTITIES_TRIED", 2)
    assert ask(kernel, tracker, device, GOOD).relation is Relation.MEASURED


def test_while_the_dialect_is_open_both_are_tried() -> None:
    """The version says no more than it does; once there is proof, the other one counts no more."""
    table = (*linears(36), linear(0))
    kernel = Kernel("legacy", version=b"dm_version=4.50.0;")
    kernel.items[1] = kernel_version("7.2.0")
    kernel.create(b"a")
    kernel.load(b"a", table)
    tracker, device = tracked(kernel)
    assert (tracker.dialect, device.inactive) == (Dialect.ORDERED, None)
    found = ask(kernel, tracker, device, table)
    assert (found.relation, found.table.unmeasured) == (Relation.MEASURED, 1)
    assert found.table.hash == kernel.devices[b"a"].loaded
    tracker.evidence.prove(Dialect.ORDERED, "as it is not")
    assert ask(kernel, tracker, device, table).relation is Relation.UNKNOWN
    kernel = Kernel("ordered", version=b"dm_version=4.50.0;")
    kernel.items[1] = kernel_version("6.1.0")
    kernel.create(b"a", linears(3))
    tracker, device = tracked(kernel)
    assert tracker.dialect is Dialect.LEGACY
    assert ask(kernel, tracker, device, linears(3)).relation is Relation.MEASURED


@pytest.mark.parametrize("dialect", DIALECTS)
def test_parts_of_several_loads(dialect: str) -> None:
    """All of its records were written before, none for it; a part that never was makes it unknown."""
    kernel = Kernel(dialect)
    kernel.create(b"a", GOOD)
    first, second = linears(36), linears(20, "1:8", first=36)
    other_first, other_second = linears(36, "1:8"), linears(20, first=36)
    kernel.load(b"a", (*first, *other_second))
    kernel.load(b"a", (*other_first, *second))
    before = len(kernel.items)
    kernel.load(b"a", (*first, *second))
    assert len(kernel.items) == before
    tracker, device = tracked(kernel)
    found = ask(kernel, tracker, device, (*first, *second), device.inactive)
    assert found.relation is Relation.MEASURED
    assert found.table.hash == kernel.devices[b"a"].loaded
    assert found.table.hash not in tracker.knowledge.loaded
    strange = (*first, *linears(20, "1:9", first=36))
    assert ask(kernel, tracker, device, strange, device.inactive).relation is Relation.UNKNOWN


def test_what_a_record_puts_into_the_slot_needs_no_memory() -> None:
    """Unless only the second witness put it there."""
    kernel = Kernel()
    kernel.create(b"a", GOOD)
    tracker, device = tracked(kernel)
    tracker.knowledge.loaded.clear()
    assert ask(kernel, tracker, device, GOOD, device.active).relation is Relation.MEASURED
    assert ask(kernel, tracker, device, GOOD).relation is Relation.UNKNOWN
    assert device.active is not None
    seen = device.active._replace(provenance=Provenance.OBSERVED)
    assert ask(kernel, tracker, device, GOOD, seen).relation is Relation.UNKNOWN


def verity(state: str, digest: str = "aa") -> Targets:
    return (
        Target(8, f"target_name=verity,target_version=1,hash_failed={state},root_digest={digest};".encode()),
    )


def test_a_table_that_moved() -> None:
    """From the slot's, or from one of before; with another digest from none."""
    kernel = Kernel()
    kernel.create(b"a", verity("V"))
    tracker, device = tracked(kernel)
    found = ask(kernel, tracker, device, verity("C"), device.active)
    assert found.relation is Relation.MOVED
    assert found.table is device.active
    assert found.live.texts[0].endswith(b"hash_failed=C,root_digest=aa;")
    earlier = ask(kernel, tracker, device, verity("C"))
    assert device.active is not None
    assert (earlier.relation, earlier.table.hash) == (Relation.MOVED, device.active.hash)
    assert earlier.live.hash != earlier.table.hash
    other = ask(kernel, tracker, device, verity("C", "bb"), device.active)
    assert other.relation is Relation.UNKNOWN


def test_the_slots_own_table_comes_before_others_that_moved() -> None:
    """Though another name of the device comes first, or another table has the same rest."""
    kernel = Kernel()
    kernel.create(b"a", verity("V"))
    kernel.load(b"a", verity("R"))
    kernel.resume(b"a")
    kernel.rename(b"a", b"b")
    kernel.load(b"b", verity("X"))
    tracker, device = tracked(kernel)
    found = ask(kernel, tracker, device, verity("C"), device.active)
    assert found.relation is Relation.MOVED
    assert found.table is device.active
    assert found.loaded_as == Identity(b"a", b"")
