"""The state directory on a file system of its own, and what can befall it.

In each case the daemon is to say what is wrong, go on detecting and publishing, recover when the cause goes,
and lose nothing that it had stored. Subscribers notice a loss: the alerts are numbered without gaps.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

from tests.vm.systemd.host import SERVICE, STATE, WORK, Host

IMAGE = WORK / "state.img"
IMAGE_MIB = 24
FILLER = STATE / "filler"
DATABASE = STATE / "dmimad.db"
DEVICE = "stateful"


def prepare(host: Host) -> None:
    """Copy what is there to a small ext4, as an administrator does who moves it to another disk."""
    host.running()
    host.create(DEVICE)
    host.settled()
    host.stop()
    with IMAGE.open("wb") as file:
        file.truncate(IMAGE_MIB << 20)
    host.run("mkfs.ext4", "-q", "-m", "0", IMAGE)
    former = WORK / "former-state"
    host.run("cp", "--archive", STATE, former)
    _mount(host)
    host.run("cp", "--archive", f"{former}/.", STATE)
    host.run("chown", "dmimad:dmimad", STATE)
    host.start()
    host.settled()


def restore(host: Host) -> None:
    """The directory is on the root file system again, with what is in it by now."""
    host.stop()
    FILLER.unlink(missing_ok=True)
    latest = WORK / "latest-state"
    host.run("cp", "--archive", STATE, latest)
    host.run("umount", STATE)
    shutil.rmtree(STATE)
    host.run("cp", "--archive", latest, STATE)
    shutil.rmtree(STATE / "lost+found", ignore_errors=True)


def full_disk(host: Host) -> None:
    host.settled()
    known, after = len(host.subscriber.alerts()), host.cursor()
    host.try_to("dd", "if=/dev/zero", f"of={FILLER}", "bs=64k", "status=none")
    host.try_to("dd", "if=/dev/zero", f"of={FILLER}", "bs=512", "oflag=append", "conv=notrunc", "status=none")
    names = _changes_until_noticed(host)
    host.says("full", after)
    assert "CANNOT STORE" in host.show("StatusText"), host.show("StatusText")
    for name in names:
        host.drift("device.unexpected", name, after=known)
    FILLER.unlink()
    _recovers(host)
    _is_whole_after_a_kill(host)
    host.numbers_are_whole(known)


def read_only_file_system(host: Host) -> None:
    """As ext4 does it when the disk has an error; only a check of the file system ends that."""
    host.settled()
    known, after = len(host.subscriber.alerts()), host.cursor()
    device = host.run("findmnt", "--noheadings", "--output", "SOURCE", STATE).strip()
    try:
        Path(f"/sys/fs/ext4/{Path(device).name}/trigger_fs_error").write_text("a test", encoding="ascii")
        names = [*_changes_until_noticed(host), "while-failing"]
        host.create(names[-1])
        for name in names:
            host.drift("device.unexpected", name, after=known)
        host.says("store_failed", after)
        host.run("systemctl", "restart", SERVICE)  # on a state that can only be read, or not even that
        host.until(lambda: host.subscriber.state() == "online", "it comes up without a state to write to")
        before = len(host.subscriber.alerts())
        host.create("while-read-only")
        host.drift("device.unexpected", "while-read-only", after=before)
    finally:
        host.stop()
        host.run("umount", STATE)
        host.try_to("e2fsck", "-f", "-y", device)
        host.try_to("losetup", "--detach", device)
        _mount(host)
        host.start()
    _recovers(host)


def wrong_owner(host: Host) -> None:
    """Somebody has put the files back as root, from a backup."""
    host.settled()
    host.stop()
    for file in STATE.glob("dmimad.db*"):
        os.chown(file, 0, 0)
        file.chmod(0o600)
    after = host.cursor()
    host.run("systemctl", "start", SERVICE)
    host.until(lambda: host.subscriber.state() == "online", "it comes up")
    host.says("store_failed.*permission", after)
    known = len(host.subscriber.alerts())
    host.create("wrong-owner")
    host.drift("device.unexpected", "wrong-owner", after=known)
    for file in STATE.glob("dmimad.db*"):
        shutil.chown(file, "dmimad", "dmimad")
    _recovers(host)


def damaged_database(host: Host) -> None:
    """Its pages are overwritten while it is used; it is kept aside, and a new one is begun."""
    host.settled()
    known, after = len(host.subscriber.alerts()), host.cursor()
    with DATABASE.open("r+b") as database:
        database.write(os.urandom(DATABASE.stat().st_size))
    for file in STATE.glob("dmimad.db-*"):
        os.truncate(file, 0)
    host.create("damaged")
    host.drift("device.unexpected", "damaged", after=known)
    host.run("systemctl", "restart", SERVICE)
    host.until(lambda: host.subscriber.state() == "online", "it comes up")
    host.says("damaged", after)
    _recovers(host)
    assert len(list(STATE.glob("dmimad.db*"))) > 1, sorted(STATE.iterdir())
    known = len(host.subscriber.alerts())
    host.create("after-damage")
    host.drift("device.unexpected", "after-damage", after=known)


def _mount(host: Host) -> None:
    host.run("mount", "-o", "loop,errors=remount-ro", IMAGE, STATE)


def _changes_until_noticed(host: Host) -> list[str]:
    """New devices until an alert cannot be stored: there may be some room left in the files."""
    names = []
    while not ((host.status() or {}).get("store") or {}).get("problem"):
        names.append(f"device-{host.number()}")
        assert len(names) < 40, "so many changes, and the daemon does not say that it cannot store"
        host.create(names[-1])
        host.until(
            lambda: names[-1] in [d["name"] for d in (host.status() or {"devices": []})["devices"]],
            "it is seen",
        )
    return names


def _recovers(host: Host) -> None:
    def fine() -> bool:
        status = host.status()
        return status is not None and status["store"]["problem"] == ""

    host.until(fine, "the daemon stores again")
    host.settled()


def _is_whole_after_a_kill(host: Host) -> None:
    """What was told is stored: a new process goes on counting where the killed one was."""
    host.drop_in("50-soon", "[Service]\nRestartSec=1\n")
    before = host.pid()
    os.kill(before, signal.SIGKILL)
    host.until(lambda: host.pid() not in (0, before), "the restart")
    host.drop_in("50-soon", "")
    host.settled()
    known = len(host.subscriber.alerts())
    name = f"device-{host.number()}"
    host.create(name)
    host.drift("device.unexpected", name, after=known)


CHECKS = (full_disk, wrong_owner, read_only_file_system, damaged_database)
