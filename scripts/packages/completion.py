"""Completion for bash, zsh and fish, made by shtab from the program's own parser."""

from __future__ import annotations

import argparse

import shtab

from dmimad import cli

# Shell and where its completions are looked for.
PLACES = {
    "bash": "usr/share/bash-completion/completions/dmimad",
    "zsh": "usr/share/zsh/vendor-completions/_dmimad",
    "fish": "usr/share/fish/vendor_completions.d/dmimad.fish",
}
# What the program calls the values that are files; `FILE` may also be a directory of such.
_FILES = frozenset(("FILE", "PATH", "KEY", "LIST"))


def completion(shell: str) -> str:
    """The completion for that shell."""
    program = cli.parser()
    _mark_files(program)
    text: str = shtab.complete(program, shell=shell)
    return text


def _mark_files(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:  # argparse has no public way to them
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                _mark_files(subparser)
        elif action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's way to be told
