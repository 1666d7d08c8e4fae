"""Approved and actual side by side, for people and for programs.

Source: `dmimad.core.comparison`; the JSON is a promise, ``docs/approving.md``.

Nothing is said by colour alone, and nothing that a device or a file is called reaches a terminal raw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from dmimad.commands.plain_text import columns_of, padded, plain
from dmimad.commands.status_page import Look
from dmimad.core.comparison import Compared, Result, SlotComparison
from dmimad.core.finding import NOT_NAMED, Difference

_LABEL = 12
_INDENT = 4
_ATTRIBUTE = 20
_COLOURS: Mapping[Result, str] = {
    Result.APPROVED: "32",
    Result.DIFFERS: "1;31",
    Result.RENAMED: "1;31",
    Result.MISSING: "1;31",
    Result.UNEXPECTED: "33",
    Result.UNKNOWN: "33",
    Result.NOT_JUDGED: "2",
}
_HEAD, _GOOD, _BAD, _DIM = "1", "32", "31", "2"


def lines_of(compared: Iterable[Compared], look: Look) -> Iterator[str]:
    """One line for each device, and below it what differs; a summary at the end."""
    counts: Counter[Result] = Counter()
    for one in compared:
        counts[one.result] += 1
        yield from device_lines(one, look)
    shown = ", ".join(f"{counts[result]} {result}" for result in Result if counts[result])
    yield shown or "no devices"


def device_lines(one: Compared, look: Look) -> Iterator[str]:
    """One device."""
    name = plain(one.label) + (f" ({plain(one.key)})" if one.key else "")
    yield f"{look.paint(padded(str(one.result), _LABEL), _COLOURS[one.result])}{look.paint(name, _HEAD)}"
    if one.result is Result.APPROVED:
        return
    if one.entry:
        yield _indented(look.paint(f"baseline: {plain(one.entry)}", _DIM))
    if one.result is Result.UNKNOWN:
        yield _indented("nobody has told enough of its table to judge it")
    for finding in one.findings:
        yield from map(_indented, _wrapped(plain(finding.message), look.width - _INDENT))
        yield from table_lines(finding.differences, look)
    for slot in one.slots:
        yield from slot_lines(slot, look)


def slot_lines(slot: SlotComparison, look: Look) -> Iterator[str]:
    """One table that is not approved."""
    if not slot.rows:
        yield from map(_indented, _wrapped(plain(slot.finding.message), look.width - _INDENT))
        return
    yield _indented("the active table" if slot.which == "active" else "the staged table")
    yield from table_lines(slot.rows, look)


def table_lines(rows: Iterable[Difference], look: Look) -> Iterator[str]:
    """Attribute, approved, actual; target by target."""
    rows = list(rows)
    if not rows:
        return
    width = (look.width - _INDENT - _ATTRIBUTE - 2) // 2
    head = f"{' ' * _ATTRIBUTE}{padded('approved', width)}  actual"
    yield _indented(look.paint(head, _DIM))
    target: int | None = None
    for row in rows:
        if row.target is not None and row.target != target:
            target = row.target
            yield _indented(f"target {target}")
        yield from _row(row, width, look)


def _row(row: Difference, width: int, look: Look) -> Iterator[str]:
    """Its cells broken over as many lines as they need."""
    name = ("  " if row.target is not None else "") + plain(row.attribute)
    cells = (
        _wrapped(name, _ATTRIBUTE - 1),
        _wrapped(plain(row.expected), width),
        _wrapped(plain(row.actual), width),
    )
    quiet = row.expected == NOT_NAMED
    for number in range(max(map(len, cells))):
        attribute, approved, actual = (cell[number] if number < len(cell) else "" for cell in cells)
        yield _indented(
            padded(attribute, _ATTRIBUTE)
            + look.paint(padded(approved, width), _DIM if quiet else _GOOD)
            + "  "
            + look.paint(actual, "" if quiet else _BAD)
        ).rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most this many columns, broken at a space if there is one, else anywhere."""
    lines = []
    while columns_of(text) > width:
        at = len(text)
        while columns_of(text[:at]) > width:
            at = min(at - 1, max(width, at - (columns_of(text[:at]) - width)))
        space = text.rfind(" ", 0, at + 1)
        at = space if space > at // 2 else at
        lines.append(text[:at].rstrip())
        text = text[at:].lstrip()
    return [*lines, text]


def _indented(line: str) -> str:
    return " " * _INDENT + line


# -- for programs --------------------------------------------------------------------------


def document_of(compared: Iterable[Compared], witness: str, baseline: str) -> dict[str, object]:
    """The same as JSON."""
    told = list(compared)
    counts = Counter(one.result for one in told)
    return {
        "baseline": baseline,
        "witness": witness,
        "counts": {str(result): counts[result] for result in Result if counts[result]},
        "devices": [_device_document(one) for one in told],
    }


def _device_document(one: Compared) -> dict[str, object]:
    findings = [*one.findings, *(slot.finding for slot in one.slots)]
    return {
        "result": str(one.result),
        "name": one.label,
        "key": one.key,
        "uuid": one.uuid,
        "entry": one.entry,
        "findings": [
            {"code": each.code, "severity": each.severity.value, "message": each.message} for each in findings
        ],
        "differences": [
            {"slot": slot, **_row_document(row)}
            for slot, rows in (
                *((None, each.differences) for each in one.findings),
                *((each.which, each.rows) for each in one.slots),
            )
            for row in rows
        ],
    }


def _row_document(row: Difference) -> dict[str, object]:
    return {
        "target": row.target,
        "attribute": row.attribute,
        "approved": row.expected,
        "actual": row.actual,
    }
