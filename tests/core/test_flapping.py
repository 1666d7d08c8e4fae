"""Alerts of one code about one device that come and go are told as one."""

from __future__ import annotations

import json

import pytest

from dmimad.core import flapping
from dmimad.core.alert import Notice, Status
from dmimad.core.finding import Severity
from tests.core.delivering import Desk, shown

FIRES, ENDS = ("drift.active", "firing", "a"), ("drift.active", "resolved", "a")


def flap(desk: Desk, times: int, *, code: str = "drift.active", device: str = "a") -> list[Notice]:
    """It fires and resolves so often, a second each."""
    told: list[Notice] = []
    for _ in range(times):
        desk.hold("k", code=code, device=device)
        told += desk.tick(1.0)
        desk.cease("k")
        told += desk.tick(1.0)
    return told


def numbers(notice: Notice) -> tuple[int, float | None, float | None, bool]:
    return notice.count, notice.first, notice.last, notice.flapping


def test_each_notice_counts() -> None:
    desk = Desk(flap=4)
    assert [numbers(notice) for notice in flap(desk, 2)] == [
        (1, 1000.0, 1000.0, False),
        (1, 1000.0, 1000.0, False),
        (2, 1000.0, 1002.0, False),
        (2, 1000.0, 1002.0, False),
    ]


def test_one_that_fires_often_is_told_as_flapping_and_then_what_it_came_to() -> None:
    desk = Desk(flap=3)
    told = flap(desk, 30)
    assert shown(told) == [FIRES, ENDS, FIRES, ENDS, FIRES]
    assert numbers(told[-1]) == (3, 1000.0, 1004.0, True)
    assert desk.next_due() == 1059.0 + 600.0
    assert desk.tick(598.9) == []
    (over,) = desk.due()
    assert shown([over]) == [ENDS]
    assert (numbers(over), over.at) == ((30, 1000.0, 1058.0, False), 1059.0)
    assert desk.stored.keys() == {"k"}
    assert shown(flap(desk, 1)) == [FIRES, ENDS]


def test_one_that_fires_seldom_is_not() -> None:
    desk = Desk(flap=3)
    told: list[Notice] = []
    for _ in range(9):
        told += flap(desk, 1)
        desk.tick(299.0)
    assert shown(told) == [FIRES, ENDS] * 9
    assert [notice.flapping for notice in told] == [False] * 18


def test_without_a_threshold_nothing_is_counted() -> None:
    desk = Desk()
    told = flap(desk, 9)
    assert shown(told) == [FIRES, ENDS] * 9
    assert {notice.count for notice in told} == {1}
    assert desk.stored.keys() == {"k"}


def test_one_that_holds_as_it_was_told_is_not_told_again() -> None:
    desk = Desk(flap=2)
    flap(desk, 1)
    desk.hold("k")
    assert [n.flapping for n in desk.commit()] == [True]
    assert desk.due() == []
    desk.cease("k")
    (over,) = desk.commit()
    assert (shown([over]), over.flapping) == ([ENDS], False)


def test_one_that_holds_otherwise_is_told_when_it_is_quiet() -> None:
    desk = Desk(flap=2)
    flap(desk, 3)
    desk.hold("other")
    assert desk.commit() == []
    (told,) = desk.due()
    assert (shown([told]), told.alert.key, numbers(told)) == (
        [FIRES],
        "other",
        (4, 1000.0, 1006.0, False),
    )
    desk.hold("third")
    assert [n.alert.key for n in desk.tick(1.0)] == ["third"]  # it speaks for both now
    desk.cease("third")
    assert desk.commit() == []
    desk.cease("other")
    assert [(n.status, n.alert.key) for n in desk.commit()] == [(Status.RESOLVED, "third")]
    assert not [key for key in desk.stored if key.startswith("~covered")]


def test_hundreds_of_findings_about_the_list_are_a_few_notices() -> None:
    desk = Desk(flap=4)
    for number in range(300):
        desk.hold(f"k{number}", code="record.malformed", device="")
    told = desk.commit()
    assert [numbers(n)[::3] for n in told] == [(1, False), (2, False), (3, False), (4, True)]
    (settled,) = desk.due()
    assert (settled.count, settled.flapping, settled.status) == (300, False, Status.FIRING)
    for number in range(300):
        desk.cease(f"k{number}")
    assert [n.status for n in desk.commit()] == [Status.RESOLVED]


def test_what_is_worse_is_told_while_it_flaps() -> None:
    desk = Desk(flap=2)
    flap(desk, 3, code="state.impossible")
    told: list[Notice] = []
    other = Desk(flap=2)
    for number, severity in enumerate((Severity.INFO, Severity.INFO, Severity.WARNING, Severity.INFO)):
        other.hold(f"k{number}", severity=severity)
        told += other.tick(1.0)
    other.hold("worst")
    told += other.commit()
    assert [(n.severity, n.flapping) for n in told] == [
        (Severity.INFO, False),
        (Severity.INFO, True),
        (Severity.WARNING, True),
        (Severity.CRITICAL, True),
    ]


def test_other_devices_and_codes_are_other_groups() -> None:
    desk = Desk(flap=2)
    for device in ("a", "b"):
        for code in ("drift.active", "policy.attribute"):
            desk.hold(f"{device}{code}", code=code, device=device)
    assert [n.flapping for n in desk.commit()] == [False] * 4


def test_what_merely_happens_often_is_told_at_the_end_and_never_resolves() -> None:
    desk = Desk(flap=2)
    for number in range(9):
        desk.announce(f"k{number}")
    assert [numbers(n)[::3] for n in desk.commit()] == [(1, False), (2, True)]
    (told,) = desk.due()
    assert (told.status, told.count, told.flapping) == (Status.FIRING, 9, False)
    assert not [key for key in desk.stored if key.startswith("~")]
    desk.announce("k10")
    desk.announce("k11")
    assert len(desk.commit()) == 2
    assert desk.due() == []  # nothing more has happened


def test_swallowed_by_a_storm_it_is_told_at_the_next_firing() -> None:
    desk = Desk(storm=2, flap=2)
    for number in range(9):
        desk.hold(f"x{number}", device=f"x{number}")
    desk.hold("k0")
    desk.hold("k1")
    assert shown(desk.commit()) == [("alerts.storm", "firing", "")]
    desk.cease("k0")
    desk.cease("k1")
    assert desk.commit() == []
    desk.tick(60.0)
    desk.hold("k2")
    assert [(n.alert.key, numbers(n)) for n in desk.commit()] == [("k2", (3, 1000.0, 1060.0, True))]


def test_switched_off_while_it_flaps() -> None:
    desk = Desk(flap=2)
    flap(desk, 5)
    desk.configure(flap=0)
    assert desk.next_due() == 1009.0
    assert shown(desk.tick()) == [ENDS]
    desk.configure(flap=2)
    for key in ("k", "l", "m"):
        desk.hold(key)
    assert [n.flapping for n in desk.commit()] == [False, True]
    desk.configure(flap=0)
    assert [n.alert.key for n in desk.tick()] == ["m"]
    desk.hold("n")
    assert [n.alert.key for n in desk.commit()] == ["n"]


def test_a_clock_that_is_set_back_does_not_prolong_it() -> None:
    desk = Desk(flap=2)
    flap(desk, 3)
    desk.restart()
    desk.now = 10.0
    assert desk.tick() == []
    assert desk.next_due() == 610.0
    (over,) = desk.due()
    assert numbers(over) == (3, 10.0, 10.0, False)
    desk.hold("k")
    desk.tick()
    desk.now += 5.0
    desk.hold("l", device="b")
    desk.tick()
    desk.now -= 2.0
    desk.hold("l", device="c")
    desk.tick()
    times = [json.loads(text)["moments"] for key, text in desk.stored.items() if key.startswith("~group")]
    assert sorted(times) == [[610.0] * 3, [613.0] * 3]


def test_groups_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flapping, "MAX_GROUPS", 5)
    monkeypatch.setattr(flapping, "MAX_FLAPPING", 2)
    desk = Desk(flap=2)
    for number in range(20):
        flap(desk, 1, device=f"d{number}")
    assert sum(key.startswith("~group") for key in desk.stored) == 5
    for number in range(4):
        flap(desk, 2, device=f"f{number}")
    flaps = [n.alert.subject for n in desk.told if n.flapping]
    assert flaps == ["f0", "f1", "f2", "f3"]
    over = [(n.alert.subject, n.count) for n in desk.told if n.status is Status.RESOLVED and n.count == 2]
    assert over == [("f0", 2), ("f1", 2)]  # the first ones made room


def test_its_end_is_not_told_before_it() -> None:
    desk = Desk(flap=2)
    for key in ("k", "l"):
        desk.hold(key)
        desk.cease(key)
    told = desk.tick(700.0)  # nobody asked for notices until now
    assert [(n.status.value, n.flapping) for n in told][-1] == ("firing", True)
    assert shown(desk.due()) == [ENDS]


def test_what_matters_less_does_not_take_the_place_of_what_holds() -> None:
    desk = Desk(flap=2)
    desk.hold("k")
    desk.hold("l")
    desk.cease("l")
    desk.commit()
    desk.due()
    desk.hold("less", severity=Severity.WARNING)
    assert desk.commit() == []
    desk.tick(700.0)
    desk.hold("as much")
    assert [n.alert.key for n in desk.commit()] == ["as much"]
    for key in ("k", "as much", "less"):
        desk.cease(key)
    assert [(n.status, n.alert.key) for n in desk.commit()] == [(Status.RESOLVED, "as much")]


def test_what_a_storm_has_left_is_not_told_where_something_worse_was() -> None:
    desk = Desk(storm=2, flap=2)
    for number in range(3):
        desk.hold(f"x{number}", code="device.unexpected", device=f"x{number}")
        desk.hold(f"k{number}", severity=Severity.WARNING)
    assert shown(desk.commit()) == [("alerts.storm", "firing", "")]
    desk.hold("worse")
    assert [(n.alert.key, n.flapping) for n in desk.commit()] == [("worse", True)]
    for number in range(3):
        desk.cease(f"x{number}")
    told = desk.tick(30.0)
    assert shown(told)[0] == ("alerts.storm", "resolved", "")
    assert "k2" not in [n.alert.key for n in told]


def test_who_speaks_for_a_moment_only_ends_with_the_others() -> None:
    desk = Desk(flap=2)
    flap(desk, 2)
    desk.hold("k")
    desk.commit()
    desk.due()
    desk.hold("moment")
    desk.cease("moment")
    desk.cease("k")
    assert [(n.status.value, n.alert.key) for n in desk.commit()] == [
        ("firing", "moment"),
        ("resolved", "k"),
        ("resolved", "moment"),
    ]
