"""Status documents as the daemon makes them, for the tests of what is shown of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

HOSTILE = "\x1b[31mred\u202e\n\x9b1m"


def at(second: int) -> str:
    return datetime.fromtimestamp(1_795_358_000 + second, UTC).isoformat().replace("+00:00", "Z")


def device(key: str = "253:5", name: str = "image-ro", **more: object) -> dict[str, Any]:
    return {
        "key": key,
        "name": name,
        "active": {"hash": "sha256:f3b63d8ad4", "provenance": "both", "targets": [{"type": "verity"}]},
        "inactive": None,
        "suspended": False,
        "verdict": "approved",
        "since": {"verdict": at(0), "active": None, "inactive": None},
        **more,
    }


def alert(severity: str = "critical", **more: object) -> dict[str, Any]:
    message = "image-ro (253:5) runs a table that is not approved"
    told = {"code": "drift.active", "device": "image-ro", "message": message, "since": at(100), "count": 1}
    return {**told, "severity": severity, **more}


def document(**more: object) -> dict[str, Any]:
    return {
        "host": "web-1",
        "time": at(200),
        "version": "1.0",
        "list": {"source_up": True, "position": 612, "last_read": at(198), "problem": "", "gap": False},
        "witnesses": {"live": {"up": True, "observations": 7}},
        "pcr_verified": True,
        "mqtt_connected": True,
        "outbox": {"pending": 0, "dead": 0},
        "store": {"problem": ""},
        "settings": {"accepted": True},
        "baseline": {"directory": "/etc/dmimad/baseline.d", "entries": 3, "accepted": True},
        "maintenance": [],
        "firing": {"critical": 0, "warning": 0, "info": 0},
        "devices": [device()],
        "devices_left_out": 0,
        "alerts": [],
        "alerts_left_out": 0,
        **more,
    }


VERITY = "verity f3b63d8"
STAGED = {"hash": "sha256:6671ae70a7", "provenance": "measured", "targets": [{"type": "linear"}] * 3}
DRIFT = device(verdict="drift", inactive=STAGED, suspended=True)
MAINTENANCE = {"id": "1f", "device": "vg0-*", "reason": "update", "by": "root (user 0)", "until": at(320)}
