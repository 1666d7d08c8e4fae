"""Histories of devices for property tests: hypothesis draws the operations, the model kernel performs them.

Few names, uuids and tables, so that repetitions, and with them dropped records, are frequent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st

from tests.core.kernel import Kernel, Table, linear, linears, opaque

#: The same examples in every run, so that the suite never fails by chance; `tests.fuzz` looks further.
BOUNDED = settings(derandomize=True, deadline=None, database=None, max_examples=80)

NAMES = (b"a", b"b", b"c", b"d;=,\\")
UUIDS = (b"", b"", b"LVM-1", b"CRYPT-2")
#: Short ones; those that share all but a few records with another; those whose last target opens a record.
TABLES: tuple[Table, ...] = (
    (linear(0),),
    (linear(8),),
    (opaque(),),
    (linear(0), opaque()),
    linears(3),
    linears(37),
    linears(38),
    linears(38, "1:8"),
    (*linears(37), linear(0, "1:9")),
    (*linears(36, "1:8"), *linears(2, first=36)),
    linears(74),
    (*linears(36), *linears(38, "1:8")),
)
USUAL = (
    *(
        "create",
        "notable",
        "load",
        "load",
        "resume",
        "resume",
        "suspend",
        "clear",
        "rename",
        "remove",
        "flip",
    ),
    "refuse",
)
RENAMES = (*USUAL, "rename", "rename", "rename", "uuid")


@dataclass(frozen=True, slots=True)
class Operation:
    """What to do, to which device, with which name, uuid or table; what makes no sense then is left out."""

    verb: str
    who: int
    what: int


def operations(
    verbs: tuple[str, ...], *, least: int = 15, most: int = 60
) -> st.SearchStrategy[list[Operation]]:
    """Histories of some length."""
    one = st.builds(Operation, st.sampled_from(verbs), st.integers(0, 3), st.integers(0, len(TABLES) - 1))
    return st.lists(one, min_size=least, max_size=most)


def perform(kernel: Kernel, history: list[Operation]) -> Iterator[Operation]:
    """Do it, one operation at a time."""
    for operation in history:
        if _perform(kernel, operation):
            yield operation


def _perform(kernel: Kernel, operation: Operation) -> bool:
    """Returns whether that could be done."""
    verb, what = operation.verb, operation.what
    free = [name for name in NAMES if name not in kernel.devices]
    uuid = UUIDS[what % len(UUIDS)]
    used = {device.uuid for device in kernel.devices.values()}
    table = TABLES[(what + 5 * operation.who) % len(TABLES)]
    if verb == "kexec":
        kernel.kexec(b"%d" % what)
        return True
    if verb in ("create", "notable"):
        if free:
            new = free[what % len(free)]
            kernel.create(new, None if verb == "notable" else table, b"" if uuid in used else uuid)
        return bool(free)
    if not kernel.devices:
        return False
    name = list(kernel.devices)[operation.who % len(kernel.devices)]
    device = kernel.devices[name]
    if verb in ("rename", "uuid"):
        new = name if verb == "uuid" else free[what % len(free)] if free else b""
        if device.aliased or not new or (verb == "uuid" and (device.uuid or not uuid or uuid in used)):
            return False
        kernel.rename(name, new, uuid if verb == "uuid" else None)
    elif verb == "load":
        kernel.load(name, table)
    elif verb == "refuse":
        kernel.resume(name, refused=True)
    elif verb == "flip":
        kernel.load(name, TABLES[what % 2])
        kernel.resume(name)
    else:
        plain = {
            "resume": kernel.resume,
            "suspend": kernel.suspend,
            "clear": kernel.clear,
            "remove": kernel.remove,
        }
        plain[verb](name)
    return True
