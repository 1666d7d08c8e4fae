"""What subscribers were told lately, for people who come later: a ring of alerts.

Source: none; the shape is a promise to other programs (``docs/status.md``).

Of each message one short record, with the time that subscribers have; what is wrong now is `alert`'s to say.
Decides nothing about what is told (`delivery`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from dmimad.core.alert import Notice
from dmimad.core.cloudevent import timestamp

#: Alerts remembered.
MAX_RECENT = 100
MAX_TEXT_CHARS = 1000
"""Of a message, a name."""


@dataclass(frozen=True, slots=True)
class Told:
    """One alert as subscribers were told: it fired, or it is over.

    Attributes:
        id: of its event.
        device, key: the name that it was told with, and ``major:minor``; "" if it is about no device.
        at: when it was so, in Unix seconds.
        count: how often it has fired.
    """

    id: str
    code: str
    severity: str
    status: str
    device: str
    key: str
    message: str
    at: float
    count: int

    def document(self) -> dict[str, object]:
        """As it is told."""
        return {
            "id": self.id,
            "code": self.code,
            "severity": self.severity,
            "status": self.status,
            "device": self.device,
            "key": self.key,
            "message": self.message,
            "time": timestamp(self.at),
            "count": self.count,
        }


class Recent:
    """The last alerts told."""

    def __init__(self) -> None:
        self._told: deque[Told] = deque(maxlen=MAX_RECENT)

    def add(self, notice: Notice) -> None:
        """It has been told."""
        alert, finding = notice.alert, notice.alert.finding
        self._told.append(
            Told(
                notice.id,
                finding.code,
                notice.severity.value,
                notice.status.value,
                alert.subject[:MAX_TEXT_CHARS],
                finding.device,
                finding.message[:MAX_TEXT_CHARS],
                notice.at,
                notice.count,
            )
        )

    def newest_first(self) -> list[Told]:
        """All that are remembered."""
        return list(reversed(self._told))
