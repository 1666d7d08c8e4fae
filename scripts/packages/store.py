"""Where built packages are kept: `package("deb12")` is the one function others need.

A package is known by all that it is made of, so it is built once, whoever asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from scripts.packages import deb, rpm
from tests.vm.cache import Cache

KINDS: Mapping[str, Callable[[Cache], Path]] = {
    "deb12": lambda cache: deb.build(cache, "deb12"),
    "deb13": lambda cache: deb.build(cache, "deb13"),
    "rpm": rpm.build,
}


def package(kind: str) -> Path:
    """The package of that kind, of the working tree as it is now. Needs root."""
    cache = packages_cache()
    with cache.locked():
        return KINDS[kind](cache)


def packages_cache() -> Cache:
    """The folder of the build systems, wheels and packages of this user."""
    if own := os.environ.get("DMIMAD_PACKAGES_CACHE"):
        return Cache(Path(own).absolute(), _say)
    directory = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Cache(Path(directory).absolute() / "dmimad-packages", _say)


def _say(text: str) -> None:
    os.write(2, f"packages: {text}\n".encode())
