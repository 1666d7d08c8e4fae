"""``dmimad listen``: alerts from the broker, verified, for people or as JSON lines.

Source: ``docs/subscriber.md``.

Output is for the alerts; how the connection is doing is told on stderr.  After the first connection it goes
on until it is interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fnmatch
import re
import signal
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dmimad.commands.alert_text import json_line, text_block
from dmimad.commands.errors import UsageError
from dmimad.commands.plain_text import coloured, plain, terminal_columns
from dmimad.core.errors import AdapterError
from dmimad.core.finding import Severity
from dmimad.core.transport import TLS_MODES, sends_password_in_clear
from dmimad.subscriber import (
    Alert,
    Broker,
    Connected,
    Disconnected,
    Event,
    HostKeys,
    HostSilent,
    InvalidAlert,
    Malformed,
    Missing,
    Watch,
    subscribe,
)
from dmimad.subscriber.watch import SILENCE_SECONDS

SUMMARY = "show alerts from the broker, verified"

_Number = TypeVar("_Number", int, float)

_ORDER = tuple(Severity)
_ALARMING = (InvalidAlert, Malformed, Missing, HostSilent)
_MESSAGES = (Alert, InvalidAlert, Malformed)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    _add_broker_arguments(parser.add_argument_group("broker"))
    parser.add_argument(
        "--keys",
        type=Path,
        nargs="+",
        action="extend",
        metavar="PATH",
        help="public keys, or directories of them (HOST.pub), to verify alerts with",
    )
    parser.add_argument(
        "--require-signature", action="store_true", help="unsigned alerts are invalid, of any host"
    )
    parser.add_argument(
        "--expect-host",
        nargs="+",
        action="extend",
        default=[],
        metavar="HOST",
        help="hosts that are told to be silent also if they are never heard",
    )
    parser.add_argument(
        "--only-host", default="*", metavar="PATTERN", help="shell-style pattern; default: all hosts"
    )
    parser.add_argument(
        "--severity",
        choices=[severity.value for severity in Severity],
        default=Severity.INFO.value,
        help="show alerts that are at least so severe; default: all",
    )
    parser.add_argument(
        "--silence-seconds",
        type=_seconds,
        default=SILENCE_SECONDS,
        metavar="N",
        help=f"for so long a host may be offline; default: {SILENCE_SECONDS:g}",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--count", type=_count, metavar="N", help="end after N messages were shown")


def _add_broker_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    group.add_argument("--port", type=_port, default=0, help="default: 8883 with TLS, else 1883")
    group.add_argument(
        "--protocol", type=int, choices=(5, 3), default=5, help="MQTT 5, or 3 for 3.1.1; default: 5"
    )
    group.add_argument("--username", default="", metavar="NAME")
    group.add_argument("--password-file", default="", metavar="FILE", help="the password in one line")
    group.add_argument(
        "--allow-plain-password",
        action="store_true",
        help="send it to another host without TLS, where everybody can read it",
    )
    group.add_argument(
        "--tls",
        choices=TLS_MODES,
        default="auto",
        help="default: auto, on if the host is not the loopback or files for TLS are given",
    )
    group.add_argument(
        "--tls-ca-file", default="", metavar="FILE", help="the CA of the broker; default: the system's"
    )
    group.add_argument("--tls-cert-file", default="", metavar="FILE", help="this client's certificate")
    group.add_argument("--tls-key-file", default="", metavar="FILE", help="its key")
    group.add_argument(
        "--client-id",
        default="",
        metavar="ID",
        help="the broker keeps alerts for this client while it is away",
    )


def run(arguments: argparse.Namespace) -> int:
    """Returns 0, or 1 if anything was invalid, missing or silent."""
    _check(arguments)
    keys = None if arguments.keys is None else HostKeys.load(arguments.keys)
    listener = _Listener(
        _broker(arguments),
        keys,
        require_signature=arguments.require_signature,
        expect_hosts=tuple(arguments.expect_host),
        only_hosts=arguments.only_host,
        least=Severity(arguments.severity),
        silence_seconds=arguments.silence_seconds,
        json=arguments.json,
        colour=coloured(sys.stdout),
        count=arguments.count,
    )
    try:
        return asyncio.run(_until_signal(listener))
    except AdapterError as error:
        raise AdapterError(_options(error.what), error.where, _options(error.remedy)) from None


def _check(arguments: argparse.Namespace) -> None:
    if arguments.require_signature and arguments.keys is None:
        raise UsageError("--require-signature: there is nothing to verify signatures with; give --keys")
    if arguments.tls_key_file and not arguments.tls_cert_file:
        raise UsageError("--tls-key-file: give --tls-cert-file, too")
    if arguments.password_file and not arguments.username:
        raise UsageError("--password-file: give --username, too")
    if arguments.tls == "off" and (arguments.tls_ca_file or arguments.tls_cert_file):
        raise UsageError("--tls off: files for TLS are given; leave out one or the other")
    if not arguments.host:
        raise UsageError("--host: name the broker's host")
    if sends_password_in_clear(_broker(arguments)):
        raise UsageError(
            f"--tls off: the password would cross the network to {arguments.host} in the clear; "
            "use TLS, or allow it with --allow-plain-password"
        )
    for host in arguments.expect_host:
        if not fnmatch.fnmatchcase(host, arguments.only_host):
            raise UsageError(f"--expect-host {host}: --only-host leaves it out")


def _broker(arguments: argparse.Namespace) -> Broker:
    return Broker(
        host=arguments.host,
        port=arguments.port,
        protocol=arguments.protocol,
        username=arguments.username,
        password_file=arguments.password_file,
        allow_plain_password=arguments.allow_plain_password,
        tls=arguments.tls,
        tls_ca_file=arguments.tls_ca_file,
        tls_cert_file=arguments.tls_cert_file,
        tls_key_file=arguments.tls_key_file,
        client_id=arguments.client_id,
    )


@dataclass(slots=True)
class _Listener:
    """What was asked for; `run` is over when so much was shown."""

    broker: Broker
    keys: HostKeys | None
    require_signature: bool
    expect_hosts: tuple[str, ...]
    only_hosts: str
    least: Severity
    silence_seconds: float
    json: bool
    colour: bool
    count: int | None
    alarmed: bool = False

    async def run(self) -> None:
        async with contextlib.aclosing(subscribe(self.broker, self._watch)) as events:
            async for event in events:
                self._show(event)
                if self.count is not None and self.count <= 0:
                    await _acknowledge(events)
                    return

    def _watch(self, now: float) -> Watch:
        return Watch(
            now,
            keys=self.keys,
            require_signature=self.require_signature,
            expect_hosts=self.expect_hosts,
            only_hosts=self.only_hosts,
            silence_seconds=self.silence_seconds,
        )

    def _show(self, event: Event) -> None:
        if isinstance(event, Connected | Disconnected):
            _tell(event)
            return
        self.alarmed |= isinstance(event, _ALARMING)
        if isinstance(event, Alert) and _ORDER.index(event.severity) < _ORDER.index(self.least):
            return
        seen = time.time()
        if self.json:
            text = json_line(event, seen)
        else:
            text = text_block(event, seen, colour=self.colour, width=terminal_columns(sys.stdout))
        sys.stdout.write(text)
        sys.stdout.flush()
        if self.count is not None and isinstance(event, _MESSAGES):
            self.count -= 1


async def _acknowledge(events: AsyncGenerator[Event, None]) -> None:
    """Ask for one more, which says that the last one is dealt with, and do not wait for it."""
    asking = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)  # it is acknowledged in its first step
    asking.cancel()
    await asyncio.wait([asking])
    if not asking.cancelled():
        asking.exception()  # seen; there was more, which will come again


async def _until_signal(listener: _Listener) -> int:
    """Until the end, Ctrl-C or SIGTERM."""
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(listener.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return int(listener.alarmed)


def _tell(event: Connected | Disconnected) -> None:
    if sys.stderr is None:
        return
    if isinstance(event, Connected):
        text = f"{event.broker}: connected{' again' if event.again else ''}, waiting for alerts"
    else:
        text = f"{_options(event.reason)}; trying again"
    sys.stderr.write(f"dmimad: {plain(text)}\n")
    sys.stderr.flush()


def _options(text: str) -> str:
    """An error's words about settings of the daemon, in the words of this command."""
    text = text.replace("host.id", "--client-id")
    return re.sub(r"\bmqtt\.([a-z_]+)", lambda match: "--" + match[1].replace("_", "-"), text)


def _port(text: str) -> int:
    return _within(int(text), 65535)


def _count(text: str) -> int:
    return _within(int(text), 10**9)


def _seconds(text: str) -> float:
    return _within(float(text), 10**9)


def _within(value: _Number, most: int) -> _Number:
    if not 1 <= value <= most:
        raise argparse.ArgumentTypeError(f"{value} is not between 1 and {most}")
    return value


# argparse names the type in its message.
_port.__name__ = _count.__name__ = _seconds.__name__ = "number"
