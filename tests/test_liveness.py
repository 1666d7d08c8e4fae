"""When a task hangs, by the numbers of its turns; the clock is the test's."""

from __future__ import annotations

import pytest

from dmimad.liveness import MAX_STEP_SECONDS, Allowances, Liveness

ALLOWANCES = Allowances(pipeline=3.0, list_state=4.0, alert_timer=5.0, publisher=60.0)


def test_who_makes_turns_does_not_hang() -> None:
    liveness = Liveness(ALLOWANCES)
    for second in range(100):
        assert liveness.hanging({"pipeline": second, "publisher": second // 50}, float(second)) == ()


def test_a_task_hangs_when_its_allowance_is_over_and_not_before() -> None:
    liveness = Liveness(ALLOWANCES)
    found = [liveness.hanging({"pipeline": 7, "alert_timer": 1}, second) for second in range(7)]
    assert found == [(), (), (), (), ("pipeline",), ("pipeline",), ("alert_timer", "pipeline")]


def test_one_turn_is_enough() -> None:
    liveness = Liveness(ALLOWANCES)
    for second in range(5):
        liveness.hanging({"pipeline": 7}, second)
    assert liveness.hanging({"pipeline": 7}, 5) == ("pipeline",)
    assert liveness.hanging({"pipeline": 8}, 6) == ()
    assert [liveness.hanging({"pipeline": 8}, second) for second in (7, 8, 9, 10)] == [
        (),
        (),
        (),
        ("pipeline",),
    ]


def test_another_number_is_a_turn_also_if_it_is_less() -> None:
    """A task that was started again counts from the beginning."""
    liveness = Liveness(ALLOWANCES)
    assert [liveness.hanging({"publisher": 9 - n % 2}, 30 * n) for n in range(5)] == [()] * 5


def test_who_is_not_running_does_not_hang_and_begins_anew() -> None:
    liveness = Liveness(ALLOWANCES)
    for second in range(5):
        liveness.hanging({"pipeline": 7}, second)
    assert liveness.hanging({}, 5) == ()
    assert liveness.hanging({"pipeline": 7}, 6) == ()
    assert liveness.hanging({"pipeline": 7}, 8) == ()


def test_time_in_which_the_whole_process_stood_still_is_nobodys_fault() -> None:
    liveness = Liveness(Allowances(pipeline=2 * MAX_STEP_SECONDS))
    liveness.hanging({"pipeline": 7}, 0)
    assert liveness.hanging({"pipeline": 7}, 3600) == ()
    assert liveness.hanging({"pipeline": 7}, 7200) == ()
    assert liveness.hanging({"pipeline": 7}, 7201) == ("pipeline",)


def test_a_clock_that_goes_back_does_no_harm() -> None:
    liveness = Liveness(ALLOWANCES)
    assert [liveness.hanging({"pipeline": 7}, now) for now in (100, 50, 53, 54)] == [
        (),
        (),
        (),
        ("pipeline",),
    ]


@pytest.mark.parametrize("task", ["pipeline", "list_state", "alert_timer"])
def test_what_only_reads_and_stores_has_about_a_minute(task: str) -> None:
    """And so the service is restarted within a minute and the watchdog's time."""
    assert getattr(Allowances(), task) == 60.0


def test_a_broker_that_is_away_has_ten_minutes_for_one_attempt() -> None:
    assert Allowances().publisher == 600.0
