"""What the first page says: the verdict in words, the health of everything, the most urgent first."""

from __future__ import annotations

from typing import Any

import pytest

from dmimad.page.overview import MAX_ALERTS_SHOWN, MAX_DEVICES_SHOWN, Level, banner, overview
from tests.page.documents import alert, device, slot, status

GOOD = device("good", "253:1")
DRIFT = device("drift", "253:2", "drift")
ODD = device("odd", "253:3", "unexpected")


@pytest.mark.parametrize(
    ("document", "level", "words", "mark"),
    [
        (status([GOOD]), Level.GOOD, "As approved", ""),
        (status(), Level.GOOD, "As approved", ""),
        (
            status([GOOD, DRIFT], [alert(), alert(severity="warning")]),
            Level.BAD,
            "2 alerts fire, 1 device is in drift",
            "(2) ",
        ),
        (status([DRIFT, DRIFT]), Level.BAD, "2 devices are in drift", "(!) "),
        (status([GOOD], [alert(severity="warning")]), Level.ATTENTION, "1 alert fires", "(1) "),
        (status([GOOD], [alert(severity="info")]), Level.GOOD, "As approved", ""),
        (status([GOOD, ODD]), Level.ATTENTION, "1 device is not in the baseline", ""),
        (
            status([device(verdict="unknown")], baseline={"entries": 0, "directory": "", "accepted": True}),
            Level.ATTENTION,
            "Nothing is approved yet, so no device is judged",
            "",
        ),
        (
            status([GOOD], list={"source_up": False, "problem": ""}),
            Level.BAD,
            "The list cannot be read",
            "(!) ",
        ),
        (status([GOOD], pcr_verified=False), Level.BAD, "PCR 10 does not agree with the list", "(!) "),
        (
            status([GOOD], witnesses={"live": {"up": False, "observations": 3}}, store={"problem": "full"}),
            Level.ATTENTION,
            "The live tables cannot be seen, nothing can be stored",
            "",
        ),
        (
            status([GOOD], list={"source_up": True, "gap": True}),
            Level.BAD,
            "Records of the list may be lost",
            "(!) ",
        ),
        (status([GOOD], mqtt_connected=False), Level.ATTENTION, "The broker cannot be reached", ""),
        (status([GOOD], mqtt_connected=None), Level.GOOD, "As approved", ""),
        (
            status([GOOD], mqtt_problem="x", refused=[{"what": "page"}]),
            Level.ATTENTION,
            "Something is wrong at the broker, not everything that is set is in force",
            "",
        ),
    ],
)
def test_the_verdict(document: dict[str, Any], level: Level, words: str, mark: str) -> None:
    found = banner(document)
    assert (found.level, found.words, found.mark) == (level, words, mark)


def test_the_census() -> None:
    found = banner(status([GOOD, GOOD, DRIFT, ODD, device(verdict="unknown")], devices_left_out=1200))
    assert found.more == (
        "1,205 mapped devices: 1 in drift, 1 not in the baseline, 1 not judged, 2 as approved"
    )
    assert banner(status()).more == "0 mapped devices"


def facts(**members: Any) -> dict[str, tuple[Level, str, tuple[str, ...]]]:
    return {fact.name: (fact.level, fact.words, fact.more) for fact in overview(status(**members)).facts}


def test_a_host_that_is_well() -> None:
    found = facts()
    assert {level for level, _, _ in found.values()} == {Level.GOOD}
    assert found["Measurement list"] == (Level.GOOD, "followed", ("18,254 records read", "source: auto"))
    assert found["Broker"] == (Level.GOOD, "connected", ("0 alerts wait",))


def test_a_host_that_is_not() -> None:
    healthy = status()["list"]
    found = facts(
        list={**healthy, "lag": 1200, "trimmed": 7},
        witnesses={"live": {"up": False, "observations": 1}},
        pcr_verified=False,
        mqtt_connected=False,
        outbox={"pending": 1, "dead": 2},
        store={"problem": "no space left"},
        settings={"accepted": False, "restart_needed": ["source"]},
        baseline={"directory": "/b", "entries": 1, "accepted": False},
        refused=[{"what": "page", "reason": "the port is in use", "since": "2026-11-30T03:12:09.512Z"}],
    )
    assert found == {
        "Measurement list": (
            Level.ATTENTION,
            "behind",
            ("18,254 records read", "1,200 to read", "7 trimmed", "source: auto"),
        ),
        "Live tables": (Level.BAD, "cannot be observed", ("1 look",)),
        "TPM": (Level.BAD, "PCR 10 does not agree with the list", ()),
        "Broker": (Level.ATTENTION, "not connected", ("1 alert waits", "2 alerts were refused for good")),
        "State": (Level.BAD, "cannot be written; alerts are told from memory", ("no space left",)),
        "Baseline": (Level.BAD, "1 entry; the last change was refused", ("/b",)),
        "Settings": (
            Level.BAD,
            "not everything is in force",
            ("page: the port is in use", "restart needed for: source"),
        ),
    }


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({"problem": "record 7 is no record"}, Level.BAD, "cannot be read on: record 7 is no record"),
        ({"source_up": False}, Level.BAD, "cannot be read now"),
        ({"gap": True}, Level.BAD, "records may be lost"),
    ],
)
def test_the_list(change: dict[str, object], level: Level, words: str) -> None:
    found = facts(list={**status()["list"], **change})["Measurement list"]
    assert found[:2] == (level, words)


def test_what_is_not_to_be_used_is_no_fault() -> None:
    found = facts(witnesses={"live": {"up": None, "observations": 0}}, pcr_verified=None, mqtt_connected=None)
    assert {found[name][0] for name in ("Live tables", "TPM", "Broker")} == {Level.OFF}
    rival = facts(mqtt_problem="another daemon has this host.id")
    assert rival["Broker"][:2] == (Level.BAD, "another daemon has this host.id")


def test_a_row() -> None:
    (row,) = overview(
        status(
            [
                device(
                    active=slot("linear", "linear", "crypt", provenance="observed"),
                    inactive=slot("verity", provenance="measured"),
                    drift={"active": False, "inactive": True},
                    suspended=True,
                )
            ]
        )
    ).devices
    assert row.active is not None
    assert row.inactive is not None
    assert (row.active.types, row.active.digits, row.active.drift) == ("linear, crypt", "f3b63d8ad4", False)
    assert (row.inactive.types, row.inactive.drift) == ("verity", True)
    assert (row.witness, row.suspended) == ("live only, list only", True)
    (empty,) = overview(status([device(active=None)])).devices
    assert (empty.active, empty.inactive, empty.witness) == (None, None, "—")


def test_the_most_urgent_come_first_and_the_rest_is_counted() -> None:
    many = [device(f"d{at:04}", f"253:{at}") for at in range(MAX_DEVICES_SHOWN + 5)]
    alerts = [alert() for _ in range(MAX_ALERTS_SHOWN + 3)]
    found = overview(status([*many, ODD, DRIFT], alerts, devices_left_out=10, alerts_left_out=1))
    assert [row.name for row in found.devices[:3]] == ["drift", "odd", "d0000"]
    assert (len(found.devices), found.devices_left_out) == (MAX_DEVICES_SHOWN, 17)
    assert (len(found.alerts), found.alerts_left_out) == (MAX_ALERTS_SHOWN, 4)
