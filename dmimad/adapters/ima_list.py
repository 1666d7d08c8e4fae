"""The kernel's own measurement list in securityfs, read as it grows.

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

A read returns about one page however much is asked for, and 0 at the present end.  Each costs the
kernel a walk along its list, so that whatever may take long is done in a thread.  So is the polling,
because of what a wake-up costs an otherwise idle process: a thread that sleeps and reads a few bytes
takes two thirds of what a timer of the event loop takes, which has more of Python to run through.

What it does not do: parse records, or decide what a trimmed list means.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from dmimad.core.source import CaughtUp, Chunk, Restarted, SourceEvent, Unavailable

READ_PIECE_BYTES = 1 << 20
"""Most that one Chunk carries."""

DIRECT_READ_BYTES = 64 << 10
"""Most that is read on the event loop itself."""

DIRECT_READ_MAX_RECORDS = 64
"""More new records than this are read in a thread."""

DIRECT_READ_MAX_OFFSET_BYTES = 16 << 20
"""Beyond this position the kernel's walk along its list is long enough to go to a thread."""

FINGERPRINT_BYTES = 1024
"""So much before the position must be unchanged when a list is opened again."""

REST_FACTOR = 10
"""Where reading costs in proportion to the whole list, it is paused this many times what it took."""

MIN_POLL_INTERVAL_SECONDS = 0.001

COUNT_BYTES = 32

DEFAULT_SECURITYFS = Path("/sys/kernel/security")
DEFAULT_MOUNTINFO = Path("/proc/self/mountinfo")

#: Nothing but a reboot or other rights changes these.
_LASTING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM})

_IMA = Path("integrity/ima")
_AUTO = ("binary_runtime_measurements", "ascii_runtime_measurements")
_COUNT = "runtime_measurements_count"

Opener = Callable[[Path], int]
_T = TypeVar("_T")


def open_read_only(path: Path) -> int:
    """A descriptor for reading; raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)


def is_kernel_list(
    path: str, *, securityfs: Path = DEFAULT_SECURITYFS, mountinfo: Path = DEFAULT_MOUNTINFO
) -> bool:
    """Whether `path` (a setting: "auto" or a path) is a list the kernel itself serves.

    True for "auto", for everything under the securityfs directory, and for everything on a securityfs
    mounted elsewhere (a host's, bind-mounted into a container).  Such a list has no size and no
    inotify events, and must be read with `KernelList`; every other path is a file.  Never raises.
    """
    if path == "auto":
        return True
    try:
        real = Path(os.path.realpath(path))
        if real.is_relative_to(securityfs) or real.is_relative_to(os.path.realpath(securityfs)):
            return True
        device = real.stat().st_dev
        mounts = mountinfo.read_bytes().splitlines()
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return False
    wanted = f"{os.major(device)}:{os.minor(device)}".encode()
    for mount in mounts:
        # proc_pid_mountinfo(5): id, parent, major:minor, root, mount point, options … - type, source …
        before, _, after = mount.partition(b" - ")
        if before.split()[2:3] == [wanted] and after.split()[:1] == [b"securityfs"]:
            return True
    return False


class KernelList:
    """A source of list bytes: `events()` yields them from a position on, for ever.

    Args:
        path: "auto" takes the first readable of the binary and the ASCII list; or one list's path.
        poll_interval_seconds: how often the count is looked at.
        hold_open: see the module's docstring.
        securityfs: where securityfs is mounted, for "auto".
        retry_interval_seconds: how often a list that cannot be opened is tried.
        opener: opens the list (not the count); may raise OSError.
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
    ) -> None:
        self._securityfs = securityfs
        directory = securityfs / _IMA
        self._candidates = [directory / name for name in _AUTO] if path == "auto" else [Path(path)]
        self._chosen: Path | None = None if path == "auto" else Path(path)
        self._count = _CountWatch(self._candidates[0].parent / _COUNT)
        self._interval = max(poll_interval_seconds, MIN_POLL_INTERVAL_SECONDS)
        self._retry = max(retry_interval_seconds, self._interval)
        self._hold_open = hold_open
        self._opener = opener

    @property
    def path(self) -> Path | None:
        """The list that is read; None as long as "auto" has found none.  It never changes afterwards."""
        return self._chosen

    def wake(self) -> None:
        """Look at the count now instead of at the next poll.  To be called on the event loop."""
        self._count.wake()

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
        loop = asyncio.get_running_loop()
        began = loop.time()
        if run.at_end:
            self._begin_round(run)
        direct = run.few and run.descriptor is not None and run.offset <= DIRECT_READ_MAX_OFFSET_BYTES
        descriptor = run.descriptor or await self._open(run)
        limit = DIRECT_READ_BYTES if run.few else READ_PIECE_BYTES
        run.few = False  # what does not fit into the first piece was not few
        if direct:
            data = descriptor.fill(limit)
        else:
            data = await _in_thread(run.executor, partial(descriptor.fill, limit), descriptor.interrupt)
        run.at_end = descriptor.ended
        run.round_seconds += loop.time() - began
        if data:
            run.events.append(Chunk(data, run.offset))
            run.passed(data)
        if run.at_end:
            self._finish_round(run)

    def _begin_round(self, run: _Run) -> None:
        """Take the count, which must be older than what is read after it."""
        before = run.count
        changed = self._take_count(run)
        run.owed = run.owed or changed
        run.at_end = False
        run.round_seconds = 0.0
        if before is None or run.count is None:
            run.few = run.descriptor is not None  # without a count every poll reads, mostly nothing
            return
        run.few = run.count - before <= DIRECT_READ_MAX_RECORDS
        if run.count < before:
            run.close()
            if run.offset:
                run.restart("trimmed")

    def _take_count(self, run: _Run) -> bool:
        seen = self._count.read()
        changed = seen != self._count.seen
        self._count.seen = seen
        run.count = _number(seen)
        return changed

    def _finish_round(self, run: _Run) -> None:
        if not self._hold_open:
            run.close()
        run.retry_seconds = 0.0
        if run.owed:
            run.owed = False
            run.problem = ""
            run.events.append(CaughtUp(run.count))

    def _failed(self, run: _Run, error: OSError) -> None:
        run.close()
        run.at_end = run.owed = True
        # A writer trims within milliseconds: what it held up should not wait for the slower pace.
        run.retry_seconds = self._interval if error.errno == errno.EBUSY else self._retry
        problem = self._explain(error)
        if problem != run.problem:
            run.problem = problem
            run.events.append(Unavailable(problem, lasting=error.errno in _LASTING))

    async def _open(self, run: _Run) -> _Descriptor:
        """Open the list at the position, or at its beginning if the position belongs to another list."""
        run.descriptor = descriptor = _Descriptor(self._open_first())
        if not run.offset:
            return descriptor
        before = partial(descriptor.before, run.offset)
        found = await _in_thread(run.executor, before, descriptor.interrupt)
        if found is not None and run.tail in (b"", found):
            run.tail = found
            return descriptor
        # Nothing read in this life to compare with: the list is simply shorter than where to start.
        run.restart("trimmed" if run.tail else "truncated")
        descriptor.rewind()
        self._take_count(run)  # of the list as it is now, or the next round would find it trimmed again
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
        costly_rest = max(self._interval, REST_FACTOR * run.round_seconds)
        if run.retry_seconds:
            await self._count.pause(run.retry_seconds)
        elif run.count is None:
            await self._count.pause(costly_rest)
        else:
            first = 0.0 if self._hold_open else costly_rest
            await self._count.moved(run.executor, first, self._interval)

    def _explain(self, error: OSError) -> str:
        path = self._chosen or self._candidates[0]
        match error.errno:
            case errno.ENOENT | errno.ENOTDIR:
                remedy = self._explain_absence(path)
            case errno.EACCES | errno.EPERM:
                remedy = (
                    "not allowed to read the list; run as root or with CAP_DAC_READ_SEARCH, "
                    "as the systemd unit dmimad.service does"
                )
            case errno.EBUSY:
                remedy = (
                    "another process has the list open for writing, which trims it; "
                    "reading goes on when it is closed"
                )
            case _:
                remedy = os.strerror(error.errno) if error.errno else str(error)
        return f"{path}: {remedy}"

    def _explain_absence(self, path: Path) -> str:
        if path.is_relative_to(self._securityfs):
            try:
                mounted = any(self._securityfs.iterdir())
            except OSError:
                mounted = False
            if not mounted:
                return (
                    f"no such file: securityfs is not mounted; "
                    f"mount it with: mount -t securityfs securityfs {self._securityfs}"
                )
            if not (self._securityfs / _IMA).exists():
                return (
                    "no such file: the running kernel has no IMA; "
                    "boot one built with CONFIG_IMA=y, with ima_policy=critical_data"
                )
        return "no such file; check source.path, or set it to auto"


@dataclass(slots=True)
class _Run:
    """Where one iteration of `events()` is."""

    offset: int
    executor: ThreadPoolExecutor = field(
        default_factory=partial(ThreadPoolExecutor, 1, thread_name_prefix="ima-list")
    )
    tail: bytes = b""  # the last bytes read before the offset
    descriptor: _Descriptor | None = None
    count: int | None = None  # the kernel's, as of the beginning of this round
    events: list[SourceEvent] = field(default_factory=list)  # to be yielded; kept over a failure
    at_end: bool = True
    few: bool = False  # little is expected: read a small piece, on the loop if that is cheap
    owed: bool = True  # a CaughtUp is due
    problem: str = ""
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


class _Descriptor:
    """An open list.  While `fill` or `before` run in a thread, nothing but `interrupt` is called."""

    __slots__ = ("_fd", "_interrupted", "ended")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.ended = False  # the last fill() met the present end of the list
        self._interrupted = False

    def fill(self, limit: int) -> bytes:
        """The next bytes, up to `limit`; fewer at the present end, before an error, or if interrupted."""
        self.ended = False
        buffer = memoryview(bytearray(limit))
        filled = 0
        while filled < limit and not self._interrupted:
            try:
                got = os.readv(self._fd, [buffer[filled:]])
            except OSError:
                if filled:
                    break  # deliver these; the next read meets the error again
                raise
            if not got:
                self.ended = True
                break
            filled += got
        return bytes(buffer[:filled])

    def before(self, offset: int) -> bytes | None:
        """Go to `offset` and return what lies just before it; None if the list is shorter."""
        # seq_lseek() goes beyond the end without complaint: only reading tells.
        length = min(offset, FINGERPRINT_BYTES)
        os.lseek(self._fd, offset - length, os.SEEK_SET)
        found = self.fill(length)
        return found if len(found) == length else None

    def interrupt(self) -> None:
        """Let the thread that is reading come back soon; there is no more reading afterwards."""
        self._interrupted = True

    def rewind(self) -> None:
        os.lseek(self._fd, 0, os.SEEK_SET)

    def close(self) -> None:
        os.close(self._fd)


class _CountWatch:
    """The file `runtime_measurements_count`, and waiting for it to change."""

    def __init__(self, path: Path) -> None:
        self.seen = b""  # what it said when the list was last read
        self._path = path
        self._fd = -1
        self._nudge = threading.Lock()  # held; whoever releases it ends the thread's sleep
        self._nudge.acquire()
        self._stop = False
        self._pause: asyncio.Future[None] | None = None

    def read(self) -> bytes:
        """What it says now; empty if it cannot be read.  Never while a thread waits in `moved`."""
        try:
            if self._fd < 0:
                self._fd = open_read_only(self._path)
            return os.pread(self._fd, COUNT_BYTES, 0)
        except OSError:
            self.close()
            return b""

    async def moved(self, executor: ThreadPoolExecutor, first: float, interval: float) -> None:
        """Until it says something else than `seen`; looks after `first` seconds, then at each interval."""
        if first <= 0.0:
            if self.read() != self.seen:
                return
            first = interval
        self._stop = False
        await _in_thread(executor, partial(self._sleep_and_look, first, interval), self._interrupt)

    def _sleep_and_look(self, first: float, interval: float) -> None:
        sleep = self._nudge.acquire
        sleep(timeout=first)
        while not self._stop and self.read() == self.seen:
            sleep(timeout=interval)

    def _interrupt(self) -> None:
        self._stop = True
        self.wake()

    async def pause(self, seconds: float) -> None:
        """For so long, or until wake()."""
        loop = asyncio.get_running_loop()
        self._pause = pause = loop.create_future()
        timer = loop.call_later(seconds, _finish, pause)
        try:
            await pause
        finally:
            timer.cancel()
            self._pause = None

    def wake(self) -> None:
        if self._pause is not None:
            _finish(self._pause)
        elif self._nudge.locked():  # and stays so: nobody else releases it
            self._nudge.release()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _number(text: bytes) -> int | None:
    digits = text.strip()
    return int(digits) if digits.isdigit() else None


async def _in_thread(
    executor: ThreadPoolExecutor, work: Callable[[], _T], interrupt: Callable[[], None]
) -> _T:
    """Run one blocking call in a thread; if cancelled, interrupt it and wait for its end.

    A descriptor must not be closed while a thread may still read from it: its number could be another
    file's by then.
    """
    job = asyncio.get_running_loop().run_in_executor(executor, work)
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        interrupt()
        while not job.done():
            try:
                await asyncio.wait([job])
            except asyncio.CancelledError:
                continue  # already on the way out
        raise
