"""The service manager restarts a daemon that hangs, and leaves one alone that has nobody to talk to."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

from tests.vm.systemd.host import SERVICE, Host

WATCHDOG_SECONDS = 12
SHORT = f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}\nRestartSec=1\n"
HANG = Path("/usr/local/lib/vm-hang.py")
AWAY_SECONDS = 3 * WATCHDOG_SECONDS
DEVICE = "unheard"


def prepare(host: Host) -> None:
    host.running()
    assert host.show("WatchdogUSec") not in ("", "0", "infinity"), "the unit has no watchdog"
    host.drop_in("50-watchdog", SHORT)
    host.run("systemctl", "restart", SERVICE)
    host.settled()


def stopped_daemon_is_restarted(host: Host) -> None:
    before, restarts, after = host.pid(), _restarts(host), host.cursor()
    os.kill(before, signal.SIGSTOP)
    host.until(lambda: _restarts(host) == restarts + 1 and host.pid() not in (0, before), "the restart")
    assert _watchdog_spoke(host, after)
    host.settled()
    assert _restarts(host) == restarts + 1


def broker_away_for_long_is_no_reason(host: Host) -> None:
    """No restart, and what happened meanwhile arrives when the broker is back."""
    host.settled()
    before, restarts, known = host.pid(), _restarts(host), len(host.subscriber.alerts())
    host.broker.stop()
    host.create(DEVICE)
    away = time.monotonic()
    host.until(
        lambda: ((host.status() or {}).get("outbox") or {}).get("pending"), "an alert waits for the broker"
    )
    time.sleep(max(0.0, AWAY_SECONDS - (time.monotonic() - away)))  # so long the watchdog had time to bite
    assert host.pid() == before
    assert _restarts(host) == restarts
    assert "not connected" in host.show("StatusText"), host.show("StatusText")
    host.broker.start()
    host.settled()
    assert host.pid() == before
    host.drift("device.unexpected", DEVICE, after=known)


def hanging_task_is_restarted(host: Host) -> None:
    """The process is alive and serves, but one task does not get on: the watchdog is not fed."""
    shutil.copy(Path(__file__).parents[1] / "hang.py", HANG)
    with Path("/usr/bin/dmimad").open(encoding="utf-8") as program:
        interpreter = program.readline().removeprefix("#!").split()[0]
    # Where the package brings modules for Debian's own Python, its program is what names their place.
    place = "Environment=PYTHONPATH=/usr/lib/dmimad"
    host.drop_in("60-hang", f"[Service]\n{place}\nExecStart=\nExecStart={interpreter} {HANG} run\n")
    restarts, after = _restarts(host), host.cursor()
    try:
        host.run("systemctl", "restart", SERVICE)
        host.until(lambda: _restarts(host) > restarts, "the restart")
        assert _watchdog_spoke(host, after)
        host.says("task_hangs", after)
    finally:
        host.drop_in("60-hang", "")
        host.run("systemctl", "restart", SERVICE)
    host.settled()


def killed_daemon_is_restarted(host: Host) -> None:
    """SIGKILL, as by the kernel when memory is short; nothing that was told is told again."""
    host.running()
    before, restarts = host.pid(), _restarts(host)
    ids = [event["id"] for event in host.subscriber.alerts()]
    os.kill(before, signal.SIGKILL)
    host.until(lambda: _restarts(host) == restarts + 1 and host.pid() not in (0, before), "the restart")
    host.settled()
    assert [event["id"] for event in host.subscriber.alerts()][: len(ids)] == ids


def _restarts(host: Host) -> int:
    return int(host.show("NRestarts"))


def _watchdog_spoke(host: Host, after: str) -> bool:
    entries = host.journal(after)
    return any(
        "watchdog" in str(entry.get("MESSAGE")).lower() for entry in entries if entry.get("_PID") == "1"
    )


CHECKS = (
    stopped_daemon_is_restarted,
    broker_away_for_long_is_no_reason,
    hanging_task_is_restarted,
    killed_daemon_is_restarted,
)
