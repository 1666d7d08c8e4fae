"""``dmimad check-config``: are the settings and the baseline files usable?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dmimad.adapters.baseline_files import read_baseline
from dmimad.config import DEFAULT_FILE
from dmimad.daemon import load_supported

SUMMARY = "check the settings and baseline files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"settings; default: {DEFAULT_FILE}")


def run(arguments: argparse.Namespace) -> int:
    """Returns 0; what is refused is raised."""
    settings = load_supported(arguments.config)
    baseline = read_baseline(Path(settings.baseline.directory))
    sys.stdout.write(
        f"settings fine: {arguments.config or DEFAULT_FILE}, host {settings.host.id}\n"
        f"baseline fine: {settings.baseline.directory}, {len(baseline.entries)} entries\n"
    )
    return 0
