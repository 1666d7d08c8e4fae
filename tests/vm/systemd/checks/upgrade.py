"""From an older version to this one with alerts pending, and the end: removed, and purged."""

from __future__ import annotations

from pathlib import Path

from tests.vm.systemd.host import BASELINES, SERVICE, SETTINGS, STATE, Host

OLDER, NEWER = "/packages/older/dmimad.deb", "/packages/dmimad.deb"
DEVICE = "upgraded"


def prepare(host: Host) -> None:
    """The older version runs, enabled."""
    host.running()
    host.run("dpkg", "-i", OLDER)
    host.run("systemctl", "enable", SERVICE)
    host.run("systemctl", "restart", SERVICE)
    known = len(host.subscriber.alerts())
    host.create(DEVICE)
    host.drift("device.unexpected", DEVICE, after=known)
    host.settled()


def pending_alerts_survive(host: Host) -> None:
    """They arrive, once, from the new version, and the service runs on as it was configured."""
    settings, before, known = SETTINGS.read_bytes(), host.pid(), len(host.subscriber.alerts())
    host.broker.stop()
    host.create("pending")
    host.until(lambda: _pending(host), "an alert waits for the broker")
    host.run("dpkg", "-i", NEWER)
    host.until(lambda: host.pid() not in (0, before), "the upgrade restarts the service")
    host.until(lambda: _pending(host), "the alert still waits")
    assert host.run("systemctl", "is-enabled", SERVICE).strip() == "enabled"
    assert SETTINGS.read_bytes() == settings
    host.broker.start()
    host.settled()
    event = host.drift("device.unexpected", "pending", after=known)
    assert host.subscriber.deliveries(event["id"]) == 1
    host.numbers_are_whole(known)


def removed_keeps_state(host: Host) -> None:
    host.run("dpkg", "-r", "dmimad")
    assert host.try_to("systemctl", "is-active", SERVICE)[1].strip() != "active"
    host.until(lambda: host.subscriber.state() == "offline", "subscribers are told `offline`")
    assert not Path("/usr/bin/dmimad").exists()
    assert (STATE / "dmimad.db").is_file()
    assert SETTINGS.is_file()
    assert list(BASELINES.glob("*.toml"))


def purged_leaves_nothing(host: Host) -> None:
    host.run("dpkg", "-P", "dmimad")
    left = [
        path
        for path in (STATE, SETTINGS.parent, Path("/run/dmimad"), Path("/usr/lib/dmimad"))
        if path.exists()
    ]
    assert not left, left
    assert "dmimad" not in host.run("systemctl", "list-unit-files", "--no-pager", "--no-legend")


def _pending(host: Host) -> int:
    status = host.status()
    return 0 if status is None else int(status["outbox"]["pending"])


CHECKS = (pending_alerts_survive, removed_keeps_state, purged_leaves_nothing)
