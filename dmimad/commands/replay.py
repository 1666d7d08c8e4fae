"""``dmimad replay``: a measurement list, analysed offline, record by record.

Source: the output is a promise to other tools, ``docs/replay.md``.

Reads in pieces and keeps only what tracking needs, so memory does not grow with the list.  Never
writes anything but standard output, and a progress line on standard error if that is a terminal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, TextIO

from dmimad.adapters.baseline_files import read_baseline_file
from dmimad.commands.banks import Banks, share_banks
from dmimad.commands.errors import UsageError
from dmimad.core.backing import names_on_host, no_names
from dmimad.core.baseline import Baseline
from dmimad.core.device import Device, Dialect
from dmimad.core.drift import Judgement, Surroundings, judge, missing, removed
from dmimad.core.errors import AdapterError
from dmimad.core.event import EventKind, one_line, printable
from dmimad.core.finding import Finding, Severity, make_finding
from dmimad.core.measurement import BANK_OF_DIGEST_SIZE, Measurement
from dmimad.core.reader import ListReader
from dmimad.core.table import Table
from dmimad.core.tracker import Step, Tracker

SUMMARY = "analyse a measurement list offline"
_CHUNK_BYTES = 1 << 20
_PROGRESS_SECONDS = 0.5
_DIGEST_SIZES = {bank: size for size, bank in BANK_OF_DIGEST_SIZE.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "path", metavar="PATH", help="an ASCII or binary list of any bank; - for standard input"
    )
    parser.add_argument("--format", choices=("text", "jsonl"), default="text", help="default: text")
    parser.add_argument("--until", type=_count, metavar="N", help="only the first N records")
    parser.add_argument("--baseline", metavar="FILE", help="report drift from this baseline file")
    parser.add_argument(
        "--pcr",
        action="append",
        default=[],
        type=_pcr,
        metavar="BANK=HEX",
        help="a PCR 10 value the list must lead to",
    )
    parser.add_argument(
        "--dialect", choices=("auto", *Dialect), default="auto", help="default: auto, by the records"
    )
    parser.add_argument("--summary", action="store_true", help="only the summary, not every dm record")


def run(arguments: argparse.Namespace) -> int:
    """Returns 0, or 1 if anything of severity warning or above was found."""
    baseline = Baseline()
    if arguments.baseline is not None:
        baseline = read_baseline_file(Path(arguments.baseline))
    dialect = None if arguments.dialect == "auto" else Dialect(arguments.dialect)
    banks = share_banks(arguments.path, dict(arguments.pcr), arguments.until)
    replay = Replay(banks.own_reader(), Tracker(dialect), baseline, banks)
    report = (JsonReport if arguments.format == "jsonl" else TextReport)(
        sys.stdout, steps=not arguments.summary
    )
    with _opened(arguments.path) as stream:
        for step, findings in replay.steps(_with_progress(stream, sys.stderr)):
            if replay.reader.broken is not None and not replay.reader.records:
                raise UsageError(f"{arguments.path}: {replay.reader.broken.reason}")
            report.step(step, findings)
    replay.join_banks()
    if not replay.reader.records and not replay.reader.finished:
        raise UsageError(f"{arguments.path}: empty; a measurement list has at least one record")
    closing = replay.closing_findings()
    report.summary(replay, closing)
    return 1 if replay.serious else 0


class Replay:
    """One list through the core."""

    def __init__(self, reader: ListReader, tracker: Tracker, baseline: Baseline, banks: Banks) -> None:
        self.reader = reader
        self._banks = banks
        self.pcrs: dict[str, str | None] = {}
        self.matches: dict[str, int | None] = {}
        self.tracker = tracker
        self.baseline = baseline
        self._now = time.time()  # approvals have their time, and a list has none
        self.counts: Counter[str] = Counter()
        self.serious = False

    def steps(self, chunks: Iterator[bytes]) -> Iterator[tuple[Step, list[Finding]]]:
        """Every step with its findings, drift included."""
        for chunk in chunks:
            yield from self._apply(self.reader.feed(chunk))
            if self.reader.broken is not None or self.reader.finished:
                return
        yield from self._apply(self.reader.close())

    def _apply(self, records: list[Measurement]) -> Iterator[tuple[Step, list[Finding]]]:
        for record in records:
            step = self.tracker.apply(record)
            if step is not None:
                findings = [*step.findings, *self._drift(step)]
                self._count(findings)
                yield step, findings

    def _drift(self, step: Step) -> list[Finding]:
        """What begins to drift with this record."""
        if not self.baseline.entries or step.device is None:
            return []
        if step.gone:
            found = removed(step.device, self.baseline, step.record, now=self._now)
            return [] if found is None else [found]
        renamed = step.record if step.kind is EventKind.DEVICE_RENAME else None
        judgement = self._judge(step.device, renamed)
        return [finding for finding in judgement.findings if finding.record == step.record]

    def _judge(self, device: Device, record: int | None = None) -> Judgement:
        around = Surroundings(self._now, names_on_host(self.tracker.registry, no_names), record=record)
        return judge(device, self.baseline, report_unexpected=True, surroundings=around)

    def join_banks(self) -> None:
        """The PCR values of all banks, once the list has been read."""
        right = not self.counts["record.template_digest"]
        self.pcrs, self.matches = self._banks.results(self.reader, digests_right=right)

    def closing_findings(self) -> list[Finding]:
        """What only the end of the list shows."""
        devices = self.tracker.devices if self.baseline.entries else ()
        excused = {origin for device in devices for origin in self._judge(device).excuses}
        found = list(missing(devices, self.baseline, now=self._now, excused=excused).values())
        for bank, index in self.matches.items():
            if index is None:
                found.append(
                    make_finding("pcr.mismatch", f"the list never leads to the given {bank} value of PCR 10")
                )
        self._count(found)
        return found

    def _count(self, findings: list[Finding]) -> None:
        for finding in findings:
            self.counts[finding.code] += 1
            self.serious = self.serious or finding.severity is not Severity.INFO


class JsonReport:
    """One JSON object a line."""

    def __init__(self, out: TextIO, *, steps: bool) -> None:
        self._out = out
        self._steps = steps

    def _write(self, document: Mapping[str, object]) -> None:
        self._out.write(json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n")

    def step(self, step: Step, findings: list[Finding]) -> None:
        """A dm record, or a finding about another one."""
        if not self._steps:
            return
        shown = [_finding_object(finding) for finding in findings]
        if step.kind is None:
            if any(finding.severity is not Severity.INFO for finding in findings):
                self._write({"type": "finding", "index": step.record, "findings": shown})
            return
        device = step.device
        self._write(
            {
                "type": "record",
                "index": step.record,
                "event": step.kind.value,
                "device": None if device is None else _device_object(device),
                "active": None if device is None else _table_object(device.active),
                "inactive": None if device is None else _table_object(device.inactive),
                "findings": shown,
            }
        )

    def summary(self, replay: Replay, closing: list[Finding]) -> None:
        """The last line."""
        reader = replay.reader
        self._write(
            {
                "type": "summary",
                "records": reader.records,
                "dm_records": replay.tracker.dm_records,
                "violations": reader.violations,
                "dialect": replay.tracker.dialect.value if replay.tracker.dm_records else None,
                "devices": [
                    {
                        **_device_object(device),
                        "active": _table_object(device.active),
                        "inactive": _table_object(device.inactive),
                    }
                    for device in replay.tracker.devices
                ],
                "pcr": replay.pcrs,
                "pcr_match": replay.matches,
                "findings": dict(sorted(replay.counts.items())),
                "closing_findings": [_finding_object(finding) for finding in closing],
            }
        )


class TextReport:
    """For people: a line for each dm record, findings below it, a summary."""

    def __init__(self, out: TextIO, *, steps: bool) -> None:
        self._out = out
        self._steps = steps

    def step(self, step: Step, findings: list[Finding]) -> None:
        """A dm record with its findings, or a finding about another record."""
        if not self._steps:
            return
        if step.kind is not None:
            self._out.write(f"{step.record:>8}  {step.kind:<13} {_device_text(step.device)}\n")
        for finding in findings:
            if step.kind is not None or finding.severity is not Severity.INFO:
                self._finding(finding)

    def _finding(self, finding: Finding) -> None:
        where = "" if finding.record is None else f"record {finding.record}: "
        self._out.write(
            f"{'':>8}  {finding.severity.upper()} {finding.code}: {where}{one_line(finding.message)}\n"
        )

    def summary(self, replay: Replay, closing: list[Finding]) -> None:
        """What there is at the end."""
        reader, tracker = replay.reader, replay.tracker
        out = self._out
        for finding in closing:
            self._finding(finding)
        dialect = f", dialect {tracker.dialect}" if tracker.dm_records else ""
        out.write(
            f"\n{reader.records} records, {tracker.dm_records} of device-mapper{dialect}, "
            f"{reader.violations} violations\n"
        )
        devices = list(tracker.devices)
        out.write(f"{len(devices)} devices at the end\n")
        for device in devices:
            out.write(f"  {_device_text(device)}\n")
        for bank, value in replay.pcrs.items():
            match = ""
            if bank in replay.matches:
                index = replay.matches[bank]
                match = "  does not match" if index is None else f"  matches after record {index}"
            out.write(f"PCR 10 {bank:<7} {value or 'not computable'}{match}\n")
        shown = ", ".join(f"{code} {count}" for code, count in sorted(replay.counts.items()))
        out.write(f"findings: {shown or 'none'}\n")


def _device_text(device: Device | None) -> str:
    if device is None:
        return "?"
    slots = [
        f"{label} {slot.label[:19]}… ({slot.num_targets} target{'s' * (slot.num_targets != 1)})"
        for label, slot in (("active", device.active), ("inactive", device.inactive))
        if slot is not None
    ]
    number = "?:?" if device.major is None else f"{device.major}:{device.minor}"
    return f"{one_line(printable(device.name))} {number}  {', '.join(slots) or 'no table'}"


def _device_object(device: Device) -> dict[str, object]:
    return {
        "name": printable(device.name),
        "uuid": printable(device.uuid),
        "major": device.major,
        "minor": device.minor,
    }


def _table_object(slot: Table | None) -> dict[str, object] | None:
    if slot is None:
        return None
    return {
        "hash": slot.label,
        "name": printable(slot.name),
        "uuid": printable(slot.uuid),
        "num_targets": slot.num_targets,
    }


def _finding_object(finding: Finding) -> dict[str, object]:
    return {
        "code": finding.code,
        "severity": finding.severity.value,
        "message": finding.message,
        "device": finding.device,
        "record": finding.record,
        "data": dict(finding.data),
        "differences": [asdict(difference) for difference in finding.differences],
    }


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


_count.__name__ = "number of records"  # argparse names the type in its message


def _pcr(text: str) -> tuple[str, bytes]:
    bank, equals, digits = text.partition("=")
    try:
        value = bytes.fromhex(digits)
    except ValueError:
        value = b""
    if not equals or _DIGEST_SIZES.get(bank.lower()) != len(value):
        banks = ", ".join(_DIGEST_SIZES)
        raise argparse.ArgumentTypeError(
            f"{text!r} is not BANK=HEX with a bank of {banks} and a digest of its size"
        )
    return bank.lower(), value


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = Path(path).open("rb")  # noqa: SIM115  # closed below; only opening is translated
    except OSError as error:
        remedy = "read it as root" if isinstance(error, PermissionError) else ""
        raise AdapterError(error.strerror or str(error), path, remedy) from error
    with stream:
        yield stream


def _with_progress(stream: BinaryIO, terminal: TextIO) -> Iterator[bytes]:
    """The stream in pieces; on a terminal with a line that tells how far it is."""
    shown = terminal.isatty()
    size = (
        Path(stream.name).stat().st_size
        if isinstance(stream.name, str) and Path(stream.name).is_file()
        else 0
    )
    done, next_report, reported = 0, time.monotonic() + _PROGRESS_SECONDS, False
    while chunk := stream.read1(_CHUNK_BYTES) if hasattr(stream, "read1") else stream.read(_CHUNK_BYTES):
        yield chunk
        done += len(chunk)
        if shown and time.monotonic() >= next_report:
            next_report, reported = time.monotonic() + _PROGRESS_SECONDS, True
            part = f" of {size >> 20} MiB ({100 * done // size} %)" if size > done else " MiB"
            terminal.write(f"\r{done >> 20}{part}\x1b[K")
            terminal.flush()
    if reported:
        terminal.write("\r\x1b[K")
        terminal.flush()
