"""Parts of an initial RAM disk: compressed cpio archives that the kernel unpacks one after the other.

Source: Documentation/driver-api/early-userspace/buffer-format.rst: an initramfs is any number of archives,
each plain or compressed on its own, each beginning at a multiple of four bytes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.vm.programs import run

_ALIGNMENT_BYTES = 4


def pack(
    root: Path, archive: Path, folders: Iterable[str] = (".",), leave_out: frozenset[str] = frozenset()
) -> None:
    """Write these folders of `root` and the folders above them, without the paths that `leave_out` names."""
    names = [name for folder in folders for name in _names(root, folder, leave_out)]
    plain = archive.with_suffix("")
    run(
        ("cpio", "--create", "--format=newc", "--null", "--quiet", "--reproducible", "--file", plain),
        cwd=root,
        stdin=b"\0".join(os.fsencode(name) for name in names),
    )
    run(("zstd", "--quiet", "--rm", "-T0", "-3", "--force", "-o", archive, plain))


def join(archives: Iterable[Path], initrd: Path) -> None:
    """One initial RAM disk of several archives; of files that several contain, the last counts."""
    with initrd.open("wb") as output:
        for archive in archives:
            with archive.open("rb") as file:
                shutil.copyfileobj(file, output, 1 << 20)
            output.write(bytes(-output.tell() % _ALIGNMENT_BYTES))


def _names(root: Path, folder: str, leave_out: frozenset[str]) -> Iterator[str]:
    """Paths relative to `root`, each folder before what is in it; links are not followed."""
    yield from reversed([str(parent) for parent in Path(folder).parents if str(parent) != "."])
    for directory, folders, files in os.walk(root / folder):
        relative = Path(directory).relative_to(root)
        yield str(relative)
        folders[:] = sorted(name for name in folders if str(relative / name) not in leave_out)
        # os.walk lists links to folders among the folders.
        links = [name for name in folders if (root / relative / name).is_symlink()]
        inside = (str(relative / name) for name in (*links, *sorted(files)))
        yield from (name for name in inside if name not in leave_out)
