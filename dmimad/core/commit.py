"""What must survive the process, as records: a commit, its messages, what is read back.

Source: the design's third idea, "one transaction": what was read and what follows from
it are stored together before anything is published.  Pure data; does not store, encode
or publish: `dmimad.adapters.store` keeps these records, `dmimad.adapters.mqtt` sends the
messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Document = Mapping[str, object]
"""A JSON object: text keys; values are JSON's own types."""


@dataclass(frozen=True, slots=True)
class Message:
    """One alert to publish (QoS 1, not retained); its identity is inside `payload`."""

    topic: str
    payload: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message of the outbox: `seq` grows and is never used again; `attempts` were refused."""

    seq: int
    message: Message
    attempts: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Everything one step of the monitor changes; stored in one transaction or not at all.

    Attributes:
        checkpoint: replaces the former one.
        devices, alerts: key -> document; None deletes.
        facts: (kind, value) pairs, a set that only grows; adding one again changes nothing.
        messages: appended to the outbox in this order.
        fresh: forget all devices and facts of before first (new boot, list read again);
            alerts, history and outbox stay.
        history: of devices, and of what was told: key -> document; None deletes.
        anew: forget the history of before first, too; this is all of it.
    """

    checkpoint: Document
    devices: Mapping[str, Document | None] = field(default_factory=dict)
    alerts: Mapping[str, Document | None] = field(default_factory=dict)
    facts: Sequence[tuple[str, bytes]] = ()
    messages: Sequence[Message] = ()
    fresh: bool = False
    history: Mapping[str, Document | None] = field(default_factory=dict)
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """What the last commits left.

    Attributes:
        checkpoint: None if there never was a commit.
        notice: one line for the log when something had to be done about the stored
            state (a damaged database moved aside), else empty.
        history: what is only remembered; nothing else depends on it.
        history_lost: what was wrong with it, where that is why it is empty.
    """

    checkpoint: Document | None = None
    devices: Mapping[str, Document] = field(default_factory=dict)
    alerts: Mapping[str, Document] = field(default_factory=dict)
    facts: Sequence[tuple[str, bytes]] = ()
    notice: str = ""
    history: Mapping[str, Document] = field(default_factory=dict)
    history_lost: str = ""
