"""Every recorded list in every printed form: verified, replayed, and without an alarm."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable

import pytest

from dmimad.core.finding import Severity
from dmimad.core.reader import ListReader
from tests.core.lists import binary_list, printed, replayed
from tests.core.recorded import ALL_FORMS, LISTS, Form, actions, binary, forms, items, pcr_values
from tests.core.replaying import Outcome, cut_at, pieces_of, replay
from tests.core.truth import load_texts, measured_targets, metadata, version

#: Where a kernel before the rework left the last target unmeasured: the last record of the load.
OVERFLOWS = {
    "systematic-v1": [("target.unmeasured", "warning", 47), ("target.unmeasured", "warning", 53)],
    "systematic-6.1": [("target.unmeasured", "warning", 47), ("target.unmeasured", "warning", 53)],
    "systematic-6.12": [("target.unmeasured", "warning", 97), ("target.unmeasured", "warning", 103)],
}
#: Lists in which no record is of one dialect only, read in another one (event names always tell v1).
UNDECIDED = {("lvm-6.1", "ordered"), ("lvm-7.2", "legacy"), ("random-6.1", "ordered")}
#: Tables with targets that measure no text.
OPAQUE = {"random-6.1": 13, "random-6.12": 11, "random-7.2": 7}


@functools.cache
def reference(name: str) -> Outcome:
    """The binary list of the sha1 bank, fed at once."""
    return replay(binary(name))


def by_bytes(data: bytes) -> Iterable[bytes]:
    """One byte at a time."""
    return pieces_of(data, 1)


def by_sevens(data: bytes) -> Iterable[bytes]:
    """Seven bytes at a time."""
    return pieces_of(data, 7)


def at_random(data: bytes) -> Iterable[bytes]:
    """Cut at a hundred places, the same in every run."""
    return cut_at(data, random.Random(len(data)).choices(range(len(data)), k=100))


CUTS: list[Callable[[bytes], Iterable[bytes]]] = [lambda data: [data], by_bytes, by_sevens, at_random]


@pytest.mark.parametrize("name", LISTS)
def test_the_builder_gives_real_lists_back(name: str) -> None:
    """What the other tests make is made as the kernel does it."""
    for form in forms(name):
        assert printed(items(name), ascii=form.ascii, bank=form.bank) == form.path.read_bytes()
    for bank, value in pcr_values(name).items():
        assert replayed(items(name), bank) == value


@pytest.mark.parametrize("name", LISTS)
def test_counts_and_dialect(name: str) -> None:
    dialect, records, dm_records = LISTS[name]
    outcome = reference(name)
    assert outcome.tracker.dialect.value == dialect
    assert outcome.reader.records == records
    assert outcome.tracker.dm_records == dm_records
    assert outcome.reader.violations == 0
    assert outcome.reader.broken is None


@pytest.mark.parametrize("name", LISTS)
def test_no_alarm_but_the_real_hole(name: str) -> None:
    outcome = reference(name)
    assert outcome.alarms == OVERFLOWS.get(name, [])
    information = [finding.code for finding in outcome.findings if finding.severity is Severity.INFO]
    assert information == ["target.opaque"] * OPAQUE.get(name, 8)


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("dialect", ["v1", "legacy", "ordered"])
def test_a_forced_dialect_is_contradicted_if_it_is_another(name: str, dialect: str) -> None:
    """One finding, at the first record that the dialect does not explain."""
    codes = replay(binary(name), dialect=dialect).codes
    codes.pop("target.unmeasured", None)
    explained = LISTS[name][0] == dialect or (name, dialect) in UNDECIDED
    assert codes == ({} if explained else {"state.impossible": 1})


@pytest.mark.parametrize("name", LISTS)
def test_the_hole_is_where_the_tables_say(name: str) -> None:
    """Rebuilt from what was given to dmsetup: which loads end in a target that opens a record of its own."""
    ordered = LISTS[name][0] == "ordered"
    head = version(next(item for item in items(name) if item.is_dm))
    expected = []
    for step, device in ((action, device) for action in actions(name) for device in action.devices):
        made = device.measure and step.command.startswith("dmsetup create " + device.name.decode("latin-1"))
        targets = measured_targets(device.measure) if made else []
        own = head + metadata((device.name, device.uuid), device.number, len(targets))
        texts, missing = load_texts(own, targets, ordered=ordered)
        if missing:
            expected.append([item.fields[-1] for item in items(name)].index(texts[-1]))
    assert [record for _, _, record in reference(name).alarms] == expected


@pytest.mark.parametrize(("name", "form"), ALL_FORMS, ids=str)
@pytest.mark.parametrize("cut", CUTS, ids=["whole", "bytes", "sevens", "random"])
def test_every_form_and_every_cut_gives_the_same(
    name: str, form: Form, cut: Callable[[bytes], Iterable[bytes]]
) -> None:
    expected = reference(name)
    data = form.path.read_bytes()
    watch = pcr_values(name)
    outcome = replay(cut(data), reader=ListReader(watch=watch))
    assert outcome.steps == expected.steps
    assert outcome.devices == expected.devices
    assert {bank: outcome.reader.pcr(bank) for bank in watch} == watch
    assert set(watch) == {"sha1", "sha256"}
    assert outcome.reader.matches == dict.fromkeys(watch, LISTS[name][1] - 1)
    position = outcome.reader.position
    assert (position.records, position.offset) == (LISTS[name][1], len(data))
    assert position.format is not None
    assert (position.format.ascii, position.format.bank, position.format.order) == (
        form.ascii,
        form.bank,
        "little",
    )


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("ascii", [False, True], ids=["binary", "ascii"])
@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384", "sha512"])
def test_the_same_host_big_endian(name: str, bank: str, *, ascii: bool) -> None:
    """On s390x every length is big-endian, in the list and in what is hashed."""
    data = printed(items(name), ascii=ascii, bank=bank, order="big")
    outcome = replay(data)
    assert outcome.alarms == OVERFLOWS.get(name, [])
    assert outcome.devices == reference(name).devices
    assert outcome.reader.pcr("sha256") == replayed(items(name), "sha256", "big")
    assert outcome.reader.position.format is not None
    assert (outcome.reader.position.format.order, outcome.reader.position.format.bank) == ("big", bank)


@pytest.mark.parametrize("name", LISTS)
def test_stopping_after_any_record(name: str) -> None:
    """`--until N`: as many records as asked for, whatever is fed."""
    data = binary(name)
    for limit in (0, 1, 2, 57, LISTS[name][1]):
        reader = ListReader(limit=limit)
        reader.feed(data)
        assert (reader.records, reader.finished) == (limit, True)
        assert reader.position.offset == len(binary_list(items(name)[:limit]))
        assert reader.pcr("sha1") == replayed(items(name)[:limit], "sha1")
        assert reader.feed(data) == [] == reader.close()
        assert reader.records == limit
