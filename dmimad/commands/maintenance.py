"""``dmimad maintenance``: changes of some devices are expected for a while.

Source: what it does to alerts, ``docs/status.md``.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from dmimad.adapters.control.client import ask
from dmimad.commands.control_socket import add_socket_arguments, socket_path
from dmimad.commands.plain_text import plain
from dmimad.commands.status_document import list_in, table_in
from dmimad.commands.status_facts import maintenance_text
from dmimad.core.errors import AdapterError

SUMMARY = "expect changes of some devices for a while"
_UNITS: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands and their arguments."""
    commands = parser.add_subparsers(dest="subcommand", metavar="SUBCOMMAND", required=True)
    start = commands.add_parser("start", help="from now on", description="Expect changes from now on.")
    start.add_argument(
        "--for", dest="seconds", type=_duration, required=True, metavar="TIME", help="90s, 30m, 2h or 1d"
    )
    start.add_argument("--device", required=True, metavar="PATTERN", help="name of devices, with * ? […]")
    start.add_argument("--reason", required=True, metavar="TEXT", help="told to everybody who gets alerts")
    listing = commands.add_parser("list", help="what is in force", description="Show what is in force.")
    end = commands.add_parser("end", help="before its time", description="End it before its time.")
    which = end.add_mutually_exclusive_group(required=True)
    which.add_argument("id", nargs="?", metavar="ID", help="as start and list show it")
    which.add_argument("--all", action="store_true", help="everything that is in force")
    for command in (start, listing, end):
        add_socket_arguments(command)


def run(arguments: argparse.Namespace) -> int:
    """Returns 0; what the daemon refuses is raised."""
    act: Callable[[argparse.Namespace, Path], None] = {"start": _start, "list": _list, "end": _end}[
        arguments.subcommand
    ]
    act(arguments, socket_path(arguments))
    return 0


def _start(arguments: argparse.Namespace, path: Path) -> None:
    request = {
        "request": "maintenance-start",
        "device": arguments.device,
        "seconds": arguments.seconds,
        "reason": arguments.reason,
    }
    started = table_in(ask(path, request), "maintenance")
    print(f"in force: {maintenance_text(started, time.time())}")


def _list(arguments: argparse.Namespace, path: Path) -> None:
    found = list_in(ask(path, {"request": "maintenance-list"}), "maintenance")
    for each in found:
        print(maintenance_text(each, time.time()))
    if not found:
        print("no maintenance is in force")


def _end(arguments: argparse.Namespace, path: Path) -> None:
    ids = [arguments.id]
    if arguments.all:
        found = list_in(ask(path, {"request": "maintenance-list"}), "maintenance")
        ids = [str(each.get("id")) for each in found]
    for id in ids:
        try:
            ended = table_in(ask(path, {"request": "maintenance-end", "id": id}), "maintenance")
        except AdapterError:
            if not arguments.all or _in_force(path, id):
                raise
            continue  # its time was up meanwhile
        print(f"ended: {plain(ended.get('device'))}: {plain(ended.get('reason'))} [id {plain(id)}]")
    if not ids:
        print("no maintenance is in force")


def _in_force(path: Path, id: str) -> bool:
    found = list_in(ask(path, {"request": "maintenance-list"}), "maintenance")
    return any(each.get("id") == id for each in found)


def _duration(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write it as 90s, 30m, 2h or 1d")
    return float(int(match[1]) * _UNITS[match[2]])
