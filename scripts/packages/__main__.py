"""`python -m scripts.packages deb12 deb13 rpm`: build these into dist/packages and say where they are."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from scripts.packages.project import PROJECT
from scripts.packages.store import KINDS, package
from tests.vm.programs import VmError

OUT = PROJECT / "dist/packages"


def main(kinds: list[str]) -> int:
    """Builds one after the other; returns the exit status."""
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        return _complain(f"unknown package {unknown[0]!r}: one of {', '.join(KINDS)}")
    if os.geteuid() != 0:
        return _complain("building in a Debian root of its own needs root: sudo make packages")
    OUT.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        try:
            built = package(kind)
        except VmError as error:
            return _complain(str(error))
        place = Path(shutil.copy(built, OUT))
        sys.stdout.write(f"{place.relative_to(PROJECT)}\n")
    return 0


def _complain(text: str) -> int:
    sys.stderr.write(f"packages: {text}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
