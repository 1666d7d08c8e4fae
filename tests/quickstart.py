"""docs/quickstart.md as steps: what is typed in which terminal, and what has to be seen there."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path

ANYTHING = "…"
CLONE = "In a clone of this project:"
_HEADING = re.compile(r"^## (.+)$")
_TYPED = re.compile(r"\*\*Terminal (\d)\*\*")
_SHOWN = re.compile(r"Terminal (\d) shows")
_INDENT = "    "


@dataclass(frozen=True, slots=True)
class Step:
    """A block of the page: commands, or what must be seen.

    Attributes:
        heading: above it.
        terminal: which one.
        lines: without the indentation.
        typed: they are commands.
    """

    heading: str
    terminal: int
    lines: tuple[str, ...]
    typed: bool


@contextlib.contextmanager
def alone_with_ports() -> Iterator[None]:
    """Within this no other test of this user takes the ports that the page names."""
    with (Path(tempfile.gettempdir()) / f"dmimad-quickstart-{os.geteuid()}.lock").open("w") as lock:
        flock(lock, LOCK_EX)
        yield


def steps(page: str) -> list[Step]:
    """All blocks of the page, in order.

    After a text with a terminal's name in bold a block is typed there; otherwise it is seen where was typed
    last, or where the text says "Terminal N shows".
    """
    found: list[Step] = []
    heading, terminal = "", 1
    for text, block in _blocks(page):
        if headings := [match[1] for line in text.splitlines() if (match := _HEADING.match(line))]:
            heading = headings[-1]
        typed = _TYPED.findall(text)
        shown = _SHOWN.findall(text)
        terminal = int((typed or shown or [terminal])[-1])
        found.append(Step(heading, terminal, block, typed=bool(typed) or CLONE in text))
        terminal = (
            terminal if typed or not shown else next(step.terminal for step in reversed(found) if step.typed)
        )
    return found


def _blocks(page: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each with the text between it and the one before; empty lines within a block belong to it."""
    text: list[str] = []
    block: list[str] = []
    for line in [*page.splitlines(), "end"]:
        if line.startswith(_INDENT) or (block and not line):
            block.append(line.removeprefix(_INDENT))
            continue
        if block:
            while not block[-1]:
                block.pop()
            yield "\n".join(text), tuple(block)
            text, block = [], []
        text.append(line)


def missing(lines: tuple[str, ...], seen: str) -> str | None:
    """The first of these lines that is not seen, None if all are: one after the other.

    A line that is nothing but `ANYTHING` stands for any lines, within a line it stands for any text.
    """
    there = [line.rstrip() for line in seen.splitlines()]
    patterns = [_pattern(line) for line in lines]
    starts = [0]
    jumps = True
    for line, pattern in zip(lines, patterns, strict=True):
        if line.strip() == ANYTHING:
            jumps = True
            continue
        if jumps:
            starts = [
                at + 1
                for at in range(min(starts, default=len(there)), len(there))
                if pattern.fullmatch(there[at])
            ]
        else:
            starts = [at + 1 for at in starts if at < len(there) and pattern.fullmatch(there[at])]
        jumps = False
        if not starts:
            return line
    return None


def _pattern(line: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, line.rstrip().split(ANYTHING))))
