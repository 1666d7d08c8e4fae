"""``dmimad run``: the daemon in the foreground, as a service manager wants it."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from dmimad.adapters.log import LibraryLog, open_log
from dmimad.config import Settings, load
from dmimad.daemon import Daemon, Outside

SUMMARY = "the daemon"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings; default: /etc/dmimad/dmimad.toml"
    )


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 after a clean stop."""
    settings = load(arguments.config)
    level = [settings.log.level]
    log = open_log(sys.stderr, level=lambda: level[0], form=settings.log.format)
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
