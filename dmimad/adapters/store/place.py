"""The state directory and the files in it: who may use it, and what is moved out of the way.

What this module does not do: look into the database.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from dmimad.core.errors import AdapterError, StateRefusedError

DATABASE_NAME = "dmimad.db"
LOCK_NAME = "dmimad.lock"


def make_directory(directory: Path) -> None:
    """Make it unless it is there; raises AdapterError."""
    try:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        if not directory.is_dir():
            raise AdapterError("not a directory", str(directory), "set state.directory to a directory")
    except FileNotFoundError as exc:
        remedy = f"create {directory.parent}, or set state.directory"
        raise AdapterError("its parent directory does not exist", str(directory), remedy) from exc
    except OSError as exc:
        raise AdapterError(reason_of(exc), str(directory), "make it usable, or set state.directory") from exc


def lock_of(directory: Path) -> int:
    """A descriptor that keeps other daemons out while it is open; raises StateRefusedError, AdapterError."""
    path = directory / LOCK_NAME
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        broken = exc.errno == errno.EIO
        remedy = "look for disk errors" if broken else "make the directory writable for dmimad"
        raise AdapterError(reason_of(exc), str(path), remedy) from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(lock)
        if isinstance(exc, BlockingIOError):
            what, remedy = "another dmimad uses this directory", "stop it, or set another state.directory"
            raise StateRefusedError(what, str(directory), remedy) from exc
        raise AdapterError(reason_of(exc), str(path), "use a local file system as state.directory") from exc
    return lock


def identity(path: Path) -> tuple[int, int] | None:
    """Which file is there; None: there is none."""
    try:
        found = path.stat(follow_symlinks=False)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def move_aside(path: Path) -> Path:
    """Rename the database with its WAL to the first free name; keep the names SQLite expects."""
    try:
        number = 1
        while path.with_name(f"{path.name}.corrupt-{number}").exists():
            number += 1
        kept = path.with_name(f"{path.name}.corrupt-{number}")
        for suffix in ("-wal", "-shm", ""):  # the database last: until it has moved, this can be done again
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(kept.with_name(kept.name + suffix))
    except OSError as exc:
        raise AdapterError(f"damaged, and {reason_of(exc)}", str(path), "move it away by hand") from exc
    return kept


def reason_of(exc: OSError) -> str:
    """In the words of the system."""
    return (exc.strerror or type(exc).__name__).lower()
