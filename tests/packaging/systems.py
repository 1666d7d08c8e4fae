"""Throw-away systems with the package in them, and packages like it with another version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from scripts.packages import chroot
from scripts.packages.deb import RELEASES
from scripts.packages.store import package, packages_cache
from tests.vm.programs import run

CONFIGURATION = "etc/dmimad/dmimad.toml"


@dataclass(frozen=True, slots=True)
class System:
    """A Debian system in a folder, and the package that it has."""

    tree: Path
    package: Path

    def run(self, *command: str) -> str:
        """What the command printed, errors too; VmError if it failed."""
        return chroot.inside(self.tree, *command)

    def install(self, file: Path) -> str:
        """Install or upgrade; of files that both sides have changed, the administrator's stay."""
        shutil.copy(file, self.tree / "root/new.deb")
        return self.run("dpkg", "--force-confold", "--install", "/root/new.deb")

    def user(self, name: str) -> tuple[int, int]:
        """User and group id there."""
        (line,) = re.findall(rf"(?m)^{name}:.*$", (self.tree / "etc/passwd").read_text(encoding="utf-8"))
        return int(line.split(":")[2]), int(line.split(":")[3])


def system(kind: str, place: Path) -> System:
    """A system of that kind of package, as it is after `apt-get install`, in the folder `place`."""
    built = package(kind)
    cache = packages_cache()
    with cache.locked():
        run(("cp", "-a", chroot.installed(cache, RELEASES[kind].suite, built), place))
    return System(place, built)


def next_version(package_file: Path, place: Path) -> Path:
    """The same package with a higher version and other default settings."""
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        tree = Path(scratch) / "tree"
        run(("dpkg-deb", "--raw-extract", package_file, tree))
        control = tree / "DEBIAN/control"
        text = re.sub(r"(?m)^Version: .*$", "Version: 999-1", control.read_text(encoding="utf-8"))
        control.write_text(text, encoding="utf-8")
        with (tree / CONFIGURATION).open("a", encoding="utf-8") as file:
            file.write("# of the next version\n")
        target = place / "next.deb"
        run(("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, target))
    return target


def pipx_like(distribution: Path, place: Path) -> str:
    """What pipx does: an environment of its own, pip, and the program; what `--version` prints."""
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    for command in (
        ("python3", "-m", "venv", str(place)),
        (str(place / "bin/pip"), "--quiet", "install", str(distribution)),
    ):
        subprocess.run(command, check=True, env=environment, capture_output=True)
    version = [str(place / "bin/dmimad"), "--version"]
    return subprocess.run(version, check=True, capture_output=True, text=True).stdout
