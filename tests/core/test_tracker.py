"""The tracker where whole lists do not lead it: odd records, names and numbers, limits, going on later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given

from dmimad.core import knowledge, registry
from dmimad.core.checkpoint import device_document
from dmimad.core.device import Dialect
from dmimad.core.errors import MalformedError
from dmimad.core.event import EventKind
from dmimad.core.finding import Severity
from dmimad.core.measurement import Measurement
from dmimad.core.reader import ListReader
from dmimad.core.tracker import Step, Tracker
from tests.core.histories import BOUNDED, RENAMES, Operation, operations, perform
from tests.core.kernel import DIALECTS, Kernel, linear, linears
from tests.core.lists import Item, binary_list, boot, boot_aggregate, buffer, digest_field, file
from tests.core.recorded import binary
from tests.core.replaying import replay_items

V = b"dm_version=4.47.0;"


def texts(*records: tuple[str, bytes], start: Sequence[Item] | None = None) -> list[Item]:
    """A list of dm events, given by their texts without version."""
    begun = boot() if start is None else list(start)
    return [*begun, *(buffer("dm_" + event, V + text) for event, text in records)]


def device(name: bytes, uuid: bytes = b"", minor: int = 0, targets: int = 1) -> bytes:
    return b"name=%s,uuid=%s,major=254,minor=%d,minor_count=1,num_targets=%d;" % (name, uuid, minor, targets)


def load(name: bytes, uuid: bytes = b"", minor: int = 0, *, start: int = 0) -> tuple[str, bytes]:
    own = b"target_index=0,target_begin=0,target_len=8," + linear(start).text
    return "table_load", device(name, uuid, minor) + own


CAPACITY = b"current_device_capacity=8;"
NONE = b"current_device_capacity=0;"


# -- records that are no dm events ---------------------------------------------------------


def test_an_event_nobody_has_released() -> None:
    """`dm_target_update` is parsed and changes nothing."""
    kernel = Kernel()
    kernel.create(b"a", linears(1))
    update = device(b"a") + b"target_index=0,target_begin=0,target_len=8,raid_state=idle;"
    before = replay_items(kernel.items)
    outcome = replay_items([*kernel.items, buffer("dm_target_update", V + update)])
    assert outcome.alarms == []
    assert outcome.steps[-1].kind is EventKind.TARGET_UPDATE
    assert outcome.devices == before.devices


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (
            Item(b"ima-buf", (b"sha256:\0" + bytes(32), b"x\0")),
            "ima-buf: the fields are longer than the record",
        ),
        (Item(b"ima-buf", (b"sha256", b"x\0", b"")), "ima-buf: not a digest, an event name and data"),
    ],
)
def test_critical_data_that_is_none(item: Item, reason: str) -> None:
    outcome = replay_items([*boot(), item])
    assert outcome.alarms == [("record.malformed", "warning", 2)]
    assert outcome.findings[0].message == reason


def test_other_critical_data() -> None:
    """Said nothing about, unless its digest is wrong."""
    other = buffer("selinux-state", b"enforcing=1;")
    assert replay_items([*boot(), other]).steps == ()
    outcome = replay_items([*boot(), replace(other, digest=b"x" * 20)])
    assert outcome.alarms == [("record.template_digest", "critical", 2)]
    assert outcome.steps[0].kind is None


def test_a_file_named_like_a_boot() -> None:
    """`boot_aggregate` in a name is none, nor where the fields do not add up."""
    kernel = Kernel()
    kernel.create(b"a", linears(1))
    broken = Item(b"ima-ng", (digest_field(b""), b"boot_aggregate\0"))
    data = binary_list(kernel.items)
    record = binary_list([broken])
    odd = record[:-15] + b"\xff" + record[-14:]
    for tail in (binary_list([file(b"/boot_aggregate")]), binary_list([file(b"boot_aggregate_2")]), odd):
        reader, followed = ListReader(), Tracker()
        steps = [followed.apply(found) for found in reader.feed(data + tail)]
        assert reader.records == 5
        assert [found.name for found in followed.devices] == [b"a"]
        assert all(step is None or step.kind or step.findings for step in steps)


def test_a_boot_record_whose_fields_do_not_add_up() -> None:
    """Handed out because of the name in it, and then no boot."""
    found = Measurement(0, 10, b"\1" * 20, b"ima-ng", b"\xff\0\0\0boot_aggregate\0")
    followed = Tracker()
    assert followed.apply(found) is None
    assert (followed.boots, followed.complete) == (0, False)


# -- how sure it is ------------------------------------------------------------------------


UNKNOWN = ("device_resume", device(b"a") + b"active_table_hash=sha256:" + b"ab" * 32 + b";" + CAPACITY)


@pytest.mark.parametrize(
    ("start", "severity"),
    [
        pytest.param(boot(), Severity.CRITICAL, id="since the boot"),
        pytest.param([boot_aggregate()], Severity.INFO, id="a policy that came later"),
        pytest.param([file(b"/bin/sh")], Severity.INFO, id="not from the beginning"),
        pytest.param([file(b"/bin/sh"), *boot()], Severity.CRITICAL, id="behind what a former kernel left"),
        pytest.param(boot()[1:], Severity.INFO, id="without its beginning"),
        pytest.param(
            [*boot(), boot_aggregate(b"2")], Severity.INFO, id="another kernel, with a later policy"
        ),
        pytest.param([*boot(), *boot("6.12")], Severity.CRITICAL, id="another kernel, from the beginning"),
        pytest.param(
            [*boot()[1:], *boot("6.12")], Severity.CRITICAL, id="another kernel, the former trimmed"
        ),
    ],
)
def test_a_table_that_nobody_loaded(start: list[Item], severity: Severity) -> None:
    """Critical if it is known that all was measured, from the first moment of this kernel on."""
    outcome = replay_items(texts(UNKNOWN, start=start))
    (found,) = [finding for finding in outcome.findings if finding.code == "table.unmeasured"]
    assert (found.severity, found.device) == (severity, "254:0")
    assert found.data == {"table": "sha256:" + "ab" * 32}
    (tracked,) = outcome.devices.values()
    assert tracked.active is not None
    assert tracked.active.hash.hex() == "ab" * 32


@pytest.mark.parametrize(
    ("records", "severity"),
    [
        pytest.param([load(b"a")], Severity.CRITICAL, id="another table was staged"),
        pytest.param(
            [load(b"a"), ("table_clear", b"name=a,uuid=;table_clear=no_data;" + NONE)], None, id="cleared"
        ),
        pytest.param([("table_clear", b"name=a,uuid=;table_clear=no_data;" + NONE)], None, id="only named"),
    ],
)
def test_what_a_later_policy_explains(records: list[tuple[str, bytes]], severity: Severity | None) -> None:
    """A table from before measuring began may be active; not if a load was measured for the slot since."""
    outcome = replay_items(texts(*records, UNKNOWN, start=[boot_aggregate()]))
    alarms = [finding for finding in outcome.findings if finding.severity is not Severity.INFO]
    assert [(found.code, found.severity) for found in alarms] == (
        [] if severity is None else [("table.hash_mismatch", severity)]
    )


def test_a_number_that_was_freed_begins_anew() -> None:
    """Whoever has it next was made while everything was measured."""
    gone = ("device_remove", b"device_active_metadata=" + device(b"b") + b"remove_all=n;" + CAPACITY)
    start = [boot_aggregate()]
    assert replay_items(texts(gone, UNKNOWN, start=start)).codes == {"table.unmeasured": 1}
    assert replay_items(texts(UNKNOWN, start=start)).codes == {}


def test_too_much_to_be_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Facts are bounded; beyond that a missing load is a suspicion."""
    monkeypatch.setattr(knowledge, "MAX_FACTS_PER_KIND", 2)
    many = [load(b"b", minor=1, start=8 * number) for number in range(4)]
    outcome = replay_items(texts(*many, UNKNOWN))
    assert outcome.alarms == [("table.unmeasured", "warning", 6)]
    assert outcome.findings[0].message.endswith("(or too much was measured to tell)")


def test_a_long_load_of_which_nobody_saw_the_beginning() -> None:
    kernel = Kernel()
    kernel.create(b"long", linears(38))
    items = [item for item in kernel.items if b"target_index=0," not in item.fields[-1]]
    assert replay_items(items).alarms == [
        ("state.impossible", "critical", 2),
        ("table.unmeasured", "critical", 3),
    ]
    partial = [boot_aggregate(), file(b"/bin/sh"), *items[2:]]
    assert replay_items(partial).alarms == [("state.impossible", "critical", 2)]
    assert replay_items(items[1:]).alarms == []  # the list does not begin with the boot


# -- names and numbers ---------------------------------------------------------------------


def removed(step: Step) -> list[str]:
    return [gone.key for gone in step.removed]


def test_a_device_that_only_has_a_name_gets_its_number() -> None:
    """The key changes, so the former one is gone."""
    outcome = replay_items(
        texts(("table_clear", b"name=a,uuid=U;table_clear=no_data;" + NONE), load(b"a", b"U", 3))
    )
    first = outcome.steps[0].device
    assert first is not None
    assert first.key.startswith("name-")
    assert (first.major, first.minor, first.uuid) == (None, None, b"U")
    assert removed(outcome.steps[1]) == [first.key]
    assert list(outcome.devices) == ["254:3"]
    assert outcome.devices["254:3"].since == first.since


def test_keys_by_name_are_not_used_twice() -> None:
    """A device keeps its key when it is renamed; the next of its name has another."""
    outcome = replay_items(
        texts(
            ("table_clear", b"name=a,uuid=;table_clear=no_data;" + NONE),
            ("device_rename", b"(null)new_name=b,new_uuid=;" + NONE),
            ("table_clear", b"name=a,uuid=;table_clear=no_data;" + NONE.replace(b"0", b"8")),
        )
    )
    assert outcome.alarms == []
    assert [found.name for found in outcome.devices.values()] == [b"b", b"a"]
    assert len({found.key for found in outcome.tracker.devices}) == 2


@pytest.mark.parametrize("dialect", ["legacy", "ordered"])
def test_a_uuid_is_set_once(dialect: str) -> None:
    """Another uuid under the same name is another device."""
    outcome = replay_items(
        texts(
            ("table_clear", b"name=a,uuid=;table_clear=no_data;" + NONE),
            ("table_clear", b"name=a,uuid=U;table_clear=no_data;" + NONE),
            ("table_clear", b"name=a,uuid=W;table_clear=no_data;" + NONE),
        ),
        dialect=dialect,
    )
    keys = [step.device.key for step in outcome.steps if step.device is not None]
    assert keys[0] == keys[1] != keys[2]
    assert removed(outcome.steps[2]) == [keys[0]]
    assert [found.uuid for found in outcome.devices.values()] == [b"W"]


@pytest.mark.parametrize(
    ("devices", "new", "renamed"),
    [
        pytest.param([(b"a", b"", 0)], (b"b", b""), 0, id="the only one"),
        pytest.param([(b"a", b"", 0)], (b"b", b"U"), None, id="a uuid cannot appear with another name"),
        pytest.param([(b"a", b"", 0)], (b"a", b"U"), 0, id="a uuid is set"),
        pytest.param([(b"a", b"W", 0)], (b"a", b"U"), -1, id="a uuid is not changed: that one is gone"),
        pytest.param([(b"a", b"U", 0), (b"b", b"", 1)], (b"c", b"U"), 0, id="the one with the uuid"),
        pytest.param([(b"a", b"", 0), (b"b", b"", 1)], (b"c", b""), None, id="which of two cannot be told"),
    ],
)
def test_a_rename_that_does_not_tell_of_whom(
    devices: list[tuple[bytes, bytes, int]], new: tuple[bytes, bytes], renamed: int | None
) -> None:
    """Older kernels write ``(null)`` for a device without an active table."""
    rename = ("device_rename", b"(null)new_name=%s,new_uuid=%s;" % new + NONE)
    outcome = replay_items(texts(*(load(*found) for found in devices), rename))
    assert outcome.alarms == []
    found = {
        key: (tracked.name, tracked.uuid)
        for key, tracked in outcome.devices.items()
        if tracked.minor is not None
    }
    expected = {f"254:{minor}": (name, uuid) for name, uuid, minor in devices if renamed != -1}
    if renamed == 0:
        expected["254:0"] = new
    assert found == expected
    made_up = [tracked for tracked in outcome.devices.values() if tracked.minor is None]
    assert [(tracked.name, tracked.uuid) for tracked in made_up] == ([] if renamed == 0 else [new])


def test_a_device_that_was_made_up_goes_when_its_number_is_told() -> None:
    """The rename could have been of either; the next record says of which."""
    outcome = replay_items(
        texts(
            load(b"a", minor=0),
            load(b"b", minor=1),
            ("device_rename", b"(null)new_name=c,new_uuid=;" + NONE),
            load(b"c", minor=1, start=8),
        )
    )
    assert outcome.alarms == []
    assert {key: found.name for key, found in outcome.devices.items()} == {"254:0": b"a", "254:1": b"c"}
    (gone,) = outcome.steps[-1].removed
    assert (gone.name, gone.major) == (b"c", None)


def test_a_name_that_another_device_has_now() -> None:
    """Without a rename in its past, the former holder is gone."""
    outcome = replay_items(texts(load(b"a", minor=0), load(b"a", minor=1)))
    assert outcome.alarms == []
    assert removed(outcome.steps[-1]) == ["254:0"]
    assert list(outcome.devices) == ["254:1"]


def test_a_name_that_two_claim() -> None:
    """Renamed back by a record that was dropped, a device is still there under its number."""
    kernel = Kernel("ordered")
    kernel.create(b"a", (linear(0),))
    kernel.rename(b"a", b"b")
    kernel.rename(b"b", b"a")
    kernel.rename(b"a", b"b")
    assert kernel.dropped == {"device_rename": 1}
    kernel.create(b"a", (linear(8),))
    outcome = replay_items(kernel.items)
    assert outcome.alarms == []
    assert {key: found.active is not None for key, found in outcome.devices.items()} == {
        "254:0": True,
        "254:1": True,
    }
    assert [step.removed for step in outcome.steps if step.removed] == []
    # What is heard of it later does not take the name away from the other again.
    kernel.load(b"b", (linear(16),))
    outcome = replay_items(kernel.items)
    assert {key: found.name for key, found in outcome.devices.items()} == {"254:0": b"b", "254:1": b"a"}


@pytest.mark.parametrize(("dialect", "name"), [("ordered", b"b"), ("legacy", b"a")])
def test_a_resume_under_a_former_name(dialect: str, name: bytes) -> None:
    """Reworked kernels write the present name, older ones may mean the one the table was loaded under."""
    kernel = Kernel(dialect)
    kernel.create(b"a", (linear(0),))
    kernel.rename(b"a", b"b")
    kernel.load(b"b", (linear(8),))
    kernel.load(b"b", (linear(16),))
    kernel.resume(b"b")
    kernel.rename(b"b", b"a")
    kernel.rename(b"a", b"b")
    kernel.load(b"b", (linear(8),))
    kernel.resume(b"b")
    assert kernel.dropped == {"device_rename": 1, "table_load": 1}
    outcome = replay_items(kernel.items)
    assert outcome.alarms == []
    (tracked,) = outcome.devices.values()
    assert tracked.name == name
    assert tracked.active is not None
    assert tracked.active.hash == kernel.devices[b"b"].running


def test_former_names_are_bounded() -> None:
    kernel = Kernel("legacy")
    kernel.create(b"0", (linear(0),))
    for number in range(40):
        kernel.rename(b"%d" % number, b"%d" % (number + 1))
    (tracked,) = replay_items(kernel.items).devices.values()
    assert [former.name for former in tracked.former] == [b"%d" % number for number in range(24, 40)]


def test_devices_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten, and said to be gone."""
    monkeypatch.setattr(registry, "MAX_DEVICES", 3)
    outcome = replay_items(texts(*(load(b"d%d" % minor, minor=minor) for minor in range(5))))
    assert list(outcome.devices) == ["254:2", "254:3", "254:4"]
    assert [removed(step) for step in outcome.steps] == [[], [], [], ["254:0"], ["254:1"]]
    named = [("table_clear", b"name=d%d,uuid=;table_clear=no_data;" % number + NONE) for number in range(5)]
    outcome = replay_items(texts(*named))
    assert [found.name for found in outcome.devices.values()] == [b"d2", b"d3", b"d4"]


# -- what the dialects do not share --------------------------------------------------------

BARE = device(b"a", targets=0)


@pytest.mark.parametrize(
    ("record", "dialect"),
    [
        (("table_clear", BARE + CAPACITY), Dialect.LEGACY),
        (("device_remove", b"device_active_metadata=" + BARE + b"remove_all=n;" + NONE), Dialect.LEGACY),
        (("device_rename", BARE + b"new_name=b,new_uuid=;" + NONE), Dialect.LEGACY),
        (("device_rename", b"(null)new_name=b,new_uuid=;" + NONE), Dialect.LEGACY),
        (("device_rename", b"device_rename=no_data;new_name=b,new_uuid=;" + NONE), Dialect.ORDERED),
        (("device_rename", b"new_name=b,new_uuid=;" + NONE), Dialect.ORDERED),
        (("device_remove", b"name=a,uuid=;device_remove=no_data;remove_all=n;" + NONE), Dialect.ORDERED),
        (("device_resume", b"name=a,uuid=;device_resume=no_data;" + NONE), None),
        (("device_resume", BARE + CAPACITY), None),
        (("table_clear", b"name=a,uuid=;table_clear=no_data;" + NONE), None),
    ],
)
def test_records_that_one_dialect_writes(record: tuple[str, bytes], dialect: Dialect | None) -> None:
    """They settle it against what the version suggests; the other's are then a contradiction."""
    new = [buffer("dm_" + record[0], b"dm_version=4.50.0;" + record[1])]
    outcome = replay_items([*boot("6.17.0"), *new])
    assert outcome.tracker.evidence.proven is dialect
    assert outcome.alarms == []
    for forced in (Dialect.LEGACY, Dialect.ORDERED):
        contradicted = dialect not in (None, forced)
        codes = replay_items([*boot("6.17.0"), *new], dialect=forced.value).codes
        assert codes == ({"state.impossible": 1} if contradicted else {})


def test_a_device_whose_creation_was_dropped_has_the_table_it_had() -> None:
    """Made, removed, made again with nothing new: the rename is the first that is heard of it."""
    kernel = Kernel("legacy")
    kernel.create(b"a", (linear(0),))
    kernel.remove(b"a")
    kernel.create(b"a", (linear(0),))
    assert kernel.dropped.total() == 2
    kernel.rename(b"a", b"b")
    outcome = replay_items(kernel.items)
    assert outcome.alarms == []
    (tracked,) = outcome.devices.values()
    assert tracked.active is not None
    assert (tracked.name, tracked.active.hash) == (b"b", kernel.devices[b"b"].running)


def test_a_device_without_capacity_has_no_active_table() -> None:
    """The same, but the second one has only a staged table."""
    kernel = Kernel("ordered")
    kernel.create(b"a", (linear(0),))
    kernel.remove(b"a")
    kernel.create(b"a")
    kernel.load(b"a", (linear(0),))
    kernel.rename(b"a", b"b")
    outcome = replay_items(kernel.items)
    assert outcome.alarms == []
    (tracked,) = outcome.devices.values()
    assert (tracked.name, tracked.active) == (b"b", None)


# -- going on later ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["systematic-6.1", "random-7.2"])
def test_taken_up_again_after_every_record(name: str) -> None:
    records = ListReader().feed(binary(name))
    unbroken = Tracker()
    expected = [unbroken.apply(record) for record in records]
    whole = Tracker(keep_facts=True)
    facts: list[tuple[str, bytes]] = []
    for number, record in enumerate(records):
        assert whole.apply(record) == expected[number]
        facts += whole.knowledge.take_facts()
        again = stored_and_restored(whole, facts)
        assert [again.apply(later) for later in records[number + 1 :]] == expected[number + 1 :]


def stored_and_restored(whole: Tracker, facts: list[tuple[str, bytes]]) -> Tracker:
    """Another process: what went through JSON, in the order a database gives it back."""
    document = json.loads(json.dumps(whole.document()))
    devices = json.loads(json.dumps({found.key: device_document(found) for found in whole.devices}))
    again = Tracker(keep_facts=True)
    again.restore(document, dict(sorted(devices.items())), list(dict.fromkeys(facts)))
    assert again.document() == whole.document()
    assert {found.key: found for found in again.devices} == {found.key: found for found in whole.devices}
    return again


@pytest.mark.parametrize("dialect", DIALECTS)
@given(done=operations((*RENAMES, "kexec")))
@BOUNDED
def test_taken_up_again_anywhere_in_any_history(dialect: str, done: list[Operation]) -> None:
    kernel = Kernel(dialect)
    for _ in perform(kernel, done):
        pass
    records = ListReader().feed(binary_list(kernel.items))
    unbroken, whole = Tracker(), Tracker(keep_facts=True)
    expected = [unbroken.apply(record) for record in records]
    facts: list[tuple[str, bytes]] = []
    for number, record in enumerate(records):
        whole.apply(record)
        facts += whole.knowledge.take_facts()
        if number % 7 == 3:
            again = stored_and_restored(whole, facts)
            assert [again.apply(later) for later in records[number + 1 :]] == expected[number + 1 :]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("boots", None),
        ("dm_records", "x"),
        ("dm_records_before", None),
        ("seen_numbers", None),
        ("seen_numbers", [[1]]),
        ("loads", {"254:0": {}}),
        ("outdated", None),
        ("evidence", None),
    ],
)
def test_a_damaged_document_is_refused(key: str, value: object) -> None:
    document = {**Tracker().document(), key: value}
    with pytest.raises(MalformedError):
        Tracker().restore(document, {}, [])
