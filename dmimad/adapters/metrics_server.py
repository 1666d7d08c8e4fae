"""The endpoint that Prometheus scrapes: HTTP/1.x, with TLS and client certificates where that is set.

Source: RFC 9112 for the requests; what is served is `dmimad.adapters.metrics`'.

A connection counts from the moment it is accepted, its TLS handshake included, and has ten seconds for
everything.  Where there are too many the oldest has to go, so nobody who merely holds connections open keeps
a scraper out.  Each connection has the TLS context of when it came: another one needs no other listener.

What this module does not do: keep connections alive, or serve anything but metrics.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import stat
from collections.abc import Collection, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from structlog.typing import FilteringBoundLogger

from dmimad.core.errors import AdapterError
from dmimad.core.transport import exposure, unusable_chain

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_CONNECTIONS = 16
MAX_REQUEST_BYTES = 8192
REQUEST_SECONDS = 10.0
MAX_FILE_BYTES = 4 << 20
#: Nothing can be accepted, for want of descriptors perhaps: wait so long before the next try.
_ACCEPT_AGAIN_SECONDS = 1.0


class TlsFiles(Protocol):
    """The part of the settings, [metrics], that names the files."""

    @property
    def tls_cert_file(self) -> str: ...
    @property
    def tls_key_file(self) -> str: ...
    @property
    def tls_client_ca_file(self) -> str: ...


def server_context(files: TlsFiles, users: Collection[int] | None = None) -> ssl.SSLContext | None:
    """TLS as the files have it now; None without a certificate.  Raises AdapterError: a file is unusable.

    The key must belong to root or one of the `users`; None: to whoever runs this.
    """
    if not files.tls_cert_file:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    certificate = _content(files.tls_cert_file, "metrics.tls_cert_file")
    key = _content(
        files.tls_key_file, "metrics.tls_key_file", secret_of=(os.geteuid(),) if users is None else users
    )
    try:
        # The empty password: OpenSSL would ask the terminal for that of an encrypted key.
        context.load_cert_chain(files.tls_cert_file, files.tls_key_file, password="")
    except OSError as error:  # SSLError is one
        problem = unusable_chain(certificate, key, getattr(error, "reason", None) or str(error.strerror))
        where = f"{files.tls_cert_file} {files.tls_key_file}"
        what = f"metrics.tls_cert_file, metrics.tls_key_file: {problem}"
        raise AdapterError(what, where, "put certificate and unencrypted key there (PEM)") from error
    if files.tls_client_ca_file:
        _content(files.tls_client_ca_file, "metrics.tls_client_ca_file")
        try:
            context.load_verify_locations(cafile=files.tls_client_ca_file)
        except OSError as error:
            what = "metrics.tls_client_ca_file: there is no certificate in it (PEM)"
            remedy = "put the CA of the clients' certificates there"
            raise AdapterError(what, files.tls_client_ca_file, remedy) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _content(path: str, setting: str, *, secret_of: Collection[int] | None = None) -> bytes:
    remedy = "put it there (PEM), readable for dmimad"
    try:
        with open(path, "rb", opener=_open) as file:
            status = os.fstat(file.fileno())
            content = file.read(MAX_FILE_BYTES + 1) if stat.S_ISREG(status.st_mode) else None
    except OSError as error:
        raise AdapterError(f"{setting}: {error.strerror}", path, remedy) from error
    if content is None:
        raise AdapterError(f"{setting}: is no file", path, remedy)
    if len(content) > MAX_FILE_BYTES:
        raise AdapterError(f"{setting}: too long", path, remedy)
    problem, command = "", ""
    if secret_of is not None:
        problem, command = exposure(path, status.st_mode, status.st_uid, secret_of)
    if problem:
        raise AdapterError(f"{setting}: {problem}", path, command)
    return content


def _open(path: str, flags: int) -> int:
    """Not to be held by a FIFO that nobody writes."""
    return os.open(path, flags | os.O_NONBLOCK)


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
        self.tls = tls
        self._registry = own
        self._address = address
        self._port = port
        self._log = log
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._connections: dict[asyncio.Task[None], socket.socket] = {}
        self._one_answer = asyncio.Lock()

    @property
    def url(self) -> str:
        """Where the metrics are, with the port that was given by the system for port 0."""
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://{_host_port(self._address, self._port)}/metrics"

    async def start(self) -> None:
        """Listen.  Raises AdapterError where that cannot be."""
        self._listener = await _listener(self._address, self._port)
        self._listener.setblocking(False)
        self._port = self._listener.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept(self._listener), name="metrics")
        self._log.info("metrics_listening", url=self.url)

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
                self._log.warning("metrics_not_accepting", problem=str(error))
                await asyncio.sleep(_ACCEPT_AGAIN_SECONDS)
                continue
            if len(self._connections) >= MAX_CONNECTIONS:
                oldest = next(iter(self._connections))
                del self._connections[oldest]
                oldest.cancel()
            task = loop.create_task(self._serve(sock), name="scrape")
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
                head = await reader.readuntil(b"\r\n\r\n")
                async with self._one_answer:
                    # However many ask at once: the rest of the daemon has its turn before each answer.
                    await asyncio.sleep(0)
                    writer.write(self._answer(head))
                writer.close()
                await writer.wait_closed()
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # the client went away, was too slow (TimeoutError), sent too much or no TLS: its loss
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

    def _answer(self, head: bytes) -> bytes:
        method, target, version = (*head.split(b"\r\n", 1)[0].decode("latin-1").split(" "), "", "", "")[:3]
        path = target.split("?", 1)[0]
        if not version.startswith("HTTP/1."):
            return _response("400 Bad Request", b"only HTTP/1.x\n")
        if method not in ("GET", "HEAD"):
            return _response("405 Method Not Allowed", b"only GET and HEAD\n", "Allow: GET, HEAD\r\n")
        if path == "/metrics":
            answer = _response("200 OK", generate_latest(self._registry), content_type=CONTENT_TYPE)
        elif path == "/":
            answer = _response("200 OK", b"dmimad: Prometheus metrics are at /metrics\n")
        else:
            answer = _response("404 Not Found", b"there is only /metrics\n")
        return answer if method == "GET" else answer[: answer.index(b"\r\n\r\n") + 4]


def _response(
    status: str, body: bytes, more: str = "", content_type: str = "text/plain; charset=utf-8"
) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        f"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{more}Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + body


async def _listener(address: str, port: int) -> socket.socket:
    """A listening socket on the first address that `address` stands for; `::` takes IPv4 too."""
    where = f"metrics endpoint {_host_port(address, port)}"
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, bindable = found[0]
        both = family == socket.AF_INET6 and bindable[0] == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(bindable, family=family, dualstack_ipv6=both, backlog=MAX_CONNECTIONS)
    except socket.gaierror as error:
        raise AdapterError(
            f"the address is not known ({error.strerror})", where, "correct metrics.address"
        ) from error
    except OSError as error:
        problem, remedy = _REMEDIES.get(
            error.errno or 0, (str(error), "choose another metrics.address or metrics.port")
        )
        raise AdapterError(problem, where, remedy) from error


_REMEDIES: Mapping[int, tuple[str, str]] = {
    errno.EADDRINUSE: ("the port is in use", "stop what listens there or choose another metrics.port"),
    errno.EADDRNOTAVAIL: ("no interface has this address", "correct metrics.address"),
    errno.EACCES: ("not permitted", "choose a metrics.port of 1024 or above"),
    errno.EAFNOSUPPORT: ("no such address family here", "choose an IPv4 metrics.address"),
}


def _host_port(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    """Until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
