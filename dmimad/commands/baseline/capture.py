"""``dmimad baseline capture``: the baseline that approves this host as it is now."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from dmimad.adapters.baseline_writing import write_new, write_over
from dmimad.commands.baseline.actual import Actual, actual_state, add_source_arguments, settings_of
from dmimad.commands.errors import UsageError
from dmimad.commands.plain_text import plain
from dmimad.core.baseline import MAX_BASELINE_BYTES, MAX_SERIAL
from dmimad.core.baseline_text import Capture, TooLargeError, capture, moment_text
from dmimad.core.capture import CapturedDevice
from dmimad.core.signed_baseline import SUFFIX
from dmimad.settings import Settings

SUMMARY = "write the baseline that approves the devices as they are now"
MAX_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_source_arguments(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write it here; default: print it")
    parser.add_argument("--force", action="store_true", help="replace FILE if it is there")
    parser.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only devices of such names, as in 'vg0-*'; may be given again",
    )
    parser.add_argument("--serial", type=serial, metavar="N", help="the file's serial, which signing needs")
    parser.add_argument("--hashes", action="store_true", help="approve the kernel's table hashes too")


def serial(text: str) -> int:
    """A serial, for argparse."""
    number = int(text)
    if not 0 <= number <= MAX_SERIAL:
        raise ValueError(text)
    return number


def run(arguments: argparse.Namespace) -> int:
    """Returns 0; what cannot be done is raised."""
    settings = settings_of(arguments)
    actual = actual_state(arguments, settings)
    devices = selected(actual.devices, arguments.device)
    try:
        made = capture(
            devices,
            _header(actual),
            serial=arguments.serial,
            hashes=arguments.hashes,
        )
    except TooLargeError:
        limit = MAX_BASELINE_BYTES >> 20
        raise UsageError(
            f"{len(devices)} devices are more than the {limit} MiB of one file hold; capture them "
            "in several files, with --device"
        ) from None
    output: Path | None = arguments.output
    if output is None:
        sys.stdout.write(made.text)
        sys.stdout.flush()
    elif arguments.force:
        write_over(output, made.text.encode())
    else:
        write_new(output, made.text.encode())
    _tell(made, actual, settings, output)
    return 0


def selected(devices: Iterable[CapturedDevice], patterns: Iterable[str]) -> list[CapturedDevice]:
    """The devices that a pattern matches, all if there is none; raises UsageError if that leaves none."""
    wanted = list(patterns)
    found = [one for one in devices if not wanted or any(fnmatchcase(one.name, each) for each in wanted)]
    if wanted and not found:
        raise UsageError(f"no device is called like {' or '.join(wanted)}; see dmimad status")
    return found


def _header(actual: Actual) -> list[str]:
    host = f" on {actual.captured.host}" if actual.captured.host else ""
    lines = [f"Captured{host} at {moment_text(time.time())} from {actual.witness}."]
    if actual.versions:
        lines.append(f"{actual.versions}.")
    lines += [f"Note: {note}." for note in actual.notes]
    lines.append(
        "Where this is in force, these devices are approved as they are here, and others are unexpected."
    )
    return lines


def _tell(made: Capture, actual: Actual, settings: Settings, output: Path | None) -> None:
    """The summary, apart from what may be the file itself."""
    lines = [f"{made.devices} device{'s' * (made.devices != 1)} captured, from {actual.witness}"]
    lines += [f"note: {note}" for note in actual.notes]
    remarks = [f"left out: {text}" for text in made.left_out] + list(made.warnings)
    lines += remarks[:MAX_SHOWN]
    if len(remarks) > MAX_SHOWN:
        lines.append(f"and {len(remarks) - MAX_SHOWN} more, which are in its comments")
    lines.append(f"next: {_next(settings, output)}")
    sys.stderr.writelines(f"{plain(line)}\n" for line in lines)


def _next(settings: Settings, output: Path | None) -> str:
    directory = Path(settings.baseline.directory)
    if output is None:
        return f"read it and put it into {directory} as a file *.toml (--output writes it)"
    steps = [f"read {shlex.quote(str(output))}"]
    if settings.baseline.trusted_keys or output.with_name(output.name + SUFFIX).exists():
        steps.append(f"sign it: dmimad baseline sign --key KEY {shlex.quote(str(output))}")
    if output.absolute().parent != directory.absolute():
        steps.append(f"put it into {directory}")
    else:
        steps.append("a running daemon takes it up by itself")
    return "; ".join(steps)
