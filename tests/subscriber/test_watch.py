"""What a watch makes of messages: verified, each once, in order, and who is silent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmimad.adapters.keys import SigningKey
from dmimad.core.commit import Message
from dmimad.subscriber import (
    Alert,
    HostBack,
    HostKeys,
    HostSilent,
    InvalidAlert,
    Malformed,
    Missing,
    Restarted,
    Trust,
    Watch,
    WatchEvent,
    document,
)
from dmimad.subscriber import watch as module
from tests.subscriber.publishing import alert, changed, write_public

WEB, OTHER = SigningKey.generate(), SigningKey.generate()
STATUS = "dmimad/v1/web-1/status"
TOPIC = "dmimad/v1/web-1/alert/critical"


@pytest.fixture
def keys(tmp_path: Path) -> HostKeys:
    """One key, of web-1."""
    return HostKeys.load([write_public(tmp_path / "keys/web-1.pub", WEB).parent])


def give(watch: Watch, *messages: Message, now: float = 0.0) -> list[WatchEvent]:
    return [
        event for message in messages for event in watch.receive(message.topic, message.payload, False, now)
    ]


def sequences(events: list[WatchEvent]) -> list[int]:
    """Of the alerts; nothing else may be among them."""
    return [event.sequence if isinstance(event, Alert) else pytest.fail(f"{event}") for event in events]


def only(events: list[WatchEvent]) -> WatchEvent:
    assert len(events) == 1, events
    return events[0]


def reason(events: list[WatchEvent]) -> str:
    """Of the invalid alert that is all there is."""
    event = only(events)
    assert isinstance(event, InvalidAlert), event
    assert event.claimed.signature.trust is Trust.INVALID
    assert event.claimed.signature.reason == event.reason
    return event.reason


class TestAlerts:
    def test_in_order_each_once(self) -> None:
        watch = Watch(0.0)
        assert sequences(give(watch, alert(1), alert(2), alert(1), alert(3), alert(2))) == [1, 2, 3]
        assert watch.tick(1000.0) == []

    def test_hosts_count_for_themselves(self) -> None:
        watch = Watch(0.0)
        events = give(watch, alert(1), alert(5, host="db-1"), alert(2), alert(6, host="db-1"))
        assert sequences(events) == [1, 5, 2, 6]
        assert watch.tick(1000.0) == []

    def test_what_does_not_come_is_told_after_the_grace(self) -> None:
        watch = Watch(0.0, grace_seconds=5.0)
        give(watch, alert(1), alert(4))
        assert watch.tick(4.9) == []
        assert watch.tick(5.0) == [Missing("web-1", 2, 3)]
        late = only(give(watch, alert(2), now=6.0))
        assert isinstance(late, Alert)
        assert late.late

    def test_counting_anew_is_told_and_nothing_is_missing(self) -> None:
        watch = Watch(0.0)
        events = give(watch, alert(900), alert(1, id="x", at=2e9))
        assert isinstance(events[0], Alert)
        assert events[1] == Restarted("web-1", 1)
        assert isinstance(events[2], Alert)
        assert watch.tick(1000.0) == []

    def test_the_same_cause_after_the_state_was_lost_is_told_once_if_it_is_signed(
        self, keys: HostKeys
    ) -> None:
        watch = Watch(0.0, keys=keys)
        again = alert(1, id="cause", at=2e9, key=WEB)
        assert sequences(give(watch, alert(900, id="cause", key=WEB))) == [900]
        assert give(watch, again) == [Restarted("web-1", 1)]

    def test_without_keys_nobody_suppresses_an_alert_by_using_its_id_first(self) -> None:
        watch = Watch(0.0)
        forged = Message(TOPIC, changed(alert(2), data_message="harmless"), "")
        assert sequences(give(watch, alert(1), forged, alert(2))) == [1, 2, 2]

    def test_a_host_outside_the_pattern_is_not_there(self) -> None:
        watch = Watch(0.0, only_hosts="web-*")
        assert sequences(give(watch, alert(1), alert(1, host="db-1"))) == [1]
        assert watch.receive("dmimad/v1/db-1/status", b"offline", True, 0.0) == []
        assert watch.tick(1000.0) == []

    def test_a_host_with_a_name_that_has_to_be_quoted(self) -> None:
        event = only(give(Watch(0.0), alert(1, host="web 1 ü%41")))
        assert isinstance(event, Alert)
        assert event.host == "web 1 ü%41"


class TestContradictions:
    def test_a_host_does_not_speak_for_another(self) -> None:
        for source in ("web-2", "%77eb-1", None):
            stolen = Message(TOPIC, changed(alert(1), source=source), "")
            assert reason(give(Watch(0.0), stolen)) == "the event's source is not the host of its topic"

    def test_nor_does_one_that_is_signed(self, keys: HostKeys) -> None:
        moved = Message("dmimad/v1/web-2/alert/critical", alert(1, key=WEB).payload, "")
        assert "source" in reason(give(Watch(0.0, keys=keys), moved))

    def test_a_critical_alert_on_the_topic_of_harmless_ones(self) -> None:
        moved = Message("dmimad/v1/web-1/alert/info", alert(1).payload, "")
        assert reason(give(Watch(0.0), moved)) == "the event's severity is not that of its topic"

    def test_an_alert_that_the_broker_kept(self, keys: HostKeys) -> None:
        events = Watch(0.0, keys=keys).receive(TOPIC, alert(1, key=WEB).payload, True, 0.0)
        assert "kept" in reason(events)


class TestSignatures:
    def test_without_keys_it_is_told_whether_there_is_one(self) -> None:
        unsigned, signed = give(Watch(0.0), alert(1), alert(2, key=WEB))
        assert isinstance(unsigned, Alert)
        assert isinstance(signed, Alert)
        assert (unsigned.signature.trust, signed.signature.trust) == (Trust.UNSIGNED, Trust.NOT_CHECKED)

    def test_a_valid_one_names_its_key(self, keys: HostKeys) -> None:
        event = only(give(Watch(0.0, keys=keys), alert(1, key=WEB)))
        assert isinstance(event, Alert)
        assert (event.signature.trust, event.signature.keyid) == (Trust.VALID, WEB.keyid)

    @pytest.mark.parametrize(
        ("payload", "why"),
        [
            (alert(1).payload, "not signed"),
            (alert(1, key=OTHER).payload, "no trusted key"),
            (changed(alert(1, key=WEB), data_severity="critical", data_message="fine"), "not the one"),
            (changed(alert(1, key=WEB), sequence="00000000000000000009"), "extension attributes"),
            (changed(alert(1, key=WEB), dssematerial="AAAA"), "not"),
            (changed(alert(1, key=WEB), dssematerial=7), "not a short text"),
            (changed(alert(1, key=WEB), dssematerial=None), "not signed"),
        ],
    )
    def test_what_does_not_verify_is_no_alert(self, keys: HostKeys, payload: bytes, why: str) -> None:
        assert why in reason(give(Watch(0.0, keys=keys), Message(TOPIC, payload, "")))

    def test_what_was_not_signed_is_not_believed(self, keys: HostKeys) -> None:
        """The time's fraction is not signed, so it is not in the alert."""
        event = only(give(Watch(0.0, keys=keys), alert(1, key=WEB)))
        assert isinstance(event, Alert)
        assert event.time.isoformat() == "2026-11-22T14:37:15+00:00"

    def test_a_host_without_a_key_may_be_unsigned_unless_signatures_are_required(
        self, keys: HostKeys
    ) -> None:
        event = only(give(Watch(0.0, keys=keys), alert(1, host="web-2")))
        assert isinstance(event, Alert)
        assert event.signature.trust is Trust.UNSIGNED
        strict = Watch(0.0, keys=keys, require_signature=True)
        assert reason(give(strict, alert(1, host="web-2"))) == "the event is not signed"

    def test_a_forgery_changes_nothing(self, keys: HostKeys) -> None:
        """It does not use up an id, lift the sequence, begin it anew or fill a gap."""
        watch = Watch(0.0, keys=keys)
        give(watch, alert(10, key=WEB), alert(12, key=WEB))
        forgeries = [
            alert(13),
            alert(13, key=OTHER),
            alert(4000),
            alert(1, at=2e9),
            alert(11),
            Message(TOPIC, changed(alert(4000), id=f"{13:032x}"), ""),
        ]
        for forged in forgeries:
            assert isinstance(only(give(watch, forged)), InvalidAlert)
        assert sequences(give(watch, alert(13, key=WEB), now=1.0)) == [13]
        assert watch.tick(100.0) == [Missing("web-1", 11, 11)]

    def test_an_old_alert_shown_again_is_late_and_changes_nothing(self, keys: HostKeys) -> None:
        watch = Watch(0.0, keys=keys)
        assert sequences(give(watch, alert(10, key=WEB))) == [10]
        again = only(give(watch, alert(3, key=WEB)))
        assert isinstance(again, Alert)
        assert again.late
        assert sequences(give(watch, alert(11, key=WEB))) == [11]


class TestSilence:
    def test_offline_for_too_long_and_back(self) -> None:
        watch = Watch(0.0, silence_seconds=60.0)
        assert watch.receive(STATUS, b"online", True, 0.0) == []
        assert watch.receive(STATUS, b"offline", False, 100.0) == []
        assert watch.receive(STATUS, b"offline", True, 130.0) == []
        assert watch.tick(159.9) == []
        assert watch.tick(160.0) == [HostSilent("web-1", 100.0, "offline")]
        assert watch.tick(1000.0) == []
        assert watch.receive(STATUS, b"online", False, 1001.0) == [HostBack("web-1")]
        assert watch.receive(STATUS, b"online", False, 1002.0) == []
        assert watch.tick(9999.0) == []

    def test_a_restart_of_the_daemon_is_no_silence(self) -> None:
        watch = Watch(0.0, silence_seconds=60.0)
        watch.receive(STATUS, b"offline", False, 0.0)
        assert watch.receive(STATUS, b"online", False, 59.0) == []
        assert watch.tick(1000.0) == []

    def test_an_expected_host_that_is_never_heard(self) -> None:
        watch = Watch(10.0, expect_hosts=["web-1"], silence_seconds=60.0)
        assert watch.tick(69.9) == []
        assert watch.tick(70.0) == [HostSilent("web-1", 10.0, "never heard")]
        assert watch.receive(STATUS, b"online", False, 80.0) == [HostBack("web-1")]

    def test_a_cleared_status_means_that_the_host_is_gone_unless_it_is_expected(self) -> None:
        for expected, told in (([], []), (["web-1"], [HostSilent("web-1", 5.0, "offline")])):
            watch = Watch(0.0, expect_hosts=expected, silence_seconds=60.0)
            watch.receive(STATUS, b"online", True, 0.0)
            assert watch.receive(STATUS, b"", False, 5.0) == []
            assert watch.tick(1000.0) == told

    def test_another_status_is_malformed(self) -> None:
        events = Watch(0.0).receive(STATUS, b"fine", False, 0.0)
        assert events == [Malformed(STATUS, "a status that is neither online nor offline")]

    def test_while_the_broker_is_not_heard_nobody_is_silent(self) -> None:
        watch = Watch(0.0, expect_hosts=["db-1"], silence_seconds=60.0)
        watch.receive(STATUS, b"online", True, 0.0)
        give(watch, alert(1), alert(3))
        watch.disconnected(10.0)
        assert watch.tick(500.0) == []
        watch.connected(500.0)
        assert watch.receive(STATUS, b"online", True, 500.1) == []
        assert watch.tick(504.9) == []
        assert watch.tick(505.0) == [HostSilent("db-1", 0.0, "never heard"), Missing("web-1", 2, 2)]

    def test_who_is_not_there_after_the_broker_is_back_is_silent(self) -> None:
        watch = Watch(0.0, silence_seconds=60.0)
        watch.receive(STATUS, b"online", True, 0.0)
        watch.disconnected(10.0)
        watch.connected(20.0)
        assert watch.tick(69.9) == []
        silent = only(watch.tick(70.0))
        assert silent == HostSilent("web-1", 10.0, "not heard since the connection to the broker was lost")


class TestLimits:
    def test_further_hosts_are_shown_without_account(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_HOSTS", 3)
        watch = Watch(0.0)
        for number in range(3):
            give(watch, alert(1, host=f"host-{number}"))
        full, shown = give(watch, alert(1, host="one more"))
        assert isinstance(full, Malformed)
        assert isinstance(shown, Alert)
        assert sequences(give(watch, alert(7, host="one more"))) == [7]
        assert watch.tick(1000.0) == []

    def test_statuses_do_not_keep_out_alerts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_HOSTS", 3)
        watch = Watch(0.0)
        for number in range(3):
            assert watch.receive(f"dmimad/v1/host-{number}/status", b"online", False, 0.0) == []
        events = watch.receive("dmimad/v1/one more/status", b"offline", False, 0.0)
        assert isinstance(only(events), Malformed)
        assert sequences(give(watch, alert(1), alert(3))) == [1, 3]
        assert watch.tick(5.0) == [Missing("web-1", 2, 2)]

    def test_there_is_always_room_for_hosts_that_are_known(
        self, monkeypatch: pytest.MonkeyPatch, keys: HostKeys
    ) -> None:
        monkeypatch.setattr(module, "MAX_HOSTS", 1)
        watch = Watch(0.0, keys=keys, expect_hosts=["db-1"])
        give(watch, alert(1, host="stranger"), alert(1, key=WEB), alert(3, key=WEB))
        assert watch.tick(5.0) == [Missing("web-1", 2, 2)]
        assert watch.tick(60.0) == [HostSilent("db-1", 0.0, "never heard")]


NAMES = st.sampled_from(["web-1", "db-1", "a/b", "%", "\x1b[2J"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = st.dictionaries(
    st.sampled_from([*(name for name in json.loads(alert(1).payload) if name != "data"), "dssematerial"])
    | st.sampled_from(["code", "severity", "status", "message", "device", "evidence"]).map("data_".__add__),
    JSON,
    min_size=1,
    max_size=3,
)


class TestHostility:
    @settings(derandomize=True, deadline=None, database=None)
    @given(topic=st.text(), payload=st.binary())
    def test_any_bytes_on_any_topic(self, topic: str, payload: bytes) -> None:
        assert Watch(0.0).receive(topic, payload, False, 0.0) == []

    @settings(derandomize=True, deadline=None, database=None)
    @given(NAMES, st.sampled_from(["status", "alert/critical", "alert/x"]), st.binary(), st.booleans())
    def test_any_bytes_are_at_most_malformed(self, host: str, rest: str, payload: bytes, kept: bool) -> None:
        events = Watch(0.0).receive(f"dmimad/v1/{host}/{rest}", payload, kept, 0.0)
        assert all(isinstance(event, Malformed) for event in events)

    # The fixture is not changed.
    @settings(
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(members=MEMBERS)
    def test_a_signed_alert_with_other_members_is_never_another_alert(
        self, keys: HostKeys, members: dict[str, Any]
    ) -> None:
        watch = Watch(0.0, keys=keys)
        true = alert(1, key=WEB)
        expected = only(give(Watch(0.0, keys=keys), true))
        for event in watch.receive(TOPIC, changed(true, **members), False, 0.0):
            assert isinstance(event, InvalidAlert | Malformed) or event == expected
            json.dumps(document(event))
        assert give(watch, true) in ([expected], [])
