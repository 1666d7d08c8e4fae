"""`config/prometheus/alertmanager.yml`: what amtool says of it, and what a real Alertmanager does with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.broker import free_port
from tests.config.shipped import CONFIG
from tests.config.test_rules import ALERTS
from tests.conftest import find_program
from tests.service.daemon_process import DEADLINE_SECONDS

SHIPPED = CONFIG / "prometheus/alertmanager.yml"
#: Where alerts of a severity go.
RECEIVERS = {"critical": "on-call", "warning": "team", "info": "nobody"}
WEB = {"job": "dmimad", "instance": "web-1:9837"}
OTHER = {"job": "dmimad", "instance": "web-2:9837"}
IMAGE = {"device": "image-ro", "uuid": ""}


@pytest.fixture(scope="session")
def amtool() -> str:
    return find_program("amtool", "prometheus-alertmanager")


def amtool_says(amtool: str, *arguments: str) -> str:
    result = subprocess.run([amtool, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_amtool_accepts_it(amtool: str) -> None:
    assert "SUCCESS" in amtool_says(amtool, "check-config", str(SHIPPED))


def receiver(amtool: str, **labels: str) -> str:
    pairs = [f"{key}={value}" for key, value in labels.items()]
    return amtool_says(amtool, "config", "routes", "test", f"--config.file={SHIPPED}", *pairs).strip()


def test_where_each_alert_goes(amtool: str) -> None:
    found = {
        rule["alert"]: receiver(amtool, alertname=rule["alert"], severity=rule["labels"]["severity"], **WEB)
        for rule in ALERTS
    }
    assert found == {rule["alert"]: RECEIVERS[rule["labels"]["severity"]] for rule in ALERTS}


def test_what_is_not_ours_is_not_lost(amtool: str) -> None:
    assert receiver(amtool, alertname="DiskFull", severity="warning") == "on-call"


def test_receivers_lead_nowhere() -> None:
    settings = yaml.safe_load(SHIPPED.read_text("ascii"))
    assert settings["receivers"] == [{"name": name} for name in ("on-call", "team", "nobody")]


def test_it_names_alerts_that_there_are() -> None:
    """By name, or the beginning of one."""
    names = {rule["alert"] for rule in ALERTS}
    settings = yaml.safe_load(SHIPPED.read_text("ascii"))
    matchers = [
        matcher
        for place in (*settings["route"]["routes"], *settings["inhibit_rules"])
        for kind in ("matchers", "source_matchers", "target_matchers")
        for matcher in place.get(kind, ())
        if matcher.startswith("alertname")
    ]
    assert len(matchers) > len(settings["inhibit_rules"])
    for matcher in matchers:
        for wanted in matcher.split('"')[1].split("|"):
            assert any(name == wanted or name.startswith(wanted.removesuffix(".*")) for name in names), wanted


# -- a real one ---------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def alertmanager(directory: Path) -> AsyncIterator[str]:
    """Address of one with the shipped settings, which answers."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        find_program("prometheus-alertmanager", "prometheus-alertmanager"),
        f"--config.file={SHIPPED}",
        f"--storage.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",  # alone
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await ask(f"127.0.0.1:{port}", "GET", "status") is None:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.1)  # between two looks
        yield f"127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def ask(address: str, method: str, path: str, body: object = None) -> Any:
    """An answer of the API; None as long as nobody listens."""
    host, _, port = address.partition(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return None
    data = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} /api/v2/{path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    )
    writer.write(f"{head}\r\n\r\n".encode() + data)
    head_of_answer, _, answer = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    assert b" 200 " in head_of_answer.splitlines()[0], head_of_answer + answer
    return json.loads(answer) if answer else {}


def alert(name: str, where: dict[str, str], **labels: str) -> dict[str, Any]:
    (severity,) = (rule["labels"]["severity"] for rule in ALERTS if rule["alert"] == name)
    return {"labels": {"alertname": name, "severity": severity, **where, **labels}}


async def test_what_is_said_already_is_not_told(tmp_path: Path) -> None:
    """Nothing else is held back, be it of another host, of another device or merely less severe."""
    posted = [
        alert("DmimadDaemonDown", WEB),
        alert("DmimadSourceBlind", WEB),
        alert("DmimadReloadFailed", WEB),
        alert("DmimadDriftActive", OTHER, **IMAGE, slot="active"),
        alert("DmimadDriftInactive", OTHER, **IMAGE, slot="inactive"),
        alert("DmimadDriftInactive", OTHER, device="other", uuid="", slot="inactive"),
        alert("DmimadSourceBlind", OTHER),
        alert("DmimadListLag", OTHER),
        alert("DmimadBrokerDisconnected", OTHER),
        alert("DmimadOutboxWaiting", OTHER),
        alert("DmimadOutboxGrowing", OTHER),
        alert("DmimadReloadFailed", OTHER),
    ]
    held_back = {
        ("DmimadSourceBlind", WEB["instance"], ""),
        ("DmimadReloadFailed", WEB["instance"], ""),
        ("DmimadDriftInactive", OTHER["instance"], "image-ro"),
        ("DmimadListLag", OTHER["instance"], ""),
        ("DmimadOutboxWaiting", OTHER["instance"], ""),
        ("DmimadOutboxGrowing", OTHER["instance"], ""),
    }
    async with alertmanager(tmp_path) as address:
        await ask(address, "POST", "alerts", posted)
        found: list[dict[str, Any]] = []
        async with asyncio.timeout(DEADLINE_SECONDS):  # each is looked at when its group is first due
            while len(found) < len(posted) or any(each["status"]["state"] == "unprocessed" for each in found):
                await asyncio.sleep(0.1)  # between two looks
                found = await ask(address, "GET", "alerts")
    states = {
        (each["labels"]["alertname"], each["labels"]["instance"], each["labels"].get("device", "")): each[
            "status"
        ]["state"]
        for each in found
    }
    assert len(states) == len(posted)
    assert {name for name, state in states.items() if state == "suppressed"} == held_back
    assert {name for name, state in states.items() if state == "active"} == states.keys() - held_back


async def test_what_is_told_together(tmp_path: Path) -> None:
    posted = [
        alert("DmimadDriftActive", WEB, **IMAGE, slot="active"),
        alert("DmimadAlertsCritical", WEB),
        alert("DmimadAlertsCritical", OTHER),
        alert("DmimadDriftInactive", WEB, device="other", slot="inactive"),
        alert("DmimadReloadFailed", WEB),
        alert("DmimadReloadFailed", OTHER),
        alert("DmimadConfigurationDiffers", WEB, **IMAGE, slot="active", fingerprint="config:1"),
        alert("DmimadConfigurationDiffers", OTHER, **IMAGE, slot="active", fingerprint="config:2"),
        alert("DmimadMaintenance", WEB),
    ]
    async with alertmanager(tmp_path) as address:
        await ask(address, "POST", "alerts", posted)
        groups: list[dict[str, Any]] = []
        async with asyncio.timeout(DEADLINE_SECONDS):  # they are put there one after the other
            while sum(len(group["alerts"]) for group in groups) < len(posted):
                await asyncio.sleep(0.1)  # between two looks
                groups = await ask(address, "GET", "alerts/groups")
    together = {
        (group["receiver"]["name"], *(each["labels"]["alertname"].removeprefix("Dmimad") for each in alerts))
        for group in groups
        for alerts in [sorted(group["alerts"], key=lambda each: str(each["labels"]["alertname"]))]
    }
    assert together == {
        ("on-call", "AlertsCritical", "DriftActive"),
        ("on-call", "AlertsCritical"),
        ("team", "DriftInactive"),
        ("team", "ReloadFailed"),
        ("team", "ConfigurationDiffers", "ConfigurationDiffers"),
        ("nobody", "Maintenance"),
    }
    assert len(groups) == len(together) + 1  # ReloadFailed of two hosts
