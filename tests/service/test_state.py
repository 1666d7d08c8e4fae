"""The state directory misbehaves: the daemon says so, goes on, and loses and invents nothing.

What must arrive is what an undisturbed daemon sends for the same list, and besides only what the daemon says
of its state.  A file system of one megabyte is mounted for it, where that is possible.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker import Broker, Subscriber, subscribed_to
from tests.other_user import NOBODY, as_root, public_path
from tests.service.daemon_process import DaemonProcess, prepared, running
from tests.service.host import Host, entry
from tests.service.lists import ascii_records, load_hash
from tests.service.relay import Relay
from tests.service.witness import Alert, alerts, all_arrived, first_arrivals

__all__ = ["public_path"]

OF_STATE = "state.unavailable"
#: Of systematic-6.1: so many records are read before the trouble begins, and so many in all.
BEFORE, ALL = 8, 90


@pytest.fixture
def records(corpus: Path) -> list[bytes]:
    return ascii_records(corpus / "systematic-6.1")[:ALL]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    path = tmp_path / "disk"
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "dmimad-test", path], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"cannot mount: {made.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def approve(host: Host, records: list[bytes]) -> None:
    host.approve(entry("linear1", [load_hash(records[2])]), entry("nowhere", required=True))


@pytest.fixture
def host(broker: Broker, tmp_path: Path, records: list[bytes]) -> Host:
    host = Host(tmp_path / "host", broker.port)
    approve(host, records)
    return host


async def expected(broker: Broker, subscriber: Subscriber, tmp_path: Path, records: list[bytes]) -> list[str]:
    """The ids that an undisturbed daemon sends for the same list; those of the state are not among them."""
    host = Host(tmp_path / "undisturbed", broker.port)
    approve(host, records)
    host.append(b"".join(records[:BEFORE]))
    async with running(host.settings) as daemon:
        await host.settled(BEFORE)
        host.append(b"".join(records[BEFORE:]))
        await host.settled(ALL)
        await all_arrived(broker, subscriber)
        assert await daemon.terminate() == 0
    ids = [alert.id for alert in first_arrivals(alerts(subscriber.messages))]
    assert len(ids) > 20
    subscriber.forget()
    return ids


def of_the_list(subscriber: Subscriber) -> list[str]:
    """Ids that came, each once, of what is not about the state."""
    return [alert.id for alert in told(subscriber) if alert.event["data"]["code"] != OF_STATE]


def told(subscriber: Subscriber) -> list[Alert]:
    return first_arrivals(alerts(subscriber.messages))


def of_the_state(subscriber: Subscriber) -> list[str]:
    return [
        alert.event["data"]["status"] for alert in told(subscriber) if alert.event["data"]["code"] == OF_STATE
    ]


async def came(subscriber: Subscriber, ids: list[str], status: list[str]) -> None:
    """Until these alerts have come, and these about the state."""
    await subscriber.wait_for(
        lambda: {*of_the_list(subscriber)} >= {*ids} and of_the_state(subscriber) == status,
        lambda: f"{len({*ids} - {*of_the_list(subscriber)})} alerts; of the state {of_the_state(subscriber)}",
    )


def fill(disk: Path) -> Path:
    """Until there is no room for a byte."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return ballast


def remount(disk: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", disk], check=True)


class TestFull:
    async def test_while_it_runs(
        self, broker: Broker, host: Host, disk: Path, tmp_path: Path, records: list[bytes]
    ) -> None:
        host.state = disk / "state"
        host.configure(state={"directory": str(host.state)})
        host.append(b"".join(records[:BEFORE]))
        async with subscribed_to(broker) as subscriber:
            ids = await expected(broker, subscriber, tmp_path, records)
            async with running(host.settings) as daemon:
                await host.settled(BEFORE)
                ballast = fill(disk)
                host.append(b"".join(records[BEFORE:]))
                problem = str((await daemon.wait_for_log("store_failed"))["problem"])
                assert "the disk is full" in problem or "reading or writing failed" in problem
                await came(subscriber, ids, ["firing"])
                assert await daemon.metric("dmimad_store_up") == 0
                assert await daemon.metric("dmimad_list_position") == ALL
                ballast.unlink()
                await daemon.wait_for_log("store_recovered")
                await came(subscriber, ids, ["firing", "resolved"])
                await host.settled(ALL)
                await daemon.wait_for_metric("dmimad_store_up", 1)
                assert await daemon.metric("dmimad_outbox_pending") == 0
                assert of_the_list(subscriber) == ids
                sequences = [alert.sequence for alert in alerts(subscriber.messages)]
                assert sequences == list(range(1, len(ids) + 3))  # each once, too
                assert await daemon.terminate() == 0

    async def test_killed_meanwhile(
        self, broker: Broker, host: Host, disk: Path, tmp_path: Path, records: list[bytes]
    ) -> None:
        """What was told from memory comes again, under the ids it had."""
        host.state = disk / "state"
        host.configure(state={"directory": str(host.state)})
        host.append(b"".join(records[:BEFORE]))
        async with subscribed_to(broker) as subscriber:
            ids = await expected(broker, subscriber, tmp_path, records)
            async with prepared(host.settings) as daemon:
                await daemon.start()
                await host.settled(BEFORE)
                ballast = fill(disk)
                host.append(b"".join(records[BEFORE:]))
                await came(subscriber, ids, ["firing"])
                await daemon.kill()
                assert host.position() < ALL
                ballast.unlink()
                await daemon.start()
                await host.settled(ALL)
                await all_arrived(broker, subscriber)
                assert of_the_list(subscriber) == ids
                again = [alert.id for alert in alerts(subscriber.messages)]
                assert len(again) > len({*again})
                assert await daemon.terminate() == 0


class TestUnusableAtTheStart:
    @pytest.mark.parametrize("known", [False, True], ids=["nothing stored", "alerts stored"])
    async def test_read_only(
        self, broker: Broker, host: Host, disk: Path, tmp_path: Path, records: list[bytes], known: bool
    ) -> None:
        """What was stored is taken up when the cause goes, in the same process."""
        host.state = disk / "state"
        async with Relay(broker.port) as relay, subscribed_to(broker) as subscriber:
            host.configure(state={"directory": str(host.state)}, mqtt={"port": relay.port})
            ids = await expected(broker, subscriber, tmp_path, records)
            async with prepared(host.settings) as daemon:
                host.append(b"".join(records[:BEFORE]))
                if known:
                    await relay.slam()
                    await daemon.start()
                    await daemon.wait_for_metric("dmimad_list_position", BEFORE)
                    await daemon.until(lambda: host.position() == BEFORE, "stored")
                    await daemon.kill()
                    assert len(host.outbox()) > 1
                    await relay.open()
                remount(disk, "ro")
                await daemon.start()
                await daemon.ready()
                problem = str((await daemon.wait_for_log("store_failed"))["problem"])
                assert str(disk) in problem
                assert "read-only" in problem or "not writable" in problem
                host.append(b"".join(records[BEFORE:]))
                await came(subscriber, ids, ["firing"])
                remount(disk, "rw")
                await daemon.wait_for_log("beginning_again")
                await came(subscriber, ids, ["firing", "resolved"])
                await host.settled(ALL)
                await all_arrived(broker, subscriber)
                assert {*of_the_list(subscriber)} == {*ids}
                assert await daemon.metric("dmimad_store_up") == 1
                assert await daemon.terminate() == 0
                subscriber.forget()
                await daemon.start()
                await host.settled(ALL)
                await all_arrived(broker, subscriber)
                assert of_the_list(subscriber) == []
                assert not daemon.logged("reading_from_start")


class TestTakenAway:
    @pytest.mark.parametrize("how", ["directory", "file", "replaced"])
    async def test_while_it_runs(
        self, broker: Broker, host: Host, tmp_path: Path, records: list[bytes], how: str
    ) -> None:
        """Alerts that wait for a broker are in what was taken away, and come all the same."""
        async with Relay(broker.port) as relay, subscribed_to(broker) as subscriber:
            host.configure(mqtt={"port": relay.port})
            ids = await expected(broker, subscriber, tmp_path, records)
            await relay.slam()
            host.append(b"".join(records[:BEFORE]))
            async with running(host.settings) as daemon:
                await daemon.wait_for_metric("dmimad_list_position", BEFORE)
                database = host.state / "dmimad.db"
                if how == "directory":
                    shutil.rmtree(host.state)
                else:
                    database.unlink()
                if how == "replaced":
                    database.with_name("dmimad.db-wal").unlink()
                    database.write_bytes(b"no database" * 1000)
                host.append(b"".join(records[BEFORE:]))
                assert "taken away" in str((await daemon.wait_for_log("store_failed"))["problem"])
                await daemon.wait_for_log("beginning_again")
                await relay.open()
                await came(subscriber, ids, ["firing", "resolved"])
                await host.settled(ALL)
                await all_arrived(broker, subscriber)
                assert {*of_the_list(subscriber)} == {*ids}
                assert (host.state / "dmimad.db.corrupt-1").exists() == (how == "replaced")
                assert await daemon.terminate() == 0


@as_root
async def test_not_for_its_user(
    broker: Broker, public_path: Path, tmp_path: Path, records: list[bytes]
) -> None:
    """The directory is somebody else's for a while, and nobody but its owner may enter it."""
    host = Host(public_path / "host", broker.port)
    approve(host, records)
    host.configure(control={"socket": ""})
    host.state.mkdir(mode=0o700)
    host.append(b"".join(records[:BEFORE]))
    async with subscribed_to(broker) as subscriber:
        ids = await expected(broker, subscriber, tmp_path, records)
        daemon = DaemonProcess(host.settings)
        daemon._command[:0] = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        readable = ["setpriv", f"--reuid={NOBODY}", "--clear-groups", sys.executable, "-c", "import dmimad"]
        probe = await asyncio.create_subprocess_exec(*readable, stderr=asyncio.subprocess.DEVNULL)
        if await probe.wait():
            pytest.skip("another user may not run this Python")
        try:
            await daemon.start()
            await daemon.ready()
            assert "permission denied" in str((await daemon.wait_for_log("store_failed"))["problem"])
            os.chown(host.state, NOBODY, NOBODY)
            await daemon.wait_for_log("beginning_again")
            await came(subscriber, [], ["firing", "resolved"])
            await host.settled(BEFORE)
            host.state.chmod(0)
            host.append(b"".join(records[BEFORE:]))
            await daemon.wait_for_log("store_failed", 2)
            await came(subscriber, ids, ["firing", "resolved", "firing"])
            host.state.chmod(0o700)
            await daemon.wait_for_log("beginning_again", 2)
            await came(subscriber, ids, ["firing", "resolved"] * 2)
            await host.settled(ALL)
            assert {*of_the_list(subscriber)} == {*ids}
            assert await daemon.terminate() == 0
        finally:
            await daemon.kill()
