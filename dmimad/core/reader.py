"""The measurement list as a stream: bytes in, verified records out, PCR banks extended on the way.

Source: ``security/integrity/ima/ima_fs.c`` (layout of both forms, byte order),
``ima_queue.c`` (what is extended), Linux 5.15 to 7.2.

`ListReader` takes the list in pieces cut anywhere, tells one printed form from another by content
(`list_format`), checks every template digest, extends PCR 10 (and others that occur)
in the wanted banks, and hands out the records that somebody has to look at: ``ima-buf`` records,
``boot_aggregate``, violations and whatever is wrong.  File measurements are verified and
counted, nothing more; that is what keeps a million of them cheap.

It does not know device-mapper, keeps no history, and never reads a clock or a file.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from dmimad.core.errors import MalformedError
from dmimad.core.list_format import DETECTION_BYTES, ListFormat, detect_format
from dmimad.core.measurement import (
    BANK_OF_DIGEST_SIZE,
    MAX_LINE_BYTES,
    MAX_PCR,
    MAX_TEMPLATE_DATA_BYTES,
    MAX_TEMPLATE_NAME_BYTES,
    ByteOrder,
    Fault,
    Measurement,
    hashed_form,
    parse_line,
)

#: The PCR that IMA extends unless a policy rule says otherwise (``CONFIG_IMA_MEASURE_PCR_IDX``).
IMA_PCR: Final = 10
#: Banks replayed when none are asked for.
DEFAULT_BANKS: Final = ("sha1", "sha256")
#: A file name may contain newlines; an ASCII record is put together from at most this many lines.
MAX_LINES_PER_RECORD: Final = 8

_BOOT_AGGREGATE = b"boot_aggregate"
#: Template data of a boot_aggregate record is shorter: a digest, the name, other fields all empty.
_BOOT_AGGREGATE_BYTES = 128
#: Two empty fields; less is looked at by the careful loop.
_SMALLEST_DATA_BYTES = 8


@dataclass(frozen=True, slots=True)
class Position:
    """Where a reader is; enough to go on with a new reader, in another process.

    ``offset`` is the byte after the last complete record, ``last_length`` that record's length
    and ``last_digest`` its template digest, by which the place is recognised again.
    ``pcrs`` maps bank to PCR number to value; None once a record could not be hashed in it.

    In a list that was trimmed the place is found (`anchor`) by ``anchor_digest``, the template digest
    of the last record that is no violation (violations all look the same; empty if there is none),
    and ``after_anchor``, the number of violations behind it.  ``carried_over``: a boot_aggregate came
    after other records, which a kexec brought along: digests before it may occur again behind it.
    """

    format: ListFormat | None = None
    records: int = 0
    offset: int = 0
    last_length: int = 0
    last_digest: bytes = b""
    violations: int = 0
    pcrs: Mapping[str, Mapping[int, bytes | None]] = field(default_factory=dict)
    anchor_digest: bytes = b""
    after_anchor: int = 0
    carried_over: bool = False


class ListReader:
    """Sans-IO reader of one measurement list.

    Args:
        start: where to go on; the first byte fed must be the one at ``start.offset``.
        banks: PCR banks to replay, any that hashlib has.
        watch: bank -> PCR 10 value; `matches` tells after which record the replay had it.
        limit: read no more than this many records; `finished` is then set.
        verify: False to leave the template digests unchecked, where another reader checks them.
        seek: hand out records with this template digest too; only where nothing is verified.

    A malformed record that leaves no way to find the next one ends the reading: `broken` is then
    set, one `Measurement` with `Fault.MALFORMED` has been handed out, and later bytes are ignored.
    """

    def __init__(
        self,
        start: Position | None = None,
        *,
        banks: Iterable[str] = DEFAULT_BANKS,
        watch: Mapping[str, bytes] | None = None,
        limit: int | None = None,
        verify: bool = True,
        seek: bytes = b"",
    ) -> None:
        start = start or Position()
        self._seek = seek
        self._verify = verify
        self._limit = -1 if limit is None else max(limit, start.records)
        self.broken: MalformedError | None = None
        self.matches: dict[str, int | None] = dict.fromkeys(watch or {})
        self._watch = dict(watch or {})
        self._format = start.format
        self._order_known = False
        self._records = start.records
        self._offset = start.offset
        self._last_length = start.last_length
        self._last_digest = start.last_digest
        self._violations = start.violations
        self._anchor_digest, self._after_anchor = start.anchor_digest, start.after_anchor
        self._carried_over = start.carried_over
        # A bank that was not replayed from the first record on is lost, whatever the PCR.
        new = dict.fromkeys(range(MAX_PCR + 1)) if start.records else {}
        self._pcrs: dict[str, dict[int, bytes | None]] = {
            bank: dict(start.pcrs.get(bank, new)) for bank in (*banks, *self._watch)
        }
        self._pcrs_before: dict[str, bytes | None] = {}
        for bank, values in self._pcrs.items():
            values.setdefault(IMA_PCR, bytes(hashlib.new(bank).digest_size))
        self._pending = bytearray()
        self._buffer, self._at, self._wanted = b"", 0, 0
        self._layouts: dict[int, struct.Struct] = {}
        self._name_bytes = 0
        self._out: list[Measurement] = []

    @property
    def position(self) -> Position:
        """Where the reader is now, after the last complete record."""
        return Position(
            self._format,
            self._records,
            self._offset,
            self._last_length,
            self._last_digest,
            self._violations,
            {bank: dict(values) for bank, values in self._pcrs.items()},
            self._anchor_digest,
            self._after_anchor,
            self._carried_over,
        )

    @property
    def finished(self) -> bool:
        """As many records have been read as were wanted."""
        return self._records == self._limit

    @property
    def records(self) -> int:
        """Records read so far, those before ``start`` included."""
        return self._records

    @property
    def violations(self) -> int:
        """Violation records read so far."""
        return self._violations

    def pcr(self, bank: str, number: int = IMA_PCR) -> bytes | None:
        """The replayed value of a PCR; None if a record could not be hashed in that bank."""
        return self._pcrs[bank].get(number)

    def pcr_before(self, bank: str) -> bytes | None:
        """PCR 10 as it was before the last record read; None if none was read here."""
        return self._pcrs_before.get(bank)

    def watch(self, values: Mapping[str, bytes]) -> None:
        """From the next record on, watch for these PCR 10 values instead; `matches` begins anew.

        A bank that is not replayed never matches.
        """
        self._watch = {bank: value for bank, value in values.items() if bank in self._pcrs}
        self.matches = dict.fromkeys(values)

    def feed(self, data: bytes) -> list[Measurement]:
        """Take the next bytes of the list; returns the records in them that need attention."""
        if self.broken is not None or self.finished:
            return []
        self._pending += data
        if len(self._pending) < self._wanted:
            return []
        if self._format and self._format.ascii and b"\n" not in data and len(self._pending) <= MAX_LINE_BYTES:
            return []  # a long line that comes in small pieces is looked at once, when it is complete
        return self._scan(final=False)

    def close(self) -> list[Measurement]:
        """The list ends here: an incomplete last record is a fault."""
        if self.broken is not None or self.finished or not self._pending:
            return []
        found = self._scan(final=True)
        if self._pending and self.broken is None and not self.finished:
            reason = "the list ends inside a record" if self._format else "not an IMA measurement list"
            self._break(MalformedError(reason, offset=self._offset))
            found += self._taken()
        return found

    def _taken(self) -> list[Measurement]:
        found, self._out = self._out, []
        return found

    def _break(self, error: MalformedError) -> None:
        self.broken = error
        self._pending.clear()
        self._out.append(
            Measurement(self._records, IMA_PCR, b"", b"", None, fault=Fault.MALFORMED, reason=str(error))
        )

    def _scan(self, *, final: bool) -> list[Measurement]:
        self._buffer, self._at, self._wanted = bytes(self._pending), 0, 0
        if self._format is None:
            self._format = detect_format(self._buffer, final=final)
        form = self._format
        if form is None:
            self._wanted = len(self._buffer) + 1
            if len(self._buffer) > DETECTION_BYTES:
                self._break(MalformedError("not an IMA measurement list", offset=0))
            return self._taken()
        try:
            if form.ascii:
                self._scan_ascii(final)
            else:
                self._learn_layout(form, len(b"ima-sig"))
                self._scan_binary(form)
        except MalformedError as error:
            self._break(error)
        del self._pending[: self._at]
        self._buffer = b""
        return self._taken()

    def _passed(self, records: int, position: int, last: int, digest: bytes) -> None:
        """Records up to ``position`` in the buffer have been taken; the last began at ``last``."""
        self._records += records
        self._offset += position - self._at
        self._at, self._last_length, self._last_digest = position, position - last, digest
        if any(digest):  # of a run, which contains no violation, the last one counts
            self._anchor_digest, self._after_anchor = digest, 0
        elif digest:
            self._after_anchor += 1
        else:  # no record at all: nothing to count from
            self._anchor_digest, self._after_anchor = b"", 0

    def _wait_for(self, wanted: int) -> bool:
        """The record at hand needs ``wanted`` bytes."""
        self._wanted = wanted
        return False

    # -- binary ----------------------------------------------------------------------------

    def _scan_binary(self, form: ListFormat) -> None:
        """Read the complete records in the buffer: runs of ordinary ones fast, others one by one."""
        while not self.finished:
            if self._fast_banks(form) and self._scan_ordinary(form):
                continue
            if not self._scan_one(form):
                break

    def _fast_banks(self, form: ListFormat) -> bool:
        """The banks wanted are the list's own and at most one other, and none of them is lost."""
        others = [bank for bank in self._pcrs if bank != form.bank]
        lost = any(values.get(IMA_PCR) is None for values in self._pcrs.values())
        return len(others) <= 1 and not lost and all(hasattr(hashlib, bank) for bank in others)

    def _scan_ordinary(self, form: ListFormat) -> bool:  # noqa: PLR0912, PLR0915  # the hot loop, see below
        """A run of records with one length of template name, PCR 10 and right digests.

        Returns whether there was any.  Everything it needs is local and nothing but hashing is
        called: this runs once for every file that a host opens.
        """
        buffer, limit, out, order = self._buffer, self._limit, self._out, form.order
        layouts, wanted_name = self._layouts, self._name_bytes
        unpack, header = layouts[wanted_name].unpack_from, layouts[wanted_name].size
        own = getattr(hashlib, form.bank)
        own_pcr = self._pcrs[form.bank][IMA_PCR] if form.bank in self._pcrs else None
        other_bank = next((bank for bank in self._pcrs if bank != form.bank), "")
        other = getattr(hashlib, other_bank, None) if other_bank else None
        other_pcr = self._pcrs[other_bank][IMA_PCR] if other_bank else None
        own_before, other_before = own_pcr, other_pcr
        own_watch, other_watch = self._watch.get(form.bank), self._watch.get(other_bank)
        low = 0 if order == "little" else 3
        verify, special = self._verify, (bytes(form.digest_bytes), self._seek)
        records, first, position, last, end = self._records, self._records, self._at, self._at, len(buffer)
        while records != limit:
            start = position + header
            if start > end:
                break
            pcr, seen, name_bytes, template, data_bytes = unpack(buffer, position)
            stop = start + data_bytes
            if name_bytes != wanted_name:
                if name_bytes not in layouts:
                    break
                wanted_name = name_bytes
                unpack, header = layouts[name_bytes].unpack_from, layouts[name_bytes].size
                continue
            if stop > end or pcr != IMA_PCR or data_bytes < _SMALLEST_DATA_BYTES:
                break
            data = buffer[start:stop]
            if (own(data).digest() != seen) if verify else (seen in special):
                break
            if own_pcr is not None:
                own_before, own_pcr = own_pcr, own(own_pcr + seen).digest()
                if own_pcr == own_watch:
                    self._matched(form.bank, records)
            if other is not None:
                other_before, other_pcr = other_pcr, other(other_pcr + other(data).digest()).digest()
                if other_pcr == other_watch:
                    self._matched(other_bank, records)
            if template == b"ima-buf":
                out.append(Measurement(records, pcr, seen, template, data, order))
            # The name is the second field: behind the first one and two lengths.
            elif data_bytes < _BOOT_AGGREGATE_BYTES and data.startswith(_BOOT_AGGREGATE, data[low] + 8):
                out.append(Measurement(records, pcr, seen, template, data, order))
                self._carried_over = self._carried_over or records > 0
            records += 1
            last = position
            position = stop
        if records == first:
            return False
        if own_pcr is not None:
            self._pcrs[form.bank][IMA_PCR], self._pcrs_before[form.bank] = own_pcr, own_before
        if other_bank:
            self._pcrs[other_bank][IMA_PCR], self._pcrs_before[other_bank] = other_pcr, other_before
        self._name_bytes = wanted_name
        digest = buffer[last + 4 : last + 4 + form.digest_bytes]
        self._passed(records - first, position, last, digest)
        return True

    def _scan_one(self, form: ListFormat) -> bool:
        """One record of any kind; False if it is not complete.  Raises MalformedError."""
        buffer, at, fixed, order = self._buffer, self._at, form.digest_bytes + 8, form.order
        if at + fixed > len(buffer):
            return self._wait_for(fixed)
        name_bytes = int.from_bytes(buffer[at + fixed - 4 : at + fixed], order)
        if not 0 < name_bytes <= MAX_TEMPLATE_NAME_BYTES:
            raise MalformedError("no template name where one should be", offset=self._offset)
        start = at + fixed + name_bytes + 4
        if start > len(buffer):
            return self._wait_for(start - at)
        template = buffer[at + fixed : start - 4]
        if template == b"ima":
            start += 20  # The old template has no length of data, but 20 bytes of digest, u32, name.
        else:
            self._learn_layout(form, name_bytes)
        stop = start + int.from_bytes(buffer[start - 4 : start], order)
        if stop - start > MAX_TEMPLATE_DATA_BYTES:
            raise MalformedError("template data is longer than any real one", offset=self._offset)
        if stop > len(buffer):
            return self._wait_for(stop - at)
        pcr, digest = int.from_bytes(buffer[at : at + 4], order), buffer[at + 4 : at + 4 + form.digest_bytes]
        data = buffer[start:stop]
        if template == b"ima":
            data = buffer[start - 24 : start - 4] + data
        self._take(Measurement(self._records, pcr, digest, template, data, order))
        self._passed(1, stop, at, digest)
        return True

    def _learn_layout(self, form: ListFormat, name_bytes: int) -> None:
        """The header of records with a template name of that length."""
        if name_bytes not in self._layouts:
            prefix = "<" if form.order == "little" else ">"
            self._layouts[name_bytes] = struct.Struct(f"{prefix}I{form.digest_bytes}sI{name_bytes}sI")
        self._name_bytes = name_bytes

    # -- ASCII -----------------------------------------------------------------------------

    def _scan_ascii(self, final: bool) -> None:
        buffer, end = self._buffer, len(self._buffer)
        while self._at < end and not self.finished:
            newline = buffer.find(b"\n", self._at)
            if newline < 0 and not final:
                if end - self._at > MAX_LINE_BYTES:
                    raise MalformedError("a line longer than any real one", offset=self._offset)
                break
            if not self._take_line(newline if newline >= 0 else end, final):
                break
        self._wanted = end - self._at + 1

    def _take_line(self, stop: int, final: bool) -> bool:
        """Take the record that the line up to ``stop`` begins; False to wait for more lines."""
        buffer, at = self._buffer, self._at
        record, good = self._parse(buffer[at:stop])
        if not good and stop == len(buffer):
            return False  # cut short: `close` says that the list ends inside a record
        if not good and (record is None or record.template != b"ima-buf"):
            joined, wait = self._join(at, stop)
            if joined is not None:
                record, stop = joined
            elif wait and not final:
                return False
        digest = b""
        if record is None:
            reason = "not a line of a measurement list"
            fault = Measurement(self._records, IMA_PCR, b"", b"", None, fault=Fault.MALFORMED, reason=reason)
            self._out.append(fault)
        else:
            self._take(record)
            digest = record.template_digest
        self._passed(1, min(stop + 1, len(buffer)), at, digest)
        return True

    def _join(self, position: int, stop: int) -> tuple[tuple[Measurement, int] | None, bool]:
        """A file name may contain newlines: the template digest tells which lines are one record.

        Returns the record and its end, or else whether lines yet to come may complete it: not behind
        a line that is a good record itself, so that what is damaged holds nothing up.
        """
        buffer = self._buffer
        for _ in range(MAX_LINES_PER_RECORD - 1):
            began, stop = stop + 1, buffer.find(b"\n", stop + 1)
            if (len(buffer) if stop < 0 else stop) - position > MAX_LINE_BYTES:
                break
            if stop < 0:
                return None, True
            record, good = self._parse(buffer[position:stop])
            if record is not None and good:
                return (record, stop), False
            if self._parse(buffer[began:stop])[1]:
                break
        return None, False

    def _parse(self, line: bytes) -> tuple[Measurement | None, bool]:
        """One line -> its record, and whether its template digest is right."""
        form = self._format or ListFormat(True, 20, "little")
        try:
            record = parse_line(line, self._records, form.order)
            if self._digest_fits(record):
                self._order_known = self._order_known or _tells_order(record)
                return record, True
            if not self._order_known:
                # An ASCII list does not say its host's byte order, which the digest covers.
                other: ByteOrder = "big" if form.order == "little" else "little"
                swapped = parse_line(line, self._records, other)
                if self._digest_fits(swapped):
                    self._format, self._order_known = replace(form, order=other), True
                    return swapped, True
        except MalformedError:
            return None, False
        return record, False

    def _digest_fits(self, record: Measurement) -> bool:
        if record.data is None or record.is_violation:
            return True
        bank = BANK_OF_DIGEST_SIZE[len(record.template_digest)]
        return hashlib.new(bank, hashed_form(record.template, record.data)).digest() == record.template_digest

    # -- any record ------------------------------------------------------------------------

    def _take(self, record: Measurement) -> None:
        """Check a record, extend every bank with it, and hand it out if somebody must look at it."""
        if record.pcr > MAX_PCR:
            raise MalformedError(f"PCR {record.pcr} does not exist", offset=self._offset)
        hashed = None if record.data is None else hashed_form(record.template, record.data)
        violation = record.is_violation
        own_bank = BANK_OF_DIGEST_SIZE[len(record.template_digest)]
        for bank, values in self._pcrs.items():
            self._pcrs_before[bank] = values.get(IMA_PCR)
            extend = hashlib.new(bank)
            before = values.get(record.pcr, bytes(extend.digest_size))
            if violation:
                digest: bytes | None = b"\xff" * extend.digest_size
            elif hashed is not None:
                digest = hashlib.new(bank, hashed).digest()
            else:
                digest = record.template_digest if bank == own_bank else None
            if before is None or digest is None:
                values[record.pcr] = None
                continue
            extend.update(before + digest)
            values[record.pcr] = extend.digest()
        for bank, wanted in self._watch.items():
            if self._pcrs[bank][IMA_PCR] == wanted:
                self._matched(bank, record.index)
        self._hand_out(record, violation, hashed, own_bank)

    def _hand_out(self, record: Measurement, violation: bool, hashed: bytes | None, bank: str) -> None:
        if violation:
            self._violations += 1
            self._out.append(record)
        elif (
            self._verify
            and hashed is not None
            and hashlib.new(bank, hashed).digest() != record.template_digest
        ):
            reason = f"the template digest is not the {bank} of the template data"
            self._out.append(replace(record, fault=Fault.TEMPLATE_DIGEST, reason=reason))
        elif record.template == b"ima-buf" or record.template_digest == self._seek:
            self._out.append(record)
        elif _begins_boot(record):
            self._out.append(record)
            self._carried_over = self._carried_over or record.index > 0

    def _matched(self, bank: str, index: int) -> None:
        if self.matches[bank] is None:
            self.matches[bank] = index


def _begins_boot(record: Measurement) -> bool:
    """Whether the hot loop would hand a record out for its name."""
    if record.data is None or len(record.data) >= _BOOT_AGGREGATE_BYTES:
        return False
    low = 0 if record.order == "little" else 3
    name_at = 20 if record.template == b"ima" else 8 + int.from_bytes(record.data[low : low + 1], "big")
    return record.data.startswith(_BOOT_AGGREGATE, name_at)


def _tells_order(record: Measurement) -> bool:
    """Whether the template digest covers lengths: not with the old template, and not in a violation."""
    return record.data is not None and record.template != b"ima" and not record.is_violation
