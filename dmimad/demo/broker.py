"""An MQTT broker in this process, on a free port of the loopback: amqtt, which speaks MQTT 3.1.1.

Source: amqtt 0.11 to 0.12, tried.  It is the extra ``demo``, so that a monitored host carries no broker; it
is imported here, when a broker is wanted, and nowhere else.

It is open to every user of this host for as long as it runs, and it forgets everything when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

from dmimad.core.errors import AdapterError

ADDRESS = "127.0.0.1"
_ATTEMPTS = 5
_SHUTDOWN_SECONDS = 3.0


def can_be_had() -> bool:
    """Whether amqtt is installed."""
    try:
        importlib.import_module("amqtt")
    except ImportError:
        return False
    return True


@contextlib.asynccontextmanager
async def broker(wanted_port: int = 0) -> AsyncIterator[int]:
    """A running broker; gives its port: the wanted one, if nobody else has it.

    Raises:
        AdapterError: amqtt is not installed, or it does not start.
    """
    running, port = await _started(wanted_port)
    try:
        yield port
    finally:
        # What it fails at now is of no consequence any more; it must not keep anybody waiting.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_SHUTDOWN_SECONDS):
                await running.shutdown()


async def _started(wanted_port: int) -> tuple[Any, int]:
    try:
        from amqtt.broker import Broker  # noqa: PLC0415  # the extra may be missing
        from amqtt.errors import BrokerError  # noqa: PLC0415  # as above
    except ImportError as error:
        problem = f"needs the broker amqtt ({error})" if error.name != "amqtt" else "needs the broker amqtt"
        raise AdapterError(problem, "demo", "pip install 'dmimad[demo]'") from error
    for wanted in (wanted_port, *[0] * _ATTEMPTS):
        with _reserved_port(wanted) as port:
            running = Broker(_config(port))
            with contextlib.suppress(BrokerError):  # somebody else was quicker: take another port
                await running.start()
                return running, port
    raise AdapterError("the broker does not start", f"demo: {ADDRESS}", "is the loopback interface up?")


def _config(port: int) -> dict[str, Any]:
    return {
        "listeners": {"default": {"type": "tcp", "bind": f"{ADDRESS}:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }


@contextlib.contextmanager
def _reserved_port(wanted: int) -> Iterator[int]:
    """A free port that nobody else is given; the broker sets SO_REUSEADDR, too, and may have it."""
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            reservation.bind((ADDRESS, wanted))
        except OSError:
            reservation.bind((ADDRESS, 0))
        yield reservation.getsockname()[1]
