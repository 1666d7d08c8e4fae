"""`dmimad listen` as its users meet it: a process of its own, a real broker, a real daemon."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Callable, Iterator
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest

from dmimad.adapters.keys import SigningKey, write_pair
from dmimad.cli import main
from dmimad.commands.alert_text import text_block
from dmimad.core.alert import Status
from dmimad.core.commit import Message
from dmimad.core.finding import Severity
from dmimad.subscriber import (
    Alert,
    HostBack,
    HostSilent,
    InvalidAlert,
    Malformed,
    Missing,
    Restarted,
    Watch,
    WatchEvent,
)
from tests.broker import DEADLINE_SECONDS, Broker, free_port
from tests.service.daemon_process import running
from tests.service.host import Host, entry
from tests.service.lists import ascii_records
from tests.subscriber.publishing import alert, changed, publish, status, write_public

SEEN = 1795358300.0
KEY = SigningKey.generate()


@pytest.fixture
def broker(mosquitto: str, tmp_path: Path) -> Iterator[Broker]:
    directory = tmp_path / "broker"
    directory.mkdir()
    with Broker(mosquitto, directory) as started:
        yield started


@pytest.fixture
def keys(tmp_path: Path) -> str:
    """A directory with the key of web-1."""
    return str(write_public(tmp_path / "keys/web-1.pub", KEY).parent)


class Listening:
    """The command, running; `out` and `err` are what it has written so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._changed = asyncio.Event()
        self.out = ""
        self.err = ""
        self._tasks = [asyncio.create_task(self._read(name)) for name in ("stdout", "stderr")]

    async def _read(self, name: str) -> None:
        stream = getattr(self._process, name)
        while data := await stream.read(65536):
            if name == "stdout":
                self.out += data.decode()
            else:
                self.err += data.decode()
            self._changed.set()
        self._changed.set()

    async def until(self, what: Callable[[], bool]) -> None:
        """Until it is true; it is asked again whenever something was written."""
        try:
            async with asyncio.timeout(2 * DEADLINE_SECONDS):
                while not what():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"did not happen\n{self.out}\n{self.err}") from None

    async def ended(self) -> int:
        """Its exit status; never with a traceback."""
        try:
            async with asyncio.timeout(2 * DEADLINE_SECONDS):
                code = await self._process.wait()
                await asyncio.gather(*self._tasks)
        except TimeoutError:
            raise AssertionError(f"does not end\n{self.out}\n{self.err}") from None
        assert "Traceback" not in self.err, self.err
        return code

    async def interrupt(self, number: signal.Signals = signal.SIGINT) -> int:
        self._process.send_signal(number)
        return await self.ended()

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Complete JSON lines."""
        return [json.loads(line) for line in self.out.split("\n")[:-1]]


@contextlib.asynccontextmanager
async def listening(broker: Broker, *arguments: str) -> AsyncIterator[Listening]:
    """The command, subscribed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dmimad.cli", "listen", "--port", str(broker.port), *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    listener = Listening(process)
    try:
        await listener.until(lambda: "connected, waiting" in listener.err)
        yield listener
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class TestProcess:
    @pytest.mark.parametrize("protocol", ["5", "3"])
    async def test_alerts_of_a_daemon_that_signs(
        self, broker: Broker, tmp_path: Path, corpus: Path, protocol: str
    ) -> None:
        host = Host(tmp_path / "host", broker.port)
        public = write_pair(KEY, tmp_path / "signing.key")
        host.configure(alerts={"signing_key_file": str(tmp_path / "signing.key")})
        host.approve(entry("linear1", ["sha256:" + "0" * 64]))
        host.append(b"")
        records = ascii_records(corpus / "systematic-6.1")
        async with (
            listening(
                broker, "--keys", str(public), "--json", "--count", "2", "--protocol", protocol
            ) as listener,
            running(host.settings),
        ):
            host.append(b"".join(records[:7]))
            assert await listener.ended() == 0
        objects = listener.objects
        assert [(o["type"], o["host"], o["sequence"]) for o in objects] == [
            ("alert", "web-1", 1),
            ("alert", "web-1", 2),
        ]
        assert {o["signature"]["trust"] for o in objects} == {"valid"}
        assert {o["signature"]["keyid"] for o in objects} == {KEY.keyid}
        assert {o["data"]["code"] for o in objects} <= {"drift.inactive", "drift.active", "device.missing"}

    async def test_a_forgery_is_never_an_alert(self, broker: Broker, keys: str) -> None:
        forged = Message(alert(2).topic, changed(alert(2, key=KEY), data_message="all is well"), "")
        async with listening(broker, "--keys", keys, "--json", "--count", "4") as listener:
            await publish(broker.port, alert(1, key=KEY), forged, alert(3), alert(2, key=KEY))
            assert await listener.ended() == 1
        kinds = [
            (o["type"], o["claimed"]["sequence"] if o["type"] == "invalid" else o["sequence"])
            for o in listener.objects
        ]
        assert kinds == [("alert", 1), ("invalid", 2), ("invalid", 3), ("alert", 2)]

    async def test_what_is_shown_without_keys(self, broker: Broker) -> None:
        async with listening(broker, "--count", "1") as listener:
            await publish(broker.port, alert(1))
            assert await listener.ended() == 0
        assert listener.out.splitlines() == [
            "2026-11-22T14:37:15.203Z  web-1  CRITICAL  drift.active  linear1  firing",
            "    linear1 (254:0) runs a table that is not approved",
            f"    expected  sha256:{'ab' * 32}",
            f"    actual    sha256:{'cd' * 32}",
            "    evidence: record 6, baseline main.toml: linear1, witness both",
            "    signature: unsigned",
            "",
        ]

    async def test_severity_and_host_are_chosen_and_the_sequence_is_kept(self, broker: Broker) -> None:
        arguments = ("--severity", "warning", "--only-host", "web-*", "--json", "--count", "2")
        async with listening(broker, *arguments) as listener:
            await publish(
                broker.port,
                alert(1, severity=Severity.WARNING),
                alert(2, severity=Severity.INFO),
                alert(7, host="db-1"),
                alert(9, host="db-1"),
                alert(3),
            )
            assert await listener.ended() == 0
        assert [(o["host"], o["sequence"]) for o in listener.objects] == [("web-1", 1), ("web-1", 3)]

    async def test_silent_hosts_and_missing_alerts_are_findings(self, broker: Broker) -> None:
        arguments = ("--expect-host", "db-1", "--silence-seconds", "1", "--json")
        async with listening(broker, *arguments) as listener:
            await publish(broker.port, status(b"offline"), retain=True)
            await publish(broker.port, alert(1), alert(3))
            await listener.until(lambda: {"silent", "missing"} <= {o["type"] for o in listener.objects})
            await listener.until(lambda: len(listener.objects) == 5)
            await publish(broker.port, status(b"online"), retain=True)
            await listener.until(lambda: listener.objects[-1]["type"] == "back")
            assert await listener.interrupt() == 1
        found = {(o["type"], o["host"], o.get("why"), o.get("first")) for o in listener.objects}
        assert found == {
            ("alert", "web-1", None, None),
            ("silent", "db-1", "never heard", None),
            ("silent", "web-1", "offline", None),
            ("missing", "web-1", None, 2),
            ("back", "web-1", None, None),
        }

    async def test_it_outlives_the_broker_and_says_so(self, broker: Broker) -> None:
        async with listening(broker, "--json") as listener:
            broker.kill()
            await listener.until(lambda: "trying again" in listener.err)
            broker.start()
            await listener.until(lambda: "connected again" in listener.err)
            await publish(broker.port, alert(1))
            await listener.until(lambda: len(listener.objects) == 1)
            assert await listener.interrupt(signal.SIGTERM) == 0

    async def test_an_alert_that_came_while_it_was_away(self, broker: Broker) -> None:
        arguments = ("--client-id", "console", "--json", "--count", "1")
        for number in (1, 2):
            async with listening(broker, *arguments) as listener:
                if number == 1:
                    await publish(broker.port, alert(1))
                assert await listener.ended() == 0
            assert listener.objects[0]["sequence"] == number
            await publish(broker.port, alert(2))

    async def test_a_reader_that_goes_away_is_no_traceback(self, broker: Broker) -> None:
        shell = f"{sys.executable} -m dmimad.cli listen --port {broker.port} | true"
        process = await asyncio.create_subprocess_shell(shell, stderr=asyncio.subprocess.PIPE)
        assert process.stderr is not None
        assert b"connected" in await process.stderr.readline()
        await publish(broker.port, alert(1))
        assert await process.stderr.read() == b""
        await process.wait()


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--port", "0"], "0 is not between 1 and 65535"),
            (["--count", "0"], "0 is not between 1"),
            (["--silence-seconds", "nan"], "is not between 1"),
            (["--require-signature"], "give --keys"),
            (["--keys", "/nowhere/keys"], "/nowhere/keys: "),
            (["--password-file", "x"], "give --username"),
            (["--tls-key-file", "x"], "give --tls-cert-file"),
            (["--tls", "off", "--tls-ca-file", "x"], "leave out one or the other"),
            (
                ["--host", "b.example.org", "--tls", "off", "--username", "u"],
                "the password would cross the network to b.example.org in the clear; "
                "use TLS, or allow it with --allow-plain-password",
            ),
            (["--tls-ca-file", "/nowhere/ca"], "/nowhere/ca: --tls-ca-file: No such file"),
            (["--host", ""], "name the broker's host"),
            (["--expect-host", "db-1", "--only-host", "web-*"], "--only-host leaves it out"),
        ],
    )
    def test_unusable_arguments(
        self, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
    ) -> None:
        assert main(["listen", *arguments]) == 2
        written = capsys.readouterr()
        assert said in written.err
        assert written.err.count("\n") == 1
        assert written.out == ""

    def test_no_broker(self, capsys: pytest.CaptureFixture[str]) -> None:
        port = free_port()
        assert main(["listen", "--port", str(port)]) == 2
        assert capsys.readouterr().err == (
            f"dmimad: 127.0.0.1:{port}: nothing listens there ([Errno 111] Connection refused); "
            "start the broker, or set --host and --port\n"
        )


def shown(message: Message, **members: Any) -> list[str]:
    """The lines of an alert with other members."""
    [event] = Watch(0.0).receive(message.topic, changed(message, **members), False, 0.0)
    text = text_block(event, SEEN, colour=False)
    assert text.endswith("\n\n")
    return text.rstrip("\n").split("\n")


class TestText:
    def test_a_resolved_alert_tells_its_duration(self) -> None:
        made = alert(1, status=Status.RESOLVED, severity=Severity.WARNING)
        for seconds, said in ((4.25, "4.2 s"), (3725, "1 h 2 min 5 s"), (172800, "2 d")):
            head = shown(made, data_duration_seconds=seconds)[0]
            assert head.endswith(f"WARNING  drift.active  linear1  resolved after {said}")

    def test_differences_stand_one_per_line_in_the_place_of_hashes(self) -> None:
        differences = [
            {"target": 0, "attribute": "key_size", "expected": ">= 64", "actual": "32"},
            {"target": None, "attribute": "name", "expected": "", "actual": "x"},
        ]
        lines = shown(alert(1), data_differences=differences)
        assert lines[2:4] == [
            "    target 0: key_size  expected >= 64  actual 32",
            "    device: name  expected nothing  actual x",
        ]
        assert not any("sha256" in line for line in lines)

    def test_repetition_flapping_and_maintenance(self) -> None:
        lines = shown(
            alert(1),
            data_count=4,
            data_first="2026-11-22T14:00:00Z",
            data_last="2026-11-22T14:30:00Z",
            data_flapping=True,
            data_maintenance={
                "id": "1",
                "reason": "disk swap",
                "until": "2026-11-22T15:00:00Z",
                "severity": "critical",
            },
        )
        assert lines[0].endswith("[flapping]  [maintenance]")
        assert "    4 times, first 2026-11-22T14:00:00Z, last 2026-11-22T14:30:00Z" in lines
        assert "    maintenance until 2026-11-22T15:00:00Z, disk swap; would be critical" in lines

    def test_a_summary_tells_codes_and_devices(self) -> None:
        summary = {
            "alerts": 502,
            "by_code": {"device.missing": 2, "drift.active": 500},
            "by_severity": {"critical": 502},
            "devices": [f"vg0-{number}" for number in range(25)],
            "more_devices": 475,
            "holding": {"alerts": 1, "by_code": {"drift.active": 1}, "devices": ["vg0-7"], "more_devices": 0},
        }
        lines = shown(alert(1, subject=""), data_summary=summary)
        said = "    502 alerts in one: 500 × drift.active, 2 × device.missing"
        assert said in lines
        assert "    1 still hold: 1 × drift.active" in lines
        assert "    devices: vg0-7" in lines
        devices = next(line for line in lines if line.startswith("    devices: "))
        assert devices.endswith("vg0-19 and 480 more")
        assert "  (host)  " in lines[0]

    def test_what_is_invalid_cannot_be_overlooked(self) -> None:
        [event] = Watch(0.0).receive("dmimad/v1/web-2/alert/critical", alert(1).payload, False, 0.0)
        lines = text_block(event, SEEN, colour=False).rstrip("\n").split("\n")
        assert all(line.startswith("!!! ") and line.endswith(" !!!") for line in lines)
        assert "INVALID: DO NOT TRUST THIS ALERT" in lines[0]
        assert lines[1] == "!!! the event's source is not the host of its topic !!!"

    @pytest.mark.parametrize(
        ("event", "text"),
        [
            (Missing("web-1", 3, 3), "MISSING    web-1: alert 3 has not come"),
            (Missing("web-1", 3, 5), "MISSING    web-1: alerts 3 to 5 have not come"),
            (HostSilent("web-1", SEEN, "offline"), "SILENT     web-1: offline, since 2026-11-22T14:38:20Z"),
            (HostBack("web-1"), "BACK       web-1: online again"),
            (Restarted("web-1", 1), "RESTARTED  web-1: counts its alerts anew, from 1 on"),
            (Malformed("a\x1b[2J", "bad"), r"MALFORMED  a\x1b[2J: bad"),
            (Malformed("", "bad"), "MALFORMED  bad"),
        ],
    )
    def test_a_line_for_anything_else(self, event: WatchEvent, text: str) -> None:
        assert text_block(event, SEEN, colour=False) == f"2026-11-22T14:38:20Z  {text}\n\n"

    @pytest.mark.parametrize("value", [None, 7, -1, 1e300, True, "x", "\x1b[2J\n", [1, ["x"]], [{}], {"": 1}])
    def test_members_of_any_type_harm_nobody(self, value: Any) -> None:
        names = ("count", "first", "last", "flapping", "maintenance", "differences", "summary", "evidence")
        members = dict.fromkeys((*(f"data_{name}" for name in names), "data_duration_seconds"), value)
        lines = shown(alert(1, status=Status.RESOLVED), **members, data_message="\x1b]0;title\x07\u202e")
        assert all(line.isprintable() for line in lines)

    def test_long_lists_are_cut(self) -> None:
        entry = {"target": 0, "attribute": "a", "expected": "b", "actual": "c"}
        lines = shown(alert(1), data_differences=[entry] * 1000)
        assert "    and 936 more differences" in lines
        assert len(lines) == 69

    @pytest.mark.parametrize("columns", [40, 60, 80, 200])
    def test_on_a_terminal_lines_are_as_wide_as_it_at_most(self, columns: int) -> None:
        message = alert(1)
        [event] = Watch(0.0).receive(message.topic, message.payload, False, 0.0)
        whole = text_block(event, SEEN, colour=False).rstrip("\n").split("\n")
        assert max(map(len, whole)) > 80
        lines = text_block(event, SEEN, colour=False, width=columns).rstrip("\n").split("\n")
        assert max(map(len, lines)) <= columns
        assert "".join(lines).replace(" ", "") == "".join(whole).replace(" ", "")
        assert [line for line in whole if len(line) <= columns] == [line for line in lines if line in whole]
        after = lines[lines.index("    expected") + 1] if columns < 200 else " " * 8
        assert after.startswith(" " * 8)

    def test_a_forgery_on_a_narrow_terminal(self) -> None:
        [event] = Watch(0.0).receive("dmimad/v1/web-2/alert/critical", alert(1).payload, False, 0.0)
        lines = text_block(event, SEEN, colour=False, width=40).rstrip("\n").split("\n")
        assert len(lines) > 3
        assert all(line.startswith("!!! ") and line.endswith(" !!!") and len(line) <= 40 for line in lines)

    def test_wrapped_on_a_terminal_only(self, broker: Broker) -> None:
        written = asyncio.run(on_a_terminal(broker, {"NO_COLOR": "1"}))
        assert max(map(len, written.splitlines())) <= 80
        assert "    expected\r\n        sha256:" in written

    def test_colours_are_for_terminals(self, broker: Broker) -> None:
        for variables, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
            written = asyncio.run(on_a_terminal(broker, variables))
            assert "CRITICAL" in written
            assert ("\x1b[1;31m" in written) is coloured


async def on_a_terminal(broker: Broker, variables: dict[str, str]) -> str:
    """What is written there of one alert."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dmimad.cli", "listen", "--port", str(broker.port), "--count", "1"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=theirs,
            stderr=asyncio.subprocess.PIPE,
            env={**kept, "TERM": "xterm", **variables},
        )
        assert process.stderr is not None
        await process.stderr.readline()
        await publish(broker.port, alert(1))
        assert await process.wait() == 0
        return os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)


def test_an_alert_and_a_forgery_are_told_apart_by_their_class() -> None:
    assert not issubclass(InvalidAlert, Alert)
