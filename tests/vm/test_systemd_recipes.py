"""What the machines with systemd are made from: dependencies, the older package, disks, names of checks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.vm import debs, userland
from tests.vm.image import Image
from tests.vm.machine import DISK_BYTES, ROOT_DISK, Hardware, Machine
from tests.vm.packages import SERIES
from tests.vm.programs import VmError, run
from tests.vm.systemd.groups import GROUPS, check_names
from tests.vm.systemd.pages import Shell, commands_after

CONTROL = """\
Package: dmimad
Version: 1.2-3
Architecture: all
Maintainer: Somebody <somebody@example.org>
Pre-Depends: base-files
Depends: python3 (>= 3.11), python3 (<< 3.14), systemd | systemd-sysusers, python3:any, libc6 (>= 2.34)
Description: a package
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(CONTROL, encoding="utf-8")
    (tree / "file").write_text("content\n", encoding="utf-8")
    run(("dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, tmp_path / "dmimad.deb"))
    return tmp_path / "dmimad.deb"


def test_dependencies(package: Path) -> None:
    assert userland.dependencies(package) == ("base-files", "libc6", "python3", "systemd")


def test_the_older_package_has_the_same_contents(package: Path, tmp_path: Path) -> None:
    older = tmp_path / "older.deb"
    debs.rebuild_as(package, older, debs.OLD_VERSION)
    assert run(("dpkg-deb", "--field", older, "Version")).strip() == debs.OLD_VERSION
    assert run(("dpkg-deb", "--field", older, "Depends")) == run(("dpkg-deb", "--field", package, "Depends"))
    run(("dpkg-deb", "--extract", older, tmp_path / "extracted"))
    assert (tmp_path / "extracted/file").read_text(encoding="utf-8") == "content\n"
    run(("dpkg", "--compare-versions", debs.OLD_VERSION, "lt", "1.2-3"))


def test_the_root_is_always_the_first_disk(tmp_path: Path) -> None:
    machine = Machine(Image(tmp_path, tmp_path, disk=tmp_path / "root"), tmp_path, tmp_path, Hardware())
    for boot in range(1, len(DISK_BYTES) + 1):
        serials = re.findall(r",serial=([a-z-]+)", " ".join(machine.disks(boot)))
        assert serials[0] == ROOT_DISK
        assert sorted(serials[1:]) == sorted(DISK_BYTES)


def test_releases_have_kernels() -> None:
    assert {one.kernel for one in userland.RELEASES} <= {one.name for one in SERIES}
    with pytest.raises(VmError, match="unknown release 'debian1': one of debian12, debian13"):
        userland.release("debian1")


def test_checks_have_names_of_their_own() -> None:
    assert next(iter(GROUPS)) == "install"
    assert len({*check_names()}) == len(check_names()) == sum(len(group.checks) for group in GROUPS.values())


def test_the_commands_of_a_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "install.md").read_text(encoding="utf-8")
    lines = commands_after("To see one", page)
    assert lines[0] == "truncate -s 1M /var/tmp/demo.img"
    assert lines[-2:] == ["dmsetup resume demo", "dmimad status"]
    with pytest.raises(AssertionError, match="no commands after: To see two"):
        commands_after("To see two", page)


def test_a_shell_keeps_its_variables() -> None:
    shell = Shell()
    try:
        assert shell.run("a=$(printf 'b c')", "echo $a", "printf d") == "b c\nd"
        assert shell.try_to("echo e; false") == (1, "e\n")
        with pytest.raises(AssertionError, match="false: exit status 1"):
            shell.run("false")
    finally:
        shell.close()
