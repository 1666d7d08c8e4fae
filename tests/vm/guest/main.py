"""Runs scenarios inside the machine:  python main.py --out RESULTS NAME…

Each scenario is a module of ``tests.vm.scenarios`` with
  SUMMARY: str                 what it shows, in a line
  KERNELS: tuple[str, ...]     releases it is for, as beginnings ("7.", "6.1."); all if there is none
  NEEDS: tuple[str, ...]       programs without which it is skipped
  BOOTS: int                   how often it is run, each time after another reboot (1); see `Guest.boot`
  run(guest: Guest) -> None    AssertionError is a failure, and so is any other exception

One JSON line per scenario is appended to RESULTS; files of a scenario are in a folder of its name beside it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.vm.guest.dm import CONTROL, Control
from tests.vm.guest.guest import HOST, Guest
from tests.vm.guest.processes import BROKER_PORT, Broker
from tests.vm.guest.subscriber import Subscriber
from tests.vm.guest.truth import LIST

ORDERED_SINCE = 7
"""Kernels of this major release and later write the reworked dialect."""
MESSAGE_CHARS = 6000


def main() -> int:
    """0 if every scenario has a result, whatever it is."""
    parser = argparse.ArgumentParser(description="Run scenarios in this machine.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--boot", type=int, default=1, help="how often these scenarios have been begun")
    parser.add_argument("names", nargs="+")
    arguments = parser.parse_args()
    out: Path = arguments.out
    _prepare()
    control = Control(legacy=_legacy())
    broker = Broker(out.parent / "broker")
    subscriber = Subscriber(BROKER_PORT, HOST)
    for name in arguments.names:
        result = _run(name, out.parent / name, subscriber, control, arguments.boot)
        with out.open("a", encoding="utf-8") as results:
            results.write(json.dumps({"scenario": name, **result}, ensure_ascii=False) + "\n")
    subscriber.close()
    broker.close()
    return 0


def _prepare() -> None:
    """What a scenario may take for granted; the machine's own start has done most of it."""
    if not CONTROL.exists() or not Path("/dev/ram0").exists():
        subprocess.run(["modprobe", "-a", "brd", "loop", "dm-mod"], check=True)
    os.environ["DM_DISABLE_UDEV"] = "1"


def _legacy() -> bool:
    return int(os.uname().release.split(".")[0]) < ORDERED_SINCE


def _run(name: str, out: Path, subscriber: Subscriber, control: Control, boot: int) -> dict[str, Any]:
    """One scenario; what its line says: `continued` if all went well and there is to be another boot."""
    started = time.monotonic()
    print(f"{name} …", flush=True)  # noqa: T201  # the machine's console
    figures: dict[str, Any] = {}
    try:
        scenario = importlib.import_module(f"tests.vm.scenarios.{name}")
        status, message = "skipped", _unfit(scenario)
        if not message:
            boots = getattr(scenario, "BOOTS", 1)
            guest = Guest(out, subscriber, control, legacy=_legacy(), boot=boot, boots=boots)
            figures = guest.figures
            status, message = _attempt(scenario, guest)
            shutil.copyfile(LIST, guest.kept / "list")
            if status == "passed" and boot < boots:
                status = "continued"
    except Exception:
        status, message = "failed", traceback.format_exc()
    seconds = round(time.monotonic() - started, 1)
    print(f"{name}: {status} after {seconds} s\n{message}", flush=True)  # noqa: T201  # as above
    return {"status": status, "message": message[:MESSAGE_CHARS], "seconds": seconds, "figures": figures}


def _attempt(scenario: ModuleType, guest: Guest) -> tuple[str, str]:
    message = ""
    try:
        scenario.run(guest)
    except AssertionError as error:
        message = str(error) or traceback.format_exc()
    except Exception:
        message = traceback.format_exc()
    try:
        guest.close()
    except Exception:
        message = f"{message}\nat its end: {traceback.format_exc()}".strip()
    return ("failed", message) if message else ("passed", "")


def _unfit(scenario: ModuleType) -> str:
    """Why the scenario cannot be run here; empty if it can."""
    release = os.uname().release
    kernels: tuple[str, ...] = getattr(scenario, "KERNELS", ())
    if kernels and not release.startswith(kernels):
        return f"is for kernels {', '.join(kernels)}"
    missing = [program for program in getattr(scenario, "NEEDS", ()) if shutil.which(program) is None]
    return f"needs {', '.join(missing)}" if missing else ""


if __name__ == "__main__":
    sys.exit(main())
