"""Documents as the core makes them, with what a test wants to see on a page.

`test_documents` holds their shape to that of the real ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Document = dict[str, Any]

GOOD_HASH = "sha256:f3b63d8ad4" + "0" * 54
BAD_HASH = "sha256:6671ae70a7" + "1" * 54
FINGERPRINT = "config:5e4465d366" + "2" * 54
#: What a name may be: markup, marks of direction, controls, blanks, accents by the dozen, and no end.
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "evil\u202egnp.exe",
    "\u2066a\u2069b",
    "nul\x00 esc\x1b[31m nl\nx",
    "\\xff\\x00 as text",
    "=" * 127,
    "W" * 127,
    "a" + "\u0301" * 60,
    "\u3164",
    "  two  spaces ",
    "{{ 7*7 }}{% raw %}",
    "&lt;b&gt; &amp;",
    "שלום עולם",
    "",
)


def slot(
    *types: str, digest: str = GOOD_HASH, provenance: str = "both", record: int | None = 528
) -> Document:
    """A table of a device document."""
    return {
        "hash": digest,
        "fingerprint": FINGERPRINT,
        "name": "image-ro",
        "uuid": "",
        "num_targets": len(types),
        "provenance": provenance,
        "record": record,
        "targets": [
            {"begin": 32768 * number, "length": 32768, "type": each} for number, each in enumerate(types)
        ],
    }


def device(
    name: str = "image-ro", key: str = "253:5", verdict: str = "approved", **members: object
) -> Document:
    """As an element of a status document."""
    drift = verdict == "drift"
    return {
        "key": key,
        "name": name,
        "uuid": "",
        "major": int(key.partition(":")[0]),
        "minor": int(key.partition(":")[2]),
        "active": slot("linear", digest=BAD_HASH) if drift else slot("verity"),
        "inactive": None,
        "live": True,
        "suspended": False,
        "event_nr": 0,
        "verdict": verdict,
        "drift": {"active": drift, "inactive": False},
        "since": {"verdict": T0, "active": T0, "inactive": None},
        **members,
    }


T0 = "2026-11-30T03:12:09.512Z"


def alert(device: str = "image-ro", key: str = "253:5", **members: object) -> Document:
    """One that fires."""
    return {
        "code": "drift.active",
        "severity": "critical",
        "device": device,
        "key": key,
        "message": f"{device} ({key}) runs a table that is not approved",
        "since": T0,
        "count": 1,
        "flapping": False,
        "maintenance": None,
        **members,
    }


def recent(device: str = "image-ro", key: str = "253:5", **members: object) -> Document:
    """One that was told."""
    return {
        "id": "0123456789abcdef",
        "code": "drift.active",
        "severity": "critical",
        "status": "firing",
        "device": device,
        "key": key,
        "message": f"{device} ({key}) runs a table that is not approved",
        "time": T0,
        "count": 1,
        **members,
    }


def status(
    devices: Sequence[Mapping[str, object]] = (),
    alerts: Sequence[Mapping[str, object]] = (),
    **members: object,
) -> Document:
    """A status document of a host that is well but for these."""
    return {
        "host": "web-1",
        "time": "2026-11-30T03:14:00.000Z",
        "version": "1.2.3",
        "list": {
            "source": "auto",
            "source_up": True,
            "position": 18254,
            "records": 18254,
            "lag": 0,
            "trimmed": 0,
            "gap": False,
            "problem": "",
            "last_read": "2026-11-30T03:13:59.900Z",
        },
        "witnesses": {"live": {"up": True, "observations": 41}},
        "pcr_verified": True,
        "mqtt_connected": True,
        "mqtt_problem": "",
        "outbox": {"pending": 0, "dead": 0},
        "store": {"problem": ""},
        "settings": {"accepted": True, "restart_needed": []},
        "baseline": {"directory": "/etc/dmimad/baseline.d", "entries": 6, "accepted": True},
        "refused": [],
        "maintenance": [],
        "firing": {
            severity: sum(each["severity"] == severity for each in alerts)
            for severity in ("critical", "warning", "info")
        },
        "devices": list(devices),
        "devices_left_out": 0,
        "alerts": list(alerts),
        "alerts_left_out": 0,
        "recent": [],
        **members,
    }


def change(time: str, slot: str, digest: str | None = GOOD_HASH, **members: object) -> Document:
    """An item of a device's history."""
    return {
        "time": time,
        "slot": slot,
        "name": "image-ro",
        "hash": digest,
        "fingerprint": None if digest is None else FINGERPRINT,
        "types": [] if digest is None else ["linear" if digest == BAD_HASH else "verity"],
        "provenance": None if digest is None else "both",
        "verdict": "drift" if digest == BAD_HASH else "approved",
        "drift": digest == BAD_HASH,
        "record": None if digest is None else 580,
        "event": "table_load" if slot == "inactive" else "device_resume",
        "late": False,
        "after": None,
        **members,
    }


def row(attribute: str, approved: str | None, actual: str | None, target: int | None = 0) -> Document:
    """A line of a table beside what is approved."""
    return {
        "target": target,
        "attribute": attribute,
        "approved": approved,
        "actual": actual,
        "differs": approved is not None and approved != actual,
    }


def detail(name: str = "image-ro", **members: object) -> Document:
    """A detail document: a verified image that somebody swapped for a plain mapping."""
    return {
        "host": "web-1",
        "time": "2026-11-30T03:14:00.000Z",
        "version": "1.2.3",
        "device": device(name, verdict="drift"),
        "alerts": [alert(name)],
        "recent": [recent(name)],
        "history": [
            change("2026-11-24T06:30:11.000Z", "inactive", name=name),
            change("2026-11-24T06:30:11.020Z", "active", name=name),
            change("2026-11-24T06:30:11.020Z", "inactive", None, name=name),
            change("2026-11-30T03:12:09.140Z", "inactive", BAD_HASH, name=name),
            change("2026-11-30T03:12:09.512Z", "active", BAD_HASH, name=name),
            change("2026-11-30T03:12:09.512Z", "inactive", None, name=name),
        ],
        "history_left_out": 0,
        "tables": [
            {
                "slot": "active",
                "hash": BAD_HASH,
                "fingerprint": FINGERPRINT,
                "approved": False,
                "baseline": "/etc/dmimad/baseline.d/host.toml:12",
                "others": 0,
                "compared_with": "baseline",
                "rows": [
                    row("fingerprint", FINGERPRINT, "config:a2b7" + "3" * 60, None),
                    row("type", "verity", "linear"),
                    row("root_digest", "8343d35b" + "4" * 56, None),
                    row("target_name", None, "linear"),
                ],
                "rows_left_out": 0,
            }
        ],
        "former": False,
        **members,
    }
