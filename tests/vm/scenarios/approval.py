"""Approved once; two reboots later, with all numbers and orders changed, nothing is said, and changes are."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

from tests.vm.guest.guest import DaemonSettings, Guest
from tests.vm.guest.subscriber import Alert
from tests.vm.scenarios._changes import CHANGES, Change, Place
from tests.vm.scenarios._host import NAMES, Host
from tests.vm.scenarios._host import NEEDS as NEEDED_BY_HOST

SUMMARY = "what a capture approved stays approved when reboots change every number, and every change is told"
KERNELS = ("6.1.", "7.")
NEEDS = NEEDED_BY_HOST
BOOTS = 3

#: The changes come faster than anybody makes them: together they are no storm.
SETTINGS = DaemonSettings(storm_threshold=0)
#: What must not be said of devices that only have other numbers.
JUDGING = re.compile(r"drift\..*|policy\.attribute|device\..*")
SECONDS = 30.0


def run(guest: Guest) -> None:
    host = Host(guest)
    _renumbered(guest, host)
    guest.start(SETTINGS)
    if guest.boot == 1:
        guest.quiet()
        guest.forget_past()  # what scenarios before have left in the list
        guest.capture()
    _quiet(guest)
    _same_fingerprints(guest)
    if guest.boot == BOOTS:
        _changed(guest, host)


def _renumbered(guest: Guest, host: Host) -> None:
    """Every number is another one than in each boot before."""
    numbers = host.numbers()
    (guest.lasting / f"numbers-{guest.boot}.json").write_text(json.dumps(numbers, indent=1))
    for boot in range(1, guest.boot):
        before: dict[str, Any] = json.loads((guest.lasting / f"numbers-{boot}.json").read_text())
        assert numbers.keys() == before.keys(), sorted(numbers.keys() ^ before.keys())
        same = sorted(name for name, number in numbers.items() if before[name] == number)
        assert not same, f"these have the numbers of boot {boot}: {same}"


def _quiet(guest: Guest) -> None:
    """Every device is approved, and nobody was called."""
    guest.until_all("approved", NAMES)
    guest.quiet()
    guest.say(f"boot {guest.boot}, alerts with {len(NAMES)} approved devices:", *map(str, guest.alerts))
    called = [str(alert) for alert in guest.alerts if alert.severity != "info"]
    judged = [str(alert) for alert in guest.alerts if JUDGING.fullmatch(alert.code)]
    assert not called + judged, "\n".join(called + judged)


def _same_fingerprints(guest: Guest) -> None:
    """All tables have a fingerprint, and it is that of the first boot."""
    found = {device["name"]: device["active"].get("fingerprint") for device in guest.status()["devices"]}
    assert found.keys() == NAMES, sorted(found.keys() ^ NAMES)
    odd = {name: text for name, text in found.items() if not re.fullmatch("config:[0-9a-f]{64}", str(text))}
    assert not odd, f"no fingerprints: {odd}"
    file = guest.lasting / "fingerprints.json"
    if guest.boot == 1:
        file.write_text(json.dumps(found, indent=1))
    before = json.loads(file.read_text())
    differing = {name: (before[name], found[name]) for name in found if before[name] != found[name]}
    assert not differing, f"fingerprints are not those of the first boot: {differing}"
    assert len(set(found.values())) > len(NAMES) / 2, f"fingerprints tell nothing apart: {found}"


# -- changes ------------------------------------------------------------------------------------


def _changed(guest: Guest, host: Host) -> None:
    place, rows, wrong = Place(guest, host), [], []
    for change in CHANGES:
        row, problem = _change(place, change)
        rows.append(row)
        wrong += problem
    guest.say("what was changed, and what was said of it:", *rows)
    guest.until_all("approved", NAMES)
    assert not wrong, "\n".join(wrong)


def _change(place: Place, change: Change) -> tuple[str, list[str]]:
    """Make it, wait to be told, undo it, wait for that too; a row for people, and what was wrong."""
    guest = place.guest
    after, started = len(guest.alerts), time.monotonic()
    change.do(place)
    told = guest.subscriber.within(lambda: any(_matching(guest, change, after)), SECONDS)
    took = time.monotonic() - started
    guest.settle()
    fired = guest.alerts[after:]
    found = next(_matching(guest, change, after), None)
    change.undo(place)
    over = guest.subscriber.within(lambda: not _open(guest, after), SECONDS)
    guest.settle()
    also = [alert for alert in fired if found is None or alert is not found[0]]
    wrong = []
    if not told or found is None:
        wrong.append(f"{change.label}: not told in {SECONDS:g} s; " + _all(guest.alerts[after:]))
    if not over:
        wrong.append(f"{change.label}: undone, still firing: {sorted(_open(guest, after))}")
    row = f"  {change.label:34}"
    if found is not None:
        alert, (attribute, expected, actual) = found
        row += f"{alert.code:18}{alert.severity:9}{attribute or '-':15}{expected:.40} -> {actual:.40}"
        row += f"  after {took:.1f} s"
    row += "".join(f"\n      also: {alert}" for alert in also)
    return row, wrong


def _matching(guest: Guest, change: Change, after: int) -> Iterator[tuple[Alert, tuple[str, str, str]]]:
    """Firing alerts that say what the change was, with attribute, expected and actual."""
    for alert in guest.alerts[after:]:
        data = alert.event["data"]
        if alert.status != "firing" or alert.code not in change.codes:
            continue
        if change.severity not in ("", alert.severity) or change.device not in (
            alert.device,
            data["expected"],
        ):
            continue
        for told in _differences(data):
            if told[0] == change.attribute and all(
                map(re.fullmatch, (change.expected, change.actual), told[1:])
            ):
                yield alert, told


def _differences(data: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    yield "", str(data["expected"]), str(data["actual"])
    for one in data["differences"]:
        yield str(one["attribute"]), str(one["expected"]), str(one["actual"])


def _open(guest: Guest, after: int) -> set[tuple[str, str]]:
    """What judges devices and is still firing."""
    firing: set[tuple[str, str]] = set()
    for alert in guest.alerts[after:]:
        if JUDGING.fullmatch(alert.code):
            key = (alert.code, alert.device)
            firing = firing | {key} if alert.status == "firing" else firing - {key}
    return firing


def _all(alerts: list[Alert]) -> str:
    told = [f"{alert} {list(_differences(alert.event['data']))}" for alert in alerts]
    return "there were " + ("; ".join(told) or "no alerts")
