"""Real lists with something done to them: the finding that belongs to it, at the record that shows it.

What an attacker with access to a list file can do is anything but one thing: make it lead to the TPM's
PCR value.  So each change is looked at twice: what the list alone shows, and that the PCR shows it always.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from dmimad.core.finding import Severity
from dmimad.core.reader import ListReader
from tests.core.kernel import Kernel, linear
from tests.core.lists import (
    BANKS,
    ORDERS,
    Item,
    Order,
    binary_list,
    boot_aggregate,
    buffer,
    digest_field,
    file,
    printed,
    replayed,
    rewritten,
    violation,
)
from tests.core.recorded import items, pcr_values
from tests.core.replaying import cut_at, pieces_of, replay, replay_items

NAME = "systematic-6.1"
LIST = items(NAME)
HOLES = [("target.unmeasured", "warning", 47), ("target.unmeasured", "warning", 53)]
DM = [index for index, item in enumerate(LIST) if item.is_dm]


def alarms(changed: Sequence[Item]) -> list[tuple[str, int | None]]:
    """What the list alone shows, without the hole that is really there."""
    return [(code, record) for code, _, record in replay_items(changed).alarms if code != "target.unmeasured"]


def leads_to_pcr(changed: Sequence[Item]) -> bool:
    """Whether the PCR values that the TPM had at the end are reached anywhere, in any bank."""
    reader = ListReader(watch=pcr_values(NAME))
    reader.feed(binary_list(changed))
    return any(index is not None for index in reader.matches.values())


def pairs(*lines: str) -> dict[int, int]:
    """Record that is missing: record that shows it."""
    return {int(a): int(b) for line in lines for a, b in (pair.split(":") for pair in line.split())}


def without(index: int) -> list[Item]:
    return [*LIST[:index], *LIST[index + 1 :]]


def instead(index: int, item: Item) -> list[Item]:
    return [*LIST[:index], item, *LIST[index + 1 :]]


def test_the_unchanged_list_leads_to_the_pcr() -> None:
    """So that its absence below means something."""
    assert leads_to_pcr(LIST)
    assert alarms(LIST) == []


# -- taken out, put in again, put elsewhere ------------------------------------------------

#: For each record of systematic-6.1 what the list shows without it; the others are not missed by the
#: list alone: clears, renames and last removals (nothing later depends on them), a load and resumes that
#: others followed at once, and what begins the boot.
DROPPED_UNSEEN = {
    *(0, 1, 3, 4, 8, 9, 10, 12, 13, 14, 15, 17, 19, 20, 21, 22, 24, 25, 33, 38, 63, 119),
    *range(136, 154),
}
#: Loads of several records, by the last of them: a missing one is seen by the next, a missing last one by
#: the resume, whose hash is not that of what is there.
LONG_LOADS = {50: 49, 53: 52, 57: 55, 62: 59, 69: 64, 73: 71}
#: A resume that is missing is seen when its device is removed, or loses the table to another; here is when.
RESUMES_SEEN = pairs(
    "6:9 18:18 27:28 31:33 36:38 41:41 44:74 46:75 48:76 51:77 54:78 58:79 70:81 74:80 84:96 86:95 88:93",
    "90:92",
    "92:94 99:152 101:139 103:143 105:148 107:138 109:140 111:135 113:137 115:144 117:147 121:146 123:141",
    "125:149 127:150 129:136 131:145 133:151 135:142",
)
#: A removal that is missing is seen when another device has the number.
REMOVALS_SEEN = pairs(
    "29:29 34:34 39:39 42:42 75:82 76:84 77:86 78:88 79:90 80:107 81:109 82:111 93:103 94:101 95:105",
    "96:99 97:97",
)


def expected_without(index: int) -> list[tuple[str, int | None]]:
    if index in DROPPED_UNSEEN:
        return []
    if index in RESUMES_SEEN:
        return [("state.impossible", RESUMES_SEEN[index])]
    if index in REMOVALS_SEEN:
        return [("state.impossible", REMOVALS_SEEN[index])]
    for last, first in LONG_LOADS.items():
        if index == last:
            return [("table.hash_mismatch", last)]
        if first <= index < last:
            return [("state.impossible", index), ("table.unmeasured", last)]
    # A load of one record: whatever comes next speaks of a table that nobody has seen.
    return [("table.unmeasured", {16: 17, 23: 24}.get(index, index))]


@pytest.mark.parametrize("index", range(len(LIST)))
def test_a_record_that_is_missing(index: int) -> None:
    changed = without(index)
    assert alarms(changed) == expected_without(index)
    assert not leads_to_pcr(changed)


def test_what_is_missed_when_missing() -> None:
    """The tables above are of every record once, and this many are missed."""
    loads = {index for last, first in LONG_LOADS.items() for index in range(first, last + 1)}
    tables = [DROPPED_UNSEEN, loads, RESUMES_SEEN.keys(), REMOVALS_SEEN.keys()]
    assert sum(len(table) for table in tables) == len(set().union(*tables))
    events = Counter(LIST[index].event for index in DM if alarms(without(index)))
    assert events == {"dm_table_load": 60, "dm_device_resume": 37, "dm_device_remove": 17}
    assert Counter(LIST[index].event for index in DM) == {
        "dm_table_load": 61,
        "dm_device_resume": 42,
        "dm_device_remove": 39,
        "dm_table_clear": 4,
        "dm_device_rename": 6,
    }


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "at the end"])
def test_a_record_that_is_repeated(*, at_once: bool) -> None:
    """Kernels drop it; once is enough to say so, and it may be one built without that."""
    for index in DM:
        changed = [*LIST[: index + 1], *LIST[index:]] if at_once else [*LIST, LIST[index]]
        outcome = replay_items(changed)
        where = index + 1 if at_once else len(LIST)
        repeated = [alarm for alarm in outcome.alarms if alarm[0] != "target.unmeasured"]
        assert repeated == [("state.impossible", "warning", where)]
        # At the end: the value is reached before the repetition.
        assert leads_to_pcr(changed) is (where == len(LIST))


@pytest.mark.parametrize(("dialect", "version"), [("legacy", b"dm_version=4.47.0;"), ("ordered", b"")])
def test_a_kernel_that_drops_nothing(dialect: str, version: bytes) -> None:
    """CONFIG_IMA_DISABLE_HTABLE: every resume is there, and one warning says why it is suspected."""
    kernel = Kernel(dialect, version=version, deduplicate=False)
    kernel.create(b"flip", (linear(0),))
    for start in (8, 0, 8, 0):
        kernel.load(b"flip", (linear(start),))
        kernel.resume(b"flip")
    outcome = replay_items(kernel.items)
    assert outcome.alarms == [("state.impossible", "warning", 6)]
    (device,) = outcome.devices.values()
    assert device.active is not None
    assert device.active.hash == kernel.devices[b"flip"].running


#: Neighbours of which the second depends on the first: what the list shows when they change places.
SWAPPED = {
    **{index: ("table.unmeasured", index) for index in (2, 5, 7, 11, 26, 28, 30, 32, 35, 37, 40)},
    **{index: ("table.unmeasured", index) for index in (43, 45, 47, *range(83, 93, 2), *range(98, 136, 2))},
    **{index: ("state.impossible", index) for index in (18, 29, 34, 39, 41, 42, 97)},
    **{
        index: ("state.impossible", index)
        for last, first in LONG_LOADS.items()
        for index in range(first, last)
    },
    **{last: ("table.hash_mismatch", last) for last in LONG_LOADS},
}


def test_records_in_another_order() -> None:
    for index in range(len(LIST) - 1):
        changed = [*LIST[:index], LIST[index + 1], LIST[index], *LIST[index + 2 :]]
        assert alarms(changed) == ([SWAPPED[index]] if index in SWAPPED else [])
        assert not leads_to_pcr(changed)


# -- edited --------------------------------------------------------------------------------


def edited(index: int, *, fix_event: bool, fix_template: bool) -> list[Item]:
    """A harmless-looking change: of the last digit, in the capacity or the last target."""
    item = LIST[index]
    last = re.search(rb"[0-9][^0-9]*$", item.text)
    assert last is not None
    new = b"7" if last[0][:1] != b"7" else b"6"
    text = item.text[: last.start()] + new + last[0][1:]
    return instead(index, rewritten(item, item.text, text, fix_event=fix_event, fix_template=fix_template))


@pytest.mark.parametrize(
    ("fix_event", "fix_template", "codes"),
    [
        (False, False, ["record.template_digest", "record.event_digest"]),
        (True, False, ["record.template_digest"]),
        (False, True, ["record.event_digest"]),
    ],
)
def test_an_edited_record(*, fix_event: bool, fix_template: bool, codes: list[str]) -> None:
    for index in DM:
        changed = edited(index, fix_event=fix_event, fix_template=fix_template)
        found = [alarm for alarm in replay_items(changed).alarms if alarm[2] == index]
        assert [(code, severity) for code, severity, _ in found if code.startswith("record")] == [
            (code, "critical") for code in codes
        ]
        assert not leads_to_pcr(changed)


@pytest.mark.parametrize("ascii", [False, True], ids=["binary", "ascii"])
@pytest.mark.parametrize("bank", BANKS)
@pytest.mark.parametrize("order", ORDERS)
def test_an_edited_record_in_every_form(bank: str, order: Order, *, ascii: bool) -> None:
    kernel = Kernel("legacy")
    kernel.create(b"root", (linear(0),))
    kernel.create(b"home", (linear(8),))
    honest = kernel.items[-1].template_digest(bank, order)
    evil = rewritten(kernel.items[-1], b"capacity=8", b"capacity=9", fix_event=False)
    kernel.items[-1] = replace(evil, digest=honest)
    outcome = replay(printed(kernel.items, ascii=ascii, bank=bank, order=order))
    assert outcome.codes == {"record.template_digest": 1, "record.event_digest": 1}
    assert {finding.record for finding in outcome.findings} == {5}
    assert outcome.findings[0].data == {"template_digest": honest.hex()}
    assert len(outcome.devices) == 2


def forged(index: int, pattern: bytes, new: bytes) -> list[Item]:
    """An edited record with all digests put right: the list is consistent again, but for the PCR."""
    item = LIST[index]
    text = re.sub(pattern, new, item.text, count=1)
    assert text != item.text
    return instead(index, buffer(item.event, text))


def test_a_forged_load_does_not_have_the_kernels_hash() -> None:
    """The next record of the device reports the hash of what was really loaded."""
    for index in DM:
        if LIST[index].event != "dm_table_load" or b"device_name=1:" not in LIST[index].text:
            continue
        changed = forged(index, rb"device_name=1:", b"device_name=9:")
        last = next((last for last, first in LONG_LOADS.items() if first <= index <= last), index)
        shown = {16: 18, 23: 25}.get(index, last + 1)
        assert alarms(changed) == ([] if index == 4 else [("table.hash_mismatch", shown)])  # 4 was never used
        assert not leads_to_pcr(changed)


def test_a_forged_report_is_of_no_table_that_was_loaded() -> None:
    reports = [index for index in DM if b"table_hash=" in LIST[index].text]
    assert len(reports) == 83
    for index in reports:
        zeros = b"0" * 64
        found = alarms(forged(index, rb"table_hash=sha256:[0-9a-f]{64}", b"table_hash=sha256:" + zeros))
        assert found[0][1] == index
        assert found[0][0] in ("table.hash_mismatch", "table.unmeasured")
        assert [code for code, _ in found[1:]] in ([], ["state.impossible"])


@pytest.mark.parametrize(
    ("index", "pattern", "new", "code"),
    [
        pytest.param(3, rb"num_targets=4", b"num_targets=5", None, id="another number of targets"),
        pytest.param(2, rb"target_index=3", b"target_index=9", "record.malformed", id="targets out of order"),
        pytest.param(
            2, rb"num_targets=4", b"num_targets=3", "record.malformed", id="more targets than there are"
        ),
        pytest.param(
            2, rb"num_targets=4", b"num_targets=5", "table.unmeasured", id="fewer targets than there are"
        ),
        pytest.param(3, rb"active_table_hash=", b"active_table_hush=", "record.malformed", id="unknown key"),
        pytest.param(3, rb"major=254", b"major=x", "record.malformed", id="no number"),
        pytest.param(3, rb";$", b"", "record.malformed", id="no end"),
        pytest.param(13, rb"new_name=linear....", rb"new_name=other,", None, id="renamed otherwise"),
    ],
)
def test_forged_texts(index: int, pattern: bytes, new: bytes, code: str | None) -> None:
    changed = forged(index, pattern, new)
    assert {found for found, _ in alarms(changed)} <= {code, "table.hash_mismatch", "table.unmeasured"}
    if code is not None:
        assert code in {found for found, _ in alarms(changed)}
    assert not leads_to_pcr(changed)


# -- cut, put together, mixed --------------------------------------------------------------


def small(dialect: str = "legacy") -> Kernel:
    """A short list with a bit of everything."""
    kernel = Kernel(dialect)
    kernel.create(b"root", (linear(0),), b"LVM-1")
    kernel.items += [file(b"/bin/sh"), file(b"/bin/true", template=b"ima"), violation()]
    kernel.load(b"root", (linear(8),))
    kernel.resume(b"root")
    return kernel


@pytest.mark.parametrize("ascii", [False, True], ids=["binary", "ascii"])
@pytest.mark.parametrize("template", [b"ima-sig", b"ima-ng", b"ima"])
def test_a_list_that_ends_anywhere(template: bytes, *, ascii: bool) -> None:
    """Complete records are taken, the rest is one finding; where nothing is complete it is no list."""
    whole = [boot_aggregate(template=template), *small().items[1:]]
    data = printed(whole, ascii=ascii)
    ends = [len(printed(whole[:count], ascii=ascii)) for count in range(len(whole) + 1)]
    for cut in range(1, len(data)):
        outcome = replay(data[:cut])
        complete = max(count for count, end in enumerate(ends) if end <= cut)
        if cut in ends or (ascii and cut + 1 in ends):  # the last newline is not needed
            assert (outcome.reader.broken, outcome.alarms) == (None, [])
            assert outcome.reader.records == complete + (cut not in ends)
            continue
        malformed = ("record.malformed", "warning", complete)
        if outcome.reader.broken is not None:
            assert outcome.alarms == [malformed]
            assert outcome.reader.records == complete
        else:  # what is left of a line reads like a record; its digest tells, if it is no violation
            assert ascii
            digest = ("record.template_digest", "critical", complete)
            assert outcome.alarms in ([digest], [malformed], [] if whole[complete].violation else [digest])
            assert outcome.reader.records == complete + 1
        assert outcome.reader.position.offset in (ends[complete], cut)


def test_the_second_half_is_missing() -> None:
    """Nothing in what is left tells; the PCR does."""
    half = LIST[:90]
    outcome = replay_items(half)
    assert outcome.alarms == HOLES
    assert not leads_to_pcr(half)
    assert {device.name for device in outcome.devices.values()} >= {b"sp ace", "naïve-设备".encode()}


def test_the_first_half_is_missing() -> None:
    """Not the boot's beginning: what is missing is no finding above info, and the PCR is another."""
    assert alarms(LIST[60:]) == []
    assert not leads_to_pcr(LIST[60:])


@pytest.mark.parametrize("other", ["systematic-6.12", "systematic-7.2", "systematic-v1", "random-6.1"])
def test_the_second_half_of_another_list(other: str) -> None:
    """Devices and tables that nobody loaded here."""
    changed = [*LIST[:60], *items(other)[100:]]
    found = {code for code, _ in alarms(changed)}
    assert found & {"table.unmeasured", "state.impossible"}
    assert not leads_to_pcr(changed)


@pytest.mark.parametrize("other", ["systematic-6.12", "systematic-7.2", "systematic-v1", "lvm-6.1", NAME])
def test_another_boot_in_the_same_list(other: str) -> None:
    """A second boot_aggregate: kexec, with the list carried over.  Information, and all begins anew."""
    outcome = replay_items([*LIST[:130], *items(other)])
    alone = replay_items(items(other))
    expected = [(code, severity, (record or 0) + 130) for code, severity, record in alone.alarms]
    assert outcome.alarms == HOLES + expected
    (restarted,) = [finding for finding in outcome.findings if finding.code == "list.restarted"]
    assert (restarted.severity, restarted.record) == (Severity.INFO, 130)
    assert restarted.message.endswith("16 devices forgotten")
    assert outcome.devices.keys() == alone.devices.keys()
    assert outcome.tracker.dialect is alone.tracker.dialect
    assert outcome.reader.pcr("sha256") == replayed([*LIST[:130], *items(other)], "sha256")


def test_a_second_boot_aggregate_alone_forgets_the_devices() -> None:
    changed = [*LIST[:100], boot_aggregate(b"another"), *LIST[100:]]
    outcome = replay_items(changed)
    assert "list.restarted" in {finding.code for finding in outcome.findings}
    # Without a kernel_version of its own nobody knows when measuring began.
    assert outcome.alarms == HOLES
    assert not leads_to_pcr(changed)


# -- other templates, violations, names ----------------------------------------------------

OTHERS = [
    file(b"/bin/old", b"x", template=b"ima"),
    file(b"/bin/new", b"y"),
    file(b"/bin/signed", b"z", template=b"ima-sig", signature=b"\x03\x02\x04" + bytes(70)),
    Item(b"ima-modsig", (digest_field(b"m"), b"/lib/x.ko\0", b"", digest_field(b"n"), b"\x30\x82")),
    Item(b"evm-sig", (digest_field(b"e"), b"/etc/x\0", b"", b"", b"", b"", bytes(4), bytes(4), bytes(2))),
    Item(b"d-ng|n-ng|sig", (digest_field(b"c"), b"/custom\0", b"")),
    violation(b"/var/log/wtmp"),
    buffer("kernel_info", b"", algorithm="sha512"),
    file(b"/tmp/a name with spaces"),
]


@pytest.mark.parametrize("ascii", [False, True], ids=["binary", "ascii"])
@pytest.mark.parametrize("bank", BANKS)
@pytest.mark.parametrize("order", ORDERS)
def test_other_templates_between(bank: str, order: Order, *, ascii: bool) -> None:
    """Verified, extended, counted; and nothing more."""
    kernel = small()
    mixed = [item for pair in zip(kernel.items, OTHERS, strict=False) for item in pair]
    mixed += [*kernel.items[len(OTHERS) :], *OTHERS[len(kernel.items) :]]
    data = printed(mixed, ascii=ascii, bank=bank, order=order)
    for size in (1, 64, len(data)):
        outcome = replay(pieces_of(data, size))
        assert outcome.alarms == []
        assert [finding.code for finding in outcome.findings] == ["violations.increased"] * 2
        assert (outcome.reader.records, outcome.reader.violations) == (len(mixed), 2)
        assert outcome.reader.pcr("sha1") == replayed(mixed, "sha1", order)
        assert outcome.reader.pcr("sha256") == replayed(mixed, "sha256", order)
        assert [device.name for device in outcome.devices.values()] == [b"root"]


def test_an_unknown_template() -> None:
    """In ASCII its data cannot be rebuilt: the list's own bank is still right, others are lost and say so."""
    unknown = Item(b"future", (digest_field(b"f"), b"/file\0", b"\1\2"))
    listed = [*small().items, unknown]
    outcome = replay(binary_list(listed))
    assert outcome.reader.pcr("sha256") == replayed(listed, "sha256")
    line = b"10 %s future sha256:00 /file 0102\n" % unknown.template_digest().hex().encode()
    outcome = replay(printed(small().items, ascii=True) + line)
    assert outcome.alarms == []
    assert outcome.reader.pcr("sha1") == replayed(listed, "sha1")
    assert outcome.reader.pcr("sha256") is None


def test_a_record_made_a_violation() -> None:
    """Zeros for a digest: files have that, critical data never."""
    changed = instead(12, replace(LIST[12], violation=True))
    assert alarms(changed)[0] == ("record.template_digest", 12)
    assert not leads_to_pcr(changed)
    changed = [*LIST, violation()]
    assert alarms(changed) == []


@pytest.mark.parametrize(
    "name",
    [
        b"/tmp/two\nlines",
        b"/tmp/three\n\nlines",
        b"/tmp/many" + b"\n" * 7,
        b"\n\n",
        b"/tmp/like a record\n10 ",
        b"/tmp/ \n 10 " + b"0" * 40 + b" ima-ng sha256:00 /bin/sh",
    ],
)
@pytest.mark.parametrize("where", ["in the middle", "at the end"])
def test_names_with_newlines_in_ascii(name: bytes, where: str) -> None:
    """The template digest tells which lines are one record, wherever the pieces are cut."""
    kernel = small()
    changed = (
        [*kernel.items[:4], file(name), *kernel.items[4:]]
        if where == "in the middle"
        else [*kernel.items, file(name)]
    )
    data = printed(changed, ascii=True)
    for pieces in ([data], pieces_of(data, 1), pieces_of(data, 7), cut_at(data, (data.index(name) + 1,))):
        outcome = replay(pieces)
        assert outcome.alarms == []
        assert outcome.reader.records == len(changed)
        assert outcome.reader.pcr("sha256") == replayed(changed, "sha256")


def test_too_many_lines_are_no_record() -> None:
    """Findings, and the records behind it are read again."""
    kernel = small()
    changed = [*kernel.items[:4], file(b"\n" * 8), *kernel.items[4:]]
    outcome = replay(printed(changed, ascii=True))
    assert outcome.codes == {"record.template_digest": 1, "record.malformed": 8}
    assert [device.name for device in outcome.devices.values()] == [b"root"]
    assert outcome.devices["254:0"].active is not None


@pytest.mark.parametrize("zeros", [1, 3, 100])
@pytest.mark.parametrize("what", [b"table_clear", b"device_resume", b"device_remove", b"device_rename"])
def test_zeros_that_early_kernels_left(what: bytes, zeros: int) -> None:
    """5.15: NULs of the buffer between the two parts of a ``no_data`` record."""
    names = b"new_name=b,new_uuid=;" if what == b"device_rename" else b""
    names += b"remove_all=n;" if what == b"device_remove" else b""
    old = b"" if what == b"device_rename" else b"name=a,uuid=;"
    text = b"dm_version=4.45.0;%s%s=no_data;%s%scurrent_device_capacity=8;" % (old, what, bytes(zeros), names)
    kernel = Kernel("legacy", version=b"dm_version=4.45.0;")
    kernel.create(b"a", (linear(0),))
    outcome = replay_items([*kernel.items, buffer("dm_" + what.decode(), text)])
    assert [code for code, _, _ in outcome.alarms] in ([], ["state.impossible"])
    assert "record.malformed" not in outcome.codes
    assert outcome.steps[-1].device is not None
