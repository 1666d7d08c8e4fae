"""From a record in the list to its alert at a subscriber, on lists of different lengths.

The list is a mirrored file that grows by one record: the load of a table that the baseline does not
approve, for a new device each time, so that each record raises exactly one alert (`drift.inactive`, no
hold-off). The clock stops when a subscriber of a real broker has the message, which is later than the
PUBACK to the daemon by the broker's own hop. The time between records is random, so that no fixed
interval in the daemon is met always at the same phase.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import aiomqtt

from benchmarks.dm_history import Device, DmRecord
from benchmarks.generate import ListGenerator, write_records
from benchmarks.measure import BenchmarkError
from benchmarks.processes import HOST, broker, daemon
from benchmarks.report import Row, at_most

BASELINE = f"""
[[device]]
name = "alarm-*"
hashes = ["sha256:{"0" * 64}"]
"""
ALERT_SECONDS = 20.0
GOAL_GROWTH = 1.5


def latency(dmimad: Sequence[str], directory: Path, lengths: Sequence[int], samples: int) -> list[Row]:
    """A row for each length, and one for how the longest compares with the shortest."""
    rows, medians = [], []
    for length in lengths:
        seconds = sorted(measure(dmimad, directory, length, samples))
        median, late = statistics.median(seconds), seconds[min(samples - 1, round(samples * 0.99))]
        medians.append(median)
        value = f"{1e3 * median:.1f} ms, {1e3 * late:.1f} ms"
        rows.append(Row(f"record to alert at a subscriber, list of {length:,}: median, p99", value))
    if len(medians) > 1:
        name = f"  median on {lengths[-1]:,} / median on {lengths[0]:,}"
        rows.append(at_most(name, medians[-1] / medians[0], GOAL_GROWTH, ""))
    return rows


def measure(dmimad: Sequence[str], directory: Path, length: int, samples: int) -> list[float]:
    """Seconds from each of so many appended records to its alert."""
    path = directory / "mirrored-list"
    generator = ListGenerator()
    with path.open("wb") as file:
        write_records(generator, file, length)
    with (
        broker(directory) as port,
        daemon(dmimad, directory, port, source=str(path), baseline=BASELINE) as running,
        path.open("ab", buffering=0) as file,
    ):
        running.wait_for("dmimad_list_position", generator.records)
        return asyncio.run(_sample(generator, file, port, samples))


async def _sample(generator: ListGenerator, file: BinaryIO, port: int, samples: int) -> list[float]:
    pauses = random.Random(length_seed := generator.records)
    seconds = []
    async with aiomqtt.Client(HOST, port, identifier=f"bench-{length_seed}") as client:
        await client.subscribe("dmimad/v1/bench/alert/#", qos=1)
        for number in range(samples):
            name = b"alarm-%06d" % number
            record = generator.dm(unapproved_load(generator, name))
            await asyncio.sleep(pauses.uniform(0.02, 0.08))
            started = time.perf_counter()
            file.write(record)
            try:
                async with asyncio.timeout(ALERT_SECONDS):
                    await _alert_for(client, name)
            except TimeoutError:
                raise BenchmarkError(f"no alert for {name.decode()} in {ALERT_SECONDS:.0f} s") from None
            seconds.append(time.perf_counter() - started)
    return seconds


def unapproved_load(generator: ListGenerator, name: bytes) -> DmRecord:
    """The one record of a new device that loads a small table, on a minor that no other device has."""
    while True:
        # The device is not put among the history's own: it stays loaded and is never touched again.
        device = Device(1000 + generator.records, name, b"")
        records = list(generator.history.load(device))
        if len(records) == 1:
            return records[0]


async def _alert_for(client: aiomqtt.Client, name: bytes) -> None:
    async for message in client.messages:
        if isinstance(message.payload, bytes) and name in message.payload:
            return
