"""Conditions over time: fire once when they have held, resolve once when they cease."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmimad.core import alert as alerts
from dmimad.core.alert import Alert, AlertBook, State, Status, alert_from_document, alert_to_document
from dmimad.core.errors import MalformedError
from dmimad.core.finding import Difference, Finding, Severity, make_finding

FOUND = make_finding("drift.active", "text", device="254:0", record=7, expected="x", actual="y")
Told = list[tuple[str, str, float, int]]


def hold(
    book: AlertBook, now: float, key: str = "k", *, since: float | None = None, at_once: bool = False
) -> None:
    book.hold(key, FOUND, "dev", since=now if since is None else since, now=now, at_once=at_once)


def told(book: AlertBook) -> Told:
    """Status, key, time and occurrence of the notices since the last call."""
    return [
        (found.status, found.alert.key, found.at, found.alert.occurrence) for found in book.take_notices()
    ]


def stored(book: AlertBook) -> dict[str, dict[str, object]]:
    """What a store would have of a book that nothing was taken from."""
    changed = book.take_changed()
    documents = {key: alert_to_document(alert) for key, alert in changed.items() if alert is not None}
    loaded: dict[str, dict[str, object]] = json.loads(json.dumps(documents))
    return loaded


def reborn(book: AlertBook) -> AlertBook:
    """Another process' book after the state was stored."""
    other = AlertBook(book.hold_off_seconds)
    other.restore(stored(book))
    return other


# -- firing and resolving ------------------------------------------------------------------


def test_fires_once_after_the_hold_off() -> None:
    book = AlertBook(2.0)
    hold(book, 10.0)
    assert told(book) == []
    assert book.next_due() == 12.0
    book.tick(11.9)
    assert told(book) == []
    book.tick(12.0)
    assert told(book) == [("firing", "k", 12.0, 1)]
    assert book.next_due() is None
    hold(book, 13.0)
    book.tick(20.0)
    assert told(book) == []


def test_what_ceases_within_the_hold_off_leaves_no_trace() -> None:
    book = AlertBook(2.0)
    hold(book, 10.0)
    book.cease("k", now=11.0, record=9)
    book.tick(20.0)
    assert told(book) == []
    assert list(book.holding()) == []
    assert book.take_changed() == {"k": None}


def test_resolves_once() -> None:
    book = AlertBook(2.0)
    hold(book, 10.0)
    book.tick(12.0)
    book.take_notices()
    book.cease("k", now=15.0, record=9)
    (notice,) = book.take_notices()
    assert (notice.status, notice.at, notice.record) == (Status.RESOLVED, 15.0, 9)
    assert (notice.alert.state, notice.alert.since, notice.alert.changed) == (State.RESOLVED, 10.0, 15.0)
    book.cease("k", now=16.0, record=10)
    book.cease("never held", now=16.0, record=10)
    assert told(book) == []


def test_a_firing_notice_names_the_findings_record() -> None:
    book = AlertBook(0.0)
    hold(book, 10.0)
    (notice,) = book.take_notices()
    assert (notice.status, notice.record, notice.alert.finding) == (Status.FIRING, 7, FOUND)


@pytest.mark.parametrize(
    ("hold_off", "since", "at_once", "fires"),
    [
        (0.0, 10.0, False, True),
        (2.0, 10.0, True, True),
        (2.0, 8.0, False, True),
        (2.0, 8.1, False, False),
        (2.0, 99.0, False, False),
    ],
    ids=["no hold-off", "at once", "held already", "not long enough", "since the future"],
)
def test_what_fires_when_it_is_first_seen(hold_off: float, since: float, at_once: bool, fires: bool) -> None:
    book = AlertBook(hold_off)
    hold(book, 10.0, since=since, at_once=at_once)
    assert bool(told(book)) is fires
    assert next(book.holding()).since == min(since, 10.0)


def test_a_key_that_is_held_again_stays_what_it_was() -> None:
    book = AlertBook(0.0)
    book.hold("k", make_finding("drift.inactive", "staged"), "dev", since=1.0, now=1.0)
    book.hold("k", FOUND, "dev", since=2.0, now=2.0, at_once=True)
    assert told(book) == [("firing", "k", 1.0, 1)]
    alert = book.get("k")
    assert alert is not None
    assert (alert.finding.code, alert.since, book.get("other")) == ("drift.inactive", 1.0, None)


def test_the_queue_does_not_grow_with_what_has_ceased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "_MAX_STALE", 4)
    book = AlertBook(100.0)
    hold(book, 1.0, "old")
    for number in range(50):
        hold(book, 2.0 + number, f"k{number}")
        book.cease(f"k{number}", now=2.5 + number, record=None)
        assert len(book._queue) <= 8
    assert book.next_due() == 101.0
    book.tick(101.0)
    assert told(book) == [("firing", "old", 101.0, 1)]


def test_due_together_fire_in_the_order_they_began() -> None:
    book = AlertBook(2.0)
    for key, since in (("c", 11.0), ("b", 10.0), ("a", 11.0)):
        hold(book, since, key)
    assert book.next_due() == 12.0
    book.tick(20.0)
    assert [key for _, key, _, _ in told(book)] == ["b", "a", "c"]


def test_the_same_cause_again_is_another_occurrence() -> None:
    book = AlertBook(0.0)
    ids = []
    for now in (10.0, 20.0):
        hold(book, now)
        book.cease("k", now=now + 1, record=None)
        notices = book.take_notices()
        ids += [notice.id for notice in notices]
        assert [notice.alert.occurrence for notice in notices] == [now // 10, now // 10]
    assert len(set(ids)) == 4


def test_one_that_fired_before_and_ceases_within_the_hold_off_stays_resolved() -> None:
    book = AlertBook(2.0)
    hold(book, 10.0, at_once=True)
    book.cease("k", now=11.0, record=None)
    book.take_notices()
    hold(book, 12.0)
    book.cease("k", now=13.0, record=None)
    assert told(book) == []
    (kept,) = book.take_changed().values()
    assert kept is not None
    assert (kept.state, kept.occurrence) == (State.RESOLVED, 1)
    hold(book, 14.0, at_once=True)
    assert told(book) == [("firing", "k", 14.0, 2)]


def test_announcements_are_told_once_and_never_resolve() -> None:
    book = AlertBook(2.0)
    for now in (10.0, 11.0):
        book.announce("k", FOUND, "", now=now)
    book.cease("k", now=12.0, record=None)
    assert told(book) == [("firing", "k", 10.0, 1)]
    assert list(book.holding()) == []
    other = reborn(book)
    other.announce("k", FOUND, "", now=13.0)
    assert told(other) == []


# -- ids -----------------------------------------------------------------------------------


def test_ids_are_those_of_any_other_process() -> None:
    ids = []
    for start in (10.0, 5000.0):
        book = AlertBook(start)
        hold(book, start, at_once=True)
        book.cease("k", now=start + 1, record=3)
        ids.append([notice.id for notice in book.take_notices()])
    assert ids[0] == ids[1]
    # Subscribers know these by heart: an id must not change with a version.
    assert ids[0] == [
        "563a1e760606240f70210791b39a0b0d",
        "0111a3297b6ccca3432836436b470aab",
    ]


def test_ids_differ_by_key_occurrence_and_status() -> None:
    book = AlertBook(0.0)
    for key in ("a", "b", "c"):
        hold(book, 1.0, key)
        book.cease(key, now=2.0, record=None)
        hold(book, 3.0, key)
        book.cease(key, now=4.0, record=None)
    assert len({notice.id for notice in book.take_notices()}) == 12


# -- clocks --------------------------------------------------------------------------------


def test_a_clock_that_was_set_back_does_not_delay() -> None:
    book = AlertBook(2.0)
    hold(book, 1000.0, "late")
    hold(book, 1.0, "early")
    book.take_changed()
    book.clock_stepped_back(10.0)
    assert book.next_due() == 3.0
    assert {alert.key: alert.since for alert in book.holding()} == {"late": 10.0, "early": 1.0}
    assert list(book.take_changed()) == ["late"]
    book.tick(12.0)
    assert told(book) == [("firing", "early", 12.0, 1), ("firing", "late", 12.0, 1)]


def test_what_fires_already_keeps_its_time() -> None:
    book = AlertBook(0.0)
    hold(book, 1000.0)
    book.clock_stepped_back(10.0)
    assert next(book.holding()).since == 1000.0


# -- what there is -------------------------------------------------------------------------


def test_firing_counts_by_severity() -> None:
    book = AlertBook(2.0)
    assert book.firing() == {Severity.INFO: 0, Severity.WARNING: 0, Severity.CRITICAL: 0}
    hold(book, 1.0, "fires", at_once=True)
    hold(book, 1.0, "waits")
    hold(book, 1.0, "was", at_once=True)
    book.cease("was", now=2.0, record=None)
    warning = make_finding("device.unexpected", "text")
    book.hold("warns", warning, "", since=1.0, now=1.0, at_once=True)
    assert book.firing() == {Severity.INFO: 0, Severity.WARNING: 1, Severity.CRITICAL: 1}
    assert {alert.key for alert in book.holding()} == {"fires", "waits", "warns"}


def test_changes_are_taken_once() -> None:
    book = AlertBook(2.0)
    hold(book, 1.0)
    (taken,) = book.take_changed().values()
    assert taken == Alert("k", FOUND, "dev", State.PENDING, 1.0, 1.0, 0)
    assert book.take_changed() == {}
    book.tick(3.0)
    (taken,) = book.take_changed().values()
    assert taken == Alert("k", FOUND, "dev", State.FIRING, 1.0, 3.0, 1)


def test_resolved_ones_are_forgotten_beyond_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "MAX_RESOLVED", 2)
    book = AlertBook(0.0)
    for number in range(4):
        hold(book, 1.0, f"k{number}")
    for number in (1, 0, 2):
        book.cease(f"k{number}", now=2.0, record=None)
    assert {key for key, alert in book.take_changed().items() if alert is None} == {"k1"}
    assert [alert.key for alert in book.holding()] == ["k3"]
    book.take_notices()
    for number in (0, 1):
        hold(book, 3.0, f"k{number}")
    assert told(book) == [("firing", "k0", 3.0, 2), ("firing", "k1", 3.0, 1)]
    book.cease("k3", now=4.0, record=None)  # k0 holds again, so there is room
    assert None not in book.take_changed().values()


# -- going on in another process -----------------------------------------------------------


def test_restored_alerts_go_on() -> None:
    book = AlertBook(2.0)
    hold(book, 10.0, "pending")
    hold(book, 10.0, "firing", at_once=True)
    hold(book, 10.0, "resolved", at_once=True)
    book.cease("resolved", now=11.0, record=None)
    other = reborn(book)
    assert other.take_changed() == {}
    assert other.next_due() == 12.0
    for key in ("pending", "firing"):
        hold(other, 11.0, key)
    other.cease("resolved", now=11.0, record=None)
    assert told(other) == []
    other.tick(12.0)
    other.cease("firing", now=13.0, record=None)
    hold(other, 13.0, "resolved", at_once=True)
    assert told(other) == [
        ("firing", "pending", 12.0, 1),
        ("resolved", "firing", 13.0, 1),
        ("firing", "resolved", 13.0, 2),
    ]


def test_restored_resolved_ones_count_towards_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "MAX_RESOLVED", 1)
    book = AlertBook(0.0)
    hold(book, 1.0, "old")
    book.cease("old", now=2.0, record=None)
    other = reborn(book)
    hold(other, 3.0, "new")
    other.cease("new", now=4.0, record=None)
    assert other.take_changed()["old"] is None


ALERTS = st.builds(
    Alert,
    st.just("k"),
    st.builds(
        Finding,
        st.text(),
        st.sampled_from(Severity),
        st.text(),
        st.text(),
        st.none() | st.integers(),
        st.dictionaries(st.text(), st.text()),
        st.lists(
            st.builds(Difference, st.none() | st.integers(), st.text(), st.text(), st.text()), max_size=3
        ).map(tuple),
    ),
    st.text(),
    st.sampled_from(State),
    st.floats(0, alerts.MAX_SECONDS),
    st.floats(0, alerts.MAX_SECONDS),
    st.integers(),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
BOUNDED = settings(derandomize=True, deadline=None, database=None, max_examples=100)


@BOUNDED
@given(ALERTS)
def test_documents_round_trip(alert: Alert) -> None:
    assert alert_from_document("k", json.loads(json.dumps(alert_to_document(alert)))) == alert


GOOD = alert_to_document(Alert("k", FOUND, "dev", State.FIRING, 1.0, 2.0, 1))


@pytest.mark.parametrize("name", sorted(GOOD.keys() - {"differences"}))  # once there were none
def test_a_document_that_lacks_something_is_refused(name: str) -> None:
    with pytest.raises(MalformedError, match=r"^a stored alert is damaged$"):
        alert_from_document("k", {key: value for key, value in GOOD.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data", []),
        ("record", "7"),
        ("severity", "loud"),
        ("state", "lost"),
        ("since", None),
        ("changed", "now"),
        ("since", "nan"),
        ("since", 1e300),
        ("changed", -1.0),
        ("changed", alerts.MAX_SECONDS + 1),
        ("occurrence", "1.5"),
        ("differences", "x"),
        ("differences", [1]),
        ("differences", [[0, "a", "b"]]),
        ("differences", [[0, "a", "b", 1]]),
        ("differences", [[0, "a", "b", "c"]] * 65),
    ],
)
def test_a_damaged_document_is_refused(name: str, value: object) -> None:
    with pytest.raises(MalformedError, match=r"^a stored alert is damaged$"):
        alert_from_document("k", {**GOOD, name: value})


@BOUNDED
@given(st.sampled_from(sorted(GOOD)), JSON)
def test_damage_raises_nothing_else(name: str, value: object) -> None:
    try:
        found = alert_from_document("k", {**GOOD, name: value})
    except MalformedError:
        return
    assert replace(found, key="k") == found


def test_restore_refuses_damage() -> None:
    with pytest.raises(MalformedError):
        AlertBook(0.0).restore({"k": {}})
