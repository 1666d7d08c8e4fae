"""sd_notify over real sockets, path and abstract, and the watchdog's environment."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.typing import FilteringBoundLogger

from dmimad.adapters.log import open_log
from dmimad.adapters.service import MAX_STATUS_CHARS, ServiceManager


class Listener:
    """What a service manager would receive."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(5)
        self._socket.bind(address)

    def received(self) -> list[bytes]:
        messages = []
        self._socket.setblocking(False)
        while True:
            try:
                messages.append(self._socket.recv(65536))
            except BlockingIOError:
                return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Listener, str]]:
    path = str(tmp_path / "notify")
    listener = Listener(path if request.param == "path" else "\0" + path)
    yield listener, path if request.param == "path" else "@" + path
    listener.close()


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(said: io.StringIO) -> FilteringBoundLogger:
    return open_log(said, form="journal", environ={})


def test_messages_as_sd_notify_has_them(manager: tuple[Listener, str], log: FilteringBoundLogger) -> None:
    listener, address = manager
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000"}
    service = ServiceManager(environ, log=log, monotonic_microseconds=lambda: 123_456_789)
    assert service.present
    service.ready("following the list")
    service.ready()
    service.status("154 records")
    service.reloading()
    service.reloading("new settings")
    service.alive()
    service.stopping()
    assert listener.received() == [
        b"READY=1\nSTATUS=following the list",
        b"READY=1",
        b"STATUS=154 records",
        b"RELOADING=1\nMONOTONIC_USEC=123456789",
        b"RELOADING=1\nMONOTONIC_USEC=123456789\nSTATUS=new settings",
        b"WATCHDOG=1",
        b"STOPPING=1",
    ]


def test_the_time_of_a_reload_is_the_monotonic_clock(
    manager: tuple[Listener, str], log: FilteringBoundLogger
) -> None:
    listener, address = manager
    before = time.monotonic_ns() // 1000
    ServiceManager({"NOTIFY_SOCKET": address}, log=log).reloading()
    (message,) = listener.received()
    assert before <= int(message.rpartition(b"=")[2]) <= time.monotonic_ns() // 1000


def test_a_hostile_status_is_one_line(manager: tuple[Listener, str], log: FilteringBoundLogger) -> None:
    listener, address = manager
    service = ServiceManager({"NOTIFY_SOCKET": address}, log=log)
    service.status("device a\nSTOPPING=1\r\0\x1b[31m\udcff é")
    service.status("x" * 10_000)
    service.status("")
    assert listener.received() == [
        "STATUS=device a?STOPPING=1???[31m? é".encode(),
        b"STATUS=" + b"x" * MAX_STATUS_CHARS,
    ]


def test_without_a_manager_nothing_is_sent_or_said(log: FilteringBoundLogger, said: io.StringIO) -> None:
    service = ServiceManager({}, log=log)
    service.ready("a")
    service.reloading()
    service.alive()
    service.stopping()
    assert not service.present
    assert service.keepalive_interval_seconds is None
    assert said.getvalue() == ""


def test_a_manager_that_is_gone_is_reported_once(
    tmp_path: Path, log: FilteringBoundLogger, said: io.StringIO
) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "none")}, log=log)
    service.ready()
    service.stopping()
    assert said.getvalue() == (
        '<4>service_manager_not_notified problem="[Errno 2] No such file or directory"\n'
    )


@pytest.mark.parametrize("name", ["notify", "@", "/", "vsock:2:1234", "/" + "x" * 200])
def test_a_socket_that_cannot_be_is_reported(name: str, log: FilteringBoundLogger, said: io.StringIO) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": name}, log=log)
    service.ready()
    assert said.getvalue().count("\n") == 1
    assert said.getvalue().startswith("<4>service_manager_not_notified problem=")


def test_a_manager_that_does_not_read_does_not_stop_the_daemon(
    manager: tuple[Listener, str],
    log: FilteringBoundLogger,
    said: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dmimad.adapters.service.SEND_TIMEOUT_SECONDS", 0.01)
    listener, address = manager
    service = ServiceManager({"NOTIFY_SOCKET": address}, log=log)
    queue = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    for number in range(queue + 3):
        service.status(str(number))
    assert said.getvalue() == '<4>service_manager_not_notified problem="timed out"\n'
    assert listener.received()[0] == b"STATUS=0"


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"}, 15.0),
        ({"WATCHDOG_USEC": "500000"}, 0.25),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": ""}, 0.25),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "x"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "30s"}, None),
        ({"WATCHDOG_USEC": "9" * 400}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({}, None),
    ],
)
def test_watchdog(environ: dict[str, str], seconds: float | None, log: FilteringBoundLogger) -> None:
    assert ServiceManager(environ, log=log, pid=42).keepalive_interval_seconds == seconds


def test_watchdog_of_this_process(log: FilteringBoundLogger) -> None:
    environ = {"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid())}
    assert ServiceManager(environ, log=log).watchdog_seconds == 4.0


def test_a_watchdog_of_another_process_is_not_fed(
    manager: tuple[Listener, str], log: FilteringBoundLogger
) -> None:
    listener, address = manager
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid() + 1)}
    ServiceManager(environ, log=log).alive()
    assert listener.received() == []


PASSED = """
import json, os
from dmimad.adapters.service import passed_descriptors
found = passed_descriptors(os.environ, ("ima-list", "ima-count"))
told = {name: os.read(number, 100).decode() for name, number in found.items()}
shared = [os.get_inheritable(number) for number in found.values()]
left = [name for name in os.environ if name.startswith("LISTEN_")]
open_ = [number for number in range(3, 7) if os.path.exists(f"/proc/self/fd/{number}")]
print(json.dumps([told, shared, left, open_, passed_descriptors(os.environ, ("ima-list",))]))
"""


def passed(directory: Path, *, pid: str = "$$", count: str = "3", names: str | None) -> list[object]:
    """What a process makes of three open files, passed as the service manager does."""
    for name in ("one", "two", "three"):
        (directory / name).write_text(name)
    named = "" if names is None else f"LISTEN_FDNAMES={names}"
    line = f'LISTEN_PID={pid} LISTEN_FDS={count} {named} exec "$0" -c "$1" 3<one 4<two 5<three'
    command = ["sh", "-c", line, sys.executable, PASSED]
    result = subprocess.run(command, cwd=directory, capture_output=True, check=True, timeout=60)
    answer = json.loads(result.stdout)
    assert isinstance(answer, list)
    return answer


def test_passed_descriptors_by_their_names(tmp_path: Path) -> None:
    told, shared, left, open_, again = passed(tmp_path, names="other:ima-list:ima-count")
    assert told == {"ima-list": "two", "ima-count": "three"}
    assert shared == [False, False]
    assert (left, again) == ([], {})
    assert open_ == [4, 5], "what nobody wants is closed"


def test_what_graceful_left_out_is_missing(tmp_path: Path) -> None:
    told, *_ = passed(tmp_path, count="1", names="ima-count")
    assert told == {"ima-count": "one"}


def test_of_two_with_one_name_the_first_is_taken(tmp_path: Path) -> None:
    told, _, _, open_, _ = passed(tmp_path, names="ima-list:ima-list:unknown")
    assert told == {"ima-list": "one"}
    assert open_ == [3]


@pytest.mark.parametrize(
    ("pid", "count", "names"),
    [
        ("1", "3", "ima-list:x:y"),
        ("$$", "x", "ima-list"),
        ("$$", "-1", "ima-list"),
        ("$$", "9" * 5000, "ima-list"),
        ("$$", "3", None),
    ],
    ids=["of another process", "no number", "negative", "too long a number", "without names"],
)
def test_what_is_not_ours_is_not_taken(tmp_path: Path, pid: str, count: str, names: str | None) -> None:
    told, _, left, *_ = passed(tmp_path, pid=pid, count=count, names=names)
    assert (told, left) == ({}, [])


OPENED = """
import os
from dmimad.adapters.service import passed_descriptors
own = os.open("/dev/null", os.O_RDONLY)
told = {"LISTEN_PID": "42", "LISTEN_FDS": "60", "LISTEN_FDNAMES": ":".join(["ima-list"] * 60)}
print(passed_descriptors(told, ("ima-list",), pid=42))
os.fstat(own)
"""


def test_what_this_process_has_opened_itself_is_left_alone() -> None:
    """Its event loop, for instance, where more is told than was passed."""
    result = subprocess.run(
        [sys.executable, "-c", OPENED], capture_output=True, check=True, timeout=60, text=True
    )
    assert result.stdout == "{}\n"


def test_descriptors_that_are_told_and_not_there(tmp_path: Path) -> None:
    told, *_ = passed(tmp_path, count="999999", names="a:b:c:ima-list")
    assert told == {}
