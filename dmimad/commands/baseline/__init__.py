"""``dmimad baseline``: make, compare, approve, sign and verify what is approved."""

from __future__ import annotations

import argparse
import importlib

SUMMARY = "make, compare, approve, sign and verify what is approved"

#: Subcommands, each a module here with SUMMARY, add_arguments and run.
SUBCOMMANDS = ("capture", "diff", "approve", "sign", "verify")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands and their arguments."""
    commands = parser.add_subparsers(dest="subcommand", metavar="SUBCOMMAND", required=True)
    for name in SUBCOMMANDS:
        module = importlib.import_module(f"{__name__}.{name}")
        sentence = (module.SUMMARY[0].upper() + module.SUMMARY[1:] + ".").replace("?.", "?")
        command = commands.add_parser(name, help=module.SUMMARY, description=sentence)
        module.add_arguments(command)


def run(arguments: argparse.Namespace) -> int:
    """Returns the subcommand's exit status."""
    module = importlib.import_module(f"{__name__}.{arguments.subcommand}")
    status: int = module.run(arguments)
    return status
