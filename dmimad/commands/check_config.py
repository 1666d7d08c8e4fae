"""``dmimad check-config``: are the settings, the baseline files and the keys usable?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dmimad.baselines import Baselines, signing_key, trusted_keys
from dmimad.config import DEFAULT_FILE, load

SUMMARY = "check the settings and baseline files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"settings; default: {DEFAULT_FILE}")


def run(arguments: argparse.Namespace) -> int:
    """Returns 0; what is refused is raised.  What a daemon has accepted before is not looked at."""
    settings = load(arguments.config)
    keys, key = trusted_keys(settings), signing_key(settings)
    baseline = Baselines((), keys).read(Path(settings.baseline.directory))
    demanded = "not demanded" if keys is None else f"demanded and valid, trusted: {', '.join(keys.keyids)}"
    sys.stdout.write(
        f"settings fine: {arguments.config or DEFAULT_FILE}, host {settings.host.id}\n"
        f"baseline fine: {settings.baseline.directory}, {len(baseline.entries)} entries\n"
        f"baseline signatures: {demanded}\n"
        f"alerts: {'not signed' if key is None else f'signed by {key.keyid}'}\n"
    )
    return 0
