"""The userland of the test machines: Debian 12 with the programs of the scenarios, one for all kernels.

Made by mmdebstrap from this machine's mirror. Kernel, modules and product have their own archives.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.vm import archive
from tests.vm.cache import Cache, fingerprint
from tests.vm.programs import run
from tests.vm.sources import Mirror

SUITE = "bookworm"
PACKAGES = (
    "cryptsetup-bin",
    "dbus",
    "dmsetup",
    "e2fsprogs",
    "fdisk",
    "iproute2",
    "kmod",
    "lvm2",
    "mosquitto",
    "mosquitto-clients",
    "procps",
    "python3",
    "python3-venv",
    "systemd",
    "systemd-sysv",
    "thin-provisioning-tools",
    "udev",
    "util-linux",
)
# Documentation and languages are never installed.
UNWANTED = tuple(f"/usr/share/{name}/*" for name in ("doc", "i18n", "info", "locale", "man"))
_EMPTIED = ("var/lib/apt/lists", "var/cache/apt", "var/cache/debconf", "var/log")
# Not needed once the root is made, and half of it: each boot would unpack them.
_NOT_PACKED = frozenset(
    (
        "usr/bin/perl",
        "usr/bin/perl5.36.0",
        "usr/bin/perl5.36-x86_64-linux-gnu",
        "usr/lib/python3.11/ensurepip",
        "usr/lib/python3.11/lib2to3",
        "usr/lib/udev/hwdb.bin",
        "usr/lib/udev/hwdb.d",
        "usr/lib/x86_64-linux-gnu/gconv",
        "usr/lib/x86_64-linux-gnu/libperl.so.5.36",
        "usr/lib/x86_64-linux-gnu/libperl.so.5.36.0",
        "usr/lib/x86_64-linux-gnu/perl",
        "usr/lib/x86_64-linux-gnu/perl-base",
        "usr/share/perl",
        "usr/share/python-wheels",
        "usr/share/zoneinfo",
        "var/lib/dpkg",
    )
)
# The initial RAM disk's file, and the tree it was packed from: the product is installed inside that tree.
ARCHIVE = "root.cpio.zst"
TREE = "root"


def key() -> str:
    """What a root made now would be known by."""
    return fingerprint(Path(__file__), Path(archive.__file__))


def root(cache: Cache, mirror: Mirror) -> Path:
    """The folder with `ARCHIVE` and `TREE`."""
    return cache.part("root", key(), lambda folder: _build(folder, mirror))


def _build(folder: Path, mirror: Mirror) -> None:
    tree, sources = folder / TREE, folder / "debian.sources"
    sources.write_text(mirror.sources(SUITE), encoding="utf-8")
    run(
        (
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--variant=minbase",
            "--architectures=amd64",
            '--aptopt=Acquire::Languages "none"',
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in UNWANTED),
            f"--include={','.join(PACKAGES)}",
            SUITE,
            tree,
            sources,
        )
    )
    for name in _EMPTIED:
        shutil.rmtree(tree / name, ignore_errors=True)
        (tree / name).mkdir(parents=True)
    archive.pack(tree, folder / ARCHIVE, leave_out=_NOT_PACKED)
