"""The kernel's announcements about mapped devices: one of the wake-ups.

Source: netlink(7), ``lib/kobject_uevent.c`` (messages ``action@devpath``, then ``KEY=VALUE``, each ended by a
NUL, to multicast group 1) and ``dm_kobject_uevent()`` in ``drivers/md/dm.c``, Linux 5.15 to 7.2.  No
privilege is needed to listen.  A device is announced at its first table load (add), at resume and
rename (change) and at removal (remove); a reload into a live device and a clear are not.

Only what the kernel itself sent to its group counts: another process can send to this socket, and
udev sends messages of its own to group 2.  Events that somebody asked for by writing to a ``uevent``
file (``udevadm trigger``, and udev itself whenever a device that was open for writing is closed) carry
``SYNTH_UUID`` and are no activity of device-mapper.

What it does not do: tell what has changed; an event is a reason to look.  Names given to devices
are not in it, and events can be lost, which is then said.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from structlog.typing import FilteringBoundLogger

from dmimad.core.errors import AdapterError

#: The kernel's own buffer is 2048 bytes (``UEVENT_BUFFER_SIZE``) beside the path; udev receives so many.
MAX_MESSAGE_BYTES: Final = 8192
#: So many messages are taken before the rest of the program has its turn.
MESSAGES_PER_TURN: Final = 64
#: Room for messages not yet taken; the kernel gives less if its limit is lower.
RECEIVE_BUFFER_BYTES: Final = 1 << 20
#: `Uevent.action` when the kernel had to drop events.
OVERRUN: Final = "overrun"

_NETLINK_KOBJECT_UEVENT = 15
_KERNEL_PID = 0
_KERNEL_GROUP = 1
_ACTIONS = {
    action.encode(): action
    for action in ("add", "remove", "change", "move", "online", "offline", "bind", "unbind")
}
_NAME = re.compile(rb"dm-[0-9]{1,7}")
_NUMBER = re.compile(rb"[0-9]{1,7}")
_DEVPATH = b"/devices/virtual/block/"


@dataclass(frozen=True, slots=True)
class Uevent:
    """The kernel announced something about a mapped device, or `OVERRUN`: it may have, and it was lost.

    Attributes:
        action: as ``add``, ``change``, ``remove``.
        major, minor: the device's number; -1 if not told.
        name: the kernel's name for it, as ``dm-3``.
    """

    action: str
    major: int
    minor: int
    name: str


class Receiver(Protocol):
    """As much of a non-blocking netlink socket as is needed here."""

    def fileno(self) -> int: ...

    def recvmsg(self, bufsize: int, /) -> tuple[bytes, Any, int, Any]: ...

    def close(self) -> None: ...


def open_netlink() -> socket.socket:
    """A non-blocking socket that the kernel's uevents come to.  Raises OSError."""
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    opened = socket.socket(socket.AF_NETLINK, kind, _NETLINK_KOBJECT_UEVENT)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        opened.bind((0, _KERNEL_GROUP))
    except OSError:
        opened.close()
        raise
    return opened


class Uevents:
    """A stream of the kernel's events for mapped devices.

    Args:
        log: gets `uevents_lost` when the kernel had to drop events.
        open_socket: opens the netlink socket; may raise OSError.
    """

    def __init__(
        self, *, log: FilteringBoundLogger, open_socket: Callable[[], Receiver] = open_netlink
    ) -> None:
        self._log = log
        self._open_socket = open_socket
        self._socket: Receiver | None = None

    def listen(self) -> None:
        """Events are kept from now on; `events` does this too.  Raises AdapterError."""
        if self._socket is not None:
            return
        try:
            self._socket = self._open_socket()
        except OSError as error:
            remedy = (
                "allow AF_NETLINK (systemd: RestrictAddressFamilies=), or set live.wake_ups to false; "
                "changes are then found at the interval"
            )
            raise AdapterError(f"cannot listen: {error.strerror or error}", "uevents", remedy) from error

    def close(self) -> None:
        """Stop listening; not while `events` is iterated, which does this at its end."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def events(self) -> AsyncGenerator[Uevent, None]:
        """Every event since `listen`, and then as they come, for ever.

        Ends only by cancellation or aclose() (use contextlib.aclosing); then the socket is closed.
        Raises AdapterError if uevents cannot be had here.  One iteration at a time.
        """
        try:
            self.listen()
            while self._socket is not None:
                await _readable(self._socket.fileno())
                for event in self._take(self._socket):
                    yield event
        finally:
            self.close()

    def _take(self, receiver: Receiver) -> list[Uevent]:
        """What has come by now, or a part of it."""
        events = []
        for _ in range(MESSAGES_PER_TURN):
            try:
                message, _, flags, sender = receiver.recvmsg(MAX_MESSAGE_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise AdapterError(
                        f"cannot receive: {error.strerror or error}", "uevents", "set live.wake_ups to false"
                    ) from error
                self._log.info("uevents_lost")
                events.append(Uevent(OVERRUN, -1, -1, ""))
                continue
            if sender != (_KERNEL_PID, _KERNEL_GROUP):
                continue
            if flags & socket.MSG_TRUNC:  # not one of today's kernels; what it says is lost
                events.append(Uevent(OVERRUN, -1, -1, ""))
            elif event := parse(message):
                events.append(event)
        return events


def parse(message: bytes) -> Uevent | None:
    """The kernel's message -> the event; None if it is not about a mapped device, or was asked for."""
    header, _, rest = message[:MAX_MESSAGE_BYTES].partition(b"\0")
    action, at, devpath = header.partition(b"@")
    if not at or action not in _ACTIONS:
        return None
    # Of a key that comes twice the first counts: the kernel puts its own in front.
    fields = {
        key: value
        for key, equals, value in (item.partition(b"=") for item in rest.split(b"\0")[::-1])
        if equals
    }
    if fields.get(b"SUBSYSTEM") != b"block" or b"SYNTH_UUID" in fields:
        return None
    names = (fields.get(b"DEVNAME", b""), devpath.removeprefix(_DEVPATH))
    name = next(filter(_NAME.fullmatch, names), None)
    if name is None:
        return None
    major, minor = _number(fields.get(b"MAJOR")), _number(fields.get(b"MINOR"))
    return Uevent(_ACTIONS[action], major, minor, name.decode("ascii"))


def _number(text: bytes | None) -> int:
    return int(text) if text is not None and _NUMBER.fullmatch(text) else -1


async def _readable(descriptor: int) -> None:
    """Until there is something to receive."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(descriptor, wake)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
