"""Detection on real kernels: from the ioctl that makes a table active to the broker's acknowledgement.

python -m benchmarks.detection [KERNEL …]

Runs the scenario ``latency`` of tests/vm.  The machines are emulated and 10 to 50 times slower than real
ones: the figures are to be compared with each other (recorded against unrecorded, with against without
wake-ups), not with a clock.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.report import Row, render
from tests.vm.cache import Cache, cache_directory
from tests.vm.image import prepare
from tests.vm.machine import Hardware, boot, environment_timeout
from tests.vm.packages import SERIES
from tests.vm.programs import VmError, unfit
from tests.vm.sources import find_mirror

_SCENARIO, _FIGURES = "latency", "latency.json"


def main() -> int:
    """0 if every kernel gave figures; 2 if the machines cannot run here."""
    names = tuple(one.name for one in SERIES)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description=__doc__)
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help=" ".join(names))
    kernels = parser.parse_args().kernels or names
    if reason := unfit():
        sys.stderr.write(f"detection: {reason}\n")
        return 2
    rows: list[Row] = []
    try:
        with tempfile.TemporaryDirectory(prefix="dmimad-bench-") as scratch:
            for kernel in kernels:
                rows += _measure(kernel, Path(scratch))
    except VmError as error:
        sys.stderr.write(f"detection: {error}\n")
        return 2
    sys.stdout.write(render(rows) + "\n")
    return 0


def _measure(kernel: str, scratch: Path) -> list[Row]:
    def say(text: str) -> None:
        sys.stderr.write(f"detection: {text}\n")

    cache = Cache(cache_directory(os.environ), say)
    image = prepare(kernel, scratch / kernel / "image", cache, find_mirror)
    hardware = Hardware(timeout_seconds=environment_timeout(os.environ))
    report = boot(kernel, image, (_SCENARIO,), scratch / kernel / "out", hardware)
    result = report.results.get(_SCENARIO)
    if result is None or result.status != "passed":
        raise VmError(report.explain(_SCENARIO))
    return rows_of(kernel, json.loads((scratch / kernel / "out" / _FIGURES).read_text("utf-8")))


def rows_of(kernel: str, figures: dict[str, Any]) -> list[Row]:
    """A row for the PUBACK of each kind of change; the first is what the others are compared with."""
    rows: list[Row] = []
    base = 0.0
    for name, measured in figures.items():
        if not isinstance(measured, dict) or "puback" not in measured:
            continue
        median, p99 = measured["puback"]["median_seconds"], measured["puback"]["p99_seconds"]
        base = base or median
        value = f"{median * 1000:.0f} ms median, {p99 * 1000:.0f} ms p99, {median / base:.1f} times the first"
        rows.append(Row(f"{kernel}: {name}, ioctl to PUBACK", value))
    return rows
