"""What the demo says about the host it runs on: can its own list be read, and how is it monitored for real.

Source: security/integrity/ima/ima_fs.c (where the lists are and who may read them),
Documentation/admin-guide/device-mapper/dm-ima.rst (what must be asked for to have tables measured).

Opens the list and closes it again; reads nothing of it, so that a long one costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dmimad.config import DEFAULT_FILE
from dmimad.settings import BaselineSettings

DEFAULT_BASELINE = BaselineSettings().directory
SECURITYFS = Path("/sys/kernel/security")
_LIST = Path("ima/binary_runtime_measurements")


@dataclass(frozen=True, slots=True)
class Advice:
    """What to say, commands to type, and what to say then."""

    text: str
    commands: Sequence[str]
    more: str


def advice(securityfs: Path = SECURITYFS, *, root: bool = False) -> Advice:
    """For this host; ``root``: the user is, and needs no sudo."""
    path = securityfs / _LIST
    sudo = "" if root else "sudo "
    commands = (f"{sudo}dmimad replay --summary {path}", f"{sudo}dmimad run")
    more = (
        f"{DEFAULT_FILE} holds the settings, all with defaults; {DEFAULT_BASELINE}/*.toml what is approved: "
        "`dmimad baseline capture` writes it."
    )
    try:
        with path.open("rb"):
            pass
    except PermissionError:
        text = "This host has a list of its own, for root to read. To monitor it for real:"
        return Advice(text, commands, more)
    except OSError:
        text = (
            "This host has no list to read: its kernel has no IMA, or securityfs is not mounted. On one "
            "that has, booted with ima_policy=critical_data so that device-mapper is measured:"
        )
        return Advice(text, commands[1:], more)
    return Advice("This host's own list can be read. To monitor it for real:", commands, more)
