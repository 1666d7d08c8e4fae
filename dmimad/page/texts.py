"""Texts from hostile tables, and times, as a page shows them.

Source: Unicode Standard, chapters 4.5 (general categories) and 23 (what is invisible).

A name may have any characters.  What could not be seen, or would act on the text around it (controls, marks
of direction, accents by the dozen), is shown as an escape and marked as one, so it is told from a name that
has a backslash.

What this module does not do: decide what is shown.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from operator import itemgetter

from markupsafe import Markup, escape

#: Of one text; a name has 127 bytes, a value of a table may have thousands.
MAX_CHARS = 1000
#: Letters to Unicode, and nothing to the eye.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_MAX_ACCENTS, _MAX_REPEATED = 2, 3
_FIRST, _SECOND = itemgetter(0), itemgetter(1)
_BDI, _LTR, _END = Markup("<bdi>"), Markup('<bdi dir="ltr">'), Markup("</bdi>")
_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def shown(value: object) -> Markup:
    """A name or value as HTML: its direction is its own affair, and everything in it can be seen."""
    return _BDI + _visible(str(value)) + _END


def told(value: object) -> Markup:
    """A message of ours as HTML; a name in it does not turn the direction of the rest."""
    return _LTR + _visible(str(value)) + _END


def _visible(text: str) -> Markup:
    cut = text[:MAX_CHARS]
    if _is_ordinary(cut):  # nearly all of them, and it is a tenth of the time
        return escape(cut) + ("…" if len(text) > len(cut) else "")
    pieces: list[str] = []
    for escaped, run in itertools.groupby(_marked(cut), key=_FIRST):
        letters = "".join(map(_SECOND, run))
        if not escaped:
            pieces.append(escape(letters))
            continue
        for letter, same in itertools.groupby(letters):
            count, word = len(list(same)), _escape(letter)  # which needs no escaping itself
            times, each = (count, word) if count <= _MAX_REPEATED else (1, f"{word}×{count}")
            pieces.append(f'<span class="escape">{each}</span>' * times)
    return Markup("".join(pieces)) + ("…" if len(text) > len(cut) else "")  # all of it is escaped


def _is_ordinary(text: str) -> bool:
    return text.isascii() and text.isprintable() and "  " not in text and text == text.strip(" ")


def _marked(text: str) -> Iterator[tuple[bool, str]]:
    """Each character, and whether it is to be escaped."""
    accents, last = 0, len(text) - 1
    for at, character in enumerate(text):
        accents = accents + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        at_edge = character == " " and (at in (0, last) or text[at - 1] == " ")
        yield accents > _MAX_ACCENTS or at_edge or _is_invisible(character), character


def plain(value: object) -> str:
    """The same where only text can be: in a title, for instance."""
    text = str(value)[:MAX_CHARS]
    return "".join(_escape(each) if _is_invisible(each) else each for each in text)


def _is_invisible(character: str) -> bool:
    if character.isascii():
        return not character.isprintable()
    return (
        not character.isprintable()
        or character in _BLANK
        or "\ufe00" <= character <= "\ufe0f"
        or "\U000e0100" <= character <= "\U000e01ef"
    )


def _escape(character: str) -> str:
    if character == " ":
        return "\u2423"
    code = ord(character)
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return f"\\u{code:04x}" if code > 0xFF else f"\\x{code:02x}"


# -- times ---------------------------------------------------------------------------------


def seconds_of(moment: object) -> float | None:
    """An RFC 3339 time as Unix seconds; None for anything else."""
    if not isinstance(moment, str):
        return None
    try:
        return datetime.fromisoformat(moment).timestamp()
    except (ValueError, OverflowError):
        return None


def utc(moment: object, form: str = "%Y-%m-%d %H:%M:%S UTC") -> str:
    """An RFC 3339 time for people; "" for anything else."""
    seconds = seconds_of(moment)
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime(form)


def span(seconds: float) -> str:
    """A time span as its greatest unit: ``3 min``."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(round(seconds * 1000), 0)} ms"


def moment_tag(moment: object, *, age: bool = True) -> Markup:
    """A time element; `age`: the page's script may say instead how long ago that is."""
    words = utc(moment)
    if not words:
        return Markup("—")
    ageing = Markup(" data-age") if age else ""
    return Markup('<time datetime="{}"{}>{}</time>').format(moment, ageing, words)


def counted(number: int, one: str, many: str) -> str:
    """``1 device is``, ``2 devices are``."""
    return f"{number:,} {one if number == 1 else many}"
