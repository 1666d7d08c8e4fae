"""The journal's catalog explains exactly the events that have an id, with fields that they have."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
from pathlib import Path

import pytest

import dmimad
from dmimad.message_ids import MESSAGE_IDS, message_id
from tests.conftest import find_program

ROOT = Path(dmimad.__file__).parent
CATALOG = ROOT.parent / "systemd" / "catalog" / "dmimad.catalog"
MAN = ROOT.parent / "packaging" / "man"
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}
#: What libraries log is no kind of event.
UNEXPLAINED = {"library"}
#: What an alert always has; by name alone the code does not tell.
ALERT_FIELDS = {"code", "severity", "status", "message", "alert_id", "record"}


def entries() -> dict[str, tuple[str, dict[str, str], str]]:
    """Id -> the event that the comment names, the headers, the text; as systemd's format has it."""
    found = {}
    for part in re.split(r"(?m)^# (?=[a-z_]+\n-- )", CATALOG.read_text("ascii"))[1:]:
        event, identity, rest = part.split("\n", 2)
        head, _, text = rest.partition("\n\n")
        identity = identity.removeprefix("-- ")
        assert identity not in found
        headers = dict(line.split(": ", 1) for line in head.splitlines())
        found[identity] = (event, headers, text.strip())
    return found


@functools.cache
def logged() -> list[tuple[str, str, set[str]]]:
    """Event, level and keys of each call in the code that logs."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)):
                continue
            event, function = node.args[0].value, ast.unparse(node.func)
            level = function.rpartition(".")[2]
            if isinstance(event, str) and level in LEVELS and function.endswith(f"log.{level}"):
                found.append((event, level, {keyword.arg for keyword in node.keywords if keyword.arg}))
    return found


def keys_of(event: str) -> set[str]:
    """The keys that every entry of this event has."""
    if event in ("alert_firing", "alert_resolved"):
        return ALERT_FIELDS
    return set.intersection(*(keys for name, _, keys in logged() if name == event))


def test_ids_are_ids_and_each_is_there_once() -> None:
    assert len(set(MESSAGE_IDS.values())) == len(MESSAGE_IDS)
    for identity in MESSAGE_IDS.values():
        assert re.fullmatch(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}", identity), identity


def test_ids_do_not_change() -> None:
    assert message_id("alert", {"status": "firing"}) == "2bb77acfa551443c97a349c26254942b"
    assert message_id("alert", {"status": "resolved"}) == "d764c277469e4b699e0bd571ec112fe5"
    assert message_id("started", {}) == "2f4583a8b01a41358f7c9784b702c739"
    assert message_id("alert", {}) is None
    assert message_id("no such", {"status": "firing"}) is None


def test_the_catalog_explains_what_has_an_id() -> None:
    assert {event: identity for identity, (event, _, _) in entries().items()} == dict(MESSAGE_IDS)


def test_every_id_belongs_to_an_event_of_the_code() -> None:
    events = {event for event, _, _ in logged()} | {"alert_firing", "alert_resolved"}
    assert set(MESSAGE_IDS) <= events, "an id without an event; it may be mistyped"


def test_every_event_that_is_no_mere_information_has_an_id() -> None:
    events = {event for event, level, _ in logged() if level not in ("debug", "info")}
    assert events <= set(MESSAGE_IDS) | UNEXPLAINED, "add to dmimad/message_ids.py and the catalog"


@pytest.mark.parametrize("event", MESSAGE_IDS)
def test_an_entry_is_complete_and_has_the_fields_that_it_shows(event: str) -> None:
    _, headers, text = entries()[MESSAGE_IDS[event]]
    assert list(headers) == ["Subject", "Defined-By", "Documentation"]
    assert headers["Defined-By"] == "dmimad"
    page = re.fullmatch(r"man:([a-z.-]+)\(([1-8])\)", headers["Documentation"])
    assert page, headers["Documentation"]
    assert (MAN / f"{page[1]}.{page[2]}").exists()
    assert text
    shown = set(re.findall(r"@([^@\s]+)@", headers["Subject"] + text))
    assert shown <= {"DMIMAD_" + key.upper() for key in keys_of(event)}
    assert (headers["Subject"] + text).count("@") == 2 * len(
        re.findall(r"@[^@\s]+@", headers["Subject"] + text)
    )


def test_systemd_takes_the_catalog(tmp_path: Path) -> None:
    journalctl = find_program("journalctl", "systemd")
    for directory in ("usr/lib/systemd/catalog", "var/lib/systemd/catalog"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "usr/lib/systemd/catalog" / CATALOG.name).write_bytes(CATALOG.read_bytes())

    def ask(*arguments: str) -> str:
        done = subprocess.run(
            [journalctl, f"--root={tmp_path}", "--no-pager", *arguments],
            check=True,
            capture_output=True,
            text=True,
        )
        assert done.stderr == ""
        return done.stdout

    assert ask("--update-catalog") == ""
    listed = sorted(line.split(" ", 1) for line in ask("--list-catalog").splitlines())
    assert listed == sorted(
        [identity, f"dmimad: {headers['Subject']}"] for identity, (_, headers, _) in entries().items()
    )
    dumped = ask("--dump-catalog")
    assert [event for event, _, text in entries().values() if text not in dumped] == []
