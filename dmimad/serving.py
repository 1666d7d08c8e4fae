"""What the daemon serves over HTTP: metrics, and the status page.

Metrics are served from the start or the daemon does not start; that there is no page is no reason not to
monitor.  The servers outlive a daemon that begins again in the same process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from dmimad import __version__
from dmimad.adapters.http.metrics import MetricsServer
from dmimad.adapters.metrics import DaemonCollector, registry
from dmimad.core.errors import DmimadError, InternalError
from dmimad.core.monitor import Monitor
from dmimad.core.status import Surroundings
from dmimad.page.server import PageServer, Sources
from dmimad.reloading import METRICS, PAGE, Reloading
from dmimad.settings import Settings

if TYPE_CHECKING:
    import ssl

    from structlog.typing import FilteringBoundLogger


PAGE_AGAIN_SECONDS = 5.0
"""Between two tries to serve the page."""


class Shown(Protocol):
    """The daemon, as far as it is shown here."""

    @property
    def settings(self) -> Settings: ...

    @property
    def monitor(self) -> Monitor: ...

    @property
    def reloading(self) -> Reloading: ...

    def surroundings(self) -> Surroundings:
        """What the monitor does not know."""
        ...


class Serving:
    """Both servers.

    Args:
        daemon: what they show.
        collector: of its metrics.
    """

    def __init__(
        self,
        daemon: Shown,
        collector: DaemonCollector,
        *,
        wall_clock: Callable[[], float],
        monotonic: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self._daemon = daemon
        self._collector = collector
        self._wall_clock = wall_clock
        self._monotonic = monotonic
        self._log = log
        self._metrics: MetricsServer | None = None
        self._page: PageServer | None = None
        self._page_starting = asyncio.Lock()

    @property
    def metrics_url(self) -> str:
        """Where the metrics are; "" if they are not served."""
        return "" if self._metrics is None else self._metrics.url

    @property
    def page_url(self) -> str:
        """Where the page is; "" if it is not served."""
        return "" if self._page is None else self._page.url

    def use(self, use: str, tls: ssl.SSLContext | None) -> None:
        """New connections to the endpoint of metrics or page use this."""
        server = {METRICS: self._metrics, PAGE: self._page}[use]
        if server is not None:
            server.tls = tls

    async def stop(self) -> None:
        """Serve nothing any more."""
        for server in (self._metrics, self._page):
            if server is not None:
                await server.stop()

    async def serve_metrics(self) -> None:
        """Begin to serve the metrics, if that is wanted; raises AdapterError."""
        settings = self._daemon.settings.metrics
        if not settings.enabled:
            return
        server = MetricsServer(
            registry(self._collector),
            address=settings.address,
            port=settings.port,
            log=self._log,
            tls=self._daemon.reloading.first_tls(METRICS),
        )
        await server.start()
        self._metrics = server

    async def keep_page(self) -> None:
        """Serve the page as soon as that can be: an address may be there later than the daemon."""
        while self._daemon.settings.page.enabled and self._page is None:
            await self.serve_page()
            await asyncio.sleep(PAGE_AGAIN_SECONDS)

    async def serve_page(self) -> None:
        """Begin to serve the page, if that is wanted and not so yet."""
        async with self._page_starting:
            if not self._daemon.settings.page.enabled or self._page is not None:
                return
            try:
                server = await asyncio.to_thread(self._page_server)  # templates take a moment
                await server.start()
            except Exception as error:  # the boundary: whatever it is, only the page is missing
                foreseen = isinstance(error, DmimadError)
                self._daemon.reloading.page_unavailable(str(error if foreseen else InternalError(error)))
                return
            self._page = server
            self._daemon.reloading.page_unavailable("")

    def _page_server(self) -> PageServer:
        """As the settings have it; raises AdapterError."""
        daemon, settings, wall_clock = self._daemon, self._daemon.settings.page, self._wall_clock
        return PageServer(
            Sources(
                status=lambda: daemon.monitor.status(wall_clock(), daemon.surroundings()),
                detail=lambda key: daemon.monitor.detail(key, wall_clock(), daemon.surroundings()),
            ),
            address=settings.address,
            port=settings.port,
            version=__version__,
            log=self._log,
            tls=daemon.reloading.first_tls(PAGE),
            checks_host=not settings.tls_client_ca_file,
            monotonic=self._monotonic,
            wall_clock=wall_clock,
        )
