"""The kernel in Python against the real ones: given what was done to those, it writes the same records.

Every list but those of LVM, whose steps are many operations each: same records, byte by byte, same ones
dropped as repetitions, same devices afterwards.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from tests.core.kernel import Kernel, Table, Target
from tests.core.lists import Item
from tests.core.recorded import LISTS, Action, actions, items
from tests.core.truth import mention, version

MODELLED = [name for name in LISTS if not name.startswith("lvm")]
#: Records that the real kernels dropped; what the steps with one record less than operations show too.
DROPPED = {
    "random-6.1": 14,
    "random-6.12": 10,
    "random-7.2": 5,
    "systematic-6.1": 9,
    "systematic-6.12": 9,
    "systematic-7.2": 9,
    "systematic-v1": 9,
}
#: Targets that measure no text.
SILENT = ("zero", "error")
_PIECE = re.compile(rb"target_index=\d+,target_begin=\d+,target_len=\d+,")


@dataclass(slots=True)
class Texts:
    """What each line of a dmsetup table measures, learnt from the loads that were recorded."""

    linear_version: str
    known: dict[str, bytes] = field(default_factory=dict)

    def table(self, text: str, loads: Sequence[Item]) -> Table | None:
        """The table, or None if it cannot be known (its load failed before it was measured)."""
        lines = [re.sub(r" crypt (\S+) \S+ \S+ \S+ \S+", r" crypt \1", line) for line in text.splitlines()]
        pieces = [piece for item in loads for piece in _PIECE.split(item.text)[1:]]
        for index, line in enumerate(lines):
            _, _, kind, *options = line.split(" ")
            if kind in SILENT:
                self.known[line] = b""
            elif kind == "linear" and options[0].startswith("/dev/ram"):
                device, start = options[0].removeprefix("/dev/ram"), options[1]
                own = f"target_version={self.linear_version},device_name=1:{device},start={start};"
                self.known[line] = b"target_name=linear," + own.encode()
            elif index < len(pieces):
                self.known[line] = pieces[index]
        if not all(line in self.known for line in lines):
            return None
        return tuple(Target(int(line.split(" ")[1]), self.known[line]) for line in lines)


def words(name: str, action: Action, before: set[str]) -> list[str]:
    """A dmsetup command taken apart; random steps do not quote names, so the devices tell where one ends."""
    if name.startswith("systematic"):
        left_out = ("dmsetup", "--manglename", "none", "-r", "--deferred", "--notable")
        return [word for word in shlex.split(action.command) if word not in left_out]
    head, rest = action.command.split(" --manglename none ", 1)
    verb = head.split(" ")[1]
    options: list[str] = []
    if found := re.search(r" (--setuuid|-u) (\S+)$", rest.removesuffix(" --notable")):
        rest, options = rest[: found.start()], [found[1], found[2]]
    if verb == "rename" and not options:
        old = next(old for old in before if rest.startswith(old + " "))
        return [verb, old, rest[len(old) + 1 :]]
    return [verb, rest.removesuffix(" --notable"), *options]


def perform(
    kernel: Kernel, action: Action, arguments: list[str], table: Table | None, new: list[Item]
) -> None:
    """Do to the kernel what was done to the real one; ``new`` are the records that the real one wrote."""
    verb, name, *options = [encoded(argument) for argument in (*arguments, "", "")][:4]
    if verb == b"create":
        create(kernel, action, name, table, options[1] if options[0] == b"-u" else b"", new)
    elif verb == b"resume":
        kernel.resume(name, refused=action.status != 0)
    elif action.status:
        assert not new
    elif verb == b"load":
        assert table is not None
        kernel.load(name, table)
    elif verb == b"rename":
        renamed = options[0] != b"--setuuid"
        kernel.rename(name, options[0] if renamed else name, None if renamed else options[1])
    elif verb == b"remove_all":
        for item in new:  # in the order of a hash table
            kernel.remove(mentioned(item), all_of_them=True)
    else:
        {b"suspend": kernel.suspend, b"clear": kernel.clear, b"remove": kernel.remove}[verb](name)


def create(
    kernel: Kernel, action: Action, name: bytes, table: Table | None, uuid: bytes, new: list[Item]
) -> None:
    """``dmsetup create`` removes the device again if its load fails (measured or not) or its resume."""
    kernel.create(name, None if action.status else table, uuid)
    if action.status:
        if new and table is not None and new[0].event.endswith("table_load"):
            kernel.load(name, table)
        if action.error.startswith("device-mapper: resume ioctl"):
            kernel.resume(name, refused=True)
        kernel.remove(name)


def mentioned(item: Item) -> bytes:
    """The name in a record."""
    identity = mention(item).identity
    assert identity is not None
    return identity[0]


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def replayed_steps(name: str) -> Iterator[tuple[Action, list[Item], list[Item], Kernel]]:
    """Each step with the records the real kernel wrote, and those the model wrote."""
    real = items(name)
    done = next(index for index, item in enumerate(real) if item.is_dm)
    kernel = Kernel(LISTS[name][0], start=real[:done], version=version(real[done]))
    everything = b"".join(item.text for item in real if item.is_dm)
    found = next(re.finditer(rb"target_name=linear,target_version=([0-9.]+)", everything))
    texts = Texts(found[1].decode())
    names: set[str] = set()
    for action in actions(name):
        new = [item for item in real[done : action.after] if item.is_dm]
        loads = [item for item in new if item.event.endswith("table_load")]
        table = None if action.table is None else texts.table(action.table, loads)
        before = len(kernel.items)
        if action.command != "true":
            perform(kernel, action, words(name, action, names), table, new)
        yield action, new, kernel.items[before:], kernel
        done, names = (
            action.after,
            {device.name.decode("utf-8", "surrogateescape") for device in action.devices},
        )


@pytest.mark.parametrize("name", MODELLED)
def test_the_model_writes_what_the_kernel_wrote(name: str) -> None:
    written = 0
    for action, real, modelled, kernel in replayed_steps(name):
        assert modelled == real, f"{action.label}: {action.command}"
        truths = (action.devices, kernel.truth())
        theirs, ours = (
            {replace(device, measure="", suspended=False) for device in truth} for truth in truths
        )
        assert ours == theirs, action.label
        written += len(real)
    assert written == LISTS[name][2]
    assert kernel.dropped.total() == DROPPED[name]
