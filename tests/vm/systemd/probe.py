"""Tries what a unit's sandbox is to forbid, and prints what came of it as one JSON line.

Run in place of a unit's own program, with everything else of the unit as it is. The argument is a JSON object
with ``write`` (directories), ``read`` (files) and ``connect`` (addresses with ports, as "address:port").

Each answer is "ok" or the name of an errno.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import json
import mmap
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

CLONE_NEWUSER = 0x10000000
AF_PACKET = 17


def main() -> int:
    wanted = json.loads(sys.argv[1])
    found = {
        "ids": [os.getuid(), os.getgid(), os.getgroups()],
        "status": _status(),
        "write": {name: _answer(functools.partial(_write, name)) for name in wanted["write"]},
        "read": {name: _answer(functools.partial(_read, name)) for name in wanted["read"]},
        "connect": {name: _answer(functools.partial(_connect, name)) for name in wanted["connect"]},
        "act": {name: _answer(act) for name, act in ACTS.items()},
    }
    print(json.dumps(found), flush=True)  # noqa: T201  # to the journal
    return 0


def _status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _write(directory: str) -> None:
    file = Path(directory) / "vm-probe"
    file.write_bytes(b"")
    file.unlink()


def _read(file: str) -> None:
    """What systemd puts in the place of a file it hides, is empty."""
    if not Path(file).read_bytes():
        raise OSError(errno.ENODATA, "empty")


def _connect(address: str) -> None:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10):
        pass


def _call(name: str, *arguments: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def _executable_memory() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


ACTS: dict[str, Callable[[], object]] = {
    "become root": lambda: os.setuid(0),
    "mount": lambda: _call("mount", b"tmpfs", b"/mnt", b"tmpfs", 0, None),
    "user namespace": lambda: _call("unshare", CLONE_NEWUSER),
    "raw packets": lambda: socket.socket(AF_PACKET, socket.SOCK_RAW).close(),
    "internet socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close(),
    "executable memory": _executable_memory,
    "set the clock": lambda: _call("clock_settime", 0, (ctypes.c_long * 2)(0, 0)),
    "trace init": lambda: _call("ptrace", 0x4206, 1, None, None),
    "signal init": lambda: os.kill(1, 0),
    "device-mapper": lambda: os.close(os.open("/dev/mapper/control", os.O_RDONLY)),
}


def _answer(act: Callable[[], object]) -> str:
    """In this process: a new one may be forbidden, and what is forbidden fails, but kills nobody."""
    try:
        act()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "ok"


if __name__ == "__main__":
    sys.exit(main())
