"""Where the running daemon is asked: the arguments that commands which ask it share."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmimad.commands.errors import UsageError
from dmimad.config import DEFAULT_FILE, load


def add_socket_arguments(parser: argparse.ArgumentParser) -> None:
    """``--config`` or ``--socket``."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--config", type=Path, metavar="FILE", help=f"settings; default: {DEFAULT_FILE}")
    source.add_argument(
        "--socket", type=Path, metavar="PATH", help="the control socket, without any settings"
    )


def socket_path(arguments: argparse.Namespace) -> Path:
    """The control socket; raises SettingsError, UsageError."""
    if arguments.socket is not None:
        return Path(arguments.socket)
    path = load(arguments.config).control.socket
    if not path:
        file = arguments.config or DEFAULT_FILE
        raise UsageError(
            f"{file}: control.socket is empty, so the daemon has no socket; set it and restart it"
        )
    return Path(path)
