"""Adding an approval to a baseline file's text, and taking former ones out, without touching the rest.

Source: the project's own format, ``docs/baseline.md``.

What was in the file stays byte for byte, but for the number of its ``serial``, which is raised, and for
entries that are to be removed.  The new text is parsed again and must say exactly what was meant; a file that
is written in a way that this cannot be done to is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from dmimad.core.baseline import MAX_SERIAL, Entry, parse_baseline
from dmimad.core.errors import BaselineError

NEW_FILE = "version = 1\n"

_HEADER = re.compile(r"\s*\[\[\s*device\s*\]\]")
_TABLE = re.compile(r"\s*\[")
_SERIAL = re.compile(r"(\s*serial\s*=\s*)([0-9]+)(?=\s|#|$)")
_BY_HAND = "written in a way that it cannot be changed automatically; edit it by hand"


@dataclass(frozen=True, slots=True)
class Edit:
    """A file's new text, its serial, and how many entries were removed."""

    text: str
    serial: int | None
    removed: int


def add_entry(text: str, file: str, entry: str, *, remove: Iterable[str] = ()) -> Edit:
    """The file's text with ``entry`` (a ``[[device]]``, perhaps with comments before it) at its end.

    Args:
        text: the file's present text; "" for a new file.
        remove: origins (``file:line``) of entries to take out.

    Raises:
        BaselineError: the file is refused as it is, or cannot be edited.
    """
    text = text or NEW_FILE
    before = parse_baseline(text, file)
    unwanted = {one.origin for one in before.entries} & set(remove)
    kept = _without(text, file, unwanted) if unwanted else text
    kept, serial = _raised(kept, file, before.serial)
    new = parse_baseline(NEW_FILE + entry, file)
    result = f"{kept}{'' if kept.endswith(chr(10)) else chr(10)}\n{entry}"
    expected = [one for one in before.entries if one.origin not in unwanted] + list(new.entries)
    if not _says(result, file, expected, serial):
        raise BaselineError(file, _BY_HAND)
    return Edit(result, serial, len(unwanted))


def _says(text: str, file: str, entries: list[Entry], serial: int | None) -> bool:
    """Whether the text means these entries, wherever they stand."""
    try:
        found = parse_baseline(text, file)
    except BaselineError:
        return False
    return _placeless(found.entries) == _placeless(entries) and found.serial == serial


def _placeless(entries: Iterable[Entry]) -> list[Entry]:
    return [replace(entry, origin="") for entry in entries]


def _without(text: str, file: str, unwanted: set[str]) -> str:
    """The text without entries, and without the comments right above them."""
    lines = text.splitlines(keepends=True)
    headers = [number for number, line in enumerate(lines) if _HEADER.match(line)]
    starts = [_above(lines, header) for header in headers]
    stops = [*starts[1:], len(lines)]
    gone: set[int] = set()
    for header, start, stop in zip(headers, starts, stops, strict=True):
        if f"{file}:{header + 1}" in unwanted:
            gone.update(range(start, stop))
    return "".join(line for number, line in enumerate(lines) if number not in gone)


def _above(lines: list[str], header: int) -> int:
    """The first of the comment lines that stand right above a header."""
    start = header
    while start and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    return start


def _raised(text: str, file: str, serial: int | None) -> tuple[str, int | None]:
    """The text with the next serial, if it has one."""
    if serial is None:
        return text, None
    if serial >= MAX_SERIAL:
        raise BaselineError(file, "cannot be raised any more", key="serial")
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if _TABLE.match(line):
            break
        found = _SERIAL.match(line)
        if found is not None:
            lines[number] = f"{found[1]}{serial + 1}{line[found.end() :]}"
            return "".join(lines), serial + 1
    raise BaselineError(file, _BY_HAND, key="serial")
