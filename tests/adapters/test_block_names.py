"""Names of block devices, from a database and a sysfs as udev and the kernel write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmimad.adapters.block_names import MAX_DATABASE_BYTES, MAX_NAME_CHARS, BlockNames


@pytest.fixture
def host(tmp_path: Path) -> Path:
    for name in ("udev", "sysfs"):
        (tmp_path / name).mkdir()
    return tmp_path


def names(host: Path, number: tuple[int, int] = (8, 3)) -> tuple[str, ...]:
    return BlockNames(host / "udev", host / "sysfs")(number)


def udev(host: Path, *lines: str, number: str = "8:3") -> None:
    (host / "udev" / f"b{number}").write_bytes("\n".join(("S:disk/by-id/x", "I:123", *lines, "")).encode())


def sysfs(host: Path, file: str, text: str, number: str = "8:3") -> None:
    path = host / "sysfs" / number / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_device_that_nobody_knows_has_no_name(host: Path) -> None:
    assert names(host) == ()
    assert BlockNames(host / "no", host / "such")((8, 3)) == ()


def test_a_disk_has_its_wwn_and_its_serial(host: Path) -> None:
    udev(host, "E:ID_SERIAL=ATA_Disk_1234", "E:ID_WWN=0x5000", "E:ID_WWN_WITH_EXTENSION=0x5000ab")
    assert names(host) == ("wwn:0x5000ab", "wwn:0x5000", "serial:ATA_Disk_1234")


def test_a_partition_has_its_uuid_and_the_names_of_its_disk_with_its_number(host: Path) -> None:
    udev(host, "E:ID_SERIAL=s", "E:ID_PART_ENTRY_UUID=ABCD-01", "E:ID_PART_ENTRY_NUMBER=3")
    sysfs(host, "partition", "3\n")
    assert names(host) == ("partuuid:abcd-01", "serial:s-part3")


def test_a_whole_disk_is_no_partition_whatever_udev_says(host: Path) -> None:
    udev(host, "E:ID_PART_ENTRY_UUID=abcd", "E:ID_SERIAL=s")
    assert names(host) == ("serial:s",)


def test_two_partitions_of_one_disk_differ(host: Path) -> None:
    for part in (1, 2):
        udev(host, "E:ID_SERIAL=s", number=f"8:{part}")
        sysfs(host, "partition", f"{part}\n", number=f"8:{part}")
    assert names(host, (8, 1)) == ("serial:s-part1",)
    assert names(host, (8, 2)) == ("serial:s-part2",)


def test_a_mapped_device_and_an_array_have_their_uuids(host: Path) -> None:
    udev(host, "E:DM_NAME=vg0-a", "E:DM_UUID=LVM-1")
    assert names(host) == ("dm-uuid:LVM-1", "dm-name:vg0-a")
    udev(host, "E:MD_UUID=1:2:3:4", number="9:0")
    assert names(host, (9, 0)) == ("md-uuid:1:2:3:4",)


def test_a_loop_device_has_its_file(host: Path) -> None:
    sysfs(host, "loop/backing_file", "/srv/disk image.img\n", number="7:0")
    assert names(host, (7, 0)) == ("loop:/srv/disk image.img",)


def test_empty_properties_are_none(host: Path) -> None:
    udev(host, "E:ID_SERIAL=", "E:ID_WWN", "ID_SERIAL=not a property", "E:=x")
    assert names(host) == ()


def test_a_value_keeps_what_comes_after_its_first_equals_sign(host: Path) -> None:
    udev(host, "E:ID_SERIAL=a=b")
    assert names(host) == ("serial:a=b",)


def test_other_bytes_than_utf8_are_written_out(host: Path) -> None:
    (host / "udev" / "b8:3").write_bytes(b"E:ID_SERIAL=\xff\xfe\n")
    assert names(host) == ("serial:\\xff\\xfe",)


def test_what_is_too_long_is_cut(host: Path) -> None:
    udev(host, "E:ID_SERIAL=" + "s" * 2000)
    assert names(host) == (("serial:" + "s" * 2000)[:MAX_NAME_CHARS],)
    udev(host, "E:X=" + "x" * MAX_DATABASE_BYTES, "E:ID_SERIAL=late")
    assert names(host) == ()


def test_a_directory_in_the_place_of_a_file_is_no_name(host: Path) -> None:
    (host / "udev" / "b8:3").mkdir()
    assert names(host) == ()
