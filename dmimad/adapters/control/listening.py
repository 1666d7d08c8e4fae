"""The control socket in the file system: made, replaced if nobody answers on it, removed.

Source: unix(7), symlink(7).

What it does not do: serve it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

from dmimad.core.errors import AdapterError
from dmimad.system.sockets import make_way_at

_REMEDY = "correct control.socket, or leave it empty"


def listen_at(path: Path, *, others: bool, backlog: int) -> tuple[socket.socket, int]:
    """Listen at `path`; returns the socket and the inode that is its place.

    The directory is made if it is missing (mode 0755).  Without ``others`` only root and the own user can
    connect; with them everybody can, and the server looks who it is.  Raises AdapterError.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _prepare_directory(path.parent)
        if not make_way_at(path, remedy=_REMEDY):
            remedy = "stop it, or give control.socket another path"
            raise AdapterError("another daemon answers here", str(path), remedy)
        os.fchmod(listener.fileno(), 0o600)  # before bind(), so that it is in force from the first moment
        listener.bind(str(path))
        if others:
            path.chmod(0o666)
        listener.listen(backlog)
        listener.setblocking(False)
        return listener, path.lstat().st_ino
    except OSError as error:
        listener.close()
        raise AdapterError(f"cannot listen: {error.strerror or error}", str(path), _REMEDY) from error
    except AdapterError:
        listener.close()
        raise


def remove(listener: socket.socket, path: Path, inode: int) -> None:
    """Close, and remove what `listen_at` made, if it is still there."""
    with contextlib.suppress(OSError):
        if path.lstat().st_ino == inode:
            path.unlink()
    listener.close()


def _prepare_directory(directory: Path) -> None:
    try:
        directory.mkdir()
    except FileExistsError:
        found = directory.lstat()
        if stat.S_ISLNK(found.st_mode) and found.st_uid not in (0, os.geteuid()):
            raise AdapterError(
                f"a symbolic link of user {found.st_uid}",
                str(directory),
                "remove it, or correct control.socket",
            ) from None
        return
    directory.chmod(0o755)  # whatever the umask
