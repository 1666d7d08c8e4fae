"""The daemon: puts the core and the adapters together, and keeps them going.

One `asyncio.TaskGroup` with named tasks.  The pipeline task is the only one that touches the
monitor's list state: list bytes -> `Monitor` -> one transaction -> wake the publisher.  Nothing
leaves the host that is not stored.  What can be wrong about the kernel is decided in the core, and
what can be wrong about the outside in the adapters; here is only who talks to whom.  The parts are made in
`dmimad.parts`; `dmimad.serving` has the HTTP servers, `dmimad.self_report` what the daemon tells of itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from dmimad import __version__
from dmimad.adapters.file_list import FileList
from dmimad.adapters.ima_list import (
    COUNT_DESCRIPTOR,
    LIST_DESCRIPTOR,
    KernelList,
    Passed,
)
from dmimad.adapters.metrics import DaemonCollector
from dmimad.adapters.mqtt import Publisher
from dmimad.adapters.service import ServiceManager, passed_descriptors
from dmimad.baselines import Baselines, signer, trusted_keys
from dmimad.clock import Clock
from dmimad.core.backing import no_names
from dmimad.core.baseline import Baseline
from dmimad.core.cloudevent import Sign
from dmimad.core.errors import (
    AdapterError,
    DmimadError,
    InternalError,
    ListGapError,
    ResumeError,
)
from dmimad.core.monitor import Monitor
from dmimad.core.snapshot import Snapshot
from dmimad.core.source import CaughtUp, Chunk, Restarted, SourceEvent, Unavailable
from dmimad.core.status import Surroundings
from dmimad.liveness import Liveness
from dmimad.parts import Outside, baseline_watch, live_witness, open_control, pcr_witness, source_of
from dmimad.reloading import Reloading, policy
from dmimad.self_report import SelfReport
from dmimad.serving import Serving
from dmimad.settings import Settings
from dmimad.status_line import status_line
from dmimad.storing import Storing

if TYPE_CHECKING:
    import ssl

    from structlog.typing import FilteringBoundLogger

    from dmimad.adapters.keys import PublicKeys

#: Commit at least this often while a long list is being read.
_COMMIT_SECONDS = 1.0
#: A task that has not ended so long after it was cancelled is cancelled again.
_CANCEL_AGAIN_SECONDS = 5.0
#: How often it is seen whether the tasks get on and whether the status line is another, at most.
_ATTEND_SECONDS = 1.0
#: How often tasks that have nothing to do are made to turn, where no watchdog says how often.
_NUDGE_SECONDS = 15.0


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
        self._clock = Clock(outside.wall_clock, outside.elapsed)
        self._outside = outside = replace(outside, wall_clock=self._clock.now)
        self._log = log
        self._service = ServiceManager(outside.environ, log=log)
        passed = passed_descriptors(outside.environ, (LIST_DESCRIPTOR, COUNT_DESCRIPTOR))
        self._passed = Passed(passed.get(LIST_DESCRIPTOR, -1), passed.get(COUNT_DESCRIPTOR, -1))
        self._liveness = Liveness(outside.allowances)
        self._timer_turns = self._free_turns = 0
        self._hanging: tuple[str, ...] = ()
        self._told = ""  # the status line
        self._publisher: Publisher | None = None
        self._publishing: asyncio.Task[None] | None = None
        self._collector = DaemonCollector(self._snapshot, __version__)
        self.feeding = asyncio.Lock()
        self._answered = asyncio.Condition()
        self.ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._ending = False
        self._reload_wanted = asyncio.Event()
        self._timer_changed = asyncio.Event()
        self._serving = Serving(
            self,
            self._collector,
            wall_clock=outside.wall_clock,
            monotonic=outside.monotonic,
            log=log,
        )
        self._boot_id = outside.read_boot_id()
        self._begin(trusted_keys(settings), signer(settings, outside.environ))

    def _begin(self, keys: PublicKeys | None, sign: Sign | None, baseline: Baseline | None = None) -> None:
        """Make everything that goes on from what is stored; `baseline`: the one in force."""
        settings = self.settings
        self._source = source_of(settings.source, self._passed, self._log)
        self._watch = baseline_watch(settings.baseline, self._log)
        self._watching: asyncio.Task[None] | None = None
        self._storing = Storing(Path(settings.state.directory), self._stamp, self._log)
        try:
            self._baselines = Baselines(self._storing.approved, keys)
            self.reloading = Reloading(self, self._baselines, self._outside, self._log)
            baseline = self.reloading.first_baseline() if baseline is None else baseline
        except BaseException:
            self._storing.close()
            raise
        outside, log = self._outside, self._log
        local = isinstance(self._source, KernelList)  # a mirrored list is of another host
        names = outside.block_names if local else no_names
        self.monitor = Monitor(policy(settings), baseline, self._boot(), sign=sign, names=names)
        self._retained: Mapping[str, bytes] = {}
        self._live = live_witness(settings.live, self, outside, log) if local else None
        self._pcr = pcr_witness(settings.tpm, self, outside, log) if local else None
        self._looked = 0
        self._compared = (0, False)
        self._source_up = self._ever_read = False
        self._broken = self._list_problem = ""
        self._clock.stepped = self._clock_stepped

    def _go_on(self) -> None:
        """The state directory is usable again: go on from what is stored there, and what is known here."""
        self._storing.hand_over(self.monitor, self._baselines, self._outside.wall_clock())
        self._storing.close()
        self._log.info("beginning_again", reason="the state directory is usable again")
        self._begin(self._baselines.keys, self.monitor.sign, self.monitor.baseline)
        self._stop.clear()
        self._reload_wanted.set()  # what is there now may be better than what is in force, or still refused

    # -- life ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until `stop`.  Raises DmimadError where there is no point in going on."""
        try:
            await self._serving.serve_metrics()
            await self._run()
            while not self._ending:
                self._go_on()
                await self._run()
        except Exception as error:  # the boundary: what ends the daemon is told in one line
            raise _cause(error) from None
        finally:
            self._storing.close()
            await self._serving.stop()

    async def _run(self) -> None:
        self.reloading.first_files()
        offset = self._resume()
        self._log.info(
            "started", version=__version__, host=self.settings.host.id, source=self.settings.source.path
        )
        control = open_control(self.settings.control, self, self._outside, self._log)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._follow(offset), name="pipeline"),
                    group.create_task(self._keep_time(), name="alert timer"),
                    group.create_task(self._keep_reloading(), name="reload"),
                    group.create_task(self._attend(), name="watchdog"),
                    group.create_task(self._storing.run(self.commit), name="storing"),
                    group.create_task(self._await_store(), name="state directory"),
                    group.create_task(self._serving.keep_page(), name="page"),
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
                self._told = self._status_line()
                self._service.ready(self._told)
                self.ready.set()
                await self._stop.wait()
                if self._ending:
                    self._service.stopping()
                    self._log.info("stopping")
                await _end(*tasks, self._watching, self._publishing)
        finally:
            if control is not None:
                control.close()

    def stop(self) -> None:
        """End cleanly; everything found so far is stored already, if it can be."""
        self._ending = True
        self._stop.set()

    async def _await_store(self) -> None:
        await self._storing.reopened.wait()
        self._stop.set()

    def reload(self) -> None:
        """Read settings and baseline again."""
        self._reload_wanted.set()

    def _boot(self) -> str:
        """What tells this boot's records from another's; a mirrored file tells by its content alone."""
        return "file" if isinstance(self._source, FileList) else self._outside.read_boot_id()

    def _stamp(self) -> object:
        """By what another process of this boot knows whether the clock has been set since."""
        return [self._boot_id, *self._clock.reading()]

    def _clock_stepped(self, by: float) -> None:
        self._log.warning("clock_stepped", seconds=round(by, 3))
        self.monitor.clock_stepped(by)
        self._timer_changed.set()

    def _resume(self) -> int:
        stored = self._storing.stored
        if stored.notice:
            self._log.warning("state_notice", notice=stored.notice)
        try:
            offset = self.monitor.resume(stored)
        except ResumeError as error:
            self._log.info("reading_from_start", reason=str(error))
            self.monitor.start_over(self._boot(), self._outside.wall_clock(), str(error))
            offset = 0
        match {} if stored.checkpoint is None else stored.checkpoint.get("clock"):
            case [self._boot_id, float() as wall, float() as elapsed] if isfinite(wall - elapsed):
                self._clock.since((wall, elapsed))
        if self.monitor.history_lost:
            self._log.warning("history_lost", problem=self.monitor.history_lost)
        self.reloading.judge_signatures()
        self._retained = self.monitor.retained()
        return offset

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
                    self._seen()
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
            self._seen()
            self.monitor.caught_up(now)
            if self._pcr is None:
                self.monitor.pcr_settled(now, tpm=False)  # a gap is one then
        elif isinstance(event, Restarted):
            self._restarted(event.reason, now)
        elif isinstance(event, Unavailable):
            self._source_up, self._list_problem = False, event.problem
            self.monitor.lost_sight()
            if event.lasting and not self._ever_read:
                raise AdapterError("cannot follow the measurement list", event.problem)
            self._log.error("list_unavailable", problem=event.problem)

    def _seen(self) -> None:
        self._ever_read = self._source_up = True
        self._list_problem = ""

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
        told = self._storing.commit(self.monitor, self._baselines, self._outside.wall_clock())
        self._retained = self.monitor.retained()
        if self._publisher is not None:
            self._publisher.wake()
            if self._storing.take_unread():
                self._publisher.rewind()
        if told and began is not None:
            self._collector.observe_detection_latency(self._outside.monotonic() - began)
        self._timer_changed.set()

    # -- time, reloads, watchdog -----------------------------------------------------------

    async def _keep_time(self) -> None:
        """Fire alerts whose hold-off is over."""
        while True:
            self._timer_turns += 1
            due = self.monitor.next_due()
            wait = None if due is None else max(due - self._outside.wall_clock(), 0.0)
            try:
                await asyncio.wait_for(self._timer_changed.wait(), wait)
                self._timer_changed.clear()
            except TimeoutError:
                self.monitor.tick(self._outside.wall_clock())
                self.commit()

    async def _watch_baseline(self) -> None:
        async with aclosing(self._watch.changes()) as changes:
            async for _ in changes:
                self.reloading.reload_baseline()

    async def watch_elsewhere(self) -> None:
        """The baseline directory is another one."""
        await _end(self._watching)
        self._watch = baseline_watch(self.settings.baseline, self._log)
        self._watching = self._group.create_task(self._watch_baseline(), name="baseline watch")

    async def _keep_reloading(self) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            self._service.reloading()
            await self.reloading.reload()
            self._service.ready()

    def serve_with(self, use: str, tls: ssl.SSLContext | None) -> None:
        """New connections to the endpoint of metrics or page use this."""
        self._serving.use(use, tls)

    def serve_page(self) -> None:
        """Begin to serve the page, if that is wanted and not so yet; nothing waits for it."""
        self._group.create_task(self._serving.serve_page(), name="page")

    async def publish_anew(self) -> None:
        """End the connection to the broker, and begin another as the settings in force say."""
        await _end(self._publishing)
        self._start_publisher()

    def _start_publisher(self) -> None:
        self._publisher = self._publishing = None
        self._storing.publishing = self.settings.mqtt.enabled
        if self._storing.publishing:
            self._publisher = Publisher(
                self.reloading.broker_access(),
                self.settings.host.id,
                self._storing,
                lambda: self._retained,
                log=self._log,
                random=self._outside.random,
            )
            self._publishing = self._group.create_task(self._publisher.run(), name="publisher")

    async def _attend(self) -> None:
        """See that the tasks get on, feed the watchdog if they do, and keep the status line true."""
        interval = self._service.keepalive_interval_seconds or _NUDGE_SECONDS
        fed = float("-inf")
        while True:
            now = self._outside.monotonic()
            self._judge_tasks(now)
            if now - fed >= interval and not self._hanging:
                fed = now
                self._service.alive()
                self._timer_changed.set()
                if self._publisher is not None:
                    self._publisher.nudge()
            if self._service.present and (line := self._status_line()) != self._told:
                self._told = line
                self._service.status(line)
            await asyncio.sleep(min(interval / 2, _ATTEND_SECONDS))

    def _judge_tasks(self, now: float) -> None:
        """Which tasks hang; each is told of once."""
        self._free_turns += not self.feeding.locked()  # the pipeline never waits while it holds it
        turns = {
            "pipeline": self._source.turns,
            "list_state": self._free_turns,
            "alert_timer": self._timer_turns,
        }
        if self._publisher is not None:
            turns["publisher"] = self._publisher.turns
        before, self._hanging = self._hanging, self._liveness.hanging(turns, now)
        for task in sorted({*self._hanging} - {*before}):
            self._log.error("task_hangs", task=task, then="the service manager restarts the daemon")
        for task in sorted({*before} - {*self._hanging}):
            self._log.info("task_goes_on", task=task)

    def _status_line(self) -> str:
        return status_line(
            self.surroundings(),
            devices=len(self._retained),
            firing=self.monitor.firing(),
            problem=self._broken or self._list_problem,
            hanging=self._hanging,
        )

    # -- what there is to see --------------------------------------------------------------

    @property
    def metrics_url(self) -> str:
        """Where the metrics are; "" if they are not served."""
        return self._serving.metrics_url

    @property
    def page_url(self) -> str:
        """Where the page is; "" if it is not served."""
        return self._serving.page_url

    def surroundings(self) -> Surroundings:
        """What a status tells beside what the monitor knows."""
        return self._report().surroundings()

    def _snapshot(self) -> Snapshot:
        return self._report().snapshot(self._outside.wall_clock())

    def _report(self) -> SelfReport:
        return SelfReport(
            settings=self.settings,
            monitor=self.monitor,
            source=self._source,
            source_up=self._source_up,
            live=self._live,
            storing=self._storing,
            publisher=self._publisher,
            reloading=self.reloading,
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
