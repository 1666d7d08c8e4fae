"""From a message's bytes to what it says: topics, CloudEvents, alerts.

Source: docs/mqtt.md.  Whoever may publish may publish anything: each thing has a limit, and what does not
follow its format is a MalformedError.  Whether it is true what a message says is not decided here.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Mapping
from dataclasses import dataclass

from dmimad.core.alert import Status
from dmimad.core.cloudevent import TOPIC_ROOT
from dmimad.core.dsse import json_object
from dmimad.core.errors import MalformedError
from dmimad.core.finding import Severity
from dmimad.subscriber.events import Alert, Signature

#: Of one message; an alert has a few thousand.
MAX_PAYLOAD_BYTES = 256 * 1024
#: Objects and lists in one another; ours have 4.
MAX_DEPTH = 16
MAX_HOST_CHARS = 255
MAX_ID_CHARS = 128
MAX_CODE_CHARS = 64
MAX_SEQUENCE_DIGITS = 20
MAX_TIME_CHARS = 40
#: What is longer is cut.
MAX_DEVICE_CHARS, MAX_MESSAGE_CHARS = 1000, 4000

_TYPE_PREFIX = "dmimad.alert."
_CUT = "…"


class Kind(enum.Enum):
    """What a topic is for."""

    STATUS = "status"
    ALERT = "alert"


@dataclass(frozen=True, slots=True)
class Place:
    """A topic: whose, for what, and for alerts of which severity."""

    host: str
    kind: Kind
    severity: str = ""


def read_topic(topic: str) -> Place | None:
    """None: neither a status nor alerts of a host."""
    root, _, rest = topic.partition(f"{TOPIC_ROOT}/")
    levels = rest.split("/", 3)
    if root or not 0 < len(levels[0]) <= MAX_HOST_CHARS:
        return None
    if levels[1:] == [Kind.STATUS.value]:
        return Place(levels[0], Kind.STATUS)
    if len(levels) == 3 and levels[1] == Kind.ALERT.value:
        return Place(levels[0], Kind.ALERT, levels[2])
    return None


def read_event(payload: bytes) -> dict[str, object]:
    """The JSON object in a payload: UTF-8, of bounded size and depth, each member once, nothing but JSON."""
    event = json_object(payload, "the message", MAX_PAYLOAD_BYTES)
    level: list[object] = [event]
    for _ in range(MAX_DEPTH):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return event
    raise MalformedError("the message is nested too deeply")


def _inside(value: object) -> list[object]:
    if isinstance(value, dict):
        for name in value:
            _check_text(name)
        return list(value.values())
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, float) and not abs(value) < float("inf"):
        raise MalformedError("the message has a number that JSON cannot tell")
    return value if isinstance(value, list) else []


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MalformedError("the message has half a surrogate pair") from None


def read_alert(host: str, event: Mapping[str, object], signature: Signature) -> Alert:
    """The alert that a CloudEvent is; `signature` is what is known of it."""
    data = event.get("data")
    if event.get("specversion") != "1.0" or not isinstance(data, dict):
        raise MalformedError("the message is no CloudEvent 1.0 with JSON data")
    code = _text(data, "code", MAX_CODE_CHARS)
    if event.get("type") != _TYPE_PREFIX + code:
        raise MalformedError("the event's type is not that of its code")
    device = data.get("device")
    return Alert(
        host,
        _text(event, "id", MAX_ID_CHARS),
        _sequence(event),
        _time(event),
        code,
        _severity(data),
        _status(data),
        _cut(device.get("name") if isinstance(device, dict) else "", MAX_DEVICE_CHARS),
        _cut(data.get("message"), MAX_MESSAGE_CHARS),
        data,
        signature,
    )


def _text(members: Mapping[str, object], name: str, limit: int) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= limit:
        raise MalformedError(f"the event's {name} is not a text of 1 to {limit} characters")
    return value


def _cut(value: object, limit: int) -> str:
    if not isinstance(value, str):
        return ""
    return value if len(value) <= limit else value[: limit - 1] + _CUT


def _sequence(event: Mapping[str, object]) -> int:
    text = _text(event, "sequence", MAX_SEQUENCE_DIGITS)
    if not (text.isascii() and text.isdigit()):
        raise MalformedError("the event's sequence is not a number")
    return int(text)


def _time(event: Mapping[str, object]) -> datetime.datetime:
    try:
        moment = datetime.datetime.fromisoformat(_text(event, "time", MAX_TIME_CHARS))
        if moment.tzinfo is not None:
            return moment.astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        pass
    raise MalformedError("the event's time is not one of RFC 3339")


def _severity(data: Mapping[str, object]) -> Severity:
    try:
        return Severity(_text(data, "severity", MAX_CODE_CHARS))
    except ValueError:
        raise MalformedError("the event's severity is none that is known") from None


def _status(data: Mapping[str, object]) -> Status:
    try:
        return Status(_text(data, "status", MAX_CODE_CHARS))
    except ValueError:
        raise MalformedError("the event's status is none that is known") from None
