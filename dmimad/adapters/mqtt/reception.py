"""One connection to an MQTT broker that receives: what came, in order, acknowledged when it is done with.

Source: MQTT 5.0 and 3.1.1 (OASIS); aiomqtt 2.5.1 and paho-mqtt 2.2, both read.

aiomqtt acknowledges a message before anybody has seen it, and its queue is lost with the
connection.  Here a message is acknowledged by the one who took it, so that a broker with a
session for this client (`persistent`) sends again what was not dealt with.

Does not reconnect, and does not look into messages.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiomqtt
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from dmimad.adapters.mqtt.link import REFUSED, AccessSettings, Link, connection
from dmimad.core.errors import AdapterError

RECEIVE_MAXIMUM = 100
"""Messages with QoS 1 that a broker of MQTT 5 may have under way to us."""
MAX_PACKET_BYTES = 1 << 20
"""A broker of MQTT 5 keeps larger ones to itself."""
SESSION_SECONDS = 7 * 24 * 3600
"""How long a broker of MQTT 5 keeps the session of a client that is gone."""
MAX_WAITING, MAX_WAITING_BYTES = 10_000, 64 << 20
MAX_WAITING_QOS0, MAX_WAITING_QOS0_BYTES = 1_000, 16 << 20
"""Of messages nobody has taken yet; QoS 0 has no flow control, and must not crowd out the rest."""
_ANSWER_SECONDS = 10.0
_GOODBYE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message; `packet` is what to acknowledge, None: nothing."""

    topic: str
    payload: bytes
    retained: bool
    packet: int | None


class Reception(Link):
    """A connection that receives; `open_reception` makes one.

    Args:
        max_payload_bytes: of longer payloads only one byte more than this is kept.
    """

    def __init__(self, max_payload_bytes: int, **options: Any) -> None:
        super().__init__(lambda: None, **options)
        self._client.manual_ack_set(True)
        self._max_payload_bytes = max_payload_bytes
        self._arrived = asyncio.Event()
        self._waiting: deque[Arrival] = deque()
        self._waiting_bytes = 0
        self._dropped = 0

    async def arrival(self, seconds: float) -> Arrival | None:
        """The next message; None if none has come for so long.

        Raises:
            aiomqtt.MqttError: the connection is gone, and everything that came by it is taken.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._waiting and not self._disconnected.done():
                    self._arrived.clear()
                    await self._arrived.wait()
        if self._waiting:
            arrival = self._waiting.popleft()
            self._waiting_bytes -= len(arrival.payload)
            return arrival
        if self._disconnected.done():
            self._disconnected.result()
            raise aiomqtt.MqttError("the connection has ended")
        return None

    def acknowledge(self, arrival: Arrival) -> None:
        """It is dealt with; nothing if the connection is gone (a broker with a session sends it again)."""
        if arrival.packet is not None and not self._disconnected.done():
            self._client.ack(arrival.packet, 1)

    def take_dropped(self) -> int:
        """How many messages were dropped since the last call, because too many were waiting."""
        dropped, self._dropped = self._dropped, 0
        return dropped

    async def enter(self, topics: Sequence[str]) -> None:
        """Connect and subscribe with QoS 1; raises as `open_reception` does."""
        await self.__aenter__()
        _raise_if_cancelled()
        self._disconnected.add_done_callback(lambda _: self._arrived.set())
        codes: Sequence[int | ReasonCode] = await self.subscribe([(topic, 1) for topic in topics])
        _raise_if_cancelled()
        for topic, code in zip(topics, codes, strict=False):
            value = code.value if isinstance(code, ReasonCode) else code
            if value >= REFUSED:
                where = f"{self._hostname}:{self._port}"
                remedy = "check the broker's access list for this client"
                raise AdapterError(f"the broker refuses the subscription to {topic}", where, remedy)

    async def leave(self) -> None:
        """Say goodbye, if there is somebody to hear it, and close."""
        with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self.__aexit__(None, None, None)
        await self.abort()

    def _on_message(self, client: PahoClient, userdata: Any, message: MQTTMessage) -> None:
        quality_0 = message.qos == 0
        payload = bytes(message.payload[: self._max_payload_bytes + 1])
        waiting, size = len(self._waiting), self._waiting_bytes + len(payload)
        if (
            waiting >= (MAX_WAITING_QOS0 if quality_0 else MAX_WAITING)
            or size > (MAX_WAITING_QOS0_BYTES if quality_0 else MAX_WAITING_BYTES)
            or message.qos > 1  # more than was asked for
        ):
            self._dropped += 1
            return
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = "\N{REPLACEMENT CHARACTER}"
        self._waiting_bytes = size
        self._waiting.append(
            Arrival(topic, payload, bool(message.retain), None if quality_0 else message.mid)
        )
        self._arrived.set()


async def open_reception(
    settings: AccessSettings,
    topics: Sequence[str],
    *,
    client_id: str,
    persistent: bool,
    max_payload_bytes: int,
) -> Reception:
    """A new connection, subscribed to `topics`.

    `persistent`: the broker keeps what comes while the client of this id is away.
    Raises aiomqtt.MqttError, AdapterError or OSError; `link.explain` puts each into words.
    """
    reception = Reception(
        max_payload_bytes,
        **await connection(settings, client_id),
        timeout=_ANSWER_SECONDS,
        **_session(settings.protocol == 5, persistent),
    )
    try:
        await reception.enter(topics)
    except BaseException:
        await reception.abort()
        raise
    return reception


def _session(version5: bool, persistent: bool) -> dict[str, Any]:
    """aiomqtt's options for it."""
    if not version5:
        return {"clean_session": not persistent}
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's
    properties.ReceiveMaximum = RECEIVE_MAXIMUM
    properties.MaximumPacketSize = MAX_PACKET_BYTES
    if persistent:
        properties.SessionExpiryInterval = SESSION_SECONDS
    return {"clean_start": not persistent, "properties": properties}


def _raise_if_cancelled() -> None:
    """For aiomqtt's `wait_for`: before Python 3.12 a cancellation gets lost when the result comes with it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
