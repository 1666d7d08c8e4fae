"""What the daemon costs while nothing happens: 64 devices, ten polls a second, a broker connected."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.generate import ListGenerator
from benchmarks.measure import cpu_seconds, memory_bytes
from benchmarks.processes import broker, can_mount_privately, daemon
from benchmarks.report import Row, at_most

DEVICES = 64
GOAL_CPU_PERCENT = 0.3
GOAL_MEMORY_MB = 50
SETTLE_SECONDS = 3.0


def idle(dmimad: Sequence[str], directory: Path, seconds: float) -> list[Row]:
    """Rows for CPU and memory; watches a mirrored file where no directory can stand in for securityfs."""
    ima = directory / "securityfs" / "integrity" / "ima"
    ima.mkdir(parents=True)
    path = ima / "binary_runtime_measurements"
    generator = write_devices(path)
    (ima / "runtime_measurements_count").write_text(f"{generator.records}\n")
    polled = can_mount_privately(directory / "securityfs")
    source, securityfs = ("auto", directory / "securityfs") if polled else (str(path), None)
    with (
        broker(directory) as port,
        daemon(dmimad, directory, port, source=source, securityfs=securityfs) as running,
    ):
        running.wait_for("dmimad_list_position", generator.records)
        running.wait_for("dmimad_devices", DEVICES)
        time.sleep(SETTLE_SECONDS)
        before, started = cpu_seconds(running.pid), time.perf_counter()
        time.sleep(seconds)
        spent = (cpu_seconds(running.pid) - before) / (time.perf_counter() - started)
        resident = memory_bytes(running.pid, "VmRSS") / 1e6
    how = "10 polls a second" if polled else "a mirrored file: no private mounts here, so no polls"
    return [
        at_most(f"CPU of the idle daemon, {how}", 100 * spent, GOAL_CPU_PERCENT, " % of a core", digits=3),
        at_most(f"memory of the idle daemon, {DEVICES} devices", resident, GOAL_MEMORY_MB, " MB", digits=1),
    ]


def write_devices(path: Path) -> ListGenerator:
    """A list at whose end exactly so many devices exist."""
    generator = ListGenerator(dm_share=0.5, live_devices=DEVICES)
    with path.open("wb") as file:
        while len(generator.history.devices) < DEVICES:
            file.writelines(generator.take(1))
        file.writelines(generator.take(1))  # the last device's load, perhaps
    return generator
