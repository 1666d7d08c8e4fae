"""One connection to an MQTT broker: settings to socket, acknowledgements, and why it ended.

Source: MQTT 5.0 and 3.1.1 (OASIS); aiomqtt 2.5.1 and paho-mqtt 2.2, both read: what is
overridden here is theirs, private in part, and the reason for the upper bound on aiomqtt.
What paho does: reads and writes happen in the event loop, only the connect (name service,
TCP, TLS) in a thread, where it can not be cancelled but ends by itself after 5 s.

Does not reconnect, order, retry or count: that is the publisher.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import aiomqtt
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import DisconnectFlags
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from dmimad.adapters.mqtt.tls import Credentials, TlsSocket, read_credentials
from dmimad.core.errors import AdapterError, MalformedError
from dmimad.core.transport import Access

REFUSED = 0x80
"""MQTT 5.0 section 2.4: reason codes from here on are failures; 0x10, nobody listens, is none."""
KEEP_ALIVE_TIMEOUT = 0x8D
INNOCENT_CLOSINGS = frozenset({0x00, 0x89, 0x8B, KEEP_ALIVE_TIMEOUT, 0x8E, 0x98, 0x9C, 0x9D, 0x9F, 0xA0})
"""Reasons of a DISCONNECT that no message can have given: shutting down, busy, taken over, ..."""


class AccessSettings(Access, Protocol):
    """Where the broker is, and how it lets one in: the part of [mqtt] that subscribers share."""

    @property
    def port(self) -> int: ...
    @property
    def protocol(self) -> int: ...
    @property
    def keepalive_seconds(self) -> int: ...


class BrokerSettings(AccessSettings, Protocol):
    """The part of the settings, [mqtt], that is used here."""

    @property
    def max_in_flight(self) -> int: ...
    @property
    def max_attempts(self) -> int: ...


@runtime_checkable
class KeepsCredentials(Protocol):
    """Settings that know better than to read the files: for instance what was good the last time."""

    def credentials(self) -> Credentials:
        """For the next connection; called in a thread.  Raises AdapterError where there are none."""
        ...


ADVICE: Mapping[int, str] = {
    0x82: "is mqtt.port the right one?",
    0x84: "set mqtt.protocol = 3, or use a broker that speaks MQTT 5",
    0x85: "set another host.id: the broker does not accept the client id",
    0x86: "check mqtt.username and mqtt.password_file",
    0x87: "check mqtt.username and mqtt.password_file, and the broker's access list",
    0x8A: "the broker has banned this client",
    0x8C: "the broker wants a way of authentication dmimad has not",
    0x8E: "end the other client with this id: is there a second dmimad with the same host.id?",
    0x90: "set another host.id: the broker does not accept the topic",
    0x93: "lower mqtt.max_in_flight",
    0x95: "raise the largest packet the broker accepts",
    0x97: "raise the broker's quota for this client",
    0x9A: "let the broker keep retained messages",
    0x9B: "let the broker accept QoS 1",
}
"""Reason codes of MQTT 5.0 section 2.4 (paho translates those of 3.1.1) -> what to do."""
LOOK = "look at the broker's log"


@dataclass(frozen=True, slots=True)
class Answer:
    """A PUBACK: to which packet identifier, reason code (0 under 3.1.1) and its name."""

    packet: int
    code: int
    name: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, in the same words as long as it is the same problem, and what to do."""

    text: str
    remedy: str


class Link(aiomqtt.Client):
    """aiomqtt's client plus what it does not show: PUBACK reasons, the broker's limits, why it ended.

    All use of aiomqtt's and paho's private side is here.
    """

    def __init__(self, wake: Callable[[], None], **options: Any) -> None:
        super().__init__(**options)
        self.answers: deque[Answer] = deque()  # not yet looked at
        self.receive_maximum = 65535
        self.close_reason = 0  # paho's word for how it ended, a reason code; 0: as we wished
        self._wake = wake
        self._closed = asyncio.Event()
        self._closed_socket: object = None
        self._thread = threading.get_ident()
        self._abandoned = False
        self._maximum_packet_bytes = 268435460
        self._packed_for = ""
        self._packed: tuple[Properties | None, int] = (None, 1)
        self._version5 = options["protocol"] == aiomqtt.ProtocolVersion.V5

    def send(self, topic: str, payload: bytes, content_type: str, *, retain: bool) -> int:
        """Publish with QoS 1 without waiting; returns the packet identifier its answer will have.

        Raises:
            MalformedError: this message can not be sent to this broker.
            aiomqtt.MqttError: the connection is gone.
        """
        try:
            properties, size = self._properties_for(content_type if self._version5 else "")
            size += len(topic.encode()) + len(payload) + 4  # with the topic's length, the packet identifier
            size += 2 if size < 128 else 3 if size < 16384 else 4 if size < 2097152 else 5  # fixed header
            if size > self._maximum_packet_bytes:
                raise MalformedError(f"larger than the {self._maximum_packet_bytes} bytes the broker accepts")
            if not topic or "\0" in topic:  # paho lets both pass
                raise MalformedError("not a topic: empty, or with a NUL in it")
            info = self._client.publish(topic, payload, 1, retain, properties)
        except ValueError as exc:  # wildcards, length, surrogates
            raise MalformedError(f"not a topic or payload: {exc}") from exc
        if info.rc != 0:
            raise aiomqtt.MqttCodeError(info.rc, "Could not publish message")
        return info.mid

    def flush(self) -> None:
        """Write what `send` has queued, as far as the socket takes it, and not only when the loop is next."""
        self._write()

    def _properties_for(self, content_type: str) -> tuple[Properties | None, int]:
        """With their packed size; kept, since messages in a row have the same, and paho is slow at it."""
        if content_type != self._packed_for:
            properties = None
            if content_type:
                properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's
                properties.ContentType = content_type
            size = len(properties.pack()) if properties is not None else 1  # type: ignore[no-untyped-call]
            self._packed_for, self._packed = content_type, (properties, size)
        return self._packed

    async def abort(self) -> None:
        """Cut the connection, or the attempt at one that still goes on in its thread."""
        self._abandoned = True
        if isinstance(sock := self._client.socket(), socket.socket):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(TimeoutError):  # paho sees the end of file, and closes everything itself
                async with asyncio.timeout(1):
                    await self._closed.wait()

    def _on_socket_close(self, client: PahoClient, userdata: Any, sock: Any) -> None:
        super()._on_socket_close(client, userdata, sock)
        self._closed_socket = sock
        self._closed.set()

    def _on_socket_open(self, client: PahoClient, userdata: Any, sock: Any) -> None:
        if self._abandoned:  # or it would take the client id from the connection that is used
            sock.close()
            raise ConnectionAbortedError("abandoned")
        super()._on_socket_open(client, userdata, sock)

    def _on_socket_register_write(self, client: PahoClient, userdata: Any, sock: Any) -> None:
        # aiomqtt defers this always, and to a descriptor that may be closed by then, or another's.
        if threading.get_ident() == self._thread:
            self._loop.add_writer(sock.fileno(), self._write)
        else:  # the CONNECT packet, queued by the connecting thread
            self._loop.call_soon_threadsafe(self._start_writing, sock)

    def _start_writing(self, sock: Any) -> None:
        current = self._client.socket()
        if current is not None and current is sock:
            self._loop.add_writer(current.fileno(), self._write)

    def _write(self) -> None:
        try:
            self._client.loop_write()
        except Exception as exc:  # as aiomqtt does: it means that the connection is broken
            if not self._disconnected.done():
                self._disconnected.set_exception(exc)

    def _on_connect(
        self, client: PahoClient, userdata: Any, flags: Any, reason_code: ReasonCode, properties: Any = None
    ) -> None:
        self.receive_maximum = max(1, getattr(properties, "ReceiveMaximum", self.receive_maximum))
        self._maximum_packet_bytes = getattr(properties, "MaximumPacketSize", self._maximum_packet_bytes)
        if not self._abandoned:
            super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self,
        client: PahoClient,
        userdata: Any,
        flags: DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if self._abandoned or self._connected.cancelled():
            return  # nobody waits for it any more
        self.close_reason = reason_code.value
        if not self._connected.done():  # aiomqtt would wait for the CONNACK all the same
            self._connected.set_exception(self._refusal())
        super()._on_disconnect(client, userdata, flags, reason_code, properties)
        if self._disconnected.done() and not self._disconnected.cancelled():
            self._disconnected.exception()  # seen, even if nobody iterates the messages

    def _refusal(self) -> AdapterError:
        """Why there is no answer to our CONNECT."""
        sock, where = self._closed_socket, f"{self._hostname}:{self._port}"
        if isinstance(sock, TlsSocket) and sock.failure is not None:
            return AdapterError(sock.failure.what, where, sock.failure.remedy)
        remedy = "does it speak mqtt.protocol on mqtt.port, with TLS or without as set here?"
        return AdapterError("hung up before answering", where, remedy)

    def _on_publish(
        self, client: PahoClient, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        super()._on_publish(client, userdata, mid, reason_code, properties)
        self.answers.append(Answer(mid, reason_code.value, str(reason_code)))
        self._wake()


async def connect(
    settings: BrokerSettings,
    client_id: str,
    status_topic: str,
    answer_seconds: float,
    wake: Callable[[], None],
) -> Link:
    """A new connection, with the retained `offline` as its will.

    `wake` is called when an answer has come.  Raises aiomqtt.MqttError, AdapterError or
    OSError; `explain` puts each into words.
    """
    link = Link(
        wake,
        **await connection(settings, client_id),
        will=aiomqtt.Will(status_topic, b"offline", qos=1, retain=True),
        timeout=answer_seconds,
        max_inflight_messages=0,  # no second window under the publisher's
        **({"clean_start": True} if settings.protocol == 5 else {"clean_session": True}),
    )
    try:
        await link.__aenter__()
    except BaseException:
        await link.abort()
        raise
    return link


async def connection(settings: AccessSettings, client_id: str) -> dict[str, Any]:
    """aiomqtt's arguments for any connection to this broker; AdapterError: a file is unusable."""
    found = await asyncio.to_thread(credentials, settings)
    version5 = settings.protocol == 5
    return {
        "hostname": settings.host,
        "port": settings.port,
        "identifier": client_id,
        "protocol": aiomqtt.ProtocolVersion.V5 if version5 else aiomqtt.ProtocolVersion.V311,
        "username": settings.username or None,
        "password": found.password,
        "tls_context": found.tls,
        "keepalive": settings.keepalive_seconds,
        # Without it Nagle's algorithm holds a message back until the one before is acknowledged.
        "socket_options": [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        "logger": logging.Logger("mqtt", level=logging.CRITICAL + 1),  # who connects tells, once
    }


def credentials(settings: AccessSettings) -> Credentials:
    """Password and TLS, read anew for each connection; AdapterError: unusable."""
    if isinstance(settings, KeepsCredentials):
        return settings.credentials()
    return read_credentials(settings, f"{settings.host}:{settings.port}")


_CAUSES: tuple[tuple[type[Exception], str, str], ...] = (
    (socket.gaierror, "host name not found", "check mqtt.host and the name service"),
    (ConnectionRefusedError, "nothing listens there", "start the broker, or set mqtt.host and mqtt.port"),
    (TimeoutError, "the broker does not answer", "check mqtt.host, mqtt.port, firewalls and the broker"),
    (OSError, "no connection", "check mqtt.host and mqtt.port"),
)


def explain(exc: Exception, where: str) -> Problem:
    """Why there is no connection to the broker at `where`, for a person."""
    if isinstance(exc, AdapterError):
        return Problem(f"{exc.where}: {exc.what}", exc.remedy)
    for cause in (exc, exc.__cause__, exc.__context__):  # aiomqtt hides causes, `from None`
        code = getattr(cause, "rc", None)
        if isinstance(code, ReasonCode):
            return _explain_code(code, where)
        for kind, problem, remedy in _CAUSES:
            if isinstance(cause, kind):
                return Problem(f"{where}: {problem}" + (f" ({cause})" if str(cause) else ""), remedy)
    return Problem(f"{where}: {type(exc).__name__}: {exc}", "report this")


def _explain_code(code: ReasonCode, where: str) -> Problem:
    if code.packetType == PacketTypes.DISCONNECT and code.value == KEEP_ALIVE_TIMEOUT:
        return Problem(f"{where}: the broker has fallen silent", "look at the broker")
    if code.packetType == PacketTypes.DISCONNECT and code.value == REFUSED:  # paho's word for an end of file
        remedy = f"{LOOK}; is there a second dmimad with the same host.id?"
        return Problem(f"{where}: the connection was cut", remedy)
    return Problem(f"{where}: {code}", ADVICE.get(code.value, LOOK))
