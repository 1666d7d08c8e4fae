"""`dmimad status` and `dmimad maintenance`: the page, the lines about changes, arguments, terminals."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest
import structlog

from dmimad.adapters.control.protocol import Peer, Request
from dmimad.adapters.control.server import Answers, ControlServer
from dmimad.cli import main
from dmimad.commands.plain_text import columns_of, cut, for_people, local_time, plain, wrapped
from dmimad.commands.status_changes import changes, summary
from dmimad.commands.status_document import trouble
from dmimad.commands.status_page import MAX_ALERTS_SHOWN, Look, page
from dmimad.core.status import timeless

DEADLINE_SECONDS = 30.0
HOSTILE = "\x1b[31mred\u202e\n\x9b1m"


def at(second: int) -> str:
    return datetime.fromtimestamp(1_795_358_000 + second, UTC).isoformat().replace("+00:00", "Z")


def device(key: str = "253:5", name: str = "image-ro", **more: object) -> dict[str, Any]:
    return {
        "key": key,
        "name": name,
        "active": {"hash": "sha256:f3b63d8ad4", "provenance": "both", "targets": [{"type": "verity"}]},
        "inactive": None,
        "suspended": False,
        "verdict": "approved",
        "since": {"verdict": at(0), "active": None, "inactive": None},
        **more,
    }


def alert(severity: str = "critical", **more: object) -> dict[str, Any]:
    message = "image-ro (253:5) runs a table that is not approved"
    told = {"code": "drift.active", "device": "image-ro", "message": message, "since": at(100), "count": 1}
    return {**told, "severity": severity, **more}


def document(**more: object) -> dict[str, Any]:
    return {
        "host": "web-1",
        "time": at(200),
        "version": "1.0",
        "list": {"source_up": True, "position": 612, "last_read": at(198), "problem": "", "gap": False},
        "witnesses": {"live": {"up": True, "observations": 7}},
        "pcr_verified": True,
        "mqtt_connected": True,
        "outbox": {"pending": 0, "dead": 0},
        "store": {"problem": ""},
        "settings": {"accepted": True},
        "baseline": {"directory": "/etc/dmimad/baseline.d", "entries": 3, "accepted": True},
        "maintenance": [],
        "firing": {"critical": 0, "warning": 0, "info": 0},
        "devices": [device()],
        "devices_left_out": 0,
        "alerts": [],
        "alerts_left_out": 0,
        **more,
    }


VERITY = "verity f3b63d8"
STAGED = {"hash": "sha256:6671ae70a7", "provenance": "measured", "targets": [{"type": "linear"}] * 3}
DRIFT = device(verdict="drift", inactive=STAGED, suspended=True)
MAINTENANCE = {"id": "1f", "device": "vg0-*", "reason": "update", "by": "root (user 0)", "until": at(320)}


def shown(made: Mapping[str, object], **look: Any) -> list[str]:
    return list(page(made, Look(**look)))


# -- the page ------------------------------------------------------------------------------


def test_the_page_of_a_host_where_all_is_well() -> None:
    assert shown(document()) == [
        f"host        web-1 (dmimad 1.0), {local_time(at(200))}",
        "list        612 records, read 2 s ago",
        "live tables looked at 7 times",
        "TPM         PCR 10 agrees with the list",
        "broker      connected, 0 alerts wait",
        "baseline    3 entries from /etc/dmimad/baseline.d",
        "",
        "DEVICE    NUMBER  TABLES          WITNESS  VERDICT   SINCE",
        "image-ro  253:5   verity f3b63d8  both     approved  3 min",
        "",
        "no alert is firing",
    ]


def test_the_page_of_a_host_where_nothing_is() -> None:
    made = document(
        list={"source_up": False, "position": 612, "lag": 5, "trimmed": 6, "problem": "", "gap": False},
        witnesses={"live": {"up": False}},
        pcr_verified=False,
        mqtt_connected=False,
        outbox={"pending": 3, "dead": 1},
        store={"problem": "disk full"},
        settings={"accepted": False, "restart_needed": ["state", "metrics"]},
        refused=[{"what": "mqtt", "reason": f"/k: {HOSTILE}", "since": at(100)}],
        baseline={"directory": "/b", "entries": 1, "accepted": False},
        maintenance=[MAINTENANCE],
        devices=[DRIFT, device("253:6", "b", active=None, verdict="unexpected", since={})],
        devices_left_out=4,
        alerts=[alert(count=3), alert("warning", code="device.removed", device="b", message="b was removed")],
        alerts_left_out=5,
    )
    assert shown(made)[1:] == [
        "list        612 records, 5 to read, 6 trimmed; cannot be read now",
        "live tables cannot be looked at",
        "TPM         PCR 10 does NOT agree with the list",
        "broker      not connected, 3 alerts wait, 1 given up",
        "state       cannot be stored: disk full",
        "baseline    1 entry from /b; the last change was refused, see the daemon's log",
        "settings    the last change was refused; see the daemon's log",
        f"refused     mqtt, since {local_time(at(100))}: /k: {plain(HOSTILE)}",
        "restart     needed for what has changed in the settings: state, metrics",
        f"maintenance vg0-* until {local_time(at(320))} (2 min left): update [by root (user",
        "            0), id 1f]",
        "",
        "DEVICE    NUMBER  TABLES                        WITNESS        VERDICT     SINCE",
        "image-ro  253:5   verity f3b63d8 + linear 667…  both/measured  drift       3 min",
        "b         253:6   none                          -              unexpected  -",
        "and 4 more devices",
        "",
        "CRITICAL  drift.active  image-ro  1 min  3 times",
        "    image-ro (253:5) runs a table that is not approved",
        "WARNING   device.removed  b  1 min",
        "    b was removed",
        "and 5 more alerts; --json has them",
    ]


@pytest.mark.parametrize(
    ("member", "value", "line"),
    [
        (
            "list",
            {"position": 1, "problem": "damaged", "source_up": True},
            "1 records; cannot be read on: damaged",
        ),
        ("list", {"position": 1, "source_up": True, "gap": True}, "1 records; records may be lost"),
        ("witnesses", {"live": {"up": None}}, "live tables not looked at"),
        ("pcr_verified", None, "PCR 10 not compared"),
        ("mqtt_connected", None, "broker      not to be used"),
        ("baseline", {"directory": "/b", "entries": 0}, "0 entries from /b: nothing is judged"),
        ("devices", [], "no mapped devices"),
        ("devices", [device(active={"hash": "unknown", "targets": []})], "? unknown"),
        ("devices", [device(active={"hash": "sha256:0123456789", "targets": [{"type": None}]})], "? 0123456"),
        ("alerts", [alert("info", since="yesterday", message="")], "INFO      drift.active  image-ro"),
        ("alerts", [alert()] * (MAX_ALERTS_SHOWN + 2), "and 2 more alerts; --json has them"),
    ],
)
def test_other_states(member: str, value: object, line: str) -> None:
    assert any(line in each for each in shown(document(**{member: value})))


def test_on_a_wider_terminal_nothing_is_cut() -> None:
    assert (
        "image-ro  253:5   verity f3b63d8 + linear 6671ae7 suspended  both/measured  drift    3 min"
        in shown(document(devices=[DRIFT]), width=120)
    )


@pytest.mark.parametrize("name", ["x" * 128, "名" * 60, "é" * 128, HOSTILE * 40])
def test_it_fits_whatever_names_there_are(name: str) -> None:
    slot = {"hash": name, "provenance": name, "targets": [{"type": name}, {"type": "b"}]}
    made = document(
        host=name,
        devices=[device(name, name, active=slot, inactive=slot, verdict=name)],
        alerts=[alert(name, code=name, device=name, message=name)],
        baseline={"directory": name, "entries": 1},
        maintenance=[{"device": name, "reason": name, "by": name, "id": name, "until": name}],
    )
    lines = shown(made)
    assert max(map(columns_of, lines)) <= 80
    assert all(line.isprintable() for line in lines)
    assert all(line.isprintable() for line in changes(document(), made))


@pytest.mark.parametrize("value", [None, 7, "text", [], [7], {"a": 7}, True, float("inf")])
def test_a_document_of_another_version_is_shown_as_far_as_it_goes(value: object) -> None:
    for member in document():
        made = document(**{member: value})
        assert shown(made)
        assert isinstance(trouble(made), bool)
        assert summary(made)
        list(changes(document(), made))
        list(changes(made, document()))
    for member in device():
        assert shown(document(devices=[{**device(), member: value}]))
    for member in alert():
        assert shown(document(alerts=[{**alert(), member: value}]))


def test_colours_say_nothing_that_is_not_written() -> None:
    made = document(devices=[DRIFT], alerts=[alert()])
    coloured = shown(made, colour=True)
    assert "\x1b[1;31mCRITICAL  drift.active  image-ro  1 min\x1b[0m" in coloured
    for code in ("1", "2", "32", "33", "34", "1;31", "1;33", "0"):
        coloured = [line.replace(f"\x1b[{code}m", "") for line in coloured]
    assert [line.rstrip() for line in coloured] == [line.rstrip() for line in shown(made)]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, False),
        ({"firing": {"critical": 0, "warning": 0, "info": 3}}, False),
        ({"firing": {"critical": 0, "warning": 1, "info": 0}}, True),
        ({"firing": {"critical": 1, "warning": 0, "info": 0}}, True),
        ({"devices": [DRIFT]}, True),
        ({"devices": [device(verdict="unexpected")]}, False),
    ],
)
def test_what_trouble_is(changed: dict[str, Any], expected: bool) -> None:
    assert trouble(document(**changed)) is expected


def test_texts_from_outside() -> None:
    assert plain(HOSTILE) == "\\x1b[31mred\\u202e\\n\\x9b1m"
    assert (plain(None), plain([1]), plain(7)) == ("", "", "7")
    assert len(plain("x" * 10_000)) == 1001
    assert (cut("名前前", 5), cut("abc", 3), cut("abcd", 3, "~")) == ("名前…", "abc", "ab~")
    assert columns_of("e\u0301") == 1
    assert wrapped("a bc  d名 efghijk 名", 4) == ["a bc", "d名", "efgh", "ijk", "名"]
    assert (wrapped("", 4), wrapped("名x", 1)) == ([""], ["名", "x"])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.5, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (7200, "2 h"),
        (2e6, "23 d"),
    ],
)
def test_time_spans(seconds: float, text: str) -> None:
    assert for_people(seconds) == text


# -- changes -------------------------------------------------------------------------------


def told(**changed: object) -> list[str]:
    before = document(maintenance=[MAINTENANCE], alerts=[alert()])
    lines = list(changes(before, {**before, **changed}))
    time = local_time(at(200), "%H:%M:%S")
    assert all(line.startswith(f"{time} ") for line in lines)
    return [line.removeprefix(f"{time} ") for line in lines]


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        ({}, []),
        ({"list": {"source_up": True, "position": 9}, "outbox": {"pending": 9}}, []),
        (
            {"devices": [DRIFT]},
            [f"device image-ro (253:5): approved, {VERITY} -> drift, {VERITY} + linear 6671ae7 suspended"],
        ),
        ({"devices": [device(), device("253:6", "b")]}, [f"device b (253:6): new: approved, {VERITY}"]),
        ({"devices": []}, ["device image-ro (253:5): gone"]),
        ({"alerts": []}, ["resolved drift.active: image-ro (253:5) runs a table that is not approved"]),
        (
            {"alerts": [alert(), alert("warning", code="device.removed", message="b was removed")]},
            ["WARNING device.removed: b was removed"],
        ),
        ({"maintenance": []}, ["maintenance vg0-* is over [id 1f]"]),
        ({"list": {"source_up": False}}, ["list cannot be read"]),
        ({"list": {"source_up": True, "gap": True}}, ["list is read; records may be lost"]),
        ({"witnesses": {}}, ["live tables are not looked at"]),
        ({"pcr_verified": False}, ["TPM PCR 10 does NOT agree with the list"]),
        ({"mqtt_connected": False}, ["broker not connected"]),
        ({"baseline": {"entries": 3, "accepted": False}}, ["baseline 3 entries; a change was refused"]),
    ],
)  # fmt: skip
def test_what_changes_is_a_line(changed: dict[str, Any], lines: list[str]) -> None:
    assert told(**changed) == lines


def test_the_line_before_the_changes() -> None:
    made = document(devices_left_out=2, alerts=[alert()], alerts_left_out=1)
    assert summary(made).endswith(" watching web-1: 3 devices, 2 alerts firing")


# -- arguments -----------------------------------------------------------------------------


@pytest.mark.parametrize("time", ["", "30", "m", "-3m", "0s", "3w", "1.5h", "٣m", "9999999999d", "30 m"])
def test_times_that_are_none(time: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["maintenance", "start", f"--for={time}", "--device", "a", "--reason", "b"])
    assert status == 2
    assert f"{time!r} is no time; write it as 90s, 30m, 2h or 1d" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "--config", "a", "--socket", "b"],
        ["maintenance"],
        ["maintenance", "start", "--for", "30m", "--device", "a"],
        ["maintenance", "end"],
        ["maintenance", "end", "1f", "--all"],
    ],
)
def test_arguments_that_do_not_do(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_where_the_socket_is_comes_from_the_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "dmimad.toml"
    file.write_text('[control]\nsocket = "here.sock"\n')
    for arguments in (["status"], ["maintenance", "list"]):
        assert main([*arguments, "--config", str(file)]) == 2
        assert capsys.readouterr().err.startswith(
            f"dmimad: {tmp_path}/here.sock: there is no control socket; "
        )
    file.write_text('[control]\nsocket = ""\n')
    assert main(["status", "--config", str(file)]) == 2
    assert f"{file}: control.socket is empty" in capsys.readouterr().err


# -- programs ------------------------------------------------------------------------------


class Serving:
    """A server in a thread, whose document the test changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.document = document()
        self.requests: list[Request] = []
        self._loop = asyncio.new_event_loop()
        answers = Answers(lambda: copy.deepcopy(self.document), timeless, self._other)
        self._server = ControlServer(path, answers, log=structlog.get_logger())
        self._server.listen()
        self._task = self._loop.create_task(self._server.run())
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _other(self, request: Request, peer: Peer) -> Mapping[str, object]:
        self.requests.append(request)
        return {"maintenance": MAINTENANCE}

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join(DEADLINE_SECONDS)
        self._server.close()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    server = Serving(tmp_path / "control.sock")
    yield server
    server.stop()


def run(serving: Serving, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dmimad.cli", *arguments, "--socket", str(serving.path)],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def test_piped_output_is_plain_and_of_eighty_columns(serving: Serving) -> None:
    serving.document = document(devices=[device(name=HOSTILE * 9), DRIFT], alerts=[alert(device=HOSTILE)])
    done = run(serving, "status", COLUMNS="")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.replace("\n", "").isprintable()
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_output_that_knows_ascii_alone(serving: Serving) -> None:
    serving.document = document(devices=[device(name="n" * 100)])
    done = run(serving, "status", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "nnn~ " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_reader_that_goes_is_no_error(serving: Serving) -> None:
    program = [sys.executable, "-m", "dmimad.cli", "status", "--watch", "--socket", str(serving.path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"watching web-1" in process.stdout.readline()
        process.stdout.close()
        serving.document = document(mqtt_connected=False)
        assert process.wait(DEADLINE_SECONDS) == 2
        assert process.stderr.read() == b""


def test_what_is_asked_for_a_maintenance(serving: Serving) -> None:
    done = run(serving, "maintenance", "start", "--for", "2h", "--device", "vg0-*", "--reason", "update")
    assert done.stdout.startswith(f"in force: vg0-* until {local_time(at(320))}")
    (request,) = serving.requests
    assert (request.device, request.seconds, request.reason) == ("vg0-*", 7200.0, "update")


# -- terminals -----------------------------------------------------------------------------


class Terminal:
    """`dmimad status --watch` on a terminal, and what it writes there."""

    def __init__(self, serving: Serving, rows: int = 30, columns: int = 100) -> None:
        self._ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        command = [sys.executable, "-m", "dmimad.cli", "status", "--watch", "--socket", str(serving.path)]
        environ = {
            key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")
        }
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env={**environ, "TERM": "xterm"}
        )
        os.close(theirs)
        self.text = ""

    def read_until(self, text: str) -> None:
        while text not in self.text:
            try:
                piece = os.read(self._ours, 65536)
            except OSError:  # how a terminal tells that its other end is closed
                piece = b""
            assert piece, self.text
            self.text += piece.decode("utf-8", "replace")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_terminal_is_redrawn_and_restored(serving: Serving, number: signal.Signals) -> None:
    terminal = Terminal(serving)
    try:
        terminal.read_until("no alert is firing")
        assert terminal.text.startswith("\x1b[?1049h\x1b[?25l\x1b[H")
        assert "\x1b[32mapproved\x1b[0m" in terminal.text
        serving.document = document(devices=[DRIFT], alerts=[alert(message=HOSTILE)])
        terminal.read_until("CRITICAL")
        terminal.process.send_signal(number)
        terminal.read_until("\x1b[?25h\x1b[?1049l")
        assert terminal.process.wait(DEADLINE_SECONDS) == 130
        assert "\u202e" not in terminal.text
    finally:
        terminal.close()


def test_a_terminal_of_few_lines_shows_how_many_are_missing(serving: Serving) -> None:
    serving.document = document(devices=[device(f"253:{n}", f"n{n}") for n in range(40)])
    terminal = Terminal(serving, rows=20)
    try:
        terminal.read_until("more lines; make the window larger)")
        assert terminal.text.count("\r\n") == 19
    finally:
        terminal.close()


def test_a_terminal_is_restored_when_the_daemon_ends(serving: Serving) -> None:
    terminal = Terminal(serving)
    try:
        terminal.read_until("no alert is firing")
        serving.stop()
        terminal.read_until("the daemon has ended the connection")
        assert "\x1b[?25h\x1b[?1049ldmimad: " in terminal.text
        assert terminal.process.wait(DEADLINE_SECONDS) == 2
    finally:
        terminal.close()
