"""The endpoint that Prometheus scrapes.

What is served is `dmimad.adapters.metrics`'; this module serves nothing but metrics.
"""

from __future__ import annotations

import asyncio
import ssl

from prometheus_client import CollectorRegistry, generate_latest
from structlog.typing import FilteringBoundLogger

from dmimad.adapters.http.server import NOT_ALLOWED, HttpServer, Place, Request, Response

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MetricsServer:
    """Serves `/metrics` of a registry over HTTP, in the running event loop.

    Args:
        tls: for new connections, None for plain text; may be set again at any time.
    """

    def __init__(
        self,
        own: CollectorRegistry,
        *,
        address: str,
        port: int,
        log: FilteringBoundLogger,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._registry = own
        self._log = log
        self._one_answer = asyncio.Lock()
        self._http = HttpServer(
            Place("metrics", address, port),
            self._answer,
            not_accepting=lambda problem: self._log.warning("metrics_not_accepting", problem=problem),
            tls=tls,
        )

    @property
    def tls(self) -> ssl.SSLContext | None:
        """For new connections."""
        return self._http.tls

    @tls.setter
    def tls(self, tls: ssl.SSLContext | None) -> None:
        self._http.tls = tls

    @property
    def url(self) -> str:
        """Where the metrics are, with the port that was given by the system for port 0."""
        return f"{self._http.origin}/metrics"

    async def start(self) -> None:
        """Listen.  Raises AdapterError where that cannot be."""
        await self._http.start()
        self._log.info("metrics_listening", url=self.url)

    async def stop(self) -> None:
        """Stop listening and end open connections; does nothing where there is nothing to stop."""
        await self._http.stop()

    async def _answer(self, request: Request) -> Response:
        async with self._one_answer:
            # However many ask at once: the rest of the daemon has its turn before each answer.
            await asyncio.sleep(0)
            return self._response(request)

    def _response(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return NOT_ALLOWED
        match request.path:
            case "/metrics":
                return Response("200 OK", generate_latest(self._registry), CONTENT_TYPE)
            case "/":
                return Response("200 OK", b"dmimad: Prometheus metrics are at /metrics\n")
        return Response("404 Not Found", b"there is only /metrics\n")
