"""Log lines in each form, which form is chosen, and that no value can break a line."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import pytest
import structlog
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from structlog.typing import FilteringBoundLogger

from dmimad.adapters.log import LibraryLog, choose_form, open_log

NOON = datetime(2026, 11, 22, 12, 3, 4, 567_891, tzinfo=UTC)
FORMS = ["journal", "console", "json"]


def logger(stream: TextIO, form: str, level: str = "debug") -> FilteringBoundLogger:
    return open_log(stream, level=level, form=form, environ={}, now=lambda: NOON)


def line(form: str, event: str, **values: object) -> str:
    stream = io.StringIO()
    logger(stream, form).info(event, **values)
    return stream.getvalue()


# --- the forms ---


@pytest.mark.parametrize(
    ("level", "prefix"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 2)]
)
def test_journal_lines_carry_their_priority(level: str, prefix: int) -> None:
    stream = io.StringIO()
    getattr(logger(stream, "journal"), level)("broker_refused", topic="dmimad/v1/web-1/status", attempts=3)
    assert stream.getvalue() == f"<{prefix}>broker_refused topic=dmimad/v1/web-1/status attempts=3\n"


def test_json_lines() -> None:
    found = json.loads(
        line("json", "list_read", records=154, position=None, path=Path("/a b"), ok=True, took=0.5)
    )
    assert found == {
        "timestamp": "2026-11-22T12:03:04.567Z",
        "level": "info",
        "event": "list_read",
        "records": 154,
        "position": None,
        "path": "/a b",
        "ok": True,
        "took": 0.5,
    }


def test_json_keeps_values_named_as_its_own() -> None:
    found = json.loads(line("json", "a", level="high", timestamp=1))
    assert (found["level"], found["level_"], found["timestamp_"]) == ("info", "high", 1)


def test_console_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    local = NOON.astimezone().strftime("%H:%M:%S")
    assert line("console", "list_read", records=154, name="a b") == (
        f'{local}.567 info     list_read                    records=154 name="a b"\n'
    )


def test_values_bound_to_a_logger_are_in_its_lines() -> None:
    stream = io.StringIO()
    logger(stream, "journal").bind(task="mqtt").warning("slow", seconds=2.5)
    assert stream.getvalue() == "<4>slow task=mqtt seconds=2.5\n"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("", '""'),
        ("a b", '"a b"'),
        ("a=b", '"a=b"'),
        ('say "hi"', r'"say \"hi\""'),
        (r"raw\xff", r"raw\xff"),
        ("two\nlines", r'"two\nlines"'),
        ("cr\rtab\tnul\0", r'"cr\rtab\tnul\u0000"'),
        ("\x1b[31mred", r'"\u001b[31mred"'),
        ("del\x7fc1\x9b", r'"del\u007fc1\u009b"'),
        ("line\u2028sep\x85", r'"line\u2028sep\u0085"'),
        ("\u202eeman", r'"\u202eeman"'),
        ("\udcff", r'"\udcff"'),
        ("Büro", "Büro"),
        (b"caf\xe9\n", r'"caf\\xe9\n"'),
        (True, "true"),
        (None, "null"),
        (float("nan"), "nan"),
        (["a", 1], r'"[\"a\", 1]"'),
        ({"k\n": {"n": b"\xff"}}, r'"{\"k_\": {\"n\": \"\\\\xff\"}}"'),
        (1 << 5000, '"a number of 5001 bits"'),
        ("x" * 5000, "x" * 4096 + "…"),
        (b"x" * 5000, "x" * 4096 + "…"),
    ],
)
@pytest.mark.parametrize("form", ["journal", "console"])
def test_a_value_is_one_word(form: str, value: object, shown: str) -> None:
    assert line(form, "e", v=value).endswith(f" v={shown}\n")


def test_hostile_keys_and_events() -> None:
    assert line("journal", "a b\n<0>c", **{"k y=1\n": 2, "": 3}) == '<6>"a b\\n<0>c" k_y_1_=2 _=3\n'


def test_deep_and_long_values_are_cut() -> None:
    deep: list[object] = []
    for _ in range(500):
        deep = [deep]
    assert len(line("json", "e", v=deep)) < 5000
    assert json.loads(line("json", "e", v=list(range(1000))))["v"] == list(range(100))


@pytest.mark.parametrize("form", FORMS)
@hypothesis_settings(deadline=None)  # a busy machine is no failure
@given(
    values=st.dictionaries(
        st.text(), st.text() | st.binary() | st.floats() | st.integers() | st.lists(st.text() | st.binary())
    ),
    event=st.text(st.characters()),
)
def test_no_value_breaks_a_line(form: str, event: str, values: dict[str, object]) -> None:
    values.pop("event", None)  # an argument of the log call itself
    values.pop("exc_info", None)
    stream = io.StringIO()
    log = logger(stream, form)
    log.bind(**values).info(event)
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    if form == "json":
        assert json.loads(text)["level"] == "info"
    else:
        text.encode("utf-8")


# --- levels ---


@pytest.mark.parametrize(
    ("level", "events"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
@pytest.mark.parametrize("asked", [False, True])
def test_level(level: str, events: list[str], asked: bool) -> None:
    stream = io.StringIO()
    log = open_log(stream, level=(lambda: level) if asked else level, form="json", environ={})
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)(name)
    assert [json.loads(text)["event"] for text in stream.getvalue().splitlines()] == events


def test_level_that_changes_while_running() -> None:
    stream, level = io.StringIO(), ["info"]
    log = open_log(stream, level=lambda: level[0], form="journal", environ={}).bind(a=1)
    log.debug("before")
    level[0] = "debug"
    log.debug("after")
    assert stream.getvalue() == "<7>after a=1\n"


# --- exceptions ---


def failing(log: FilteringBoundLogger) -> None:
    try:
        raise ValueError("first\nsecond \x1b[31m")
    except ValueError:
        log.exception("task_failed", task="mqtt")


def test_exception_is_one_line_for_the_journal() -> None:
    stream = io.StringIO()
    failing(logger(stream, "journal"))
    assert re.fullmatch(
        r'<3>task_failed task=mqtt exception="Traceback \(most recent call last\):\\n.*'
        r'ValueError: first\\nsecond \\u001b\[31m"\n',
        stream.getvalue(),
    )


def test_exception_in_json() -> None:
    stream = io.StringIO()
    failing(logger(stream, "json"))
    found = json.loads(stream.getvalue())
    assert found["exception"].endswith("ValueError: first\nsecond \x1b[31m")


def test_exception_on_a_console_is_indented() -> None:
    stream = io.StringIO()
    failing(logger(stream, "console"))
    first, *others = stream.getvalue().splitlines()
    assert first.endswith("task=mqtt")
    assert others[0] == "    Traceback (most recent call last):"
    assert others[-2:] == ["    ValueError: first", r"    second \u001b[31m"]
    assert all(text.startswith("    ") for text in others)


@pytest.mark.parametrize("how", ["error", "tuple", "none"])
def test_exception_given_as_a_value(how: str) -> None:
    stream = io.StringIO()
    error = ValueError("x" * 40_000)
    given = {"error": error, "tuple": (ValueError, error, None), "none": (None, None, None)}[how]
    logger(stream, "json").warning("failed", exc_info=given)
    found = json.loads(stream.getvalue())
    assert found.get("exception") == (None if how == "none" else "x" * 32 * 1024)


# --- where to ---


@pytest.fixture
def terminal() -> Iterator[tuple[int, TextIO]]:
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as stream:
        yield leader, stream
    os.close(leader)


def journal_stream(stream: TextIO) -> str:
    found = os.fstat(stream.fileno())
    return f"{found.st_dev}:{found.st_ino}"


def test_auto_on_a_terminal_is_the_console_in_colours(terminal: tuple[int, TextIO]) -> None:
    leader, stream = terminal
    assert choose_form(stream, "auto", {}) == "console"
    open_log(stream, environ={"TERM": "xterm"}, now=lambda: NOON).error("broken", name="a\x1b[2J")
    text = os.read(leader, 4096).decode()
    assert "\x1b[31merror   \x1b[0m" in text
    assert r'name="a\u001b[2J"' in text


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colours_where_they_are_not_wanted(terminal: tuple[int, TextIO], environ: dict[str, str]) -> None:
    leader, stream = terminal
    open_log(stream, environ=environ, now=lambda: NOON).error("broken")
    assert os.read(leader, 4096).decode().endswith(" error    broken\r\n")


def test_auto_on_the_journal_is_decided_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as stream, (tmp_path / "b").open("w") as other:
        assert choose_form(stream, "auto", {"JOURNAL_STREAM": journal_stream(stream)}) == "journal"
        assert choose_form(stream, "auto", {"JOURNAL_STREAM": journal_stream(other)}) == "json"
        assert choose_form(stream, "auto", {"JOURNAL_STREAM": "nonsense"}) == "json"
        assert choose_form(stream, "auto", {}) == "json"
    assert choose_form(io.StringIO(), "auto", {"JOURNAL_STREAM": "1:1"}) == "json"


def test_a_journal_wins_over_a_terminal_and_a_setting_over_both(terminal: tuple[int, TextIO]) -> None:
    _, stream = terminal
    environ = {"JOURNAL_STREAM": journal_stream(stream)}
    assert choose_form(stream, "auto", environ) == "journal"
    assert [choose_form(stream, form, environ) for form in FORMS] == FORMS


# --- what libraries log ---


@pytest.fixture
def library() -> Iterator[logging.Logger]:
    found = logging.getLogger("test_log.library")
    found.propagate = False
    yield found
    for handler in found.handlers[:]:
        found.removeHandler(handler)


def test_library_lines_are_ours(library: logging.Logger) -> None:
    stream = io.StringIO()
    handler = LibraryLog(logger(stream, "journal"))
    library.addHandler(handler)
    library.warning("lost %s", "a\nb")
    library.info("below the handler's level")
    library.log(35, "between")
    wrong = logging.LogRecord("test_log.library", logging.CRITICAL, "f", 1, "wrong %d", ("argument",), None)
    handler.handle(wrong)  # not by the logger: pytest's own handler raises
    assert stream.getvalue().splitlines() == [
        r'<4>library logger=test_log.library message="lost a\nb"',
        "<4>library logger=test_log.library message=between",
        '<2>library logger=test_log.library message="wrong %d"',
    ]


def test_library_lines_below_debug_and_exceptions(library: logging.Logger) -> None:
    stream = io.StringIO()
    library.setLevel(1)
    library.addHandler(LibraryLog(logger(stream, "json"), level=1))
    library.log(5, "fine")
    try:
        raise KeyError("k")
    except KeyError:
        library.exception("failed")
    fine, failed = map(json.loads, stream.getvalue().splitlines())
    assert (fine["level"], fine["message"]) == ("debug", "fine")
    assert (failed["level"], failed["exception"].splitlines()[-1]) == ("error", "KeyError: 'k'")


# --- streams that fail, and the process as a whole ---


def test_a_stream_that_is_closed_does_not_end_the_program() -> None:
    closed = io.StringIO()
    closed.close()
    logger(closed, "auto").error("nobody_hears")
    open_log(None, environ={"JOURNAL_STREAM": "1:1"}).error("nobody_hears")


def test_a_stream_without_room_or_reader_does_not_end_the_program() -> None:
    full = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    logger(full, "json").error("no_room")
    with pytest.raises(OSError, match="No space left"):
        full.close()
    reader, writer = os.pipe()
    os.close(reader)
    broken = os.fdopen(writer, "w")
    logger(broken, "json").error("no_reader")
    with pytest.raises(BrokenPipeError):
        broken.close()


def test_the_process_wide_configurations_are_left_alone() -> None:
    before = structlog.get_config(), logging.getLogger().handlers[:]
    logger(io.StringIO(), "json").info("a")
    assert (structlog.get_config(), logging.getLogger().handlers) == before
