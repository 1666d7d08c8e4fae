"""What the records of a list say about the kernel that wrote them: bytes in, `ListEvidence` out.

Source: ``drivers/md/dm-ima.c`` and ``security/integrity/ima/ima_queue.c``, Linux 5.15 to 7.2.

Tracks devices with the core's tracker, and notes beside it what only the doctor asks: which names were ever
measured and which records came twice.  Pure: reads no file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from dmimad.core.errors import MalformedError
from dmimad.core.event import EVENT_NAMES, printable
from dmimad.core.finding import Severity
from dmimad.core.measurement import Measurement, parse_buffer
from dmimad.core.reader import ListReader
from dmimad.core.tracker import Step, Tracker
from dmimad.doctor.facts import ListEvidence

#: Names and template digests that are remembered; a host with more of them is judged by the first ones.
MAX_REMEMBERED = 1 << 18
_VERSION_PREFIX = b"dm_version="
MAX_VERSION_BYTES = 32


class Evidence:
    """One list's, as it is read; give `reader` further bytes by `feed`."""

    def __init__(self, reader: ListReader) -> None:
        self.reader = reader
        self._tracker = Tracker()
        self._tpm_at_boot = False
        self._begin_boot()

    @property
    def tpm_at_boot(self) -> bool:
        """IMA had a TPM when the boot began: it measured more than zeros as the boot's aggregate."""
        return self._tpm_at_boot

    def _begin_boot(self) -> None:
        self._dm_records = self._repeated = self._overflows = 0
        self._dm_version = b""
        self._findings: Counter[str] = Counter()
        self._names: set[bytes] = set()
        self._uuids: set[bytes] = set()
        self._digests: set[bytes] = set()

    def feed(self, data: bytes) -> None:
        """The next bytes of the list."""
        self._take(self.reader.feed(data))

    def close(self) -> None:
        """The list ends here."""
        self._take(self.reader.close())

    def _take(self, records: Iterable[Measurement]) -> None:
        for record in records:
            boots = self._tracker.boots
            step = self._tracker.apply(record)
            if self._tracker.boots > boots:
                self._tpm_at_boot = _aggregated(record)
                self._begin_boot()
            if step is None:
                continue
            again = step.kind is not None and self._note_repetition(record)
            self._note_findings(step, again=again)
            if step.kind is not None:
                self._note_dm(record, step)

    def _note_findings(self, step: Step, *, again: bool) -> None:
        for finding in step.findings:
            if finding.code == "target.unmeasured":
                self._overflows += 1
            elif again and finding.code == "state.impossible" and finding.severity is Severity.WARNING:
                continue  # the repetition itself, which is told apart
            elif finding.severity is not Severity.INFO:
                self._findings[finding.code] += 1

    def _note_repetition(self, record: Measurement) -> bool:
        if record.template_digest in self._digests:
            self._repeated += 1
            return True
        if len(self._digests) < MAX_REMEMBERED:
            self._digests.add(record.template_digest)
        return False

    def _note_dm(self, record: Measurement, step: Step) -> None:
        self._dm_records += 1
        self._dm_version = _version_of(record) or self._dm_version
        if step.device is not None and len(self._names) < MAX_REMEMBERED:
            self._names.add(step.device.name)
            self._uuids.add(step.device.uuid)

    def result(self) -> ListEvidence:
        """What is known by now."""
        position = self.reader.position
        tracker = self._tracker
        return ListEvidence(
            form="ASCII" if position.format and position.format.ascii else "binary",
            bank=position.format.bank if position.format else "",
            records=position.records,
            violations=self.reader.violations,
            boots=tracker.boots,
            from_boot=tracker.complete and tracker.boots > 0,
            critical_data=tracker.since_boot,
            dm_records=self._dm_records,
            dialect=tracker.dialect if self._dm_records else None,
            proven=tracker.evidence.proven is not None,
            dm_version=printable(self._dm_version),
            repeated=self._repeated,
            overflows=self._overflows,
            findings=tuple(sorted(self._findings.items())),
            names=frozenset(self._names),
            uuids=frozenset(self._uuids - {b""}),
        )


def _aggregated(record: Measurement) -> bool:
    """Whether a ``boot_aggregate`` record has another digest than zeros."""
    try:
        fields = record.fields()
    except MalformedError:
        return False
    _, separator, digest = fields[0].partition(b":\0") if fields else (b"", b"", b"")
    return any(digest if separator else fields[0]) if fields else False


def _version_of(record: Measurement) -> bytes:
    """``dm_version`` of a dm record; empty in the first form, which has none."""
    try:
        buffer = parse_buffer(record.data or b"", record.order)
    except MalformedError:
        return b""
    if buffer.event_name not in EVENT_NAMES or not buffer.data.startswith(_VERSION_PREFIX):
        return b""
    version = buffer.data[len(_VERSION_PREFIX) :][: MAX_VERSION_BYTES + 1].partition(b";")[0]
    return version if len(version) <= MAX_VERSION_BYTES else b""
