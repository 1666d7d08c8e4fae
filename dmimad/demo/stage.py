"""What the story plays on: the files that the daemon looks at, and the daemon.

Source: `dmimad.daemon`, the same that `dmimad run` starts, with settings of its own.

Its log, and what the libraries log, goes to a file in the demo's directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TextIO

from structlog.typing import FilteringBoundLogger

from dmimad.adapters.log import LibraryLog, open_log
from dmimad.core.errors import AdapterError
from dmimad.daemon import Daemon
from dmimad.demo.broker import ADDRESS
from dmimad.demo.recording import Recording
from dmimad.demo.story import BASELINE_AT_FIRST, BOOT_RECORDS
from dmimad.parts import Outside
from dmimad.settings import (
    AlertSettings,
    BaselineSettings,
    ControlSettings,
    HostSettings,
    LiveSettings,
    MetricsSettings,
    MqttSettings,
    PageSettings,
    Settings,
    SourceSettings,
    StateSettings,
)

HOST = "demo"
HOLD_OFF_SECONDS = 0.3
_STOP_SECONDS = 5.0
_LOG = "daemon.log"


class Stage:
    """The files the daemon looks at: the list that grows, and the baseline."""

    def __init__(self, directory: Path, recorded: Recording) -> None:
        self.recorded = recorded
        self.list = directory / "list"
        self.baseline = directory / "baseline.d" / "demo.toml"
        self.log = directory / _LOG
        self.records = 0
        self._approved = ""
        self.baseline.parent.mkdir()
        self.list.touch()
        self.append(BOOT_RECORDS)
        self.approve(BASELINE_AT_FIRST)

    def append(self, records: int) -> None:
        """Let the list grow to so many records, in one write as the kernel would show them."""
        start, end = self.recorded.offset(self.records), self.recorded.offset(records)
        with self.list.open("ab", buffering=0) as file:
            file.write(self.recorded.data[start:end])
        self.records = records

    def approve(self, baseline: str) -> list[str]:
        """Put another baseline file in the place of the one there is, as editors do; returns what is new."""
        new = self.baseline.with_suffix(".new")
        new.write_text(baseline, "utf-8")
        new.replace(self.baseline)
        before, self._approved = self._approved, baseline
        changes = difflib.ndiff(before.splitlines(), baseline.splitlines())
        return [line[2:] for line in changes if line.startswith("+ ") and line.strip("+ ")]


@contextlib.asynccontextmanager
async def running_daemon(
    directory: Path, broker_port: int, on_end: Callable[[], None]
) -> AsyncIterator[Daemon]:
    """The daemon, following the list; ``on_end`` is called when it ends, whatever the reason.

    Raises:
        DmimadError: it does not start, or has ended before it should.
    """
    settings = _settings(directory, broker_port)
    with (directory / _LOG).open("a", encoding="utf-8") as file, _log_to(file) as log:
        daemon = Daemon(settings, Outside(lambda: settings, {}), log)

        def has_ended(_: asyncio.Task[None]) -> None:
            on_end()
            daemon.ready.set()

        task = asyncio.create_task(daemon.run())
        task.add_done_callback(has_ended)
        try:
            await daemon.ready.wait()
            _raise_if_ended(task)
            yield daemon
        except AdapterError:
            _raise_if_ended(task)  # then that is why
            raise
        finally:
            daemon.stop()
            await asyncio.wait([task], timeout=_STOP_SECONDS)
            task.cancel()
            await asyncio.wait([task], timeout=_STOP_SECONDS)


def _raise_if_ended(task: asyncio.Task[None]) -> None:
    if task.done():
        error = None if task.cancelled() else task.exception()
        raise AdapterError(f"the daemon has ended: {error or 'it was told to'}", "demo") from error


@contextlib.contextmanager
def _log_to(file: TextIO) -> Iterator[FilteringBoundLogger]:
    log = open_log(file, form="json")
    root, handler = logging.getLogger(), LibraryLog(log)
    root.addHandler(handler)
    try:
        yield log
    finally:
        root.removeHandler(handler)


def _settings(directory: Path, broker_port: int) -> Settings:
    """Only devices in the baseline are judged: the recorded ones come and go by the dozen."""
    return Settings(
        host=HostSettings(id=HOST),
        source=SourceSettings(path=str(directory / "list")),
        live=LiveSettings(enabled=False),
        mqtt=MqttSettings(host=ADDRESS, port=broker_port, protocol=3),
        metrics=MetricsSettings(address=ADDRESS, port=0),
        page=PageSettings(address=ADDRESS, port=0),
        control=ControlSettings(socket=""),
        state=StateSettings(directory=str(directory / "state")),
        baseline=BaselineSettings(directory=str(directory / "baseline.d"), unexpected_devices=False),
        alerts=AlertSettings(hold_off_seconds=HOLD_OFF_SECONDS, storm_threshold=0, flap_threshold=0),
    )
