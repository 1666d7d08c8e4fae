"""``dmimad observe``: the privileged observer, which tells the daemon what device-mapper holds live."""

from __future__ import annotations

import argparse
import os
import pwd
import signal
import sys
from pathlib import Path
from types import FrameType

from dmimad.adapters.live.dm import DmControl
from dmimad.adapters.live.server import Server, Timing
from dmimad.adapters.live.sockets import (
    DEFAULT_SOCKET,
    inherited_connection,
    listen_at,
    passed_listener,
    remove,
)
from dmimad.commands.errors import UsageError

SUMMARY = "the privileged observer of the live tables"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--socket",
        type=Path,
        metavar="PATH",
        help=f"listen here; default: the socket passed by systemd, or else {DEFAULT_SOCKET}",
    )
    source.add_argument("--fd", type=int, metavar="N", help="serve this inherited connection alone")
    parser.add_argument(
        "--user",
        action="append",
        default=[],
        metavar="NAME|UID",
        help="who may connect beside root and the observer's own user; may be repeated",
    )
    parser.add_argument(
        "--idle-exit-seconds",
        type=_seconds,
        metavar="SECONDS",
        help="end when nobody was connected for so long; systemd starts it again when it is needed",
    )


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 when it is told to stop or has nobody left to serve."""
    control = DmControl()
    users = tuple(_user(text) for text in arguments.user)
    timing = Timing(idle_exit_seconds=arguments.idle_exit_seconds)
    if arguments.fd is not None:
        connection = inherited_connection(arguments.fd)
        return _serve(Server(control, connection=connection, timing=timing, report=_report))
    listener = None if arguments.socket else passed_listener(os.environ, os.getpid())
    if listener is not None:
        return _serve(Server(control, listener=listener, users=users, timing=timing, report=_report))
    # Started by hand: what cannot work is better said to the person than to the clients.
    control.check()
    path = arguments.socket or DEFAULT_SOCKET
    listener = listen_at(path, users)
    try:
        return _serve(Server(control, listener=listener, users=users, timing=timing, report=_report))
    finally:
        remove(listener, path)


def _serve(server: Server) -> int:
    def stop(number: int, frame: FrameType | None) -> None:
        server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    server.run()
    return 0


def _report(line: str) -> None:
    print(f"dmimad: {line}", file=sys.stderr, flush=True)


def _user(text: str) -> int:
    try:
        return int(text) if text.isdecimal() else pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):
        raise UsageError(f"--user {text}: no such user") from None


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
    return seconds
