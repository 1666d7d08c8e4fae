"""A PCR and a list that cannot be read at one instant: the honest are never accused, forgers always are.

The race is simulated: `Kernel` appends a record, later extends the PCRs with it, and only then
appends the next; `Daemon` reads list and PCRs in pieces whenever it is let, with the real `ListReader`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmimad.core.pcr import ATTEMPTS, STALLED_ATTEMPTS, PcrCheck, PcrMismatch
from dmimad.core.reader import ListReader
from tests.core import lists

BANKS = ("sha1", "sha256")
A, B, C, D = (bytes([letter]) * 32 for letter in b"ABCD")
ZEROS = bytes(32)


def attempt(
    check: PcrCheck,
    actual: bytes,
    replayed: bytes | None,
    position: int,
    *,
    before: bytes | None = None,
    found: int | None = None,
    later: int | None = None,
) -> dict[str, bytes]:
    """A whole attempt in one bank."""
    watch = check.read({"sha256": actual}, {"sha256": replayed}, position, before={"sha256": before})
    check.settle({"sha256": found}, position if later is None else later)
    return watch


def failing(check: PcrCheck, times: int, position: int = 7) -> None:
    for _ in range(times):
        attempt(check, B, A, position)


# -- one attempt ---------------------------------------------------------------------------


def test_nothing_is_known_before_the_first_attempt() -> None:
    check = PcrCheck()
    assert (check.verified, check.mismatch, check.retry, check.unused) == (None, None, False, False)


def test_an_equal_value_verifies_at_once_and_nothing_is_watched_for() -> None:
    check = PcrCheck()
    assert check.read({"sha256": A}, {"sha256": A}, 7) == {}
    assert check.verified is True
    assert not check.retry


def test_a_value_of_a_later_record_verifies_when_it_is_found() -> None:
    check = PcrCheck()
    assert check.read({"sha256": B}, {"sha256": A}, 7) == {"sha256": B}
    assert check.verified is None
    assert not check.retry, "the attempt goes on"
    check.settle({"sha256": 9}, 12)
    assert check.verified is True
    failing(check, ATTEMPTS)
    assert check.mismatch is not None
    assert check.mismatch.agreed == 10, "after the record with index 9"


def test_a_value_of_the_very_first_record_counts_as_found() -> None:
    check = PcrCheck()
    check.read({"sha256": B}, {"sha256": ZEROS}, 0)
    check.settle({"sha256": 0}, 3)
    assert check.verified is True


def test_a_value_not_found_asks_for_another_attempt_and_accuses_nobody() -> None:
    check = PcrCheck()
    failing(check, ATTEMPTS - 1)
    assert check.verified is None
    assert check.mismatch is None
    assert check.retry


def test_enough_failures_in_a_row_are_a_mismatch() -> None:
    check = PcrCheck()
    attempt(check, A, A, 5)
    failing(check, ATTEMPTS - 1)
    assert check.verified is True, "seen to agree, and not refuted yet"
    attempt(check, C, A, 8)
    assert check.verified is False
    assert check.mismatch == PcrMismatch("sha256", expected=A, actual=C, position=8, agreed=5)
    assert not check.retry, "it is decided"


def test_the_first_evidence_is_kept_while_the_mismatch_lasts() -> None:
    check = PcrCheck()
    failing(check, ATTEMPTS)
    first = check.mismatch
    attempt(check, D, C, 20)
    assert check.mismatch is first
    assert first == PcrMismatch("sha256", A, B, 7, None)


def test_a_later_agreement_takes_the_mismatch_back_and_the_count_begins_anew() -> None:
    check = PcrCheck()
    failing(check, ATTEMPTS)
    attempt(check, A, A, 9)
    assert check.verified is True
    assert check.mismatch is None
    failing(check, ATTEMPTS - 1)
    assert check.mismatch is None
    assert check.retry


def test_a_value_found_later_takes_the_mismatch_back_too() -> None:
    check = PcrCheck()
    failing(check, ATTEMPTS)
    attempt(check, C, B, 9, found=9)
    assert check.verified is True


def test_an_agreement_in_between_breaks_the_row() -> None:
    check = PcrCheck()
    for _ in range(5):
        failing(check, ATTEMPTS - 1)
        attempt(check, A, A, 9)
    assert check.verified is True
    assert not check.retry


def test_an_attempt_never_settled_does_not_count() -> None:
    check = PcrCheck()
    for _ in range(10):
        check.read({"sha256": B}, {"sha256": A}, 7)
    failing(check, ATTEMPTS - 1)
    assert check.mismatch is None


def test_settling_twice_counts_once() -> None:
    check = PcrCheck()
    check.read({"sha256": B}, {"sha256": A}, 7)
    for _ in range(10):
        check.settle({"sha256": None}, 9)
    assert check.mismatch is None
    assert check.retry


def test_a_list_that_began_anew_meanwhile_does_not_count() -> None:
    check = PcrCheck()
    for _ in range(10):
        attempt(check, B, A, 7, later=6)
    assert (check.verified, check.mismatch, check.retry) == (None, None, False)


def test_a_list_that_stands_still_does_count() -> None:
    check = PcrCheck()
    for _ in range(ATTEMPTS):
        attempt(check, B, A, 7, later=7)
    assert check.verified is False


# -- the record that is on its way to the TPM ----------------------------------------------


def test_the_value_before_the_last_record_verifies_up_to_there_and_asks_again() -> None:
    check = PcrCheck()
    assert attempt(check, A, B, 7, before=A) == {}
    assert check.verified is True
    assert check.retry
    failing(check, ATTEMPTS)
    assert check.mismatch is not None
    assert check.mismatch.agreed == 6


def test_a_list_always_one_ahead_of_the_pcr_is_honest_while_it_grows() -> None:
    check = PcrCheck()
    for position in range(1, 1000):
        attempt(check, A, B, position, before=A)
        assert check.verified is True


def test_a_last_record_that_never_reaches_the_tpm_is_a_mismatch() -> None:
    check = PcrCheck()
    for number in range(STALLED_ATTEMPTS):
        assert check.mismatch is None, f"after {number} attempts"
        attempt(check, A, B, 7, before=A)
    assert check.mismatch == PcrMismatch("sha256", expected=B, actual=A, position=7, agreed=6)
    assert not check.retry


def test_a_slow_extend_is_forgiven_when_it_arrives() -> None:
    check = PcrCheck()
    for _ in range(STALLED_ATTEMPTS - 1):
        attempt(check, A, B, 7, before=A)
    attempt(check, B, B, 7, before=A)
    assert check.verified is True
    assert not check.retry
    attempt(check, A, B, 7, before=A)
    assert check.mismatch is None


def test_a_stalled_record_does_not_pardon_failures() -> None:
    """Whoever can set the PCR back and forth gains nothing by it."""
    check = PcrCheck()
    for _ in range(ATTEMPTS):
        attempt(check, A, B, 7, before=A)
        assert check.mismatch is None
        assert check.retry
        attempt(check, C, B, 7)
    assert check.mismatch == PcrMismatch("sha256", expected=B, actual=C, position=7, agreed=6)
    assert not check.retry


def test_the_value_before_the_last_record_takes_a_mismatch_back_when_the_list_has_grown() -> None:
    check = PcrCheck()
    failing(check, ATTEMPTS)
    attempt(check, B, C, 8, before=B)
    assert check.verified is True


def test_a_stalled_mismatch_stays_until_the_list_or_the_pcr_moves() -> None:
    check = PcrCheck()
    for _ in range(STALLED_ATTEMPTS + 5):
        attempt(check, A, B, 7, before=A)
    assert check.verified is False
    attempt(check, B, C, 8, before=B)
    assert check.verified is True


# -- several banks, and none ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "replayed"),
    [
        pytest.param({}, {"sha256": A}, id="no TPM"),
        pytest.param({"sha256": A}, {"sha256": None}, id="the bank is lost"),
        pytest.param({"sha384": A}, {"sha256": A}, id="another bank"),
    ],
)
def test_nothing_to_compare_is_neither_verified_nor_a_mismatch(
    values: Mapping[str, bytes], replayed: Mapping[str, bytes | None]
) -> None:
    check = PcrCheck()
    for position in range(20):
        assert check.read(values, replayed, position) == {}
        check.settle({}, position)
        assert (check.verified, check.mismatch, check.retry) == (None, None, False)


def test_a_bank_that_is_lost_later_is_not_verified_any_more() -> None:
    check = PcrCheck()
    attempt(check, A, A, 7)
    attempt(check, B, None, 8)
    assert check.verified is None


def test_a_mismatch_is_not_forgotten_because_the_tpm_has_gone() -> None:
    check = PcrCheck()
    failing(check, ATTEMPTS)
    check.read({}, {"sha256": A}, 8)
    check.settle({}, 8)
    assert check.verified is False


def test_banks_are_judged_each_for_itself() -> None:
    check = PcrCheck()
    for position in range(7, 7 + ATTEMPTS):
        assert check.read({"sha1": A, "sha256": C}, {"sha1": A, "sha256": B}, position) == {"sha256": C}
        assert check.verified is None, "one of two banks is not known yet"
        check.settle({"sha256": None}, position)
    assert check.mismatch == PcrMismatch("sha256", B, C, 9, None)
    assert check.verified is False
    check.read({"sha1": A, "sha256": B}, {"sha1": A, "sha256": B}, 12)
    assert check.verified is True


def test_one_bank_still_watched_for_means_no_retry_yet() -> None:
    check = PcrCheck()
    replayed = {"sha1": A, "sha256": B}
    check.read({"sha1": ZEROS[:20], "sha256": C}, replayed, 7, before={"sha1": ZEROS[:20]})
    assert not check.retry
    check.settle({}, 7)
    assert check.retry


# -- a TPM that IMA does not use -----------------------------------------------------------


def test_a_pcr_never_extended_is_no_mismatch() -> None:
    check = PcrCheck()
    for position in range(1, 20):
        assert attempt(check, ZEROS, A, position, before=ZEROS) == {}
        assert (check.verified, check.mismatch, check.retry) == (None, None, False)
        assert check.unused
    check.read({}, {}, 20)
    assert not check.unused


def test_a_pcr_of_zeros_where_a_tpm_was_in_use_is_a_mismatch() -> None:
    check = PcrCheck(may_be_unused=False)
    for position in range(7, 7 + ATTEMPTS):
        attempt(check, ZEROS, A, position)
    assert check.verified is False
    assert not check.unused


def test_a_pcr_reset_after_it_agreed_is_a_mismatch() -> None:
    check = PcrCheck()
    attempt(check, A, A, 7)
    for _ in range(ATTEMPTS):
        attempt(check, ZEROS, A, 7)
    assert check.mismatch == PcrMismatch("sha256", A, ZEROS, 7, 7)


def test_a_pcr_reset_after_a_mismatch_changes_nothing() -> None:
    check = PcrCheck()
    failing(check, ATTEMPTS)
    attempt(check, ZEROS, A, 8)
    assert check.verified is False


def test_an_empty_list_and_an_empty_pcr_agree() -> None:
    check = PcrCheck()
    attempt(check, ZEROS, ZEROS, 0)
    assert check.verified is True
    assert not check.unused


# -- the race, simulated -------------------------------------------------------------------


def record(number: int) -> lists.Item:
    if number == 0:
        return lists.boot_aggregate(b"aggregate")
    return lists.violation() if number % 17 == 16 else lists.file(b"/usr/bin/%d" % number)


def extended(bank: str, value: bytes, item: lists.Item) -> bytes:
    size = hashlib.new(bank).digest_size
    digest = b"\xff" * size if item.violation else item.template_digest(bank)
    return hashlib.new(bank, value + digest).digest()


@dataclass
class Kernel:
    """The list, the PCRs, and at most one record between them.  ``steps`` alternate: append, extend."""

    alter: Callable[[lists.Item], lists.Item | None] = lambda item: item  # what root makes of a record shown
    shown: list[lists.Item] = field(default_factory=list)
    pcrs: dict[str, bytes] = field(
        default_factory=lambda: {bank: bytes(hashlib.new(bank).digest_size) for bank in BANKS}
    )
    appended: int = 0
    on_its_way: lists.Item | None = None

    def step(self) -> None:
        if self.on_its_way is None:
            self.on_its_way = record(self.appended)
            self.appended += 1
            shown = self.alter(self.on_its_way)
            if shown is not None:
                self.shown.append(shown)
        else:
            self.pcrs = {bank: extended(bank, old, self.on_its_way) for bank, old in self.pcrs.items()}
            self.on_its_way = None

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def finish(self) -> None:
        """A quiet moment."""
        if self.on_its_way is not None:
            self.step()


class Daemon:
    """Reads list and PCRs as `dmimad.core.pcr` says; between two acts the kernel goes ``pause()`` steps."""

    def __init__(self, kernel: Kernel, pause: Callable[[], int]) -> None:
        self.kernel, self.pause = kernel, pause
        self.reader, self.check = ListReader(banks=BANKS), PcrCheck()
        self.before: dict[str, bytes | None] = {}

    def replay(self, most: int | None = None) -> None:
        """Read the list up to its present end, or so many records."""
        wanted = self.kernel.shown[self.reader.records :][:most]
        for item in wanted:
            self.before = {bank: self.reader.pcr(bank) for bank in BANKS}
            self.reader.feed(lists.binary_list([item]))

    def attempt(self) -> None:
        values = {}
        for bank in BANKS:
            self.kernel.run(self.pause())
            values[bank] = self.kernel.pcrs[bank]
        replayed = {bank: self.reader.pcr(bank) for bank in BANKS}
        self.reader.watch(self.check.read(values, replayed, self.reader.records, before=self.before))
        self.kernel.run(self.pause())
        self.replay()
        self.check.settle(self.reader.matches, self.reader.records)

    def work(self, attempts: int) -> None:
        """Attempts with lists that lag behind by any number of records."""
        for _ in range(attempts):
            self.kernel.run(self.pause())
            self.replay(self.pause() or None)
            self.attempt()


class Pauses:
    """Steps of the kernel between two acts of the daemon, by mood: busy, quiet, or now this and now that.

    Quiet does not last longer than `STALLED_ATTEMPTS` take, or an extend would.
    """

    def __init__(self, choices: random.Random, most: int) -> None:
        self.choices, self.most, self.standing_still = choices, most, 0

    def __call__(self) -> int:
        steps = self.choices.randint(0, self.most) if self.choices.random() < 0.5 else 0
        self.standing_still = 0 if steps else self.standing_still + 1
        return 1 if self.standing_still > 3 * STALLED_ATTEMPTS else steps


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 2, 5, 30]))
def test_an_honest_host_is_never_accused_however_busy_it_is(seed: int, most: int) -> None:
    choices = random.Random(seed)
    kernel = Kernel()
    daemon = Daemon(kernel, Pauses(choices, most))
    kernel.run(choices.randint(1, 50))
    for _ in range(40):
        daemon.work(1)
        assert daemon.check.mismatch is None, f"after {kernel.appended} records"
    kernel.finish()
    daemon.pause = lambda: 0
    daemon.replay()
    daemon.attempt()
    assert daemon.check.verified is True
    assert not daemon.check.retry


@pytest.mark.parametrize("lag", [0, 1, 2, 3])
def test_the_worst_moments_again_and_again(lag: int) -> None:
    """The PCR is always read between the append and the extend of the list's last record."""
    kernel = Kernel()
    kernel.run(101)
    daemon = Daemon(kernel, lambda: 0)
    for _ in range(50):
        daemon.replay()
        kernel.run(2 * lag)
        daemon.attempt()
        assert daemon.check.verified is True
        kernel.run(2)


def test_values_of_two_banks_read_at_two_times_both_agree() -> None:
    kernel = Kernel()
    kernel.run(20)
    pauses = iter([0, 7, 3])
    daemon = Daemon(kernel, lambda: next(pauses))
    daemon.replay()
    daemon.attempt()
    assert daemon.check.verified is True


def removed(number: int) -> Callable[[lists.Item], lists.Item | None]:
    return lambda item: None if item == record(number) else item


def altered(number: int) -> Callable[[lists.Item], lists.Item | None]:
    return lambda item: lists.file(b"/usr/bin/harmless") if item == record(number) else item


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 9), st.sampled_from([removed, altered]), st.sampled_from([0, 1, 5])
)
def test_a_forged_list_is_always_found_out(
    seed: int, number: int, forge: Callable[[int], Callable[[lists.Item], lists.Item | None]], most: int
) -> None:
    kernel = Kernel(forge(number))
    kernel.run(50)
    daemon = Daemon(kernel, Pauses(random.Random(seed), most) if most else lambda: 0)
    daemon.work(ATTEMPTS)
    assert daemon.check.verified is False
    assert daemon.check.mismatch is not None
    assert daemon.check.mismatch.bank == "sha1"
    daemon.work(20)
    assert daemon.check.verified is False, "it does not pass"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 5]))
def test_a_pcr_extended_by_somebody_else_is_always_found_out(seed: int, most: int) -> None:
    kernel = Kernel()
    kernel.run(30)
    daemon = Daemon(kernel, Pauses(random.Random(seed), most))
    daemon.work(5)
    assert daemon.check.mismatch is None
    kernel.pcrs["sha256"] = extended("sha256", kernel.pcrs["sha256"], lists.file(b"/by/hand"))
    daemon.work(ATTEMPTS)
    mismatch = daemon.check.mismatch
    assert mismatch is not None
    assert mismatch.bank == "sha256"
    assert mismatch.agreed is not None
    assert mismatch.agreed <= mismatch.position


def test_the_last_record_removed_is_found_out_on_a_quiet_host() -> None:
    kernel = Kernel(removed(9))
    kernel.run(20)
    daemon = Daemon(kernel, lambda: 0)
    daemon.work(ATTEMPTS)
    assert daemon.check.verified is False


def test_a_record_added_to_the_list_alone_is_found_out_after_a_while() -> None:
    kernel = Kernel()
    kernel.run(20)
    kernel.shown.append(lists.file(b"/added"))
    daemon = Daemon(kernel, lambda: 0)
    daemon.replay()
    for _ in range(STALLED_ATTEMPTS):
        assert daemon.check.mismatch is None
        daemon.attempt()
    assert daemon.check.verified is False


def test_a_mistake_of_the_replay_is_forgiven_once_the_right_list_is_replayed() -> None:
    kernel = Kernel()
    kernel.run(20)
    right, kernel.shown[4] = kernel.shown[4], replace(kernel.shown[4], fields=(b"", b"wrong\0"))
    daemon = Daemon(kernel, lambda: 0)
    daemon.work(ATTEMPTS)
    assert daemon.check.verified is False
    kernel.shown[4], daemon.reader = right, ListReader(banks=BANKS)
    daemon.replay()
    daemon.attempt()
    assert daemon.check.verified is True
