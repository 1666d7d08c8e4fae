"""One device on a terminal: what differs is marked, what is long is cut, what is hostile is harmless."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from dmimad.commands.device_page import device_lines, device_trouble
from dmimad.commands.plain_text import columns_of, local_time
from dmimad.commands.status_page import Look
from tests.status.documents import HOSTILE, alert, at, device


def row(attribute: str, approved: str | None, actual: str | None, **more: object) -> dict[str, Any]:
    return {
        "target": 0,
        "attribute": attribute,
        "approved": approved,
        "actual": actual,
        "differs": False,
        **more,
    }


def change(seconds: int, **more: object) -> dict[str, Any]:
    return {
        "time": at(seconds),
        "slot": "active",
        "name": "image-ro",
        "hash": "sha256:f3b63d8ad4",
        "fingerprint": None,
        "types": ["verity"],
        "provenance": "both",
        "verdict": "approved",
        "drift": False,
        "record": 7,
        "event": "device_resume",
        "late": False,
        "after": None,
        **more,
    }


TABLE = {
    "slot": "active",
    "approved": False,
    "baseline": "/etc/dmimad/baseline.d/web.toml:4",
    "others": 0,
    "rows": [
        row("hash", None, "sha256:f3b63d8ad4", target=None),
        row("root_digest", "8343d35b", "9999d35b", differs=True),
        row("algorithm", "sha256", "sha256"),
        row("salt", "00", None, differs=True),
    ],
    "rows_left_out": 0,
}


def document(**more: object) -> dict[str, Any]:
    return {
        "host": "web-1",
        "time": at(200),
        "version": "1.0",
        "device": device(verdict="drift", uuid="CRYPT-1"),
        "alerts": [alert()],
        "recent": [],
        "history": [change(0, late=True), change(100, drift=True, verdict="drift")],
        "history_left_out": 0,
        "tables": [TABLE],
        "former": False,
        **more,
    }


def lines(made: Mapping[str, object], **look: Any) -> list[str]:
    found = list(device_lines(made, Look(**look)))
    assert all(columns_of(line) <= look.get("width", 80) for line in found)
    return found


def test_all_of_it() -> None:
    first, second = (local_time(at(seconds)) for seconds in (0, 100))
    assert lines(document()) == [
        "image-ro (253:5) on web-1: drift, since 3 min",
        "uuid CRYPT-1",
        "",
        "CRITICAL  drift.active  image-ro  1 min",
        "    image-ro (253:5) runs a table that is not approved",
        "",
        "active table: NOT approved by /etc/dmimad/baseline.d/web.toml:4 (both)",
        "    ATTRIBUTE      APPROVED  ACTUAL",
        "    hash                     sha256:f3b63d8ad4",
        "!=  0 root_digest  8343d35b  9999d35b",
        "    0 algorithm    sha256    sha256",
        "!=  0 salt         00        none",
        "",
        "   TIME                 SLOT    TABLE           VERDICT   BY",
        f"<  {first}  active  verity f3b63d8  approved  device_resume 7",
        f"   {second}  active  verity f3b63d8  drift     device_resume 7",
        "< before that time: read or seen only then",
    ]


def test_one_of_which_little_is_known() -> None:
    bare = device(verdict="unknown", uuid="", active=None, since={})
    assert lines(document(device=bare, alerts=[], tables=[], history=[])) == [
        "image-ro (253:5) on web-1: unknown",
        "",
        "no change is known",
    ]
    assert lines({}) == ["() on :", "", "no change is known"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"approved": True}, "active table: approved by b:1 (both)"),
        ({"approved": None, "baseline": ""}, "active table: not judged (both)"),
        ({"others": 1}, "active table: NOT approved by b:1 or 1 other entry (both)"),
        ({"others": 2}, "active table: NOT approved by b:1 or 2 other entries (both)"),
        ({"slot": "inactive"}, "staged table: NOT approved by b:1"),
        (
            {"slot": "inactive", "compared_with": "active"},
            "staged table: NOT approved by b:1, beside the active one, which is",
        ),
        (
            {"compared_with": "inactive"},
            "active table: NOT approved by b:1, beside the staged one, which is (both)",
        ),
    ],
)
def test_how_a_table_is_judged(changed: dict[str, object], told: str) -> None:
    assert told in lines(document(tables=[{**TABLE, "baseline": "b:1", **changed}]))


def test_changes_that_no_record_tells_of() -> None:
    history = [
        change(0, event="", record=None),
        change(1, event="judged", record=None, verdict="unexpected"),
        change(2, hash=None, types=[], verdict="unknown", event="boot", record=None),
        change(3, hash="unknown", types=None),
    ]
    *_, found, judged, boot, unknown = lines(document(history=history))
    assert found.split("  ")[-1] == "found so"
    assert judged.split()[-2:] == ["unexpected", "judged"]
    assert boot.split()[-2:] == ["none", "boot"]
    assert unknown.split()[-5:] == ["?", "unknown", "approved", "device_resume", "7"]


def test_of_much_what_differs_and_what_was_last() -> None:
    rows = [row(f"a{number}", None, "x") for number in range(100)] + [row("last", "y", "x", differs=True)]
    history = [change(number, record=number) for number in range(100)]
    found = lines(document(tables=[{**TABLE, "rows": rows, "rows_left_out": 5}], history=history))
    assert "!=  0 last     y         x" in found
    assert "and 66 more rows; --json has more" in found
    assert "and 70 older changes; --json has some of them" in found
    assert not any(line.endswith("device_resume 69") for line in found)
    assert any(line.endswith("device_resume 70") for line in found)


def test_hostile_texts_and_a_narrow_terminal() -> None:
    rows = [row(HOSTILE, HOSTILE * 9, "sha256:" + "f" * 64, differs=True)]
    hostile = document(
        host=HOSTILE,
        device=device(name=HOSTILE, uuid=HOSTILE * 20),
        tables=[{**TABLE, "rows": rows, "baseline": HOSTILE}],
        history=[change(0, types=[HOSTILE], event=HOSTILE)],
    )
    for width in (40, 80, 200):
        assert all(line.isprintable() for line in lines(hostile, width=width))
    assert all(line.isascii() for line in lines(hostile, ellipsis="~"))


def test_colours_say_nothing_alone() -> None:
    plain = lines(document())
    coloured = list(device_lines(document(), Look(colour=True)))
    assert [line for line in coloured if "\x1b" in line and "!=" in line]
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in coloured] == plain


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, True),
        ({"alerts": []}, True),
        ({"device": device()}, True),
        ({"device": device(), "alerts": [alert("info")]}, False),
        ({"device": device(), "alerts": []}, False),
    ],
)
def test_what_trouble_is(changed: dict[str, Any], expected: bool) -> None:
    assert device_trouble(document(**changed)) is expected
