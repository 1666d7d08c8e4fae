"""What goes over the control socket: one JSON object on one line each way, versioned and of limited size.

Source: ``docs/status.md``; unix(7) for SO_PEERCRED.

    -> {"v":1,"request":"maintenance-start","device":"vg0-*","seconds":1800,"reason":"kernel update"}
    <- {"v":1,"ok":true,"maintenance":{…}}
    <- {"v":1,"ok":false,"error":"what, and what to do"}

A request is taken as documented, or refused: a member that this version does not know may mean something.
What this module does not do: open sockets, or answer anything.
"""

from __future__ import annotations

import enum
import json
import math
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from dmimad.core.errors import MalformedError

VERSION = 1
MAX_REQUEST_BYTES = 64 << 10
MAX_ANSWER_BYTES = 64 << 20
MAX_TEXT_CHARS = 1000
"""Of a text in a request."""
MAX_SHOWN_CHARS = 40
"""Of a text that an error repeats."""

_CREDENTIALS = struct.Struct("=iII")  # struct ucred


class RequestKind(enum.StrEnum):
    """What can be asked for."""

    STATUS = "status"
    WATCH = "watch"
    DEVICE = "device"
    CONFIGURATIONS = "configurations"
    MAINTENANCE_LIST = "maintenance-list"
    MAINTENANCE_START = "maintenance-start"
    MAINTENANCE_END = "maintenance-end"


#: The requests that change something.
CHANGING = frozenset({RequestKind.MAINTENANCE_START, RequestKind.MAINTENANCE_END})
_MEMBERS: Mapping[RequestKind, tuple[str, ...]] = {
    RequestKind.DEVICE: ("device",),
    RequestKind.MAINTENANCE_START: ("device", "seconds", "reason"),
    RequestKind.MAINTENANCE_END: ("id",),
}


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is well-formed.

    Attributes:
        device, seconds, reason: of `MAINTENANCE_START`: a shell-style pattern, above 0, not empty.
            ``device`` is of `DEVICE`, too: a name or number.
        id: of `MAINTENANCE_END`.
    """

    kind: RequestKind
    seconds: float = 0.0
    device: str = ""
    reason: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """The user of the process at the other end; ``name`` is "" for one who has none."""

    uid: int
    name: str = ""

    def __str__(self) -> str:
        return f"{self.name} (user {self.uid})" if self.name else f"user {self.uid}"


def peer_uid(connection: socket.socket) -> int:
    """Whose process is at the other end.  Raises OSError."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(credentials)[1]
    return uid


def decode_request(line: bytes) -> Request:
    """Raises MalformedError, which says what is wrong."""
    document = _decode(line)
    version, asked = document.pop("v", None), document.pop("request", None)
    if version != VERSION or isinstance(version, bool):
        raise MalformedError(f"version {_shown(version)} is unknown; this daemon speaks version {VERSION}")
    if not isinstance(asked, str) or asked not in {kind.value for kind in RequestKind}:
        known = ", ".join(kind.value for kind in RequestKind)
        raise MalformedError(f"request {_shown(asked)} is unknown; there are {known}")
    kind = RequestKind(asked)
    members = _MEMBERS.get(kind, ())
    if unknown := sorted(document.keys() - set(members)):
        raise MalformedError(f"{kind.value} has no member {_shown(unknown[0])}")
    texts = {name: _text(name, document.get(name)) for name in members if name != "seconds"}
    seconds = _seconds(document.get("seconds")) if "seconds" in members else 0.0
    return Request(kind, seconds=seconds, **texts)


def encode_request(request: Mapping[str, object]) -> bytes:
    """``request``: the documented object without its version."""
    return _encode({"v": VERSION, **request})


def encode_answer(content: Mapping[str, object]) -> bytes:
    """What was asked for; an answer that is too long is an error instead."""
    line = _encode({"v": VERSION, "ok": True, **content})
    if len(line) <= MAX_ANSWER_BYTES:
        return line
    return encode_error(f"the answer is longer than {MAX_ANSWER_BYTES >> 20} MiB")


def encode_error(reason: str) -> bytes:
    """Why there is no answer."""
    return _encode({"v": VERSION, "ok": False, "error": reason})


def decode_answer(line: bytes) -> tuple[dict[str, object], str]:
    """The answer, and the error that it is ("": none).  Raises MalformedError."""
    document = _decode(line)
    version = document.get("v")
    if document.get("ok") is True and version == VERSION:
        return document, ""
    if document.get("ok") is False:  # whatever its version: it is to be told
        return document, str(document.get("error") or "refused, and nobody says why")
    raise MalformedError(f"an answer of version {_shown(version)}; this program speaks version {VERSION}")


def _encode(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"


def _decode(line: bytes) -> dict[str, object]:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):  # no JSON, no UTF-8; a number of too many digits; nested too deeply
        raise MalformedError("not a JSON object on one line") from None
    if not isinstance(document, dict):
        raise MalformedError("not a JSON object on one line")
    return document


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise MalformedError(f"{name} must be a text that is not empty")
    if len(value) > MAX_TEXT_CHARS:
        raise MalformedError(f"{name} is longer than {MAX_TEXT_CHARS} characters")
    if not value.isprintable():
        raise MalformedError(f"{name} must be on one line, without control characters")
    return value


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MalformedError("seconds must be a number")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not 0.0 < seconds < math.inf:  # nan, too
        raise MalformedError("seconds must be above 0 and finite")
    return seconds


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "…"
