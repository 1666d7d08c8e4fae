"""What `dmimad listen` prints: a block of lines for each alert, a line for anything else, or JSON.

Source: docs/mqtt.md and docs/subscriber.md; no-color.org.

Everything here comes from others: it loses its control characters, each text and each list has its limit, and
a member that is not of its type is as if it were not there.  Nothing is said by colour alone.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping

from dmimad.commands.plain_text import SEVERITY_COLOURS, columns_of, plain, wrapped
from dmimad.core.alert import Status
from dmimad.subscriber import (
    Alert,
    Event,
    HostBack,
    HostSilent,
    InvalidAlert,
    Malformed,
    Missing,
    Restarted,
    Trust,
    document,
)

MAX_DIFFERENCES = 64
MAX_NAMES = 20
_MAX_SECONDS = 1e10
_BANNER = "!!!"
_INDENT = 4
_LEAST_WIDTH = 20
"""On a terminal that is narrower yet, lines are this wide."""
_GOOD, _BAD, _ALARM, _DIM = "32", "1;31", "1;97;41", "2"


def json_line(event: Event, seen: float) -> str:
    """One object on one line: the event, and when it was seen."""
    return json.dumps({**document(event), "seen": moment(seen)}) + "\n"


def text_block(event: Event, seen: float, *, colour: bool, width: int | None = None) -> str:
    """Lines for people; `seen` is when, in Unix seconds.  Those longer than `width` are wrapped."""
    if isinstance(event, Alert):
        head, style = _head(event)
        lines = [_paint(line, style, colour) for line in _folded(head, width, 0)]
        *body, signature = _body(event)
        lines += [line for text in body for line in _folded(text, width, _INDENT)]
        trusted = event.signature.trust is Trust.VALID
        lines += [_paint(line, "33", colour and not trusted) for line in _folded(signature, width, _INDENT)]
        return "\n".join(lines) + "\n\n"
    if isinstance(event, InvalidAlert):
        room = None if width is None else width - 2 * len(f"{_BANNER} ")
        texts = [line for text in _invalid(event, seen) for line in _folded(text, room, 0, more=0)]
        return "\n".join(_paint(f"{_BANNER} {text} {_BANNER}", _ALARM, colour) for text in texts) + "\n\n"
    word, text, style = _other(event)
    lines = _folded(f"{moment(seen)}  {word:<9}  {plain(text)}", width, 0)
    return "\n".join(_paint(line, style, colour) for line in lines) + "\n\n"


def _folded(text: str, width: int | None, indent: int, *, more: int = _INDENT) -> list[str]:
    """A text, indented; if it is too wide, as several lines, all but the first indented by `more`."""
    if width is None or indent + columns_of(text) <= width:
        return [" " * indent + text]
    first, *rest = wrapped(text, max(width, _LEAST_WIDTH) - indent - more)
    return [" " * indent + first, *(" " * (indent + more) + line for line in rest)]


def moment(seconds: float) -> str:
    """Unix seconds as RFC 3339."""
    return _time(datetime.datetime.fromtimestamp(seconds, datetime.UTC))


# -- events -------------------------------------------------------------------------------


def _head(alert: Alert) -> tuple[str, str]:
    firing = alert.status is Status.FIRING
    lasted = _seconds(alert.data.get("duration_seconds"))
    state = "firing" if firing else "resolved" + (f" after {lasted}" if lasted else "")
    marks = "".join(f"  [{mark}]" for mark in _marks(alert))
    head = (
        f"{_time(alert.time)}  {plain(alert.host)}  {alert.severity.upper()}  {plain(alert.code)}"
        f"  {plain(alert.device) or '(host)'}  {state}{marks}"
    )
    return head, SEVERITY_COLOURS[alert.severity] if firing else _GOOD


def _marks(alert: Alert) -> Iterator[str]:
    if alert.late:
        yield "late"
    if alert.data.get("flapping") is True:
        yield "flapping"
    if _members(alert.data.get("maintenance")):
        yield "maintenance"


def _body(alert: Alert) -> Iterator[str]:
    """The lines below the head."""
    data = alert.data
    yield plain(alert.message)
    differences = list(_differences(data.get("differences")))
    yield from differences
    expected, actual = data.get("expected"), data.get("actual")
    if not differences and (isinstance(expected, str) or isinstance(actual, str)):
        yield f"expected  {_word(expected)}"
        yield f"actual    {_word(actual)}"
    yield from _repeated(data)
    yield from _maintenance(_members(data.get("maintenance")))
    yield from _summary(_members(data.get("summary")))
    yield f"evidence: {_evidence(alert)}"
    signature = alert.signature
    yield f"signature: {signature.trust.value}" + (f", {plain(signature.keyid)}" if signature.keyid else "")


def _differences(value: object) -> Iterator[str]:
    entries = [entry for entry in _list(value) if isinstance(entry, dict)]
    for entry in entries[:MAX_DIFFERENCES]:
        target = _integer(entry.get("target"))
        where = "device" if target is None else f"target {target}"
        yield (
            f"{where}: {_word(entry.get('attribute'))}"
            f"  expected {_word(entry.get('expected'))}  actual {_word(entry.get('actual'))}"
        )
    if len(entries) > MAX_DIFFERENCES:
        yield f"and {len(entries) - MAX_DIFFERENCES} more differences"


def _repeated(data: Mapping[str, object]) -> Iterator[str]:
    count = _integer(data.get("count"))
    if count is not None and count > 1:
        yield f"{count} times, first {_word(data.get('first'))}, last {_word(data.get('last'))}"


def _maintenance(members: Mapping[str, object]) -> Iterator[str]:
    if members:
        yield (
            f"maintenance until {_word(members.get('until'))}, {_word(members.get('reason'))}"
            f"; would be {_word(members.get('severity'))}"
        )


def _summary(members: Mapping[str, object]) -> Iterator[str]:
    if not members:
        return
    yield f"{_integer(members.get('alerts')) or 0} alerts in one: {_codes(members)}"
    yield f"devices: {_devices(members)}"
    holding = _members(members.get("holding"))
    if holding:
        yield f"{_integer(holding.get('alerts')) or 0} still hold: {_codes(holding)}"
        yield f"devices: {_devices(holding)}"


def _codes(members: Mapping[str, object]) -> str:
    counts = _counted(_members(members.get("by_code")))
    return ", ".join(f"{count} × {plain(code)}" for code, count in counts) or "nothing"


def _devices(members: Mapping[str, object]) -> str:
    names = [name for name in _list(members.get("devices")) if isinstance(name, str)]
    more = (_integer(members.get("more_devices")) or 0) + max(len(names) - MAX_NAMES, 0)
    shown = ", ".join(plain(name) for name in names[:MAX_NAMES]) or "none"
    return shown + (f" and {more} more" if more > 0 else "")


def _counted(members: Mapping[str, object]) -> list[tuple[str, int]]:
    counts = [(code, _integer(count)) for code, count in members.items()]
    known = [(code, count) for code, count in counts if count is not None]
    return sorted(known, key=lambda entry: (-entry[1], entry[0]))[:MAX_NAMES]


def _evidence(alert: Alert) -> str:
    """The record first, then what else there is, by name."""
    members = dict(_members(alert.data.get("evidence")))
    record = _integer(members.pop("record", None))
    parts = [] if record is None else [f"record {record}"]
    parts += [f"{name} {value}" for name, value in members.items() if isinstance(value, str | int)]
    return plain(", ".join(parts)) or "no record"


def _invalid(event: InvalidAlert, seen: float) -> Iterator[str]:
    claimed = event.claimed
    yield f"{moment(seen)}  {plain(event.host)}  INVALID: DO NOT TRUST THIS ALERT"
    yield plain(event.reason)
    says = (
        f"{claimed.severity.value} {claimed.code} {claimed.device} {claimed.status.value}: {claimed.message}"
    )
    yield f"it says: {plain(says)}"


def _other(event: Event) -> tuple[str, str, str]:
    """A word, what there is to say, and a colour."""
    if isinstance(event, Malformed):
        return "MALFORMED", f"{event.topic}: {event.reason}" if event.topic else event.reason, _BAD
    if isinstance(event, Missing):
        alone = event.first == event.last
        numbers = f"alert {event.first} has" if alone else f"alerts {event.first} to {event.last} have"
        return "MISSING", f"{event.host}: {numbers} not come", _BAD
    if isinstance(event, HostSilent):
        return "SILENT", f"{event.host}: {event.why}, since {moment(event.since)}", _BAD
    if isinstance(event, HostBack):
        return "BACK", f"{event.host}: online again", _GOOD
    if isinstance(event, Restarted):
        return "RESTARTED", f"{event.host}: counts its alerts anew, from {event.sequence} on", _DIM
    return event.type.upper(), getattr(event, "reason", ""), _DIM


# -- values -------------------------------------------------------------------------------


def _word(value: object) -> str:
    return (plain(value) if isinstance(value, str) else "") or "nothing"


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63 else None


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _members(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _seconds(value: object) -> str:
    """A duration as people say it; "" if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_SECONDS:
        return ""
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def _time(time: datetime.datetime) -> str:
    return time.isoformat(timespec="milliseconds" if time.microsecond else "seconds").replace("+00:00", "Z")


def _paint(text: str, style: str, colour: bool) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if colour else text
