"""The commands of `dmimad` as its argument parser has them, for the man pages and the reference."""

from __future__ import annotations

import argparse
from collections.abc import Iterator


def parsers(parser: argparse.ArgumentParser) -> Iterator[tuple[argparse.ArgumentParser, str]]:
    """All commands with their subcommands, each with its summary."""
    subcommands = subcommands_of(parser)
    if subcommands is None:
        return
    for described in subcommands._choices_actions:
        child = subcommands.choices[described.dest]
        yield child, described.help or ""
        yield from parsers(child)


def subcommands_of(
    parser: argparse.ArgumentParser,
) -> argparse._SubParsersAction[argparse.ArgumentParser] | None:
    return next((a for a in parser._actions if isinstance(a, argparse._SubParsersAction)), None)


def arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """What can be given, without --help and what is not told to anybody."""
    return [
        action
        for action in parser._actions
        if action.help != argparse.SUPPRESS and "--help" not in action.option_strings
    ]


def explanation(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """As --help prints it."""
    return parser._get_formatter()._expand_help(action) if action.help else ""
