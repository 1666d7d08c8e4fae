"""Who sees the alerts: what came over MQTT as events, and a subscriber no death of the broker makes forget.

`tests.broker.Subscriber` subscribes with QoS 1, as users do.  When its broker is killed it may lose
what the broker has written to it and it has not read: it has acknowledgements to write, the first of
them fails on the dead connection, and with that the connection and all that waits in it are given up.
`Tap` subscribes with QoS 0 and so has nothing to write; what is in its socket it reads to the end,
whoever is dead by then.  The broker (mosquitto 2.0, `handle__publish`) writes a message to its
subscribers' sockets before it writes the PUBACK to the publisher's.  So an alert the daemon may forget,
one that was acknowledged, has reached a tap that was subscribed when the daemon's connection was made
(`tests.service.relay` sees to that): what a tap has not, the daemon has not delivered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

import aiomqtt

from tests.broker import Broker, Received, Subscriber

#: Members of an alert's data that depend on when it was found.
_MOMENTS = frozenset({"since", "first", "last", "duration_seconds"})


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert as it came."""

    topic: str
    payload: bytes
    event: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.event["id"])

    @property
    def sequence(self) -> int:
        return int(self.event["sequence"])

    @property
    def summary(self) -> tuple[str, str, str, int | None]:
        """(code, status, subject, record): of the record that fired it, or that resolved it."""
        data = self.event["data"]
        record = data["evidence"]["record"] if data["status"] == "firing" else data["resolved_by_record"]
        return data["code"], data["status"], self.event["subject"], record

    @property
    def timeless(self) -> dict[str, Any]:
        """All of it but what depends on when and on which host it was found."""
        event = {key: value for key, value in self.event.items() if key not in ("time", "source")}
        if event["subject"] == self.event["source"]:
            event["subject"] = ""  # no device
        data = self.event["data"].items()
        return {
            **event,
            "data": {key: value for key, value in data if key not in _MOMENTS},
        }


def alerts(messages: Iterable[Received]) -> list[Alert]:
    """The alerts among `messages`, redeliveries included, in the order they came."""
    return [
        Alert(message.topic, message.payload, json.loads(message.payload))
        for message in messages
        if "/alert/" in message.topic
    ]


def first_arrivals(arrived: Iterable[Alert]) -> list[Alert]:
    """Each id once, as it came first."""
    seen: dict[str, Alert] = {}
    for alert in arrived:
        seen.setdefault(alert.id, alert)
    return list(seen.values())


async def arrived(subscriber: Subscriber, count: int) -> list[Alert]:
    """The alerts that have come, once there are `count` different ones."""

    def found() -> list[Alert]:
        return first_arrivals(alerts(subscriber.messages))

    await subscriber.wait_for(lambda: len(found()) >= count, lambda: f"alert {count}, after {found()[-1:]}")
    return found()


async def all_arrived(broker: Broker, subscriber: Subscriber) -> None:
    """Until `subscriber` has all that the broker has acknowledged so far.

    A message of our own goes the same way after them, and mosquitto keeps the order.
    """
    mark = secrets.token_bytes(8)
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        await client.publish("test/mark", mark, qos=1)
    await subscriber.wait_for_payloads("test/mark", [mark])


def retained(messages: Iterable[Received]) -> dict[str, bytes]:
    """Topic -> what a broker keeps for it, as far as `messages` tell."""
    kept = {message.topic: message.payload for message in messages if message.retained}
    return {topic: payload for topic, payload in kept.items() if payload}


class Tap(Subscriber):
    """Collects everything with QoS 0, without a session; see the module."""

    async def run(self, port: int, **options: Any) -> None:
        tap = self

        class Queue(asyncio.Queue[aiomqtt.Message]):
            """Hands messages on at once: what stays in a queue is lost with the connection."""

            def put_nowait(self, item: aiomqtt.Message) -> None:
                assert isinstance(item.payload, bytes)
                tap.add(Received(str(item.topic), item.payload, item.qos, bool(item.retain), None))

        while True:
            # No keepalive worth the name, for that would be something to write.
            client = aiomqtt.Client("127.0.0.1", port, keepalive=3600, timeout=5, queue_type=Queue, **options)
            with contextlib.suppress(aiomqtt.MqttError, OSError):
                async with client:
                    await client.subscribe("#", qos=0)
                    self._subscribed.set()
                    async for _ in client.messages:
                        pass
            await asyncio.sleep(0.02)  # between two attempts to connect, not to synchronise


@contextlib.asynccontextmanager
async def tapped(broker: Broker) -> AsyncIterator[Tap]:
    """A tap on everything, subscribed."""
    tap = Tap()
    task = asyncio.create_task(tap.run(broker.port))
    try:
        await tap.resubscribed()
        yield tap
    finally:
        task.cancel()
        await asyncio.wait([task])
