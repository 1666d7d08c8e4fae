"""The same with udevd at work, which answers every event, opens every device, and makes events of its own."""

from __future__ import annotations

from pathlib import Path

from tests.vm.guest.actions import Action, shell
from tests.vm.guest.guest import Guest, Step
from tests.vm.scenarios import _tables as t

SUMMARY = "with udevd the daemon is right after each step, and events that udevd makes are no activity"
NEEDS = ("udevadm", "dmsetup", "lvcreate")

UDEVD = "/lib/systemd/systemd-udevd"
SYSTEM = Path("/run/lvm-udev")
DISK = "/dev/vda"
CONFIGURATION = f"""
devices {{ use_devicesfile=0 filter=["a|^{DISK}$|", "r|.*|"] }}
activation {{ monitoring=0 }}
global {{ locking_dir="{SYSTEM}/lock" use_lvmlockd=0 use_lvmpolld=0 }}
backup {{ backup=0 archive=0 }}
"""
SETTLED = "udevadm settle --timeout=60"


def synced(command: str) -> Action:
    """A command that waits for udevd, as all do where there is one; and until udevd has nothing to do."""
    environment = f"unset DM_DISABLE_UDEV; export LVM_SYSTEM_DIR={SYSTEM} LVM_SUPPRESS_FD_WARNINGS=1"
    return shell(f"{environment}; {command} && {SETTLED}")


STEPS = (
    Step("create", synced(f"dmsetup create data --table '{t.linear(0, 0, 64)}'")),
    Step("load", synced(f"dmsetup load data --table '{t.linear(1, 0, 64)}'")),
    Step("resume", synced("dmsetup resume data")),
    Step("rename", synced("dmsetup rename data other")),
    Step("back to the first", synced(f"dmsetup load other --table '{t.linear(0, 0, 64)}'")),
    Step("resume the first", synced("dmsetup resume other")),
    Step("suspend and resume", synced("dmsetup suspend other && dmsetup resume other")),
    Step("written to and closed", synced("dd if=/dev/zero of=/dev/mapper/other bs=512 count=1 status=none")),
    Step("events made for all disks", synced("udevadm trigger --subsystem-match=block")),
    Step("remove", synced("dmsetup remove other")),
    Step("volume group", synced(f"pvcreate -qff -y {DISK} && vgcreate -q vg1 {DISK}")),
    Step("volume", synced("lvcreate -y -L 16M -n data vg1")),
    Step("snapshot", synced("lvcreate -y -s -L 8M -n snap vg1/data")),
    Step("snapshot removed", synced("lvremove -f vg1/snap")),
    Step("deactivated", synced("vgchange -an vg1")),
    Step("reactivated", synced("vgchange -ay vg1")),
    Step("volume group removed", synced("vgremove -f vg1")),
)


def run(guest: Guest) -> None:
    SYSTEM.mkdir(parents=True, exist_ok=True)
    (SYSTEM / "lvm.conf").write_text(CONFIGURATION)
    guest.at_end(lambda: _clean(guest))
    guest.shell(f"{UDEVD} --daemon && udevadm trigger --subsystem-match=block && {SETTLED}")
    guest.start()
    guest.run(STEPS)
    guest.finish()


def _clean(guest: Guest) -> None:
    """No udevd for the scenarios after this one."""
    guest.shell("udevadm control --exit; true")
    guest.remove_all()
    guest.shell(f"wipefs -aq {DISK}")
