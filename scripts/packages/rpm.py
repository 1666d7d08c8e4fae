"""The rpm for Fedora and EL 10: program, bundled wheels and files as a tree, packed by Debian's rpmbuild.

One package for several versions of Python: of the wheels only cffi's and markupsafe's differ between them.
Their libraries have other names for each, so all of them are there.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from pathlib import Path

from dmimad import __version__
from scripts.packages import chroot
from scripts.packages.payload import SYSUSERS, TMPFILES, Layout, lay
from scripts.packages.project import PROJECT, copy
from scripts.packages.wheels import pinned, wheels
from tests.vm.cache import Cache, fingerprint

PYTHONS = ("3.12", "3.13", "3.14")
PLACE = "usr/lib/dmimad"
SPEC = PROJECT / "packaging/rpm/dmimad.spec"
_ZSH = ("usr/share/zsh/vendor-completions", "usr/share/zsh/site-functions")
# What was installed, where and by what, is told by the package.
_UNWANTED = ("RECORD", "WHEEL")


def version(upstream: str = __version__) -> str:
    """As rpm writes it: what precedes a release sorts before it."""
    return re.sub(r"\.?(dev|a|b|rc)(\d+)", r"~\1\2", upstream)


def build(cache: Cache) -> Path:
    """The package of the working tree as it is now, built unless it was before; only while locked."""
    with tempfile.TemporaryDirectory(prefix="dmimad-package-") as scratch:
        tree = Path(scratch) / "tree"
        _tree(cache, tree)
        files = [path for path in sorted(tree.rglob("*")) if path.is_file()]
        contents = [item for path in files for item in (str(path.relative_to(tree)), path.read_bytes())]
        key = fingerprint(Path(__file__), SPEC, *contents)
        folder = cache.part("rpm", key, lambda place: _rpmbuild(cache, tree, place))
    (package,) = folder.glob("*.rpm")
    return package


def _tree(cache: Cache, tree: Path) -> None:
    lay(tree, Layout())
    (tree / _ZSH[0]).rename(tree / _ZSH[1])
    copy(PROJECT / SYSUSERS, tree / "usr/lib/sysusers.d/dmimad.conf")
    copy(PROJECT / TMPFILES, tree / "usr/lib/tmpfiles.d/dmimad.conf")
    copy(PROJECT / "LICENSE", tree / "usr/share/licenses/dmimad/LICENSE")
    copy(PROJECT / "CHANGELOG.md", tree / "usr/share/doc/dmimad/CHANGELOG.md")
    copy(PROJECT / "packaging/dmimad", tree / "usr/bin/dmimad")
    for wheel in wheels(cache, PYTHONS).glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(tree / PLACE)
    for path in (tree / PLACE).glob("*.dist-info/*"):
        if path.name in _UNWANTED:
            path.unlink()
    copy(PROJECT / "dmimad", tree / PLACE / "dmimad")


def _rpmbuild(cache: Cache, tree: Path, place: Path) -> None:
    system = chroot.builder(cache, "bookworm")
    work = system / "build"
    shutil.rmtree(work, ignore_errors=True)
    bundled = "\n".join(f"Provides: bundled(python3dist({name})) = {has}" for name, has in pinned().items())
    defined = {
        "_topdir": "/build/rpm",
        "tree": "/build/tree",
        "dmimad_version": version(),
        "_buildhost": "localhost",
    }
    options = [word for name, value in defined.items() for word in ("--define", f"{name} {value}")]
    try:
        shutil.copytree(tree, work / "tree", symlinks=True)
        spec = SPEC.read_text(encoding="utf-8").replace("%{bundled}", bundled)
        (work / "dmimad.spec").write_text(spec, encoding="utf-8")
        log = chroot.inside(system, "rpmbuild", "-bb", *options, "/build/dmimad.spec", cwd="/build")
        (place / "build.log").write_text(log, encoding="utf-8")
        for path in work.glob("rpm/RPMS/*/*.rpm"):
            shutil.copy(path, place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
