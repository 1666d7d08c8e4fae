"""The processes around a scenario: the broker, the daemon, and its metrics."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

DMIMAD = Path("/opt/dmimad/bin/dmimad")
BROKER_PORT = 1883
METRICS_PORT = 9837
START_SECONDS = 60.0
STOP_SECONDS = 30.0

_SAMPLE = re.compile(r"(?P<name>[a-z_:]+)(?:\{(?P<labels>.*)\})? (?P<value>[^ ]+)")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Broker:
    """A mosquitto on the loopback, without TLS and without memory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        settings = directory / "mosquitto.conf"
        settings.write_text(
            f"listener {BROKER_PORT} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n"
            "max_queued_messages 0\n"
        )
        with (directory / "mosquitto.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["mosquitto", "-c", str(settings)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait(lambda: _listens(BROKER_PORT), START_SECONDS, "mosquitto listens")

    def close(self) -> None:
        end(self._process, signal.SIGTERM)


class Daemon:
    """``dmimad run`` with its log in a file."""

    def __init__(self, settings: Path, log: Path) -> None:
        self._log = log
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [str(DMIMAD), "run", "--config", str(settings)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=environment,
            )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        return end(self._process, signal.SIGTERM)

    def kill(self) -> None:
        end(self._process, signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def text(self) -> str:
        return self._log.read_text("utf-8", "backslashreplace")

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Events of that name in the log."""
        found = []
        for line in self.text().splitlines():
            if event in line:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if isinstance(entry, dict) and entry.get("event") == event:
                    found.append(entry)
        return found


def end(process: subprocess.Popen[bytes], number: signal.Signals) -> int:
    """Send the signal and wait for the end; what does not end is killed, which is a failure."""
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{process.args!r} does not end after {number.name}") from None
    return process.returncode


def scrape() -> str:
    """The text of the daemon's metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=20) as answer:
        return str(answer.read().decode())


def samples(text: str) -> Samples:
    """Name and labels -> value, for every sample of a text of metrics."""
    found: Samples = {}
    for line in text.splitlines():
        match = None if line.startswith("#") else _SAMPLE.fullmatch(line)
        if match is not None:
            labels = frozenset((name, value) for name, value in _LABEL.findall(match["labels"] or ""))
            found[match["name"], labels] = float(match["value"])
    return found


def wait(what: Callable[[], bool], seconds: float, description: str, step_seconds: float = 0.05) -> None:
    """Until `what`, which nothing announces, is true."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen in {seconds:g} s: {description}")
        time.sleep(step_seconds)


def _listens(port: int) -> bool:
    wanted = f"{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(":" + wanted) and line.split()[3] == "0A" for line in lines)
