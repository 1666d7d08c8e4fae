"""The page of `dmimad status`: what it says, in which order, and that it fits whatever is in the document."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wcwidth import wcswidth

from dmimad.commands.plain_text import columns_of, cut, cut_within, for_people, local_time, plain, wrapped
from dmimad.commands.status_changes import changes, summary
from dmimad.commands.status_document import trouble
from dmimad.commands.status_page import MAX_ALERTS_SHOWN, Look, page, parts
from tests.status.documents import (
    DRIFT,
    HOSTILE,
    MAINTENANCE,
    alert,
    at,
    device,
    document,
)

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
UPDATE = "DMIMAD_UPDATE_GOLDEN"
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The clock on the wall is the same everywhere."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC0")
        time.tzset()
        yield
    time.tzset()


def shown(made: Mapping[str, object], **look: Any) -> list[str]:
    return list(page(made, Look(**look)))


# -- as people see it ----------------------------------------------------------------------

GOOD = document(
    devices=[
        device(),
        device("253:0", "vg0-root", active={**DRIFT["active"], "targets": [{"type": "linear"}]}),
        device("253:1", "vg0-var", active={**DRIFT["active"], "targets": [{"type": "linear"}] * 4}),
    ]
)
BAD = document(
    list={"source_up": False, "position": 612, "lag": 5, "trimmed": 6, "problem": "", "gap": False},
    witnesses={"live": {"up": False}},
    pcr_verified=False,
    mqtt_connected=False,
    outbox={"pending": 3, "dead": 1},
    store={"problem": "disk full"},
    settings={"accepted": False, "restart_needed": ["state", "metrics"]},
    refused=[{"what": "mqtt", "reason": f"/k: {HOSTILE}", "since": at(100)}],
    baseline={"directory": "/b", "entries": 1, "accepted": False},
    maintenance=[MAINTENANCE],
    firing={"critical": 6, "warning": 1, "info": 0},
    devices=[
        device("253:9", "a"),
        device("253:6", "b", active=None, verdict="unexpected", since={}),
        DRIFT,
        device("253:7", "c", verdict="unknown"),
    ],
    devices_left_out=4,
    alerts=[
        alert(count=3, flapping=True),
        alert("warning", code="device.removed", device="b", message="b was removed", maintenance="1f"),
    ],
    alerts_left_out=5,
)
LONG = document(
    host="a-host-whose-name-is-as-long-as-the-names-of-hosts-in-clouds-are.example.org",
    firing={"critical": 1, "warning": 0, "info": 0},
    devices=[
        device("253:1", "ubuntu--vg-home--of--all--the--users--who--are--still--here--data", verdict="drift"),
        device("253:2", "ubuntu--vg-home--of--all--the--users--who--are--still--here--meta"),
        device("253:3", "名前の長い装置名前の長い装置名前の長い装置"),
        device("253:4", "🦀🦀🦀e\u0301e\u0301"),
        device("253:5", HOSTILE * 3),
    ],
    alerts=[alert(device="ubuntu--vg-home--of--all--the--users--who--are--still--here--data")],
)


@pytest.mark.parametrize(
    ("name", "made", "look"),
    [
        ("good", GOOD, Look()),
        ("bad", BAD, Look()),
        ("bad-narrow", BAD, Look(width=44)),
        ("long-names", LONG, Look()),
        ("long-names-wide", LONG, Look(width=120)),
        ("nothing-approved", document(baseline={"entries": 0, "directory": "/b"}, devices=[]), Look()),
    ],
)
@pytest.mark.usefixtures("utc")
def test_the_page_is_as_it_was_looked_at(name: str, made: Mapping[str, object], look: Look) -> None:
    file, text = GOLDEN / f"{name}.txt", "".join(f"{line}\n" for line in page(made, look))
    if os.environ.get(UPDATE):
        file.write_text(text, "utf-8")
    assert text == file.read_text("utf-8"), f"if this is right: {UPDATE}=1, and look at the difference"


@pytest.mark.usefixtures("utc")
def test_the_page_of_the_documentation() -> None:
    drift = {**DRIFT["active"], "hash": "sha256:6671ae70a7", "targets": [{"type": "linear"}]}
    linear = {**DRIFT["active"], "targets": [{"type": "linear"}]}
    staged = {**linear, "hash": "sha256:98e1d47fb0", "provenance": "measured"}
    root_since = {"verdict": at(237 - 2 * 86400), "active": None, "inactive": at(232)}
    made = document(
        time=at(237),
        version="0.1.0",
        list={"source_up": True, "position": 612, "last_read": at(237), "problem": "", "gap": False},
        firing={"critical": 1, "warning": 0, "info": 0},
        devices=[
            device(active=drift, verdict="drift", since={"verdict": at(57)}),
            device("253:0", "vg0-root", active=linear, inactive=staged, since=root_since),
        ],
        alerts=[alert(since=at(57))],
    )
    page_text = (ROOT / "docs" / "status.md").read_text("utf-8")
    sample = page_text.partition("    $ dmimad status\n")[2].partition("\nWhat is wrong")[0]
    assert [line.removeprefix("    ") for line in sample.splitlines()] == shown(made)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({}, "AS APPROVED"),
        ({"firing": {"critical": 0, "warning": 0, "info": 3}}, "AS APPROVED"),
        ({"devices": [device(), DRIFT]}, "NOT AS APPROVED"),
        ({"firing": {"critical": 0, "warning": 1, "info": 0}}, "ALERT"),
        ({"store": {"problem": "disk full"}}, "IMPAIRED"),
        ({"list": {"source_up": False}}, "IMPAIRED"),
        ({"baseline": {"entries": 0}}, "NOTHING APPROVED YET"),
    ],
)
def test_the_first_word_and_the_exit_status_agree(changed: dict[str, Any], word: str) -> None:
    made = document(**changed)
    assert shown(made)[0].startswith(f"{word}  web-1  ")
    assert trouble(made) is (word in ("NOT AS APPROVED", "ALERT"))


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({}, "no alert fires; 1 device: 1 approved"),
        ({"devices": []}, "no alert fires; no mapped devices"),
        ({"devices": [device(), device()]}, "no alert fires; 2 devices, all approved"),
        ({"devices": [device()], "devices_left_out": 3}, "no alert fires; 4 devices: 1 approved"),
        ({"devices": [device(verdict="newer")]}, "no alert fires; 1 device"),
        ({"firing": {"critical": 1}}, "1 alert fires (1 critical); 1 device: 1 approved"),
        (
            {"firing": {"critical": 1, "info": 2}, "devices": [device(), DRIFT], "mqtt_connected": False},
            "3 alerts fire (1 critical, 2 info); 2 devices: 1 in drift, 1 approved; see broker",
        ),
    ],
)
def test_the_second_line_says_why(changed: dict[str, Any], line: str) -> None:
    assert " ".join(parts(document(**changed), Look()).head[1:]) == line


def test_what_is_wrong_comes_first() -> None:
    lines = shown(document(mqtt_connected=False, devices=[device(name="a"), DRIFT], alerts=[alert()]))
    order = ["broker ", "CRITICAL ", "DEVICE ", "image-ro ", "a ", "list "]
    places = [next(at for at, line in enumerate(lines) if line.startswith(text)) for text in order]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (100, ["DEVICE", "NUMBER", "TABLES", "WITNESS", "VERDICT", "SINCE"]),
        (80, ["DEVICE", "NUMBER", "TABLES", "WITNESS", "VERDICT", "SINCE"]),
        (60, ["DEVICE", "TABLES", "VERDICT", "SINCE"]),
        (40, ["DEVICE", "VERDICT"]),
    ],
)
def test_what_is_left_out_where_it_is_narrow(width: int, titles: list[str]) -> None:
    long = device(name="vg0-" + "x" * 60 + "-end", inactive=DRIFT["inactive"], verdict="unexpected")
    lines = shown(document(devices=[long, device()]), width=width)
    (head,) = [line.split() for line in lines if line.startswith("DEVICE")]
    assert head == titles
    (row,) = [line for line in lines if line.startswith("vg0-xxx")]
    assert "…" in row
    assert "end  " in row
    assert " unexpected" in row


@pytest.mark.parametrize(
    ("member", "value", "line"),
    [
        (
            "list",
            {"position": 1, "problem": "damaged", "source_up": True},
            "1 record; cannot be read on: damaged",
        ),
        ("list", {"position": 1, "source_up": True, "gap": True}, "1 record; records may be lost"),
        ("witnesses", {"live": {"up": None}}, "live tables not looked at"),
        ("pcr_verified", None, "PCR 10 not compared"),
        ("outbox", {"pending": 1}, "connected, 1 alert waits"),
        ("outbox", {"pending": 12, "dead": 3}, "connected, 12 alerts wait, 3 given up"),
        ("mqtt_connected", None, "broker      not to be used"),
        ("baseline", {"directory": "/b", "entries": 0}, "0 entries from /b: nothing is judged"),
        ("devices", [], "no mapped devices"),
        ("devices", [device(active={"hash": "unknown", "targets": []})], "? unknown"),
        (
            "devices",
            [device(active={"hash": "sha256:0123456789", "targets": [{"type": None}]})],
            "opaque 0123456",
        ),
        ("alerts", [alert("info", since="yesterday", message="")], "INFO      drift.active  image-ro"),
        ("alerts", [alert()] * (MAX_ALERTS_SHOWN + 2), "and 2 more alerts; --json has them"),
    ],
)
def test_other_states(member: str, value: object, line: str) -> None:
    assert any(line in each for each in shown(document(**{member: value})))


def test_times_go_on_but_for_what_is_known_of_one_moment() -> None:
    made = parts(document(alerts=[alert()]), Look(), older_seconds=60.0)
    assert made.head[0].endswith(local_time(at(260)))
    assert "CRITICAL  drift.active  image-ro  2 min" in made.body
    assert "list        612 records, read 2 s ago" in made.body


# -- whatever there is ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["x" * 128, "名" * 60, "é" * 128, "e\u0301" * 90, HOSTILE * 40, "❤\ufe0f" * 60]
)
@pytest.mark.parametrize("width", [40, 41, 61, 80, 120])
def test_it_fits_whatever_names_there_are(name: str, width: int) -> None:
    slot = {"hash": name, "provenance": name, "targets": [{"type": name}, {"type": "b"}]}
    made = document(
        host=name,
        version=name,
        devices=[device(name, name, active=slot, inactive=slot, verdict=name)],
        alerts=[alert(name, code=name, device=name, message=name)],
        baseline={"directory": name, "entries": 1},
        maintenance=[{"device": name, "reason": name, "by": name, "id": name, "until": name}],
    )
    lines = shown(made, width=width)
    assert max(map(wcswidth, lines)) <= width
    assert all(line.isprintable() for line in lines)
    assert all(line.isprintable() for line in changes(document(), made))


TEXTS = st.text(max_size=60)
VALUES = TEXTS | st.none() | st.booleans() | st.integers() | st.floats()
SLOTS = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "hash": VALUES,
        "provenance": VALUES,
        "targets": st.lists(st.fixed_dictionaries({"type": VALUES})),
    },
)
DEVICES = st.fixed_dictionaries(
    {
        "key": VALUES,
        "name": VALUES,
        "active": SLOTS,
        "inactive": SLOTS,
        "suspended": VALUES,
        "verdict": VALUES,
    }
)
ALERTS = st.fixed_dictionaries(
    dict.fromkeys(("code", "severity", "device", "message", "since", "count", "flapping"), VALUES)
)
DOCUMENTS = st.fixed_dictionaries(
    {
        "host": VALUES,
        "time": VALUES,
        "version": VALUES,
        "devices": st.lists(DEVICES, max_size=4),
        "devices_left_out": VALUES,
        "alerts": st.lists(ALERTS, max_size=4),
        "alerts_left_out": VALUES,
        "mqtt_problem": VALUES,
        "baseline": st.fixed_dictionaries({"directory": VALUES, "entries": VALUES}),
        "refused": st.lists(st.fixed_dictionaries({"what": VALUES, "reason": VALUES}), max_size=2),
        "firing": st.dictionaries(st.sampled_from(["critical", "warning", "info"]), VALUES),
    }
)


@settings(deadline=None)
@given(DOCUMENTS, st.integers(40, 130), st.booleans())
def test_no_line_is_wider_than_the_terminal(made: dict[str, Any], width: int, colour: bool) -> None:
    for line in shown(made, width=width, colour=colour):
        text = ESCAPE.sub("", line)
        assert text.isprintable()
        assert 0 <= wcswidth(text) <= width
        assert columns_of(text) <= width


@settings(deadline=None)
@given(st.text(), st.integers(1, 40), st.sampled_from(["…", "~"]))
def test_what_is_cut_fits(text: str, width: int, ellipsis: str) -> None:
    known = plain(text)
    for shortened in (cut(known, width, ellipsis), cut_within(known, width, ellipsis)):
        assert wcswidth(shortened) <= width
        assert (shortened == known) is (columns_of(known) <= width)


@pytest.mark.parametrize("value", [None, 7, "text", [], [7], {"a": 7}, True, float("inf")])
def test_a_document_of_another_version_is_shown_as_far_as_it_goes(value: object) -> None:
    for member in document():
        made = document(**{member: value})
        assert shown(made)
        assert isinstance(trouble(made), bool)
        assert summary(made)
        list(changes(document(), made))
        list(changes(made, document()))
    for member in device():
        assert shown(document(devices=[{**device(), member: value}]))
    for member in alert():
        assert shown(document(alerts=[{**alert(), member: value}]))


def test_colours_say_nothing_that_is_not_written() -> None:
    coloured = shown(BAD, colour=True)
    assert "\x1b[1;31mCRITICAL  drift.active  image-ro  1 min  3 times  flapping\x1b[0m" in coloured
    assert [ESCAPE.sub("", line).rstrip() for line in coloured] == [line.rstrip() for line in shown(BAD)]


def test_texts_from_outside() -> None:
    assert plain(HOSTILE) == "\\x1b[31mred\\u202e\\n\\x9b1m"
    assert (plain(None), plain([1]), plain(7)) == ("", "", "7")
    assert len(plain("x" * 10_000)) == 1001
    assert (cut("名前前", 5), cut("abc", 3), cut("abcd", 3, "~")) == ("名前…", "abc", "ab~")
    assert (cut_within("abcdefgh", 6), cut_within("abcdef", 6), cut_within("名前名前", 6)) == (
        "abc…gh",
        "abcdef",
        "名…前",
    )
    assert cut_within("aaaaae\u0301bb", 4) == "aa…b"
    assert columns_of("e\u0301") == 1
    assert wrapped("a bc  d名 efghijk 名", 4) == ["a bc", "d名", "efgh", "ijk", "名"]
    assert (wrapped("", 4), wrapped("名x", 1)) == ([""], ["名", "x"])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.5, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (7200, "2 h"),
        (2e6, "23 d"),
    ],
)
def test_time_spans(seconds: float, text: str) -> None:
    assert for_people(seconds) == text
