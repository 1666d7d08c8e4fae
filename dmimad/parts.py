"""The parts of the daemon that its settings ask for, made: source, witnesses, watch, control socket.

Of each there is one function; what a part does is said where it is.  Starts no task: how the parts live is
`dmimad.daemon`'s to say.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dmimad.adapters.block_names import BlockNames
from dmimad.adapters.control.server import ControlServer, user_ids
from dmimad.adapters.directory_watch import DirectoryWatch
from dmimad.adapters.file_list import FileList
from dmimad.adapters.ima_list import KernelList, Passed, is_kernel_list
from dmimad.adapters.live.client import LiveClient
from dmimad.adapters.live.connect import connector
from dmimad.adapters.tpm import Tpm
from dmimad.adapters.uevents import Uevents
from dmimad.clock import boottime
from dmimad.control import Controlled, answers
from dmimad.core.backing import Names
from dmimad.core.errors import AdapterError
from dmimad.core.pacing import Pacing
from dmimad.core.signed_baseline import SUFFIX
from dmimad.liveness import Allowances
from dmimad.settings import (
    BaselineSettings,
    ControlSettings,
    LiveSettings,
    Settings,
    SourceSettings,
    TpmSettings,
)
from dmimad.witnesses import LiveWitness, PcrWitness, Pipeline

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

TPM_CLASS = Path("/sys/class/tpm")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: So long may an observation take, the start of an observer of our own included, on a host with no time left.
_OBSERVATION_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Outside:
    """What the daemon takes from its surroundings; tests and `demo` give their own.

    `elapsed` is what the wall clock is held to: seconds since the boot, asleep or not.  `allowances` are for
    tests: whoever makes a task hang does not want to wait that long.
    """

    load_settings: Callable[[], Settings]
    environ: MutableMapping[str, str]
    wall_clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    elapsed: Callable[[], float] = boottime
    random: random.Random = field(default_factory=random.Random)
    boot_id: Path = BOOT_ID
    tpm: Path = TPM_CLASS
    block_names: Names = field(default_factory=BlockNames)
    set_log_level: Callable[[str], None] = lambda _: None
    allowances: Allowances = field(default_factory=Allowances)

    def read_boot_id(self) -> str:
        """What tells this boot from others, as the kernel has it."""
        try:
            return self.boot_id.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return "unknown boot"


def source_of(settings: SourceSettings, passed: Passed, log: FilteringBoundLogger) -> KernelList | FileList:
    """Where the list comes from: the kernel, or a file that mirrors another host's."""
    if is_kernel_list(settings.path):
        return KernelList(
            settings.path,
            poll_interval_seconds=settings.poll_interval_seconds,
            hold_open=settings.hold_open,
            passed=passed,
        )
    return FileList(Path(settings.path), log=log)


def live_witness(
    settings: LiveSettings, pipeline: Pipeline, outside: Outside, log: FilteringBoundLogger
) -> LiveWitness | None:
    """The second witness, if it is wanted."""
    if not settings.enabled:
        return None
    return LiveWitness(
        LiveClient(connector(settings.socket), timeout_seconds=_OBSERVATION_SECONDS, log=log),
        Uevents(log=log) if settings.wake_ups else None,
        Pacing(settings.interval_seconds),
        pipeline,
        monotonic=outside.monotonic,
        wall_clock=outside.wall_clock,
        log=log,
    )


def pcr_witness(
    settings: TpmSettings, pipeline: Pipeline, outside: Outside, log: FilteringBoundLogger
) -> PcrWitness | None:
    """Who compares with the TPM, if that is wanted."""
    if not settings.enabled:
        return None
    return PcrWitness(
        Tpm(outside.tpm),
        settings.interval_seconds,
        pipeline,
        monotonic=outside.monotonic,
        wall_clock=outside.wall_clock,
        log=log,
    )


def baseline_watch(settings: BaselineSettings, log: FilteringBoundLogger) -> DirectoryWatch:
    """Who tells that a baseline file has changed."""
    return DirectoryWatch(Path(settings.directory), log=log, suffix=(".toml", ".toml" + SUFFIX))


def open_control(
    settings: ControlSettings, daemon: Controlled, outside: Outside, log: FilteringBoundLogger
) -> ControlServer | None:
    """The control socket, open; that nobody can ask is no reason not to monitor."""
    if not settings.socket:
        return None
    users, unknown = user_ids(settings.users)
    for name in unknown:
        log.warning("control_user_unknown", user=name, remedy="correct control.users")
    server = ControlServer(
        Path(settings.socket),
        answers(daemon, outside.wall_clock, log),
        users=users,
        log=log,
        monotonic=outside.monotonic,
    )
    try:
        server.listen()
    except AdapterError as error:
        log.warning("control_unavailable", problem=str(error))
        return None
    return server
