"""Surroundings that are not as they should be: what can wait is waited for, what cannot is told in one line.

That line is the last on stderr, begins with the program's name and says what to do; the exit status is 2.
`DaemonProcess` sees to it that there is never a traceback.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.broker import Broker, free_port, subscribed_to
from tests.service.daemon_process import DaemonProcess, prepared, running
from tests.service.host import Host, entry
from tests.service.lists import ascii_records, load_hash
from tests.service.relay import Relay
from tests.service.witness import alerts, all_arrived, arrived, first_arrivals

UNUSABLE = 2


@pytest.fixture
def host(tmp_path: Path, corpus: Path) -> Host:
    """A host without a broker, whose list has seven records."""
    host = Host(tmp_path / "host", free_port())
    host.append(b"".join(ascii_records(corpus / "systematic-6.1")[:7]))
    return host


async def complaint(settings: Path) -> str:
    """What a daemon says that cannot run: its one line."""
    status, stderr = await DaemonProcess(settings).run_to_end()
    *log, last = stderr.splitlines()
    assert status == UNUSABLE, stderr
    assert last.startswith("dmimad: "), stderr
    assert not [line for line in log if line.startswith("dmimad: ")], stderr
    return last.removeprefix("dmimad: ")


class TestBroker:
    async def test_that_comes_later_gets_everything_in_order(
        self, broker: Broker, tmp_path: Path, corpus: Path
    ) -> None:
        """The relay stands for it, for a broker would take alerts before the subscriber is there."""
        records = ascii_records(corpus / "systematic-6.1")
        async with Relay(broker.port) as relay, subscribed_to(broker) as subscriber:
            await relay.slam()
            host = Host(tmp_path / "host", relay.port)
            host.approve(entry("linear1", [load_hash(records[2])]))
            async with running(host.settings) as daemon:
                told = await daemon.wait_for_log("mqtt_unavailable")
                assert f"127.0.0.1:{relay.port}" in told["problem"]
                for record in records:
                    host.append(record)
                await daemon.wait_for_metric("dmimad_list_position", len(records))
                assert await daemon.metric("dmimad_mqtt_connected") == 0
                await relay.open()
                await host.settled(len(records))
                await all_arrived(broker, subscriber)
                found = first_arrivals(alerts(subscriber.messages))
                assert len(found) > 64  # more than go out at once
                assert [alert.sequence for alert in found] == list(range(1, len(found) + 1))
                broker.kill()
                await daemon.wait_for_metric("dmimad_mqtt_connected", 0)
                assert await daemon.terminate() == 0


class TestList:
    async def test_that_comes_later(self, broker: Broker, tmp_path: Path, corpus: Path) -> None:
        host = Host(tmp_path / "host", broker.port)
        host.configure(source={"path": str(tmp_path / "mirror" / "list")})
        host.approve(entry("linear1", required=True))
        async with subscribed_to(broker) as subscriber, running(host.settings) as daemon:
            told = await daemon.wait_for_log("list_unavailable")
            assert str(tmp_path / "mirror" / "list") in told["problem"]
            assert await daemon.metric("dmimad_source_up") == 0
            # Nothing is missing as long as there is no list to tell.
            (tmp_path / "mirror").mkdir()
            host.list = tmp_path / "mirror" / "list"
            host.write_list(b"".join(ascii_records(corpus / "systematic-6.1")[:11]))
            await host.settled(11)
            await all_arrived(broker, subscriber)
            assert [alert.summary for alert in alerts(subscriber.messages)] == [
                ("device.missing", "firing", "linear1", None)
            ]
            assert await daemon.metric("dmimad_source_up") == 1
            assert len(daemon.logged("list_unavailable")) == 1

    @pytest.mark.parametrize("garbage", ["text", "zeros", "random"])
    async def test_that_is_none(self, broker: Broker, tmp_path: Path, corpus: Path, garbage: str) -> None:
        """It is told once, and the daemon is there for a better one."""
        data = {
            "text": b"May 1 12:00:00 web-1 kernel: device-mapper: uevent: version 1.0.3\n" * 100,
            "zeros": bytes(100_000),
            "random": random.Random(1).randbytes(100_000),
        }[garbage]
        host = Host(tmp_path / "host", broker.port)
        host.append(data)
        async with subscribed_to(broker) as subscriber, running(host.settings) as daemon:
            await daemon.wait_for_log("list_unreadable")
            [told] = await arrived(subscriber, 1)
            assert told.summary == ("record.malformed", "firing", "web-1", 0)
            host.append(data)
            await daemon.wait_for_metric("dmimad_source_up", 0)
            good = ascii_records(corpus / "systematic-6.1")[:11]
            host.write_list(b"".join(good))
            await daemon.wait_for_metric("dmimad_source_up", 1)
            await host.settled(len(good))
            await all_arrived(broker, subscriber)
            assert ("record.malformed", "resolved") in {
                alert.summary[:2] for alert in alerts(subscriber.messages)
            }
            assert len(daemon.logged("list_unreadable")) == 1
            assert await daemon.terminate() == 0

    async def test_garbage_among_records(self, broker: Broker, tmp_path: Path, corpus: Path) -> None:
        records = ascii_records(corpus / "systematic-6.1")
        host = Host(tmp_path / "host", broker.port)
        host.approve(entry("linear1", [load_hash(records[2])]))
        host.append(b"".join([*records[:4], b"\xff\0 no record \x1b[2J\n", *records[4:7]]))
        async with subscribed_to(broker) as subscriber, running(host.settings) as daemon:
            await host.settled(8)
            await all_arrived(broker, subscriber)
            told = [alert.summary for alert in alerts(subscriber.messages)]
            assert told[0] == ("record.malformed", "firing", "web-1", 4)
            assert told[-1] == ("drift.active", "firing", "linear1", 7)
            assert await daemon.metric("dmimad_source_up") == 1
            assert "\x1b" not in daemon.log()

    async def test_that_is_a_directory(self, host: Host, tmp_path: Path) -> None:
        host.configure(source={"path": str(tmp_path)})
        told = await complaint(host.settings)
        assert str(tmp_path) in told
        assert "directory" in told
        assert "source.path" in told

    @pytest.mark.skipif(
        Path("/sys/kernel/security/integrity/ima").exists(), reason="this machine has the kernel's list"
    )
    async def test_that_the_kernel_has_not(self, host: Host) -> None:
        host.configure(source={"path": "auto"})
        told = await complaint(host.settings)
        assert "measurement list" in told
        assert "/sys/kernel/security" in told


async def lament(host: Host) -> str:
    """What a daemon says that has nowhere to store anything, and does its work all the same."""
    async with running(host.settings) as daemon:
        told = await daemon.wait_for_log("store_failed")
        await daemon.wait_for_metric("dmimad_list_position", 7)
        assert await daemon.metric("dmimad_store_up") == 0
        assert await daemon.terminate() == 0
    return str(told["problem"])


class TestState:
    async def test_a_file_where_the_directory_should_be(self, host: Host, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        host.configure(state={"directory": str(tmp_path / "file")})
        told = await lament(host)
        assert str(tmp_path / "file") in told
        assert "state.directory" in told

    async def test_no_parent(self, host: Host, tmp_path: Path) -> None:
        host.configure(state={"directory": str(tmp_path / "no" / "state")})
        assert str(tmp_path / "no") in await lament(host)

    async def test_not_writable(self, host: Host, tmp_path: Path) -> None:
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        # Modes do not stop root; the kernel's own directories do.
        directory = locked if os.access(locked, os.W_OK) is False else Path("/proc/self/fdinfo")
        host.configure(state={"directory": str(directory)})
        told = await lament(host)
        assert str(directory) in told
        assert "writable" in told

    async def test_is_another_daemons(self, host: Host, tmp_path: Path) -> None:
        async with running(host.settings) as first:
            second = Host(tmp_path / "second", free_port())
            second.configure(state={"directory": str(host.state)})
            told = await complaint(second.settings)
            assert str(host.state) in told
            assert "another dmimad" in told
            await first.wait_for_metric("dmimad_list_position", 7)  # it does not mind
            assert await first.terminate() == 0
        async with running(second.settings):
            pass  # now it is free


class TestMetrics:
    async def test_port_in_use(self, host: Host) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            host.configure(metrics={"port": port})
            told = await complaint(host.settings)
        assert f"127.0.0.1:{port}" in told
        assert "metrics.port" in told

    async def test_disabled(self, host: Host) -> None:
        host.configure(metrics={"enabled": False})
        async with running(host.settings) as daemon:
            await daemon.wait_for_log("started")
            assert not daemon.logged("metrics_listening")
            assert await daemon.terminate() == 0


WRONG_SETTINGS: dict[str, tuple[Callable[[str], str], str, str]] = {
    "unknown key": (lambda text: text.replace("hold_off_seconds", "holdoff"), "alerts.holdoff", "unknown"),
    "wrong type": (lambda text: text.replace("port = 0", 'port = "0"'), "metrics.port", "number"),
    "out of range": (lambda text: text.replace("port = 0", "port = 70000"), "metrics.port", "65535"),
    "unknown section": (lambda text: text + "[alert]\n", "alert", "alerts"),
    "no TOML": (lambda text: text + "[[[\n", "", "not valid TOML"),
}


class TestSettings:
    @pytest.mark.parametrize("wrong", WRONG_SETTINGS)
    async def test_refused(self, host: Host, wrong: str) -> None:
        change, key, reason = WRONG_SETTINGS[wrong]
        host.settings.write_text(change(host.settings.read_text()))
        told = await complaint(host.settings)
        assert told.startswith(str(host.settings))
        assert key in told
        assert reason in told

    async def test_no_such_file(self, tmp_path: Path) -> None:
        told = await complaint(tmp_path / "none.toml")
        assert str(tmp_path / "none.toml") in told

    async def test_wrong_baseline_at_start(self, host: Host) -> None:
        """There is no last good one yet."""
        host.approve("[[device]]\nname = 'x'\nhash = 1")
        told = await complaint(host.settings)
        assert told.startswith(f"{host.baseline / 'main.toml'}:4: ")


async def test_starts_with_nothing_there(tmp_path: Path) -> None:
    """No broker, no list, no baseline, no state: it runs, says so, and stops when it is told to."""
    host = Host(tmp_path / "host", free_port())
    host.baseline.rmdir()
    async with prepared(host.settings) as daemon:
        await daemon.start()
        await daemon.wait_for_log("list_unavailable")
        await daemon.wait_for_log("mqtt_unavailable")
        assert await daemon.terminate() == 0
