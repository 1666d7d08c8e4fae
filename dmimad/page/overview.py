"""What the first page says of a status document: one verdict, the health of everything, the devices.

Source: the document, ``docs/status.md``.

Nothing is said by colour alone: each level has its words.  Bounded: of too many devices or alerts the most
important are shown, and how many others there are.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dmimad.commands.status_document import count_of, list_in, table_in
from dmimad.core.change import UNTOLD_TYPE
from dmimad.page.texts import counted

Document = Mapping[str, object]

MAX_DEVICES_SHOWN = 250
MAX_ALERTS_SHOWN = 100
HASH_DIGITS = 10


class Level(enum.Enum):
    """How it stands; the values are classes of the style sheet."""

    GOOD = "good"
    ATTENTION = "attention"
    BAD = "bad"
    OFF = "off"


#: Verdicts in order of importance: level, and words for people.
VERDICTS: Mapping[str, tuple[Level, str]] = {
    "drift": (Level.BAD, "drift"),
    "unexpected": (Level.ATTENTION, "not in the baseline"),
    "unknown": (Level.OFF, "not judged"),
    "approved": (Level.GOOD, "as approved"),
}
SEVERITIES: Mapping[str, Level] = {"critical": Level.BAD, "warning": Level.ATTENTION, "info": Level.OFF}
WITNESSES: Mapping[object, str] = {"both": "list + live", "measured": "list only", "observed": "live only"}


@dataclass(frozen=True, slots=True)
class Banner:
    """The verdict of the whole: `words`, `more` of it, and what a browser's tab begins with."""

    level: Level
    words: str
    more: str
    mark: str


@dataclass(frozen=True, slots=True)
class Fact:
    """The health of one thing."""

    name: str
    level: Level
    words: str
    more: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SlotBrief:
    """A table in a few characters: its targets' types, the first digits of its hash."""

    types: str
    digits: str
    drift: bool


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One device of the table."""

    key: str
    name: str
    active: SlotBrief | None
    inactive: SlotBrief | None
    witness: str
    level: Level
    verdict: str
    since: object
    suspended: bool


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything the first page shows; alerts as in the document."""

    host: str
    version: str
    time: str
    banner: Banner
    facts: tuple[Fact, ...]
    devices: tuple[DeviceRow, ...]
    devices_left_out: int
    alerts: Sequence[Document]
    alerts_left_out: int
    recent: Sequence[Document]
    maintenance: Sequence[Document]


def overview(status: Document) -> Overview:
    """What is shown of this document."""
    devices = sorted(list_in(status, "devices"), key=_importance)
    alerts = list_in(status, "alerts")
    return Overview(
        str(status.get("host")),
        str(status.get("version")),
        str(status.get("time")),
        banner(status),
        tuple(_facts(status)),
        tuple(map(device_row, devices[:MAX_DEVICES_SHOWN])),
        max(len(devices) - MAX_DEVICES_SHOWN, 0) + count_of(status.get("devices_left_out")),
        alerts[:MAX_ALERTS_SHOWN],
        max(len(alerts) - MAX_ALERTS_SHOWN, 0) + count_of(status.get("alerts_left_out")),
        list_in(status, "recent")[:MAX_ALERTS_SHOWN],
        list_in(status, "maintenance"),
    )


def _importance(device: Document) -> tuple[int, str, str]:
    verdicts = list(VERDICTS)
    verdict = device.get("verdict")
    rank = verdicts.index(verdict) if isinstance(verdict, str) and verdict in verdicts else 0
    return rank, str(device.get("name")), str(device.get("key"))


# -- the verdict ---------------------------------------------------------------------------


def banner(status: Document) -> Banner:
    """The whole in one line."""
    verdicts = [device.get("verdict") for device in list_in(status, "devices")]
    firing = table_in(status, "firing")
    serious = sum(count_of(firing.get(severity)) for severity in ("critical", "warning"))
    drift = verdicts.count("drift")
    problems = [counted(serious, "alert fires", "alerts fire")] if serious else []
    problems += [counted(drift, "device is in drift", "devices are in drift")] if drift else []
    problems += _problems(status)
    bad = bool(drift or count_of(firing.get("critical")) or _blind(status))
    level = Level.BAD if bad else Level.ATTENTION
    odd = [verdict for verdict in verdicts if verdict != "approved"]
    if problems:
        words = ", ".join(problems)
    elif not count_of(table_in(status, "baseline").get("entries")):
        words = "Nothing is approved yet, so no device is judged"
    elif odd:
        words = counted(len(odd), "device is not in the baseline", "devices are not in the baseline")
    else:
        level, words = Level.GOOD, "As approved"
    mark = f"({serious}) " if serious else "(!) " if bad else ""
    return Banner(level, words[0].upper() + words[1:], _census(verdicts, status), mark)


def _blind(status: Document) -> bool:
    seen = table_in(status, "list")
    unseen = bool(seen.get("problem") or seen.get("gap")) or not seen.get("source_up")
    return unseen or status.get("pcr_verified") is False


def _problems(status: Document) -> Iterator[str]:
    """What is wrong beside alerts and drift."""
    seen = table_in(status, "list")
    if seen.get("problem") or not seen.get("source_up"):
        yield "the list cannot be read"
    elif seen.get("gap"):
        yield "records of the list may be lost"
    if status.get("pcr_verified") is False:
        yield "PCR 10 does not agree with the list"
    if table_in(table_in(status, "witnesses"), "live").get("up") is False:
        yield "the live tables cannot be seen"
    if table_in(status, "store").get("problem"):
        yield "nothing can be stored"
    if status.get("mqtt_problem"):
        yield "something is wrong at the broker"
    elif status.get("mqtt_connected") is False:
        yield "the broker cannot be reached"
    if list_in(status, "refused"):
        yield "not everything that is set is in force"


def _census(verdicts: Sequence[object], status: Document) -> str:
    total = len(verdicts) + count_of(status.get("devices_left_out"))
    parts = [
        f"{verdicts.count(name)} {words if name != 'drift' else 'in drift'}"
        for name, (_, words) in VERDICTS.items()
        if verdicts.count(name)
    ]
    told = f"{counted(total, 'mapped device', 'mapped devices')}"
    return f"{told}: {', '.join(parts)}" if parts else told


# -- devices -------------------------------------------------------------------------------


def device_row(device: Document) -> DeviceRow:
    """A retained document as a row."""
    level, verdict = VERDICTS.get(str(device.get("verdict")), (Level.OFF, str(device.get("verdict"))))
    drift = table_in(device, "drift")
    slots = {name: table_in(device, name) for name in ("active", "inactive")}
    seen = dict.fromkeys(WITNESSES.get(slot.get("provenance"), "") for slot in slots.values() if slot)
    return DeviceRow(
        str(device.get("key")),
        str(device.get("name")),
        _slot_brief(slots["active"], drift.get("active") is True),
        _slot_brief(slots["inactive"], drift.get("inactive") is True),
        ", ".join(seen) or "—",
        level,
        verdict,
        table_in(device, "since").get("verdict"),
        device.get("suspended") is True,
    )


def _slot_brief(slot: Document, drift: bool) -> SlotBrief | None:
    if not slot:
        return None
    types = dict.fromkeys(str(target.get("type") or UNTOLD_TYPE) for target in list_in(slot, "targets"))
    digits = str(slot.get("hash")).removeprefix("sha256:")
    return SlotBrief(", ".join(types) or "?", digits[:HASH_DIGITS], drift)


# -- health --------------------------------------------------------------------------------


def _facts(status: Document) -> Iterator[Fact]:
    yield _list_fact(table_in(status, "list"))
    yield _live_fact(table_in(table_in(status, "witnesses"), "live"))
    yield _pcr_fact(status.get("pcr_verified"))
    yield _broker_fact(status)
    problem = table_in(status, "store").get("problem")
    words = "cannot be written; alerts are told from memory" if problem else "stored"
    yield Fact("State", Level.BAD if problem else Level.GOOD, words, (str(problem),) if problem else ())
    yield _baseline_fact(table_in(status, "baseline"))
    yield _settings_fact(status)


def _list_fact(seen: Document) -> Fact:
    more = [counted(count_of(seen.get("position")), "record", "records") + " read"]
    if lag := count_of(seen.get("lag")):
        more.append(f"{lag:,} to read")
    if trimmed := count_of(seen.get("trimmed")):
        more.append(f"{trimmed:,} trimmed")
    more.append(f"source: {seen.get('source')}")
    name = "Measurement list"
    if problem := seen.get("problem"):
        return Fact(name, Level.BAD, f"cannot be read on: {problem}", tuple(more))
    if not seen.get("source_up"):
        return Fact(name, Level.BAD, "cannot be read now", tuple(more))
    if seen.get("gap"):
        return Fact(name, Level.BAD, "records may be lost", tuple(more))
    return Fact(name, Level.ATTENTION if lag else Level.GOOD, "behind" if lag else "followed", tuple(more))


def _live_fact(live: Document) -> Fact:
    seen = (counted(count_of(live.get("observations")), "look", "looks"),)
    match live.get("up"):
        case True:
            return Fact("Live tables", Level.GOOD, "observed", seen)
        case False:
            return Fact("Live tables", Level.BAD, "cannot be observed", seen)
    return Fact("Live tables", Level.OFF, "not observed")


def _pcr_fact(verified: object) -> Fact:
    match verified:
        case True:
            return Fact("TPM", Level.GOOD, "PCR 10 agrees with the list")
        case False:
            return Fact("TPM", Level.BAD, "PCR 10 does not agree with the list")
    return Fact("TPM", Level.OFF, "PCR 10 is not compared")


def _broker_fact(status: Document) -> Fact:
    outbox = table_in(status, "outbox")
    pending, dead = count_of(outbox.get("pending")), count_of(outbox.get("dead"))
    more = [counted(pending, "alert waits", "alerts wait")]
    more += [counted(dead, "alert was refused for good", "alerts were refused for good")] if dead else []
    problem = str(status.get("mqtt_problem") or "")
    if problem:
        return Fact("Broker", Level.BAD, problem, tuple(more))
    match status.get("mqtt_connected"):
        case True:
            return Fact("Broker", Level.ATTENTION if dead else Level.GOOD, "connected", tuple(more))
        case False:
            return Fact("Broker", Level.ATTENTION, "not connected", tuple(more))
    return Fact("Broker", Level.OFF, "not to be used")


def _baseline_fact(baseline: Document) -> Fact:
    entries = count_of(baseline.get("entries"))
    more = (str(baseline.get("directory")),)
    words = counted(entries, "entry", "entries")
    if baseline.get("accepted") is False:
        return Fact("Baseline", Level.BAD, f"{words}; the last change was refused", more)
    return Fact("Baseline", Level.GOOD if entries else Level.ATTENTION, words, more)


def _settings_fact(status: Document) -> Fact:
    refused = list_in(status, "refused")
    settings = table_in(status, "settings")
    waiting = settings.get("restart_needed")
    more = [f"{each.get('what')}: {each.get('reason')}" for each in refused]
    if isinstance(waiting, list) and waiting:
        more.append("restart needed for: " + ", ".join(map(str, waiting)))
    if refused:
        return Fact("Settings", Level.BAD, "not everything is in force", tuple(more))
    return Fact("Settings", Level.ATTENTION if more else Level.GOOD, "in force", tuple(more))
