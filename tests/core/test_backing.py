"""What devices below are called: names that outlive a boot, the number for want of a better."""

from __future__ import annotations

import pytest

from dmimad.core.backing import as_number, mapped_names, names_on_host, no_names
from dmimad.core.device import Device
from dmimad.core.knowledge import Knowledge
from dmimad.core.registry import Registry


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("8:3", (8, 3)),
        ("253:1048575", (253, 1_048_575)),
        ("08:3", (8, 3)),
        ("8:", None),
        (":3", None),
        ("8:3:1", None),
        (" 8:3", None),
        ("8:3\n", None),
        ("8:-3", None),
        ("sha256:1", None),
        ("٣:٣", None),
        ("1" * 11 + ":1", None),
        ("", None),
    ],
)
def test_what_is_a_device_number(value: str, number: tuple[int, int] | None) -> None:
    assert as_number(value) == number


def test_a_uuid_outlives_a_rename() -> None:
    assert mapped_names(b"a", b"LVM-1") == ("dm-uuid:LVM-1", "dm-name:a")
    assert mapped_names(b"a", b"") == ("dm-name:a",)


def test_two_devices_never_have_one_name() -> None:
    names = [b"a\xff", rb"a\xff", rb"a\\xff", "aÿ".encode(), b"a"]
    assert len({mapped_names(name, b"") for name in names}) == len(names)
    assert mapped_names(b"\xff", b"\\") == (r"dm-uuid:\\", r"dm-name:\xff")


def test_mapped_devices_are_called_as_they_are_tracked_and_others_as_the_host_says() -> None:
    registry = Registry(Knowledge(keep_facts=False))
    registry.by_number[254, 0] = Device("254:0", 254, 0, b"a", b"")
    names = names_on_host(registry, lambda number: (f"serial:{number[1]}",))
    assert names((254, 0)) == ("dm-name:a",)
    assert names((8, 3)) == ("serial:3",)
    registry.by_number[254, 0] = Device("254:0", 254, 0, b"b", b"U")
    assert names((254, 0)) == ("dm-uuid:U", "dm-name:b")
    assert names_on_host(registry, no_names)((8, 3)) == ()
