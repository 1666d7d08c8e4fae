"""The daemon: puts the core and the adapters together, and keeps them going.

One `asyncio.TaskGroup` with named tasks.  The pipeline task is the only one that touches the
monitor's list state: list bytes -> `Monitor` -> one transaction -> wake the publisher.  Nothing
leaves the host that is not stored.  What can be wrong about the kernel is decided in the core, and
what can be wrong about the outside in the adapters; here is only who talks to whom.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dmimad import __version__
from dmimad.adapters.block_names import BlockNames
from dmimad.adapters.control.server import ControlServer, user_ids
from dmimad.adapters.directory_watch import DirectoryWatch
from dmimad.adapters.file_list import FileList
from dmimad.adapters.ima_list import KernelList, is_kernel_list
from dmimad.adapters.live.client import LiveClient
from dmimad.adapters.live.connect import connector
from dmimad.adapters.metrics import DaemonCollector, MetricsServer, registry
from dmimad.adapters.mqtt import Publisher
from dmimad.adapters.service import ServiceManager
from dmimad.adapters.store import Store
from dmimad.adapters.tpm import Tpm
from dmimad.adapters.uevents import Uevents
from dmimad.baselines import Baselines, signer, trusted_keys
from dmimad.config import Settings
from dmimad.control import answers
from dmimad.core.backing import Names, no_names
from dmimad.core.baseline import Baseline
from dmimad.core.commit import Message
from dmimad.core.errors import (
    AdapterError,
    BaselineError,
    DmimadError,
    InternalError,
    ListGapError,
    ResumeError,
    SignatureError,
)
from dmimad.core.monitor import Monitor, Policy
from dmimad.core.pacing import Pacing
from dmimad.core.signed_baseline import SUFFIX
from dmimad.core.snapshot import Snapshot
from dmimad.core.source import CaughtUp, Chunk, Restarted, SourceEvent, Unavailable
from dmimad.core.status import Surroundings
from dmimad.witnesses import LiveWitness, PcrWitness

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

TPM_CLASS = Path("/sys/class/tpm")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: Commit at least this often while a long list is being read.
_COMMIT_SECONDS = 1.0
#: So long may an observation take, the start of an observer of our own included, on a host with no time left.
_OBSERVATION_SECONDS = 30.0
#: A task that has not ended so long after it was cancelled is cancelled again.
_CANCEL_AGAIN_SECONDS = 5.0
#: Try again to store after this long, if that failed.
_STORE_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Outside:
    """What the daemon takes from its surroundings; tests and `demo` give their own."""

    load_settings: Callable[[], Settings]
    environ: Mapping[str, str]
    wall_clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    random: random.Random = field(default_factory=random.Random)
    boot_id: Path = BOOT_ID
    tpm: Path = TPM_CLASS
    block_names: Names = field(default_factory=BlockNames)
    set_log_level: Callable[[str], None] = lambda _: None


class _Replaced(Exception):
    """Another file is in the place of the list's: the same list, or another."""


class Daemon:
    """One run of the daemon.

    Args:
        settings: as loaded at start; `reload` asks ``outside.load_settings`` again.
        outside: clocks, environment, randomness.
        log: where to say what happens.
    """

    def __init__(self, settings: Settings, outside: Outside, log: FilteringBoundLogger) -> None:
        self.settings = settings
        self.metrics_url = ""
        self._outside = outside
        self._log = log
        self._service = ServiceManager(outside.environ, log=log)
        self._source = self._make_source()
        self._watch = self._make_watch()
        self._watching: asyncio.Task[None] | None = None
        keys, sign = trusted_keys(settings), signer(settings)
        self._store = Store.open(Path(settings.state.directory))
        try:
            self._baselines = Baselines(self._store.approved(), keys)
            baseline = self._first_baseline()
        except BaseException:
            self._store.close()
            raise
        self.monitor = Monitor(_policy(settings), baseline, self._boot(), sign=sign, names=self._names())
        self.feeding = asyncio.Lock()
        self._retained: Mapping[str, bytes] = {}
        self._publisher: Publisher | None = None
        self._publishing: asyncio.Task[None] | None = None
        self._collector = DaemonCollector(self._snapshot, __version__)
        self._live = self._make_live()
        self._pcr = self._make_pcr()
        self._looked = 0
        self._compared = (0, False)
        self._answered = asyncio.Condition()
        self.ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._timer_changed = asyncio.Event()
        self._count: int | None = None
        self._source_up = False
        self._ever_read = False
        self._settings_ok = True
        self._store_problem = ""
        self._broken = ""

    # -- life ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until `stop`.  Raises DmimadError where there is no point in going on."""
        try:
            await self._run()
        except Exception as error:  # the boundary: what ends the daemon is told in one line
            raise _cause(error) from None
        finally:
            self._store.close()

    async def _run(self) -> None:
        metrics = await self._serve_metrics()
        offset = self._resume()
        self._log.info(
            "started", version=__version__, host=self.settings.host.id, source=self.settings.source.path
        )
        control = self._open_control()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._follow(offset), name="pipeline"),
                    group.create_task(self._keep_time(), name="alert timer"),
                    group.create_task(self._keep_reloading(), name="reload"),
                    group.create_task(self._feed_watchdog(), name="watchdog"),
                ]
                self._group = group
                if control is not None:
                    tasks.append(group.create_task(control.run(), name="control"))
                tasks += [
                    group.create_task(witness.run(), name=name)
                    for name, witness in (("live witness", self._live), ("pcr", self._pcr))
                    if witness is not None
                ]
                self._watching = group.create_task(self._watch_baseline(), name="baseline watch")
                self._start_publisher()
                self._service.ready(f"following {self.settings.source.path}")
                self.ready.set()
                await self._stop.wait()
                self._service.stopping()
                self._log.info("stopping")
                await _end(*tasks, self._watching, self._publishing)
        finally:
            if control is not None:
                control.close()
            if metrics is not None:
                await metrics.stop()

    def stop(self) -> None:
        """End cleanly; everything found so far is stored already."""
        self._stop.set()

    def reload(self) -> None:
        """Read settings and baseline again."""
        self._reload_wanted.set()

    def _make_source(self) -> KernelList | FileList:
        source = self.settings.source
        if is_kernel_list(source.path):
            return KernelList(
                source.path, poll_interval_seconds=source.poll_interval_seconds, hold_open=source.hold_open
            )
        return FileList(Path(source.path), log=self._log)

    def _make_live(self) -> LiveWitness | None:
        """The second witness; a mirrored list is of another host, so there is none."""
        settings, outside = self.settings.live, self._outside
        if not settings.enabled or not isinstance(self._source, KernelList):
            return None
        return LiveWitness(
            LiveClient(connector(settings.socket), timeout_seconds=_OBSERVATION_SECONDS, log=self._log),
            Uevents(log=self._log) if settings.wake_ups else None,
            Pacing(settings.interval_seconds),
            self,
            monotonic=outside.monotonic,
            wall_clock=outside.wall_clock,
            log=self._log,
        )

    def _make_pcr(self) -> PcrWitness | None:
        settings, outside = self.settings.tpm, self._outside
        if not settings.enabled or not isinstance(self._source, KernelList):
            return None
        return PcrWitness(
            Tpm(outside.tpm),
            settings.interval_seconds,
            self,
            monotonic=outside.monotonic,
            wall_clock=outside.wall_clock,
            log=self._log,
        )

    def _names(self) -> Names:
        """What this host's block devices are called; a mirrored list is of another host."""
        return self._outside.block_names if isinstance(self._source, KernelList) else no_names

    def _make_watch(self) -> DirectoryWatch:
        directory, suffixes = Path(self.settings.baseline.directory), (".toml", ".toml" + SUFFIX)
        return DirectoryWatch(directory, log=self._log, suffix=suffixes)

    def _boot(self) -> str:
        """What tells this boot's records from another's; a mirrored file tells by its content alone."""
        if isinstance(self._source, FileList):
            return "file"
        try:
            return self._outside.boot_id.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return "unknown boot"

    def _resume(self) -> int:
        stored = self._store.load()
        if stored.notice:
            self._log.warning("state_notice", notice=stored.notice)
        try:
            offset = self.monitor.resume(stored)
        except ResumeError as error:
            self._log.info("reading_from_start", reason=str(error))
            self.monitor.start_over(self._boot(), self._outside.wall_clock(), str(error))
            offset = 0
        self._judge_signatures()
        self._retained = self.monitor.retained()
        return offset

    def _first_baseline(self) -> Baseline:
        """The one to start with: without a good one in the directory, the last good one where there is one.

        Raises:
            BaselineError, AdapterError: there is none, and that is not for want of a signature.
        """
        self._baseline_ok, self._unsigned = True, ""
        try:
            return self._baselines.read(Path(self.settings.baseline.directory))
        except (BaselineError, AdapterError) as error:
            last = self._baselines.last_good()
            if last is None and not isinstance(error, SignatureError):
                raise
            self._baseline_ok = False
            self._unsigned = str(error) if isinstance(error, SignatureError) else ""
            kept = "none: there is no last good one" if last is None else "the last good one"
            self._log.error("baseline_refused", problem=str(error), kept=kept)
            return Baseline() if last is None else last

    def _judge_signatures(self) -> None:
        """Say whether the baseline directory is signed as it must be."""
        now = self._outside.wall_clock()
        if self._unsigned:
            self.monitor.hold_baseline(self._unsigned, now)
        elif self._baseline_ok:
            self.monitor.cease_baseline(now)

    # -- the pipeline ----------------------------------------------------------------------

    async def look(self) -> None:
        """Until everything that is in the kernel's list now has been fed."""
        if not isinstance(self._source, KernelList):
            return
        number = self._source.look()
        async with self._answered:
            await self._answered.wait_for(lambda: self._looked >= number)

    async def _follow(self, offset: int) -> None:
        """List bytes in, commits out; begins again at byte 0 when the list is another than the stored one."""
        while True:
            try:
                async with aclosing(self._source.events(offset)) as events:
                    await self._consume(events)
            except ListGapError as error:
                self._log.error("list_gap", problem=str(error))
                self.monitor.after_gap()
                offset = 0
            except ResumeError as error:
                self._begin_again(str(error))
                offset = 0
            except _Replaced:
                # A mirror may well put a grown copy in the place of the former one each time.
                offset = self.monitor.recognise_again()

    def _begin_again(self, reason: str) -> None:
        """What is fed next is the list's first byte; of this boot's list only the front can be gone."""
        if isinstance(self._source, KernelList) and not self.monitor.searching:
            self._log.info("looking_for_place", reason=reason)
            self.monitor.find_place()
            return
        self._log.info("reading_from_start", reason=reason)
        self.monitor.start_over(self._boot(), self._outside.wall_clock(), reason)

    async def _consume(self, events: object) -> None:
        committed_at = self._outside.monotonic()
        began: float | None = None
        dm_records = self.monitor.dm_records
        async for event in events:  # type: ignore[attr-defined]  # an async generator of SourceEvent, of either adapter
            now = self._outside.wall_clock()
            began = self._outside.monotonic() if began is None else began
            async with self.feeding:
                if isinstance(event, Chunk):
                    self.monitor.feed(event.data, now)
                    self._ever_read = self._source_up = True
                    if self._outside.monotonic() - committed_at < _COMMIT_SECONDS:
                        continue
                else:
                    self._notice(event, now)
            self._check_broken()
            self.commit(began)
            committed_at, began = self._outside.monotonic(), None
            if isinstance(event, CaughtUp):
                await self._caught_up(event, new_dm_records=self.monitor.dm_records != dm_records)
                dm_records = self.monitor.dm_records

    async def _caught_up(self, event: CaughtUp, *, new_dm_records: bool) -> None:
        """Whoever waits for the list is told, and the other witnesses are asked about what it said."""
        async with self._answered:
            self._looked = event.looks
            self._answered.notify_all()
        if new_dm_records and self._live is not None:
            self._live.ask()
        place = (self.monitor.position, self.monitor.gap)
        if self._pcr is not None and place != self._compared:
            self._compared = place
            self._pcr.ask()

    def _notice(self, event: SourceEvent, now: float) -> None:
        """Anything but bytes."""
        if isinstance(event, CaughtUp):
            self._count = event.count
            self._ever_read = self._source_up = True
            self.monitor.caught_up(now)
            if self._pcr is None:
                self.monitor.pcr_settled(now, tpm=False)  # a gap is one then
        elif isinstance(event, Restarted):
            self._restarted(event.reason, now)
        elif isinstance(event, Unavailable):
            self._source_up = False
            self.monitor.lost_sight()
            if event.lasting and not self._ever_read:
                raise AdapterError("cannot follow the measurement list", event.problem)
            self._log.error("list_unavailable", problem=event.problem)

    def _restarted(self, reason: str, now: float) -> None:
        if reason == "replaced" and not self.monitor.broken:
            raise _Replaced
        self._log.warning("list_restarted", reason=reason)
        if isinstance(self._source, KernelList) and self.monitor.position and not self.monitor.broken:
            self.monitor.find_place()
        else:
            self.monitor.start_over(self._boot(), now, reason)

    def _check_broken(self) -> None:
        if self.monitor.broken != self._broken:
            self._broken = self.monitor.broken
            if self._broken:
                self._log.error("list_unreadable", problem=self._broken)
        if self._broken:
            self._source_up = False

    def commit(self, began: float | None = None) -> None:
        """Store what there is; if that fails, it is kept and tried again."""
        commit = self.monitor.commit()
        try:
            self._baselines.save(self._store)
            self._store.commit(commit)
        except AdapterError as error:
            if str(error) != self._store_problem:
                self._store_problem = str(error)
                self._log.error("store_failed", problem=self._store_problem)
            asyncio.get_running_loop().call_later(_STORE_RETRY_SECONDS, self._timer_changed.set)
            return
        if self._store_problem:
            self._store_problem = ""
            self._log.info("store_recovered")
        self.monitor.committed()
        self._retained = self.monitor.retained()
        if self._publisher is not None:
            self._publisher.wake()
        if commit.messages and began is not None:
            self._collector.observe_detection_latency(self._outside.monotonic() - began)
        for message in commit.messages:
            self._log_alert(message)
        self._timer_changed.set()

    def _log_alert(self, message: Message) -> None:
        """The journal tells what subscribers are told, also while there is no broker."""
        alert = json.loads(message.payload)["data"]
        tell = {"info": self._log.info, "warning": self._log.warning}.get(alert["severity"], self._log.error)
        told = {key: alert[key] for key in ("code", "status", "message", "expected", "actual") if alert[key]}
        tell("alert", **told, record=alert["evidence"]["record"])

    # -- time, reloads, watchdog -----------------------------------------------------------

    async def _keep_time(self) -> None:
        """Fire alerts whose hold-off is over, and retry what could not be stored."""
        while True:
            due = self.monitor.next_due()
            wait = None if due is None else max(due - self._outside.wall_clock(), 0.0)
            try:
                await asyncio.wait_for(self._timer_changed.wait(), wait)
                self._timer_changed.clear()
            except TimeoutError:
                self.monitor.tick(self._outside.wall_clock())
                self.commit()
            if self._store_problem:
                self.commit()

    async def _watch_baseline(self) -> None:
        async with aclosing(self._watch.changes()) as changes:
            async for _ in changes:
                self._reload_baseline()

    async def _watch_elsewhere(self) -> None:
        """The baseline directory is another one."""
        await _end(self._watching)
        self._watch = self._make_watch()
        self._watching = self._group.create_task(self._watch_baseline(), name="baseline watch")

    def _reload_baseline(self) -> bool:
        """Another baseline, or the last good one if this one is refused."""
        try:
            baseline = self._baselines.read(Path(self.settings.baseline.directory))
        except (BaselineError, AdapterError) as error:
            self._baseline_ok = False
            self._log.error("baseline_refused", problem=str(error), kept="the last good one")
            if isinstance(error, SignatureError):
                self._unsigned = str(error)
                self._judge_signatures()
                self.commit()
            return False
        self._baseline_ok, self._unsigned = True, ""
        self._judge_signatures()
        if baseline != self.monitor.baseline:
            self.monitor.set_baseline(baseline, self._outside.wall_clock())
            self._log.info("baseline_loaded", entries=len(baseline.entries))
        self.commit()
        return True

    async def _keep_reloading(self) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            self._service.reloading()
            try:
                await self._reload_settings()
                self._settings_ok = True
            except DmimadError as error:
                self._settings_ok = False
                self._log.error("reload_refused", problem=str(error), kept="the settings in force")
            self._service.ready()

    async def _reload_settings(self) -> None:
        new = self._outside.load_settings()
        keys, sign = trusted_keys(new), signer(new)
        old = self.settings
        fixed = {
            name: (getattr(old, name), getattr(new, name))
            for name in ("host", "source", "state", "metrics", "control", "live", "tpm")
        }
        waiting = sorted(name for name, (before, after) in fixed.items() if before != after)
        if waiting:
            self._log.warning("restart_needed", sections=waiting)
        self.settings = replace(new, **{name: before for name, (before, _) in fixed.items()})
        self._outside.set_log_level(self.settings.log.level)
        self._baselines.keys, self.monitor.sign = keys, sign
        if new.baseline.directory != old.baseline.directory:
            await self._watch_elsewhere()
        if self._reload_baseline():
            self._log.info("reloaded")
        self.monitor.set_policy(_policy(self.settings), self._outside.wall_clock())
        self.commit()
        if new.mqtt != old.mqtt and self._publishing is not None:
            await _end(self._publishing)
            self._start_publisher()
        elif new.mqtt != old.mqtt:
            self._start_publisher()

    def _start_publisher(self) -> None:
        self._publisher = self._publishing = None
        if self.settings.mqtt.enabled:
            self._publisher = Publisher(
                self.settings.mqtt,
                self.settings.host.id,
                self._store,
                lambda: self._retained,
                log=self._log,
                random=self._outside.random,
            )
            self._publishing = self._group.create_task(self._publisher.run(), name="publisher")

    async def _feed_watchdog(self) -> None:
        interval = self._service.keepalive_interval_seconds
        while interval is not None:
            self._service.alive()
            await asyncio.sleep(interval)

    # -- the control socket ----------------------------------------------------------------

    def _open_control(self) -> ControlServer | None:
        """That nobody can ask is no reason not to monitor."""
        settings = self.settings.control
        if not settings.socket:
            return None
        users, unknown = user_ids(settings.users)
        for name in unknown:
            self._log.warning("control_user_unknown", user=name, remedy="correct control.users")
        server = ControlServer(
            Path(settings.socket),
            answers(self, self._outside.wall_clock, self._log),
            users=users,
            log=self._log,
            monotonic=self._outside.monotonic,
        )
        try:
            server.listen()
        except AdapterError as error:
            self._log.warning("control_unavailable", problem=str(error))
            return None
        return server

    def surroundings(self) -> Surroundings:
        """What a status tells beside what the monitor knows."""
        return Surroundings(
            version=__version__,
            source=self.settings.source.path,
            source_up=self._source_up,
            lag=self._lag(),
            live_up=None if self._live is None else self._live.up,
            mqtt_connected=None if self._publisher is None else self._publisher.connected,
            outbox_pending=self._store.pending_count(),
            outbox_dead=self._store.dead_count(),
            store_problem=self._store_problem,
            settings_accepted=self._settings_ok,
            baseline_accepted=self._baseline_ok,
            baseline_directory=self.settings.baseline.directory,
        )

    def _lag(self) -> int | None:
        """Records that are in the list and not processed yet."""
        if self._count is None:
            return None
        return max(self._count + self.monitor.trimmed - self.monitor.position, 0)

    # -- metrics ---------------------------------------------------------------------------

    async def _serve_metrics(self) -> MetricsServer | None:
        settings = self.settings.metrics
        if not settings.enabled:
            return None
        server = MetricsServer(
            registry(self._collector), address=settings.address, port=settings.port, log=self._log
        )
        await server.start()
        self.metrics_url = server.url
        return server

    def _snapshot(self) -> Snapshot:
        monitor = self.monitor
        return Snapshot(
            records=monitor.records,
            dm_events=dict(monitor.dm_events),
            devices=monitor.series(),
            findings=dict(monitor.findings),
            firing=monitor.firing(),
            position=monitor.position,
            lag=self._lag(),
            pcr_verified=monitor.pcr_verified,
            last_read=monitor.last_read,
            outbox_pending=self._store.pending_count(),
            outbox_dead=self._store.dead_count(),
            mqtt_connected=self._publisher is not None and self._publisher.connected,
            reload_ok=self._settings_ok and self._baseline_ok,
            source_up=self._source_up,
            live_up=None if self._live is None else self._live.up,
            observations=monitor.observations,
        )


async def _end(*tasks: asyncio.Task[None] | None) -> None:
    """Cancel tasks until they end: Python 3.11 loses a cancellation that comes just as a wait_for() ends."""
    left = {task for task in tasks if task is not None}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN_SECONDS)


def _cause(error: Exception) -> DmimadError:
    """What ended the daemon: of several errors one that was foreseen, else the first."""
    leaves: list[Exception] = [error]
    while any(isinstance(leaf, ExceptionGroup) for leaf in leaves):
        leaves = [
            part
            for leaf in leaves
            for part in (leaf.exceptions if isinstance(leaf, ExceptionGroup) else [leaf])
        ]
    return next((leaf for leaf in leaves if isinstance(leaf, DmimadError)), None) or InternalError(leaves[0])


def _policy(settings: Settings) -> Policy:
    return Policy(
        settings.host.id,
        settings.alerts.hold_off_seconds,
        settings.baseline.unexpected_devices,
        settings.source.trim_expected,
        settings.alerts.storm_threshold,
        settings.alerts.storm_window_seconds,
        settings.alerts.flap_threshold,
        settings.alerts.flap_window_seconds,
    )
