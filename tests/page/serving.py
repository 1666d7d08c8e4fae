"""The page served in the test's own process, of documents that the test gives."""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from dmimad.adapters.log import open_log
from dmimad.page.server import PageServer, Sources
from tests.page.documents import Document, detail, status

DEADLINE_SECONDS = 20.0
NOW = 1796008442.0  # 2026-11-30T03:14:02Z


@dataclass
class Knowledge:
    """What is served, and how often it was asked for."""

    status: Document = field(default_factory=status)
    devices: dict[str, Document] = field(default_factory=lambda: {"253:5": detail()})
    asked: int = 0
    now: float = 1000.0
    version: str = "1.2.3"

    def sources(self) -> Sources:
        return Sources(self._status, self.devices.get)

    def _status(self) -> Mapping[str, object]:
        self.asked += 1
        return self.status


@dataclass(frozen=True)
class Answer:
    """An answer's status line without the version, its headers and its body."""

    status: str
    headers: Mapping[str, str]
    body: str


@asynccontextmanager
async def serving(
    known: Knowledge,
    *,
    address: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
    checks_host: bool = True,
    log: io.StringIO | None = None,
    monotonic: Callable[[], float] | None = None,
) -> AsyncIterator[PageServer]:
    server = PageServer(
        known.sources(),
        address=address,
        port=port,
        version=known.version,
        log=open_log(log or io.StringIO(), form="json", environ={}),
        tls=tls,
        checks_host=checks_host,
        monotonic=monotonic or (lambda: known.now),
        wall_clock=lambda: NOW,
    )
    await server.start()
    try:
        yield server
    finally:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await server.stop()


async def ask(
    url: str,
    path: str = "/",
    *,
    method: str = "GET",
    host: str | None = "localhost",
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """One request, with this Host header."""
    found = urlsplit(url)
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [] if host is None else [f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    async with asyncio.timeout(DEADLINE_SECONDS):
        reader, writer = await asyncio.open_connection(found.hostname, found.port, ssl=tls)
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
            text = (await reader.read()).decode()
        finally:
            writer.transport.abort()
    head, _, body = text.partition("\r\n\r\n")
    first, *rest = head.split("\r\n")
    return Answer(first.partition(" ")[2], dict(line.split(": ", 1) for line in rest), body)
