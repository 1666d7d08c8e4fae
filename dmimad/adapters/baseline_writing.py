"""Writes a baseline file: at once or not at all, and never over what was not meant.

Source: rename(2), link(2), fsync(2).

Whoever reads meanwhile (the daemon watches the directory) sees the former file or the new one.  What is in
the file is the caller's; signatures are `baseline_files`'.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from dmimad.core.errors import AdapterError
from dmimad.system.files import open_without_waiting

NEW_FILE_MODE = 0o644
MAX_BYTES = 16 << 20


def read_file(path: Path) -> bytes | None:
    """What is there; None if nothing is.  Raises AdapterError."""
    try:
        with open(path, "rb", opener=open_without_waiting) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise AdapterError("is not a file", str(path), "name another one")
            return stream.read(MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AdapterError(f"cannot be read: {error.strerror}", str(path), "see who may read it") from error


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet.  Raises AdapterError, also if it is."""
    _write(path, data, former=None)


def write_over(path: Path, data: bytes, former: bytes | None = None) -> None:
    """Write a file in the place of the one that is there, if one is, with its mode and owner.

    Args:
        former: what was read of it; if it is another by now, it is left alone.  None: whatever it is.

    Raises:
        AdapterError: it cannot be written, or has been changed.
    """
    real = Path(os.path.realpath(path))  # where a link leads, not the link
    try:
        status = real.stat()
    except OSError:
        status = None
    if former is not None and read_file(real) != former:
        raise AdapterError("was changed meanwhile", str(path), "look again")
    _write(real, data, former=status, over=True)


def _write(path: Path, data: bytes, *, former: os.stat_result | None, over: bool = False) -> None:
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".dmimad-", delete=False) as stream:
            try:
                stream.write(data)
                if former is not None:
                    if (former.st_uid, former.st_gid) != (os.geteuid(), os.getegid()):
                        os.fchown(stream.fileno(), former.st_uid, former.st_gid)
                    os.fchmod(stream.fileno(), stat.S_IMODE(former.st_mode))
                else:
                    os.fchmod(stream.fileno(), NEW_FILE_MODE)
                stream.flush()
                os.fsync(stream.fileno())
                if over:
                    os.replace(stream.name, path)  # noqa: PTH105  # its name is a text
                else:
                    os.link(stream.name, path)  # unlike rename it replaces nothing
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(stream.name)  # noqa: PTH108  # as above
        _sync_directory(path.parent)
    except FileExistsError as error:
        raise AdapterError("is there already", str(path), "name another file, or give --force") from error
    except FileNotFoundError as error:
        raise AdapterError("there is no such directory", str(path.parent), "make it") from error
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise AdapterError(f"cannot be written: {reason}", str(path), "see who may write there") from error


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
