"""Signed baselines in the real daemon: what is not in order is refused and told, also over restarts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from dmimad.adapters.baseline_files import read_signed_file, write_signatures
from dmimad.adapters.keys import SigningKey, write_pair
from dmimad.core.signed_baseline import sign_file
from tests.broker import Broker, Subscriber, subscribed_to
from tests.service.daemon_process import DaemonProcess, prepared, running
from tests.service.host import Host, entry
from tests.service.lists import ascii_records, load_hash
from tests.service.witness import all_arrived, arrived

#: Of systematic-6.1: linear1 has an active table, that of record 2.
SHOWN = 4
FIRING = ("baseline.signature", "firing", "web-1", None)
RESOLVED = ("baseline.signature", "resolved", "web-1", None)


@dataclass(frozen=True, slots=True)
class Site:
    """A host whose baselines must be signed, and the key they are signed with."""

    host: Host
    key: SigningKey
    approved: str

    @property
    def main(self) -> Path:
        return self.host.baseline / "main.toml"

    def write(
        self, serial: int, *entries: str, file: str = "main.toml", key: SigningKey | None = None
    ) -> None:
        """Write a file, signatures first; without the daemon's seeing one without the other for long."""
        key = key or self.key
        fresh = self.host.directory / file
        fresh.write_text(f"version = 1\nserial = {serial}\n" + "\n".join(entries))
        signatures = sign_file(read_signed_file(fresh), key.keyid, key.sign)
        write_signatures(self.host.baseline / file, signatures)
        fresh.rename(self.host.baseline / file)


@pytest.fixture
def site(host: Host, corpus: Path) -> Site:
    records = ascii_records(corpus / "systematic-6.1")
    host.append(b"".join(records[:SHOWN]))
    key = SigningKey.generate()
    public = write_pair(key, host.directory / "key")
    host.configure(baseline={"trusted_keys": [str(public)]})
    site = Site(host, key, entry("linear1", [load_hash(records[2])]))
    site.write(5, site.approved)
    return site


async def told(subscriber: Subscriber, count: int) -> list[tuple[str, str, str, int | None]]:
    return [alert.summary for alert in await arrived(subscriber, count)]


async def refused(daemon: DaemonProcess, count: int = 1) -> str:
    await daemon.wait_for_log("baseline_refused", count)
    assert await daemon.metric("dmimad_config_last_reload_successful") == 0
    return str(daemon.logged("baseline_refused")[count - 1]["problem"])


async def test_a_signed_baseline_is_in_force(broker: Broker, site: Site) -> None:
    async with subscribed_to(broker) as subscriber, running(site.host.settings) as daemon:
        await site.host.settled(SHOWN)
        assert await daemon.metric("dmimad_config_last_reload_successful") == 1
        site.write(6, entry("linear1", ["sha256:" + "0" * 64]))
        assert await told(subscriber, 1) == [("drift.active", "firing", "linear1", 3)]
        assert not daemon.logged("baseline_refused")


def tamper(site: Site) -> None:
    site.main.write_text(site.main.read_text().replace("linear1", "linear2"))


def take_signature_away(site: Site) -> None:
    site.main.with_name("main.toml.sig").unlink()


def sign_by_another(site: Site) -> None:
    site.write(6, site.approved, key=SigningKey.generate())


def roll_back(site: Site) -> None:
    site.write(4, site.approved)


def replace_under_the_same_serial(site: Site) -> None:
    site.write(5, entry("linear2"))


def vanish(site: Site) -> None:
    site.main.unlink()


def add_unsigned(site: Site) -> None:
    site.host.approve(entry("*"), file="more.toml")


def come_back_under_another_name(site: Site) -> None:
    site.write(5, entry("*"), file="more.toml")


def forget_the_serial(site: Site) -> None:
    site.main.write_text("version = 1\n")


def put_a_directory_there(site: Site) -> None:
    (site.host.baseline / "more.toml").mkdir()


WRONG = {
    tamper: "is a signature of other bytes",
    take_signature_away: "is not signed",
    sign_by_another: "no trusted key has signed these bytes",
    roll_back: "4 is older than 5",
    replace_under_the_same_serial: "5 was accepted with other content",
    vanish: "is gone, and is in force",
    add_unsigned: "is not signed",
    come_back_under_another_name: "a further file needs a serial above 5",
    forget_the_serial: "is a signature of other bytes",
    put_a_directory_there: "cannot be read",
}


def repair(site: Site) -> None:
    """A newer version of the file, and nothing beside it."""
    more = site.host.baseline / "more.toml"
    if more.is_dir():
        more.rmdir()
    more.unlink(missing_ok=True)
    site.write(7, site.approved)


@pytest.mark.parametrize("spoil", WRONG, ids=lambda spoil: spoil.__name__)
async def test_a_spoilt_directory_is_refused_and_told_until_it_is_good_again(
    broker: Broker, site: Site, spoil: object
) -> None:
    assert callable(spoil)
    async with subscribed_to(broker) as subscriber, prepared(site.host.settings) as daemon:
        await daemon.start()
        await daemon.ready()
        await site.host.settled(SHOWN)
        spoil(site)
        assert WRONG[spoil] in await refused(daemon)
        assert await told(subscriber, 1) == [FIRING]
        # Restarted meanwhile: the last good one is in force, and nothing is told twice.
        await site.host.settled(SHOWN)
        assert await daemon.terminate() == 0
        await daemon.start()
        await daemon.ready()
        assert WRONG[spoil] in await refused(daemon)
        assert daemon.logged("baseline_refused")[0]["kept"] == "the last good one"
        assert await daemon.metric("dmimad_alerts_firing", severity="critical") == 1
        assert await daemon.metric("dmimad_device_drift", device="linear1", uuid="", slot="active") == 0
        repair(site)
        assert await told(subscriber, 2) == [FIRING, RESOLVED]
        await daemon.wait_for_metric("dmimad_config_last_reload_successful", 1)
        await all_arrived(broker, subscriber)
        assert len(await told(subscriber, 2)) == 2


async def test_without_a_last_good_one_it_starts_with_nothing_and_says_so(broker: Broker, site: Site) -> None:
    take_signature_away(site)
    async with subscribed_to(broker) as subscriber, running(site.host.settings) as daemon:
        assert "is not signed" in await refused(daemon)
        assert "there is no last good one" in daemon.logged("baseline_refused")[0]["kept"]
        assert await told(subscriber, 1) == [FIRING]
        site.write(1, entry("other", required=True))
        summaries = await told(subscriber, 4)
        assert sorted(summary[:2] for summary in summaries[1:]) == [
            ("baseline.signature", "resolved"),
            ("device.missing", "firing"),
            ("device.unexpected", "firing"),
        ]


async def test_a_last_good_one_of_a_key_that_is_not_trusted_any_more_is_not_used(
    broker: Broker, site: Site
) -> None:
    async with running(site.host.settings) as daemon:
        await site.host.settled(SHOWN)
        assert await daemon.terminate() == 0
    other = write_pair(SigningKey.generate(), site.host.directory / "other")
    site.host.configure(baseline={"trusted_keys": [str(other)]})
    async with running(site.host.settings) as daemon:
        assert "no trusted key" in await refused(daemon)
        assert "there is no last good one" in daemon.logged("baseline_refused")[0]["kept"]


async def test_keys_are_read_again_at_a_reload(broker: Broker, site: Site) -> None:
    other = SigningKey.generate()
    public = write_pair(other, site.host.directory / "other")
    async with subscribed_to(broker) as subscriber, running(site.host.settings) as daemon:
        await site.host.settled(SHOWN)
        site.host.configure(baseline={"trusted_keys": [str(site.host.directory / "none.pub")]})
        await daemon.reload()
        assert "set by baseline.trusted_keys" in (await daemon.wait_for_log("reload_refused"))["problem"]
        site.host.configure(baseline={"trusted_keys": [str(public)]})
        await daemon.reload()
        assert await told(subscriber, 1) == [FIRING]
        site.write(6, site.approved, key=other)
        assert await told(subscriber, 2) == [FIRING, RESOLVED]
        tamper(site)
        assert len(await told(subscriber, 3)) == 3
        site.host.configure(baseline={"trusted_keys": []})
        await daemon.reload()
        assert (await told(subscriber, 4))[3] == RESOLVED


async def test_an_unusable_key_is_one_line_at_the_start(site: Site) -> None:
    (site.host.directory / "key.pub").write_text("no key")
    async with prepared(site.host.settings) as daemon:
        status, log = await daemon.run_to_end()
    assert status == 2
    assert "key.pub: is no public key (PEM)" in log
    assert "set by baseline.trusted_keys" in log


async def test_a_file_is_retired_by_emptying_it(broker: Broker, site: Site) -> None:
    site.write(6, entry("other", required=True), file="more.toml")
    async with subscribed_to(broker) as subscriber, running(site.host.settings) as daemon:
        assert await told(subscriber, 1) == [("device.missing", "firing", "other", None)]
        site.write(7, file="more.toml")
        assert (await told(subscriber, 2))[1][:2] == ("device.missing", "resolved")
        (site.host.baseline / "more.toml").unlink()
        site.write(8, site.approved, entry("third", required=True))
        assert (await told(subscriber, 3))[2] == ("device.missing", "firing", "third", None)
        assert not daemon.logged("baseline_refused")
