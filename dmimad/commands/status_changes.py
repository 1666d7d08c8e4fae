"""Two status documents as lines about what is otherwise now.

Source: the document, ``docs/status.md``.
"""

from __future__ import annotations

from collections.abc import Iterator

from dmimad.commands.plain_text import local_time, plain, seconds_of
from dmimad.commands.status_document import Document, count_of, list_in, table_in
from dmimad.commands.status_facts import maintenance_text, pcr_text
from dmimad.commands.status_page import tables_text

_CLOCK = "%H:%M:%S"


def summary(document: Document) -> str:
    """What there is, on one line."""
    devices = len(list_in(document, "devices")) + count_of(document.get("devices_left_out"))
    alerts = len(list_in(document, "alerts")) + count_of(document.get("alerts_left_out"))
    time = local_time(document.get("time"), _CLOCK)
    return f"{time} watching {plain(document.get('host'))}: {devices} devices, {alerts} alerts firing"


def changes(before: Document, after: Document) -> Iterator[str]:
    """A line for each thing that is otherwise than before."""
    time = local_time(after.get("time"), _CLOCK)
    for part in (_facts, _devices, _alerts, _maintenance):
        yield from (f"{time} {line}" for line in part(before, after))


def _facts(before: Document, after: Document) -> Iterator[str]:
    old = _standing(before)
    yield from (f"{name} {text}" for name, text in _standing(after).items() if old[name] != text)


def _standing(document: Document) -> dict[str, str]:
    """What does not change all the time."""
    reading, baseline = table_in(document, "list"), table_in(document, "baseline")
    readable = reading.get("source_up") is True and not reading.get("problem")
    live = table_in(table_in(document, "witnesses"), "live").get("up") is True
    lost = "; records may be lost" if reading.get("gap") is True else ""
    accepted = baseline.get("accepted") is not False
    return {
        "list": ("is read" if readable else "cannot be read") + lost,
        "live tables": "are looked at" if live else "are not looked at",
        "TPM": pcr_text(document.get("pcr_verified")),
        "broker": "connected" if document.get("mqtt_connected") is True else "not connected",
        "baseline": f"{plain(baseline.get('entries'))} entries"
        + ("" if accepted else "; a change was refused"),
    }


def _devices(before: Document, after: Document) -> Iterator[str]:
    former, present = ({plain(d.get("key")): d for d in list_in(each, "devices")} for each in (before, after))
    for key, device in present.items():
        state = _device_state(device)
        was = f"{_device_state(former[key])} -> " if key in former else "new: "
        if was != f"{state} -> ":
            yield f"device {plain(device.get('name'))} ({key}): {was}{state}"
    yield from (
        f"device {plain(d.get('name'))} ({key}): gone" for key, d in former.items() if key not in present
    )


def _device_state(device: Document) -> str:
    return f"{plain(device.get('verdict'))}, {tables_text(device)}"


def _alerts(before: Document, after: Document) -> Iterator[str]:
    fired, firing = ({_cause(alert): alert for alert in list_in(each, "alerts")} for each in (before, after))
    yield from (
        f"{plain(alert.get('severity')).upper()} {_alert_text(alert)}"
        for cause, alert in firing.items()
        if cause not in fired
    )
    yield from (f"resolved {_alert_text(alert)}" for cause, alert in fired.items() if cause not in firing)


def _cause(alert: Document) -> tuple[str, ...]:
    return tuple(plain(alert.get(member)) for member in ("severity", "code", "device", "key", "since"))


def _alert_text(alert: Document) -> str:
    return f"{plain(alert.get('code'))}: {plain(alert.get('message'))}"


def _maintenance(before: Document, after: Document) -> Iterator[str]:
    now = seconds_of(after.get("time")) or 0.0
    former, present = (
        {plain(m.get("id")): m for m in list_in(each, "maintenance")} for each in (before, after)
    )
    yield from (f"maintenance {maintenance_text(m, now)}" for id, m in present.items() if id not in former)
    for id, maintenance in former.items():
        if id not in present:
            yield f"maintenance {plain(maintenance.get('device'))} is over [id {id}]"
