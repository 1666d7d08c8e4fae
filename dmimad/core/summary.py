"""Many alerts as one: how many of what, about which devices.

Source: none; the numbers that an operator asks for first.

Bounded whatever is counted: names beyond a limit are counted and not kept.  Does not decide what is
counted (`storm`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from dmimad.core.checkpoint import integer, items, table
from dmimad.core.errors import MalformedError
from dmimad.core.finding import Severity

#: Devices that are named, of each severity and in all.
MAX_DEVICES = 100
#: Different devices that are told apart, to count those not named; as many are "at least" beyond it.
MAX_TOLD_APART = 10_000
#: Codes of one summary; there are fewer.
MAX_CODES = 100
_CODES_IN_WORDS = 5
_DIGITS = 8


@dataclass(frozen=True, slots=True)
class Summary:
    """Alerts taken together.

    Attributes:
        devices: names, those of the severest alerts first; ``more_devices`` further ones.
        holding: of a storm that is over, the alerts that still hold and were told by it alone.
    """

    alerts: int
    by_code: Mapping[str, int]
    by_severity: Mapping[Severity, int]
    devices: tuple[str, ...]
    more_devices: int
    holding: Summary | None = None

    def words(self) -> str:
        """How many of what: "12 drift.active, 5 device.removed"."""
        shown = [f"{count} {code}" for code, count in list(self.by_code.items())[:_CODES_IN_WORDS]]
        if len(self.by_code) > _CODES_IN_WORDS:
            others = sum(list(self.by_code.values())[_CODES_IN_WORDS:])
            shown.append(f"{others} of {len(self.by_code) - _CODES_IN_WORDS} other codes")
        return ", ".join(shown)


class Tally:
    """Counts alerts towards a `Summary`."""

    def __init__(self) -> None:
        self.alerts = 0
        self.codes: Counter[str] = Counter()
        self._severities: Counter[Severity] = Counter()
        self._devices: dict[Severity, dict[str, None]] = {severity: {} for severity in Severity}
        self._apart: set[str] = set()

    def add(self, code: str, severity: Severity, device: str) -> None:
        """One alert; ``device`` is "" if it is about none."""
        self.alerts += 1
        self.codes[code] += 1
        self._severities[severity] += 1
        if not device:
            return
        named = self._devices[severity]
        if len(named) < MAX_DEVICES:
            named[device] = None
        if len(self._apart) < MAX_TOLD_APART:
            self._apart.add(hashlib.sha256(device.encode("utf-8", "replace")).hexdigest()[:_DIGITS])

    def summary(self, holding: Summary | None = None) -> Summary:
        """What has been counted."""
        names = [name for severity in reversed(Severity) for name in self._devices[severity]]
        devices = tuple(dict.fromkeys(names))[:MAX_DEVICES]
        return Summary(
            self.alerts,
            dict(sorted(self.codes.items(), key=lambda pair: (-pair[1], pair[0]))),
            {severity: self._severities[severity] for severity in Severity},
            devices,
            max(len(self._apart) - len(devices), 0),
            holding,
        )

    def document(self) -> dict[str, object]:
        """As JSON to store."""
        return {
            "alerts": self.alerts,
            "codes": dict(self.codes),
            "severities": {severity.value: self._severities[severity] for severity in Severity},
            "devices": {severity.value: list(self._devices[severity]) for severity in Severity},
            "apart": "".join(sorted(self._apart)),
        }


def read_tally(stored: object) -> Tally:
    """The inverse of `Tally.document`; raises MalformedError."""
    document, tally = table(stored), Tally()
    tally.alerts = count(document.get("alerts"))
    codes = {code: count(number) for code, number in table(document.get("codes")).items()}
    tally.codes = Counter(codes)
    severities, devices = table(document.get("severities")), table(document.get("devices"))
    for severity in Severity:
        tally._severities[severity] = count(severities.get(severity.value))
        names = items(devices.get(severity.value))
        if len(names) > MAX_DEVICES or not all(isinstance(name, str) for name in names):
            raise MalformedError("a stored summary is damaged")
        tally._devices[severity] = dict.fromkeys(str(name) for name in names)
    apart = document.get("apart")
    if not isinstance(apart, str) or len(apart) > MAX_TOLD_APART * _DIGITS or len(codes) > MAX_CODES:
        raise MalformedError("a stored summary is damaged")
    tally._apart = {apart[at : at + _DIGITS] for at in range(0, len(apart), _DIGITS)}
    return tally


def count(stored: object) -> int:
    """A stored number of things."""
    number = integer(stored)
    if number < 0:
        raise MalformedError("a stored number is damaged")
    return number
