"""The daemon's side: with the real server, with observers that misbehave, and with a real child process."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import struct
import sys
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs
from structlog.typing import FilteringBoundLogger

from dmimad.adapters.live import connect
from dmimad.adapters.live.client import LiveClient
from dmimad.adapters.live.connect import (
    AutoConnector,
    ChildConnector,
    Connector,
    SocketConnector,
    Streams,
    check_may_observe,
    connector,
)
from dmimad.adapters.live.dm import DmControl
from dmimad.adapters.live.protocol import REQUEST_BYTES, encode_activity, encode_failure, encode_observation
from dmimad.adapters.live.protocol import Request as Asked
from dmimad.adapters.live.server import Server, Timing
from dmimad.adapters.live.sockets import Peer
from dmimad.core.errors import AdapterError
from dmimad.core.observation import Observation
from tests.adapters.live_kernel import ModelKernel, example

DEADLINE_SECONDS = 20.0
EMPTY = Observation((4, 48, 0), ())


def logger() -> FilteringBoundLogger:
    log: FilteringBoundLogger = structlog.get_logger()
    return log


class ServerInThread:
    """A connector: each connection is served by the real server, whose kernel is a model."""

    where = "the server in a thread"

    def __init__(self, kernel: ModelKernel, timing: Timing | None = None) -> None:
        self.kernel = kernel
        self.connections = 0
        self.ends: list[socket.socket] = []
        self._timing = timing or Timing()
        self._threads: list[threading.Thread] = []

    async def __call__(self) -> Streams:
        self.connections += 1
        ours, theirs = socket.socketpair()
        control = DmControl(opener=self.kernel.open, ioctl=self.kernel.ioctl)
        server = Server(control, connection=theirs, timing=self._timing, report=lambda line: None)
        self._threads.append(threading.Thread(target=server.run))
        self._threads[-1].start()
        self.ends.append(ours)
        return await asyncio.open_unix_connection(sock=ours)

    async def close(self) -> None:
        for thread in self._threads:
            await asyncio.to_thread(thread.join, DEADLINE_SECONDS)
            assert not thread.is_alive()


Behaviour = Callable[[StreamReader, StreamWriter], Awaitable[None]]


class Misbehaving:
    """A connector whose other end does as each behaviour says, one per connection; the last one again."""

    where = "the other end"

    def __init__(self, *behaviours: Behaviour) -> None:
        self._behaviours = list(behaviours)
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0

    async def __call__(self) -> Streams:
        self.connections += 1
        behaviour = self._behaviours.pop(0) if len(self._behaviours) > 1 else self._behaviours[0]
        ours, theirs = socket.socketpair()
        self._tasks.add(asyncio.create_task(self._behave(behaviour, theirs)))
        return await asyncio.open_unix_connection(sock=ours)

    async def _behave(self, behaviour: Behaviour, end: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=end)
        try:
            await behaviour(reader, writer)
        except (EOFError, OSError):
            pass
        finally:
            writer.transport.abort()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def client_of(
    reach: Connector, timeout_seconds: float = DEADLINE_SECONDS
) -> AsyncGenerator[LiveClient]:
    client = LiveClient(reach, timeout_seconds=timeout_seconds, log=logger(), first_pause_seconds=0.001)
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            yield client
    finally:
        await client.close()


def sends(data: bytes) -> Behaviour:
    """Answers the first request with these bytes, and hangs up."""

    async def behave(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readexactly(REQUEST_BYTES)
        writer.write(data)
        await writer.drain()
        writer.write_eof()
        await reader.read()

    return behave


async def honest(reader: StreamReader, writer: StreamWriter) -> None:
    """Without devices and without events."""
    while True:
        request = await reader.readexactly(REQUEST_BYTES)
        writer.write(
            b"".join(encode_observation(EMPTY)) if request[7] == Asked.OBSERVE else encode_activity()
        )


async def silent(reader: StreamReader, writer: StreamWriter) -> None:
    await reader.read()


async def gone(reader: StreamReader, writer: StreamWriter) -> None:
    await reader.readexactly(REQUEST_BYTES)


async def test_observations_over_one_connection() -> None:
    server = ServerInThread(example())
    async with client_of(server) as client:
        first = await client.observe()
        assert [device.name for device in first.devices] == [d.name for d in server.kernel.devices.values()]
        assert first.dm_version == (4, 48, 0)
        del server.kernel.devices[253, 0]
        assert (await client.observe()).devices == first.devices[1:]
        both = await asyncio.gather(client.observe(), client.observe())
        assert both[0] == both[1] == await client.observe()
        assert server.connections == 1


async def test_activity_and_observations_at_the_same_time() -> None:
    server = ServerInThread(example())
    async with client_of(server) as client, aclosing(client.activity()) as activity:
        await anext(activity)  # in force
        for _ in range(5):
            server.kernel.event()
            _, observation = await asyncio.gather(anext(activity), client.observe())
            assert len(observation.devices) == 6
        assert server.connections == 1


async def test_a_burst_is_one_item() -> None:
    server = ServerInThread(example())
    async with client_of(server) as client, aclosing(client.activity()) as activity:
        await anext(activity)
        for _ in range(50):
            server.kernel.event()
            await client.observe()  # its answer comes after the activity
        await anext(activity)
        more = asyncio.ensure_future(anext(activity))
        await client.observe()
        assert not more.done()
        server.kernel.event()
        await more


async def test_two_listen_to_activity() -> None:
    server = ServerInThread(example())
    async with (
        client_of(server) as client,
        aclosing(client.activity()) as one,
        aclosing(client.activity()) as two,
    ):
        await asyncio.gather(anext(one), anext(two))
        server.kernel.event()
        await asyncio.gather(anext(one), anext(two))
        assert server.connections == 1


async def test_what_the_observer_refuses_is_raised_and_may_pass() -> None:
    server = ServerInThread(ModelKernel(refusal=errno.EACCES))
    async with client_of(server) as client:
        for _ in range(2):
            with pytest.raises(
                AdapterError, match="/dev/mapper/control: not allowed to ask device-mapper; run"
            ):
                await client.observe()
        server.kernel.refusal = 0
        assert await client.observe() == EMPTY
        assert server.connections == 1


async def test_a_connection_closed_while_unused_is_no_error() -> None:
    server = ServerInThread(example())
    async with client_of(server) as client:
        await client.observe()
        server.ends[0].shutdown(socket.SHUT_RDWR)
        assert len((await client.observe()).devices) == 6
        assert server.connections == 2


async def test_a_connection_closed_on_the_next_question_is_asked_again_once() -> None:
    async def once(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readexactly(REQUEST_BYTES)
        writer.write(b"".join(encode_observation(EMPTY)))
        await reader.readexactly(REQUEST_BYTES)

    other = Misbehaving(once, gone, honest)
    async with client_of(other) as client:
        assert await client.observe() == EMPTY
        with pytest.raises(AdapterError, match="the other end: the observer hung up"):
            await client.observe()
        assert await client.observe() == EMPTY
        assert other.connections == 3


async def test_the_watch_goes_on_over_another_connection() -> None:
    server = ServerInThread(example())
    with capture_logs() as logs:
        async with client_of(server) as client, aclosing(client.activity()) as activity:
            await anext(activity)
            server.ends[0].shutdown(socket.SHUT_RDWR)
            await anext(activity)  # what happened meanwhile was not heard
            server.kernel.event()
            await anext(activity)
    assert [entry["event"] for entry in logs] == ["live_watch_lost", "live_watch_regained"]
    assert server.connections == 2


async def test_the_watch_waits_for_an_observer_and_complains_once() -> None:
    server = ServerInThread(ModelKernel(refusal=errno.EACCES))
    with capture_logs() as logs:
        async with client_of(server) as client, aclosing(client.activity()) as activity:
            first = asyncio.ensure_future(anext(activity))
            while not logs:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.001)
            server.kernel.refusal = 0
            await first
    assert [entry["event"] for entry in logs] == ["live_watch_lost", "live_watch_regained"]
    assert "not allowed to ask device-mapper" in logs[0]["problem"]


async def test_the_watch_ends_when_the_client_is_closed() -> None:
    for reach in (ServerInThread(example()), SocketConnector(Path("/nonexistent/live.sock"))):
        async with client_of(reach) as client:
            items: list[None] = []

            async def listen(client: LiveClient = client, items: list[None] = items) -> None:
                async with aclosing(client.activity()) as activity:
                    async for _ in activity:
                        items.append(None)

            listening = asyncio.create_task(listen())
            while isinstance(reach, ServerInThread) and not items:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.001)
            await client.close()
            await listening
            with pytest.raises(AdapterError, match="the connection was closed"):
                await client.observe()


async def test_silence_is_an_error_and_the_connection_is_given_up() -> None:
    other = Misbehaving(silent, honest)
    async with client_of(other, timeout_seconds=0.05) as client:
        with pytest.raises(AdapterError, match=r"the other end: no observation within 0\.05 s; see whether"):
            await client.observe()
        assert other.connections == 1
    other = Misbehaving(silent, honest)
    async with client_of(other) as client:
        asking = asyncio.create_task(client.observe())
        while not other.connections:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        assert await client.observe() == EMPTY


END = next(encode_observation(EMPTY))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the observer hung up"),
        (END[:5], "the observer hung up"),
        (END[:20], "the observer hung up"),
        (b"HTTP/1.1 400 Bad Request", "the observer is no dmimad: it begins with b'HTTP'"),
        (struct.pack("!4sHHI", b"dmlv", 9, 17, 0), "the observer speaks version 9, this dmimad version 1"),
        (struct.pack("!4sHHI", b"dmlv", 1, 16, 0xFFFFFFFF), "a frame of 4294967295 bytes"),
        (struct.pack("!4sHHI", b"dmlv", 1, 77, 0), "no such answer: 77"),
        (struct.pack("!4sHHI4I", b"dmlv", 1, 17, 16, 4, 48, 0, 5), "an end after 0 devices of 5"),
        (
            encode_failure(Asked.CONNECTION, AdapterError("user 7 may not ask", "x", "y")),
            "user 7 may not ask; y",
        ),
    ],
)
async def test_observers_that_make_no_sense(data: bytes, reason: str) -> None:
    other = Misbehaving(sends(data), honest)
    async with client_of(other) as client:
        with pytest.raises(AdapterError) as caught:
            await client.observe()
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)
        assert await client.observe() == EMPTY
        assert other.connections == 2


async def test_answers_nobody_asked_for() -> None:
    async def eager(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readexactly(REQUEST_BYTES)
        writer.write(END + END)
        await reader.read()

    other = Misbehaving(eager, honest)
    async with client_of(other) as client:
        assert await client.observe() == EMPTY
        assert await client.observe() == EMPTY
        assert other.connections == 2


async def test_an_observation_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    device = next(encode_observation(await observed(example())))

    async def endless(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readexactly(REQUEST_BYTES)
        while True:
            writer.write(device * 100)
            await writer.drain()

    for limit, value in (("MAX_DEVICES", 5000), ("MAX_OBSERVATION_BYTES", 100_000)):
        monkeypatch.setattr(f"dmimad.adapters.live.client.{limit}", value)
        async with client_of(Misbehaving(endless)) as client:
            with pytest.raises(AdapterError, match="an observation without end"):
                await client.observe()


async def observed(kernel: ModelKernel) -> Observation:
    async with client_of(ServerInThread(kernel)) as client:
        return await client.observe()


# --- connecting ---


async def test_connecting_to_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "live.sock"
    reach = SocketConnector(path)
    assert reach.where == str(path)
    with pytest.raises(
        AdapterError, match=r"there is no observer's socket; start it as root: dmimad observe"
    ):
        await reach()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with pytest.raises(AdapterError, match="no observer answers here; start it as root"):
            await reach()
        listener.listen(0)
        _, writer = await reach()
        with pytest.raises(AdapterError, match="the observer does not accept connections"):
            await reach()
        writer.close()
        await writer.wait_closed()
    (tmp_path / "file").touch()
    with pytest.raises(AdapterError, match="no observer answers here"):
        await SocketConnector(tmp_path / "file")()
    with pytest.raises(AdapterError, match="cannot connect: AF_UNIX path too long; check"):
        await SocketConnector(tmp_path / ("x" * 200))()


async def test_an_observer_of_another_user_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "live.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        monkeypatch.setattr(connect, "peer_of", lambda connection: Peer(1, 4242, 4242))
        with pytest.raises(
            AdapterError, match="user 4242 listens here, who is neither root nor the daemon's own"
        ):
            await SocketConnector(path)()
        _, writer = await SocketConnector(path, trusted_users=frozenset({4242}))()
        writer.close()
        await writer.wait_closed()


ENVIRON = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path), "SECRET": "x"}
needs_no_dm = pytest.mark.skipif(
    Path("/dev/mapper/control").exists(), reason="this machine has device-mapper"
)


@needs_no_dm
async def test_a_child_of_our_own() -> None:
    reach = ChildConnector(environ=ENVIRON)
    async with client_of(reach) as client:
        with pytest.raises(AdapterError, match="/dev/mapper/control: no such file; load device-mapper"):
            await client.observe()
        child = reach._child
        assert child is not None
        environ = Path(f"/proc/{child.pid}/environ").read_bytes()
        assert b"SECRET" not in environ
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(AdapterError, match="no such file"):
            await client.observe()  # of another one
        assert child.returncode == -signal.SIGKILL
        child = reach._child
        assert child is not None
    # It ends for the closed connection, or for the signal that comes with it, whichever it meets first.
    assert child.returncode in (0, -signal.SIGTERM)


async def test_a_child_ends_with_the_connection() -> None:
    reach = ChildConnector(environ=ENVIRON)
    _, writer = await reach()
    child = reach._child
    assert child is not None
    writer.close()
    await writer.wait_closed()
    assert await asyncio.to_thread(child.wait, DEADLINE_SECONDS) == 0
    await reach.close()
    await reach.close()


async def test_a_child_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "CHILD_END_SECONDS", 0.2)
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(999)"
    reach = ChildConnector((sys.executable, "-c", stubborn), environ=ENVIRON)
    _, writer = await reach()
    child = reach._child
    assert child is not None
    await reach.close()
    assert child.returncode in (-signal.SIGKILL, -signal.SIGTERM)  # the latter if it was quicker than that
    writer.close()
    await writer.wait_closed()


async def test_a_child_that_cannot_be_started() -> None:
    with pytest.raises(AdapterError, match="cannot start /nonexistent: No such file or directory"):
        await ChildConnector(("/nonexistent",))()


async def test_auto_takes_the_socket_then_a_child_or_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "live.sock"
    child = Misbehaving(honest)
    allowed = [False]

    def may_observe() -> None:
        if not allowed[0]:
            raise PermissionError(0, "no CAP_SYS_ADMIN")

    reach = AutoConnector(path, child=child, may_observe=may_observe)
    async with client_of(reach) as client:
        with pytest.raises(AdapterError) as caught:
            await client.observe()
        assert str(caught.value) == (
            f"{path}: there is no observer's socket, and this process may not ask device-mapper itself "
            "(no CAP_SYS_ADMIN); start the observer as root (systemctl start dmimad-live.socket, or dmimad "
            "observe), or set live.enabled to false"
        )
        allowed[0] = True
        assert await client.observe() == EMPTY
        assert reach.where == "the other end"


async def test_auto_passes_over_a_socket_that_an_observer_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "live.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    allowed = [False]

    def may_observe() -> None:
        if not allowed[0]:
            raise PermissionError(0, "no CAP_SYS_ADMIN")

    reach = AutoConnector(path, child=Misbehaving(honest), may_observe=may_observe)
    with pytest.raises(AdapterError) as caught:
        await reach()
    assert str(caught.value).startswith(
        f"{path}: no observer answers here, and this process may not ask device-mapper itself"
    )
    assert reach.where == str(path)
    allowed[0] = True
    async with client_of(reach) as client:
        assert await client.observe() == EMPTY
    assert reach.where == "the other end"


async def test_auto_does_not_pass_over_a_socket_that_it_may_not_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's: an observer of our own beside it would hide that."""
    path = tmp_path / "live.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        monkeypatch.setattr(connect, "peer_of", lambda _: Peer(1, 4242, 4242))
        reach = AutoConnector(path, child=Misbehaving(honest), may_observe=lambda: None)
        with pytest.raises(AdapterError, match="user 4242 listens here"):
            await reach()


def test_the_setting_chooses() -> None:
    assert isinstance(connector("auto"), AutoConnector)
    chosen = connector("/run/other.sock")
    assert isinstance(chosen, SocketConnector)
    assert chosen.where == "/run/other.sock"


def test_may_this_process_observe(tmp_path: Path) -> None:
    status, control = tmp_path / "status", tmp_path / "control"
    status.write_text("Name:\tx\nCapEff:\t000001ffffdfffff\n")
    with pytest.raises(PermissionError, match="no CAP_SYS_ADMIN"):
        check_may_observe(control=control, status=status)
    status.write_text("Name:\tx\n")
    with pytest.raises(PermissionError, match="no CAP_SYS_ADMIN"):
        check_may_observe(control=control, status=status)
    status.write_text("Name:\tx\nCapEff:\t0000000000200000\n")
    with pytest.raises(OSError, match="control: No such file or directory"):
        check_may_observe(control=control, status=status)
    control.touch()
    check_may_observe(control=control, status=status)
