"""Baselines and settings that change while the daemon runs; what is wrong leaves in force what was."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from dmimad.adapters.control.client import ask
from tests.broker import Broker, Subscriber, subscribed_to
from tests.service.daemon_process import DaemonProcess, running
from tests.service.host import Host, entry
from tests.service.lists import ascii_records, load_hash
from tests.service.witness import alerts, arrived, retained

#: Of systematic-6.1: linear1 has an active table, that of record 2.
SHOWN = 4
FIRING, RESOLVED = "firing", "resolved"


@pytest.fixture
def records(corpus: Path) -> list[bytes]:
    return ascii_records(corpus / "systematic-6.1")


@pytest.fixture
def shown(host: Host, records: list[bytes]) -> Host:
    """A host whose linear1 has an approved table."""
    host.approve(entry("linear1", [load_hash(records[2])]))
    host.append(b"".join(records[:SHOWN]))
    return host


async def summaries(subscriber: Subscriber, count: int) -> list[tuple[str, str, str, int | None]]:
    """What has been told, once that are `count` alerts."""
    return [alert.summary for alert in await arrived(subscriber, count)]


class TestBaseline:
    async def test_approval_resolves_and_its_end_fires(
        self, broker: Broker, shown: Host, records: list[bytes]
    ) -> None:
        other = load_hash(records[5])
        drift = ("drift.active", FIRING, "linear1", 3)
        async with subscribed_to(broker) as subscriber, running(shown.settings) as daemon:
            await shown.settled(SHOWN)
            shown.approve(entry("linear1", [other]))
            assert await summaries(subscriber, 1) == [drift]
            shown.approve(entry("linear1", [load_hash(records[2]), other]))  # old and new for a while
            assert await summaries(subscriber, 2) == [drift, ("drift.active", RESOLVED, "linear1", None)]
            shown.approve(entry("linear1", [other]))
            found = await arrived(subscriber, 3)
            assert [alert.summary for alert in found[2:]] == [drift]
            assert len({alert.id for alert in found}) == 3
            assert [alert.event["data"]["occurrence"] for alert in found] == [1, 1, 2]
            (shown.baseline / "main.toml").unlink()  # nothing is approved any more, so nothing drifts
            assert await summaries(subscriber, 4) == [
                *(alert.summary for alert in found),
                ("drift.active", RESOLVED, "linear1", None),
            ]
            await daemon.wait_for_log("baseline_loaded", 4)

    async def test_several_files_are_one_baseline(
        self, broker: Broker, shown: Host, records: list[bytes]
    ) -> None:
        async with subscribed_to(broker) as subscriber, running(shown.settings):
            shown.approve(entry("swap", required=True), file="more.toml")
            assert await summaries(subscriber, 1) == [("device.missing", FIRING, "swap", None)]
            shown.approve(file="more.toml")
            assert await summaries(subscriber, 2) == [
                ("device.missing", FIRING, "swap", None),
                ("device.missing", RESOLVED, "swap", None),
            ]

    async def test_removal_is_settled_by_taking_the_entry_away(
        self, broker: Broker, shown: Host, records: list[bytes]
    ) -> None:
        """The device is not to come back: then its removal need not fire for ever."""
        shown.approve(entry("linear1"))
        async with subscribed_to(broker) as subscriber, running(shown.settings):
            shown.append(b"".join(records[SHOWN:11]))
            assert await summaries(subscriber, 1) == [("device.removed", FIRING, "linear1", 10)]
            shown.approve(entry("other"))
            assert (await summaries(subscriber, 2))[1:] == [("device.removed", RESOLVED, "linear1", None)]

    @pytest.mark.parametrize(
        ("text", "line", "reason"),
        [
            ("version = 1\n[[device]]\nname = 'linear1'\nhashs = []\n", 4, "did you mean hashes?"),
            ("version = 1\n[[device]\nname = 'linear1'\n", 2, ""),
            ("version = 1\n[[device]]\nname = 'x'\nhashes = ['sha256:12']\n", 4, "is not a table hash"),
            ("version = 2\n", 1, "must be 1"),
        ],
        ids=["unknown key", "no TOML", "no hash", "another version"],
    )
    async def test_refused_file_leaves_the_last_good_one(
        self, broker: Broker, shown: Host, records: list[bytes], text: str, line: int, reason: str
    ) -> None:
        async with subscribed_to(broker) as subscriber, running(shown.settings) as daemon:
            assert await daemon.metric("dmimad_config_last_reload_successful") == 1
            good = (shown.baseline / "main.toml").read_text()
            (shown.baseline / "main.toml").write_text(text)
            problem = (await daemon.wait_for_log("baseline_refused"))["problem"]
            assert problem.startswith(f"{shown.baseline / 'main.toml'}:{line}: ")
            assert reason in problem
            assert "\n" not in problem
            assert await daemon.metric("dmimad_config_last_reload_successful") == 0
            # The table that was approved still is, and another one is not.
            shown.append(b"".join(records[SHOWN:7]))
            told = await summaries(subscriber, 5)
            assert told[0] == ("drift.inactive", FIRING, "linear1", 4)
            assert told[4] == ("drift.active", FIRING, "linear1", 6)
            shown.approve(good.removeprefix("version = 1\n"))
            await daemon.wait_for_metric("dmimad_config_last_reload_successful", 1)
            assert len(alerts(subscriber.messages)) == 5

    async def test_directory_that_comes_later(self, broker: Broker, shown: Host) -> None:
        (shown.baseline / "main.toml").unlink()
        shown.baseline.rmdir()
        async with subscribed_to(broker) as subscriber, running(shown.settings) as daemon:
            await shown.settled(SHOWN)
            shown.baseline.mkdir()
            shown.approve(entry("swap", required=True))
            assert await summaries(subscriber, 2) == [
                ("device.unexpected", FIRING, "linear1", 2),
                ("device.missing", FIRING, "swap", None),
            ]
            assert await daemon.terminate() == 0


class TestSettings:
    async def test_hold_off_is_applied(self, broker: Broker, shown: Host, records: list[bytes]) -> None:
        shown.configure(alerts={"hold_off_seconds": 3600})
        shown.append(records[4])
        async with subscribed_to(broker) as subscriber, running(shown.settings) as daemon:
            await shown.settled(5)
            assert not shown.outbox()
            assert not alerts(subscriber.messages)
            shown.configure(alerts={"hold_off_seconds": 0})
            await daemon.reload()
            assert await summaries(subscriber, 1) == [("drift.inactive", FIRING, "linear1", 4)]

    async def test_unexpected_devices_is_applied(self, broker: Broker, shown: Host) -> None:
        shown.approve(entry("other"))
        shown.configure(baseline={"unexpected_devices": False})
        async with subscribed_to(broker) as subscriber, running(shown.settings) as daemon:
            await shown.settled(SHOWN)
            shown.configure(baseline={"unexpected_devices": True})
            await daemon.reload()
            assert await summaries(subscriber, 1) == [("device.unexpected", FIRING, "linear1", 2)]
            shown.configure(baseline={"unexpected_devices": False})
            await daemon.reload()
            assert (await summaries(subscriber, 2))[1:] == [("device.unexpected", RESOLVED, "linear1", None)]

    async def test_wrong_settings_leave_those_in_force(
        self, broker: Broker, shown: Host, records: list[bytes]
    ) -> None:
        async with subscribed_to(broker) as subscriber, running(shown.settings) as daemon:
            shown.configure(alerts={"hold_off_seconds": "soon"}, mqtt={"port": 1})
            await daemon.reload()
            problem = (await daemon.wait_for_log("reload_refused"))["problem"]
            assert str(shown.settings) in problem
            assert "alerts.hold_off_seconds" in problem
            assert await daemon.metric("dmimad_config_last_reload_successful") == 0
            # A baseline that is in order does not make the settings right.
            shown.approve(entry("linear1", [load_hash(records[2]), load_hash(records[7])]))
            await daemon.wait_for_log("baseline_loaded")
            assert await daemon.metric("dmimad_config_last_reload_successful") == 0
            shown.append(records[4])
            assert await summaries(subscriber, 1) == [("drift.inactive", FIRING, "linear1", 4)]
            shown.configure(alerts={"hold_off_seconds": 0}, mqtt={"port": broker.port})
            await daemon.reload()
            assert await daemon.metric("dmimad_config_last_reload_successful") == 1
            assert subscriber.payloads("dmimad/v1/web-1/status") == [b"online"]  # it never left

    async def test_another_broker(
        self, broker: Broker, shown: Host, records: list[bytes], mosquitto: str, tmp_path: Path
    ) -> None:
        (tmp_path / "second").mkdir()
        with Broker(mosquitto, tmp_path / "second") as second:
            async with (
                subscribed_to(broker) as subscriber,
                subscribed_to(second) as there,
                running(shown.settings) as daemon,
            ):
                await subscriber.wait_for_last("dmimad/v1/web-1/status", b"online")
                shown.configure(mqtt={"port": second.port})
                await daemon.reload()
                await subscriber.wait_for_last("dmimad/v1/web-1/status", b"offline")
                await there.wait_for_last("dmimad/v1/web-1/status", b"online")
                shown.append(records[4])
                assert await summaries(there, 1) == [("drift.inactive", FIRING, "linear1", 4)]
                await there.wait_for(lambda: len(retained(there.messages)) == 2, lambda: "the device")
                assert not alerts(subscriber.messages)
                shown.configure(mqtt={"enabled": False})
                await daemon.reload()
                await there.wait_for_last("dmimad/v1/web-1/status", b"offline")
                assert await daemon.metric("dmimad_mqtt_connected") == 0
                shown.append(b"".join(records[5:7]))
                await daemon.wait_for_metric("dmimad_outbox_pending", 4)  # kept for better times
                shown.configure(mqtt={"enabled": True})
                await daemon.reload()
                assert len(await arrived(there, 5)) == 5

    async def test_another_baseline_directory(self, broker: Broker, shown: Host, tmp_path: Path) -> None:
        new = tmp_path / "new.d"
        new.mkdir()
        async with subscribed_to(broker) as subscriber, running(shown.settings) as daemon:
            shown.configure(baseline={"directory": str(new)})
            await daemon.reload()
            shown.baseline = new
            shown.approve(entry("swap", required=True))
            told = await summaries(subscriber, 2)
            assert sorted(summary[:3] for summary in told) == [
                ("device.missing", FIRING, "swap"),
                ("device.unexpected", FIRING, "linear1"),
            ]

    async def test_log_level(self, shown: Host) -> None:
        shown.configure(log={"level": "error"})
        async with running(shown.settings) as daemon:
            shown.configure(log={"level": "info"})
            await daemon.reload()
            await daemon.wait_for_log("reloaded")
            shown.configure(log={"level": "error"})
            await daemon.reload()
            await daemon.reload()
            assert await daemon.terminate() == 0
        assert len(daemon.logged("reloaded")) == 1
        assert not daemon.logged("stopping")

    async def test_what_needs_a_restart_says_so(self, broker: Broker, shown: Host) -> None:
        async with subscribed_to(broker) as subscriber, running(shown.settings) as daemon:
            await subscriber.wait_for_last("dmimad/v1/web-1/status", b"online")
            shown.configure(
                host={"id": "web-2"}, source={"path": "/nowhere"}, state={"directory": "/nowhere"}
            )
            await daemon.reload()
            assert (await daemon.wait_for_log("restart_needed"))["sections"] == ["host", "source", "state"]
            told = await status(shown)
            assert told["settings"] == {"accepted": True, "restart_needed": ["host", "source", "state"]}
            shown.configure(host={"id": "web-1"}, metrics={"address": "127.0.0.2"})
            await daemon.reload()
            assert (await status(shown))["settings"]["restart_needed"] == ["metrics", "source", "state"]
            shown.approve(entry("swap", required=True))
            await arrived(subscriber, 1)
            assert {json.loads(alert.payload)["source"] for alert in alerts(subscriber.messages)} == {"web-1"}

    async def test_many_reloads_at_once(self, broker: Broker, shown: Host, records: list[bytes]) -> None:
        async with subscribed_to(broker) as subscriber, running(shown.settings) as daemon:
            for index in range(20):
                shown.configure(mqtt={"keepalive_seconds": 10 + index % 2})
                daemon.signal(signal.SIGHUP)
            shown.append(records[4])
            assert await summaries(subscriber, 1) == [("drift.inactive", FIRING, "linear1", 4)]
            await daemon.reload()
            assert await stays_connected(daemon, subscriber)
            assert await daemon.terminate() == 0


async def status(host: Host) -> Any:
    """What the daemon tells who asks it."""
    return (await asyncio.to_thread(ask, host.socket, {"request": "status"}))["status"]


async def stays_connected(daemon: DaemonProcess, subscriber: Subscriber) -> bool:
    """After all reloads it comes to be connected."""
    await daemon.wait_for_metric("dmimad_mqtt_connected", 1)
    await subscriber.wait_for_last("dmimad/v1/web-1/status", b"online")
    return True
