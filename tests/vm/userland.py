"""The userlands of the machines with systemd: a Debian release each, as a host has it before dmimad comes.

Made by mmdebstrap from this machine's mirror, with what the package depends on already in it: the machines
have no network. What is done to it beside makes it start sooner (no consoles, no timers) and run what it is
there for (`systemd/vm-runner.service`).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.vm.cache import Cache, fingerprint
from tests.vm.programs import VmError, run
from tests.vm.root import UNWANTED
from tests.vm.sources import Mirror


@dataclass(frozen=True, slots=True)
class Release:
    """A Debian with systemd: its kernel (of `packages.SERIES`), and who makes the package for it."""

    name: str
    suite: str
    kernel: str
    make_target: str


RELEASES = (
    Release("debian12", "bookworm", "6.1", "deb12"),
    Release("debian13", "trixie", "6.12", "deb13"),
)
PACKAGES = (
    "busybox-static",
    "dmsetup",
    "e2fsprogs",
    "iproute2",
    "kmod",
    "mosquitto",
    "mosquitto-clients",
    "openssl",
    "procps",
    "python3",
    "systemd",
    "systemd-sysv",
    "udev",
    "util-linux",
)
# Under emulation each would be waited for, and nobody logs in.
MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "ldconfig.service",
    "modprobe@drm.service",
    "mosquitto.service",  # started by the checks, when its certificates are made
    "serial-getty@ttyS0.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-logind.service",
    "systemd-networkd.service",
    "systemd-network-generator.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-pcrphase.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
)
# Fixed, or systemd would take the first start for the first boot and enable units by its presets.
MACHINE_ID = "5f1a9d4e3c2b48a7a6b5c4d3e2f10918"
TREE = "tree"
# The package's own manual pages and examples are to be there, so the rest of them is taken away afterwards.
_EMPTIED = ("var/lib/apt/lists", "var/cache/apt", "var/cache/debconf", "var/log", "usr/lib/udev/hwdb.d")
_FILES = Path(__file__).with_name("systemd")
_UNITS = "etc/systemd/system"


def release(name: str) -> Release:
    """The release of that name."""
    for one in RELEASES:
        if one.name == name:
            return one
    raise VmError(f"unknown release {name!r}: one of {', '.join(one.name for one in RELEASES)}")


def dependencies(package: Path) -> tuple[str, ...]:
    """The names of the packages that this one depends on: of alternatives the first, without versions."""
    text = run(("dpkg-deb", "--field", package, "Pre-Depends", "Depends"))
    relations = re.sub(r"(?m)^(Pre-)?Depends:", ",", text).replace("\n", " ").split(",")
    names = {re.split(r"[\s|(:]", relation.strip(), maxsplit=1)[0] for relation in relations}
    return tuple(sorted(names - {""}))


def key(wanted: Release, needed: Iterable[str]) -> str:
    """What a userland made now would be known by."""
    return fingerprint(Path(__file__), _FILES / "vm-runner.service", wanted.suite, *sorted(needed))


def userland(cache: Cache, mirror: Mirror, wanted: Release, needed: tuple[str, ...]) -> Path:
    """The folder with `TREE`: that release, and the packages that dmimad's needs."""
    return cache.part(
        f"userland-{wanted.name}", key(wanted, needed), lambda folder: _build(folder, mirror, wanted, needed)
    )


def _build(folder: Path, mirror: Mirror, wanted: Release, needed: tuple[str, ...]) -> None:
    tree, sources = folder / TREE, folder / "debian.sources"
    sources.write_text(mirror.sources(wanted.suite), encoding="utf-8")
    run(
        (
            *("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--architectures=amd64"),
            '--aptopt=Acquire::Languages "none"',
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in UNWANTED),
            f"--include={','.join(sorted({*PACKAGES, *needed}))}",
            *(wanted.suite, tree, sources),
        )
    )
    for excluding in (tree / "etc/dpkg/dpkg.cfg.d").glob("*mmdebstrap*"):
        excluding.unlink()
    for name in _EMPTIED:
        shutil.rmtree(tree / name, ignore_errors=True)
        (tree / name).mkdir(parents=True)
    _configure(tree)


def _configure(tree: Path) -> None:
    units = tree / _UNITS
    for unit in MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    shutil.copy(_FILES / "vm-runner.service", units)
    (units / "default.target").unlink(missing_ok=True)
    (units / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    (units / "multi-user.target.wants/vm-runner.service").symlink_to("../vm-runner.service")
    (tree / "packages").symlink_to("out/packages")
    (tree / "out").mkdir()
    for name, text in (
        ("etc/machine-id", f"{MACHINE_ID}\n"),
        ("etc/hostname", "dmimad-vm\n"),
        ("etc/hosts", "127.0.0.1 localhost dmimad-vm\n"),
        ("etc/fstab", ""),
        ("etc/modules-load.d/vm.conf", "9pnet_virtio\n9p\nbrd\nloop\ndm-mod\n"),
        ("etc/modprobe.d/vm.conf", "options brd rd_nr=4 rd_size=16384\noptions loop max_loop=8\n"),
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text, encoding="utf-8")
