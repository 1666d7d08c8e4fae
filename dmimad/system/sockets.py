"""Places of Unix sockets in the file system.

Source: unix(7): connecting to a socket that nobody listens on any more is refused.
"""

from __future__ import annotations

import socket
import stat
from pathlib import Path

from dmimad.core.errors import AdapterError


def make_way_at(path: Path, *, remedy: str) -> bool:
    """Remove a socket that its listener has left behind; False: somebody listens there.

    Raises:
        AdapterError: there is something else than a socket, to be told with `remedy`.
        OSError: it can be neither looked at nor removed.
    """
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise AdapterError("exists and is no socket", str(path), remedy)
    except FileNotFoundError:
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return True
        except BlockingIOError:  # it has no room for more
            pass
    return False
