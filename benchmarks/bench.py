"""All benchmarks, as one table: python -m benchmarks.bench [--records N] [--only NAME…]

Everything is measured against something in the same run or against a stated goal; numbers of other runs
or machines are worth nothing. What cannot be measured here (a program is missing) is said in the table.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.idle import idle
from benchmarks.latency import latency
from benchmarks.measure import BenchmarkError
from benchmarks.report import Row, render
from benchmarks.tracking import tracking
from benchmarks.verification import verification

LATENCY_LENGTHS = (1_000, 100_000, 1_000_000)


def main(argv: list[str]) -> int:
    """Run the benchmarks asked for; 1 if one of them could not be run."""
    arguments = _arguments(argv)
    dmimad = [str(Path(sys.executable).parent / "dmimad")]
    lengths = [length for length in LATENCY_LENGTHS if length <= arguments.records] or [arguments.records]
    benchmarks: dict[str, Callable[[Path], list[Row]]] = {
        "verification": lambda folder: verification(dmimad, folder, arguments.records, arguments.rounds),
        "tracking": lambda _folder: tracking(arguments.seconds / 4),
        "idle": lambda folder: idle(dmimad, folder, arguments.seconds),
        "latency": lambda folder: latency(dmimad, folder, lengths, arguments.samples),
    }
    rows: list[Row] = []
    failed = False
    for name in arguments.only or benchmarks:
        print(f"{name} …", file=sys.stderr)
        try:
            with tempfile.TemporaryDirectory(prefix="dmimad-bench-") as folder:
                rows += benchmarks[name](Path(folder))
        except BenchmarkError as error:
            rows.append(Row(name, f"not measured: {error}"))
            failed = True
    print(f"\n{interpreter()}\n\n{render(rows)}")
    return int(failed)


def interpreter() -> str:
    """Which Python ran this: how it was built makes more of a difference than its version."""
    return f"Python {platform.python_version()} of {sys.base_prefix}"


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--records", type=int, default=1_000_000, help="length of the longest list")
    parser.add_argument("--rounds", type=int, default=5, help="turns that replay and evmctl take")
    parser.add_argument("--samples", type=int, default=200, help="alerts timed per list length")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the idle daemon is watched")
    names = ("verification", "tracking", "idle", "latency")
    parser.add_argument("--only", nargs="+", choices=names, help="only these benchmarks")
    return parser.parse_args(argv)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
