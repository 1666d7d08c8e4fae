"""What administrators do all day: volumes, snapshots, thin pools, LUKS, verity, integrity."""

from __future__ import annotations

import os
from pathlib import Path

from tests.vm.guest.actions import Action, shell
from tests.vm.guest.guest import Guest, Step

SUMMARY = "after every step of ordinary LVM and LUKS work the daemon's devices equal the kernel's"
NEEDS = ("lvcreate", "cryptsetup", "veritysetup", "integritysetup")

SYSTEM = Path("/run/lvm-vm")
DISK, SECOND = "/dev/vda", "/dev/ram6"
CONFIGURATION = f"""
devices {{
    use_devicesfile=0
    obtain_device_list_from_udev=0
    multipath_component_detection=0
    md_component_detection=0
    issue_discards=0
    filter=["a|^{DISK}$|", "a|^{SECOND}$|", "r|.*|"]
}}
activation {{ udev_sync=0 udev_rules=0 monitoring=0 }}
global {{ locking_dir="{SYSTEM}/lock" use_lvmlockd=0 use_lvmpolld=0 }}
backup {{ backup=0 archive=0 }}
"""
KEY = SYSTEM / "key"
FORMAT = f"-q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file {KEY}"


def lvm(command: str) -> Action:
    """LVM commands, several joined by ``&&``."""
    return shell(f"export LVM_SYSTEM_DIR={SYSTEM} LVM_SUPPRESS_FD_WARNINGS=1; {command}")


VOLUMES = (
    Step("physical volumes", lvm(f"pvcreate -qff -y {DISK} {SECOND}")),
    Step("volume group", lvm(f"vgcreate -q vgl {DISK} {SECOND}")),
    Step("linear", lvm(f"lvcreate -y -Wn -L 48M -n data vgl {DISK}")),
    Step("linear with wiping", lvm(f"lvcreate -y -L 32M -n log vgl {DISK}")),
    Step("striped", lvm("lvcreate -y -Wn -i 2 -I 64 -L 16M -n striped vgl")),
    Step("extend", lvm(f"lvextend -y -L 64M vgl/data {DISK}")),
    Step("reduce", lvm("lvreduce -f -y -L 56M vgl/data")),
    Step("snapshot", lvm(f"lvcreate -y -s -L 16M -n snap vgl/data {DISK}")),
    Step("snapshot removed", lvm("lvremove -f vgl/snap")),
    Step("the same snapshot again", lvm(f"lvcreate -y -s -L 16M -n snap vgl/data {DISK}")),
    Step("merge", lvm("lvconvert -y -i 1 --merge vgl/snap")),
    Step("rename", lvm("lvrename vgl/log vgl/journal")),
    Step("deactivate", lvm("lvchange -an vgl/journal")),
    Step("reactivate unchanged", lvm("lvchange -ay vgl/journal")),
    Step("refresh", lvm("lvchange --refresh vgl/data")),
    Step("read-only", lvm("lvchange -pr vgl/striped")),
    Step("writable", lvm("lvchange -prw vgl/striped")),
    Step("rename there", lvm("lvrename vgl/journal vgl/log")),
    Step("rename back", lvm("lvrename vgl/log vgl/journal")),
)

MAPPINGS = (
    Step("luksFormat", shell(f"cryptsetup luksFormat {FORMAT} /dev/vgl/journal")),
    Step("luksOpen", shell(f"cryptsetup open --key-file {KEY} /dev/vgl/journal secret")),
    Step("luksClose", shell("cryptsetup close secret")),
    Step("luksOpen again", shell(f"cryptsetup open --key-file {KEY} /dev/vgl/journal secret")),
    Step("suspend", shell("cryptsetup luksSuspend secret"), optional=True),
    Step("resume", shell(f"cryptsetup luksResume --key-file {KEY} secret"), optional=True),
    Step("refresh luks", shell(f"cryptsetup refresh --allow-discards --key-file {KEY} secret")),
    Step("resize luks", shell(f"cryptsetup resize --key-file {KEY} --size 8192 secret")),
    Step(
        "volumes for verity", lvm("lvcreate -y -Wn -L 8M -n image vgl && lvcreate -y -Wn -L 4M -n tree vgl")
    ),
    Step(
        "verity open",
        shell(
            f"veritysetup format /dev/vgl/image /dev/vgl/tree --root-hash-file {SYSTEM}/root >/dev/null"
            f" && veritysetup open /dev/vgl/image image-ro /dev/vgl/tree --root-hash-file {SYSTEM}/root"
        ),
    ),
    Step("verity read", shell("cat /dev/mapper/image-ro >/dev/null")),
    Step("verity close", shell("veritysetup close image-ro")),
    Step(
        "verity open again",
        shell(f"veritysetup open /dev/vgl/image image-ro /dev/vgl/tree --root-hash-file {SYSTEM}/root"),
    ),
    Step("volume for integrity", lvm("lvcreate -y -L 8M -n integ vgl")),
    Step("integrity format", shell("integritysetup format -q --no-wipe --tag-size 4 /dev/vgl/integ")),
    Step("integrity open", shell("integritysetup open /dev/vgl/integ integ-open")),
    Step("integrity close", shell("integritysetup close integ-open")),
    Step("integrity open again", shell("integritysetup open /dev/vgl/integ integ-open")),
)

THIN = (
    Step("thin pool", lvm(f"lvcreate -y --type thin-pool -L 32M -n pool vgl {DISK}")),
    Step("thin volume", lvm("lvcreate -y -Wn -V 64M --thinpool pool -n thin vgl")),
    Step("thin snapshot", lvm("lvcreate -y -s -n thinsnap vgl/thin")),
    Step("thin snapshot active", lvm("lvchange -ay -K vgl/thinsnap")),
    Step("thin extended", lvm("lvextend -y -L 96M vgl/thin")),
    Step("thin snapshot removed", lvm("lvremove -f vgl/thinsnap")),
)

MOVES = (
    Step("volume to move", lvm(f"lvcreate -y -Wn -L 8M -n moved vgl {DISK}")),
    Step("pvmove", lvm(f"pvmove -i 1 -n moved {DISK} {SECOND}")),
    Step("mirror", lvm("lvcreate -y -Wn --type mirror --mirrorlog core -m1 --nosync -L 8M -n mir vgl")),
    Step("raid1", lvm("lvcreate -y -Wn --type raid1 -m1 --nosync -L 8M -n raid vgl")),
)

ENDS = (
    Step(
        "close all",
        shell("cryptsetup close secret; veritysetup close image-ro; integritysetup close integ-open"),
    ),
    Step("all deactivated", lvm("vgchange -an vgl")),
    Step("all reactivated unchanged", lvm("vgchange -ay vgl")),
    Step("open on top again", shell(f"cryptsetup open --key-file {KEY} /dev/vgl/journal secret")),
    Step("deactivated again", lvm("cryptsetup close secret && vgchange -an vgl")),
    Step("and reactivated", lvm("vgchange -ay vgl")),
    Step("volume removed", lvm("lvremove -f vgl/striped vgl/moved")),
    Step("volume group removed", lvm("vgremove -f vgl")),
)

#: Work that ends where it began.
DAY = (
    *("luksClose", "extend", "reduce", "snapshot", "snapshot removed", "the same snapshot again", "merge"),
    *(
        "deactivate",
        "reactivate unchanged",
        "refresh",
        "read-only",
        "writable",
        "rename there",
        "rename back",
    ),
    *("luksOpen again", "refresh luks", "resize luks", "verity close", "verity open again"),
    *("integrity close", "integrity open again"),
    *("thin snapshot", "thin snapshot active", "thin snapshot removed"),
)
DAY_ON = "6.1."
#: What the baseline is the cause of.
JUDGING = ("drift.", "device.", "policy.")


def run(guest: Guest) -> None:
    SYSTEM.mkdir(parents=True, exist_ok=True)
    (SYSTEM / "lvm.conf").write_text(CONFIGURATION)
    KEY.write_bytes(b"a key of tests")
    guest.at_end(lambda: _clean(guest))
    guest.start()
    for steps in (VOLUMES, MAPPINGS, THIN, MOVES):
        guest.run(steps)
    if os.uname().release.startswith(DAY_ON):
        guest.finish()
        _day(guest)
    guest.run(ENDS)
    guest.finish()


def _day(guest: Guest) -> None:
    """What an administrator is told of a day's work whose beginning and end are the approved state."""
    guest.capture()
    after, names = len(guest.alerts), tuple(guest.by_name())
    steps = {step.label: step for step in (*VOLUMES, *MAPPINGS, *THIN)}
    for label in DAY:
        before = len(guest.alerts)
        guest.step(f"approved: {label}", steps[label].action, optional=steps[label].optional)
        guest.say(f"  {label}", *(f"      {alert}" for alert in guest.alerts[before:]))
    guest.until_all("approved", names)
    guest.quiet()
    told = guest.alerts[after:]
    firing = sum(alert.status == "firing" for alert in told)
    guest.say(
        f"{len(DAY)} steps with the final state approved: {firing} alerts, {len(told) - firing} resolved"
    )
    holding = [alert["message"] for alert in guest.status()["alerts"] if alert["code"].startswith(JUDGING)]
    assert not holding, f"at the day's end the daemon still says: {', '.join(holding)}"
    guest.disapprove()


def _clean(guest: Guest) -> None:
    """Without a trace on the disks, whatever has failed."""
    guest.remove_all()
    guest.shell(f"wipefs -aq {DISK} {SECOND}")
