"""The Python packages that are bundled, fetched with this machine's pip and verified by their digests."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.packages.project import PROJECT
from tests.vm.cache import Cache, fingerprint
from tests.vm.product import PLATFORMS
from tests.vm.programs import run

REQUIREMENTS = PROJECT / "packaging/requirements.txt"


def wheels(cache: Cache, pythons: Sequence[str]) -> Path:
    """The folder with the wheels for these versions of Python; only while the cache is locked."""
    key = fingerprint(Path(__file__), REQUIREMENTS, *pythons)
    return cache.part("wheels", key, lambda folder: _download(folder, pythons))


def _download(folder: Path, pythons: Sequence[str]) -> None:
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps")
    platforms = [word for tag in PLATFORMS for word in ("--platform", tag)]
    wanted = ("--require-hashes", "--requirement", str(REQUIREMENTS), "--dest", str(folder))
    for python in pythons:
        run((*pip, "--only-binary=:all:", "--python-version", python, *platforms, *wanted))


def pinned() -> dict[str, str]:
    """Name and version of each bundled package."""
    text = REQUIREMENTS.read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w-]+)==(\S+)", text, re.MULTILINE))
