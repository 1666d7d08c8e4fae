"""Publishes the outbox's alerts and the devices' retained states to an MQTT broker.

Source: MQTT 5.0 and 3.1.1 (OASIS); aiomqtt 2.5 over paho-mqtt 2, both read.

A message leaves the outbox when its PUBACK says success, and not before.  Messages go out
in outbox order, up to a window at once; a new connection starts again at the oldest that
is not acknowledged, so a subscriber may see one twice (the same id in it), never out of
order and never not at all.  A message the broker refuses is tried again later, others
pass it meanwhile, and after `max_attempts` it is a dead letter.  A refusal is a PUBACK
with a reason of 0x80 or above, or, where a broker can only hang up (all of 3.1.1), a
connection that is closed time and again while this message alone is in flight.  A 3.1.1
broker may also acknowledge what its access list then drops: only version 5 can tell.

The client id is `dmimad-<host>`, so that a new connection takes the place of a dead one at
the broker at once.  A second daemon with the same host id takes it over, too, and the two
then push each other out in turn.  When that has happened a few times, `rival` says so, the log
names the host id, and each waits longer and longer before it comes back, so that both get
their messages out in turn and the broker its rest.

Does not decide what is published, nor keep anything: see `dmimad.adapters.store`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import aiomqtt
from structlog.typing import FilteringBoundLogger

from dmimad.adapters.mqtt.link import (
    ADVICE,
    INNOCENT_CLOSINGS,
    KEEP_ALIVE_TIMEOUT,
    LOOK,
    REFUSED,
    Answer,
    BrokerSettings,
    Link,
    connect,
    explain,
)
from dmimad.core.commit import Outgoing
from dmimad.core.errors import AdapterError, MalformedError

TAKEN_OVER = 0x8E
"""MQTT 5.0, DISCONNECT: another client has connected with our id."""

RIVAL_CLOSINGS = 3
"""So many connections taken from us, each soon after it had begun: somebody else has our client id."""

SUSPICIOUS_CLOSINGS = 3
"""So many connections closed on us without one alert delivered: then find out which message it is."""


class OutboxPort(Protocol):
    """The part of the store that is used here; every call may raise AdapterError."""

    def pending(self, after: int, limit: int) -> list[Outgoing]: ...
    def acknowledged(self, seqs: Iterable[int]) -> None: ...
    def rejected(self, seq: int, reason: str, max_attempts: int) -> bool: ...
    def retained(self) -> frozenset[str]: ...
    def set_retained(self, *, published: Iterable[str] = (), cleared: Iterable[str] = ()) -> None: ...


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things may take, in seconds."""

    answer_seconds: float = 10.0  # until the CONNACK; without any PUBACK while one is due
    stop_seconds: float = 2.0  # for saying goodbye
    settled_seconds: float = 1.0  # a connection that lived so long was a success
    longest_quiet_seconds: float = 60.0  # the same for the log, when it is cut again and again
    first_delay_seconds: float = 0.1  # before the next connection, grows ...
    delay_factor: float = 1.5  # (gently: after an outage of t, the next try comes within 0.7 t)
    longest_delay_seconds: float = 30.0  # ... up to this
    first_yield_seconds: float = 2.0  # before coming back to a client id that another has, too, doubles ...
    longest_yield_seconds: float = 60.0  # ... up to this
    first_retry_seconds: float = 1.0  # before a refused message is sent again, doubles ...
    longest_retry_seconds: float = 300.0  # ... up to this


class Publisher:
    """One client of the broker, for as long as the daemon runs.

    Use it from the event loop's thread only.  Calls of the outbox are made directly: they
    are short, and the loop has nothing better to do than to have its messages accounted for.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        host_id: str,
        outbox: OutboxPort,
        desired: Callable[[], Mapping[str, bytes]],
        *,
        log: FilteringBoundLogger,
        random: random.Random,
        timing: Timing = Timing(),
    ) -> None:
        """`desired` gives the retained topics wanted now, the status not among them, and their payloads."""
        self.connected = False
        self.rival = ""
        """What is wrong, if another client uses our client id; else empty."""
        self.turns = 0
        """Grows with each connection tried and each look at the outbox."""
        self._settings = settings
        self._host_id = host_id
        self._client_id = f"dmimad-{host_id}"
        self._status = f"dmimad/v1/{host_id}/status"
        self._where = f"{settings.host}:{settings.port}"
        self._outbox = outbox
        self._desired = desired
        self._log = log
        self._random = random
        self._timing = timing
        self._wakeup = asyncio.Event()
        self._dirty = True
        self._tries = 0  # failed connections in a row
        self._problem = ""  # the last one logged, until a connection has settled
        self._refused: set[tuple[str, str]] = set()  # (topic, reason) that was logged
        self._parked_rows: dict[int, float] = {}  # seq -> when to send it again
        self._parked_states: dict[str, tuple[float, int]] = {}  # topic -> (when, refusals)
        self._closings = 0  # in a row, each with messages in flight and no alert delivered
        self._quiet_seconds = timing.settled_seconds  # a connection lives so long before a problem is over
        self._taken = 0  # connections in a row that were soon taken from us
        self._rewound = False

    def wake(self) -> None:
        """The outbox has new rows, or the retained states have changed."""
        self._dirty = True
        self._wakeup.set()

    def rewind(self) -> None:
        """Look at all of the outbox again: there are rows that could not be read when it was their turn."""
        self._rewound = True
        self.wake()

    def nudge(self) -> None:
        """Make a turn, also if there is nothing to do; without a connection that is done anyway."""
        self._wakeup.set()

    async def run(self) -> None:
        """Connect, publish, and again, until cancelled; then say `offline` and disconnect."""
        while True:
            self.turns += 1
            try:
                await self._connection()
            except Exception as exc:  # whatever it is, the alerts must get out one day
                self._report(exc)
                _raise_if_cancelled()
            await asyncio.sleep(self._delay())

    def _delay(self) -> float:
        """Before the next connection."""
        timing = self._timing
        if self.rival:
            ceiling = timing.first_yield_seconds * 2.0 ** min(self._taken - RIVAL_CLOSINGS, 50)
            return self._random.uniform(0.5, 1.0) * min(ceiling, timing.longest_yield_seconds)
        ceiling = timing.first_delay_seconds * timing.delay_factor ** min(self._tries, 50)
        self._tries += 1
        return self._random.uniform(0, min(ceiling, timing.longest_delay_seconds))

    # One connection

    async def _connection(self) -> None:
        answer_seconds = self._timing.answer_seconds
        try:
            link = await connect(
                self._settings, self._client_id, self._status, answer_seconds, self._wakeup.set
            )
        except (aiomqtt.MqttError, AdapterError, OSError):
            self._taken, self.rival = 0, ""  # it is the broker
            raise
        now = _now()
        session = _Session(link, began_at=now, progress_at=now)
        reader = asyncio.create_task(_read(link), name="mqtt reader")
        reader.add_done_callback(lambda _: self._wakeup.set())
        try:
            _raise_if_cancelled()
            self._begin(session)
            await self._pump(session, reader)
        except asyncio.CancelledError:
            await self._farewell(session)
            raise
        finally:
            self.connected = False
            reader.cancel()
            await asyncio.wait([reader])
            if not reader.cancelled():
                reader.exception()  # known: it is how the pump learnt of the end
            await link.abort()
            self._end(session)

    def _begin(self, session: _Session) -> None:
        self.connected = True
        self._dirty = True
        session.topics.update(self._outbox.retained())
        session.todo[self._status] = b"online"
        self._send_states(session, 1, _now())  # before any alert
        if not self._problem:
            self._log.info("mqtt_connected", broker=self._where, client_id=self._client_id)

    async def _pump(self, session: _Session, reader: asyncio.Task[None]) -> None:
        while True:
            self.turns += 1
            self._wakeup.clear()
            now = _now()
            self._settle(session, now)
            if reader.done():
                reader.result()
            if session.in_flight and now >= session.progress_at + self._timing.answer_seconds:
                raise AdapterError("the broker does not acknowledge", self._where, "look at the broker")
            self._judge(session, now)
            self._fill(session, now)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._next_deadline(session, now)):
                    await self._wakeup.wait()

    def _next_deadline(self, session: _Session, now: float) -> float | None:
        """Seconds until something is due without an event; None: nothing will be."""
        due = [when for when in self._parked_rows.values() if when > now]
        due += [
            when for topic, (when, _) in self._parked_states.items() if topic in session.todo and when > now
        ]
        if session.in_flight:
            due.append(session.progress_at + self._timing.answer_seconds)
        if session.answered and not session.settled:
            due.append(session.began_at + self._timing.settled_seconds)
        if session.answered and self._problem:
            due.append(session.began_at + self._quiet_seconds)
        if session.answered and self._taken:
            due.append(session.began_at + self._undisturbed_seconds)
        return max(min(due) - now, 0.0) if due else None

    def _judge(self, session: _Session, now: float) -> None:
        """Is it a success yet?  Not before the broker has acknowledged something, and lasted."""
        if not session.answered:
            return
        if now >= session.began_at + self._timing.settled_seconds:
            session.settled = True
            self._tries = 0
        if self._problem and now >= session.began_at + self._quiet_seconds:
            self._problem = ""
            self._refused.clear()
            self._log.info("mqtt_connected", broker=self._where, client_id=self._client_id)
        if self._taken and now >= session.began_at + self._undisturbed_seconds:
            self._taken = 0
            if self.rival:
                self.rival = ""
                self._log.info("mqtt_host_id_ours_again", host=self._host_id, broker=self._where)

    @property
    def _undisturbed_seconds(self) -> float:
        """Who shares our client id has not come back for longer than it would wait."""
        return 2 * self._timing.longest_yield_seconds if self.rival else self._timing.longest_quiet_seconds

    def _note_rival(self, session: _Session) -> None:
        """Was the connection taken by somebody with our client id?

        Not every broker says so: but one that has gone refuses the next connection, which ends the count.
        """
        reason = session.link.close_reason
        silently = reason == REFUSED and session.answered and not session.in_flight
        soon = _now() < session.began_at + self._undisturbed_seconds
        if not (soon and (reason == TAKEN_OVER or silently)):
            return
        self._taken += 1
        if self._taken < RIVAL_CLOSINGS or self.rival:
            return
        self.rival = f"another client takes our connection to {self._where} again and again: "
        self.rival += f'is there a second dmimad with host.id = "{self._host_id}"?'
        self._log.error(
            "mqtt_host_id_taken",
            host=self._host_id,
            broker=self._where,
            client_id=self._client_id,
            remedy="give one of the two another host.id",
        )

    async def _farewell(self, session: _Session) -> None:
        """Retained `offline`, then DISCONNECT; if the broker does not answer, its will says it."""
        try:
            async with asyncio.timeout(self._timing.stop_seconds):
                await session.link.publish(self._status, b"offline", qos=1, retain=True)
                await session.link.__aexit__(None, None, None)
        except (aiomqtt.MqttError, OSError) as exc:  # TimeoutError is an OSError
            self._log.info("mqtt_offline_not_published", broker=self._where, problem=str(exc))

    def _end(self, session: _Session) -> None:
        """Account for what was acknowledged last, and for what the end says about the rest."""
        self._note_rival(session)
        # Two clients that push each other out, say, are one problem, not one with every connection.
        cut = session.link.close_reason not in (0, KEEP_ALIVE_TIMEOUT)
        longest, shortest = self._timing.longest_quiet_seconds, self._timing.settled_seconds
        again = cut and _now() < session.began_at + longest
        self._quiet_seconds = min(2 * self._quiet_seconds, longest) if again else shortest
        try:
            self._settle(session, session.progress_at)
            innocent = session.link.close_reason in INNOCENT_CLOSINGS
            if innocent or not session.in_flight or session.rows_acknowledged:
                self._closings = 0
                return
            self._closings += 1
            if len(session.in_flight) == 1 and self._closings > SUSPICIOUS_CLOSINGS:
                (item,) = session.in_flight.values()
                self._refuse(item, "the broker closes the connection on it", _now())
        except AdapterError as exc:
            self._report(exc)

    # Answers

    def _settle(self, session: _Session, now: float) -> None:
        """Take in the PUBACKs that have come."""
        answers: list[tuple[_Item, Answer]] = []
        while session.link.answers:
            answer = session.link.answers.popleft()
            item = session.in_flight.pop(answer.packet, None)
            if item is not None:
                session.progress_at = now
                session.answered = True
                answers.append((item, answer))
        accepted = [item for item, answer in answers if answer.code < REFUSED]
        rows = [item.seq for item in accepted if item.seq]
        if rows:
            self._outbox.acknowledged(rows)
            session.rows_acknowledged += len(rows)
        cleared = [
            item.topic for item in accepted if item.clears and session.sent.get(item.topic) == _CLEARED
        ]
        if cleared:
            self._outbox.set_retained(cleared=cleared)
            session.topics.difference_update(cleared)
        for item in accepted:
            if self._refused:
                self._refused = {known for known in self._refused if known[0] != item.problem_topic}
            if not item.seq:
                self._parked_states.pop(item.topic, None)
        for item, answer in answers:
            if answer.code >= REFUSED:
                session.sent.pop(item.topic, None)
                self._dirty = True  # what was refused is to be planned again
                self._refuse(item, f"{answer.name} (0x{answer.code:02x})", now, ADVICE.get(answer.code, LOOK))

    def _refuse(self, item: _Item, reason: str, now: float, remedy: str = LOOK) -> None:
        if (item.problem_topic, reason) not in self._refused:
            self._refused.add((item.problem_topic, reason))
            self._log.error("mqtt_publish_refused", topic=item.topic, reason=reason, remedy=remedy)
        if not item.seq:
            refusals = self._parked_states.get(item.topic, (now, 0))[1] + 1
            self._parked_states[item.topic] = (now + self._retry_delay(refusals), refusals)
        elif self._outbox.rejected(item.seq, reason, self._settings.max_attempts):
            self._parked_rows.pop(item.seq, None)
            self._log.error("alert_not_delivered", seq=item.seq, topic=item.topic, reason=reason)
        else:
            self._parked_rows[item.seq] = now + self._retry_delay(item.refusals + 1)

    def _retry_delay(self, refusals: int) -> float:
        ceiling = self._timing.first_retry_seconds * 2.0 ** min(refusals - 1, 50)
        return self._random.uniform(0.5, 1.0) * min(ceiling, self._timing.longest_retry_seconds)

    # Sending

    def _fill(self, session: _Session, now: float) -> None:
        """Send what the window has room for: alerts first, but states get a place in every round."""
        free = self._window(session) - len(session.in_flight)
        if free <= 0:
            return
        session.more |= self._dirty
        session.states_turn = not session.states_turn
        reserved = 1 if (self._dirty or session.todo) and (free > 1 or session.states_turn) else 0
        sent = self._send_rows(session, free - reserved, now)
        if self._dirty:
            session.link.flush()  # `_plan` may wait for the disk
            self._plan(session)
            self._dirty = False
        sent += self._send_states(session, free - sent, now)
        self._send_rows(session, free - sent, now)

    def _window(self, session: _Session) -> int:
        full = min(self._settings.max_in_flight, session.link.receive_maximum)
        if self._closings >= SUSPICIOUS_CLOSINGS and session.rows_acknowledged < full:
            return 1  # alone in flight, a message that makes the broker hang up gives itself away
        return full

    def _plan(self, session: _Session) -> None:
        """Compare what is wanted with what this connection has published."""
        wanted = {self._status: b"online"}
        wanted.update((topic, payload) for topic, payload in self._desired().items() if payload)
        new = wanted.keys() - session.topics - {self._status}
        if new:
            self._outbox.set_retained(published=sorted(new))
            session.topics |= new
        session.todo = {t: p for t, p in wanted.items() if session.sent.get(t) != _digest(p)}
        for topic in sorted(session.topics - wanted.keys()):
            if session.sent.get(topic) != _CLEARED:
                session.todo[topic] = b""
        for topic in self._parked_states.keys() - wanted.keys() - session.topics:
            del self._parked_states[topic]

    def _send_states(self, session: _Session, limit: int, now: float) -> int:
        """Send up to `limit` retained states that are due; returns how many."""
        count = 0
        due = [t for t in session.todo if self._parked_states.get(t, (0.0, 0))[0] <= now]
        for topic in due[:limit]:
            payload = session.todo.pop(topic)
            session.sent[topic] = _digest(payload)
            count += self._send(session, _Item(topic, clears=not payload), payload, now)
        return count

    def _send_rows(self, session: _Session, limit: int, now: float) -> int:
        """Send up to `limit` alerts, those whose retry is due first; returns how many."""
        count = 0
        if self._rewound:
            self._rewound, session.cursor, session.more = False, 0, True
        flying = {item.seq for item in session.in_flight.values()}
        due = sorted(seq for seq, when in self._parked_rows.items() if when <= now and seq <= session.cursor)
        for seq in due[:limit]:
            del self._parked_rows[seq]
            for row in self._outbox.pending(seq - 1, 1):
                count += row.seq == seq and self._send_row(session, row, now)
        while session.more and count < limit:
            rows = self._outbox.pending(session.cursor, limit - count)
            session.more = len(rows) == limit - count
            for row in rows:
                session.cursor = row.seq
                if row.seq in flying:
                    continue  # after a `rewind`
                if self._parked_rows.get(row.seq, now) <= now:
                    self._parked_rows.pop(row.seq, None)
                    count += self._send_row(session, row, now)
        return count

    def _send_row(self, session: _Session, row: Outgoing, now: float) -> bool:
        item = _Item(row.message.topic, row.seq, row.attempts)
        return self._send(session, item, row.message.payload, now, row.message.content_type)

    def _send(
        self, session: _Session, item: _Item, payload: bytes, now: float, content_type: str = ""
    ) -> bool:
        if not session.in_flight:
            session.progress_at = now
        try:
            mid = session.link.send(item.topic, payload, content_type, retain=not item.seq)
        except MalformedError as exc:
            self._refuse(item, exc.reason, now)
            return False
        session.in_flight[mid] = item
        return True

    # Problems

    def _report(self, exc: Exception) -> None:
        """One line per change of problem, not per try."""
        problem = explain(exc, self._where)
        if problem.text != self._problem:
            self._problem = problem.text
            expected = isinstance(exc, aiomqtt.MqttError | OSError | AdapterError)
            trace = {} if expected else {"exc_info": exc}
            self._log.warning(
                "mqtt_unavailable", broker=self._where, problem=problem.text, remedy=problem.remedy, **trace
            )


_CLEARED = b""
"""In place of a digest: the empty retained message, which removes the topic."""


def _digest(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest() if payload else _CLEARED


def _now() -> float:
    return asyncio.get_running_loop().time()


def _raise_if_cancelled() -> None:
    """For aiomqtt's `wait_for`: before Python 3.12 a cancellation gets lost when the result comes with it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@dataclass(frozen=True, slots=True)
class _Item:
    """A message in flight: an alert (`seq` of its outbox row), or a retained state (0)."""

    topic: str
    seq: int = 0
    refusals: int = 0
    clears: bool = False

    @property
    def problem_topic(self) -> str:
        """All devices' states are refused alike: to be told once."""
        return self.topic if self.seq else self.topic.rpartition("/")[0]


@dataclass(slots=True)
class _Session:
    """What is true for one connection only."""

    link: Link
    began_at: float
    progress_at: float  # of the last PUBACK, or when something came into flight
    topics: set[str] = field(default_factory=set)  # that may hold a retained message; not the status
    answered: bool = False  # at least the status is acknowledged: it is a broker that works
    settled: bool = False
    in_flight: dict[int, _Item] = field(default_factory=dict)  # by packet identifier
    cursor: int = 0  # the last outbox row that was looked at
    more: bool = True  # rows beyond it are likely
    rows_acknowledged: int = 0
    sent: dict[str, bytes] = field(default_factory=dict)  # retained topic -> digest of what it was sent
    todo: dict[str, bytes] = field(default_factory=dict)  # retained topic -> what to send
    states_turn: bool = False


async def _read(link: Link) -> None:
    """Until the connection ends: aiomqtt tells only who reads.  Nothing is subscribed to."""
    async for _ in link.messages:
        pass
