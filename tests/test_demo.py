"""`dmimad demo` as a user runs it: a process of its own, watched from outside."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from fcntl import ioctl
from pathlib import Path

import pytest
from wcwidth import wcswidth

from dmimad.config import load
from dmimad.demo.own_host import advice
from dmimad.demo.recording import recording
from dmimad.demo.screen import WIDTH, Screen
from dmimad.demo.story import STORY
from dmimad.demo.subscriber import Alert, read_alert
from tests.conftest import CORPUS
from tests.quickstart import alone_with_ports

COMMAND = (sys.executable, "-m", "dmimad.cli", "demo", "--speed", "50")
DEADLINE_SECONDS = 90.0
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
ALERT = re.compile(r"^   ▌ (CRITICAL|WARNING|RESOLVED) +(\S+)  (\S+)$", re.MULTILINE)

STORY_ALERTS = [
    ("CRITICAL", "drift.active", "vg0-data"),
    ("RESOLVED", "drift.active", "vg0-data"),
    ("CRITICAL", "device.missing", "image-ro"),
    ("RESOLVED", "device.missing", "image-ro"),
    ("CRITICAL", "drift.active", "image-ro"),
    ("WARNING", "drift.inactive", "vg0-data"),
    ("RESOLVED", "drift.inactive", "vg0-data"),
    ("CRITICAL", "drift.active", "vg0-data"),
    ("RESOLVED", "drift.active", "image-ro"),
    ("RESOLVED", "drift.active", "vg0-data"),
    ("CRITICAL", "device.missing", "image-ro"),
    ("WARNING", "device.removed", "vg0-data"),
]


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """The demo's TMPDIR: what is left there was not removed."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    return directory


def environment(temporary: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    return {**kept, "TMPDIR": str(temporary), "PYTHONIOENCODING": "utf-8", "TERM": "xterm", **more}


def run(temporary: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Until it ends by itself, its output in pipes."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(temporary, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=DEADLINE_SECONDS,
        check=False,
    )


class Running:
    """The demo in the background, on a terminal of its own or with a pipe."""

    def __init__(self, process: subprocess.Popen[bytes], output: int) -> None:
        self.process = process
        self._output = output
        self.text = ""

    def read_until(self, what: Callable[[str], bool]) -> None:
        """Until the output so far is what is waited for, or it ends."""
        until = time.monotonic() + DEADLINE_SECONDS
        while not what(self.text):
            assert time.monotonic() < until, f"did not come; so far: {self.text}"
            try:
                piece = os.read(self._output, 4096)
            except OSError:  # how a terminal tells that its other end is closed
                piece = b""
            if not piece:
                return
            self.text += piece.decode("utf-8").replace("\r\n", "\n")

    def end(self, number: signal.Signals) -> int:
        """Send a signal, take the rest of the output; returns the exit status."""
        self.process.send_signal(number)
        self.read_until(lambda _: False)
        return self.process.wait(DEADLINE_SECONDS)


@contextmanager
def running(temporary: Path, *arguments: str, terminal: bool = False, **more: str) -> Iterator[Running]:
    ours, theirs = pty.openpty() if terminal else os.pipe()
    if terminal:
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, WIDTH, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(temporary, **more),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Running(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_tells_the_story_with_the_recorded_alerts_and_cleans_up(temporary: Path) -> None:
    done = run(temporary)

    assert (done.returncode, done.stderr) == (0, "")
    assert ALERT.findall(done.stdout) == STORY_ALERTS
    assert re.search(r"records verified +612, 0 with a wrong template digest", done.stdout)
    assert "sha256 543f020f160b239d… = what the TPM had; sha1 too" in done.stdout
    assert re.search(r"dm events +110: ", done.stdout)
    assert re.search(r"append to alert +median \d+ ms, longest \d+ ms", done.stdout)
    assert "dmimad_list_position 612\n" in done.stdout
    assert 'dmimad_alerts_firing{severity="critical"} 1\n' in done.stdout
    assert "evidence: record 580 device_resume ff12f138f0…" in done.stdout
    assert "evidence: record 586 device_remove db05002aff…" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= WIDTH
    assert done.stdout.replace("\n", "").isprintable()
    assert list(temporary.iterdir()) == []


def test_needs_nothing_but_ascii(temporary: Path) -> None:
    done = run(temporary, "--color", "never", PYTHONIOENCODING="ascii", CLICOLOR_FORCE="1")

    assert (done.returncode, done.stderr) == (0, "")
    assert "   | CRITICAL  drift.active  image-ro\n" in done.stdout
    assert done.stdout.isascii()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_it_in_order(temporary: Path, number: signal.Signals, status: int) -> None:
    with running(temporary) as demo:
        demo.read_until(lambda text: "CRITICAL" in text)
        assert list(temporary.iterdir()) != []
        assert demo.end(number) == status
    assert demo.text.endswith("\nInterrupted; everything temporary is removed.\n")
    assert "Traceback" not in demo.text
    assert list(temporary.iterdir()) == []


def test_keeps_running_if_asked_to(temporary: Path) -> None:
    with running(temporary, "--keep") as demo:
        demo.read_until(lambda text: "tail -f" in text)
        url = re.findall(r"\$ curl (http://127\.0\.0\.1:\d+/metrics)\n", demo.text)[0]
        with urllib.request.urlopen(url, timeout=DEADLINE_SECONDS) as answer:
            assert b"\ndmimad_mqtt_connected 1.0\n" in answer.read()
        (baseline,) = temporary.glob("*/baseline.d/demo.toml")
        baseline.write_text("version = 1\n")
        demo.read_until(lambda text: len(ALERT.findall(text)) >= len(STORY_ALERTS) + 2)
        assert sorted(ALERT.findall(demo.text)[len(STORY_ALERTS) :]) == [
            ("RESOLVED", "device.missing", "image-ro"),
            ("RESOLVED", "device.removed", "vg0-data"),
        ]
        assert demo.process.poll() is None
        assert demo.end(signal.SIGINT) == 0
    assert demo.text.endswith("\nEnded; everything temporary is removed.\n")
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colour_is_for_terminals(temporary: Path, more: Mapping[str, str], coloured: bool) -> None:
    with running(temporary, terminal=True, **more) as demo:
        demo.read_until(lambda text: "ms after the append" in text)
        assert demo.end(signal.SIGTERM) == 143
    assert ("\x1b[1;31mCRITICAL  drift.active  vg0-data\x1b[0m" in demo.text) is coloured
    plain = ESCAPE.sub("", demo.text)
    assert ("\x1b" in demo.text, "\x1b" in plain) == (coloured, False)
    assert max(map(len, plain.splitlines())) <= WIDTH


def test_names_the_extra_where_the_broker_is_not_installed(temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "amqtt.py").write_text("raise ModuleNotFoundError('No module named amqtt', name='amqtt')\n")
    done = run(temporary, PYTHONPATH=os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", ""))))

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "dmimad: demo: needs the broker amqtt; pip install 'dmimad[demo]'\n"
    assert list(temporary.iterdir()) == []


def test_ends_quietly_when_nobody_reads_on(temporary: Path) -> None:
    with running(temporary) as demo:
        demo.read_until(lambda text: "CRITICAL" in text)
        text = demo.text
        # The only reader goes: the next line cannot be written.
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, demo._output)
        os.close(null)
        assert demo.process.wait(DEADLINE_SECONDS) == 2
    assert "Traceback" not in text
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("speed", ["0", "1000", "nan", "fast"])
def test_refuses_a_speed_that_is_none(temporary: Path, speed: str) -> None:
    done = run(temporary, "--speed", speed)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("dmimad: argument --speed: ")
    assert done.stderr.count("\n") == 1


# --- a stage for one's own daemon: see also test_quickstart ---


def test_the_stage_is_the_recording_cut_in_two(temporary: Path, tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    with running(temporary, "--stage", str(stage)) as demo:
        demo.read_until(lambda text: "until Ctrl-C" in text)
        assert max(map(len, demo.text.splitlines())) <= WIDTH
        assert demo.end(signal.SIGTERM) == 0
    assert demo.text.endswith("\nEnded; the files stay.\n")
    whole = (stage / "list").read_bytes() + (stage / "attack").read_bytes()
    assert recording().data.startswith(whole)
    assert len(whole) == recording().offset(583)
    settings = load(stage / "dmimad.toml")
    assert (settings.host.id, settings.source.path) == ("quick", str(stage / "list"))
    assert list((stage / "baseline.d").iterdir()) == []


def test_the_stage_takes_other_ports_where_these_are_taken(temporary: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(alone_with_ports())
        for port in (18830, 9837, 9838):
            taken = stack.enter_context(socket.socket())
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):  # somebody else has it: just as well
                taken.bind(("127.0.0.1", port))
                taken.listen()
        demo = stack.enter_context(running(temporary, "--stage", str(tmp_path / "stage")))
        demo.read_until(lambda text: "until Ctrl-C" in text)
        settings = load(tmp_path / "stage" / "dmimad.toml")
        assert settings.mqtt.port not in (18830, 0)
        assert settings.metrics.port not in (9837, 0)
        assert settings.page.port not in (9838, 0)
        assert f"dmimad listen --port {settings.mqtt.port} --protocol 3\n" in demo.text
        assert f"curl -s http://127.0.0.1:{settings.metrics.port}/metrics" in demo.text


@pytest.mark.parametrize("used", ["a file", "a directory with something in it"])
def test_the_stage_overwrites_nothing(temporary: Path, tmp_path: Path, used: str) -> None:
    stage = tmp_path / "stage"
    if used == "a file":
        stage.touch()
    else:
        (stage / "mine").mkdir(parents=True)
    done = run(temporary, "--stage", str(stage))

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"dmimad: {stage}: is there and not empty; name another directory, or remove it\n"
    assert [path.name for path in stage.glob("*")] == (["mine"] if stage.is_dir() else [])


# --- parts ---


def test_the_recording_is_the_corpus_byte_for_byte() -> None:
    recorded = recording()

    assert recorded.data == (CORPUS / "lvm-6.1" / "binary_runtime_measurements").read_bytes()
    assert recorded.kernel == "6.1.0-50-amd64"
    assert {bank: len(value) for bank, value in recorded.pcr.items()} == {"sha1": 20, "sha256": 32}


def test_the_story_is_the_whole_recording_in_order() -> None:
    ends = [act.records for chapter in STORY for act in chapter.acts if act.records]

    assert ends == sorted(set(ends))
    recorded = recording()
    assert recorded.offset(ends[-1]) == len(recorded.data)
    assert recorded.offset(ends[-1] - 1) < len(recorded.data)


def test_says_how_to_monitor_this_host(tmp_path: Path) -> None:
    absent = advice(tmp_path)
    assert absent.text.startswith("This host has no list to read")
    assert list(absent.commands) == ["sudo dmimad run"]

    (tmp_path / "ima").mkdir()
    path = tmp_path / "ima" / "binary_runtime_measurements"
    path.write_bytes(b"")
    readable = advice(tmp_path, root=True)
    assert readable.text.startswith("This host's own list can be read")
    assert list(readable.commands) == [f"dmimad replay --summary {path}", "dmimad run"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_says_when_only_root_may_read_the_list(tmp_path: Path) -> None:
    (tmp_path / "ima").mkdir()
    path = tmp_path / "ima" / "binary_runtime_measurements"
    path.touch(mode=0)
    assert list(advice(tmp_path).commands) == [f"sudo dmimad replay --summary {path}", "sudo dmimad run"]


HOSTILE = b"""{"data": {"code": "drift.active", "status": "firing", "severity": "\\u001b[2Jcritical",
    "message": "a\\u202eb\\u0007\\n %s", "device": {"name": "n\\r\\u009bm"}, "expected": "\\ud800",
    "actual": "sha256:\\u0000", "evidence": {"record": 1e400, "event": [1]}, "duration_seconds": 1e999}}"""


def shown(alert: Alert, *, colour: bool = False, columns: int = WIDTH, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    Screen(stream, colour=colour, columns=columns).alert(alert, "just now")
    stream.seek(0)
    return stream.read()


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
@pytest.mark.parametrize("columns", [1, 60, 300])
def test_what_is_hostile_in_an_alert_does_no_harm(columns: int, encoding: str) -> None:
    alert = read_alert(HOSTILE % (b"z" * 100_000))
    assert alert is not None
    text = shown(alert, columns=columns, encoding=encoding)

    assert text.replace("\n", "").isprintable()
    assert max(map(len, text.splitlines())) <= max(40, min(columns, WIDTH))
    assert {"\\x1b[2JCRITICAL", "drift.active", "n\\r\\x9bm"} <= set(text.split())
    assert len(text) < 2000


@pytest.mark.parametrize("name", ["名" * 100, "e\u0301" * 200, "🦀 " * 90])
@pytest.mark.parametrize("columns", [40, 61, 80])
def test_wide_names_fit(columns: int, name: str) -> None:
    alert = read_alert(HOSTILE % b"z")
    assert alert is not None
    alert = replace(alert, device=name, message=f"{name} is not approved", actual=f"sha256:{name}")
    assert max(map(wcswidth, shown(alert, columns=columns).splitlines())) <= columns


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"\xff",
        b"[" * 200_000,
        b'{"data": []}',
        b'{"data": {"code": 3}}',
        b'{"data": null}',
    ],
)
def test_what_is_no_alert_is_none(payload: bytes) -> None:
    assert read_alert(payload) is None
