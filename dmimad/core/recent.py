"""What subscribers were told lately, for people who come later: the last alerts.

Source: none; the shape is a promise to other programs (``docs/status.md``).

Of each message one short record, with the time that subscribers have; what is wrong now is `alert`'s to say.
Decides nothing about what is told (`delivery`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dmimad.core.alert import MAX_SECONDS, Notice, Status
from dmimad.core.checkpoint import Document, integer
from dmimad.core.cloudevent import timestamp
from dmimad.core.errors import MalformedError
from dmimad.core.finding import Severity

#: Alerts remembered.
MAX_RECENT = 100
MAX_TEXT_CHARS = 1000
"""Of a message, a name."""

#: To store them under: in order.
_PREFIX, _DIGITS = "told|", 16


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
        return {**self._texts(), "time": timestamp(self.at), "count": self.count}

    def stored(self) -> dict[str, object]:
        """As JSON to store."""
        return {**self._texts(), "at": self.at, "count": self.count}

    def _texts(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in _TEXTS}


_TEXTS = ("id", "code", "severity", "status", "device", "key", "message")


class Recent:
    """The last alerts told."""

    def __init__(self) -> None:
        self._told: dict[int, Told] = {}
        self._next = 1
        self._changed: set[int] = set()
        self._lost: list[str] = []  # keys of what is stored and cannot be read

    def add(self, notice: Notice) -> None:
        """It has been told."""
        alert, finding = notice.alert, notice.alert.finding
        self._changed.add(self._next)
        self._told[self._next] = Told(
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
        self._next += 1
        self._drop_oldest()

    def newest_first(self) -> list[Told]:
        """All that are remembered."""
        return list(reversed(self._told.values()))

    def _drop_oldest(self) -> None:
        while len(self._told) > MAX_RECENT:
            oldest = next(iter(self._told))
            del self._told[oldest]
            self._changed.add(oldest)

    # -- what is stored --------------------------------------------------------------------

    def take_changed(self) -> dict[str, dict[str, object] | None]:
        """Documents that changed since the last call; None: gone."""
        changed: dict[str, dict[str, object] | None] = dict.fromkeys(self._lost)
        for number in self._changed:
            told = self._told.get(number)
            changed[f"{_PREFIX}{number:0{_DIGITS}}"] = None if told is None else told.stored()
        self._lost, self._changed = [], set()
        return changed

    def go_on_from(self, other: Recent) -> None:
        """What `other` knows was told after what is known here."""
        for told in other._told.values():
            self._told[self._next] = told
            self._next += 1
        self._drop_oldest()

    def store_all(self) -> None:
        """All of them are in the next `take_changed`."""
        self._changed |= self._told.keys()

    def restore(self, documents: Mapping[str, Document]) -> None:
        """Take over what was stored.

        Raises:
            MalformedError: it is damaged.  Nothing is known then, and it is forgotten in the store, too.
        """
        keys = sorted(key for key in documents if key.startswith(_PREFIX))
        try:
            self._told = {_number(key): _read(documents[key]) for key in keys}
        except MalformedError:
            self._lost = keys
            raise
        self._next = max(self._told, default=0) + 1
        self._drop_oldest()


def _number(key: str) -> int:
    digits = key.removeprefix(_PREFIX)
    if not (len(digits) == _DIGITS and digits.isascii() and digits.isdecimal()):
        raise MalformedError("a stored alert that was told is damaged")
    return int(digits)


def _read(document: Document) -> Told:
    texts = [document.get(name) for name in _TEXTS]
    id_, code, severity, status, device, key, message = (
        text if isinstance(text, str) and len(text) <= MAX_TEXT_CHARS else "" for text in texts
    )
    at = document.get("at")
    whole = (id_, code, severity, status, device, key, message) == tuple(texts)
    known = severity in {*Severity} and status in {*Status}
    if not (whole and known and isinstance(at, float | int) and 0 <= at <= MAX_SECONDS):
        raise MalformedError("a stored alert that was told is damaged")
    return Told(id_, code, severity, status, device, key, message, float(at), integer(document.get("count")))
