"""Conditions about one list and its devices: when they begin, end, go on over a restart.

Through the monitor they are tested in `test_monitor` and its neighbours; here are the rules by themselves.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any

import pytest

from dmimad.core.alert import AlertBook, Status, alert_to_document
from dmimad.core.baseline import Baseline
from dmimad.core.device import Device
from dmimad.core.errors import MalformedError
from dmimad.core.event import Identity
from dmimad.core.finding import Finding, Severity, make_finding
from dmimad.core.moments import Moments
from dmimad.core.observation import LiveDevice
from dmimad.core.supervision import Supervision
from dmimad.core.table import Provenance, Table
from tests.core.monitored import listed

HASH, OTHER = b"\1" * 32, b"\2" * 32
SCOPE = "scope"


#: Of the devices here.
KEYS = ("254:0", "254:1", "254:2")


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
        stored = {key: json.loads(json.dumps(self.watch.stored(key))) for key in KEYS}
        evidence = {key: each["evidence"] for key, each in stored.items()}
        moments = {key: stored[key]["moments"] for key in KEYS if self.watch.moments(key) != Moments()}
        self.book, self.counts = book, Counter()
        self.watch = self._supervision(scope)
        self.watch.restore(list(book.holding()), evidence, moments)

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
    post.watch.view(device(), 10.0)
    post.watch.view(device(b"b")._replace(key="name-b", major=None, minor=None), 10.0)
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
        Post().watch.restore([], stored, {})


# -- since when, and by which names --------------------------------------------------------


def test_since_when_a_device_is_as_it_is() -> None:
    post = Post(listed(f'name = "a"\nhashes = ["sha256:{HASH.hex()}"]'))
    assert post.watch.moments("254:0") == Moments()
    post.watch.present(device(), 10.0, 1)
    post.watch.present(device(), 11.0, 2)
    assert post.watch.moments("254:0") == Moments(10.0, 10.0, 10.0)
    staged = Table(OTHER, b"a", b"", 1)
    post.watch.present(device(inactive=staged), 12.0, 3)
    assert post.watch.moments("254:0") == Moments(12.0, 10.0, 12.0)
    post.restart()
    post.watch.view(device(inactive=staged), 20.0)
    assert post.watch.moments("254:0") == Moments(12.0, 10.0, 12.0)
    post.watch.present(device(active=staged), 21.0, 4)
    assert post.watch.moments("254:0") == Moments(12.0, 21.0, 21.0)  # it was drift, and is
    post.watch.gone(device(active=staged), 22.0, 5)
    assert post.watch.moments("254:0") == Moments()


def test_moments_of_a_state_without_them_are_not_made_up() -> None:
    post = Post()
    post.watch.restore([], {}, {})
    post.watch.view(device(), 20.0)
    assert post.watch.moments("254:0") == Moments()
    post.watch.present(device(inactive=Table(OTHER, b"a", b"", 1)), 21.0, 4)
    assert post.watch.moments("254:0") == Moments(None, None, 21.0)
    post.restart()
    post.watch.view(device(inactive=Table(OTHER, b"a", b"", 1)), 30.0)
    assert post.watch.moments("254:0") == Moments(None, None, 21.0)


@pytest.mark.parametrize(
    "stored", [None, [], [1.0, 2.0], [1, 2, 3, 4], ["1", 1, 1], [-1, 1, 1], [1e300, 1, 1]]
)
def test_moments_that_are_damaged(stored: object) -> None:
    with pytest.raises(MalformedError):
        Post().watch.restore([], {}, {"254:0": stored})


TEXT = b"name=a;target_index=0,target_begin=0,target_len=8,target_name=linear,device_name=8:3;"


def above() -> Device:
    return device(active=Table(HASH, b"a", b"", 1, (TEXT,), 1))


def named(name: str) -> str:
    text = f'["dmimad-config-1",[[8,"linear",[["device_name","{name}","device"]]]]]'
    return "config:" + hashlib.sha256(text.encode()).hexdigest()


def test_a_device_below_that_gets_its_name_late_is_looked_at_again() -> None:
    post = Post(listed(f'name = "a"\nfingerprints = ["{named("serial:x")}"]'), hold_off=2.0)
    names: dict[tuple[int, int], tuple[str, ...]] = {}
    post.watch.names = lambda number: names.get(number, ())
    post.watch.present(above(), 10.0, 1)
    assert post.counts == {("drift.active", "critical"): 1}
    names[8, 3] = ("serial:x",)
    post.watch.refresh([above()], 11.0)
    post.book.tick(20.0)
    assert post.told() == []  # it was known before the hold-off was over
    names[8, 3] = ("serial:y",)
    post.watch.refresh([above()], 30.0)
    post.watch.refresh([above()], 31.0)
    post.book.tick(40.0)
    assert post.told() == [("drift.active", "firing")]


def test_a_document_has_the_names_of_now_whatever_the_baseline_asks_for() -> None:
    post = Post()
    names: dict[tuple[int, int], tuple[str, ...]] = {}
    post.watch.names = lambda number: names.get(number, ())

    def shown() -> object:
        (payload,) = post.watch.retained("h").values()
        return json.loads(payload)["active"]["fingerprint"]

    post.watch.present(above(), 10.0, 1)
    assert shown() == named("number:8:3")
    names[8, 3] = ("serial:x",)
    assert shown() == named("number:8:3")
    post.watch.changed.clear()
    post.watch.refresh([above()], 11.0)
    assert (shown(), post.watch.changed) == (named("serial:x"), set())
    post.watch.refresh([above()], 12.0)
    assert shown() == named("serial:x")


# -- what was done to a device -------------------------------------------------------------

FIXED = f'name = "a"\nhashes = ["sha256:{HASH.hex()}", "sha256:{OTHER.hex()}"]\nallow = []'


def test_a_replaced_table_is_told_once_also_over_a_restart() -> None:
    post = Post(listed(FIXED))
    post.watch.present(device(), 10.0, 1)
    after = device(active=Table(OTHER, b"a", b"", 1), changed_at=4)
    post.watch.note(after, 4, "digest", "device_resume")
    post.watch.present(after, 11.0, 4)
    (notice,) = post.book.take_notices()
    finding = notice.alert.finding
    assert (finding.code, finding.record, finding.data["event"]) == ("device.reloaded", 4, "device_resume")
    assert (finding.data["expected"], finding.data["actual"]) == (
        f"sha256:{HASH.hex()}",
        f"sha256:{OTHER.hex()}",
    )
    post.watch.present(after, 12.0, 4)
    post.restart()
    post.watch.view(after, 20.0)
    post.watch.present(after, 21.0, 5)
    assert post.told() == []
    assert list(post.book.holding()) == []


def test_the_same_swap_once_more_without_a_record_is_told_once_more() -> None:
    post = Post(listed(FIXED))
    post.watch.present(device(), 10.0, 1)
    for now, table_hash in ((11.0, OTHER), (12.0, HASH), (13.0, OTHER), (14.0, b"")):
        seen = Table(table_hash, b"a", b"", 1, provenance=Provenance.OBSERVED)
        post.watch.present(device(active=seen), now, None)
    told = post.book.take_notices()
    assert [notice.alert.finding.code for notice in told] == ["device.reloaded"] * 3
    assert len({notice.id for notice in told}) == 3


def test_a_renamed_device_is_told_with_its_record_and_not_again_after_a_restart() -> None:
    post = Post(listed('name = "a"\nrequired = true'))
    post.watch.present(device(), 10.0, 1)
    renamed = device(b"b", former=(Identity(b"a", b""),))
    post.watch.note(renamed, 7, "digest", "device_rename")
    post.watch.present(renamed, 11.0, 7)
    post.watch.check_missing([renamed], 11.0, 7)
    (notice,) = post.book.take_notices()
    finding = notice.alert.finding
    assert (finding.code, finding.record, finding.data["event"]) == ("device.renamed", 7, "device_rename")
    post.restart()
    post.watch.view(renamed, 20.0)
    post.watch.judge(renamed, 20.0, None)
    post.watch.check_missing([renamed], 20.0, None)
    assert post.told() == []
    post.watch.present(device(), 30.0, 9)
    assert post.told() == [("device.renamed", "resolved")]


def test_a_device_that_went_under_another_name_is_back_under_its_own() -> None:
    post = Post(listed('name = "a"'))
    renamed = device(b"b", former=(Identity(b"a", b""),))
    post.watch.present(renamed, 10.0, 7)
    post.watch.gone(renamed, 11.0, 8)
    assert post.told() == [
        ("device.renamed", "firing"),
        ("device.renamed", "resolved"),
        ("device.removed", "firing"),
    ]
    post.watch.present(device(minor=1), 12.0, 9)
    assert post.told() == [("device.removed", "resolved")]


def test_what_is_staged_over_verity_waits_for_nothing() -> None:
    post = Post(listed(f'name = "a"\nhashes = ["sha256:{HASH.hex()}"]'), hold_off=60.0)
    verity = Table(HASH, b"a", b"", 1, (TEXT.replace(b"linear", b"verity"),), 1)
    post.watch.present(device(active=verity, inactive=Table(OTHER, b"a", b"", 1)), 10.0, 2)
    assert post.told() == [("drift.inactive", "firing")]
    post.watch.present(device(b"c", active=verity, inactive=None), 10.0, 2)
    plain = Post(post.baseline, hold_off=60.0)
    plain.watch.present(device(inactive=Table(OTHER, b"a", b"", 1)), 10.0, 2, at_once=True)
    assert plain.told() == []


def test_a_violated_rule_is_an_alert_of_its_slot_and_table() -> None:
    post = Post(listed('name = "a"\n[[device.target]]\ntype = "verity"'))
    bad = Table(OTHER, b"a", b"", 1, (TEXT,), 1)
    post.watch.present(device(active=bad, inactive=bad, changed_at=4, staged_at=5), 10.0, 5)
    assert post.told() == [("policy.attribute", "firing")] * 2
    post.restart()
    post.watch.judge(device(active=bad, changed_at=4, staged_at=6), 11.0, 6)
    assert post.told() == [("policy.attribute", "resolved")]


def test_who_is_missing_is_looked_for_again_when_something_else_is_asked_for() -> None:
    post = Post(listed('name = "a"\nrequired = true\nnot_after = 1970-01-01T00:00:50Z'))
    post.watch.check_missing([], 10.0, None)
    post.watch.check_missing([], 11.0, None)
    assert post.told() == [("device.missing", "firing")]
    post.watch.check_missing([], 60.0, None)  # the approval has ended, and nobody came
    assert post.told() == [("device.missing", "resolved")]
    post.watch.baseline = listed('name = "b"\nrequired = true')
    post.watch.check_missing([], 61.0, None)
    assert post.told() == [("device.missing", "firing")]
