"""``dmimad baseline diff``: what is approved against what is, side by side."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from dmimad.adapters.baseline_files import read_baseline, read_baseline_file
from dmimad.commands.baseline.actual import actual_state, add_source_arguments, settings_of
from dmimad.commands.baseline.difference_page import document_of, lines_of
from dmimad.commands.errors import UsageError
from dmimad.commands.plain_text import coloured, plain
from dmimad.commands.status_page import WIDTH, Look
from dmimad.core.baseline import Baseline
from dmimad.core.comparison import FINE, Compared, compare

SUMMARY = "compare the devices with what is approved"
_MAX_COLUMNS = 160


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "baseline",
        type=Path,
        nargs="?",
        metavar="FILE_OR_DIRECTORY",
        help="what is approved, signed or not; default: the directory of the settings",
    )
    add_source_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 if all is as approved, 1 if not."""
    settings = settings_of(arguments)
    place = arguments.baseline or Path(settings.baseline.directory)
    baseline = _read(place)
    if not baseline.entries:
        raise UsageError(f"{place}: nothing is approved yet; see dmimad baseline capture --help")
    actual = actual_state(arguments, settings)
    compared = compare(
        actual.devices, baseline, time.time(), report_unexpected=settings.baseline.unexpected_devices
    )
    if arguments.json:
        document = document_of(compared, actual.witness, str(place))
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        sys.stderr.writelines(f"note: {plain(note)}\n" for note in actual.notes)
        sys.stdout.writelines(f"{line}\n" for line in lines_of(compared, look()))
    return 0 if _is_fine(compared) else 1


def look() -> Look:
    """As wide as the terminal, in colour if it knows colours."""
    width = WIDTH
    if sys.stdout.isatty():
        width = min(max(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH // 2), _MAX_COLUMNS)
    return Look(width=width, colour=coloured(sys.stdout))


def _read(place: Path) -> Baseline:
    if place.is_dir():
        return read_baseline(place)
    if not place.exists():
        raise UsageError(f"{place}: there is no such file or directory; see dmimad baseline capture --help")
    return read_baseline_file(place)


def _is_fine(compared: Iterable[Compared]) -> bool:
    return all(one.result in FINE for one in compared)
