"""Conditions about one list and its devices: when they begin, end, go on over a restart.

Through the monitor they are tested in `test_monitor` and its neighbours; here are the rules by themselves.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from dmimad.core.alert import AlertBook, Status, alert_to_document
from dmimad.core.baseline import Baseline
from dmimad.core.device import Device
from dmimad.core.errors import MalformedError
from dmimad.core.finding import Finding, Severity, make_finding
from dmimad.core.observation import LiveDevice
from dmimad.core.supervision import Supervision
from dmimad.core.table import Provenance, Table
from tests.core.monitored import listed

HASH, OTHER = b"\1" * 32, b"\2" * 32
SCOPE = "scope"


class Post:
    """A supervision with its alert book, which forgets nothing when another process takes over."""

    def __init__(
        self, baseline: Baseline | None = None, *, hold_off: float = 0.0, scope: str = SCOPE
    ) -> None:
        self.book = AlertBook(hold_off)
        self.counts: Counter[tuple[str, str]] = Counter()
        self.baseline = baseline or Baseline()
        self.watch = self._supervision(scope)

    def _supervision(self, scope: str) -> Supervision:
        watch = Supervision(self.book, scope, self.counts)
        watch.baseline = self.baseline
        return watch

    def restart(self, scope: str = SCOPE) -> None:
        """Another process, with what was stored."""
        book = AlertBook(self.book.hold_off_seconds)
        book.restore(
            {alert.key: json.loads(json.dumps(alert_to_document(alert))) for alert in self.book.holding()}
        )
        evidence = json.loads(json.dumps(self.watch.evidence_document()))
        self.book, self.counts = book, Counter()
        self.watch = self._supervision(scope)
        self.watch.restore(list(book.holding()), evidence)

    def told(self) -> list[tuple[str, str]]:
        """Code and status of what is to be told."""
        return [(notice.alert.finding.code, notice.status.value) for notice in self.book.take_notices()]

    def ids(self) -> list[str]:
        return [notice.id for notice in self.book.take_notices()]


def device(name: bytes = b"a", minor: int = 0, **changes: Any) -> Device:
    made = Device(f"254:{minor}", 254, minor, name, b"", Table(HASH, name, b"", 1, loaded_at=1))
    return made._replace(**changes)


def drift(severity: Severity | None = None, device: str = "254:0") -> Finding:
    return make_finding("drift.live", "a is not measured", device=device, severity=severity)


# -- observations --------------------------------------------------------------------------


def test_what_an_observation_says_holds_until_one_does_not() -> None:
    post = Post(hold_off=60.0)
    post.watch.hold_live({"k": drift()}, {"254:0": "a"}, 10.0, settled=True)
    (notice,) = post.book.take_notices()
    assert (notice.status, notice.alert.subject, notice.at) == (Status.FIRING, "a", 10.0)
    post.watch.hold_live({"k": drift()}, {"254:0": "a"}, 11.0, settled=False)
    assert post.told() == []
    post.watch.hold_live({}, {}, 12.0, settled=False)
    assert post.told() == [("drift.live", "resolved")]
    assert post.counts == {("drift.live", "critical"): 1}


def test_another_severity_is_another_alert() -> None:
    post = Post()
    for now, severity in enumerate((Severity.INFO, Severity.WARNING, Severity.CRITICAL), 10):
        post.watch.hold_live({"k": drift(severity)}, {}, float(now), settled=True)
    assert post.told() == [("drift.live", "firing"), ("drift.live", "resolved"), ("drift.live", "firing")]
    assert post.book.firing()[Severity.CRITICAL] == 1
    assert post.book.firing()[Severity.WARNING] == 0


def test_doubt_after_a_restart_takes_nothing_back_and_certainty_does() -> None:
    post = Post()
    held = {"k": drift(), "l": drift(device="254:1")}
    post.watch.hold_live(held, {}, 10.0, settled=True)
    post.told()
    post.restart()
    post.watch.hold_live({"k": drift()}, {}, 20.0, settled=False)
    assert (post.told(), post.counts) == ([], {})
    post.watch.hold_live({"k": drift()}, {}, 21.0, settled=True)
    assert post.told() == [("drift.live", "resolved")]
    post.watch.hold_live({}, {}, 22.0, settled=False)
    assert post.told() == [("drift.live", "resolved")]
    assert list(post.book.holding()) == []


# -- the list itself -----------------------------------------------------------------------


def test_what_is_wrong_with_the_list_holds_over_a_restart() -> None:
    post = Post(hold_off=60.0)
    found = make_finding("list.gap", "lost", record=7)
    for now in (10.0, 11.0):
        post.watch.hold_list(found, now)
    assert (post.told(), post.counts["list.gap", "critical"]) == ([("list.gap", "firing")], 1)
    post.restart()
    post.watch.hold_list(found, 20.0)
    assert (post.told(), post.counts) == ([], {})
    post.watch.cease_list("pcr.mismatch", 21.0)
    assert post.told() == []
    post.watch.cease_list("list.gap", 22.0)
    post.watch.cease_list("list.gap", 23.0)
    assert post.told() == [("list.gap", "resolved")]
    post.watch.hold_list(found, 24.0)
    assert (post.told(), post.counts["list.gap", "critical"]) == ([("list.gap", "firing")], 1)


def test_of_another_list_it_ends_when_this_one_is_read() -> None:
    post = Post()
    post.watch.hold_list(make_finding("pcr.mismatch", "wrong"), 10.0)
    post.watch.hold_live({"k": drift()}, {}, 10.0, settled=True)
    post.told()
    post.restart("another")
    post.watch.hold_live({"k": drift()}, {}, 20.0, settled=True)
    assert post.told() == [("drift.live", "firing")]
    post.watch.cease_others(21.0)
    assert sorted(post.told()) == [("drift.live", "resolved"), ("pcr.mismatch", "resolved")]
    assert [alert.key for alert in post.book.holding()] == ["another|live:k|critical"]


def test_what_happened_is_told_once_for_a_cause_in_one_list() -> None:
    post = Post(hold_off=60.0)
    found = make_finding("activity.unrecorded", "something was done")
    post.watch.announce("254:0|7", found, "a", 10.0)
    post.watch.announce("254:0|7", found, "a", 11.0)
    assert len(post.ids()) == 1
    post.watch.announce("254:0|8", found, "a", 12.0)
    post.watch.announce("254:1|7", found, "a", 12.0)
    assert len(set(post.ids())) == 2
    assert list(post.book.holding()) == []
    again = Post(scope="another")
    again.watch.announce("254:0|7", found, "a", 10.0)
    same = Post()
    same.watch.announce("254:0|7", found, "a", 99.0)
    first = Post()
    first.watch.announce("254:0|7", found, "a", 10.0)
    assert first.ids() == same.ids() != again.ids()


# -- devices -------------------------------------------------------------------------------


def test_a_drift_that_only_the_kernel_tells() -> None:
    post = Post(listed(f'name = "a"\nhashes = ["sha256:{HASH.hex()}"]'))
    seen = Table(OTHER, b"a", b"", 1, provenance=Provenance.OBSERVED)
    post.watch.note(device(), 7, "digest", "device_resume")
    post.watch.present(device(active=seen, changed_at=7), 10.0, None)
    (notice,) = post.book.take_notices()
    assert (notice.alert.finding.record, notice.record) == (None, None)
    assert notice.alert.finding.data["witness"] == "observed"
    assert "template_digest" not in notice.alert.finding.data  # no record shows it
    post.watch.present(device(changed_at=7), 11.0, None)
    assert post.told() == [("drift.active", "resolved")]


def test_a_device_that_goes_without_a_record_and_comes_back() -> None:
    post = Post(listed('name = "a"'))
    post.watch.present(device(), 10.0, 3)
    assert list(post.watch.retained("h")) == ["dmimad/v1/h/device/254:0"]
    post.watch.gone(device(), 20.0, None)
    (notice,) = post.book.take_notices()
    assert (notice.alert.finding.code, notice.alert.finding.record) == ("device.removed", None)
    assert (post.watch.retained("h"), post.watch.changed) == ({}, {"254:0"})
    post.restart()
    post.watch.present(device(minor=4), 30.0, None)
    assert post.told() == [("device.removed", "resolved")]


def test_a_device_nobody_asked_for_goes_quietly() -> None:
    post = Post(listed('name = "b"'))
    post.watch.report_unexpected = False
    post.watch.present(device(), 10.0, 3)
    post.watch.gone(device(), 20.0, None)
    assert post.told() == []


def test_what_is_live_is_shown_where_the_numbers_are_known() -> None:
    post = Post()
    live = LiveDevice(254, 0, b"a", b"", True, False, 9, None, None)
    post.watch.live = {(254, 0): live}
    post.watch.view(device())
    post.watch.view(device(b"b")._replace(key="name-b", major=None, minor=None))
    shown = {topic.rpartition("/")[2]: json.loads(text) for topic, text in post.watch.retained("h").items()}
    assert (shown["254:0"]["suspended"], shown["254:0"]["event_nr"]) == (True, 9)
    assert (shown["name-b"]["live"], shown["name-b"]["suspended"]) == (False, None)


def test_series_of_a_device_that_nobody_has_judged() -> None:
    series = Post().watch.series(device())
    assert (series.device, series.drift_active, series.active_provenance) == ("a", False, "measured")


@pytest.mark.parametrize(
    "stored",
    [
        {"254:0": []},
        {"254:0": {"-1": ["a", "b"]}},
        {"254:0": {"x": ["a", "b"]}},
        {"254:0": {"1": "ab"}},
        {"254:0": {"1": ["a"]}},
    ],
)
def test_evidence_that_is_damaged(stored: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        Post().watch.restore([], stored)
