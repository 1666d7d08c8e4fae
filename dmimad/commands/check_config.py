"""``dmimad check-config``: are the settings, the baseline files, the certificates and the keys usable?"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from dmimad.adapters.control.server import user_ids
from dmimad.baselines import Baselines, signing_key, trusted_keys
from dmimad.broker_access import check_files, service_users
from dmimad.config import DEFAULT_FILE, in_clear, load, page_hidden

SUMMARY = "check the settings and baseline files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"settings; default: {DEFAULT_FILE}")


def run(arguments: argparse.Namespace) -> int:
    """Returns 0; what is refused is raised.  What a daemon has accepted before is not looked at."""
    settings = load(arguments.config)
    used = check_files(settings, os.environ, time.time())
    keys, key = trusted_keys(settings), signing_key(settings, os.environ, service_users())
    baseline = Baselines((), keys).read(Path(settings.baseline.directory))
    demanded = "not demanded" if keys is None else f"demanded and valid, trusted: {', '.join(keys.keyids)}"
    sys.stdout.write(
        f"settings fine: {arguments.config or DEFAULT_FILE}, host {settings.host.id}\n"
        f"baseline fine: {settings.baseline.directory}, {len(baseline.entries)} entries\n"
        f"baseline signatures: {demanded}\n"
        f"alerts: {'not signed' if key is None else f'signed by {key.keyid}'}\n"
    )
    sys.stdout.writelines(f"{line}\n" for line in used.fine)
    warnings = [*in_clear(settings), *map(str, page_hidden(settings)), *used.warnings]
    sys.stdout.writelines(f"warning: {line}\n" for line in warnings)
    if not Path(settings.baseline.directory).exists():
        sys.stdout.write(f"warning: baseline.directory: there is no {settings.baseline.directory} yet\n")
    for name in user_ids(settings.control.users)[1]:
        sys.stdout.write(f"warning: control.users: there is no user {name!r} here; correct it\n")
    return 0
