"""What a machine with systemd boots: a kernel, a small initial RAM disk, and an ext4 with a userland.

The file system is made by ``mkfs.ext4 -d``, so nothing is mounted. The package under test is not on it: the
machine finds it in the shared folder, and installs it itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.vm import archive, debs, kernel, userland
from tests.vm.cache import Cache, fingerprint
from tests.vm.image import PROJECT, Image
from tests.vm.packages import series
from tests.vm.programs import run
from tests.vm.sources import Mirror

DISK = "root.ext4"
BUSYBOX = "busybox"
SIZE_MIB = 2048
_INIT = Path(__file__).with_name("disk-init.sh")


def prepare_disk(name: str, directory: Path, cache: Cache, find_mirror: Callable[[], Mirror]) -> Image:
    """Make what is missing or out of date in the cache, and put release `name`'s image into the directory."""
    wanted = userland.release(name)
    mirror = find_mirror()
    with cache.locked():
        packages = debs.packages(cache, PROJECT, wanted)
        needed = userland.dependencies(packages[debs.NEW])
        kernel_folder = kernel.kernel(cache, mirror, series(wanted.kernel))
        tree = userland.userland(cache, mirror, wanted, needed)
        disk = cache.part(
            f"disk-{name}",
            fingerprint(Path(__file__), tree.name, kernel_folder.name),
            lambda folder: _build(folder, tree / userland.TREE, kernel_folder),
        )
        directory.mkdir(parents=True)
        image = Image(
            directory / kernel.IMAGE, directory / "initrd", directory / DISK, directory / "packages"
        )
        shutil.copy(kernel_folder / kernel.IMAGE, image.kernel)
        run(("cp", "--sparse=always", disk / DISK, directory / DISK))
        shutil.copytree(packages[debs.NEW].parent, directory / "packages")
        _pack_init(directory / "init", disk / BUSYBOX)
        archive.pack(directory / "init", directory / "init.cpio.zst")
        archive.join((kernel_folder / kernel.ARCHIVE, directory / "init.cpio.zst"), image.initrd)
    return image


def _build(folder: Path, tree: Path, kernel_folder: Path) -> None:
    """The tree with the kernel's modules in it, as a file system."""
    whole = folder / "whole"
    run(("cp", "--archive", "--reflink=auto", tree, whole))
    modules = folder / "modules.cpio"
    run(("zstd", "--quiet", "-d", "-o", modules, kernel_folder / kernel.ARCHIVE))
    run(("cpio", "--extract", "--make-directories", "--quiet", "--file", modules), cwd=whole)
    run(("mkfs.ext4", "-q", "-F", "-m", "0", "-d", whole, folder / DISK, f"{SIZE_MIB}M"))
    shutil.copy(whole / "usr/bin" / BUSYBOX, folder / BUSYBOX)
    modules.unlink()
    shutil.rmtree(whole)


def _pack_init(init: Path, busybox: Path) -> None:
    for name in ("bin", "dev", "new", "proc", "sys", "usr/lib"):
        (init / name).mkdir(parents=True)
    shutil.copy(busybox, init / "bin/busybox")
    (init / "bin/busybox").chmod(0o755)
    (init / "lib").symlink_to("usr/lib")
    shutil.copy(_INIT, init / "init")  # busybox's switch_root works nowhere but where there is one
    (init / "init").chmod(0o755)
    (init / "vm-init").symlink_to("init")
