"""`config/mosquitto/`: who may connect, say and read what, at a real mosquitto with real certificates."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from dmimad.core.errors import AdapterError
from dmimad.subscriber import Broker as Access
from dmimad.subscriber import Connected, subscribe
from tests.broker import DEADLINE_SECONDS, Broker, Subscriber, subscribed_to
from tests.config.shipped import CONFIG, Certificates, commented_in, make_certificates
from tests.conftest import find_program
from tests.service.daemon_process import running
from tests.service.host import Host
from tests.service.lists import ascii_records

PASSWORDS = {name: f"word of {name}" for name in ("web-1", "web-2", "console", "web-team")}
#: Words for it; under TLS 1.3 mosquitto tells after the handshake, or just hangs up.
REFUSAL = r"[Nn]ot authori[sz]ed|certificate|TLS|hung up|cut"
BY_CERTIFICATE = ("require_certificate true", "use_identity_as_username true")


class Shipped(Broker):
    """mosquitto with the shipped files: those places in them that must be, are the test's."""

    def __init__(self, program: str, directory: Path, certificates: Certificates, variant: str) -> None:
        super().__init__(program, directory)
        self.certificates = certificates
        self.passwords = variant == "passwords"
        self._variant = variant

    def access(self, name: str) -> dict[str, Any]:
        """aiomqtt's arguments for that user."""
        options: dict[str, Any] = {"hostname": "localhost"}
        options["tls_context"] = self.certificates.client("" if self.passwords else name)
        if self.passwords:
            options |= {"username": name, "password": PASSWORDS[name]}
        return options

    def settings(self, name: str) -> dict[str, Any]:
        """The daemon's settings in [mqtt] for that user."""
        settings = self.anonymous()
        if self.passwords:
            file = self._directory / f"{name}.password"
            file.touch(0o600)
            file.write_text(PASSWORDS[name])
            return settings | {"username": name, "password_file": str(file)}
        settings["tls_cert_file"] = str(self.certificates.certificate(name))
        return settings | {"tls_key_file": str(self.certificates.key(name))}

    def anonymous(self) -> dict[str, Any]:
        """The settings of nobody."""
        ca = str(self.certificates.certificate("ca"))
        return {"host": "localhost", "port": self.port, "tls_ca_file": ca}

    def _write_config(self) -> Path:
        text = (CONFIG / "mosquitto/dmimad.conf").read_text()
        places = {
            "/etc/mosquitto/certs": self.certificates.directory,
            "/etc/mosquitto/dmimad.acl": self._directory / "acl",
            "/etc/mosquitto/dmimad.passwd": self._directory / "passwords",
            "listener 8883": f"listener {self.port} 127.0.0.1",
        }
        for place, here in places.items():
            assert place in text
            text = text.replace(place, str(here))
        if self.passwords:
            for line in BY_CERTIFICATE:
                assert f"\n{line}\n" in text
                text = text.replace(f"\n{line}\n", f"\n#{line}\n")
            text = text.replace("#password_file", "password_file")
            for name, password in PASSWORDS.items():
                first = [] if (self._directory / "passwords").exists() else ["-c"]
                command = [
                    "mosquitto_passwd",
                    *first,
                    "-b",
                    str(self._directory / "passwords"),
                    name,
                    password,
                ]
                subprocess.run(command, check=True, capture_output=True)
        if self._variant == "own ids":
            text = text.replace("#use_username_as_clientid", "use_username_as_clientid")
        (self._directory / "acl").write_text(commented_in((CONFIG / "mosquitto/dmimad.acl").read_text()))
        config = self._directory / "mosquitto.conf"
        # As root mosquitto would become another user and not read our files.
        config.write_text(f"user {getpass.getuser()}\nlog_dest stderr\nlog_type all\n{text}")
        return config


@pytest.fixture(params=["certificates", "passwords"])
def broker(
    request: pytest.FixtureRequest, mosquitto: str, tmp_path: Path, certificates: Certificates
) -> Iterator[Shipped]:
    directory = tmp_path / "broker"
    directory.mkdir()
    find_program("mosquitto_passwd", "mosquitto")
    with Shipped(mosquitto, directory, certificates, request.param) as started:
        yield started


@contextlib.asynccontextmanager
async def client(broker: Shipped, name: str) -> AsyncIterator[aiomqtt.Client]:
    options = {"port": broker.port, "timeout": 10, **broker.access(name)}
    async with aiomqtt.Client(**options, protocol=aiomqtt.ProtocolVersion.V5) as made:
        yield made


@contextlib.asynccontextmanager
async def console(broker: Shipped) -> AsyncIterator[Subscriber]:
    async with subscribed_to(broker, **broker.access("console")) as subscriber:
        yield subscriber


async def attempt(settings: dict[str, Any]) -> None:
    """Connect, and leave at once; raises AdapterError if it is not let in."""
    async with contextlib.aclosing(subscribe(Access(**settings))) as events:
        assert isinstance(await anext(events), Connected)


class TestWhoMayConnect:
    async def test_nobody_without_tls(self, broker: Shipped) -> None:
        with pytest.raises(AdapterError, match=r"hung up|cut"):
            await attempt({"host": "localhost", "port": broker.port})

    async def test_nobody_anonymous(self, broker: Shipped) -> None:
        with pytest.raises(AdapterError, match=REFUSAL):
            await attempt(broker.anonymous())

    async def test_nobody_by_another_ones_password(self, broker: Shipped, tmp_path: Path) -> None:
        file = tmp_path / "password"
        file.touch(0o600)
        file.write_text(PASSWORDS["web-2"])
        with pytest.raises(AdapterError, match=REFUSAL):
            await attempt(broker.anonymous() | {"username": "web-1", "password_file": str(file)})

    async def test_nobody_with_a_certificate_of_another_ca(self, broker: Shipped, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        other = make_certificates(tmp_path / "other")
        files = {"tls_cert_file": str(other.certificate("web-1")), "tls_key_file": str(other.key("web-1"))}
        with pytest.raises(AdapterError, match=REFUSAL):
            await attempt(broker.anonymous() | files)

    async def test_everybody_else(self, broker: Shipped) -> None:
        for name in PASSWORDS:
            await attempt(broker.settings(name))


async def publish(broker: Shipped, name: str, *topics: str) -> None:
    """As that user, in that order; a broker that refuses one goes on with the next."""
    async with client(broker, name) as publisher:
        for topic in topics:
            await publisher.publish(topic, f"of {name}", qos=1)


class TestWhoMaySay:
    async def test_a_host_below_its_own_topic_only(self, broker: Shipped) -> None:
        own = "dmimad/v1/web-1/alert/critical"
        others = (
            "dmimad/v1/web-2/status",
            "dmimad/v1/web-2/alert/critical",
            "dmimad/v1/console/status",
            "dmimad/v1/web-11/status",
            "dmimad/v1",
            "dmimad/v2/web-1/status",
            "web-1",
        )
        async with console(broker) as subscriber:
            await publish(broker, "web-1", *others, own)
            await subscriber.wait_for_last(own, b"of web-1")  # the last, so the others would have come
        assert {message.topic for message in subscriber.messages} == {own}

    async def test_not_with_its_last_will_either(self, broker: Shipped) -> None:
        will = aiomqtt.Will("dmimad/v1/web-2/status", b"offline", qos=1, retain=True)
        async with console(broker) as subscriber:
            with contextlib.suppress(aiomqtt.MqttError):  # it may be refused at once
                async with aiomqtt.Client(port=broker.port, **broker.access("web-1"), will=will) as dying:
                    dying._client._sock_close()  # so that the will is due
            await publish(broker, "web-2", "dmimad/v1/web-2/status")
            await subscriber.wait_for_last("dmimad/v1/web-2/status", b"of web-2")
        assert subscriber.payloads() == [b"of web-2"]

    @pytest.mark.parametrize("name", ["console", "web-team"])
    async def test_a_subscriber_nothing(self, broker: Shipped, name: str) -> None:
        """Not even as a host of its own name."""
        last = "dmimad/v1/web-1/status"
        async with console(broker) as subscriber:
            await publish(broker, name, "dmimad/v1/web-1/status", f"dmimad/v1/{name}/status", "dmimad/v1")
            await publish(broker, "web-1", last)
            await subscriber.wait_for_last(last, b"of web-1")
        assert subscriber.payloads() == [b"of web-1"]


class TestWhoMayRead:
    @pytest.mark.parametrize(
        ("name", "seen"),
        [
            ("console", ["dmimad/v1/web-2/status", "dmimad/v1/web-1/status"]),
            ("web-team", ["dmimad/v1/web-1/status"]),
            ("web-1", []),
        ],
    )
    async def test_topics(self, broker: Shipped, name: str, seen: list[str]) -> None:
        async with client(broker, name) as reader, client(broker, "console") as witness:
            await witness.subscribe("#")
            await reader.subscribe("#")
            await publish(broker, "web-2", "dmimad/v1/web-2/status")
            await publish(broker, "web-1", "dmimad/v1/web-1/status")
            async with asyncio.timeout(DEADLINE_SECONDS):
                for _ in range(2):  # sent to everybody by then
                    await anext(aiter(witness.messages))
                await reader.unsubscribe("#")  # answered after what was sent before
            assert [str((await anext(aiter(reader.messages))).topic) for _ in seen] == seen
            assert len(reader.messages) == 0


@pytest.mark.parametrize("broker", ["certificates", "passwords", "own ids"], indirect=True)
async def test_daemon_and_listen_work_with_it(broker: Shipped, tmp_path: Path, corpus: Path) -> None:
    """A drift is told from one side of the broker to the other, and the end of the daemon too."""
    host = Host(tmp_path / "host", broker.port)
    host.configure(mqtt=broker.settings("web-1"))
    host.approve('[[device]]\nname = "nowhere"\nrequired = true')
    host.write_list(b"".join(ascii_records(corpus / "systematic-6.1")[:3]))
    options = {key.replace("_", "-"): str(value) for key, value in broker.settings("console").items()}
    command = [sys.executable, "-m", "dmimad.cli", "listen", "--json", "--count", "1"]
    listen = await asyncio.create_subprocess_exec(
        *command,
        *(word for key, value in options.items() for word in (f"--{key}", value)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    try:
        out = await _told(broker, host, listen)
    finally:
        with contextlib.suppress(ProcessLookupError):
            listen.kill()
        await listen.communicate()
    (alert,) = map(json.loads, out.splitlines())
    assert (alert["type"], alert["host"]) == ("alert", "web-1")


async def _told(broker: Shipped, host: Host, listen: asyncio.subprocess.Process) -> bytes:
    """What `listen` says of a daemon that starts, has something to tell, and ends."""
    assert listen.stderr is not None
    async with asyncio.timeout(3 * DEADLINE_SECONDS):
        assert b"connected" in await listen.stderr.readline()
        async with running(host.settings) as daemon:
            out, _ = await listen.communicate()
            await daemon.wait_for_metric("dmimad_mqtt_connected", 1)
            async with console(broker) as subscriber:
                await subscriber.wait_for_last("dmimad/v1/web-1/status", b"online")
                await daemon.terminate()
                await subscriber.wait_for_last("dmimad/v1/web-1/status", b"offline")
            assert not daemon.logged("mqtt_publish_refused")
    return out


async def test_a_stolen_client_id_ends_no_connection(
    mosquitto: str, tmp_path: Path, certificates: Certificates
) -> None:
    """With use_username_as_clientid; web-2 claims the id of web-1's daemon."""
    with Shipped(mosquitto, tmp_path, certificates, "own ids") as broker:
        async with client(broker, "web-1") as victim:
            for stolen in ("web-1", "dmimad-web-1"):
                await attempt(broker.settings("web-2") | {"client_id": stolen})
            await victim.publish("dmimad/v1/web-1/status", b"still here", qos=1)
        assert not any("already connected" in line for line in broker.lines)


def test_every_place_of_the_files_is_absolute() -> None:
    """mosquitto's working directory is nobody's business."""
    text = (CONFIG / "mosquitto/dmimad.conf").read_text()
    named = re.findall(r"^#?\w*file (\S+)$", text, re.MULTILINE)
    assert len(named) == 6
    assert all(place.startswith("/etc/mosquitto/") for place in named)
