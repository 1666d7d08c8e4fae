"""The made texts, without building a package: man pages, completions, and that the lists name what exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dmimad import cli
from dmimad.settings import reference
from scripts.packages import deb, rpm
from scripts.packages.completion import PLACES, completion
from scripts.packages.man import pages, roff
from scripts.packages.payload import MAN_ALIASES, UNITS
from scripts.packages.project import PROJECT
from scripts.packages.wheels import pinned

PAGES = pages()


@pytest.mark.parametrize("name", PAGES)
def test_a_man_page_has_no_error(name: str, tmp_path: Path) -> None:
    lint = shutil.which("mandoc")
    if lint is None:
        pytest.skip("mandoc is not installed")
    (tmp_path / name).write_text(PAGES[name], encoding="utf-8")
    done = subprocess.run(
        [lint, "-T", "lint", "-W", "warning", tmp_path / name], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_no_mark_is_left_in_a_page() -> None:
    assert len(PAGES) == 4
    for text in PAGES.values():
        assert not re.search(r"@[A-Z]+@", text)


def test_every_command_and_every_option_has_its_place() -> None:
    text = PAGES["dmimad.1"]
    for command in cli.COMMANDS:
        assert f".SS dmimad {roff(command)}\n" in text
    assert ".SS dmimad baseline capture\n" in text
    assert "\\fB\\-\\-until N\\fR\nonly the first N records" in text


def test_every_setting_has_its_place() -> None:
    text = PAGES["dmimad.toml.5"]
    for setting in reference():
        assert f"\\fB{roff(setting.key)}\\fR = {roff(setting.default)}\n" in text


def test_text_is_no_request() -> None:
    assert roff(".TH\na-b \\fB'x'") == "\\&.TH\na\\-b \\efB\\(aqx\\(aq"


@pytest.mark.parametrize("shell", PLACES)
def test_the_shell_understands_its_completion(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "completion"
    script.write_text(completion(shell), encoding="utf-8")
    done = subprocess.run([program, "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(completion("bash"), encoding="utf-8")
    ask = (
        'source "$1"; COMP_WORDS=(dmimad baseline capture --ou); COMP_CWORD=3; _shtab_dmimad;'
        ' echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", ask, "bash", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.split() == ["--output"]


def test_pages_that_units_name_exist() -> None:
    known = {name.rpartition(".")[0] for name in (*PAGES, *MAN_ALIASES) if name.endswith(".8")}
    for unit in UNITS:
        assert unit in known
        for name in re.findall(r"man:(\S+?)\(8\)", (PROJECT / "systemd" / unit).read_text(encoding="utf-8")):
            assert name in known


def test_candidates_sort_before_the_release() -> None:
    assert deb.version(deb.RELEASES["deb12"], "1.2.0rc1") == "1.2.0~rc1-1~deb12"
    assert deb.version(deb.RELEASES["deb13"], "1.2.0") == "1.2.0-1~deb13"
    assert rpm.version("1.2.0.dev3") == "1.2.0~dev3"


def test_everything_bundled_is_pinned_and_has_its_licence() -> None:
    bundled = pinned()
    assert {"aiomqtt", "asyncinotify", "cryptography", "jinja2", "prometheus-client", "structlog"} <= set(
        bundled
    )
    licences = (PROJECT / "packaging/debian/copyright").read_text(encoding="utf-8")
    for name in bundled:
        assert f"\nFiles: wheels/{name.replace('-', '_')}-*\n" in licences
