"""Ctrl-C, SIGTERM and a closed terminal end the demo in order: once, and with everything cleaned up.

Source: signal(7).

The first signal cancels the demo's task; what follows is ignored, for cleaning up takes a moment and must
not be cut short.  A signal that was ignored before (nohup) stays ignored.
"""

from __future__ import annotations

import asyncio
import signal
from types import FrameType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """A context: within it signals cancel the task that `watch` was called in.

    ``received`` is the signal that ended it, or None; ``in_time`` says that there was nothing left to end.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.in_time = False
        self._before: dict[int, object] = {}
        self._task: asyncio.Task[object] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._before[number] = signal.getsignal(number)
        self._install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what getsignal returned

    def watch(self) -> None:
        """From now on a signal cancels the running task; one that came before does so at once."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        if self.received is not None:
            self._cancel()

    def ignore(self) -> None:
        """The end has begun: it goes its way."""
        self._task = None

    def _install(self) -> None:
        for number in _SIGNALS:
            ignored = self._before[number] is signal.SIG_IGN
            signal.signal(number, signal.SIG_IGN if ignored else self._handle)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.received is None:
            self.received = number
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
