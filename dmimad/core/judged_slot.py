"""A table in a device's slot against the entries that speak for the device: the closest one, what is wrong.

Source: the finding codes are a promise to subscribers (``docs/findings.md``).

Which entries these are is `drift`'s to say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice

from dmimad.core.backing import Names
from dmimad.core.baseline import Entry, Operation
from dmimad.core.configuration import Configuration, configuration_of
from dmimad.core.device import Device
from dmimad.core.event import printable
from dmimad.core.finding import Difference, Finding, Severity, make_finding
from dmimad.core.observation import LiveDevice
from dmimad.core.rules import differences, unspoken
from dmimad.core.table import Provenance, Table

#: Approved states and differences named in one finding.
MAX_NAMED = 16


@dataclass(frozen=True, slots=True)
class Comparison:
    """A table against one entry.

    Attributes:
        named: whether it is one that the entry names, by hash or fingerprint, or the entry names none; None
            where nobody has told enough to say.
        told: whether all is known that the entry's rules ask for.
        differences: what is not as the rules demand, as far as that is known.
    """

    entry: Entry
    named: bool | None
    told: bool
    differences: tuple[Difference, ...]

    @property
    def approved(self) -> bool:
        """The entry approves the table."""
        return self.named is True and self.told and not self.differences

    @property
    def drifting(self) -> bool:
        """The entry does not approve the table, whatever nobody has told of it."""
        return self.named is False or bool(self.differences)

    @property
    def violates_policy(self) -> bool:
        """It may be one of the tables named, and is not as the rules demand."""
        return self.named is not False and bool(self.differences)

    @property
    def distance(self) -> tuple[bool, bool, int, int]:
        """How far the table is from what the entry approves; one with rules can say what is different."""
        targets = sum(one.attribute == "type" for one in self.differences)
        return self.named is False, not self.entry.rules, targets, len(self.differences)


class JudgedSlot:
    """One slot of a device against the entries that speak for it, each of which demands something.

    Args:
        which: ``active`` or ``inactive``.
        names: of backing devices.
        live: the device as last observed.
        lapsed: none of the entries is valid at this time.
    """

    def __init__(
        self,
        which: str,
        device: Device,
        entries: tuple[Entry, ...],
        names: Names,
        live: LiveDevice | None,
        *,
        lapsed: bool,
    ) -> None:
        self._which = which
        self._device = device
        self._entries = entries
        self._lapsed = lapsed
        self.table = device.active if which == "active" else device.inactive
        self._live = None if live is None else live.active if which == "active" else live.inactive
        self._configuration = self._configure(names)
        self._comparisons = [] if self.table is None else [self._compare(self.table, e) for e in entries]

    def _configure(self, names: Names) -> Configuration | None:
        """Only where somebody asks for it: most tables are judged by their hash."""
        table = self.table
        if table is None or not any(entry.looks_at_configuration for entry in self._entries):
            return None
        return configuration_of(table, self._live, names)

    def _compare(self, table: Table, entry: Entry) -> Comparison:
        configuration = self._configuration
        if not entry.rules or configuration is None or not table.texts:
            return Comparison(entry, self._is_named(table, entry), not entry.rules, ())
        found, named = differences(entry.rules, configuration), self._is_named(table, entry)
        if named is False and not found:  # then what no rule speaks of is the matter
            found = tuple(islice(unspoken(entry.rules, configuration), MAX_NAMED))
        return Comparison(entry, named, configuration.complete, found)

    def _is_named(self, table: Table, entry: Entry) -> bool | None:
        """Whether the table is one that the entry names."""
        if table.hash in entry.hashes or not (entry.hashes or entry.fingerprints):
            return True
        if entry.fingerprints:
            fingerprint = None if self._configuration is None else self._configuration.fingerprint
            return None if fingerprint is None else fingerprint in entry.fingerprints
        return False if table.hash else None

    @property
    def alternatives(self) -> int:
        """How many entries it is compared with."""
        return len(self._comparisons)

    def closest(self) -> Comparison:
        """The one that approves the table, or that it comes closest to."""
        if self._lapsed:
            return self._comparisons[0]
        return min(self._comparisons, key=lambda found: (not found.approved, *found.distance))

    @property
    def untold(self) -> bool:
        """There is a table, and nobody has told enough of it to judge."""
        return self.table is not None and not any(found.approved for found in self._comparisons)

    @property
    def is_verity(self) -> bool:
        """Whether it is protected by dm-verity, as either witness says."""
        if self.table is None:
            return False
        targets = () if self._live is None else self._live.targets or ()
        seen = any(target.type == "verity" for target in targets)
        return seen or any(b",target_name=verity," in text for text in self.table.texts)

    def finding(self, over: JudgedSlot | None = None) -> Finding | None:
        """What is wrong with the table; ``over`` is the active slot that it would replace."""
        if self.table is None:
            return None
        if self._lapsed:
            return self._make(self._comparisons[0], over, lapsed=True)
        if any(found.approved for found in self._comparisons):
            return self._not_to_be_reloaded(over)
        if any(not found.drifting for found in self._comparisons):
            return None  # nobody knows
        return self._make(min(self._comparisons, key=lambda found: found.distance), over)

    def _not_to_be_reloaded(self, over: JudgedSlot | None) -> Finding | None:
        """Another approved table is staged over the active one of a device that is not to be reloaded."""
        if over is None or over.table is None or self.table is None or over.table.hash == self.table.hash:
            return None
        if any(Operation.RELOAD in entry.allow for entry in self._entries):
            return None
        found = self._make(self._comparisons[0], over)
        text = f"{shown(self._device)} has staged a table, though its entry does not allow it to be reloaded"
        return replace(found, message=text)

    def _make(self, found: Comparison, over: JudgedSlot | None, *, lapsed: bool = False) -> Finding:
        table, device, active = self.table or Table(b"", b"", b"", 0), self._device, self._which == "active"
        code = "policy.attribute" if found.violates_policy and not lapsed else f"drift.{self._which}"
        configuration = self._configuration
        fingerprint = None if configuration is None else configuration.fingerprint
        data = {
            "expected": self._expected(found, lapsed=lapsed),
            "actual": self._actual(found, fingerprint, lapsed=lapsed),
            "baseline": found.entry.origin,
            "witness": table.provenance.value,
            "slot": self._which,
            "hash": table.label,
        }
        if fingerprint is not None:
            data["fingerprint"] = fingerprint
        if configuration is not None and configuration.unnamed:
            data["unnamed"] = ", ".join(
                f"{major}:{minor}" for major, minor in configuration.unnamed[:MAX_NAMED]
            )
        return make_finding(
            code,
            self._text(found, lapsed=lapsed),
            device=device.key,
            record=None
            if table.provenance is Provenance.OBSERVED
            else device.changed_at
            if active
            else device.staged_at,
            severity=self._severity(found.entry, over),
            differences=found.differences[:MAX_NAMED],
            **data,
        )

    def _severity(self, entry: Entry, over: JudgedSlot | None) -> Severity:
        """A table that is about to take the place of a dm-verity one cannot wait until it has."""
        if self._which == "active":
            return entry.severity or Severity.CRITICAL
        protected = over is not None and over.is_verity
        return entry.staged_severity or (Severity.CRITICAL if protected else Severity.WARNING)

    def _expected(self, found: Comparison, *, lapsed: bool) -> str:
        if lapsed:
            return "an approval that is in force"
        if found.violates_policy:
            return "; ".join(_told(one, one.expected) for one in found.differences[:MAX_NAMED])
        labels = {label for entry in self._entries for label in entry.fingerprints}
        labels |= {"sha256:" + digest.hex() for entry in self._entries for digest in entry.hashes}
        more = len(labels) - MAX_NAMED
        return " or ".join(sorted(labels)[:MAX_NAMED]) + (f" or {more} more" if more > 0 else "")

    def _actual(self, found: Comparison, fingerprint: str | None, *, lapsed: bool) -> str:
        label = "unknown" if self.table is None else self.table.label
        if found.violates_policy and not lapsed:
            return "; ".join(_told(one, one.actual) for one in found.differences[:MAX_NAMED])
        named = any(entry.hashes for entry in self._entries)
        return label if named or fingerprint is None else fingerprint

    def _text(self, found: Comparison, *, lapsed: bool) -> str:
        verb = "runs" if self._which == "active" else "has staged"
        text = f"{shown(self._device)} {verb} a table that is not approved"
        if lapsed:
            return f"{text} at this time ({found.entry.origin})"
        if found.differences:
            first, more = found.differences[0], len(found.differences) - 1
            return f"{text}: {first}" + (f", and {more} more" if more else "")
        return text


def _told(difference: Difference, value: str) -> str:
    where = "" if difference.target is None else f"target {difference.target}: "
    return f"{where}{difference.attribute}={value}"


def shown(device: Device) -> str:
    """A device in the text of a finding."""
    return f"{printable(device.name)} ({device.key})"
