"""What a subscriber is told, each kind a class of its own; `document` makes JSON of any.

An alert that is not what it says is an `InvalidAlert` and never an `Alert`, so that a program that forgets
to look at signatures does not take one for real.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar

from dmimad.core.alert import Status
from dmimad.core.finding import Severity


class Trust(enum.StrEnum):
    """What is known of who made an alert."""

    VALID = "valid"
    """A trusted key, which may speak for this host, signed it."""
    UNSIGNED = "unsigned"
    """It has no signature, and none was demanded."""
    NOT_CHECKED = "not checked"
    """It has a signature, and there are no keys to check it with."""
    INVALID = "invalid"
    """It is not to be trusted; only in an `InvalidAlert`."""


@dataclass(frozen=True, slots=True)
class Signature:
    """The state of an alert's signature; ``reason`` is one line, "" if it is valid."""

    trust: Trust
    keyid: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert of a host, as docs/mqtt.md describes them.

    Attributes:
        host: its id, as in the topic.
        id: the same for a redelivery.
        sequence: counts the host's alerts without gaps.
        time: in UTC; whole seconds in a signed alert, for more of it is not signed.
        device: its name; "" for an alert about the host.
        data: everything that the alert says, as it came: check the type of what you use.
        late: it is older than what this host has told already; shown again by somebody, perhaps.
    """

    type: ClassVar[str] = "alert"
    host: str
    id: str
    sequence: int
    time: datetime.datetime
    code: str
    severity: Severity
    status: Status
    device: str
    message: str
    data: Mapping[str, object] = field(repr=False)
    signature: Signature
    late: bool = False


@dataclass(frozen=True, slots=True)
class InvalidAlert:
    """What says that it is an alert of ``host`` and is not to be trusted; ``claimed`` is what it says."""

    type: ClassVar[str] = "invalid"
    host: str
    topic: str
    reason: str
    claimed: Alert


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message that cannot be read, or more of them than can be kept account of."""

    type: ClassVar[str] = "malformed"
    topic: str
    reason: str


@dataclass(frozen=True, slots=True)
class Missing:
    """Alerts of a host that have not come, by their sequence numbers."""

    type: ClassVar[str] = "missing"
    host: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Restarted:
    """The host counts its alerts anew from ``sequence`` on: its state directory was lost or put back."""

    type: ClassVar[str] = "restarted"
    host: str
    sequence: int


@dataclass(frozen=True, slots=True)
class HostSilent:
    """A host is not heard; ``since`` is in the seconds that the watch is given."""

    type: ClassVar[str] = "silent"
    host: str
    since: float
    why: str


@dataclass(frozen=True, slots=True)
class HostBack:
    """A host that was silent is online."""

    type: ClassVar[str] = "back"
    host: str


@dataclass(frozen=True, slots=True)
class Connected:
    """To the broker, and subscribed; ``again``: not for the first time."""

    type: ClassVar[str] = "connected"
    broker: str
    again: bool


@dataclass(frozen=True, slots=True)
class Disconnected:
    """From the broker; told once for each reason, while new connections are tried."""

    type: ClassVar[str] = "disconnected"
    broker: str
    reason: str


WatchEvent = Alert | InvalidAlert | Malformed | Missing | Restarted | HostSilent | HostBack
Event = WatchEvent | Connected | Disconnected


def document(event: Event) -> dict[str, object]:
    """An event as a JSON object, with its ``type``."""
    return {"type": event.type, **_members(event)}


def _members(value: Event | Signature) -> dict[str, object]:
    return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}


def _plain(value: object) -> object:
    if isinstance(value, Alert | Signature):
        return _members(value)
    if isinstance(value, datetime.datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, enum.Enum):
        return value.value
    return dict(value) if isinstance(value, Mapping) else value
