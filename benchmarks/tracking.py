"""Device-mapper events parsed and tracked per second, over the recorded lists of real kernels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Row, at_least
from dmimad.core.measurement import Measurement
from dmimad.core.reader import ListReader
from dmimad.core.tracker import Tracker

GOAL_EVENTS_PER_SECOND = 80_000
CORPUS = Path(__file__).parent.parent / "tests" / "corpus"


def read_records(path: Path) -> list[Measurement]:
    """The records of a list that trackers are given."""
    return ListReader().feed(path.read_bytes())


def track(records: Sequence[Measurement]) -> int:
    """Parse and track one list's records from its beginning; returns the number of dm events among them."""
    tracker = Tracker()
    for record in records:
        tracker.apply(record)
    return tracker.dm_records


def tracking(seconds: float) -> list[Row]:
    """The best of several passes over all recorded lists, for so long: other load only ever slows a pass."""
    lists = [read_records(path) for path in sorted(CORPUS.glob("*/binary_runtime_measurements"))]
    best = 0.0
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        events = sum(track(records) for records in lists)
        best = max(best, events / (time.perf_counter() - started))
    return [at_least("dm events parsed and tracked, recorded lists", best, GOAL_EVENTS_PER_SECOND, "/s")]
