"""Storms: too many alerts at once are told as one, and none hides behind what matters less."""

from __future__ import annotations

import pytest

from dmimad.core import summary as summaries
from dmimad.core.alert import Notice, Status
from dmimad.core.errors import MalformedError
from dmimad.core.finding import Severity
from dmimad.core.storm import MAX_CALM_SECONDS, MAX_UPDATES, swallowable
from dmimad.core.summary import Tally, read_tally
from tests.core.delivering import Desk, shown

STORM, OVER = ("alerts.storm", "firing", ""), ("alerts.storm", "resolved", "")


def burst(desk: Desk, count: int, *, code: str = "drift.active", name: str = "d", start: int = 0) -> None:
    for number in range(start, start + count):
        desk.hold(f"{code}{name}{number}", code=code, device=f"{name}{number}")


def message(notice: Notice) -> str:
    return notice.alert.finding.message


def test_as_many_as_the_threshold_are_told_one_by_one() -> None:
    desk = Desk(storm=5)
    burst(desk, 5)
    assert len(desk.commit()) == 5
    desk.now += 10.0
    burst(desk, 5, start=5)
    assert len(desk.commit()) == 5
    assert desk.next_due() is None


def test_one_instant_is_looked_at_before_any_of_it_is_told() -> None:
    desk = Desk(storm=5)
    burst(desk, 6)
    burst(desk, 3, code="device.removed")
    (told,) = desk.commit()
    assert (shown([told]), told.severity) == ([STORM], Severity.CRITICAL)
    assert message(told) == (
        "too many alerts at once are told as one: 6 drift.active, 3 device.removed so far; "
        "the retained states of the devices tell the present"
    )
    assert told.summary is not None
    assert told.summary.by_code == {"drift.active": 6, "device.removed": 3}
    assert told.summary.by_severity == {Severity.INFO: 0, Severity.WARNING: 3, Severity.CRITICAL: 6}
    assert (told.summary.more_devices, told.count, told.summary.holding) == (0, 9, None)
    assert told.summary.devices[:2] == ("d0", "d1")


def test_what_is_about_to_fire_shows_that_the_first_is_one_of_many() -> None:
    desk = Desk(storm=3, hold_off=2.0)
    for number in range(5):
        desk.hold(f"k{number}", device=f"d{number}")
        desk.now += 0.1
    told = desk.tick(1.5)
    assert shown(told) == [STORM]
    assert message(told[0]).startswith("too many alerts at once are told as one: 1 drift.active so far; ")


def test_as_many_as_may_be_told_one_by_one_are_waited_for() -> None:
    desk = Desk(storm=3, hold_off=2.0)
    for number in range(4):
        desk.hold(f"k{number}", device=f"d{number}")
        desk.now += 0.1
    assert shown(desk.tick(1.6)) == [("drift.active", "firing", "d0")]


def test_what_waits_with_a_lower_severity_hides_no_higher_one() -> None:
    desk = Desk(storm=3, hold_off=2.0)
    desk.hold("k", device="d")
    desk.now += 0.1
    burst(desk, 50, code="device.unexpected", name="noise")
    assert shown(desk.tick(1.9)) == [("drift.active", "firing", "d")]


def test_what_comes_within_the_window_counts_together() -> None:
    desk = Desk(storm=2)
    burst(desk, 2)
    assert len(desk.commit()) == 2
    desk.now += 9.9
    burst(desk, 1, start=2)
    assert shown(desk.commit()) == [STORM]


def test_noise_hides_nothing_that_matters_more() -> None:
    desk = Desk(storm=3)
    burst(desk, 50, code="device.unexpected", name="noise")
    assert [(shown([n]), n.severity) for n in desk.commit()] == [([STORM], Severity.WARNING)]
    for second in range(3):
        desk.now += 1.0
        burst(desk, 50, code="device.unexpected", name=f"noise{second}-")
        burst(desk, 1, start=second)
        assert shown(desk.commit()) == [("drift.active", "firing", f"d{second}")]
    burst(desk, 1, start=3)  # that is too many critical ones, too
    (told,) = desk.commit()
    assert (shown([told]), told.severity) == ([STORM], Severity.CRITICAL)
    assert told.summary is not None
    assert told.summary.devices[0] == "d3"  # the severest first


def test_critical_ones_are_told_again_when_they_alone_are_calm() -> None:
    desk = Desk(storm=2)
    burst(desk, 3)
    assert len(desk.commit()) == 1
    for step in range(4):
        desk.now += 9.0
        burst(desk, 3, code="device.unexpected", name=f"noise{step}-")
        desk.commit()
    burst(desk, 1, start=3)
    assert ("drift.active", "firing", "d3") in shown(desk.commit())


@pytest.mark.parametrize(
    "code", ["list.gap", "list.trimmed", "pcr.mismatch", "baseline.signature", "maintenance.active"]
)
def test_some_are_told_in_any_storm(code: str) -> None:
    assert not swallowable(code)
    desk = Desk(storm=1)
    burst(desk, 9)
    burst(desk, 1, code=code)
    assert set(shown(desk.commit())) == {(code, "firing", "d0"), STORM}


def test_it_is_over_when_it_is_calm_and_what_is_left_is_named() -> None:
    desk = Desk(storm=2)
    burst(desk, 9)
    desk.commit()
    assert desk.next_due() == 1030.0
    for number in range(4):
        desk.cease(f"drift.actived{number}")
    assert desk.tick(29.9) == []
    (over,) = desk.tick(0.1)
    assert shown([over]) == [OVER]
    assert message(over) == (
        "no storm any more: 9 alerts at once: 9 drift.active; 5 still hold: 5 drift.active; "
        "the retained states of the devices tell them all, and their ends are not told"
    )
    assert over.summary is not None
    assert over.summary.holding is not None
    assert over.summary.holding.devices == ("d4", "d5", "d6", "d7", "d8")
    assert (over.at - over.alert.since, over.first, over.last) == (30.0, 1000.0, 1000.0)
    burst(desk, 0)
    desk.cease("drift.actived8")
    assert desk.due() == []


def test_few_that_are_left_are_told_one_by_one_and_resolve() -> None:
    desk = Desk(storm=2)
    burst(desk, 9)
    desk.commit()
    for number in range(7):
        desk.cease(f"drift.actived{number}")
    over, *rest = desk.tick(30.0)
    assert message(over).endswith("; 2 still hold and follow one by one")
    assert [(n.status, n.alert.subject, n.at) for n in rest] == [
        (Status.FIRING, "d7", 1000.0),
        (Status.FIRING, "d8", 1000.0),
    ]
    desk.cease("drift.actived7")
    assert shown(desk.commit()) == [("drift.active", "resolved", "d7")]


def test_none_is_left() -> None:
    desk = Desk(storm=2)
    burst(desk, 3)
    for number in range(3):
        desk.cease(f"drift.actived{number}")
    assert shown(desk.commit()) == [STORM]
    assert message(desk.due()[0]).endswith("; none of those that fired holds")


def test_an_alert_that_fires_again_in_a_storm_is_held_to_its_own_end() -> None:
    desk = Desk(storm=2)
    burst(desk, 5)
    desk.cease("drift.actived0")
    burst(desk, 1)
    desk.commit()
    desk.cease("drift.actived0")
    assert desk.commit() == []
    over = desk.due()[0]
    assert over.summary is not None
    assert over.summary.holding is not None
    assert over.summary.holding.alerts == 4


def test_ends_of_what_was_told_are_told_however_many_they_are() -> None:
    desk = Desk(storm=3)
    for number in range(8):
        burst(desk, 1, start=number)
        desk.tick(60.0)
    assert len(desk.told) == 8
    for number in range(8):
        desk.cease(f"drift.actived{number}")
    assert shown(desk.commit()) == [("drift.active", "resolved", f"d{number}") for number in range(8)]


def test_what_was_told_one_by_one_resolves_so_in_a_storm() -> None:
    desk = Desk(storm=2)
    burst(desk, 2)
    desk.commit()
    burst(desk, 20, start=2)
    desk.commit()
    for number in range(22):
        desk.cease(f"drift.actived{number}")
    assert shown(desk.commit()) == [("drift.active", "resolved", "d0"), ("drift.active", "resolved", "d1")]


def test_new_codes_are_told_after_a_window_and_not_for_ever() -> None:
    desk = Desk(storm=1)
    codes = ("drift.active", "policy.attribute", "table.unmeasured", "drift.live", "record.event_digest")
    told = []
    for code in codes:
        burst(desk, 5, code=code)
        told += desk.commit()
        told += desk.tick(10.0)
    assert shown(told) == [STORM] * (1 + MAX_UPDATES)
    assert [notice.alert.occurrence for notice in told] == list(range(1, 2 + MAX_UPDATES))
    assert len({notice.id for notice in told}) == 1 + MAX_UPDATES
    assert told[1].summary is not None
    assert list(told[1].summary.by_code) == ["drift.active", "policy.attribute"]


def test_storms_that_follow_soon_must_be_calm_for_longer() -> None:
    desk = Desk(storm=1)
    lasted = []
    for number in range(7):
        burst(desk, 3, name=f"{number}-")
        began = desk.now
        desk.commit()
        desk.due()
        lasted.append(desk.now - began)
        desk.now += 1.0
    assert lasted == [30.0, 60.0, 120.0, 240.0, 480.0, MAX_CALM_SECONDS, MAX_CALM_SECONDS]
    desk.now += 2 * MAX_CALM_SECONDS
    burst(desk, 3, name="later")
    desk.commit()
    assert desk.next_due() == desk.now + 30.0


def test_switched_off_while_it_lasts() -> None:
    desk = Desk(storm=2)
    burst(desk, 3)
    desk.commit()
    desk.configure(storm=0)
    assert desk.next_due() == 0.0
    assert shown(desk.tick()) == [OVER]
    burst(desk, 50, start=3)
    assert len(desk.commit()) == 50


def test_a_clock_that_is_set_back_does_not_prolong_it() -> None:
    desk = Desk(storm=2)
    burst(desk, 3)
    desk.commit()
    desk.restart()
    desk.now = 10.0
    desk.tick()
    assert desk.next_due() == 40.0
    assert shown(desk.due()) == [OVER]


# -- summaries -----------------------------------------------------------------------------


def test_many_codes_in_words() -> None:
    tally = Tally()
    for code in "abcdefg":
        tally.add(code, Severity.INFO, "")
    assert tally.summary().words() == "1 a, 1 b, 1 c, 1 d, 1 e, 2 of 2 other codes"
    assert (tally.summary().devices, tally.summary().more_devices) == ((), 0)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summaries, "MAX_TOLD_APART", 150)
    tally = Tally()
    for number in range(1000):
        tally.add("a", Severity.INFO, f"d{number}")
    summary = tally.summary()
    assert (summary.alerts, len(summary.devices), summary.more_devices) == (1000, 100, 50)
    assert read_tally(tally.document()).summary() == summary


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alerts", -1),
        ("devices", {severity.value: [1] for severity in Severity}),
        ("devices", {severity.value: ["x"] * 101 for severity in Severity}),
        ("apart", 1),
        ("apart", "0" * 80_001),
        ("codes", {str(number): 1 for number in range(101)}),
    ],
)
def test_a_damaged_tally(name: str, value: object) -> None:
    with pytest.raises(MalformedError):
        read_tally({**Tally().document(), name: value})
