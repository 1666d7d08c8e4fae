"""From a list that grows to the messages a subscriber gets: which, what is in them, what they leave behind.

What is expected is written down by hand from the recorded list; hashes and digests are taken from its lines.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.broker import Broker, Received, Subscriber, speaks, subscribed_to
from tests.service.daemon_process import prepared, running
from tests.service.host import Host, entry
from tests.service.lists import ascii_records, load_hash, template_digest
from tests.service.witness import alerts, arrived, retained

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
FIRING, RESOLVED = "firing", "resolved"
SEVERITIES = ("info", "warning", "critical")

#: The part of systematic-6.1 with the devices linear1 (to 19), both (20 to 23), alias1 (24 to 28), flip
#: (29 to 33) and other (34 to 36), but without those called empty: the test's index -> the recorded one.
RECORDS = [*range(20), *range(26, 43)]

#: What each record brings: (code, status, subject, record).  -1: the records before there is any device.
ODD = "a,b;c=d\\e"
STORY: dict[int, list[tuple[str, str, str, int | None]]] = {
    -1: [("device.missing", FIRING, "both", None)],
    4: [("drift.inactive", FIRING, "linear1", 4)],
    # Another table, not approved either, in the place of the first.
    5: [("drift.inactive", RESOLVED, "linear1", 5), ("drift.inactive", FIRING, "linear1", 5)],
    6: [("drift.inactive", RESOLVED, "linear1", 6), ("drift.active", FIRING, "linear1", 6)],
    # 7: an approved table is staged; 8 and 9: it is cleared, and cleared again.
    10: [("drift.active", RESOLVED, "linear1", 10), ("device.removed", FIRING, "linear1", 10)],
    11: [("device.removed", RESOLVED, "linear1", 11), ("drift.inactive", FIRING, "linear1", 11)],
    12: [("drift.inactive", RESOLVED, "linear1", 12), ("drift.active", FIRING, "linear1", 12)],
    # Its table is no better for another name; subjects stay what they were when they fired.
    13: [("device.renamed", FIRING, "linear=2", 13)],
    15: [("device.renamed", RESOLVED, "linear=2", 15), ("device.renamed", FIRING, ODD, 15)],
    16: [("drift.inactive", FIRING, ODD, 16)],
    17: [("device.renamed", RESOLVED, ODD, 17), ("device.renamed", FIRING, "plain", 17)],
    18: [
        ("drift.active", RESOLVED, "linear1", 18),
        ("drift.inactive", RESOLVED, ODD, 18),
        ("drift.active", FIRING, "plain", 18),
    ],
    19: [
        ("device.renamed", RESOLVED, "plain", 19),
        ("drift.active", RESOLVED, "plain", 19),
        ("device.removed", FIRING, "linear1", 19),
    ],
    21: [("device.missing", RESOLVED, "both", 21)],
    23: [("device.missing", FIRING, "both", 23)],
    24: [("device.unexpected", FIRING, "alias1", 24)],
    28: [("device.unexpected", RESOLVED, "alias1", 28)],
    31: [("drift.inactive", FIRING, "flip", 31)],
    32: [("drift.inactive", RESOLVED, "flip", 32), ("drift.active", FIRING, "flip", 32)],
    33: [("drift.active", RESOLVED, "flip", 33), ("device.removed", FIRING, "flip", 33)],
    34: [("device.unexpected", FIRING, "other", 34)],
    36: [("device.unexpected", RESOLVED, "other", 36)],
}  # fmt: skip


@pytest.fixture
def records(corpus: Path) -> list[bytes]:
    recorded = ascii_records(corpus / "systematic-6.1")
    return [recorded[index] for index in RECORDS]


@pytest.fixture
def approving(host: Host, records: list[bytes]) -> Host:
    """With a baseline that approves two tables of linear1 and one of flip, and wants both."""
    host.approve(
        entry("linear1", [load_hash(records[2]), load_hash(records[7])]),
        entry("both", required=True),
        entry("flip", [load_hash(records[29])]),
    )
    return host


def last_json(subscriber: Subscriber, topic: str) -> dict[str, Any] | None:
    """The latest document on a topic; None if it is cleared, or there is none."""
    payloads = subscriber.payloads(topic)
    document = json.loads(payloads[-1]) if payloads and payloads[-1] else None
    assert document is None or isinstance(document, dict)
    return document


def slots(document: dict[str, Any] | None) -> list[int]:
    """The records that the tables in a device document are from."""
    both = [] if document is None else [document["active"], document["inactive"]]
    return [slot["record"] for slot in both if slot is not None]


class TestGrowingList:
    async def test_each_record_brings_exactly_its_alerts(
        self, broker: Broker, approving: Host, records: list[bytes]
    ) -> None:
        host, expected = approving, list(STORY[-1])
        host.append(b"".join(records[:2]))
        async with subscribed_to(broker) as subscriber, running(host.settings) as daemon:
            await arrived(subscriber, len(expected))
            for index, record in enumerate(records[2:], 2):
                middle = len(record) // 2
                host.append(record[:middle])  # half a record says nothing yet
                host.append(record[middle:])
                expected += STORY.get(index, [])
                found = await arrived(subscriber, len(expected))
                assert [alert.summary for alert in found] == expected, f"after record {index}"
            await host.settled(len(records))
            found = alerts(subscriber.messages)
            assert [alert.summary for alert in found] == expected
            assert [alert.sequence for alert in found] == list(range(1, len(expected) + 1))
            assert len({alert.id for alert in found}) == len(expected)
            firing = {
                severity: await daemon.metric("dmimad_alerts_firing", severity=severity)
                for severity in SEVERITIES
            }
            assert firing == {
                "info": 0,
                "warning": 2,
                "critical": 1,
            }  # linear1 and flip were removed; both is missing
            assert await daemon.terminate() == 0

    async def test_what_is_in_an_alert(self, broker: Broker, approving: Host, records: list[bytes]) -> None:
        approving.append(b"".join(records[:7]))
        async with subscribed_to(broker) as subscriber, running(approving.settings):
            found = await arrived(subscriber, sum(len(told) for index, told in STORY.items() if index < 7))
        by_summary = {alert.summary: alert for alert in found}
        active = by_summary["drift.active", FIRING, "linear1", 6]
        approved = sorted([load_hash(records[2]), load_hash(records[7])])
        assert active.topic == "dmimad/v1/web-1/alert/critical"
        assert active.event == {
            "specversion": "1.0",
            "id": active.id,
            "source": "web-1",
            "type": "dmimad.alert.drift.active",
            "subject": "linear1",
            "time": active.event["time"],
            "datacontenttype": "application/json",
            "sequence": active.event["sequence"],
            "severitytext": "CRITICAL",
            "severitynumber": active.event["severitynumber"],
            "data": {
                "code": "drift.active",
                "severity": "critical",
                "status": "firing",
                "message": active.event["data"]["message"],
                "device": {"name": "linear1", "key": "254:0"},
                "expected": " or ".join(approved),
                "actual": load_hash(records[5]),
                "since": active.event["data"]["since"],
                "occurrence": 1,
                "count": 1,
                "first": active.event["time"],
                "last": active.event["time"],
                "flapping": False,
                "maintenance": None,
                "differences": [],
                "summary": None,
                "evidence": {
                    "record": 6,
                    "template_digest": template_digest(records[6]),
                    "event": "device_resume",
                    "baseline": f"{approving.baseline / 'main.toml'}:2",
                    "witness": "measured",
                    "slot": "active",
                    "hash": load_hash(records[5]),
                },
            },
        }
        missing = by_summary["device.missing", FIRING, "both", None]
        assert missing.event["data"]["expected"] == "both"
        inactive = by_summary["drift.inactive", RESOLVED, "linear1", 6]
        assert inactive.event["data"]["evidence"]["template_digest"] == template_digest(records[5])
        assert inactive.event["data"]["evidence"]["event"] == "table_load"
        assert inactive.event["data"]["duration_seconds"] == 0.0  # both records were read at once
        comings = [message for message in subscriber.messages if "/alert/" in message.topic]
        assert {(m.qos, m.retained, m.content_type) for m in comings} == {(1, False, CONTENT_TYPE)}


class TestRetained:
    async def test_devices_have_documents_which_go_with_them(
        self, broker: Broker, approving: Host, records: list[bytes]
    ) -> None:
        host, topic, fed = approving, "dmimad/v1/web-1/device/254:0", 0
        async with subscribed_to(broker) as subscriber, running(host.settings):

            async def after(count: int) -> dict[str, Any]:
                """The document after `count` records, the last of which has changed a slot."""
                nonlocal fed
                host.append(b"".join(records[fed:count]))
                fed = count
                await subscriber.wait_for(
                    lambda: count - 1 in slots(last_json(subscriber, topic)), lambda: topic
                )
                document = last_json(subscriber, topic)
                assert document is not None
                return document

            staged = await after(3)
            assert staged["active"] is None
            assert staged["inactive"]["hash"] == load_hash(records[2])
            assert (staged["name"], staged["verdict"]) == ("linear1", "approved")
            drifted = await after(8)
            assert drifted["active"]["fingerprint"] != drifted["inactive"]["fingerprint"]
            assert drifted == {
                "key": "254:0",
                "name": "linear1",
                "uuid": "",
                "major": 254,
                "minor": 0,
                "active": {
                    "hash": load_hash(records[5]),
                    "fingerprint": drifted["active"]["fingerprint"],
                    "name": "linear1",
                    "uuid": "",
                    "num_targets": 1,
                    "provenance": "measured",
                    "record": 6,
                    "targets": [{"begin": 0, "length": 16, "type": "linear"}],
                },
                "inactive": {
                    "hash": load_hash(records[7]),
                    "fingerprint": drifted["inactive"]["fingerprint"],
                    "name": "linear1",
                    "uuid": "",
                    "num_targets": 1,
                    "provenance": "measured",
                    "record": 7,
                    "targets": [{"begin": 0, "length": 16, "type": "linear"}],
                },
                "live": False,
                "suspended": None,
                "event_nr": None,
                "verdict": "drift",
                "drift": {"active": True, "inactive": False},
            }
            async with subscribed_to(broker, identifier="late") as late:
                await late.wait_for_last(topic, subscriber.payloads(topic)[-1])
                await late.wait_for_last("dmimad/v1/web-1/status", b"online")
                assert set(retained(late.messages)) == {topic, "dmimad/v1/web-1/status"}
                assert not alerts(late.messages)
            host.append(b"".join(records[8:11]))  # … and the device goes
            await subscriber.wait_for_last(topic, b"")
        async with subscribed_to(broker, identifier="later") as late:
            await late.wait_for_last("dmimad/v1/web-1/status", b"offline")
            assert set(retained(late.messages)) == {"dmimad/v1/web-1/status"}

    async def test_offline_at_a_clean_stop_and_by_will(self, broker: Broker, host: Host) -> None:
        status = "dmimad/v1/web-1/status"
        async with subscribed_to(broker) as subscriber, prepared(host.settings) as daemon:
            await daemon.start()
            await subscriber.wait_for_last(status, b"online")
            assert await daemon.terminate() == 0
            await subscriber.wait_for_last(status, b"offline")
            assert subscriber.payloads(status) == [b"online", b"offline"]
            subscriber.forget()
            await daemon.start()
            await subscriber.wait_for_last(status, b"online")
            await daemon.kill()
            await subscriber.wait_for_last(status, b"offline")
            assert subscriber.payloads(status) == [b"online", b"offline"]
            assert {(m.qos, m.retained) for m in subscriber.messages if m.topic == status} == {(1, True)}


class TestProtocols:
    async def test_same_bytes_under_5_and_3_1_1(self, mosquitto: str, tmp_path: Path, corpus: Path) -> None:
        """What has piled up while there was no broker is sent twice, from two copies of the same state."""
        (tmp_path / "broker").mkdir()
        broker = Broker(mosquitto, tmp_path / "broker")
        host = Host(tmp_path / "host", broker.port)
        records = ascii_records(corpus / "systematic-6.1")
        host.approve(entry("linear1", [load_hash(records[2])]), entry("flip", required=True))
        host.append(b"".join(records[:20]))
        async with running(host.settings) as daemon:
            await daemon.wait_for_metric("dmimad_list_position", 20)
            await daemon.wait_for_log("mqtt_unavailable")
            assert await daemon.terminate() == 0
        assert host.position() == 20
        waiting = host.outbox()
        assert len(waiting) >= 10
        shutil.copytree(host.state, tmp_path / "state-3")
        sent: dict[int, list[Received]] = {}
        for protocol, state in ((5, host.state), (3, tmp_path / "state-3")):
            host.configure(mqtt={"protocol": protocol}, state={"directory": str(state)})
            with broker:
                async with subscribed_to(broker) as subscriber, running(host.settings) as daemon:
                    await arrived(subscriber, len(waiting))
                    await host.settled(20)
                    sent[protocol] = [m for m in subscriber.messages if "/alert/" in m.topic]
                connected = [line for line in broker.lines if "dmimad-web-1 (p" in line]
                assert connected
                assert all(speaks(protocol, line) for line in connected), connected
                broker.lines.clear()
        assert [message.payload for message in sent[5]] == waiting
        assert [message.payload for message in sent[3]] == waiting
        assert [message.topic for message in sent[3]] == [message.topic for message in sent[5]]
        assert {message.content_type for message in sent[5]} == {CONTENT_TYPE}
        assert {message.content_type for message in sent[3]} == {None}
