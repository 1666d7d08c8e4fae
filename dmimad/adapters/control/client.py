"""Asks the daemon over its control socket.

Source: ``docs/status.md``; unix(7).

Everything has its time and its size, so that a daemon that hangs, or somebody else who listens there, costs
some seconds and one clear line.  Only a daemon of root, of the own user, or of the directory's owner
is believed.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from dmimad.adapters.control.protocol import (
    MAX_ANSWER_BYTES,
    decode_answer,
    encode_request,
    peer_uid,
)
from dmimad.core.errors import AdapterError, MalformedError

TIMEOUT_SECONDS = 10.0
_PIECE_BYTES = 1 << 20


def ask(
    path: Path, request: Mapping[str, object], *, timeout_seconds: float = TIMEOUT_SECONDS
) -> dict[str, object]:
    """The daemon's answer to one request: the documented object without its version.

    ``timeout_seconds`` is for all of it.  Raises AdapterError, also where the daemon refuses.
    """
    with Conversation(path, request, timeout_seconds=timeout_seconds) as conversation:
        answer = conversation.next(timeout_seconds)
    if answer is None:
        raise _silent(path, timeout_seconds)
    return answer


class Conversation:
    """A connection on which one request was made; more than one answer comes to "watch" only.

    Args:
        path: the socket.
        request: the documented object without its version.
        timeout_seconds: to connect and to send the request.

    Raises AdapterError.
    """

    def __init__(
        self,
        path: Path,
        request: Mapping[str, object],
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._monotonic = monotonic
        self._received = bytearray()
        self._searched = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._begin(encode_request(request), timeout_seconds)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Conversation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """To wait on it together with others; what has come already is told by ``next(0)`` alone."""
        return self._socket.fileno()

    def close(self) -> None:
        """The daemon forgets the request."""
        self._socket.close()

    def next(self, timeout_seconds: float) -> dict[str, object] | None:
        """The next answer; None if none has come within this time.  Raises AdapterError."""
        deadline = self._monotonic() + timeout_seconds
        while (end := self._received.find(b"\n", self._searched)) < 0:
            self._searched = len(self._received)
            if self._searched > MAX_ANSWER_BYTES:
                raise AdapterError(
                    f"the answer is longer than {MAX_ANSWER_BYTES >> 20} MiB",
                    str(self._path),
                    "is that dmimad?",
                )
            left = deadline - self._monotonic()
            if left <= 0 or not self._receive(left):
                return None
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        self._searched = 0
        return self._decoded(line)

    def _begin(self, request: bytes, timeout_seconds: float) -> None:
        deadline = self._monotonic() + timeout_seconds
        try:
            self._socket.settimeout(timeout_seconds)
            self._socket.connect(str(self._path))
            uid = peer_uid(self._socket)
            if uid not in (0, os.geteuid(), self._path.parent.stat().st_uid):
                raise AdapterError(
                    f"user {uid} listens here, who is neither root nor you nor the directory's owner",
                    str(self._path),
                    "find out who, and ask no further",
                )
            self._socket.settimeout(max(deadline - self._monotonic(), 0.001))
            self._socket.sendall(request)
        except (BrokenPipeError, ConnectionResetError):
            pass  # why is in the answer, if there is one
        except TimeoutError:
            raise _silent(self._path, timeout_seconds) from None
        except OSError as error:
            raise self._explained(error) from error

    def _receive(self, seconds: float) -> bool:
        """Whether something came within this time."""
        self._socket.settimeout(seconds)
        try:
            piece = self._socket.recv(_PIECE_BYTES)
        except TimeoutError:
            return False
        except ConnectionResetError:
            piece = b""
        except OSError as error:
            raise self._explained(error) from error
        if not piece:
            raise AdapterError(
                "the daemon has ended the connection", str(self._path), "it has stopped, or see its log"
            )
        self._received += piece
        return True

    def _decoded(self, line: bytes) -> dict[str, object]:
        try:
            answer, problem = decode_answer(line)
        except MalformedError as error:
            raise AdapterError(
                f"unusable answer: {error}", str(self._path), "is the daemon of another version?"
            ) from error
        if problem:
            raise AdapterError(f"the daemon refuses: {problem}", str(self._path))
        return answer

    def _explained(self, error: OSError) -> AdapterError:
        where = str(self._path)
        match error:
            case FileNotFoundError() | NotADirectoryError():
                remedy = "start the daemon (dmimad run); if it runs, its log says why it has no socket"
                return AdapterError("there is no control socket", where, remedy)
            case ConnectionRefusedError():
                return AdapterError("no daemon answers here any more", where, "start it (dmimad run)")
            case PermissionError():
                remedy = "ask as root, or have root put the user into control.users"
                return AdapterError(f"user {os.geteuid()} may not connect", where, remedy)
            case BlockingIOError():
                return AdapterError("the daemon accepts no connection", where, "try again; else see its log")
            case _:
                return AdapterError(f"cannot ask: {error.strerror or error}", where, "check control.socket")


def _silent(path: Path, seconds: float) -> AdapterError:
    return AdapterError(
        f"no answer within {seconds:g} seconds", str(path), "try again; else see the daemon's log"
    )
