"""Gives up the one capability that the service has where systemd cannot open the list for it (before 253).

CAP_DAC_READ_SEARCH opens the kernel's list, and every other file of root as well.  So the files that are
needed are opened first thing; then the process executes itself again without the capability, and finds them
open as systemd would have passed them (OpenFile=): one and the same way to go on from there.

Source: capabilities(7): an ambient capability that is cleared is gone at the next execve(2) of a user other
than root; sd_listen_fds(3) for how descriptors are passed; linux/prctl.h.

What it does not do: touch the rights of root, or of whoever has been given other capabilities as well.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from dmimad.core.errors import AdapterError

MAX_STATUS_BYTES = 64 << 10

_CAP_DAC_READ_SEARCH = 2
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START


def go_on_without(files: Mapping[str, Path], environ: Mapping[str, str]) -> None:
    """Execute this program again without the capability, with these files open under these names.

    Returns, and has changed nothing, where there is nothing to give up, the first file cannot be opened or
    descriptors have been passed already.  To be called before there are threads, or anything else to lose.
    Raises AdapterError.
    """
    # What was passed to another process has only been inherited from it.
    passed = environ.get("LISTEN_PID") == str(os.getpid()) and "LISTEN_FDS" in environ
    if passed or os.geteuid() == 0 or _effective() != 1 << _CAP_DAC_READ_SEARCH:
        return
    opened = _opened(files)
    if not opened or _clear_ambient() != 0:
        for descriptor in opened.values():
            os.close(descriptor)
        return
    for index, descriptor in enumerate(opened.values()):
        os.dup2(descriptor, _FIRST_DESCRIPTOR + index)
    told = {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(opened)),
        "LISTEN_FDNAMES": ":".join(opened),
    }
    # A script by its own name, which is what the service manager calls the process then.
    script = os.access(sys.argv[0], os.X_OK)
    command = sys.argv if script else [sys.executable, *sys.orig_argv[1:]]
    try:
        os.execve(command[0], command, {**environ, **told})
    except OSError as error:
        raise AdapterError(
            f"cannot be executed again without CAP_DAC_READ_SEARCH: {error.strerror}",
            command[0],
            "let the service's user execute it",
        ) from error


def _opened(files: Mapping[str, Path]) -> dict[str, int]:
    """Those that can be opened; none without the first."""
    opened: dict[str, int] = {}
    for name, path in files.items():
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError:  # who reads it tells
            if not opened:
                break
            continue
        # Out of the way of the numbers that they are to have.
        opened[name] = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_DESCRIPTOR + len(files))
        os.close(descriptor)
    return opened


def _effective(status: Path = Path("/proc/self/status")) -> int:
    """The effective capabilities as bits."""
    try:
        with status.open("rb") as file:
            lines = file.read(MAX_STATUS_BYTES).splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1], 16) for line in lines if line.startswith(b"CapEff:")), 0)


def _clear_ambient() -> int:
    zero = ctypes.c_ulong(0)
    clear = ctypes.c_ulong(_PR_CAP_AMBIENT_CLEAR_ALL)
    return int(ctypes.CDLL(None).prctl(_PR_CAP_AMBIENT, clear, zero, zero, zero))
