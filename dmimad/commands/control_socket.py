"""Where the running daemon is asked: the arguments that commands which ask it share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dmimad.commands.errors import UsageError
from dmimad.config import DEFAULT_FILE, load
from dmimad.core.errors import SettingsError
from dmimad.core.event import one_line
from dmimad.settings import ControlSettings


def add_socket_arguments(parser: argparse.ArgumentParser) -> None:
    """``--config`` or ``--socket``."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--config", type=Path, metavar="FILE", help=f"settings; default: {DEFAULT_FILE}")
    source.add_argument(
        "--socket", type=Path, metavar="PATH", help="the control socket, without any settings"
    )


def socket_path(arguments: argparse.Namespace) -> Path:
    """The control socket; raises SettingsError, UsageError.

    Who has spoiled the usual settings is told, and can still ask what the daemon says of them.
    """
    if arguments.socket is not None:
        return Path(arguments.socket)
    try:
        path = load(arguments.config).control.socket
    except SettingsError as error:
        if arguments.config is not None:
            raise
        path = ControlSettings().socket
        print(f"dmimad: {one_line(str(error))}; asking at {path}", file=sys.stderr)
    if not path:
        file = arguments.config or DEFAULT_FILE
        raise UsageError(
            f"{file}: control.socket is empty, so the daemon has no socket; set it and restart it"
        )
    return Path(path)
