"""What a scenario works with: the kernel, the daemon, who listens to it, the comparison after each step."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.vm.guest import compare, dmsetup, truth
from tests.vm.guest.actions import Action
from tests.vm.guest.dm import Control
from tests.vm.guest.processes import DMIMAD, START_SECONDS, Daemon, Samples, samples, scrape, wait
from tests.vm.guest.subscriber import Alert, Subscriber
from tests.vm.guest.truth import Device, History, Log

HOST = "vm"
SETTINGS = Path("/etc/dmimad/dmimad.toml")
BASELINES = Path("/etc/dmimad/baseline.d")
STATE = Path("/var/lib/dmimad")

REPORT = "report.txt"
WORK = Path("/run/scenarios")
"""Files that are written all the time; the folder shared with the host is slow."""

STEP_SECONDS = 20.0
"""How long the daemon may take to be right after a step, on an emulated machine."""
AGAIN_SECONDS = 5.0
"""The same after a step it was wrong after: the scenario fails anyway."""
VERIFY_EVERY = 10
"""Steps from one look by dmsetup to the next, which also waits for the daemon to have read everything."""
LIVE_INTERVAL_SECONDS = 1.0
MESSAGES_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a scenario.  ``optional``: some kernels refuse it, and that is no failure."""

    label: str
    action: Action
    optional: bool = False


@dataclass(frozen=True, slots=True)
class DaemonSettings:
    """The settings a scenario may want otherwise."""

    hold_off_seconds: float = 2.0
    live_interval_seconds: float = LIVE_INTERVAL_SECONDS
    wake_ups: bool = True
    hold_open: bool = True
    trim_expected: bool = False
    poll_interval_seconds: float = 0.1
    storm_threshold: int = 0

    def text(self) -> str:
        """As a settings file."""
        sections: dict[str, dict[str, object]] = {
            "host": {"id": HOST},
            "source": {
                "hold_open": self.hold_open,
                "trim_expected": self.trim_expected,
                "poll_interval_seconds": self.poll_interval_seconds,
            },
            "live": {"interval_seconds": self.live_interval_seconds, "wake_ups": self.wake_ups},
            "state": {"directory": str(STATE)},
            "baseline": {"directory": str(BASELINES)},
            "alerts": {
                "hold_off_seconds": self.hold_off_seconds,
                "storm_threshold": self.storm_threshold,
            },
            "log": {"format": "json"},
        }
        lines = []
        for section, values in sections.items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        return "\n".join(lines) + "\n"


@dataclass(slots=True)
class Tally:
    """What the steps of a scenario have shown so far."""

    steps: int = 0
    refused: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    wrong_steps: int = 0
    exact: int = 0
    devices: int = 0
    waits: list[float] = field(default_factory=list)


class Guest:
    """One scenario's world; everything it makes is gone after `close`, but for what outlives a reboot.

    Attributes:
        out: the scenario's folder, the same in all its boots.
        kept: where this boot's files are put at its end.
        boot: which of the scenario's boots this is.  From the second on the daemon's state and the baseline
            are as the boot before left them, and so are the disks and the files in `lasting`.
    """

    def __init__(
        self,
        out: Path,
        subscriber: Subscriber,
        control: Control,
        *,
        legacy: bool,
        boot: int = 1,
        boots: int = 1,
    ) -> None:
        self.out = out
        self.kept = out if boot == 1 else out / f"boot-{boot}"
        self.boot = boot
        self._boots = boots
        self.lasting = out / "lasting"
        self.work = WORK / out.name
        for directory in (self.kept, self.work, *([self.lasting] if boots > 1 else [])):
            directory.mkdir(parents=True, exist_ok=True)
        self.dm = control
        self.legacy = legacy
        self.subscriber = subscriber
        self.figures: dict[str, Any] = {}
        self.tally = Tally()
        self._daemon: Daemon | None = None
        self._history = History(control.version, legacy=legacy, measured=Log())
        self._steps = (self.kept / "steps.jsonl").open("a", encoding="utf-8")
        self._first_alert = len(subscriber.alerts)
        self._undo: list[Callable[[], object]] = []
        subscriber.record(self.work / "messages.jsonl")
        for directory in (STATE, BASELINES):
            shutil.rmtree(directory, ignore_errors=True)
            if boot == 1:
                directory.mkdir(parents=True)
            else:
                shutil.copytree(self.lasting / directory.name, directory)

    def close(self) -> None:
        """Stop the daemon, keep what it said, take everything away."""
        if self._daemon is not None and self._daemon.running:
            self.keep_metrics()
            self._daemon.stop()
        for undo in reversed(self._undo):
            undo()
        self.remove_all()
        self.subscriber.forget()
        self.subscriber.record(None)
        self._steps.close()
        shutil.copytree(self.work, self.kept, dirs_exist_ok=True)
        if self.boot < self._boots:
            for directory in (STATE, BASELINES):  # the disk they are on is in memory
                shutil.rmtree(self.lasting / directory.name, ignore_errors=True)
                shutil.copytree(directory, self.lasting / directory.name)

    def at_end(self, undo: Callable[[], object]) -> None:
        """Something to do when the scenario is over, however it ends; last come, first done."""
        self._undo.append(undo)

    # -- the daemon ----------------------------------------------------------------------------

    def start(self, settings: DaemonSettings | None = None) -> None:
        """Start the daemon; it has read everything there is when this returns."""
        SETTINGS.parent.mkdir(parents=True, exist_ok=True)
        SETTINGS.write_text((settings or DaemonSettings()).text())
        onlines = self.subscriber.onlines
        self._daemon = daemon = Daemon(SETTINGS, self.work / "daemon.log")
        online = self.subscriber.within(
            lambda: self.subscriber.onlines > onlines or not daemon.running, START_SECONDS
        )
        assert online, "dmimad run does not say that it is online"
        assert daemon.running, f"dmimad run does not come up:\n{daemon.text()[-3000:]}"
        self.settle()

    @property
    def daemon(self) -> Daemon:
        assert self._daemon is not None, "the scenario has not started the daemon"
        return self._daemon

    def stop(self) -> None:
        """A clean stop."""
        self.keep_metrics()
        status = self.daemon.stop()
        assert status == 0, f"dmimad run ended with {status}:\n{self.daemon.text()[-3000:]}"
        assert "Traceback" not in self.daemon.text(), self.daemon.text()[-6000:]
        self.subscriber.until(lambda: self.subscriber.status == "offline", START_SECONDS, "offline")

    def kill(self) -> None:
        """SIGKILL; the broker tells its will."""
        self.daemon.kill()
        self.subscriber.until(lambda: self.subscriber.status == "offline", START_SECONDS, "offline")

    def metrics(self) -> Samples:
        return samples(scrape())

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics().get((name, frozenset(labels.items())))

    def keep_metrics(self) -> None:
        (self.work / "metrics.txt").write_text(scrape())

    def settle(self, seconds: float = 60.0) -> None:
        """Until the daemon has read the list to its end and delivered what follows, and it has arrived."""

        def settled() -> bool:
            assert self.daemon.running, f"dmimad run has ended:\n{self.daemon.text()[-3000:]}"
            seen = self.metrics()
            position, pending = (
                seen.get((f"dmimad_{name}", frozenset())) for name in ("list_position", "outbox_pending")
            )
            return position is not None and position >= truth.record_count() and pending == 0

        wait(settled, seconds, "the daemon has read the list and delivered its alerts", 0.1)
        self.subscriber.drain()

    def quiet(self) -> None:
        """Long enough for the daemon to look at everything twice more: for what must not come."""
        time.sleep(2 * LIVE_INTERVAL_SECONDS + 0.5)
        self.settle()

    def approve(self, *names: str, required: bool = True) -> None:
        """Make a baseline of the tables that are active now, by the daemon's own documents."""
        documents = self.by_name()
        lines = ["version = 1"]
        for name in names:
            active = documents[name]["active"]
            assert active is not None, f"{name} has no active table"
            lines += ["[[device]]", f"name = {json.dumps(name)}", f"required = {str(required).lower()}"]
            lines += [f"hashes = [{json.dumps(active['hash'])}]"]
        (BASELINES / "vm.toml").write_text("\n".join(lines) + "\n")
        self.subscriber.until(
            lambda: all(self.by_name()[name]["verdict"] == "approved" for name in names),
            STEP_SECONDS,
            "the baseline is in force",
        )

    def capture(self, seconds: float = STEP_SECONDS) -> None:
        """Approve all there is, as an administrator does it; returns when that is in force."""
        target = BASELINES / "host.toml"
        self.dmimad("baseline", "capture", "--config", str(SETTINGS), "--output", str(target))
        shutil.copy(target, self.work)
        self.until_all("approved", self.by_name(), seconds=seconds)

    def disapprove(self) -> None:
        """No baseline any more, and what was said by it is no concern of what follows."""
        for file in BASELINES.iterdir():
            file.unlink()
        self.until_all("unknown", self.by_name())
        self.quiet()
        self.forget_past()

    def until_all(self, verdict: str, names: Iterable[str], seconds: float = STEP_SECONDS) -> None:
        """Until there are documents of exactly these devices, all with that verdict."""
        wanted = dict.fromkeys(names, verdict)

        def verdicts() -> dict[str, str]:
            return {name: str(document["verdict"]) for name, document in self.by_name().items()}

        if not self.subscriber.within(lambda: verdicts() == wanted, seconds):
            found = verdicts()
            odd = [name for name in {*found, *wanted} if found.get(name) != wanted.get(name)]
            told = {name: found.get(name) for name in sorted(odd)[:MESSAGES_SHOWN]}
            alerts = "\n".join(map(str, self.alerts[-MESSAGES_SHOWN:]))
            raise AssertionError(f"{len(odd)} not {verdict!r} in {seconds:g} s: {told}; alerts:\n{alerts}")

    def status(self) -> dict[str, Any]:
        """What `dmimad status --json` says."""
        found: dict[str, Any] = json.loads(self.dmimad("status", "--json"))
        return found

    def dmimad(self, *arguments: str, seconds: float = 120.0) -> str:
        """Run a command of the product, which has to succeed; its output."""
        done = subprocess.run(
            [str(DMIMAD), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
        words = done.stderr.decode("utf-8", "backslashreplace")
        command = " ".join(("dmimad", *arguments))
        assert done.returncode == 0, f"{command}: exit status {done.returncode}: {words[-3000:]}"
        return done.stdout.decode("utf-8", "backslashreplace")

    def say(self, *lines: str) -> None:
        """Something for people, shown at the end of the test run."""
        text = "\n".join((*lines, ""))
        print(text, end="", flush=True)  # noqa: T201  # the machine's console
        with (self.work / REPORT).open("a", encoding="utf-8") as file:
            file.write(text)

    def by_name(self) -> dict[str, Mapping[str, Any]]:
        return {str(document["name"]): document for document in dict(self.subscriber.documents).values()}

    # -- the kernel ----------------------------------------------------------------------------

    def shell(self, command: str, seconds: float = 120.0) -> str:
        """Run a command line; its output.  Raises OSError if it fails."""
        environment = {**os.environ, "DM_DISABLE_UDEV": "1", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            ["bash", "-c", command],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
        output = (done.stdout + done.stderr).decode("utf-8", "backslashreplace").strip()
        if done.returncode != 0:
            raise OSError(f"{command}: exit status {done.returncode}: {output}")
        return output

    def remove_all(self) -> None:
        """Remove all mapped devices, those on top of others first."""
        for _ in range(8):
            numbers = self.dm.numbers()
            if not numbers:
                return
            for number in reversed(numbers):
                try:
                    self.dm.remove_number(number, patient=False)
                except OSError:
                    continue  # another one stands on it
            time.sleep(0.02)
        raise AssertionError(f"cannot be removed: {self.dm.numbers()}")

    # -- steps ---------------------------------------------------------------------------------

    def run(self, steps: Iterable[Step]) -> None:
        for step in steps:
            self.step(step.label, step.action, optional=step.optional)

    def step(self, label: str, action: Action, *, optional: bool = False) -> None:
        """Do something to the kernel, and hold the daemon's documents to what came of it."""
        before, started = truth.record_count(), time.monotonic()
        refused = ""
        try:
            action(self)
        except OSError as error:
            if not optional:
                raise AssertionError(f"step {label!r}: {error}") from error
            refused = str(error)
            self.tally.refused.append(f"{label}: {refused}")
        acted = time.monotonic()
        self.tally.steps += 1
        devices = truth.read(self.dm)
        self._history.take(devices)
        wrong = self._compare(label, devices)
        waited = time.monotonic() - acted
        if self.tally.steps % VERIFY_EVERY == 0:
            wrong += self._verify(devices)
            self.settle()
            wrong += self._compare(label, truth.read(self.dm))  # what is right must stay right
        self.tally.waits.append(waited)
        self.tally.wrong += [f"step {self.tally.steps} {label!r}: {text}" for text in wrong]
        self.tally.wrong_steps += bool(wrong)
        entry = {
            "step": self.tally.steps,
            "label": label,
            "refused": refused,
            "records": [before, truth.record_count()],
            "acted_seconds": round(acted - started, 3),
            "waited_seconds": round(waited, 3),
            "devices": [_shown(device) for device in devices],
            "wrong": wrong,
        }
        self._steps.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._steps.flush()

    def compare_now(self, label: str) -> None:
        """A step that does nothing: what is right must have stayed right."""
        self.step(label, lambda guest: None)

    def _compare(self, label: str, devices: Sequence[Device]) -> list[str]:
        assert self.daemon.running, f"dmimad run ended before step {label!r}:\n{self.daemon.text()[-3000:]}"
        wrong: list[str] = []
        seen = -1

        def equal() -> bool:
            nonlocal wrong, seen
            if self.subscriber.messages != seen:  # nothing else changes the documents
                seen = self.subscriber.messages
                wrong = compare.differences(devices, self.subscriber.documents, self._history)
            return not wrong

        patience = AGAIN_SECONDS if self.tally.wrong_steps else STEP_SECONDS
        if not self.subscriber.within(equal, patience):
            return wrong
        self.tally.devices += len(devices)
        self.tally.exact += sum(self._history.unambiguous(device) for device in devices)
        return []

    def _verify(self, devices: Sequence[Device]) -> list[str]:
        """Whether dmsetup says what the ioctls said; the devices may have moved on by themselves."""
        wrong = dmsetup.differences(devices)
        return dmsetup.differences(truth.read(self.dm)) if wrong else []

    def finish(self) -> None:
        """The end of a scenario without attacks: all right to the end, and no alarm."""
        self.quiet()
        self.compare_now("at the end")
        wrong = self._verify(truth.read(self.dm))
        self.tally.wrong += [f"at the end: {text}" for text in wrong]
        waits = sorted(self.tally.waits)
        self.figures |= {
            "steps": self.tally.steps,
            "steps_wrong": self.tally.wrong_steps,
            "devices_compared": self.tally.devices,
            "devices_with_one_identity": self.tally.exact,
            "refused": self.tally.refused,
            "right_after_seconds": {
                "median": round(waits[len(waits) // 2], 3),
                "largest": round(waits[-1], 3),
            },
            "records": truth.record_count(),
        }
        problems = list(self.tally.wrong)
        problems += [f"alert: {alert}" for alert in self.alarms()]
        if (verified := self.metric("dmimad_pcr_verified")) != 1:
            problems.append(f"dmimad_pcr_verified is {verified}, not 1")
        shown = "\n".join(problems[:MESSAGES_SHOWN])
        more = f"\n… and {len(problems) - MESSAGES_SHOWN} more" if len(problems) > MESSAGES_SHOWN else ""
        count = f"{self.tally.wrong_steps} of {self.tally.steps} steps wrong, {len(problems)} problems"
        assert not problems, f"{count}:\n{shown}{more}"

    # -- alerts --------------------------------------------------------------------------------

    @property
    def alerts(self) -> list[Alert]:
        """Those of this scenario."""
        return self.subscriber.alerts[self._first_alert :]

    def forget_past(self) -> None:
        """What a new daemon has told of the list before this scenario is not its concern."""
        self._first_alert = len(self.subscriber.alerts)

    def alarms(self) -> list[Alert]:
        """Alerts that an honest kernel gives no reason for."""
        known = {"target.unmeasured"} if self.legacy else set()
        return [a for a in self.alerts if a.severity != "info" and a.code not in known]

    def expect(
        self,
        code: str,
        severity: str,
        *,
        status: str = "firing",
        device: str | None = None,
        after: int = 0,
        seconds: float = STEP_SECONDS,
    ) -> Alert:
        """Wait for an alert; ``severity`` "": any; ``after``: so many of this scenario's are not meant."""

        def found() -> list[Alert]:
            return [
                alert
                for alert in self.alerts[after:]
                if (alert.code, alert.status) == (code, status)
                and severity in ("", alert.severity)
                and device in (None, alert.device)
            ]

        came = self.subscriber.within(lambda: bool(found()), seconds)
        others = "\n".join(map(str, self.alerts[after:])) or "none"
        of = f" of {device!r}" if device is not None else ""
        assert came, f"no {severity} alert {code} {status}{of} in {seconds:g} s; alerts since: {others}"
        return found()[0]

    def only(self, *codes: str, after: int = 0) -> None:
        """No alert but of these codes has come."""
        others = [str(alert) for alert in self.alerts[after:] if alert.code not in codes]
        assert not others, "unexpected alerts:\n" + "\n".join(others)


def _shown(device: Device) -> dict[str, object]:
    return {
        "name": truth.printable(device.name),
        "uuid": truth.printable(device.uuid),
        "number": device.key,
        "suspended": device.suspended,
        "event_nr": device.event_nr,
        **{
            slot: None
            if table is None
            else [
                [t.begin, t.length, t.type, t.text.decode("utf-8", "backslashreplace")]
                for t in table.targets[:4]
            ]
            for slot, table in (("active", device.active), ("inactive", device.inactive))
        },
    }
