"""Rows of texts as a table of a given width: which columns there is room for, and how wide they are.

Source: none.  What is in the rows is not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dmimad.commands.plain_text import columns_of, cut, cut_within, padded

GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """One of a table.

    Attributes:
        title: above it.
        least: it is not made narrower than this, or than its widest text.
        most: it is never wider; None: no limit.
        importance: where there is no room for all, those of least importance are left out; None: never.
        ends_count: of a text that is cut, the middle goes and not the end.
    """

    title: str
    least: int
    most: int | None = None
    importance: int | None = None
    ends_count: bool = False


@dataclass(frozen=True, slots=True)
class Fitted:
    """How a table is shown: which of its columns, and how wide each of these is."""

    columns: Sequence[Column]
    shown: Sequence[int]
    widths: Sequence[int]
    ellipsis: str

    def cells(self, row: Sequence[str]) -> list[str]:
        """The texts of a row that are shown, each as wide as its column."""
        found = []
        for index, width in zip(self.shown, self.widths, strict=True):
            shorten = cut_within if self.columns[index].ends_count else cut
            found.append(padded(shorten(row[index], width, self.ellipsis), width))
        return found


def fit(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int, ellipsis: str) -> Fitted:
    """The table of `rows`, titles included, in `width` columns of a terminal."""
    wide = [_natural(column, [row[at] for row in rows]) for at, column in enumerate(columns)]
    least = [min(natural, column.least) for natural, column in zip(wide, columns, strict=True)]
    shown = list(range(len(columns)))
    while _total([least[at] for at in shown]) > width:
        spare = [at for at in shown if columns[at].importance is not None]
        if not spare:
            break
        shown.remove(min(spare, key=lambda at: columns[at].importance or 0))
    widths = _narrowed([wide[at] for at in shown], [least[at] for at in shown], width)
    return Fitted(columns, shown, widths, ellipsis)


def _natural(column: Column, texts: Sequence[str]) -> int:
    widest = max(columns_of(text) for text in (column.title, *texts))
    return widest if column.most is None else min(widest, column.most)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _narrowed(widths: Sequence[int], least: Sequence[int], width: int) -> list[int]:
    """The widest ones give way until a line fits."""
    found = list(widths)
    excess = _total(found) - width
    while excess > 0:
        loose = [at for at in range(len(found)) if found[at] > least[at]]
        if not loose:
            break
        found[max(loose, key=lambda at: found[at])] -= 1
        excess -= 1
    return found
