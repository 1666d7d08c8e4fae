"""The order in which list, kernel and TPM are asked, and what becomes of those who do not answer.

Everybody who is asked is a stand-in that writes down when; time is what the test says it is.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from structlog.testing import capture_logs

from dmimad import witnesses
from dmimad.adapters.live.client import LiveClient
from dmimad.adapters.tpm import Tpm
from dmimad.adapters.uevents import OVERRUN, Uevent, Uevents
from dmimad.core.errors import AdapterError
from dmimad.core.monitor import Monitor
from dmimad.core.observation import Observation
from dmimad.core.pacing import Pacing
from dmimad.witnesses import LiveWitness, PcrWitness

DEADLINE_SECONDS = 20.0
NEVER_SECONDS = 3600.0
#: An observation as often as it is asked for, and at the interval.
EAGER = {"quiet_seconds": 0.0, "patience_seconds": 0.0, "least_gap_seconds": 0.0}
NOTHING = Observation((4, 50, 0), ())
DOWN = AdapterError("nobody listens", "/run/dmimad/live", "start it")


class Diary:
    """What happened, in order; a test waits for it."""

    def __init__(self) -> None:
        self.entries: list[str] = []
        self._written = asyncio.Event()

    def write(self, entry: str) -> None:
        self.entries.append(entry)
        self._written.set()

    def count(self, entry: str) -> int:
        return self.entries.count(entry)

    async def until(self, what: Callable[[], bool]) -> None:
        """Until that is so; it is asked again after each entry."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not what():
                    self._written.clear()
                    await self._written.wait()
        except TimeoutError:
            raise AssertionError(f"did not happen; what did: {self.entries[-30:]}") from None

    async def reads(self, entry: str, count: int) -> None:
        """Until that has been written so often."""
        await self.until(lambda: self.count(entry) >= count)


class Clock:
    """Seconds, which pass when the test says so, and a hundredth whenever somebody looks."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 0.01
        return self.now


class FakePipeline:
    """A list and a monitor that answer as they are told, and note what they are asked."""

    def __init__(self, diary: Diary) -> None:
        self.diary = diary
        self.feeding = asyncio.Lock()
        self.unsettled: list[bool] = []
        self.retries: list[bool] = []
        self.active: list[set[tuple[int, int]]] = []
        self.seen: list[Observation] = []
        self.times: list[float] = []
        self.values: list[Mapping[str, bytes]] = []
        self.told: list[tuple[float, bool]] = []
        self.began: list[float] = []

    @property
    def monitor(self) -> Monitor:
        return cast("Monitor", self)

    async def look(self) -> None:
        self.diary.write("look")
        await asyncio.sleep(0)  # as the real one, it lets others have their turn

    def commit(self, began: float) -> None:
        self.began.append(began)
        self.diary.write("commit")

    # What it is as a monitor

    def observed(self, seen: Observation, active: Iterable[tuple[int, int]], now: float) -> bool:
        self.seen.append(seen)
        self.active.append(set(active))
        self.times.append(now)
        self.diary.write("observed")
        return self.unsettled.pop(0) if self.unsettled else False

    def pcr_read(self, values: Mapping[str, bytes], now: float) -> None:
        assert self.feeding.locked()
        self.values.append(values)
        self.diary.write("pcr_read")

    def pcr_settled(self, now: float, *, tpm: bool) -> bool:
        assert not self.feeding.locked()
        self.told.append((now, tpm))
        self.diary.write("pcr_settled")
        return self.retries.pop(0) if self.retries else False


class FakeClient:
    """An observer; ``answers`` are given in turn, then nothing but `NOTHING`."""

    def __init__(self, diary: Diary, *answers: Observation | Exception) -> None:
        self.diary = diary
        self.answers = list(answers)
        self.polls: asyncio.Queue[None] = asyncio.Queue()
        self.meanwhile: Callable[[], None] = lambda: None
        self.closed = 0
        self.hanging = False

    async def observe(self) -> Observation:
        self.diary.write("observe")
        if self.hanging:
            await asyncio.Event().wait()
        self.meanwhile()
        answer = self.answers.pop(0) if self.answers else NOTHING
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def activity(self) -> AsyncGenerator[None]:
        self.diary.write("watch")
        try:
            while True:
                await self.polls.get()
                yield
        finally:
            self.diary.write("unwatch")

    async def close(self) -> None:
        self.closed += 1
        self.diary.write("close client")


class FakeUevents:
    """What the kernel announces."""

    def __init__(self, diary: Diary, *, broken: bool = False) -> None:
        self.diary = diary
        self.queue: asyncio.Queue[Uevent] = asyncio.Queue()
        self.broken = broken

    async def events(self) -> AsyncGenerator[Uevent, None]:
        self.diary.write("listen")
        if self.broken:
            raise AdapterError("cannot listen", "uevents")
        while True:
            yield await self.queue.get()

    def close(self) -> None:
        self.diary.write("close uevents")


class Stage:
    """A live witness among stand-ins."""

    def __init__(self, *answers: Observation | Exception, wake_ups: bool = True, **pacing: float) -> None:
        self.diary, self.clock = Diary(), Clock()
        self.pipeline = FakePipeline(self.diary)
        self.client = FakeClient(self.diary, *answers)
        self.uevents = FakeUevents(self.diary)
        self.witness = LiveWitness(
            cast("LiveClient", self.client),
            cast("Uevents", self.uevents) if wake_ups else None,
            Pacing(**{"interval_seconds": NEVER_SECONDS, **EAGER, **pacing}),
            self.pipeline,
            monotonic=self.clock,
            wall_clock=lambda: self.clock.now + 1e6,
            log=structlog.get_logger(),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Diary]:
        """It runs, and is cancelled at the end."""
        task = asyncio.create_task(self.witness.run())
        try:
            yield self.diary
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.wait([task], timeout=DEADLINE_SECONDS)
            assert task.done()

    def commits(self) -> int:
        return self.diary.count("commit")

    def ask_later(self) -> None:
        """Time passes and there is activity."""
        self.clock.now += 1.0
        self.witness.ask()


ROUND = ["look", "observe", "look", "observed", "commit"]


# -- the second witness --------------------------------------------------------------------


async def test_list_kernel_list_and_only_then_the_monitor() -> None:
    stage = Stage(wake_ups=False)
    assert stage.witness.up is None
    with capture_logs() as logs:
        async with stage.running() as diary:
            await diary.reads("commit", 1)
            assert diary.entries == ROUND
            assert stage.witness.up is True
            assert stage.pipeline.seen == [NOTHING]
            assert stage.pipeline.began == [pytest.approx(1000.02)]  # before all of it
            assert stage.pipeline.times == [pytest.approx(1001000.02)]
            stage.ask_later()
            await diary.reads("commit", 2)
            assert diary.entries == ROUND * 2
        assert diary.entries[10:] == ["close client"]
    assert [entry["event"] for entry in logs] == ["live_witness_available"]


async def test_nothing_is_observed_unasked() -> None:
    stage = Stage()
    async with stage.running() as diary:
        await diary.reads("commit", 1)
        for _ in range(100):
            await asyncio.sleep(0)
        assert diary.count("observe") == 1


async def test_at_the_interval_it_looks_again_by_itself() -> None:
    stage = Stage(wake_ups=False, interval_seconds=0.001)
    async with stage.running() as diary:
        await diary.reads("commit", 3)


async def test_what_is_unsettled_is_looked_at_again() -> None:
    stage = Stage()
    stage.pipeline.unsettled = [True, True, False]
    async with stage.running() as diary:
        await diary.reads("commit", 3)
        for _ in range(100):
            await asyncio.sleep(0)
        assert diary.count("observe") == 3


async def test_uevents_ask_for_an_observation_of_their_devices() -> None:
    stage = Stage()
    async with stage.running() as diary:
        await diary.reads("commit", 1)
        stage.clock.now += 1.0
        for event in (
            Uevent("change", 254, 3, "dm-3"),
            Uevent(OVERRUN, -1, -1, ""),
            Uevent("remove", -1, -1, "dm-4"),
            Uevent("add", 254, 5, "dm-5"),
        ):
            stage.uevents.queue.put_nowait(event)
        await diary.until(lambda: set().union(*stage.pipeline.active) == {(254, 3), (254, 5)})
        # Each is told once.
        before = len(stage.pipeline.active)
        stage.ask_later()
        await diary.until(lambda: len(stage.pipeline.active) > before)
        assert stage.pipeline.active[-1] == set()


async def test_an_overrun_alone_asks_too() -> None:
    stage = Stage()
    async with stage.running() as diary:
        await diary.reads("commit", 1)
        stage.clock.now += 1.0
        stage.uevents.queue.put_nowait(Uevent(OVERRUN, -1, -1, ""))
        await diary.reads("commit", 2)
        assert stage.pipeline.active == [set(), set()]


async def test_dm_poll_asks_for_an_observation() -> None:
    stage = Stage()
    async with stage.running() as diary:
        await diary.reads("commit", 1)
        await diary.reads("watch", 1)
        stage.clock.now += 1.0
        stage.client.polls.put_nowait(None)
        await diary.reads("commit", 2)


async def test_activity_during_an_observation_belongs_to_the_next() -> None:
    stage = Stage()
    during = [Uevent("change", 254, 1, "dm-1")]

    def meanwhile() -> None:
        stage.clock.now += 1.0
        stage.client.meanwhile = lambda: None
        stage.witness._active.add((during[0].major, during[0].minor))
        stage.witness.ask()

    stage.client.meanwhile = meanwhile
    async with stage.running() as diary:
        await diary.reads("commit", 1)
        stage.clock.now += 100.0  # the rest after an observation that took a second
        stage.witness.ask()
        await diary.reads("commit", 2)
        assert stage.pipeline.active == [set(), {(254, 1)}]


async def test_an_observer_that_fails_and_comes_back() -> None:
    other = AdapterError("it hangs", "/run/dmimad/live", "see its log")
    stage = Stage(NOTHING, DOWN, DOWN, other, DOWN, NOTHING)
    with capture_logs() as logs:
        async with stage.running() as diary:
            await diary.reads("commit", 1)
            stage.witness._active.add((254, 9))
            stage.ask_later()
            await diary.until(lambda: diary.count("observe") >= 2)
            await diary.reads("commit", 2)
            assert diary.count("observe") == 6
            assert stage.witness.up is True
            # What was announced before it failed is not forgotten.
            assert stage.pipeline.active == [set(), {(254, 9)}]
            assert diary.count("observed") == 2  # nothing is made up meanwhile
    told = [(entry["event"], entry["log_level"]) for entry in logs]
    assert told == [
        ("live_witness_available", "info"),
        ("live_witness_unavailable", "warning"),
        ("live_witness_unavailable", "warning"),
        ("live_witness_unavailable", "warning"),
        ("live_witness_available", "info"),
    ]
    assert [entry.get("problem") for entry in logs[1:4]] == [str(DOWN), str(other), str(DOWN)]


async def test_an_observer_that_is_not_there() -> None:
    stage = Stage(*[DOWN] * 50)
    with capture_logs() as logs:
        async with stage.running() as diary:
            await diary.reads("observe", 3)
            assert stage.witness.up is False
            assert stage.pipeline.seen == []
    assert len([entry for entry in logs if entry["event"] == "live_witness_unavailable"]) == 1


async def test_without_uevents_it_learns_from_the_list_and_dm_poll() -> None:
    stage = Stage()
    stage.uevents.broken = True
    with capture_logs() as logs:
        async with stage.running() as diary:
            await diary.reads("listen", 1)
            await diary.reads("watch", 1)
            await diary.reads("commit", 1)
            stage.clock.now += 1.0
            stage.client.polls.put_nowait(None)
            await diary.reads("commit", 2)
            stage.ask_later()
            await diary.reads("commit", 3)
    assert [entry["event"] for entry in logs].count("uevents_unavailable") == 1


@pytest.mark.parametrize("hanging", [False, True], ids=["at rest", "observing"])
@pytest.mark.parametrize("wake_ups", [False, True])
async def test_cancelled_it_closes_what_it_opened(wake_ups: bool, hanging: bool) -> None:
    stage = Stage(wake_ups=wake_ups)
    stage.client.hanging = hanging
    watching = wake_ups and not hanging  # an observer that has not answered is not asked for more
    async with stage.running() as diary:
        await diary.reads("observe" if hanging else "commit", 1)
        if watching:
            await diary.reads("watch", 1)
        if wake_ups:
            await diary.reads("listen", 1)
    assert stage.client.closed == 1
    assert diary.count("close uevents") == wake_ups
    assert diary.count("unwatch") == watching
    if watching:
        assert diary.entries.index("unwatch") < diary.entries.index("close client")


async def test_a_monitor_that_breaks_ends_the_witness() -> None:
    """Nothing is swallowed: the daemon ends with it."""
    stage = Stage()

    def observed(*_: Any) -> bool:
        raise ValueError("broken")

    stage.pipeline.observed = observed  # type: ignore[method-assign,assignment]  # a stand-in
    with pytest.raises(ExceptionGroup) as raised:
        await asyncio.wait_for(stage.witness.run(), DEADLINE_SECONDS)
    assert [str(error) for error in raised.value.exceptions] == ["broken"]
    assert stage.client.closed == 1


# -- the TPM -------------------------------------------------------------------------------


class Bench:
    """A PCR witness with a directory in the place of sysfs."""

    def __init__(self, root: Path, interval: float = NEVER_SECONDS) -> None:
        self.root = root
        self.diary, self.clock = Diary(), Clock()
        self.pipeline = FakePipeline(self.diary)
        self.witness = PcrWitness(
            Tpm(root),
            interval,
            self.pipeline,
            monotonic=self.clock,
            wall_clock=lambda: self.clock.now + 1e6,
            log=structlog.get_logger(),
        )

    def extend(self, **values: str) -> None:
        """What the PCRs are."""
        for bank, value in values.items():
            directory = self.root / "tpm0" / f"pcr-{bank}"
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "10").write_text(value + "\n")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Diary]:
        task = asyncio.create_task(self.witness.run())
        try:
            yield self.diary
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.wait([task], timeout=DEADLINE_SECONDS)
            assert task.done()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """With a TPM, and without pauses worth the name."""
    monkeypatch.setattr(witnesses, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(witnesses, "PCR_GAP_SECONDS", 0.0)
    made = Bench(tmp_path)
    made.extend(sha256="AB" * 32)
    return made


COMPARISON = ["look", "pcr_read", "look", "pcr_settled", "commit"]


async def test_list_pcr_list_and_only_then_the_monitor(bench: Bench) -> None:
    async with bench.running() as diary:
        await diary.reads("commit", 1)
        assert diary.entries == COMPARISON
        assert bench.pipeline.values == [{"sha256": b"\xab" * 32}]
        assert bench.pipeline.told == [(1_001_000.01, True)]
        assert bench.pipeline.began == [1000.01]


async def test_nothing_is_fed_while_the_pcr_is_read(bench: Bench) -> None:
    """Who feeds has the lock: the PCR is read when it is over, and with the lock."""
    async with bench.running() as diary:
        await diary.reads("commit", 1)
        async with bench.pipeline.feeding:
            bench.witness.ask()
            await diary.reads("look", 3)
            for _ in range(100):
                await asyncio.sleep(0)
            assert diary.count("pcr_read") == 1
        await diary.reads("commit", 2)


async def test_new_records_ask_for_a_comparison(bench: Bench) -> None:
    async with bench.running() as diary:
        for count in range(1, 5):
            await diary.reads("commit", count)
            for _ in range(100):
                await asyncio.sleep(0)
            assert diary.count("commit") == count
            bench.witness.ask()


async def test_records_during_a_comparison_ask_for_another(bench: Bench) -> None:
    async with bench.running() as diary:
        async with bench.pipeline.feeding:
            await diary.reads("look", 1)
            bench.witness.ask()
        await diary.reads("commit", 2)


async def test_what_is_not_decided_is_tried_again_soon(bench: Bench) -> None:
    bench.pipeline.retries = [True, True, True, False]
    async with bench.running() as diary:
        await diary.reads("commit", 4)
        assert diary.entries == COMPARISON * 4


async def test_at_the_interval_it_compares_by_itself(tmp_path: Path, bench: Bench) -> None:
    often = Bench(tmp_path, interval=0.001)
    async with often.running() as diary:
        await diary.reads("commit", 3)


async def test_without_a_tpm(bench: Bench, tmp_path: Path) -> None:
    bare = Bench(tmp_path / "none")
    with capture_logs() as logs:
        async with bare.running() as diary:
            await diary.reads("commit", 1)
            assert diary.entries == COMPARISON
    assert bare.pipeline.values == [{}]
    assert [tpm for _, tpm in bare.pipeline.told] == [False]
    assert logs == []


async def test_banks_that_are_not_replayed_are_not_read(bench: Bench) -> None:
    """Each read is a command to the TPM; this one would fail, too."""
    bench.extend(sha1="01" * 20, sha384="no value")
    with capture_logs() as logs:
        async with bench.running() as diary:
            await diary.reads("commit", 1)
    assert bench.pipeline.values == [{"sha1": b"\x01" * 20, "sha256": b"\xab" * 32}]
    assert logs == []


async def test_a_tpm_that_fails_is_told_of_once(bench: Bench) -> None:
    bench.extend(sha256="it is out of order")
    with capture_logs() as logs:
        async with bench.running() as diary:
            for count in (1, 2, 3):
                await diary.reads("commit", count)
                bench.witness.ask()
            await diary.reads("commit", 4)
            assert bench.pipeline.values == [{}] * 4
            bench.extend(sha256="AB" * 32)
            bench.witness.ask()
            await diary.reads("commit", 5)
            assert bench.pipeline.values[-1] == {"sha256": b"\xab" * 32}
            bench.extend(sha256="it is out of order")
            bench.witness.ask()
            await diary.reads("commit", 6)
    assert [entry["event"] for entry in logs] == ["tpm_unavailable", "tpm_unavailable"]
    assert str(bench.root) in logs[0]["problem"]


async def test_a_tpm_that_hangs_holds_the_list_up_for_so_long_and_no_longer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not asked again before it has answered, and what it says then is of no use."""
    monkeypatch.setattr(witnesses, "PCR_READ_SECONDS", 0.01)
    value = bench.root / "tpm0/pcr-sha256/10"
    value.unlink()
    os.mkfifo(value)
    with capture_logs() as logs:
        async with bench.running() as diary:
            for count in (1, 2):
                await diary.reads("commit", count)
                assert not bench.pipeline.feeding.locked()
                bench.witness.ask()
            await diary.reads("commit", 3)
            assert bench.pipeline.values == [{}] * 3
            late = bench.witness._reading
            assert late is not None
            assert not late.done(), "one reading for all of them"
            monkeypatch.setattr(witnesses, "PCR_READ_SECONDS", DEADLINE_SECONDS)
            value.rename(value.with_name("former"))
            bench.extend(sha256="CD" * 32)
            await asyncio.to_thread(value.with_name("former").write_text, "AB" * 32)
            await late
            bench.witness.ask()
            await diary.until(lambda: len(bench.pipeline.values) > 3 and bench.pipeline.values[-1] != {})
            assert bench.pipeline.values[-1] == {"sha256": b"\xcd" * 32}
    assert [(entry["event"], entry["problem"]) for entry in logs] == [
        ("tpm_unavailable", "PCR 10: the TPM does not answer; see the kernel's log for its state")
    ]
