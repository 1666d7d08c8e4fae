"""The whole daemon on a directory in the place of securityfs: trimmed, beside a TPM and without one.

It runs inside the test, so that it can be given another directory of TPMs; the broker is a real one.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dmimad import parts as module
from dmimad.adapters.log import open_log
from dmimad.config import load
from dmimad.core.pcr import ATTEMPTS
from dmimad.daemon import Daemon
from dmimad.parts import Outside
from tests.broker import Broker, Subscriber, subscribed_to
from tests.core.kernel import Kernel, linear
from tests.core.lists import Item, binary_list, replayed
from tests.service.daemon_process import DEADLINE_SECONDS
from tests.service.host import Host
from tests.service.witness import Alert, alerts, all_arrived, arrived, first_arrivals

INTERVAL_SECONDS = 1  # the least that the settings allow
GOOD, BAD = (linear(0),), (linear(8),)


class Machine:
    """Securityfs, sysfs and a boot id, as files of the model kernel."""

    def __init__(self, root: Path) -> None:
        self.ima = root / "security" / "integrity" / "ima"
        self.ima.mkdir(parents=True)
        self.list = self.ima / "binary_runtime_measurements"
        self.count = self.ima / "runtime_measurements_count"
        self.tpm = root / "tpm"
        self.boot_id = root / "boot_id"
        self.boot_id.write_text("11111111-2222-3333-4444-555555555555\n")
        self.kernel = Kernel("ordered")
        self.kernel.create(b"a", GOOD)
        self.gone = 0
        self.written = 0
        self.show()

    @property
    def items(self) -> list[Item]:
        """What is in the list now."""
        return self.kernel.items[self.gone :]

    def show(self) -> None:
        """The list grows to what the kernel has measured; then the count does."""
        with self.list.open("ab", buffering=0) as file:
            file.write(binary_list(self.kernel.items[self.written :]))
        self.written = len(self.kernel.items)
        self._count()

    def trim(self, count: int) -> None:
        """Delete so many records at the front."""
        self.gone += count
        fresh = self.list.with_suffix(".new")
        fresh.write_bytes(binary_list(self.items))
        fresh.rename(self.list)  # a reader sees the one or the other
        self._count()

    def extend(self, *, wrong: bool = False, bank: str = "sha256") -> None:
        """The TPM's PCR is that of all that was measured."""
        value = bytearray(replayed(self.kernel.items, bank))
        value[0] ^= wrong
        directory = self.tpm / "tpm0" / f"pcr-{bank}"
        directory.mkdir(parents=True, exist_ok=True)
        fresh = directory / "new"
        fresh.write_text(value.hex().upper() + "\n")
        fresh.rename(directory / "10")

    def measure(self) -> None:
        """One more record, in the PCR as well if there is a TPM."""
        self.kernel.load(b"a", (linear(1000 + len(self.kernel.items)),))
        if self.tpm.exists():
            self.extend()
        self.show()

    def _count(self) -> None:
        """In one write, into the file that a reader has open."""
        with self.count.open("r+b" if self.count.exists() else "wb", buffering=0) as file:
            file.write(b"%-8d\n" % len(self.items))


@dataclass(slots=True)
class Running:
    """A daemon in this process."""

    daemon: Daemon
    task: asyncio.Task[None]
    log: io.StringIO

    async def until(self, what: Callable[[], bool]) -> None:
        """Until that is so; nothing tells when, so it is looked at."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not what():
                    assert not self.task.done(), self.log.getvalue()
                    await asyncio.sleep(0.01)  # between two looks
        except TimeoutError:
            raise AssertionError(f"did not happen\n{self.log.getvalue()}") from None

    async def verified(self, value: bool | None) -> None:
        """Until the metric is so."""
        await self.until(lambda: self.daemon._snapshot().pcr_verified is value)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broker: Broker) -> Machine:
    """One whose list the daemon takes for the kernel's."""
    made = Machine(tmp_path / "machine")
    monkeypatch.setattr(module, "is_kernel_list", lambda path: path == str(made.list))
    return made


@pytest.fixture
def monitored(host: Host, machine: Machine) -> Host:
    host.list = machine.list
    host.configure(
        source={"path": str(machine.list), "hold_open": False, "poll_interval_seconds": 0.01},
        live={"enabled": False},
        tpm={"interval_seconds": INTERVAL_SECONDS},
    )
    return host


@asynccontextmanager
async def running(host: Host, machine: Machine) -> AsyncIterator[Running]:
    """A daemon that is ready; it ends cleanly, or the test fails."""
    settings, log = load(host.settings), io.StringIO()
    outside = Outside(lambda: settings, {}, tpm=machine.tpm, boot_id=machine.boot_id)
    daemon = Daemon(settings, outside, open_log(log, form="json"))
    task = asyncio.create_task(daemon.run())
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await daemon.ready.wait()
        yield Running(daemon, task, log)
        assert not task.done(), log.getvalue()
    finally:
        daemon.stop()
        await asyncio.wait([task], timeout=DEADLINE_SECONDS)
        task.cancel()
        await asyncio.wait([task])
        logging.getLogger().handlers.clear()
    assert task.exception() is None
    assert "Traceback" not in log.getvalue()


async def told(broker: Broker, subscriber: Subscriber, host: Host, records: int) -> list[Alert]:
    """All alerts so far, once so many records are read; each must have come once."""
    await host.settled(records)
    await all_arrived(broker, subscriber)
    found = alerts(subscriber.messages)
    assert len(first_arrivals(found)) == len(found)
    return found


# -- trimming ------------------------------------------------------------------------------


async def test_trimmed_while_it_runs(broker: Broker, monitored: Host, machine: Machine) -> None:
    async with subscribed_to(broker) as subscriber, running(monitored, machine) as run:
        assert await told(broker, subscriber, monitored, 4) == []
        machine.trim(2)
        [trimmed] = await arrived(subscriber, 1)
        assert (trimmed.event["data"]["code"], trimmed.topic) == (
            "list.trimmed",
            "dmimad/v1/web-1/alert/critical",
        )
        assert trimmed.event["data"]["evidence"]["records"] == "2"
        machine.measure()
        assert await told(broker, subscriber, monitored, 5) == [trimmed]
        await run.until(lambda: run.daemon._snapshot().lag == 0)
        assert run.daemon._snapshot().position == 5
        machine.trim(2)
        found = await arrived(subscriber, 2)
        assert found[1].event["data"]["actual"] == "a list that begins with record 4"
        machine.measure()
        await told(broker, subscriber, monitored, 6)
        assert monitored.devices()["254:0"]["name"] == "a"
        assert [alert.event["data"]["code"] for alert in found] == ["list.trimmed"] * 2


async def test_trimmed_while_it_was_down(broker: Broker, monitored: Host, machine: Machine) -> None:
    async with subscribed_to(broker) as subscriber:
        async with running(monitored, machine):
            await told(broker, subscriber, monitored, 4)
        machine.trim(3)
        machine.measure()
        async with running(monitored, machine) as run:
            [trimmed] = await told(broker, subscriber, monitored, 5)
            assert trimmed.event["data"]["evidence"]["records"] == "3"
            assert run.daemon._snapshot().records == 1  # the rest was not read again
        async with running(monitored, machine):
            assert await told(broker, subscriber, monitored, 5) == [trimmed]


async def test_trimmed_in_one_step_with_new_records(
    broker: Broker, monitored: Host, machine: Machine
) -> None:
    """The count goes up, and only the bytes before the position tell."""
    async with subscribed_to(broker) as subscriber, running(monitored, machine):
        await told(broker, subscriber, monitored, 4)
        for number in range(5):
            machine.kernel.load(b"a", (linear(2000 + number),))
        machine.written = len(machine.kernel.items)
        machine.trim(3)
        [trimmed] = await told(broker, subscriber, monitored, 9)
        assert trimmed.event["data"]["evidence"]["records"] == "3"


@pytest.mark.parametrize("restart", [False, True], ids=["while it runs", "while it is down"])
@pytest.mark.parametrize("new", [0, 1], ids=["empty", "with a new record"])
async def test_all_of_it_trimmed_beside_a_tpm(
    broker: Broker, monitored: Host, machine: Machine, restart: bool, new: int
) -> None:
    machine.extend()
    async with subscribed_to(broker) as subscriber:
        async with running(monitored, machine) as run:
            await run.verified(True)
            await told(broker, subscriber, monitored, 4)
            if not restart:
                machine.trim(4)
                for _ in range(new):
                    machine.measure()
                await arrived(subscriber, 1)
        if restart:
            machine.trim(4)
            for _ in range(new):
                machine.measure()
        async with running(monitored, machine) as run:
            await run.verified(True)
            await arrived(subscriber, 1)
            machine.measure()
            [trimmed] = await told(broker, subscriber, monitored, 5 + new)
            await run.until(lambda: run.daemon._snapshot().pcr_verified is True)
    assert trimmed.event["data"]["code"] == "list.trimmed"
    assert trimmed.event["data"]["evidence"]["records"] == "4"


@pytest.mark.parametrize("enabled", [True, False], ids=["no TPM", "not asked"])
async def test_all_of_it_trimmed_without_a_tpm(
    broker: Broker, monitored: Host, machine: Machine, enabled: bool
) -> None:
    monitored.configure(tpm={"enabled": enabled})
    async with subscribed_to(broker) as subscriber, running(monitored, machine):
        await told(broker, subscriber, monitored, 4)
        machine.trim(4)
        [gap] = await arrived(subscriber, 1)
        assert (gap.event["data"]["code"], gap.event["data"]["severity"]) == ("list.gap", "critical")
        machine.measure()
        assert await told(broker, subscriber, monitored, 5) == [gap]


async def test_records_lost_unseen(broker: Broker, monitored: Host, machine: Machine) -> None:
    """Down while records came and went: the PCR tells."""
    machine.extend()
    async with subscribed_to(broker) as subscriber:
        async with running(monitored, machine) as run:
            await run.verified(True)
            await told(broker, subscriber, monitored, 4)
        machine.measure()
        machine.measure()
        machine.trim(5)
        async with running(monitored, machine) as run:
            await run.verified(False)
            found = await told(broker, subscriber, monitored, 5)
            assert sorted(alert.summary[:2] for alert in found) == [
                ("list.gap", "firing"),
                ("pcr.mismatch", "firing"),
            ]


# -- the TPM -------------------------------------------------------------------------------


async def test_the_tpm_agrees_until_it_does_not(broker: Broker, monitored: Host, machine: Machine) -> None:
    machine.extend()
    machine.extend(bank="sha384")  # a bank that is not replayed
    async with subscribed_to(broker) as subscriber, running(monitored, machine) as run:
        await run.verified(True)
        for _ in range(ATTEMPTS):
            machine.measure()
        assert await told(broker, subscriber, monitored, 4 + ATTEMPTS) == []
        machine.kernel.load(b"a", BAD)
        machine.extend(wrong=True)
        machine.show()
        await run.verified(False)
        [wrong] = await told(broker, subscriber, monitored, 5 + ATTEMPTS)
        assert wrong.summary == ("pcr.mismatch", "firing", "web-1", 4 + ATTEMPTS)
        assert wrong.topic == "dmimad/v1/web-1/alert/critical"
        data = wrong.event["data"]
        assert data["expected"] == replayed(machine.kernel.items, "sha256").hex()
        assert data["evidence"]["bank"] == "sha256"
        machine.extend()
        await run.verified(True)
        found = await arrived(subscriber, 2)
        assert found[1].summary[:2] == ("pcr.mismatch", "resolved")


async def test_a_host_without_a_tpm(broker: Broker, monitored: Host, machine: Machine) -> None:
    async with subscribed_to(broker) as subscriber, running(monitored, machine) as run:
        assert await told(broker, subscriber, monitored, 4) == []
        assert run.daemon._snapshot().pcr_verified is None
        assert run.daemon._snapshot().live_up is None
