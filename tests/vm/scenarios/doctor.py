"""``dmimad doctor`` on a host where everything is as it should be."""

from __future__ import annotations

import json
import os
import subprocess

from tests.vm.guest.actions import create
from tests.vm.guest.guest import SETTINGS, Guest
from tests.vm.guest.processes import DMIMAD
from tests.vm.scenarios import _tables as t

SUMMARY = "the doctor finds no problem on a good host, before the daemon runs and while it does"

STATUSES = {"fine", "advice", "problem", "unknown"}
SECONDS = 120.0


def run(guest: Guest) -> None:
    guest.start()
    guest.step("something to measure", create("vg0-data", t.linear(0, 0, 64)))
    _examine(guest, "running")
    guest.stop()
    _examine(guest, "stopped")
    assert not guest.tally.wrong, "\n".join(guest.tally.wrong)


def _examine(guest: Guest, when: str) -> None:
    done = subprocess.run(
        [str(DMIMAD), "doctor", "--json", "--config", str(SETTINGS)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env=dict(os.environ),
        timeout=SECONDS,
        check=False,
    )
    (guest.work / f"doctor-{when}.json").write_bytes(done.stdout)
    words = (done.stdout + done.stderr).decode("utf-8", "backslashreplace")
    assert done.returncode == 0, f"{when}: exit status {done.returncode}: {words[:4000]}"
    assert b"Traceback" not in done.stderr, words
    report = json.loads(done.stdout)
    statuses = {check["id"]: check["status"] for check in report["checks"]}
    assert statuses, "no checks"
    assert set(statuses.values()) <= STATUSES, statuses
    guest.figures[when] = {"verdict": report["verdict"], "checks": statuses}
    assert "problem" not in statuses.values(), words[:4000]
