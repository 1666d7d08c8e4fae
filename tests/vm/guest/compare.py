"""The daemon's device documents against the truth: what differs, in words.

Source: the retained documents of the MQTT interface.  Equality is exact: the same devices by number, the
same names and uuids, the same slots, hashes, targets and suspension; nothing is forgiven.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tests.vm.guest.truth import Device, History, Table, printable

Document = Mapping[str, Any]

SHOWN = 160
SEEN = ("both", "observed")
"""Every slot is looked at sooner or later: none may stay as the log alone tells it."""


def differences(devices: Iterable[Device], documents: Mapping[str, Document], history: History) -> list[str]:
    """What the documents (by key) say otherwise; empty if they are equal to the truth."""
    wrong, truth = [], {device.key: device for device in devices}
    for key in sorted(documents.keys() - truth.keys()):
        wrong.append(f"{key} {documents[key].get('name')!r}: there is no such device")
    for key, device in truth.items():
        document = documents.get(key)
        if document is None:
            wrong.append(f"{key} {printable(device.name)!r}: no document")
        else:
            wrong += [
                f"{key} {printable(device.name)!r}: {text}" for text in _device(device, document, history)
            ]
    return wrong


def _device(device: Device, document: Document, history: History) -> list[str]:
    expected = {
        "key": device.key,
        "name": printable(device.name),
        "uuid": printable(device.uuid),
        "major": device.number[0],
        "minor": device.number[1],
        "live": True,
        "suspended": device.suspended,
    }
    wrong = [
        f"{field} is {_shown(document.get(field))}, not {_shown(value)}"
        for field, value in expected.items()
        if document.get(field) != value
    ]
    for slot in ("active", "inactive"):
        table: Table | None = getattr(device, slot)
        wrong += [f"{slot} {text}" for text in _slot(device, table, document.get(slot), history)]
    return wrong


def _slot(device: Device, table: Table | None, shown: Any, history: History) -> list[str]:
    if table is None or shown is None:
        if table is shown:
            return []
        return ["is null" if shown is None else f"is {_shown(shown.get('hash'))}, not null"]
    wrong = []
    hash_ = shown.get("hash")
    if not _is_one_of(
        hash_, (lambda: history.acceptable(device, table), lambda: history.measured(device, table))
    ):
        acceptable = sorted(history.acceptable(device, table))
        wrong.append(f"hash is {_shown(hash_)}, not {' or '.join(acceptable)}")
    if shown.get("num_targets") != len(table.targets):
        wrong.append(f"num_targets is {shown.get('num_targets')}, not {len(table.targets)}")
    targets = [{"begin": t.begin, "length": t.length, "type": t.type} for t in table.targets]
    if shown.get("provenance") not in SEEN:
        wrong.append(f"provenance is {shown.get('provenance')!r}, not {' or '.join(SEEN)}")
    if _targets(shown) != targets:
        wrong.append(f"targets are {_shown(shown.get('targets'))}, not {_shown(targets)}")
    return wrong


def _is_one_of(hash_: object, sources: Sequence[Callable[[], set[str]]]) -> bool:
    return any(hash_ in source() for source in sources)


def _targets(shown: Mapping[str, Any]) -> list[dict[str, object]] | None:
    targets = shown.get("targets")
    if not isinstance(targets, list):
        return None
    return [{field: target.get(field) for field in ("begin", "length", "type")} for target in targets]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
