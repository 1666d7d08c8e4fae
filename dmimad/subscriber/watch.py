"""What messages mean: verified, in order, each once, and who has not been heard.

Messages and times go in, events come out; there is no connection, clock or file here, so it serves a program
with an MQTT client of its own as well as `dmimad.subscriber.subscribe`.

Source: docs/mqtt.md.  A status is not signed: who may publish it is for the broker's access list to say.

With keys, what is kept of a host follows only from its alerts that are not invalid, so nobody else can use up
an id or a sequence number.  Without keys, an alert is dropped as a redelivery only if it is the same, byte
for byte.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote

from dmimad.core.errors import MalformedError
from dmimad.core.verifiability import ATTRIBUTE, Status
from dmimad.subscriber.events import (
    Alert,
    HostBack,
    HostSilent,
    InvalidAlert,
    Malformed,
    Missing,
    Restarted,
    Signature,
    Trust,
    WatchEvent,
)
from dmimad.subscriber.order import Order, Rank
from dmimad.subscriber.reading import Kind, Place, read_alert, read_event, read_topic
from dmimad.subscriber.trust import HostKeys

#: Of which something is kept, beside those expected and those with keys of their own.
MAX_HOSTS = 1000
SILENCE_SECONDS = 60.0
GRACE_SECONDS = 5.0

_ONLINE, _OFFLINE = b"online", b"offline"
_MAX_TOPIC_CHARS = 300


@dataclass(slots=True)
class _Host:
    """What is kept of a host; `due` is when it will be told that it is silent."""

    order: Order
    reserved: bool = False
    alerted: bool = False  # by an alert that was not invalid
    online: bool = False
    silent: bool = False
    since: float = 0.0
    due: float | None = None
    why: str = ""


class Watch:
    """All hosts of one broker.

    Args:
        now: the present time; here as everywhere in seconds of one clock that does not jump.
        keys: who may speak for whom; None: signatures are not checked.
        require_signature: an unsigned alert is invalid, whatever host it is of; needs keys.
        expect_hosts: hosts that are told to be silent also if they are never heard.
        only_hosts: shell-style pattern; other hosts are as if they were not there.
        silence_seconds: for so long a host may be offline.
        grace_seconds: for so long a missing alert may be late.
    """

    def __init__(
        self,
        now: float,
        *,
        keys: HostKeys | None = None,
        require_signature: bool = False,
        expect_hosts: Iterable[str] = (),
        only_hosts: str = "*",
        silence_seconds: float = SILENCE_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self._keys = keys
        self._require_signature = require_signature
        self._only_hosts = only_hosts
        self._silence_seconds = silence_seconds
        self._grace_seconds = grace_seconds
        self._connected = True
        self._full = False
        self._hosts: dict[str, _Host] = {}
        expected = dict.fromkeys(expect_hosts)
        for host in (*expected, *(keys.hosts if keys is not None else ())):
            self._hosts[host] = _Host(Order(grace_seconds), reserved=True)
        self._room = len(self._hosts) + MAX_HOSTS
        for host in expected:
            self._begin_silence(self._hosts[host], now, "never heard")

    # -- what happens ----------------------------------------------------------------------

    def receive(self, topic: str, payload: bytes, retained: bool, now: float) -> list[WatchEvent]:
        """A message came; topics of which nothing is to be told give nothing."""
        place = read_topic(topic)
        if place is None or not fnmatch.fnmatchcase(place.host, self._only_hosts):
            return []
        try:
            if place.kind is Kind.STATUS:
                return self._status(place, payload, now)
            return self._alert(place, topic, payload, retained, now)
        except MalformedError as error:
            return [Malformed(topic[:_MAX_TOPIC_CHARS], error.reason)]

    def tick(self, now: float) -> list[WatchEvent]:
        """Time has passed: what is missing or silent by now.  Call it every second or so."""
        events: list[WatchEvent] = []
        if self._connected:
            for name, host in self._hosts.items():
                events += _missing(name, host, now)
                if host.due is not None and host.due <= now and not host.silent:
                    host.silent, host.due = True, None
                    events.append(HostSilent(name, host.since, host.why))
        return events

    def disconnected(self, now: float) -> None:
        """The broker is not heard: nothing is told to be missing or silent until it is again."""
        self._connected = False
        for host in self._hosts.values():
            if host.online:
                host.online = False
                self._begin_silence(host, now, "not heard since the connection to the broker was lost")

    def connected(self, now: float) -> None:
        """The broker is heard again; a retained status and what it held back will come now."""
        self._connected = True
        soon = now + min(self._grace_seconds, self._silence_seconds)
        for host in self._hosts.values():
            host.order.grant(now + self._grace_seconds)
            if host.due is not None:
                host.due = max(host.due, soon)

    # -- statuses --------------------------------------------------------------------------

    def _status(self, place: Place, payload: bytes, now: float) -> list[WatchEvent]:
        if payload not in (_ONLINE, _OFFLINE, b""):
            raise MalformedError("a status that is neither online nor offline")
        known = self._hosts.get(place.host)
        if payload == b"" and (known is None or not known.reserved):  # cleared: the host is gone for good
            if known is not None:
                known.online, known.silent, known.due = False, False, None
            return []
        host = self._host(place.host)
        if payload != _ONLINE:
            host.online = False
            self._begin_silence(host, now, "offline")
            return []
        was_silent = host.silent
        host.online, host.silent, host.due = True, False, None
        return [HostBack(place.host)] if was_silent else []

    def _begin_silence(self, host: _Host, now: float, why: str) -> None:
        if not host.silent:
            if host.due is None:
                host.since, host.due = now, now + self._silence_seconds
            host.why = why

    def _host(self, name: str, *, alerted: bool = False) -> _Host:
        """What is kept of the host; raises MalformedError if there is no room for another.

        One that sent an alert which is not invalid takes the room of one that did not.
        """
        host = self._hosts.get(name)
        if host is None:
            if len(self._hosts) >= self._room:
                self._make_room(alerted)
            host = self._hosts[name] = _Host(Order(self._grace_seconds))
        host.alerted |= alerted
        return host

    def _make_room(self, wanted: bool) -> None:
        for name, host in self._hosts.items():
            if wanted and not (host.reserved or host.alerted):
                del self._hosts[name]
                return
        raise MalformedError(f"more than {MAX_HOSTS} hosts: of further ones no account is kept")

    # -- alerts ----------------------------------------------------------------------------

    def _alert(
        self, place: Place, topic: str, payload: bytes, retained: bool, now: float
    ) -> list[WatchEvent]:
        signature, event = self._verify(place.host, read_event(payload))
        alert = read_alert(place.host, event, signature)
        reason = self._contradiction(place, event, alert, retained) or (
            signature.reason if signature.trust is Trust.INVALID else ""
        )
        if reason:
            invalid = Signature(Trust.INVALID, signature.keyid, reason)
            return [
                InvalidAlert(place.host, topic[:_MAX_TOPIC_CHARS], reason, replace(alert, signature=invalid))
            ]
        return self._valid(alert, hashlib.sha256(payload).digest(), now)

    def _verify(self, name: str, event: Mapping[str, object]) -> tuple[Signature, Mapping[str, object]]:
        """With what of the event is to be believed."""
        if self._keys is None:
            if event.get(ATTRIBUTE):
                return Signature(Trust.NOT_CHECKED, reason="there is no key to check it with"), event
            return Signature(Trust.UNSIGNED, reason="the event is not signed"), event
        verification = self._keys.verify(name, event)
        if verification.status is Status.VALID:
            return Signature(Trust.VALID, verification.keyid), verification.event
        trust = Trust.INVALID
        if verification.status is Status.UNSIGNED and not (self._require_signature or self._keys.signs(name)):
            trust = Trust.UNSIGNED
        return Signature(trust, verification.keyid, verification.reason), event

    def _contradiction(self, place: Place, event: Mapping[str, object], alert: Alert, retained: bool) -> str:
        """Why the message is not what it says it is, whoever signed it; "" if it may be."""
        if event.get("source") != quote(place.host, safe=""):
            return "the event's source is not the host of its topic"
        if place.severity != alert.severity:
            return "the event's severity is not that of its topic"
        if retained:
            return "the broker has kept it for a while, which is not done to alerts"
        return ""

    def _valid(self, alert: Alert, digest: bytes, now: float) -> list[WatchEvent]:
        events: list[WatchEvent] = []
        try:
            host = self._host(alert.host, alerted=True)
        except MalformedError as error:
            if self._full:
                return [alert]
            self._full = True
            return [Malformed("", error.reason), alert]
        told = host.order.told(alert.id)
        if told == digest:
            return []
        rank = host.order.place(alert.sequence, alert.time, now)
        if rank is Rank.RESTARTED:
            events.append(Restarted(alert.host, alert.sequence))
        events += _missing(alert.host, host, now)
        if told is None or alert.signature.trust is not Trust.VALID:
            events.append(replace(alert, late=rank is Rank.LATE))
        host.order.remember(alert.id, digest)
        return events


def _missing(name: str, host: _Host, now: float) -> list[Missing]:
    return [Missing(name, first, last) for first, last in host.order.take_missing(now)]
