"""The control socket's server: answers one request a connection, in the daemon's event loop.

Source: ``docs/status.md``; unix(7).

Whoever connects may be slow, silent, greedy or hostile.  Each class of users has its own few places, a
request has its time and its size, an answer its time, and status documents are made one at a time, with
pauses:
however many ask, they share one, and it takes a tenth of the daemon's time at most.

What it does not do: know what a status is, or change anything.  It knows who may ask and who may change.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import pwd
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dmimad.adapters.control.listening import listen_at, remove
from dmimad.adapters.control.protocol import (
    CHANGING,
    MAX_REQUEST_BYTES,
    Peer,
    Request,
    RequestKind,
    decode_request,
    encode_answer,
    encode_error,
    peer_uid,
)
from dmimad.adapters.control.sharing import Sharing
from dmimad.core.errors import DmimadError, InternalError, MalformedError

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

MAX_REPORTED_USERS = 64
"""So many users who were refused are logged, once each."""
BACKLOG = 32
SEND_PIECE_BYTES = 64 << 10
WATCH_SECONDS = 0.5
"""A watcher is told no more often."""


class Standing(enum.Enum):
    """What a user may."""

    OWN = "ask and change: root, and the daemon's own user"
    USER = "ask"
    NONE = "be told why not"


#: So many of each at once, so that none can keep another out.
PLACES: Mapping[Standing, int] = {Standing.OWN: 16, Standing.USER: 8, Standing.NONE: 4}


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a client may take: to say its request, to take a piece of the answer, to take all of it."""

    request_seconds: float = 5.0
    stall_seconds: float = 10.0
    answer_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Answers:
    """What the daemon answers; everything is called in the event loop and may raise DmimadError.

    Attributes:
        status: the present status document, which nobody changes any more.
        timeless: it without what changes by itself; if two are equal, there is nothing new to tell a watcher.
        other: the members of the answer to any other request.
    """

    status: Callable[[], Mapping[str, object]]
    timeless: Callable[[Mapping[str, object]], object]
    other: Callable[[Request, Peer], Mapping[str, object]]


def user_ids(users: Iterable[str]) -> tuple[frozenset[int], tuple[str, ...]]:
    """The ids of users given by name or id, and the names nobody has."""
    found, unknown = set(), []
    for user in users:
        if user.isascii() and user.isdecimal():
            found.add(int(user))
            continue
        try:
            found.add(pwd.getpwnam(user).pw_uid)
        except (KeyError, ValueError):
            unknown.append(user)
    return frozenset(found), tuple(unknown)


class ControlServer:
    """Serves the control socket.

    Args:
        path: where to listen.
        answers: what is answered.
        users: who may ask beside root and this process's own user.
        log: gets `control_listening`, `control_refused`, `control_failed`.
        timing: see there.
        monotonic: clock.
    """

    def __init__(
        self,
        path: Path,
        answers: Answers,
        *,
        users: frozenset[int] = frozenset(),
        log: FilteringBoundLogger,
        timing: Timing | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._answers = answers
        self._users = users
        self._log = log
        self._timing = timing or Timing()
        self._documents = _Documents(answers, monotonic)
        self._listener: socket.socket | None = None
        self._inode = 0
        self._clients: dict[asyncio.Task[None], _Client] = {}
        self._reported: set[int] = set()
        self._stopping = False

    def listen(self) -> None:
        """Clients can connect from now on; they are answered by `run`.  Raises AdapterError."""
        self._listener, self._inode = listen_at(self._path, others=bool(self._users), backlog=BACKLOG)
        self._log.info("control_listening", socket=str(self._path))

    def close(self) -> None:
        """Remove the socket."""
        if self._listener is not None:
            remove(self._listener, self._path, self._inode)
            self._listener = None

    async def run(self) -> None:
        """Answer until cancelled; `listen` has been called."""
        if self._listener is None:
            return
        # What the server closes is its own; ours stays until `close`.
        server = await asyncio.start_unix_server(
            self._connected, sock=self._listener.dup(), limit=MAX_REQUEST_BYTES, backlog=BACKLOG
        )
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._stopping = True
            server.close()
            # Their tasks end of themselves then; Python 3.11 reports one that is cancelled as an error.
            self._documents.stop()
            for client in self._clients.values():
                client.abort()
            await asyncio.gather(*self._clients, return_exceptions=True)
            await server.wait_closed()

    # -- one client ------------------------------------------------------------------------

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or self._stopping:
            writer.transport.abort()
            return
        try:
            uid = peer_uid(writer.get_extra_info("socket"))
        except OSError:  # nobody knows who that is
            writer.transport.abort()
            return
        client = _Client(reader, writer, uid, self._timing)
        if self._crowded(self._standing(uid)):
            client.leave(encode_error("too many clients are being served; try again"))
            return
        self._clients[task] = client
        try:
            await self._serve(client)
        except (OSError, EOFError):
            pass  # the client went away or was too slow (TimeoutError): its loss
        finally:
            del self._clients[task]
            client.abort()

    def _standing(self, uid: int) -> Standing:
        if uid in (0, os.geteuid()):
            return Standing.OWN
        return Standing.USER if uid in self._users else Standing.NONE

    def _crowded(self, standing: Standing) -> bool:
        same = sum(self._standing(client.uid) is standing for client in self._clients.values())
        return same >= PLACES[standing]

    async def _serve(self, client: _Client) -> None:
        request, problem = None, ""
        try:
            request = decode_request(await client.hear())
        except MalformedError as error:
            problem = str(error)
        problem = self._refusal(client.uid, request) or problem
        if request is None or problem:
            await client.tell(encode_error(problem))
        elif request.kind is RequestKind.WATCH:
            await self._watch(client)
        else:
            await client.tell(await self._answer(request, client.uid))

    def _refusal(self, uid: int, request: Request | None) -> str:
        standing = self._standing(uid)
        if standing is Standing.OWN:
            return ""
        if standing is Standing.USER:
            changing = request is not None and request.kind in CHANGING
            return f"user {uid} may ask, but not change anything; do it as root" if changing else ""
        if uid not in self._reported and len(self._reported) < MAX_REPORTED_USERS:
            self._reported.add(uid)
            self._log.warning("control_refused", uid=uid, user=_name(uid))
        return f"user {uid} may not ask; ask as root, or have root put the user into control.users"

    async def _answer(self, request: Request, uid: int) -> bytes:
        try:
            if request.kind is RequestKind.STATUS:
                return (await self._documents.fresh()).line
            return encode_answer(self._answers.other(request, Peer(uid, _name(uid))))
        except DmimadError as error:
            return encode_error(str(error))
        except Exception as error:  # the boundary: a bug in an answer is told, and does not end the daemon
            problem = str(InternalError(error))
            self._log.error("control_failed", request=request.kind.value, problem=problem)
            return encode_error(problem)

    async def _watch(self, client: _Client) -> None:
        told = 0
        while True:
            try:
                made = await self._documents.fresh(max_age_seconds=WATCH_SECONDS / 2)
            except Exception as error:  # the boundary, as above
                self._log.error("control_failed", request="watch", problem=str(InternalError(error)))
                await client.tell(encode_error(str(InternalError(error))))
                return
            if made.version != told:
                told = made.version
                await client.send(made.line)
            if await client.left(WATCH_SECONDS):
                return


class _Client:
    """One connection, with its limits."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, uid: int, timing: Timing
    ) -> None:
        self.uid = uid
        self._reader = reader
        self._writer = writer
        self._timing = timing
        writer.transport.set_write_buffer_limits(high=0)  # so that drain() waits until all is taken

    async def hear(self) -> bytes:
        """Its request.  Raises MalformedError, OSError, EOFError."""
        try:
            async with asyncio.timeout(self._timing.request_seconds):
                return await self._reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            raise MalformedError(f"a request is at most {MAX_REQUEST_BYTES >> 10} KiB long") from None
        except TimeoutError:
            raise MalformedError(
                f"there was no complete request within {self._timing.request_seconds:g} seconds"
            ) from None

    async def send(self, line: bytes) -> None:
        """Piece by piece, so that no more than one is held for it.  Raises OSError."""
        async with asyncio.timeout(self._timing.answer_seconds):
            for at in range(0, len(line), SEND_PIECE_BYTES):
                self._writer.write(line[at : at + SEND_PIECE_BYTES])
                async with asyncio.timeout(self._timing.stall_seconds):
                    await self._writer.drain()

    async def tell(self, line: bytes) -> None:
        """The last thing it is sent.  Raises OSError."""
        await self.send(line)
        self.leave(b"")

    def leave(self, line: bytes) -> None:
        """Send no more than what fits into the socket, and end; what was sent before is still read."""
        self._writer.write(line)
        self._writer.close()

    async def left(self, seconds: float) -> bool:
        """Whether it went within this time, or said something, which it has no business to."""
        try:
            async with asyncio.timeout(seconds):
                await self._reader.read(1)
        except TimeoutError:
            return False
        return True

    def abort(self) -> None:
        self._writer.transport.abort()


# -- status documents ----------------------------------------------------------------------


class _Made:
    """A status document, when it was made, and how many different ones there were until then."""

    def __init__(self, document: Mapping[str, object], timeless: object, version: int, at: float) -> None:
        self.timeless = timeless
        self.version = version
        self.at = at
        self._document: Mapping[str, object] | None = document
        self._line = b""

    @property
    def line(self) -> bytes:
        """As it is sent; encoded once."""
        if self._document is not None:
            self._line, self._document = encode_answer({"status": self._document}), None
        return self._line


class _Documents:
    """Status documents for all who ask; see `Sharing`."""

    def __init__(self, answers: Answers, monotonic: Callable[[], float]) -> None:
        self._answers = answers
        self._monotonic = monotonic
        self._last: _Made | None = None
        self._sharing: Sharing[_Made] = Sharing(monotonic)
        self.stop = self._sharing.stop

    async def fresh(self, max_age_seconds: float = 0.0) -> _Made:
        """Made after this was called, or at most so long before; raises what `Answers.status` does."""
        if self._last is not None and self._monotonic() - self._last.at < max_age_seconds:
            return self._last
        return await self._sharing.fresh("status", self._make)

    def _make(self) -> _Made:
        began = self._monotonic()
        document = self._answers.status()
        timeless = self._answers.timeless(document)
        before = self._last
        version = 1 if before is None else before.version + (timeless != before.timeless)
        made = self._last = _Made(document, timeless, version, began)
        return made


def _name(uid: int) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return ""
