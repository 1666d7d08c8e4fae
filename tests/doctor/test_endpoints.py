"""Whether metrics and page can be served, with real ports: free, taken by others, and the daemon's own."""

from __future__ import annotations

import datetime
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dmimad.adapters.http.server import Place, try_to_listen
from dmimad.adapters.store import Store
from dmimad.core.errors import AdapterError
from dmimad.doctor import examination
from dmimad.doctor.checks import AS_ROOT, Check, Status
from dmimad.doctor.facts import DaemonFacts
from dmimad.doctor.witnesses import Patience
from tests.broker import free_port
from tests.certificates import Authority
from tests.doctor.fake_host import FakeHost

METRICS, PAGE = "metrics.endpoint", "page.endpoint"


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


@contextmanager
def listening(address: str = "127.0.0.1") -> Iterator[int]:
    """A program that listens on a port of its own."""
    with socket.create_server((address, free_port())) as server:
        yield server.getsockname()[1]


@contextmanager
def running(host: FakeHost) -> Iterator[None]:
    """The daemon runs, as far as the lock on its state tells."""
    host.use_real_locks()
    store = Store.open(host.state)
    try:
        yield
    finally:
        store.close()


def said(check: Check) -> tuple[Status, str, str]:
    return check.status, check.summary, check.remedy


def test_as_it_is_and_not_wanted(host: FakeHost) -> None:
    assert said(host.examine()[METRICS]) == (Status.FINE, "127.0.0.1:0: any free port, no TLS", "")
    host.set("metrics", enabled=False)
    assert said(host.examine()[METRICS]) == (Status.FINE, "not served: metrics.enabled = false", "")
    host.set("page", enabled=False)
    assert said(host.examine()[PAGE]) == (Status.FINE, "not served: page.enabled = false", "")


def test_before_the_daemon_runs(host: FakeHost) -> None:
    port = free_port()
    host.set("metrics", port=port)
    assert said(host.examine()[METRICS]) == (
        Status.FINE,
        f"127.0.0.1:{port}: free for the daemon, no TLS",
        "",
    )
    with listening() as taken:
        host.set("metrics", port=taken)
        host.set("page", port=taken)
        checks = host.examine()
    text = f"127.0.0.1:{taken}: another program listens there"
    do = "stop it (ss -ltnp shows which), or choose another"
    assert said(checks[METRICS]) == (Status.PROBLEM, text, f"{do} metrics.port")
    assert said(checks[PAGE]) == (Status.ADVICE, text, f"{do} page.port")
    assert checks[PAGE].details == {"enabled": True, "endpoint": f"127.0.0.1:{taken}", "free": False}


def test_while_the_daemon_runs(host: FakeHost) -> None:
    with running(host), listening() as port:
        host.set("metrics", port=port)
        host.set("page", port=free_port())
        checks = host.examine()
    assert said(checks[METRICS]) == (Status.FINE, f"127.0.0.1:{port}: served, no TLS", "")
    assert (checks[PAGE].status, checks[PAGE].summary.partition(": ")[2]) == (
        Status.ADVICE,
        "nothing listens there, though the daemon runs",
    )
    assert "systemctl restart dmimad" in checks[PAGE].remedy


def test_nobody_can_tell_whose_it_is(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "look_for_daemon", lambda *_: DaemonFacts(None))
    with listening() as port:
        host.set("metrics", port=port)
        check = host.examine()[METRICS]
    assert said(check) == (
        Status.UNKNOWN,
        f"127.0.0.1:{port}: the daemon or another program listens there",
        AS_ROOT,
    )


def test_addresses_that_cannot_be_listened_at(host: FakeHost) -> None:
    host.set("metrics", address="192.0.2.1", port=9837)
    host.set("page", address="no-such-host.invalid", port=9838)
    checks = host.examine()
    assert said(checks[METRICS]) == (
        Status.PROBLEM,
        "metrics endpoint 192.0.2.1:9837: no interface has this address",
        "correct metrics.address",
    )
    assert (checks[PAGE].status, checks[PAGE].remedy) == (Status.ADVICE, "correct page.address")
    assert checks[PAGE].summary.startswith(
        "page endpoint no-such-host.invalid:9838: the address is not known"
    )


def test_a_name_service_that_does_not_answer(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.patience = Patience(files_seconds=0.0)
    monkeypatch.setattr(examination, "look_at_endpoint", lambda *_: time.sleep(1))
    check = host.examine()[METRICS]
    assert (check.status, check.summary) == (
        Status.PROBLEM,
        "127.0.0.1:0: no answer from the name service or a file",
    )


def test_who_may_read_it(host: FakeHost, tmp_path: Path) -> None:
    host.set("metrics", address="0.0.0.0")
    assert said(host.examine()[METRICS]) == (
        Status.ADVICE,
        "everybody who reaches 0.0.0.0 can read them, device names among them",
        "set metrics.tls_cert_file, metrics.tls_key_file and metrics.tls_client_ca_file",
    )
    authority = Authority(tmp_path / "pki")
    own = authority.sign("server", ends=datetime.timedelta(days=15))
    files = {"tls_cert_file": str(own.certificate), "tls_key_file": str(own.key)}
    host.now = time.time()
    host.set("metrics", **files, tls_client_ca_file=str(authority.file))
    assert said(host.examine()[METRICS]) == (
        Status.FINE,
        "0.0.0.0:0: any free port, TLS, only for clients with a certificate",
        "",
    )
    authority.sign("server", ends=datetime.timedelta(days=13))
    check = host.examine()[METRICS]
    assert (check.status, check.remedy) == (Status.ADVICE, "renew it")
    assert check.summary.startswith(f"metrics.tls_cert_file: {own.certificate} expires ")
    own.key.unlink()
    check = host.examine()[METRICS]
    assert (check.status, check.summary) == (
        Status.PROBLEM,
        f"{own.key}: metrics.tls_key_file: No such file or directory",
    )


def test_a_key_that_only_root_can_read(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is not root is told to look again; for root it is a problem."""
    denied = PermissionError(13, "Permission denied")

    def refused(*_: object) -> None:
        raise AdapterError("Permission denied", "/key", "do") from denied

    monkeypatch.setattr("dmimad.doctor.endpoints.check_served_files", refused)
    assert said(host.examine()[METRICS]) == (Status.PROBLEM, "/key: Permission denied", "do")
    host.user = os.getuid() + 1000
    assert said(host.examine()[METRICS]) == (Status.UNKNOWN, "/key: Permission denied", AS_ROOT)


def test_page_and_metrics_on_one_port(host: FakeHost) -> None:
    port = free_port()
    host.set("metrics", port=port)
    host.set("page", port=port)
    check = host.examine()[PAGE]
    assert said(check) == (
        Status.ADVICE,
        f"its port {port} is that of the metrics, so it cannot be served",
        "choose another page.port",
    )


def test_trying_is_not_listening() -> None:
    """Who connects meanwhile is refused as before, and the port is free afterwards; `::` is IPv4's, too."""
    port = free_port()
    for address in ("127.0.0.1", "::", "0.0.0.0"):
        try_to_listen(Place("metrics", address, port))
    with listening("0.0.0.0") as taken:
        for address in ("127.0.0.1", "::"):
            with pytest.raises(AdapterError, match="the port is in use"):
                try_to_listen(Place("metrics", address, taken))
    with socket.socket() as other:  # bound, and not listening
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        try_to_listen(Place("metrics", "127.0.0.1", port))
