"""Short lists to begin from, in which nearly everything happens."""

from __future__ import annotations

import functools

from tests.core.kernel import DIALECTS, Kernel, linear, linears, opaque
from tests.core.lists import Item, file, printed, violation


@functools.cache
def modelled(dialect: str) -> tuple[Item, ...]:
    """A short list in which nearly everything happens."""
    kernel = Kernel(dialect)
    kernel.create(b"a", (linear(0), opaque()), b"LVM-1")
    kernel.create(b"root", linears(38))
    kernel.items += [file(b"/bin/sh"), violation()]
    kernel.rename(b"a", b"b;")
    kernel.load(b"b;", (linear(8),))
    kernel.clear(b"b;")
    kernel.remove(b"root")
    kernel.create(b"bare")
    kernel.clear(b"bare")
    kernel.rename(b"bare", b"barer")
    kernel.kexec(b"another")
    kernel.create(b"a", (linear(0),))
    return tuple(kernel.items)


def small_lists() -> list[bytes]:
    """That in every dialect and form."""
    return [
        printed(modelled(dialect), ascii=ascii, bank=bank)
        for dialect in DIALECTS
        for ascii in (False, True)
        for bank in ("sha1", "sha256")
    ]
