"""``dmimad status``: what the running daemon knows, asked over its control socket.

Source: the document and the exit status are a promise, ``docs/status.md``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from dmimad.adapters.control.client import ask
from dmimad.commands.control_socket import add_socket_arguments, socket_path
from dmimad.commands.device_page import device_lines, device_trouble
from dmimad.commands.plain_text import add_colour_argument, coloured, encodes
from dmimad.commands.status_document import table_in, trouble
from dmimad.commands.status_page import LEAST_WIDTH, WIDTH, Look, parts
from dmimad.commands.status_watch import watch, write_json

SUMMARY = "what the running daemon knows"
_MAX_COLUMNS = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_socket_arguments(parser)
    parser.add_argument("--json", action="store_true", help="the document as it is, one JSON object a line")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--watch", action="store_true", help="go on and show what changes")
    shown.add_argument(
        "--device", metavar="DEVICE", help="one device, by name or number: its tables and its history"
    )
    add_colour_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 if all is well, 1 if not; that the daemon cannot be asked is raised."""
    path = socket_path(arguments)
    look = _look(arguments.color)
    if arguments.watch:
        watch(path, look, as_json=arguments.json)
        return 0
    if arguments.device is not None:
        return _show_device(path, arguments.device, look, as_json=arguments.json)
    document = table_in(ask(path, {"request": "status"}), "status")
    if arguments.json:
        write_json(document)
    else:
        made = parts(document, look)
        lines = [*made.head, *made.body]
        if sys.stdout.isatty() and len(lines) >= shutil.get_terminal_size().lines:
            lines += ["", *made.head]  # what matters is not to scroll out of sight
        sys.stdout.writelines(f"{line}\n" for line in lines)
    return 1 if trouble(document) else 0


def _show_device(path: Path, device: str, look: Look, *, as_json: bool) -> int:
    """Returns 1 if something is wrong with it."""
    document = table_in(ask(path, {"request": "device", "device": device}), "device")
    if as_json:
        write_json(document)
    else:
        sys.stdout.writelines(f"{line}\n" for line in device_lines(document, look))
    return 1 if device_trouble(document) else 0


def _look(colour: str) -> Look:
    columns = shutil.get_terminal_size((WIDTH, 24)).columns
    ellipsis = "…" if encodes(sys.stdout, "…") else "~"
    width = max(LEAST_WIDTH, min(columns, _MAX_COLUMNS))
    return Look(width, coloured(sys.stdout, colour), ellipsis)
