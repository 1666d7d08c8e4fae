"""The demo itself: sets everything up, tells the story, shows what arrives, and sums up.

Source: `story` says what happens and `stage` lets it happen.

What is shown has come through all of it: a record is appended to a file; the daemon reads, verifies and
tracks it, judges it by the baseline file, stores what follows and publishes it; the broker delivers it to the
subscriber.  If anything else arrives than the story expects, the demo says so and fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from dmimad.core.errors import AdapterError
from dmimad.daemon import Daemon
from dmimad.demo.broker import ADDRESS, broker
from dmimad.demo.interrupts import Interrupts
from dmimad.demo.own_host import Advice
from dmimad.demo.recording import recording
from dmimad.demo.scrape import Samples, scrape, total
from dmimad.demo.screen import Screen
from dmimad.demo.stage import HOLD_OFF_SECONDS, HOST, Stage, running_daemon
from dmimad.demo.story import STORY, Act, Expected
from dmimad.demo.subscriber import Alert, Arrival, document, read_alert, subscriber
from dmimad.demo.summary import summary

#: For anything to follow; far more than it ever takes.
PATIENCE_SECONDS = 20.0
_POLL_SECONDS = 0.03
_APPEND = "the append"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for: how fast to tell, and whether to go on after the end."""

    speed: float = 1.0
    keep: bool = False


async def perform(screen: Screen, options: Options, interrupts: Interrupts, advice: Advice) -> None:
    """The whole demo.

    Raises:
        DmimadError: it cannot be shown here, or something else happened than what was recorded.
        asyncio.CancelledError: a signal ended it.
    """
    interrupts.watch()
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="dmimad-demo-")))
        port = await stack.enter_async_context(broker())
        arrivals = await stack.enter_async_context(subscriber(port, HOST))
        stage = Stage(directory, recording())
        running = running_daemon(directory, port, lambda: arrivals.put_nowait(None))
        daemon = await stack.enter_async_context(running)
        stack.callback(interrupts.ignore)
        show = Show(screen, stage, daemon, arrivals, options.speed)
        show.introduce(port)
        await show.tell()
        await show.conclude(advice)
        interrupts.in_time = True
        if options.keep:
            await show.keep(port)


class Show:
    """Tells the story, and shows what arrives."""

    def __init__(
        self,
        screen: Screen,
        stage: Stage,
        daemon: Daemon,
        arrivals: asyncio.Queue[Arrival | None],
        speed: float,
    ) -> None:
        self._screen = screen
        self._stage = stage
        self._daemon = daemon
        self._arrivals = arrivals
        self._speed = speed
        self._seen: list[Alert] = []
        self._expected: list[Expected] = []
        self._verdicts: dict[str, str] = {}
        self._online = False
        self._cause = _APPEND
        self._caused_at = time.monotonic()
        self._latencies: list[float] = []

    def introduce(self, port: int) -> None:
        """What is running."""
        screen, recorded = self._screen, self._stage.recorded
        screen.title(
            "dmimad demo", "The measurement list of a real kernel grows once more, and dmimad follows it."
        )
        screen.blank()
        screen.rows(
            [
                ("list", f"recorded on Linux {recorded.kernel}, with LVM, LUKS and dm-verity"),
                ("daemon", f'the one of "dmimad run"; hold-off {HOLD_OFF_SECONDS} s instead of 2 s'),
                ("broker", f"MQTT 3.1.1 on {ADDRESS}, port {port}; a subscriber shows the alerts"),
                ("metrics", self._daemon.metrics_url),
            ]
        )

    async def tell(self) -> None:
        """All chapters."""
        await self._reach(lambda: self._online, "the daemon is not online at the broker")
        await self._caught_up()
        for chapter in STORY:
            self._screen.chapter(chapter.title)
            for act in chapter.acts:
                await self._perform(act)
            if not any(act.alerts for act in chapter.acts):
                samples = await self._caught_up()
                self._screen.fine(
                    f"{total(samples, 'dmimad_records_total'):.0f} records verified, "
                    f"{total(samples, 'dmimad_devices'):.0f} devices followed, no alert"
                )
                await self._rest(0.5)

    async def _perform(self, act: Act) -> None:
        screen = self._screen
        if act.note:
            screen.say(act.note)
        for command in act.commands:
            screen.command(command)
        if act.baseline:
            self._cause, self._caused_at = "the edit", time.monotonic()
            for line in self._stage.approve(act.baseline):
                screen.edit(line)
        if act.records:
            self._cause, self._caused_at = _APPEND, time.monotonic()
            self._stage.append(act.records)
        self._expected += act.alerts
        await self._reach(lambda: len(self._seen) >= len(self._expected), "an alert has not arrived")
        if act.approved:
            what = f"{act.approved} has not been published as approved"
            await self._reach(lambda: self._verdicts.get(act.approved) == "approved", what)
            screen.fine(f"{act.approved} is published as approved")
        await self._caught_up()
        await self._rest(act.rest_seconds)
        self._compare()

    async def conclude(self, advice: Advice) -> None:
        """The summary."""
        screen, samples = self._screen, await self._caught_up()
        screen.heading("What came through")
        screen.rows(summary(self._stage.recorded, self._stage.list, samples, self._seen, self._latencies))
        screen.blank()
        screen.say(
            "To try a daemon of your own on such a list, up to your own first alert (docs/quickstart.md):"
        )
        screen.command("dmimad demo --stage quick")
        screen.say(advice.text)
        for command in advice.commands:
            screen.command(command)
        screen.say(advice.more)

    async def keep(self, port: int) -> None:
        """Go on until a signal comes; what arrives is shown."""
        screen = self._screen
        screen.heading("Still running, until Ctrl-C")
        screen.say("Look at the page in a browser, at the metrics, and at everything that was published:")
        screen.command(self._daemon.page_url)
        screen.command(f"curl {self._daemon.metrics_url}")
        screen.command(f"mosquitto_sub -V mqttv311 -h {ADDRESS} -p {port} -t 'dmimad/v1/#' -v")
        screen.say("Change the baseline, and see here what follows; the daemon's log tells if it is refused:")
        screen.command(f"nano {self._stage.baseline}")
        screen.command(f"tail -f {self._stage.log}")
        self._cause = ""
        await self._until(lambda: False, None)

    # -- what arrives ----------------------------------------------------------------------

    async def _caught_up(self) -> Samples:
        """Until the daemon has read the list, as its own metrics tell."""
        samples = await scrape(self._daemon.metrics_url)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while total(samples, "dmimad_list_position") != self._stage.records:
            if time.monotonic() > deadline:
                raise _failure("the daemon does not follow the list")
            await self._until(lambda: False, _POLL_SECONDS)
            samples = await scrape(self._daemon.metrics_url)
        return samples

    async def _rest(self, seconds: float) -> None:
        """Time to read."""
        await self._until(lambda: False, seconds / self._speed)

    async def _reach(self, reached: Callable[[], bool], failure: str) -> None:
        if not await self._until(reached, PATIENCE_SECONDS):
            raise _failure(failure)

    async def _until(self, reached: Callable[[], bool], seconds: float | None) -> bool:
        """Show what arrives until `reached`; False if the time is over before."""
        try:
            async with asyncio.timeout(seconds):
                while not reached():
                    self._take(await self._arrivals.get())
        except TimeoutError:
            return reached()
        return True

    def _take(self, arrival: Arrival | None) -> None:
        if arrival is None:
            raise _failure("the daemon or the broker has ended")
        kind = arrival.topic.split("/")[3:4]
        if kind == ["status"]:
            self._online = arrival.payload == b"online"
        elif kind == ["device"]:
            state = document(arrival.payload)
            self._verdicts[str(state.get("name"))] = str(state.get("verdict"))
        elif kind == ["alert"] and (alert := read_alert(arrival.payload)) is not None:
            self._seen.append(alert)
            self._screen.alert(alert, self._when(arrival, alert))

    def _when(self, arrival: Arrival, alert: Alert) -> str:
        """How long after its cause an alert came."""
        if not self._cause:
            return "just now"
        seconds = arrival.at - self._caused_at
        if self._cause == _APPEND:
            held = HOLD_OFF_SECONDS if alert.status == "firing" else 0.0
            self._latencies.append(seconds - held)
        return f"{seconds * 1000:.0f} ms after {self._cause}"

    def _compare(self) -> None:
        found = [Expected(alert.status, alert.code, alert.device) for alert in self._seen]
        if found != self._expected:
            raise _failure("other alerts arrived than the recorded ones")


def _failure(problem: str) -> AdapterError:
    return AdapterError(problem, "demo", "please report this as a bug")
