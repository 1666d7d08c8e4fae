"""Steps drawn by chance, always the same: few names and few tables, so that records are dropped often."""

from __future__ import annotations

from random import Random

from tests.vm.guest import truth
from tests.vm.guest.actions import (
    Action,
    clear,
    create,
    create_empty,
    load,
    remove,
    rename,
    resume,
    set_uuid,
    suspend,
    swap,
    together,
)
from tests.vm.guest.guest import Guest
from tests.vm.guest.truth import Device
from tests.vm.scenarios import _tables as t

SUMMARY = "200 random steps on up to six devices: the daemon's devices equal the kernel's after each"

SEED = 20261122
STEPS = 200
DEVICES = 6
NAMES = (
    b"root",
    b"var",
    b"sp ace",
    b"x;y",
    b"swap=1",
    rb"back\slash",
    "naïve".encode(),
    b"l\xe4t\xefn",
    b"Z" * 127,
    b"vg0-data",
)
UUIDS = (b"LVM-e9367ed92aa3300b", b"CRYPT-LUKS2-a17a43", b"U;1", b"u\xfc")
TABLES = (
    t.linear(0, 0, 64),
    t.linear(1, 0, 64),
    t.linear(1, 64, 64),
    "0 64 zero",
    "0 64 error",
    t.mixed(2),
    t.many(3, 3),
    t.many(37, 4),
    t.many(40, 4),
    t.striped(5),
    t.crypt(6),
)
WEIGHTS = {
    "create": 12,
    "empty": 3,
    "load": 14,
    "swap": 12,
    "bounce": 5,
    "resume": 14,
    "suspend": 6,
    "clear": 7,
    "rename": 7,
    "uuid": 3,
    "remove": 9,
    "again": 5,
}


class Walk:
    """Draws legal moves; ``random`` is the only chance in it."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._tables: dict[bytes, str] = {}

    def draw(self, guest: Guest, devices: list[Device]) -> tuple[str, Action]:
        """A move that is possible now, and what to call it."""
        while True:
            (kind,) = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))
            move = self._make(kind) if kind in ("create", "empty") else None
            if move is None and devices:
                move = self._change(kind, guest, self._random.choice(devices))
            if move is not None and self._possible(kind, devices, move[1]):
                return f"{kind} {truth.printable(move[1])}", move[0]

    def _possible(self, kind: str, devices: list[Device], name: bytes) -> bool:
        taken = {device.name for device in devices}
        return kind not in ("create", "empty") or (len(devices) < DEVICES and name not in taken)

    def _make(self, kind: str) -> tuple[Action, bytes]:
        name = self._random.choice(NAMES)
        uuid = b""
        if self._random.random() < 0.2:
            uuid = UUIDS[NAMES.index(name) % len(UUIDS)] + b"-%d" % NAMES.index(name)
        if kind == "empty":
            return create_empty(name, uuid), name
        table = self._tables[name] = self._table()
        return create(name, table, uuid), name

    def _change(self, kind: str, guest: Guest, device: Device) -> tuple[Action, bytes] | None:
        name = device.name
        if kind in ("rename", "uuid"):
            return self._rename(kind, guest, device)
        table = self._table()
        actions = {
            "resume": resume(name),
            "suspend": suspend(name),
            "clear": clear(name),
            "remove": remove(name),
            "load": load(name, table),
            "swap": swap(name, table),
            "bounce": together(swap(name, table), swap(name, self._table())),
        }
        if kind == "again" and name in self._tables and not device.uuid:
            actions[kind] = together(remove(name), create(name, self._tables[name]))
        if kind == "swap":
            self._tables[name] = table
        return (actions[kind], name) if kind in actions else None

    def _rename(self, kind: str, guest: Guest, device: Device) -> tuple[Action, bytes] | None:
        if not guest.dm.may_rename(device.name):
            return None
        if kind == "uuid":
            new = b"U-%d" % self._random.randrange(10_000)
            return None if device.uuid else (set_uuid(device.name, new), device.name)
        name = self._random.choice(NAMES)
        taken = {guest.dm.status(number).name for number in guest.dm.numbers()}
        return None if name in taken else (rename(device.name, name), device.name)

    def _table(self) -> str:
        return self._random.choice(TABLES)


def run(guest: Guest) -> None:
    guest.start()
    walk = Walk(Random(SEED))
    for _ in range(STEPS):
        guest.step(*walk.draw(guest, truth.read(guest.dm)))
    guest.finish()
