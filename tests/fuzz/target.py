"""The fuzz target: any bytes as a measurement list, in pieces, through everything that looks at records.

By hand, with a coverage-guided fuzzer (pip install atheris):

    python -m tests.fuzz.target [libFuzzer arguments] [DIRECTORY WITH SEEDS]

The tests in this folder call `run` with what hypothesis makes up.
"""

from __future__ import annotations

import json
import sys

from dmimad.core.baseline import parse_baseline
from dmimad.core.event import printable
from dmimad.core.monitor import Monitor, Policy
from dmimad.core.reader import ListReader
from dmimad.core.tracker import Tracker

BASELINE = parse_baseline(
    'version = 1\n[[device]]\nname = "linear*"\nhashes = []\n[[device]]\nname = "root"\nrequired = true\n',
    "baseline.toml",
)


def run(data: bytes, piece: int = 0) -> tuple[int, int]:
    """Feed ``data`` whole or in pieces; returns the records and the findings.  Raises nothing."""
    piece = piece or max(len(data), 1)
    pieces = [data[at : at + piece] for at in range(0, len(data), piece)]
    reader, tracker, findings = ListReader(banks=("sha1", "sha256", "sha512")), Tracker(), 0
    for part in [*pieces, None]:
        for record in reader.close() if part is None else reader.feed(part):
            step = tracker.apply(record)
            if step is not None:
                findings += len(step.findings)
                printable(step.device.name if step.device is not None else b"")
    monitor = Monitor(Policy("fuzz", 0.0), BASELINE, "boot")
    for at, part in enumerate(pieces):
        monitor.feed(part, float(at))
    monitor.caught_up(float(len(pieces)))
    commit = monitor.commit()
    json.dumps([commit.checkpoint, dict(commit.devices), dict(commit.alerts)])
    assert monitor.position == reader.records or reader.broken is not None or part is None
    return reader.records, findings


def main() -> None:
    """Run atheris over `run`."""
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: PLC0415  # by hand only

    atheris.instrument_all()

    def one(data: bytes) -> None:
        run(data[1:], data[0] if data else 0)

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
