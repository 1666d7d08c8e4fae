"""The kernel's list as a source of bytes: what is there, then what is added.

Source: security/integrity/ima/ima_fs.c and fs/seq_file.c of Linux 6.1 to 7.2.  Nothing announces a
new record: inotify is silent on securityfs and poll() always says "readable".  So the number of
records, a few bytes that the kernel formats on each read, is compared with the former one several
times a second, and the list is touched only when it moved.

How the list is read:
- `hold_open`: one descriptor continues where it was; nothing old is formatted again.  From 7.2 on an
  open reader keeps everybody from trimming the list: an attacker, but also an attestation agent.
- otherwise the list is opened for each batch, positioned and closed again.  The kernel formats
  everything before the position for that, which is why such visits are rationed (`REST_FACTOR`).
  What lies just before the position must still be what was read there, or the list was trimmed.

A list that the service manager has opened for us is held open for as long as the process lives: it
cannot be opened again without the right to, and is rewound instead.

A read costs the kernel a walk along its list, so that whatever may take long is done in a thread.

What it does not do: parse records, or decide what a trimmed list means.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dmimad.adapters.ima_list.count import CountWatch, number_of
from dmimad.adapters.ima_list.descriptor import FINGERPRINT_BYTES, Descriptor, in_thread, open_read_only
from dmimad.adapters.ima_list.passed import NOTHING_PASSED, Passed
from dmimad.adapters.ima_list.place import COUNT, DEFAULT_SECURITYFS, IMA, LISTS, explain
from dmimad.core.source import CaughtUp, Chunk, Restarted, SourceEvent, Unavailable

READ_PIECE_BYTES = 1 << 20
"""Most that one Chunk carries."""

DIRECT_READ_BYTES = 64 << 10
"""Most that is read on the event loop itself."""

DIRECT_READ_MAX_RECORDS = 64
"""More new records than this are read in a thread."""

DIRECT_READ_MAX_OFFSET_BYTES = 16 << 20
"""Beyond this position the kernel's walk along its list is long enough to go to a thread."""

REST_FACTOR = 10
"""Where reading costs in proportion to the whole list, it is paused this many times what it took."""

BUSY_PATIENCE_SECONDS = 5.0
"""A writer that trims is done within milliseconds; one that takes longer is told of."""

MIN_POLL_INTERVAL_SECONDS = 0.001

#: Nothing but a reboot or other rights changes these.
_LASTING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM})

Opener = Callable[[Path], int]


class KernelList:
    """A source of list bytes: `events()` yields them from a position on, for ever.

    Args:
        path: "auto" takes the first readable of the binary and the ASCII list; or one list's path.
        poll_interval_seconds: how often the count is looked at.
        hold_open: see the module's docstring.
        securityfs: where securityfs is mounted, for "auto".
        retry_interval_seconds: how often a list that cannot be opened is tried.
        opener: opens the list (not the count); may raise OSError.
        passed: descriptors that the service manager has opened; see `Passed`.
        monotonic: seconds, by which a writer's stay is measured.
    """

    def __init__(
        self,
        path: str = "auto",
        *,
        poll_interval_seconds: float = 0.1,
        hold_open: bool = True,
        securityfs: Path = DEFAULT_SECURITYFS,
        retry_interval_seconds: float = 1.0,
        opener: Opener = open_read_only,
        passed: Passed = NOTHING_PASSED,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._securityfs = securityfs
        directory = securityfs / IMA
        self._candidates = [directory / name for name in LISTS] if path == "auto" else [Path(path)]
        self._chosen: Path | None = None if path == "auto" else Path(path)
        passed = passed.serving(self._chosen, hold_open=hold_open)
        self._passed = passed.list
        self._count = CountWatch(self._candidates[0].parent / COUNT, passed.count)
        self._interval = max(poll_interval_seconds, MIN_POLL_INTERVAL_SECONDS)
        self._retry = max(retry_interval_seconds, self._interval)
        self._hold_open = hold_open
        self._opener = opener
        self._monotonic = monotonic
        self._look = False  # somebody asked for a round that has not begun yet
        self._asked = 0  # how often
        self._steps = 0

    @property
    def path(self) -> Path | None:
        """The list that is read; None as long as "auto" has found none.  It never changes afterwards."""
        return self._chosen

    @property
    def count(self) -> int | None:
        """Records that the kernel had counted when this was last looked at; None: it does not say."""
        return number_of(self._count.seen)

    @property
    def turns(self) -> int:
        """Grows as long as the list is looked at or waited for, and stands still if that hangs."""
        return self._steps + self._count.turns

    def wake(self) -> None:
        """Look at the count now instead of at the next poll.  To be called on the event loop."""
        self._count.wake()

    def look(self) -> int:
        """Answer with a `CaughtUp`, even if nothing is new.  To be called on the event loop.

        Returns a number: this call is answered by the first `CaughtUp` whose ``looks`` is not less.

        By then everything has been delivered that was in the list and counted at the time of this call:
        a round of reading that is under way does not answer it, the next one does.  As long as the list
        cannot be read there is no answer; it comes with the end of the problem.  Where the list is not held
        open and the count has not moved, the count is the only thing that is looked at.
        """
        self._look = True
        self._asked += 1
        self._count.interrupt()
        return self._asked

    async def events(self, start: int) -> AsyncGenerator[SourceEvent, None]:
        """Everything from byte `start` on, and then whatever is added; see `dmimad.core.source`.

        Ends only by cancellation or aclose() (use contextlib.aclosing) and then leaves no descriptor
        open.  Whatever the operating system refuses becomes `Unavailable`.  One iteration at a time.
        """
        run = _Run(start)
        try:
            while True:
                try:
                    await self._advance(run)
                except OSError as error:
                    self._failed(run, error)
                for event in run.take_events():
                    yield event
                if run.at_end:
                    await self._rest(run)
        finally:
            run.close()
            run.executor.shutdown(wait=False)  # nothing runs there any more
            self._count.close()

    async def _advance(self, run: _Run) -> None:
        """One bounded step: open if need be, read one piece."""
        self._steps += 1
        loop = asyncio.get_running_loop()
        began = loop.time()
        if run.at_end and not self._begin_round(run):
            return
        direct = run.few and run.descriptor is not None and run.offset <= DIRECT_READ_MAX_OFFSET_BYTES
        descriptor = run.descriptor or await self._open(run)
        limit = DIRECT_READ_BYTES if run.few else READ_PIECE_BYTES
        run.few = False  # what does not fit into the first piece was not few
        if direct:
            data = descriptor.fill(limit)
        else:
            data = await in_thread(run.executor, partial(descriptor.fill, limit), descriptor.interrupt)
        run.at_end = descriptor.ended
        run.round_seconds += loop.time() - began
        if data:
            run.events.append(Chunk(data, run.offset))
            run.passed(data)
        if run.at_end:
            self._finish_round(run)

    def _begin_round(self, run: _Run) -> bool:
        """Take the count, which must be older than what is read after it; False: no reason to read."""
        before, settled = run.count, not run.owed
        looked, self._look = self._look, False
        run.looks = self._asked
        changed = self._take_count(run)
        if looked and settled and not changed and run.count is not None and not self._hold_open:
            run.events.append(CaughtUp(run.count, run.looks))
            return False
        run.owed = run.owed or changed or looked
        run.at_end = False
        run.round_seconds = 0.0
        if before is None or run.count is None:
            run.few = run.descriptor is not None  # without a count every poll reads, mostly nothing
            return True
        run.few = run.count - before <= DIRECT_READ_MAX_RECORDS
        if run.count < before:
            run.close()
            if run.offset:
                run.restart("trimmed")
        return True

    def _take_count(self, run: _Run) -> bool:
        seen = self._count.read()
        changed = seen != self._count.seen
        self._count.seen = seen
        run.count = number_of(seen)
        return changed

    def _finish_round(self, run: _Run) -> None:
        if not self._hold_open:
            run.close()
        run.retry_seconds = 0.0
        if run.owed:
            run.owed = False
            run.problem = ""
            run.events.append(CaughtUp(run.count, run.looks))

    def _failed(self, run: _Run, error: OSError) -> None:
        run.close()
        run.at_end = run.owed = True
        # A writer trims within milliseconds: what it held up should not wait for the slower pace.
        run.retry_seconds = self._interval if error.errno == errno.EBUSY else self._retry
        if self._is_short_visit(run, error):
            return
        path = self._chosen or self._candidates[0]
        problem = explain(error, path, self._securityfs, hold_open=self._hold_open)
        if problem != run.problem:
            run.problem = problem
            run.events.append(Unavailable(problem, lasting=error.errno in _LASTING))

    def _is_short_visit(self, run: _Run, error: OSError) -> bool:
        """Whether a writer has the list, and not for long yet: no news."""
        if error.errno != errno.EBUSY:
            run.busy_since = None
            return False
        now = self._monotonic()
        if run.busy_since is None:
            run.busy_since = now
        return now - run.busy_since < BUSY_PATIENCE_SECONDS

    async def _open(self, run: _Run) -> Descriptor:
        """Open the list at the position, or at its beginning if the position belongs to another list."""
        run.descriptor = descriptor = self._opened()
        run.busy_since = None
        if not run.offset:
            return descriptor
        before = partial(descriptor.before, run.offset)
        found = await in_thread(run.executor, before, descriptor.interrupt)
        if found is not None and run.tail in (b"", found):
            run.tail = found
            return descriptor
        # Nothing read in this life to compare with: the list is simply shorter than where to start.
        run.restart("trimmed" if run.tail else "truncated")
        descriptor.rewind()
        self._take_count(run)  # of the list as it is now, or the next round would find it trimmed again
        return descriptor

    def _opened(self) -> Descriptor:
        """The list, at its beginning."""
        if self._passed < 0:
            return Descriptor(self._open_first())
        self._chosen = self._candidates[0]
        descriptor = Descriptor(self._passed, passed=True)
        descriptor.rewind()
        return descriptor

    def _open_first(self) -> int:
        if self._chosen is not None:
            return self._opener(self._chosen)
        refusal: OSError | None = None
        for candidate in self._candidates:
            try:
                descriptor = self._opener(candidate)
            except OSError as error:
                if error.errno == errno.EBUSY:
                    raise  # it is there; the other one would only be slower
                refusal = refusal or error
            else:
                self._chosen = candidate
                return descriptor
        raise refusal or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    async def _rest(self, run: _Run) -> None:
        """Until the count moves, or where there is none, until it is time to try again."""
        if self._look:
            return
        costly_rest = max(self._interval, REST_FACTOR * run.round_seconds)
        if run.retry_seconds:
            await self._count.pause(run.retry_seconds)
        elif run.count is None:
            await self._count.pause(costly_rest)
        else:
            first = 0.0 if self._hold_open else costly_rest
            await self._count.moved(run.executor, first, self._interval)


@dataclass(slots=True)
class _Run:
    """Where one iteration of `events()` is."""

    offset: int
    executor: ThreadPoolExecutor = field(
        default_factory=partial(ThreadPoolExecutor, 1, thread_name_prefix="ima-list")
    )
    tail: bytes = b""  # the last bytes read before the offset
    descriptor: Descriptor | None = None
    count: int | None = None  # the kernel's, as of the beginning of this round
    looks: int = 0  # calls of look() before that
    events: list[SourceEvent] = field(default_factory=list)  # to be yielded; kept over a failure
    at_end: bool = True
    few: bool = False  # little is expected: read a small piece, on the loop if that is cheap
    owed: bool = True  # a CaughtUp is due
    problem: str = ""
    busy_since: float | None = None  # a writer has had the list open since then
    retry_seconds: float = 0.0  # above 0: the list could not be read, try again after so long
    round_seconds: float = 0.0  # what opening and reading took this time

    def passed(self, data: bytes) -> None:
        self.offset += len(data)
        self.owed = True
        recent = data if len(data) >= FINGERPRINT_BYTES else self.tail + data
        self.tail = recent[-FINGERPRINT_BYTES:]

    def restart(self, reason: str) -> None:
        self.offset = 0
        self.tail = b""
        self.owed = True
        self.few = False
        self.events.append(Restarted(reason))

    def take_events(self) -> list[SourceEvent]:
        events, self.events = self.events, []
        return events

    def close(self) -> None:
        if self.descriptor is not None:
            self.descriptor.close()
            self.descriptor = None
