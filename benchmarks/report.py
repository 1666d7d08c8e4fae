"""The table a benchmark run prints: what was measured, the value, the goal, and whether it was met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line. `goal` as text, empty if there is none; `met` is None where there is nothing to meet."""

    name: str
    value: str
    goal: str = ""
    met: bool | None = None


def at_most(name: str, value: float, goal: float, unit: str, *, digits: int = 2) -> Row:
    """A row whose value should not exceed the goal."""
    return Row(name, f"{value:.{digits}f}{unit}", f"<= {goal:g}{unit}", value <= goal)


def at_least(name: str, value: float, goal: float, unit: str) -> Row:
    """A row whose value should reach the goal."""
    return Row(name, f"{value:,.0f}{unit}", f">= {goal:,.0f}{unit}", value >= goal)


def render(rows: Sequence[Row]) -> str:
    """The rows as an aligned table."""
    verdicts = {None: "", True: "met", False: "MISSED"}
    cells = [("measured", "value", "goal", "")] + [(r.name, r.value, r.goal, verdicts[r.met]) for r in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    lines = [
        f"{name:<{widths[0]}}  {value:>{widths[1]}}  {goal:>{widths[2]}}  {verdict}".rstrip()
        for name, value, goal, verdict in cells
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
