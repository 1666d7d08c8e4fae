"""The drawing of a history: which bar is where, and what it is called."""

from __future__ import annotations

import itertools

from dmimad.page.overview import Level
from dmimad.page.timeline import LEAST_COLUMN, MAX_COLUMNS, WIDTH, Timeline, timeline
from tests.page.documents import BAD_HASH, GOOD_HASH, change, detail

AT = "2026-11-{:02}T06:30:00.000Z"


def drawn(*history: dict[str, object]) -> Timeline:
    found = timeline(history)
    assert found is not None
    return found


def digest(number: int) -> str:
    """Another one than the one before."""
    return (GOOD_HASH, BAD_HASH)[number % 2]


def test_what_looks_the_same_is_one_bar() -> None:
    """A witness that came along, a verdict of another slot, an empty slot that was emptied."""
    found = drawn(
        change(AT.format(1), "active", provenance="measured"),
        change(AT.format(2), "active"),
        change(AT.format(3), "inactive", None),
        change(AT.format(4), "active", verdict="drift", drift=False),
    )
    assert [len(lane.bars) for lane in found.lanes] == [1, 0]
    assert [tick.day for tick in found.ticks] == ["2026-11-01"]
    judged = drawn(change(AT.format(1), "active", verdict="unknown"), change(AT.format(2), "active"))
    assert [bar.level for bar in judged.lanes[0].bars] == [Level.OFF, Level.GOOD]


def test_an_attack() -> None:
    found = drawn(*detail()["history"])
    active, staged = found.lanes
    assert (active.name, staged.name) == ("Active", "Staged")
    assert [(bar.level, bar.label) for bar in active.bars] == [
        (Level.GOOD, "verity f3b63d8ad4"),
        (Level.BAD, "linear 6671ae70a7"),
    ]
    assert [tick.lasted for tick in found.ticks] == ["20 ms", "5 d", "372 ms", "until now"]
    assert [(tick.time, tick.day) for tick in found.ticks] == [
        ("06:30:11", "2026-11-24"),
        ("06:30:11", ""),
        ("03:12:09", "2026-11-30"),
        ("03:12:09", ""),
    ]
    edges = [tick.x for tick in found.ticks]
    assert [bar.x for bar in active.bars] == [edges[1], edges[3]]
    assert active.bars[0].width == round(edges[3] - edges[1], 1)
    assert [(bar.x, bar.width) for bar in staged.bars] == [
        (edges[0], round(edges[1] - edges[0], 1)),
        (edges[2], round(edges[3] - edges[2], 1)),
    ]
    assert active.bars[1].words == "linear 6671ae70a7, drift, from 2026-11-30 03:12:09 UTC"
    assert found.width == WIDTH + 1


def test_longer_is_wider_and_nothing_too_narrow() -> None:
    times = ("2026-11-01T00:00:00.000Z", "2026-11-01T00:00:00.000001Z", "2026-11-01T00:00:01Z", AT.format(20))
    ticks = drawn(*(change(time, "active", digest(at)) for at, time in enumerate(times))).ticks
    widths = [round(after.x - before.x, 1) for before, after in itertools.pairwise(ticks)]
    assert widths == sorted(widths)
    assert widths[0] >= LEAST_COLUMN


def test_of_very_many_changes_the_newest_are_drawn() -> None:
    history = [
        change(f"2026-11-01T00:{at // 60:02}:{at % 60:02}Z", "active", digest(at))
        for at in range(MAX_COLUMNS + 9)
    ]
    staged = change("2026-11-01T00:00:00Z", "inactive", BAD_HASH)
    found = drawn(staged, *history)
    assert (len(found.ticks), found.left_out) == (MAX_COLUMNS, 9)
    # What was there before goes on from the edge.
    assert [(bar.x, bar.words) for bar in found.lanes[1].bars] == [
        (found.begin, "linear 6671ae70a7, drift, from 2026-11-01 00:00:00 UTC")
    ]
    assert found.lanes[0].bars[0].x == found.begin
    assert len(found.lanes[0].bars) == MAX_COLUMNS


def test_a_drift_of_the_other_slot_is_not_its_own() -> None:
    found = drawn(change(AT.format(1), "active", GOOD_HASH, verdict="drift", drift=False))
    assert found.lanes[0].bars[0].level is Level.GOOD


def test_a_label_that_does_not_fit_is_the_type_alone() -> None:
    history = [
        change(f"2026-11-01T00:00:00.{at:03}Z", "active", digest(at), types=["thin-pool", "linear"])
        for at in range(30)
    ]
    found = drawn(*history)
    assert found.lanes[0].bars[0].label == "thi…"
    assert found.lanes[0].bars[0].words.startswith("thin-pool, linear f3b63d8ad4, as approved")


def test_nothing_to_draw() -> None:
    assert timeline([]) is None
    assert timeline([change("whenever", "active")]) is None
