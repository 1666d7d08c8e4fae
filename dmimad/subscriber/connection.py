"""From the broker to a program: `subscribe` connects, and again, and yields what a `Watch` makes of it.

Source: docs/mqtt.md; `dmimad.adapters.mqtt.reception` for the connection itself.

A message is acknowledged when the program asks for the event after it.  With a client id of its own the
broker keeps alerts of an outage for the program; without one they are told to be missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from dmimad.adapters.mqtt.link import explain
from dmimad.adapters.mqtt.reception import Reception, open_reception
from dmimad.core.cloudevent import TOPIC_ROOT
from dmimad.core.errors import AdapterError
from dmimad.core.transport import usual_port
from dmimad.subscriber.events import Connected, Disconnected, Event, Malformed
from dmimad.subscriber.reading import MAX_PAYLOAD_BYTES
from dmimad.subscriber.watch import Watch

TOPICS = (f"{TOPIC_ROOT}/+/status", f"{TOPIC_ROOT}/+/alert/+")

_TICK_SECONDS = 1.0
_SETTLED_SECONDS = 5.0  # a connection that lived so long was a success
_FIRST_DELAY_SECONDS, _DELAY_FACTOR, _LONGEST_DELAY_SECONDS = 0.1, 1.5, 30.0
_CLIENT = "dmimad-subscriber-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Where the broker is, and how it lets one in; the names are those of the settings in [mqtt].

    Attributes:
        port: 0: the usual one, 8883 with TLS, else 1883.
        protocol: 5, or 3 for MQTT 3.1.1.
        tls: "on", "off", or "auto": on if the host is not the loopback, or files for TLS are given.
        client_id: one of the program's own, for which the broker keeps messages while it is away;
            "": any, and nothing is kept.
    """

    host: str = "127.0.0.1"
    port: int = 0
    protocol: int = 5
    username: str = ""
    password_file: str = ""
    allow_plain_password: bool = False
    tls: str = "auto"
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    client_id: str = ""
    keepalive_seconds: int = 30

    def __post_init__(self) -> None:
        if self.port == 0:
            object.__setattr__(self, "port", usual_port(self))  # it is frozen from here on

    @property
    def where(self) -> str:
        """To name it by."""
        return f"{self.host}:{self.port}"


async def subscribe(
    broker: Broker, make_watch: Callable[[float], Watch] = Watch
) -> AsyncGenerator[Event, None]:
    """What happens, for ever; the first event is `Connected`.

    ``make_watch`` gets the time and makes the watch; times are Unix seconds.

    Raises:
        AdapterError: there is no broker at the start, or files are not usable.  Later it connects again,
            whatever happens.
    """
    clock = _clock()
    client_id = broker.client_id or _CLIENT + secrets.token_hex(4)
    try:
        reception = await _open(broker, client_id)
    except AdapterError:
        raise
    except Exception as error:
        problem = explain(error, broker.where)
        what = problem.text.removeprefix(f"{broker.where}: ")
        raise AdapterError(what, broker.where, problem.remedy) from None
    watch = make_watch(clock())
    again, tries = False, 0
    while True:
        began = clock()
        try:
            yield Connected(broker.where, again)
            async with contextlib.aclosing(_received(reception, watch, clock)) as events:
                async for event in events:
                    yield event
        except Exception as error:
            lost = error
        finally:
            await reception.leave()
        watch.disconnected(clock())
        again, tries, told = True, 0 if clock() - began >= _SETTLED_SECONDS else tries, ""
        while True:
            problem = explain(lost, broker.where)
            if problem.text != told:
                told = problem.text
                yield Disconnected(broker.where, problem.text)
            await asyncio.sleep(_delay(tries))
            tries += 1
            try:
                reception = await _open(broker, client_id)
                break
            except Exception as error:  # whatever it is, the next try may be a better one
                lost = error
        watch.connected(clock())


async def _open(broker: Broker, client_id: str) -> Reception:
    return await open_reception(
        broker,
        TOPICS,
        client_id=client_id,
        persistent=bool(broker.client_id),
        max_payload_bytes=MAX_PAYLOAD_BYTES,
    )


async def _received(
    reception: Reception, watch: Watch, clock: Callable[[], float]
) -> AsyncGenerator[Event, None]:
    """Until the connection is gone, which is an exception."""
    due = clock() + _TICK_SECONDS
    while True:
        arrival = await reception.arrival(max(due - clock(), 0.0))
        if arrival is not None:
            for event in watch.receive(arrival.topic, arrival.payload, arrival.retained, clock()):
                yield event
            reception.acknowledge(arrival)
        if clock() >= due:
            due = clock() + _TICK_SECONDS
            for event in watch.tick(clock()):
                yield event
            if dropped := reception.take_dropped():
                yield Malformed("", f"{dropped} messages were dropped: they come faster than they are taken")


def _delay(tries: int) -> float:
    """Seconds before the next connection: growing, and not the same for everybody."""
    ceiling = min(_FIRST_DELAY_SECONDS * _DELAY_FACTOR ** min(tries, 50), _LONGEST_DELAY_SECONDS)
    return random.uniform(0, ceiling)


def _clock() -> Callable[[], float]:
    """Unix seconds that do not jump when the clock is set."""
    offset = time.time() - time.monotonic()
    return lambda: time.monotonic() + offset
