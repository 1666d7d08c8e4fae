"""What the packages install besides the program: which file of the project goes where.

Laid out once as a tree, which every package takes as it is. Man pages and completions are made here, from the
program itself. Users, directories and what a package's scripts do are not told here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scripts.packages.completion import PLACES, completion
from scripts.packages.man import pages
from scripts.packages.project import PROJECT, copy, write

DOCUMENTATION = "usr/share/doc/dmimad"
UNITS = ("dmimad.service", "dmimad-live.socket", "dmimad-live.service")
# OpenFile= and notify-reload came with systemd 253.
DROP_IN = "dmimad.service.d/10-systemd-253.conf"
# Of the project's tree to the package's; a folder is taken with all that is in it.
FILES = {
    "systemd/catalog/dmimad.catalog": "usr/lib/systemd/catalog/dmimad.catalog",
    "config/dmimad.toml": "etc/dmimad/dmimad.toml",
    "config/ima-policy": f"{DOCUMENTATION}/examples/ima-policy",
    "config/mosquitto": f"{DOCUMENTATION}/examples/mosquitto",
    "config/prometheus": f"{DOCUMENTATION}/examples/prometheus",
    "config/grafana": f"{DOCUMENTATION}/examples/grafana",
    "config/policies": f"{DOCUMENTATION}/examples/policies",
    "README.md": f"{DOCUMENTATION}/README.md",
    "docs": f"{DOCUMENTATION}/docs",
}
# Other names of a page: what people and the units call it.
MAN_ALIASES = {f"dmimad{name}.8": "dmimad.service.8" for name in ("", "-live.service", "-live.socket")}
EMPTY = {"etc/dmimad/baseline.d": 0o755, "etc/dmimad/secrets": 0o700}
# They create the user and its directories when the package is installed.
SYSUSERS = "systemd/sysusers.d/dmimad.conf"
TMPFILES = "systemd/tmpfiles.d/dmimad.conf"


@dataclass(frozen=True, slots=True)
class Layout:
    """What differs between the distributions."""

    units: str = "usr/lib/systemd/system"
    drop_in: bool = True


def lay(tree: Path, layout: Layout) -> None:
    """Put everything at its place below `tree`."""
    units = {f"systemd/{name}": f"{layout.units}/{name}" for name in UNITS}
    if layout.drop_in:
        units[f"systemd/{DROP_IN}"] = f"{layout.units}/{DROP_IN}"
    for source, place in (FILES | units).items():
        copy(PROJECT / source, tree / place)
    for shell, place in PLACES.items():
        write(tree / place, completion(shell))
    for name, text in pages().items():
        write(tree / f"usr/share/man/man{name[-1]}/{name}", text)
    for alias, name in MAN_ALIASES.items():
        (tree / "usr/share/man/man8" / alias).symlink_to(name)
    for place, mode in EMPTY.items():
        (tree / place).mkdir(parents=True)
        (tree / place).chmod(mode)
