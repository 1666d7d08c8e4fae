"""The monitor signs what it tells, and holds that the baseline is not signed, whatever list is read."""

from __future__ import annotations

import json
from collections.abc import Mapping

from dmimad.core.baseline import Baseline
from dmimad.core.commit import Stored
from dmimad.core.errors import ResumeError
from dmimad.core.monitor import Monitor, Policy
from tests.core.monitored import Disk, Told, told

FIRING: Told = [("baseline.signature", "firing", "h")]
RESOLVED: Told = [("baseline.signature", "resolved", "h")]


def monitor(boot: str = "boot", hold_off: float = 0.0) -> Monitor:
    return Monitor(Policy("h", hold_off), Baseline(), boot)


def commit(of: Monitor, disk: Disk) -> Told:
    before = len(disk.messages)
    disk.store(of.commit())
    of.committed()
    return told(disk.messages[before:])


def test_each_message_is_signed_once_when_it_is_made() -> None:
    made: list[str] = []

    def sign(event: Mapping[str, object]) -> Mapping[str, object]:
        made.append(str(event["id"]))
        return {**event, "dssematerial": f"signature {len(made)}"}

    host = Monitor(Policy("h", 0.0), Baseline(), "boot", sign=sign)
    host.hold_baseline("b.toml: is not signed", 1.0)
    first, again = host.commit(), host.commit()
    assert first.messages == again.messages
    event = json.loads(first.messages[0].payload)
    assert (event["dssematerial"], made) == ("signature 1", [event["id"]])
    assert event["data"]["message"] == "b.toml: is not signed"
    host.committed()
    host.sign = None
    host.cease_baseline(2.0)
    assert "dssematerial" not in json.loads(host.commit().messages[0].payload)


def test_it_is_one_alert_and_one_finding_while_it_lasts() -> None:
    host, disk = monitor(), Disk()
    host.hold_baseline("a.toml: is not signed", 1.0)
    host.hold_baseline("b.toml: is gone", 2.0)
    assert commit(host, disk) == FIRING
    assert host.findings["baseline.signature", "critical"] == 1
    host.cease_baseline(3.0)
    host.cease_baseline(4.0)
    assert commit(host, disk) == RESOLVED
    host.hold_baseline("a.toml: is not signed", 5.0)
    assert commit(host, disk) == FIRING
    assert host.findings["baseline.signature", "critical"] == 2


def test_two_files_that_are_replaced_one_after_the_other_are_no_alert() -> None:
    host, disk = monitor(hold_off=2.0), Disk()
    host.hold_baseline("a.toml.sig: is a signature of other bytes", 1.0)
    assert host.next_due() == 3.0
    host.cease_baseline(1.5)
    host.tick(10.0)
    assert commit(host, disk) == []


def test_it_outlasts_a_restart_another_boot_and_a_list_read_again() -> None:
    host, disk = monitor(), Disk()
    host.hold_baseline("a.toml: is not signed", 1.0)
    host.caught_up(2.0)
    assert commit(host, disk) == FIRING
    for boot in ("boot", "next"):
        host = monitor(boot)
        stored: Stored = disk.load()
        if boot == "boot":
            host.resume(stored)
        else:
            try:
                host.resume(stored)
            except ResumeError as error:
                host.start_over(boot, 3.0, str(error))
        host.hold_baseline("a.toml: is not signed", 3.0)
        host.caught_up(4.0)
        assert [entry for entry in commit(host, disk) if entry[0] == "baseline.signature"] == []
        assert host.firing()["critical"] == 1
    host.cease_baseline(5.0)
    assert commit(host, disk) == RESOLVED
