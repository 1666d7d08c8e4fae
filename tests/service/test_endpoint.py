"""The live metrics endpoint, and the end of the process."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.broker import Broker, free_port, subscribed_to
from tests.service.daemon_process import DEADLINE_SECONDS, running, series
from tests.service.host import Host, entry
from tests.service.lists import ascii_records, load_hash

#: Those of the contract that a mirrored file has: nobody counts its records, and there is no PCR to compare.
NAMES = {
    "dmimad_build_info",
    "dmimad_records_total",
    "dmimad_dm_events_total",
    "dmimad_devices",
    "dmimad_device_drift",
    "dmimad_device_table_info",
    "dmimad_device_witness_info",
    "dmimad_device_configuration_info",
    "dmimad_device_maintenance",
    "dmimad_live_observations_total",
    "dmimad_findings_total",
    "dmimad_alerts_firing",
    "dmimad_list_position",
    "dmimad_last_read_timestamp_seconds",
    "dmimad_detection_latency_seconds_bucket",
    "dmimad_detection_latency_seconds_count",
    "dmimad_detection_latency_seconds_sum",
    "dmimad_outbox_pending",
    "dmimad_outbox_dead_total",
    "dmimad_mqtt_connected",
    "dmimad_mqtt_enabled",
    "dmimad_mqtt_host_id_taken",
    "dmimad_store_up",
    "dmimad_config_last_reload_successful",
    "dmimad_config_last_reload_success_timestamp_seconds",
    "dmimad_source_up",
}
ABSENT = {"dmimad_pcr_verified", "dmimad_list_lag_records"}


class TestMetrics:
    async def test_all_there_and_clean(self, broker: Broker, host: Host, corpus: Path, promtool: str) -> None:
        """Also with names that are hostile to a text format."""
        records = ascii_records(corpus / "random-7.2")
        host.approve(entry("nowhere", required=True))
        host.append(b"".join(records))
        async with running(host.settings) as daemon:
            await daemon.wait_for_metric("dmimad_mqtt_connected", 1)
            await host.settled(len(records))
            text = await daemon.scrape()
            found = await daemon.metrics()
        lint = await asyncio.to_thread(
            subprocess.run,
            [promtool, "check", "metrics"],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (lint.returncode, lint.stdout, lint.stderr) == (0, "", "")
        names = {name for name, _ in found}
        assert {name for name in names if name.startswith("dmimad_")} == NAMES
        assert not names & ABSENT
        events = {
            dict(labels)["event"]: value for (name, labels), value in found.items() if "dm_events" in name
        }
        recorded = [record.split()[4] for record in records if b" dm_" in record]
        for event, count in events.items():
            assert count == recorded.count(f"dm_{event}".encode()), event
        assert sum(events.values()) == len(recorded)
        assert found[series("dmimad_records_total")] == len(records)
        assert found[series("dmimad_outbox_dead_total")] == 0
        assert found[series("dmimad_detection_latency_seconds_count")] >= 1

    async def test_series_of_a_device_go_with_it(self, broker: Broker, host: Host, corpus: Path) -> None:
        records = ascii_records(corpus / "systematic-6.1")
        host.approve(entry("linear1", [load_hash(records[2])]))
        async with running(host.settings) as daemon:
            host.append(b"".join(records[:8]))
            await host.settled(8)
            found = await daemon.metrics()
            labels = {"device": "linear1", "uuid": ""}
            about = {key: value for key, value in found.items() if dict(key[1]).get("device") == "linear1"}
            configured = [dict(key[1]) for key in about if key[0] == "dmimad_device_configuration_info"]
            prints = {each["slot"]: each["fingerprint"] for each in configured}
            assert all(re.fullmatch(r"config:[0-9a-f]{64}", each) for each in prints.values())
            assert prints["active"] != prints["inactive"]
            assert about == {
                series("dmimad_device_maintenance", **labels): 0,
                **{
                    series("dmimad_device_configuration_info", slot=slot, fingerprint=each, **labels): 1
                    for slot, each in prints.items()
                },
                series("dmimad_device_drift", slot="active", **labels): 1,
                series("dmimad_device_drift", slot="inactive", **labels): 1,
                series("dmimad_device_table_info", slot="active", hash=load_hash(records[5]), **labels): 1,
                series("dmimad_device_table_info", slot="inactive", hash=load_hash(records[7]), **labels): 1,
                series("dmimad_device_witness_info", slot="active", provenance="measured", **labels): 1,
                series("dmimad_device_witness_info", slot="inactive", provenance="measured", **labels): 1,
            }
            assert found[series("dmimad_devices")] == 1
            host.append(b"".join(records[8:11]))
            await host.settled(11)
            found = await daemon.metrics()
            assert found[series("dmimad_devices")] == 0
            assert "linear1" not in await daemon.scrape()

    async def test_the_doctor_says_whether_it_is_served(self, broker: Broker, host: Host) -> None:
        """A port that was changed since is not yet the daemon's."""
        host.configure(metrics={"port": free_port()}, page={"port": free_port()})
        async with running(host.settings) as daemon:
            await daemon.wait_for_metric("dmimad_mqtt_connected", 1)
            assert await endpoints(host) == {"metrics.endpoint": "served", "page.endpoint": "served"}
            host.configure(page={"port": free_port()})
            assert await endpoints(host) == {
                "metrics.endpoint": "served",
                "page.endpoint": "nothing listens there, though the daemon runs",
            }
            assert await daemon.terminate() == 0
        free = "free for the daemon"
        assert await endpoints(host) == {"metrics.endpoint": free, "page.endpoint": free}


async def endpoints(host: Host) -> dict[str, str]:
    """What `dmimad doctor` says of them, but for TLS."""
    command = [sys.executable, "-m", "dmimad.cli", "doctor", "--json", "--config", str(host.settings)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(DEADLINE_SECONDS):
        out, _ = await process.communicate()
    found = {check["id"]: check["summary"] for check in json.loads(out)["checks"]}
    return {
        name: text.split(": ", 1)[1].removesuffix(", no TLS")
        for name, text in found.items()
        if name.endswith(".endpoint")
    }


class TestEnd:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_clean(self, broker: Broker, host: Host, corpus: Path, number: signal.Signals) -> None:
        host.append(b"".join(ascii_records(corpus / "systematic-6.1")))
        async with subscribed_to(broker) as subscriber, running(host.settings) as daemon:
            await subscriber.wait_for_last("dmimad/v1/web-1/status", b"online")
            daemon.signal(number)
            assert await daemon.ended() == 0
            assert daemon.logged("stopping")
            assert "STOPPING=1" in "\n".join(daemon.notifications)
            await subscriber.wait_for_last("dmimad/v1/web-1/status", b"offline")

    async def test_broker_that_does_not_answer_does_not_hold_it_up(self, broker: Broker, host: Host) -> None:
        """For ever, that is: within the deadline, which is far longer than it waits."""
        async with running(host.settings) as daemon:
            await daemon.wait_for_metric("dmimad_mqtt_connected", 1)
            broker.freeze()
            try:
                async with asyncio.timeout(DEADLINE_SECONDS / 2):
                    assert await daemon.terminate() == 0
            finally:
                broker.thaw()

    async def test_in_the_middle_of_starting(self, broker: Broker, host: Host, corpus: Path) -> None:
        """As soon as it is ready, with all of a list before it: what it has not stored it reads again."""
        records = ascii_records(corpus / "lvm-7.2")
        host.append(b"".join(records))
        async with running(host.settings) as daemon:
            assert await daemon.terminate() == 0
            await daemon.start()
            await daemon.ready()
            await host.settled(len(records))
            assert await daemon.terminate() == 0

    async def test_with_a_scrape_that_never_ends(self, broker: Broker, host: Host) -> None:
        async with running(host.settings) as daemon:
            url = str((await daemon.wait_for_log("metrics_listening"))["url"])
            port = int(url.removesuffix("/metrics").rpartition(":")[2])
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /metrics HTTP/1.1\r\n")
            await writer.drain()
            assert await daemon.terminate() == 0
            writer.transport.abort()
