"""The daemon's side of the second witness: asks an observer for observations, hears of activity.

One connection carries both.  A task reads it and hands each answer on; if it ends, whatever the reason, it is
opened again: by `observe` when it is called next, by `activity` after a pause.

What it does not do: trust what it reads.  An observer that breaks the protocol, sends without being asked or
without end loses its connection; the names and texts it tells are checked by `protocol` alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator

from structlog.typing import FilteringBoundLogger

from dmimad.adapters.live.connect import Connector, Streams
from dmimad.adapters.live.protocol import (
    HEADER_BYTES,
    MAX_DEVICES,
    MAX_OBSERVATION_BYTES,
    Activity,
    Answer,
    End,
    Failure,
    Request,
    decode_answer,
    decode_header,
    encode_request,
)
from dmimad.core.errors import AdapterError, MalformedError
from dmimad.core.observation import LiveDevice, Observation

FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 30.0


class LiveClient:
    """A client of the observer that `connect` reaches.

    Args:
        connect: see `dmimad.adapters.live.connect`.
        timeout_seconds: for an observation, and for a connection.
        log: told when the watch for activity is lost and regained.
        first_pause_seconds: before the watch is tried again; doubled each time, up to MAX_PAUSE_SECONDS.
    """

    def __init__(
        self,
        connect: Connector,
        *,
        timeout_seconds: float = 10.0,
        log: FilteringBoundLogger,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
    ) -> None:
        self._connect = connect
        self._timeout_seconds = timeout_seconds
        self._log = log
        self._first_pause_seconds = first_pause_seconds
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()
        self._observing = asyncio.Lock()
        self._closed = asyncio.Event()

    async def observe(self) -> Observation:
        """What device-mapper holds now.  Raises AdapterError; the next call starts afresh."""
        try:
            async with asyncio.timeout(self._timeout_seconds), self._observing:
                return await self._ask()
        except TimeoutError:
            raise AdapterError(
                f"no observation within {self._timeout_seconds:g} s",
                self._connect.where,
                "see whether the observer runs; if it hangs in the kernel, see the kernel's log",
            ) from None

    async def activity(self) -> AsyncGenerator[None]:
        """Yields when device-mapper had an event, until `close`.  Use contextlib.aclosing.

        Also whenever the watch comes into force, at first and after each interruption: what happened
        before that was not heard.  Many events may be one item.
        """
        problem = ""
        pause = self._first_pause_seconds
        while not self._closed.is_set():
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    link = await self._linked()
                with link.watch() as signal:
                    while True:
                        await link.active(signal)
                        if problem:
                            self._log.info("live_watch_regained", observer=self._connect.where)
                        problem, pause = "", self._first_pause_seconds
                        yield
            except (AdapterError, TimeoutError) as error:
                if self._closed.is_set():
                    return
                now = str(error) or f"{self._connect.where}: no connection"
                if now != problem:
                    self._log.warning("live_watch_lost", problem=now)
                problem = now
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._closed.wait()
            pause = min(2 * pause, MAX_PAUSE_SECONDS)

    async def close(self) -> None:
        """End the connection and what was started for it."""
        self._closed.set()
        if self._link is not None:
            await self._link.close()
        try:
            await self._connect.close()
        except AdapterError as error:
            self._log.warning("live_observer_not_ended", problem=str(error))

    async def _ask(self) -> Observation:
        link = await self._linked()
        if link.asked:
            # The observer may close a connection that was not used for a while, perhaps at this moment.
            with contextlib.suppress(_HungUp):
                return await link.observe()
            link = await self._linked()
        return await link.observe()

    async def _linked(self) -> _Link:
        async with self._connecting:
            if self._closed.is_set():
                raise AdapterError("the connection was closed", self._connect.where)
            if self._link is None or self._link.ended is not None:
                if self._link is not None:
                    await self._link.close()
                self._link = _Link(await self._connect(), self._connect.where)
            return self._link


class _HungUp(AdapterError):
    """The connection ended without a word."""


class _Link:
    """One connection.

    Attributes:
        asked: an observation was asked for over it.
        ended: why it cannot be used any more.
    """

    def __init__(self, streams: Streams, where: str) -> None:
        self._reader, self._writer = streams
        self._where = where
        self.asked = False
        self.ended: AdapterError | None = None
        self._observation: asyncio.Future[Observation] | None = None
        self._devices: list[LiveDevice] = []
        self._bytes = 0
        self._signals: set[asyncio.Event] = set()
        self._watch_failure: AdapterError | None = None
        self._reading = asyncio.create_task(self._read(), name="live-client")

    async def observe(self) -> Observation:
        """One at a time.  If it is given up, the link is: its answer may still come."""
        self._check()
        self.asked = True
        self._devices = []
        self._bytes = 0
        future: asyncio.Future[Observation] = asyncio.get_running_loop().create_future()
        self._observation = future
        self._writer.write(encode_request(Request.OBSERVE))
        try:
            return await future
        finally:
            self._observation = None
            if future.cancelled():
                self._end(AdapterError("an observation was given up", self._where))

    @contextlib.contextmanager
    def watch(self) -> Iterator[asyncio.Event]:
        """Ask for activity; the event is to be given to `active`."""
        self._check()
        signal = asyncio.Event()
        self._signals.add(signal)
        self._watch_failure = None
        self._writer.write(encode_request(Request.WATCH))
        try:
            yield signal
        finally:
            self._signals.discard(signal)

    async def active(self, signal: asyncio.Event) -> None:
        """Until there is activity.  Raises AdapterError if there will be none."""
        await signal.wait()
        signal.clear()
        if self._watch_failure is not None:
            raise self._watch_failure
        self._check()

    async def close(self) -> None:
        """End it, and wait for the task that reads."""
        self._end(AdapterError("the connection was closed", self._where))
        self._reading.cancel()
        await asyncio.wait([self._reading])
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def _check(self) -> None:
        if self.ended is not None:
            raise self.ended

    async def _read(self) -> None:
        try:
            while self.ended is None:
                header = decode_header(await self._reader.readexactly(HEADER_BYTES))
                body = await self._reader.readexactly(header.body_bytes)
                self._take(decode_answer(header, body), HEADER_BYTES + len(body))
        except (EOFError, OSError):
            self._end(_HungUp("the observer hung up", self._where, "see its messages"))
        except MalformedError as error:
            self._end(
                AdapterError(str(error), self._where, "check that dmimad observe of this version listens")
            )
        except AdapterError as error:
            self._end(error)

    def _take(self, answer: Answer, size: int) -> None:
        match answer:
            case Activity():
                self._signal()
            case Failure():
                self._fail(answer)
            case LiveDevice():
                self._awaited("a device")
                self._bytes += size
                self._devices.append(answer)
                if self._bytes > MAX_OBSERVATION_BYTES or len(self._devices) > MAX_DEVICES:
                    raise MalformedError("an observation without end")
            case End():
                awaited = self._awaited("an observation's end")
                if answer.devices != len(self._devices):
                    raise MalformedError(f"an end after {len(self._devices)} devices of {answer.devices}")
                awaited.set_result(Observation(answer.dm_version, tuple(self._devices)))

    def _fail(self, failure: Failure) -> None:
        error = AdapterError(failure.what, failure.where, failure.remedy)
        match failure.request:
            case Request.OBSERVE:
                self._awaited("a failure").set_exception(error)
            case Request.WATCH:
                self._watch_failure = error
                self._signal()
            case Request.CONNECTION:
                raise error

    def _awaited(self, what: str) -> asyncio.Future[Observation]:
        if self._observation is None or self._observation.done():
            raise MalformedError(f"{what} that nobody asked for")
        return self._observation

    def _signal(self) -> None:
        for signal in self._signals:
            signal.set()

    def _end(self, error: AdapterError) -> None:
        if self.ended is None:
            self.ended = error
        if self._observation is not None and not self._observation.done():
            self._observation.set_exception(self.ended)
        self._signal()
        self._writer.transport.abort()  # nothing that is still to be sent is worth waiting for
