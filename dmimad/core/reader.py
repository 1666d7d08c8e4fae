"""The measurement list as a stream: bytes in, verified records out, PCR banks extended on the way.

Source: ``security/integrity/ima/ima_fs.c`` (layout of both forms, byte order),
``ima_queue.c`` (what is extended), Linux 5.15 to 7.2.

`ListReader` takes the list in pieces cut anywhere, tells ASCII from binary and one bank's list
from another's by content, checks every template digest, extends PCR 10 (and others that occur)
in the wanted banks, and hands out the records that somebody has to look at: ``ima-buf`` records,
``boot_aggregate``, violations and whatever is wrong.  File measurements are verified and
counted, nothing more; that is what keeps a million of them cheap.

It does not know device-mapper, keeps no history, and never reads a clock or a file.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from dmimad.core.errors import MalformedError
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
_BOOT_AGGREGATE_NUL = b"boot_aggregate\0"
_ASCII_START = re.compile(rb"[0-9]{1,2} [0-9a-f]{40}")
_ASCII_START_BYTES = 44
_TEMPLATE_NAME = re.compile(rb"[a-z0-9][a-z0-9|_-]*")


@dataclass(frozen=True, slots=True)
class ListFormat:
    """How a list is printed: found out once, from its first record."""

    ascii: bool
    digest_bytes: int
    order: ByteOrder

    @property
    def bank(self) -> str:
        """The TPM bank whose digests the list carries."""
        return BANK_OF_DIGEST_SIZE[self.digest_bytes]


@dataclass(frozen=True, slots=True)
class Position:
    """Where a reader is; enough to go on with a new reader, in another process.

    ``offset`` is the byte after the last complete record, ``last_length`` that record's length
    and ``last_digest`` its template digest, by which the place is recognised again.
    ``pcrs`` maps bank to PCR number to value; None once a record could not be hashed in it.
    """

    format: ListFormat | None = None
    records: int = 0
    offset: int = 0
    last_length: int = 0
    last_digest: bytes = b""
    violations: int = 0
    pcrs: Mapping[str, Mapping[int, bytes | None]] = field(default_factory=dict)


class ListReader:
    """Sans-IO reader of one measurement list.

    Args:
        start: where to go on; the first byte fed must be the one at ``start.offset``.
        banks: PCR banks to replay, any that hashlib has.
        watch: bank -> PCR 10 value; `matches` tells after which record the replay had it.
        limit: read no more than this many records; `finished` is then set.

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
    ) -> None:
        start = start or Position()
        self._limit = -1 if limit is None else max(limit, 0)
        self.broken: MalformedError | None = None
        self.matches: dict[str, int | None] = dict.fromkeys(watch or {})
        self._watch = dict(watch or {})
        self._format = start.format
        self._records = start.records
        self._offset = start.offset
        self._last_length = start.last_length
        self._last_digest = start.last_digest
        self._violations = start.violations
        self._extra = tuple(dict.fromkeys(b for b in (*banks, *self._watch) if b not in DEFAULT_BANKS))
        self._pcrs: dict[str, dict[int, bytes | None]] = {
            bank: dict(start.pcrs.get(bank, {})) for bank in (*DEFAULT_BANKS, *self._extra)
        }
        for bank, values in self._pcrs.items():
            values.setdefault(IMA_PCR, bytes(hashlib.new(bank).digest_size))
        self._pending = bytearray()
        self._wanted = 0
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
        buffer = bytes(self._pending)
        if self._format is None:
            self._format = detect_format(buffer, final=final)
        if self._format is None:
            self._wanted = len(buffer) + 1
            if len(buffer) > _DETECTION_BYTES:
                self._break(MalformedError("not an IMA measurement list", offset=0))
            return self._taken()
        try:
            used = self._scan_ascii(buffer, final) if self._format.ascii else self._scan_binary(buffer)
        except MalformedError as error:
            self._break(error)
            return self._taken()
        del self._pending[:used]
        self._offset += used
        return self._taken()

    # -- binary ----------------------------------------------------------------------------

    def _scan_binary(self, buffer: bytes) -> int:
        """Read the complete records in ``buffer``; returns the number of bytes used.

        One long loop, without calls but for hashing: it runs once for every file a host opens.
        """
        assert_format = self._format or ListFormat(False, 20, "little")
        prefix = "<" if assert_format.order == "little" else ">"
        layouts = [struct.Struct(f"{prefix}I{assert_format.digest_bytes}sI{n}sI") for n in range(16)]
        layout = layouts[7]
        fixed = 8 + assert_format.digest_bytes
        in_sha1, in_sha256 = assert_format.digest_bytes == 20, assert_format.digest_bytes == 32
        sha1, sha256 = hashlib.sha1, hashlib.sha256
        pcr_sha1, pcr_sha256 = self._pcrs["sha1"][IMA_PCR], self._pcrs["sha256"][IMA_PCR]
        watching = bool(self._watch)
        simple = (
            not self._extra and (in_sha1 or in_sha256) and pcr_sha1 is not None and pcr_sha256 is not None
        )
        records, position, last, end = self._records, 0, 0, len(buffer)
        digest = self._last_digest
        try:
            while records != self._limit:
                start = position + layout.size
                if start > end and position + fixed + 4 > end:
                    self._wanted = end - position + 1
                    break
                if start <= end:
                    pcr, seen, name_bytes, template, data_bytes = layout.unpack_from(buffer, position)
                if start > end or name_bytes + fixed + 4 != layout.size:
                    layout = self._layout(buffer, position, fixed, prefix, layouts)
                    start = position + layout.size
                    if start > end:
                        self._wanted = end - position + 1
                        break
                    pcr, seen, name_bytes, template, data_bytes = layout.unpack_from(buffer, position)
                if template == b"ima":
                    start, data_bytes = self._old_template(buffer, start, prefix)
                stop = start + data_bytes
                if stop > end:
                    if data_bytes > MAX_TEMPLATE_DATA_BYTES:
                        raise MalformedError(
                            "template data is longer than any real one", offset=self._offset + position
                        )
                    self._wanted = stop - position
                    break
                data = buffer[start:stop]
                digest_sha1 = sha1(data).digest()
                digest_sha256 = sha256(data).digest()
                if simple and pcr == IMA_PCR and seen == (digest_sha1 if in_sha1 else digest_sha256):
                    pcr_sha1 = sha1(pcr_sha1 + digest_sha1).digest()  # type: ignore[operator]  # simple: not None
                    pcr_sha256 = sha256(pcr_sha256 + digest_sha256).digest()  # type: ignore[operator]  # as above
                    if watching:
                        self._watch_pcr(records, pcr_sha1, pcr_sha256)
                    if template == b"ima-buf" or _BOOT_AGGREGATE_NUL in data:
                        self._out.append(Measurement(records, pcr, seen, template, data, assert_format.order))
                else:
                    self._pcrs["sha1"][IMA_PCR], self._pcrs["sha256"][IMA_PCR] = pcr_sha1, pcr_sha256
                    self._take(Measurement(records, pcr, seen, template, data, assert_format.order))
                    pcr_sha1, pcr_sha256 = self._pcrs["sha1"][IMA_PCR], self._pcrs["sha256"][IMA_PCR]
                records += 1
                last, position, digest = position, stop, seen
        finally:
            self._pcrs["sha1"][IMA_PCR], self._pcrs["sha256"][IMA_PCR] = pcr_sha1, pcr_sha256
            if records != self._records:
                self._records, self._last_length, self._last_digest = records, position - last, digest
        return position

    def _layout(
        self, buffer: bytes, position: int, fixed: int, prefix: str, layouts: list[struct.Struct]
    ) -> struct.Struct:
        """The header of the record at ``position``, whose template name has another length."""
        order: ByteOrder = "little" if prefix == "<" else "big"
        name_bytes = int.from_bytes(buffer[position + fixed - 4 : position + fixed], order)
        if not 0 < name_bytes <= MAX_TEMPLATE_NAME_BYTES:
            raise MalformedError("no template name where one should be", offset=self._offset + position)
        if name_bytes < len(layouts):
            return layouts[name_bytes]
        return struct.Struct(f"{prefix}I{fixed - 8}sI{name_bytes}sI")

    def _old_template(self, buffer: bytes, start: int, prefix: str) -> tuple[int, int]:
        """The old ``ima`` template has no length: 20 bytes of digest, u32, name."""
        order: ByteOrder = "little" if prefix == "<" else "big"
        at = start - 4
        name_bytes = int.from_bytes(buffer[at + 20 : at + 24], order)
        if len(buffer) < at + 24:
            return at, 24
        if name_bytes > MAX_TEMPLATE_DATA_BYTES:
            raise MalformedError("a name longer than any real one", offset=self._offset + at)
        return at, 24 + name_bytes

    # -- ASCII -----------------------------------------------------------------------------

    def _scan_ascii(self, buffer: bytes, final: bool) -> int:
        position, end = 0, len(buffer)
        while position < end and not self.finished:
            newline = buffer.find(b"\n", position)
            if newline < 0 and not final:
                if end - position > MAX_LINE_BYTES:
                    raise MalformedError("a line longer than any real one", offset=self._offset + position)
                break
            used = self._take_line(buffer, position, newline if newline >= 0 else end, final)
            if not used:
                break
            position += used
        self._wanted = end - position + 1
        return position

    def _take_line(self, buffer: bytes, position: int, stop: int, final: bool) -> int:
        """Take the record that begins at ``position``; returns its length, 0 to wait for more."""
        record, good = self._parse(buffer[position:stop])
        if not good and (record is None or record.template != b"ima-buf"):
            complete_before = stop < len(buffer)
            joined = self._join(buffer, position, stop)
            if joined is not None:
                record, stop = joined
            elif not final and buffer.find(b"\n", stop + 1) < 0:
                return 0
            elif not complete_before and not self._records and record is None:
                raise MalformedError("not an IMA measurement list", offset=self._offset + position)
        length = min(stop + 1, len(buffer)) - position
        if record is None:
            reason = "not a line of a measurement list"
            self._out.append(
                Measurement(self._records, IMA_PCR, b"", b"", None, fault=Fault.MALFORMED, reason=reason)
            )
        else:
            self._take(record)
            self._last_digest = record.template_digest
        self._records += 1
        self._last_length = length
        return length

    def _join(self, buffer: bytes, position: int, stop: int) -> tuple[Measurement, int] | None:
        """A file name may contain newlines: the template digest tells which lines are one record."""
        for _ in range(MAX_LINES_PER_RECORD - 1):
            stop = buffer.find(b"\n", stop + 1)
            if stop < 0 or stop - position > MAX_LINE_BYTES:
                return None
            record, good = self._parse(buffer[position:stop])
            if record is not None and good:
                return record, stop
        return None

    def _parse(self, line: bytes) -> tuple[Measurement | None, bool]:
        """One line -> its record, and whether its template digest is right."""
        form = self._format or ListFormat(True, 20, "little")
        try:
            record = parse_line(line, self._records, form.order)
            if self._digest_fits(record):
                return record, True
            if self._records == 0:
                # An ASCII list does not say its host's byte order, which the digest covers: try the other once.
                other: ByteOrder = "big" if form.order == "little" else "little"
                swapped = parse_line(line, 0, other)
                if self._digest_fits(swapped):
                    self._format = replace(form, order=other)
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
        if self._watch:
            self._watch_all(record.index)
        self._hand_out(record, violation, hashed, own_bank)

    def _hand_out(self, record: Measurement, violation: bool, hashed: bytes | None, bank: str) -> None:
        if violation:
            self._violations += 1
            self._out.append(record)
        elif hashed is not None and hashlib.new(bank, hashed).digest() != record.template_digest:
            reason = f"the template digest is not the {bank} of the template data"
            self._out.append(replace(record, fault=Fault.TEMPLATE_DIGEST, reason=reason))
        elif record.template == b"ima-buf" or (record.data is not None and _BOOT_AGGREGATE in record.data):
            self._out.append(record)

    def _watch_pcr(self, index: int, sha1: bytes | None, sha256: bytes | None) -> None:
        for bank, value in (("sha1", sha1), ("sha256", sha256)):
            if value is not None and self._watch.get(bank) == value and self.matches[bank] is None:
                self.matches[bank] = index

    def _watch_all(self, index: int) -> None:
        for bank, wanted in self._watch.items():
            if self._pcrs[bank][IMA_PCR] == wanted and self.matches[bank] is None:
                self.matches[bank] = index


#: Enough for the header of a first record in any form.
_DETECTION_BYTES = 4 + 64 + 4 + MAX_TEMPLATE_NAME_BYTES + 4


def detect_format(head: bytes, *, final: bool) -> ListFormat | None:
    """The format of a list that begins with ``head``; None if that is too short, or no list.

    Binary headers do not say the digest's size or the byte order: the place where a sensible
    template name stands does.
    """
    if _ASCII_START.match(head):
        digits = len(head.split(b" ", 2)[1])
        if len(head) >= 140 or final or b"\n" in head:
            size = digits // 2
            return ListFormat(True, size if size in BANK_OF_DIGEST_SIZE else 20, "little")
        return None
    for size in BANK_OF_DIGEST_SIZE:
        for order in _ORDERS:
            if _has_template_name(head, size, order):
                return ListFormat(False, size, order)
    return None


_ORDERS: tuple[ByteOrder, ...] = ("little", "big")


def _has_template_name(head: bytes, size: int, order: ByteOrder) -> bool:
    at = 4 + size
    if len(head) < at + 8:
        return False
    pcr = int.from_bytes(head[:4], order)
    name_bytes = int.from_bytes(head[at : at + 4], order)
    name = head[at + 4 : at + 4 + name_bytes]
    plausible = pcr <= MAX_PCR and 0 < name_bytes <= MAX_TEMPLATE_NAME_BYTES and len(name) == name_bytes
    return plausible and _TEMPLATE_NAME.fullmatch(name) is not None
