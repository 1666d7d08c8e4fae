"""The Debian packages: the project as a source package with the packaging of its release, built by debhelper.

Debian's tools run in a system of the release that the package is for, without network.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dmimad import __version__
from scripts.packages import chroot
from scripts.packages.payload import SYSUSERS, TMPFILES, Layout, lay
from scripts.packages.project import PROJECT, copy, write
from scripts.packages.wheels import wheels
from tests.vm.cache import Cache, fingerprint

SOURCES = ("dmimad", "packaging", "CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml")
# -d: Debian presumes a compiler in every build; nothing is compiled here.
_OPTIONS = ("-b", "-us", "-uc", "-d")


@dataclass(frozen=True, slots=True)
class Release:
    """A release of Debian and what its package is like."""

    number: str
    suite: str
    python: str
    layout: Layout


RELEASES = {
    "deb12": Release("12", "bookworm", "3.11", Layout("lib/systemd/system", False)),
    "deb13": Release("13", "trixie", "3.13", Layout()),
}


def version(release: Release, upstream: str = __version__) -> str:
    """As Debian writes it: a candidate sorts before the release, the next Debian's package after this one."""
    return re.sub(r"\.?(dev|a|b|rc)(\d+)", r"~\1\2", upstream) + f"-1~deb{release.number}"


def build(cache: Cache, name: str) -> Path:
    """The package of the working tree as it is now, built unless it was before; only while locked."""
    release = RELEASES[name]
    with tempfile.TemporaryDirectory(prefix="dmimad-package-") as scratch:
        source = Path(scratch) / "dmimad"
        _source(cache, release, source)
        files = [path for path in sorted(source.rglob("*")) if path.is_file()]
        contents = [item for path in files for item in (str(path.relative_to(source)), path.read_bytes())]
        key = fingerprint(Path(__file__), name, *contents)
        folder = cache.part(name, key, lambda place: _debhelper(cache, release, source, place))
    (package,) = folder.glob("*.deb")
    return package


def _source(cache: Cache, release: Release, source: Path) -> None:
    for name in SOURCES:
        copy(PROJECT / name, source / name)
    lay(source / "payload", release.layout)
    debian = source / "debian"
    copy(PROJECT / "packaging/debian", debian)
    copy(PROJECT / SYSUSERS, debian / "dmimad.sysusers")
    copy(PROJECT / TMPFILES, debian / "dmimad.tmpfiles")
    own = PROJECT / f"packaging/debian{release.number}"
    for name in ("control", "rules"):
        copy(own / name, debian / name)
    (debian / "rules").chmod(0o755)
    write(debian / "source/format", "3.0 (native)\n")
    text = (debian / "changelog").read_text(encoding="utf-8")
    text = text.replace("@VERSION@", version(release)).replace("@SUITE@", release.suite)
    write(debian / "changelog", text)
    shutil.copytree(wheels(cache, (release.python,)), source / "wheels")


def _debhelper(cache: Cache, release: Release, source: Path, place: Path) -> None:
    tree = chroot.builder(cache, release.suite)
    work = tree / "build"
    shutil.rmtree(work, ignore_errors=True)
    try:
        shutil.copytree(source, work / "dmimad", symlinks=True)
        log = chroot.inside(tree, "dpkg-buildpackage", *_OPTIONS, cwd="/build/dmimad")
        (place / "build.log").write_text(log, encoding="utf-8")
        for path in (*work.glob("*.deb"), *work.glob("*.changes")):
            shutil.copy(path, place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
