"""What the daemon answers on its control socket.

Source: ``docs/status.md``.

Each answer is made in one go in the event loop, so it tells of one moment; what changes something is stored
before it is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from dmimad.adapters.control.protocol import Peer, Request, RequestKind
from dmimad.adapters.control.server import Answers
from dmimad.core.errors import RequestError
from dmimad.core.monitor import Monitor
from dmimad.core.status import Surroundings, maintenance_status, timeless

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


class Controlled(Protocol):
    """The daemon, as far as it is asked and told here."""

    @property
    def monitor(self) -> Monitor: ...

    def commit(self) -> None:
        """Store what has changed, and tell the alert timer."""
        ...

    def surroundings(self) -> Surroundings:
        """What the monitor does not know."""
        ...


def answers(daemon: Controlled, wall_clock: Callable[[], float], log: FilteringBoundLogger) -> Answers:
    """The answers of this daemon."""
    desk = _Desk(daemon, wall_clock, log)
    return Answers(status=desk.status, timeless=timeless, other=desk.other)


class _Desk:
    def __init__(
        self, daemon: Controlled, wall_clock: Callable[[], float], log: FilteringBoundLogger
    ) -> None:
        self._daemon = daemon
        self._wall_clock = wall_clock
        self._log = log

    def status(self) -> Mapping[str, object]:
        return self._daemon.monitor.status(self._wall_clock(), self._daemon.surroundings())

    def other(self, request: Request, peer: Peer) -> Mapping[str, object]:
        match request.kind:
            case RequestKind.DEVICE:
                return {"device": self._device(request.device)}
            case RequestKind.CONFIGURATIONS:
                return {"configurations": self._daemon.monitor.configurations()}
            case RequestKind.MAINTENANCE_LIST:
                return {"maintenance": list(map(maintenance_status, self._daemon.monitor.maintenance))}
            case RequestKind.MAINTENANCE_START:
                return self._start_maintenance(request, peer)
            case RequestKind.MAINTENANCE_END:
                return self._end_maintenance(request, peer)
            case _:
                raise RequestError(f"this daemon has no answer to {request.kind.value}")

    def _device(self, name: str) -> Mapping[str, object]:
        monitor = self._daemon.monitor
        key = monitor.key_of(name)
        found = None if key is None else monitor.detail(key, self._wall_clock(), self._daemon.surroundings())
        if found is None:
            raise RequestError(f"there is no device {name}; dmimad status shows those that there are")
        return found

    def _start_maintenance(self, request: Request, peer: Peer) -> Mapping[str, object]:
        started = self._daemon.monitor.start_maintenance(
            request.device, request.seconds, request.reason, str(peer), self._wall_clock()
        )
        document = maintenance_status(started)
        self._daemon.commit()
        self._log.info(
            "maintenance_started",
            id=started.id,
            device=started.device,
            reason=started.reason,
            until=document["until"],
            uid=peer.uid,
            user=peer.name,
        )
        return {"maintenance": document}

    def _end_maintenance(self, request: Request, peer: Peer) -> Mapping[str, object]:
        before = {each.id: each for each in self._daemon.monitor.maintenance}
        if not self._daemon.monitor.end_maintenance(request.id, str(peer), self._wall_clock()):
            raise RequestError(f"no maintenance {request.id} is in force; see dmimad maintenance list")
        self._daemon.commit()
        ended = before[request.id]
        self._log.info(
            "maintenance_ended",
            id=ended.id,
            device=ended.device,
            reason=ended.reason,
            until=maintenance_status(ended)["until"],
            uid=peer.uid,
            user=peer.name,
        )
        return {"maintenance": maintenance_status(ended)}
