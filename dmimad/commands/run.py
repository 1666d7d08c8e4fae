"""``dmimad run``: the daemon in the foreground, as a service manager wants it."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from contextlib import closing
from pathlib import Path

from dmimad.adapters.ima_list import COUNT_DESCRIPTOR, LIST_DESCRIPTOR, is_kernel_list, kernel_files
from dmimad.adapters.journal import Journal
from dmimad.adapters.log import LibraryLog, open_log
from dmimad.adapters.privileges import go_on_without
from dmimad.config import load
from dmimad.daemon import Daemon
from dmimad.message_ids import message_id
from dmimad.parts import Outside
from dmimad.settings import Settings, SourceSettings

SUMMARY = "the daemon"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings; default: /etc/dmimad/dmimad.toml"
    )


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 after a clean stop."""
    with closing(Journal()) as journal:
        return _run(arguments, journal)


def _run(arguments: argparse.Namespace, journal: Journal) -> int:
    settings = load(arguments.config)
    _give_up_capability(settings.source)
    level = [settings.log.level]
    log = open_log(
        sys.stderr,
        level=lambda: level[0],
        form=settings.log.format,
        journal=journal,
        message_id=message_id,
    )
    handler = LibraryLog(log)
    logging.getLogger().addHandler(handler)

    def load_settings() -> Settings:
        return load(arguments.config)

    def set_level(name: str) -> None:
        level[0] = name

    outside = Outside(load_settings, os.environ, set_log_level=set_level)

    async def serve() -> None:
        daemon = Daemon(settings, outside, log)
        loop = asyncio.get_running_loop()
        for number, act in (
            (signal.SIGTERM, daemon.stop),
            (signal.SIGINT, daemon.stop),
            (signal.SIGHUP, daemon.reload),
        ):
            loop.add_signal_handler(number, act)
        await daemon.run()

    try:
        asyncio.run(serve())
    finally:
        logging.getLogger().removeHandler(handler)
    return 0


def _give_up_capability(source: SourceSettings) -> None:
    """If there is one for opening the kernel's list: an open list is all it is good for."""
    if source.hold_open and is_kernel_list(source.path):
        names = (LIST_DESCRIPTOR, COUNT_DESCRIPTOR)
        go_on_without(dict(zip(names, kernel_files(source.path), strict=True)), os.environ)
