"""Texts from outside for a terminal: harmless, and of known width.

Source: Unicode Standard Annex 11 for what takes two columns; no-color.org for NO_COLOR,
bixense.com/clicolors for CLICOLOR_FORCE.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import unicodedata
from typing import TextIO

from dmimad.core.event import one_line

MAX_TEXT_CHARS = 1000
"""Of one text from outside."""
_EMOJI_STYLE = "\ufe0f"
"""Takes no column, but some terminals make the character before it wider."""
SEVERITY_COLOURS = {"critical": "1;31", "warning": "1;35", "info": "36"}
"""Of the sixteen, those that can be read on black and on white; SGR parameters."""
_WORDS = re.compile(r"(\s*)(\S+)")
UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def plain(value: object) -> str:
    """A text or number without what moves the cursor, ends the line or turns its direction; else ""."""
    if not isinstance(value, str | int | float):
        return ""
    text = str(value)
    if len(text) > MAX_TEXT_CHARS:
        text = text[:MAX_TEXT_CHARS] + "…"
    return one_line(text)


def columns_of(text: str) -> int:
    """How wide a terminal shows it; rarely it shows it narrower, never wider."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.east_asian_width(character) in "WF":
        return 2
    if character == _EMOJI_STYLE:
        return 1
    return 0 if unicodedata.category(character) in ("Mn", "Me") else 1


def cut(text: str, width: int, ellipsis: str = "…") -> str:
    """At most so wide."""
    if columns_of(text) <= width:
        return text
    return _beginning(text, width - len(ellipsis)) + ellipsis


def cut_within(text: str, width: int, ellipsis: str = "…") -> str:
    """At most so wide; the middle goes, for names that begin alike differ at their end."""
    if columns_of(text) <= width:
        return text
    room = max(width - len(ellipsis), 0)
    head = _beginning(text, room - room // 2)
    backwards = text[::-1]
    end = _beginning(backwards, room - columns_of(head))[::-1]
    return head + ellipsis + end.lstrip("".join(c for c in set(end) if not _columns(c)))


def wrapped(text: str, width: int) -> list[str]:
    """Lines at most so wide, broken between words where that can be; at least one.

    Within a line as many spaces are between two words as there were.
    """
    lines = [""]
    for gap, word in _WORDS.findall(text):
        joined = f"{lines[-1]}{gap}{word}" if lines[-1] else word
        if columns_of(joined) <= width:
            lines[-1] = joined
            continue
        lines += [word] if lines[-1] else []
        lines[-1] = word
        while columns_of(lines[-1]) > width:
            head = _beginning(lines[-1], width) or lines[-1][0]  # wider than a line
            lines[-1:] = [head, lines[-1][len(head) :]]
    return lines


def _beginning(text: str, width: int) -> str:
    used = 0
    for at, character in enumerate(text):
        used += columns_of(character)
        if used > width:
            return text[:at]
    return text


def padded(text: str, width: int) -> str:
    """At least so wide."""
    return text + " " * max(width - columns_of(text), 0)


def for_people(seconds: float) -> str:
    """A time span as its greatest unit: ``3 min``."""
    for size, unit in UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return "0 s"


def seconds_of(moment: object) -> float | None:
    """An RFC 3339 time as Unix seconds; None for anything else."""
    if not isinstance(moment, str):
        return None
    try:
        return datetime.datetime.fromisoformat(moment).timestamp()
    except (ValueError, OverflowError):
        return None


def local_time(moment: object, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """An RFC 3339 time as the clock on the wall shows it."""
    seconds = seconds_of(moment)
    return "?" if seconds is None else clock_time(seconds, form)


def clock_time(seconds: float, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Unix seconds as the clock on the wall shows them."""
    try:
        return datetime.datetime.fromtimestamp(seconds).astimezone().strftime(form)
    except (ValueError, OverflowError, OSError):
        return "?"


def add_colour_argument(parser: argparse.ArgumentParser) -> None:
    """``--color``, for `coloured`."""
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="auto: on a terminal, unless NO_COLOR is set",
    )


def coloured(out: TextIO, when: str = "auto") -> bool:
    """Whether colours are wanted: ``always``, ``never``, or ``auto``.

    That is: on a terminal that knows them, unless NO_COLOR is set; elsewhere if CLICOLOR_FORCE is.
    """
    if when != "auto":
        return when == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    return out.isatty() and moves_the_cursor()


def terminal_columns(out: TextIO) -> int | None:
    """How wide the terminal is now; None where there is none, or it does not say."""
    try:
        return os.get_terminal_size(out.fileno()).columns or None
    except (OSError, ValueError):
        return None


def moves_the_cursor() -> bool:
    """Whether the terminal, if there is one, knows more than lines."""
    return os.environ.get("TERM", "dumb") != "dumb"


def encodes(out: TextIO, text: str) -> bool:
    """Whether the stream can show it."""
    try:
        text.encode(out.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
