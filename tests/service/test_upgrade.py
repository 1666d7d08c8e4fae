"""A state that another version left is taken up: what waits is sent, what is pending fires, each once."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.broker import Broker, Subscriber, subscribed_to
from tests.service.daemon_process import DaemonProcess, prepared
from tests.service.host import Host, entry
from tests.service.lists import ascii_records, load_hash
from tests.service.relay import Relay
from tests.service.witness import Alert, alerts, all_arrived

STATES = Path(__file__).parent / "states"
SHOWN = 8
OTHER_VERSION = "import dmimad; dmimad.__version__ = '99.0'; from dmimad.cli import main; main()"


@pytest.fixture
def records(corpus: Path) -> list[bytes]:
    return ascii_records(corpus / "systematic-6.1")


@pytest.fixture
def host(broker: Broker, tmp_path: Path, records: list[bytes]) -> Host:
    """As the one that the state in `STATES` is of."""
    host = Host(tmp_path / "host", broker.port)
    approve(host, records, "nowhere", "elsewhere")
    host.append(b"".join(records[:SHOWN]))
    return host


def approve(host: Host, records: list[bytes], *required: str) -> None:
    host.approve(
        entry("linear1", [load_hash(records[2])]), *(entry(name, required=True) for name in required)
    )


async def told(broker: Broker, subscriber: Subscriber, host: Host, count: int) -> list[Alert]:
    """All that came, with repetitions."""
    await host.settled(count)
    await all_arrived(broker, subscriber)
    return alerts(subscriber.messages)


def ids(payloads: Sequence[bytes]) -> list[str]:
    return [str(json.loads(payload)["id"]) for payload in payloads]


@pytest.mark.parametrize("schema", [1, 2])
async def test_from_an_older_schema(broker: Broker, host: Host, records: list[bytes], schema: int) -> None:
    host.state.mkdir(mode=0o700)
    with closing(sqlite3.connect(host.state / "dmimad.db")) as db:
        db.executescript((STATES / f"schema-{schema}.sql").read_text())
    waiting = ids(host.outbox())
    assert len(waiting) == 7
    async with subscribed_to(broker) as subscriber, prepared(host.settings) as daemon:
        await daemon.start()
        await daemon.ready()
        assert not daemon.logged("state_notice")
        *first, fired = await told(broker, subscriber, host, SHOWN)
        assert [alert.id for alert in first] == waiting
        assert fired.summary == ("device.missing", "firing", "elsewhere", None)
        assert [alert.sequence for alert in [*first, fired]] == list(range(1, 9))
        approve(host, records)
        await daemon.reload()
        assert await daemon.terminate() == 0
        subscriber.forget()
        await daemon.start()
        await daemon.ready()
        host.append(records[SHOWN])
        found = [alert.summary[:3] for alert in await told(broker, subscriber, host, SHOWN + 1)]
        assert ("device.missing", "firing", "elsewhere") not in found
        assert not [each for each in found if each[0] == "drift.active" and each[1] == "firing"]


async def test_to_another_version(broker: Broker, host: Host, records: list[bytes]) -> None:
    async with Relay(broker.port) as relay, subscribed_to(broker) as subscriber:
        host.configure(mqtt={"port": relay.port})
        approve(host, records, "nowhere")
        await relay.slam()
        async with prepared(host.settings) as daemon:
            await daemon.start()
            await daemon.wait_for_metric("dmimad_alerts_firing", 2, severity="critical")
            await daemon.kill()
            host.configure(alerts={"hold_off_seconds": 3600})
            approve(host, records, "nowhere", "elsewhere")
            await daemon.start()
            await daemon.ready()
            await daemon.reload()  # so it has looked
            await daemon.kill()
        waiting = ids(host.outbox())
        assert waiting
        host.configure(alerts={"hold_off_seconds": 0})
        await relay.open()
        other = DaemonProcess(host.settings)
        other._command[1:3] = ["-c", OTHER_VERSION]
        try:
            await other.start()
            assert (await other.wait_for_log("started"))["version"] == "99.0"
            await other.ready()
            found = await told(broker, subscriber, host, SHOWN)
            assert [alert.id for alert in found[: len(waiting)]] == waiting
            new = [alert.summary for alert in found[len(waiting) :]]
            assert new == [("device.missing", "firing", "elsewhere", None)]
            subscriber.forget()
            await other.terminate()
            await other.start()
            await other.ready()
            assert await told(broker, subscriber, host, SHOWN) == []
        finally:
            await other.kill()
