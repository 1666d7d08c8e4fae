"""A process of another user with CAP_DAC_READ_SEARCH gives it up, and keeps what it had opened."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dmimad
from tests.conftest import find_program
from tests.other_user import NOBODY, as_root, public_path

__all__ = ["public_path"]

PROGRAM = """
import json, os, sys
from pathlib import Path
from dmimad.adapters.privileges import go_on_without
directory = Path(sys.argv[1])
go_on_without({"ima-list": directory / "list", "ima-count": directory / "count"}, os.environ)
status = open("/proc/self/status").readlines()
bits = [line.split()[1] for line in status if line.startswith(("CapEff", "CapPrm", "CapAmb"))]
told = {name: os.environ.get(name) for name in ("LISTEN_FDS", "LISTEN_FDNAMES", "KEPT")}
files = [os.read(3 + index, 100).decode() for index in range(int(told["LISTEN_FDS"] or 0))]
try:
    (directory / "secret").read_bytes()
    may = True
except PermissionError:
    may = False
mine = os.environ.get("LISTEN_PID") in (None, str(os.getpid()))
print(json.dumps([sorted({int(each, 16) for each in bits}), told, files, may, mine]))
"""
READ_SEARCH = 1 << 2


def nobodys_python() -> str:
    """One that other users may execute, which may not be true of what runs the tests."""
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    for python in (sys.executable, "/usr/bin/python3"):
        command = [find_program("setpriv", "util-linux"), f"--reuid={NOBODY}", "--clear-groups", python]
        if subprocess.run([*command, "-c", check], check=False, capture_output=True).returncode == 0:
            return python
    pytest.skip("there is no Python that other users may execute")


@pytest.fixture
def directory(public_path: Path) -> Path:
    """The list, its count and a file of root's; and dmimad, where that user can read it."""
    for name, content in (("list", "records"), ("count", "7"), ("secret", "hush")):
        (public_path / name).write_text(content)
        (public_path / name).chmod(0o400)
    (public_path / "program.py").write_text(PROGRAM)
    shutil.copytree(Path(dmimad.__file__).parent, public_path / "package" / "dmimad")
    return public_path


def run(
    directory: Path, *, user: int = NOBODY, capabilities: str = "+dac_read_search", **more: str
) -> tuple[list[int], dict[str, str | None], list[str], bool, bool]:
    setpriv = find_program("setpriv", "util-linux")
    command = [setpriv, f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    command += [f"--inh-caps=-all,{capabilities}", f"--ambient-caps=-all,{capabilities}"] if user else []
    command += [nobodys_python(), str(directory / "program.py"), str(directory)]
    environ = {"PATH": os.defpath, "PYTHONPATH": str(directory / "package"), "KEPT": "yes", **more}
    result = subprocess.run(command, env=environ, capture_output=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    bits, told, files, may, mine = json.loads(result.stdout)
    return bits, told, files, may, mine


@as_root
def test_the_capability_is_gone_and_the_files_are_open(directory: Path) -> None:
    bits, told, files, may, mine = run(directory)
    assert bits == [0]
    assert told == {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "ima-list:ima-count", "KEPT": "yes"}
    assert files == ["records", "7"]
    assert not may
    assert mine


@as_root
def test_what_was_passed_to_another_process_is_no_reason_to_keep_it(directory: Path) -> None:
    bits, told, files, may, mine = run(directory, LISTEN_PID="1", LISTEN_FDS="1", LISTEN_FDNAMES="web")
    assert (bits, files, may, mine) == ([0], ["records", "7"], False, True)
    assert told["LISTEN_FDNAMES"] == "ima-list:ima-count"


@as_root
def test_without_the_count(directory: Path) -> None:
    (directory / "count").unlink()
    _, told, files, may, _ = run(directory)
    assert told == {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "ima-list", "KEPT": "yes"}
    assert files == ["records"]
    assert not may


@as_root
def test_a_list_that_cannot_be_opened_now_is_tried_later(directory: Path) -> None:
    (directory / "list").unlink()
    bits, told, files, may, _ = run(directory)
    assert (bits, told["LISTEN_FDS"], files, may) == ([READ_SEARCH], None, [], True)


@as_root
def test_other_capabilities_are_somebodys_choice(directory: Path) -> None:
    bits, told, _, may, _ = run(directory, capabilities="+dac_read_search,+sys_admin")
    assert bits == [READ_SEARCH | 1 << 21]
    assert told["LISTEN_FDS"] is None
    assert may


@as_root
def test_root_stays_root(directory: Path) -> None:
    _, told, _, may, _ = run(directory, user=0)
    assert told["LISTEN_FDS"] is None
    assert may
