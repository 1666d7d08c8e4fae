"""What a machine boots: a kernel, and one initial RAM disk joined from the archives of the cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.vm import archive, kernel, product, root
from tests.vm.cache import Cache
from tests.vm.packages import series
from tests.vm.sources import Mirror

PROJECT = Path(__file__).parents[2]
INIT = Path(__file__).with_name("init.sh")


@dataclass(frozen=True, slots=True)
class Image:
    """Files of one machine's own, which no other run replaces or removes."""

    kernel: Path
    initrd: Path
    disk: Path | None = None  # with a userland of its own; otherwise all is in the initial RAM disk
    packages: Path | None = None  # a folder that the machine sees as /out/packages


def prepare(name: str, directory: Path, cache: Cache, find_mirror: Callable[[], Mirror]) -> Image:
    """Make what is missing or out of date in the cache, and put kernel `name`'s image into the directory."""
    wanted = series(name)
    mirror = find_mirror()
    with cache.locked():
        root_folder = root.root(cache, mirror)
        kernel_folder = kernel.kernel(cache, mirror, wanted)
        product_folder = product.product(cache, PROJECT, root_folder)
        init = directory / "init.cpio.zst"
        (directory / "init").mkdir(parents=True)
        shutil.copy(INIT, directory / "init/vm-init")
        (directory / "init/vm-init").chmod(0o755)
        archive.pack(directory / "init", init)
        image = Image(directory / kernel.IMAGE, directory / "initrd")
        shutil.copy(kernel_folder / kernel.IMAGE, image.kernel)
        archives = (
            root_folder / root.ARCHIVE,
            kernel_folder / kernel.ARCHIVE,
            product_folder / product.ARCHIVE,
            init,
        )
        archive.join(archives, image.initrd)
    return image
