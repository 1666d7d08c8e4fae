"""A door between daemon and broker: connections pass only while the test holds it open.

Why: a broker hands an alert to those who are subscribed at that moment.  One that was killed and
started again could take the daemon's alerts, acknowledge them and have nobody to give them to before
the test's subscriber is back; the test would then blame the daemon for a loss behind its back.  So the
door opens after the subscriber is subscribed.  (Slamming it cuts the connection: one more thing to survive.)
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self


class Relay:
    """Forwards a port of the loopback to the broker's; use as a context manager."""

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}
        self.port = 0

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.slam()

    async def open(self) -> None:
        """Let connections through, on the same port each time."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def slam(self) -> None:
        """Cut all connections, and refuse others."""
        if self._server is None:
            return
        self._server.close()
        for writers in self._connections.values():
            for writer in writers:
                writer.transport.abort()
        if self._connections:
            await asyncio.wait(list(self._connections))
        await self._server.wait_closed()
        self._server = None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = (writer,)
        try:
            with contextlib.suppress(OSError):  # the broker is down: the daemon sees its connection end
                onward, back = await asyncio.open_connection("127.0.0.1", self._broker_port)
                self._connections[task] = (writer, back)
                if self._server is not None and self._server.is_serving():
                    await asyncio.gather(_forward(reader, back), _forward(onward, writer))
        finally:
            for each in self._connections.pop(task):
                each.transport.abort()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side ends; then both do."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()
