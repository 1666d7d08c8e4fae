"""Metrics as Prometheus reads them: names and labels, hostile names, and the endpoint over real sockets."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import os
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import prometheus_client
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from structlog.typing import FilteringBoundLogger

from dmimad.adapters import metrics
from dmimad.adapters.http import server as http_server
from dmimad.adapters.http.metrics import MetricsServer
from dmimad.adapters.http.tls import MAX_FILE_BYTES, server_context
from dmimad.adapters.log import open_log
from dmimad.adapters.metrics import DaemonCollector, registry
from dmimad.core.errors import AdapterError
from dmimad.core.snapshot import DeviceSeries, Snapshot
from tests.certificates import Authority

HASH_A = "sha256:" + "a" * 64
HASH_B = "sha256:" + "b" * 64
HOSTILE = [
    "a b",
    'q"uo\\te',
    "nl\nx",
    "cr\rx",
    "nul\0x",
    "\x1b[31m",
    "\u2028\u202e",
    r"\xff",
    "back\\",
    "{}=,",
    "x" * 508,
    "",
    'a",slot="active"} 1\ndmimad_source_up 0\n#',
]

SNAPSHOT = Snapshot(
    records=154,
    dm_events={"table_load": 60, "device_resume": 58},
    devices=(
        DeviceSeries("vg-root", "LVM-x", HASH_A, None, False, False, "both", None, "c:a"),
        DeviceSeries(
            "image",
            "",
            HASH_A,
            HASH_B,
            False,
            True,
            "observed",
            "measured",
            None,
            "c:b",
            maintenance=True,
        ),
    ),
    findings={("drift.inactive", "warning"): 2, ("list.restarted", "info"): 1},
    firing={"info": 0, "warning": 1, "critical": 0},
    position=152,
    lag=3,
    pcr_verified=True,
    last_read=1_795_348_984.5,
    outbox_pending=4,
    outbox_dead=5,
    mqtt_connected=True,
    reload_ok=False,
    source_up=True,
    live_up=True,
    observations=17,
    reload_success=1_795_348_980.25,
    certificate_expiry={"mqtt": 1_800_000_000.0},
    baseline_expiry=1_800_000_100.0,
)
EMPTY = Snapshot(
    records=0,
    dm_events={},
    devices=(),
    findings={},
    firing={},
    position=0,
    lag=None,
    pcr_verified=None,
    last_read=None,
    outbox_pending=0,
    outbox_dead=0,
    mqtt_connected=False,
    reload_ok=True,
    source_up=False,
)


def exposed(snapshot: Snapshot, *latencies: float) -> str:
    collector = DaemonCollector(lambda: snapshot, "1.2.3")
    for latency in latencies:
        collector.observe_detection_latency(latency)
    return generate_latest(registry(collector)).decode()


def series(text: str) -> dict[str, float]:
    """Sample lines, each once, without process_* and the histogram."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith(("#", "process_", "dmimad_detection_latency")):
            name, _, value = line.rpartition(" ")
            assert name not in found
            found[name] = float(value)
    return found


def hostile_devices() -> Snapshot:
    devices = [
        DeviceSeries(name, name, HASH_A, HASH_B, True, False, "both", "observed", "config:a", None, True)
        for name in HOSTILE
    ]
    return dataclasses.replace(SNAPSHOT, devices=devices)


# --- what is exposed ---


def test_every_metric_by_name_label_and_value() -> None:
    assert series(exposed(SNAPSHOT)) == {
        'dmimad_build_info{version="1.2.3"}': 1,
        "dmimad_records_total": 154,
        'dmimad_dm_events_total{event="table_load"}': 60,
        'dmimad_dm_events_total{event="device_resume"}': 58,
        'dmimad_dm_events_total{event="device_remove"}': 0,
        'dmimad_dm_events_total{event="table_clear"}': 0,
        'dmimad_dm_events_total{event="device_rename"}': 0,
        'dmimad_dm_events_total{event="target_update"}': 0,
        "dmimad_devices": 2,
        'dmimad_device_drift{device="vg-root",slot="active",uuid="LVM-x"}': 0,
        'dmimad_device_drift{device="vg-root",slot="inactive",uuid="LVM-x"}': 0,
        'dmimad_device_drift{device="image",slot="active",uuid=""}': 0,
        'dmimad_device_drift{device="image",slot="inactive",uuid=""}': 1,
        f'dmimad_device_table_info{{device="vg-root",hash="{HASH_A}",slot="active",uuid="LVM-x"}}': 1,
        f'dmimad_device_table_info{{device="image",hash="{HASH_A}",slot="active",uuid=""}}': 1,
        f'dmimad_device_table_info{{device="image",hash="{HASH_B}",slot="inactive",uuid=""}}': 1,
        'dmimad_findings_total{code="drift.inactive",severity="warning"}': 2,
        'dmimad_findings_total{code="list.restarted",severity="info"}': 1,
        'dmimad_alerts_firing{severity="info"}': 0,
        'dmimad_alerts_firing{severity="warning"}': 1,
        'dmimad_alerts_firing{severity="critical"}': 0,
        "dmimad_list_position": 152,
        "dmimad_list_lag_records": 3,
        "dmimad_pcr_verified": 1,
        "dmimad_last_read_timestamp_seconds": 1_795_348_984.5,
        "dmimad_outbox_pending": 4,
        "dmimad_outbox_dead_total": 5,
        "dmimad_mqtt_connected": 1,
        "dmimad_mqtt_enabled": 1,
        "dmimad_mqtt_host_id_taken": 0,
        "dmimad_store_up": 1,
        "dmimad_config_last_reload_successful": 0,
        "dmimad_config_last_reload_success_timestamp_seconds": 1_795_348_980.25,
        'dmimad_tls_certificate_expiry_timestamp_seconds{use="mqtt"}': 1_800_000_000,
        "dmimad_source_up": 1,
        'dmimad_device_witness_info{device="vg-root",provenance="both",slot="active",uuid="LVM-x"}': 1,
        'dmimad_device_witness_info{device="image",provenance="observed",slot="active",uuid=""}': 1,
        'dmimad_device_witness_info{device="image",provenance="measured",slot="inactive",uuid=""}': 1,
        'dmimad_device_configuration_info{device="vg-root",fingerprint="c:a",slot="active",uuid="LVM-x"}': 1,
        'dmimad_device_configuration_info{device="image",fingerprint="c:b",slot="inactive",uuid=""}': 1,
        'dmimad_device_maintenance{device="vg-root",uuid="LVM-x"}': 0,
        'dmimad_device_maintenance{device="image",uuid=""}': 1,
        "dmimad_baseline_expiry_timestamp_seconds": 1_800_000_100,
        "dmimad_live_up": 1,
        "dmimad_live_observations_total": 17,
    }


def test_before_anything_happened() -> None:
    found = series(exposed(EMPTY))
    assert found == {
        'dmimad_build_info{version="1.2.3"}': 1,
        "dmimad_records_total": 0,
        **{f'dmimad_dm_events_total{{event="{event}"}}': 0 for event in metrics.DM_EVENTS},
        "dmimad_devices": 0,
        **{f'dmimad_alerts_firing{{severity="{name}"}}': 0 for name in ("info", "warning", "critical")},
        "dmimad_list_position": 0,
        "dmimad_outbox_pending": 0,
        "dmimad_outbox_dead_total": 0,
        "dmimad_mqtt_connected": 0,
        "dmimad_mqtt_enabled": 1,
        "dmimad_mqtt_host_id_taken": 0,
        "dmimad_store_up": 1,
        "dmimad_config_last_reload_successful": 1,
        "dmimad_source_up": 0,
        "dmimad_live_observations_total": 0,
    }


def test_pcr_that_does_not_match_is_zero_not_absent() -> None:
    assert series(exposed(dataclasses.replace(SNAPSHOT, pcr_verified=False)))["dmimad_pcr_verified"] == 0


def test_a_broker_that_is_not_wanted_is_not_one_that_is_away() -> None:
    assert series(exposed(dataclasses.replace(EMPTY, mqtt_enabled=False)))["dmimad_mqtt_enabled"] == 0


def test_an_observer_that_is_down_is_zero_not_absent() -> None:
    assert series(exposed(dataclasses.replace(SNAPSHOT, live_up=False)))["dmimad_live_up"] == 0


def test_series_of_a_removed_device_go_away() -> None:
    now = [SNAPSHOT]
    own = registry(DaemonCollector(lambda: now[0], "1"))
    assert 'device="image"' in generate_latest(own).decode()
    now[0] = dataclasses.replace(SNAPSHOT, devices=SNAPSHOT.devices[:1])
    assert 'device="image"' not in generate_latest(own).decode()


def test_types_and_help() -> None:
    text = exposed(SNAPSHOT, 0.5)
    types = dict(re.findall(r"^# TYPE (dmimad_\w+) (\w+)$", text, re.MULTILINE))
    assert {name for name, kind in types.items() if kind == "counter"} == {
        "dmimad_records_total",
        "dmimad_dm_events_total",
        "dmimad_findings_total",
        "dmimad_outbox_dead_total",
        "dmimad_live_observations_total",
    }
    assert types["dmimad_detection_latency_seconds"] == "histogram"
    assert set(types.values()) == {"counter", "gauge", "histogram"}
    helps = dict(re.findall(r"^# HELP (dmimad_\w+) (.+\.)$", text, re.MULTILINE))
    assert helps.keys() == types.keys()


def test_process_metrics_are_there_and_created_series_are_not() -> None:
    text = exposed(SNAPSHOT, 0.5)
    for name in ("cpu_seconds_total", "resident_memory_bytes", "open_fds", "start_time_seconds"):
        assert re.search(rf"^process_{name} \d", text, re.MULTILINE)
    assert "_created" not in text


def test_nothing_is_put_into_the_global_registry() -> None:
    exposed(SNAPSHOT, 0.5)
    assert "dmimad" not in generate_latest(prometheus_client.REGISTRY).decode()


def test_a_snapshot_is_taken_at_each_scrape_only() -> None:
    taken: list[int] = []

    def snapshot() -> Snapshot:
        taken.append(1)
        return SNAPSHOT

    own = registry(DaemonCollector(snapshot, "1"))
    assert len(taken) == 0
    generate_latest(own)
    assert len(taken) == 1


def test_detection_latency() -> None:
    text = exposed(EMPTY, 0.0005, 0.003, 0.003, 59.0, 61.0, -5.0, float("nan"), float("inf"))
    buckets = dict(re.findall(r'latency_seconds_bucket{le="([^"]+)"} (\S+)', text))
    assert (buckets["0.001"], buckets["0.0025"], buckets["0.005"]) == ("2.0", "2.0", "4.0")
    assert (buckets["30.0"], buckets["60.0"], buckets["+Inf"]) == ("4.0", "5.0", "6.0")
    assert "dmimad_detection_latency_seconds_count 6.0" in text
    assert len(buckets) == 16


# --- hostile names ---


def test_hostile_names_come_back_unchanged() -> None:
    families = {family.name: family for family in text_string_to_metric_families(exposed(hostile_devices()))}
    drift = {
        (sample.labels["device"], sample.labels["uuid"], sample.labels["slot"]): sample.value
        for sample in families["dmimad_device_drift"].samples
    }
    assert drift == {
        (name, name, slot): value for name in HOSTILE for slot, value in (("active", 1), ("inactive", 0))
    }
    witnesses = {
        (sample.labels["device"], sample.labels["slot"], sample.labels["provenance"])
        for sample in families["dmimad_device_witness_info"].samples
    }
    expected = {("active", "both"), ("inactive", "observed")}
    assert witnesses == {(name, *each) for name in HOSTILE for each in expected}
    configurations = {
        (sample.labels["device"], sample.labels["slot"], sample.labels["fingerprint"])
        for sample in families["dmimad_device_configuration_info"].samples
    }
    assert configurations == {(name, "active", "config:a") for name in HOSTILE}
    expected_changes = {
        sample.labels["device"]: sample.value for sample in families["dmimad_device_maintenance"].samples
    }
    assert expected_changes == dict.fromkeys(HOSTILE, 1)
    assert [sample.value for sample in families["dmimad_source_up"].samples] == [1]


def test_devices_that_share_a_name_share_series() -> None:
    twins = (
        DeviceSeries("a", "u", HASH_A, None, True, False, "both", maintenance=True),
        DeviceSeries("a", "u", HASH_A, HASH_B, False, False, "both", "observed", "config:a"),
        DeviceSeries("a", "u", HASH_B, None, drift_active=False, drift_inactive=False),
    )
    found = series(exposed(dataclasses.replace(EMPTY, devices=twins)))  # which refuses what is there twice
    of_devices = {name: value for name, value in found.items() if name.startswith("dmimad_device_")}
    assert of_devices == {
        'dmimad_device_drift{device="a",slot="active",uuid="u"}': 1,
        'dmimad_device_drift{device="a",slot="inactive",uuid="u"}': 0,
        f'dmimad_device_table_info{{device="a",hash="{HASH_A}",slot="active",uuid="u"}}': 1,
        f'dmimad_device_table_info{{device="a",hash="{HASH_B}",slot="active",uuid="u"}}': 1,
        f'dmimad_device_table_info{{device="a",hash="{HASH_B}",slot="inactive",uuid="u"}}': 1,
        'dmimad_device_witness_info{device="a",provenance="both",slot="active",uuid="u"}': 1,
        'dmimad_device_witness_info{device="a",provenance="observed",slot="inactive",uuid="u"}': 1,
        'dmimad_device_configuration_info{device="a",fingerprint="config:a",slot="active",uuid="u"}': 1,
        'dmimad_device_maintenance{device="a",uuid="u"}': 1,
    }
    assert found["dmimad_devices"] == 3


def test_names_that_become_equal_when_encoded_share_series() -> None:
    names = ("\udcff", r"\udcff")
    devices = [DeviceSeries(name, "", None, None, False, False) for name in names]
    findings = {(name, "info"): 2 for name in names}
    found = series(exposed(dataclasses.replace(EMPTY, devices=devices, findings=findings)))
    assert found[r'dmimad_findings_total{code="\\udcff",severity="info"}'] == 4
    assert sum("device_drift" in name for name in found) == 2


@pytest.mark.parametrize("snapshot", [SNAPSHOT, EMPTY, hostile_devices()], ids=["usual", "empty", "hostile"])
def test_promtool_finds_nothing(snapshot: Snapshot, promtool: str) -> None:
    text = exposed(snapshot, 0.01)
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text.encode(), capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


# --- the endpoint ---


@pytest.fixture
def log() -> FilteringBoundLogger:
    return open_log(io.StringIO(), form="json", environ={})


@asynccontextmanager
async def serving(
    log: FilteringBoundLogger,
    address: str = "127.0.0.1",
    snapshot: Callable[[], Snapshot] = lambda: SNAPSHOT,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[MetricsServer]:
    own = registry(DaemonCollector(snapshot, "1.2.3"))
    server = MetricsServer(own, address=address, port=0, log=log, tls=tls)
    await server.start()
    try:
        yield server
    finally:
        async with asyncio.timeout(5):
            await server.stop()


async def answer(
    server: MetricsServer, request: str, host: str | None = None
) -> tuple[str, dict[str, str], str]:
    """Status, headers and body of a request given as its first line."""
    text = await raw(server, f"{request}\r\nHost: x\r\n\r\n".encode(), host)
    head, _, body = text.decode().partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    return status, dict(line.split(": ", 1) for line in lines), body


async def raw(server: MetricsServer, request: bytes, host: str | None = None) -> bytes:
    found = urlsplit(server.url)
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(host or found.hostname, found.port)
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.close()


@pytest.mark.parametrize("target", ["/metrics", "/metrics?a=b"])
async def test_metrics_are_served(log: FilteringBoundLogger, target: str) -> None:
    async with serving(log) as server:
        status, headers, body = await answer(server, f"GET {target} HTTP/1.1")
    assert status == "HTTP/1.1 200 OK"
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert headers["Content-Length"] == str(len(body.encode()))
    assert headers["Connection"] == "close"
    assert series(body) == series(exposed(SNAPSHOT))


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        ("GET / HTTP/1.1", "200 OK", "dmimad: Prometheus metrics are at /metrics\n"),
        ("GET / HTTP/1.0", "200 OK", "dmimad: Prometheus metrics are at /metrics\n"),
        ("GET /metrics/ HTTP/1.1", "404 Not Found", "there is only /metrics\n"),
        ("GET /../etc/passwd HTTP/1.1", "404 Not Found", "there is only /metrics\n"),
        ("POST /metrics HTTP/1.1", "405 Method Not Allowed", "only GET and HEAD\n"),
        ("GET /metrics", "400 Bad Request", "only HTTP/1.x\n"),
        ("GET /metrics HTTP/2", "400 Bad Request", "only HTTP/1.x\n"),
        ("", "400 Bad Request", "only HTTP/1.x\n"),
        ("\x00\xff \x1b", "400 Bad Request", "only HTTP/1.x\n"),
    ],
)
async def test_other_requests(log: FilteringBoundLogger, request_line: str, status: str, body: str) -> None:
    async with serving(log) as server:
        assert (await answer(server, request_line))[::2] == (f"HTTP/1.1 {status}", body)


async def test_head_has_the_length_but_not_the_body(log: FilteringBoundLogger) -> None:
    async with serving(log) as server:
        status, headers, body = await answer(server, "HEAD / HTTP/1.1")
    assert (status, headers["Content-Length"], body) == ("HTTP/1.1 200 OK", "43", "")


async def test_ipv6(log: FilteringBoundLogger) -> None:
    if not socket.has_ipv6 or not _has_ipv6_loopback():
        pytest.skip("no IPv6 loopback here")
    async with serving(log, "::1") as server:
        assert re.fullmatch(r"http://\[::1\]:\d+/metrics", server.url)
        assert (await answer(server, "GET /metrics HTTP/1.1"))[0] == "HTTP/1.1 200 OK"
    async with serving(log, "::") as server:
        for host in ("127.0.0.1", "::1"):
            assert (await answer(server, "GET /metrics HTTP/1.1", host))[0] == "HTTP/1.1 200 OK"


def _has_ipv6_loopback() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


async def test_only_the_configured_address_listens(log: FilteringBoundLogger) -> None:
    async with serving(log) as server:
        with pytest.raises(ConnectionRefusedError):
            await raw(server, b"", "127.0.0.2")


async def test_a_name_is_an_address_too(log: FilteringBoundLogger) -> None:
    async with serving(log, "localhost") as server:
        assert (await answer(server, "GET / HTTP/1.1"))[0] == "HTTP/1.1 200 OK"


async def test_a_port_in_use_is_one_line_that_says_what_to_do(log: FilteringBoundLogger) -> None:
    async with serving(log) as server:
        port = urlsplit(server.url).port or 0
        second = MetricsServer(
            registry(DaemonCollector(lambda: EMPTY, "1")), address="127.0.0.1", port=port, log=log
        )
        with pytest.raises(AdapterError) as refused:
            await second.start()
        await second.stop()
    assert str(refused.value) == (
        f"metrics endpoint 127.0.0.1:{port}: the port is in use; "
        "stop what listens there or choose another metrics.port"
    )


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("192.0.2.1", "192.0.2.1:0: no interface has this address; correct metrics.address"),
        ("2001:db8::1", "[2001:db8::1]:0: no interface has this address; correct metrics.address"),
        ("999.1.1.1.invalid", r"999.1.1.1.invalid:0: the address is not known (…); correct metrics.address"),
    ],
)
async def test_an_address_that_cannot_be(log: FilteringBoundLogger, address: str, message: str) -> None:
    if ":" in address and not _has_ipv6_loopback():
        pytest.skip("no IPv6 here")
    server = MetricsServer(registry(DaemonCollector(lambda: EMPTY, "1")), address=address, port=0, log=log)
    with pytest.raises(AdapterError) as refused:
        await server.start()
    assert re.sub(r"\(.*\)", "(…)", str(refused.value)) == f"metrics endpoint {message}"


async def test_it_can_be_started_again_on_the_same_port(log: FilteringBoundLogger) -> None:
    # An address of its own, so that nobody else is given its port in between.
    own = registry(DaemonCollector(lambda: EMPTY, "1"))
    server = MetricsServer(own, address="127.83.0.1", port=0, log=log)
    await server.stop()  # nothing yet
    urls = []
    for _ in range(2):
        await server.start()
        assert (await answer(server, "GET / HTTP/1.1"))[0] == "HTTP/1.1 200 OK"
        urls.append(server.url)
        await server.stop()
        await server.stop()
    assert urls[0] == urls[1]
    with pytest.raises(ConnectionRefusedError):
        await raw(server, b"")


async def test_stop_ends_connections_that_wait(log: FilteringBoundLogger) -> None:
    async with serving(log) as server, asyncio.timeout(5):
        found = urlsplit(server.url)
        reader, writer = await asyncio.open_connection(found.hostname, found.port)
        writer.write(b"GET /metr")
        await answer(server, "GET / HTTP/1.1")  # so that the one before has been taken up
        await server.stop()
        with suppress(ConnectionError):  # or so, if the server had not read all that was sent
            assert await reader.read() == b""
        writer.close()


async def test_a_request_too_long_or_too_slow_is_dropped(
    log: FilteringBoundLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "REQUEST_SECONDS", 0.05)
    async with serving(log) as server:
        with suppress(ConnectionError):  # or so, if not all of the request was read
            refused = await raw(server, b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000)
            assert refused.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
        for request in (b"GET / HTT", b""):
            assert await raw(server, request) == b""
        monkeypatch.undo()
        assert (await answer(server, "GET / HTTP/1.1"))[0] == "HTTP/1.1 200 OK"


async def test_of_too_many_connections_the_oldest_has_to_go(log: FilteringBoundLogger) -> None:
    async with serving(log) as server, asyncio.timeout(10):
        found = urlsplit(server.url)
        idle = [
            await asyncio.open_connection(found.hostname, found.port)
            for _ in range(http_server.MAX_CONNECTIONS)
        ]
        assert (await raw(server, b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        with suppress(ConnectionError):  # or so
            assert await idle[0][0].read() == b""
        last_reader, last_writer = idle[-1]
        last_writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await last_reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
        for _, writer in idle:
            writer.close()


class TestTls:
    @pytest.fixture
    def authority(self, tmp_path: Path) -> Authority:
        return Authority(tmp_path / "pki")

    @pytest.mark.parametrize("shown", [True, False])
    async def test_client_certificates(
        self, log: FilteringBoundLogger, authority: Authority, shown: bool
    ) -> None:
        server, client = authority.sign("server"), authority.sign("client")
        mine = ssl.create_default_context(cafile=authority.file)
        if shown:
            mine.load_cert_chain(client.certificate, client.key)
        files = Files(str(server.certificate), str(server.key), str(authority.file))
        async with serving(log, tls=server_context(files)) as running:
            assert running.url.startswith("https://127.0.0.1:")
            found = await secure(running, mine)
        assert found.startswith(b"HTTP/1.1 200 OK\r\n") if shown else found == b""

    async def test_another_certificate_from_the_next_connection_on(
        self, log: FilteringBoundLogger, authority: Authority, tmp_path: Path
    ) -> None:
        first = authority.sign("server")
        other = Authority(tmp_path / "pki", "other")
        second = other.sign("second")
        async with serving(log, tls=server_context(Files(str(first.certificate), str(first.key)))) as running:
            old = ssl.create_default_context(cafile=authority.file)
            new = ssl.create_default_context(cafile=other.file)
            found = urlsplit(running.url)
            reader, writer = await asyncio.open_connection(found.hostname, found.port, ssl=old)
            running.tls = server_context(Files(str(second.certificate), str(second.key)))
            assert (await secure(running, new)).startswith(b"HTTP/1.1 200 OK\r\n")
            with pytest.raises(ssl.SSLCertVerificationError):
                await secure(running, old)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")  # the one before has lived on
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
            writer.close()

    async def test_who_does_not_finish_the_handshake_keeps_nobody_out(
        self, log: FilteringBoundLogger, authority: Authority
    ) -> None:
        server = authority.sign("server")
        mine = ssl.create_default_context(cafile=authority.file)
        before = len(list(Path("/proc/self/fd").iterdir()))
        async with (
            serving(log, tls=server_context(Files(str(server.certificate), str(server.key)))) as running,
            asyncio.timeout(30),
        ):
            found = urlsplit(running.url)
            idle = [
                await asyncio.open_connection(found.hostname, found.port)
                for _ in range(http_server.MAX_CONNECTIONS * 2)
            ]
            assert (await secure(running, mine)).startswith(b"HTTP/1.1 200 OK\r\n")
            idle[-1][1].write(b"GET / HTTP/1.1\r\n\r\n")  # nothing of TLS
            for reader, _ in idle[: http_server.MAX_CONNECTIONS]:
                with suppress(ConnectionError):
                    assert await reader.read() == b""
            assert b"HTTP/1.1" not in await idle[-1][0].read()
            assert (await secure(running, mine)).startswith(b"HTTP/1.1 200 OK\r\n")
            for _, writer in idle:
                writer.transport.abort()
        for _, writer in idle:
            writer.transport.abort()
        await asyncio.sleep(0)  # they are closed in the next round of the loop
        assert len(list(Path("/proc/self/fd").iterdir())) <= before

    async def test_a_handshake_too_slow_is_dropped(
        self, log: FilteringBoundLogger, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http_server, "REQUEST_SECONDS", 0.05)
        server = authority.sign("server")
        async with serving(
            log, tls=server_context(Files(str(server.certificate), str(server.key)))
        ) as running:
            assert await raw(running, b"") == b""

    def test_files_that_cannot_be_used(self, authority: Authority, tmp_path: Path) -> None:
        server, other = authority.sign("server"), authority.sign("other")
        certificate, key, absent = str(server.certificate), str(server.key), str(tmp_path / "absent")
        exposed_key = tmp_path / "exposed.key"
        exposed_key.write_bytes(server.key.read_bytes())
        exposed_key.chmod(0o644)
        fifo, large = tmp_path / "fifo", tmp_path / "large"
        os.mkfifo(fifo, 0o600)
        with large.open("wb") as file:
            file.truncate(MAX_FILE_BYTES + 1)
        pair = f"{certificate} {other.key}: metrics.tls_cert_file, metrics.tls_key_file: "
        for files, problem in (
            (Files(absent, key), f"{absent}: metrics.tls_cert_file: No such file or directory; "),
            (Files(certificate, absent), f"{absent}: metrics.tls_key_file: No such file or directory; "),
            (Files(str(fifo), key), f"{fifo}: metrics.tls_cert_file: is no file; "),
            (Files(certificate, str(fifo)), f"{fifo}: metrics.tls_key_file: is no file; "),
            (Files(certificate, key, str(fifo)), f"{fifo}: metrics.tls_client_ca_file: is no file; "),
            (Files(certificate, key, str(large)), f"{large}: metrics.tls_client_ca_file: too long; "),
            (Files(certificate, str(other.key)), f"{pair}the private key is not that of the certificate; "),
            (
                Files(certificate, str(exposed_key)),
                f"{exposed_key}: metrics.tls_key_file: everybody may access it (mode 0644); "
                f"chmod o= {exposed_key}",
            ),
            (
                Files(certificate, key, key),
                f"{key}: metrics.tls_client_ca_file: there is no certificate in it (PEM); ",
            ),
        ):
            with pytest.raises(AdapterError) as refused:
                server_context(files)
            assert str(refused.value).startswith(problem)
        assert server_context(Files()) is None


@dataclasses.dataclass(frozen=True)
class Files:
    tls_cert_file: str = ""
    tls_key_file: str = ""
    tls_client_ca_file: str = ""


async def secure(server: MetricsServer, context: ssl.SSLContext) -> bytes:
    """The answer over TLS; nothing if the server refuses us, after the handshake with TLS 1.3."""
    found = urlsplit(server.url)
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(found.hostname, found.port, ssl=context)
        try:
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            return await reader.read()
        except (ssl.SSLError, ConnectionError):
            return b""
        finally:
            writer.transport.abort()


async def test_many_scrapes_at_once(log: FilteringBoundLogger) -> None:
    async with serving(log) as server:
        bodies = await asyncio.gather(*(answer(server, "GET /metrics HTTP/1.1") for _ in range(10)))
    assert [series(body) for _, _, body in bodies] == [series(exposed(SNAPSHOT))] * 10
