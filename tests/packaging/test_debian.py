"""The Debian packages: built, installed with their dependencies, upgraded, removed and purged.

`make test-packages`; skipped unless DMIMAD_PACKAGES is set. tests/vm tests what needs a running systemd.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmimad import __version__
from scripts.packages.deb import RELEASES, version
from scripts.packages.payload import DROP_IN, UNITS
from tests.packaging.systems import CONFIGURATION, System, next_version, system

if not os.environ.get("DMIMAD_PACKAGES"):
    pytest.skip("packages take minutes and root: make test-packages", allow_module_level=True)

CORPUS = Path(__file__).parents[1] / "corpus/lvm-6.1"


@pytest.fixture(scope="module", params=RELEASES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def debian(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    place = tmp_path_factory.mktemp(kind) / "tree"
    yield system(kind, place)
    shutil.rmtree(place)


def test_lintian_has_nothing_to_say(debian: System) -> None:
    lintian = ["lintian", "--allow-root", "--fail-on", "error,warning", str(debian.package)]
    done = subprocess.run(lintian, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_program_runs(debian: System) -> None:
    assert debian.run("dmimad", "--version").strip() == f"dmimad {__version__}"
    assert "/etc/dmimad/dmimad.toml" in debian.run("dmimad", "check-config")
    shutil.copy(CORPUS / "binary_runtime_measurements", debian.tree / "root/list")
    assert "612 records, 110 of device-mapper" in debian.run("dmimad", "replay", "--summary", "/root/list")


def test_the_program_is_isolated_from_its_caller(debian: System) -> None:
    other = debian.tree / "tmp/dmimad"
    other.mkdir()
    (other / "__init__.py").write_text("raise SystemExit('another dmimad')\n", encoding="utf-8")
    line = "cd /tmp && PYTHONPATH=/tmp PYTHONHOME=/nowhere dmimad --version"
    assert debian.run("sh", "-c", line).strip() == f"dmimad {__version__}"
    shutil.rmtree(other)


def test_modules_are_compiled_and_nothing_of_the_build_is_left(debian: System) -> None:
    assert list((debian.tree / "usr/lib/dmimad/dmimad/__pycache__").glob("cli.*.pyc"))
    listing = subprocess.run(
        ["dpkg-deb", "--contents", debian.package], capture_output=True, text=True, check=True
    ).stdout
    for unwanted in ("__pycache__", "direct_url.json", "pip.conf", "/RECORD", "/tests/"):
        assert unwanted not in listing
    for owner in re.findall(r"(?m)^\S+ (\S+)", listing):
        assert owner == "root/root"


def test_user_and_directories(debian: System) -> None:
    user, group = debian.user("dmimad")
    assert 0 < user < 1000
    assert group != 0
    for name, mode, owner in (
        ("etc/dmimad", 0o755, 0),
        (CONFIGURATION, 0o644, 0),
        ("etc/dmimad/baseline.d", 0o755, 0),
        ("etc/dmimad/secrets", 0o700, 0),
    ):
        found = (debian.tree / name).stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (mode, owner), name


def test_units_are_there_and_not_enabled(debian: System, kind: str) -> None:
    for unit in UNITS:
        assert (debian.tree / "usr/lib/systemd/system" / unit).is_file()
    assert (debian.tree / "usr/lib/systemd/system" / DROP_IN).is_file() == (kind != "deb12")
    links = [path for path in (debian.tree / "etc/systemd/system").rglob("*") if "dmimad" in path.name]
    assert links == []
    catalog = (debian.tree / "var/lib/systemd/catalog/database").read_bytes()
    assert b"dmimad" in catalog


def test_pages_completion_and_examples(debian: System) -> None:
    listing = debian.run("dpkg", "--listfiles", "dmimad").splitlines()
    for name in (
        "/usr/share/man/man1/dmimad.1.gz",
        "/usr/share/man/man5/dmimad.toml.5.gz",
        "/usr/share/man/man5/dmimad-baseline.5.gz",
        "/usr/share/man/man8/dmimad.service.8.gz",
        "/usr/share/man/man8/dmimad.8.gz",
        "/usr/share/bash-completion/completions/dmimad",
        "/usr/share/zsh/vendor-completions/_dmimad",
        "/usr/share/fish/vendor_completions.d/dmimad.fish",
        "/usr/share/doc/dmimad/examples/ima-policy",
        "/usr/share/doc/dmimad/examples/mosquitto/dmimad.acl",
        "/usr/share/doc/dmimad/examples/prometheus/dmimad.yml",
        "/usr/share/doc/dmimad/examples/grafana/dashboards/dmimad-fleet.json",
        "/usr/share/doc/dmimad/examples/prometheus/rules/dmimad.rules.yml",
        "/usr/share/doc/dmimad/examples/policies/luks.toml",
        "/usr/share/doc/dmimad/docs/handbook.md",
        "/usr/share/doc/dmimad/copyright",
        "/usr/share/doc/dmimad/changelog.gz",
    ):
        assert name in listing


def test_upgrade_removal_and_purge(debian: System, kind: str, tmp_path: Path) -> None:
    """The last of this module: nothing is left."""
    tree = debian.tree
    kept = {
        CONFIGURATION: b'[host]\nid = "mine"\n',
        "etc/dmimad/baseline.d/host.toml": b"version = 1\n",
        "etc/dmimad/secrets/mqtt-password": b"secret\n",
        "var/lib/dmimad/state.db": b"state",
    }
    for name, content in kept.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    os.chown(tree / "var/lib/dmimad", *debian.user("dmimad"))

    said = debian.install(next_version(debian.package, tmp_path))
    assert "What to do next" not in said
    assert (
        debian.run("dpkg-query", "-W", "-f", "${Status} ${Version}", "dmimad") == "install ok installed 999-1"
    )
    assert (tree / f"{CONFIGURATION}.dpkg-dist").read_text("utf-8").endswith("# of the next version\n")
    assert {name: (tree / name).read_bytes() for name in kept} == kept
    assert debian.run("dmimad", "--version").strip() == f"dmimad {__version__}"

    debian.run("dpkg", "--remove", "dmimad")
    assert {name: (tree / name).read_bytes() for name in kept} == kept
    assert not (tree / "usr/lib/dmimad").exists()
    assert not (tree / "usr/bin/dmimad").exists()

    debian.run("dpkg", "--purge", "dmimad")
    for name in ("etc/dmimad", "var/lib/dmimad", "run/dmimad"):
        assert not (tree / name).exists()
    assert debian.user("dmimad")

    said = debian.install(debian.package)
    assert "systemctl enable --now dmimad" in said
    assert debian.run("dpkg-query", "-W", "-f", "${Version}", "dmimad") == version(RELEASES[kind])
