"""Alerts as a daemon makes and signs them, by the core's own functions, and forgeries of them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import aiomqtt

from dmimad.adapters.keys import SigningKey
from dmimad.core.alert import Alert, Notice, State, Status
from dmimad.core.cloudevent import Sign, notice_message
from dmimad.core.commit import Message
from dmimad.core.finding import Finding, Severity
from dmimad.core.verifiability import sign_event

#: 2026-11-22T14:37:14.203Z
BEGAN = 1795358234.203


def signer(key: SigningKey) -> Sign:
    """What a monitor is given to sign with."""
    return lambda event: sign_event(event, key.keyid, key.sign)


def alert(
    sequence: int,
    *,
    host: str = "web-1",
    key: SigningKey | None = None,
    id: str = "",
    at: float | None = None,
    severity: Severity = Severity.CRITICAL,
    status: Status = Status.FIRING,
    subject: str = "linear1",
    message: str = "linear1 (254:0) runs a table that is not approved",
) -> Message:
    """The message of a notice; each sequence number has an id and a second of its own unless told."""
    at = BEGAN + sequence if at is None else at
    data = {
        "expected": "sha256:" + "ab" * 32,
        "actual": "sha256:" + "cd" * 32,
        "baseline": "main.toml: linear1",
        "witness": "both",
    }
    finding = Finding("drift.active", severity, message, "254:0", 6, data)
    state = State.FIRING if status is Status.FIRING else State.RESOLVED
    held = Alert(f"key-{sequence}", finding, subject, state, BEGAN, at, 1)
    notice = Notice(id or f"{sequence:032x}", status, held, at, 6)
    return notice_message(notice, host, sequence, signer(key) if key is not None else None)


def changed(message: Message, **members: Any) -> bytes:
    """The payload with other members of the event, or of its data with `data_…`; None: without it."""
    event = json.loads(message.payload)
    for name, value in members.items():
        where, inner = (event["data"], name[5:]) if name.startswith("data_") else (event, name)
        if value is None:
            where.pop(inner, None)
        else:
            where[inner] = value
    return json.dumps(event).encode()


def write_public(path: Path, key: SigningKey) -> Path:
    """A file with the public key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(key.public_pem)
    return path


async def publish(port: int, *messages: Message, retain: bool = False, qos: int = 1) -> None:
    """Deliver messages to a broker, with QoS 1 as a daemon does."""
    silent = logging.Logger("mqtt", level=logging.CRITICAL + 1)
    async with aiomqtt.Client("127.0.0.1", port, timeout=20, logger=silent) as client:
        for message in messages:
            await client.publish(message.topic, message.payload, qos=qos, retain=retain)


def status(payload: bytes, host: str = "web-1") -> Message:
    """A host's status."""
    return Message(f"dmimad/v1/{host}/status", payload, "")
