"""The connections of an HTTP/1.x endpoint, with TLS and client certificates where that is set.

Source: RFC 9112 for the requests.

A connection counts from the moment it is accepted, its TLS handshake included, and has ten seconds for
everything.  Where there are too many the oldest has to go, so nobody who merely holds connections open keeps
others out.  Each connection has the TLS context of when it came: another one needs no other listener.

What this module does not do: keep connections alive, read a request's body, or know what is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dmimad.core.errors import AdapterError

MAX_CONNECTIONS = 16
MAX_REQUEST_BYTES = 8192
#: Of a request that is too long so much is read to be able to say so.
MAX_PASSED_OVER_BYTES = 256 << 10
REQUEST_SECONDS = 10.0
#: No more of an answer is held for one client than this, beside what all clients share.
SEND_PIECE_BYTES = 64 << 10
#: Nothing can be accepted, for want of descriptors perhaps: wait so long before the next try.
_ACCEPT_AGAIN_SECONDS = 1.0
_BODILESS = ("204", "304")


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request: `path` without the query, `headers` by their names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; `headers` beside those that each answer has.  For HEAD the body is left out."""

    status: str
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


BAD_REQUEST = Response("400 Bad Request", b"only HTTP/1.x\n")
TOO_LARGE = Response(
    "431 Request Header Fields Too Large", b"the request is too long; too many cookies, perhaps\n"
)
NOT_ALLOWED = Response("405 Method Not Allowed", b"only GET and HEAD\n", headers=(("Allow", "GET, HEAD"),))


@dataclass(frozen=True, slots=True)
class Place:
    """Where to listen; `section` is that of the settings, for messages."""

    section: str
    address: str
    port: int

    @property
    def host_port(self) -> str:
        """As in a URL."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class HttpServer:
    """Listens, in the running event loop, and sends what `answer` makes of each request.

    Args:
        answer: called in the event loop; several at once.
        not_accepting: told why no connection can be accepted.
        tls: for new connections, None for plain text; may be set again at any time.
        headers: of each answer, also to what is no request.
    """

    def __init__(
        self,
        place: Place,
        answer: Callable[[Request], Awaitable[Response]],
        *,
        not_accepting: Callable[[str], None],
        tls: ssl.SSLContext | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.tls = tls
        self._headers = headers
        self._place = place
        self._port = place.port
        self._answer = answer
        self._not_accepting = not_accepting
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._connections: dict[asyncio.Task[None], socket.socket] = {}

    @property
    def origin(self) -> str:
        """Where it listens, as a URL, with the port that was given by the system for port 0."""
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://{replace(self._place, port=self._port).host_port}"

    async def start(self) -> None:
        """Listen.  Raises AdapterError where that cannot be."""
        self._listener = await _listener(replace(self._place, port=self._port))
        self._listener.setblocking(False)
        self._port = self._listener.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept(self._listener), name=self._place.section)

    async def stop(self) -> None:
        """Stop listening and end open connections; does nothing where there is nothing to stop."""
        if self._listener is None or self._accepting is None:
            return
        await _cancelled(self._accepting)
        self._listener.close()
        await _cancelled(*self._connections)
        self._listener = None

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as error:
                self._not_accepting(str(error))
                await asyncio.sleep(_ACCEPT_AGAIN_SECONDS)
                continue
            if len(self._connections) >= MAX_CONNECTIONS:
                oldest = next(iter(self._connections))
                del self._connections[oldest]
                oldest.cancel()
            task = loop.create_task(self._serve(sock), name=f"{self._place.section} connection")
            self._connections[task] = sock
            task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task, None)

    async def _serve(self, sock: socket.socket) -> None:
        """One connection, of which everything has to be over in time."""
        transport: asyncio.WriteTransport | None = None
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                reader, writer = await self._opened(sock)
                transport = writer.transport
                request = await _request(reader)
                response = await self._answer(request) if isinstance(request, Request) else request
                response = replace(response, headers=(*self._headers, *response.headers))
                await _send(
                    writer, response, head_only=isinstance(request, Request) and request.method == "HEAD"
                )
                writer.close()
                await writer.wait_closed()
        except (OSError, EOFError):
            pass  # the client went away, was too slow (TimeoutError) or sent no TLS: its loss
        finally:
            if transport is None:
                sock.close()
            else:
                transport.abort()

    async def _opened(self, sock: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The streams of an accepted connection, after the handshake."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=MAX_REQUEST_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            sock,
            ssl=self.tls,
            ssl_handshake_timeout=None if self.tls is None else REQUEST_SECONDS,
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def _request(reader: asyncio.StreamReader) -> Request | Response:
    """What is asked, or how that is refused."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        return TOO_LARGE
    return _parsed(head) or BAD_REQUEST


async def _passed_over(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What else was sent: with that unread, the connection would be reset, and the answer be lost."""
    if writer.can_write_eof():
        writer.write_eof()
    left = MAX_PASSED_OVER_BYTES
    while left > 0 and (piece := await reader.read(left)):
        left -= len(piece)


def _parsed(head: bytes) -> Request | None:
    """None: it is no HTTP/1.x, or says twice what may be said once."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, version = (*first.split(" "), "", "", "")[:3]
    if not version.startswith("HTTP/1."):
        return None
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name.lower() == "host" and "host" in headers:
            return None
        headers[name.lower()] = value.strip(" \t")
    return Request(method, target.split("?", 1)[0], headers)


async def _send(writer: asyncio.StreamWriter, response: Response, *, head_only: bool) -> None:
    # So that drain() waits until all is taken; under TLS a limit of 0 would hold writing for ever.
    writer.transport.set_write_buffer_limits(high=1, low=0)
    writer.write(_head(response))
    if head_only or response.status.startswith(_BODILESS):
        return
    for at in range(0, len(response.body), SEND_PIECE_BYTES):
        writer.write(response.body[at : at + SEND_PIECE_BYTES])
        await writer.drain()


def _head(response: Response) -> bytes:
    lines = [f"HTTP/1.1 {response.status}"]
    if not response.status.startswith(_BODILESS):
        lines += [f"Content-Type: {response.content_type}", f"Content-Length: {len(response.body)}"]
    lines += ["Cache-Control: no-store", "X-Content-Type-Options: nosniff"]
    lines += [f"{name}: {value}" for name, value in response.headers]
    return ("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode("ascii")


def try_to_listen(place: Place) -> None:
    """Whether one could listen there, without doing so; raises AdapterError, as `HttpServer.start` would.

    Blocks while the name service thinks, if the address is a name.
    """
    with _explained(place):
        family, bindable = _first(
            socket.getaddrinfo(place.address, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        )
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not _takes_both(bindable)))
            sock.bind(bindable)


async def _listener(place: Place) -> socket.socket:
    """A listening socket on the first address that the place stands for; `::` takes IPv4 too."""
    with _explained(place):
        family, bindable = _first(
            await asyncio.get_running_loop().getaddrinfo(
                place.address, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        )
        both = family == socket.AF_INET6 and _takes_both(bindable)
        return socket.create_server(bindable, family=family, dualstack_ipv6=both, backlog=MAX_CONNECTIONS)


def _first(found: Sequence[tuple[Any, ...]]) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """Family and address of what the name service says first."""
    family, _, _, _, bindable = found[0]
    return family, bindable


def _takes_both(bindable: tuple[Any, ...]) -> bool:
    return bindable[0] == "::" and socket.has_dualstack_ipv6()


@contextlib.contextmanager
def _explained(place: Place) -> Iterator[None]:
    """What is in the way of listening, as AdapterError."""
    section = place.section
    where = f"{section} endpoint {place.host_port}"
    try:
        yield
    except socket.gaierror as error:
        problem, remedy = f"the address is not known ({error.strerror})", "correct {0}.address"
        raise AdapterError(problem, where, remedy.format(section)) from error
    except OSError as error:
        problem, remedy = _REMEDIES.get(
            error.errno or 0, (str(error), "choose another {0}.address or {0}.port")
        )
        raise AdapterError(problem, where, remedy.format(section)) from error


_REMEDIES: Mapping[int, tuple[str, str]] = {
    errno.EADDRINUSE: ("the port is in use", "stop what listens there or choose another {0}.port"),
    errno.EADDRNOTAVAIL: ("no interface has this address", "correct {0}.address"),
    errno.EACCES: ("not permitted", "choose a {0}.port of 1024 or above"),
    errno.EAFNOSUPPORT: ("no such address family here", "choose an IPv4 {0}.address"),
}


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    """Until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
