"""The rules on real daemons, in a real Prometheus: each cause is made real, and only what it causes fires.

So that nobody has to wait, the rules are looked at each second, `for` is five seconds where it is not at
once, and what they look back on is shorter (`hurried`); how long it really is, `test_rules` holds.

Messages that pile up are announcements of maintenances of no device; a list that is not read on is one whose
count is ahead of it; the certificate that has expired is the status page's, for Prometheus minds its own.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dmimad import parts as parts_module
from dmimad.adapters.control.client import ask as ask_control
from tests.broker import Broker, free_port
from tests.certificates import Authority
from tests.config.shipped import CONFIG
from tests.config.test_rules import ALERTS
from tests.prometheus import ask, prometheus, query, until
from tests.service.daemon_process import DaemonProcess
from tests.service.daemon_process import running as running_process
from tests.service.host import Host, entry
from tests.service.lists import ascii_records, load_hash
from tests.service.test_kernel_list import Machine
from tests.service.test_kernel_list import running as running_here

RULES = (CONFIG / "prometheus/rules/dmimad.rules.yml").read_text("ascii")
HANDBOOK = "https://wiki.example.org/dmimad/handbook.html"
SEVERITY = {rule["alert"]: rule["labels"]["severity"] for rule in ALERTS}

#: Two hosts of a kind of their own.
PAIR = ("left", "right")
Fired = set[tuple[str, str]]
#: What may last for longer than the five seconds that are left of `for`.
MAY: Fired = {
    ("DmimadBrokerDisconnected", "twin"),
    ("DmimadBrokerDisconnected", "other-twin"),
    ("DmimadDaemonDown", "restless"),
    ("DmimadOutboxWaiting", "refused"),
}


def hurried(text: str) -> str:
    """The rules, with less patience."""
    for pattern, here in (
        (r"interval: \d+[sm]", "interval: 1s"),
        (r"for: (?!0s)\d+[smh]", "for: 5s"),
        (r"(alert: DmimadNothingScraped\n.*\n *for:) 5s", r"\1 15s"),  # Prometheus itself takes five to begin
        (r"(outbox_pending)\[10m\]", r"\1[5s]"),
        (r"(last_read_timestamp_seconds offset) 1m", r"\1 3s"),
    ):
        text, count = re.subn(pattern, here, text)
        assert count, pattern
    return text


class Fleet:
    """Hosts by name, their daemons, and the file that tells Prometheus of them."""

    def __init__(self, directory: Path, records: list[bytes], stack: AsyncExitStack) -> None:
        self._directory = directory
        self._records = records
        self._stack = stack
        self._file = directory / "targets.json"
        self._ports: dict[str, int] = {}
        self.hosts: dict[str, Host] = {}
        self.daemons: dict[str, DaemonProcess] = {}

    def host(self, name: str, broker: Broker | None, **sections: dict[str, Any]) -> Host:
        """One with an approved device, whose daemon is not started yet."""
        host = Host(self._directory / name, 1 if broker is None else broker.port, name)
        self._ports[name] = free_port()
        host.configure(mqtt={"enabled": broker is not None}, metrics={"port": self._ports[name]})
        host.configure(**sections)
        host.approve(entry("linear1", [load_hash(self._records[2])]))
        host.write_list(b"".join(self._records[:4]))
        self.hosts[name] = host
        return host

    async def start(self, *names: str) -> None:
        async def one(name: str) -> None:
            daemon = running_process(self.hosts[name].settings)
            self.daemons[name] = await self._stack.enter_async_context(daemon)

        await asyncio.gather(*map(one, names))

    def tell(self, *names: str, secure: frozenset[str] = frozenset()) -> None:
        """These are what Prometheus scrapes from now on."""
        groups = [
            {
                "targets": [f"127.0.0.1:{self._ports[name]}"],
                "labels": {
                    "instance": name,
                    "job": "dmimad-pair" if name in PAIR else "dmimad",
                    "__scheme__": "https" if name in secure else "http",
                },
            }
            for name in names
        ]
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(groups))
        fresh.rename(self._file)

    def settings(self, authority: Authority) -> str:
        """Of Prometheus."""
        rules = self._directory / "dmimad.rules.yml"
        rules.write_text(hurried(RULES))
        return f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s, external_labels: {{handbook: "{HANDBOOK}"}}}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: dmimad
    tls_config: {{ca_file: "{authority.file}"}}
    file_sd_configs: [{{files: ["{self._file}"]}}]
"""


async def fired(address: str) -> Fired:
    """What has fired at any time so far."""
    expression = 'group by (alertname, instance) (max_over_time(ALERTS{alertstate="firing"}[1h]))'
    found = await query(address, expression)
    return {(each["metric"]["alertname"], each["metric"].get("instance", "")) for each in found}


async def until_fired(address: str, expected: Fired) -> None:
    expression = 'group by (alertname, instance) (max_over_time(ALERTS{alertstate="firing"}[1h]))'

    def there(found: Any) -> bool:
        return expected <= {
            (each["metric"]["alertname"], each["metric"].get("instance", "")) for each in found["result"]
        }

    try:
        await until(address, there, "query", query=expression)
    except AssertionError:
        raise AssertionError(f"did not fire: {sorted(expected - await fired(address))}") from None


async def check_what_is_said(address: str) -> None:
    """Of the device that drifts: it was pending first, and the link leads to the handbook of this site."""
    pending = 'max_over_time(ALERTS{alertstate="pending",alertname="DmimadDriftActive"}[1h])'
    assert [each["metric"]["instance"] for each in await query(address, pending)] == ["odd"]
    alerts = (await ask(address, "alerts"))["alerts"]
    (drift,) = (alert for alert in alerts if alert["labels"]["alertname"] == "DmimadDriftActive")
    assert drift["labels"] == {
        "alertname": "DmimadDriftActive",
        "severity": SEVERITY["DmimadDriftActive"],
        "job": "dmimad",
        "instance": "odd",
        "device": "linear1",
        "slot": "active",
    }
    assert drift["annotations"]["summary"] == "linear1 on odd runs a table that is not approved"
    assert drift["annotations"]["runbook_url"] == f"{HANDBOOK}#dmimaddriftactive"
    odd = {alert["labels"]["instance"] for alert in alerts if "Differs" in alert["labels"]["alertname"]}
    assert odd == {"odd", "worked-on"}


async def maintenance(host: Host, device: str, seconds: int = 600) -> None:
    request = {"request": "maintenance-start", "device": device, "seconds": seconds, "reason": "x" * 500}
    await asyncio.to_thread(ask_control, host.socket, request)


@asynccontextmanager
async def repeatedly(what: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """As long as the body runs, twice a second."""

    async def go_on() -> None:
        for _ in range(90):  # maintenances of which there may be a hundred
            await what()
            await asyncio.sleep(0.5)  # so often it is done

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Machine]:
    """Kernels with their lists and TPMs, for daemons that run in this process."""
    made = {name: Machine(tmp_path / f"machine-{name}") for name in ("sealed", "unsealed", "behind")}
    lists = {str(machine.list) for machine in made.values()}
    monkeypatch.setattr(parts_module, "is_kernel_list", lambda path: path in lists)
    return made


def on_machine(fleet: Fleet, name: str, machine: Machine) -> None:
    source = {"path": str(machine.list), "hold_open": False, "poll_interval_seconds": 0.05}
    host = fleet.host(name, None, source=source, live={"enabled": False}, tpm={"interval_seconds": 1})
    host.approve('[[device]]\nname = "a"')


async def test_every_cause_and_what_it_makes_fire(
    mosquitto: str, tmp_path: Path, corpus: Path, machines: dict[str, Machine]
) -> None:
    records = ascii_records(corpus / "systematic-6.1")
    authority = Authority(tmp_path / "pki")
    brokers: dict[str, Broker] = {}
    async with AsyncExitStack() as stack:
        for name, extra in (("good", ()), ("mortal", ()), ("narrow", ("max_packet_size 1000",))):
            (tmp_path / f"broker-{name}").mkdir()
            broker = Broker(mosquitto, tmp_path / f"broker-{name}", extra=extra)
            brokers[name] = stack.enter_context(broker)
        fleet = Fleet(tmp_path, records, stack)

        # Hosts on which nothing is wrong yet.
        good = brokers["good"]
        for name in ("quiet", "odd", "worked-on", "blind", "refusing", "killed", "gone", "stateless"):
            fleet.host(name, good)
        for name in PAIR:
            fleet.host(name, good).approve()
        fleet.host("restless", None)
        fleet.host("mute", brokers["mortal"])
        fleet.host("refused", brokers["narrow"]).write_list(b"")
        fleet.host("twin", good, host={"id": "twin"})
        fleet.host("other-twin", good, host={"id": "twin"})
        served = {
            use: {"tls_cert_file": str(signed.certificate), "tls_key_file": str(signed.key)}
            for use, days in (("metrics", 10), ("page", -1))
            for signed in [authority.sign(use, begins=timedelta(days=-9), ends=timedelta(days=days))]
        }
        fleet.host("expiring", good, **served)
        until_tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("not_after = %Y-%m-%dT%H:%M:%SZ\n")
        fleet.hosts["refusing"].approve(entry("linear1", [load_hash(records[2])]) + until_tomorrow)
        processes = [*fleet.hosts]
        for name, machine in machines.items():
            machine.extend()
            on_machine(fleet, name, machine)
        observer = {"enabled": True, "socket": str(tmp_path / "no-observer")}
        fleet.hosts["behind"].configure(live=observer, tpm={"enabled": False})

        await fleet.start(*(name for name in processes if name != "other-twin"))
        for name, machine in machines.items():
            await stack.enter_async_context(running_here(fleet.hosts[name], machine))
        for name in ("quiet", "mute", "refused", "twin"):
            await fleet.daemons[name].wait_for_metric("dmimad_mqtt_connected", 1)
        everything = [name for name in fleet.hosts if name != "other-twin"]
        secure = frozenset({"expiring"})
        fleet.tell(*everything, secure=secure)
        address = await stack.enter_async_context(prometheus(tmp_path, fleet.settings(authority)))

        # Nothing fires but what is about time and about an observer that has never been there.
        expected: Fired = {
            ("DmimadBaselineExpiring", "refusing"),
            ("DmimadCertificateExpiring", "expiring"),
            ("DmimadCertificateExpired", "expiring"),
            ("DmimadLiveBlind", "behind"),
        }
        await until_fired(address, expected)
        up = [int(each["value"][1]) for each in await query(address, "sum(up)")]
        verified = [each["metric"]["instance"] for each in await query(address, "dmimad_pcr_verified == 1")]
        assert (up, sorted(verified), await fired(address)) == (
            [len(everything)],
            ["sealed", "unsealed"],
            expected,
        )

        # The causes.
        for name in ("odd", "worked-on"):
            if name == "worked-on":
                await maintenance(fleet.hosts[name], "linear*")
            fleet.hosts[name].append(b"".join(records[4:8]))
        fleet.hosts["right"].append(b"".join(records[4:7]))
        fleet.hosts["blind"].list.unlink()
        fleet.hosts["refusing"].settings.write_text("[host]\nno_such_setting = 1\n")
        await fleet.daemons["refusing"].reload()
        await fleet.daemons["killed"].kill()
        await fleet.start("other-twin")
        everything.remove("gone")
        everything.append("other-twin")
        fleet.tell(*everything, secure=secure)
        shutil.rmtree(fleet.hosts["stateless"].state)
        fleet.hosts["stateless"].state.write_text("a file in its place")
        fleet.hosts["stateless"].append(b"".join(records[4:5]))
        brokers["mortal"].kill()
        await maintenance(fleet.hosts["refused"], "no-such-device")
        machines["sealed"].extend(wrong=True)
        shutil.rmtree(machines["unsealed"].tpm)
        with machines["behind"].count.open("r+b", buffering=0) as count:
            count.write(b"%-8d\n" % 1000)
        async with repeatedly(lambda: maintenance(fleet.hosts["mute"], "no-such-device")):
            for _ in range(3):
                seen = (await query(address, 'process_start_time_seconds{instance="restless"}'))[0]["value"]
                fleet.daemons["restless"].signal(signal.SIGTERM)
                await fleet.daemons["restless"].ended()
                await fleet.daemons["restless"].start()
                await fleet.daemons["restless"].ready()
                again = f'process_start_time_seconds{{instance="restless"}} != {seen[1]}'
                await until(address, lambda found: bool(found["result"]), "query", query=again)

            expected |= {
                ("DmimadDriftActive", "odd"),
                ("DmimadDriftInactive", "odd"),
                ("DmimadAlertsCritical", "odd"),
                ("DmimadAlertsWarning", "odd"),
                ("DmimadConfigurationDiffers", "odd"),
                ("DmimadConfigurationDivided", ""),
                ("DmimadMaintenance", "worked-on"),
                ("DmimadConfigurationDiffers", "worked-on"),
                ("DmimadSourceBlind", "blind"),
                ("DmimadReloadFailed", "refusing"),
                ("DmimadDaemonDown", "killed"),
                ("DmimadHostSilent", "gone"),
                ("DmimadStoreDown", "stateless"),
                ("DmimadAlertsWarning", "stateless"),
                ("DmimadDriftInactive", "stateless"),
                ("DmimadBrokerDisconnected", "mute"),
                ("DmimadOutboxWaiting", "mute"),
                ("DmimadOutboxGrowing", "mute"),
                ("DmimadMessagesGivenUp", "refused"),
                ("DmimadHostIdTaken", "twin"),
                ("DmimadHostIdTaken", "other-twin"),
                ("DmimadPcrMismatch", "sealed"),
                ("DmimadAlertsCritical", "sealed"),
                ("DmimadPcrUnknown", "unsealed"),
                ("DmimadListLag", "behind"),
                ("DmimadListStalled", "behind"),
                ("DmimadRestarting", "restless"),
            }
            await until_fired(address, expected)

        # Nothing else has, all have by now (but one), and they say what they should.
        assert await fired(address) - MAY == expected
        assert {rule["alert"] for rule in ALERTS} - {name for name, _ in expected} == {"DmimadNothingScraped"}
        await check_what_is_said(address)

        # And at last nobody is left to scrape.
        fleet.tell()
        await until_fired(address, {("DmimadNothingScraped", "")})
