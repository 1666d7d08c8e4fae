"""All devices of a large host change at once: the real daemon, a real broker, the default settings."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from tests.broker import Broker, Subscriber, subscribed_to
from tests.core.kernel import Kernel, linear
from tests.core.lists import binary_record
from tests.service.daemon_process import running
from tests.service.host import Host
from tests.service.witness import alerts

DEVICES = 500
#: A handful.
MOST_ALERTS = 8
NAMES = tuple(f"dev{index:03}" for index in range(DEVICES))


def reload_all(kernel: Kernel, host: Host, offset: int) -> None:
    """Every device gets another table, one after the other, as fast as the list can be written."""
    for index, name in enumerate(NAMES):
        first = len(kernel.items)
        kernel.load(name.encode(), (linear(8 * (index + offset)),))
        kernel.resume(name.encode())
        host.append(b"".join(map(binary_record, kernel.items[first:])))


async def all_are(subscriber: Subscriber, verdict: str) -> None:
    """Until the retained document of each device has that verdict."""
    verdicts: dict[str, str] = {}
    seen = 0

    def come() -> bool:
        nonlocal seen
        for message in subscriber.messages[seen:]:
            if "/device/" in message.topic:
                device = json.loads(message.payload)
                verdicts[device["name"]] = device["verdict"]
        seen = len(subscriber.messages)
        return [verdicts.get(name) for name in NAMES] == [verdict] * DEVICES

    await subscriber.wait_for(come, lambda: f"{verdict}: {list(verdicts.values()).count(verdict)} devices")


async def test_five_hundred_devices_drift_at_once(broker: Broker, tmp_path: Path) -> None:
    host = Host(tmp_path, broker.port)
    host.configure(alerts={"hold_off_seconds": None, "storm_threshold": None, "flap_threshold": None})
    kernel = Kernel("ordered")
    for name in NAMES:
        kernel.create(name.encode())
    host.append(b"".join(map(binary_record, kernel.items)))
    reload_all(kernel, host, 0)
    async with subscribed_to(broker) as subscriber, running(host.settings):
        await all_are(subscriber, "unknown")
        capture = ("baseline", "capture", "--config", str(host.settings), "--output", "all.toml")
        captured = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dmimad.cli", *capture, cwd=tmp_path, stderr=asyncio.subprocess.DEVNULL
        )
        assert await captured.wait() == 0
        (tmp_path / "all.toml").rename(host.baseline / "all.toml")
        await all_are(subscriber, "approved")
        assert alerts(subscriber.messages) == []
        reload_all(kernel, host, DEVICES)
        await all_are(subscriber, "drift")
        await subscriber.wait_for(lambda: bool(alerts(subscriber.messages)), lambda: "an alert")
        reload_all(kernel, host, 2 * DEVICES)  # and once more, to yet another one
        await host.settled(len(kernel.items))
    told = alerts(subscriber.messages)
    assert len(told) <= MOST_ALERTS
    (storm, *_) = [alert.event["data"] for alert in told if alert.event["data"]["code"] == "alerts.storm"]
    assert storm["severity"] == "critical"
    assert set(storm["summary"]["by_code"]) == {"drift.active"}
