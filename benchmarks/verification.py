"""Full verification of a long binary list: `dmimad replay` against `evmctl ima_measurement`, in the same
run.

Both check every template digest and replay PCR 10 of both banks to a known value; dmimad tracks the
devices as well. The two take turns, and the ratio is the median over the rounds, so that what else the
machine does weighs on both.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.generate import write_evmctl_pcrs
from benchmarks.measure import BenchmarkError, Usage, run_measured
from benchmarks.report import Row, at_most

GOAL_RATIO = 0.7
GOAL_PEAK_MB = 60


def write_list(path: Path, records: int) -> dict[str, object]:
    """Write a list in a process of its own (this one stays small); returns what a verifier should find."""
    argv = [sys.executable, "-m", "benchmarks.generate", str(path), "--records", str(records)]
    summary = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    return dict(summary)


def verification(dmimad: Sequence[str], directory: Path, records: int, rounds: int) -> list[Row]:
    """Rows for speed and peak memory on a list of so many records."""
    path = directory / "long-list"
    expected = write_list(path, records)
    pcrs = expected["pcr"]
    if not isinstance(pcrs, Mapping):
        raise BenchmarkError("the generator printed no PCR values")
    replay = [*dmimad, "replay", str(path), "--format", "jsonl", "--summary"]
    replay += [f"--pcr={bank}={value}" for bank, value in pcrs.items()]
    check_result(replay, expected)
    reference = _evmctl(path, write_evmctl_pcrs(directory, pcrs))
    pairs = []
    for _ in range(rounds):
        pairs.append((run_measured(replay), run_measured(reference) if reference else None))
    path.unlink()
    return _rows(records, pairs)


def check_result(replay: Sequence[str], expected: Mapping[str, object]) -> None:
    """A fast wrong answer is worth nothing: compare with what the generator says."""
    done = subprocess.run(replay, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"replay ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    summary = json.loads(done.stdout.splitlines()[-1])
    wrong = [key for key in ("records", "dm_records", "pcr") if summary[key] != expected[key]]
    if _slots(summary["devices"]) != _slots(expected["devices"]):
        wrong.append("devices")
    if wrong:
        raise BenchmarkError(f"replay's answer differs from the generator's in {', '.join(wrong)}")


def _slots(devices: object) -> dict[int, tuple[object, ...]]:
    """Each device's name and the hashes in its slots, whatever else is said of it."""
    if not isinstance(devices, list):
        return {}
    return {each["minor"]: (each["name"], _hash(each["active"]), _hash(each["inactive"])) for each in devices}


def _hash(slot: object) -> object:
    return slot["hash"] if isinstance(slot, dict) else slot


def _evmctl(path: Path, pcr_files: Mapping[str, Path]) -> list[str]:
    evmctl = shutil.which("evmctl")
    if evmctl is None:
        return []
    return [
        evmctl,
        "ima_measurement",
        *(f"--pcrs={bank},{file}" for bank, file in pcr_files.items()),
        str(path),
    ]


def _rows(records: int, pairs: Sequence[tuple[Usage, Usage | None]]) -> list[Row]:
    ours = [our for our, _ in pairs]
    both = [(our, their) for our, their in pairs if their]
    size = f"{records:,} records"
    wall = statistics.median(our.wall_seconds for our in ours)
    rows = [Row(f"replay of {size}, both banks, devices tracked", f"{wall:.2f} s, {records / wall:,.0f}/s")]
    if both:
        theirs = statistics.median(their.wall_seconds for _, their in both)
        ratio = statistics.median(our.wall_seconds / their.wall_seconds for our, their in both)
        cpu_ratio = statistics.median(our.cpu_seconds / their.cpu_seconds for our, their in both)
        rows += [
            Row(
                f"evmctl ima_measurement of {size}, both banks", f"{theirs:.2f} s, {records / theirs:,.0f}/s"
            ),
            at_most("  dmimad's wall time / evmctl's", ratio, GOAL_RATIO, ""),
            Row("  dmimad's CPU time / evmctl's", f"{cpu_ratio:.2f}"),
        ]
    else:
        rows.append(Row("evmctl ima_measurement", "not installed"))
    peak = max(our.peak_rss_bytes for our in ours) / 1e6
    rows.append(at_most(f"peak memory of replay, {size}", peak, GOAL_PEAK_MB, " MB", digits=1))
    return rows
