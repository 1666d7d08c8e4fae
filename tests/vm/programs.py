"""The programs that the host side runs: are they there, run them, and say in one line what went wrong.

Programs are run without a shell; none of them reads from the terminal.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

# Program and the Debian package it is in; the Makefile installs these.
PROGRAMS = (
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("swtpm", "swtpm"),
    ("swtpm_setup", "swtpm-tools"),
    ("mmdebstrap", "mmdebstrap"),
    ("dpkg-deb", "dpkg"),
    ("cpio", "cpio"),
    ("zstd", "zstd"),
    ("depmod", "kmod"),
    ("chroot", "coreutils"),
    ("setpriv", "util-linux"),
    ("make", "make"),
    ("mkfs.ext4", "e2fsprogs"),
)
# Debian keeps some of them where a user's PATH does not look.
SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
_LAST_LINES = 15


class VmError(Exception):
    """The machine could not be made or run; the text says what, where and what to do."""


def unfit() -> str | None:
    """Why no machine can be made here, in one line; None if one can."""
    if platform.machine() != "x86_64":
        return f"the packages and their programs are for amd64, this is {platform.machine()}"
    if os.geteuid() != 0:
        return "making a Debian root needs root: sudo make test-vm"
    packages = sorted({package for name, package in PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None})
    if packages:
        return f"missing Debian packages: {' '.join(packages)}"
    return None


def program(name: str) -> str:
    """The program's path."""
    found = shutil.which(name, path=SEARCH_PATH)
    if found is None:
        package = dict(PROGRAMS).get(name, name)
        raise VmError(f"{name} is not installed: install the Debian package {package}")
    return found


def run(command: Sequence[str | Path], *, cwd: Path | None = None, stdin: bytes = b"") -> str:
    """Run it to its end and return what it printed; VmError with its last words if it fails."""
    name, *arguments = map(str, command)
    # In C the answers of apt and others can be parsed; daemons and questions have no place in a build.
    environment = {**os.environ, "PATH": SEARCH_PATH, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        [program(name), *arguments], cwd=cwd, input=stdin, env=environment, capture_output=True, check=False
    )
    if done.returncode != 0:
        words = (done.stdout + done.stderr).decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
        raise VmError(
            "\n  ".join((f"{name} {' '.join(arguments[:4])} … ended with {done.returncode}:", *words))
        )
    return done.stdout.decode(errors="replace")
