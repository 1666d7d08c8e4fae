"""What the page of a device says of its document."""

from __future__ import annotations

from typing import Any

import pytest

from dmimad.page.device import MAX_ITEMS_SHOWN, MAX_TARGETS_SHOWN, Comparison, device_page
from dmimad.page.overview import Level
from tests.page.documents import alert, change, detail, device, slot


def compared(**members: object) -> Comparison:
    table: dict[str, Any] = {**detail()["tables"][0], **members}
    (found,) = device_page(detail(tables=[table])).comparisons
    return found


def test_an_attack() -> None:
    found = device_page(detail())
    assert (found.title, found.words, found.row.level) == (
        "(1) image-ro",
        "In drift, 1 alert fires",
        Level.BAD,
    )
    active, staged = found.slots
    assert (active.name, active.drift, active.witness) == ("Active", True, "list + live")
    assert (staged.name, staged.document, staged.targets) == ("Staged", None, [])


@pytest.mark.parametrize(
    ("verdict", "alerts", "words"),
    [
        ("approved", [], "As approved"),
        ("unexpected", [alert(), alert()], "Not in the baseline, 2 alerts fire"),
        ("unknown", [], "Not judged"),
    ],
)
def test_the_verdict(verdict: str, alerts: list[dict[str, Any]], words: str) -> None:
    assert device_page(detail(device=device(verdict=verdict), alerts=alerts)).words == words


def test_a_name_that_cannot_be_seen_has_a_title() -> None:
    assert device_page(detail("", alerts=[])).title == "(no name)"
    assert device_page(detail("a\u202e", alerts=[])).title == "a\\u202e"


@pytest.mark.parametrize(
    ("members", "level", "words", "source"),
    [
        (
            {},
            Level.BAD,
            "not approved, 3 differences",
            "Closest baseline entry: /etc/dmimad/baseline.d/host.toml:12",
        ),
        (
            {"approved": True, "rows": [], "others": 1, "baseline": "a.toml:1"},
            Level.GOOD,
            "as approved",
            "Approved by a.toml:1; 1 other entry speaks for this device too",
        ),
        (
            {"baseline": "a.toml:1", "compared_with": "active"},
            Level.BAD,
            "not approved, 3 differences",
            "Closest baseline entry: a.toml:1. Compared with the active table, which is approved.",
        ),
        ({"approved": None, "baseline": ""}, Level.OFF, "not judged: no baseline entry speaks for it", ""),
    ],
)
def test_a_comparison(members: dict[str, Any], level: Level, words: str, source: str) -> None:
    found = compared(**members)
    assert (found.slot, found.level, found.words, found.source) == ("Active", level, words, source)


def test_changes_are_told_from_the_newest_on() -> None:
    history = [
        change("2026-11-01T00:00:00Z", "active", event="", late=True, name="before"),
        change("2026-11-02T00:00:00Z", "active", event="judged", verdict="unexpected"),
        change("2026-11-03T00:00:00Z", "inactive", None, event="device_remove"),
    ]
    found = device_page(detail(history=history)).changes
    assert [(each.slot, each.table, each.verdict, each.event) for each in found] == [
        ("Staged", "emptied", "", "device_remove"),
        ("Active", "verity f3b63d8ad4", "not in the baseline", "judged anew"),
        ("Active", "verity f3b63d8ad4", "as approved", "found so"),
    ]
    assert [(each.late, each.name) for each in found] == [(False, ""), (False, ""), (True, "before")]


def test_bounds() -> None:
    history = [change("2026-11-01T00:00:00Z", "active")] * (MAX_ITEMS_SHOWN + 3)
    many = slot(*["linear"] * (MAX_TARGETS_SHOWN + 2))
    found = device_page(detail(history=history, history_left_out=4, device=device(active=many)))
    assert (len(found.changes), found.changes_left_out) == (MAX_ITEMS_SHOWN, 7)
    assert (len(found.slots[0].targets), found.slots[0].targets_left_out) == (MAX_TARGETS_SHOWN, 2)
    unknown = device_page(detail(device=device(active={**slot(), "num_targets": 5}))).slots[0]
    assert unknown.targets_left_out == 0
