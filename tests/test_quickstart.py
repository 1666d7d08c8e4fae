"""A newcomer's path: docs/quickstart.md, done in real terminals exactly as it says, to the first own alert.

The page's commands are typed and its output is looked for; nothing is known here but how to read the page.
What is not done each time is the installation into ``.venv``, which takes a minute and the network: the
environment of the tests stands in its place, unless ``DMIMAD_NEW_ENVIRONMENT`` is set.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tomllib
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import PROGRAM_PATH, find_program
from tests.emulator import DEADLINE_SECONDS, Emulated
from tests.quickstart import Step, alone_with_ports, missing, steps

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "quickstart.md").read_text("utf-8")
STEPS = steps(PAGE)
WALK = [step for step in STEPS if re.match(r"\d\. ", step.heading)]
PACKAGE = [step for step in STEPS if step.heading == "With an installed package"]
NEW_ENVIRONMENT = bool(os.environ.get("DMIMAD_NEW_ENVIRONMENT"))
INSTALLATION_SECONDS = 600.0
FINE, FOUND, INTERRUPTED = 0, 1, 130
ACTIVATION = ". .venv/bin/activate"
PORTS = {"18830": "mqtt", "9837": "metrics", "9838": "page"}
"""On the page, and the sections of the settings that say which ones they are where these are taken."""
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
PROMPT = re.compile(r"\[(\d+)\] \$ $")


class Shell:
    """A terminal in which bash runs, as a newcomer has it; its prompt tells the last exit status."""

    def __init__(self, directory: Path, environ: Mapping[str, str]) -> None:
        bash = find_program("bash", "bash")
        self.emulated = Emulated(
            [bash, "--norc", "--noprofile", "--noediting", "-i"],
            environ={"PATH": PROGRAM_PATH, **environ, "PS1": "[$?] $ "},
            directory=directory,
            deadline_seconds=INSTALLATION_SECONDS if NEW_ENVIRONMENT else DEADLINE_SECONDS,
        )
        self._block = self._typed = 0
        self.at_prompt()

    @property
    def seen(self) -> str:
        """What came since the first of the last commands was typed."""
        return self._text(self._block)

    def _text(self, start: int) -> str:
        return ESCAPES.sub("", self.emulated.written[start:]).replace("\r\n", "\n")

    def at_prompt(self) -> int:
        """Until the shell waits for a command; the exit status of the last one."""
        self.emulated.until(lambda: PROMPT.search(self._text(self._typed)) is not None)
        found = PROMPT.search(self._text(self._typed))
        assert found is not None
        return int(found[1])

    def type(self, command: str, *, first: bool) -> None:
        """One command; ``first``: of those whose output is looked at together."""
        self._typed = len(self.emulated.written)
        self._block = self._typed if first else self._block
        self.emulated.type(command + "\n")

    def see(self, lines: tuple[str, ...]) -> None:
        """Until these are seen."""
        try:
            self.emulated.until(lambda: missing(lines, self.seen) is None)
        except AssertionError as error:
            raise AssertionError(f"not seen: {missing(lines, self.seen)!r} in\n{self.seen}") from error

    def interrupt(self) -> int:
        """Ctrl-C; the exit status of what it ends."""
        self._typed = len(self.emulated.written)
        self.emulated.type("\x03")
        return self.at_prompt()


class Walk:
    """Somebody who does what the page says, in as many terminals as it says."""

    def __init__(self, directory: Path, environ: Mapping[str, str], stack: contextlib.ExitStack) -> None:
        self._directory = directory
        self._environ = environ
        self._stack = stack
        self._shells: dict[int, Shell] = {}
        self._typed: dict[int, tuple[str, int]] = {}  # what was typed last, and how it is to end

    def go(self, walk: list[Step]) -> None:
        for number, step in enumerate(walk):
            if not step.typed:
                self._shell(step.terminal).see(self.here(step.lines))
                continue
            expected = walk[number + 1].lines if number + 1 < len(walk) and not walk[number + 1].typed else ()
            self._type(step, expected)

    def interrupt(self, *terminals: int) -> None:
        """Ctrl-C, and the programs there end."""
        for terminal in terminals:
            assert self._shell(terminal).interrupt() in (FINE, INTERRUPTED)
            del self._typed[terminal]

    def ended(self) -> None:
        """What was typed last in each terminal has ended as it was to."""
        for terminal, (command, status) in self._typed.items():
            shell = self._shell(terminal)
            assert shell.at_prompt() == status, f"{command}:\n{shell.seen}"

    def _type(self, step: Step, expected: tuple[str, ...]) -> None:
        """Each command when the one before has ended, well or, where something is found, with 1."""
        shell = self._shell(step.terminal)
        status = FOUND if any(line.startswith("NOT AS APPROVED") for line in expected) else FINE
        for number, command in enumerate(self.here(step.lines)):
            if before := self._typed.get(step.terminal):
                assert shell.at_prompt() == before[1], f"{before[0]}:\n{shell.seen}"
            self._typed[step.terminal] = command, status
            shell.type(command, first=number == 0)

    def here(self, lines: tuple[str, ...]) -> tuple[str, ...]:
        """With the ports that there are instead of those of the page, as it tells one to do."""
        file = self._directory / "quick" / "dmimad.toml"
        if not file.exists():
            return lines
        settings = tomllib.loads(file.read_text("utf-8"))
        for port, section in PORTS.items():
            lines = tuple(re.sub(rf"\b{port}\b", str(settings[section]["port"]), line) for line in lines)
        return lines

    def _shell(self, terminal: int) -> Shell:
        if terminal not in self._shells:
            self._shells[terminal] = Shell(self._directory, self._environ)
            self._stack.enter_context(self._shells[terminal].emulated)
        return self._shells[terminal]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The project as one gets it, with an environment if none is to be made."""
    directory = tmp_path / "clone"
    directory.mkdir()
    for name in ("Makefile", "README.md", "LICENSE", "pyproject.toml"):
        shutil.copy(ROOT / name, directory)
    for name in ("scripts", "docs", "dmimad", "config"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    if not NEW_ENVIRONMENT:
        (directory / ".venv").mkdir()
        (directory / ".venv" / "bin").symlink_to(Path(sys.prefix) / "bin")
        (directory / ".venv" / ".installed-demo").touch()
    return directory


@pytest.fixture
def alone() -> Iterator[None]:
    """The ports of the page are this walk's, if nobody else on the machine has them."""
    with alone_with_ports():
        yield


@pytest.fixture
def walk(clone: Path) -> Iterator[Walk]:
    with contextlib.ExitStack() as stack:
        yield Walk(clone, {}, stack)


@pytest.mark.usefixtures("alone")
def test_from_the_clone_to_the_first_own_alert(walk: Walk, clone: Path) -> None:
    find_program("make", "make")
    find_program("curl", "curl")
    put_right = next(number for number, step in enumerate(WALK) if step.heading.startswith("5. "))
    walk.go(WALK[:put_right])
    (url,) = re.findall(r"`(http://\S+)`", PAGE)
    with urllib.request.urlopen(walk.here((url,))[0], timeout=DEADLINE_SECONDS) as answer:
        assert "vg0-data" in answer.read().decode()
    walk.go(WALK[put_right:-1])
    walk.interrupt(1, 2, 3)
    walk.go(WALK[-1:])
    walk.ended()
    assert not (clone / "quick").exists()


@pytest.mark.usefixtures("alone")
def test_with_an_installed_package_and_mosquitto(clone: Path, tmp_path: Path) -> None:
    find_program("mosquitto", "mosquitto")
    find_program("curl", "curl")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "amqtt.py").write_text(
        "raise ModuleNotFoundError('No module named amqtt', name='amqtt')\n"
    )
    paths = {
        "PATH": os.pathsep.join((str(Path(sys.prefix) / "bin"), PROGRAM_PATH)),
        "PYTHONPATH": os.pathsep.join((str(tmp_path / "none"), os.environ.get("PYTHONPATH", ""))),
    }
    with contextlib.ExitStack() as stack:
        walk = Walk(clone, paths, stack)
        walk.go(PACKAGE)
        walk.go([_without_activation(step) for step in WALK if step.heading[0] != "1" and step.terminal != 1])
        walk.interrupt(1, 2, 3)
        walk.ended()


def _without_activation(step: Step) -> Step:
    return replace(step, lines=tuple(line for line in step.lines if line != ACTIVATION))


def test_the_readme_leads_to_it() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    beginning = readme.partition("## Install")[0]
    assert WALK[0].lines == ("make demo",)
    assert "\n    make demo " in beginning
    assert "](docs/quickstart.md)" in beginning


def test_the_page_is_read_as_it_is_meant() -> None:
    assert [step.terminal for step in WALK if step.typed] == [1, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4]
    assert [step.terminal for step in WALK if not step.typed] == [1, 1, 2, 3, 4, 4, 2, 4, 3, 4, 4, 3]
    assert any(line.startswith("… quick  CRITICAL  drift.active") for step in WALK for line in step.lines)
    assert [step.lines for step in PACKAGE] == [("dmimad demo --stage quick", "mosquitto -p 18830")]


@pytest.mark.parametrize(
    ("lines", "first_missing"),
    [
        (("a b", "c"), None),
        (("a …", "…", "e"), None),
        (("…", "d", "e"), None),
        (("c", "d"), None),
        (("a b", "d"), "d"),
        (("a", "c"), "a"),
        (("c", "…", "a b"), "a b"),
        (("…", "x"), "x"),
    ],
)
def test_what_is_missing(lines: tuple[str, ...], first_missing: str | None) -> None:
    assert missing(lines, "a b\nc\nd  \ne\n") == first_missing
