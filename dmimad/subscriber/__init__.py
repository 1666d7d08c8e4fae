"""For programs that want a host's alerts: verified, in order, each once, and told when some are missing.

    from dmimad.subscriber import Alert, Broker, HostKeys, Watch, subscribe

`subscribe` is all that most programs need; a program with an MQTT client of its own feeds a `Watch`, which
does no input or output.  docs/subscriber.md has a complete program.
"""

from dmimad.core.alert import Status
from dmimad.core.finding import Severity
from dmimad.subscriber.connection import TOPICS, Broker, subscribe
from dmimad.subscriber.events import (
    Alert,
    Connected,
    Disconnected,
    Event,
    HostBack,
    HostSilent,
    InvalidAlert,
    Malformed,
    Missing,
    Restarted,
    Signature,
    Trust,
    WatchEvent,
    document,
)
from dmimad.subscriber.trust import HostKeys
from dmimad.subscriber.watch import Watch

__all__ = [
    "TOPICS",
    "Alert",
    "Broker",
    "Connected",
    "Disconnected",
    "Event",
    "HostBack",
    "HostKeys",
    "HostSilent",
    "InvalidAlert",
    "Malformed",
    "Missing",
    "Restarted",
    "Severity",
    "Signature",
    "Status",
    "Trust",
    "Watch",
    "WatchEvent",
    "document",
    "subscribe",
]
