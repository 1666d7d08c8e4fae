"""The real daemon as a process of its own: `dmimad run`, started, watched and ended by a test.

The process tells all a test has to know: that it is ready and has reloaded (to the socket a service
manager would give it), what happened (its log, as JSON lines on stderr) and where it is (its metrics).
So nothing here sleeps to synchronise; each wait is for one of these, ends early if the process does,
and has a deadline that fails the test with the log so far.

However it ends, a traceback on stderr fails the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

DEADLINE_SECONDS = 60.0

Series = tuple[str, frozenset[tuple[str, str]]]


class DaemonProcess:
    """One process at a time; it can be started again after its end, and `lines` goes on."""

    def __init__(self, settings: Path, *arguments: str) -> None:
        self._command = [sys.executable, "-m", "dmimad.cli", "run", "--config", str(settings), *arguments]
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._notified = 0  # how many of the notifications came from former processes
        self._began = 0  # line of the log where the present process began
        self._changed = asyncio.Event()
        self._socket: socket.socket | None = None
        self.lines: list[str] = []
        self.notifications: list[str] = []

    # Life

    async def start(self) -> None:
        """Start the process; it has not done anything yet when this returns."""
        assert self._process is None, "already started"
        address = f"@dmimad-test-{secrets.token_hex(8)}"  # abstract: a path may be too long for a socket
        self._listen(address)
        self._began, self._notified = len(self.lines), len(self.notifications)
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "NOTIFY_SOCKET": address, "PYTHONUNBUFFERED": "1"},
        )
        self._reading = asyncio.create_task(self._read(self._process))

    async def ready(self) -> None:
        """Until it says that it is ready."""
        await self.until(lambda: self._told("READY=1") > 0, "ready")

    async def reload(self) -> None:
        """SIGHUP, and until it has taken or refused what is there now."""
        before = self._told("READY=1")
        self.signal(signal.SIGHUP)
        await self.until(lambda: self._told("READY=1") > before, "reloaded")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "not started"
        self._process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL, if it runs, and wait for its end."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self.ended()

    async def terminate(self) -> int:
        """SIGTERM, and wait for its end; returns the exit status."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        """Until it has ended by itself; returns the exit status."""
        assert self._process is not None, "not started"
        assert self._reading is not None
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                status = await self._process.wait()
                await self._reading
        except TimeoutError:
            self._process.kill()
            raise AssertionError(f"does not end\n{self.log()}") from None
        self._process = None
        self._ignore()
        assert "Traceback" not in self.log(), self.log()
        return status

    async def run_to_end(self) -> tuple[int, str]:
        """For one that is to end by itself: its exit status and what it wrote on stderr."""
        await self.start()
        status = await self.ended()
        return status, "\n".join(self.lines[self._began :])

    # The log

    def log(self) -> str:
        """What the present process, or the last one, wrote on stderr."""
        return "\n".join(self.lines[self._began :])

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Events of that name in the log of the present process."""
        return [entry for entry in map(_entry, self.lines[self._began :]) if entry.get("event") == event]

    async def wait_for_log(self, event: str, count: int = 1) -> dict[str, Any]:
        """Until the log has `count` events of that name; returns the last of them."""
        await self.until(lambda: len(self.logged(event)) >= count, f"log event {event}")
        return self.logged(event)[count - 1]

    async def until(self, what: Callable[[], bool], description: str) -> None:
        """Until `what` is true; it is asked again after each line and each notification."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not what():
                    assert self._reading is not None
                    assert not self._reading.done(), f"ended before: {description}\n{self.log()}"
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"did not happen: {description}\n{self.log()}") from None

    # Metrics

    async def scrape(self) -> str:
        """The text at its metrics endpoint."""
        url = str((await self.wait_for_log("metrics_listening"))["url"])
        host, _, port = url.removeprefix("http://").removesuffix("/metrics").rpartition(":")
        async with asyncio.timeout(DEADLINE_SECONDS):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n")
                answer = await reader.read()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), answer
        return body.decode()

    async def metrics(self) -> dict[Series, float]:
        """The value of every series; see `series`."""
        return samples(await self.scrape())

    async def metric(self, name: str, **labels: str) -> float | None:
        """One value; None if there is no such series."""
        return (await self.metrics()).get(series(name, **labels))

    async def wait_for_metric(self, name: str, value: float, **labels: str) -> None:
        """Until that metric has that value; nothing tells when it changes, so it is looked at."""
        seen: float | None = None
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while (seen := await self.metric(name, **labels)) != value:  # noqa: ASYNC110  # nor has HTTP
                    await asyncio.sleep(0.02)  # between two looks
        except TimeoutError:
            raise AssertionError(f"{name}{labels or ''} is {seen}, not {value}\n{self.log()}") from None

    # Inside

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        try:
            async for line in process.stderr:
                self.lines.append(line.decode("utf-8", "backslashreplace").rstrip("\n"))
                self._changed.set()
        finally:
            self._changed.set()

    def _told(self, message: str) -> int:
        return sum(message in text.splitlines() for text in self.notifications[self._notified :])

    def _listen(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind("\0" + address[1:])
        asyncio.get_running_loop().add_reader(self._socket, self._notice)

    def _notice(self) -> None:
        assert self._socket is not None
        self.notifications.append(self._socket.recv(65536).decode())
        self._changed.set()

    def _ignore(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None


@contextlib.asynccontextmanager
async def running(settings: Path) -> AsyncIterator[DaemonProcess]:
    """A daemon that is ready; killed at the end if it still runs."""
    async with prepared(settings) as daemon:
        await daemon.start()
        await daemon.ready()
        yield daemon


@contextlib.asynccontextmanager
async def prepared(settings: Path) -> AsyncIterator[DaemonProcess]:
    """A daemon that the test starts itself; killed at the end if it runs."""
    daemon = DaemonProcess(settings)
    try:
        yield daemon
    finally:
        await daemon.kill()


def series(name: str, **labels: str) -> Series:
    """A metric's name with its labels, as a key of `DaemonProcess.metrics`."""
    return name, frozenset(labels.items())


def samples(text: str) -> dict[Series, float]:
    """The value of every series in a text of metrics."""
    return {
        series(sample.name, **sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _entry(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}
