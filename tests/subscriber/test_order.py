"""The order of a host's alerts: new, late, counted anew, missing."""

from __future__ import annotations

import datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from dmimad.subscriber.order import MAX_FIRST_SEEN, MAX_GAPS, MAX_REMEMBERED, Order, Rank

GRACE = 5.0
BEGAN = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)


def at(second: int) -> datetime.datetime:
    return BEGAN + datetime.timedelta(seconds=second)


def ordered(*sequences: int, now: float = 0.0) -> Order:
    """What has taken these in, each with its number as its second."""
    order = Order(GRACE)
    for sequence in sequences:
        order.place(sequence, at(sequence), now)
    return order


class TestGaps:
    def test_the_first_number_seen_leaves_nothing_out(self) -> None:
        assert ordered(700).take_missing(1000.0) == []

    def test_a_gap_is_missing_once_the_grace_is_over(self) -> None:
        order = ordered(1, 2, 6)
        assert order.take_missing(GRACE - 0.1) == []
        assert order.take_missing(GRACE) == [(3, 5)]
        assert order.take_missing(1000.0) == []

    def test_what_fills_a_gap_in_time_is_new_and_the_rest_is_missing(self) -> None:
        order = ordered(1, 7)
        assert order.place(4, at(4), 1.0) is Rank.NEW
        assert order.take_missing(GRACE) == [(2, 3), (5, 6)]

    def test_what_comes_after_it_was_told_missing_is_late(self) -> None:
        order = ordered(1, 3)
        assert order.take_missing(GRACE) == [(2, 2)]
        assert order.place(2, at(2), 6.0) is Rank.LATE
        assert order.place(4, at(4), 6.0) is Rank.NEW
        assert order.take_missing(1000.0) == []

    @settings(derandomize=True, deadline=None, database=None)
    @given(st.permutations(list(range(2, 12))))
    def test_any_order_within_the_grace_leaves_nothing_missing(self, sequences: list[int]) -> None:
        order = ordered(1)
        assert all(order.place(sequence, at(1), 0.0) is Rank.NEW for sequence in sequences)
        assert order.take_missing(1000.0) == []

    @settings(derandomize=True, deadline=None, database=None)
    @given(st.sets(st.integers(2, 40), min_size=1), st.randoms())
    def test_missing_is_what_did_not_come_below_the_highest(self, come: set[int], shuffling: object) -> None:
        sequences = sorted(come)
        shuffling.shuffle(sequences)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
        order = ordered(1)
        for sequence in sequences:
            order.place(sequence, at(1), 0.0)
        gaps = order.take_missing(GRACE)
        assert {number for first, last in gaps for number in range(first, last + 1)} == (
            set(range(2, max(come))) - come
        )

    def test_a_new_connection_grants_time(self) -> None:
        order = ordered(1, 3)
        order.grant(60.0)
        assert order.take_missing(59.9) == []
        assert order.take_missing(60.0) == [(2, 2)]

    def test_of_too_many_gaps_the_oldest_is_told_at_once(self) -> None:
        order = ordered(*range(1, 2 * MAX_GAPS + 4, 2))
        assert order.take_missing(0.0) == [(2, 2)]
        assert len(order.take_missing(GRACE)) == MAX_GAPS


class TestCountingAnew:
    def test_a_lower_number_of_a_later_time_is_a_new_count(self) -> None:
        order = ordered(1000)
        assert order.place(1, at(2000), 0.0) is Rank.RESTARTED
        assert order.place(2, at(2001), 0.0) is Rank.NEW
        assert order.take_missing(1000.0) == []

    def test_the_first_of_a_new_count_may_be_missing(self) -> None:
        order = ordered(1000)
        assert order.place(3, at(2000), 0.0) is Rank.RESTARTED
        assert order.place(1, at(1999), 0.0) is Rank.NEW
        assert order.take_missing(GRACE) == [(2, 2)]

    def test_a_state_that_was_put_back_goes_on_somewhere(self) -> None:
        order = ordered(5000)
        assert order.place(MAX_FIRST_SEEN + 1, at(9000), 0.0) is Rank.RESTARTED
        assert order.take_missing(1000.0) == []

    def test_what_was_missing_of_the_former_count_is_told(self) -> None:
        order = ordered(10, 12)
        order.place(1, at(20), 1.0)
        assert order.take_missing(1.0) == [(11, 11)]

    def test_an_alert_from_before_does_not_lift_the_new_count(self) -> None:
        order = ordered(1000)
        order.place(1, at(2000), 0.0)
        assert order.place(999, at(999), 0.0) is Rank.LATE
        assert order.place(2, at(2001), 0.0) is Rank.NEW
        assert order.take_missing(1000.0) == []


class TestMemory:
    def test_an_id_is_remembered_with_what_was_told(self) -> None:
        order = Order(GRACE)
        assert order.told("a") is None
        order.remember("a", b"1")
        assert order.told("a") == b"1"

    def test_memory_has_a_limit_and_keeps_the_latest(self) -> None:
        order = Order(GRACE)
        for number in range(MAX_REMEMBERED):
            order.remember(str(number), b"")
        order.remember("0", b"again")
        order.remember("new", b"")
        assert order.told("1") is None
        assert order.told("0") == b"again"
        assert order.told("2") == b""
