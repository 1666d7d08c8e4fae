"""How the devices of a host are learnt: from the running daemon, from the kernel, or from a list.

What is told of them is the same wherever it comes from; how much that is, `Actual.witness` says.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from dmimad.adapters.block_names import BlockNames
from dmimad.adapters.control.client import ask
from dmimad.adapters.ima_list import is_kernel_list
from dmimad.adapters.live.client import LiveClient
from dmimad.adapters.live.connect import connector
from dmimad.adapters.log import open_log
from dmimad.commands.errors import UsageError
from dmimad.config import DEFAULT_FILE, load
from dmimad.core.backing import Names, names_on_host, no_names
from dmimad.core.capture import (
    Captured,
    CapturedDevice,
    captured_device,
    captured_live,
    read_configurations,
)
from dmimad.core.errors import AdapterError, MalformedError
from dmimad.core.observation import Observation
from dmimad.core.reader import ListReader
from dmimad.core.tracker import Tracker
from dmimad.settings import Settings

_CHUNK_BYTES = 1 << 20
_OBSERVATION_SECONDS = 30.0
_VERSION = re.compile(rb"dm_version=([0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9});")
_INSTEAD = "or ask the kernel (--live, as root) or a list (--from)"


@dataclass(frozen=True, slots=True)
class Actual:
    """The devices, and who says so.

    Attributes:
        witness: for people.
        here: whether they are this host's.
        notes: what a person must know of this witness.
    """

    captured: Captured
    witness: str
    here: bool
    notes: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[CapturedDevice, ...]:
        """The devices."""
        return self.captured.devices

    @property
    def versions(self) -> str:
        """Of the kernel and of device-mapper, as far as they are known."""
        found = [f"Linux {os.uname().release}"] if self.here else []
        tables = (slot for one in self.devices for slot in (one.device.active, one.device.inactive))
        texts = (text for table in tables if table is not None for text in table.texts[:1])
        version = next((match for text in texts if (match := _VERSION.match(text))), None)
        if version is not None:
            found.append(f"device-mapper {version[1].decode()}")
        return ", ".join(found)


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """``--config``, and where the devices come from."""
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"settings; default: {DEFAULT_FILE}")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--socket", type=Path, metavar="PATH", help="ask the daemon here; default: as in the settings"
    )
    source.add_argument("--live", action="store_true", help="ask the kernel, as root and without a daemon")
    source.add_argument(
        "--from",
        dest="list",
        metavar="LIST",
        help="read this measurement list, ASCII or binary; - for standard input",
    )


def actual_state(arguments: argparse.Namespace, settings: Settings) -> Actual:
    """The devices, from where the arguments say.  Raises DmimadError."""
    if arguments.live:
        return _from_kernel(settings)
    if arguments.list is not None:
        return _from_list(arguments.list, settings)
    return _from_daemon(arguments.socket, settings)


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings.  Raises SettingsError."""
    return load(arguments.config)


# -- the daemon ----------------------------------------------------------------------------


def _from_daemon(socket: Path | None, settings: Settings) -> Actual:
    path = socket or (Path(settings.control.socket) if settings.control.socket else None)
    if path is None:
        raise UsageError(f"control.socket is empty, so the daemon cannot be asked; set it, {_INSTEAD}")
    try:
        answer = ask(path, {"request": "configurations"})
        captured = read_configurations(answer.get("configurations"))
    except AdapterError as error:
        remedy = f"{error.remedy}; {_INSTEAD}" if error.remedy else _INSTEAD
        raise AdapterError(error.what, error.where, remedy) from error
    except MalformedError as error:
        raise AdapterError(
            f"unusable answer: {error}", str(path), "is the daemon of another version?"
        ) from error
    if captured.observed:
        return Actual(captured, "the running daemon, by the list and the live tables", here=True)
    note = "the daemon does not look at the live tables: the list alone may lack a return to a former table"
    return Actual(captured, "the running daemon, by the list alone", here=True, notes=(note,))


# -- the kernel ----------------------------------------------------------------------------


def _from_kernel(settings: Settings) -> Actual:
    observation = asyncio.run(_observe(settings.live.socket))
    captured = Captured(settings.host.id, True, captured_live(observation, BlockNames()))
    return Actual(captured, "the live tables, which nobody attests", here=True)


async def _observe(socket: str) -> Observation:
    log = open_log(sys.stderr, level=lambda: "error", form="console")
    client = LiveClient(connector(socket), timeout_seconds=_OBSERVATION_SECONDS, log=log)
    try:
        return await client.observe()
    finally:
        await client.close()


# -- a list --------------------------------------------------------------------------------


def _from_list(path: str, settings: Settings) -> Actual:
    here = path not in ("-", "auto") and is_kernel_list(path)
    others: Names = BlockNames() if here else no_names
    reader, tracker = ListReader(banks=()), Tracker()
    for chunk in _pieces(path):
        for record in reader.feed(chunk):
            tracker.apply(record)
        if reader.broken is not None:
            break
    for record in reader.close():
        tracker.apply(record)
    if reader.broken is not None:
        raise UsageError(f"{path}: {reader.broken.reason}")
    if not reader.records:
        raise UsageError(f"{path}: empty; a measurement list has at least one record")
    names = names_on_host(tracker.registry, others)
    devices = tuple(captured_device(device, None, names) for device in tracker.devices)
    notes = ["a list alone may lack a return to a former table, and has no types of opaque targets"]
    if not here:
        notes.append("the list may be of another host: block devices other than mapped ones go by numbers")
    host = settings.host.id if here else ""
    return Actual(Captured(host, False, devices), f"the list {path} alone", here, tuple(notes))


def _pieces(path: str) -> Iterator[bytes]:
    try:
        source = nullcontext(sys.stdin.buffer) if path == "-" else Path(path).open("rb")  # noqa: SIM115  # below
        with source as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk
    except OSError as error:
        remedy = "read it as root" if isinstance(error, PermissionError) else ""
        raise AdapterError(f"cannot be read: {error.strerror}", path, remedy) from error
