"""The state machine of a mapped device, drawn and tabled from `TRANSITIONS` of `dmimad/core/device.py`.

Where a state stands is fixed: active slot empty above, full below; inactive slot empty on the left, full on
the right.  Arrows, what stays, and how the dialects differ come from the table alone.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from dmimad.core.device import TRANSITIONS, Action, Dialect, Slots, Transition
from dmimad.core.event import EventKind
from scripts.reference.svg import dot, drawing, line, rect, text
from scripts.reference.tables import code, table

WIDTH, HEIGHT = 720, 560
BOX_WIDTH, BOX_HEIGHT = 218, 132
#: The upper left corner of each state.
PLACES = {
    Slots.EMPTY: (38, 62),
    Slots.STAGED: (464, 62),
    Slots.ACTIVE: (38, 270),
    Slots.BOTH: (464, 270),
}
#: What an arrow's event does, in fewer words than `Action` has.
SHORT = {Action.STAGE: "stages a table", Action.SWAP: "it becomes active"}
MARKS = "abcdef"
SPACE = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, slots=True)
class Move:
    """One row of the table."""

    source: Slots
    event: EventKind
    to: Slots | None
    actions: Mapping[Dialect, Action]

    @property
    def differs(self) -> bool:
        return len(set(self.actions.values())) > 1


def moves(transitions: Mapping[tuple[Slots, EventKind], Transition]) -> list[Move]:
    """All rows, by state and event in the order of these."""
    return [
        Move(slots, event, transitions[slots, event].to, transitions[slots, event].actions)
        for slots in Slots
        for event in EventKind
        if (slots, event) in transitions
    ]


def word(event: EventKind) -> str:
    """Of its name, what a drawing has room for."""
    return event.value.removeprefix("table_").removeprefix("device_").replace("_", " ")


def notes(rows: list[Move]) -> dict[str, tuple[str, str]]:
    """How the dialects differ: a mark and a sentence for each kind of difference, by what they do."""
    found: dict[str, tuple[str, str]] = {}
    for move in rows:
        if move.differs and (key := _actions(move)) not in found:
            found[key] = MARKS[len(found)], f"{word(move.event)}: {key}"
    return found


def _actions(move: Move) -> str:
    """What each dialect does, dialects that do the same together."""
    by_action: dict[Action, list[str]] = {}
    for dialect, action in move.actions.items():
        by_action.setdefault(action, []).append(dialect.value)
    if len(by_action) == 1:
        return next(iter(by_action)).value
    return "; ".join(f"{', '.join(dialects)}: {action.value}" for action, dialects in by_action.items())


# -- the drawing ----------------------------------------------------------------------------


def picture(transitions: Mapping[tuple[Slots, EventKind], Transition] = TRANSITIONS) -> str:
    rows = moves(transitions)
    marks = notes(rows)
    return drawing(
        WIDTH,
        HEIGHT,
        "State machine of a mapped device",
        "Four states by which of the two slots, active and inactive, hold a table; arrows are measured "
        "events. The table on the same page has every row in words.",
        _shapes(rows, marks),
    )


def _shapes(rows: list[Move], marks: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    yield rect(18, 44, WIDTH - 36, 376, "frame", 12)
    yield from _start()
    for slots in Slots:
        yield from _state(slots, [move for move in rows if move.source is slots and move.to is slots], marks)
    going = [move for move in rows if move.to not in (None, move.source)]
    for (one, another), group in groupby(sorted(going, key=_pair), key=_pair):
        yield from _arrows(Slots(one), Slots(another), list(group), marks)
    yield from _end([move for move in rows if move.to is None])
    y = 492
    for mark, sentence in marks.values():
        for number, part in enumerate(textwrap.wrap(sentence, 100)):
            yield text(30, y, f"{mark})" if number == 0 else "", "small title", "start")
            yield text(48, y, part, "small", "start")
            y += 18
        y += 4


def _pair(move: Move) -> tuple[str, str]:
    one, another = sorted((move.source, move.to or move.source), key=list(Slots).index)
    return one.value, another.value


def _mark(move: Move, marks: Mapping[str, tuple[str, str]]) -> str:
    return f"{SPACE}({marks[_actions(move)][0]})" if move.differs else ""


def _start() -> Iterator[str]:
    x, y = PLACES[Slots.EMPTY]
    yield dot(x + 40, 20, 6)
    yield line(f"M{x + 40} 26 V{y - 1}")
    yield text(x + 54, 25, "created; no record of it", "faint", "start")


def _state(slots: Slots, staying: list[Move], marks: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    x, y = PLACES[slots]
    yield rect(x, y, BOX_WIDTH, BOX_HEIGHT)
    yield text(x + 14, y + 25, slots.value, "title", "start")
    full = {
        "active": slots in (Slots.ACTIVE, Slots.BOTH),
        "inactive": slots in (Slots.STAGED, Slots.BOTH),
    }
    for number, (slot, is_full) in enumerate(full.items()):
        left = x + 14 + number * 98
        yield rect(left, y + 36, 92, 28, ("full" if slot == "active" else "other") if is_full else "void", 4)
        yield text(left + 46, y + 55, slot, "on small" if is_full else "faint")
    words = ", ".join(word(move.event).replace(" ", SPACE) + _mark(move, marks) for move in staying)
    for number, part in enumerate(textwrap.wrap(f"stays: {words}", 31)):
        yield text(x + 14, y + 86 + 18 * number, part, "small", "start")


def _arrows(
    one: Slots, another: Slots, group: list[Move], marks: Mapping[str, tuple[str, str]]
) -> Iterator[str]:
    """All arrows between two states, each with what it is called and what it does."""
    (x1, y1), (x2, y2) = PLACES[one], PLACES[another]
    group.sort(key=lambda move: move.source is not one)
    for number, move in enumerate(group):
        if y1 == y2:  # side by side
            y = y1 + BOX_HEIGHT * (number + 0.75) / len(group) + 2
            begin, end = (float(x1 + BOX_WIDTH + 4), y), (float(x2 - 4), y)
        elif x1 == x2:
            x = x1 + BOX_WIDTH * (number + 0.5) / len(group)
            begin, end = (x, float(y1 + BOX_HEIGHT + 4)), (x, float(y2 - 4))
        else:
            begin, end = (x1 + 16, y1 + BOX_HEIGHT + 4), (x2 + BOX_WIDTH - 16, y2 - 4)
        if move.source is not one:
            begin, end = end, begin
        yield line(f"M{begin[0]:g} {begin[1]:g} L{end[0]:g} {end[1]:g}")
        middle, y = (begin[0] + end[0]) / 2, (begin[1] + end[1]) / 2
        if y1 == y2:
            yield text(middle, y - 7, f"{word(move.event)}{_mark(move, marks)}: {_short(move)}", "small")
        else:
            yield text(middle + 24, y + 4, f"{word(move.event)}: {_short(move)}", "small", "start")


def _short(move: Move) -> str:
    actions = list(move.actions.values())
    return SHORT.get(actions[0], "discards it")


def _end(leaving: list[Move]) -> Iterator[str]:
    if {move.source for move in leaving} != set(Slots):
        raise ValueError("the drawing has one arrow for a removal from every state")
    (event,) = {word(move.event) for move in leaving}
    x = WIDTH / 2
    yield line(f"M{x:g} 420 V446")
    yield dot(x, 456, 8, "void")
    yield dot(x, 456, 4.5)
    yield text(x + 18, 461, f"{event}, from every state: the device is gone", "small", "start")


# -- the same in words ----------------------------------------------------------------------


def rows() -> str:
    head = ("state", "event", "leads to", "what happens")
    return "\n".join(
        table(
            head,
            (
                (code(move.source), code(move.event), code(move.to) if move.to else "gone", _actions(move))
                for move in moves(TRANSITIONS)
            ),
        )
    )
