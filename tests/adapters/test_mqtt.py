"""The publisher against a real mosquitto, and against scripted brokers for what mosquitto never does."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
import structlog
from cryptography import x509

from dmimad.adapters.mqtt import Publisher, Timing
from dmimad.adapters.mqtt.link import connect
from dmimad.adapters.mqtt.tls import read_credentials
from dmimad.adapters.store import Store
from dmimad.core.commit import Commit, Message, Outgoing
from dmimad.core.errors import AdapterError
from tests.broker import DEADLINE_SECONDS, Broker, Tls, free_port, subscribed_to
from tests.certificates import Authority

HOST = "test-host"
STATUS = f"dmimad/v1/{HOST}/status"
ALERTS = f"dmimad/v1/{HOST}/alert"
DEVICES = f"dmimad/v1/{HOST}/device"
CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"

# As in the daemon, only more impatient; nothing below asserts how long something takes.
QUICK = Timing(
    answer_seconds=1.0,
    settled_seconds=0.05,
    longest_delay_seconds=0.2,
    first_retry_seconds=0.01,
    longest_retry_seconds=0.1,
)


@dataclass(frozen=True, slots=True)
class Settings:
    port: int
    host: str = "127.0.0.1"
    protocol: int = 5
    username: str = ""
    password_file: str = ""
    allow_plain_password: bool = False
    tls: str = "auto"
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    keepalive_seconds: int = 30
    max_in_flight: int = 64
    max_attempts: int = 3


class Outbox:
    """The real store; tells the test that something has happened, or plays a full disk."""

    def __init__(self, store: Store, changed: asyncio.Event) -> None:
        self.store = store
        self.problem: AdapterError | None = None
        self._changed = changed

    def pending(self, after: int, limit: int) -> list[Outgoing]:
        return self.store.pending(after, limit)

    def acknowledged(self, seqs: Iterable[int]) -> None:
        self._changed.set()
        if self.problem is not None:
            raise self.problem
        self.store.acknowledged(seqs)

    def rejected(self, seq: int, reason: str, max_attempts: int) -> bool:
        self._changed.set()
        return self.store.rejected(seq, reason, max_attempts)

    def retained(self) -> frozenset[str]:
        return self.store.retained()

    def set_retained(self, *, published: Iterable[str] = (), cleared: Iterable[str] = ()) -> None:
        self._changed.set()
        self.store.set_retained(published=published, cleared=cleared)


@dataclass
class Host:
    """What the daemon has around its publisher: a store, device states, a log."""

    store: Store
    states: dict[str, bytes] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.outbox = Outbox(self.store, self.changed)
        self.publisher: Publisher | None = None
        self.task: asyncio.Task[None] | None = None

    def start(self, settings: Settings, timing: Timing = QUICK) -> None:
        log = structlog.wrap_logger(
            None, processors=[self._log], wrapper_class=structlog.make_filtering_bound_logger(0)
        )
        self.publisher = Publisher(
            settings, HOST, self.outbox, self._desired, log=log, random=random.Random(1), timing=timing
        )
        self.task = asyncio.create_task(self.publisher.run())

    def connected(self) -> bool:
        return self.publisher is not None and self.publisher.connected

    async def stop(self) -> None:
        """Cancel as the daemon does on SIGTERM; the task must end, and by its cancellation."""
        if self.task is not None:
            task, self.task = self.task, None
            assert not task.done(), task
            task.cancel()
            async with asyncio.timeout(DEADLINE_SECONDS):
                await asyncio.wait([task])
            assert task.cancelled()

    def alert(self, *payloads: bytes, severity: str = "critical") -> None:
        messages = [Message(f"{ALERTS}/{severity}", payload, CONTENT_TYPE) for payload in payloads]
        self.store.commit(Commit({}, messages=messages))
        self.wake()

    def state(self, **devices: bytes | None) -> None:
        for key, payload in devices.items():
            if payload is None:
                del self.states[f"{DEVICES}/{key}"]
            else:
                self.states[f"{DEVICES}/{key}"] = payload
        self.wake()

    def wake(self) -> None:
        if self.publisher is not None:
            self.publisher.wake()

    async def wait_for(self, what: Callable[[], bool]) -> None:
        """Until `what` is true; asked again after every log event and every use of the outbox."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not what():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            raise AssertionError(f"{self.store.pending(0, 5)} {self.events}") from None

    async def delivered(self) -> None:
        await self.wait_for(lambda: self.store.pending_count() == 0)

    async def logged(self, event: str, count: int = 1) -> dict[str, Any]:
        await self.wait_for(lambda: len(self.of(event)) >= count)
        return self.of(event)[count - 1]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in self.events if entry["event"] == event]

    def _desired(self) -> Mapping[str, bytes]:
        return dict(self.states)

    def _log(self, logger: Any, level: str, entry: Any) -> Any:
        self.events.append({**entry, "level": level})
        self.changed.set()
        raise structlog.DropEvent


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    with closing(Store.open(tmp_path / "state")) as store:
        host = Host(store)
        yield host
        await host.stop()


@pytest.fixture
def make_broker(mosquitto: str, tmp_path: Path) -> Callable[..., Broker]:
    def make(**options: Any) -> Broker:
        directory = tmp_path / "broker"
        directory.mkdir()
        return Broker(mosquitto, directory, **options)

    return make


def numbered(first: int, last: int) -> list[bytes]:
    return [b'{"id":"%d"}' % number for number in range(first, last + 1)]


def first_seen(payloads: Sequence[bytes]) -> list[bytes]:
    """What a subscriber has that drops what it has had before."""
    return list(dict.fromkeys(payloads))


class TestAlerts:
    @pytest.mark.parametrize(("protocol", "content_type"), [(5, CONTENT_TYPE), (3, None)])
    async def test_arrive_in_order_once_with_qos_1_and_not_retained(
        self, host: Host, make_broker: Callable[..., Broker], protocol: int, content_type: str | None
    ) -> None:
        sent = numbered(1, 300)
        with make_broker() as broker:
            async with subscribed_to(broker) as subscriber:
                host.alert(*sent[:200])  # more than a window
                host.start(Settings(broker.port, protocol=protocol))
                await host.delivered()
                for payload in sent[200:]:
                    host.alert(payload)
                await host.delivered()
                await subscriber.wait_for_payloads(f"{ALERTS}/critical", sent)
        assert subscriber.payloads(f"{ALERTS}/critical") == sent
        alerts = [m for m in subscriber.messages if m.topic == f"{ALERTS}/critical"]
        assert {(m.qos, m.retained, m.content_type) for m in alerts} == {(1, False, content_type)}
        assert host.store.dead_count() == 0
        assert [entry["event"] for entry in host.events] == ["mqtt_connected"]

    async def test_nobody_subscribed_is_success(self, host: Host, make_broker: Callable[..., Broker]) -> None:
        with make_broker() as broker:
            host.start(Settings(broker.port))
            host.alert(*numbered(1, 5))
            await host.delivered()
        assert host.store.dead_count() == 0
        assert any("RC:16" in line or "PUBACK" in line for line in broker.lines)

    async def test_refused_by_the_access_list_ends_as_dead_letter_others_pass(
        self, host: Host, make_broker: Callable[..., Broker]
    ) -> None:
        acl = f"topic readwrite {ALERTS}/info\ntopic readwrite {STATUS}\ntopic read #\n"
        with make_broker(acl=acl) as broker:
            async with subscribed_to(broker) as subscriber:
                host.start(Settings(broker.port, max_attempts=4))
                host.alert(b"no 1", b"no 2", severity="critical")
                host.alert(*numbered(1, 100), severity="info")
                await host.wait_for(lambda: host.store.dead_count() == 2)
                host.alert(b"no 3", severity="critical")
                await host.wait_for(lambda: host.store.dead_count() == 3)
                await host.delivered()
                await subscriber.wait_for_payloads(f"{ALERTS}/info", numbered(1, 100))
        assert subscriber.payloads(f"{ALERTS}/#") == numbered(1, 100)
        (refusal,) = host.of("mqtt_publish_refused")  # once, not once per try
        assert refusal["reason"] == "Not authorized (0x87)"
        assert "access list" in refusal["remedy"]
        assert sorted(entry["seq"] for entry in host.of("alert_not_delivered")) == [1, 2, 103]
        refused = [line for line in broker.lines if "Denied PUBLISH" in line and "critical" in line]
        assert len(refused) == 12  # three messages, four tries each

    async def test_refused_alert_is_delivered_when_the_broker_allows_it_in_time(
        self, host: Host, make_broker: Callable[..., Broker]
    ) -> None:
        with make_broker(acl=f"topic read #\ntopic write {STATUS}\n", persistent=True) as broker:
            async with subscribed_to(broker) as subscriber:
                host.start(Settings(broker.port, max_attempts=1000))
                host.alert(*numbered(1, 3))
                await host.logged("mqtt_publish_refused")
                broker.set_acl("topic readwrite #\n")
                broker.restart()
                await host.delivered()
                await subscriber.wait_for_payloads(f"{ALERTS}/critical", numbered(1, 3))
        assert host.store.dead_count() == 0
        assert not host.of("alert_not_delivered")

    async def test_larger_than_the_broker_takes_ends_as_dead_letter_others_pass(
        self, host: Host, make_broker: Callable[..., Broker]
    ) -> None:
        with make_broker(extra=["max_packet_size 1000"]) as broker:
            async with subscribed_to(broker) as subscriber:
                host.start(Settings(broker.port))
                await host.logged("mqtt_connected")
                topic = f"{ALERTS}/critical"
                # Fixed header 3, topic length 2, packet identifier 2, property length 1, content type 3.
                room = 1000 - 3 - 2 - len(topic) - 2 - 1 - 3 - len(CONTENT_TYPE)
                host.alert(b"before", b"y" * (room + 1), b"x" * room, b"after")
                await host.delivered()
                await subscriber.wait_for_payloads(topic, [b"after"])
        assert subscriber.payloads(topic) == [b"before", b"x" * room, b"after"]
        assert host.store.dead_count() == 1
        assert host.of("alert_not_delivered")[0]["seq"] == 2
        assert not host.of("mqtt_unavailable")  # it was not even sent

    async def test_broker_that_hangs_up_on_one_message_gets_the_others(
        self, host: Host, make_broker: Callable[..., Broker]
    ) -> None:
        # Under 3.1.1 a broker can not say why: mosquitto cuts the connection.
        with make_broker(extra=["max_packet_size 1000"], persistent=True) as broker:
            async with subscribed_to(broker) as subscriber:
                host.alert(*numbered(1, 10), b"x" * 1000, *numbered(11, 200))
                host.start(Settings(broker.port, protocol=3))
                await host.delivered()
                await subscriber.wait_for_payloads(f"{ALERTS}/critical", numbered(1, 200))
        assert sorted(set(subscriber.payloads(f"{ALERTS}/critical"))) == sorted(numbered(1, 200))
        assert host.store.dead_count() == 1
        (dead,) = host.of("alert_not_delivered")
        assert (dead["seq"], dead["reason"]) == (11, "the broker closes the connection on it")

    @pytest.mark.parametrize("topic", ["wild/#", "wild/+/card", "", "nul\0", "x" * 65536])
    async def test_what_is_no_topic_ends_as_dead_letter_others_pass(
        self, host: Host, make_broker: Callable[..., Broker], topic: str
    ) -> None:
        with make_broker() as broker:
            host.store.commit(Commit({}, messages=[Message(topic, b"1", ""), Message("good", b"2", "")]))
            async with subscribed_to(broker) as subscriber:
                host.start(Settings(broker.port))
                await host.delivered()
                await subscriber.wait_for_payloads("good", [b"2"])
        assert host.store.dead_count() == 1
        assert host.of("alert_not_delivered")[0]["reason"].startswith("not a topic")


class TestOutage:
    async def test_broker_absent_at_start(self, host: Host, make_broker: Callable[..., Broker]) -> None:
        broker = make_broker()
        host.alert(*numbered(1, 100))
        host.start(Settings(broker.port))
        problem = await host.logged("mqtt_unavailable")
        assert f"127.0.0.1:{broker.port}: nothing listens there" in problem["problem"]
        assert problem["remedy"] == "start the broker, or set mqtt.host and mqtt.port"
        assert not host.connected()
        with broker:
            await host.delivered()
            await host.logged("mqtt_connected")
            assert host.connected()
        assert host.store.dead_count() == 0
        assert len([e for e in host.of("mqtt_unavailable") if "nothing listens" in e["problem"]]) == 1

    async def test_killed_with_a_window_in_flight_everything_comes_in_order(
        self, host: Host, make_broker: Callable[..., Broker]
    ) -> None:
        with make_broker(persistent=True) as broker:
            async with subscribed_to(broker) as subscriber:
                host.start(Settings(broker.port))
                host.alert(*numbered(1, 10))
                # What it has acknowledged a broker may lose when it is killed: wait until it has arrived.
                await subscriber.wait_for_payloads(f"{ALERTS}/critical", numbered(1, 10))
                await host.delivered()
                broker.freeze()
                host.alert(*numbered(11, 300))  # a window of it is sent, nothing acknowledged
                broker.restart()
                await host.delivered()
                await subscriber.wait_for_payloads(f"{ALERTS}/critical", numbered(1, 300))
        assert first_seen(subscriber.payloads(f"{ALERTS}/critical")) == numbered(1, 300)
        assert host.store.dead_count() == 0

    async def test_killed_at_any_moment_again_and_again(
        self, host: Host, make_broker: Callable[..., Broker]
    ) -> None:
        generator = random.Random(3)
        with make_broker(persistent=True) as broker:
            async with subscribed_to(broker) as subscriber:
                host.start(Settings(broker.port, max_in_flight=8))
                total = 0
                for _ in range(6):
                    host.alert(*numbered(total + 1, total + 200))
                    total += 200
                    left = generator.randrange(200)
                    await host.wait_for(lambda limit=left: host.store.pending_count() <= limit)  # type: ignore[misc]
                    broker.restart()
                await host.delivered()
                # What mosquitto acknowledged before it was killed it may have taken to the grave.
                await subscriber.wait_for_payloads(f"{ALERTS}/critical", numbered(total, total))
        seen = first_seen(subscriber.payloads(f"{ALERTS}/critical"))
        assert seen == sorted(seen, key=lambda payload: int(payload[7:-2]))
        assert host.store.dead_count() == 0

    async def test_frozen_and_thawed_everything_comes_in_order(
        self, host: Host, make_broker: Callable[..., Broker]
    ) -> None:
        with make_broker(persistent=True) as broker:
            async with subscribed_to(broker) as subscriber:
                host.start(Settings(broker.port))
                await host.logged("mqtt_connected")
                broker.freeze()
                host.alert(*numbered(1, 100))
                problem = await host.logged("mqtt_unavailable")
                assert "does not acknowledge" in problem["problem"]
                problem = await host.logged("mqtt_unavailable", 2)  # TCP connects, MQTT does not
                assert "the broker does not answer" in problem["problem"]
                broker.thaw()
                await host.delivered()
                await subscriber.wait_for_payloads(f"{ALERTS}/critical", numbered(1, 100))
                # The wills of all the attempts are out before the last connection's `online`.
                await subscriber.wait_for_last(STATUS, b"online")
        assert first_seen(subscriber.payloads(f"{ALERTS}/critical")) == numbered(1, 100)
        assert host.store.dead_count() == 0

    async def test_frozen_while_idle_is_noticed_by_keepalive(
        self, host: Host, make_broker: Callable[..., Broker]
    ) -> None:
        with make_broker() as broker:
            host.start(Settings(broker.port, keepalive_seconds=1))
            host.alert(b"1")
            await host.delivered()  # and before it the status
            broker.freeze()
            problem = await host.logged("mqtt_unavailable")
            assert "fallen silent" in problem["problem"]
            broker.thaw()
            await host.logged("mqtt_connected", 2)

    async def test_full_disk_is_got_over_without_losing_the_message(
        self, host: Host, make_broker: Callable[..., Broker]
    ) -> None:
        with make_broker() as broker:
            host.outbox.problem = AdapterError("the disk is full", "/state", "free some space")
            host.start(Settings(broker.port))
            host.alert(*numbered(1, 3))
            problem = await host.logged("mqtt_unavailable")
            assert (problem["problem"], problem["remedy"]) == ("/state: the disk is full", "free some space")
            assert host.store.pending_count() == 3
            host.outbox.problem = None
            await host.delivered()
        assert host.store.dead_count() == 0


class TestStatus:
    async def test_online_then_offline_at_a_clean_stop_both_retained(
        self, host: Host, make_broker: Callable[..., Broker]
    ) -> None:
        with make_broker() as broker:
            async with subscribed_to(broker) as subscriber:
                host.start(Settings(broker.port))
                await subscriber.wait_for_last(STATUS, b"online")
                await host.stop()
                await subscriber.wait_for_last(STATUS, b"offline")
                await asyncio.to_thread(_lines, broker, "Received DISCONNECT from dmimad-test-host", 1)
        statuses = [(m.payload, m.qos, m.retained) for m in subscriber.messages]
        assert statuses == [(b"online", 1, True), (b"offline", 1, True)]

    async def test_offline_is_the_will(self, host: Host, make_broker: Callable[..., Broker]) -> None:
        with make_broker() as broker:
            async with subscribed_to(broker) as subscriber:
                host.start(Settings(broker.port))
                await subscriber.wait_for_last(STATUS, b"online")
                # Another with the same client id: the broker ends our connection for us.
                async with aiomqtt.Client(
                    "127.0.0.1", broker.port, identifier=f"dmimad-{HOST}", protocol=aiomqtt.ProtocolVersion.V5
                ):
                    await subscriber.wait_for(
                        lambda: b"offline" in subscriber.payloads(STATUS), lambda: "the will"
                    )
                    problem = await host.logged("mqtt_unavailable")
                await subscriber.wait_for_last(STATUS, b"online")
        # Mosquitto 2.0 does not say why.
        assert any(why in problem["problem"] for why in ("the connection was cut", "Session taken over"))
        assert "second dmimad with the same host.id" in problem["remedy"]
        assert all(m.retained for m in subscriber.messages if m.topic == STATUS)

    @pytest.mark.parametrize("protocol", [3, 5])
    async def test_two_with_one_id_give_way_to_each_other(
        self, host: Host, make_broker: Callable[..., Broker], tmp_path: Path, protocol: int
    ) -> None:
        """Each says so once, waits longer and longer, and gets its alerts out."""
        with (
            make_broker() as broker,
            closing(Store.open(tmp_path / "other")) as store,
        ):
            other = Host(store)
            timing = replace(QUICK, first_yield_seconds=0.01, longest_yield_seconds=0.2)
            async with subscribed_to(broker) as subscriber:
                for each in (host, other):
                    each.start(Settings(broker.port, protocol=protocol), timing)
                told = [await each.logged("mqtt_host_id_taken") for each in (host, other)]
                host.alert(b'{"id":"ours"}')
                other.alert(b'{"id":"theirs"}')
                await subscriber.wait_for_payloads(
                    f"{ALERTS}/critical", [b'{"id":"ours"}', b'{"id":"theirs"}']
                )
                assert host.publisher is not None
                assert f'host.id = "{HOST}"' in host.publisher.rival
                await other.stop()
                await host.logged("mqtt_host_id_ours_again")
                assert host.publisher.rival == ""
        assert [each["host"] for each in told] == [HOST, HOST]
        assert [len(each.of("mqtt_host_id_taken")) for each in (host, other)] == [1, 1]

    @pytest.mark.parametrize("state", ["absent", "frozen", "mute"])
    async def test_stop_does_not_wait_for_a_broker_that_is_not_there(
        self, host: Host, make_broker: Callable[..., Broker], state: str
    ) -> None:
        # The bounds are far longer than a test may take: were one waited for, `stop` would fail.
        patient = replace(QUICK, answer_seconds=1000.0, stop_seconds=0.1)
        with make_broker() as broker:
            if state == "mute":
                broker.freeze()  # TCP connects, no CONNACK ever
                host.start(Settings(broker.port), patient)
                await asyncio.to_thread(_connections_to, broker.port, 1)
            else:
                host.start(Settings(broker.port), patient)
                await host.logged("mqtt_connected")
                if state == "absent":
                    broker.kill()
                    await host.logged("mqtt_unavailable")
                else:
                    broker.freeze()
                    host.alert(*numbered(1, 3))
            await host.stop()
        assert host.store.pending_count() == (3 if state == "frozen" else 0)
        assert bool(host.of("mqtt_offline_not_published")) == (state == "frozen")


class TestDeviceStates:
    async def test_published_changed_and_cleared(
        self, host: Host, make_broker: Callable[..., Broker]
    ) -> None:
        with make_broker() as broker:
            host.state(a=b"a1", b=b"b1")
            host.start(Settings(broker.port))
            async with subscribed_to(broker) as subscriber:
                await subscriber.wait_for_last(f"{DEVICES}/a", b"a1")
                await subscriber.wait_for_last(f"{DEVICES}/b", b"b1")
                host.state(a=b"a2")
                await subscriber.wait_for_last(f"{DEVICES}/a", b"a2")
                host.state(b=None, c=b"c1")
                await subscriber.wait_for_last(f"{DEVICES}/b", b"")
                await subscriber.wait_for_last(f"{DEVICES}/c", b"c1")
                await host.wait_for(lambda: host.store.retained() == {f"{DEVICES}/a", f"{DEVICES}/c"})
                host.wake()  # nothing has changed: nothing is published
                host.alert(b"end")
                await subscriber.wait_for_payloads(f"{ALERTS}/critical", [b"end"])
                assert subscriber.payloads(f"{DEVICES}/a") == [b"a1", b"a2"]
                assert subscriber.payloads(f"{DEVICES}/b") == [b"b1", b""]
                assert subscriber.payloads(f"{DEVICES}/c") == [b"c1"]
            async with subscribed_to(broker, identifier="late") as late:
                await late.wait_for_payloads(STATUS, [b"online"])
                await late.wait_for_payloads(f"{DEVICES}/c", [b"c1"])
                await late.wait_for_payloads(f"{DEVICES}/a", [b"a2"])
                assert late.payloads(f"{DEVICES}/b") == []

    async def test_published_again_to_a_broker_that_has_forgotten(
        self, host: Host, make_broker: Callable[..., Broker]
    ) -> None:
        with make_broker() as broker:
            host.state(a=b"a1")
            host.start(Settings(broker.port))
            await host.logged("mqtt_connected")
            async with subscribed_to(broker) as subscriber:
                await subscriber.wait_for_last(f"{DEVICES}/a", b"a1")
            broker.restart()
            async with subscribed_to(broker) as subscriber:
                await subscriber.wait_for_last(f"{DEVICES}/a", b"a1")

    async def test_what_went_while_dmimad_was_down_is_cleared_at_the_next_start(
        self, host: Host, make_broker: Callable[..., Broker]
    ) -> None:
        with make_broker() as broker:
            host.state(gone=b"g1", stays=b"s1")
            host.start(Settings(broker.port))
            async with subscribed_to(broker) as subscriber:
                await subscriber.wait_for_last(f"{DEVICES}/gone", b"g1")
                await subscriber.wait_for_last(f"{DEVICES}/stays", b"s1")
                await host.stop()
                host.state(gone=None)
                host.start(Settings(broker.port))
                await subscriber.wait_for_last(f"{DEVICES}/gone", b"")
                await host.wait_for(lambda: host.store.retained() == {f"{DEVICES}/stays"})
        assert subscriber.payloads(f"{DEVICES}/stays") == [b"s1", b"s1"]

    async def test_known_to_the_store_before_it_is_published(
        self, host: Host, make_broker: Callable[..., Broker]
    ) -> None:
        with make_broker() as broker:
            host.start(Settings(broker.port))
            await host.logged("mqtt_connected")
            broker.freeze()  # it will not be acknowledged
            host.state(a=b"a1")
            await host.wait_for(lambda: host.store.retained() == {f"{DEVICES}/a"})

    async def test_refused_states_are_tried_again_and_do_not_hold_up_alerts(
        self, host: Host, make_broker: Callable[..., Broker]
    ) -> None:
        acl = f"topic readwrite {ALERTS}/#\ntopic readwrite {STATUS}\ntopic read #\n"
        with make_broker(acl=acl, persistent=True) as broker:
            async with subscribed_to(broker) as subscriber:
                host.state(**{f"d{number}": b"state" for number in range(50)})
                host.start(Settings(broker.port, max_in_flight=2))
                host.alert(*numbered(1, 50))
                await host.delivered()
                refusal = await host.logged("mqtt_publish_refused")
                assert refusal["topic"].startswith(f"{DEVICES}/d")
                assert len(host.of("mqtt_publish_refused")) == 1  # not one for each of the fifty
                broker.set_acl("topic readwrite #\n")
                broker.restart()
                for number in range(50):
                    await subscriber.wait_for_last(f"{DEVICES}/d{number}", b"state")
        assert host.store.dead_count() == 0


class TestCredentials:
    @pytest.mark.parametrize("protocol", [5, 3])
    async def test_refused_login_is_told_once_and_a_corrected_file_is_taken(
        self, host: Host, make_broker: Callable[..., Broker], tmp_path: Path, protocol: int
    ) -> None:
        password_file = tmp_path / "password"
        password_file.touch(0o600)
        password_file.write_text("wrong\n")
        with make_broker(users={"dmimad": "right word"}) as broker:
            settings = Settings(broker.port, username="dmimad", password_file=str(password_file))
            host.start(replace(settings, protocol=protocol))
            problem = await host.logged("mqtt_unavailable")
            assert problem["problem"] == f"127.0.0.1:{broker.port}: Not authorized"
            assert "mqtt.username and mqtt.password_file" in problem["remedy"]
            tries = sum("Sending CONNACK" in line for line in broker.lines)
            await asyncio.to_thread(_lines, broker, "Sending CONNACK", tries + 3)
            assert len(host.events) == 1  # it has tried again, and said nothing
            password_file.unlink()
            problem = await host.logged("mqtt_unavailable", 2)
            password_file.touch(0o600)
            assert problem["problem"] == f"{password_file}: mqtt.password_file: No such file or directory"
            password_file.write_text("right word\r\n")
            await host.logged("mqtt_connected")
        assert "right word" not in repr(host.events)
        assert "wrong" not in repr(host.events)

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"\xff\n", "not UTF-8"),
            (b"x" * 70_000, "too long"),
            (b"", "empty"),
            (b"\n", "empty"),
            (b"former\nnew\n", "more than one line"),
            (None, "Is a directory"),
        ],
    )
    async def test_unusable_password_file(
        self, host: Host, tmp_path: Path, content: bytes | None, problem: str
    ) -> None:
        path = tmp_path / "password"
        path.mkdir() if content is None else path.write_bytes(content)
        path.chmod(0o600)
        host.start(Settings(free_port(), username="dmimad", password_file=str(path)))
        logged = await host.logged("mqtt_unavailable")
        assert logged["problem"] == f"{path}: mqtt.password_file: {problem}"
        assert logged["remedy"].startswith("put the broker's password there")

    async def test_tls_with_certificates_on_both_sides(
        self, host: Host, make_broker: Callable[..., Broker], pki: Pki
    ) -> None:
        tls = Tls(pki.ca, pki.server, pki.server_key, require_certificate=True)
        with make_broker(tls=tls) as broker:
            host.alert(*numbered(1, 200))
            settings = Settings(broker.port, tls_ca_file=str(pki.ca))
            host.start(settings)
            problem = await host.logged("mqtt_unavailable")  # it shows no certificate
            assert problem["problem"] == f"127.0.0.1:{broker.port}: the broker wants a client certificate"
            assert problem["remedy"] == "set mqtt.tls_cert_file and mqtt.tls_key_file"
            await host.stop()
            host.start(
                replace(settings, tls_cert_file=str(pki.client), tls_key_file=str(pki.client_key)),
            )
            await host.delivered()
            await host.stop()
            await asyncio.to_thread(_lines, broker, "Received DISCONNECT from dmimad-test-host", 1)

    async def test_broker_of_another_ca_is_not_talked_to(
        self, host: Host, make_broker: Callable[..., Broker], pki: Pki
    ) -> None:
        with make_broker(tls=Tls(pki.ca, pki.server, pki.server_key)) as broker:
            host.alert(b"secret")
            host.start(Settings(broker.port, tls_ca_file=str(pki.other_ca)))
            problem = await host.logged("mqtt_unavailable")
            assert problem["problem"] == (
                f"127.0.0.1:{broker.port}: the broker's certificate is not valid: "
                f"it is signed by commonName=ca, which is not in {pki.other_ca}"
            )
            assert problem["remedy"] == "put the CA that signed it into mqtt.tls_ca_file"
            await host.stop()
            host.start(Settings(broker.port, host="localhost", tls_ca_file=str(pki.ca)))  # not its name
            problem = await host.logged("mqtt_unavailable", 2)
            assert problem["problem"] == (
                f"localhost:{broker.port}: the broker's certificate is not valid: it is for 127.0.0.1"
            )
            assert problem["remedy"] == (
                "set mqtt.host to a name that is in it, or give the broker one with mqtt.host in it"
            )
        assert host.store.pending_count() == 1
        assert not any("dmimad" in line for line in broker.lines)

    async def test_unusable_tls_files(self, host: Host, pki: Pki, tmp_path: Path) -> None:
        absent = str(tmp_path / "absent.pem")
        good = Settings(free_port(), tls_ca_file=str(pki.ca), tls_cert_file=str(pki.client))
        pair = f"{pki.client} {{}}: mqtt.tls_cert_file, mqtt.tls_key_file: {{}}"
        for count, (settings, expected) in enumerate(
            [
                (replace(good, tls_ca_file=absent), f"{absent}: mqtt.tls_ca_file: No such file or directory"),
                (
                    replace(good, tls_ca_file=str(pki.client_key)),
                    f"{pki.client_key}: mqtt.tls_ca_file: there is no certificate in it (PEM)",
                ),
                (
                    replace(good, tls_key_file=absent),
                    f"{absent}: mqtt.tls_key_file: No such file or directory",
                ),
                (
                    replace(good, tls_key_file=str(pki.server_key)),
                    pair.format(pki.server_key, "the private key is not that of the certificate"),
                ),
                (
                    replace(good, tls_key_file=str(pki.locked_key)),
                    pair.format(pki.locked_key, "the private key is encrypted"),
                ),
                (
                    replace(good, tls_key_file=str(pki.ca)),
                    pair.format(pki.ca, "there is no private key in the key's file (PEM)"),
                ),
            ],
            start=1,
        ):
            host.start(settings)
            problem = await host.logged("mqtt_unavailable", count)
            assert problem["problem"] == expected
            assert "(PEM), readable for dmimad" in problem["remedy"]
            await host.stop()

    @pytest.mark.parametrize("file", ["password_file", "tls_key_file"])
    @pytest.mark.parametrize(
        ("mode", "owner", "problem", "remedy"),
        [
            (0o604, 0, "everybody may access it (mode 0604)", "chmod o= "),
            (0o601, 0, "everybody may access it (mode 0601)", "chmod o= "),
            (0o620, 0, "its group may write it (mode 0620)", "chmod g-w "),
            (0o600, 4711, "belongs to user 4711, who could replace it", "chown root "),
        ],
    )
    async def test_secrets_in_wrong_hands_are_not_used(
        self,
        host: Host,
        pki: Pki,
        tmp_path: Path,
        file: str,
        mode: int,
        owner: int,
        problem: str,
        remedy: str,
    ) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root can give files away")
        path = tmp_path / "secret"
        path.write_bytes(pki.client_key.read_bytes())
        path.chmod(mode)
        os.chown(path, owner, 0)
        tls = {"tls_cert_file": str(pki.client)} if file == "tls_key_file" else {"username": "u"}
        values: dict[str, Any] = {**tls, file: str(path)}
        host.start(replace(Settings(free_port()), **values))
        logged = await host.logged("mqtt_unavailable")
        assert logged["problem"] == f"{path}: mqtt.{file}: {problem}"
        assert logged["remedy"] == f"{remedy}{path}"

    @pytest.mark.parametrize("file", ["password_file", "tls_ca_file", "tls_cert_file", "tls_key_file"])
    def test_a_fifo_holds_nobody_up(self, pki: Pki, tmp_path: Path, file: str) -> None:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo, 0o600)
        good = Settings(1, username="u", tls="on", tls_ca_file=str(pki.ca), tls_cert_file=str(pki.client))
        values: dict[str, Any] = {"tls_key_file": str(pki.client_key), file: str(fifo)}
        with pytest.raises(AdapterError, match=rf"fifo: mqtt\.{file}: is no file; "):
            read_credentials(replace(good, **values), "b:1")

    def test_a_group_may_read_a_secret(self, tmp_path: Path) -> None:
        """systemd's credentials are so where they are given by an access list."""
        path = tmp_path / "secret"
        path.write_text("pass\n")
        path.chmod(0o440)
        found = read_credentials(Settings(1, username="u", password_file=str(path)), "b:1")
        assert (found.password, found.tls) == ("pass", None)
        assert "pass" not in repr(found)

    async def test_no_password_in_the_clear_to_another_host(self, host: Host, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        path.write_text("pass")
        path.chmod(0o600)
        settings = Settings(1, host="broker.invalid", username="u", password_file=str(path), tls="off")
        host.start(settings)
        logged = await host.logged("mqtt_unavailable")
        assert (
            logged["problem"]
            == "broker.invalid:1: user name and password would cross the network in the clear"
        )
        assert logged["remedy"] == "use TLS (mqtt.tls), or allow it with mqtt.allow_plain_password"
        await host.stop()
        host.start(replace(settings, allow_plain_password=True))
        logged = await host.logged("mqtt_unavailable", 2)
        assert "host name not found" in logged["problem"]

    @pytest.mark.parametrize(
        ("names", "begins", "ends", "problem"),
        [
            (("127.0.0.1",), -48, -24, "expired "),
            (("127.0.0.1",), 24, 48, "begins "),
            (("broker.example.org", "192.0.2.7"), -1, 1, "it is for broker.example.org, 192.0.2.7"),
            ((), -1, 1, "it is for no name at all (subjectAltName)"),
        ],
    )
    async def test_a_certificate_that_is_not_valid_is_told_why(
        self,
        host: Host,
        make_broker: Callable[..., Broker],
        tmp_path: Path,
        names: tuple[str, ...],
        begins: int,
        ends: int,
        problem: str,
    ) -> None:
        authority = Authority(tmp_path / "pki")
        hour = datetime.timedelta(hours=1)
        server = authority.sign("server", names=names, begins=begins * hour, ends=ends * hour)
        with make_broker(tls=Tls(authority.file, server.certificate, server.key)) as broker:
            host.start(Settings(broker.port, tls_ca_file=str(authority.file)))
            logged = await host.logged("mqtt_unavailable")
        moment = x509.load_pem_x509_certificate(server.certificate.read_bytes())
        problem += {
            "expired ": f"{moment.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
            "begins ": f"{moment.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
        }.get(problem, "")
        where = f"127.0.0.1:{broker.port}"
        assert logged["problem"] == f"{where}: the broker's certificate is not valid: {problem}"

    async def test_the_systems_cas_where_none_is_set(
        self, host: Host, make_broker: Callable[..., Broker], pki: Pki
    ) -> None:
        with make_broker(tls=Tls(pki.ca, pki.server, pki.server_key)) as broker:
            host.start(Settings(broker.port, tls="on"))
            logged = await host.logged("mqtt_unavailable")
        assert logged["problem"].endswith("it is signed by commonName=ca, which is not in the system's CAs")

    async def test_our_own_certificate_is_refused(
        self, host: Host, make_broker: Callable[..., Broker], pki: Pki, tmp_path: Path
    ) -> None:
        """By a broker that wants one: an expired one, and one of another CA."""
        authority = Authority(tmp_path / "pki")
        server = authority.sign("server")
        old = authority.sign("old", begins=-datetime.timedelta(hours=9), ends=-datetime.timedelta(hours=8))
        when = x509.load_pem_x509_certificate(old.certificate.read_bytes()).not_valid_after_utc
        tls = Tls(authority.file, server.certificate, server.key, require_certificate=True)
        with make_broker(tls=tls) as broker:
            settings = Settings(broker.port, tls_ca_file=str(authority.file))
            for count, (certificate, key, problem, remedy) in enumerate(
                [
                    (
                        old.certificate,
                        old.key,
                        f"our certificate has expired ({old.certificate}: {when:%Y-%m-%d %H:%M} UTC)",
                        "renew mqtt.tls_cert_file",
                    ),
                    (
                        pki.client,
                        pki.client_key,
                        "the broker does not know the CA of our certificate",
                        "make the broker trust the CA of mqtt.tls_cert_file",
                    ),
                ],
                start=1,
            ):
                host.start(replace(settings, tls_cert_file=str(certificate), tls_key_file=str(key)))
                logged = await host.logged("mqtt_unavailable", count)
                assert logged["problem"] == f"127.0.0.1:{broker.port}: {problem}"
                assert logged["remedy"] == remedy
                await host.stop()

    async def test_tls_to_a_plain_port(self, host: Host, make_broker: Callable[..., Broker]) -> None:
        with make_broker() as broker:
            host.start(Settings(broker.port, tls="on"))
            logged = await host.logged("mqtt_unavailable")
        assert logged["problem"] == f"127.0.0.1:{broker.port}: hung up during the TLS handshake"
        assert logged["remedy"] == "is mqtt.port the broker's port for TLS?"

    def test_no_older_version_of_tls(self) -> None:
        tls = read_credentials(Settings(1, tls="on"), "b:1").tls
        assert tls is not None
        assert tls.minimum_version is ssl.TLSVersion.TLSv1_2
        assert tls.verify_mode is ssl.CERT_REQUIRED
        assert tls.check_hostname

    async def test_plain_text_to_a_tls_port(
        self, host: Host, make_broker: Callable[..., Broker], pki: Pki
    ) -> None:
        with make_broker(tls=Tls(pki.ca, pki.server, pki.server_key)) as broker:
            host.start(Settings(broker.port), replace(QUICK, answer_seconds=1000.0))
            problem = await host.logged("mqtt_unavailable")
        assert "hung up before answering" in problem["problem"]
        assert "with TLS or without" in problem["remedy"]


CONNACK = b"\x20\x03\x00\x00\x00"  # version 5, success, no properties


class ScriptedBroker:
    """A server that does with packets what the test says; tells apart CONNECT, PUBLISH and the rest."""

    def __init__(
        self, connack: bytes = CONNACK, *, acknowledge: bool = True, after_publish: bytes = b""
    ) -> None:
        self.port = 0
        self.connections = 0
        self.ended = 0
        self.packets = 0
        self.published: list[tuple[int, int, bytes]] = []  # connection, packet identifier, payload
        self.acknowledge = acknowledge
        self._connack = connack
        self._after_publish = after_publish
        self._changed = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[ScriptedBroker]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for writer in self._writers:
                writer.close()
            await server.wait_closed()

    async def wait_for(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not what():
                self._changed.clear()
                await self._changed.wait()

    def acknowledge_one(self, index: int) -> None:
        """The PUBACK for `published[index]`."""
        connection, identifier, _ = self.published[index]
        self._writers[connection - 1].write(b"\x40\x02" + identifier.to_bytes(2))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.connections += 1
        connection = self.connections
        self._changed.set()
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                kind, packet = await self._read_packet(reader)
                self.packets += 1
                if kind == 1:
                    writer.write(self._connack)
                elif kind == 3:
                    await self._take(connection, packet, writer)
                await writer.drain()
        writer.close()
        self.ended += 1
        self._changed.set()

    async def _take(self, connection: int, packet: bytes, writer: asyncio.StreamWriter) -> None:
        end = 2 + int.from_bytes(packet[:2])
        identifier = packet[end : end + 2]
        payload = packet[end + 3 + packet[end + 2] :]
        self.published.append((connection, int.from_bytes(identifier), payload))
        self._changed.set()
        if self.acknowledge:
            writer.write(b"\x40\x02" + identifier)
        writer.write(self._after_publish)

    @staticmethod
    async def _read_packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
        kind = (await reader.readexactly(1))[0] >> 4
        length = shift = 0
        while True:
            byte = (await reader.readexactly(1))[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return kind, await reader.readexactly(length)


class TestScriptedBroker:
    @pytest.mark.parametrize(
        ("connack", "max_in_flight", "window"),
        [
            (CONNACK, 7, 7),
            (b"\x20\x06\x00\x00\x03\x21\x00\x03", 7, 3),  # receive maximum 3
            (b"\x20\x06\x00\x00\x03\x21\x00\x09", 7, 7),
            (CONNACK, 1, 1),
        ],
    )
    async def test_window_is_filled_and_not_exceeded(
        self, host: Host, connack: bytes, max_in_flight: int, window: int
    ) -> None:
        broker = ScriptedBroker(connack, acknowledge=False)
        async with broker.serving():
            host.alert(*numbered(1, 50))
            settings = Settings(broker.port, max_in_flight=max_in_flight)
            host.start(settings, replace(QUICK, answer_seconds=1000.0))
            await broker.wait_for(lambda: len(broker.published) == window)
            for count in range(window + 1, 52):  # each acknowledgement makes room for exactly one
                broker.acknowledge_one(count - window - 1)
                await broker.wait_for(lambda count=count: len(broker.published) >= count)  # type: ignore[misc]
                assert len(broker.published) == count
        payloads = [payload for _, _, payload in broker.published]
        assert [payload for payload in payloads if payload != b"online"] == numbered(1, 50)

    async def test_topic_is_forgotten_when_its_clearing_is_acknowledged_and_not_before(
        self, host: Host
    ) -> None:
        broker = ScriptedBroker(acknowledge=False)
        async with broker.serving():
            host.state(a=b"a1")
            host.start(Settings(broker.port), replace(QUICK, answer_seconds=1000.0))
            await broker.wait_for(lambda: len(broker.published) == 2)
            host.state(a=None)
            await broker.wait_for(lambda: len(broker.published) == 3)
            host.alert(b"alert")
            await broker.wait_for(lambda: len(broker.published) == 4)
            assert [payload for _, _, payload in broker.published] == [b"online", b"a1", b"", b"alert"]
            for index in (0, 1, 3):
                broker.acknowledge_one(index)
            await host.delivered()
            assert host.store.retained() == {f"{DEVICES}/a"}
            broker.acknowledge_one(2)
            await host.wait_for(lambda: not host.store.retained())

    async def test_never_acknowledged_is_sent_again_over_a_new_connection_from_the_oldest(
        self, host: Host
    ) -> None:
        broker = ScriptedBroker(acknowledge=False)
        async with broker.serving():
            host.alert(*numbered(1, 20))
            host.start(Settings(broker.port, max_in_flight=5), replace(QUICK, answer_seconds=0.2))
            await broker.wait_for(lambda: broker.connections >= 3)
            broker.acknowledge = True
            await host.delivered()
        by_connection: dict[int, list[bytes]] = {}
        for connection, _, payload in broker.published:
            if payload != b"online":
                by_connection.setdefault(connection, []).append(payload)
        assert by_connection[1] == by_connection[2] == numbered(1, 4)  # and the status, the fifth
        assert list(by_connection.values())[-1][-1:] == numbered(20, 20)
        assert host.store.dead_count() == 0
        assert len([e for e in host.of("mqtt_unavailable") if "not acknowledge" in e["problem"]]) == 1

    async def test_pushed_out_again_and_again_is_not_told_again_and_again(self, host: Host) -> None:
        taken_over = b"\xe0\x02\x8e\x00"
        broker = ScriptedBroker(after_publish=taken_over)
        async with broker.serving():
            host.alert(*numbered(1, 3))
            timing = replace(
                QUICK, settled_seconds=0.001, longest_quiet_seconds=1000.0, longest_yield_seconds=0.02
            )
            host.start(Settings(broker.port), timing)
            await broker.wait_for(lambda: broker.connections >= 30)
        problems = host.of("mqtt_unavailable")
        assert 1 <= len(problems) <= 12
        assert "Session taken over" in problems[0]["problem"]
        assert "second dmimad with the same host.id" in problems[0]["remedy"]
        assert host.store.dead_count() == 0  # no message is to blame

    async def test_accepts_and_says_nothing(self, host: Host) -> None:
        broker = ScriptedBroker(connack=b"")
        async with broker.serving():
            host.start(Settings(broker.port), replace(QUICK, answer_seconds=0.1))
            await broker.wait_for(lambda: broker.connections >= 4)
            assert [entry["event"] for entry in host.events] == ["mqtt_unavailable"]
            assert "the broker does not answer" in host.events[0]["problem"]

    @pytest.mark.parametrize(
        ("connack", "problem", "remedy"),
        [
            (b"\x20\x03\x00\x84\x00", "Unsupported protocol version", "set mqtt.protocol = 3"),
            (b"\x20\x03\x00\x9a\x00", "Retain not supported", "let the broker keep retained messages"),
            (b"\x20\x03\x00\x88\x00", "Server unavailable", "look at the broker's log"),
            (b"\x20\x00", "hung up before answering", "does it speak mqtt.protocol"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the broker does not answer", "check mqtt.host, mqtt.port"),
        ],
    )
    async def test_answers_to_connect(self, host: Host, connack: bytes, problem: str, remedy: str) -> None:
        broker = ScriptedBroker(connack)
        async with broker.serving():
            host.start(Settings(broker.port))
            logged = await host.logged("mqtt_unavailable")
            await broker.wait_for(lambda: broker.connections >= 3)
        assert problem in logged["problem"]
        assert remedy in logged["remedy"]
        assert len(host.events) == 1

    @pytest.mark.parametrize(
        "garbage",
        [
            b"\x00\x00",
            b"\xf0\xff\xff\xff\xff\xff",
            b"\x40\x01\x00",
            b"\x40\x03\x00\x01\x42",
            b"\xe0\x02\x87\x00",
        ],
    )
    async def test_garbage_after_connecting_ends_the_connection_and_no_more(
        self, host: Host, garbage: bytes
    ) -> None:
        broker = ScriptedBroker(CONNACK + garbage)
        async with broker.serving():
            host.start(Settings(broker.port))
            await broker.wait_for(lambda: broker.connections >= 3)
            await host.logged("mqtt_unavailable")
            host.alert(b"kept")
        assert host.task is not None
        assert not host.task.done()
        assert host.store.pending_count() == 1

    async def test_host_name_that_does_not_exist(self, host: Host) -> None:
        host.start(Settings(1883, host="broker.invalid"))
        problem = await host.logged("mqtt_unavailable")
        assert "broker.invalid:1883: host name not found" in problem["problem"]
        assert problem["remedy"] == "check mqtt.host and the name service"

    async def test_what_nobody_thought_of_is_survived(
        self, host: Host, make_broker: Callable[..., Broker], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = 0
        real = host._desired

        def desired() -> Mapping[str, bytes]:
            nonlocal calls
            calls += 1
            if calls < 3:
                raise RuntimeError("a bug")
            return real()

        monkeypatch.setattr(host, "_desired", desired)
        with make_broker() as broker:
            host.alert(*numbered(1, 3))
            host.start(Settings(broker.port))
            await host.delivered()
        (problem,) = host.of("mqtt_unavailable")
        assert "RuntimeError: a bug" in problem["problem"]
        assert isinstance(problem["exc_info"], RuntimeError)


class TestLink:
    async def test_small_messages_do_not_wait_for_the_one_before(self) -> None:
        broker = ScriptedBroker()
        async with broker.serving():
            link = await connect(Settings(broker.port), "id", "status", 5.0, lambda: None)
            sock: Any = link._client.socket()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            await link.abort()
            assert link._client.socket() is None

    async def test_attempt_that_was_given_up_while_its_thread_connects_is_closed_without_connecting(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broker = ScriptedBroker()
        go = threading.Event()
        reached = asyncio.Event()
        loop = asyncio.get_running_loop()
        real = socket.create_connection

        def slow(*args: Any, **options: Any) -> socket.socket:
            loop.call_soon_threadsafe(reached.set)
            go.wait(DEADLINE_SECONDS)
            return real(*args, **options)

        monkeypatch.setattr(socket, "create_connection", slow)
        async with broker.serving():
            attempt = asyncio.create_task(connect(Settings(broker.port), "id", "status", 5.0, lambda: None))
            await reached.wait()
            attempt.cancel()
            await asyncio.wait([attempt])
            assert attempt.cancelled()
            go.set()
            await broker.wait_for(lambda: broker.ended == 1)
        assert broker.packets == 0


async def test_throughput_is_printed(host: Host, make_broker: Callable[..., Broker]) -> None:
    payloads = [b'{"id":"%d","pad":"%s"}' % (number, b"x" * 1000) for number in range(1000)]
    with make_broker() as broker:
        async with subscribed_to(broker) as subscriber:
            host.start(Settings(broker.port), Timing())
            await host.logged("mqtt_connected")
            began = time.perf_counter()
            host.alert(*payloads)
            stored = time.perf_counter()
            await host.delivered()
            ended = time.perf_counter()
            await subscriber.wait_for_payloads(f"{ALERTS}/critical", payloads)
    assert subscriber.payloads(f"{ALERTS}/critical") == payloads
    seconds = ended - stored
    print(  # noqa: T201 -- a measurement for those who run it with -s
        f"\n1,000 alerts of 1 kB: stored in {stored - began:.3f} s,"
        f" published and acknowledged in {seconds:.3f} s ({1000 / seconds:,.0f}/s)"
    )


def _connections_to(port: int, count: int) -> None:
    """Wait (in a thread) until the kernel knows `count` established connections to `port`."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    wanted = f"0100007F:{port:04X} 01"
    while time.monotonic() < deadline:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        if sum(f"{row[2]} {row[3]}" == wanted for row in rows) >= count:
            return
        time.sleep(0.005)  # between two looks
    raise AssertionError("no connection")


def _lines(broker: Broker, part: str, count: int) -> None:
    """Wait (in a thread) until the broker has said `part` so often."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while sum(part in line for line in broker.lines) < count:
        assert time.monotonic() < deadline, broker.lines
        time.sleep(0.005)  # between two looks


@dataclass(frozen=True, slots=True)
class Pki:
    ca: Path
    other_ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    locked_key: Path


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    directory = tmp_path_factory.mktemp("pki")
    authority = Authority(directory)
    server, client = authority.sign("server"), authority.sign("client")
    return Pki(
        authority.file,
        Authority(directory, "other-ca").file,
        server.certificate,
        server.key,
        client.certificate,
        client.key,
        authority.sign("locked", password=b"password").key,
    )
