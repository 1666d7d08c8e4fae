"""The observer: answers OBSERVE and WATCH on a Unix socket, and nothing else.

It runs with CAP_SYS_ADMIN, so it is kept small: one thread, the standard library, no network, requests
without contents.  Clients may be slow, silent, greedy or hostile; each costs at most one observation in
memory, and none can hold up another, except while the kernel itself is being asked.

- A client's next request is read when the former answer has gone out.
- A half request, an answer that is not taken and a client that neither asks nor watches have their time.
- Activity is one bit per watching client: however much happens while it does not read, it is told once.

What it does not do: decide anything about what it sees, or keep it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from dmimad.adapters.live.dm import DmControl, DmWatch
from dmimad.adapters.live.protocol import (
    REQUEST_BYTES,
    Request,
    decode_request,
    encode_activity,
    encode_failure,
    encode_observation,
)
from dmimad.adapters.live.sockets import peer_of
from dmimad.core.errors import AdapterError, MalformedError

MAX_CLIENTS = 8
MAX_LEAVING = 8
"""So many that were refused are given the time to read why."""
MAX_REPORTED_USERS = 64
"""So many users that were refused are told of, once each."""

SEND_PIECE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Timing:
    """How long what is waited for.

    Attributes:
        request_seconds: for the rest of a request that has begun.
        stall_seconds: for a client to take any part of its answer.
        idle_seconds: for a request of a client that does not watch; None: for ever.
        idle_exit_seconds: for any client at all, before the observer ends; None: for ever.
    """

    request_seconds: float = 5.0
    stall_seconds: float = 30.0
    idle_seconds: float | None = 600.0
    idle_exit_seconds: float | None = None


class Server:
    """Serves a listening socket for ever, or one connection until it is closed.

    Args:
        control: what asks the kernel.
        listener: accepts clients; None: there is none but `connection`.
        connection: a client that is trusted as it is.
        users: who else may connect beside root and this process's own user.
        timing: see there.
        report: told, in one line, of a user that was refused.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        control: DmControl,
        *,
        listener: socket.socket | None = None,
        connection: socket.socket | None = None,
        users: tuple[int, ...] = (),
        timing: Timing,
        report: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._control = control
        self._listener = listener
        self._users = frozenset((0, os.geteuid(), *users))
        self._timing = timing
        self._report = report
        self._clock = clock
        self._refused: set[int] = set()
        self._sessions: list[_Session] = []
        self._watch: DmWatch | None = None
        self._idle_since = clock()
        self._stopped = False
        self._selector = selectors.DefaultSelector()
        self._stop_receiver, self._stop_sender = socket.socketpair()
        self._stop_sender.setblocking(False)
        self._register(self._stop_receiver, self._end)
        if listener is not None:
            listener.setblocking(False)
            self._register(listener, self._accept)
        if connection is not None:
            self._add(connection)

    def stop(self) -> None:
        """Let `run` return; to be called from a signal handler or another thread."""
        with contextlib.suppress(OSError):  # it was told before
            self._stop_sender.send(b"\0")

    def run(self) -> None:
        """Until `stop`, or until there is nobody left to serve.  Closes all but the listener."""
        try:
            while not self._stopped and not self._deserted():
                for key, ready in self._selector.select(self._patience_seconds()):
                    key.data(ready)
                self._expire()
        finally:
            for session in list(self._sessions):
                self._drop(session)
            self._control.close()
            self._selector.close()
            self._stop_receiver.close()
            self._stop_sender.close()

    def _register(self, source: socket.socket | DmWatch, act: Callable[[int], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, act)

    def _end(self, _: int) -> None:
        self._stopped = True

    # --- who comes and goes ---

    def _accept(self, _: int) -> None:
        if self._listener is None:
            return
        try:
            connection, _address = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            raise AdapterError(
                f"cannot accept: {error.strerror}", "the observer's socket", "restart it"
            ) from error
        refusal = self._refusal(connection)
        if refusal is None:
            self._add(connection)
        elif sum(session.leaving for session in self._sessions) < MAX_LEAVING:
            session = self._add(connection)
            session.dismiss(encode_failure(Request.CONNECTION, refusal))
            self._serve(session, selectors.EVENT_WRITE)
        else:
            connection.close()

    def _refusal(self, connection: socket.socket) -> AdapterError | None:
        try:
            peer = peer_of(connection)
        except OSError as error:
            return AdapterError(f"nobody knows who connects: {error.strerror}", "the observer's socket")
        if peer.uid not in self._users:
            refusal = AdapterError(
                f"user {peer.uid} may not ask", "the observer's socket", f"start it with --user {peer.uid}"
            )
            if peer.uid not in self._refused and len(self._refused) < MAX_REPORTED_USERS:
                self._refused.add(peer.uid)
                self._report(str(refusal))
            return refusal
        if sum(not session.leaving for session in self._sessions) >= MAX_CLIENTS:
            return AdapterError(
                f"{MAX_CLIENTS} clients are being served", "the observer's socket", "stop one of them"
            )
        return None

    def _add(self, connection: socket.socket) -> _Session:
        trusted = self._listener is None
        session = _Session(connection, self._timing, self._clock, patient=trusted)
        self._sessions.append(session)
        self._register(connection, partial(self._serve, session))
        return session

    def _drop(self, session: _Session) -> None:
        if session in self._sessions:
            self._sessions.remove(session)
            self._selector.unregister(session.connection)
            session.connection.close()
            self._idle_since = self._clock()
        if not any(other.watching for other in self._sessions):
            self._end_watch()

    # --- what they ask ---

    def _serve(self, session: _Session, ready: int) -> None:
        if session not in self._sessions:
            return  # dropped a moment ago, by what came before in the same batch
        try:
            if ready & selectors.EVENT_WRITE:
                session.send()
            if ready & selectors.EVENT_READ:
                self._hear(session)
        except OSError:
            self._drop(session)
        else:
            self._selector.modify(session.connection, session.awaited, partial(self._serve, session))

    def _hear(self, session: _Session) -> None:
        try:
            request = session.receive()
        except MalformedError as error:
            problem = AdapterError(str(error), "the observer's socket", "connect nothing but dmimad to it")
            session.dismiss(encode_failure(Request.CONNECTION, problem))
            session.send()
            return
        if request is not None:
            self._meet(session, request)

    def _meet(self, session: _Session, request: Request) -> None:
        try:
            if request is Request.OBSERVE:
                session.answer(encode_observation(self._control.observe()))
            else:
                self._begin_watch()
                session.watching = True
                session.activity_due = True
        except AdapterError as error:
            session.answer(iter([encode_failure(request, error)]))
        session.send()

    def _begin_watch(self) -> None:
        if self._watch is None:
            watch = self._control.watch()
            try:
                watch.arm()
            except AdapterError:
                watch.close()
                raise
            self._watch = watch
            self._register(watch, self._woken)

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._selector.unregister(self._watch)
            self._watch.close()
            self._watch = None

    def _woken(self, _: int) -> None:
        """Arm first, tell then: whatever happens after a client was told wakes us again."""
        watching = [session for session in self._sessions if session.watching]
        try:
            if self._watch is not None:
                self._watch.arm()
        except AdapterError as error:
            self._end_watch()
            for session in watching:
                session.watching = False
                session.answer(iter([encode_failure(Request.WATCH, error)]))
        else:
            for session in watching:
                session.activity_due = True
        for session in watching:
            self._serve(session, selectors.EVENT_WRITE)

    # --- time ---

    def _deserted(self) -> bool:
        if self._sessions:
            return False
        deadline = self._exit_deadline()
        return self._listener is None or (deadline is not None and deadline <= self._clock())

    def _exit_deadline(self) -> float | None:
        patience = self._timing.idle_exit_seconds
        return None if patience is None or self._sessions else self._idle_since + patience

    def _patience_seconds(self) -> float | None:
        deadlines = [session.deadline for session in self._sessions]
        known = [deadline for deadline in (*deadlines, self._exit_deadline()) if deadline is not None]
        return max(0.0, min(known) - self._clock()) if known else None

    def _expire(self) -> None:
        now = self._clock()
        for session in list(self._sessions):
            if session.deadline is not None and session.deadline <= now:
                self._drop(session)


class _Session:
    """One client: the bytes of its request, and what it is to be sent.

    Attributes:
        watching: it asked to be told of activity.
        activity_due: there was some that it was not told of.
        leaving: it is told why it is refused, and nothing that it says counts any more.
    """

    def __init__(
        self, connection: socket.socket, timing: Timing, clock: Callable[[], float], *, patient: bool
    ) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.watching = False
        self.activity_due = False
        self.leaving = False
        self._timing = timing
        self._clock = clock
        self._patient = patient
        self._since = clock()  # of the last progress
        self._received = b""
        self._frames: list[Iterator[bytes]] = []
        self._piece = memoryview(b"")

    @property
    def _sending(self) -> bool:
        return bool(self._piece or self._frames or self.activity_due)

    @property
    def awaited(self) -> int:
        """What to wait for: that it takes what it is sent, or else that it asks."""
        return selectors.EVENT_WRITE if self._sending else selectors.EVENT_READ

    @property
    def deadline(self) -> float | None:
        """When it is to be dropped if nothing happens."""
        if self._sending:
            return self._since + self._timing.stall_seconds
        if self._received or self.leaving:
            return self._since + self._timing.request_seconds
        if self.watching or self._patient or self._timing.idle_seconds is None:
            return None
        return self._since + self._timing.idle_seconds

    def receive(self) -> Request | None:
        """The request if it is complete now.  Raises OSError at its end, MalformedError."""
        try:
            data = self.connection.recv(
                REQUEST_BYTES if self.leaving else REQUEST_BYTES - len(self._received)
            )
        except BlockingIOError:
            return None
        if not data:
            raise ConnectionResetError
        if self.leaving:
            return None
        if not self._received:
            self._since = self._clock()
        self._received += data
        if len(self._received) < REQUEST_BYTES:
            return None
        request, self._received = decode_request(self._received), b""
        return request

    def answer(self, frames: Iterator[bytes]) -> None:
        """To be sent after what is being sent."""
        self._frames.append(frames)
        self._since = self._clock()

    def dismiss(self, frame: bytes) -> None:
        """Send this, and then wait for the client to hang up.

        If the connection were closed at once, what the client is just sending would be an error to it, and
        it might never read this.
        """
        self.leaving = True
        self.watching = self.activity_due = False
        self._received = b""
        self.answer(iter([frame]))

    def send(self) -> None:
        """As much as the client takes at once, at most one piece.  Raises OSError."""
        if not self._piece:
            self._piece = memoryview(b"".join(self._next_frames()))
            self._since = self._clock()
        try:
            sent = self.connection.send(self._piece) if self._piece else 0
        except BlockingIOError:
            return
        self._piece = self._piece[sent:]
        self._since = self._clock()
        if self.leaving and not self._sending:
            self.connection.shutdown(socket.SHUT_WR)

    def _next_frames(self) -> Iterator[bytes]:
        """About one piece; activity goes before everything else."""
        if self.activity_due:
            self.activity_due = False
            yield encode_activity()
        taken = 0
        while self._frames and taken < SEND_PIECE_BYTES:
            frame = next(self._frames[0], None)
            if frame is None:
                del self._frames[0]
                continue
            taken += len(frame)
            yield frame
