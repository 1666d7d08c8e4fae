"""What block devices of this host are called at every boot, as far as udev and sysfs know.

Source: udev's database (``/run/udev/data/b<major>:<minor>``, lines ``E:KEY=VALUE``) with what its rules for
persistent storage and for md put there; ``/sys/dev/block/<major>:<minor>/`` for partitions and loop devices.

The forms are in ``docs/fingerprint.md``.  Everything is read anew each time: names come and go with devices,
and the files are small.  What it does not do: ask the devices themselves, or follow them.
"""

from __future__ import annotations

from pathlib import Path

MAX_DATABASE_BYTES = 64 << 10
MAX_NAME_CHARS = 512

#: udev's property -> our prefix, the most telling first.
_DISK = (("MD_UUID", "md-uuid"), ("ID_WWN_WITH_EXTENSION", "wwn"), ("ID_WWN", "wwn"), ("ID_SERIAL", "serial"))


class BlockNames:
    """Names of block devices, for `dmimad.core.backing`.

    Args:
        udev: udev's database.
        sysfs: where block devices are by their numbers.
    """

    def __init__(self, udev: Path = Path("/run/udev/data"), sysfs: Path = Path("/sys/dev/block")) -> None:
        self._udev = udev
        self._sysfs = sysfs

    def __call__(self, number: tuple[int, int]) -> tuple[str, ...]:
        """The names of a device, the most telling first; () if nothing is known of it."""
        properties = self._properties(number)
        directory = self._sysfs / f"{number[0]}:{number[1]}"
        part = _line(directory / "partition")
        names = []
        if properties.get("DM_UUID"):
            names.append(f"dm-uuid:{properties['DM_UUID']}")
        if properties.get("DM_NAME"):
            names.append(f"dm-name:{properties['DM_NAME']}")
        if part and properties.get("ID_PART_ENTRY_UUID"):
            names.append(f"partuuid:{properties['ID_PART_ENTRY_UUID'].lower()}")
        # udev gives a partition the properties of its disk as well.
        suffix = f"-part{part}" if part else ""
        names += [f"{prefix}:{properties[key]}{suffix}" for key, prefix in _DISK if properties.get(key)]
        backing = _line(directory / "loop" / "backing_file")
        if backing:
            names.append(f"loop:{backing}")
        return tuple(dict.fromkeys(name[:MAX_NAME_CHARS] for name in names))

    def _properties(self, number: tuple[int, int]) -> dict[str, str]:
        text = _read(self._udev / f"b{number[0]}:{number[1]}", MAX_DATABASE_BYTES)
        lines = (line[2:].partition("=") for line in text.split("\n") if line.startswith("E:"))
        return {key: value for key, _, value in lines}


def _line(path: Path) -> str:
    return _read(path, MAX_NAME_CHARS).partition("\n")[0]


def _read(path: Path, limit: int) -> str:
    """The beginning of a file as text; "" if it cannot be read: there may well be none."""
    try:
        with path.open("rb") as stream:
            return stream.read(limit).decode("utf-8", "backslashreplace")
    except OSError:
        return ""
