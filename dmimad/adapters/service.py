"""Tells the service manager how the daemon is: ready, reloading, stopping, alive.

Source: systemd's `sd_notify(3)` and `sd_watchdog_enabled(3)`: datagrams of `KEY=value` lines to the socket
that NOTIFY_SOCKET names (a path, or an abstract name written with `@`).  With `Type=notify-reload` the
manager takes a RELOADING=1 only together with the time it was sent at.

`passed_descriptors` takes what the manager has opened for the daemon: `sd_listen_fds(3)`.

What this module does not do: hold descriptors for the manager, nor fail: without a manager it is silent, and
one that does not take a message is reported once and left alone, for monitoring goes on without it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Collection, Mapping, MutableMapping

from structlog.typing import FilteringBoundLogger

MAX_STATUS_CHARS = 500
SEND_TIMEOUT_SECONDS = 2.0
"""How long a full queue may hold the daemon up."""

MAX_DESCRIPTORS = 64
MAX_NUMBER_DIGITS = 18
"""Of a number in the environment; with more it is rubbish."""
_FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
_LISTEN_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


def _monotonic_microseconds() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


class ServiceManager:
    """The service manager that started this process, if one did."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        log: FilteringBoundLogger,
        pid: int | None = None,
        monotonic_microseconds: Callable[[], int] = _monotonic_microseconds,
    ) -> None:
        self._log = log
        self._now = monotonic_microseconds
        self._reported = False
        self._socket_name = self._address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_seconds = _watchdog_seconds(environ, os.getpid() if pid is None else pid)
        """The manager ends the daemon after this silence; None: it does not."""

    @property
    def present(self) -> bool:
        """Whether anybody listens."""
        return bool(self._socket_name)

    @property
    def keepalive_interval_seconds(self) -> float | None:
        """How often to call `alive`: half the watchdog's time, as sd_watchdog_enabled(3) advises."""
        return None if self.watchdog_seconds is None else self.watchdog_seconds / 2

    def ready(self, status: str = "") -> None:
        """Start-up or a reload is finished."""
        self._send("READY=1", *_status(status))

    def reloading(self, status: str = "") -> None:
        """A reload begins; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={self._now()}", *_status(status))

    def stopping(self, status: str = "") -> None:
        """The daemon is about to end."""
        self._send("STOPPING=1", *_status(status))

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._send(*_status(status))

    def alive(self) -> None:
        """Feed the watchdog; nothing is sent where there is none."""
        if self.watchdog_seconds is not None:
            self._send("WATCHDOG=1")

    def _send(self, *assignments: str) -> None:
        if not (self._socket_name and assignments):
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.settimeout(SEND_TIMEOUT_SECONDS)
                channel.sendto("\n".join(assignments).encode(), self._socket_name)
        except OSError as error:
            self._report(str(error))

    def _address(self, name: str) -> str:
        if not name:
            return ""
        if name[0] not in "/@" or len(name) == 1:
            self._report("NOTIFY_SOCKET is neither a path nor an abstract socket")
            return ""
        return "\0" + name[1:] if name[0] == "@" else name

    def _report(self, problem: str) -> None:
        if not self._reported:
            self._reported = True
            self._log.warning("service_manager_not_notified", problem=problem)


def passed_descriptors(
    environ: MutableMapping[str, str], names: Collection[str], pid: int | None = None
) -> dict[str, int]:
    """Name -> descriptor, of what the service manager has opened for this process (OpenFile=).

    To be called once: what is not among the names is closed, no child gets what is, and the variables that
    tell of them are gone.  A name that is missing was not opened, which `graceful` allows.
    """
    told = {name: environ.pop(name, "") for name in _LISTEN_VARIABLES}
    count = told["LISTEN_FDS"]
    if told["LISTEN_PID"] != str(os.getpid() if pid is None else pid) or not _is_number(count):
        return {}
    given = told["LISTEN_FDNAMES"].split(":")
    found: dict[str, int] = {}
    for index in range(min(int(count), MAX_DESCRIPTORS)):
        descriptor = _FIRST_DESCRIPTOR + index
        name = given[index] if index < len(given) else ""
        with contextlib.suppress(OSError):  # somebody said so and passed none
            if not os.get_inheritable(descriptor):
                continue  # not passed, but opened by this process: what is passed survives an execve()
            os.set_inheritable(descriptor, False)
            if name in names and name not in found:
                found[name] = descriptor
            else:
                os.close(descriptor)
    return found


def _watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    """None where no watchdog is set, it is meant for another process, or the values make no sense."""
    told = environ.get("WATCHDOG_USEC", "")
    microseconds = int(told) if _is_number(told) else 0
    meant = environ.get("WATCHDOG_PID") or str(pid)
    return microseconds / 1_000_000 if microseconds > 0 and meant == str(pid) else None


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= MAX_NUMBER_DIGITS


def _status(status: str) -> list[str]:
    """A status may name a device, and a line end in that would be a message of its own to the manager."""
    printable = "".join(character if character.isprintable() else "?" for character in status)
    return [f"STATUS={printable[:MAX_STATUS_CHARS]}"] if status else []
