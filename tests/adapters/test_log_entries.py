"""Log events as entries for the journal: which fields, which go to the stream; no value adds a field."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from structlog.typing import FilteringBoundLogger

from dmimad.adapters.journal import MAX_FIELDS, Journal, encode
from dmimad.adapters.log import open_log
from tests.adapters.test_log import failing, journal_stream
from tests.journal import FakeJournal, fake_journal, parse


class ToJournal:
    """A logger whose stream leads to the journal, the journal, and what was written to the stream."""

    def __init__(self, there: FakeJournal, stream: TextIO) -> None:
        self.there = there
        self._stream = stream
        self._sender = Journal(there.path)
        self.log = self.logger(stream, "auto", {"JOURNAL_STREAM": journal_stream(stream)})

    def logger(self, stream: TextIO, form: str, environ: dict[str, str]) -> FilteringBoundLogger:
        return open_log(
            stream, form=form, environ=environ, journal=self._sender, message_id=identify, level="debug"
        )

    def entry(self) -> dict[str, str]:
        """The only one there is, and nothing else."""
        assert self.lines() == ""
        (entry,) = self.there.entries()
        return entry

    def lines(self) -> str:
        return Path(self._stream.name).read_text()

    def close(self) -> None:
        self._sender.close()


def identify(event: str, values: Mapping[str, object]) -> str | None:
    return f"id of {event} {values.get('status')}" if event == "alert" else None


@pytest.fixture
def to_journal(tmp_path: Path) -> Iterator[ToJournal]:
    with fake_journal(tmp_path / "socket") as there, (tmp_path / "stderr").open("w") as stream:
        found = ToJournal(there, stream)
        yield found
        found.close()


def test_an_event_is_an_entry(to_journal: ToJournal) -> None:
    to_journal.log.error(
        "alert",
        code="drift.active",
        status="firing",
        device="a b",
        record=None,
        count=3,
        **{"a-ö.x": ["y", 1]},
    )
    assert to_journal.entry() == {
        "MESSAGE": (
            'alert code=drift.active status=firing device="a b" record=null count=3 a-_.x="[\\"y\\", 1]"'
        ),
        "MESSAGE_ID": "id of alert firing",
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "dmimad",
        "SYSLOG_FACILITY": "3",
        "DMIMAD_EVENT": "alert",
        "DMIMAD_CODE": "drift.active",
        "DMIMAD_STATUS": "firing",
        "DMIMAD_DEVICE": "a b",
        "DMIMAD_COUNT": "3",
        "DMIMAD_A___X": '["y", 1]',
    }


@pytest.mark.parametrize(
    ("level", "priority"),
    [("debug", "7"), ("info", "6"), ("warning", "4"), ("error", "3"), ("critical", "2")],
)
def test_an_entry_has_its_priority(to_journal: ToJournal, level: str, priority: str) -> None:
    getattr(to_journal.log, level)("started")
    entry = to_journal.entry()
    assert (entry["PRIORITY"], entry["MESSAGE"]) == (priority, "started")
    assert "MESSAGE_ID" not in entry


def test_an_entry_with_an_exception(to_journal: ToJournal) -> None:
    failing(to_journal.log)
    entry = to_journal.entry()
    assert entry["DMIMAD_EXCEPTION"].splitlines()[0] == "Traceback (most recent call last):"
    assert entry["DMIMAD_EXCEPTION"].endswith("\nValueError: first\nsecond \\u001b[31m")
    assert entry["MESSAGE"].endswith(r'ValueError: first\nsecond \u001b[31m"')


def test_a_field_is_harmless_on_a_terminal_and_on_one_line(to_journal: ToJournal) -> None:
    to_journal.log.info("a", device="x\x1b[2J\nPRIORITY=0\n\u202e\udcff", raw=b"\xff\n")
    entry = to_journal.entry()
    assert entry["DMIMAD_DEVICE"] == r"x\u001b[2J\nPRIORITY=0\n\u202e\udcff"
    assert entry["DMIMAD_RAW"] == r"\xff\n"
    assert entry["PRIORITY"] == "6"


def test_no_key_takes_the_place_of_another(to_journal: ToJournal) -> None:
    to_journal.log.bind(**{"a_b": 1, "a-b": 2, "Event": "other", "x" * 500: 3}).info("first")
    entry = to_journal.entry()
    assert (entry["DMIMAD_EVENT"], entry["DMIMAD_A_B"]) == ("first", "1")
    assert entry["DMIMAD_" + "X" * 57] == "3"


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_form_that_was_asked_for_goes_to_the_stream(
    to_journal: ToJournal, tmp_path: Path, form: str
) -> None:
    with (tmp_path / "other").open("w") as stream:
        to_journal.logger(stream, form, {"JOURNAL_STREAM": journal_stream(stream)}).info("started")
    assert "started" in (tmp_path / "other").read_text()
    assert to_journal.there.datagrams() == []


def test_the_journal_form_on_another_stream_is_lines(to_journal: ToJournal, tmp_path: Path) -> None:
    with (tmp_path / "other").open("w") as stream:
        to_journal.logger(stream, "journal", {}).info("started", a=1)
    assert (tmp_path / "other").read_text() == "<6>started a=1\n"
    assert to_journal.there.datagrams() == []


def test_what_the_journal_does_not_take_goes_to_the_stream(to_journal: ToJournal) -> None:
    Path(to_journal.there.path).unlink()
    to_journal.log.warning("mqtt_unavailable", problem="a b")
    assert to_journal.lines() == '<4>mqtt_unavailable problem="a b"\n'


def test_a_stream_that_nobody_reads_does_not_hold_up_who_logs(tmp_path: Path) -> None:
    """The journal is gone, and whoever had the other end of the stream stands still."""
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("w") as stream, fake_journal(tmp_path / "socket") as there:
        sender = Journal(str(tmp_path / "none"))
        environ = {"JOURNAL_STREAM": journal_stream(stream)}
        log = open_log(stream, environ=environ, journal=sender)
        for number in range(1000):
            log.warning("lost", text="x" * 4000, number=number)
        lost = sender.dropped
        assert 0 < lost < 1000
        sender._path = there.path
        log.warning("back")
        assert [entry["DMIMAD_LOST_BEFORE"] for entry in there.entries()] == [str(lost)]
        sender.close()


def test_lost_entries_are_told_by_the_next(to_journal: ToJournal) -> None:
    before = 0
    while not before:
        to_journal.log.info("busy")
        before = to_journal._sender.dropped
    assert {entry["MESSAGE"] for entry in to_journal.there.entries()} == {"busy"}
    to_journal.log.info("after", a=1)
    to_journal.log.info("later")
    after, later = to_journal.there.entries()
    assert (after["MESSAGE"], after["DMIMAD_LOST_BEFORE"]) == ("after a=1 lost_before=1", "1")
    assert later["MESSAGE"] == "later"
    assert to_journal.lines() == ""


OWN_FIELDS = {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "SYSLOG_FACILITY", "DMIMAD_EVENT"}


@hypothesis_settings(deadline=None)  # a busy machine is no failure
@given(
    values=st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True).filter(
            lambda key: key not in ("event", "exc_info")
        ),
        st.text(st.characters() | st.sampled_from("\n=\0\ud800"))
        | st.binary()
        | st.lists(st.text())
        | st.integers(),
    ),
    event=st.text(st.characters()),
)
def test_no_value_adds_a_field(event: str, values: dict[str, object]) -> None:
    sent: list[Mapping[str, str]] = []

    class Kept:
        dropped = 0

        def send(self, fields: Mapping[str, str]) -> bool:
            sent.append(fields)
            return True

    with Path(os.devnull).open("w") as stream:
        environ = {"JOURNAL_STREAM": journal_stream(stream)}
        open_log(stream, environ=environ, journal=Kept()).bind(**values).info(event)
    (fields,) = sent
    assert set(fields) == OWN_FIELDS | {"DMIMAD_" + key.upper() for key in values}
    datagram = parse(encode(fields))
    assert [name for name, _ in datagram] == [name.encode() for name in list(fields)[:MAX_FIELDS]]
    assert all(value.decode("utf-8").isprintable() for _, value in datagram)
