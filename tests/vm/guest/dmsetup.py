"""The same truth by dmsetup, as people look at it: what `truth` reads by ioctls must be equal to this.

Source: dmsetup(8), ``info -c``, ``table``, ``table --inactive`` and ``measure`` of LVM2 2.03.

Each process costs half a second where the machine is emulated, so this is asked now and then only.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

from tests.vm.guest.truth import Device, Table

_SEPARATOR = b"\x1f"
_INFO = "name,uuid,major,minor,tables_loaded,suspended,events"
_TARGET = re.compile(rb"(\d+) (\d+) ([^ ]+)")
_NO_DEVICES = b"No devices found"


def differences(devices: Sequence[Device]) -> list[str]:
    """What dmsetup says otherwise; empty if nothing."""
    wrong = _compare("info", {_info(device) for device in devices}, set(_infos()))
    named = {device.name: device for device in devices}
    for option, slot in ((None, "active"), ("--inactive", "inactive")):
        expected = {(name, _shape(getattr(device, slot))) for name, device in named.items()}
        wrong += _compare(f"table {option or ''}".strip(), expected, set(_tables(option, named)))
    return wrong


def _compare(what: str, expected: AbstractSet[object], found: AbstractSet[object]) -> list[str]:
    return [f"dmsetup {what} does not say {row}" for row in sorted(map(str, expected - found))] + [
        f"dmsetup {what} says {row}" for row in sorted(map(str, found - expected))
    ]


def _info(device: Device) -> tuple[object, ...]:
    return (
        device.name,
        device.uuid,
        *device.number,
        {(False, False): b"None", (True, False): b"Live", (False, True): b"Inactive", (True, True): b"Both"}[
            device.active is not None, device.inactive is not None
        ],
        device.suspended,
        device.event_nr,
    )


def _infos() -> Iterator[tuple[object, ...]]:
    separator = _SEPARATOR.decode()
    output = _run("info", "-c", "--noheadings", "--separator", separator, "-o", _INFO)
    if output.startswith(_NO_DEVICES):
        return
    for line in output.splitlines():
        name, uuid, major, minor, loaded, suspended, events = (f.strip(b" ") for f in line.split(_SEPARATOR))
        yield name, uuid, int(major), int(minor), loaded, suspended == b"Suspended", int(events)


def _shape(table: Table | None) -> tuple[tuple[int, int, str], ...]:
    return () if table is None else tuple((t.begin, t.length, t.type) for t in table.targets)


def _tables(option: str | None, names: dict[bytes, Device]) -> Iterator[tuple[object, ...]]:
    output = _run("table", *([option] if option else []))
    rows: dict[bytes, list[tuple[int, int, str]]] = {}
    for line in output.splitlines():
        if line.startswith(_NO_DEVICES):
            continue
        # A name may contain ": " itself: the longest that is known is meant.
        known = [name for name in names if line.startswith(name + b":")]
        name = max(known, key=len) if known else line.split(b":", 1)[0]
        row = rows.setdefault(name, [])
        if found := _TARGET.match(line[len(name) + 2 :]):
            row.append((int(found[1]), int(found[2]), found[3].decode()))
    for name, row in rows.items():
        yield name, tuple(row)


def _run(*arguments: str) -> bytes:
    environment = {**os.environ, "DM_DISABLE_UDEV": "1", "LC_ALL": "C"}
    command = ["dmsetup", *arguments, "--manglename", "none"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
