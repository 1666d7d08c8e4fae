"""The observer's server on real sockets, with clients that are slow, silent, greedy or hostile."""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dmimad.adapters.live import server as server_module
from dmimad.adapters.live.dm import DmControl
from dmimad.adapters.live.protocol import (
    HEADER_BYTES,
    Activity,
    Answer,
    End,
    Failure,
    Request,
    decode_answer,
    decode_header,
    encode_request,
)
from dmimad.adapters.live.server import MAX_CLIENTS, MAX_LEAVING, Server, Timing
from dmimad.adapters.live.sockets import (
    Peer,
    inherited_connection,
    listen_at,
    passed_listener,
    peer_of,
    remove,
)
from dmimad.core.errors import AdapterError
from dmimad.core.observation import LiveDevice, LiveTable
from tests.adapters import live_kernel
from tests.adapters.live_kernel import ModelDevice, ModelKernel, example, linear

DEADLINE_SECONDS = 20.0
OBSERVE, WATCH = encode_request(Request.OBSERVE), encode_request(Request.WATCH)


@dataclass(slots=True)
class Running:
    """A server in a thread of this process, whose kernel is a model."""

    kernel: ModelKernel
    path: Path
    server: Server
    thread: threading.Thread
    reports: list[str]

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(self.path))  # waits for room in the backlog, as long as there is no timeout
        connection.settimeout(DEADLINE_SECONDS)
        return connection

    def ended(self) -> bool:
        self.thread.join(DEADLINE_SECONDS)
        return not self.thread.is_alive()


@contextmanager
def running(
    tmp_path: Path,
    kernel: ModelKernel | None = None,
    *,
    timing: Timing | None = None,
    users: tuple[int, ...] = (),
) -> Iterator[Running]:
    kernel = kernel or example()
    path = tmp_path / "live.sock"
    listener = listen_at(path, ())
    reports: list[str] = []
    control = DmControl(opener=kernel.open, ioctl=kernel.ioctl)
    server = Server(control, listener=listener, users=users, timing=timing or Timing(), report=reports.append)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield Running(kernel, path, server, thread, reports)
    finally:
        server.stop()
        thread.join(DEADLINE_SECONDS)
        remove(listener, path)
    assert not thread.is_alive()


def exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def answer(connection: socket.socket) -> Answer:
    header = decode_header(exactly(connection, HEADER_BYTES))
    return decode_answer(header, exactly(connection, header.body_bytes))


def observation(connection: socket.socket) -> list[LiveDevice]:
    connection.sendall(OBSERVE)
    devices = []
    while isinstance(got := answer(connection), LiveDevice):
        devices.append(got)
    assert got == End((4, 48, 0), len(devices))
    return devices


def failure(connection: socket.socket) -> Failure:
    got = answer(connection)
    assert isinstance(got, Failure)
    return got


def hung_up(connection: socket.socket) -> bool:
    """Read to the end, whatever comes."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


def test_observations(tmp_path: Path) -> None:
    with running(tmp_path) as at, at.connect() as client:
        devices = observation(client)
        assert [device.name for device in devices] == [d.name for d in at.kernel.devices.values()]
        del at.kernel.devices[253, 0]
        assert observation(client) == devices[1:]


def test_the_socket_is_for_its_user_alone(tmp_path: Path) -> None:
    with running(tmp_path) as at:
        assert at.path.stat().st_mode & 0o777 == 0o600
        with at.connect() as client:
            assert peer_of(client).uid == os.geteuid()
    assert not at.path.exists()


def test_a_failure_is_told_and_the_connection_goes_on(tmp_path: Path) -> None:
    with running(tmp_path, ModelKernel(refusal=errno.EACCES)) as at, at.connect() as client:
        for request in (OBSERVE, WATCH):
            client.sendall(request)
            told = failure(client)
            assert told.what == "not allowed to ask device-mapper"
            assert told.where == "/dev/mapper/control"
            assert told.remedy.startswith("run the observer as root")
        at.kernel.refusal = 0
        assert observation(client) == []


def test_activity_reaches_every_watcher_and_nobody_else(tmp_path: Path) -> None:
    with running(tmp_path) as at, at.connect() as one, at.connect() as two, at.connect() as other:
        for client in (one, two):
            client.sendall(WATCH)
            assert answer(client) == Activity()  # the watch is in force
        assert len(observation(other)) == 6
        for _ in range(3):
            at.kernel.event()
            assert answer(one) == Activity()
            assert answer(two) == Activity()
        assert len(observation(one)) == 6  # a watcher may ask as well
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(1)


def test_the_watch_ends_with_its_last_watcher_and_begins_again(tmp_path: Path) -> None:
    with running(tmp_path) as at:
        for _ in range(3):
            with at.connect() as client:
                client.sendall(WATCH)
                assert answer(client) == Activity()
                at.kernel.event()
                assert answer(client) == Activity()
        with at.connect() as client:
            observation(client)


def test_a_watch_that_fails_is_told(tmp_path: Path) -> None:
    def refuse(asked: live_kernel.Asked) -> None:
        if asked.request == live_kernel.DM_DEV_ARM_POLL:
            raise OSError(errno.EINVAL, "broken")

    with running(tmp_path) as at, at.connect() as client:
        client.sendall(WATCH)
        assert answer(client) == Activity()
        at.kernel.before = refuse
        at.kernel.event()
        assert (failure(client).request, len(observation(client))) == (Request.WATCH, 6)
        client.sendall(WATCH)
        assert failure(client).what == "broken"
        at.kernel.before = lambda asked: None
        client.sendall(WATCH)
        assert answer(client) == Activity()


def big_kernel() -> ModelKernel:
    """An observation of some megabytes: more than any socket takes at once."""
    table = tuple(linear(index, 1) for index in range(2000))
    return ModelKernel({(253, minor): ModelDevice(b"d%d" % minor, active=table) for minor in range(20)})


def test_a_client_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    with running(tmp_path, big_kernel()) as at, at.connect() as slow, at.connect() as watcher:
        watcher.sendall(WATCH)
        assert answer(watcher) == Activity()
        slow.sendall(OBSERVE * 50)  # and asks without end
        with at.connect() as client:
            assert len(observation(client)) == 20
        at.kernel.event()
        assert answer(watcher) == Activity()
        devices = [answer(slow) for _ in range(20)]
        assert all(isinstance(device, LiveDevice) and device.active != LiveTable(None) for device in devices)


def test_activity_goes_before_the_rest_of_an_observation_and_is_told_once(tmp_path: Path) -> None:
    with running(tmp_path, big_kernel()) as at, at.connect() as client, at.connect() as other:
        for watcher in (client, other):
            watcher.sendall(WATCH)
            assert answer(watcher) == Activity()
        client.sendall(OBSERVE)
        assert isinstance(answer(client), LiveDevice)  # it is being sent now, and does not fit the socket
        for _ in range(100):
            at.kernel.event()
            assert answer(other) == Activity()
        rest = []
        while not isinstance(got := answer(client), End):
            rest.append(got)
        # One may be in the piece that is being sent; all others are one.
        assert sum(isinstance(got, Activity) for got in rest) in (1, 2)
        assert sum(isinstance(got, LiveDevice) for got in rest) == 19


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n" + b"x" * 100_000,
        struct.pack("!4sHHI", b"dmlv", 2, 1, 0),
        struct.pack("!4sHHI", b"dmlv", 1, 1, 0xFFFFFFFF),
        struct.pack("!4sHHI", b"dmlv", 1, 99, 0),
    ],
)
def test_whoever_breaks_the_protocol_is_told_and_dismissed(tmp_path: Path, sent: bytes) -> None:
    with running(tmp_path) as at, at.connect() as client, at.connect() as good:
        client.sendall(sent)
        assert failure(client).request is Request.CONNECTION
        assert client.recv(1) == b""
        assert len(observation(good)) == 6


def test_random_bytes_harm_nobody(tmp_path: Path) -> None:
    chance = random.Random(9)
    with running(tmp_path) as at, at.connect() as good:
        for _ in range(100):
            with at.connect() as client:
                client.sendall(chance.choice((b"", OBSERVE, WATCH)) + chance.randbytes(chance.randrange(40)))
        assert len(observation(good)) == 6


def test_there_are_so_many_clients_and_more_when_one_goes(tmp_path: Path) -> None:
    with running(tmp_path) as at:
        clients = [at.connect() for _ in range(MAX_CLIENTS)]
        for client in clients:
            observation(client)
        with at.connect() as refused:
            refused.sendall(OBSERVE)
            assert failure(refused).what == f"{MAX_CLIENTS} clients are being served"
            assert refused.recv(1) == b""
        crowd = [at.connect() for _ in range(3 * MAX_LEAVING)]  # none of which goes by itself
        assert len(observation(clients[0])) == 6
        for client in crowd:
            client.close()
        clients.pop().close()
        admitted = False
        while not admitted:  # as soon as the server has noticed
            with at.connect() as another:
                another.sendall(OBSERVE)
                admitted = isinstance(answer(another), LiveDevice)
        for client in clients:
            client.close()


@pytest.mark.parametrize("sent", [b"", OBSERVE[:5], OBSERVE + WATCH[:11]])
def test_whoever_says_nothing_or_half_of_it_is_dropped(tmp_path: Path, sent: bytes) -> None:
    timing = Timing(request_seconds=0.05, idle_seconds=0.05)
    with running(tmp_path, timing=timing) as at, at.connect() as client:
        client.sendall(sent)
        assert hung_up(client)


def test_whoever_does_not_take_its_answer_is_dropped(tmp_path: Path) -> None:
    timing = Timing(stall_seconds=0.05, idle_exit_seconds=0.05)
    with running(tmp_path, big_kernel(), timing=timing) as at, at.connect() as client:
        client.sendall(OBSERVE)
        assert at.ended()  # there was nobody else


def test_whoever_was_dismissed_and_does_not_go_is_dropped(tmp_path: Path) -> None:
    timing = Timing(request_seconds=0.05, idle_exit_seconds=0.05)
    with running(tmp_path, timing=timing) as at, at.connect() as client:
        client.sendall(b"x" * 12)
        assert at.ended()


def test_a_watcher_may_be_silent(tmp_path: Path) -> None:
    timing = Timing(request_seconds=0.05, idle_seconds=0.05)
    with running(tmp_path, timing=timing) as at, at.connect() as watcher:
        watcher.sendall(WATCH)
        assert answer(watcher) == Activity()
        with at.connect() as silent:
            assert hung_up(silent)  # that much later
        at.kernel.event()
        assert answer(watcher) == Activity()


def test_other_users_are_refused_and_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "peer_of", lambda connection: Peer(1, 4242, 4242))
    with running(tmp_path) as at:
        for _ in range(3):
            with at.connect() as client:
                client.sendall(OBSERVE)
                told = failure(client)
                assert (told.what, told.remedy) == ("user 4242 may not ask", "start it with --user 4242")
        assert len(at.reports) == 1
        assert "user 4242 may not ask" in at.reports[0]
    with running(tmp_path, users=(4242,)) as at, at.connect() as client:
        assert len(observation(client)) == 6


def test_it_ends_when_nobody_comes(tmp_path: Path) -> None:
    with running(tmp_path, timing=Timing(idle_exit_seconds=0.05)) as at:
        with at.connect() as client:
            client.sendall(WATCH)
            assert answer(client) == Activity()
        assert at.ended()


def inherited(kernel: ModelKernel) -> tuple[socket.socket, threading.Thread]:
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE_SECONDS)
    control = DmControl(opener=kernel.open, ioctl=kernel.ioctl)
    timing = Timing(idle_seconds=0.0)  # which is not for it
    server = Server(control, connection=theirs, timing=timing, report=lambda line: None)
    thread = threading.Thread(target=server.run)
    thread.start()
    return ours, thread


def test_an_inherited_connection_is_served_until_it_is_closed() -> None:
    ours, thread = inherited(example())
    with ours:
        assert len(observation(ours)) == 6
        assert len(observation(ours)) == 6
    thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    kernel = example()
    with running(tmp_path, kernel) as at, at.connect() as client:
        client.sendall(WATCH)
        assert answer(client) == Activity()
        observation(client)
    assert len(kernel.open_files) == 2
    for descriptor in kernel.open_files:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


# --- the sockets ---


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "new" / "live.sock"
    listener = listen_at(path, ())
    with pytest.raises(AdapterError, match="another observer listens here; use that one, or stop it"):
        listen_at(path, ())
    listener.close()  # as a process that was killed does
    assert path.is_socket()
    remove(listen_at(path, ()), path)
    assert not path.exists()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "live.sock"
    path.write_text("precious")
    with pytest.raises(AdapterError, match="exists and is no socket"):
        listen_at(path, ())
    assert path.read_text() == "precious"
    with pytest.raises(AdapterError, match="cannot listen: No such file or directory"):
        listen_at(tmp_path / "no" / "such" / "live.sock", ())
    with pytest.raises(AdapterError, match="cannot listen: AF_UNIX path too long"):
        listen_at(tmp_path / ("x" * 200), ())


def test_who_may_connect(tmp_path: Path) -> None:
    own = os.geteuid()
    for users, mode in (((), 0o600), ((own,), 0o600), ((own, own + 1), 0o666)):
        path = tmp_path / "live.sock"
        listener = listen_at(path, users)
        assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (mode, own)
        remove(listener, path)


def test_an_inherited_descriptor_must_be_a_connected_unix_socket(tmp_path: Path) -> None:
    def refused(descriptor: int) -> str:
        with pytest.raises(AdapterError) as caught:
            inherited_connection(descriptor)
        return caught.value.what

    file = os.open(tmp_path, os.O_RDONLY)
    assert refused(file) == "not a socket"
    os.close(file)
    assert refused(file) == "no such descriptor"
    assert refused(-1) == "no such descriptor"
    assert refused(1 << 40) == "not a socket"
    assert refused(socket.socket(socket.AF_UNIX).detach()) == "not a connected socket"
    assert refused(socket.socket(socket.AF_INET).detach()) == "not a Unix stream socket"
    assert refused(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach()) == "not a Unix stream socket"


def test_without_a_service_manager_nothing_was_passed() -> None:
    pid = os.getpid()
    assert passed_listener({}, pid) is None
    assert passed_listener({"LISTEN_PID": "1", "LISTEN_FDS": "1"}, pid) is None
    assert passed_listener({"LISTEN_PID": str(pid), "LISTEN_FDS": "0"}, pid) is None
    for several in ("2", "many"):
        with pytest.raises(AdapterError, match="give the socket unit one ListenStream="):
            passed_listener({"LISTEN_PID": str(pid), "LISTEN_FDS": several}, pid)


# --- the real process ---

Start = Callable[..., "subprocess.Popen[str]"]
# As a service manager does it: the socket is descriptor 3, and the process id is its own.
_PLACE = (
    "import os, sys; from dmimad.cli import main; passed = os.environ.pop('PASSED', ''); "
    "passed and os.dup2(int(passed), 3) and os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid())); "
    "sys.exit(main(sys.argv[1:]))"
)


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, listener: socket.socket | None = None) -> subprocess.Popen[str]:
        environ = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path)}
        passed = [] if listener is None else [listener.fileno()]
        if passed:
            environ["PASSED"] = str(passed[0])
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", _PLACE, "observe", *arguments],
                stderr=subprocess.PIPE,
                text=True,
                env=environ,
                pass_fds=passed,
            )
        )
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


needs_no_dm = pytest.mark.skipif(
    Path("/dev/mapper/control").exists(), reason="this machine has device-mapper"
)


@needs_no_dm
def test_by_hand_without_device_mapper_it_says_so_in_one_line(tmp_path: Path, start: Start) -> None:
    process = start("--socket", str(tmp_path / "live.sock"))
    _, errors = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 2
    assert errors.startswith("dmimad: /dev/mapper/control: no such file; load device-mapper: modprobe dm_mod")
    assert errors.count("\n") == 1
    assert not (tmp_path / "live.sock").exists()


@needs_no_dm
def test_with_a_passed_socket_it_serves_and_ends_when_told(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "live.sock"
    with listen_at(path, ()) as listener:
        process = start(listener=listener)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE_SECONDS)
            client.connect(str(path))
            client.sendall(OBSERVE)
            assert failure(client).what == "no such file"
            process.terminate()
            _, errors = process.communicate(timeout=DEADLINE_SECONDS)
        assert (process.returncode, errors) == (0, "")
        assert path.is_socket()  # which is the service manager's
        process = start("--idle-exit-seconds", "0.05", listener=listener)
        _, errors = process.communicate(timeout=DEADLINE_SECONDS)
        assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fd", "77"), "descriptor 77: no such descriptor; pass an open Unix socket"),
        (("--fd", "x"), "argument --fd: invalid int value"),
        (("--fd", "3", "--socket", "/x"), "argument --socket: not allowed with argument --fd"),
        (("--user", "no such user"), "--user no such user: no such user"),
        (("--idle-exit-seconds", "0"), "argument --idle-exit-seconds: must be above 0"),
    ],
)
def test_unusable_arguments(start: Start, arguments: tuple[str, ...], message: str) -> None:
    process = start(*arguments)
    _, errors = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 2
    assert message in errors
    assert errors.count("\n") == 1


def test_the_observer_loads_little() -> None:
    """It is privileged: no event loop, no client, none of the daemon's libraries."""
    code = "import sys, dmimad.cli, dmimad.commands.observe; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    unwanted = {
        "asyncio",
        "structlog",
        "aiomqtt",
        "cryptography",
        "prometheus_client",
        "ssl",
        "sqlite3",
        "json",
    }
    assert not unwanted & set(loaded)
    ours = {name for name in loaded if name.startswith("dmimad.")}
    assert "dmimad.adapters.live.server" in ours
    assert not ours & {"dmimad.daemon", "dmimad.config", "dmimad.adapters.live.client", "dmimad.core.tracker"}
