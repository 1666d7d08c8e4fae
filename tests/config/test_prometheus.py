"""`config/prometheus/dmimad.yml`: what Prometheus makes of it, and of a daemon it scrapes."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

from tests.broker import free_port
from tests.config.shipped import CONFIG, Certificates, make_certificates
from tests.prometheus import prometheus, scraped
from tests.service.daemon_process import running
from tests.service.host import Host

SHIPPED = (CONFIG / "prometheus/dmimad.yml").read_text("ascii")
#: What leads from the shipped file to the variant with TLS, as its comment says.
FIRST_JOB, SECOND_JOB = "  - job_name: dmimad\n", "  #- job_name: dmimad\n"


def over_the_network(certificates: Certificates) -> str:
    """The variant with TLS in the place of the job on loopback."""
    head, job, rest = SHIPPED.partition(FIRST_JOB)
    assert job
    lines = rest.partition(SECOND_JOB)[2].splitlines()
    assert all(line.startswith("  #") for line in lines)
    text = head + FIRST_JOB + "".join(f"  {line.removeprefix('  #')}\n" for line in lines)
    return text.replace("/etc/prometheus/dmimad", str(certificates.directory))


def check(promtool: str, file: Path, text: str) -> subprocess.CompletedProcess[str]:
    file.write_text(text)
    command = [promtool, "check", "config", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_promtool_accepts_both_variants(promtool: str, tmp_path: Path, certificates: Certificates) -> None:
    for text in (SHIPPED, over_the_network(certificates)):
        result = check(promtool, tmp_path / "prometheus.yml", text)
        assert result.returncode == 0, result.stderr
        assert "SUCCESS" in result.stdout
    assert "scheme: https" in text


def monitored(directory: Path, metrics: dict[str, Any]) -> Host:
    """A host that nothing happens on."""
    host = Host(directory, 1)
    host.configure(mqtt={"enabled": False}, metrics=metrics)
    host.write_list(b"")
    return host


def jobs(text: str, name: str) -> str:
    """What stands below scrape_configs, under another job's name."""
    return text.partition("scrape_configs:\n")[2].replace("job_name: dmimad", f"job_name: {name}")


async def test_prometheus_scrapes_daemons(promtool: str, tmp_path: Path, certificates: Certificates) -> None:
    """On loopback; over TLS with the certificates of the documentation; and not with those of another CA."""
    (tmp_path / "other").mkdir()
    other = await asyncio.to_thread(make_certificates, tmp_path / "other")
    port, tls_port = free_port(), free_port()
    here = monitored(tmp_path / "here", {"port": port})
    tls = {
        "port": tls_port,
        "tls_cert_file": str(certificates.certificate("web-1")),
        "tls_key_file": str(certificates.key("web-1")),
        "tls_client_ca_file": str(certificates.certificate("ca")),
    }
    there = monitored(tmp_path / "there", tls)
    network = over_the_network(certificates).replace("          - db-1.example.org:9837\n", "")
    network = network.replace("web-1.example.org:9837", f"localhost:{tls_port}")
    stranger = network
    for kind in ("crt", "key"):
        mine, its = certificates.directory / f"prometheus.{kind}", other.directory / f"prometheus.{kind}"
        stranger = stranger.replace(str(mine), str(its))
    text = SHIPPED.partition(SECOND_JOB)[0].replace("127.0.0.1:9837", f"127.0.0.1:{port}")
    text += jobs(network, "network") + jobs(stranger, "stranger")
    checked = await asyncio.to_thread(check, promtool, tmp_path / "prometheus.yml", text)
    assert checked.returncode == 0, checked.stderr
    async with running(here.settings), running(there.settings), prometheus(tmp_path, text) as address:
        found = await scraped(address, 3)
    assert {job: target["health"] for job, target in found.items()} == {
        "dmimad": "up",
        "network": "up",
        "stranger": "down",
    }
    assert found["dmimad"]["scrapeUrl"] == f"http://127.0.0.1:{port}/metrics"
    assert found["network"]["scrapeUrl"] == f"https://localhost:{tls_port}/metrics"
