"""What checks work with: the machine as its administrator handles it, by the programs he would use.

Source: systemctl(1), journalctl(1), dmsetup(8), dpkg(1), and the product's own commands.

The machine has two addresses beside the loopback ones: one where mosquitto listens with TLS, and `ELSEWHERE`.
Both are on `lo`, but to everybody they are those of other hosts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.vm.systemd.broker import BROKER_ADDRESS, Broker, Subscriber

SERVICE = "dmimad.service"
LIVE_SOCKET = "dmimad-live.socket"
LIVE_SERVICE = "dmimad-live.service"
HOST_ID = "vm-1"
SETTINGS = Path("/etc/dmimad/dmimad.toml")
SECRETS = Path("/etc/dmimad/secrets")
BASELINES = Path("/etc/dmimad/baseline.d")
STATE = Path("/var/lib/dmimad")
ELSEWHERE = "192.0.2.20"
WORK = Path("/run/vm")

COMMAND_SECONDS = 180.0
START_SECONDS = 120.0
"""How long anything may take on an emulated machine that shares its processors with others."""
_SITUATION_LINES = 45


class Host:
    """The machine. `out` is the folder that its host sees."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.broker = Broker(WORK / "certificates")
        self._subscriber: Subscriber | None = None
        self._listener: Listener | None = None
        self._numbers = 0
        self._epoch = time.time() - time.monotonic()

    def prepare(self) -> None:
        """What a check may take for granted before anything is installed."""
        WORK.mkdir()
        for address in (BROKER_ADDRESS, ELSEWHERE):
            self.run("ip", "address", "add", f"{address}/32", "dev", "lo")
        self.run("ip", "link", "set", "lo", "up")

    def close(self) -> None:
        """End what was started here."""
        if self._subscriber is not None:
            self._subscriber.close()
        if self._listener is not None:
            self._listener.close()
        shutil.copytree(
            WORK, self.out / "work", dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock", "*.img")
        )

    # -- programs ------------------------------------------------------------------------------

    def run(self, *command: str | Path, seconds: float = COMMAND_SECONDS) -> str:
        """Run a program, which has to succeed; what it printed."""
        status, text = self.try_to(*command, seconds=seconds)
        assert status == 0, f"{' '.join(map(str, command))}: exit status {status}:\n{text[-3000:]}"
        return text

    def try_to(self, *command: str | Path, seconds: float = COMMAND_SECONDS) -> tuple[int, str]:
        """Exit status and output of a program."""
        environment = {
            **os.environ,
            "SYSTEMD_PAGER": "",
            "SYSTEMD_COLORS": "0",
            "DEBIAN_FRONTEND": "noninteractive",
        }
        done = subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            timeout=seconds,
            check=False,
        )
        return done.returncode, done.stdout.decode("utf-8", "backslashreplace")

    def say(self, text: str) -> None:
        """Something for people, shown at the end of the test run."""
        print(text, flush=True)  # noqa: T201  # the machine's console
        with (self.out / "report.txt").open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def situation(self) -> str:
        """What somebody would look at first when a check has failed."""
        _, status = self.try_to(
            "systemctl", "status", "--no-pager", "--full", "--lines=0", SERVICE, LIVE_SERVICE
        )
        _, journal = self.try_to(
            "journalctl", "--no-pager", "--output=short-monotonic", f"--lines={_SITUATION_LINES}"
        )
        return f"--- systemctl status\n{status}--- journal\n{journal}"

    # -- the service ---------------------------------------------------------------------------

    def show(self, name: str, unit: str = SERVICE) -> str:
        """A property as `systemctl show` has it."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).strip()

    def pid(self, unit: str = SERVICE) -> int:
        """Its main process, 0 if there is none."""
        return int(self.show("MainPID", unit))

    def drop_in(self, name: str, text: str, unit: str = SERVICE) -> None:
        """Change the unit as an administrator does; empty: the change is taken away."""
        file = Path(f"/run/systemd/system/{unit}.d/{name}.conf")
        file.parent.mkdir(parents=True, exist_ok=True)
        if text:
            file.write_text(text, encoding="utf-8")
        else:
            file.unlink(missing_ok=True)
        self.run("systemctl", "daemon-reload")

    def as_shipped(self) -> None:
        """No change of a unit is left, and none of its failures counts."""
        for unit in (SERVICE, LIVE_SERVICE):
            shutil.rmtree(f"/run/systemd/system/{unit}.d", ignore_errors=True)
        self.run("systemctl", "daemon-reload")
        self.run("systemctl", "reset-failed")

    def start(self) -> float:
        """Start the service and wait until subscribers see it online; the seconds that took."""
        before, began = len(self.subscriber.onlines()), time.time()
        self.run("systemctl", "start", SERVICE, seconds=START_SECONDS)
        self.until(lambda: len(self.subscriber.onlines()) > before, "a subscriber is told `online`")
        return self.subscriber.onlines()[-1].arrived - began

    def stop(self) -> None:
        """A clean stop."""
        self.run("systemctl", "stop", SERVICE, seconds=START_SECONDS)

    def running(self) -> None:
        """Bring the machine to where a service that is as shipped has read and delivered everything."""
        self.as_shipped()
        self.broker.start()
        self.run("systemctl", "start", LIVE_SOCKET)
        self.run("systemctl", "start", SERVICE, seconds=START_SECONDS)
        self.settled()

    def settled(self, seconds: float = START_SECONDS) -> None:
        """Until the daemon has read the list to its end and everything has been delivered."""

        def done() -> bool:
            status = self.status()
            if status is None:
                return False
            return (
                bool(status["mqtt_connected"]) and status["list"]["lag"] == status["outbox"]["pending"] == 0
            )

        self.until(done, "the daemon is connected, has read everything and delivered it", seconds)

    def status(self) -> dict[str, Any] | None:
        """What `dmimad status --json` says; None if the daemon cannot be asked."""
        # Without the socket's name it would look into the settings, which may be wrong just now.
        _, text = self.try_to("dmimad", "status", "--json", "--socket", "/run/dmimad/control.sock")
        start = text.find("{")
        return None if start < 0 else dict(json.loads(text[start:]))

    def until(self, what: Callable[[], Any], description: str, seconds: float = START_SECONDS) -> None:
        """Until that, which nothing announces, is true."""
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, f"did not happen in {seconds:g} s: {description}"
            time.sleep(0.1)

    # -- journal -------------------------------------------------------------------------------

    def cursor(self) -> str:
        """A place in the journal."""
        self.run("journalctl", "--sync")
        found = re.search(r"-- cursor: (\S+)", self.run("journalctl", "--lines=1", "--show-cursor"))
        assert found, "journalctl shows no cursor"
        return found[1]

    def journal(self, after: str = "", unit: str = SERVICE) -> list[dict[str, Any]]:
        """The unit's entries and what systemd says of it, from a cursor on."""
        self.run("journalctl", "--sync")
        # Not with --unit: before systemd 253, the first entry that matches is then skipped after a cursor.
        since = ("--after-cursor", after) if after else ()
        text = self.run("journalctl", "--output=json", "--no-pager", *since)
        entries = (json.loads(line) for line in text.splitlines() if line.startswith("{"))
        return [entry for entry in entries if unit in (entry.get("_SYSTEMD_UNIT"), entry.get("UNIT"))]

    def said(self, pattern: str, after: str = "", unit: str = SERVICE) -> bool:
        """Whether a message of the unit matches, in any case of letters."""
        return any(
            re.search(pattern, str(entry.get("MESSAGE")), re.IGNORECASE)
            for entry in self.journal(after, unit)
        )

    def says(self, pattern: str, after: str, seconds: float = 30.0) -> None:
        """Until a message of the service matches: the journal is a moment behind."""
        self.until(lambda: self.said(pattern, after), f"the journal has something like {pattern!r}", seconds)

    # -- settings ------------------------------------------------------------------------------

    def set(self, section: str, **values: object) -> None:
        """Edit the settings file: what the shipped one has as a comment, becomes a setting."""
        lines = SETTINGS.read_text(encoding="utf-8").splitlines()
        begin = lines.index(f"[{section}]")
        for name, value in values.items():
            end = next((n for n in range(begin + 1, len(lines)) if lines[n].startswith("[")), len(lines))
            found = [n for n in range(begin, end) if re.match(rf"#?\s*{name} = ", lines[n])]
            line = f"{name} = {json.dumps(value)}"
            if found:
                lines[found[0]] = line
            else:
                lines.insert(begin + 1, line)
        SETTINGS.write_text("\n".join(lines) + "\n", encoding="utf-8")

    # -- who listens ---------------------------------------------------------------------------

    @property
    def subscriber(self) -> Subscriber:
        """mosquitto's own client on the other side of TLS; started when it is first asked for."""
        if self._subscriber is None:
            self._subscriber = Subscriber(self.broker, HOST_ID, WORK / "messages.txt")
        self._subscriber.keep()
        return self._subscriber

    @property
    def listener(self) -> Listener:
        """`dmimad listen` on the other side of TLS; started when it is first asked for."""
        if self._listener is None:
            self._listener = Listener(self.broker, SECRETS / "signing.pem.pub", WORK)
        return self._listener

    # -- device-mapper -------------------------------------------------------------------------

    def create(self, name: str) -> None:
        """A device that nothing approves, with a table that was never there before."""
        self.run("dmsetup", "create", name, "--table", self._table())

    def change(self, name: str) -> None:
        """Another table that was never there before."""
        self.run("dmsetup", "load", name, "--table", self._table())
        self.run("dmsetup", "resume", name)

    def remove(self, name: str) -> None:
        self.run("dmsetup", "remove", "--retry", name)

    def number(self) -> int:
        """One that was never given before."""
        self._numbers += 1
        return self._numbers

    def _table(self) -> str:
        return f"0 64 linear /dev/ram0 {self.number() * 8}"

    # -- alerts --------------------------------------------------------------------------------

    def drift(self, code: str, device: str, after: int = 0) -> dict[str, Any]:
        """Wait for a firing alert at the subscriber, beyond the first `after` ones."""
        return self._await(code, device, "firing", after)

    def resolution(self, code: str, device: str, after: int = 0) -> dict[str, Any]:
        """Wait for the alert's end."""
        return self._await(code, device, "resolved", after)

    def _await(self, code: str, device: str, status: str, after: int) -> dict[str, Any]:
        def found() -> list[dict[str, Any]]:
            told = self.subscriber.alerts()[after:]
            wanted = (code, status, device)
            return [event for event in told if _identity(event) == wanted]

        self.until(found, f"the alert {code} {status} of {device!r}")
        return found()[0]

    def numbers_are_whole(self, after: int) -> None:
        """The alerts that came beyond the first `after` are numbered without gaps and repetitions."""
        numbers = sorted(int(event["sequence"]) for event in self.subscriber.alerts()[after:])
        missing = sorted({*range(numbers[0], numbers[-1] + 1)} - {*numbers})
        assert not missing, f"alerts {missing} are missing, of {numbers[0]} to {numbers[-1]}"
        assert len(numbers) == len({*numbers}), f"numbers used twice: {numbers}"

    # -- the clock -----------------------------------------------------------------------------

    def right_time(self, offset_seconds: float = 0.0) -> None:
        """Set the clock to what it would be by now, or so much later or earlier."""
        time.clock_settime(time.CLOCK_REALTIME, self._epoch + time.monotonic() + offset_seconds)


def _identity(event: Mapping[str, Any]) -> tuple[str, str, str]:
    data = event["data"]
    return str(data["code"]), str(data["status"]), str(data["device"]["name"])


class Listener:
    """`dmimad listen` with the host's public key, its lines in a file."""

    def __init__(self, broker: Broker, key: Path, work: Path) -> None:
        keys = work / "keys"
        keys.mkdir()
        shutil.copy(key, keys / f"{HOST_ID}.pub")
        self.lines = work / "listen.jsonl"
        self._errors = work / "listen.log"
        with self.lines.open("wb") as out, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [
                    "dmimad",
                    "listen",
                    "--json",
                    "--keys",
                    str(keys),
                    "--require-signature",
                    *broker.listen_options(),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
            )
        deadline = time.monotonic() + START_SECONDS
        while "connected" not in self._errors.read_text():
            assert self._process.poll() is None, f"dmimad listen has ended: {self._errors.read_text()}"
            assert time.monotonic() < deadline, f"dmimad listen does not connect: {self._errors.read_text()}"
            time.sleep(0.1)

    def events(self) -> list[dict[str, Any]]:
        """All it has said so far."""
        return [json.loads(line) for line in self.lines.read_text().splitlines() if line.endswith("}")]

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(30)
