"""What the page of a device says: its two slots, how they came to be, and where they are not as approved.

Source: the detail document of the core's monitor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dmimad.commands.status_document import count_of, list_in, table_in
from dmimad.page.overview import WITNESSES, DeviceRow, Level, device_row
from dmimad.page.texts import counted, plain
from dmimad.page.timeline import SLOTS, Timeline, history_of, table_words, timeline, verdict_of

Document = Mapping[str, object]

MAX_ITEMS_SHOWN = 200
MAX_TARGETS_SHOWN = 64
#: What is no event of the kernel's.
EVENTS: Mapping[str, str] = {
    "observed": "seen live",
    "judged": "judged anew",
    "boot": "host started",
    "": "found so",
}


@dataclass(frozen=True, slots=True)
class Slot:
    """One of the two tables a device has; `document` is None for an empty one."""

    name: str
    document: Document | None
    drift: bool
    witness: str
    since: object
    targets: Sequence[Document]
    targets_left_out: int


@dataclass(frozen=True, slots=True)
class Change:
    """A line of the history; `late`: it happened before that time, `name`: if it is not the present one."""

    time: object
    late: bool
    name: str
    slot: str
    event: str
    table: str
    level: Level
    verdict: str
    witness: str
    record: object


@dataclass(frozen=True, slots=True)
class Comparison:
    """A table beside what is approved; `source` says where that is from."""

    slot: str
    level: Level
    words: str
    source: str
    rows: Sequence[Document]
    rows_left_out: int


@dataclass(frozen=True, slots=True)
class DevicePage:
    """Everything the page shows; alerts as in the document."""

    host: str
    time: str
    title: str
    device: Document
    row: DeviceRow
    words: str
    slots: tuple[Slot, ...]
    timeline: Timeline | None
    changes: tuple[Change, ...]
    changes_left_out: int
    comparisons: tuple[Comparison, ...]
    alerts: Sequence[Document]
    recent: Sequence[Document]


def device_page(detail: Document) -> DevicePage:
    """What is shown of this document."""
    device = table_in(detail, "device")
    row, alerts, history = device_row(device), list_in(detail, "alerts"), history_of(detail)
    name = plain(row.name) or "(no name)"
    return DevicePage(
        str(detail.get("host")),
        str(detail.get("time")),
        f"({len(alerts)}) {name}" if alerts else name,
        device,
        row,
        _words(row, alerts),
        tuple(_slot(device, slot, title) for slot, title in SLOTS.items()),
        timeline(history),
        tuple(_change(item, row.name) for item in reversed(history[-MAX_ITEMS_SHOWN:])),
        count_of(detail.get("history_left_out")) + max(len(history) - MAX_ITEMS_SHOWN, 0),
        tuple(map(_comparison, list_in(detail, "tables"))),
        alerts,
        list_in(detail, "recent"),
    )


def _words(row: DeviceRow, alerts: Sequence[Document]) -> str:
    told = {Level.BAD: "In drift"}.get(row.level, row.verdict[:1].upper() + row.verdict[1:])
    return f"{told}, {counted(len(alerts), 'alert fires', 'alerts fire')}" if alerts else told


def _slot(device: Document, slot: str, title: str) -> Slot:
    document = table_in(device, slot)
    targets = list_in(document, "targets")
    number = document.get("num_targets")
    total = number if isinstance(number, int) else len(targets)
    shown = targets[:MAX_TARGETS_SHOWN]
    return Slot(
        title,
        document or None,
        table_in(device, "drift").get(slot) is True,
        WITNESSES.get(document.get("provenance"), "—"),
        table_in(device, "since").get(slot),
        shown,
        max(total - len(shown), 0) if shown else 0,
    )


def _change(item: Document, name: str) -> Change:
    emptied = item.get("hash") is None
    level, verdict = (Level.OFF, "") if emptied else verdict_of(item)
    return Change(
        item.get("time"),
        item.get("late") is True,
        "" if item.get("name") == name else str(item.get("name")),
        SLOTS.get(str(item.get("slot")), str(item.get("slot"))),
        EVENTS.get(str(item.get("event")), str(item.get("event"))),
        "emptied" if emptied else table_words(item),
        level,
        verdict,
        WITNESSES.get(item.get("provenance"), "—"),
        item.get("record"),
    )


def _comparison(table: Document) -> Comparison:
    rows = list_in(table, "rows")
    differences = sum(row.get("differs") is True for row in rows)
    match table.get("approved"):
        case True:
            level, words = Level.GOOD, "as approved"
        case False:
            level = Level.BAD
            words = f"not approved, {counted(differences, 'difference', 'differences')}"
        case _:
            level, words = Level.OFF, "not judged: no baseline entry speaks for it"
    return Comparison(
        SLOTS.get(str(table.get("slot")), ""),
        level,
        words,
        _source(table),
        rows,
        count_of(table.get("rows_left_out")),
    )


def _source(table: Document) -> str:
    """Which baseline entry speaks for it, and what it is compared with; "" for none."""
    entry, others = table.get("baseline"), count_of(table.get("others"))
    if not entry:
        return ""
    approved = table.get("approved") is True
    told = f"{'Approved by' if approved else 'Closest baseline entry:'} {entry}"
    if others:
        told += f"; {counted(others, 'other entry speaks', 'other entries speak')} for this device too"
    beside = SLOTS.get(str(table.get("compared_with")))
    return f"{told}. Compared with the {beside.lower()} table, which is approved." if beside else told
