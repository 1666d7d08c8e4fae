"""Small Debian systems to build packages in and to install them, kept from run to run.

They come from this machine's mirror. Programs run inside with an environment of their own: nothing of this
machine's settings reaches them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.vm.cache import Cache, fingerprint
from tests.vm.programs import VmError, run
from tests.vm.sources import find_mirror

BUILD_PACKAGES = {
    "bookworm": ("debhelper", "dh-python", "fakeroot", "python3", "rpm"),
    "trixie": (
        "debhelper",
        "dh-python",
        "fakeroot",
        "pybuild-plugin-pyproject",
        "python3-all",
        "python3-hatchling",
    ),
}
TREE = "tree"
_ENVIRONMENT = (
    "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG=C.UTF-8",
    "HOME=/root",
    "DEBIAN_FRONTEND=noninteractive",
)
_OPTIONS = (
    "--quiet",
    "--mode=root",
    "--variant=apt",
    '--aptopt=Acquire::Languages "none"',
    # So that a package that is a file here can be reached from there.
    "--hook-directory=/usr/share/mmdebstrap/hooks/file-mirror-automount",
)
_LAST_LINES = 40


def builder(cache: Cache, suite: str) -> Path:
    """A system of that suite with all that building a package needs; only while the cache is locked."""
    return _system(cache, "builder", suite, BUILD_PACKAGES[suite])


def installed(cache: Cache, suite: str, package: Path) -> Path:
    """The minimum of that suite with the package and what it depends on; only while the cache is locked."""
    return _system(cache, "installed", suite, (str(package),), package.read_bytes())


def _system(cache: Cache, kind: str, suite: str, packages: Sequence[str], *ingredients: bytes) -> Path:
    key = fingerprint(*_OPTIONS, suite, *(ingredients or packages))
    folder = cache.part(f"{kind}-{suite}", key, lambda place: _make(place, suite, packages))
    return folder / TREE


def _make(folder: Path, suite: str, packages: Sequence[str]) -> None:
    sources = folder / "debian.sources"
    sources.write_text(find_mirror().sources(suite), encoding="utf-8")
    run(("mmdebstrap", *_OPTIONS, f"--include={','.join(packages)}", suite, folder / TREE, sources))


def inside(tree: Path, *command: str, cwd: str = "/") -> str:
    """Run it within that system and return what it printed, errors too; VmError if it fails."""
    line = ("chroot", str(tree), "/usr/bin/env", "-i", f"--chdir={cwd}", *_ENVIRONMENT, *command)
    # Its own processes, and gone with them is what they left mounted or running.
    isolated = ("unshare", "--mount", "--pid", "--fork", f"--mount-proc={tree / 'proc'}", *line)
    done = subprocess.run(
        isolated, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    text = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        words = "\n  ".join(text.strip().splitlines()[-_LAST_LINES:])
        raise VmError(f"{' '.join(command[:4])} in {tree} ended with {done.returncode}:\n  {words}")
    return text
