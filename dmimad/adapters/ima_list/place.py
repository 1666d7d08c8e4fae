"""Where the kernel's list is, and what to do if it cannot be read there.

Source: security/integrity/ima/ima_fs.c of Linux 6.1 to 7.2 (names and rights), proc_pid_mountinfo(5).

What it does not do: open the list.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

DEFAULT_SECURITYFS = Path("/sys/kernel/security")
DEFAULT_MOUNTINFO = Path("/proc/self/mountinfo")

IMA = Path("integrity/ima")
"""Of securityfs."""

LISTS = ("binary_runtime_measurements", "ascii_runtime_measurements")
"""The better one first."""

COUNT = "runtime_measurements_count"


def is_kernel_list(
    path: str, *, securityfs: Path = DEFAULT_SECURITYFS, mountinfo: Path = DEFAULT_MOUNTINFO
) -> bool:
    """Whether `path` (a setting: "auto" or a path) is a list the kernel itself serves.

    True for "auto", for everything under the securityfs directory, and for everything on a securityfs
    mounted elsewhere (a host's, bind-mounted into a container).  Such a list has no size and no
    inotify events, and must be read with `KernelList`; every other path is a file.  Never raises.
    """
    if path == "auto":
        return True
    try:
        real = Path(os.path.realpath(path))
        if real.is_relative_to(securityfs) or real.is_relative_to(os.path.realpath(securityfs)):
            return True
        device = real.stat().st_dev
        mounts = mountinfo.read_bytes().splitlines()
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return False
    wanted = f"{os.major(device)}:{os.minor(device)}".encode()
    for mount in mounts:
        # proc_pid_mountinfo(5): id, parent, major:minor, root, mount point, options … - type, source …
        before, _, after = mount.partition(b" - ")
        if before.split()[2:3] == [wanted] and after.split()[:1] == [b"securityfs"]:
            return True
    return False


def kernel_files(path: str, *, securityfs: Path = DEFAULT_SECURITYFS) -> tuple[Path, Path]:
    """The list that the setting `path` ("auto" or a kernel's list) leads to first, and its count."""
    found = securityfs / IMA / LISTS[0] if path == "auto" else Path(path)
    return found, found.parent / COUNT


def explain(error: OSError, path: Path, securityfs: Path, *, hold_open: bool = True) -> str:
    """Why the list at `path` cannot be read, and what to do about it; one line."""
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            remedy = _explain_absence(path, securityfs)
        case errno.EACCES | errno.EPERM if not hold_open:
            remedy = (
                "not allowed to open the list, which source.hold_open = false asks for again and again; "
                "give the daemon CAP_DAC_READ_SEARCH, as dmimad.service does without its drop-in "
                "10-systemd-253.conf, or set source.hold_open to true"
            )
        case errno.EACCES | errno.EPERM:
            remedy = (
                "not allowed to read the list; run as root or with CAP_DAC_READ_SEARCH, "
                "as the systemd unit dmimad.service does"
            )
        case errno.EBUSY:
            remedy = (
                "another process has the list open for writing, which trims it; "
                "reading goes on when it is closed"
            )
        case _:
            remedy = os.strerror(error.errno) if error.errno else str(error)
    return f"{path}: {remedy}"


def _explain_absence(path: Path, securityfs: Path) -> str:
    if path.is_relative_to(securityfs):
        try:
            mounted = any(securityfs.iterdir())
        except OSError:
            mounted = False
        if not mounted:
            return (
                f"no such file: securityfs is not mounted; "
                f"mount it with: mount -t securityfs securityfs {securityfs}"
            )
        if not (securityfs / IMA).exists():
            return (
                "no such file: the running kernel has no IMA; "
                "boot one built with CONFIG_IMA=y, with ima_policy=critical_data"
            )
    return "no such file; check source.path, or set it to auto"
