"""The project's folder, and taking files from it with the modes that packages have."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.vm.programs import VmError

PROJECT = Path(__file__).resolve().parents[2]


def copy(source: Path, place: Path) -> None:
    """A file, or a folder with all that is in it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        # Of docs/ the pages and pictures, not what makes a site of them.
        unwanted = shutil.ignore_patterns("__pycache__", "conf.py", "_root", "_static")
        shutil.copytree(source, place, ignore=unwanted)
    elif source.is_file():
        shutil.copy(source, place)
    else:
        raise VmError(f"{source.relative_to(PROJECT)} is missing: it belongs into the packages")
    for path in (place, *place.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def write(place: Path, text: str) -> None:
    """A file that was made."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")
    place.chmod(0o644)
