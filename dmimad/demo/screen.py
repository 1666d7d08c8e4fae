"""The demo's screen: what is told, what is done, alerts, a summary; in 80 columns.

Source: no-color.org for NO_COLOR; console_codes(4) for the colours.

Everything that comes from outside (names above all) loses its control characters here, and what the
terminal's encoding cannot show is replaced.  Colour is for terminals only, and nothing is said by colour
alone.  Nothing is asked, measured or decided here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TextIO

from dmimad.commands.plain_text import SEVERITY_COLOURS, columns_of, cut, wrapped
from dmimad.demo.subscriber import Alert

WIDTH = 80
_NARROWEST = 40
_MARGIN = "   "
_BAR = "▌"
_HASH_PREFIX = "sha256:"
_HASH_DIGITS = 10
_HASH = re.compile(rf"({_HASH_PREFIX}[0-9a-f]{{{_HASH_DIGITS}}})[0-9a-f]+")
MAX_TEXT_CHARS = 400
"""Of one text from outside."""

_PLAIN, _BOLD, _DIM, _HEAD, _COMMAND, _GOOD = "", "1", "2", "1", "36", "32"
_ASCII = str.maketrans({"…": "~", "▌": "|"})


class Screen:
    """Writes to one stream, line by line.

    Args:
        out: the stream.
        colour: whether escape sequences may be written.
        columns: of the terminal; at most `WIDTH` are used.
    """

    def __init__(self, out: TextIO, *, colour: bool, columns: int = WIDTH) -> None:
        self._out = out
        self._colour = colour
        self._width = max(_NARROWEST, min(columns, WIDTH))
        self._encoding = out.encoding or "utf-8"
        self._unicode = _encodes(self._encoding, "…▌")
        self._chapter = 0

    # -- the parts of the story ------------------------------------------------------------

    def title(self, text: str, below: str) -> None:
        """The first lines."""
        self._line(text, _BOLD)
        self._paragraph(below, "", _PLAIN)

    def rows(self, rows: Iterable[tuple[str, str]]) -> None:
        """Names and what belongs to them; the same name again is not repeated."""
        shown = list(rows)
        indent = max(len(name) for name, _ in shown) + len(_MARGIN) + 2
        before = ""
        for name, text in shown:
            head = _MARGIN + ("" if name == before else name)
            self._paragraph(text, " " * indent, _PLAIN, head.ljust(indent))
            before = name

    def blank(self) -> None:
        self._write("")

    def chapter(self, title: str) -> None:
        """A new chapter begins."""
        self._chapter += 1
        self.blank()
        number = f"{self._chapter}".ljust(len(_MARGIN))
        self._paragraph(title, _MARGIN, _HEAD, number)

    def heading(self, title: str) -> None:
        self.blank()
        self._line(title, _HEAD)

    def say(self, text: str) -> None:
        """The narrator."""
        self._paragraph(text, _MARGIN, _PLAIN)

    def command(self, text: str) -> None:
        """What somebody typed when the list was recorded, or may type now."""
        self._paragraph(text, _MARGIN + "    ", _COMMAND, _MARGIN + "$ ")

    def edit(self, text: str) -> None:
        """A line that was added to a file."""
        self._line(f"{_MARGIN}+ {shortened(text)}", _GOOD)

    def fine(self, text: str) -> None:
        """What the daemon makes of it, if that is no alert."""
        self._paragraph(text, _MARGIN, _GOOD)

    def alert(self, alert: Alert, when: str) -> None:
        """An alert as it arrives; `when`: how long after its cause."""
        firing = alert.status == "firing"
        label = alert.severity.upper() if firing else alert.status.upper()
        colour = SEVERITY_COLOURS.get(alert.severity, _BOLD) if firing else _GOOD
        self._barred(f"{label:<8}  {alert.code}  {alert.device}", colour, colour)
        if firing:
            self._barred(alert.message, colour)
            if alert.actual.startswith(_HASH_PREFIX):
                self._barred(f"expected {_short(alert.expected)}, actual {_short(alert.actual)}", colour)
        self._barred(f"{_evidence(alert)}, {when}{_lasted(alert)}", colour, _DIM)

    # -- lines -----------------------------------------------------------------------------

    def _barred(self, text: str, bar: str, style: str = _PLAIN) -> None:
        """A paragraph of an alert."""
        margin = self._paint(self._fit(_BAR), bar)
        for line in _lines(self._fit(text), self._width - len(_MARGIN) - 2):
            self._write(f"{_MARGIN}{margin} {self._paint(line, style)}")

    def _paragraph(self, text: str, indent: str, style: str, first: str | None = None) -> None:
        head = indent if first is None else first
        for line in _lines(self._fit(text), self._width - max(len(head), len(indent))):
            self._write(head + line, style)
            head = indent

    def _line(self, text: str, style: str = _PLAIN) -> None:
        self._write(cut(self._fit(text), self._width, self._fit("…")), style)

    def _fit(self, text: str) -> str:
        """Without control characters, of bounded length, and such that it can be encoded."""
        text = printable(text)
        if not self._unicode:
            text = text.translate(_ASCII).encode(self._encoding, "replace").decode(self._encoding)
        return text

    def _paint(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if style and self._colour else text

    def _write(self, line: str, style: str = _PLAIN) -> None:
        text = line.lstrip(" ")
        self._out.write(line[: len(line) - len(text)] + self._paint(text, style if text else _PLAIN) + "\n")
        self._out.flush()


def _lines(text: str, width: int) -> list[str]:
    """As it is if it fits, spaces included; otherwise broken between words."""
    return [text] if columns_of(text) <= width else wrapped(text, width)


def printable(text: str) -> str:
    """Nothing that moves the cursor, ends the line, or turns its direction."""
    if len(text) > MAX_TEXT_CHARS:
        text = text[:MAX_TEXT_CHARS] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _encodes(encoding: str, text: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _short(hashes: str) -> str:
    """One hash to recognise it by, and how many others there are."""
    first, *others = hashes.split(" or ")
    more = f" or {len(others)} other{'s' * (len(others) > 1)}" if others else ""
    return (shortened(first) + more) or "none"


def shortened(text: str) -> str:
    """A text with the hashes in it cut to what one recognises them by."""
    return _HASH.sub(r"\1…", text)


def _evidence(alert: Alert) -> str:
    if alert.status == "resolved":
        return (
            "by the baseline" if alert.resolved_by_record is None else f"by record {alert.resolved_by_record}"
        )
    if alert.record is None:
        return "evidence: no such device"
    digest = f" {alert.template_digest[:_HASH_DIGITS]}…" if alert.template_digest else ""
    return f"evidence: record {alert.record} {alert.event}{digest}"


def _lasted(alert: Alert) -> str:
    return "" if alert.duration_seconds is None else f"; it lasted {alert.duration_seconds:.1f} s"
