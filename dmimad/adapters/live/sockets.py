"""The observer's socket: passed by the service manager, inherited, or made here; and who is at the other end.

Source: sd_listen_fds(3) for LISTEN_PID and LISTEN_FDS; unix(7) for SO_PEERCRED, which on a connected socket
tells who connected, and to whoever connected, who listens.

What it does not do: serve them.  Only Unix stream sockets are taken, so nothing here reaches a network.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dmimad.core.errors import AdapterError
from dmimad.system.sockets import make_way_at

DEFAULT_SOCKET = Path("/run/dmimad/live.sock")
BACKLOG = 64
_OTHER_PATH = "give another path with --socket"

_FIRST_PASSED_FD = 3  # SD_LISTEN_FDS_START
_CREDENTIALS = struct.Struct("=iII")  # struct ucred


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end, as of when it connected or began to listen."""

    pid: int
    uid: int
    gid: int


def peer_of(connection: socket.socket) -> Peer:
    """Raises OSError."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Peer(*_CREDENTIALS.unpack(credentials))


def passed_listener(environ: Mapping[str, str], pid: int) -> socket.socket | None:
    """The socket the service manager passed to this process; None if it passed none.  Raises AdapterError."""
    if environ.get("LISTEN_PID") != str(pid) or environ.get("LISTEN_FDS", "0") == "0":
        return None
    where = f"descriptor {_FIRST_PASSED_FD}"
    if environ["LISTEN_FDS"] != "1":
        raise AdapterError("more than one socket was passed", where, "give the socket unit one ListenStream=")
    listener = _taken(_FIRST_PASSED_FD)
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.close()
        raise AdapterError("not a listening socket", where, "set Accept=no in the socket unit")
    return listener


def inherited_connection(descriptor: int) -> socket.socket:
    """A connected socket that the parent process opened.  Raises AdapterError."""
    connection = _taken(descriptor)
    try:
        connection.getpeername()
    except OSError as error:
        connection.close()
        raise AdapterError(
            "not a connected socket", f"descriptor {descriptor}", "pass one end of a socket pair"
        ) from error
    return connection


def listen_at(path: Path, users: tuple[int, ...]) -> socket.socket:
    """Listen at `path`, which only the one user may connect to, or if there are several, anybody.

    The server looks at who connects anyway.  A socket that nobody answers on is replaced; the directory is
    made if it is missing.  Raises AdapterError.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir(mode=0o755)
        if not make_way_at(path, remedy=_OTHER_PATH):
            raise AdapterError("another observer listens here", str(path), "use that one, or stop it")
        os.fchmod(listener.fileno(), 0o600)  # before bind(), so that it is in force from the first moment
        listener.bind(str(path))
        if len(users) == 1:
            os.chown(path, users[0], -1, follow_symlinks=False)
        elif users:
            path.chmod(0o666)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise AdapterError(f"cannot listen: {error.strerror or error}", str(path), _OTHER_PATH) from error
    except AdapterError:
        listener.close()
        raise
    return listener


def remove(listener: socket.socket, path: Path) -> None:
    """Close, and remove what `listen_at` made."""
    with contextlib.suppress(OSError):
        path.unlink()
    listener.close()


def _taken(descriptor: int) -> socket.socket:
    """The Unix stream socket that `descriptor` is; closed at an error only if it is a socket."""
    where = f"descriptor {descriptor}"
    try:
        found = socket.socket(fileno=descriptor)
    except (OSError, ValueError, OverflowError) as error:
        closed = isinstance(error, OSError) and error.errno == errno.EBADF
        what = "no such descriptor" if closed or descriptor < 0 else "not a socket"
        raise AdapterError(what, where, "pass an open Unix socket") from error
    if found.family != socket.AF_UNIX or found.type != socket.SOCK_STREAM:
        found.close()
        raise AdapterError("not a Unix stream socket", where, "pass one (ListenStream= with a path)")
    found.set_inheritable(False)
    return found
