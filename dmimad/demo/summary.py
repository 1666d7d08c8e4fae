"""The demo's last table: what came through, in numbers.

Source: the daemon's own metrics, the alerts that the subscriber got, and the list as it has grown, replayed
as ``dmimad replay --pcr`` does it.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from dmimad.core.errors import AdapterError
from dmimad.core.reader import ListReader
from dmimad.demo.recording import Recording
from dmimad.demo.scrape import Samples, total
from dmimad.demo.subscriber import Alert

Row = tuple[str, str]


def summary(
    recorded: Recording,
    grown: Path,
    samples: Samples,
    alerts: Sequence[Alert],
    latencies_seconds: Sequence[float],
) -> Iterator[Row]:
    """Name and text of each line.

    Raises:
        AdapterError: the replay does not lead to what the TPM had.
    """
    wrong = total(samples, "dmimad_findings_total", code="record.template_digest")
    verified = f"{total(samples, 'dmimad_records_total'):.0f}, {wrong:.0f} with a wrong template digest"
    yield "records verified", verified
    yield "PCR 10 replayed", _pcr(recorded, grown)
    events = {
        dict(labels)["event"]: n for (name, labels), n in samples.items() if name == "dmimad_dm_events_total"
    }
    shown = ", ".join(f"{event} {n:.0f}" for event, n in sorted(events.items(), key=_by_count) if n)
    yield "dm events", f"{sum(events.values()):.0f}: {shown}"
    yield "devices at the end", f"{total(samples, 'dmimad_devices'):.0f}"
    codes = Counter(alert.code for alert in alerts if alert.status == "firing")
    resolved = sum(alert.status == "resolved" for alert in alerts)
    shown = ", ".join(f"{code} {n}" for code, n in sorted(codes.items()))
    yield "alerts", f"{codes.total()} fired ({shown}), {resolved} resolved"
    milliseconds = [1000 * seconds for seconds in latencies_seconds]
    median, longest = statistics.median(milliseconds), max(milliseconds)
    yield "append to alert", f"median {median:.0f} ms, longest {longest:.0f} ms, beside the hold-off"
    for name in ("dmimad_list_position", "dmimad_outbox_pending", "dmimad_outbox_dead_total"):
        yield "metrics", f"{name} {total(samples, name):.0f}"
    for severity in ("critical", "warning"):
        firing = total(samples, "dmimad_alerts_firing", severity=severity)
        yield "metrics", f'dmimad_alerts_firing{{severity="{severity}"}} {firing:.0f}'


def _by_count(item: tuple[str, float]) -> tuple[float, str]:
    return -item[1], item[0]


def _pcr(recorded: Recording, grown: Path) -> str:
    """Where the grown list leads to; it must be what the TPM of the recorded machine had."""
    reader = ListReader(watch=recorded.pcr)
    reader.feed(grown.read_bytes())
    banks = [bank for bank, index in reader.matches.items() if index == reader.records - 1]
    if banks != list(recorded.pcr):
        raise AdapterError(
            "the list does not lead to the recorded PCR 10", "demo", "please report this as a bug"
        )
    value = recorded.pcr["sha256"].hex()
    return f"sha256 {value[:16]}… = what the TPM had; {' and '.join(b for b in banks if b != 'sha256')} too"
