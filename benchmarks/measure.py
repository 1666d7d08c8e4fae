"""What a process costs: CPU time, wall time, memory; read from the kernel (wait4(2), proc(5)), Linux only."""

from __future__ import annotations

import os
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.05


class BenchmarkError(Exception):
    """A benchmark could not be run; one line that says why."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one finished process cost."""

    wall_seconds: float
    cpu_seconds: float
    peak_rss_bytes: int  # of the process, or of it and its children together if that is more


def run_measured(argv: Sequence[str]) -> Usage:
    """Run a program that must succeed, its output thrown away."""
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
        # ru_maxrss would include this process, as it was when it forked; VmHWM begins anew with exec.
        peak = 0
        pidfd = os.pidfd_open(process.pid)
        try:
            while not select.select([pidfd], [], [], SAMPLE_SECONDS)[0]:
                peak = max(peak, memory_bytes(process.pid, "VmHWM"), family_bytes(process.pid))
            wall = time.perf_counter() - started
        finally:
            os.close(pidfd)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            raise BenchmarkError(
                f"{argv[0]} ended with {process.returncode}: {said[-1] if said else 'no message'}"
            )
    return Usage(wall, usage.ru_utime + usage.ru_stime, peak)


def memory_bytes(pid: int, field: str) -> int:
    """A memory field of /proc/PID/status, such as VmRSS; 0 if the process has none any more."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return 0


def family_bytes(pid: int) -> int:
    """Memory of a process and its children, what they share counted once; 0 when they are gone."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        rollups = [Path(f"/proc/{each}/smaps_rollup").read_text() for each in (pid, *children)]
    except OSError:
        return 0
    return sum(int(re.findall(r"^Pss: +([0-9]+)", rollup, re.MULTILINE)[0]) for rollup in rollups) * 1024


def cpu_seconds(pid: int) -> float:
    """CPU time of all the process's threads so far (not from stat, whose clock ticks are too coarse)."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
