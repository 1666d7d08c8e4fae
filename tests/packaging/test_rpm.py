"""The rpm: built, looked at, and installed by Debian's rpm into a system that has a fitting Python.

No Fedora is needed; what systemd does with the units is tested in tests/vm, on Debian.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmimad import __version__
from scripts.packages.payload import DROP_IN, UNITS
from scripts.packages.store import package
from scripts.packages.wheels import pinned
from tests.packaging.systems import System, system

if not os.environ.get("DMIMAD_PACKAGES"):
    pytest.skip("packages take minutes and root: make test-packages", allow_module_level=True)

QUERY = ("rpm", "--query", "--package")


@pytest.fixture(scope="module")
def file() -> Path:
    return package("rpm")


@pytest.fixture(scope="module")
def trixie(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Debian 13 without dmimad: with systemd, and a Python that the rpm is for."""
    place = tmp_path_factory.mktemp("rpm") / "tree"
    found = system("deb13", place)
    found.run("dpkg", "--purge", "dmimad")
    yield found
    shutil.rmtree(place)


def query(file: Path, *arguments: str) -> list[str]:
    done = subprocess.run([*QUERY, *arguments, file], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_it_says_what_it_is_and_needs(file: Path) -> None:
    assert query(file, "--queryformat", "%{NAME} %{VERSION} %{ARCH} %{LICENSE}")[0].startswith(
        f"dmimad {__version__} x86_64 Apache-2.0 AND "
    )
    needs = query(file, "--requires")
    assert {"python3 >= 3.12", "python3 < 3.15", "systemd >= 253", "glibc >= 2.34"} <= set(needs)
    provides = query(file, "--provides")
    for name, has in pinned().items():
        assert f"bundled(python3dist({name})) = {has}" in provides


def test_its_files_belong_to_root_and_settings_are_kept(file: Path) -> None:
    assert query(file, "--configfiles") == ["/etc/dmimad/dmimad.toml"]
    rows = query(
        file, "--queryformat", "[%{FILENAMES} %{FILEMODES:perms} %{FILEUSERNAME}:%{FILEGROUPNAME}\n]"
    )
    found = {name: (mode, owner) for name, mode, owner in (row.split() for row in rows)}
    assert {owner for _, owner in found.values()} == {"root:root"}
    assert found["/etc/dmimad/secrets"][0] == "drwx------"
    assert found["/usr/bin/dmimad"][0] == "-rwxr-xr-x"
    for unit in (*UNITS, DROP_IN):
        assert f"/usr/lib/systemd/system/{unit}" in found
    for minor in (12, 13, 14):
        assert f"/usr/lib/dmimad/_cffi_backend.cpython-3{minor}-x86_64-linux-gnu.so" in found
    assert not [name for name in found if "__pycache__" in name or name.endswith("direct_url.json")]


def test_its_scripts_are_a_shells(file: Path, tmp_path: Path) -> None:
    scripts = query(file, "--scripts")
    headings = [line for line in scripts if "scriptlet (using /bin/sh):" in line]
    assert [heading.split()[0] for heading in headings] == [
        "postinstall",
        "preuninstall",
        "postuninstall",
        "posttrans",
    ]
    script = tmp_path / "all"
    script.write_text("\n".join(line for line in scripts if line not in headings), encoding="utf-8")
    subprocess.run(["sh", "-n", script], check=True)


def test_it_installs_and_goes_again(file: Path, trixie: System) -> None:
    tree = trixie.tree
    rpm = ("rpm", "--root", str(tree), "--nodeps")
    said = subprocess.run([*rpm, "--install", file], capture_output=True, text=True, check=True).stdout
    assert "systemctl enable --now dmimad" in said
    # None of Debian's own packages of Python takes part.
    assert trixie.run("dmimad", "--version").strip() == f"dmimad {__version__}"
    assert "/etc/dmimad/dmimad.toml" in trixie.run("dmimad", "check-config")
    where = (
        "import sys; sys.path.insert(0, '/usr/lib/dmimad'); import cryptography.x509 as x; print(x.__file__)"
    )
    assert trixie.run("python3", "-I", "-c", where).startswith("/usr/lib/dmimad/cryptography/")
    assert list((tree / "usr/lib/dmimad/dmimad/__pycache__").glob("cli.*.pyc"))
    assert 0 < trixie.user("dmimad")[0] < 1000
    assert stat.S_IMODE((tree / "etc/dmimad/secrets").stat().st_mode) == 0o700

    state = tree / "var/lib/dmimad/state.db"
    state.parent.mkdir(parents=True, exist_ok=True)
    state.write_bytes(b"state")
    (tree / "etc/dmimad/dmimad.toml").write_text('[host]\nid = "mine"\n', encoding="utf-8")
    subprocess.run([*rpm, "--erase", "dmimad"], capture_output=True, check=True)
    assert not (tree / "usr/lib/dmimad").exists()
    assert state.read_bytes() == b"state"
    assert (tree / "etc/dmimad/dmimad.toml.rpmsave").read_text("utf-8") == '[host]\nid = "mine"\n'
