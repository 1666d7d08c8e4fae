"""``dmimad baseline sign``: sign baseline files, so that hosts with trusted keys accept them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dmimad.adapters.baseline_files import read_signed_file, write_signatures
from dmimad.adapters.keys import SigningKey
from dmimad.core.signed_baseline import SUFFIX, sign_file

SUMMARY = "sign baseline files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--key", type=Path, required=True, metavar="KEY", help="the private key, made with dmimad keygen"
    )
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help=f"a baseline file with a serial; its signatures are in FILE{SUFFIX}",
    )


def run(arguments: argparse.Namespace) -> int:
    """Returns 0; if one file is refused, which is raised, none is signed."""
    key = SigningKey.load(arguments.key)
    made = {path: sign_file(read_signed_file(path), key.keyid, key.sign) for path in arguments.files}
    for path, signatures in made.items():
        beside = write_signatures(path, signatures)
        sys.stdout.write(f"signed: {beside} by {key.keyid}\n")
    return 0
