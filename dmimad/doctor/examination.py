"""One examination of a host: the settings say what to look at, `Outside` where, and the checks judge it.

Each look has its time (`Patience`); what hangs is left behind, and said.  The looks come one after the other:
together they rarely take a second, but for a long list.
"""

from __future__ import annotations

import errno
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from dmimad import __version__
from dmimad.doctor.bounded import bounded
from dmimad.doctor.checks import Check
from dmimad.doctor.endpoints import endpoint_place, look_at_endpoint
from dmimad.doctor.facts import (
    BaselineFacts,
    DaemonFacts,
    DatabaseFacts,
    EndpointFacts,
    Facts,
    KernelFacts,
    ListFacts,
    LiveFacts,
    SettingsFacts,
    StateFacts,
    TpmFacts,
    Trouble,
)
from dmimad.doctor.host import look_at_kernel, look_for_daemon
from dmimad.doctor.measuring import (
    check_deduplication,
    check_devices,
    check_dialect,
    check_list,
    check_live,
    check_policy,
    check_tpm,
    check_trimming,
)
from dmimad.doctor.serving import (
    check_baseline,
    check_broker,
    check_clock,
    check_database,
    check_metrics,
    check_page,
    check_settings,
    check_state,
    check_versions,
)
from dmimad.doctor.surroundings import (
    look_at_baseline,
    look_at_broker,
    look_at_database,
    look_at_settings,
    look_at_state,
)
from dmimad.doctor.witnesses import Observe, Patience, Sought, Witnesses
from dmimad.settings import Settings

T = TypeVar("T")

DEFAULT_PATIENCE = Patience()
#: The lines, in their order.
CHECKS: tuple[Callable[[Facts], Check], ...] = (
    check_versions,
    check_settings,
    check_clock,
    check_list,
    check_policy,
    check_deduplication,
    check_dialect,
    check_trimming,
    check_tpm,
    check_live,
    check_devices,
    check_broker,
    check_metrics,
    check_page,
    check_state,
    check_database,
    check_baseline,
)


@dataclass(frozen=True, slots=True)
class Outside:
    """What the doctor takes from its surroundings; tests give their own.

    Attributes:
        root: where ``/sys``, ``/proc`` and ``/boot`` are.
        user: the effective user id.
        observe: asks the second witness; raises AdapterError.
        progress: is told how many records of the list have been read.
    """

    observe: Observe
    user: int
    unix_time: float
    root: Path = Path("/")
    patience: Patience = DEFAULT_PATIENCE
    progress: Callable[[int], None] = lambda _: None


def examine(settings: Settings, file: Path, outside: Outside) -> tuple[Check, ...]:
    """Every check of this host, in order; `file` is where the settings came from."""
    facts = gather(settings, file, outside)
    return tuple(check(facts) for check in CHECKS)


def gather(settings: Settings, file: Path, outside: Outside) -> Facts:
    """All that is known of the host."""
    root, patience = outside.root, outside.patience
    directory = Path(settings.state.directory)
    daemon = _within(patience.files_seconds, partial(look_for_daemon, root, directory), DaemonFacts(None))
    listed, tpm, live = _look_at_witnesses(settings, outside)
    return Facts(
        root=outside.user == 0,
        unix_time=outside.unix_time,
        dmimad_version=__version__,
        python_version=platform.python_version(),
        settings=_within(
            patience.files_seconds,
            partial(look_at_settings, settings, file),
            SettingsFacts(str(file), settings.host.id, exists=True),
        ),
        kernel=_within(patience.files_seconds, partial(look_at_kernel, root), _no_kernel()),
        list=listed,
        tpm=tpm,
        live=live,
        daemon=daemon,
        broker=look_at_broker(settings.mqtt, patience.broker_seconds),
        metrics=_look_at_endpoint(settings, "metrics", outside),
        page=_look_at_endpoint(settings, "page", outside),
        state=_within(
            patience.files_seconds,
            partial(look_at_state, directory, outside.user),
            StateFacts(str(directory), True, True, True, trouble=_silent(directory)),
        ),
        database=_within(
            patience.files_seconds,
            partial(look_at_database, directory, in_use=daemon.running is not False),
            DatabaseFacts(str(directory), exists=True, trouble=_silent(directory)),
        ),
        baseline=_look_at_baseline(settings, patience),
    )


def _look_at_witnesses(settings: Settings, outside: Outside) -> tuple[ListFacts, TpmFacts, LiveFacts]:
    sought = Sought(
        outside.root, settings.source.path, settings.tpm.enabled, settings.live.enabled, outside.patience
    )
    path = Path(settings.source.path)
    nothing = (
        ListFacts(str(path), settings.source.path == "auto", True, True, None, _silent(path)),
        TpmFacts(settings.tpm.enabled, trouble=_silent(path)),
        LiveFacts(settings.live.enabled, trouble=_silent(path)),
    )
    witnesses = Witnesses(sought, outside.observe, outside.progress)
    return _within(outside.patience.total_seconds, witnesses.look, nothing)


def _look_at_endpoint(settings: Settings, name: str, outside: Outside) -> EndpointFacts:
    place = endpoint_place(settings, name).host_port
    late = EndpointFacts(True, place, trouble=Trouble("no answer from the name service or a file", place))
    return _within(
        outside.patience.files_seconds, partial(look_at_endpoint, settings, name, outside.unix_time), late
    )


def _look_at_baseline(settings: Settings, patience: Patience) -> BaselineFacts:
    directory = Path(settings.baseline.directory)
    late = BaselineFacts(str(directory), exists=True, trouble=_silent(directory))
    return _within(patience.files_seconds, partial(look_at_baseline, settings), late)


def _within(seconds: float, look: Callable[[], T], late: T) -> T:
    """What `look` finds, or `late` if it takes too long."""
    try:
        return bounded(seconds, look)
    except TimeoutError:
        return late


def _silent(where: Path) -> Trouble:
    return Trouble("no answer: is it on a file server that is down?", str(where), errno.ETIMEDOUT)


def _no_kernel() -> KernelFacts:
    return KernelFacts("unknown", None, None, (), "", (), None, None, None)
