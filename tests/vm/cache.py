"""The folder in which the parts of the test machines are kept, each under a key of all that it was made from.

A part is built in a folder beside its place and renamed when it is whole, so that an interrupted build leaves
nothing that looks finished. One lock serialises those who build or use the parts.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# Several checkouts may share the folder, each with its own state of the product.
KEPT_PER_KIND = 2
_KEY_LENGTH = 16
_UNFINISHED = ".unfinished-"


def cache_directory(environment: Mapping[str, str]) -> Path:
    """Where the parts are kept for this user."""
    if own := environment.get("DMIMAD_VM_CACHE"):
        return Path(own).absolute()
    base = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "dmimad-vm"


def fingerprint(*ingredients: str | bytes | Path) -> str:
    """A key of texts and of files' contents, in order; no two lists of ingredients share one."""
    digest = hashlib.sha256()
    for ingredient in ingredients:
        if isinstance(ingredient, Path):
            data = ingredient.read_bytes()
        else:
            data = ingredient.encode() if isinstance(ingredient, str) else ingredient
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:_KEY_LENGTH]


class Cache:
    """The parts in `directory`; `say` is told what is being made."""

    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        self.directory = directory
        self._say = say

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else builds or removes a part meanwhile."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._say(f"waiting for another run that uses {self.directory}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            self._remove_unfinished()
            yield

    def has(self, kind: str, key: str) -> bool:
        """Whether that part is there."""
        return (self.directory / f"{kind}-{key}").is_dir()

    def part(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """The folder of that part; `build` fills it if it is not there. Only while locked."""
        place = self.directory / f"{kind}-{key}"
        if not self.has(kind, key):
            self._say(f"making {kind}")
            unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self.directory))
            unfinished.chmod(0o755)
            build(unfinished)
            unfinished.rename(place)
        os.utime(place)
        self._remove_old(kind)
        return place

    def _remove_unfinished(self) -> None:
        for leftover in self.directory.glob(f"{_UNFINISHED}*"):
            # What a killed run had started may still write there.
            shutil.rmtree(leftover, ignore_errors=True)

    def _remove_old(self, kind: str) -> None:
        length = len(kind) + 1 + _KEY_LENGTH  # the glob alone would also find kinds that begin like this one
        places = [path for path in self.directory.glob(f"{kind}-*") if len(path.name) == length]
        for place in sorted(places, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT_PER_KIND:]:
            shutil.rmtree(place)
