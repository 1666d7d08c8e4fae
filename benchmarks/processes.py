"""The real daemon and a real broker as child processes, on free ports, in a scratch directory.

The daemon gets its settings as a file and tells how far it is through its metrics, as in production.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.measure import BenchmarkError

HOST = "127.0.0.1"
START_SECONDS = 120.0
POLL_SECONDS = 0.05
SECURITYFS = Path("/sys/kernel/security")

SETTINGS = """\
[host]
id = "bench"
[source]
path = "{source}"
poll_interval_seconds = 0.1
[live]
enabled = false
[mqtt]
host = "{host}"
port = {mqtt_port}
[metrics]
address = "{host}"
port = {metrics_port}
[page]
enabled = false
[control]
socket = ""
[state]
directory = "{directory}/state"
[baseline]
directory = "{directory}/baseline.d"
unexpected_devices = false
[alerts]
hold_off_seconds = 0.0
storm_threshold = 0
flap_threshold = 0
[log]
level = "warning"
"""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon."""

    pid: int
    metrics_port: int

    def metric(self, name: str) -> float | None:
        """The present value of a metric without labels; None as long as it is not served."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.metrics_port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
        except OSError:
            return None
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and not sample.labels:
                    return sample.value
        return None

    def wait_for(self, name: str, value: float) -> None:
        """Until a metric has this value."""
        until = time.monotonic() + START_SECONDS
        while (seen := self.metric(name)) != value:
            if time.monotonic() > until:
                raise BenchmarkError(
                    f"the daemon's {name} is {seen} after {START_SECONDS:.0f} s, {value} was expected"
                )
            time.sleep(POLL_SECONDS)


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def broker(directory: Path) -> Iterator[int]:
    """A mosquitto without persistence; gives its port."""
    program = shutil.which("mosquitto", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin")))
    if program is None:
        raise BenchmarkError("mosquitto is not installed")
    port = free_port()
    settings = directory / "mosquitto.conf"
    settings.write_text(
        f"listener {port} {HOST}\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n"
    )
    with _running([program, "-c", str(settings)], directory / "mosquitto.log"):
        _wait_for_port(port)
        yield port


@contextlib.contextmanager
def daemon(
    dmimad: Sequence[str],
    directory: Path,
    mqtt_port: int,
    *,
    source: str,
    baseline: str = "",
    securityfs: Path | None = None,
) -> Iterator[Daemon]:
    """`dmimad run` on a source, with an empty state; `securityfs` is shown to it in the real one's place."""
    shutil.rmtree(directory / "state", ignore_errors=True)
    (directory / "state").mkdir()
    (directory / "baseline.d").mkdir(exist_ok=True)
    (directory / "baseline.d" / "bench.toml").write_text(f"version = 1\n{baseline}")
    metrics_port = free_port()
    settings = directory / "dmimad.toml"
    settings.write_text(
        SETTINGS.format(
            source=source, host=HOST, mqtt_port=mqtt_port, metrics_port=metrics_port, directory=directory
        )
    )
    argv = [*dmimad, "run", "--config", str(settings)]
    if securityfs:
        argv = [*private_mount(securityfs), *argv]
    with _running(argv, directory / "dmimad.log") as pid:
        running = Daemon(pid, metrics_port)
        running.wait_for("dmimad_mqtt_connected", 1)
        yield running


def private_mount(securityfs: Path) -> list[str]:
    """A command prefix under which a directory stands where securityfs is; the process keeps its id."""
    script = f'mount --bind "$0" {SECURITYFS} && exec "$@"'
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", script, str(securityfs)]


def can_mount_privately(securityfs: Path) -> bool:
    """Whether this machine lets us do so (containers often do not)."""
    try:
        return (
            subprocess.run([*private_mount(securityfs), "true"], capture_output=True, check=False).returncode
            == 0
        )
    except OSError:
        return False


@contextlib.contextmanager
def _running(argv: Sequence[str], log: Path) -> Iterator[int]:
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process.pid
    except BenchmarkError as error:
        said = log.read_text(errors="replace").strip().splitlines()
        raise BenchmarkError(f"{error}; it said: {said[-1] if said else 'nothing'}") from error
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_port(port: int) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise BenchmarkError(f"nothing listens on port {port}") from error
            time.sleep(POLL_SECONDS)
