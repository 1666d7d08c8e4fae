"""Descriptors of the list and its count, opened by the service manager for a daemon without the right to.

Source: systemd.service(5), OpenFile= (253 and later); seq_file.c: such a descriptor is as good as one's own.

What it does not do: find out what was passed (the process's environment tells that), or read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

LIST_DESCRIPTOR, COUNT_DESCRIPTOR = "ima-list", "ima-count"
"""What the units call them."""


@dataclass(frozen=True, slots=True)
class Passed:
    """Open descriptors; -1: none.  Whoever gets them neither closes them nor hands them on.

    Attributes:
        list: of `binary_runtime_measurements`.
        count: of `runtime_measurements_count`.
    """

    list: int = -1
    count: int = -1

    def serving(self, path: Path | None, *, hold_open: bool) -> Passed:
        """What of it serves a reader of the list at `path` (None: of any); the list is closed if it does not.

        As long as it is open nobody can trim the list, which is what `hold_open` is about.
        """
        if self.list < 0 or (hold_open and (path is None or _is_at(self.list, path))):
            return self
        os.close(self.list)
        return replace(self, list=-1)


NOTHING_PASSED = Passed()


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return False
