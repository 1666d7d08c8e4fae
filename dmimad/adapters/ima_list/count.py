"""The file `runtime_measurements_count`, and waiting for it to change.

Source: security/integrity/ima/ima_fs.c of Linux 6.1 to 7.2: the kernel formats the number on each read.

It is polled in a thread, because of what a wake-up costs an otherwise idle process: a thread that sleeps
and reads a few bytes takes two thirds of what a timer of the event loop takes, which has more of Python
to run through.
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from dmimad.adapters.ima_list.descriptor import in_thread, open_read_only

COUNT_BYTES = 32

MAX_SLEEP_SECONDS = 5.0
"""A longer wait is cut into such pieces, and each is a turn: who only waits does not hang."""


class CountWatch:
    """The file `runtime_measurements_count`, and waiting for it to change.

    Args:
        path: the file.
        passed: a descriptor of it that is not ours to close; -1: there is none.
    """

    def __init__(self, path: Path, passed: int = -1) -> None:
        self.seen = b""  # what it said when the list was last read
        self.turns = 0  # grows as long as somebody looks or waits; the thread's too, so for comparison only
        self._path = path
        self._passed = passed
        self._fd = passed
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
        """Until it says something else than `seen`; looks after `first` seconds, then at each interval.

        Until `interrupt()` at the longest.
        """
        if first <= 0.0:
            if self.read() != self.seen:
                return
            first = interval
        self._stop = False
        await in_thread(executor, partial(self._sleep_and_look, first, interval), self.interrupt)

    def _sleep_and_look(self, first: float, interval: float) -> None:
        self._sleep(first)
        while not self._stop and self.read() == self.seen:
            self._sleep(interval)

    def _sleep(self, seconds: float) -> None:
        """For so long, or until wake()."""
        self.turns += 1
        while seconds > MAX_SLEEP_SECONDS:
            if self._nudge.acquire(timeout=MAX_SLEEP_SECONDS):
                return
            seconds -= MAX_SLEEP_SECONDS
            self.turns += 1
        self._nudge.acquire(timeout=seconds)

    async def pause(self, seconds: float) -> None:
        """For so long, or until wake()."""
        loop = asyncio.get_running_loop()
        self._pause = pause = loop.create_future()
        until = loop.time() + seconds
        try:
            while not pause.done() and (left := until - loop.time()) > 0.0:
                await asyncio.wait([pause], timeout=min(left, MAX_SLEEP_SECONDS))
                self.turns += 1
        finally:
            self._pause = None

    def wake(self) -> None:
        """Look now; ends a pause."""
        if self._pause is not None:
            _finish(self._pause)
        elif self._nudge.locked():  # and stays so: nobody else releases it
            self._nudge.release()

    def interrupt(self) -> None:
        """End the waiting, whatever the count says."""
        self._stop = True
        self.wake()

    def close(self) -> None:
        """Let go of the file; it is opened again at the next `read`."""
        if self._fd != self._passed:
            os.close(self._fd)
            self._fd = self._passed


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def number_of(text: bytes) -> int | None:
    """What the file says, as a number; None if it is none."""
    digits = text.strip()
    return int(digits) if digits.isdigit() else None
