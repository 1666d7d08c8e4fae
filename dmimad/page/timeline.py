"""The history of a device as a drawing: one lane for each slot, one column from each change to the next.

A change may follow another within milliseconds, and then nothing for weeks, so a column's width grows with
the logarithm of its time.  Numbers are pixels.

What this module does not do: say anything that the table below the drawing does not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from dmimad.commands.status_document import list_in
from dmimad.page.overview import HASH_DIGITS, VERDICTS, Level
from dmimad.page.texts import counted, seconds_of, span, utc

Document = Mapping[str, object]

MAX_COLUMNS = 40
WIDTH = 1140
LEAST_COLUMN = 66
_LAST_COLUMN = 132.0
_PER_DECADE = 17.0
_LABEL, _TOP, _LANE, _GAP, _AXIS = 72, 8, 40, 10, 58
_ICON, _CHARACTER = 30, 7.3
SLOTS: Mapping[str, str] = {"active": "Active", "inactive": "Staged"}


@dataclass(frozen=True, slots=True)
class Bar:
    """A table that was in a slot: where, how judged, `label` as much of `words` as fits."""

    x: float
    width: float
    level: Level
    label: str
    words: str


@dataclass(frozen=True, slots=True)
class Lane:
    """A slot; `middle` is the height of its text."""

    name: str
    y: int
    middle: int
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """A change: `time` and, where it is another than before, `day`; `lasted` until the next one."""

    x: float
    time: str
    day: str
    middle: float
    lasted: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """The drawing, `words` for those who do not see it."""

    width: int
    height: int
    begin: int
    bar_height: int
    axis: int
    lanes: tuple[Lane, ...]
    ticks: tuple[Tick, ...]
    words: str
    left_out: int


def timeline(history: Sequence[Document]) -> Timeline | None:
    """Of these items, oldest first; None: nothing to draw."""
    changes = [(seconds_of(item.get("time")), item) for item in _told_apart(history)]
    timed = [(seconds, item) for seconds, item in changes if seconds is not None]
    times = sorted({seconds for seconds, _ in timed})
    left_out = max(len(times) - MAX_COLUMNS, 0)
    times = times[left_out:]
    if not times:
        return None
    edges = _edges(times)
    column = {seconds: number for number, seconds in enumerate(times)}
    lanes = []
    for number, (slot, name) in enumerate(SLOTS.items()):
        y = _TOP + number * (_LANE + _GAP)
        # What was there when the drawing begins counts from its left edge on.
        starts = [(column.get(seconds, 0), item) for seconds, item in timed if item.get("slot") == slot]
        lanes.append(Lane(name, y, y + _LANE // 2 + 4, tuple(_bars(starts, edges))))
    axis = _TOP + 2 * _LANE + _GAP
    return Timeline(
        round(edges[-1]) + 1,
        axis + _AXIS,
        _LABEL,
        _LANE,
        axis,
        tuple(lanes),
        tuple(_ticks(times, edges)),
        f"{counted(len(timed), 'change', 'changes')} of the two slots; the table below says the same.",
        left_out,
    )


def _told_apart(history: Sequence[Document]) -> Iterator[Document]:
    """Without those that look like the one before: a witness came along, an empty slot was emptied."""
    before: dict[object, object] = {}
    for item in history:
        slot, digest = item.get("slot"), item.get("hash")
        look = None if digest is None else (digest, verdict_of(item))
        if before.get(slot) != look:
            before[slot] = look
            yield item


def _edges(times: Sequence[float]) -> list[float]:
    """Where each column begins, and where the last one ends."""
    widths = [
        LEAST_COLUMN + _PER_DECADE * max(math.log10(max(after - before, 1e-3)) + 1, 0.0)
        for before, after in itertools.pairwise(times)
    ]
    widths.append(_LAST_COLUMN)
    stretch = max((WIDTH - _LABEL) / sum(widths), 1.0)
    edges = [float(_LABEL)]
    for width in widths:
        edges.append(round(edges[-1] + width * stretch, 1))
    return edges


def _bars(starts: Sequence[tuple[int, Document]], edges: Sequence[float]) -> Iterable[Bar]:
    for number, (begin, item) in enumerate(starts):
        end = starts[number + 1][0] if number + 1 < len(starts) else len(edges) - 1
        if end <= begin or item.get("hash") is None:
            continue
        x, width = edges[begin], round(edges[end] - edges[begin], 1)
        level, verdict = verdict_of(item)
        table = table_words(item)
        words = f"{table}, {verdict}, from {utc(item.get('time'))}"
        yield Bar(x, width, level, _fitting(table, int((width - _ICON) / _CHARACTER)), words)


def _fitting(table: str, characters: int) -> str:
    """All of it, or as much of the type as there is place for."""
    for text in (table, table.partition(" ")[0]):
        if len(text) <= characters:
            return text
    return text[: characters - 1] + "…" if characters > 1 else ""


def _ticks(times: Sequence[float], edges: Sequence[float]) -> Iterable[Tick]:
    day_before = ""
    for number, seconds in enumerate(times):
        day, time = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S").split(" ")
        last = number + 1 == len(times)
        lasted = "until now" if last else span(times[number + 1] - seconds)
        middle = round((edges[number] + edges[number + 1]) / 2, 1)
        yield Tick(edges[number], time, "" if day == day_before else day, middle, lasted)
        day_before = day


def verdict_of(item: Document) -> tuple[Level, str]:
    """Of a slot, as the history has it: a drift of the other slot is not its own."""
    if item.get("drift") is True:
        return Level.BAD, "drift"
    verdict = str(item.get("verdict"))
    return VERDICTS["approved"] if verdict == "drift" else VERDICTS.get(verdict, (Level.OFF, verdict))


def table_words(item: Document) -> str:
    """``verity 6671ae70a7``."""
    types = item.get("types")
    names = list(dict.fromkeys(map(str, types))) if isinstance(types, list) else []
    digits = str(item.get("hash")).removeprefix("sha256:")[:HASH_DIGITS]
    return f"{', '.join(names) or '?'} {digits}"


def history_of(detail: Document) -> list[dict[str, object]]:
    """The items of a document, oldest first."""
    return list_in(detail, "history")
