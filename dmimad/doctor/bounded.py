"""A call that may hang (a dead file server, a silent name service), given so much time and no more.

What hangs is left behind in a daemon thread, which does not keep the process from ending.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class _Call(Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self.done = threading.Event()
        self.result: list[T] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result.append(self._work())
        except BaseException as error:  # raised again where it is waited for
            self.error = error
        finally:
            self.done.set()


def bounded(seconds: float, work: Callable[[], T]) -> T:
    """What `work` returns or raises; TimeoutError if it takes longer than `seconds`."""
    call = _Call(work)
    threading.Thread(target=call.run, name="doctor", daemon=True).start()
    if not call.done.wait(seconds):
        raise TimeoutError(f"no answer within {seconds:g} s")
    if call.error is not None:
        raise call.error
    return call.result[0]
