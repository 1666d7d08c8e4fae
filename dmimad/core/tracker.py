"""All mapped devices of a host, as its measurement list tells: records in, devices and findings out.

Source: ``drivers/md/dm-ima.c`` and ``drivers/md/dm-ioctl.c``, Linux 5.15 to 7.2; what honest
kernels write and what they never write was taken from lists of real ones.

The list is not the whole truth: the kernel drops every record it has written before.  So each
record is taken as what the kernel says *now* (the hash in a resume is the active table, whatever
was expected), and a difference to what was expected is only then a finding when no dropped record
explains it.  What the live tables say is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from dmimad.core.checkpoint import Document, integer, items, load_document, read_device, read_load, table
from dmimad.core.device import Device, Dialect, advance, former_names
from dmimad.core.dialect import DialectEvidence
from dmimad.core.errors import MalformedError
from dmimad.core.event import (
    EVENT_NAMES,
    DeviceRemove,
    DeviceRename,
    DeviceResume,
    EventKind,
    Identity,
    Metadata,
    TableClear,
    TableLoad,
    TargetUpdate,
    parse_event,
    printable,
)
from dmimad.core.finding import CODES, Finding, Severity, make_finding
from dmimad.core.knowledge import Fact, Knowledge
from dmimad.core.measurement import Fault, Measurement, parse_buffer
from dmimad.core.registry import Registry, is_recorded, name_key, number_key, number_of
from dmimad.core.table import (
    Fragment,
    LoadAssembly,
    Provenance,
    Table,
    fragment_of,
    make_table,
    opaque_targets,
)

#: Devices up to which one is searched for that a record does not name.
MAX_SEARCHED = 512


class Step(NamedTuple):
    """What one record did.

    ``kind`` is None for a record that is no dm event.  ``device`` is the device after the record
    (as it last was, with both slots empty, if ``gone``); None if the record names none.
    """

    record: int
    kind: EventKind | None
    device: Device | None
    gone: bool
    findings: tuple[Finding, ...]
    removed: tuple[Device, ...] = ()


class Tracker:
    """The devices of one host, from its list.

    Args:
        dialect: which dialect to read; None lets the records decide.
        complete: the records fed begin with the first one of the boot, so that what is missing
            is known to be missing.
        keep_facts: note what is learnt, to be stored (`Knowledge.take_facts`).
    """

    def __init__(
        self, dialect: Dialect | None = None, *, complete: bool = True, keep_facts: bool = False
    ) -> None:
        self.evidence = DialectEvidence(dialect)
        self.knowledge = Knowledge(keep_facts=keep_facts)
        self.complete = complete
        self.since_boot = False
        self.boots = 0
        self.dm_records = 0
        self._dm_records_before = 0
        self.registry = Registry(self.knowledge)
        self._findings: list[Finding] = []
        self._repeat_reported = False
        self._text_hash: bytes | None = None

    @property
    def dialect(self) -> Dialect:
        """The dialect records are read in now."""
        return self.evidence.dialect

    @property
    def measuring(self) -> bool:
        """Whether it is known that device-mapper is measured in this boot."""
        return self.since_boot or self.dm_records > self._dm_records_before

    @property
    def devices(self) -> Iterable[Device]:
        """The devices that exist, as far as the list tells."""
        return self.registry.devices

    # -- state -----------------------------------------------------------------------------

    def document(self) -> dict[str, object]:
        """The tracker's state but for devices and facts, as JSON to store."""
        return {
            "evidence": self.evidence.document(),
            "complete": self.complete,
            "since_boot": self.since_boot,
            "boots": self.boots,
            "dm_records": self.dm_records,
            "dm_records_before": self._dm_records_before,
            "seen_numbers": [list(number) for number in sorted(self.registry.seen_numbers)],
            "loads": {key: load_document(load) for key, load in self.registry.loads.items()},
            "repeat_reported": self._repeat_reported,
            "outdated": [
                device.key
                for device in self.registry.by_number.values()
                if self.registry.by_name.get(device.name) is not device
            ],
        }

    def restore(self, document: Document, devices: Mapping[str, Document], facts: Iterable[Fact]) -> None:
        """Take stored state in, into a new tracker; raises MalformedError."""
        self.evidence.restore(table(document.get("evidence")))
        self.complete = document.get("complete") is True
        self.since_boot = document.get("since_boot") is True
        self.boots = integer(document.get("boots"))
        self.dm_records = integer(document.get("dm_records"))
        self._dm_records_before = integer(document.get("dm_records_before"))
        self._repeat_reported = document.get("repeat_reported") is True
        for pair in items(document.get("seen_numbers")):
            major, minor = (*items(pair), None, None)[:2]
            self.registry.seen_numbers.add((integer(major), integer(minor)))
        self.registry.loads = {
            key: read_load(table(load)) for key, load in table(document.get("loads")).items()
        }
        outdated = {str(key) for key in items(document.get("outdated"))}
        restored = [read_device(key, stored) for key, stored in devices.items()]
        for device in sorted(restored, key=lambda device: (device.since, device.key)):
            if device.key not in outdated:
                self.registry.by_name[device.name] = device
            number = number_of(device)
            if number is not None:
                self.registry.by_number[number] = device
        self.knowledge.begin(self.boots)
        self.knowledge.restore(facts)

    # -- records ---------------------------------------------------------------------------

    def apply(self, record: Measurement) -> Step | None:
        """Take the next record; None if it says nothing about devices."""
        if not self.boots and self.complete:
            self.complete = record.index == 0 and begins_boot(record)
        if record.fault is Fault.MALFORMED or (record.fault is not None and record.template != b"ima-buf"):
            return Step(record.index, None, None, False, (self._fault(record),))
        if record.template != b"ima-buf" or record.data is None or record.is_violation:
            return self._other(record)
        try:
            buffer = parse_buffer(record.data, record.order)
        except MalformedError as error:
            finding = make_finding("record.malformed", error.reason, record=record.index)
            return Step(record.index, None, None, False, (finding,))
        known = EVENT_NAMES.get(buffer.event_name)
        if known is None:
            return self._critical_data(record, buffer.event_name, buffer.data)
        if record.fault is not None:
            self._findings.append(self._fault(record))
        matches = buffer.digest_matches()
        if matches is False:
            text = f"the event digest is not the {buffer.algorithm} of the event"
            self._report("record.event_digest", text, record)
        # The hash of a table whose load is one record is that record's event digest, if that is a SHA-256.
        self._text_hash = buffer.digest if matches and buffer.algorithm == "sha256" else None
        return self._dm_record(record, known, buffer.data)

    def _dm_record(self, record: Measurement, known: tuple[EventKind, bool], data: bytes) -> Step:
        kind, first_form = known
        self.dm_records += 1
        if not self.knowledge.note_record(record.template_digest) and not self._repeat_reported:
            self._repeat_reported = True
            text = "the same record twice, which kernels drop (but for CONFIG_IMA_DISABLE_HTABLE)"
            self._report("state.impossible", text, record, severity=Severity.WARNING)
        try:
            event = parse_event(kind, data)
        except MalformedError as error:
            self._report("record.malformed", error.reason, record)
            return self._step(record.index, kind, None, gone=False)
        self.evidence.see_version(event.version, first_form=first_form)
        device, gone = _HANDLERS[kind](self, event, record.index)
        if self.evidence.contradiction:
            self._settle_dialect(record)
        return self._step(record.index, kind, device, gone=gone)

    def _step(self, index: int, kind: EventKind | None, device: Device | None, *, gone: bool) -> Step:
        if not self._findings and not self.registry.removed:
            return Step(index, kind, device, gone, ())
        step = Step(index, kind, device, gone, tuple(self._findings), self.registry.take_removed())
        self._findings = []
        return step

    def _report(
        self,
        code: str,
        message: str,
        record: Measurement | int,
        *,
        device: str = "",
        severity: Severity | None = None,
        about: Table | None = None,
    ) -> None:
        index = record if isinstance(record, int) else record.index
        data = {} if about is None else {"table": about.label}
        self._findings.append(Finding(code, severity or CODES[code][0], message, device, index, data))

    def _fault(self, record: Measurement) -> Finding:
        code = "record.template_digest" if record.fault is Fault.TEMPLATE_DIGEST else "record.malformed"
        return make_finding(
            code, record.reason, record=record.index, template_digest=record.template_digest.hex()
        )

    def _settle_dialect(self, record: Measurement) -> None:
        text = f"{self.evidence.contradiction}: no one kernel writes both"
        self.evidence.contradiction = ""
        self._report("state.impossible", text, record)

    def _other(self, record: Measurement) -> Step | None:
        """Records that are no buffers: a violation, or a boot's first record."""
        if record.is_violation:
            code, text = "violations.increased", "IMA could not measure a file that was being written"
            if record.template == b"ima-buf":
                code, text = "record.template_digest", "a violation, which there is only for files"
            finding = make_finding(code, text, record=record.index)
            return Step(record.index, None, None, False, (finding,))
        if not begins_boot(record):
            return None
        if record.index == 0:
            self.boots = 1
            return None
        self.boots = max(self.boots, 1) + 1  # a former kernel's boot, even if its first record is gone
        gone = tuple(sorted(self.devices, key=lambda device: device.key))
        self.evidence.new_kernel()
        self.knowledge.begin(self.boots)
        self.complete, self.since_boot, self._dm_records_before = True, False, self.dm_records
        self.registry.clear()
        finding = make_finding(
            "list.restarted",
            f"a new kernel goes on with the list (kexec); {len(gone)} devices forgotten",
            record=record.index,
        )
        return Step(record.index, None, None, False, (finding,), gone)

    def _critical_data(self, record: Measurement, name: bytes, data: bytes) -> Step | None:
        if record.fault is not None:
            return Step(record.index, None, None, False, (self._fault(record),))
        if name == b"kernel_version":
            # Measured once, while IMA starts: the built-in policy measures critical data from then on.
            self.since_boot = self.since_boot or self.dm_records == self._dm_records_before
            self.evidence.see_kernel(data)
        return None

    # -- events ----------------------------------------------------------------------------

    def _load(self, event: TableLoad, at: int) -> tuple[Device | None, bool]:
        metadata = event.metadata
        device = self._locate(metadata, at, certain=True)
        problem = self._load_problem(event)
        if problem:
            self._report("record.malformed", problem, at, device=device.key)
            return device, False
        if event.first == 0 and event.last + 1 >= metadata.num_targets:
            self.registry.loads.pop(device.key, None)
            return self._stage(device, make_table(metadata, (event.text,), at, 0, self._text_hash), at), False
        return self._partial_load(device, event, at), False

    def _load_problem(self, event: TableLoad) -> str:
        """Indices that no kernel writes: a target's own text may be made to look like more targets."""
        count, last = event.metadata.num_targets, event.last
        if event.targets != last - event.first + 1 or (
            event.targets and not 0 <= event.first <= last < count
        ):
            return f"targets {event.first} to {last} in {event.targets} pieces, of a table of {count}"
        return ""

    def _partial_load(self, device: Device, event: TableLoad, at: int) -> Device:
        metadata = event.metadata
        fragment = fragment_of(event)
        assembly = self.registry.loads.get(device.key)
        if event.first == 0:
            assembly = LoadAssembly(metadata, [fragment])
        elif assembly is not None and assembly.metadata == metadata and assembly.next_index == event.first:
            assembly.parts.append(fragment)
        else:
            before = self.knowledge.fragments.leading_to(metadata, event.first)
            assembly = LoadAssembly(metadata, [*(before or ()), fragment])
            if before is None:
                text = f"the records with targets 0 to {event.first - 1} of this load are missing"
                self._doubt(
                    "state.impossible", text, device, at, certain=not self.knowledge.fragments.evicted
                )
        self.knowledge.note_fragment(metadata, fragment)
        if event.first == event.last == metadata.num_targets - 1:
            self.evidence.prove(Dialect.ORDERED, "a record with nothing but an overflowing last target")
        self.registry.loads[device.key] = assembly
        if assembly.parts[0].first != 0:
            return device
        if assembly.complete:
            del self.registry.loads[device.key]
            return self._stage(device, assembly.table(at), at)
        if assembly.may_lack_last and self.dialect is not Dialect.ORDERED:
            return self._stage(device, assembly.table(at), at)
        return device

    def _stage(self, device: Device, table: Table, at: int) -> Device:
        if table.hash not in self.knowledge.loaded:
            self._note_load(device, table)
        if table.unmeasured:
            last = table.num_targets - 1
            text = f"target {last}, the last of {table.num_targets}, is neither measured nor hashed"
            self._report("target.unmeasured", text, at, device=device.key, about=table)
        opaque = opaque_targets(table.texts)
        if opaque:
            text = f"{opaque} of {table.num_targets} targets do not measure their configuration"
            self._report("target.opaque", text, at, device=device.key, about=table)
        return self.registry.put(
            advance(device, EventKind.TABLE_LOAD, self.dialect, at=at, staged=table) or device
        )

    def _note_load(self, device: Device, table: Table) -> None:
        major, minor = device.major or 0, device.minor or 0  # a load tells them
        metadata = Metadata(table.name, table.uuid, major, minor, table.num_targets)
        self.knowledge.note_load(table.hash, metadata, table.texts)

    def _resume(self, event: DeviceResume, at: int) -> tuple[Device | None, bool]:
        if event.metadata is None:
            return self._by_identity(event.identity, at), False
        metadata, table_hash = event.metadata, event.active_hash
        device = self._locate(metadata, at, certain=False)
        if table_hash is None:
            return device, False
        staged, active = device.inactive, device.active
        if staged is not None and staged.hash == table_hash:
            renamed = metadata.name == device.name != staged.name and table_hash not in self.knowledge.resumed
            if renamed and self.complete:
                self.evidence.prove(
                    Dialect.ORDERED, "a table staged under an old name and resumed under the new one"
                )
            expected = Identity(staged.name, staged.uuid)
            device = advance(device, EventKind.DEVICE_RESUME, self.dialect, at=at) or device
        elif active is not None and active.hash == table_hash:
            expected = Identity(active.name, active.uuid)
            if active.provenance is Provenance.OBSERVED:  # now the list says so too
                device = device._replace(active=active._replace(provenance=Provenance.BOTH))
            if staged is not None:
                device = device._replace(inactive=None, staged_at=at)
        else:
            expected = Identity(metadata.name, metadata.uuid)
            if expected not in device.former:
                expected = Identity(device.name, device.uuid)
            known = is_recorded(staged) or is_recorded(active)
            found = self._recall(device, metadata, table_hash, at, known=known, staged=staged)
            device = device._replace(active=found, inactive=None, aliased=False, changed_at=at, staged_at=at)
        self.registry.loads.pop(device.key, None)
        self.knowledge.note_resume(table_hash, metadata)
        return self.registry.put(self._named_by(device, metadata, expected)), False

    def _named_by(self, device: Device, metadata: Metadata, expected: Identity) -> Device:
        """Take the record's metadata for the active table's, and its name for the device's.

        A kernel before the rework reports the names that the table was loaded under, so there the
        identity that was ``expected`` of the table is no news about the device.
        """
        active = device.active
        if active is not None and (active.name != metadata.name or active.uuid != metadata.uuid):
            device = device._replace(active=active._replace(name=metadata.name, uuid=metadata.uuid))
        if metadata.name == device.name and metadata.uuid == device.uuid:
            return device
        if self.dialect is not Dialect.ORDERED and (metadata.name, metadata.uuid) == expected:
            return device
        self.registry.forget_name(device)
        former = former_names(device, Identity(device.name, device.uuid))
        return device._replace(name=metadata.name, uuid=metadata.uuid, former=former)

    def _recall(
        self,
        device: Device,
        metadata: Metadata,
        table_hash: bytes,
        at: int,
        *,
        known: bool,
        staged: Table | None,
    ) -> Table:
        """The table that a record reports though its load was not the last thing recorded."""
        table = Table(table_hash, metadata.name, metadata.uuid, metadata.num_targets)
        if table_hash in self.knowledge.loaded:
            return table
        loaded_as, parts = self._parts_of(device, metadata, table_hash)
        if parts is not None:
            texts = tuple(part.text for part in parts)
            unmeasured = metadata.num_targets - 1 - parts[-1].last
            self.knowledge.note_load(table_hash, loaded_as, texts)
            if unmeasured:
                self.evidence.prove(Dialect.LEGACY, "a table hash without the last target")
                text = f"target {metadata.num_targets - 1}, the last one, is neither measured nor hashed"
                self._report("target.unmeasured", text, at, device=device.key, about=table)
            return make_table(metadata, texts, at, unmeasured)
        assembly = self.registry.loads.get(device.key)
        expected, certain = "", True
        if assembly is not None and assembly.metadata == metadata and assembly.parts[0].first == 0:
            expected, certain = assembly.table(at).label, not self.knowledge.fragments.evicted
        elif staged is not None and is_recorded(staged) and staged.num_targets == metadata.num_targets:
            expected = staged.label
        if expected:
            text = f"the kernel reports {table.label}, the recorded load hashes to {expected}"
            self._doubt("table.hash_mismatch", text, device, at, certain=certain, about=table)
        else:
            self._unmeasured(device, table, at, known=known)
        self.knowledge.note_load(table_hash, metadata)  # once is enough
        return table

    def _parts_of(
        self, device: Device, metadata: Metadata, table_hash: bytes
    ) -> tuple[Metadata, tuple[Fragment, ...] | None]:
        """The parts of a load under the names it may have had: the rework puts later ones in its metadata."""
        names = (Identity(metadata.name, metadata.uuid), Identity(device.name, device.uuid))
        for name, uuid in dict.fromkeys((*names, *device.former)):
            loaded_as = metadata._replace(name=name, uuid=uuid)
            parts = self.knowledge.fragments.matching(loaded_as, table_hash)
            if parts is not None:
                return loaded_as, parts
        return metadata, None

    def _unmeasured(self, device: Device, table: Table, at: int, *, known: bool) -> None:
        """A hash that no load in the list has.  Honest only if the load came before measuring began."""
        text = f"{table.label} is in use, but no load of it was ever measured"
        if self._born_here(device, known=known):
            self._doubt("table.unmeasured", text, device, at, about=table)
        else:
            text = f"{table.label} was loaded before measuring began"
            self._report("table.unmeasured", text, at, device=device.key, severity=Severity.INFO, about=table)

    def _born_here(self, device: Device, *, known: bool) -> bool:
        """Whether a table came after measuring began: the former one is ``known``, or the device is new."""
        return self.since_boot or known or number_of(device) in self.registry.seen_numbers

    def _doubt(
        self,
        code: str,
        text: str,
        device: Device,
        at: int,
        *,
        certain: bool = True,
        about: Table | None = None,
    ) -> None:
        """Report what no honest list shows, as far as the list is known to be whole."""
        severity: Severity | None = None
        if not self.complete:
            severity, text = Severity.INFO, f"{text} (the list does not begin with the boot)"
        elif self.knowledge.overflowed or not certain:
            severity, text = Severity.WARNING, f"{text} (or too much was measured to tell)"
        self._report(code, text, at, device=device.key, severity=severity, about=about)

    def _clear(self, event: TableClear, at: int) -> tuple[Device | None, bool]:
        if event.metadata is None:
            device = self._by_identity(event.identity, at)
        else:
            device = self._locate(event.metadata, at, certain=False)
            if event.metadata.num_targets == 0:
                self.evidence.prove(Dialect.LEGACY, "metadata of a table that does not exist")
            self._check_claim(device, event.metadata, event.inactive_hash, at)
        self.registry.loads.pop(device.key, None)
        staged = device.inactive
        device = advance(device, EventKind.TABLE_CLEAR, self.dialect, at=at) or device
        if staged is None and event.inactive_hash is not None and self.dialect is not Dialect.ORDERED:
            device = device._replace(aliased=True)
        return self.registry.put(device), False

    def _check_claim(self, device: Device, metadata: Metadata, claimed: bytes | None, at: int) -> None:
        """What a record says was staged must have been loaded once, or be the old kernels' alias."""
        expected = {table.hash for table in (device.inactive, device.active) if table is not None}
        if claimed is not None and claimed not in expected:
            known = is_recorded(device.inactive) or is_recorded(device.active)
            self._recall(device, metadata, claimed, at, known=known, staged=device.inactive)

    def _remove(self, event: DeviceRemove, at: int) -> tuple[Device | None, bool]:
        metadata = event.active or event.inactive
        if metadata is None:
            identity = event.identity or Identity(b"", b"")
            self.evidence.prove(Dialect.ORDERED, "the removal of a device without tables")
            device = self._by_identity(identity, at)
        else:
            device = self._locate(metadata, at, certain=False)
            if event.active is not None:
                if event.active.num_targets == 0:
                    self.evidence.prove(Dialect.LEGACY, "metadata of a table that does not exist")
                self._check_active(device, event.active, event.active_hash, at)
            if event.inactive is not None:
                self._check_claim(device, event.inactive, event.inactive_hash, at)
        self.registry.drop(device, recorded=True)
        return device._replace(active=None, inactive=None), True

    def _check_active(self, device: Device, metadata: Metadata, claimed: bytes | None, at: int) -> None:
        if claimed is None or (device.active is not None and device.active.hash == claimed):
            return
        if claimed in self.knowledge.resumed:
            return
        loaded_here = claimed in self.knowledge.loaded
        known = is_recorded(device.active)
        self._recall(device, metadata, claimed, at, known=known, staged=None)
        if loaded_here and self._born_here(device, known=known):
            text = f"sha256:{claimed.hex()} was active, but no resume that made it so was recorded"
            self._doubt("state.impossible", text, device, at)

    def _rename(self, event: DeviceRename, at: int) -> tuple[Device | None, bool]:
        if event.metadata is not None:
            device = self._locate(event.metadata, at, certain=False)
            if event.metadata.num_targets == 0:
                self.evidence.prove(Dialect.LEGACY, "metadata of a table that does not exist")
            if device.active is None and device.inactive is None and event.capacity_sectors:
                device = self._assume_last_active(device, event.metadata)
        else:
            proof = Dialect.LEGACY if event.null else Dialect.ORDERED
            self.evidence.prove(
                proof, "a rename without a table, written " + ("(null)" if event.null else "no_data")
            )
            device = self._nameless(event.new, at, staged_too=event.null)
        self.registry.forget_name(device)
        self.knowledge.note_rename(None if event.metadata is None else event.metadata.device, event.new)
        after = advance(device, EventKind.DEVICE_RENAME, self.dialect, at=at, new=event.new) or device
        return self.registry.put(after), False

    def _target_update(self, event: TargetUpdate, at: int) -> tuple[Device | None, bool]:
        return self._locate(event.metadata, at, certain=False), False

    # -- which device ----------------------------------------------------------------------

    def _locate(self, metadata: Metadata, at: int, *, certain: bool) -> Device:
        """The device a record with metadata is about, made if need be.

        ``certain``: the name in the record is the device's own (a load), not possibly an old one.
        """
        number = metadata.device
        device = self.registry.by_number.get(number)
        if device is not None and device.name == metadata.name and device.uuid == metadata.uuid:
            return device
        if device is not None:
            same = self._same_device(device, metadata, certain=certain)
            if same is not None:
                return same
            self._replaced(device, metadata, at)
        named = self.registry.by_name.get(metadata.name)
        if named is not None and named.major is None:
            self.registry.forget_name(named)
            self.registry.removed.append(named)  # under its former key
            adopted = named._replace(
                key=number_key(number), major=number[0], minor=number[1], uuid=metadata.uuid
            )
            return self.registry.put(adopted)
        return self.registry.create(number_key(number), number, Identity(metadata.name, metadata.uuid), at)

    def _same_device(self, device: Device, metadata: Metadata, *, certain: bool) -> Device | None:
        """The device on this number under another name: renamed unrecorded, or an old name in a record."""
        identity = Identity(metadata.name, metadata.uuid)
        renamed = self.knowledge.was_renamed(metadata.device, identity)
        if not certain and identity in device.former:
            if not renamed and self.complete and self.since_boot:  # else it may have got it back unrecorded
                self.evidence.prove(Dialect.LEGACY, "the old name of a device that was renamed")
            return device
        same_uuid = bool(metadata.uuid) and metadata.uuid == device.uuid
        same_name = metadata.name == device.name and not device.uuid
        if not (same_uuid or same_name or renamed):
            return None
        guessed = self.registry.by_name.get(metadata.name)
        if guessed is not None and guessed.major is None:
            self.registry.forget_name(guessed)  # made for want of a number, before this record told it
            self.registry.removed.append(guessed)
        if not certain:
            return device  # the caller takes the new name over, if it is one
        self.registry.forget_name(device)
        after = advance(device, EventKind.DEVICE_RENAME, self.dialect, at=device.since, new=identity)
        return self.registry.put(after or device)

    def _replaced(self, device: Device, metadata: Metadata, at: int) -> None:
        """Another device has this number now: the removal of the former one was dropped, or taken out."""
        names = (device.name, *(former.name for former in device.former))
        explained = any((metadata.device, name) in self.knowledge.removed for name in names)
        # Of one that only the second witness knows active, dm-ima may know nothing: its resume was refused.
        if not explained and is_recorded(device.active) and len(names) == 1 and self.since_boot:
            new, old = printable(metadata.name), printable(device.name)
            text = f"{new} has the number of {old}, whose removal is missing"
            self._doubt("state.impossible", text, device, at)
        self.registry.drop(device)
        self.registry.removed.append(device)

    def _by_identity(self, identity: Identity | Metadata, at: int) -> Device:
        """The device of a record that has no numbers; the name and uuid in it are the device's own."""
        device = self.registry.by_name.get(identity.name)
        if device is not None and device.uuid == identity.uuid:
            return device
        if device is not None and not device.uuid:
            return self.registry.put(
                device._replace(uuid=identity.uuid)
            )  # a uuid is set once, here unrecorded
        if device is not None:
            self.registry.drop(device)
            self.registry.removed.append(device)
        return self.registry.create(
            name_key(identity.name, at), None, Identity(identity.name, identity.uuid), at
        )

    def _nameless(self, new: Identity, at: int, *, staged_too: bool) -> Device:
        """The device of a rename that names only the new name: it has no active table.

        A rename changes the name and keeps the uuid, or keeps the name and sets the first uuid.  Of very
        many devices none is looked for: every such record would cost that much.
        """
        candidates = [
            device
            for device in (
                self.registry.by_name.values() if len(self.registry.by_name) <= MAX_SEARCHED else ()
            )
            if device.active is None
            and (staged_too or device.inactive is None)
            and (device.uuid == new.uuid or (device.name == new.name and not device.uuid))
        ]
        if len(candidates) == 1:
            return candidates[0]
        return self.registry.create(name_key(new.name, at), None, new, at)

    def _assume_last_active(self, device: Device, metadata: Metadata) -> Device:
        """A device whose whole creation was dropped as a repetition has the table it had before."""
        from_before = self.knowledge.last_active.get(metadata)
        if from_before is None:
            return device
        table = Table(from_before, metadata.name, metadata.uuid, metadata.num_targets)
        return device._replace(active=table)


def begins_boot(record: Measurement) -> bool:
    """Whether a record is the one that IMA begins a boot with; what cannot be read is not."""
    try:
        return record.template != b"ima-buf" and record.event_name() == b"boot_aggregate"
    except MalformedError:
        return False


_HANDLERS: dict[EventKind, Callable[..., tuple[Device | None, bool]]] = {
    EventKind.TABLE_LOAD: Tracker._load,
    EventKind.DEVICE_RESUME: Tracker._resume,
    EventKind.TABLE_CLEAR: Tracker._clear,
    EventKind.DEVICE_REMOVE: Tracker._remove,
    EventKind.DEVICE_RENAME: Tracker._rename,
    EventKind.TARGET_UPDATE: Tracker._target_update,
}
