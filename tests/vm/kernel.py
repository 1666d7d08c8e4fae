"""A Debian kernel for the test machines: its image, and an archive of the modules that scenarios may need.

The modules are chosen by place, completed by what they depend on (modules.dep), and unpacked where Debian
compresses them: under emulation each decompression would be waited for.
"""

from __future__ import annotations

import json
import lzma
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.vm import archive
from tests.vm.cache import Cache, fingerprint
from tests.vm.packages import KernelSeries, Package, Suite
from tests.vm.programs import VmError, run
from tests.vm.sources import Mirror

# Below kernel/ of the modules' folder.
WANTED_MODULES = (
    "drivers/md/",
    "drivers/block/brd.ko",
    "drivers/block/loop.ko",
    "drivers/block/null_blk/",
    "drivers/block/virtio_blk.ko",
    "drivers/scsi/device_handler/",
    "drivers/scsi/scsi_debug.ko",
    "drivers/virtio/",
    "arch/x86/crypto/",
    "crypto/",
    "fs/9p/",
    "fs/ext4/",
    "lib/",
    "net/9p/",
)
# How long the newest kernel that was found counts as the newest.
FRESH_SECONDS = 24 * 3600.0
IMAGE = "vmlinuz"
ARCHIVE = "modules.cpio.zst"


def kernel(cache: Cache, mirror: Mirror, wanted: KernelSeries) -> Path:
    """The folder with `IMAGE` and `ARCHIVE` of the newest kernel of that series."""
    suite = Suite(cache.directory / f"apt-{wanted.suite}", mirror, wanted.suite)
    kind, note = f"kernel-{wanted.name}", cache.directory / f"kernel-{wanted.name}.json"
    packages = _read_note(note)
    if not (
        packages and cache.has(kind, _key(packages)) and time.time() - note.stat().st_mtime < FRESH_SECONDS
    ):
        packages = _choose(cache, suite, wanted, packages)
        unfinished = note.with_suffix(".unfinished")
        unfinished.write_text(json.dumps([asdict(package) for package in packages]), encoding="utf-8")
        unfinished.replace(note)
    return cache.part(kind, _key(packages), lambda folder: _build(folder, suite, packages))


def _key(packages: tuple[Package, ...]) -> str:
    digests = (f"{package.name} {package.sha256}" for package in packages)
    return fingerprint(Path(__file__), Path(archive.__file__), *digests)


def _choose(
    cache: Cache, suite: Suite, wanted: KernelSeries, known: tuple[Package, ...]
) -> tuple[Package, ...]:
    """The newest kernel's packages; those known, if they are built and the mirror cannot be reached."""
    try:
        suite.update()
        return suite.kernel(wanted)
    except VmError:
        if known and cache.has(f"kernel-{wanted.name}", _key(known)):
            return known
        raise


def _read_note(note: Path) -> tuple[Package, ...]:
    try:
        return tuple(Package(**package) for package in json.loads(note.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return ()


def _build(folder: Path, suite: Suite, packages: tuple[Package, ...]) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = Path(name)
        for package in packages:
            file = suite.download(package, scratch)
            run(("dpkg-deb", "--extract", file, scratch / "all"))
            file.unlink()
        images = sorted((scratch / "all").rglob("vmlinuz*"))
        trees = sorted((scratch / "all").glob("**/lib/modules/*/kernel"))
        if len(images) != 1 or len(trees) != 1:
            raise VmError(
                f"{packages[0].name} has {len(images)} kernel images and {len(trees)} module trees, not 1"
            )
        shutil.copy(images[0], folder / IMAGE)
        _pack_modules(trees[0].parent, scratch / "chosen", folder / ARCHIVE)


def _pack_modules(tree: Path, chosen: Path, target: Path) -> None:
    place = chosen / "usr/lib/modules" / tree.name
    run(("depmod", "-b", tree.parents[2], tree.name))
    for name in _with_dependencies(tree):
        plain = place / name.removesuffix(".xz")
        plain.parent.mkdir(parents=True, exist_ok=True)
        data = (tree / name).read_bytes()
        plain.write_bytes(lzma.decompress(data) if name.endswith(".xz") else data)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        if (tree / name).exists():
            shutil.copy(tree / name, place / name)
    run(("depmod", "-b", chosen / "usr", tree.name))
    archive.pack(chosen, target, ("usr/lib/modules",))


def _with_dependencies(tree: Path) -> list[str]:
    """The wanted modules and all they need, relative to the tree; modules.dep names indirect needs too."""
    lines = (tree / "modules.dep").read_text(encoding="utf-8").splitlines()
    needs = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    wanted = tuple(f"kernel/{place}" for place in WANTED_MODULES)
    names = {name for name in needs if name.startswith(wanted)}
    return sorted(names.union(*(needs[name] for name in names)))
