"""The monitor and a list that is not what it was: trimmed, lost in part, or not what the TPM says.

The lists are the model kernel's, and so is the TPM's PCR, unless a test says that it is wrong.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from dmimad.core.errors import ListGapError, ResumeError
from dmimad.core.monitor import Monitor
from tests.core.kernel import Kernel, linear
from tests.core.lists import Item, binary_list, binary_record, file, replayed, violation
from tests.core.monitored import BAD, GOOD, OTHER, Host, Told, approved

TRIMMED: Told = [("list.trimmed", "firing", "h")]
GAP: Told = [("list.gap", "firing", "h")]


def host_with(devices: int = 2, **options: Any) -> Host:
    """A host whose list has been read: two records of the boot, two of each device."""
    host = Host(**options)
    for number in range(devices):
        host.kernel.create(b"d%d" % number, (linear(8 * number),))
    host.look(10.0)
    return host


def ids(host: Host) -> list[str]:
    """The ids of all messages so far."""
    return [json.loads(message.payload)["id"] for message in host.disk.messages]


def reborn(host: Host) -> int:
    """A new process on the same disk; returns where it wants to read."""
    host.monitor = Monitor(host.policy, host.baseline, host.boot)
    return host.monitor.resume(host.disk.load())


# -- the TPM -------------------------------------------------------------------------------


def test_a_pcr_that_agrees() -> None:
    host = host_with()
    assert host.monitor.pcr_verified is None
    assert host.compare() == (False, [])
    assert host.monitor.pcr_verified is True
    host.kernel.load(b"d0", BAD)
    assert host.compare(banks=("sha1", "sha256")) == (False, [])
    assert host.monitor.pcr_verified is True


def test_a_pcr_that_is_ahead_of_what_has_been_read() -> None:
    host = host_with()
    host.kernel.load(b"d0", BAD)
    host.kernel.resume(b"d0")
    ahead = {"sha256": replayed(host.kernel.items, "sha256")}
    host.kernel.load(b"d0", GOOD)
    host.monitor.pcr_read(ahead, 20.0)
    host.look(20.0)
    assert host.monitor.pcr_settled(20.0, tpm=True) is False
    assert host.monitor.pcr_verified is True


def test_banks_that_are_not_replayed_are_not_compared() -> None:
    """Most TPMs have a bank for SHA-384."""
    host = host_with()
    assert host.compare(banks=("sha256", "sha384")) == (False, [])
    assert host.monitor.pcr_verified is True
    host = host_with()
    assert host.compare(banks=("sha384",)) == (False, [])
    assert host.monitor.pcr_verified is None


def test_a_pcr_that_is_wrong_is_told_once_and_until_it_is_right() -> None:
    host = host_with(hold_off=60.0)
    host.compare(11.0)
    assert host.convict(20.0) == [("pcr.mismatch", "firing", "h")]
    right = replayed(host.kernel.items, "sha256")
    data = host.last()
    assert (data["severity"], data["expected"], data["actual"]) == (
        "critical",
        right.hex(),
        (bytes([right[0] ^ 1]) + right[1:]).hex(),
    )
    assert (data["evidence"]["bank"], data["evidence"]["record"]) == ("sha256", 5)
    assert "sha256" in data["message"]
    assert "they agreed up to record 5" in data["message"]
    assert host.monitor.pcr_verified is False
    host.kernel.load(b"d0", BAD)
    assert host.compare(30.0, wrong=True) == (False, [])
    assert host.monitor.findings == {("pcr.mismatch", "critical"): 1}
    assert host.compare(40.0) == (False, [("pcr.mismatch", "resolved", "h")])
    assert host.last()["duration_seconds"] == 20.0
    assert host.monitor.pcr_verified is True


def test_a_pcr_that_never_agreed() -> None:
    host = host_with()
    host.convict(20.0)
    assert "they agreed never" in host.last()["message"]


def test_a_mismatch_is_not_taken_back_by_a_restart() -> None:
    host = host_with()
    host.convict(20.0)
    fired = ids(host)
    host.restart()
    # One failed attempt proves nothing, and takes nothing back.
    assert host.compare(30.0, wrong=True) == (True, [])
    assert host.monitor.pcr_verified is None
    assert host.monitor.firing()["critical"] == 1
    assert host.compare(30.0, wrong=True) == (True, [])
    assert host.compare(31.0, wrong=True) == (False, [])
    assert (ids(host), host.monitor.findings) == (fired, {})
    host.restart()
    assert host.compare(40.0) == (False, [("pcr.mismatch", "resolved", "h")])


def test_the_id_of_a_mismatch_is_the_same_after_death() -> None:
    host, other = host_with(), host_with()
    host.convict(20.0)
    for _ in range(2):
        other.compare(20.0, wrong=True)
    other.look(20.0)
    other.monitor.pcr_read({"sha256": bytes([1]) * 32}, 20.0)
    other.monitor.pcr_settled(20.0, tpm=True)
    assert len(other.monitor.commit().messages) == 1
    other.restart()
    other.convict(30.0)
    assert ids(other) == ids(host)


def test_without_a_tpm_nothing_is_known_and_nothing_told() -> None:
    host = host_with()
    for now in range(20, 30):
        assert host.compare(float(now), tpm=False) == (False, [])
    assert host.monitor.pcr_verified is None
    assert host.monitor.findings == {}


# -- a list that was trimmed ---------------------------------------------------------------


def test_a_trimmed_list_is_gone_on_with() -> None:
    host = Host(approved(a=(GOOD,)))
    host.kernel.create(b"a", GOOD)
    assert host.look(10.0) == []
    host.compare(11.0)
    shown = host.monitor.retained()
    host.trim(2)
    assert host.monitor.searching
    assert host.search(20.0) == TRIMMED
    assert not host.monitor.searching
    data = host.last()
    assert (data["severity"], data["evidence"]["records"]) == ("critical", "2")
    assert (data["expected"], data["actual"]) == (
        "a list that begins with record 0",
        "a list that begins with record 2",
    )
    assert (host.monitor.position, host.monitor.retained(), host.monitor.trimmed) == (4, shown, 2)
    assert (host.monitor.records, host.monitor.dm_records) == (4, 2)
    host.kernel.load(b"a", BAD)
    assert host.look(30.0) == [("drift.inactive", "firing", "a")]
    assert host.last()["evidence"]["record"] == 4
    assert host.compare(31.0) == (False, [])
    assert host.monitor.pcr_verified is True
    assert host.monitor.findings["list.trimmed", "critical"] == 1


def test_a_list_that_was_only_opened_anew_is_no_news() -> None:
    host = host_with()
    host.trim(0)
    assert host.search(20.0) == []
    assert (host.monitor.trimmed, host.monitor.position) == (0, 6)
    assert host.monitor.findings == {}


def test_a_list_that_was_trimmed_twice() -> None:
    host = host_with()
    host.trim(3)
    assert host.search(20.0) == TRIMMED
    host.restart()
    assert host.look(21.0) == []
    assert host.monitor.trimmed == 3
    host.kernel.load(b"d0", BAD)
    host.look(22.0)
    host.trim(5)
    assert host.search(30.0) == TRIMMED
    assert host.last()["evidence"]["records"] == "2"
    assert "2 records were deleted" in host.last()["message"]
    assert (host.monitor.trimmed, host.monitor.position) == (5, 7)
    host.kernel.load(b"d0", OTHER)
    host.look(31.0)
    assert host.compare(32.0) == (False, [])
    assert host.monitor.pcr_verified is True
    assert len(set(ids(host))) == 2


def test_new_records_behind_the_place() -> None:
    host = Host(approved(a=(GOOD,)))
    host.kernel.create(b"a", GOOD)
    host.look(10.0)
    host.trim(3)
    host.kernel.load(b"a", BAD)
    host.kernel.resume(b"a")
    found = host.search(20.0)
    assert found[:1] == TRIMMED
    assert found[-1] == ("drift.active", "firing", "a")
    assert host.monitor.position == 6


@pytest.mark.parametrize("end", [False, True], ids=["in the middle", "at the end"])
def test_a_place_that_is_certain_only_at_the_end_of_the_list(end: bool) -> None:
    """Where a kexec brought records along, the last match counts."""
    host = host_with()
    host.kernel.kexec(b"another")
    host.kernel.create(b"e", BAD)
    host.look(11.0)
    if not end:
        host.kernel.load(b"e", GOOD)
    host.trim(4)
    assert host.search(20.0) == TRIMMED
    assert host.monitor.position == len(host.kernel.items)
    assert host.compare(21.0) == (False, [])
    assert host.monitor.pcr_verified is True


def test_violations_at_the_end_are_counted() -> None:
    host = host_with()
    host.kernel.items += [violation(), violation()]
    host.look(11.0)
    host.trim(3)
    assert host.search(20.0) == TRIMMED
    assert (host.monitor.trimmed, host.monitor.position) == (3, 8)


def test_trimming_that_is_planned_is_information() -> None:
    host = host_with()
    host.monitor.set_policy(replace(host.policy, trim_expected=True), 5.0)
    host.trim(5)
    assert host.search(20.0) == TRIMMED
    assert host.last()["severity"] == "info"
    assert host.monitor.findings == {("list.trimmed", "info"): 1}


@pytest.mark.parametrize("when", ["while it searches", "before the commit", "after the commit"])
def test_killed_around_the_place(when: str) -> None:
    expected = host_with()
    expected.trim(3)
    expected.search(20.0)
    host = host_with()
    host.trim(3)
    if when == "while it searches":
        host.monitor.feed(binary_record(host.kernel.items[3])[:50], 20.0)
        host.commit()
    elif when == "before the commit":
        host.read = 3
        host.feed(20.0)
        assert len(host.monitor.commit().messages) == 1
    else:
        host.search(20.0)
    at = reborn(host)
    shown = binary_list(host.kernel.items[3:])
    if when == "after the commit":
        host.monitor.feed(shown[at:], 21.0)
        host.monitor.caught_up(21.0)
    else:
        assert at > len(shown)
        with pytest.raises(ResumeError, match=r"^the list ends before the checkpoint$"):
            host.monitor.caught_up(21.0)
        host.trim(3)
        assert host.search(21.0) == TRIMMED
    host.commit()
    assert ids(host) == ids(expected)
    assert (host.monitor.trimmed, host.monitor.position) == (3, 6)


# -- records that may be lost --------------------------------------------------------------


def test_a_list_that_begins_with_a_boot_is_another_one() -> None:
    host = host_with()
    other = Kernel("legacy")
    other.create(b"z", GOOD)
    host.monitor.find_place()
    host.monitor.feed(binary_list(other.items), 20.0)
    with pytest.raises(ResumeError, match=r"^the list is another one$"):
        host.monitor.caught_up(20.0)
    assert host.monitor.searching
    host.monitor.start_over("boot", 20.0, "the list is another one")
    host.monitor.feed(binary_list(other.items), 20.0)
    host.monitor.caught_up(20.0)
    assert host.commit() == [("list.restarted", "firing", "h")]
    assert (host.monitor.position, host.monitor.trimmed) == (4, 0)


@pytest.mark.parametrize(
    "first",
    [violation(), file(b"/bin/sh"), file(b"/bin/sh", template=b"ima")],
    ids=lambda item: item.template,
)
def test_a_list_that_does_not_begin_with_a_boot_has_a_gap(first: Item) -> None:
    host = host_with()
    host.monitor.find_place()
    host.monitor.feed(binary_record(first), 20.0)
    with pytest.raises(ListGapError, match=r"^the last record read is not in the list any more$"):
        host.monitor.caught_up(20.0)


@pytest.mark.parametrize("verified", [False, True], ids=["first comparison", "agreed before"])
@pytest.mark.parametrize("new", [0, 2], ids=["empty", "new records"])
def test_a_gap_that_the_pcr_closes(verified: bool, new: int) -> None:
    """Everything that was read is gone, and nothing else."""
    host = host_with(hold_off=60.0)
    if verified:
        host.compare(11.0)
    for start in range(new):
        host.kernel.load(b"d0", (linear(800 + start),))
    host.lose(6)
    assert host.monitor.gap
    assert host.look(20.0) == []
    assert (host.monitor.position, host.monitor.trimmed) == (6 + new, 6)
    assert host.compare(21.0) == (False, TRIMMED)
    assert host.last()["evidence"]["records"] == "6"
    assert not host.monitor.gap
    assert host.monitor.pcr_verified is True
    assert host.compare(22.0) == (False, [])
    host.kernel.load(b"d0", (linear(900),))
    host.look(23.0)
    host.trim(6 + new)
    assert host.search(24.0) == (TRIMMED if new else [])
    assert host.last()["evidence"]["records"] == str(new or 6)
    assert ("list.gap", "critical") not in host.monitor.findings


@pytest.mark.parametrize("verified", [False, True], ids=["first comparison", "agreed before"])
def test_records_that_were_lost(verified: bool) -> None:
    host = host_with(hold_off=60.0)
    if verified:
        host.compare(11.0)
    host.kernel.load(b"d0", BAD)
    host.kernel.resume(b"d0")
    host.lose(7)
    assert host.look(20.0) == []
    assert host.compare(21.0) == (True, [])
    assert host.compare(22.0) == (True, [])
    assert host.monitor.gap
    retry, found = host.compare(23.0)
    assert (retry, sorted(found)) == (False, [*GAP, ("pcr.mismatch", "firing", "h")])
    assert host.monitor.firing() == {"info": 0, "warning": 0, "critical": 2}
    gap = next(
        data
        for data in (json.loads(message.payload)["data"] for message in host.disk.messages)
        if data["code"] == "list.gap"
    )
    assert (gap["severity"], gap["evidence"]["record"]) == ("critical", 6)
    assert "the PCR shows that some were" in gap["message"]
    assert host.monitor.findings["list.gap", "critical"] == 1
    assert host.compare(24.0) == (False, [])
    assert host.monitor.findings["list.gap", "critical"] == 1
    host.restart()
    for _ in range(4):
        assert host.compare(30.0)[1] == []
    assert host.monitor.gap


def test_a_gap_that_nobody_can_settle() -> None:
    host = host_with(hold_off=60.0)
    host.lose(6)
    assert host.look(20.0) == []
    assert host.compare(21.0, tpm=False) == (False, GAP)
    assert "without a TPM nobody can tell" in host.last()["message"]
    assert host.compare(22.0, tpm=False) == (False, [])
    assert host.monitor.gap
    # A TPM that works again.
    assert host.compare(30.0) == (False, [("list.gap", "resolved", "h"), *TRIMMED])
    assert not host.monitor.gap


def test_a_gap_and_a_tpm_that_ima_does_not_use() -> None:
    host = host_with()
    host.lose(6)
    host.look(20.0)
    host.monitor.pcr_read({"sha256": bytes(32)}, 21.0)
    assert host.monitor.pcr_settled(21.0, tpm=True) is False
    assert host.commit() == GAP


def test_a_pcr_of_zeros_that_has_agreed_was_reset() -> None:
    """By nobody who is honest: it is not taken for one that is not used."""
    host = host_with()
    host.compare(11.0)
    host.lose(6)
    host.look(20.0)
    found = []
    for _ in range(3):
        host.monitor.pcr_read({"sha256": bytes(32)}, 21.0)
        host.monitor.pcr_settled(21.0, tpm=True)
        found += host.commit()
    assert sorted(found) == [*GAP, ("pcr.mismatch", "firing", "h")]


def test_a_pcr_that_was_read_before_the_gap_says_nothing_of_it() -> None:
    host = host_with()
    host.compare(11.0)
    host.monitor.pcr_read({"sha256": replayed(host.kernel.items, "sha256")}, 20.0)
    host.kernel.load(b"d0", BAD)
    host.kernel.resume(b"d0")
    host.lose(7)
    host.look(20.0)
    assert host.monitor.pcr_settled(20.0, tpm=True) is False
    assert host.commit() == []
    assert host.monitor.gap


def test_two_gaps_are_one_until_it_is_settled() -> None:
    host = host_with()
    host.trim(2)
    assert host.search(15.0) == TRIMMED
    host.lose(6)
    host.kernel.load(b"d0", BAD)
    host.look(20.0)
    host.lose(7)
    host.look(21.0)
    assert host.compare(22.0) == (False, TRIMMED)
    assert host.last()["evidence"]["records"] == "5"
    assert host.last()["expected"] == "a list that begins with record 2"
    assert (host.monitor.trimmed, host.monitor.position) == (7, 7)


def test_a_gap_behind_which_there_is_nothing_new_is_no_news() -> None:
    """An empty list is read again, where everything was gone already."""
    host = host_with()
    host.lose(6)
    assert host.compare(20.0) == (False, TRIMMED)
    host.lose(6)
    assert host.compare(21.0) == (False, [])
    assert (host.monitor.gap, host.monitor.trimmed) == (False, 6)


def test_after_a_gap_that_stays_trimming_is_counted_from_there() -> None:
    host = host_with()
    host.lose(6)
    host.kernel.load(b"d0", BAD)
    host.kernel.resume(b"d0")
    host.look(20.0)
    host.compare(21.0, tpm=False)
    host.trim(7)
    assert host.search(30.0) == TRIMMED
    assert host.last()["evidence"]["records"] == "1"


#: What the PCR says of the gap in the end -> what is told of it.
OUTCOMES: dict[str, Told] = {"lost": GAP, "closed": TRIMMED, "unknown": GAP}


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("records", [0, 1], ids=["empty", "one record"])
@pytest.mark.parametrize("state", ["not read", "read", "told"])
def test_killed_with_a_gap(records: int, state: str, outcome: str) -> None:
    """Whether it is settled one way or the other is seen by the next process."""
    host, expected = host_with(), OUTCOMES[outcome]
    host.compare(11.0)
    for start in range(outcome == "lost"):
        host.kernel.load(b"d1", (linear(700 + start),))
    lost = len(host.kernel.items)
    for start in range(records):
        host.kernel.load(b"d0", (linear(800 + start),))
    host.lose(lost)
    found = [] if state == "not read" else host.look(20.0)
    host.commit()
    if state == "told":
        found += host.compare(20.0, tpm=False)[1]
        expected = expected if outcome != "closed" else [*GAP, ("list.gap", "resolved", "h"), *TRIMMED]
    assert reborn(host) == 0
    assert host.monitor.gap
    assert host.monitor.position == 6 + (records if state != "not read" else 0)
    host.read = host.gone
    for now in (21.0, 22.0, 23.0):
        found += host.compare(now, tpm=outcome != "unknown")[1]
    assert [told for told in found if told[0] != "pcr.mismatch"] == expected
    assert len(ids(host)) == len(set(ids(host)))
    assert (host.monitor.gap, host.monitor.position) == (outcome != "closed", 6 + records)


@pytest.mark.parametrize("stored", [1, [], [1], ["a", 2], [1, None], {}])
def test_a_stored_gap_that_is_damaged(stored: object) -> None:
    host = host_with()
    assert host.disk.checkpoint is not None
    whole = json.loads(host.disk.checkpoint)
    host.disk.checkpoint = json.dumps({**whole, "gap": stored})
    with pytest.raises(ResumeError, match=r"^a stored (number|list) is missing$"):
        reborn(host)


def test_state_of_before_there_were_gaps() -> None:
    host = host_with()
    assert host.disk.checkpoint is not None
    whole = json.loads(host.disk.checkpoint)
    for name in ("gap", "trimmed", "unwatched_since"):
        del whole[name]
    host.disk.checkpoint = json.dumps(whole)
    reborn(host)
    assert (host.monitor.gap, host.monitor.trimmed, host.monitor.position) == (False, 0, 6)


def test_a_list_that_begins_again_has_no_gap_any_more() -> None:
    host = host_with()
    host.lose(6)
    host.look(20.0)
    host.compare(21.0, tpm=False)
    host.monitor.start_over("boot-2", 30.0)
    host.kernel = Kernel("ordered")
    host.read = host.gone = 0
    assert not host.monitor.gap
    assert host.look(31.0) == [("list.gap", "resolved", "h")]
