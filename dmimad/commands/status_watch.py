"""``dmimad status --watch``: what the daemon knows, as it changes: a page on a terminal, else lines.

Source: ``docs/status.md``.

On a terminal it outlives the daemon: it says that nobody answers, and asks again.  Elsewhere it ends then,
for whoever reads the lines has to know.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from pathlib import Path

from dmimad.adapters.control.client import TIMEOUT_SECONDS, Conversation
from dmimad.commands.plain_text import cut, encodes, local_time, moves_the_cursor, wrapped
from dmimad.commands.status_changes import changes, summary
from dmimad.commands.status_document import Document, table_in
from dmimad.commands.status_facts import State
from dmimad.commands.status_page import LEAST_WIDTH, Look, Page, parts, title
from dmimad.commands.terminal import Terminal
from dmimad.core.errors import AdapterError

REDRAW_SECONDS = 1.0
RENEW_SECONDS = 10.0
"""So long after the last answer it is asked anew: a daemon that hangs is noticed, and times are right."""
PATIENCE_SECONDS = 5.0
FRESH_SECONDS = 10.0
"""So long a change is marked."""
MAX_CHANGES_SHOWN = 5
_ROOM_FOR_CHANGES = 4
_WAIT_FOR_REST_SECONDS = 0.01
_FOR_EVER_SECONDS = 86400.0
_MAX_COLUMNS = 200


def watch(path: Path, look: Look, *, as_json: bool) -> None:
    """Until it is interrupted or, where there is no terminal, the daemon ends: both are raised."""
    conversation = Conversation(path, {"request": "watch"})
    try:
        first = conversation.next(TIMEOUT_SECONDS)
        if first is None:
            raise AdapterError(
                f"no answer within {TIMEOUT_SECONDS:g} seconds", str(path), "see the daemon's log"
            )
    except BaseException:
        conversation.close()
        raise
    if sys.stdout.isatty() and moves_the_cursor() and not as_json:
        with Terminal(sys.stdout) as terminal:
            _Screen(path, look, terminal, conversation, table_in(first, "status")).run()
        if terminal.received is not None:
            raise KeyboardInterrupt
        return
    with conversation:
        _write_changes(conversation, table_in(first, "status"), as_json=as_json)


def write_json(document: Document) -> None:
    """On one line."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def _write_changes(conversation: Conversation, before: Document, *, as_json: bool) -> None:
    if as_json:
        write_json(before)
    else:
        print(summary(before), flush=True)
    while True:
        answer = conversation.next(_FOR_EVER_SECONDS)
        if answer is None:
            continue
        after = table_in(answer, "status")
        if as_json:
            write_json(after)
        else:
            for line in changes(before, after):
                print(line, flush=True)
        before = after


class _Screen:
    """What is on the terminal: the last document, what has changed, and whether anybody answers."""

    def __init__(
        self, path: Path, look: Look, terminal: Terminal, conversation: Conversation, document: Document
    ) -> None:
        self._path = path
        self._look = look
        self._terminal = terminal
        self._conversation: Conversation | None = conversation
        self._document = document
        self._answered_at = time.monotonic()
        self._asked_at = self._answered_at
        self._silent_since = 0.0
        self._problem = ""
        self._changes: deque[tuple[float, str]] = deque(maxlen=MAX_CHANGES_SHOWN)
        self._top = 0
        self._body_rows = 1

    def run(self) -> None:
        """Until somebody has seen enough."""
        try:
            while True:
                self._draw()
                others = [] if self._conversation is None else [self._conversation.fileno()]
                woken = self._terminal.wait(others, REDRAW_SECONDS)
                if self._terminal.received is not None or "quit" in woken.keys:
                    return
                for key in woken.keys:
                    self._scroll(key)
                if woken.readable:
                    self._take()
                self._ask_again()
        finally:
            self._hang_up()

    # -- the daemon ----------------------------------------------------------------------------

    def _take(self) -> None:
        """All answers that have come in full."""
        assert self._conversation is not None
        try:
            answer = self._conversation.next(_WAIT_FOR_REST_SECONDS)
            while answer is not None:
                self._answer(table_in(answer, "status"))
                answer = self._conversation.next(0.0)
        except AdapterError as error:
            self._lose(error.what)

    def _answer(self, document: Document) -> None:
        now = time.monotonic()
        self._changes.extend((now, line) for line in changes(self._document, document))
        self._document, self._answered_at, self._problem = document, now, ""

    def _ask_again(self) -> None:
        now = time.monotonic()
        quiet, waited = now - self._answered_at, now - self._asked_at
        if self._conversation is None:
            if waited >= REDRAW_SECONDS:
                self._begin()
        elif self._asked_at > self._answered_at:
            if waited >= PATIENCE_SECONDS:
                self._lose(f"no answer within {PATIENCE_SECONDS:g} seconds")
        elif quiet >= RENEW_SECONDS:
            self._hang_up()
            self._begin()

    def _begin(self) -> None:
        self._asked_at = time.monotonic()
        try:
            self._conversation = Conversation(
                self._path, {"request": "watch"}, timeout_seconds=REDRAW_SECONDS
            )
        except AdapterError as error:
            self._lose(error.what)

    def _lose(self, problem: str) -> None:
        if not self._problem:
            self._silent_since = time.time()
        self._problem = problem
        self._hang_up()

    def _hang_up(self) -> None:
        if self._conversation is not None:
            self._conversation.close()
            self._conversation = None

    # -- the screen ----------------------------------------------------------------------------

    def _draw(self) -> None:
        columns, rows = self._terminal.size()
        width = max(min(columns, _MAX_COLUMNS), LEAST_WIDTH)
        look = Look(width, self._look.colour, self._look.ellipsis)
        made = self._page(look, rows)
        head, body = list(made.head)[:rows], list(made.body)
        self._body_rows = max(rows - len(head) - 1, 0)
        self._top = max(min(self._top, len(body) - self._body_rows), 0)
        below = len(body) - self._top - self._body_rows
        shown = body[self._top : self._top + self._body_rows]
        if len(head) < rows:
            shown += [""] * (self._body_rows - len(shown))
            shown.append(self._footer(look, self._top, max(below, 0)))
        self._terminal.show([*head, *shown])

    def _page(self, look: Look, rows: int) -> Page:
        older = time.monotonic() - self._answered_at
        made = parts(
            self._document,
            look,
            older_seconds=0.0 if self._problem else older,
            lately=self._lately(look, min(MAX_CHANGES_SHOWN, max(rows // _ROOM_FOR_CHANGES - 2, 1))),
        )
        if not self._problem:
            return made
        gone = title(
            self._document,
            look,
            "NO ANSWER",
            State.BAD,
            local_time(self._document.get("time")),
        )
        since = time.strftime("%H:%M:%S", time.localtime(self._silent_since))
        text = f"since {since}: {self._problem}; asking again. What is below was so before."
        return Page([gone, *(look.paint(line, "1;31") for line in wrapped(text, look.width))], made.body)

    def _lately(self, look: Look, count: int) -> list[str]:
        """The last changes; the new ones are marked."""
        now = time.monotonic()
        lines = []
        for at, text in list(self._changes)[-count:]:
            fresh = now - at < FRESH_SECONDS
            line = cut(f"{'>' if fresh else ' '} {text}", look.width, look.ellipsis)
            lines.append(look.paint(line, "1" if fresh else ""))
        return lines

    def _footer(self, look: Look, above: int, below: int) -> str:
        hidden = above + below
        if hidden and not self._terminal.has_keys:
            text = f"({hidden} more lines; make the window larger)"
        elif hidden:
            arrows = "↑↓" if encodes(sys.stdout, "↑↓") else "arrows"
            text = f"q quits; {arrows} PgUp PgDn: {above} lines above, {below} below"
        elif self._terminal.has_keys:
            text = "q quits"
        else:
            return ""
        return look.paint(cut(text, look.width, look.ellipsis), "1" if hidden else "2")

    def _scroll(self, key: str) -> None:
        page = max(self._body_rows - 1, 1)
        match key:
            case "up":
                self._top -= 1
            case "down":
                self._top += 1
            case "page up":
                self._top -= page
            case "page down":
                self._top += page
            case "home":
                self._top = 0
            case "end":
                self._top = sys.maxsize
