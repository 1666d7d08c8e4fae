"""After its end the daemon goes on where it was, if the list is still the same, and begins anew if not.

That it went on is seen from outside: `dmimad_records_total` counts from the start of the process, while
`dmimad_list_position` is the place in the list.
"""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.broker import Broker, Subscriber, subscribed_to
from tests.service.daemon_process import DaemonProcess, prepared, running, series
from tests.service.host import Host, entry
from tests.service.lists import ascii_records, binary_records, load_hash
from tests.service.witness import Alert, alerts, all_arrived, first_arrivals

#: Of systematic-6.1: linear1 is there, active and not approved, with an approved table staged.
SHOWN = 8


@pytest.fixture
def records(corpus: Path) -> list[bytes]:
    return ascii_records(corpus / "systematic-6.1")


@pytest.fixture
def drifted(host: Host, records: list[bytes]) -> Host:
    """A host whose list has led to alerts, two of which fire: drift.active, and device.missing of nowhere."""
    host.approve(
        entry("linear1", [load_hash(records[2]), load_hash(records[7])]), entry("nowhere", required=True)
    )
    host.append(b"".join(records[:SHOWN]))
    return host


async def told(broker: Broker, subscriber: Subscriber, host: Host, count: int) -> list[Alert]:
    """All alerts so far, once `count` records are read."""
    await host.settled(count)
    await all_arrived(broker, subscriber)
    return first_arrivals(alerts(subscriber.messages))


def begun(daemon: DaemonProcess) -> list[dict[str, Any]]:
    """What the log says of lists that are read from their start although there was a checkpoint."""
    return daemon.logged("reading_from_start") + daemon.logged("list_restarted")


async def counts(daemon: DaemonProcess) -> tuple[float, float]:
    """Records this process has read, and the place in the list."""
    metrics = await daemon.metrics()
    return metrics[series("dmimad_records_total")], metrics[series("dmimad_list_position")]


class TestSameList:
    @pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
    @pytest.mark.parametrize("form", ["ascii", "binary"])
    async def test_goes_on_where_it_was(
        self, broker: Broker, drifted: Host, corpus: Path, end: signal.Signals, form: str
    ) -> None:
        host = drifted
        folder = corpus / "systematic-6.1"
        records = ascii_records(folder) if form == "ascii" else binary_records(folder)
        host.write_list(b"".join(records[:SHOWN]))
        async with subscribed_to(broker) as subscriber, running(host.settings) as daemon:
            before = await told(broker, subscriber, host, SHOWN)
            assert await counts(daemon) == (SHOWN, SHOWN)
            firing = await daemon.metric("dmimad_alerts_firing", severity="critical")
            assert firing == 2
            daemon.signal(end)
            assert await daemon.ended() == (0 if end is signal.SIGTERM else -signal.SIGKILL)
            await daemon.start()
            await daemon.wait_for_metric("dmimad_source_up", 1)
            assert await counts(daemon) == (0, SHOWN)
            assert await daemon.metric("dmimad_alerts_firing", severity="critical") == firing
            host.append(records[SHOWN])  # the staged table is cleared: no news for subscribers
            assert await told(broker, subscriber, host, SHOWN + 1) == before
            assert await counts(daemon) == (1, SHOWN + 1)
            assert not begun(daemon)

    async def test_what_grew_meanwhile_is_told_as_if_seen(
        self, broker: Broker, drifted: Host, records: list[bytes]
    ) -> None:
        async with subscribed_to(broker) as subscriber, running(drifted.settings) as daemon:
            before = await told(broker, subscriber, drifted, SHOWN)
            await daemon.kill()
            drifted.append(b"".join(records[SHOWN:11]) + records[11][:50])  # the last one half written
            await daemon.start()
            after = await told(broker, subscriber, drifted, 11)
            assert [alert.summary for alert in after[len(before) :]] == [
                ("drift.active", "resolved", "linear1", 10),
                ("device.removed", "firing", "linear1", 10),
            ]
            assert await counts(daemon) == (11 - SHOWN, 11)

    async def test_reload_tells_nothing_again(
        self, broker: Broker, drifted: Host, records: list[bytes]
    ) -> None:
        async with subscribed_to(broker) as subscriber, running(drifted.settings) as daemon:
            before = await told(broker, subscriber, drifted, SHOWN)
            for _ in range(3):
                await daemon.reload()
            await daemon.wait_for_log("reloaded", 3)
            drifted.append(records[SHOWN])
            assert await told(broker, subscriber, drifted, SHOWN + 1) == before

    async def test_baseline_changed_meanwhile_is_in_force(
        self, broker: Broker, drifted: Host, records: list[bytes]
    ) -> None:
        """Though no record says anything new about the device."""
        async with subscribed_to(broker) as subscriber, running(drifted.settings) as daemon:
            before = await told(broker, subscriber, drifted, SHOWN)
            await daemon.kill()
            drifted.approve(entry("linear1", [load_hash(records[5])]))
            await daemon.start()
            await subscriber.wait_for(
                lambda: len(first_arrivals(alerts(subscriber.messages))) >= len(before) + 3, daemon.log
            )
            after = await told(broker, subscriber, drifted, SHOWN)
            assert sorted(alert.summary[:3] for alert in after[len(before) :]) == [
                ("device.missing", "resolved", "nowhere"),
                ("drift.active", "resolved", "linear1"),
                ("drift.inactive", "firing", "linear1"),
            ]

    async def test_missing_device_that_came_meanwhile_resolves(
        self, broker: Broker, host: Host, records: list[bytes]
    ) -> None:
        host.approve(entry("linear1", required=True))
        host.append(b"".join(records[:3]))
        async with subscribed_to(broker) as subscriber, running(host.settings) as daemon:
            before = await told(broker, subscriber, host, 3)
            assert [alert.summary[:3] for alert in before] == [("device.missing", "firing", "linear1")]
            await daemon.kill()
            host.append(records[3])
            await daemon.start()
            after = await told(broker, subscriber, host, 4)
            assert [alert.summary for alert in after[1:]] == [("device.missing", "resolved", "linear1", 3)]

    async def test_findings_about_no_device_go_on(
        self, broker: Broker, host: Host, records: list[bytes]
    ) -> None:
        """A line that is no record concerns no device; that the process was another does not end it."""
        host.append(b"".join([*records[:3], b"10 nonsense\n", *records[3:5]]))
        async with subscribed_to(broker) as subscriber, running(host.settings) as daemon:
            before = await told(broker, subscriber, host, 6)
            assert [alert.summary for alert in before] == [("record.malformed", "firing", "web-1", 3)]
            await daemon.kill()
            host.append(records[5])
            await daemon.start()
            assert await told(broker, subscriber, host, 7) == before
            assert await daemon.metric("dmimad_alerts_firing", severity="warning") == 1


def other(corpus: Path) -> list[bytes]:
    """Another machine's list, shorter and longer than the first as one likes."""
    return ascii_records(corpus / "random-6.1")


#: What has become of the list while no daemon ran: (its records, those of another list) -> what is there now.
Change = Callable[[list[bytes], list[bytes]], list[bytes]]
CHANGES: dict[str, Change] = {
    "another, longer": lambda mine, others: others[:40],
    "another, as long": lambda mine, others: others[:SHOWN],
    "another, shorter": lambda mine, others: others[:3],
    "cut short": lambda mine, others: mine[:4],
    "cut short by its last record": lambda mine, others: mine[: SHOWN - 1],
    "cut short and grown differently": lambda mine, others: [*mine[:4], *mine[40:50]],
    "empty": lambda mine, others: [],
}


class TestAnotherList:
    @pytest.mark.parametrize("change", CHANGES)
    async def test_begins_anew_with_what_is_there_now(
        self, broker: Broker, drifted: Host, records: list[bytes], corpus: Path, change: str
    ) -> None:
        now = CHANGES[change](records, other(corpus))
        async with subscribed_to(broker) as subscriber, running(drifted.settings) as daemon:
            before = await told(broker, subscriber, drifted, SHOWN)
            assert subscriber.payloads("dmimad/v1/web-1/device/254:0")
            await daemon.kill()
            drifted.write_list(b"".join(now))
            await daemon.start()
            await subscriber.wait_for(
                lambda: any("list.restarted" in alert.summary for alert in alerts(subscriber.messages)),
                daemon.log,
            )
            after = await told(broker, subscriber, drifted, len(now))
            assert await counts(daemon) == (len(now), len(now))
            assert len(begun(daemon)) == 1
            new = after[len(before) :]
            assert [alert.summary[:2] for alert in new].count(("list.restarted", "firing")) == 1
            # What the former list has shown is no longer so, unless the new one shows it, too.
            active = ("drift.active", "resolved", "linear1")
            assert active in [alert.summary[:3] for alert in new]
            assert drifted.devices().keys() == await devices_of(
                now, broker, drifted.directory / "fresh", drifted
            )

    async def test_state_of_another_boot(self, broker: Broker, drifted: Host) -> None:
        """A state directory that was a kernel list's before."""
        async with running(drifted.settings):
            await drifted.settled(SHOWN)
        with closing(sqlite3.connect(drifted.state / "dmimad.db")) as db, db:
            (document,) = db.execute("SELECT document FROM checkpoint").fetchone()
            stale: dict[str, Any] = {**json.loads(document), "boot": "0f9d1a5c-9a5b-4c0c-8e52-8a1f4b1a2c3d"}
            db.execute("UPDATE checkpoint SET document = ?", (json.dumps(stale),))
        async with running(drifted.settings) as daemon:
            reason = (await daemon.wait_for_log("reading_from_start"))["reason"]
            assert reason == "the stored state is of another boot"
            await daemon.wait_for_metric("dmimad_list_position", SHOWN)
            assert await counts(daemon) == (SHOWN, SHOWN)

    async def test_damaged_state_is_put_aside(self, broker: Broker, drifted: Host) -> None:
        async with running(drifted.settings) as daemon:
            await drifted.settled(SHOWN)
            assert await daemon.terminate() == 0
        database = drifted.state / "dmimad.db"
        damaged = b"\0" * 100 + database.read_bytes()[100:]
        database.write_bytes(damaged)
        async with running(drifted.settings) as daemon:
            notice = (await daemon.wait_for_log("state_notice"))["notice"]
            assert str(database) in notice
            await drifted.settled(SHOWN)
            assert await counts(daemon) == (SHOWN, SHOWN)
        assert (drifted.state / "dmimad.db.corrupt-1").read_bytes() == damaged


async def devices_of(records: list[bytes], broker: Broker, directory: Path, like: Host) -> set[str]:
    """The devices a daemon without a past finds in a list."""
    fresh = Host(directory, broker.port, "fresh", baseline=like.baseline)
    fresh.write_list(b"".join(records))
    async with running(fresh.settings):
        await fresh.settled(len(records))
    return set(fresh.devices())


class TestWhileItRuns:
    async def test_truncated_and_written_anew(
        self, broker: Broker, drifted: Host, records: list[bytes], corpus: Path
    ) -> None:
        async with subscribed_to(broker) as subscriber, running(drifted.settings) as daemon:
            await told(broker, subscriber, drifted, SHOWN)
            drifted.list.write_bytes(b"".join(other(corpus)[:30]))  # opens with O_TRUNC: the same file
            restarted = await daemon.wait_for_log("list_restarted")
            assert restarted["reason"] == "truncated"
            await told(broker, subscriber, drifted, 30)
            assert await counts(daemon) == (SHOWN + 30, 30)

    async def test_rotated(self, broker: Broker, drifted: Host, records: list[bytes], corpus: Path) -> None:
        """What was added to the old file before another took its place is read, too."""
        async with subscribed_to(broker) as subscriber, running(drifted.settings) as daemon:
            await told(broker, subscriber, drifted, SHOWN)
            drifted.append(b"".join(records[SHOWN:11]))
            drifted.write_list(b"".join(other(corpus)[:30]))
            await daemon.until(lambda: bool(begun(daemon)), "another list")
            found = await told(broker, subscriber, drifted, 30)
            assert ("device.removed", "firing", "linear1", 10) in [alert.summary for alert in found]
            assert await counts(daemon) == (11 + 30, 30)

    async def test_mirrored_by_replacing_the_file(
        self, broker: Broker, drifted: Host, records: list[bytes]
    ) -> None:
        """As rsync does: another file each time, which is the same list and more."""
        async with subscribed_to(broker) as subscriber, running(drifted.settings) as daemon:
            before = await told(broker, subscriber, drifted, SHOWN)
            for count in range(SHOWN + 1, 11):
                drifted.write_list(b"".join(records[:count]))
                assert await told(broker, subscriber, drifted, count) == before
            drifted.write_list(b"".join(records[:11]) + records[11][:50])
            after = await told(broker, subscriber, drifted, 11)
            assert [alert.summary for alert in after[len(before) :]] == [
                ("drift.active", "resolved", "linear1", 10),
                ("device.removed", "firing", "linear1", 10),
            ]
            assert await counts(daemon) == (11, 11)
            assert not begun(daemon)

    async def test_gone_and_back(
        self, broker: Broker, drifted: Host, records: list[bytes], corpus: Path
    ) -> None:
        async with subscribed_to(broker) as subscriber, running(drifted.settings) as daemon:
            before = await told(broker, subscriber, drifted, SHOWN)
            drifted.list.unlink()
            gone = await daemon.wait_for_log("list_unavailable")
            assert str(drifted.list) in gone["problem"]
            await daemon.wait_for_metric("dmimad_source_up", 0)
            # What is known stays known meanwhile.
            assert await daemon.metric("dmimad_devices") == 1
            assert await daemon.metric("dmimad_alerts_firing", severity="critical") == 2
            drifted.write_list(b"".join(records[:9]))
            await daemon.wait_for_metric("dmimad_source_up", 1)
            after = await told(broker, subscriber, drifted, 9)
            assert before == after[: len(before)]


async def test_long_list_is_read_in_pieces_that_are_kept(broker: Broker, host: Host, corpus: Path) -> None:
    """Killed while it reads for the first time, it begins anew or goes on, and ends up the same."""
    long = ascii_records(corpus / "lvm-7.2")
    host.append(b"".join(long))
    async with prepared(host.settings) as daemon:
        for _ in range(2):
            await daemon.start()
            await daemon.ready()
            await daemon.kill()
        await daemon.start()
        await host.settled(len(long))
        read, position = await counts(daemon)
        assert position == len(long)
        assert read in (0, len(long))  # in one transaction
