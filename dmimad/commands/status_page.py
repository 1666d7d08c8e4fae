"""A status document as a page for people: first what matters, then what is wrong, then the rest.

Source: the document, ``docs/status.md``.

What the document says is looked at member by member, for the daemon may be of another version.
Nothing is said by colour alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dmimad.commands.columns import GAP, Column, fit
from dmimad.commands.plain_text import (
    SEVERITY_COLOURS,
    clock_time,
    columns_of,
    cut,
    cut_within,
    for_people,
    padded,
    plain,
    seconds_of,
    wrapped,
)
from dmimad.commands.status_document import Document, count_of, list_in, table_in
from dmimad.commands.status_facts import Fact, State, facts
from dmimad.commands.status_headline import headline
from dmimad.core.change import UNTOLD_TYPE

WIDTH = 80
LEAST_WIDTH = 40
MAX_ALERTS_SHOWN = 50
HASH_DIGITS = 7
_MARGIN = 12
_INDENT = "    "
_LEAST_NAME = 8

_HEAD = "1"
_STATES = {State.GOOD: "32", State.BAD: "1;31", State.ODD: "35", State.IDLE: "2", State.PLAIN: ""}
_VERDICT_COLOURS = {"approved": "32", "drift": "1;31", "unexpected": "35"}
_URGENCY = ("drift", "unexpected", "unknown", "approved")

_DEVICE_COLUMNS = (
    Column("DEVICE", least=16, ends_count=True),
    Column("NUMBER", least=7, most=12, importance=2),
    Column("TABLES", least=16, importance=4),
    Column("WITNESS", least=8, most=8, importance=1),
    Column("VERDICT", least=10, most=10),
    Column("SINCE", least=6, most=6, importance=3),
)
_VERDICT = 4
"""Where the verdict is among them."""


@dataclass(frozen=True, slots=True)
class Look:
    """How it is shown: columns, whether in colour, and what stands for the rest of a text that is cut."""

    width: int = WIDTH
    colour: bool = False
    ellipsis: str = "…"

    def paint(self, text: str, style: str) -> str:
        """In colour if that is wanted."""
        return f"\x1b[{style}m{text}\x1b[0m" if self.colour and style and text else text


@dataclass(frozen=True, slots=True)
class Page:
    """Lines: what is always to be seen, and what may be scrolled."""

    head: Sequence[str]
    body: Sequence[str]


def page(document: Document, look: Look) -> Iterator[str]:
    """Its lines."""
    made = parts(document, look)
    yield from made.head
    yield from made.body


def parts(document: Document, look: Look, *, older_seconds: float = 0.0, lately: Sequence[str] = ()) -> Page:
    """A page; ``older_seconds``: so long ago the document was made, ``lately``: lines on what has changed."""
    made_at = seconds_of(document.get("time")) or 0.0
    now = made_at + older_seconds
    found = list(facts(document, made_at))  # when the list was read last is known as of then
    summed = headline(document, found)
    first = title(document, look, summed.word, summed.state, clock_time(now))
    head = [first, *wrapped(summed.reasons, look.width)]
    sections = [
        [line for fact in found if fact.state is State.BAD for line in _fact_lines(fact, look)],
        list(_alerts(document, look, now)),
        list(lately),
        list(_devices(document, look, now)),
        [line for fact in found if fact.state is not State.BAD for line in _fact_lines(fact, look)],
    ]
    return Page(head, [line for section in sections if section for line in ("", *section)])


def title(document: Document, look: Look, word: str, state: State, time: str) -> str:
    """The first line of a page: the word for all of it, the host, and the time at the right."""
    room = look.width - columns_of(word) - len(GAP)
    right = GAP + time if room >= len(GAP + time) + _LEAST_NAME else ""
    host = cut_within(plain(document.get("host")), room - len(right), look.ellipsis)
    if right:
        host = padded(host, room - len(right))
    return look.paint(word, f"1;{_STATES[state].removeprefix('1;')}") + GAP + look.paint(host, _HEAD) + right


def _fact_lines(fact: Fact, look: Look) -> Iterator[str]:
    first, *others = wrapped(fact.text, look.width - _MARGIN)
    style = _STATES[fact.state]
    yield look.paint(f"{fact.name:<{_MARGIN}}", _HEAD) + look.paint(first, style)
    yield from (" " * _MARGIN + look.paint(line, style) for line in others)


# -- devices -------------------------------------------------------------------------------


def _devices(document: Document, look: Look, now: float) -> Iterator[str]:
    """Those that are not as approved first."""
    devices = sorted(list_in(document, "devices"), key=_urgency)
    if not devices:
        return
    rows = [row for device in devices for row in _rows(device, now)]
    fitted = fit(_DEVICE_COLUMNS, rows, look.width, look.ellipsis)
    yield look.paint(GAP.join(fitted.cells([column.title for column in _DEVICE_COLUMNS])).rstrip(), _HEAD)
    for row in rows:
        cells = fitted.cells(row)
        at = fitted.shown.index(_VERDICT)
        cells[at] = look.paint(cells[at], _VERDICT_COLOURS.get(row[_VERDICT], ""))
        yield GAP.join(cells).rstrip()
    if left_out := count_of(document.get("devices_left_out")):
        yield cut(f"and {left_out} more devices", look.width, look.ellipsis)


def _urgency(device: Document) -> int:
    """Sorting keeps the order of those that are alike: by name."""
    verdict = plain(device.get("verdict"))
    return _URGENCY.index(verdict) if verdict in _URGENCY else 0


def _rows(device: Document, now: float) -> Iterator[tuple[str, ...]]:
    """What is active; below it what is staged, and that it is suspended."""
    active, staged, since = (table_in(device, name) for name in ("active", "inactive", "since"))
    yield (
        plain(device.get("name")),
        plain(device.get("key")),
        _slot_text(active) if active else "none",
        plain(active.get("provenance")) or "-",
        plain(device.get("verdict")),
        _age(since.get("verdict"), now),
    )
    if staged:
        provenance = plain(staged.get("provenance")) or "-"
        yield "", "", f"+ {_slot_text(staged)}", provenance, "staged", _age(since.get("inactive"), now)
    if device.get("suspended") is True:
        yield "", "", "suspended", "", "", ""


def _age(moment: object, now: float) -> str:
    since = seconds_of(moment)
    return "-" if since is None else for_people(now - since)


def tables_text(device: Document) -> str:
    """``verity 6671ae7 + linear f3b63d8``: the active table, and behind the plus the staged one."""
    active, staged = table_in(device, "active"), table_in(device, "inactive")
    text = _slot_text(active) if active else "none"
    if staged:
        text += f" + {_slot_text(staged)}"
    return text + (" suspended" if device.get("suspended") is True else "")


def _slot_text(slot: Document) -> str:
    types = dict.fromkeys(plain(target.get("type")) or UNTOLD_TYPE for target in list_in(slot, "targets"))
    digits = plain(slot.get("hash")).removeprefix("sha256:")
    shown = digits if digits == "unknown" else digits[:HASH_DIGITS]
    return f"{','.join(types) or '?'} {shown}"


# -- alerts --------------------------------------------------------------------------------


def _alerts(document: Document, look: Look, now: float) -> Iterator[str]:
    alerts = list_in(document, "alerts")
    for alert in alerts[:MAX_ALERTS_SHOWN]:
        yield from alert_lines(alert, look, now)
    more = max(len(alerts) - MAX_ALERTS_SHOWN, 0) + count_of(document.get("alerts_left_out"))
    if more:
        yield cut(f"and {more} more alerts; --json has them", look.width, look.ellipsis)


def alert_lines(alert: Document, look: Look, now: float) -> Iterator[str]:
    """An alert that fires."""
    severity = plain(alert.get("severity"))
    yield look.paint(_alert_head(alert, severity, look, now), SEVERITY_COLOURS.get(severity, _HEAD))
    if message := plain(alert.get("message")):
        yield from (_INDENT + line for line in wrapped(message, look.width - len(_INDENT)))


def _alert_head(alert: Document, severity: str, look: Look, now: float) -> str:
    """What, where, since when; of these a long name gives way first."""
    since, count = seconds_of(alert.get("since")), alert.get("count")
    before = [f"{severity.upper():<8}", plain(alert.get("code"))]
    after = [] if since is None else [for_people(now - since)]
    after += [f"{count} times"] if isinstance(count, int) and count > 1 else []
    after += ["flapping"] if alert.get("flapping") is True else []
    after += ["expected"] if alert.get("maintenance") else []
    device = plain(alert.get("device"))
    room = look.width - columns_of(GAP.join([*before, "", *after]))
    words = [*before, cut_within(device, max(room, _LEAST_NAME), look.ellipsis), *after]
    return cut(GAP.join(word for word in words if word), look.width, look.ellipsis)
