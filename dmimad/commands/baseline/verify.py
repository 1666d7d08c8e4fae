"""``dmimad baseline verify``: are baseline files signed by a key that is trusted?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from dmimad.adapters.baseline_files import list_files, read_signed_file
from dmimad.adapters.keys import PublicKeys
from dmimad.core.dsse import Verify
from dmimad.core.errors import BaselineError
from dmimad.core.event import one_line
from dmimad.core.signed_baseline import verified_serial

SUMMARY = "are baseline files signed by a trusted key?"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--keys",
        type=Path,
        action="append",
        required=True,
        metavar="PATH",
        help="a public key, or a directory of them; may be given again",
    )
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="a baseline file, or a directory of them"
    )


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 if all are good, 1 if one is not; unusable keys are raised."""
    keys = PublicKeys.load(arguments.keys)
    lines = [_line(path, keys.verify) for path in _expanded(arguments.files)]
    for line, _ in lines:
        sys.stdout.write(one_line(line) + "\n")
    return 0 if lines and all(good for _, good in lines) else 1


def _line(path: Path, verify: Verify) -> tuple[str, bool]:
    try:
        serial, signers = verified_serial(read_signed_file(path), verify)
    except BaselineError as error:
        return f"not good: {error}", False
    return f"good: {path}: serial {serial}, signed by {', '.join(signers)}", True


def _expanded(paths: Iterable[Path]) -> list[Path]:
    return [file for path in paths for file in (list_files(path) if path.is_dir() else [path])]
