"""A measurement list that something else mirrors into an ordinary file, read as it grows.

Source: inotify(7), rename(2); asyncinotify.  The file's directory is watched, not the file: that is
where a file appears, goes and is replaced.  A slow check stands beside it for what inotify cannot
see (network file systems, an exhausted limit of watches).  Events are hints only; what happened is
decided by looking, always in this order:

1. The path is looked up.  Another device or inode number than the open file's: it was replaced.
   The open file is read to its end all the same; only then comes `Restarted("replaced")`.
2. One read takes the last bytes before the position again (`FINGERPRINT_BYTES`) and what follows
   them.  Not the same bytes, or fewer: the file was truncated or rewritten, whatever its size is
   by now: `Restarted("truncated")`.  A file rewritten with the same content goes on without one.

What it does not do: parse records; a half-written one is bytes like any others.  A writer that goes
on writing into a file *after* a new one has taken its place loses that part, as with tail -F.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from asyncinotify import Inotify, Mask, Watch
from structlog.typing import FilteringBoundLogger

from dmimad.core.errors import AdapterError
from dmimad.core.source import CaughtUp, Chunk, Restarted, SourceEvent, Unavailable

READ_PIECE_BYTES = 1 << 20
"""Most that one Chunk carries; read in a thread."""

DIRECT_READ_BYTES = 64 << 10
"""Up to so much is read on the event loop itself."""

FINGERPRINT_BYTES = 1024
"""So much before the position must be unchanged at each read."""

_MASK = (
    Mask.MODIFY
    | Mask.CLOSE_WRITE
    | Mask.CREATE
    | Mask.DELETE
    | Mask.MOVED_FROM
    | Mask.MOVED_TO
    | Mask.DELETE_SELF
    | Mask.MOVE_SELF
    | Mask.ONLYDIR
)

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_PASSING = "is {} now, not a file; reading goes on when a file is there"

Opener = Callable[[Path], int]


def open_read_only(path: Path) -> int:
    """A descriptor for reading; raises OSError.  Does not wait for a FIFO's other end."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)


class FileList:
    """A source of list bytes: `events()` yields them from a position on, for ever.

    Args:
        path: the file; it may be absent for the time being.
        log: gets `inotify_unavailable` where only the slow check is left.
        check_interval_seconds: pace of the slow check.
        inotify: makes the inotify instance; may raise OSError.
        opener: opens the file; may raise OSError.
    """

    def __init__(
        self,
        path: Path,
        *,
        log: FilteringBoundLogger,
        check_interval_seconds: float = 1.0,
        inotify: Callable[[], Inotify] = Inotify,
        opener: Opener = open_read_only,
    ) -> None:
        self._path = path
        self._log = log
        self._check_interval = check_interval_seconds
        self._inotify = inotify
        self._opener = opener
        self._pause: asyncio.Timeout | None = None
        self.turns = 0
        """Grows as long as the file is looked at, and stands still if that hangs."""

    @property
    def path(self) -> Path:
        return self._path

    def wake(self) -> None:
        """Look now instead of at the next event.  To be called on the event loop."""
        if self._pause is not None and not self._pause.expired():
            self._pause.reschedule(asyncio.get_running_loop().time())

    async def events(self, start: int) -> AsyncGenerator[SourceEvent, None]:
        """Everything from byte `start` on, and then whatever is added; see `dmimad.core.source`.

        Ends only by cancellation or aclose() (use contextlib.aclosing) and then leaves no descriptor
        open.  Raises AdapterError at once if the path is something else than a file; whatever the
        operating system refuses later becomes `Unavailable`.
        """
        self._refuse_other_kinds()
        run = _Run(start)
        hints = _Hints(self._path, self._inotify, self._log, self._check_interval)
        try:
            while True:
                self.turns += 1
                if run.at_end:
                    hints.attach()  # before looking: what comes after the look is then heard
                try:
                    await self._look(run)
                except OSError as error:
                    run.failed(self._explain(error))
                for event in run.take_events():
                    yield event
                if run.at_end:
                    await self._rest(hints)
        finally:
            run.close()
            hints.close()

    def _refuse_other_kinds(self) -> None:
        try:
            kind = _other_kind(self._path.stat())
        except OSError:
            return  # absent or out of reach: that may change
        except ValueError as error:  # a NUL in the path
            raise AdapterError(str(error), repr(str(self._path)), "correct source.path") from error
        if kind:
            remedy = "set source.path to the file that a list is mirrored into, or to auto"
            raise AdapterError(f"is {kind}, not a file", str(self._path), remedy)

    async def _look(self, run: _Run) -> None:
        """One bounded step: see what is at the path, read one piece of the open file."""
        absence, identity = self._look_up()
        if run.fd < 0:
            if absence:
                run.failed(absence)
                return
            self._open(run)
            identity = run.identity
        data = await self._read(run)
        if data is None:
            run.restart("truncated")
            return
        if data:
            run.passed(data)
        if not run.at_end:
            return
        if identity not in (None, run.identity):
            run.close()
            run.identity = None
            run.restart("replaced")
            return
        run.caught_up(absence)

    def _look_up(self) -> tuple[str, tuple[int, int] | None]:
        """Why there is no such file, or its device and inode number."""
        try:
            status = self._path.stat()
        except OSError as error:
            return self._explain(error), None
        kind = _other_kind(status)
        if kind:
            return f"{self._path}: {_PASSING.format(kind)}", None
        return "", (status.st_dev, status.st_ino)

    def _open(self, run: _Run) -> None:
        """Open the file at the position, as far as it is the file the position belongs to."""
        run.fd = self._opener(self._path)
        status = os.fstat(run.fd)
        kind = _other_kind(status)
        if kind:  # put there between looking and opening
            raise OSError(errno.EINVAL, _PASSING.format(kind))
        identity = (status.st_dev, status.st_ino)
        if run.identity not in (None, identity):
            run.restart("replaced")
        run.identity = identity
        if run.offset and not run.tail:
            length = min(run.offset, FINGERPRINT_BYTES)
            run.tail = os.pread(run.fd, length, run.offset - length)
            if len(run.tail) < length:
                run.restart("truncated")

    async def _read(self, run: _Run) -> bytes | None:
        """The next piece; None if what was before it is not there any more."""
        again = len(run.tail)
        pending = os.fstat(run.fd).st_size - run.offset
        if pending <= DIRECT_READ_BYTES:
            limit = DIRECT_READ_BYTES
            window = os.pread(run.fd, again + limit, run.offset - again)
        else:
            limit = READ_PIECE_BYTES
            window = await _in_thread(partial(os.pread, run.fd, again + limit, run.offset - again))
        run.at_end = len(window) < again + limit
        return window[again:] if window.startswith(run.tail) else None

    async def _rest(self, hints: _Hints) -> None:
        """Until something happened to the file, or for the slow check's pace."""
        try:
            async with asyncio.timeout(self._check_interval) as self._pause:
                await hints.wait()
        except TimeoutError:
            pass
        finally:
            self._pause = None

    def _explain(self, error: OSError) -> str:
        match error.errno:
            case errno.ENOENT | errno.ENOTDIR:
                problem = "no such file; it is read as soon as something mirrors a list there"
            case errno.EACCES | errno.EPERM:
                problem = "not allowed to read it; give the daemon's user the right to"
            case _:
                problem = error.strerror or str(error)
        return f"{self._path}: {problem}"


@dataclass(slots=True)
class _Run:
    """Where one iteration of `events()` is."""

    offset: int
    fd: int = -1
    identity: tuple[int, int] | None = None  # device and inode number of the file last opened
    tail: bytes = b""  # the last bytes before the offset
    events: list[SourceEvent] = field(default_factory=list)  # to be yielded; kept over a failure
    at_end: bool = True
    owed: bool = True  # a CaughtUp is due
    problem: str = ""

    def passed(self, data: bytes) -> None:
        self.events.append(Chunk(data, self.offset))
        self.offset += len(data)
        self.owed = True
        recent = data if len(data) >= FINGERPRINT_BYTES else self.tail + data
        self.tail = recent[-FINGERPRINT_BYTES:]

    def caught_up(self, absence: str) -> None:
        """The open file is read to its end; with `absence`, the path does not lead to it any more."""
        if self.owed or (self.problem and not absence):
            self.owed = False
            self.problem = ""
            self.events.append(CaughtUp(None))
        if absence:
            self.report(absence)

    def restart(self, reason: str) -> None:
        self.offset = 0
        self.tail = b""
        self.owed = True
        self.at_end = False
        self.events.append(Restarted(reason))

    def report(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            self.events.append(Unavailable(problem))

    def failed(self, problem: str) -> None:
        self.close()
        self.at_end = True
        self.report(problem)

    def take_events(self) -> list[SourceEvent]:
        events, self.events = self.events, []
        return events

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class _Hints:
    """inotify on the file's directory, and on that of the file a symbolic link leads to."""

    def __init__(
        self,
        path: Path,
        factory: Callable[[], Inotify],
        log: FilteringBoundLogger,
        check_interval_seconds: float,
    ) -> None:
        self._path = path
        self._factory = factory
        self._log = log
        self._interval = check_interval_seconds
        self._inotify: Inotify | None = None
        self._watches: dict[int, Watch] = {}
        self._names: dict[int, set[str]] = {}  # per watch, what is of interest there
        self._next = 0.0  # when the directories are to be looked up again
        self._told = False

    def attach(self) -> None:
        """See that the right directories are watched; they may be absent, or others by now."""
        now = asyncio.get_running_loop().time()
        if now < self._next:
            return
        self._next = now + self._interval
        try:
            self._watch_directories()
        except OSError as error:  # no right to list it, or a limit: see inotify(7)
            if not self._told:
                self._told = True
                self._log.warning(
                    "inotify_unavailable", path=str(self._path), problem=error.strerror or str(error)
                )

    def _watch_directories(self) -> None:
        if self._inotify is None:
            self._inotify = self._factory()
        names: dict[int, set[str]] = {}
        self._names = names
        before = set(self._watches)
        for place in {self._path, Path(os.path.realpath(self._path))}:
            # The same directory again yields the same watch, another directory in its place a new one.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                watch = self._inotify.add_watch(place.parent, _MASK)
                self._watches[watch.wd] = watch
                names.setdefault(watch.wd, set()).add(place.name)
        for wd in before - set(names):
            with contextlib.suppress(OSError):  # the kernel may have removed it with its directory
                self._inotify.rm_watch(self._watches.pop(wd))

    async def wait(self) -> None:
        """Until something happened to the file or its directory; for ever without inotify."""
        if self._inotify is None:
            await asyncio.get_running_loop().create_future()
            return
        while True:
            event = await self._inotify.get()
            names = self._names.get(event.watch.wd) if event.watch is not None else None
            if event.name is None or names is None:  # the directory itself, or lost events
                self._next = 0.0
                return
            if event.name.name in names:
                if not event.mask & (Mask.MODIFY | Mask.CLOSE_WRITE):
                    self._next = 0.0  # it may be another symbolic link
                return

    def close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()


def _other_kind(status: os.stat_result) -> str:
    """What it is, if it is not a file."""
    if stat.S_ISREG(status.st_mode):
        return ""
    return _KINDS.get(stat.S_IFMT(status.st_mode), "something else")


async def _in_thread(work: Callable[[], bytes]) -> bytes:
    """Run one blocking read in a thread; if cancelled, wait for its end.

    A descriptor must not be closed while a thread may still read from it: its number could be another
    file's by then.
    """
    job = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        while not job.done():
            try:
                await asyncio.wait([job])
            except asyncio.CancelledError:
                continue  # already on the way out
        raise
