"""The watchdog is fed while every task gets on, and no longer: the daemon, and a service manager's socket.

In this process, so that it can be given a TPM that hangs and less patience than on a host.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dmimad import parts as module
from dmimad import witnesses
from dmimad.adapters.log import open_log
from dmimad.config import load
from dmimad.daemon import Daemon
from dmimad.liveness import Allowances
from dmimad.parts import Outside
from tests.broker import Broker, free_port
from tests.service.daemon_process import DEADLINE_SECONDS, running
from tests.service.host import Host
from tests.service.test_kernel_list import Machine

KEEPALIVE_SECONDS = 0.05
PATIENCE_SECONDS = 3.0
HASTE = Allowances(pipeline=0.5, list_state=0.25, alert_timer=PATIENCE_SECONDS)
PATIENCE = Allowances(pipeline=PATIENCE_SECONDS, list_state=PATIENCE_SECONDS, alert_timer=PATIENCE_SECONDS)


class Manager:
    """What a service manager hears."""

    def __init__(self) -> None:
        self.address = f"@dmimad-test-{secrets.token_hex(8)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind("\0" + self.address[1:])
        self._told: list[str] = []

    def told(self) -> list[str]:
        """All messages so far."""
        while True:
            try:
                self._told.append(self._socket.recv(65536).decode())
            except BlockingIOError:
                return self._told

    def fed(self) -> int:
        """How often the watchdog was."""
        return self.told().count("WATCHDOG=1")

    def status(self) -> str:
        """The last status line."""
        lines = [line for message in self.told() for line in message.splitlines()]
        return [line.removeprefix("STATUS=") for line in lines if line.startswith("STATUS=")][-1]

    def close(self) -> None:
        self._socket.close()


class Watched:
    """A daemon in this process, with its manager and its log."""

    def __init__(self, host: Host, machine: Machine, allowances: Allowances) -> None:
        self.manager = Manager()
        self._log = io.StringIO()
        settings = load(host.settings)
        environ = {
            "NOTIFY_SOCKET": self.manager.address,
            "WATCHDOG_USEC": str(int(2 * KEEPALIVE_SECONDS * 1_000_000)),
        }
        outside = Outside(
            lambda: settings, environ, tpm=machine.tpm, boot_id=machine.boot_id, allowances=allowances
        )
        self.daemon = Daemon(settings, outside, open_log(self._log, form="json"))
        self.task = asyncio.create_task(self.daemon.run())

    def logged(self, event: str) -> list[str]:
        """The tasks in events of that name."""
        entries = map(json.loads, self._log.getvalue().splitlines())
        return [entry["task"] for entry in entries if entry["event"] == event]

    async def until(self, what: Callable[[], bool]) -> None:
        """Until that is so; nothing tells when, so it is looked at."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not what():
                    assert not self.task.done(), self._log.getvalue()
                    await asyncio.sleep(0.01)  # between two looks
        except TimeoutError:
            told = f"{self._log.getvalue()}\n{self.manager.told()[-20:]}"
            raise AssertionError(f"did not happen\n{told}") from None


@asynccontextmanager
async def watched(host: Host, machine: Machine, allowances: Allowances) -> AsyncIterator[Watched]:
    """One that is ready; it ends cleanly."""
    run = Watched(host, machine, allowances)
    try:
        await run.until(run.daemon.ready.is_set)
        yield run
    finally:
        run.daemon.stop()
        await asyncio.wait([run.task], timeout=DEADLINE_SECONDS)
        run.manager.close()
        logging.getLogger().handlers.clear()
    assert run.task.exception() is None


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """One whose list the daemon takes for the kernel's."""
    made = Machine(tmp_path / "machine")
    monkeypatch.setattr(module, "is_kernel_list", lambda path: path == str(made.list))
    return made


@pytest.fixture
def monitored(tmp_path: Path, machine: Machine) -> Host:
    """Nobody listens where its broker should be."""
    host = Host(tmp_path / "host", free_port())
    host.list = machine.list
    host.configure(
        source={"path": str(machine.list), "poll_interval_seconds": 0.01},
        live={"enabled": False},
        metrics={"enabled": False},
        control={"socket": ""},
    )
    return host


def hang(machine: Machine) -> Path:
    """The TPM's PCR 10 does not answer any more, until somebody writes into this."""
    machine.extend()
    value = machine.tpm / "tpm0/pcr-sha256/10"
    value.unlink()
    os.mkfifo(value)
    return value


async def test_a_task_that_hangs_starves_it(
    monitored: Host, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads the TPM keeps the list's reader waiting, and goes on in the end."""
    monkeypatch.setattr(witnesses, "PCR_READ_SECONDS", DEADLINE_SECONDS)
    silent = hang(machine)
    async with watched(monitored, machine, HASTE) as run:
        await run.until(lambda: run.logged("task_hangs") == ["list_state"])
        fed = run.manager.fed()
        await run.until(lambda: run.manager.status().startswith("list state hangs; "))
        machine.kernel.load(b"a", ())
        machine.show()  # it cannot take this in
        await run.until(lambda: run.logged("task_hangs") == ["list_state", "pipeline"])
        assert run.manager.fed() == fed
        await run.until(lambda: run.manager.status().startswith("list state hangs; pipeline hangs; "))
        answer = silent.rename(silent.with_name("former"))
        machine.extend()
        await asyncio.to_thread(answer.write_bytes, b"00" * 32 + b"\n")
        await run.until(lambda: sorted(run.logged("task_goes_on")) == ["list_state", "pipeline"])
        await run.until(lambda: run.manager.fed() > fed)
        assert run.logged("task_hangs") == ["list_state", "pipeline"], "each is told of once"
        await run.until(lambda: run.manager.status().startswith("broker not connected, "))


async def test_neither_a_broker_that_is_away_nor_a_list_that_is_gone_does(
    monitored: Host, machine: Machine
) -> None:
    async with watched(monitored, machine, PATIENCE) as run:
        await run.until(
            lambda: "following the kernel's list" in run.manager.status() or run.manager.fed() > 0
        )
        monitored.configure()
        machine.list.unlink()
        machine.count.unlink()
        enough = run.manager.fed() + int(1.5 * PATIENCE_SECONDS / KEEPALIVE_SECONDS)
        await run.until(lambda: run.manager.fed() >= enough)
        assert run.logged("task_hangs") == []
        assert "broker not connected, " in run.manager.status()


async def test_a_process_tells_how_it_is(broker: Broker, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    async with running(host.settings) as daemon:
        ready = next(text for text in daemon.notifications if "READY=1" in text.splitlines())
        assert "STATUS=" in ready
        fine = f"STATUS=following {host.list}: 0 devices, no alert firing; broker connected, 0 waiting"
        host.write_list(b"")
        await daemon.until(lambda: fine in daemon.notifications, fine)
        await daemon.until(lambda: daemon.notifications.count("WATCHDOG=1") > 5, "fed")
        broker.kill()
        lost = f"STATUS=broker not connected, 0 waiting; following {host.list}: 0 devices, no alert firing"
        await daemon.until(lambda: lost in daemon.notifications, lost)
        assert await daemon.terminate() == 0
        assert daemon.notifications.count(fine) == 1, "told when it changes"
