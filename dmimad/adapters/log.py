"""Where log events go: one line each on stderr, in the form that suits who reads it.

Source: systemd's `sd-daemon(3)` for the `<N>` priorities that journald takes off a line, `systemd.exec(5)`
for JOURNAL_STREAM, no-color.org for NO_COLOR.

    journal   <4>broker_refused topic=dmimad/v1/web-1/status reason="not authorized"
              or, where stderr is the journal and it can be asked, an entry with a field for each value
    console   12:03:04.567 warning  broker_refused  topic=… reason=…      (with colours on a terminal)
    json      {"timestamp": "2026-11-22T12:03:04.567Z", "level": "warning", "event": "broker_refused", …}

Values may be hostile (device names are any bytes): none can end a line, begin another, imitate a further key,
or send a terminal an escape sequence; none is longer than a named limit.

What this module does not do: rotate, filter by module, write files, or configure structlog for the process.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import select
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Protocol, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
FORMATS = ("auto", "journal", "console", "json")

MAX_VALUE_CHARS = 4096
MAX_TRACEBACK_CHARS = 32 * 1024
"""The end of a longer one is kept: that is where it says what happened."""
MAX_KEY_CHARS = 64
#: Of an entry's field names the journal takes no more than 64 characters.
MAX_FIELD_NAME_CHARS = 64
MAX_INT_BITS = 1024
MAX_DEPTH = 4
MAX_ITEMS = 100

_BARE = re.compile(r"[^\s\"=]+")

_PRIORITIES: Mapping[str, int] = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_COLOURS: Mapping[str, str] = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}

IDENTIFIER = "dmimad"
_FIELD_PREFIX = "DMIMAD_"
#: syslog's number for system daemons, which journald gives lines of a service, too.
_FACILITY_DAEMON = "3"


class Entries(Protocol):
    """A journal that takes entries of fields."""

    dropped: int
    """Entries that it was too busy for since it last took one."""

    def send(self, fields: Mapping[str, str]) -> bool:
        """False: it cannot be reached."""


#: Event and its values -> the MESSAGE_ID that the journal's catalog explains; None: there is none.
MessageId = Callable[[str, Mapping[str, object]], str | None]


def _now() -> datetime:
    return datetime.now(UTC)


def open_log(
    stream: TextIO | None,
    *,
    level: str | Callable[[], str] = "info",
    form: str = "auto",
    environ: Mapping[str, str] | None = None,
    now: Callable[[], datetime] = _now,
    journal: Entries | None = None,
    message_id: MessageId = lambda event, values: None,
) -> FilteringBoundLogger:
    """A logger that writes events of `level` and above to `stream`: sys.stderr, but for tests.

    (sys.stderr is None where the process was started without one: then there is nobody to tell.)
    `form` is one of FORMATS and `level` one of LEVELS, as the settings have made sure; a function in place of
    the level is asked at each event, so that a reload can change it.  If the stream leads to the journal,
    `journal` gets the events as entries, and the stream those that it cannot be given.
    """
    environ = os.environ if environ is None else environ
    chosen = choose_form(stream, form, environ)
    lines: _Lines | _Journal = _Lines(stream)
    renderer: _Renderer | _EntryRenderer = _Renderer(chosen, _coloured(stream, environ), now)
    if journal is not None and chosen == "journal" and _is_journal(stream, environ.get("JOURNAL_STREAM", "")):
        lines, renderer = _Journal(journal, _Lines(stream)), _EntryRenderer(journal, message_id)
    least = LEVELS[level] if isinstance(level, str) else logging.DEBUG
    logger = structlog.wrap_logger(
        lines,
        processors=[renderer] if isinstance(level, str) else [_Threshold(level), renderer],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    return cast(FilteringBoundLogger, logger.bind())


def choose_form(stream: TextIO | None, form: str, environ: Mapping[str, str]) -> str:
    """What "auto" means for this stream: journal, console or json."""
    if form != "auto":
        return form
    if _is_journal(stream, environ.get("JOURNAL_STREAM", "")):
        return "journal"
    return "console" if _is_terminal(stream) else "json"


def _is_journal(stream: TextIO | None, named: str) -> bool:
    """JOURNAL_STREAM is inherited by whoever is started with stderr elsewhere, so device and inode decide."""
    if stream is None:
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return named == f"{found.st_dev}:{found.st_ino}"


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def _coloured(stream: TextIO | None, environ: Mapping[str, str]) -> bool:
    return _is_terminal(stream) and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


class _Lines:
    """The stream.  Logging must not end the daemon: a full disk or a reader that left loses lines only."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(line + "\n")  # in one call, so that lines of several threads stay whole
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream is closed
            return

    def ready(self) -> bool:
        """Whether a line can be written without waiting for who reads them."""
        if self._stream is None:
            return True
        poll = select.poll()
        try:
            poll.register(self._stream, select.POLLOUT)
        except (OSError, ValueError):
            return True  # closed, which `write` knows too
        return bool(poll.poll(0))

    # structlog calls what the level is called.
    msg = debug = info = warning = error = critical = exception = write


class _Journal:
    """The journal and, for what it cannot be given, the stream that leads to it, too; waits for neither."""

    def __init__(self, journal: Entries, lines: _Lines) -> None:
        self._journal = journal
        self._lines = lines

    def write(self, fields: Mapping[str, str]) -> None:
        if self._journal.send(fields):
            return
        if not self._lines.ready():
            self._journal.dropped += 1
        else:
            self._lines.write(f"<{fields['PRIORITY']}>{fields['MESSAGE']}")

    msg = debug = info = warning = error = critical = exception = write


class _Threshold:
    """A structlog processor that drops events below a level that can change."""

    def __init__(self, level: Callable[[], str]) -> None:
        self._level = level

    def __call__(self, logger: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
        if LEVELS[method] < LEVELS[self._level()]:
            raise structlog.DropEvent
        return event_dict


class _Renderer:
    """structlog's last processor: an event's keys and values become a line."""

    def __init__(self, form: str, coloured: bool, now: Callable[[], datetime]) -> None:
        self._render = {"journal": self._journal, "console": self._console, "json": self._json}[form]
        self._coloured = coloured
        self._now = now

    def __call__(self, logger: WrappedLogger, method: str, event_dict: EventDict) -> str:
        event = event_dict.pop("event", "")
        trace = _traceback(event_dict.pop("exc_info", None))
        return self._render(method, event, event_dict, trace)

    def _journal(self, level: str, event: object, values: EventDict, trace: str) -> str:
        return f"<{_PRIORITIES[level]}>{_text(event, values, trace)}"

    def _console(self, level: str, event: object, values: EventDict, trace: str) -> str:
        def paint(code: str, text: str) -> str:
            return f"\x1b[{code}m{text}\x1b[0m" if self._coloured else text

        time = self._now().astimezone().strftime("%H:%M:%S.%f")[:-3]
        head = [paint("2", time), paint(_COLOURS[level], f"{level:<8}"), paint("1", f"{_word(event):<28}")]
        # For people a traceback stays on lines of its own, each harmless and indented below its event.
        below = "".join("\n    " + _escaped(line) for line in trace.splitlines())
        return " ".join([*head, *_pairs(values)]).rstrip() + below

    def _json(self, level: str, event: object, values: EventDict, trace: str) -> str:
        time = self._now().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, object] = {"timestamp": time, "level": level, "event": _plain(event)}
        for key, value in values.items():
            name = _key(key)
            line[name + "_" if name in line else name] = _plain(value)
        if trace:
            line["exception"] = trace
        return json.dumps(line)


class _EntryRenderer:
    """structlog's last processor for the journal: an event's keys and values become an entry's fields."""

    def __init__(self, journal: Entries, message_id: MessageId) -> None:
        self._journal = journal
        self._message_id = message_id

    def __call__(
        self, logger: WrappedLogger, method: str, event_dict: EventDict
    ) -> tuple[tuple[Mapping[str, str]], dict[str, Any]]:
        event = event_dict.pop("event", "")
        trace = _traceback(event_dict.pop("exc_info", None))
        if self._journal.dropped:
            event_dict["lost_before"] = self._journal.dropped
        fields = {
            "MESSAGE": _text(event, event_dict, trace),
            "PRIORITY": str(_PRIORITIES[method]),
            "SYSLOG_IDENTIFIER": IDENTIFIER,
            "SYSLOG_FACILITY": _FACILITY_DAEMON,
            "DMIMAD_EVENT": _field(event),
        }
        if (identity := self._message_id(str(event), event_dict)) is not None:
            fields["MESSAGE_ID"] = identity
        if trace:
            fields["DMIMAD_EXCEPTION"] = "\n".join(map(_escaped, trace.splitlines()))
        for key, value in event_dict.items():
            if value is not None:
                fields.setdefault(_field_name(key), _field(value))
        return (fields,), {}


def _text(event: object, values: EventDict, trace: str) -> str:
    """An event as one line."""
    words = [_word(event), *_pairs(values)]
    if trace:
        words.append(f"exception={_quoted(trace)}")
    return " ".join(words)


def _traceback(exc_info: Any) -> str:
    """Text of structlog's `exc_info`: an exception, a sys.exc_info(), or true for the present one."""
    if isinstance(exc_info, tuple):
        error = exc_info[1]
    elif isinstance(exc_info, BaseException):
        error = exc_info
    else:
        error = sys.exc_info()[1] if exc_info else None
    if error is None:
        return ""
    return "".join(traceback.format_exception(error)).rstrip()[-MAX_TRACEBACK_CHARS:]


# --- hostile values ---


def _plain(value: object, depth: int = MAX_DEPTH) -> Any:
    """A value as JSON has it, of bounded size."""
    if isinstance(value, bytes | bytearray):
        value = bytes(value[: MAX_VALUE_CHARS + 1]).decode("utf-8", "backslashreplace")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if value.bit_length() <= MAX_INT_BITS else f"a number of {value.bit_length()} bits"
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if depth and isinstance(value, Mapping):
        return {_key(key): _plain(item, depth - 1) for key, item in islice(value.items(), MAX_ITEMS)}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth - 1) for item in islice(value, MAX_ITEMS)]
    text = str(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + "…"


def _pairs(values: Mapping[str, object]) -> Iterator[str]:
    for key, value in values.items():
        yield f"{_key(key)}={_word(value)}"


def _word(value: object) -> str:
    """A value as one word: bare if nothing in it can mislead, else in quotes, and only then with escapes."""
    plain = _plain(value)
    text = plain if isinstance(plain, str) else json.dumps(plain)
    return text if _BARE.fullmatch(text) and text.isprintable() else _quoted(text)


def _quoted(text: str) -> str:
    return _escaped(json.dumps(text, ensure_ascii=False))


def _escaped(text: str) -> str:
    """What is not printable (controls, line separators, direction overrides, surrogates) as JSON escapes."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else json.dumps(character)[1:-1] for character in text
    )


def _field_name(key: object) -> str:
    name = re.sub(r"[^A-Z0-9_]", "_", str(key)[:MAX_KEY_CHARS].upper())
    return (_FIELD_PREFIX + name)[:MAX_FIELD_NAME_CHARS]


def _field(value: object) -> str:
    """A value as the text of a field: on one line, and harmless on a terminal, where the catalog shows it."""
    plain = _plain(value)
    return _escaped(plain if isinstance(plain, str) else json.dumps(plain))


def _key(key: object) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", str(key)[:MAX_KEY_CHARS]) or "_"


# --- what libraries log ---


class LibraryLog(logging.Handler):
    """Passes what libraries give to the standard library's logging on to ours: one line each, too.

    `logging.getLogger().addHandler(LibraryLog(log))` is for the program to call, once.
    """

    def __init__(self, log: FilteringBoundLogger, level: int = logging.WARNING) -> None:
        super().__init__(level)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):  # a format that does not fit its arguments
            message = str(record.msg)
        level = max((number for number in LEVELS.values() if number <= record.levelno), default=logging.DEBUG)
        self._log.log(level, "library", logger=record.name, message=message, exc_info=record.exc_info)
