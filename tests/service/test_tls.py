"""TLS of the whole daemon: a broker that wants certificates, their rotation by reloads, metrics over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dmimad.adapters.control.client import ask
from tests.broker import Broker, Subscriber, Tls, free_port, subscribed_to
from tests.certificates import Authority, Signed
from tests.conftest import find_program
from tests.service.daemon_process import DEADLINE_SECONDS, DaemonProcess, running, samples, series
from tests.service.host import Host, entry
from tests.service.lists import ascii_records
from tests.service.witness import alerts, first_arrivals

SUCCESSFUL = "dmimad_config_last_reload_successful"
EXPIRY = "dmimad_tls_certificate_expiry_timestamp_seconds"


class Site:
    """A broker that lets in who has a certificate, and everybody's certificates; `ca` is what all trust."""

    def __init__(self, directory: Path, mosquitto: str) -> None:
        self.directory = directory / "pki"
        self.authority = Authority(self.directory)
        self.ca = self.directory / "trusted.pem"
        self.ca.write_bytes(self.authority.file.read_bytes())
        self.server = self.authority.sign("server")
        self.client = self.authority.sign("client")
        self.watcher = self.authority.sign("watcher")
        (directory / "broker").mkdir()
        tls = Tls(self.ca, self.server.certificate, self.server.key, require_certificate=True)
        self.broker = Broker(mosquitto, directory / "broker", tls=tls, persistent=True)
        self.host = Host(directory / "host", self.broker.port)
        self.host.configure(
            mqtt={
                "tls_ca_file": str(self.ca),
                "tls_cert_file": str(self.client.certificate),
                "tls_key_file": str(self.client.key),
            }
        )
        self.host.approve(entry("nowhere", required=True))  # so every device that comes is an alert

    def trusting(self) -> ssl.SSLContext:
        """For a client of the test's own."""
        context = ssl.create_default_context(cafile=self.ca)
        context.load_cert_chain(self.watcher.certificate, self.watcher.key)
        return context

    def connections(self) -> int:
        """How often the daemon has connected to the present broker or a former one."""
        return sum("New client connected" in line and "as dmimad-web-1" in line for line in self.broker.lines)

    async def refused(self) -> list[dict[str, Any]]:
        """What a status says of it."""
        answer: Any = await asyncio.to_thread(ask, self.host.socket, {"request": "status"})
        found: list[dict[str, Any]] = answer["status"]["refused"]
        return found


@pytest.fixture
def site(tmp_path: Path, mosquitto: str) -> Iterator[Site]:
    made = Site(tmp_path, mosquitto)
    with made.broker:
        yield made


async def gapless(subscriber: Subscriber, host: Host, records: int) -> int:
    """Everything is read and delivered, and no number is missing; returns how many alerts there were."""
    await host.settled(records)
    told = host.told()

    def found() -> list[int]:
        return [alert.sequence for alert in first_arrivals(alerts(subscriber.messages))]

    # The broker has them all, and the subscriber soon after.
    await subscriber.wait_for(lambda: len(found()) >= told, lambda: f"{told} alerts, of which came {found()}")
    assert found() == list(range(1, told + 1))
    assert not host.dead_letters()
    return told


class TestBroker:
    async def test_certificates_change_under_load_and_nothing_is_lost(self, site: Site, corpus: Path) -> None:
        records = ascii_records(corpus / "systematic-6.1")
        async with (
            subscribed_to(site.broker, tls_context=site.trusting()) as subscriber,
            running(site.host.settings) as daemon,
        ):
            await daemon.wait_for_metric("dmimad_mqtt_connected", 1)
            for number, record in enumerate(records):
                site.host.append(record)
                if number % 8 == 0:
                    site.authority.sign("client")
                    await daemon.reload()
            count = await gapless(subscriber, site.host, len(records))
            assert count > 3  # how many there are depends on which records are read together
            assert site.connections() > 1  # some attempts are overtaken by the next reload
            assert await daemon.metric(SUCCESSFUL) == 1

    async def test_files_that_are_the_same_are_no_reason_to_connect_again(self, site: Site) -> None:
        async with running(site.host.settings) as daemon:
            await daemon.wait_for_metric("dmimad_mqtt_connected", 1)
            content = site.client.certificate.read_bytes()
            site.client.certificate.write_bytes(content)
            await daemon.reload()
            await daemon.reload()
            assert await daemon.metric("dmimad_mqtt_connected") == 1
            assert not daemon.logged("files_loaded")
            assert await daemon.terminate() == 0
            assert site.connections() == 1

    async def test_broken_files_leave_the_last_good_ones_in_force(self, site: Site, corpus: Path) -> None:
        """Also when the broker goes away and comes back, before they are mended."""
        records = ascii_records(corpus / "systematic-6.1")
        good = site.client.key.read_bytes()
        async with (
            subscribed_to(site.broker, tls_context=site.trusting()) as subscriber,
            running(site.host.settings) as daemon,
        ):
            await daemon.wait_for_metric("dmimad_mqtt_connected", 1)
            accepted = await daemon.metric("dmimad_config_last_reload_success_timestamp_seconds")
            site.client.key.write_bytes(site.server.key.read_bytes())
            await daemon.reload()
            problem = (
                f"{site.client.certificate} {site.client.key}: mqtt.tls_cert_file, mqtt.tls_key_file: "
                "the private key is not that of the certificate; "
                "put certificate and unencrypted key there (PEM), readable for dmimad"
            )
            told = await daemon.wait_for_log("files_refused")
            assert (told["use"], told["problem"], told["kept"]) == ("mqtt", problem, "the last good ones")
            first = await site.refused()
            assert [(each["what"], each["reason"]) for each in first] == [("mqtt", problem)]
            assert await daemon.metric(SUCCESSFUL) == 0
            assert await daemon.metric("dmimad_mqtt_connected") == 1
            await daemon.reload()
            assert await site.refused() == first  # since it was refused first
            subscriber.lost()
            site.broker.restart()
            await subscriber.resubscribed()
            site.host.append(b"".join(records))
            await gapless(subscriber, site.host, len(records))
            assert await site.refused() == first
            site.client.key.write_bytes(good)
            await daemon.reload()
            assert await site.refused() == []
            assert await daemon.metric(SUCCESSFUL) == 1
            after = await daemon.metric("dmimad_config_last_reload_success_timestamp_seconds")
            assert accepted is not None
            assert after is not None
            assert after > accepted

    async def test_other_settings_with_files_that_cannot_be_used(self, site: Site) -> None:
        """The former settings stay in force with their files; what has nothing to do with it is taken."""
        absent = site.directory / "absent.pem"
        async with running(site.host.settings) as daemon:
            await daemon.wait_for_metric("dmimad_mqtt_connected", 1)
            site.host.configure(
                mqtt={"tls_ca_file": str(absent), "port": free_port()}, log={"level": "debug"}
            )
            await daemon.reload()
            reason = (
                f"{absent}: mqtt.tls_ca_file: No such file or directory; "
                "put the certificate of the broker's CA there (PEM), readable for dmimad"
            )
            assert [(each["what"], each["reason"]) for each in await site.refused()] == [("mqtt", reason)]
            assert await daemon.metric("dmimad_mqtt_connected") == 1
            site.host.configure(mqtt={"tls_ca_file": str(site.ca), "port": site.broker.port})
            await daemon.reload()
            assert await site.refused() == []
            assert await daemon.terminate() == 0
            assert site.connections() == 1

    async def test_they_stay_refused_when_the_former_connect_again(self, site: Site) -> None:
        """That the files of the settings in force are fine says nothing of those that wait."""
        async with running(site.host.settings) as daemon:
            await daemon.wait_for_metric("dmimad_mqtt_connected", 1)
            site.host.configure(mqtt={"tls_ca_file": str(site.directory / "absent.pem")})
            await daemon.reload()
            first = await site.refused()
            assert [each["what"] for each in first] == ["mqtt"]
            site.broker.restart()
            await daemon.wait_for_log("mqtt_connected", 2)
            assert await site.refused() == first
            assert await daemon.metric(SUCCESSFUL) == 0
            site.host.configure(mqtt={"tls_ca_file": str(site.ca)})
            await daemon.reload()
            assert await site.refused() == []

    async def test_a_remote_password_in_the_clear_is_refused_by_a_reload(self, site: Site) -> None:
        async with running(site.host.settings) as daemon:
            site.host.configure(
                mqtt={
                    "host": "192.0.2.1",
                    "tls": "off",
                    "username": "u",
                    **dict.fromkeys(("tls_ca_file", "tls_cert_file", "tls_key_file")),
                }
            )
            await daemon.reload()
            told = await site.refused()
            assert told[0]["what"] == "settings"
            assert "mqtt.username: would cross the network to 192.0.2.1 in the clear" in told[0]["reason"]
            assert not daemon.logged("in_clear")
            site.host.configure(mqtt={"allow_plain_password": True})
            await daemon.reload()
            await daemon.reload()
            assert await site.refused() == []
            assert len(daemon.logged("in_clear")) == 1

    async def test_everybody_changes_to_another_authority(
        self, site: Site, corpus: Path, tmp_path: Path
    ) -> None:
        """Both are trusted for a while, as one does it; whoever is last, nothing is lost."""
        records = ascii_records(corpus / "systematic-6.1")
        half = len(records) // 2
        other = Authority(tmp_path / "other", "other-ca")
        site.ca.write_bytes(site.authority.file.read_bytes() + other.file.read_bytes())
        site.broker.restart()
        async with (
            subscribed_to(site.broker, tls_context=site.trusting()) as subscriber,
            running(site.host.settings) as daemon,
        ):
            site.host.append(b"".join(records[:half]))
            put(other.sign("server"), site.server)
            put(other.sign("client"), site.client)
            await daemon.reload()  # a certificate of the other authority, for a server of the first
            await daemon.wait_for_metric("dmimad_mqtt_connected", 1)
            # What the broker has not passed on by now, it will forget.
            assert await gapless(subscriber, site.host, half) > 2
            subscriber.lost()
            site.broker.restart()
            await subscriber.resubscribed()  # what is sent before, nobody hears
            site.host.append(b"".join(records[half:]))
            await daemon.reload()
            assert await gapless(subscriber, site.host, len(records)) > 4
            assert await site.refused() == []

    async def test_expiry_of_our_certificate_is_a_metric(self, site: Site) -> None:
        async with running(site.host.settings) as daemon:
            found = await daemon.metric(EXPIRY, use="mqtt")
        assert found == ends_of(site.client)

    async def test_start_with_files_that_cannot_be_used(self, site: Site, corpus: Path) -> None:
        """The list is followed all the same; the next attempt to connect takes the mended file."""
        records = ascii_records(corpus / "systematic-6.1")
        site.client.key.chmod(0o644)
        site.host.append(b"".join(records))
        async with (
            subscribed_to(site.broker, tls_context=site.trusting()) as subscriber,
            running(site.host.settings) as daemon,
        ):
            told = await daemon.wait_for_log("files_refused")
            assert told["problem"] == (
                f"{site.client.key}: mqtt.tls_key_file: everybody may access it (mode 0644); "
                f"chmod o= {site.client.key}"
            )
            assert told["kept"] == "none: there are no last good ones"
            assert await daemon.metric(SUCCESSFUL) == 0
            site.client.key.chmod(0o600)
            await gapless(subscriber, site.host, len(records))
            assert await site.refused() == []

    async def test_a_secret_as_a_credential_of_the_service_manager(
        self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        credentials = tmp_path / "credentials"
        credentials.mkdir()
        (credentials / "secrets_dmimad-test.key").write_bytes(site.client.key.read_bytes())
        (credentials / "secrets_dmimad-test.key").chmod(0o440)
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
        site.host.configure(mqtt={"tls_key_file": "/etc/dmimad/secrets/dmimad-test.key"})
        async with running(site.host.settings) as daemon:
            await daemon.wait_for_metric("dmimad_mqtt_connected", 1)


def put(fresh: Signed, place: Signed) -> None:
    """As the files in another place: first the key, as it happens."""
    place.key.write_bytes(fresh.key.read_bytes())
    place.certificate.write_bytes(fresh.certificate.read_bytes())


def ends_of(signed: Signed) -> float:
    """When it expires, by OpenSSL."""
    decoded = ssl._ssl._test_decode_cert(str(signed.certificate))  # type: ignore[attr-defined]
    return float(ssl.cert_time_to_seconds(decoded["notAfter"]))


class TestMetrics:
    @pytest.fixture
    def served(self, tmp_path: Path) -> tuple[Host, Authority, Signed]:
        """A host without a broker that serves metrics to who has a certificate."""
        authority = Authority(tmp_path / "pki")
        server = authority.sign("server")
        host = Host(tmp_path / "host", free_port())
        host.configure(
            mqtt={"enabled": False},
            metrics={
                "tls_cert_file": str(server.certificate),
                "tls_key_file": str(server.key),
                "tls_client_ca_file": str(authority.file),
            },
        )
        return host, authority, server

    async def test_prometheus_scrapes_with_its_certificate(
        self, served: tuple[Host, Authority, Signed], tmp_path: Path
    ) -> None:
        host, authority, _ = served
        scraper = authority.sign("scraper")
        async with running(host.settings) as daemon:
            url = str((await daemon.wait_for_log("metrics_listening"))["url"])
            trusting = {"ca_file": authority.file}
            shown = {"cert_file": scraper.certificate, "key_file": scraper.key}
            jobs = {"with": {**trusting, **shown}, "without": trusting}
            async with prometheus(
                tmp_path / "prometheus", urllib.parse.urlsplit(url).netloc, jobs
            ) as targets:
                assert await targets.health() == {"with": "up", "without": "down"}
        assert url.startswith("https://")

    async def test_another_certificate_by_a_reload(self, served: tuple[Host, Authority, Signed]) -> None:
        host, authority, server = served
        scraper = authority.sign("scraper")
        context = ssl.create_default_context(cafile=authority.file)
        context.load_cert_chain(scraper.certificate, scraper.key)
        async with running(host.settings) as daemon:
            before, found = await scraped(daemon, context)
            assert found[series(EXPIRY, use="metrics")] == ends_of(server)
            authority.sign("server")
            await daemon.reload()
            after, found = await scraped(daemon, context)
            assert before != after
            assert found[series(EXPIRY, use="metrics")] == ends_of(server)
            assert not daemon.logged("restart_needed")
            server.certificate.write_text("no certificate")
            await daemon.reload()
            kept, found = await scraped(daemon, context)
            assert kept == after
            assert found[series(SUCCESSFUL)] == 0
            told = await daemon.wait_for_log("files_refused")
            assert told["use"] == "metrics"
            assert "there is no certificate in it (PEM)" in told["problem"]
            authority.sign("server")
            await daemon.reload()
            mended, found = await scraped(daemon, context)
            assert mended not in (before, after)
            assert found[series(SUCCESSFUL)] == 1

    async def test_no_start_with_files_that_cannot_be_used(
        self, served: tuple[Host, Authority, Signed]
    ) -> None:
        host, _, server = served
        server.key.chmod(0o666)
        daemon = DaemonProcess(host.settings)
        status, told = await daemon.run_to_end()
        assert status == 2
        assert told.splitlines()[-1] == (
            f"dmimad: {server.key}: metrics.tls_key_file: everybody may access it (mode 0666); "
            f"chmod o= {server.key}"
        )


async def scraped(
    daemon: DaemonProcess, context: ssl.SSLContext
) -> tuple[bytes, dict[tuple[str, frozenset[tuple[str, str]]], float]]:
    """The certificate that is shown, and what is served."""
    url = urllib.parse.urlsplit(str((await daemon.wait_for_log("metrics_listening"))["url"]))
    async with asyncio.timeout(DEADLINE_SECONDS):
        reader, writer = await asyncio.open_connection(url.hostname, url.port, ssl=context)
        try:
            shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
            _, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.transport.abort()
    return shown, samples(body.decode())


class Targets:
    """What a Prometheus says of its targets."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/targets"

    async def health(self) -> dict[str, str]:
        """By job, once all were scraped; nothing tells when, so it is looked at."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                with contextlib.suppress(urllib.error.URLError, ConnectionError):
                    found = (await asyncio.to_thread(self._targets))["data"]["activeTargets"]
                    health = {target["labels"]["job"]: str(target["health"]) for target in found}
                    if health and "unknown" not in health.values():
                        return health
                await asyncio.sleep(0.05)  # between two looks

    def _targets(self) -> Any:
        with urllib.request.urlopen(self._url, timeout=10) as answer:
            return json.load(answer)


@contextlib.asynccontextmanager
async def prometheus(
    directory: Path, target: str, jobs: Mapping[str, Mapping[str, Path]]
) -> AsyncIterator[Targets]:
    """One that scrapes the target as each of the jobs, with these files for TLS."""
    directory.mkdir()
    scrapes = [
        {
            "job_name": name,
            "scheme": "https",
            "scrape_interval": "1s",
            "tls_config": {key: str(path) for key, path in tls.items()},
            "static_configs": [{"targets": [target]}],
        }
        for name, tls in jobs.items()
    ]
    (directory / "prometheus.yml").write_text(json.dumps({"scrape_configs": scrapes}))
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        find_program("prometheus", "prometheus"),
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield Targets(port)
    finally:
        process.kill()
        await process.wait()
