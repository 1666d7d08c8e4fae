"""Documents for all who ask: one is made at a time, with pauses, and shared by those who wait for it.

However many ask, making documents takes about a tenth of the daemon's time at most.  What it does not do:
know what the documents are, or keep them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

REST = 10
"""After a document was made, so many times the time it took none is made."""

Made = TypeVar("Made")


class Sharing(Generic[Made]):
    """Makes documents of different kinds, told by their keys."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._turn = asyncio.Lock()
        self._rest_until = 0.0
        self._next: dict[str, asyncio.Task[Made]] = {}
        self._stopped = asyncio.Event()

    async def fresh(self, key: str, make: Callable[[], Made | Awaitable[Made]]) -> Made:
        """What `make` returns, called after this was; raises what it raises.

        What takes long may be awaited: no other is made meanwhile, and the rest of the daemon goes on.
        """
        if key not in self._next:
            task = asyncio.create_task(self._make(key, make), name="status document")
            task.add_done_callback(_heed)
            self._next[key] = task
        # If who asked first goes, the others still wait for it.
        return await asyncio.shield(self._next[key])

    def stop(self) -> None:
        """No more pauses: whoever waits for a document is gone soon."""
        self._stopped.set()

    async def _make(self, key: str, make: Callable[[], Made | Awaitable[Made]]) -> Made:
        try:
            async with self._turn:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(self._rest_until - self._monotonic(), 0.0)):
                        await self._stopped.wait()
                del self._next[key]  # who comes from here on wants a newer one
                began = self._monotonic()
                try:
                    made = make()
                    return await made if isinstance(made, Awaitable) else made
                finally:
                    ended = self._monotonic()
                    self._rest_until = ended + REST * (ended - began)
        finally:
            if self._next.get(key) is asyncio.current_task():
                del self._next[key]


def _heed(task: asyncio.Task[Made]) -> None:
    """What went wrong is told to who waits for it; if nobody does any more, it need not be told."""
    if not task.cancelled():
        task.exception()
