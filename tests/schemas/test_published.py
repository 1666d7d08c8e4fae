"""Each message that the real daemon really publishes is as the AsyncAPI document and the schemas say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dmimad.adapters.control.client import ask
from dmimad.adapters.keys import SigningKey, write_pair
from dmimad.core.finding import CODES
from tests.broker import Broker, Received, Subscriber, subscribed_to
from tests.schemas.contract import Contract, Described, resolve, undescribed
from tests.schemas.events import check_with_sdk
from tests.service.daemon_process import running
from tests.service.host import Host, entry
from tests.service.lists import ascii_records, hashes, load_hash, names

CONTRACT = Contract()
ROOT, HOST = "dmimad/v1", "web-1"
STATUS, DEVICE = f"{ROOT}/{HOST}/status", f"{ROOT}/{HOST}/device/254:0"

#: No linear target of the recorded lists begins there.
RULES = """
[[device.target]]
type = "linear"
start = "> 1000000"
"""


@pytest.fixture
def broker(mosquitto: str, tmp_path: Path) -> Iterator[Broker]:
    directory = tmp_path / "broker"
    directory.mkdir()
    with Broker(mosquitto, directory) as running_one:
        yield running_one


@pytest.fixture
def host(broker: Broker, tmp_path: Path) -> Host:
    """A host that tells every alert by itself."""
    host = Host(tmp_path / "host", broker.port)
    host.configure(alerts={"storm_threshold": 0, "flap_threshold": 0})
    return host


def described(messages: Iterable[Received]) -> list[Described]:
    """What all that was published is; fails for what the document does not say."""
    published = [message for message in messages if message.topic.startswith(f"{ROOT}/")]
    found = [CONTRACT.describe(message) for message in published]
    for message, each in zip(published, found, strict=True):
        if each.channel == "alert":
            assert check_with_sdk(message.payload) == each.payload
        schema = resolve(CONTRACT.document, CONTRACT.messages(each.channel)[each.message]["payload"])
        assert undescribed(schema, each.payload) == []
    return found


def codes(found: Iterable[Described]) -> set[tuple[str, str]]:
    """(code, status) of the alerts among them."""
    data = [each.payload["data"] for each in found if each.channel == "alert"]
    return {(each["code"], each["status"]) for each in data}


def alerts(subscriber: Subscriber) -> list[dict[str, Any]]:
    return [json.loads(payload)["data"] for payload in subscriber.payloads(f"{ROOT}/+/alert/+")]


async def told(subscriber: Subscriber, code: str, status: str) -> None:
    """Until such an alert has come."""
    await subscriber.wait_for(
        lambda: any((data["code"], data["status"]) == (code, status) for data in alerts(subscriber)),
        lambda: f"{code} {status}",
    )


async def test_a_list_that_grows(broker: Broker, host: Host, corpus: Path) -> None:
    """Drift, rules, a missing device, a removal, maintenance; signed; every message of the document comes."""
    records = ascii_records(corpus / "systematic-6.1")
    write_pair(SigningKey.generate(), host.directory / "key")
    host.configure(alerts={"signing_key_file": str(host.directory / "key")})
    approved = [load_hash(records[2]), load_hash(records[7])]
    host.approve(entry("linear1", approved), entry("both", required=True), entry("flip") + RULES)
    async with subscribed_to(broker) as subscriber, running(host.settings) as daemon:
        await subscriber.wait_for_last(STATUS, b"online")
        host.append(b"".join(records[:8]))
        await told(subscriber, "drift.active", "firing")
        await subscriber.wait_for(lambda: bool(subscriber.payloads(DEVICE)), lambda: DEVICE)
        request = {"request": "maintenance-start", "device": "*", "seconds": 60, "reason": "new disks"}
        await asyncio.to_thread(ask, host.socket, request)
        await told(subscriber, "maintenance.active", "firing")
        host.append(b"".join(records[8:20]))  # … and the device goes
        await subscriber.wait_for_last(DEVICE, b"")
        host.append(b"".join(records[20:]))
        await host.settled(len(records))
        assert await daemon.terminate() == 0
        await subscriber.wait_for_last(STATUS, b"offline")
    found = described(subscriber.messages)
    everything = {(channel, name) for channel in CONTRACT.sends for name in CONTRACT.messages(channel)}
    assert {(each.channel, each.message) for each in found} == everything
    assert {
        ("drift.active", "firing"),
        ("drift.active", "resolved"),
        ("device.missing", "firing"),
        ("device.removed", "firing"),
        ("policy.attribute", "firing"),
        ("maintenance.active", "firing"),
    } <= codes(found)
    data = [each.payload["data"] for each in found if each.channel == "alert"]
    assert any(each["differences"] for each in data)
    assert {each["maintenance"]["severity"] for each in data if each["maintenance"]} >= {
        "warning",
        "critical",
    }
    assert all("dssematerial" in each.payload for each in found if each.channel == "alert")


RECORDED = sorted(path.name for path in (Path(__file__).parent.parent / "corpus").iterdir() if path.is_dir())


@pytest.mark.parametrize("name", RECORDED)
async def test_each_recorded_list_alert_by_alert(name: str, broker: Broker, host: Host, corpus: Path) -> None:
    """Every second table is approved, and every third device is wanted."""
    records = ascii_records(corpus / name)
    approve(host, records)
    found = await published(broker, host, records)
    sent = codes(found)
    assert len({code for code, _ in sent}) >= 3
    assert {status for _, status in sent} == {"firing", "resolved"}
    assert sent <= {(code, status) for code in CODES for status in ("firing", "resolved")}
    assert "alerts.storm" not in {code for code, _ in sent}


@pytest.mark.parametrize("name", ["lvm-6.1", "systematic-7.2"])
async def test_a_recorded_list_as_a_storm(name: str, broker: Broker, host: Host, corpus: Path) -> None:
    """All of it at once, by the settings that a host has."""
    records = ascii_records(corpus / name)
    host.configure(alerts={"storm_threshold": None, "flap_threshold": None})
    approve(host, records)
    found = await published(broker, host, records)
    storms = [
        each.payload["data"] for each in found if each.channel == "alert" and each.payload["data"]["summary"]
    ]
    assert {data["code"] for data in storms} == {"alerts.storm"}
    for data in storms:
        assert sum(data["summary"]["by_code"].values()) == data["summary"]["alerts"] == data["count"]
        assert sum(data["summary"]["by_severity"].values()) == data["count"]


def approve(host: Host, records: list[bytes]) -> None:
    tables = hashes(records)[::2]
    entries = [entry(device, tables, required=place % 3 == 0) for place, device in enumerate(names(records))]
    host.approve(*entries[:-1], entries[-1] + RULES)


async def published(broker: Broker, host: Host, records: list[bytes]) -> list[Described]:
    """All that is published of a list that grows in a few pieces."""
    async with subscribed_to(broker) as subscriber, running(host.settings) as daemon:
        step = -(-len(records) // 4)
        for stop in range(step, len(records) + step, step):
            host.append(b"".join(records[stop - step : stop]))
            await host.settled(min(stop, len(records)))
        assert await daemon.terminate() == 0
        await subscriber.wait_for_last(STATUS, b"offline")
    return described(subscriber.messages)
