"""A subscriber and a real broker: both protocols, outages, sessions, credentials."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from dmimad.adapters.keys import SigningKey
from dmimad.adapters.mqtt import reception
from dmimad.core.errors import AdapterError
from dmimad.subscriber import (
    Alert,
    Broker,
    Connected,
    Disconnected,
    Event,
    HostBack,
    HostKeys,
    HostSilent,
    Malformed,
    Missing,
    Trust,
    Watch,
    subscribe,
)
from tests.adapters.test_mqtt import Pki, pki  # noqa: F401  # a fixture
from tests.broker import DEADLINE_SECONDS, Tls, free_port, speaks
from tests.broker import Broker as Mosquitto
from tests.subscriber.publishing import alert, publish, status, write_public

Kind = TypeVar("Kind")
Stream = AsyncGenerator[Event, None]
both_protocols = pytest.mark.parametrize("protocol", [5, 3])


@contextlib.asynccontextmanager
async def listening(broker: Broker, make_watch: Callable[[float], Watch] = Watch) -> AsyncIterator[Stream]:
    """The events of a subscription that is there."""
    async with (
        asyncio.timeout(3 * DEADLINE_SECONDS),
        contextlib.aclosing(subscribe(broker, make_watch)) as events,
    ):
        assert await anext(events) == Connected(broker.where, False)
        yield events


async def next_of(events: Stream, kind: type[Kind]) -> Kind:
    """The next event, which is of this kind."""
    event = await anext(events)
    assert isinstance(event, kind), event
    return event


async def until(events: Stream, kind: type[Kind]) -> Kind:
    """The next event of this kind."""
    async for event in events:
        if isinstance(event, kind):
            return event
    raise AssertionError("ended")


async def sequences(events: Stream, count: int) -> list[int]:
    return [(await next_of(events, Alert)).sequence for _ in range(count)]


class TestDelivery:
    @both_protocols
    async def test_signed_alerts_of_both_protocols(
        self, broker: Mosquitto, protocol: int, tmp_path: Path
    ) -> None:
        key = SigningKey.generate()
        keys = HostKeys.load([write_public(tmp_path / "web-1.pub", key)])
        settings = Broker(port=broker.port, protocol=protocol)
        async with listening(settings, lambda now: Watch(now, keys=keys)) as events:
            await publish(broker.port, alert(1, key=key), alert(2, key=key))
            first, second = [await next_of(events, Alert) for _ in range(2)]
        assert (first.sequence, second.sequence) == (1, 2)
        assert {first.signature.trust, second.signature.trust} == {Trust.VALID}
        assert any("dmimad-subscriber-" in line and speaks(protocol, line) for line in broker.lines)

    async def test_a_retained_status_is_heard_at_once(self, broker: Mosquitto) -> None:
        await publish(broker.port, status(b"offline"), retain=True)
        settings = Broker(port=broker.port)
        async with listening(settings, lambda now: Watch(now, silence_seconds=0.0)) as events:
            assert (await next_of(events, HostSilent)).why == "offline"
            await publish(broker.port, status(b"online"), retain=True)
            assert await next_of(events, HostBack) == HostBack("web-1")

    async def test_what_is_missing_is_told(self, broker: Mosquitto) -> None:
        settings = Broker(port=broker.port)
        async with listening(settings, lambda now: Watch(now, grace_seconds=0.0)) as events:
            await publish(broker.port, alert(1), alert(4))
            assert (await next_of(events, Alert)).sequence == 1
            assert await next_of(events, Missing) == Missing("web-1", 2, 3)

    @both_protocols
    async def test_large_and_many_messages_do_not_end_it(self, broker: Mosquitto, protocol: int) -> None:
        huge = type(alert(1))("dmimad/v1/web-1/alert/critical", b"x" * 500_000, "")
        async with listening(Broker(port=broker.port, protocol=protocol)) as events:
            await publish(broker.port, huge, *(alert(number) for number in range(1, 301)))
            assert "larger" in (await next_of(events, Malformed)).reason
            assert await sequences(events, 300) == list(range(1, 301))

    async def test_what_has_no_acknowledgement_arrives_too(self, broker: Mosquitto) -> None:
        async with listening(Broker(port=broker.port)) as events:
            await publish(broker.port, alert(1), qos=0)
            assert await sequences(events, 1) == [1]

    async def test_what_comes_faster_than_it_is_taken_is_told(
        self, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with listening(Broker(port=broker.port)) as events:
            with monkeypatch.context() as patch:
                patch.setattr(reception, "MAX_WAITING", 0)
                await publish(broker.port, alert(1))
                assert (await next_of(events, Malformed)).reason.startswith("1 messages were dropped")
            await publish(broker.port, alert(2))
            assert await sequences(events, 1) == [2]


class TestOutages:
    @both_protocols
    async def test_it_connects_again_and_tells_what_it_has_missed(
        self, broker: Mosquitto, protocol: int
    ) -> None:
        settings = Broker(port=broker.port, protocol=protocol)
        async with listening(settings, lambda now: Watch(now, grace_seconds=0.0)) as events:
            await publish(broker.port, alert(1))
            assert await sequences(events, 1) == [1]
            broker.kill()
            lost = await next_of(events, Disconnected)
            assert lost.broker == settings.where
            broker.start()
            assert (await until(events, Connected)).again
            await publish(broker.port, alert(2), alert(3), alert(5))
            assert await sequences(events, 2) == [2, 3]
            assert await next_of(events, Missing) == Missing("web-1", 4, 4)
            assert await sequences(events, 1) == [5]

    @both_protocols
    async def test_with_an_id_of_its_own_alerts_of_an_absence_arrive(
        self, broker: Mosquitto, protocol: int
    ) -> None:
        settings = Broker(port=broker.port, protocol=protocol, client_id="console")
        async with listening(settings) as events:
            await publish(broker.port, alert(1), alert(2), alert(3))
            assert await sequences(events, 2) == [1, 2]
        await publish(broker.port, alert(4))
        async with listening(settings) as events:
            # 2 was yielded, but nobody asked for more: whether it was dealt with is not known.
            assert await sequences(events, 3) == [2, 3, 4]

    async def test_without_one_they_do_not(self, broker: Mosquitto) -> None:
        async with listening(Broker(port=broker.port)):
            pass
        await publish(broker.port, alert(1))
        async with listening(Broker(port=broker.port)) as events:
            await publish(broker.port, alert(2))
            assert await sequences(events, 1) == [2]

    async def test_a_task_that_is_cancelled_leaves_at_once(self, broker: Mosquitto) -> None:
        connected = asyncio.Event()

        async def listen() -> None:
            async with listening(Broker(port=broker.port)) as events:
                connected.set()
                await anext(events)

        task = asyncio.create_task(listen())
        await connected.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await publish(broker.port, alert(1))  # by now the broker has dealt with what came before
        broker.kill()  # and by now all of its log has been read
        assert any("disconnected" in line and "dmimad-subscriber" in line for line in broker.lines)


class TestAccess:
    async def test_no_broker_at_the_start(self) -> None:
        port = free_port()
        with pytest.raises(AdapterError, match=f"127.0.0.1:{port}: nothing listens there"):
            await anext(subscribe(Broker(port=port)))

    @both_protocols
    async def test_a_subscription_that_is_refused(self, protocol: int) -> None:
        """By a server of our own: mosquitto 2.0 grants every subscription, and delivers nothing."""

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly((await reader.readexactly(2))[1])
            writer.write(b"\x20\x03\0\0\0" if protocol == 5 else b"\x20\x02\0\0")
            packet = await reader.readexactly((await reader.readexactly(2))[1])
            answer = packet[:2] + (b"\0\x87\x87" if protocol == 5 else b"\x80\x80")
            writer.write(bytes([0x90, len(answer)]) + answer)
            await reader.read()
            writer.close()

        server = await asyncio.start_server(refuse, "127.0.0.1")
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(AdapterError, match="refuses the subscription to dmimad/v1/"):
                await anext(subscribe(Broker(port=port, protocol=protocol)))

    @both_protocols
    async def test_a_password(self, mosquitto: str, tmp_path: Path, protocol: int) -> None:
        right, wrong = tmp_path / "right", tmp_path / "wrong"
        right.write_text("s3cret-word\n")
        wrong.write_text("another\n")
        right.chmod(0o600)
        wrong.chmod(0o600)
        with Mosquitto(mosquitto, tmp_path, users={"console": "s3cret-word"}) as broker:
            settings = Broker(
                port=broker.port, protocol=protocol, username="console", password_file=str(right)
            )
            async with listening(settings):
                pass
            for file, said in ((wrong, "mqtt.password_file"), (tmp_path / "no", "No such file")):
                refused = Broker(
                    port=broker.port, protocol=protocol, username="console", password_file=str(file)
                )
                with pytest.raises(AdapterError, match=said) as error:
                    await anext(subscribe(refused))
                assert "another" not in str(error.value)

    async def test_tls_with_certificates_on_both_sides(
        self,
        mosquitto: str,
        tmp_path: Path,
        pki: Pki,  # noqa: F811  # the fixture
    ) -> None:
        tls = Tls(pki.ca, pki.server, pki.server_key, require_certificate=True)
        with Mosquitto(mosquitto, tmp_path, tls=tls) as broker:
            settings = Broker(
                port=broker.port,
                tls_ca_file=str(pki.ca),
                tls_cert_file=str(pki.client),
                tls_key_file=str(pki.client_key),
            )
            async with listening(settings):
                pass
            with pytest.raises(AdapterError, match="certificate is not valid"):
                await anext(subscribe(Broker(port=broker.port, tls_ca_file=str(pki.other_ca))))
