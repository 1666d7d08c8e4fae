"""A real mosquitto, and a subscriber that collects, for tests.

`Broker` is a context manager that starts, stops, kills, freezes and restarts one broker on
one free port of the loopback; `Subscriber` connects to it, collects what arrives and lets
a test wait for what it wants to see.  Nothing here sleeps to synchronise: the broker's own
log says when it is ready, a condition says when a message has come, and every wait has a
deadline that fails the test with what was seen so far.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import itertools
import logging
import os
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiomqtt
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

DEADLINE_SECONDS = 20.0


#: Below those that Linux takes for connections, or a connection could get the port of a broker that is away;
#: each process begins at a place of its own.
_PORTS = itertools.cycle(range(12_000, 32_000))
for _ in range(os.getpid() % 20 * 1_000):
    next(_PORTS)


def free_port() -> int:
    """A TCP port of the loopback that nothing listens on just now, and that nobody else gets soon."""
    for port in _PORTS:
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("unreachable: ports without end")


@dataclass(frozen=True, slots=True)
class Tls:
    """Files for the listener; with `require_certificate` clients must show one of that CA."""

    ca: Path
    certificate: Path
    key: Path
    require_certificate: bool = False


class Broker:
    """One mosquitto (`program`, see conftest) with its files in `directory`, on one port over restarts.

    Killed, it forgets everything; with `persistent` it does not: a `Subscriber` then gets
    after a restart what was published before it had connected again.
    """

    def __init__(
        self,
        program: str,
        directory: Path,
        *,
        acl: str | None = None,
        users: dict[str, str] | None = None,
        tls: Tls | None = None,
        persistent: bool = False,
        extra: Sequence[str] = (),
    ) -> None:
        self.port = free_port()
        self._program = program
        self._directory = directory
        self._acl = acl
        self._tls = tls
        self._persistent = persistent
        self._extra = extra
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._ready = threading.Event()
        self.lines: list[str] = []
        if users is not None:
            self._passwords = directory / "passwords"
            self._passwords.write_text("".join(f"{name}:{password}\n" for name, password in users.items()))
            subprocess.run(["mosquitto_passwd", "-U", self._passwords], check=True, capture_output=True)
        self._users = users

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until it says that it runs."""
        assert self._process is None, "already started"
        self._ready.clear()
        self._process = subprocess.Popen(
            [self._program, "-c", str(self._write_config())],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._collect, args=(self._process,), daemon=True)
        self._reader.start()
        if not self._ready.wait(DEADLINE_SECONDS):
            self.kill()
            raise AssertionError("mosquitto does not start:\n" + "\n".join(self.lines))

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, frozen or not, and wait for the end; nothing if it does not run."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.kill()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def set_acl(self, acl: str) -> None:
        """Other access rules, from the next (re)start on."""
        self._acl = acl

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "not started"
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(number)
        process.wait(DEADLINE_SECONDS)
        assert self._reader is not None
        self._reader.join(DEADLINE_SECONDS)

    def _collect(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                self.lines.append(line.rstrip())
                if line.rstrip().endswith(" running"):
                    self._ready.set()

    def _write_config(self) -> Path:
        lines = [
            f"listener {self.port} 127.0.0.1",
            f"user {getpass.getuser()}",  # as root it would become another user and not read our files
            f"allow_anonymous {'false' if self._users else 'true'}",
            f"persistence {'true' if self._persistent else 'false'}",
            f"persistence_location {self._directory}/",
            "autosave_on_changes true",
            "autosave_interval 1",
            "log_dest stderr",
            "log_type all",
            # So that what it has acknowledged it has also sent on to those who listen.
            "max_inflight_messages 0",
            "max_queued_messages 1000000",  # 0, no limit, makes 2.0.11 hang up after each refusal
            *self._extra,
        ]
        if self._users:
            lines.append(f"password_file {self._passwords}")
        if self._acl is not None:
            acl = self._directory / "acl"
            acl.write_text(self._acl)
            lines.append(f"acl_file {acl}")
        if self._tls is not None:
            lines += [
                f"cafile {self._tls.ca}",
                f"certfile {self._tls.certificate}",
                f"keyfile {self._tls.key}",
            ]
            lines.append(f"require_certificate {'true' if self._tls.require_certificate else 'false'}")
        config = self._directory / "mosquitto.conf"
        config.write_text("\n".join(lines) + "\n")
        return config


def speaks(protocol: int, line: str) -> bool:
    """Whether a line of the log that tells of a client says that it speaks MQTT 5 or, for 3, 3.1.1."""
    # Mosquitto 2.0 counts in a way of its own, 2.1 says what a CONNECT packet does.
    return any(f"(p{number}," in line for number in ((5,) if protocol == 5 else (2, 4)))


@dataclass(frozen=True, slots=True)
class Received:
    """One message as it came; `retained`: it was there before the subscription, or again after."""

    topic: str
    payload: bytes
    qos: int
    retained: bool
    content_type: str | None


class Subscriber:
    """Collects what is published, over outages of the broker; use `subscribed_to`."""

    def __init__(self) -> None:
        self.messages: list[Received] = []
        self._arrived = asyncio.Event()
        self._subscribed = asyncio.Event()

    async def wait_for(self, what: Callable[[], bool], description: Callable[[], str]) -> None:
        """Until `what` is true; it is asked again whenever a message has come."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not what():
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            seen = "\n".join(f"  {m.topic} {m.payload[:80]!r}" for m in self.messages[-50:])
            raise AssertionError(f"did not come: {description()}; the last of what did:\n{seen}") from None

    async def wait_for_payloads(self, topic: str, payloads: Sequence[bytes]) -> None:
        """Until each of `payloads` has come on `topic`."""
        missing = set(payloads)

        def come() -> bool:
            missing.difference_update(self.payloads(topic))
            return not missing

        await self.wait_for(come, lambda: f"{len(missing)} on {topic}: {sorted(missing)[:10]}")

    async def wait_for_last(self, topic: str, payload: bytes) -> None:
        """Until the latest on `topic` is `payload`."""
        await self.wait_for(lambda: self.payloads(topic)[-1:] == [payload], lambda: f"{topic} {payload!r}")

    def payloads(self, topic: str = "#") -> list[bytes]:
        """Of the topics that match, in the order they came, repetitions included."""
        if "+" in topic or "#" in topic:
            return [m.payload for m in self.messages if aiomqtt.Topic(m.topic).matches(topic)]
        return [m.payload for m in self.messages if m.topic == topic]

    def forget(self) -> None:
        """Begin anew with nothing collected."""
        self.messages.clear()

    async def resubscribed(self) -> None:
        """Until it is subscribed; after `lost`: again."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self._subscribed.wait()

    def lost(self) -> None:
        """Say before a restart of the broker that the present subscription does not count."""
        self._subscribed.clear()

    def add(self, message: Received) -> None:
        self.messages.append(message)
        self._arrived.set()

    async def run(self, port: int, **options: Any) -> None:
        """Connect and subscribe, for ever; a broker with a memory keeps messages for it meanwhile."""
        expiry = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's
        expiry.SessionExpiryInterval = 3600
        options = {"hostname": "127.0.0.1", "port": port, "identifier": "subscriber", **options}
        while True:
            with contextlib.suppress(aiomqtt.MqttError, OSError):
                async with _Collector(self, clean_start=False, properties=expiry, **options) as client:
                    # As published: or a retained message would come without its flag when it is new.
                    await client.subscribe("#", options=SubscribeOptions(qos=1, retainAsPublished=True))
                    self._subscribed.set()
                    async for _ in client.messages:
                        pass
            await asyncio.sleep(0.02)  # between two attempts to connect, not to synchronise


class _Collector(aiomqtt.Client):
    """Hands messages on at once: aiomqtt's own queue is lost with the connection."""

    def __init__(self, subscriber: Subscriber, **options: Any) -> None:
        silent = logging.Logger("mqtt", level=logging.CRITICAL + 1)
        super().__init__(protocol=aiomqtt.ProtocolVersion.V5, timeout=5, logger=silent, **options)
        self._subscriber = subscriber

    def _on_message(self, client: PahoClient, userdata: Any, message: MQTTMessage) -> None:
        content_type = getattr(message.properties, "ContentType", None)
        payload = bytes(message.payload)
        self._subscriber.add(
            Received(message.topic, payload, message.qos, bool(message.retain), content_type)
        )


@contextlib.asynccontextmanager
async def subscribed_to(broker: Broker, **options: Any) -> AsyncIterator[Subscriber]:
    """A subscriber to everything, ready; `options` are those of aiomqtt's client."""
    subscriber = Subscriber()
    task = asyncio.create_task(subscriber.run(broker.port, **options))
    try:
        await subscriber.resubscribed()
        yield subscriber
    finally:
        while not task.done():
            task.cancel()  # again and again: Python 3.11 loses one that comes just as a wait_for() ends
            await asyncio.wait([task], timeout=1.0)
