"""``dmimad doctor``: is this host able to be monitored, and what is missing?

Source: the output is a promise to other tools, ``docs/doctor.md``.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dmimad.adapters.live.client import LiveClient
from dmimad.adapters.live.connect import connector
from dmimad.adapters.log import open_log
from dmimad.config import DEFAULT_FILE, load
from dmimad.core.observation import Observation
from dmimad.doctor.checks import Status, verdict
from dmimad.doctor.examination import Outside, examine
from dmimad.doctor.report import json_report, text_report
from dmimad.doctor.witnesses import Observe
from dmimad.settings import Settings

SUMMARY = "is this host able to be monitored, and what is missing"
_PROGRESS_SECONDS = 0.5
_CLEAR_LINE = "\r\x1b[K"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"settings; default: {DEFAULT_FILE}")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 if there is no problem, 1 if there is one; unusable settings are raised."""
    settings = load(arguments.config)
    # What libraries log must not get between the lines.
    logging.getLogger().addHandler(logging.NullHandler())
    progress = _Progress(sys.stderr is not None and sys.stderr.isatty(), time.monotonic)
    outside = Outside(_observer(settings), os.geteuid(), time.time(), progress=progress.tell)
    try:
        checks = examine(settings, arguments.config or DEFAULT_FILE, outside)
    finally:
        progress.clear()
    if arguments.json:
        sys.stdout.write(json_report(settings.host.id, checks))
    else:
        sys.stdout.writelines(text_report(checks, colour=_colour()))
    return 1 if verdict(checks) is Status.PROBLEM else 0


def _observer(settings: Settings) -> Observe:
    async def observe() -> Observation:
        client = LiveClient(connector(settings.live.socket), log=open_log(None))
        try:
            return await client.observe()
        finally:
            await client.close()

    return observe


def _colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class _Progress:
    """A line on a terminal while a long list is being read."""

    def __init__(self, terminal: bool, clock: Callable[[], float]) -> None:
        self._terminal = terminal
        self._clock = clock
        self._told_at = clock()
        self._shown = False

    def tell(self, records: int) -> None:
        """So many have been read."""
        if self._terminal and self._clock() - self._told_at >= _PROGRESS_SECONDS:
            self._told_at = self._clock()
            self._shown = True
            sys.stderr.write(f"{_CLEAR_LINE}reading the list: {records} records")
            sys.stderr.flush()

    def clear(self) -> None:
        """Nothing is being read any more."""
        if self._shown:
            sys.stderr.write(_CLEAR_LINE)
            sys.stderr.flush()
