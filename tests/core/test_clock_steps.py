"""A wall clock that is set makes nothing longer or shorter, and what is told is the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.core.delivering import Desk
from tests.core.monitored import GOOD, Host, listed

HOUR = 3600.0
STEPS = (HOUR, -900.0, 3 * 365 * 86400.0)

#: Code, status, device, and how many seconds after the beginning.
Heard = list[tuple[str, str, str, float]]


def hear(desk: Desk, heard: Heard, began: float) -> None:
    for notice in desk.told[len(heard) :]:
        finding = notice.alert.finding
        heard.append((finding.code, notice.status.value, finding.device, round(desk.now - began, 3)))


def step(desk: Desk, by: float) -> None:
    """The clock is set, and another process goes on."""
    desk.book.clock_stepped(by)
    desk.delivery.clock_stepped(by)
    desk.now += by
    desk.commit()
    desk.restart()


def told(desk: Desk, before: Callable[[Desk], None], by: float) -> Heard:
    """All that is told until nothing is due any more."""
    heard: Heard = []
    began = desk.now
    before(desk)
    hear(desk, heard, began)
    if by:
        step(desk, by)
        began += by
    while (due := desk.next_due()) is not None:
        desk.tick(max(due - desk.now, 0.0))
        hear(desk, heard, began)
    return heard


def burst(desk: Desk) -> None:
    for number in range(10):
        desk.hold(f"k{number}", device=f"d{number}")
    desk.commit()
    desk.tick(7.0)


def flap(desk: Desk) -> None:
    for _ in range(5):
        desk.hold("k")
        desk.commit()
        desk.tick(2.0)
        desk.cease("k")
        desk.tick(2.0)


def wait(desk: Desk) -> None:
    desk.hold("k")
    desk.tick(1.0)


@pytest.mark.parametrize("by", STEPS)
def test_a_storm_is_over_as_late_as_it_would_be(by: float) -> None:
    calm = told(Desk(storm=3), burst, 0.0)
    assert [code for code, status, _, _ in calm if status == "resolved"] == ["alerts.storm"]
    assert told(Desk(storm=3), burst, by) == calm


@pytest.mark.parametrize("by", STEPS)
def test_what_flaps_is_quiet_as_late_as_it_would_be(by: float) -> None:
    calm = told(Desk(flap=3), flap, 0.0)
    assert calm[-1][1] == "resolved"
    assert told(Desk(flap=3), flap, by) == calm


@pytest.mark.parametrize("by", STEPS)
def test_a_hold_off_is_neither_longer_nor_shorter(by: float) -> None:
    calm = told(Desk(hold_off=60.0), wait, 0.0)
    assert calm == [("drift.active", "firing", "a", 60.0)]
    assert told(Desk(hold_off=60.0), wait, by) == calm


@pytest.mark.parametrize("by", STEPS)
def test_a_maintenance_is_neither_longer_nor_shorter(by: float) -> None:
    desk = Desk()
    desk.delivery.start_maintenance("*", 600.0, "moving", "root", desk.now)
    desk.commit()
    step(desk, by)
    assert desk.tick(599.0) == []
    (over,) = desk.tick(1.0)
    assert (over.alert.finding.code, over.status.value) == ("maintenance.active", "resolved")
    assert desk.delivery.maintenance == ()


@pytest.mark.parametrize("by", STEPS)
def test_the_monitor_moves_all_that_lasts(by: float) -> None:
    host = Host(listed('name = "a"'), hold_off=60.0)
    host.kernel.create(b"x", GOOD)
    assert host.look(1100.0) == []
    host.monitor.clock_stepped(by)
    assert host.tick(1159.0 + by) == []
    assert host.tick(1160.0 + by) == [("device.unexpected", "firing", "x")]
    assert host.monitor.last_read == 1100.0 + by


def test_an_interruption_that_ends_before_it_began_says_so() -> None:
    host = Host()
    host.kernel.create(b"x", GOOD)
    host.settle(1000.0)
    host.restart()
    host.settle(500.0)
    messages = [message.payload.decode() for message in host.disk.messages]
    assert [
        each for each in messages if "watch.interrupted" in each and "(the clock has been set back)" in each
    ]
