"""Files that a setting names: read whole, bounded, and secrets only where they are kept secret.

Source: open(2) and fifo(7) for O_NONBLOCK.  What a secret's mode and owner may be is `core.transport`'s.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection

from dmimad.core.errors import AdapterError
from dmimad.core.transport import exposure


def open_without_waiting(path: str, flags: int) -> int:
    """For `open(opener=...)`: not to be held by a FIFO that nobody writes.  Raises OSError."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_file_of_setting(
    path: str, setting: str, remedy: str, limit: int, *, secret_of: Collection[int] | None = None
) -> bytes:
    """The bytes of a file that `setting` names, at most `limit` of them.

    Args:
        remedy: what to do where it cannot be read.
        secret_of: it is a secret, and must belong to root or one of these users; None: anybody may read it.

    Raises:
        AdapterError: it cannot be read, is no file, is too long, or is a secret that others have access to.
    """
    try:
        with open(path, "rb", opener=open_without_waiting) as file:
            status = os.fstat(file.fileno())
            content = file.read(limit + 1) if stat.S_ISREG(status.st_mode) else None
    except OSError as error:
        raise AdapterError(f"{setting}: {error.strerror}", path, remedy) from error
    if content is None:
        raise AdapterError(f"{setting}: is no file", path, remedy)
    if secret_of is not None:
        problem, command = exposure(path, status.st_mode, status.st_uid, secret_of)
        if problem:
            raise AdapterError(f"{setting}: {problem}", path, command)
    if len(content) > limit:
        raise AdapterError(f"{setting}: too long", path, remedy)
    return content
