"""Two witnesses made one: what the list has led to, held against what the kernel holds live.

Source: ``ima_lookup_digest_entry`` (``security/integrity/ima/ima_queue.c``) drops what was recorded before,
so the list alone is the last *new* thing that happened; ``drivers/md/dm-ioctl.c`` tells what is true now,
attested by nobody.

The live table always wins: the tracked devices become what the kernel holds.  Whether that is worth a word is
another question, answered by recognising the live table among the measured ones (`recognition`):

- its load was measured in this boot: deduplication explains all of it, and nothing is said;
- it was, but for attributes that move by themselves: `target.degraded`;
- it never was: `drift.live` for a device that the list knows, `measurement.absent` for one it does not.

List and kernel cannot be asked at one instant.  What agrees is taken at once; what does not is believed only
when two observations in a row say the same of a device and no record has touched it in between.  Nothing here
reads a clock: the caller decides when to look, and looks again when it is told that something is `unsettled`.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from dmimad.core.checkpoint import Document, hexadecimal, integer, items, read_table, table_document
from dmimad.core.device import Device, Dialect, former_names
from dmimad.core.errors import MalformedError
from dmimad.core.event import Identity, printable
from dmimad.core.finding import Finding, Severity, make_finding
from dmimad.core.health import degraded, moved
from dmimad.core.observation import LiveDevice, LiveTable, Observation
from dmimad.core.recognition import Recognised, Relation, recognise
from dmimad.core.registry import is_recorded, number_key, number_of
from dmimad.core.table import Provenance, Table, parse_targets
from dmimad.core.tracker import Tracker

Number = tuple[int, int]
Slot = Literal["active", "inactive"]

#: How much of a table's text is put into the evidence of a finding.
MAX_EVIDENCE_CHARS = 2000
#: After so many looks in a row at unmeasured tables they are believed, whether they were the same or not.
UNKNOWN_LOOKS = 4

_UNKNOWN_CODES = frozenset({"drift.live", "measurement.absent"})


@dataclass(frozen=True, slots=True)
class Fused:
    """What one observation changed.

    Attributes:
        unsettled: something disagrees and must be looked at again before it is believed.
        changed: devices that are new or have another state now.
        gone: devices that exist no more, as they last were.
        holding: what is wrong now, by a key that stays the same as long as it is.
        unrecorded: numbers of devices that something was done to without a record, though they are as the
            list says.
    """

    unsettled: bool
    changed: tuple[Device, ...]
    gone: tuple[Device, ...]
    holding: dict[str, Finding]
    unrecorded: tuple[Number, ...]


@dataclass(slots=True)
class _Proposal:
    """What a device would be if the observation is believed."""

    device: Device
    replaces: Device | None
    holding: dict[str, Finding] = field(default_factory=dict)
    expected: dict[tuple[Number, Slot], Table | None] = field(default_factory=dict)
    recognised: dict[tuple[Number, Slot], bytes] = field(default_factory=dict)


class Fusion:
    """Holds a tracker's devices to the live ones; see the module.

    Args:
        tracker: its registry is corrected in place.

    Attributes:
        live: the devices as last observed, by number.
        observations: how many there have been.
    """

    def __init__(self, tracker: Tracker) -> None:
        self.live: dict[Number, LiveDevice] = {}
        self.observations = 0
        self._tracker = tracker
        self._touched: set[Number] = set()
        self._touched_before: set[Number] = set()
        self._all_touched = False
        self._appeared: set[Number] = set()
        self._measured_observations = 0
        self._expected: dict[tuple[Number, Slot], Table] = {}
        self._recognised: dict[tuple[Number, Slot], bytes] = {}
        self._holding: dict[str, Finding] = {}
        self._restless: dict[Number, int] = {}

    def document(self) -> dict[str, object]:
        """What must outlive the process, as JSON to store: what tables were measured before they were not."""
        return {
            "appeared": [list(number) for number in sorted(self._appeared)],
            "expected": [
                [*number, slot, table_document(table)] for (number, slot), table in self._expected.items()
            ],
            "recognised": [
                [*number, slot, digest.hex()] for (number, slot), digest in self._recognised.items()
            ],
        }

    def restore(self, document: Document) -> None:
        """Take a stored `document` in; raises MalformedError."""
        for pair in items(document.get("appeared", [])):
            self._appeared.add(_read_number(items(pair)))
        for entry in items(document.get("expected", [])):
            found = read_table(items(entry)[-1])
            if found is not None:
                self._expected[_read_key(items(entry))] = found
        for entry in items(document.get("recognised", [])):
            self._recognised[_read_key(items(entry))] = hexadecimal(items(entry)[-1])

    def touch(self, device: Device) -> None:
        """A record was about this device: what was seen of it before proves nothing."""
        number = number_of(device)
        if number is None:
            self._all_touched = True  # which device it is, only the observation can tell
        else:
            self._touched.add(number)

    def observe(self, observation: Observation, at: int, active: Iterable[Number] = ()) -> Fused:
        """Take in an observation that was made after the last one, and before all that was fed till now.

        Args:
            at: how many records have been read; marks what is found here.
            active: numbers of devices that the kernel has announced something about since the last one.
        """
        before, seen = self.live, {(live.major, live.minor): live for live in observation.devices}
        self._watch_for_new(seen)
        proposals, unsettled = self._propose(observation, seen, at)
        lost, vanishing = self._lost(seen)
        changed, gone = self._apply(proposals, lost, seen)
        holding = {key: finding for proposal in proposals for key, finding in proposal.holding.items()}
        doubtful = {number_key(number) for number in unsettled} | {device.key for device in vanishing}
        holding |= {key: found for key, found in self._holding.items() if found.device in doubtful}
        quiet = self._quiet(active, before, {device.key for device in (*changed, *gone)} | doubtful)
        self.live, self._holding = seen, holding
        self._expected = {key: table for key, table in self._expected.items() if key[0] in seen}
        self._recognised = {key: digest for key, digest in self._recognised.items() if key[0] in seen}
        self.observations += 1
        self._measured_observations = self._measured_observations + 1 if self._tracker.measuring else 0
        self._touched_before = set(seen) if self._all_touched else self._touched
        self._touched, self._all_touched = set(), False
        return Fused(bool(doubtful), tuple(changed), tuple(gone), holding, quiet)

    # -- what is believed ------------------------------------------------------------------

    def _watch_for_new(self, seen: dict[Number, LiveDevice]) -> None:
        """Note what did not exist when measuring was on already: all of its loads must be in the list."""
        self._appeared &= seen.keys()
        if self._measured_observations > 1:  # the last one, without them, was made when measuring was on
            self._appeared |= seen.keys() - self.live.keys()

    def _propose(
        self, observation: Observation, seen: dict[Number, LiveDevice], at: int
    ) -> tuple[list[_Proposal], list[Number]]:
        """What the live devices are, and those that must be looked at again."""
        proposals, unsettled = [], []
        restless: dict[Number, int] = {}
        for number, live in seen.items():
            tracked = self._tracker.registry.by_number.get(number)
            proposal = self._fuse(live, tracked, observation, at)
            if self._agrees(proposal, tracked) or self._is_stable(number, live):
                proposals.append(proposal)
                continue
            if self._is_unknown(number, proposal):
                restless[number] = self._restless.get(number, 0) + 1
            # Who changes one unmeasured table for another before each look is not to hide by that.
            if restless.get(number, 0) >= UNKNOWN_LOOKS:
                proposals.append(proposal)
                del restless[number]
            else:
                unsettled.append(number)
        self._restless = restless
        return proposals, unsettled

    def _is_unknown(self, number: Number, proposal: _Proposal) -> bool:
        """Whether a table has come that no record accounts for."""
        recorded = self._all_touched or number in self._touched
        unknown = any(found.code in _UNKNOWN_CODES for found in proposal.holding.values())
        return unknown and not recorded

    def _is_stable(self, number: Number, live: LiveDevice) -> bool:
        """The observation before this one said the same, and no record came in between."""
        before = self.live.get(number)
        if before is None:
            return False
        # Neither of these three says anything about tables, and busy devices are suspended all the time.
        before = replace(before, suspended=live.suspended, read_only=live.read_only, event_nr=live.event_nr)
        return before == live and not self._all_touched and number not in self._touched

    @staticmethod
    def _agrees(proposal: _Proposal, tracked: Device | None) -> bool:
        """Whether the list says so as well."""
        device = proposal.device
        return (
            tracked is not None
            and proposal.replaces is None
            and (device.name, device.uuid) == (tracked.name, tracked.uuid)
            and _hash(device.active) == _hash(tracked.active)
            and _hash(device.inactive) == _hash(tracked.inactive)
        )

    def _lost(self, seen: dict[Number, LiveDevice]) -> tuple[list[Device], list[Device]]:
        """Tracked devices that do not exist: for certain, and perhaps."""
        by_number = self._tracker.registry.by_number
        adopted = {live.name for number, live in seen.items() if number not in by_number}
        lost: list[Device] = []
        vanishing: list[Device] = []
        for device in self._tracker.devices:
            number = number_of(device)
            if number in seen or (number is None and device.name in adopted):
                continue
            recently = self._all_touched or number in self._touched or number in self.live
            (vanishing if recently or not self.observations else lost).append(device)
        return lost, vanishing

    def _apply(
        self, proposals: list[_Proposal], lost: list[Device], seen: Container[Number]
    ) -> tuple[list[Device], list[Device]]:
        """Make the registry what is believed; returns the devices that changed and those that went."""
        registry = self._tracker.registry
        gone = [*lost, *(proposal.replaces for proposal in proposals if proposal.replaces is not None)]
        for device in gone:
            registry.drop(device, recorded=is_recorded(device.active) or is_recorded(device.inactive))
        changed = []
        for proposal in proposals:
            self._recognised |= proposal.recognised
            for key, table in proposal.expected.items():
                if table is None:
                    self._expected.pop(key, None)
                else:
                    self._expected.setdefault(key, table)
            tracked = registry.by_number.get(number_of(proposal.device) or (-1, -1))
            if tracked != proposal.device:
                changed.append(proposal.device)
                if tracked is not None:
                    registry.forget_name(tracked)  # all names go before any is given
        for device in changed:
            holder = registry.by_name.get(device.name)
            if holder is not None and number_of(holder) in seen:
                registry.forget_name(holder)  # it is called otherwise by now, and does not go for that
            registry.put(device)
        for proposal in proposals:
            if proposal.device.name not in registry.by_name:
                registry.put(proposal.device)  # another had its name, wrongly
        kept = {device.key for device in changed}
        return changed, gone + [device for device in registry.take_removed() if device.key not in kept]

    def _quiet(
        self, active: Iterable[Number], before: dict[Number, LiveDevice], corrected: set[str]
    ) -> tuple[Number, ...]:
        """Devices with activity that neither a record nor a difference accounts for."""
        recorded = self._touched | self._touched_before
        return tuple(
            number
            for number in sorted(set(active) - recorded)
            if not self._all_touched
            and number_key(number) not in corrected
            and not (number in before and before[number].active is None)  # nothing of it is measured
        )

    # -- one device ------------------------------------------------------------------------

    def _fuse(self, live: LiveDevice, tracked: Device | None, observation: Observation, at: int) -> _Proposal:
        """The device as the kernel holds it, with what the list knows of its tables."""
        proposal = self._identify(live, tracked, at)
        device = proposal.device
        active = self._slot("active", live.active, live, proposal, observation)
        inactive = self._slot("inactive", live.inactive, live, proposal, observation)
        proposal.device = device._replace(
            active=active,
            inactive=inactive,
            former=proposal.device.former,  # a slot may have told another name
            changed_at=device.changed_at if _hash(active) == _hash(device.active) else at,
            staged_at=device.staged_at if _hash(inactive) == _hash(device.inactive) else at,
        )
        return proposal

    def _identify(self, live: LiveDevice, tracked: Device | None, at: int) -> _Proposal:
        """Which tracked device a live one is, by its number; it may have been renamed, or be another."""
        number, identity = (live.major, live.minor), Identity(live.name, live.uuid)
        if tracked is None:
            named = self._tracker.registry.by_name.get(live.name)
            if named is not None and named.major is None:
                adopted = named._replace(
                    key=number_key(number), major=live.major, minor=live.minor, uuid=live.uuid
                )
                return _Proposal(adopted, named)
            return _Proposal(_new(number, identity, at), None)
        if (tracked.name, tracked.uuid) == identity:
            return _Proposal(tracked, None)
        same_uuid = live.uuid == tracked.uuid != b""
        uuid_set = live.name == tracked.name and not tracked.uuid
        if same_uuid or uuid_set or self._tracker.knowledge.was_renamed(number, identity):
            former = former_names(tracked, Identity(tracked.name, tracked.uuid))
            return _Proposal(tracked._replace(name=live.name, uuid=live.uuid, former=former), None)
        return _Proposal(_new(number, identity, at), tracked)

    def _slot(
        self,
        slot: Slot,
        table: LiveTable | None,
        live: LiveDevice,
        proposal: _Proposal,
        observation: Observation,
    ) -> Table | None:
        """The table to keep for a slot; what is wrong with it is added to the proposal."""
        device, number = proposal.device, (live.major, live.minor)
        tracked = device.active if slot == "active" else device.inactive
        if table is not None and table.targets is None:
            finding = _untold(slot, live)
            proposal.holding[f"{finding.code}|{finding.device}|{slot}|"] = finding
            if tracked is None:
                return Table(b"", live.name, live.uuid, 0, provenance=Provenance.OBSERVED)
            seen = tracked.provenance is Provenance.BOTH
            return tracked._replace(provenance=Provenance.MEASURED) if seen else tracked
        if table is None or table.targets is None:
            proposal.expected[number, slot] = None
            return None
        found = recognise(live, table.targets, device, tracked, self._tracker, observation.dm_version)
        _remember_name(proposal, found.loaded_as)
        self._judge(slot, found, tracked, live, proposal)
        kept = found.table
        if slot == "active" or self._tracker.dialect is Dialect.ORDERED:
            kept = kept._replace(name=live.name, uuid=live.uuid)
        if tracked is None or tracked.hash != kept.hash or tracked.provenance is Provenance.OBSERVED:
            return kept._replace(provenance=Provenance.OBSERVED)
        return kept._replace(name=tracked.name, uuid=tracked.uuid, provenance=Provenance.BOTH)

    # -- what is wrong ---------------------------------------------------------------------

    def _judge(
        self, slot: Slot, found: Recognised, tracked: Table | None, live: LiveDevice, proposal: _Proposal
    ) -> None:
        number = (live.major, live.minor)
        if found.relation is not Relation.UNKNOWN:
            proposal.expected[number, slot] = None
            proposal.recognised[number, slot] = found.table.hash
            finding = _health(slot, found, live)
        else:
            if tracked is not None and self._was_measured(slot, tracked, number):
                proposal.expected[number, slot] = tracked
            expected = proposal.expected.get((number, slot)) or self._expected.get((number, slot))
            finding = self._unknown(slot, found.live, expected, proposal.device)
        if finding is not None:
            label = finding.data.get("attributes") or found.live.label
            proposal.holding[f"{finding.code}|{finding.device}|{slot}|{label}"] = finding

    def _tells_all(self, number: Number) -> bool:
        """Whether each load of this device's tables must be in the list."""
        tracker = self._tracker
        return tracker.complete and (tracker.since_boot or number in self._appeared)

    def _was_measured(self, slot: Slot, tracked: Table, number: Number) -> bool:
        """Whether the slot has held this table since measuring began, and would be recognised by it."""
        observed = tracked.provenance is Provenance.OBSERVED
        if self._tells_all(number):
            return not observed or tracked.hash in self._tracker.knowledge.loaded
        if observed:
            return self._recognised.get((number, slot)) == tracked.hash
        # One from before may have been loaded under a name that no record has.
        return bool(tracked.texts) or tracked.provenance is Provenance.BOTH

    def _unknown(self, slot: Slot, table: Table, expected: Table | None, device: Device) -> Finding | None:
        """A live table that no load in this boot explains."""
        tracker, number = self._tracker, number_of(device) or (-1, -1)
        if not tracker.measuring:
            return None
        names = {device.name, *(former.name for former in device.former)}
        named = any(known.name in names for known in tracker.knowledge.identities(number))
        data = {"actual": table.label, "slot": slot, "witness": "live", "live_table": _shown(table)}
        if expected is not None or (named and self._tells_all(number)):
            code, what = "drift.live", "is not a measured one"
            severity, doubt = self._drift_doubt(table)
            data["expected"] = "no table" if expected is None else expected.label
            data["measured_table"] = "" if expected is None else _shown(expected)
        else:
            code, what = "measurement.absent", "was never measured"
            severity, doubt = self._absence_doubt(table, number)
        text = f"the {slot} table of {printable(device.name)} ({device.key}) {what}{doubt}"
        return Finding(code, severity, text, device.key, None, data)

    def _is_forgotten(self, table: Table) -> bool:
        """Whether its load may have been measured and not been remembered."""
        knowledge = self._tracker.knowledge
        in_parts = len(table.texts) > 1 or table.unmeasured > 0
        return knowledge.overflowed or (in_parts and knowledge.fragments.evicted)

    def _drift_doubt(self, table: Table) -> tuple[Severity, str]:
        if self._tracker.complete and not self._is_forgotten(table):
            return Severity.CRITICAL, ""
        return Severity.WARNING, " (as far as the list, which is not whole, can tell)"

    def _absence_doubt(self, table: Table, number: Number) -> tuple[Severity, str]:
        if not self._tracker.complete:
            return Severity.INFO, " (the list does not begin with the boot)"
        if not self._tells_all(number):
            return Severity.WARNING, ", or was loaded before measuring began"
        if self._is_forgotten(table):
            return Severity.WARNING, " (or too much was measured to tell)"
        return Severity.CRITICAL, ""


def _new(number: Number, identity: Identity, at: int) -> Device:
    major, minor = number
    return Device(
        number_key(number),
        major,
        minor,
        identity.name,
        identity.uuid,
        since=at,
        changed_at=at,
        staged_at=at,
    )


def _read_number(parts: list[object]) -> Number:
    major, minor = (*parts, None, None)[:2]
    return integer(major), integer(minor)


def _read_key(parts: list[object]) -> tuple[Number, Slot]:
    """``[major, minor, slot, …]`` as it was stored."""
    if len(parts) < 4:  # and what it is the key of
        raise MalformedError("a stored observation is damaged")
    return _read_number(parts), "inactive" if parts[2] == "inactive" else "active"


def _untold(slot: Slot, live: LiveDevice) -> Finding:
    """Whoever may load tables can make one that nobody can look at: that is worth a word."""
    key = number_key((live.major, live.minor))
    text = f"the {slot} table of {printable(live.name)} ({key}) is too large to be looked at"
    return make_finding("table.untold", text, device=key, slot=slot, witness="live")


def _hash(table: Table | None) -> bytes | None:
    return None if table is None else table.hash


def _remember_name(proposal: _Proposal, identity: Identity) -> None:
    """Older kernels' records will carry the name that a table was loaded under."""
    device = proposal.device
    if identity != (device.name, device.uuid) and identity not in device.former:
        proposal.device = device._replace(former=former_names(device, identity))


def _health(slot: Slot, found: Recognised, live: LiveDevice) -> Finding | None:
    """What a table says about the state its targets are in."""
    targets = parse_targets(found.live.texts)
    broken = degraded(targets)
    changes = moved(parse_targets(found.table.texts), targets) if found.relation is Relation.MOVED else ()
    if not broken and found.relation is not Relation.MOVED:
        return None
    told = broken or changes or ("attributes have moved since the load",)
    name, key = printable(live.name), number_key((live.major, live.minor))
    text = f"{name} ({key}), {slot} table: {'; '.join(told[:8])}"
    return make_finding(
        "target.degraded",
        text,
        device=key,
        severity=Severity.WARNING if broken else Severity.INFO,
        slot=slot,
        witness="live",
        attributes="; ".join(told)[:MAX_EVIDENCE_CHARS],
        expected=found.table.label,
        actual=found.live.label,
    )


def _shown(table: Table) -> str:
    return printable(b"".join(table.texts))[:MAX_EVIDENCE_CHARS]
