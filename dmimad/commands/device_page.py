"""A device's document as a page for people: what is wrong, its tables beside what is approved, its history.

Source: the document, ``docs/status.md``.

What the document says is looked at member by member, for the daemon may be of another version.
Nothing is said by colour alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dmimad.commands.columns import Column, fit
from dmimad.commands.plain_text import cut, for_people, local_time, plain, seconds_of, wrapped
from dmimad.commands.status_document import Document, count_of, list_in, table_in
from dmimad.commands.status_page import HASH_DIGITS, Look, alert_lines

#: Rows of one table, and changes, that are shown; ``--json`` has all of them.
MAX_ROWS_SHOWN = 40
MAX_CHANGES_SHOWN = 30

_HEAD, _GOOD, _BAD = "1", "32", "1;31"
_DIFFERS, _EARLIER = "!=", "<"
_ROW_COLUMNS = (
    Column("", least=2, most=2),
    Column("ATTRIBUTE", least=12, ends_count=True),
    Column("APPROVED", least=10, ends_count=True),
    Column("ACTUAL", least=10, ends_count=True),
)
_CHANGE_COLUMNS = (
    Column("", least=1, most=1),
    Column("TIME", least=19, most=19),
    Column("SLOT", least=6, most=6),
    Column("TABLE", least=8),
    Column("VERDICT", least=10, most=10, importance=2),
    Column("BY", least=6, importance=1),
)


def device_trouble(document: Document) -> bool:
    """It is in drift, or an alert of warning or above about it is firing."""
    severities = {alert.get("severity") for alert in list_in(document, "alerts")}
    drifting = table_in(document, "device").get("verdict") == "drift"
    return drifting or bool(severities & {"critical", "warning"})


def device_lines(document: Document, look: Look) -> Iterator[str]:
    """Its lines."""
    device, now = table_in(document, "device"), seconds_of(document.get("time")) or 0.0
    verdict = plain(device.get("verdict"))
    since = seconds_of(table_in(device, "since").get("verdict"))
    lasts = "" if since is None else f", since {for_people(now - since)}"
    head = f"{plain(device.get('name'))} ({plain(device.get('key'))}) on {plain(document.get('host'))}"
    yield from (look.paint(line, _HEAD) for line in wrapped(f"{head}: {verdict}{lasts}", look.width))
    if uuid := plain(device.get("uuid") or ""):
        yield cut(f"uuid {uuid}", look.width, look.ellipsis)
    if alerts := list_in(document, "alerts"):
        yield ""
        for alert in alerts:
            yield from alert_lines(alert, look, now)
    for table in list_in(document, "tables"):
        yield ""
        yield from _table(table, device, look)
    yield ""
    yield from _history(document, look)


# -- tables --------------------------------------------------------------------------------


def _table(table: Document, device: Document, look: Look) -> Iterator[str]:
    slot = str(table.get("slot"))
    match table.get("approved"):
        case True:
            told, style = "approved", _GOOD
        case False:
            told, style = "NOT approved", _BAD
        case _:
            told, style = "not judged", _HEAD
    by = f" by {plain(table.get('baseline'))}" if table.get("baseline") else ""
    others = count_of(table.get("others"))
    by += f" or {others} other {'entry' if others == 1 else 'entries'}" if others else ""
    seen = plain(table_in(device, slot).get("provenance") or "")
    if (other := plain(table.get("compared_with"))) in ("active", "inactive"):
        by += f", beside the {_slot({'slot': other})} one, which is"
    text = f"{_slot(table)} table: {told}{by}" + (f" ({seen})" if seen else "")
    yield from (look.paint(line, style) for line in wrapped(text, look.width))
    rows = list_in(table, "rows")
    shown = rows if len(rows) <= MAX_ROWS_SHOWN else _differing_first(rows)
    yield from _columns(_ROW_COLUMNS, [_row(row) for row in shown], look, marked=_BAD)
    if more := len(rows) - len(shown) + count_of(table.get("rows_left_out")):
        yield cut(f"and {more} more rows; --json has more", look.width, look.ellipsis)


def _slot(document: Document) -> str:
    slot = plain(document.get("slot"))
    return "staged" if slot == "inactive" else slot


def _differing_first(rows: Sequence[Document]) -> list[Document]:
    places = sorted(range(len(rows)), key=lambda place: (rows[place].get("differs") is not True, place))
    return [rows[place] for place in sorted(places[:MAX_ROWS_SHOWN])]


def _row(row: Document) -> tuple[str, ...]:
    target = row.get("target")
    where = "" if target is None else f"{plain(target)} "
    differs = _DIFFERS if row.get("differs") is True else ""
    approved, actual = (plain(row.get(name)) for name in ("approved", "actual"))
    if differs and not actual:
        actual = "none"
    return differs, where + plain(row.get("attribute")), approved, actual


# -- history -------------------------------------------------------------------------------


def _history(document: Document, look: Look) -> Iterator[str]:
    history = list_in(document, "history")
    shown = history[-MAX_CHANGES_SHOWN:]
    if not shown:
        yield "no change is known"
        return
    rows = [_change(change) for change in shown]
    yield from _columns(_CHANGE_COLUMNS, rows, look)
    if any(row[0] for row in rows):
        yield cut(f"{_EARLIER} before that time: read or seen only then", look.width, look.ellipsis)
    if older := len(history) - len(shown) + count_of(document.get("history_left_out")):
        yield cut(f"and {older} older changes; --json has some of them", look.width, look.ellipsis)


def _change(change: Document) -> tuple[str, ...]:
    record = change.get("record")
    by = [plain(change.get("event")) or "found so", *([] if record is None else [plain(record)])]
    verdict = "drift" if change.get("drift") is True else plain(change.get("verdict"))
    return (
        _EARLIER if change.get("late") is True else "",
        local_time(change.get("time")),
        _slot(change),
        _content(change),
        "" if change.get("hash") is None else verdict,
        " ".join(by),
    )


def _content(change: Document) -> str:
    if change.get("hash") is None:
        return "none"
    types = change.get("types")
    told = ",".join(map(plain, types)) if isinstance(types, list) else ""
    digits = plain(change.get("hash")).removeprefix("sha256:")
    return f"{told or '?'} {digits if digits == 'unknown' else digits[:HASH_DIGITS]}"


def _columns(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], look: Look, *, marked: str = ""
) -> Iterator[str]:
    """With titles; ``marked``: the style of those whose first cell is not empty."""
    titles = [column.title for column in columns]
    fitted = fit(columns, rows, look.width, look.ellipsis)
    for number, row in enumerate([titles, *rows]):
        line = "  ".join(fitted.cells(row)).rstrip()
        yield look.paint(line, marked if number and row[0] else "" if number else _HEAD)
