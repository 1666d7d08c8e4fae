"""``dmimad keygen``: make a key to sign baselines or alerts with."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from dmimad.adapters.keys import SigningKey, write_pair

SUMMARY = "make a key to sign baselines or alerts with"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="the private key; FILE.pub becomes the public one"
    )


def run(arguments: argparse.Namespace) -> int:
    """Returns 0; what is there already is refused and left alone."""
    key = SigningKey.generate()
    public = write_pair(key, arguments.file)
    private, shown = shlex.quote(str(arguments.file)), shlex.quote(str(public))
    sys.stdout.write(
        f"key id       {key.keyid}\n"
        f"private key  {private}  (keep it to yourself; it is not encrypted)\n"
        f"public key   {shown}\n"
        "\n"
        "To sign baselines:\n"
        f"  dmimad baseline sign --key {private} FILE.toml\n"
        f"  and on the hosts, [baseline] trusted_keys names a copy of {shown}\n"
        "To sign a host's alerts:\n"
        f"  [alerts] signing_key_file names {private}, readable for the daemon alone\n"
        f"  and subscribers get {shown}\n"
    )
    return 0
