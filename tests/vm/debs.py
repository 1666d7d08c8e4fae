"""The packages that a machine with systemd installs: the working tree's, and the same as an older version.

They are made as an administrator's would be, by `make deb12` and `make deb13`. The older one has the same
contents and a smaller version number: what an upgrade does to a running service does not depend on more.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from tests.vm.cache import Cache, fingerprint
from tests.vm.programs import VmError, run
from tests.vm.userland import Release

NEW = "dmimad.deb"
OLD = "older/dmimad.deb"
OLD_VERSION = "0.0.1~older"
MADE_IN = "dist/packages"
_MADE_OF = (
    *("dmimad", "packaging", "systemd", "config", "docs", "scripts", "Makefile"),
    *("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"),
)


def packages(cache: Cache, project: Path, wanted: Release) -> dict[str, Path]:
    """The package's files by name, all in one folder; made if the working tree has changed."""
    key = fingerprint(Path(__file__), *_contents(project))
    folder = cache.part(f"deb-{wanted.name}", key, lambda place: _build(place, project, wanted))
    return {name: folder / name for name in (NEW, OLD)}


def _contents(project: Path) -> list[str | bytes]:
    files = [
        path
        for name in _MADE_OF
        for path in ([project / name] if (project / name).is_file() else sorted((project / name).rglob("*")))
        if path.is_file() and "__pycache__" not in path.parts
    ]
    return [item for path in files for item in (str(path.relative_to(project)), path.read_bytes())]


def _build(folder: Path, project: Path, wanted: Release) -> None:
    made = project / MADE_IN
    before = _stamps(made)
    # Not with the arguments of the make that may have started this.
    run(("env", "-u", "MAKEFLAGS", "-u", "MFLAGS", "make", "-C", project, wanted.make_target))
    after = _stamps(made)
    new = [path for path, stamp in after.items() if before.get(path) != stamp]
    if len(new) != 1:
        names = ", ".join(path.name for path in new) or "none"
        raise VmError(f"make {wanted.make_target} is to make one package in {made}; it made: {names}")
    shutil.copy(new[0], folder / NEW)
    (folder / OLD).parent.mkdir()
    rebuild_as(folder / NEW, folder / OLD, OLD_VERSION)


def _stamps(directory: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in directory.glob("*.deb")}


def rebuild_as(package: Path, target: Path, version: str) -> None:
    """The same package under another version, hardly compressed: it is unpacked once and thrown away."""
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        tree = Path(name) / "tree"
        run(("dpkg-deb", "--raw-extract", package, tree))
        control = tree / "DEBIAN/control"
        text = re.sub(r"(?m)^Version: .*$", f"Version: {version}", control.read_text(encoding="utf-8"))
        control.write_text(text, encoding="utf-8")
        run(("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, target))
