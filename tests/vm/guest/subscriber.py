"""Who sees what the daemon publishes: its retained documents as they stand, its alerts in order.

Source: the MQTT interface, ``dmimad/v1/<host>/…``.  The network side is paho-mqtt in a thread of its own,
which is the product's dependency as well; what comes is kept as it came.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from tests.vm.guest.compare import Document

STEP_SECONDS = 0.05
"""How soon what no message announces (a process that ended) is looked at."""


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert as it came; ``arrived`` is the time.time() of that."""

    arrived: float
    topic: str
    event: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.event["id"])

    @property
    def code(self) -> str:
        return str(self.event["data"]["code"])

    @property
    def severity(self) -> str:
        return str(self.event["data"]["severity"])

    @property
    def status(self) -> str:
        return str(self.event["data"]["status"])

    @property
    def device(self) -> str:
        return str(self.event["data"]["device"]["name"])

    @property
    def message(self) -> str:
        return str(self.event["data"]["message"])

    def __str__(self) -> str:
        return f"{self.severity} {self.code} {self.status} {self.device!r}: {self.message}"


class Subscriber:
    """Collects everything under a host's topic; `until` waits for a condition on it."""

    def __init__(self, port: int, host: str) -> None:
        self._root = f"dmimad/v1/{host}/"
        self._changed = threading.Condition()
        self._record: TextIO | None = None
        self.documents: dict[str, Document] = {}
        self.alerts: list[Alert] = []
        self.status = ""
        self.onlines = 0
        self.messages = 0
        self._subscribed = False
        self._mark = ""
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port, keepalive=600)
        self._client.loop_start()
        self.until(lambda: self._subscribed, 30, "the subscription")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self.record(None)

    def drain(self) -> None:
        """Until everything the broker has got by now has come: a message of our own goes after it."""
        mark = f"{time.monotonic_ns()}"
        self._client.publish(self._root + "mark", mark, qos=1)
        self.until(lambda: self._mark == mark, 30, "the broker hands on what it has")

    def forget(self) -> None:
        """Take away the documents that a daemon has left at the broker."""
        for key in list(self.documents):
            self._client.publish(self._root + "device/" + key, b"", qos=1, retain=True)
        self.until(lambda: not self.documents, 30, "the documents are gone")

    def record(self, path: Path | None) -> None:
        """Write the messages to this file from now on."""
        with self._changed:
            if self._record is not None:
                self._record.close()
            self._record = None if path is None else path.open("a", encoding="utf-8")

    def until(self, what: Callable[[], bool], seconds: float, description: str) -> None:
        """Until `what` is true; it is asked again after each message."""
        if not self.within(what, seconds):
            raise AssertionError(f"did not happen in {seconds:g} s: {description}")

    def within(self, what: Callable[[], bool], seconds: float) -> bool:
        """Whether `what` has become true in time; it is asked again after each message."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not what():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, STEP_SECONDS))
        return True

    def _on_connect(self, client: mqtt.Client, *_: Any) -> None:
        client.subscribe(self._root + "#", qos=1)

    def _on_subscribe(self, *_: Any) -> None:
        with self._changed:
            self._subscribed = True
            self._changed.notify_all()

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        arrived = time.time()
        with self._changed:
            self.messages += 1
            self._take(arrived, message.topic.removeprefix(self._root), bytes(message.payload))
            self._changed.notify_all()
            if self._record is not None:
                text = message.payload.decode("utf-8", "backslashreplace")
                line = {"arrived": arrived, "topic": message.topic, "retain": message.retain, "payload": text}
                self._record.write(json.dumps(line, ensure_ascii=False) + "\n")
                self._record.flush()

    def _take(self, arrived: float, topic: str, payload: bytes) -> None:
        kind, _, rest = topic.partition("/")
        if kind == "status":
            self.status = payload.decode()
            self.onlines += self.status == "online"
        elif kind == "device" and payload:
            self.documents[rest] = json.loads(payload)
        elif kind == "device":
            self.documents.pop(rest, None)
        elif kind == "mark":
            self._mark = payload.decode()
        elif kind == "alert":
            self.alerts.append(Alert(arrived, topic, json.loads(payload)))
