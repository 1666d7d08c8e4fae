"""The records that devices are as they are for, to tell with what is found about them.

Source: none.  Of each device no more is kept than the records that its slots and its existence come from.
"""

from __future__ import annotations

from dataclasses import replace

from dmimad.core.checkpoint import Document, table
from dmimad.core.device import Device
from dmimad.core.errors import MalformedError
from dmimad.core.finding import Finding


class Evidence:
    """Template digest and event of records, by the key of the device and the index of the record."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[int, tuple[str, str]]] = {}

    def note(self, key: str, record: int, template_digest: str, event: str) -> None:
        """A record was about this device."""
        self._kept.setdefault(key, {})[record] = (template_digest, event)

    def event(self, key: str, record: int) -> str:
        """What a record did to this device; "" if it is not known."""
        return self._kept.get(key, {}).get(record, ("", ""))[1]

    def told_with(self, finding: Finding) -> Finding:
        """The finding, with what is known of its record."""
        known = self._kept.get(finding.device, {}).get(-1 if finding.record is None else finding.record)
        if known is None:
            return finding
        return replace(finding, data={**finding.data, "template_digest": known[0], "event": known[1]})

    def prune(self, device: Device) -> None:
        """Keep what the device is as it is for."""
        wanted = {device.since, device.changed_at, device.staged_at}
        kept = self._kept.get(device.key, {})
        self._kept[device.key] = {index: pair for index, pair in kept.items() if index in wanted}

    def forget(self, key: str) -> None:
        """There is no such device any more."""
        self._kept.pop(key, None)

    # -- what is stored --------------------------------------------------------------------

    def document(self, key: str) -> dict[str, object]:
        """Of one device, as JSON to store."""
        return {str(index): list(pair) for index, pair in self._kept.get(key, {}).items()}

    def restore(self, documents: Document) -> None:
        """Take over what was stored, by the key of the device; raises MalformedError."""
        for key, records in documents.items():
            self._kept[key] = {}
            for index, pair in table(records).items():
                if not (index.isdecimal() and isinstance(pair, list) and len(pair) == 2):  # a pair
                    raise MalformedError("stored evidence is damaged")
                self._kept[key][int(index)] = (str(pair[0]), str(pair[1]))
