"""Asking the real daemon over its real socket: what it tells and refuses, and what does not disturb it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from dmimad.adapters.control.client import Conversation, ask
from dmimad.core.cloudevent import encode
from dmimad.core.errors import AdapterError
from tests.broker import Broker, free_port, subscribed_to
from tests.other_user import NOBODY, as_root, as_user, public_path
from tests.service.daemon_process import DEADLINE_SECONDS, running
from tests.service.host import Host, entry
from tests.service.lists import ascii_records, load_hash

#: Of systematic-6.1: linear1 has an active table, that of record 2; at 7 another one is in its place.
SHOWN, CHANGED = 4, 7
FINE, TROUBLE, UNUSABLE = 0, 1, 2
__all__ = ["public_path"]  # a fixture


@pytest.fixture
def records(corpus: Path) -> list[bytes]:
    return ascii_records(corpus / "systematic-6.1")


@pytest.fixture
def lonely(tmp_path: Path, records: list[bytes]) -> Host:
    """A host without a broker, whose linear1 is approved."""
    host = Host(tmp_path / "host", free_port())
    host.configure(mqtt={"enabled": False})
    host.approve(entry("linear1", [load_hash(records[2])]))
    host.append(b"".join(records[:SHOWN]))
    return host


async def asked(host: Host, request: str = "status", **members: object) -> dict[str, Any]:
    return await asyncio.to_thread(ask, host.socket, {"request": request, **members})


async def status_at(host: Host, position: int) -> dict[str, Any]:
    """The status once so many records are read."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            status: dict[str, Any] = (await asked(host))["status"]
            if status["list"]["position"] == position:
                return status


class Program:
    """`dmimad` with some arguments, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        assert process.stdout is not None
        self.out = process.stdout

    async def line(self) -> str:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return (await self.out.readline()).decode().rstrip("\n")

    async def line_with(self, text: str) -> str:
        while text not in (line := await self.line()):
            assert line, "it has ended"
        return line

    async def end(self) -> tuple[int, str, str]:
        async with asyncio.timeout(DEADLINE_SECONDS):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), err.decode()


async def start(*arguments: str) -> Program:
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "dmimad.cli", *arguments]
    return Program(await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe))


async def dmimad(*arguments: str) -> tuple[int, str, str]:
    return await (await start(*arguments)).end()


class TestStatus:
    async def test_what_it_knows(self, broker: Broker, host: Host, records: list[bytes]) -> None:
        host.approve(entry("linear1", [load_hash(records[2])]))
        host.append(b"".join(records[:SHOWN]))
        async with subscribed_to(broker) as subscriber, running(host.settings) as daemon:
            await daemon.wait_for_metric("dmimad_mqtt_connected", 1)
            before = await status_at(host, SHOWN)
            assert (before["host"], before["mqtt_connected"], before["alerts"]) == ("web-1", True, [])
            assert before["list"]["source"] == str(host.list)
            assert before["baseline"] == {"directory": str(host.baseline), "entries": 1, "accepted": True}
            host.append(b"".join(records[SHOWN:CHANGED]))
            after = await status_at(host, CHANGED)
            (device,) = after["devices"]
            since = device.pop("since")
            await subscriber.wait_for_last(f"dmimad/v1/web-1/device/{device['key']}", encode(device))
        assert (before["devices"][0]["verdict"], device["verdict"]) == ("approved", "drift")
        # Times are told in milliseconds, and two looks may share one.
        assert before["time"] <= since["verdict"] <= since["active"] <= after["time"]
        (alert,) = after["alerts"]
        assert (alert["code"], alert["severity"], alert["device"]) == ("drift.active", "critical", "linear1")
        assert after["firing"] == {"critical": 1, "warning": 0, "info": 0}

    async def test_the_socket_is_there_when_it_is_ready_and_gone_at_its_end(self, lonely: Host) -> None:
        async with running(lonely.settings) as daemon:
            assert stat.S_IMODE(lonely.socket.stat().st_mode) == 0o600
            assert (await asked(lonely))["status"]["mqtt_connected"] is None
            assert await daemon.terminate() == 0
        assert not lonely.socket.exists()

    async def test_the_socket_of_a_killed_daemon_is_replaced(self, lonely: Host) -> None:
        async with running(lonely.settings) as daemon:
            await daemon.kill()
            assert lonely.socket.exists()
            with pytest.raises(AdapterError, match="no daemon answers here any more"):
                await asked(lonely)
            await daemon.start()
            await daemon.ready()
            assert (await status_at(lonely, SHOWN))["devices"]

    async def test_a_daemon_whose_socket_cannot_be_goes_on_without(self, lonely: Host) -> None:
        lonely.configure(control={"socket": str(lonely.directory / "no" / "such" / "control.sock")})
        async with running(lonely.settings) as daemon:
            told = await daemon.wait_for_log("control_unavailable")
            assert told["level"] == "warning"
            assert "correct control.socket, or leave it empty" in told["problem"]
            await lonely.settled(SHOWN)

    async def test_two_daemons_do_not_share_a_socket(self, lonely: Host, tmp_path: Path) -> None:
        second = Host(tmp_path / "second", free_port(), "web-2")
        second.configure(mqtt={"enabled": False}, control={"socket": str(lonely.socket)})
        second.append(b"")
        async with running(lonely.settings), running(second.settings) as other:
            told = await other.wait_for_log("control_unavailable")
            assert (
                "another daemon answers here; stop it, or give control.socket another path" in told["problem"]
            )
            await other.terminate()
            assert (await asked(lonely))["status"]["host"] == "web-1"

    async def test_no_socket_is_made_where_none_is_wanted(self, lonely: Host) -> None:
        lonely.configure(control={"socket": ""})
        async with running(lonely.settings) as daemon:
            await lonely.settled(SHOWN)
            assert not daemon.logged("control_listening") + daemon.logged("control_unavailable")
            status, _, told = await dmimad("status", "--config", str(lonely.settings))
            assert (status, "control.socket is empty" in told) == (UNUSABLE, True)

    async def test_users_that_nobody_knows_are_told(self, lonely: Host) -> None:
        lonely.configure(control={"users": ["no-such-user", "4711"]})
        async with running(lonely.settings) as daemon:
            assert (await daemon.wait_for_log("control_user_unknown"))["user"] == "no-such-user"
            assert stat.S_IMODE(lonely.socket.stat().st_mode) == 0o666

    async def test_the_command(self, lonely: Host, records: list[bytes]) -> None:
        async with running(lonely.settings) as daemon:
            await status_at(lonely, SHOWN)
            status, out, err = await dmimad("status", "--config", str(lonely.settings))
            assert (status, err) == (FINE, "")
            assert "linear1" in out
            assert out.startswith("AS APPROVED  web-1  ")
            lonely.append(b"".join(records[SHOWN:CHANGED]))
            await status_at(lonely, CHANGED)
            status, out, err = await dmimad("status", "--socket", str(lonely.socket))
            assert (status, err) == (TROUBLE, "")
            assert "CRITICAL  drift.active  linear1" in out
            assert max(map(len, out.splitlines())) <= 80
            status, out, err = await dmimad("status", "--socket", str(lonely.socket), "--json")
            assert (status, err) == (TROUBLE, "")
            assert json.loads(out)["firing"]["critical"] == 1
            await daemon.terminate()
            status, out, err = await dmimad("status", "--config", str(lonely.settings))
            assert (status, out) == (UNUSABLE, "")
            assert err == (
                f"dmimad: {lonely.socket}: there is no control socket; start the daemon (dmimad run); "
                "if it runs, its log says why it has no socket\n"
            )


class TestOneDevice:
    async def test_its_document(self, lonely: Host, records: list[bytes]) -> None:
        async with running(lonely.settings) as daemon:
            await status_at(lonely, SHOWN)
            lonely.append(b"".join(records[SHOWN:CHANGED]))
            status = await status_at(lonely, CHANGED)
            by_name = (await asked(lonely, "device", device="linear1"))["device"]
            by_number = (await asked(lonely, "device", device="254:0"))["device"]
            by_name["time"] = by_number["time"]
            assert by_name == by_number
            assert by_name["device"] == status["devices"][0]
            assert by_name["alerts"] == status["alerts"]
            assert by_name["recent"] == status["recent"] != []
            (table,) = by_name["tables"]
            (approved,) = [row for row in table["rows"] if row["attribute"] == "hash"]
            assert (table["approved"], table["baseline"]) == (False, f"{lonely.baseline}/main.toml:2")
            assert approved["approved"] == load_hash(records[2])
            assert (approved["actual"], approved["differs"]) == (table["hash"], True)
            late = [(each["record"], each["event"], each["late"]) for each in by_name["history"]]
            assert (2, "table_load", True) in late
            assert (6, "device_resume", False) in late
            assert by_name["history"][-2]["hash"] == table["hash"]
            with pytest.raises(AdapterError, match="there is no device linear2; dmimad status shows those"):
                await asked(lonely, "device", device="linear2")
            assert await daemon.terminate() == 0
            await daemon.start()
            await daemon.ready()
            again = (await asked(lonely, "device", device="linear1"))["device"]
            assert again["history"] == by_name["history"]
            assert again["recent"] == by_name["recent"]

    async def test_the_command(self, lonely: Host, records: list[bytes]) -> None:
        where = ("status", "--socket", str(lonely.socket), "--device")
        async with running(lonely.settings):
            await status_at(lonely, SHOWN)
            status, out, err = await dmimad(*where, "linear1")
            assert (status, err) == (FINE, "")
            assert out.startswith("linear1 (254:0) on web-1: approved, since ")
            lonely.append(b"".join(records[SHOWN:CHANGED]))
            await status_at(lonely, CHANGED)
            status, out, err = await dmimad(*where, "254:0")
            assert (status, err) == (TROUBLE, "")
            assert "CRITICAL  drift.active  linear1" in out
            assert "!=  hash" in out
            assert out.count("device_resume 6") == 2
            assert max(map(len, out.splitlines())) <= 80
            status, out, err = await dmimad(*where, "linear1", "--json")
            assert (status, err, json.loads(out)["former"]) == (TROUBLE, "", False)
            status, out, err = await dmimad(*where, "linear9")
            assert (status, out) == (UNUSABLE, "")
            assert "there is no device linear9" in err


class TestWatch:
    async def test_a_drift_appears(self, lonely: Host, records: list[bytes]) -> None:
        async with running(lonely.settings) as daemon:
            await status_at(lonely, SHOWN)
            program = await start("status", "--watch", "--socket", str(lonely.socket))
            first = await program.line()
            assert first.endswith("watching web-1: 1 devices, 0 alerts firing")
            lonely.append(b"".join(records[SHOWN:CHANGED]))
            assert "device linear1 (" in await program.line_with(": approved, linear ")
            assert (await program.line_with("CRITICAL")).endswith("runs a table that is not approved")
            lonely.approve(entry("linear1"))
            await program.line_with("resolved drift.active")
            await daemon.terminate()
            status, _, err = await program.end()
            assert status == UNUSABLE
            assert err.startswith(f"dmimad: {lonely.socket}: the daemon has ended the connection")

    async def test_it_ends_when_it_is_interrupted(self, lonely: Host) -> None:
        async with running(lonely.settings) as daemon:
            program = await start("status", "--watch", "--json", "--socket", str(lonely.socket))
            assert json.loads(await program.line())["host"] == "web-1"
            program.process.send_signal(signal.SIGINT)
            status, _, err = await program.end()
            assert (status, err) == (130, "")
            await daemon.terminate()


class TestMaintenance:
    async def test_from_begin_to_end(self, lonely: Host) -> None:
        at = ("--socket", str(lonely.socket))
        async with running(lonely.settings) as daemon:
            reason = ("--reason", "kernel update")
            status, out, err = await dmimad(
                "maintenance", "start", *at, "--for", "30m", "--device", "linear*", *reason
            )
            assert (status, err) == (FINE, "")
            assert out.startswith("in force: linear* until ")
            assert "kernel update" in out
            told = await daemon.wait_for_log("maintenance_started")
            assert (told["device"], told["reason"], told["uid"]) == ("linear*", "kernel update", os.geteuid())
            (begun,) = (await asked(lonely, "maintenance-list"))["maintenance"]
            assert (await asked(lonely))["status"]["maintenance"] == [begun]
            assert told["until"] == begun["until"]
            assert told["id"] == begun["id"]
            await daemon.kill()
            await daemon.start()
            await daemon.ready()
            _, out, _ = await dmimad("maintenance", "list", *at)
            assert out.startswith("linear* until ")  # it was stored before it was answered
            status, out, _ = await dmimad("maintenance", "end", begun["id"], *at)
            assert (status, out) == (FINE, f"ended: linear*: kernel update [id {begun['id']}]\n")
            assert (await daemon.wait_for_log("maintenance_ended"))["id"] == begun["id"]
            status, _, err = await dmimad("maintenance", "end", begun["id"], *at)
            assert status == UNUSABLE
            assert f"no maintenance {begun['id']} is in force; see dmimad maintenance list" in err
            assert await dmimad("maintenance", "list", *at) == (FINE, "no maintenance is in force\n", "")
            for pattern in ("a", "b"):
                await asked(lonely, "maintenance-start", device=pattern, seconds=60, reason="r")
            status, out, _ = await dmimad("maintenance", "end", "--all", *at)
            assert (status, len(out.splitlines())) == (FINE, 2)

    async def test_it_ends_by_itself(self, lonely: Host) -> None:
        async with running(lonely.settings):
            await asked(lonely, "maintenance-start", device="a", seconds=1, reason="short")
            async with asyncio.timeout(DEADLINE_SECONDS):
                while (await asked(lonely, "maintenance-list"))["maintenance"]:
                    pass

    async def test_what_makes_no_sense_is_refused(self, lonely: Host) -> None:
        async with running(lonely.settings):
            with pytest.raises(AdapterError, match="the daemon refuses: the duration must be"):
                await asked(lonely, "maintenance-start", device="a", seconds=1e12, reason="r")
            assert (await asked(lonely, "maintenance-list"))["maintenance"] == []


@as_root
class TestOtherUsers:
    async def test_who_may_not_is_refused_and_who_may_ask_may_not_change(
        self, lonely: Host, public_path: Path
    ) -> None:
        lonely.socket = public_path / "control.sock"
        lonely.configure(control={"socket": str(lonely.socket), "users": ["4711"]})
        async with running(lonely.settings) as daemon:
            (told,) = await as_user(NOBODY, lonely.socket, {"request": "status"})
            assert f"user {NOBODY} may not ask; ask as root" in told
            refused = await daemon.wait_for_log("control_refused")
            assert (refused["level"], refused["uid"], refused["user"]) == ("warning", NOBODY, "nobody")
            start: dict[str, object] = {
                "request": "maintenance-start",
                "device": "*",
                "seconds": 60,
                "reason": "r",
            }
            asking, changing = await as_user(4711, lonely.socket, {"request": "status"}, start)
            assert asking == "True"
            assert "user 4711 may ask, but not change anything; do it as root" in changing
            assert (await asked(lonely, "maintenance-list"))["maintenance"] == []


class TestHostileClients:
    async def test_they_do_not_disturb(self, lonely: Host, records: list[bytes]) -> None:
        """Dozens at once: silent, slow, greedy, talking nonsense, gone in the middle."""
        lonely.configure(metrics={"port": 0})
        chaos = random.Random(4)

        async def annoy(number: int) -> None:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_unix_connection(lonely.socket)
                with contextlib.closing(writer):
                    kind = number % 5
                    if kind == 0:
                        writer.write(chaos.randbytes(200_000))
                    elif kind == 1:
                        writer.write(b'{"v":1,"request":"watch"}\n')  # and never reads
                    elif kind == 2:
                        writer.write(b'{"v":1,"request":"status"}\n' * 1000)
                    elif kind == 3:
                        writer.write(b"[" * 60_000 + b"\n")
                    await asyncio.wait_for(reader.read(chaos.choice((0, 1, 10_000))), chaos.random())

        async with running(lonely.settings) as daemon:
            await status_at(lonely, SHOWN)
            attack = asyncio.gather(*(annoy(number) for number in range(120)), return_exceptions=True)
            for number in range(SHOWN, 30):
                lonely.append(records[number])
            await daemon.wait_for_metric("dmimad_list_position", 30)
            await attack
            async with asyncio.timeout(DEADLINE_SECONDS):
                while True:
                    with contextlib.suppress(AdapterError):  # the last of them are just leaving
                        assert (await asked(lonely))["status"]["list"]["position"] == 30
                        break
            assert not daemon.logged("control_failed")
            assert await daemon.terminate() == 0

    async def test_a_watcher_that_does_not_read_holds_up_nobody(
        self, lonely: Host, records: list[bytes]
    ) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf:
            async with running(lonely.settings) as daemon:
                deaf.connect(str(lonely.socket))
                deaf.sendall(b'{"v":1,"request":"watch"}\n')
                conversation = await asyncio.to_thread(Conversation, lonely.socket, {"request": "watch"})
                with conversation:
                    lonely.append(b"".join(records[SHOWN:]))
                    async with asyncio.timeout(DEADLINE_SECONDS):
                        while True:
                            answer: Any = await asyncio.to_thread(conversation.next, DEADLINE_SECONDS)
                            if answer["status"]["list"]["position"] == len(records):
                                break
                assert await daemon.terminate() == 0
