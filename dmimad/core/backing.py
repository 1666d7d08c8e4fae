"""What a backing device is called, so that the name means the same device after the next boot.

Source: device-mapper names and uuids as `device` has them; for all other block devices whoever knows the
host is asked (`Names`).  Numbers (``8:3``) are given out anew at each boot: a name only for want of a better.

Forms, most telling first: ``dm-uuid:U``, ``dm-name:N``, and for other devices what the surroundings say,
such as ``partuuid:…``, ``wwn:…`` or ``serial:…``.  All of them are in ``docs/fingerprint.md``.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from dmimad.core.registry import Registry

Number = tuple[int, int]
#: The names of a block device, the most telling first; () if it has none that outlives a boot.
Names = Callable[[Number], tuple[str, ...]]

_NUMBER = re.compile(r"([0-9]{1,10}):([0-9]{1,10})")


def no_names(_: Number) -> tuple[str, ...]:
    """Where nothing is known of the host."""
    return ()


def as_number(value: str) -> Number | None:
    """The device number that an attribute's value is, if it is one."""
    found = _NUMBER.fullmatch(value)
    return None if found is None else (int(found[1]), int(found[2]))


def mapped_names(name: bytes, uuid: bytes) -> tuple[str, ...]:
    """The names of a mapped device; its uuid outlives a rename."""
    by_name = f"dm-name:{_unambiguous(name)}"
    return (f"dm-uuid:{_unambiguous(uuid)}", by_name) if uuid else (by_name,)


def _unambiguous(text: bytes) -> str:
    """As values of attributes are written: two devices never have one name."""
    return text.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def names_on_host(registry: Registry, others: Names) -> Names:
    """Names of all block devices: of mapped devices as they are tracked, of the others as ``others`` says."""

    def names(number: Number) -> tuple[str, ...]:
        device = registry.by_number.get(number)
        return others(number) if device is None else mapped_names(device.name, device.uuid)

    return names
