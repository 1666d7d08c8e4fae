"""``dmimad demo``: the whole pipeline on a recorded list, with a broker of its own; needs no set-up."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import shutil
import sys
import warnings
from pathlib import Path

from dmimad.commands.errors import UsageError
from dmimad.commands.plain_text import add_colour_argument, coloured
from dmimad.demo.interrupts import Interrupts
from dmimad.demo.own_host import advice
from dmimad.demo.own_stage import set_stage
from dmimad.demo.screen import WIDTH, Screen
from dmimad.demo.show import Options, perform

SUMMARY = "the whole pipeline with no set-up"
SPEEDS = (0.1, 100.0)
_SIGNALLED = 128


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    end = parser.add_mutually_exclusive_group()
    end.add_argument("--keep", action="store_true", help="leave it running after the end, until Ctrl-C")
    end.add_argument(
        "--stage",
        type=Path,
        metavar="DIRECTORY",
        help="tell nothing; write settings and a list there to try an own daemon on, and be its broker",
    )
    add_colour_argument(parser)
    parser.add_argument(
        "--speed", type=_speed, default=1.0, metavar="N", help="tell it N times as fast; default: 1"
    )


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 at the end of the story; after Ctrl-C or a signal before it, 128 and the signal's number."""
    if sys.stdout is None:
        raise UsageError("demo: standard output is closed, and the demo is for looking at")
    # What libraries log must not get between the lines, not even while the interpreter ends.
    logging.getLogger().addHandler(logging.NullHandler())
    options = Options(arguments.speed, arguments.keep)
    with warnings.catch_warnings(), Interrupts() as interrupts:
        warnings.simplefilter("ignore")
        try:
            if arguments.stage is not None:
                asyncio.run(set_stage(_screen(arguments.color), arguments.stage, interrupts))
            else:
                asyncio.run(
                    perform(_screen(arguments.color), options, interrupts, advice(root=os.geteuid() == 0))
                )
        except asyncio.CancelledError:
            pass
        except OSError:
            if interrupts.received is None:
                raise
    return _status(
        interrupts, "everything temporary is removed" if arguments.stage is None else "the files stay"
    )


def _status(interrupts: Interrupts, left: str) -> int:
    if interrupts.received is None:
        return 0
    what = "Ended" if interrupts.in_time else "Interrupted"
    with contextlib.suppress(OSError):  # the terminal may be gone
        sys.stdout.write(f"\n{what}; {left}.\n")
        sys.stdout.flush()
    return 0 if interrupts.in_time else _SIGNALLED + interrupts.received


def _screen(colour: str) -> Screen:
    terminal = sys.stdout.isatty()
    columns = shutil.get_terminal_size((WIDTH, 24)).columns if terminal else WIDTH
    return Screen(sys.stdout, colour=coloured(sys.stdout, colour), columns=columns)


def _speed(text: str) -> float:
    speed = float(text)
    if not SPEEDS[0] <= speed <= SPEEDS[1]:
        raise argparse.ArgumentTypeError(f"{text} is not between {SPEEDS[0]:g} and {SPEEDS[1]:g}")
    return speed


_speed.__name__ = "number"  # argparse names the type in its message
