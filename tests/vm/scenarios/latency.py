"""How long it takes from the ioctl that makes a table active to the alert: at a subscriber, and its PUBACK.

Figures of an emulated machine, 10 to 50 times slower than a real one: compare them with each other only.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

from tests.vm.guest import truth
from tests.vm.guest.actions import create, load, resume, swap
from tests.vm.guest.guest import STEP_SECONDS, DaemonSettings, Guest
from tests.vm.guest.processes import BROKER_PORT
from tests.vm.guest.wire import Tap
from tests.vm.scenarios import _tables as t

SUMMARY = "times from ioctl to alert and PUBACK, recorded and unrecorded changes, with and without wake-ups"

NEW_SAMPLES = 40
DROPPED_SAMPLES = 20
NAME = "root"
GOOD, KNOWN = t.linear(0, 0, 64), t.linear(1, 0, 64)
FILE = "latency.json"
SEED = 1
INTERVAL_SECONDS = 4.0
PAUSE_SECONDS = (0.5, 0.5 + INTERVAL_SECONDS)
"""Between two unrecorded changes, which would otherwise be in step with the daemon's timer and use up what it
allows itself for looking."""


def run(guest: Guest) -> None:
    tap = Tap(BROKER_PORT)
    guest.at_end(tap.close)
    guest.start(_settings(wake_ups=True))
    guest.forget_past()
    guest.step("create", create(NAME, GOOD))
    guest.step("the other table, before approval", swap(NAME, KNOWN))
    guest.step("and back", swap(NAME, GOOD))
    guest.approve(NAME)
    figures: dict[str, Any] = {}
    for wake_ups in (True, False):
        guest.stop()
        guest.start(_settings(wake_ups=wake_ups))
        first = 0 if wake_ups else NEW_SAMPLES
        new = [t.linear(2, 64 * (first + sample + 1), 64) for sample in range(NEW_SAMPLES)]
        mode = "with wake-ups" if wake_ups else "without wake-ups"
        figures[f"recorded, {mode}"] = _measure(guest, tap, new, recorded=True)
        figures[f"unrecorded, {mode}"] = _measure(guest, tap, [KNOWN] * DROPPED_SAMPLES, recorded=False)
    (guest.out.parent / FILE).write_text(json.dumps(figures, indent=1) + "\n")
    guest.figures |= figures
    guest.only("drift.active", "drift.inactive", "watch.interrupted")


def _settings(*, wake_ups: bool) -> DaemonSettings:
    return DaemonSettings(hold_off_seconds=0.0, live_interval_seconds=INTERVAL_SECONDS, wake_ups=wake_ups)


def _measure(guest: Guest, tap: Tap, tables: Sequence[str], *, recorded: bool) -> dict[str, Any]:
    """Seconds from the resume that makes each table active to its alert.

    Unrecorded changes are from the good table, which is waited for after each; of the others each is news.
    """
    arrivals, acknowledgements = [], []
    random = Random(SEED)
    for table in tables:
        if not recorded:
            time.sleep(random.uniform(*PAUSE_SECONDS))
        after, records = len(guest.alerts), truth.record_count()
        load(NAME, table)(guest)
        began = time.time()
        resume(NAME)(guest)
        alert = guest.expect("drift.active", "critical", device=NAME, after=after)
        assert (truth.record_count() > records) == recorded, "not what is to be measured"
        acknowledgements.append(_acknowledged(guest, tap, alert.id) - began)
        arrivals.append(alert.arrived - began)
        if not recorded:
            _restore(guest)
    _restore(guest)
    return {"subscriber": _summary(arrivals), "puback": _summary(acknowledgements)}


def _restore(guest: Guest) -> None:
    """The good table, until the daemon knows: every alert that fired has been resolved."""
    swap(NAME, GOOD)(guest)

    def quiet() -> bool:
        statuses = Counter(alert.status for alert in guest.alerts if alert.code == "drift.active")
        return statuses["firing"] == statuses["resolved"]

    guest.subscriber.until(quiet, STEP_SECONDS, "the good table is seen")


def _acknowledged(guest: Guest, tap: Tap, id_: str) -> float:
    guest.subscriber.until(lambda: tap.acknowledged(id_) is not None, 10, "the PUBACK is seen")
    return tap.acknowledged(id_) or 0.0


def _summary(seconds: Sequence[float]) -> dict[str, object]:
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return {
        "samples": len(ordered),
        "median_seconds": round(statistics.median(ordered), 4),
        "p99_seconds": round(ordered[min(last, round(0.99 * last))], 4),
        "largest_seconds": round(ordered[-1], 4),
    }
