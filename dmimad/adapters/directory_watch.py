"""Says that something changed in a directory: the baselines, the settings.

Source: inotify(7); asyncinotify.  Editors and configuration tools replace files, so the directory is
watched and not the files in it.  Changes that come together are reported once, when it has been
quiet for a moment, so that a file is not loaded half-written or once per file of a package upgrade.

A slow check stands beside inotify.  It compares names, inode numbers, sizes, modes and times, and
looks whether the path still leads to the directory that is watched.  So changes are found, if later,
in a directory that was absent, removed or replaced, behind symbolic links, on a network file system,
or where inotify has run into one of its limits.

What it does not do: read the files, or say which one changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable
from itertools import islice
from pathlib import Path

from asyncinotify import Event, Inotify, Mask, Watch
from structlog.typing import FilteringBoundLogger

MAX_ENTRIES = 10_000
"""The slow check compares no more entries than this; inotify sees them all."""

_MASK = (
    Mask.CLOSE_WRITE
    | Mask.CREATE
    | Mask.DELETE
    | Mask.MOVED_FROM
    | Mask.MOVED_TO
    | Mask.ATTRIB  # a file that becomes readable
    | Mask.DELETE_SELF
    | Mask.MOVE_SELF
    | Mask.ONLYDIR
)

_Signature = tuple[tuple[str | int, ...], ...] | None


class DirectoryWatch:
    """A stream of "something changed" for one directory.

    Construct it before reading the directory for the first time: what changes from then on is
    reported, also what changes before `changes()` is iterated.

    Args:
        directory: may be absent for the time being.
        log: gets `inotify_unavailable` where only the slow check is left.
        suffix: only names that end so, or in one of these ways, count (".toml"); editors leave others behind.
        debounce_seconds: so long it must be quiet before a change is reported.
        max_delay_seconds: but it is reported so long after it began, quiet or not.
        check_interval_seconds: pace of the slow check.
        inotify: makes the inotify instance; may raise OSError.
    """

    def __init__(
        self,
        directory: Path,
        *,
        log: FilteringBoundLogger,
        suffix: str | tuple[str, ...] = "",
        debounce_seconds: float = 0.2,
        max_delay_seconds: float = 2.0,
        check_interval_seconds: float = 2.0,
        inotify: Callable[[], Inotify] = Inotify,
    ) -> None:
        self._directory = directory
        self._log = log
        self._suffix = suffix
        self._debounce = debounce_seconds
        self._max_delay = max(max_delay_seconds, debounce_seconds)
        self._check_interval = check_interval_seconds
        self._factory = inotify
        self._inotify: Inotify | None = None
        self._watch: Watch | None = None
        self._told = False
        self._signature = self._look()

    @property
    def directory(self) -> Path:
        return self._directory

    async def changes(self) -> AsyncGenerator[None, None]:
        """One item each time something changed since the item before.

        The directory may have gone or come: look for yourself.  Ends only by cancellation or aclose()
        (use contextlib.aclosing); then no descriptor is left open.  One iteration at a time.
        """
        heard = False
        try:
            while True:
                self._attach()  # before looking: what comes after the look is then heard
                signature = self._look()
                if heard or signature != self._signature:
                    self._signature = signature
                    yield None
                heard = await self._hear()
        finally:
            if self._inotify is not None:
                self._inotify.close()
            self._inotify = self._watch = None

    def _look(self) -> _Signature:
        """What the directory holds; None if there is no such directory."""
        try:
            with os.scandir(self._directory) as entries:
                relevant = (entry for entry in entries if entry.name.endswith(self._suffix))
                return tuple(sorted(_describe(entry) for entry in islice(relevant, MAX_ENTRIES)))
        except OSError:
            return None

    def _attach(self) -> None:
        """See that the right directory is watched; it may be absent, or another one by now."""
        try:
            if self._inotify is None:
                self._inotify = self._factory()
            # The same directory again yields the same watch, another one in its place a new watch.
            watch = self._inotify.add_watch(self._directory, _MASK)
        except (FileNotFoundError, NotADirectoryError):
            self._forget()
        except OSError as error:  # no right to list it, or a limit: see inotify(7)
            self._forget()
            if not self._told:
                self._told = True
                self._log.warning(
                    "inotify_unavailable", path=str(self._directory), problem=error.strerror or str(error)
                )
        else:
            if watch is not self._watch:
                self._forget()
                self._watch = watch

    def _forget(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None and self._inotify is not None and watch in self._inotify.watches:
            with contextlib.suppress(OSError):  # the kernel may have removed it with its directory
                self._inotify.rm_watch(watch)

    async def _hear(self) -> bool:
        """True after a change and the quiet that follows it, False when it is time for the slow check."""
        loop = asyncio.get_running_loop()
        if not await self._event_before(loop.time() + self._check_interval):
            return False
        latest = loop.time() + self._max_delay
        while (now := loop.time()) < latest:
            if not await self._event_before(min(now + self._debounce, latest)):
                break
        return True

    async def _event_before(self, deadline: float) -> bool:
        if self._inotify is None:  # there is only the slow check
            await asyncio.sleep(deadline - asyncio.get_running_loop().time())
            return False
        # An event that get() drops when it is cancelled does no harm: the caller looks for itself.
        try:
            async with asyncio.timeout_at(deadline):
                while not self._concerns(await self._inotify.get()):
                    pass
        except TimeoutError:
            return False
        return True

    def _concerns(self, event: Event) -> bool:
        if event.watch is None:
            return True  # events were lost
        if event.watch is not self._watch or Mask.IGNORED in event.mask:
            return False  # of a directory no longer there; what took its place is found by looking
        return event.name is None or event.name.name.endswith(self._suffix)


def _describe(entry: os.DirEntry[str]) -> tuple[str | int, ...]:
    try:
        status = entry.stat()
    except OSError:
        return (entry.name,)  # a dangling link, or gone meanwhile
    return (entry.name, status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode)
