"""What a status document says of the daemon itself, each as a line: its list, witnesses, broker, settings.

Source: the document, ``docs/status.md``.  Devices and alerts are not told here.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from dmimad.commands.plain_text import for_people, local_time, plain, seconds_of
from dmimad.commands.status_document import Document, list_in, table_in


class State(enum.Enum):
    """How a fact is to be taken."""

    GOOD = enum.auto()
    PLAIN = enum.auto()
    IDLE = enum.auto()
    """It is not to be otherwise, and does nothing."""
    ODD = enum.auto()
    """Worth knowing."""
    BAD = enum.auto()


@dataclass(frozen=True, slots=True)
class Fact:
    """What is told, under which name."""

    name: str
    text: str
    state: State = State.PLAIN


def facts(document: Document, now: float) -> Iterator[Fact]:
    """All there are, as of ``now`` (Unix seconds)."""
    yield _list(table_in(document, "list"), now)
    yield _live(table_in(table_in(document, "witnesses"), "live"))
    yield _tpm(document.get("pcr_verified"))
    yield _broker(document)
    if problem := plain(table_in(document, "store").get("problem")):
        yield Fact("state", f"cannot be stored: {problem}", State.BAD)
    yield _baseline(table_in(document, "baseline"))
    if table_in(document, "settings").get("accepted") is False:
        yield Fact("settings", "the last change was refused; see the daemon's log", State.BAD)
    for each in list_in(document, "refused"):
        since = local_time(each.get("since"))
        yield Fact(
            "refused", f"{plain(each.get('what'))}, since {since}: {plain(each.get('reason'))}", State.BAD
        )
    if waiting := table_in(document, "settings").get("restart_needed"):
        names = ", ".join(map(plain, waiting)) if isinstance(waiting, list) else plain(waiting)
        yield Fact("restart", f"needed for what has changed in the settings: {names}", State.ODD)
    for each in list_in(document, "maintenance"):
        yield Fact("maintenance", maintenance_text(each, now), State.ODD)
    yield Fact("daemon", f"dmimad {plain(document.get('version'))}")


def _list(found: Document, now: float) -> Fact:
    text = _counted(found.get("position"), "record", "records")
    read = seconds_of(found.get("last_read"))
    if lag := plain(found.get("lag") or ""):
        text += f", {lag} to read"
    if trimmed := plain(found.get("trimmed") or ""):
        text += f", {trimmed} trimmed"
    if read is not None:
        text += f", read {for_people(now - read)} ago"
    if problem := plain(found.get("problem")):
        return Fact("list", f"{text}; cannot be read on: {problem}", State.BAD)
    if found.get("source_up") is not True:
        return Fact("list", f"{text}; cannot be read now", State.BAD)
    if found.get("gap") is True:
        return Fact("list", f"{text}; records may be lost", State.BAD)
    return Fact("list", text, State.GOOD)


def _live(live: Document) -> Fact:
    match live.get("up"):
        case True:
            return Fact(
                "live tables", f"looked at {_counted(live.get('observations'), 'time', 'times')}", State.GOOD
            )
        case False:
            return Fact("live tables", "cannot be looked at", State.BAD)
    return Fact("live tables", "not looked at", State.IDLE)


def _tpm(verified: object) -> Fact:
    state = State.GOOD if verified is True else State.BAD if verified is False else State.IDLE
    return Fact("TPM", pcr_text(verified), state)


def pcr_text(verified: object) -> str:
    """Whether the list leads to the TPM's PCR."""
    match verified:
        case True:
            return "PCR 10 agrees with the list"
        case False:
            return "PCR 10 does NOT agree with the list"
    return "PCR 10 not compared"


def _broker(document: Document) -> Fact:
    outbox = table_in(document, "outbox")
    text = _counted(outbox.get("pending"), "alert waits", "alerts wait")
    if dead := plain(outbox.get("dead") or ""):
        text += f", {dead} given up"
    if problem := plain(document.get("mqtt_problem") or ""):
        return Fact("broker", f"{problem} {text}", State.BAD)
    match document.get("mqtt_connected"):
        case True:
            return Fact("broker", f"connected, {text}", State.GOOD)
        case False:
            return Fact("broker", f"not connected, {text}", State.BAD)
    return Fact("broker", "not to be used", State.IDLE)


def _baseline(baseline: Document) -> Fact:
    count = baseline.get("entries")
    text = f"{_counted(count, 'entry', 'entries')} from {plain(baseline.get('directory'))}"
    if baseline.get("accepted") is False:
        return Fact("baseline", f"{text}; the last change was refused, see the daemon's log", State.BAD)
    return Fact("baseline", text) if count else Fact("baseline", f"{text}: nothing is judged", State.ODD)


def maintenance_text(maintenance: Document, now: float) -> str:
    """One that is in force, on one line."""
    until = seconds_of(maintenance.get("until"))
    left = "" if until is None else f" ({for_people(until - now)} left)"
    return (
        f"{plain(maintenance.get('device'))} until {local_time(maintenance.get('until'))}{left}: "
        f"{plain(maintenance.get('reason'))} "
        f"[by {plain(maintenance.get('by'))}, id {plain(maintenance.get('id'))}]"
    )


def _counted(number: object, one: str, more: str) -> str:
    """A number with what it counts."""
    return f"{plain(number)} {one if number == 1 else more}"
