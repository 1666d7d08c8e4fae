"""The product as a user installs it: the wheel of the working tree, put by pip into a virtual environment.

The environment is made by the guest's own Python within its root, so that it is at /opt/dmimad there as here.
What the product depends on is fetched by this machine's pip for the guest's Python: conditions in metadata
that name a Python version are judged by the one that runs this (none of today's applies to a supported one).
"""

from __future__ import annotations

import shutil
import sys
import tomllib
from pathlib import Path

from tests.vm import archive, root
from tests.vm.cache import Cache, fingerprint
from tests.vm.programs import VmError, run

PLACE = "opt/dmimad"
ARCHIVE = "product.cpio.zst"
GUEST_PYTHON = "3.11"
# All that Debian 12's C library (2.36) can load.
PLATFORMS = tuple(f"manylinux{tag}_x86_64" for tag in ("2014", "_2_17", "_2_26", "_2_28", "_2_31", "_2_34"))
_MADE_OF = ("dmimad", "pyproject.toml", "README.md", "LICENSE")
_PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
_IN_ROOT = ("/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root")


def product(cache: Cache, project: Path, root_folder: Path) -> Path:
    """The folder with `ARCHIVE`, of the working tree as it is now. Changes `root_folder` while it works."""
    key = fingerprint(Path(__file__), Path(archive.__file__), root.key(), *_contents(project))
    return cache.part("product", key, lambda folder: _build(cache, project, root_folder / root.TREE, folder))


def _contents(project: Path) -> list[str | bytes]:
    """Names and contents of all that goes into the wheel."""
    files = [
        path
        for name in _MADE_OF
        for path in ([project / name] if (project / name).is_file() else sorted((project / name).rglob("*")))
        if path.is_file() and "__pycache__" not in path.parts
    ]
    return [item for path in files for item in (str(path.relative_to(project)), path.read_bytes())]


def _build(cache: Cache, project: Path, tree: Path, folder: Path) -> None:
    dependencies = cache.part(
        "dependencies",
        fingerprint(Path(__file__), project / "pyproject.toml"),
        lambda wheels: _download_dependencies(project, wheels),
    )
    wheels = tree / "tmp/wheels"
    for leftover in (wheels, tree / PLACE):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        shutil.copytree(dependencies, wheels)
        run((*_PIP, "wheel", "--no-deps", "--wheel-dir", wheels, project))
        _install(tree, wheels)
        packages = f"{PLACE}/lib/python{GUEST_PYTHON}/site-packages"
        unneeded = frozenset(f"{packages}/{name}" for name in ("pip", "setuptools", "pkg_resources"))
        archive.pack(tree, folder / ARCHIVE, (PLACE,), unneeded)
    finally:
        for leftover in (wheels, tree / PLACE):
            shutil.rmtree(leftover, ignore_errors=True)


def _download_dependencies(project: Path, wheels: Path) -> None:
    metadata = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    platforms = [word for tag in PLATFORMS for word in ("--platform", tag)]
    target = ("--only-binary=:all:", "--python-version", GUEST_PYTHON, *platforms)
    run((*_PIP, "download", *target, "--dest", wheels, *metadata["project"]["dependencies"]))


def _install(tree: Path, wheels: Path) -> None:
    (wheel,) = wheels.glob("dmimad-*.whl")
    inside = Path("/") / wheel.relative_to(tree)
    run(("chroot", tree, *_IN_ROOT, "/usr/bin/python3", "-m", "venv", f"/{PLACE}"))
    pip = (
        f"/{PLACE}/bin/pip",
        "--quiet",
        "--disable-pip-version-check",
        "install",
        "--no-index",
        "--no-cache-dir",
    )
    run(("chroot", tree, *_IN_ROOT, *pip, "--find-links", inside.parent, inside))
    if not (tree / PLACE / "bin/dmimad").is_file():
        raise VmError(f"{wheel.name} installed no command dmimad: look at its entry points in pyproject.toml")
