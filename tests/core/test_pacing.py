"""When to observe: bursts are cheap, nothing is left unobserved, nothing is observed too often."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmimad.core.pacing import REST_FACTOR, SLACK_SECONDS, Pacing

INTERVAL, QUIET, PATIENCE, GAP = 30.0, 0.05, 0.3, 0.1
START = 1000.0
#: Sums of floats; no rule here is about less.
ROUNDING = 1e-6


def quiet_host(interval: float = INTERVAL, *, now: float = START) -> Pacing:
    """The first observation has been made, it took no time and saw nothing that moves."""
    pacing = Pacing(interval)
    pacing.done(now, settled=True, took_seconds=0.0)
    return pacing


def test_the_first_observation_is_due_at_once() -> None:
    assert Pacing(INTERVAL).due() <= 0.0


def test_without_activity_one_comes_each_interval() -> None:
    pacing = quiet_host()
    assert pacing.due() == START + INTERVAL
    pacing.done(START + INTERVAL + 2.0, settled=True, took_seconds=0.5)
    assert pacing.due() == START + INTERVAL + 2.0 + INTERVAL


def test_activity_is_observed_when_it_has_been_quiet() -> None:
    pacing = quiet_host()
    pacing.ask(START + 5.0)
    assert pacing.due() == START + 5.0 + QUIET
    pacing.ask(START + 5.03)
    assert pacing.due() == START + 5.03 + QUIET


def test_activity_that_does_not_end_is_observed_when_patience_ends() -> None:
    pacing = quiet_host()
    for step in range(20):
        pacing.ask(START + 5.0 + step * 0.02)
    assert pacing.due() == START + 5.0 + PATIENCE


def test_activity_just_after_an_observation_waits_for_the_least_gap() -> None:
    pacing = quiet_host()
    pacing.ask(START + 0.01)
    assert pacing.due() == START + GAP


def test_a_costly_observation_is_followed_by_a_long_rest() -> None:
    pacing = quiet_host()
    pacing.done(START + 5.0, settled=True, took_seconds=2.0)
    pacing.ask(START + 5.1)
    assert pacing.due() == START + 5.0 + REST_FACTOR * 2.0


def test_the_interval_holds_whatever_an_observation_costs() -> None:
    pacing = quiet_host()
    pacing.done(START + 5.0, settled=True, took_seconds=20.0)
    pacing.ask(START + 5.1)
    assert pacing.due() == START + 5.0 + INTERVAL


def test_activity_does_not_put_the_periodic_observation_off() -> None:
    pacing = quiet_host()
    pacing.ask(START + INTERVAL - 0.01)
    assert pacing.due() == START + INTERVAL


def test_activity_during_an_observation_is_observed_by_another() -> None:
    pacing = quiet_host()
    pacing.ask(START + 5.0)
    pacing.ask(START + 6.5)
    pacing.done(START + 7.0, settled=True, took_seconds=1.0)
    assert pacing.due() == START + 7.0 + REST_FACTOR


def test_patience_begins_anew_with_the_observation() -> None:
    pacing = Pacing(INTERVAL, patience_seconds=2.0, quiet_seconds=1.9, least_gap_seconds=0.0)
    pacing.ask(START)
    pacing.ask(START + 2.05)
    pacing.done(START + 2.1, settled=True, took_seconds=0.1)
    pacing.ask(START + 3.5)
    assert pacing.due() == pytest.approx(START + 2.0 + 2.0, abs=2 * SLACK_SECONDS)


def test_activity_before_an_observation_is_settled_by_it() -> None:
    pacing = quiet_host()
    pacing.ask(START + 5.0)
    pacing.done(START + 5.2, settled=True, took_seconds=0.1)
    assert pacing.due() == START + 5.2 + INTERVAL


def test_activity_at_the_very_beginning_of_an_observation_counts_as_after_it() -> None:
    pacing = quiet_host()
    began, end = 0.3, 1.2
    assert end - (end - began) > began, "rounding makes it earlier"
    pacing.ask(began)
    pacing.done(end, settled=True, took_seconds=end - began)
    assert pacing.due() < end + INTERVAL


def test_unsettled_observations_are_repeated_with_growing_gaps() -> None:
    pacing, now, gaps = quiet_host(), START, []
    for _ in range(15):
        pacing.done(now, settled=False, took_seconds=0.0)
        gaps.append(pacing.due() - now)
        now = pacing.due()
    assert gaps[:5] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6])
    assert gaps[-5:] == pytest.approx([INTERVAL] * 5)


def test_a_settled_observation_ends_the_repetition_and_the_growth() -> None:
    pacing = quiet_host()
    for _ in range(5):
        pacing.done(START, settled=False, took_seconds=0.0)
    pacing.done(START, settled=True, took_seconds=0.0)
    assert pacing.due() == START + INTERVAL
    pacing.done(START, settled=False, took_seconds=0.0)
    assert pacing.due() == START + GAP


def test_an_unsettled_costly_observation_is_confirmed_without_a_long_rest() -> None:
    pacing = quiet_host()
    pacing.done(START, settled=False, took_seconds=1.0)
    assert pacing.due() == START + 1.0
    pacing.done(START + 2.0, settled=True, took_seconds=1.0)
    pacing.ask(START + 2.5)
    assert pacing.due() == START + 2.0 + REST_FACTOR


def test_activity_does_not_wait_for_a_long_backoff() -> None:
    pacing = quiet_host()
    for _ in range(12):
        pacing.done(START, settled=False, took_seconds=0.0)
    pacing.ask(START + 5.0)
    assert pacing.due() == START + 5.0 + QUIET


def test_a_gap_longer_than_the_interval_is_cut_to_it() -> None:
    pacing = Pacing(1.0, least_gap_seconds=5.0)
    pacing.done(START, settled=False, took_seconds=0.0)
    assert pacing.due() == START + 1.0


# -- for any history -----------------------------------------------------------------------

Span = tuple[float, float]


def observe_all(
    pacing: Pacing, asks: list[float], costs: list[float], *, until: float, settled: bool = True
) -> list[Span]:
    """Beginning and end of each observation, if they begin when they are due and cost what they cost."""
    spans: list[Span] = []
    waiting, now = sorted(asks), START
    while True:
        while waiting and waiting[0] < pacing.due():
            now = max(now, waiting[0])
            pacing.ask(waiting.pop(0))
        now = max(now, pacing.due())
        if now > until:
            return spans
        began, now = now, now + costs[len(spans) % len(costs)]
        while waiting and waiting[0] <= now:
            pacing.ask(waiting.pop(0))
        pacing.done(now, settled, now - began)
        spans.append((began, now))


cheap = st.lists(st.floats(0.0, 0.01), min_size=1, max_size=5)
any_cost = st.lists(st.floats(0.0, 4.0), min_size=1, max_size=5)
moments = st.lists(st.floats(START + 1.0, START + 21.0), min_size=1, max_size=200)


@settings(deadline=None)
@given(st.integers(1, 2000), st.floats(0.0, 20.0), cheap)
def test_a_burst_costs_few_observations_however_many_events_it_has(
    count: int, duration: float, costs: list[float]
) -> None:
    asks = [START + 1.0 + duration * number / count for number in range(count)]
    spans = observe_all(quiet_host(1e6), asks, costs, until=START + 1000.0)
    assert len(spans) <= duration / GAP + 2
    if duration / count < QUIET:  # no silence within
        assert len(spans) <= duration / PATIENCE + 2


@settings(deadline=None)
@given(st.integers(1, 2000), st.floats(0.0, PATIENCE - QUIET - 0.01), cheap)
def test_a_short_burst_costs_one(count: int, duration: float, costs: list[float]) -> None:
    asks = [START + 1.0 + duration * number / count for number in range(count)]
    if duration / count < QUIET:
        assert len(observe_all(quiet_host(1e6), asks, costs, until=START + 1000.0)) == 1


@settings(deadline=None)
@given(moments, any_cost)
def test_after_any_activity_an_observation_always_begins_and_soon(
    asks: list[float], costs: list[float]
) -> None:
    spans = observe_all(quiet_host(1e6), asks, costs, until=START + 1e5)
    longest = max(costs)
    for ask in asks:
        following = min(began for began, _ in spans if began >= ask)
        assert following <= ask + PATIENCE + GAP + (1 + REST_FACTOR) * longest + ROUNDING


@settings(deadline=None)
@given(moments, any_cost)
def test_no_observation_is_without_a_reason_and_none_repeats_itself(
    asks: list[float], costs: list[float]
) -> None:
    spans = observe_all(quiet_host(1e6), asks, costs, until=START + 1e5)
    for (former, _), (began, _) in pairwise([(START, START), *spans]):
        assert any(former - SLACK_SECONDS - ROUNDING <= ask <= began for ask in asks)


@settings(deadline=None)
@given(moments, any_cost)
def test_what_is_asked_for_costs_a_tenth_of_the_time_at_most(asks: list[float], costs: list[float]) -> None:
    spans = observe_all(quiet_host(1e6), asks, costs, until=START + 1e5)
    for (began, end), (following, _) in pairwise(spans):
        assert following - end >= max(GAP, REST_FACTOR * (end - began)) - ROUNDING


@settings(deadline=None)
@given(st.lists(st.floats(START + 1.0, START + 21.0), max_size=200), any_cost, st.booleans())
def test_the_interval_always_holds(asks: list[float], costs: list[float], settled: bool) -> None:
    interval = 2.0
    spans = observe_all(quiet_host(interval), asks, costs, until=START + 60.0, settled=settled)
    assert spans[-1][1] > START + 60.0 - interval - ROUNDING
    for (_, end), (following, _) in pairwise([(START, START), *spans]):
        assert end <= following <= end + interval + ROUNDING


@settings(deadline=None)
@given(any_cost, st.integers(1, 60))
def test_unsettled_for_ever_ends_in_the_interval(costs: list[float], times: int) -> None:
    pacing, now = quiet_host(), START
    gap = 0.0
    for number in range(times):
        now += costs[number % len(costs)]
        pacing.done(now, settled=False, took_seconds=0.0)
        assert gap <= pacing.due() - now + ROUNDING
        gap = pacing.due() - now
        assert gap <= INTERVAL + ROUNDING
        now = pacing.due()
