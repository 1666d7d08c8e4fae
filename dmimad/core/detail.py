"""One device as a document: what it is, what was told of it, its history, its tables beside what is approved.

Source: none; the shape is a promise to other programs (``docs/status.md``).

A table is told target by target, attribute by attribute, with what the baseline demands of it.  Of several
approved states the one that it comes closest to is told, which is the one that the alert names.  Where that
has no rules and the other slot's table is approved, it is told beside this.  It is
bounded: of longer tables what differs is told before the rest, and how much is left out.  Decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dmimad.core.alert import Alert, Notice
from dmimad.core.backing import Names
from dmimad.core.baseline import Baseline
from dmimad.core.change import ACTIVE, INACTIVE, UNTOLD_TYPE, Change
from dmimad.core.cloudevent import timestamp
from dmimad.core.configuration import ABSENT, Configuration, ConfiguredTarget, configuration_of
from dmimad.core.device import Device
from dmimad.core.drift import Closest, Surroundings, closest
from dmimad.core.event import printable
from dmimad.core.finding import NOT_NAMED, Difference
from dmimad.core.health import is_volatile
from dmimad.core.moments import Moments
from dmimad.core.observation import LiveDevice
from dmimad.core.recent import Told
from dmimad.core.rules import demanded, differences, unspoken
from dmimad.core.status import alert_status, device_status, most_important
from dmimad.core.table import Table

#: Rows told of one table; a table may have a million targets.
MAX_ROWS = 512
#: Approved hashes or fingerprints named in one row.
MAX_ALTERNATIVES = 4
#: Of a value, and of what is approved in its place.
MAX_TEXT_CHARS = 500
#: Alerts told of one device.
MAX_ALERTS_TOLD = 100

_OTHER = {ACTIVE: INACTIVE, INACTIVE: ACTIVE}
#: Of a device below that has only a number, written in two ways.
_NAMES_WITHOUT_A_NAME = 2


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """What the monitor knows of a device.

    Attributes:
        view: its retained document, and ``moments`` since when it is so.
        live: as it was last observed.
        names: of the devices below.
        alerts: what is told of each alert of the host that fires, and ``recent`` what was told lately.
        changes: its history; ``changes_left_out`` older ones are forgotten.
    """

    host: str
    device: Device
    view: bytes
    moments: Moments
    live: LiveDevice | None
    names: Names
    baseline: Baseline
    alerts: Sequence[Notice]
    recent: Sequence[Told]
    changes: Sequence[Change]
    changes_left_out: int


@dataclass(frozen=True, slots=True)
class Row:
    """One attribute: what is approved and what there is; None where that is not known, or nothing."""

    target: int | None
    attribute: str
    approved: str | None
    actual: str | None
    differs: bool = False

    def document(self) -> dict[str, object]:
        """As it is told."""
        return {
            "target": self.target,
            "attribute": self.attribute,
            "approved": None if self.approved is None else self.approved[:MAX_TEXT_CHARS],
            "actual": None if self.actual is None else self.actual[:MAX_TEXT_CHARS],
            "differs": self.differs,
        }


def detail_document(known: KnownDevice, version: str, now: float) -> dict[str, object]:
    """The document, as of ``now`` (Unix seconds); ``version`` is the daemon's."""
    device, name = known.device, printable(known.device.name)
    names = {name, *(printable(former.name) for former in device.former)}
    firing = [each for each in known.alerts if _concerns(each.alert, device.key, name)]
    return {
        "host": known.host,
        "time": timestamp(now),
        "version": version,
        "device": device_status(known.view, known.moments),
        "alerts": [alert_status(each) for each in most_important(firing)[:MAX_ALERTS_TOLD]],
        "recent": [told.document() for told in known.recent if told.device in names],
        "history": [change.document() for change in known.changes],
        "history_left_out": known.changes_left_out,
        "tables": [
            _table_document(slot, table, known, now)
            for slot, table in ((ACTIVE, device.active), (INACTIVE, device.inactive))
            if table is not None
        ],
        "former": False,
    }


def _concerns(alert: Alert, key: str, name: str) -> bool:
    """One without a key is of a device that is missed."""
    return alert.finding.device == key or (not alert.finding.device and alert.subject == name)


def _table_document(slot: str, table: Table, known: KnownDevice, now: float) -> dict[str, object]:
    around = Surroundings(now, known.names, known.live)
    found = closest(known.device, slot, known.baseline, around)
    configuration = _configuration(slot, table, known)
    rows = list(_identity_rows(table, configuration, found))
    beside = _approved_beside(slot, found, known, around)
    if beside is None:
        rows += _target_rows(configuration, found, _differing(table, configuration, found))
    else:
        rows += _rows_beside(configuration, beside)
    told = rows if len(rows) <= MAX_ROWS else _most_important(rows)
    return {
        "slot": slot,
        "hash": table.label,
        "fingerprint": configuration.fingerprint,
        "approved": found.approved,
        "baseline": "" if found.entry is None else found.entry.origin,
        "others": found.others,
        "compared_with": "baseline" if beside is None else _OTHER[slot],
        "rows": [row.document() for row in told],
        "rows_left_out": len(rows) - len(told),
    }


def _configuration(slot: str, table: Table, known: KnownDevice) -> Configuration:
    seen = None if known.live is None else known.live.active if slot == ACTIVE else known.live.inactive
    return configuration_of(table, seen, known.names)


def _approved_beside(
    slot: str, found: Closest, known: KnownDevice, around: Surroundings
) -> Configuration | None:
    """The table of the other slot, if that is an approved one and the entry alone cannot say what differs."""
    other = _OTHER[slot]
    table = known.device.active if other == ACTIVE else known.device.inactive
    if found.approved is not False or found.named is not False or table is None:
        return None
    if found.entry is None or found.entry.rules:
        return None
    if closest(known.device, other, known.baseline, around).approved is not True:
        return None
    return _configuration(other, table, known)


def _most_important(rows: Sequence[Row]) -> list[Row]:
    """What differs and what is said of the whole table, then the beginning, in their order."""
    ranked = sorted(range(len(rows)), key=lambda place: (not rows[place].differs, place))
    return [rows[place] for place in sorted(ranked[:MAX_ROWS])]


# -- hash and fingerprint ------------------------------------------------------------------


def _identity_rows(table: Table, configuration: Configuration, found: Closest) -> Iterator[Row]:
    entry = found.entry
    hashes = [] if entry is None else sorted("sha256:" + digest.hex() for digest in entry.hashes)
    fingerprints = [] if entry is None else sorted(entry.fingerprints)
    for attribute, approved, actual in (
        ("hash", hashes, table.label if table.hash else None),
        ("fingerprint", fingerprints, configuration.fingerprint),
    ):
        # One of the two is enough.
        differs = found.approved is False and found.named is False and bool(approved)
        yield Row(None, attribute, _alternatives(approved, actual), actual, differs)


def _alternatives(approved: Sequence[str], actual: str | None) -> str | None:
    if actual in approved:
        return actual
    more = len(approved) - MAX_ALTERNATIVES
    return " or ".join(approved[:MAX_ALTERNATIVES]) + (f" or {more} more" if more > 0 else "") or None


# -- targets -------------------------------------------------------------------------------


_Wrong = Mapping[int | None, Mapping[str, Difference]]
"""What differs, by target and attribute."""


def _differing(table: Table, configuration: Configuration, found: Closest) -> _Wrong:
    """As `drift` has it; of a finding only the first are known, so all of them are looked for."""
    wrong: dict[int | None, dict[str, Difference]] = {}
    if found.approved is not False or found.entry is None or not table.texts:
        return wrong
    rules = found.entry.rules
    every: Iterable[Difference] = differences(rules, configuration)
    if not every and rules and found.named is False:
        every = unspoken(rules, configuration)
    for each in every:
        wrong.setdefault(each.target, {})[each.attribute] = each
    return wrong


def _target_rows(configuration: Configuration, found: Closest, wrong: _Wrong) -> Iterator[Row]:
    """Each target's place, type and attributes; what is demanded and not there follows."""
    rules = () if found.entry is None else found.entry.rules
    there: set[int | None] = set()
    for target, wanted in zip(configuration.targets, demanded(rules, configuration), strict=True):
        there.add(target.index)
        absent = dict(wrong.get(target.index, {}))
        for attribute, actual in _attributes(target):
            if attribute == "target_name" and attribute not in wanted:
                continue  # that is its type
            difference = absent.pop(attribute, None) or wrong.get(target.index, {}).get(attribute)
            yield _row(target.index, attribute, wanted.get(attribute), actual, difference)
        yield from map(_absent, absent.values())
    for index, others in wrong.items():
        if index not in there:
            yield from map(_absent, others.values())


def _rows_beside(configuration: Configuration, approved: Configuration) -> Iterator[Row]:
    """Each target beside the approved one in its place."""
    others = {target.index: target for target in approved.targets}
    for target in configuration.targets:
        other = others.pop(target.index, None)
        wanted, actual = {} if other is None else dict(_attributes(other)), dict(_attributes(target))
        for attribute in dict.fromkeys((*actual, *wanted)):
            if attribute != "target_name":  # that is its type
                pair = wanted.get(attribute), actual.get(attribute)
                moves = attribute == "target_version" or is_volatile(target.type, attribute)
                differs = not moves and (pair[0] or ABSENT) != (pair[1] or ABSENT)
                yield Row(target.index, attribute, *pair, differs)
    for other in others.values():
        yield Row(other.index, "type", other.type or UNTOLD_TYPE, None, differs=True)


def _absent(difference: Difference) -> Row:
    return Row(difference.target, difference.attribute, difference.expected, None, differs=True)


def _row(target: int, attribute: str, wanted: str | None, actual: str, difference: Difference | None) -> Row:
    if difference is None:
        return Row(target, attribute, wanted, actual)
    expected = None if difference.expected == NOT_NAMED else difference.expected
    return Row(target, attribute, wanted or expected, actual, differs=True)


def _attributes(target: ConfiguredTarget) -> Iterator[tuple[str, str]]:
    """As measured, behind the place; a device below by its name, with its number."""
    yield "type", target.type or UNTOLD_TYPE
    yield "begin", str(target.begin_sectors)
    yield "length", str(target.length_sectors)
    for attribute in target.attributes:
        shown = attribute.value
        if attribute.names:  # all that is known of it, its number last
            number = attribute.names[-1]
            shown = f"{shown} ({number})" if len(attribute.names) > _NAMES_WITHOUT_A_NAME else number
        yield attribute.key, shown
