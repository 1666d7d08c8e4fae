"""``dmimad demo --stage``: no story, but files and a broker to try one's own daemon on.

Source: the recorded list (``data/README.md``), cut in two where an attacker comes; ``docs/quickstart.md``
tells what to do with it.

Nothing is run here but the broker, and that only if it is installed.  What is written stays.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
from dataclasses import dataclass
from pathlib import Path

from dmimad.core.errors import AdapterError
from dmimad.demo.broker import ADDRESS, broker, can_be_had
from dmimad.demo.interrupts import Interrupts
from dmimad.demo.recording import Recording, recording
from dmimad.demo.screen import Screen
from dmimad.settings import MetricsSettings, PageSettings

#: What is taken if nobody else has it, so that one may write it into a page.
BROKER_PORT = 18830
METRICS_PORT = MetricsSettings().port
PAGE_PORT = PageSettings().port
HOST = "quick"
#: Records in the list at first: image-ro is open, verified by dm-verity.
RECORDS_AT_FIRST = 578
#: With those that are left when somebody puts a plain mapping of the same disk in its place, and then points
#: vg0-data at another part of its disk.
RECORDS_ATTACKED = 583

_SETTINGS = """\
# Settings of a daemon to try; those that are not here have their defaults. Paths count from this directory.

[host]
id = "{host}"

[source]
path = "list"                 # a file that grows, in the place of the kernel's own list

[live]
enabled = false               # the devices of that list are not on this host,

[tpm]
enabled = false               # and its TPM is not the recorded one's

[mqtt]
port = {broker}
protocol = 3                  # the demo's broker speaks MQTT 3.1.1

[metrics]
port = {metrics}

[page]
port = {page}

[control]
socket = "control.sock"

[state]
directory = "state"

[baseline]
directory = "baseline.d"      # what is approved: nothing yet
"""


@dataclass(frozen=True, slots=True)
class OwnStage:
    """The directory, and the ports of broker, metrics and page."""

    directory: Path
    broker_port: int
    metrics_port: int
    page_port: int


async def set_stage(screen: Screen, directory: Path, interrupts: Interrupts) -> None:
    """Write the files, say what to do, and be the broker until a signal comes, if that is installed.

    Raises:
        AdapterError: the directory is used, or the broker does not start.
        asyncio.CancelledError: a signal came.
    """
    interrupts.watch()
    if not can_be_had():
        stage = write_stage(directory, recording(), _port(BROKER_PORT))
        _introduce(screen, stage, own_broker=False)
        return
    _refuse_used(directory)
    async with broker(BROKER_PORT) as port:
        stage = write_stage(directory, recording(), port)
        _introduce(screen, stage, own_broker=True)
        interrupts.in_time = True
        await asyncio.Event().wait()


def write_stage(directory: Path, recorded: Recording, broker_port: int) -> OwnStage:
    """All files; raises AdapterError if there is something already, OSError if it cannot be written."""
    _refuse_used(directory)
    stage = OwnStage(directory, broker_port, _port(METRICS_PORT), _port(PAGE_PORT))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "baseline.d").mkdir()
    at_first, attacked = recorded.offset(RECORDS_AT_FIRST), recorded.offset(RECORDS_ATTACKED)
    (directory / "list").write_bytes(recorded.data[:at_first])
    (directory / "attack").write_bytes(recorded.data[at_first:attacked])
    text = _SETTINGS.format(
        host=HOST, broker=stage.broker_port, metrics=stage.metrics_port, page=stage.page_port
    )
    (directory / "dmimad.toml").write_text(text, "utf-8")
    return stage


def _refuse_used(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise AdapterError("is there and not empty", str(directory), "name another directory, or remove it")


def _introduce(screen: Screen, stage: OwnStage, *, own_broker: bool) -> None:
    screen.title("dmimad demo --stage", f"What it takes to try a daemon is in {stage.directory}:")
    screen.blank()
    screen.rows(
        [
            ("dmimad.toml", "the daemon's settings, all within that directory"),
            ("list", f"a recorded host's measurement list, {RECORDS_AT_FIRST} records; all is well"),
            ("attack", f"the {RECORDS_ATTACKED - RECORDS_AT_FIRST} records that follow when it is attacked"),
            ("baseline.d", "what is approved: nothing yet"),
        ]
    )
    screen.blank()
    if own_broker:
        screen.say(f"A broker listens on {ADDRESS}, port {stage.broker_port}. In other terminals:")
    else:
        screen.say("There is no broker here: the extra dmimad[demo] has one. In other terminals:")
        screen.command(f"mosquitto -p {stage.broker_port}")
    screen.command(f"cd {shlex.quote(os.fspath(stage.directory))}")
    screen.command("dmimad run --config dmimad.toml")
    screen.command(f"dmimad listen --port {stage.broker_port} --protocol 3")
    screen.command("dmimad status --watch --config dmimad.toml")
    screen.say("Approve what there is, then let the attacker act:")
    screen.command("dmimad baseline capture --config dmimad.toml --output baseline.d/host.toml")
    screen.command("cat attack >> list")
    screen.say(f"See what the daemon tells Prometheus, and its page, http://{ADDRESS}:{stage.page_port}/:")
    screen.command(f"curl -s http://{ADDRESS}:{stage.metrics_port}/metrics | grep ^dmimad_alerts_firing")
    if own_broker:
        screen.say("The broker goes on until Ctrl-C.")


def _port(wanted: int) -> int:
    """It, or a free one if somebody has it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, wanted))
        except OSError:
            probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])
