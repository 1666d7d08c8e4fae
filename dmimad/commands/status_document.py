"""A status document as it came: its members, which may be missing or otherwise in another version's.

Source: ``docs/status.md``.
"""

from __future__ import annotations

from collections.abc import Mapping

Document = Mapping[str, object]


def table_in(document: Document, name: str) -> dict[str, object]:
    """A member that is an object; empty if it is none."""
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def list_in(document: Document, name: str) -> list[dict[str, object]]:
    """A member that is a list of objects; empty if it is none."""
    value = document.get(name)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def count_of(value: object) -> int:
    """A number of things; 0 for what is none."""
    return value if isinstance(value, int) else 0


def trouble(document: Document) -> bool:
    """An alert of warning or above is firing, or a device is in drift."""
    firing = table_in(document, "firing")
    if any(firing.get(severity) for severity in ("critical", "warning")):
        return True
    return any(device.get("verdict") == "drift" for device in list_in(document, "devices"))
