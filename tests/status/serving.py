"""A control socket that answers with a document which the test changes."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import structlog

from dmimad.adapters.control.protocol import Peer, Request
from dmimad.adapters.control.server import Answers, ControlServer
from dmimad.core.status import timeless
from tests.status.documents import MAINTENANCE, document

DEADLINE_SECONDS = 30.0


class Serving:
    """A server in a thread, whose document the test changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.document = document()
        self.requests: list[Request] = []
        self._loop = asyncio.new_event_loop()
        answers = Answers(lambda: copy.deepcopy(self.document), timeless, self._other)
        self._server = ControlServer(path, answers, log=structlog.get_logger())
        self._server.listen()
        self._task = self._loop.create_task(self._server.run())
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _other(self, request: Request, peer: Peer) -> Mapping[str, object]:
        self.requests.append(request)
        return {"maintenance": MAINTENANCE}

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Within this connections are accepted, and nothing is answered."""
        release = threading.Event()
        self._loop.call_soon_threadsafe(release.wait)
        try:
            yield
        finally:
            release.set()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join(DEADLINE_SECONDS)
        self._server.close()
