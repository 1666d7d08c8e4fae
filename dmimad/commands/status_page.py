"""A status document as a page for people.

Source: the document, ``docs/status.md``.

What the document says is looked at member by member, for the daemon may be of another version.
Nothing is said by colour alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dmimad.commands.plain_text import (
    columns_of,
    cut,
    for_people,
    local_time,
    padded,
    plain,
    seconds_of,
    wrapped,
)
from dmimad.commands.status_document import Document, count_of, list_in, table_in

WIDTH = 80
MAX_ALERTS_SHOWN = 50
HASH_DIGITS = 7
_LEAST_COLUMNS = 10
"""A column is not made narrower, as long as another one can be."""
_GAP = "  "
_MARGIN = 12

_HEAD, _GOOD, _BAD, _ODD, _DIM = "1", "32", "1;31", "33", "2"
_COLOURS = {"critical": _BAD, "warning": "1;33", "info": "34"}
_VERDICT_COLOURS = {"approved": _GOOD, "drift": _BAD, "unexpected": _ODD}


@dataclass(frozen=True, slots=True)
class Look:
    """How it is shown: columns, whether in colour, and what stands for the rest of a text that is cut."""

    width: int = WIDTH
    colour: bool = False
    ellipsis: str = "…"

    def paint(self, text: str, style: str) -> str:
        """In colour if that is wanted."""
        return f"\x1b[{style}m{text}\x1b[0m" if self.colour and style and text else text


def page(document: Document, look: Look, *, older_seconds: float = 0.0) -> Iterator[str]:
    """Its lines; ``older_seconds``: so long ago it was made."""
    now = (seconds_of(document.get("time")) or 0.0) + older_seconds
    for name, text, style in _facts(document, now):
        first, *others = wrapped(text, look.width - _MARGIN)
        yield look.paint(f"{name:<{_MARGIN}}", _HEAD) + look.paint(first, style)
        yield from (" " * _MARGIN + look.paint(line, style) for line in others)
    yield ""
    yield from _devices(document, look, now)
    yield ""
    yield from _alerts(document, look, now)


# -- host, witnesses, broker ---------------------------------------------------------------


def _facts(document: Document, now: float) -> Iterator[tuple[str, str, str]]:
    """(name, text, style)."""
    time = local_time(document.get("time"))
    yield "host", f"{plain(document.get('host'))} (dmimad {plain(document.get('version'))}), {time}", ""
    yield "list", *_list_fact(table_in(document, "list"), now)
    yield "live tables", *_live_fact(table_in(table_in(document, "witnesses"), "live"))
    verified = document.get("pcr_verified")
    yield "TPM", pcr_text(verified), _GOOD if verified is True else _BAD if verified is False else _DIM
    yield "broker", *_broker_fact(document)
    problem = plain(table_in(document, "store").get("problem"))
    if problem:
        yield "state", f"cannot be stored: {problem}", _BAD
    yield "baseline", *_baseline_fact(table_in(document, "baseline"))
    if table_in(document, "settings").get("accepted") is False:
        yield "settings", "the last change was refused; see the daemon's log", _BAD
    for each in list_in(document, "refused"):
        what = (
            f"{plain(each.get('what'))}, since {local_time(each.get('since'))}: {plain(each.get('reason'))}"
        )
        yield "refused", what, _BAD
    if waiting := table_in(document, "settings").get("restart_needed"):
        names = ", ".join(map(plain, waiting)) if isinstance(waiting, list) else plain(waiting)
        yield "restart", f"needed for what has changed in the settings: {names}", _ODD
    for each in list_in(document, "maintenance"):
        yield "maintenance", maintenance_text(each, now), _ODD


def _list_fact(found: Document, now: float) -> tuple[str, str]:
    text = f"{plain(found.get('position'))} records"
    read = seconds_of(found.get("last_read"))
    if lag := plain(found.get("lag") or ""):
        text += f", {lag} to read"
    if trimmed := plain(found.get("trimmed") or ""):
        text += f", {trimmed} trimmed"
    if read is not None:
        text += f", read {for_people(now - read)} ago"
    if problem := plain(found.get("problem")):
        return f"{text}; cannot be read on: {problem}", _BAD
    if found.get("source_up") is not True:
        return f"{text}; cannot be read now", _BAD
    if found.get("gap") is True:
        return f"{text}; records may be lost", _BAD
    return text, _GOOD


def _live_fact(live: Document) -> tuple[str, str]:
    match live.get("up"):
        case True:
            return f"looked at {plain(live.get('observations'))} times", _GOOD
        case False:
            return "cannot be looked at", _BAD
    return "not looked at", _DIM


def pcr_text(verified: object) -> str:
    """Whether the list leads to the TPM's PCR."""
    match verified:
        case True:
            return "PCR 10 agrees with the list"
        case False:
            return "PCR 10 does NOT agree with the list"
    return "PCR 10 not compared"


def _broker_fact(document: Document) -> tuple[str, str]:
    outbox = table_in(document, "outbox")
    text = f"{plain(outbox.get('pending'))} alerts wait"
    if dead := plain(outbox.get("dead") or ""):
        text += f", {dead} given up"
    if problem := plain(document.get("mqtt_problem") or ""):
        return f"{problem} {text}", _BAD
    match document.get("mqtt_connected"):
        case True:
            return f"connected, {text}", _GOOD
        case False:
            return f"not connected, {text}", _BAD
    return "not to be used", _DIM


def _baseline_fact(baseline: Document) -> tuple[str, str]:
    count = baseline.get("entries")
    text = f"{plain(count)} {'entry' if count == 1 else 'entries'} from {plain(baseline.get('directory'))}"
    if baseline.get("accepted") is False:
        return f"{text}; the last change was refused, see the daemon's log", _BAD
    return (text, "") if count else (f"{text}: nothing is judged", _ODD)


def maintenance_text(maintenance: Document, now: float) -> str:
    """One that is in force, on one line."""
    until = seconds_of(maintenance.get("until"))
    left = "" if until is None else f" ({for_people(until - now)} left)"
    return (
        f"{plain(maintenance.get('device'))} until {local_time(maintenance.get('until'))}{left}: "
        f"{plain(maintenance.get('reason'))} "
        f"[by {plain(maintenance.get('by'))}, id {plain(maintenance.get('id'))}]"
    )


# -- devices -------------------------------------------------------------------------------


def _devices(document: Document, look: Look, now: float) -> Iterator[str]:
    devices = list_in(document, "devices")
    if not devices:
        yield "no mapped devices"
        return
    rows = [("DEVICE", "NUMBER", "TABLES", "WITNESS", "VERDICT", "SINCE")]
    rows += [_row(device, now) for device in devices]
    widths = _widths(rows, look.width)
    for number, row in enumerate(rows):
        cells = [
            padded(cut(cell, width, look.ellipsis), width) for cell, width in zip(row, widths, strict=True)
        ]
        if number:
            cells[4] = look.paint(cells[4], _VERDICT_COLOURS.get(row[4], ""))
            yield _GAP.join(cells).rstrip()
        else:
            yield look.paint(_GAP.join(cells).rstrip(), _HEAD)
    if left_out := plain(document.get("devices_left_out") or ""):
        yield f"and {left_out} more devices"


def _row(device: Document, now: float) -> tuple[str, str, str, str, str, str]:
    slots = [table_in(device, slot) for slot in ("active", "inactive")]
    witnesses = dict.fromkeys(plain(slot.get("provenance")) for slot in slots if slot)
    since = seconds_of(table_in(device, "since").get("verdict"))
    return (
        plain(device.get("name")),
        plain(device.get("key")),
        tables_text(device),
        "/".join(witnesses) or "-",
        plain(device.get("verdict")),
        "-" if since is None else for_people(now - since),
    )


def tables_text(device: Document) -> str:
    """``verity 6671ae7 + linear f3b63d8``: the active table, and behind the plus the staged one."""
    active, staged = table_in(device, "active"), table_in(device, "inactive")
    text = _slot_text(active) if active else "none"
    if staged:
        text += f" + {_slot_text(staged)}"
    return text + (" suspended" if device.get("suspended") is True else "")


def _slot_text(slot: Document) -> str:
    types = dict.fromkeys(plain(target.get("type")) or "?" for target in list_in(slot, "targets"))
    digits = plain(slot.get("hash")).removeprefix("sha256:")
    shown = digits if digits == "unknown" else digits[:HASH_DIGITS]
    return f"{','.join(types) or '?'} {shown}"


def _widths(rows: list[tuple[str, str, str, str, str, str]], width: int) -> list[int]:
    """Of the columns; the widest ones give way until a line fits."""
    widths = [max(map(columns_of, column)) for column in zip(*rows, strict=True)]
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    while excess > 0 and max(widths) > _LEAST_COLUMNS:
        widest = widths.index(max(widths))
        runner_up = max((each for each in widths if each < widths[widest]), default=_LEAST_COLUMNS)
        step = min(excess, max(widths[widest] - max(runner_up, _LEAST_COLUMNS), 1))
        widths[widest] -= step
        excess -= step
    return widths


# -- alerts --------------------------------------------------------------------------------


def _alerts(document: Document, look: Look, now: float) -> Iterator[str]:
    alerts = list_in(document, "alerts")
    if not alerts:
        yield look.paint("no alert is firing", _GOOD)
        return
    for alert in alerts[:MAX_ALERTS_SHOWN]:
        severity = plain(alert.get("severity"))
        since, count = seconds_of(alert.get("since")), alert.get("count")
        words = [f"{severity.upper():<8}", plain(alert.get("code")), plain(alert.get("device"))]
        words += [] if since is None else [for_people(now - since)]
        words += [f"{plain(count)} times"] if isinstance(count, int) and count > 1 else []
        head = cut(_GAP.join(word for word in words if word), look.width, look.ellipsis)
        yield look.paint(head, _COLOURS.get(severity, _HEAD))
        if message := plain(alert.get("message")):
            yield from (f"    {line}" for line in wrapped(message, look.width - 4))
    more = max(len(alerts) - MAX_ALERTS_SHOWN, 0) + count_of(document.get("alerts_left_out"))
    if more:
        yield f"and {more} more alerts; --json has them"
