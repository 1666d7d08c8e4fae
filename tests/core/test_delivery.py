"""What is told of alerts: nothing that fires is untold, nothing resolves that was not told, no floods."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmimad.core.alert import RANK, Notice, Status
from dmimad.core.errors import MalformedError
from dmimad.core.finding import Severity
from tests.core.delivering import Desk, Subscriber, shown

BOUNDED = settings(derandomize=True, deadline=None, database=None, max_examples=100)

KEYS = st.integers(0, 11)
CODES = ("drift.active", "drift.inactive", "record.malformed", "list.gap")
OPERATIONS = st.one_of(
    st.tuples(st.just("hold"), KEYS),
    st.tuples(st.just("hold"), KEYS),
    st.tuples(st.just("cease"), KEYS),
    st.tuples(st.just("announce"), st.integers(0, 30)),
    st.tuples(st.just("many"), st.integers(2, 12)),
    st.tuples(st.just("none"), st.just(0)),
    st.tuples(st.just("commit"), st.just(0)),
    st.tuples(st.just("pass"), st.sampled_from((0.5, 3.0, 9.0, 40.0, 100.0, 700.0))),
    st.tuples(st.just("pass"), st.sampled_from((0.5, 3.0, 9.0, 40.0))),
    st.tuples(st.just("maintain"), st.sampled_from((5.0, 200.0))),
    st.tuples(st.just("end"), st.just(0)),
)
HISTORIES = st.lists(OPERATIONS, max_size=60)


@dataclass
class Run:
    desk: Desk
    kill: bool
    begun: int = 0

    def do(self, operation: tuple[str, Any]) -> None:
        desk, (kind, value) = self.desk, operation
        if kind == "hold":
            self.hold(value)
        elif kind == "cease":
            desk.cease(f"k{value}")
        elif kind == "announce":
            desk.announce(f"a{value}", device=f"d{value % 2}")
        elif kind == "many":
            for number in range(value):
                self.hold(number)
        elif kind == "none":
            for key in sorted(desk.firing()):
                desk.cease(key)
        elif kind == "maintain":
            self.begun += 1
            desk.delivery.start_maintenance("d0", value, f"reason {self.begun}", "me", desk.now)
            self.commit()
        elif kind == "end" and desk.delivery.maintenance:
            desk.delivery.end_maintenance(desk.delivery.maintenance[0].id, "me", desk.now)
            self.commit()
        elif kind == "pass":
            desk.tick(value)
            self.killed()
        else:
            self.commit()

    def hold(self, number: int) -> None:
        """Some keys are of the same group."""
        code = CODES[number % 4]
        severity = Severity.WARNING if number == 8 else None
        self.desk.hold(f"k{number}", code=code, device=f"d{number // 8}", severity=severity)

    def commit(self) -> None:
        self.desk.commit()
        self.killed()

    def killed(self) -> None:
        if self.kill:
            self.desk.restart()


def run(history: list[tuple[str, Any]], *, kill: bool = False, storm: int = 3, flap: int = 3) -> Desk:
    made = Run(Desk(storm=storm, flap=flap, flap_window=60.0), kill)
    for operation in history:
        made.do(operation)
    made.commit()
    while (due := made.desk.next_due()) is not None:
        made.desk.tick(max(due - made.desk.now, 0.0))
        made.killed()
    return made.desk


@BOUNDED
@given(HISTORIES)
def test_a_restart_at_any_commit_changes_nothing(history: list[tuple[str, Any]]) -> None:
    calm, killed = run(history), run(history, kill=True)
    assert killed.told == calm.told
    assert (killed.stored, killed.checkpoint) == (calm.stored, calm.checkpoint)


@BOUNDED
@given(HISTORIES)
def test_nothing_resolves_that_was_not_told_and_no_id_comes_twice(history: list[tuple[str, Any]]) -> None:
    told = run(history).told
    assert [each for each, count in Counter(notice.id for notice in told).items() if count > 1] == []
    open_: Counter[tuple[str, int]] = Counter()
    for notice in told:
        name = (notice.alert.key, notice.alert.occurrence)
        if notice.status is Status.FIRING:
            open_[name] += 1
        else:
            assert open_[name] or notice.alert.finding.code == "alerts.storm", name
            open_[name] = 0


@BOUNDED
@given(HISTORIES)
def test_in_the_end_a_subscriber_believes_what_is_so(history: list[tuple[str, Any]]) -> None:
    desk, subscriber = run(history), Subscriber()
    for notice in desk.told:
        subscriber.hear(notice)
    firing: dict[tuple[str, str], Severity] = {}
    summed_up = {
        (alert.finding.code, alert.subject)
        for alert in desk.book.holding()
        if desk.delivery.storms.stands_for(alert.key)
    }
    for alert in desk.book.holding():
        group = (alert.finding.code, alert.subject)
        severity = max(alert.finding.severity, firing.get(group, Severity.INFO), key=RANK.__getitem__)
        firing[group] = severity
        named = group in summed_up  # then the devices' own topics tell
        believed = subscriber.believed.get(group, {})
        assert named or believed, alert.key
        if not named:
            assert max(map(RANK.__getitem__, believed.values())) >= RANK[alert.finding.severity], alert.key
    for group, believed in subscriber.believed.items():
        assert not believed or group in firing, (group, believed)
    last = [notice for notice in desk.told if notice.alert.finding.code == "alerts.storm"]
    assert not last or last[-1].status is Status.RESOLVED


@BOUNDED
@given(HISTORIES)
def test_budgets_hold(history: list[tuple[str, Any]]) -> None:
    """Within any window no more than the threshold fire of one severity, beside what may always be told."""
    free = ("alerts.storm", "maintenance.active", "list.gap")
    told: list[Notice] = []
    desk = Run(Desk(storm=3, flap=0), kill=False)
    sent: list[tuple[float, Notice]] = []
    for operation in history:
        before = len(desk.desk.told)
        desk.do(operation)
        fresh = desk.desk.told[before:]
        over = any(n.summary is not None and n.status is Status.RESOLVED for n in fresh)
        if not over:  # what a storm has left is told when it is over, at most as many again
            sent += [(desk.desk.now, n) for n in fresh if n.alert.finding.code not in free]
        told += fresh
    for at, _ in sent:
        window = [n for time, n in sent if at - 10.0 < time <= at]
        for severity in Severity:
            assert sum(n.status is Status.FIRING and n.severity is severity for n in window) <= 3


# -- together ------------------------------------------------------------------------------


def test_five_hundred_devices_are_a_handful_of_messages() -> None:
    desk = Desk(storm=5, flap=4, hold_off=2.0)
    for number in range(500):
        desk.now += 0.01
        desk.hold(f"k{number}", device=f"d{number}")
        desk.tick()
    desk.due()
    assert shown(desk.told)[0] == ("alerts.storm", "firing", "")  # what else waits is seen at the first
    assert len(desk.told) <= 4
    summary = desk.told[-1].summary
    assert summary is not None
    assert summary.holding is not None
    assert (summary.alerts, summary.holding.alerts) == (500, 500)
    assert (len(summary.holding.devices), summary.holding.more_devices) == (100, 400)
    assert desk.delivery.firing()[Severity.CRITICAL] == 500
    for number in range(500):
        desk.cease(f"k{number}")
    desk.tick(3600.0)
    assert shown(desk.told)[-1] == ("alerts.storm", "resolved", "")


def test_what_no_storm_may_swallow_makes_none() -> None:
    desk = Desk(storm=1, hold_off=2.0)
    desk.hold("first", device="d")
    desk.now += 0.1
    for number in range(5):
        desk.hold(f"k{number}", code="baseline.signature", device="")
    assert shown(desk.tick(1.9)) == [("drift.active", "firing", "d")]


def test_an_expected_change_that_flaps_is_told_in_earnest_when_it_stays() -> None:
    desk = Desk(flap=2)
    begun = desk.delivery.start_maintenance("a*", 100.0, "work", "me", desk.now)
    for number in range(3):
        desk.hold(f"k{number}")
    told = desk.tick()
    assert [(n.severity, n.flapping, n.maintenance) for n in told[1:]] == [
        (Severity.INFO, False, begun),
        (Severity.INFO, True, begun),
    ]
    told = desk.tick(100.0)
    assert [(n.alert.finding.code, n.status, n.severity, n.flapping) for n in told] == [
        ("maintenance.active", Status.RESOLVED, Severity.INFO, False),
        ("drift.active", Status.FIRING, Severity.CRITICAL, True),
    ]


def test_state_of_a_version_that_knew_nothing_of_this() -> None:
    desk = Desk()
    desk.hold("k")
    assert shown(desk.commit()) == [("drift.active", "firing", "a")]
    desk.checkpoint = "null"
    desk.restart()
    desk.cease("k")
    assert shown(desk.commit()) == [("drift.active", "resolved", "a")]


def full() -> Desk:
    """Everything there is to store."""
    desk = Desk(storm=2, flap=2)
    desk.delivery.start_maintenance("m*", 100.0, "work", "me", desk.now)
    for number in range(4):
        desk.hold(f"m{number}", device=f"m{number}")
        desk.hold(f"f{number}", device="f")
    desk.commit()
    desk.hold("f4", device="f")
    desk.commit()
    return desk


DAMAGE = [None, -1, 1e300, "x", [], [1], ["x", 1], {}, {"x": 1}, True, "9" * 5000]


def damaged(document: Any) -> list[Any]:
    """The document with each of its parts replaced by each of these."""
    found = list(DAMAGE)
    if isinstance(document, dict):
        for key, value in document.items():
            found += [{**document, key: each} for each in damaged(value)]
            found.append({name: each for name, each in document.items() if name != key})
    elif isinstance(document, list) and document:
        found += [[each, *document[1:]] for each in damaged(document[0])]
    return found


def test_a_damaged_state_is_refused_or_taken_and_nothing_else() -> None:
    desk = full()
    checkpoint, stored = desk.checkpoint, desk.stored
    refused = 0
    beside = {key: json.loads(text) for key, text in stored.items() if key.startswith("~")}
    kinds = {key.split("|")[0] for key in beside}
    assert kinds == {"~covered", "~eased", "~group", "~swallowed"}
    cases = [(each, beside) for each in damaged(json.loads(checkpoint))]
    for kind in sorted(kinds):
        key = min(key for key in beside if key.startswith(kind))
        cases += [
            (json.loads(checkpoint), {**beside, key: each})
            for each in damaged(beside[key])
            if isinstance(each, dict)  # the monitor has looked at that
        ]
    for document, documents in cases:
        try:
            desk.delivery.restore(document, documents)
        except MalformedError:
            refused += 1
            assert set(documents) <= {key for key, gone in desk.delivery.take_changed().items() if not gone}
        desk.delivery.tick(desk.now)
        desk.commit()
        desk.stored, desk.checkpoint = dict(stored), checkpoint
    assert refused > 100


@pytest.mark.parametrize("storm", [0, 2])
def test_what_is_noted_of_alerts_that_are_not_there_is_dropped(storm: int) -> None:
    desk = full()
    desk.configure(storm=storm)
    desk.stored = {key: text for key, text in desk.stored.items() if key.startswith("~")}
    desk.restart()
    desk.due()
    assert {key.split("|")[0] for key in desk.stored} <= {"~group"}
