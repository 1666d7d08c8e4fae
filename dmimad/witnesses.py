"""The second witness and the TPM, asked again and again beside the list: when, in which order, and what then.

The core judges; here is only the order that its judgement rests on: everything in the list is fed, the kernel
or the TPM is asked, everything that is in the list by then is fed, and only then the answer is taken in.

What it does not do: read the list, or decide what an answer means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol

from dmimad.adapters.live.client import LiveClient
from dmimad.adapters.tpm import Tpm
from dmimad.adapters.uevents import OVERRUN, Uevents
from dmimad.core.errors import AdapterError
from dmimad.core.monitor import Monitor
from dmimad.core.pacing import Pacing
from dmimad.core.pcr import RETRY_SECONDS
from dmimad.core.reader import DEFAULT_BANKS

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

#: PCRs are compared after new records, but no more often than this: a TPM is slow, and so is whoever waits.
PCR_GAP_SECONDS = 1.0
#: A PCR is read within a second.  Meanwhile nothing is fed: the list does not wait for a TPM that hangs.
PCR_READ_SECONDS = 10.0


class Pipeline(Protocol):
    """What feeds the list to the monitor."""

    @property
    def monitor(self) -> Monitor:
        """What answers are given to."""
        ...

    @property
    def feeding(self) -> asyncio.Lock:
        """Held while the monitor is fed: whoever holds it knows that it stands still."""
        ...

    async def look(self) -> None:
        """Until everything that is in the list now has been fed."""
        ...

    def commit(self, began: float) -> None:
        """Store what has changed, found since ``began`` (monotonic seconds)."""
        ...


class LiveWitness:
    """Observes the live tables: soon after activity, and every so often.

    Args:
        client: who is asked.
        uevents: what the kernel announces; None to learn of activity from the list alone.
        pacing: when to ask.
    """

    def __init__(
        self,
        client: LiveClient,
        uevents: Uevents | None,
        pacing: Pacing,
        pipeline: Pipeline,
        *,
        monotonic: Callable[[], float],
        wall_clock: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self.up: bool | None = None
        self._client = client
        self._uevents = uevents
        self._pacing = pacing
        self._pipeline = pipeline
        self._monotonic = monotonic
        self._wall_clock = wall_clock
        self._log = log
        self._asked = asyncio.Event()
        self._answered = asyncio.Event()
        self._active: set[tuple[int, int]] = set()
        self._problem = ""

    async def run(self) -> None:
        """For ever."""
        try:
            async with asyncio.TaskGroup() as group:
                if self._uevents is not None:
                    group.create_task(self._hear_uevents(), name="uevents")
                    group.create_task(self._hear_polls(), name="dm poll")
                await self._keep_observing()
        finally:
            await self._client.close()
            if self._uevents is not None:
                self._uevents.close()

    def ask(self) -> None:
        """There was activity."""
        self._pacing.ask(self._monotonic())
        self._asked.set()

    async def _hear_uevents(self) -> None:
        if self._uevents is None:
            return
        try:
            async with aclosing(self._uevents.events()) as events:
                async for event in events:
                    if event.action != OVERRUN and event.major >= 0:
                        self._active.add((event.major, event.minor))
                    self.ask()
        except AdapterError as error:
            self._log.warning("uevents_unavailable", problem=str(error), instead="the list and the interval")

    async def _hear_polls(self) -> None:
        await self._answered.wait()  # where there is no observer, that is said once, by who observes
        async with aclosing(self._client.activity()) as activity:
            async for _ in activity:
                self.ask()

    async def _keep_observing(self) -> None:
        while True:
            await self._until_due()
            began = self._monotonic()
            settled = await self._observe(began)
            now = self._monotonic()
            self._pacing.done(now, settled, now - began)

    async def _until_due(self) -> None:
        while (wait := self._pacing.due() - self._monotonic()) > 0:
            self._asked.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._asked.wait()
            except TimeoutError:
                return

    async def _observe(self, began: float) -> bool:
        """Look at the list, at the kernel, at the list, and take it in; False: look again soon."""
        await self._pipeline.look()
        active, self._active = self._active, set()
        try:
            observation = await self._client.observe()
        except AdapterError as error:
            self._active |= active
            self._lost(str(error))
            return False
        self._found()
        await self._pipeline.look()
        unsettled = self._pipeline.monitor.observed(observation, active, self._wall_clock())
        self._pipeline.commit(began)
        return not unsettled

    def _lost(self, problem: str) -> None:
        self.up = False
        if problem != self._problem:
            self._problem = problem
            self._log.warning("live_witness_unavailable", problem=problem, instead="the list alone")

    def _found(self) -> None:
        if not self.up:
            self._log.info("live_witness_available")
        self.up, self._problem = True, ""
        self._answered.set()


class PcrWitness:
    """Compares the list with the TPM's PCR 10: at the start, after new records, and every so often."""

    def __init__(
        self,
        tpm: Tpm,
        interval_seconds: float,
        pipeline: Pipeline,
        *,
        monotonic: Callable[[], float],
        wall_clock: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self._tpm = tpm
        self._interval = interval_seconds
        self._pipeline = pipeline
        self._monotonic = monotonic
        self._wall_clock = wall_clock
        self._log = log
        self._asked = asyncio.Event()
        self._problem = ""
        self._reading: asyncio.Task[dict[str, bytes]] | None = None

    def ask(self) -> None:
        """There are new records."""
        self._asked.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            self._asked.clear()
            wait = RETRY_SECONDS if await self._compare() else PCR_GAP_SECONDS
            await asyncio.sleep(wait)
            if wait == RETRY_SECONDS:
                continue
            try:
                async with asyncio.timeout(max(self._interval - wait, 0.0)):
                    await self._asked.wait()
            except TimeoutError:
                continue

    async def _compare(self) -> bool:
        """One attempt; returns whether another should follow soon."""
        pipeline = self._pipeline
        await pipeline.look()
        began = self._monotonic()
        async with pipeline.feeding:
            # Nothing may be fed between the reading of the PCR and the watch for its value.
            values = await self._values()
            pipeline.monitor.pcr_read(values, self._wall_clock())
        await pipeline.look()
        retry = pipeline.monitor.pcr_settled(self._wall_clock(), tpm=bool(values))
        pipeline.commit(began)
        return retry

    async def _values(self) -> dict[str, bytes]:
        """PCR 10, or nothing if the TPM hangs: then it is asked again when it has answered.

        That answer is of no use: by then there may be more in the list than was fed.
        """
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(asyncio.to_thread(self._read))
            await asyncio.wait([self._reading], timeout=PCR_READ_SECONDS)
            if self._reading.done():
                return self._reading.result()
        self._lost(AdapterError("the TPM does not answer", "PCR 10", "see the kernel's log for its state"))
        return {}

    def _lost(self, error: AdapterError) -> None:
        if str(error) != self._problem:
            self._problem = str(error)
            self._log.warning("tpm_unavailable", problem=self._problem)

    def _read(self) -> dict[str, bytes]:
        """PCR 10 of the banks that the list is replayed in."""
        try:
            values = {bank: self._tpm.read(bank) for bank in self._tpm.banks() if bank in DEFAULT_BANKS}
            self._problem = ""
        except AdapterError as error:
            self._lost(error)
            return {}
        return {bank: value for bank, value in values.items() if value is not None}
