"""How the daemon reaches an observer: over its socket, or by starting one of its own.

Source: unix(7) for SO_PEERCRED; capabilities(7) and proc_pid_status(5) for CapEff.

An observer is believed only if root or this process's own user runs it: whoever else listens at the path
could tell anything.  An observer of our own is a child that serves one end of a socket pair; it ends when
the other end is closed, so also with the daemon, however that ends.

What it does not do: say anything over the connection; that is `client`'s.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from dmimad.adapters.live.dm import DEFAULT_CONTROL, open_control
from dmimad.adapters.live.sockets import DEFAULT_SOCKET, peer_of
from dmimad.core.errors import AdapterError

OBSERVER = (sys.executable, "-P", "-m", "dmimad.cli", "observe")
"""-P: not from whatever directory the daemon happens to be in."""

CHILD_END_SECONDS = 5.0
MAX_STATUS_BYTES = 64 << 10

_KEPT_VARIABLES = ("PATH", "PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL")
_CAP_SYS_ADMIN = 21
_NOBODY = (FileNotFoundError, NotADirectoryError, ConnectionRefusedError)

Streams = tuple[StreamReader, StreamWriter]


class Connector(Protocol):
    """Opens connections to an observer; `where` says which, for messages."""

    @property
    def where(self) -> str:
        """The socket or the process, for messages."""
        ...

    async def __call__(self) -> Streams:
        """A new connection.  Raises AdapterError."""
        ...

    async def close(self) -> None:
        """End whatever was started."""
        ...


def connector(setting: str) -> Connector:
    """The connector that the setting `live.socket` asks for: "auto" or a path."""
    return AutoConnector() if setting == "auto" else SocketConnector(Path(setting))


class SocketConnector:
    """Connects to an observer that listens at `path`; `trusted_users` beside ourselves may run it."""

    def __init__(self, path: Path, *, trusted_users: frozenset[int] = frozenset({0})) -> None:
        self._path = path
        self._trusted_users = trusted_users | {os.geteuid()}

    @property
    def where(self) -> str:
        """The path."""
        return str(self._path)

    async def __call__(self) -> Streams:
        """A new connection.  Raises AdapterError."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Connecting is done at once or refused: if it had to wait, the observer has clients enough.
            connection.setblocking(False)
            connection.connect(str(self._path))
            self._check(peer_of(connection).uid)
            return await asyncio.open_unix_connection(sock=connection)
        except OSError as error:
            connection.close()
            raise self._explained(error) from error
        except BaseException:
            connection.close()
            raise

    async def close(self) -> None:
        """Nothing was started."""

    def _check(self, user: int) -> None:
        if user not in self._trusted_users:
            raise AdapterError(
                f"user {user} listens here, who is neither root nor the daemon's own",
                self.where,
                "find out who; remove the socket and start dmimad observe as root",
            )

    def _explained(self, error: OSError) -> AdapterError:
        start = f"start it as root: dmimad observe --socket {self._path}"
        match error:
            case FileNotFoundError() | NotADirectoryError():
                return AdapterError("there is no observer's socket", self.where, start)
            case ConnectionRefusedError():
                return AdapterError("no observer answers here", self.where, start)
            case PermissionError():
                user = os.geteuid()
                remedy = f"start it with --user {user} (socket unit: SocketUser=), in a directory open to it"
                return AdapterError(f"user {user} may not connect to the observer", self.where, remedy)
            case BlockingIOError():
                return AdapterError("the observer does not accept connections", self.where, "restart it")
            case _:
                return AdapterError(
                    f"cannot connect: {error.strerror or error}", self.where, "check live.socket"
                )


class ChildConnector:
    """Starts an observer of our own for each connection; the former one is ended before.

    Args:
        command: starts an observer if ``--fd N`` is added.
        environ: what the few variables that it needs are taken from.
    """

    def __init__(self, command: Sequence[str] = OBSERVER, *, environ: Mapping[str, str] = os.environ) -> None:
        self._command = tuple(command)
        self._environ = {name: environ[name] for name in _KEPT_VARIABLES if name in environ}
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def where(self) -> str:
        """What it runs."""
        return "the daemon's own observer"

    async def __call__(self) -> Streams:
        """A new connection.  Raises AdapterError."""
        await self.close()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._child = self._start(theirs.fileno())
            return await asyncio.open_unix_connection(sock=ours)
        except OSError as error:
            ours.close()
            raise AdapterError(
                f"cannot start {self._command[0]}: {error.strerror}", self.where, "check the installation"
            ) from error
        except BaseException:
            ours.close()
            raise

    async def close(self) -> None:
        """End the child.  Raises AdapterError if it does not end."""
        child = self._child
        if child is None:
            return
        child.terminate()
        try:
            await asyncio.to_thread(_wait, child)
        except subprocess.TimeoutExpired:
            # The kernel does not let go of it; another one would only hang beside it.
            raise AdapterError(
                f"process {child.pid} does not end",
                self.where,
                "see the kernel's log: device-mapper may hang",
            ) from None
        self._child = None

    def _start(self, descriptor: int) -> subprocess.Popen[bytes]:
        # Takes a few milliseconds, once; in a thread it could not be cancelled without losing the child.
        return subprocess.Popen(
            [*self._command, "--fd", str(descriptor)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=self._environ,
            pass_fds=(descriptor,),
        )


def _wait(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(CHILD_END_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(CHILD_END_SECONDS)


class AutoConnector:
    """The usual socket if somebody answers there, else an observer of our own if we may.

    Decided at each connection: an observer that is gone may have left its socket behind.

    Args:
        path: the usual socket.
        child: starts an observer of our own.
        may_observe: raises OSError if that would be of no use.
    """

    def __init__(
        self,
        path: Path = DEFAULT_SOCKET,
        *,
        child: Connector | None = None,
        may_observe: Callable[[], None] | None = None,
    ) -> None:
        self._path = path
        self._socket = SocketConnector(path)
        self._child = ChildConnector() if child is None else child
        self._may_observe = check_may_observe if may_observe is None else may_observe
        self._where = str(path)

    @property
    def where(self) -> str:
        """What was chosen last."""
        return self._where

    async def __call__(self) -> Streams:
        """A new connection.  Raises AdapterError."""
        self._where = str(self._path)
        try:
            return await self._socket()
        except AdapterError as error:
            if not isinstance(error.__cause__, _NOBODY):
                raise
            return await self._own(error.what)

    async def close(self) -> None:
        """End the child if there is one."""
        await self._child.close()

    async def _own(self, reason: str) -> Streams:
        """To an observer of our own, as there is no other."""
        try:
            self._may_observe()
        except OSError as error:
            raise AdapterError(
                f"{reason}, and this process may not ask device-mapper itself ({error.strerror or error})",
                self._where,
                "start the observer as root (systemctl start dmimad-live.socket, or dmimad observe), "
                "or set live.enabled to false",
            ) from error
        self._where = self._child.where
        return await self._child()


def check_may_observe(*, control: Path = DEFAULT_CONTROL, status: Path = Path("/proc/self/status")) -> None:
    """Raises OSError if this process may not ask device-mapper: CAP_SYS_ADMIN and the control node."""
    with status.open("rb") as file:
        lines = file.read(MAX_STATUS_BYTES).splitlines()
    effective = next((int(line.split()[1], 16) for line in lines if line.startswith(b"CapEff:")), 0)
    if not effective >> _CAP_SYS_ADMIN & 1:
        raise PermissionError(0, "no CAP_SYS_ADMIN")
    try:
        os.close(open_control(control))
    except OSError as error:
        raise OSError(error.errno, f"{control}: {error.strerror}") from error
