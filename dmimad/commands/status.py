"""``dmimad status``: what the running daemon knows, asked over its control socket.

Source: the document and the exit status are a promise, ``docs/status.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from dmimad.adapters.control.client import TIMEOUT_SECONDS, Conversation, ask
from dmimad.commands.control_socket import add_socket_arguments, socket_path
from dmimad.commands.plain_text import coloured, encodes
from dmimad.commands.status_changes import changes, summary
from dmimad.commands.status_document import Document, table_in, trouble
from dmimad.commands.status_page import WIDTH, Look, page
from dmimad.core.errors import AdapterError

SUMMARY = "what the running daemon knows"
_REDRAW_SECONDS = 1.0
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _END_LINE, _END_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_MAX_COLUMNS = 200
_FOR_EVER_SECONDS = 86400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_socket_arguments(parser)
    parser.add_argument("--json", action="store_true", help="the document as it is, one JSON object a line")
    parser.add_argument("--watch", action="store_true", help="go on and show what changes")


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 if all is well, 1 if not; that the daemon cannot be asked is raised."""
    path = socket_path(arguments)
    if arguments.watch:
        _watch(path, as_json=arguments.json)
        return 0
    document = _document(ask(path, {"request": "status"}))
    if arguments.json:
        _write_json(document)
    else:
        sys.stdout.writelines(f"{line}\n" for line in page(document, _look()))
    return 1 if trouble(document) else 0


def _document(answer: Document) -> Document:
    return table_in(answer, "status")


def _write_json(document: Document) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def _look() -> Look:
    columns = shutil.get_terminal_size((WIDTH, 24)).columns
    ellipsis = "…" if encodes(sys.stdout, "…") else "~"
    return Look(max(WIDTH, min(columns, _MAX_COLUMNS)), coloured(sys.stdout), ellipsis)


def _watch(path: Path, *, as_json: bool) -> None:
    """Until it is interrupted or the daemon ends, which is raised."""
    with Conversation(path, {"request": "watch"}) as conversation:
        first = conversation.next(TIMEOUT_SECONDS)
        if first is None:
            raise AdapterError(
                f"no answer within {TIMEOUT_SECONDS:g} seconds", str(path), "see the daemon's log"
            )
        if sys.stdout.isatty() and not as_json:
            with _whole_screen():
                _draw(conversation, _document(first))
        else:
            _write_changes(conversation, _document(first), as_json=as_json)


def _write_changes(conversation: Conversation, before: Document, *, as_json: bool) -> None:
    if as_json:
        _write_json(before)
    else:
        print(summary(before), flush=True)
    while True:
        answer = conversation.next(_FOR_EVER_SECONDS)
        if answer is None:
            continue
        after = _document(answer)
        if as_json:
            _write_json(after)
        else:
            for line in changes(before, after):
                print(line, flush=True)
        before = after


def _draw(conversation: Conversation, document: Document) -> None:
    came_at = time.monotonic()
    while True:
        _show(document, time.monotonic() - came_at)
        answer = conversation.next(_REDRAW_SECONDS)
        if answer is not None:
            document, came_at = _document(answer), time.monotonic()


def _show(document: Document, older_seconds: float) -> None:
    """In one write, over what was there, so that it does not flicker."""
    rows = shutil.get_terminal_size((WIDTH, 24)).lines
    lines = list(page(document, _look(), older_seconds=older_seconds))
    if len(lines) > rows:
        lines = [*lines[: rows - 1], f"({len(lines) - rows + 1} more lines; make the window larger)"]
    sys.stdout.write(_HOME + "\r\n".join(line + _END_LINE for line in lines) + _END_SCREEN)
    sys.stdout.flush()


@contextlib.contextmanager
def _whole_screen() -> Iterator[None]:
    """What was on the terminal is there again afterwards, also after SIGTERM."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    sys.stdout.write(_ENTER)
    try:
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        signal.signal(signal.SIGTERM, before)
