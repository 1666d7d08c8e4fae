"""Answers browsers: which page, for whom, with which headers.

Source: RFC 9110 §13 (If-None-Match), Content Security Policy Level 3.

Pages are made one at a time, with pauses, and shared by all who ask (`Sharing`), so that however many look,
the daemon has nine tenths of its time for the list.  There is nothing that could be changed: GET and HEAD
alone.

Another site in the same browser cannot read the page: it may not be embedded, and a name that some name
service has for this address (DNS rebinding) is not answered.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from urllib.parse import unquote

from structlog.typing import FilteringBoundLogger

from dmimad.adapters.control.sharing import Sharing
from dmimad.adapters.http.server import NOT_ALLOWED, HttpServer, Place, Request, Response
from dmimad.core.errors import InternalError
from dmimad.core.status import timeless
from dmimad.page.device import device_page
from dmimad.page.overview import Level, overview
from dmimad.page.rendering import Page, Renderer, assets

Document = Mapping[str, object]

HEADERS: tuple[tuple[str, str], ...] = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("X-Frame-Options", "DENY"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
)
HTML, JSON = "text/html; charset=utf-8", "application/json"
MAX_AGE_SECONDS = 0.5
"""A page so old is still given to who asks."""
MAX_KEPT_BYTES = 1 << 20
_DEVICE = re.compile(r"/device/([0-9a-z:-]{1,64})(\.json)?")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/]+)(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the documents come from; called in the event loop.  `detail` of no such device is None."""

    status: Callable[[], Document]
    detail: Callable[[str], Document | None]


@dataclass(frozen=True, slots=True)
class _Made:
    """A page or document, when it was made, and its HTTP status."""

    page: Page
    content_type: str
    at: float
    status: str = "200 OK"


class PageServer:
    """Serves the page, in the running event loop.

    Args:
        checks_host: refuse names that are not this host's, against DNS rebinding.
        tls: for new connections, None for plain text; may be set again at any time.
    """

    def __init__(
        self,
        sources: Sources,
        *,
        address: str,
        port: int,
        version: str,
        log: FilteringBoundLogger,
        tls: ssl.SSLContext | None = None,
        checks_host: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._sources = sources
        self._address = address
        self._log = log
        self._checks_host = checks_host
        self._monotonic = monotonic
        self._wall_clock = wall_clock
        self._assets = assets()
        self._renderer = Renderer(version, self._assets)
        self._sharing: Sharing[_Made] = Sharing(monotonic)
        self._kept: dict[str, _Made] = {}
        self._http = HttpServer(
            Place("page", address, port),
            self._answer,
            not_accepting=lambda problem: self._log.warning("page_not_accepting", problem=problem),
            tls=tls,
            headers=HEADERS,
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
        """Where the page is, with the port that was given by the system for port 0."""
        return f"{self._http.origin}/"

    async def start(self) -> None:
        """Listen.  Raises AdapterError where that cannot be."""
        await self._http.start()
        self._log.info("page_listening", url=self.url)

    async def stop(self) -> None:
        """Stop listening and end open connections; does nothing where there is nothing to stop."""
        self._sharing.stop()
        await self._http.stop()

    # -- one request -----------------------------------------------------------------------

    async def _answer(self, request: Request) -> Response:
        response = await self._response(request)
        date = ("Date", formatdate(self._wall_clock(), usegmt=True))
        return Response(response.status, response.body, response.content_type, (date, *response.headers))

    async def _response(self, request: Request) -> Response:
        if self._checks_host and not is_own_host(request.headers.get("host", ""), self._address):
            return Response("421 Misdirected Request", b"ask by address, localhost or page.address\n")
        if request.method not in ("GET", "HEAD"):
            return NOT_ALLOWED
        if (asset := self._assets.get(request.path)) is not None:
            return Response("200 OK", asset.body, asset.content_type)
        try:
            made = await self._made(unquote(request.path))
        except Exception as error:  # the boundary: a bug in a page is told, and does not end the daemon
            problem = str(InternalError(error))
            self._log.error("page_failed", path=request.path, problem=problem)
            return Response("500 Internal Server Error", f"{problem}\n".encode())
        tag = (("ETag", made.page.etag),)
        if made.status == "200 OK" and _matches(request.headers.get("if-none-match", ""), made.page.etag):
            return Response("304 Not Modified", headers=tag)
        return Response(made.status, made.page.body, made.content_type, tag)

    async def _made(self, path: str) -> _Made:
        kept = self._kept.get(path)
        if kept is not None and self._monotonic() - kept.at < MAX_AGE_SECONDS:
            return kept
        made = await self._sharing.fresh(path, lambda: self._make(path))
        now = self._monotonic()
        self._kept = {name: each for name, each in self._kept.items() if now - each.at < MAX_AGE_SECONDS}
        if made.status == "200 OK" and len(made.page.body) <= MAX_KEPT_BYTES:
            self._kept[path] = made
        return made

    # -- pages -----------------------------------------------------------------------------

    async def _make(self, path: str) -> _Made:
        """What is known is gathered at once; that it becomes text is a thread's, beside the event loop."""
        began = self._monotonic()
        if path == "/":
            return _Made(await asyncio.to_thread(self._index, self._sources.status()), HTML, began)
        if path == "/status.json":
            return _Made(await asyncio.to_thread(_json, self._sources.status()), JSON, began)
        found = _DEVICE.fullmatch(path)
        if found is None:
            return self._message("404 Not Found", "There is no such page", began)
        detail = self._sources.detail(found[1])
        if detail is None:
            return self._message("404 Not Found", f"There is no device {found[1]} now", began)
        if found[2]:
            return _Made(await asyncio.to_thread(_json, detail), JSON, began)
        return _Made(await asyncio.to_thread(self._device, detail), HTML, began)

    def _index(self, status: Document) -> Page:
        view = overview(status)
        return self._renderer.page(
            "index.html",
            title=f"{view.banner.mark}{view.host} – dmimad",
            host=view.host,
            time=view.time,
            level=view.banner.level,
            view=view,
        )

    def _device(self, detail: Document) -> Page:
        view = device_page(detail)
        return self._renderer.page(
            "device.html",
            title=f"{view.title} – {view.host} – dmimad",
            host=view.host,
            time=view.time,
            level=view.row.level,
            view=view,
        )

    def _message(self, status: str, words: str, began: float) -> _Made:
        page = self._renderer.page(
            "message.html", title=f"{words} – dmimad", host="", time="", level=Level.OFF, words=words
        )
        return _Made(page, HTML, began, status)


def _json(document: Document) -> Page:
    """Its tag is that of everything that does not change by itself; each member is encoded once."""
    members = {name: _encoded(value) for name, value in document.items()}
    told = timeless(document) if "list" in document else {**document, "time": ""}
    digest = hashlib.sha256()
    for name, text in members.items():
        calm = text if told[name] is document[name] else _encoded(told[name])
        digest.update(f"{name}\0{calm}\0".encode())
    body = ",\n".join(f"{json.dumps(name)}: {text}" for name, text in members.items())
    return Page(f"{{{body}}}\n".encode(), f'"{digest.hexdigest()[:32]}"')


def _encoded(value: object) -> str:
    """A list item by item: other threads wait for as long as one call takes."""
    return f"[{', '.join(map(json.dumps, value))}]" if isinstance(value, list) else json.dumps(value)


def _matches(header: str, etag: str) -> bool:
    """RFC 9110 §13.1.2: any of the tags, or anything at all."""
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return etag in tags or tags == ["*"]


def is_own_host(header: str, address: str) -> bool:
    """Whether a Host header names this host in a way that no name service decides on."""
    found = _HOST.fullmatch(header)
    if found is None:
        return False
    name = found[1].lower().removesuffix(".").strip("[]")
    if name in ("localhost", address.lower().removesuffix(".")):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
