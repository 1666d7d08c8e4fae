"""A host as people have them: partitions, volumes, LUKS, verity and integrity, with udevd at work.

Everything on it has a name that outlives a reboot: partitions their PARTUUID, a disk without partitions its
serial number, mapped devices their uuid or name.  How udev finds them: rules of Debian's udev package, which
`init.sh` does without.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.vm.guest import truth
from tests.vm.guest.guest import Guest

NEEDS = ("udevadm", "sfdisk", "dmsetup", "lvcreate", "cryptsetup", "veritysetup", "integritysetup")

UDEVD = "/lib/systemd/systemd-udevd"
SETTLED = "udevadm settle --timeout=60"
SYSTEM = Path("/run/host")
CONFIGURATION = f"""
devices {{ use_devicesfile=0 filter=["a|^/dev/vd[a-z]1$|", "r|.*|"] multipath_component_detection=0 }}
activation {{ monitoring=0 }}
global {{ locking_dir="{SYSTEM}/lock" use_lvmlockd=0 use_lvmpolld=0 event_activation=0 }}
backup {{ backup=0 archive=0 }}
"""
ALPHA, BETA, GAMMA = (f"/dev/disk/by-id/virtio-vm-{name}" for name in ("alpha", "beta", "gamma"))
DISKS = (ALPHA, BETA, GAMMA)
VOLUMES, IMAGE, TREE = f"{ALPHA}-part1", f"{ALPHA}-part2", f"{ALPHA}-part3"
MORE_VOLUMES, SEALED = f"{BETA}-part1", f"{BETA}-part2"
PLAIN_SECTORS = 65536

FORMAT = "-q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000"

PARTITIONED = f"""
printf 'label: gpt\\nsize=220M\\nsize=8M\\nsize=4M\\n' | sfdisk -q {ALPHA} && {SETTLED}
printf 'label: gpt\\nsize=96M\\nsize=8M\\n' | sfdisk -q {BETA} && {SETTLED}
"""
MADE = f"""
pvcreate -qff -y {VOLUMES} {MORE_VOLUMES}
vgcreate -q vg0 {VOLUMES} {MORE_VOLUMES}
lvcreate -y -Wn -an -Zn -L 32M -n data vg0 {VOLUMES}
lvcreate -y -Wn -an -Zn -i 2 -I 64 -L 16M -n striped vg0
lvcreate -y -Wn -L 16M -n origin vg0
lvcreate -y -s -L 8M -n snap vg0/origin
lvcreate -y --type thin-pool -L 32M -n pool vg0 {VOLUMES}
lvcreate -y -Wn -V 64M --thinpool pool -n thin vg0
lvcreate -y -Wn -L 24M -n vault vg0 {VOLUMES}
cryptsetup luksFormat {FORMAT} --key-file KEY /dev/vg0/vault
veritysetup format {IMAGE} {TREE} --root-hash-file ROOT >/dev/null
integritysetup format -q --tag-size 4 {SEALED}
vgchange -q -an vg0
"""
#: What is set up in one go, and how.  The key is given as it is, so that the table can be loaded again.
UNITS = {
    "data": "lvchange -ay vg0/data",
    "striped": "lvchange -ay vg0/striped",
    "origin": "lvchange -ay vg0/origin",
    "thin": "lvchange -ay vg0/thin",
    "vault": "lvchange -ay vg0/vault",
    "secret": "cryptsetup open --disable-keyring --key-file KEY /dev/vg0/vault secret",
    "image-ro": f"veritysetup open {IMAGE} image-ro {TREE} --root-hash-file ROOT",
    "sealed": f"integritysetup open {SEALED} sealed",
    "plain": f"dmsetup create plain --table '0 {PLAIN_SECTORS} linear {GAMMA} 2048'",
}
#: In which order at which boot.
ORDERS = (
    ("data", "striped", "origin", "thin", "vault", "secret", "image-ro", "sealed", "plain"),
    ("plain", "sealed", "image-ro", "vault", "secret", "thin", "origin", "striped", "data"),
    ("thin", "image-ro", "origin", "vault", "plain", "secret", "striped", "data", "sealed"),
)
NAMES = frozenset(
    (
        *("vg0-data", "vg0-striped", "vg0-origin", "vg0-origin-real", "vg0-snap", "vg0-snap-cow"),
        *("vg0-pool_tmeta", "vg0-pool_tdata", "vg0-pool-tpool", "vg0-thin", "vg0-vault"),
        *("secret", "image-ro", "sealed", "plain"),
    )
)


class Host:
    """The devices, set up in the order of this boot."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        guest.at_end(self._leave)
        SYSTEM.mkdir(parents=True, exist_ok=True)
        (SYSTEM / "lvm.conf").write_text(CONFIGURATION)
        guest.shell(f"{UDEVD} --daemon && udevadm trigger --subsystem-match=block && {SETTLED}")
        if guest.boot == 1:
            (guest.lasting / "key").write_bytes(os.urandom(32).hex().encode())
            self.shell(PARTITIONED)
            self.shell(MADE)
        self.shell("\n".join(UNITS[unit] for unit in ORDERS[guest.boot - 1]))
        names = {truth.printable(guest.dm.status(number).name) for number in guest.dm.numbers()}
        assert names == NAMES, f"not as planned: {sorted(names ^ NAMES)}"

    def shell(self, commands: str) -> str:
        """Run the lines until one fails; all of them wait for udevd, as they do where there is one."""
        guest = self._guest
        commands = re.sub(r"\bKEY\b", str(guest.lasting / "key"), commands)
        commands = re.sub(r"\bROOT\b", str(guest.lasting / "root"), commands)
        environment = f"unset DM_DISABLE_UDEV; export LVM_SYSTEM_DIR={SYSTEM} LVM_SUPPRESS_FD_WARNINGS=1"
        return guest.shell(f"set -e; {environment}; {commands}\n{SETTLED}", 300)

    def up(self, unit: str) -> None:
        """Set up one of the units."""
        self.shell(UNITS[unit])

    def numbers(self) -> dict[str, str]:
        """`major:minor` of every disk, partition and mapped device, by its name."""
        control, found = self._guest.dm, {}
        for number in control.numbers():
            found[truth.printable(control.status(number).name)] = "{}:{}".format(*number)
        for path in (*DISKS, VOLUMES, IMAGE, TREE, MORE_VOLUMES, SEALED):
            device = Path(path).stat().st_rdev
            found[path] = f"{os.major(device)}:{os.minor(device)}"
        return found

    def table(self, name: str) -> str:
        """The active table as dmsetup takes it, keys included; they are these tests' own."""
        return self._guest.shell(f"dmsetup table --showkeys {name}")

    def _leave(self) -> None:
        """No udevd for the scenarios after this one."""
        self._guest.shell("udevadm control --exit; true")
