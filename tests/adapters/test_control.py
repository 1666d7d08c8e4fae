"""The control socket on real sockets, with clients that are slow, silent, greedy, hostile or not allowed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs
from structlog.typing import FilteringBoundLogger

from dmimad.adapters.control import protocol, server
from dmimad.adapters.control.client import Conversation, ask
from dmimad.adapters.control.listening import listen_at, remove
from dmimad.adapters.control.protocol import (
    MAX_REQUEST_BYTES,
    MAX_TEXT_CHARS,
    Peer,
    Request,
    RequestKind,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
)
from dmimad.adapters.control.server import PLACES, Answers, ControlServer, Standing, Timing, user_ids
from dmimad.core.errors import AdapterError, MalformedError, RequestError
from dmimad.core.status import timeless
from tests.other_user import NOBODY, as_root, as_user, public_path

DEADLINE_SECONDS = 20.0
__all__ = ["public_path"]  # a fixture
STATUS = b'{"v":1,"request":"status"}\n'


# -- the protocol --------------------------------------------------------------------------


def start(**changes: object) -> bytes:
    members = {"device": "vg0-*", "seconds": 1800, "reason": "update", **changes}
    return encode_request({"request": "maintenance-start", **members})


def test_requests() -> None:
    assert decode_request(STATUS) == Request(RequestKind.STATUS)
    assert decode_request(start()) == Request(
        RequestKind.MAINTENANCE_START, device="vg0-*", seconds=1800.0, reason="update"
    )
    end = encode_request({"request": "maintenance-end", "id": "12ab"})
    assert decode_request(end) == Request(RequestKind.MAINTENANCE_END, id="12ab")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"\n", "not a JSON object on one line"),
        (b"\xff\n", "not a JSON object on one line"),
        (b"[]\n", "not a JSON object on one line"),
        (b"[" * MAX_REQUEST_BYTES, "not a JSON object on one line"),
        (b'{"v":' + b"9" * 6000 + b"}", "not a JSON object on one line"),
        (b'{"request":"status"}', "version null is unknown; this daemon speaks version 1"),
        (b'{"v":2,"request":"status"}', "version 2 is unknown; this daemon speaks version 1"),
        (b'{"v":true,"request":"status"}', "version true is unknown; this daemon speaks version 1"),
        (b'{"v":1,"request":["status"]}', 'request ["status"] is unknown; there are status, watch, '),
        (b'{"v":1,"request":"STATUS"}', 'request "STATUS" is unknown; there are status, watch, '),
        (b'{"v":1,"request":"status","all":1}', 'status has no member "all"'),
        (start(reason=""), "reason must be a text that is not empty"),
        (start(reason=" "), "reason must be a text that is not empty"),
        (start(reason=7), "reason must be a text that is not empty"),
        (start(reason="a\u202eb"), "reason must be on one line, without control characters"),
        (start(device="a\n"), "device must be on one line, without control characters"),
        (start(device="a" * (MAX_TEXT_CHARS + 1)), f"device is longer than {MAX_TEXT_CHARS} characters"),
        (start(seconds="1"), "seconds must be a number"),
        (start(seconds=True), "seconds must be a number"),
        (start(seconds=0), "seconds must be above 0 and finite"),
        (start(seconds=float("nan")), "seconds must be above 0 and finite"),
        (start(seconds=float("inf")), "seconds must be above 0 and finite"),
        (start(seconds=10**400), "seconds must be above 0 and finite"),
        (b'{"v":1,"request":"maintenance-end"}', "id must be a text that is not empty"),
    ],
)
def test_requests_that_are_refused(line: bytes, problem: str) -> None:
    with pytest.raises(MalformedError) as refused:
        decode_request(line)
    assert str(refused.value).startswith(problem)


def test_a_long_text_is_not_repeated_in_an_error() -> None:
    with pytest.raises(MalformedError) as refused:
        decode_request(encode_request({"request": "x" * 60000}))
    assert len(str(refused.value)) < 250


def test_answers() -> None:
    assert decode_answer(encode_answer({"status": {"a": "é\n"}})) == (
        {"v": 1, "ok": True, "status": {"a": "é\n"}},
        "",
    )
    assert decode_answer(b'{"v":9,"ok":false,"error":"no"}')[1] == "no"
    assert decode_answer(b'{"v":1,"ok":false}')[1] == "refused, and nobody says why"
    for line in (b'{"v":2,"ok":true}', b'{"v":1}', b"nonsense"):
        with pytest.raises(MalformedError):
            decode_answer(line)


def test_an_answer_that_is_too_long_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_ANSWER_BYTES", 1 << 20)
    assert decode_answer(encode_answer({"x": "y" * (1 << 20)}))[1] == "the answer is longer than 1 MiB"


# -- the socket in the file system ---------------------------------------------------------


@contextmanager
def listening(path: Path, *, others: bool = False) -> Iterator[socket.socket]:
    listener, inode = listen_at(path, others=others, backlog=4)
    try:
        yield listener
    finally:
        remove(listener, path, inode)


def test_the_directory_is_made_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "run" / "control.sock"
    before = os.umask(0o077)
    try:
        with listening(path):
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert not path.exists()


def test_where_others_may_ask_everybody_can_connect(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with listening(path, others=True):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666


def test_a_directory_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with listening(tmp_path / "control.sock"):
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_dead_daemons_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    dead.bind(str(path))
    dead.close()
    with listening(path):
        assert path.is_socket()


def test_a_living_daemons_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with listening(path) as first:
        for _ in range(6):  # beyond its backlog, too
            with pytest.raises(AdapterError, match="another daemon answers here; stop it, or give"):
                listen_at(path, others=False, backlog=4)
        assert path.is_socket()
        first.accept()[0].close()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(AdapterError, match=r"exists and is no socket; correct control\.socket"):
        listen_at(path, others=False, backlog=4)
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("no/such/control.sock", "No such file"),
        ("x" * 120, "path too long"),
        ("file/control.sock", "Not a dir"),
    ],
)
def test_where_it_cannot_be(tmp_path: Path, place: str, problem: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AdapterError, match=f"cannot listen: .*{problem}.*; correct control.socket, or leave"):
        listen_at(tmp_path / place, others=False, backlog=4)


@as_root
def test_a_symbolic_link_of_somebody_else_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "run"
    link.symlink_to(tmp_path / "elsewhere")
    with listening(link / "control.sock"):
        pass  # our own
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(AdapterError, match=f"a symbolic link of user {NOBODY}; remove it"):
        listen_at(link / "control.sock", others=False, backlog=4)


def test_anothers_socket_in_the_same_place_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    listener, inode = listen_at(path, others=False, backlog=4)
    path.rename(tmp_path / "old")
    with listening(path):
        remove(listener, path, inode)
        assert path.is_socket()


def test_users_by_name_and_id() -> None:
    assert user_ids(["root", "1234", "no-such-user", "\0"]) == (frozenset({0, 1234}), ("no-such-user", "\0"))


# -- the server ----------------------------------------------------------------------------


@dataclass(slots=True)
class Daemon:
    """What is asked, as a stand-in: a counter is all its status."""

    number: int = 0
    ballast: str = ""
    made: int = 0
    requests: list[tuple[Request, Peer]] = field(default_factory=list)
    error: Exception | None = None

    def status(self) -> Mapping[str, object]:
        self.made += 1
        if self.error is not None:
            raise self.error
        return {"number": self.number, "time": self.made, "list": {}, "ballast": self.ballast}

    def other(self, request: Request, peer: Peer) -> Mapping[str, object]:
        if self.error is not None:
            raise self.error
        self.requests.append((request, peer))
        return {"maintenance": {"id": "1"}}


@asynccontextmanager
async def serving(
    tmp_path: Path, daemon: Daemon, *, users: frozenset[int] = frozenset(), timing: Timing | None = None
) -> AsyncIterator[Path]:
    path = tmp_path / "control.sock"
    log: FilteringBoundLogger = structlog.get_logger()
    answers = Answers(daemon.status, timeless, daemon.other)
    control = ControlServer(path, answers, users=users, log=log, timing=timing)
    control.listen()
    task = asyncio.create_task(control.run())
    try:
        yield path
    finally:
        task.cancel()
        async with asyncio.timeout(DEADLINE_SECONDS):
            with contextlib.suppress(asyncio.CancelledError):
                await task
        control.close()
        assert not path.exists()


async def asked(path: Path, request: str = "status", **members: object) -> dict[str, Any]:
    return await asyncio.to_thread(
        ask, path, {"request": request, **members}, timeout_seconds=DEADLINE_SECONDS
    )


async def raw(path: Path, data: bytes, *, end: bool = False) -> dict[str, Any]:
    """What is answered to these bytes."""

    def talk() -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(DEADLINE_SECONDS)
            connection.connect(str(path))
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
            if end:
                connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as answer:
                return answer.readline()

    line = await asyncio.to_thread(talk)
    document: dict[str, Any] = json.loads(line) if line else {}
    return document


async def until(what: Callable[[], bool]) -> None:
    """Until that is so; nothing tells when, so it is looked at."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not what():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.001)  # between two looks


async def seen_again(daemon: Daemon) -> None:
    """Until somebody has looked at it, and has found it as it was."""
    before = daemon.made
    await until(lambda: daemon.made >= before + 2)


async def place_found(path: Path) -> None:
    """Until there is a place for one more client."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (await raw(path, STATUS)).get("ok") is not True:
            pass


async def test_a_status(tmp_path: Path) -> None:
    async with serving(tmp_path, Daemon(7)) as path:
        assert (await asked(path))["status"]["number"] == 7


async def test_an_answer_larger_than_any_buffer(tmp_path: Path) -> None:
    daemon = Daemon(ballast="x" * (20 << 20))
    async with serving(tmp_path, daemon) as path:
        assert (await asked(path))["status"]["ballast"] == daemon.ballast


async def test_an_answer_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_ANSWER_BYTES", 1 << 20)
    async with serving(tmp_path, Daemon(ballast="x" * (1 << 20))) as path:
        with pytest.raises(AdapterError, match="the daemon refuses: the answer is longer than 1 MiB"):
            await asked(path)


async def test_who_changes_something_is_told_on(tmp_path: Path) -> None:
    daemon = Daemon()
    async with serving(tmp_path, daemon) as path:
        await asked(path, "maintenance-start", device="a", seconds=60, reason="b")
    ((request, peer),) = daemon.requests
    assert request == Request(RequestKind.MAINTENANCE_START, device="a", seconds=60.0, reason="b")
    assert peer.uid == os.geteuid()
    if peer.uid == 0:
        assert str(peer) == "root (user 0)"
    assert str(Peer(4711)) == "user 4711"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\n", "not a JSON object on one line"),
        (b"\0" * 1000 + b"\n", "not a JSON object on one line"),
        (b'{"v":3,"request":"status"}\n', "version 3 is unknown; this daemon speaks version 1"),
        (b"x" * (MAX_REQUEST_BYTES + 10), "a request is at most 64 KiB long"),
        (b"x" * (32 * MAX_REQUEST_BYTES), "a request is at most 64 KiB long"),
    ],
)
async def test_what_is_no_request_is_told_so(tmp_path: Path, data: bytes, problem: str) -> None:
    async with serving(tmp_path, Daemon()) as path:
        assert await raw(path, data) == {"v": 1, "ok": False, "error": problem}
        assert (await asked(path))["ok"] is True


async def test_half_a_request_has_its_time(tmp_path: Path) -> None:
    async with serving(tmp_path, Daemon(), timing=Timing(request_seconds=0.05)) as path:
        for data in (b"", b'{"v":1,'):
            told = await raw(path, data)
            assert told["error"] == "there was no complete request within 0.05 seconds"
        assert (await asked(path))["ok"] is True


async def test_half_a_request_and_its_end_is_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path, Daemon()) as path:
        assert await raw(path, b'{"v":1', end=True) == {}
        assert (await asked(path))["ok"] is True


async def test_who_does_not_take_the_answer_is_dropped(tmp_path: Path) -> None:
    daemon = Daemon(ballast="x" * (8 << 20))
    async with serving(tmp_path, daemon, timing=Timing(stall_seconds=0.05)) as path:
        reader, writer = await asyncio.open_unix_connection(path, limit=1024)  # which takes no more than that
        writer.write(STATUS)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await until(lambda: daemon.made > 0)
            assert (await asked(path))["ok"] is True  # nobody waits for it
            taken = 0
            with contextlib.suppress(ConnectionError):
                while piece := await reader.read(512):
                    taken += len(piece)
                    if taken < 100_000:
                        await asyncio.sleep(0.001)  # slower than it may be
        assert 0 < taken < len(daemon.ballast)
        writer.close()


async def test_an_error_is_told(tmp_path: Path) -> None:
    async with serving(tmp_path, Daemon(error=RequestError("not now"))) as path:
        for request in ("status", "maintenance-list"):
            with pytest.raises(AdapterError, match=r"the daemon refuses: not now$"):
                await asked(path, request)


async def test_a_bug_is_told_and_ends_nothing(tmp_path: Path) -> None:
    daemon = Daemon(error=KeyError("x"))
    with capture_logs() as logs:
        async with serving(tmp_path, daemon) as path:
            for request in ("status", "watch", "configurations"):
                with pytest.raises(AdapterError, match="the daemon refuses: internal error: KeyError: 'x'"):
                    await asked(path, request)
            daemon.error = None
            assert (await asked(path))["ok"] is True
    failed = [entry["request"] for entry in logs if entry["event"] == "control_failed"]
    assert failed == ["status", "watch", "configurations"]


async def test_however_many_ask_one_document_is_shared(tmp_path: Path) -> None:
    daemon = Daemon()
    async with serving(tmp_path, daemon) as path:
        answers = await asyncio.gather(*(asked(path) for _ in range(PLACES[Standing.OWN])))
        assert all(answer["ok"] for answer in answers)
        assert daemon.made <= PLACES[Standing.OWN]
        documents = server._Documents(Answers(daemon.status, timeless, daemon.other), lambda: 0.0)
        before = daemon.made
        first, second = await asyncio.gather(documents.fresh(), documents.fresh())
        assert (first is second, daemon.made - before) == (True, 1)
        third = await documents.fresh()
        assert (third is first, daemon.made - before) == (False, 2)


async def test_after_a_document_there_is_a_rest(tmp_path: Path) -> None:
    """Ten times what it took; here an hour, which ends when the server does."""
    now = [1000.0]
    daemon = Daemon()

    def slow() -> Mapping[str, object]:
        now[0] += 360.0
        return daemon.status()

    documents = server._Documents(Answers(slow, timeless, daemon.other), lambda: now[0])
    await documents.fresh()
    assert documents._sharing._rest_until == 1000.0 + 360.0 + 3600.0
    waiting = asyncio.create_task(documents.fresh())
    for _ in range(10):
        await asyncio.sleep(0)
    assert daemon.made == 1
    documents.stop()
    async with asyncio.timeout(DEADLINE_SECONDS):
        await waiting


# -- watching ------------------------------------------------------------------------------


async def test_a_watcher_is_told_what_changes_and_nothing_else(tmp_path: Path) -> None:
    daemon = Daemon()
    async with serving(tmp_path, daemon) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(encode_request({"request": "watch"}))
        seen = []
        async with asyncio.timeout(DEADLINE_SECONDS):
            for number in (0, 1, 2):
                daemon.number = number
                status = json.loads(await reader.readline())["status"]
                seen.append(status["number"])
                await seen_again(daemon)
        assert seen == [0, 1, 2]
        writer.close()


async def test_a_watcher_that_has_left_costs_nothing(tmp_path: Path) -> None:
    daemon = Daemon()
    async with serving(tmp_path, daemon) as path:
        for farewell in (b"", b"more\n"):
            for _ in range(PLACES[Standing.OWN] + 1):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(encode_request({"request": "watch"}))
                async with asyncio.timeout(DEADLINE_SECONDS):
                    assert json.loads(await reader.readline())["ok"] is True
                    writer.write(farewell)
                    if farewell:
                        assert await reader.read() == b""
                    writer.close()
                    await writer.wait_closed()
                    await place_found(path)


async def test_the_end_of_the_server_ends_a_watch(tmp_path: Path) -> None:
    async with serving(tmp_path, Daemon()) as path:
        conversation = await asyncio.to_thread(Conversation, path, {"request": "watch"})
        assert await asyncio.to_thread(conversation.next, DEADLINE_SECONDS) is not None
        assert await asyncio.to_thread(conversation.next, 0.0) is None
    with pytest.raises(
        AdapterError, match="the daemon has ended the connection; it has stopped, or see its log"
    ):
        await asyncio.to_thread(conversation.next, DEADLINE_SECONDS)
    conversation.close()


# -- who may -------------------------------------------------------------------------------


START: dict[str, object] = {"request": "maintenance-start", "device": "a", "seconds": 9, "reason": "r"}
END: dict[str, object] = {"request": "maintenance-end", "id": "1"}


@as_root
async def test_another_user_cannot_even_connect(public_path: Path) -> None:
    async with serving(public_path, Daemon()) as path:
        (told,) = await as_user(NOBODY, path, {"request": "status"})
    assert told == (
        f"{path}: user {NOBODY} may not connect; ask as root, or have root put the user into control.users"
    )


@as_root
async def test_where_others_may_a_stranger_is_refused_and_logged_once(public_path: Path) -> None:
    daemon = Daemon()
    with capture_logs() as logs:
        async with serving(public_path, daemon, users=frozenset({4711})) as path:
            told = await as_user(NOBODY, path, {"request": "status"}, {"request": "nonsense"}, START)
    refusal = f"user {NOBODY} may not ask; ask as root, or have root put the user into control.users"
    assert told == [f"{path}: the daemon refuses: {refusal}"] * 3
    assert (daemon.made, daemon.requests) == (0, [])
    refused = [entry for entry in logs if entry["event"] == "control_refused"]
    assert [(entry["uid"], entry["user"]) for entry in refused] == [(NOBODY, "nobody")]


@as_root
async def test_a_user_who_may_ask_may_not_change(public_path: Path) -> None:
    daemon = Daemon()
    async with serving(public_path, daemon, users=frozenset({NOBODY})) as path:
        told = await as_user(NOBODY, path, {"request": "status"}, {"request": "maintenance-list"}, START, END)
    refusal = f"{path}: the daemon refuses: user {NOBODY} may ask, but not change anything; do it as root"
    assert told == ["True", "True", refusal, refusal]
    assert [request.kind.value for request, _ in daemon.requests] == ["maintenance-list"]


def test_users_who_are_refused_are_logged_up_to_a_limit() -> None:
    with capture_logs() as logs:
        answers = Answers(dict, timeless, lambda *_: {})
        control = ControlServer(Path("/nowhere"), answers, log=structlog.get_logger())
        for uid in range(100_000, 100_000 + 2 * server.MAX_REPORTED_USERS):
            assert control._refusal(uid, None)
    assert len(logs) == server.MAX_REPORTED_USERS


async def test_own_clients_beyond_the_limit_are_told_so(tmp_path: Path) -> None:
    async with serving(tmp_path, Daemon()) as path:
        silent = [await asyncio.open_unix_connection(path) for _ in range(PLACES[Standing.OWN])]
        told = await raw(path, b"")
        assert told["error"] == "too many clients are being served; try again"
        for _, writer in silent:
            writer.close()
        await place_found(path)


@as_root
async def test_other_users_do_not_keep_root_out(public_path: Path) -> None:
    """A user's connections, all kept: more than there are places of any kind."""
    async with serving(public_path, Daemon(), users=frozenset({NOBODY})) as path:
        program = (
            f"import os, socket, sys\nos.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
            "kept = [socket.socket(socket.AF_UNIX) for _ in range(60)]\n"
            f"for each in kept: each.connect({str(path)!r})\n"
            "print('connected', flush=True)\nsys.stdin.read()\n"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(DEADLINE_SECONDS * 3):
            assert process.stdout is not None
            assert await process.stdout.readline() == b"connected\n"
            assert (await asked(path))["ok"] is True
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()


# -- the client ----------------------------------------------------------------------------


@contextmanager
def somebody(tmp_path: Path, act: Callable[[socket.socket], None]) -> Iterator[Path]:
    """Somebody listens who does this with the first connection."""
    path = tmp_path / "control.sock"
    with listening(path) as listener:
        listener.settimeout(DEADLINE_SECONDS)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.settimeout(DEADLINE_SECONDS)
                act(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield path
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive()


def until_it_goes(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def flood(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"x" * (1 << 20))


def dribble(connection: socket.socket) -> None:
    """A byte whenever the other side has time for one, and never a line."""
    while True:
        connection.sendall(b"x")


def problem_of(path: Path, seconds: float = DEADLINE_SECONDS) -> str:
    with pytest.raises(AdapterError) as refused:
        ask(path, {"request": "status"}, timeout_seconds=seconds)
    assert str(refused.value).startswith(f"{path}: ")
    return str(refused.value).removeprefix(f"{path}: ")


def test_nobody_listens(tmp_path: Path) -> None:
    remedy = "start the daemon (dmimad run); if it runs, its log says why it has no socket"
    assert problem_of(tmp_path / "control.sock") == f"there is no control socket; {remedy}"
    assert problem_of(tmp_path / "no" / "control.sock") == f"there is no control socket; {remedy}"
    assert problem_of(tmp_path / ("x" * 200)) == "cannot ask: AF_UNIX path too long; check control.socket"
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    assert problem_of(path) == "no daemon answers here any more; start it (dmimad run)"


def test_a_daemon_that_hangs(tmp_path: Path) -> None:
    with listening(tmp_path / "control.sock"):
        remedy = "try again; else see the daemon's log"
        assert problem_of(tmp_path / "control.sock", 0.05) == f"no answer within 0.05 seconds; {remedy}"
        kept = []
        for _ in range(5):  # those the backlog takes, the one above among them
            kept.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            kept[-1].setblocking(False)
            with contextlib.suppress(BlockingIOError):
                kept[-1].connect(str(tmp_path / "control.sock"))
        assert problem_of(tmp_path / "control.sock", 0.05) in (
            f"no answer within 0.05 seconds; {remedy}",
            "the daemon accepts no connection; try again; else see its log",
        )
        for each in kept:
            each.close()


def test_an_answer_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmimad.adapters.control.client.MAX_ANSWER_BYTES", 1 << 20)
    with somebody(tmp_path, flood) as path:
        assert problem_of(path) == "the answer is longer than 1 MiB; is that dmimad?"


def test_an_answer_that_dribbles_has_its_time(tmp_path: Path) -> None:
    with somebody(tmp_path, dribble) as path:
        assert problem_of(path, 0.2).startswith("no answer within 0.2 seconds")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"hello\n", "unusable answer: not a JSON object on one line; is the daemon of another version?"),
        (
            b'{"v":2,"ok":true}\n',
            "unusable answer: an answer of version 2; this program speaks version 1; "
            "is the daemon of another version?",
        ),
        (b'{"v":2,"ok":false,"error":"version 1 is unknown"}\n', "the daemon refuses: version 1 is unknown"),
        (b'{"v":1', "the daemon has ended the connection; it has stopped, or see its log"),
        (b"", "the daemon has ended the connection; it has stopped, or see its log"),
    ],
)
def test_answers_that_are_none(tmp_path: Path, line: bytes, problem: str) -> None:
    def act(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(line)

    with somebody(tmp_path, act) as path:
        assert problem_of(path) == problem


def test_why_it_was_refused_is_read_also_if_the_request_was_not_taken(tmp_path: Path) -> None:
    def act(connection: socket.socket) -> None:
        connection.sendall(b'{"v":1,"ok":false,"error":"too many"}\n')

    with somebody(tmp_path, act) as path, pytest.raises(AdapterError, match="the daemon refuses: too many"):
        ask(path, {"request": "x" * 10_000_000}, timeout_seconds=DEADLINE_SECONDS)


@as_root
def test_a_stranger_who_listens_is_not_asked(public_path: Path) -> None:
    """As root's program sees it: somebody else made a socket where anybody may."""
    public_path.chmod(0o777)
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(public_path / "control.sock"))
        listener.listen()
        theirs.send(b"!")
        theirs.recv(1)
        os._exit(0)
    try:
        assert ours.recv(1) == b"!"
        assert problem_of(public_path / "control.sock") == (
            f"user {NOBODY} listens here, who is neither root nor you nor the directory's owner; "
            "find out who, and ask no further"
        )
        os.chown(public_path, NOBODY, NOBODY)  # that is where the daemon of that user would be
        assert "no answer within" in problem_of(public_path / "control.sock", 0.05)
    finally:
        ours.send(b"!")
        os.waitpid(child, 0)
        ours.close()
        theirs.close()
