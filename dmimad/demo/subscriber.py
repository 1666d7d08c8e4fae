"""A subscriber as any other: connects to the broker, takes what the daemon publishes, notes when it came.

Source: the project's own topics and alerts (`dmimad.core.cloudevent`); aiomqtt 2.5.

Whoever is on this host may publish to the demo's broker, so nothing is taken for granted: what is not an
alert is None.  It does not show anything, and does not acknowledge by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiomqtt

from dmimad.core.cloudevent import TOPIC_ROOT
from dmimad.core.errors import AdapterError
from dmimad.demo.broker import ADDRESS

#: More in one message is not from the daemon.
MAX_PAYLOAD_BYTES = 256 << 10
MAX_DURATION_SECONDS = 1e9
_END_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message and when it came, in seconds of the monotonic clock."""

    topic: str
    payload: bytes
    at: float


@dataclass(frozen=True, slots=True)
class Alert:
    """What an alert says; "" or None for what it does not."""

    status: str
    severity: str
    code: str
    message: str
    device: str
    expected: str
    actual: str
    record: int | None
    event: str
    template_digest: str
    duration_seconds: float | None
    resolved_by_record: int | None


@contextlib.asynccontextmanager
async def subscriber(port: int, host: str) -> AsyncIterator[asyncio.Queue[Arrival | None]]:
    """What is published for `host`, in the order it comes; None when the broker hung up."""
    arrivals: asyncio.Queue[Arrival | None] = asyncio.Queue()
    silent = logging.Logger("subscriber", level=logging.CRITICAL + 1)
    version = aiomqtt.ProtocolVersion.V311
    try:
        async with aiomqtt.Client(ADDRESS, port, protocol=version, timeout=10, logger=silent) as client:
            await client.subscribe(f"{TOPIC_ROOT}/{host}/#", qos=1)
            task = asyncio.create_task(_collect(client, arrivals))
            try:
                yield arrivals
            finally:
                task.cancel()
                await asyncio.wait([task], timeout=_END_SECONDS)
    except aiomqtt.MqttError as error:
        raise AdapterError(f"the subscriber failed: {error}", f"demo: {ADDRESS}:{port}") from error


async def _collect(client: aiomqtt.Client, arrivals: asyncio.Queue[Arrival | None]) -> None:
    with contextlib.suppress(aiomqtt.MqttError):
        async for message in client.messages:
            payload = message.payload
            if isinstance(payload, bytes) and len(payload) <= MAX_PAYLOAD_BYTES:
                arrivals.put_nowait(Arrival(message.topic.value, payload, time.monotonic()))
    arrivals.put_nowait(None)


def read_alert(payload: bytes) -> Alert | None:
    """An alert's CloudEvent; None if it is none."""
    data = document(document(payload).get("data"))
    evidence, device = document(data.get("evidence")), document(data.get("device"))
    alert = Alert(
        status=_text(data.get("status")),
        severity=_text(data.get("severity")),
        code=_text(data.get("code")),
        message=_text(data.get("message")),
        device=_text(device.get("name")),
        expected=_text(data.get("expected")),
        actual=_text(data.get("actual")),
        record=_integer(evidence.get("record")),
        event=_text(evidence.get("event")),
        template_digest=_text(evidence.get("template_digest")),
        duration_seconds=_number(data.get("duration_seconds")),
        resolved_by_record=_integer(data.get("resolved_by_record")),
    )
    return alert if alert.code and alert.status in ("firing", "resolved") else None


def document(value: object) -> dict[str, Any]:
    """A JSON object, from its text or as it is; empty if it is none."""
    if isinstance(value, bytes):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> float | None:
    """Seconds that can be shown."""
    return float(value) if isinstance(value, int | float) and 0 <= value <= MAX_DURATION_SECONDS else None
