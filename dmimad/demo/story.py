"""What happens in the demo, as data: chapters of acts, and the alerts that each act must bring.

Source: the steps recorded with the list (``data/README.md``): their order, and their commands, shortened.
The hashes in the baseline are those that the kernel itself measured for these tables.

The commands ran when the list was recorded; what happens now is that the records they left are appended,
and that the baseline file is edited.  Nothing is fed or published here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Records in the list when the daemon starts: the boot, before the first device.
BOOT_RECORDS = 456

_DATA_AT_FIRST = "sha256:b93afcebcfd4c2d3bc713565e717859b8fa9e83e03727ebab33d823e57cc540e"
_DATA_EXTENDED = "sha256:a10f588c4bf7053ed2cedec2d4405c18de5c50fa7e5a310b5a9fb00a004ccc9e"
_DATA_MERGING = "sha256:ca6d14e86b775a91b430c0b7c55c7ed06197f451127945935609d27706d335ed"
_IMAGE_VERITY = "sha256:f3b63d8ad43b78d4e5f2ffefe47f43b06e9d78e8fb5dfabb71c02368779a4e71"


@dataclass(frozen=True, slots=True)
class Expected:
    """An alert that must come."""

    status: str
    code: str
    device: str


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that happens, and what must follow before the story goes on.

    ``commands`` left the records up to ``records`` (0: none are appended).  ``baseline``, if not empty,
    replaces the baseline file, and ``approved`` is the device that must then be published as such.
    ``note`` introduces it all.
    """

    note: str = ""
    commands: Sequence[str] = ()
    records: int = 0
    baseline: str = ""
    approved: str = ""
    alerts: Sequence[Expected] = ()
    rest_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Chapter:
    """A headline, and what happens under it."""

    title: str
    acts: Sequence[Act]


BASELINE_AT_FIRST = f"""\
version = 1

[[device]]
name = "vg0-data"
hashes = [
    "{_DATA_AT_FIRST}",
]
"""

_BASELINE_REVIEWED = f"""\
version = 1

[[device]]
name = "vg0-data"
hashes = [
    "{_DATA_AT_FIRST}",
    "{_DATA_EXTENDED}",
    "{_DATA_MERGING}",
]
"""

_BASELINE_WITH_IMAGE = f"""\
{_BASELINE_REVIEWED}
[[device]]
name = "image-ro"
required = true
hashes = ["{_IMAGE_VERITY}"]
"""

_FIRING, _RESOLVED = "firing", "resolved"

STORY = (
    Chapter(
        "A host boots and makes two volumes",
        (
            Act(
                note="The daemon has read what the boot measured, and now the list grows. The baseline "
                "approves one table: that of vg0-data, as it is made here.",
                commands=("lvcreate -L 64M -n data vg0", "lvcreate -L 32M -n log vg0"),
                records=460,
                rest_seconds=0.6,
            ),
        ),
    ),
    Chapter(
        "An administrator extends vg0-data, and nobody has told the baseline",
        (
            Act(
                commands=("lvextend -L 96M vg0/data",),
                records=467,
                alerts=(Expected(_FIRING, "drift.active", "vg0-data"),),
                rest_seconds=1.0,
            ),
            Act(
                note="The change is reviewed, and the new table's hash goes into the baseline file, with "
                "that of the table LVM uses while it merges a snapshot, which is next.",
                baseline=_BASELINE_REVIEWED,
                alerts=(Expected(_RESOLVED, "drift.active", "vg0-data"),),
                rest_seconds=0.6,
            ),
        ),
    ),
    Chapter(
        "A day of ordinary work",
        (
            Act(
                commands=("lvcreate -s -L 16M -n snap vg0/data; lvconvert --merge vg0/snap",),
                records=496,
                rest_seconds=0.15,
            ),
            Act(
                commands=("lvrename vg0/log vg0/journal; lvchange -an, -ay",), records=501, rest_seconds=0.15
            ),
            Act(
                commands=("cryptsetup luksFormat, open, close, refresh, resize",),
                records=520,
                rest_seconds=0.15,
            ),
            Act(
                commands=("veritysetup open /dev/vg0/image image-ro /dev/vg0/hash 3f9e…",),
                records=529,
                rest_seconds=0.15,
            ),
            Act(commands=("integritysetup format, open",), records=540, rest_seconds=0.15),
            Act(
                commands=("lvcreate --type thin-pool …; lvcreate -s vg0/thinvol",),
                records=578,
                rest_seconds=0.4,
            ),
            Act(
                note="image-ro is verified by dm-verity. It goes into the baseline, as required.",
                baseline=_BASELINE_WITH_IMAGE,
                approved="image-ro",
                rest_seconds=0.4,
            ),
        ),
    ),
    Chapter(
        "An attacker replaces the verified image",
        (
            Act(
                commands=("veritysetup close image-ro",),
                records=579,
                alerts=(Expected(_FIRING, "device.missing", "image-ro"),),
                rest_seconds=0.9,
            ),
            Act(
                note="The same name and the same disk again, but linear: nothing is verified any more.",
                commands=("echo 0 32768 linear /dev/vg0/image 0 | dmsetup create image-ro -r",),
                records=581,
                alerts=(
                    Expected(_RESOLVED, "device.missing", "image-ro"),
                    Expected(_FIRING, "drift.active", "image-ro"),
                ),
                rest_seconds=1.0,
            ),
        ),
    ),
    Chapter(
        "An attacker points vg0-data at another part of the disk",
        (
            Act(
                note="First the table is only staged.",
                commands=("echo 0 196608 linear /dev/vdb 300000 | dmsetup load vg0-data",),
                records=582,
                alerts=(Expected(_FIRING, "drift.inactive", "vg0-data"),),
                rest_seconds=0.9,
            ),
            Act(
                commands=("dmsetup resume vg0-data",),
                records=583,
                alerts=(
                    Expected(_RESOLVED, "drift.inactive", "vg0-data"),
                    Expected(_FIRING, "drift.active", "vg0-data"),
                ),
                rest_seconds=1.0,
            ),
        ),
    ),
    Chapter(
        "Everything is taken down, and vg0 is activated again",
        (
            Act(
                commands=(
                    "lvchange --refresh vg0/data",
                    "cryptsetup close secret; dmsetup remove image-ro; …",
                    "vgchange -an vg0; vgchange -ay vg0",
                ),
                records=612,
                alerts=(
                    Expected(_RESOLVED, "drift.active", "image-ro"),
                    Expected(_RESOLVED, "drift.active", "vg0-data"),
                    Expected(_FIRING, "device.missing", "image-ro"),
                    Expected(_FIRING, "device.removed", "vg0-data"),
                ),
                rest_seconds=0.6,
            ),
            Act(
                note="The refresh and the activation did bring the right vg0-data back, but left no record: "
                "the kernel never writes the same one twice. The list alone calls it gone.",
                rest_seconds=1.0,
            ),
        ),
    ),
)
