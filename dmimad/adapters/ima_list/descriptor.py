"""An open list, and blocking calls in a thread that can be interrupted.

Source: fs/seq_file.c of Linux 6.1 to 7.2.  A read returns about one page however much is asked for, and
0 at the present end; positioning formats everything before the position.

What it does not do: open a list, or decide whether reading it may block the event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

FINGERPRINT_BYTES = 1024
"""So much before the position must be unchanged when a list is opened again."""

_T = TypeVar("_T")


def open_read_only(path: Path) -> int:
    """A descriptor for reading; raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)


class Descriptor:
    """An open list.  While `fill` or `before` run in a thread, nothing but `interrupt` is called.

    Args:
        fd: what is open.
        passed: it is not ours to close, and may be anywhere in the list.
    """

    __slots__ = ("_fd", "_interrupted", "_passed", "ended")

    def __init__(self, fd: int, *, passed: bool = False) -> None:
        self._fd = fd
        self._passed = passed
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
        if not self._passed:
            os.close(self._fd)


async def in_thread(
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
