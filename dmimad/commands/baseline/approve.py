"""``dmimad baseline approve``: add a device's present state to what is approved, after showing it.

Where the device has entries of its own already, the new one stands beside them and both are approved, until
the former are removed: that is a roll-out.
"""

from __future__ import annotations

import argparse
import datetime
import difflib
import hashlib
import os
import re
import shlex
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from dmimad.adapters.baseline_files import list_files, read_baseline_file
from dmimad.adapters.baseline_writing import read_file, write_new, write_over
from dmimad.commands.baseline.actual import actual_state, add_source_arguments, settings_of
from dmimad.commands.baseline.diff import look
from dmimad.commands.baseline.difference_page import device_lines
from dmimad.commands.errors import UsageError
from dmimad.commands.plain_text import plain
from dmimad.core.approval import Edit, add_entry
from dmimad.core.baseline import MAX_DESCRIPTION_CHARS, Baseline, Entry, merge
from dmimad.core.baseline_text import (
    Terms,
    can_be_approved,
    comment_line,
    describe,
    entry_text,
    moment_text,
    remarks,
    terms_of,
)
from dmimad.core.capture import CapturedDevice, CapturedTable, staged_as_active, without_staged
from dmimad.core.comparison import Result, compare_device
from dmimad.core.errors import BaselineError
from dmimad.core.signed_baseline import SUFFIX, parse_file
from dmimad.settings import Settings

SUMMARY = "add a device's present state to what is approved"
MAX_FILE_NAME_CHARS = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("device", metavar="DEVICE", help="its name, its uuid or its number, as in 253:5")
    add_source_arguments(parser)
    parser.add_argument(
        "--file", type=Path, metavar="FILE", help="add it here; default: where the device has its entry"
    )
    parser.add_argument(
        "--inactive", action="store_true", help="approve the staged table, before it is resumed"
    )
    parser.add_argument(
        "--replace", action="store_true", help="remove the device's former entries of that file"
    )
    parser.add_argument(
        "--not-before", type=moment, metavar="TIME", help="approved from then on, as in 2026-12-24T18:00:00Z"
    )
    parser.add_argument("--not-after", type=moment, metavar="TIME", help="approved until then")
    parser.add_argument("--description", default="", metavar="TEXT", help="why, for whoever reads the file")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def moment(text: str) -> float:
    """A time, of this host's zone if it names none, as Unix seconds; for argparse."""
    try:
        seconds = datetime.datetime.fromisoformat(text).timestamp()
        moment_text(seconds)
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time like 2026-12-24T18:00:00Z") from None
    return float(int(seconds))


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 if it is approved now, 1 if the answer was no."""
    settings, now = settings_of(arguments), time.time()
    _check(arguments, now)
    captured = _device(arguments.device, actual_state(arguments, settings).devices)
    view, table = _state(captured, staged=arguments.inactive)
    files = _files(settings, arguments.file)
    plan = _plan(arguments, view, table, files, settings, now)
    if plan is None:
        sys.stdout.write(f"{plain(captured.name)} ({captured.key}) is approved as it is; nothing to do\n")
        return 0
    _show(plan, view, table, files, now)
    if not (arguments.yes or _is_wanted()):
        sys.stdout.write("nothing was written\n")
        return 1
    if plan.former is None:
        write_new(plan.file, plan.edit.text.encode())
    else:
        write_over(plan.file, plan.edit.text.encode(), plan.former)
    _tell(plan, settings)
    return 0


def _check(arguments: argparse.Namespace, now: float) -> None:
    begin, end = arguments.not_before, arguments.not_after
    if end is not None and end <= max(now, begin or 0.0):
        raise UsageError("--not-after must be in the future, and later than --not-before")
    if len(arguments.description) > MAX_DESCRIPTION_CHARS:
        raise UsageError(f"--description: at most {MAX_DESCRIPTION_CHARS} characters")


# -- which device, which table -------------------------------------------------------------


def _device(wanted: str, devices: Iterable[CapturedDevice]) -> CapturedDevice:
    known = list(devices)
    for found in (
        [one for one in known if one.name == wanted],
        [one for one in known if wanted in (one.key, one.uuid)],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            keys = ", ".join(one.key for one in found)
            raise UsageError(f"{wanted}: there are several; say which by number: {keys}")
    close = difflib.get_close_matches(wanted, [one.name for one in known], 1)
    raise UsageError(f"{wanted}: there is no such device" + (f"; did you mean {close[0]}?" if close else ""))


def _state(captured: CapturedDevice, *, staged: bool) -> tuple[CapturedDevice, CapturedTable]:
    """The device with nothing but the table that is to be approved, as active."""
    view = staged_as_active(captured) if staged else without_staged(captured)
    table = view.active
    where = f"{captured.name} ({captured.key})"
    if table is None:
        which = "no table is staged" if staged else "it has no active table"
        other = "; --inactive approves the staged one" if not staged and captured.inactive is not None else ""
        raise UsageError(f"{where}: {which}{other}")
    if not can_be_approved(captured, table):
        raise UsageError(f"{where}: nobody has told what its table is; run the daemon with live.enabled")
    return view, table


# -- which file, which entry ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be written: ``former`` is what is in the file, None if there is no file."""

    file: Path
    former: bytes | None
    entry: str
    edit: Edit
    notes: tuple[str, ...]


def _files(settings: Settings, file: Path | None) -> dict[Path, Baseline]:
    """The baseline files as they are, the one that was named last."""
    named = None if file is None else os.path.realpath(file)
    paths = [
        path for path in list_files(Path(settings.baseline.directory)) if os.path.realpath(path) != named
    ]
    if file is not None and file.exists():
        paths.append(file)
    return {path: read_baseline_file(path) for path in paths}


def _plan(
    arguments: argparse.Namespace,
    view: CapturedDevice,
    table: CapturedTable,
    files: dict[Path, Baseline],
    settings: Settings,
    now: float,
) -> _Plan | None:
    """None if there is nothing to do."""
    baseline = merge(files.values())
    before = compare_device(view, baseline, now)
    entries = baseline.entries_for(view.device.name, view.device.uuid, now=now)
    own = [entry for entry in entries if entry.is_exact]
    special = arguments.not_before is not None or arguments.not_after is not None or arguments.description
    if own and before.result is Result.APPROVED and not arguments.replace and not special:
        return None
    former = [entry for entry in baseline.entries if entry.origin in before.renamed_from]
    model = own[-1] if own else former[-1] if former else None
    file = arguments.file or _file_of(model) or _new_file(view, settings)
    data = read_file(file)
    terms = replace(
        _terms(view, own, model),
        not_before=arguments.not_before,
        not_after=arguments.not_after,
        description=arguments.description,
    )
    entry = _comments(view, table, now, staged=arguments.inactive) + entry_text(table, terms)
    unwanted = (
        {one.origin for one in _speaking(files.get(file), view) + former} if arguments.replace else set()
    )
    edit = add_entry(_text(file, data), str(file), entry, remove=unwanted)
    after = merge(
        [each for path, each in files.items() if path != file] + [parse_file(str(file), edit.text.encode())]
    )
    if compare_device(view, after, max(now, terms.not_before or now)).result is not Result.APPROVED:
        others = ", ".join(one.origin for one in after.entries_for(view.device.name, view.device.uuid))
        raise BaselineError(str(file), f"the new entry would not be the one that counts, but {others}")
    return _Plan(file, data, entry, edit, _notes(baseline, entries, own))


def _speaking(baseline: Baseline | None, view: CapturedDevice) -> list[Entry]:
    """The entries for this device alone."""
    entries = () if baseline is None else baseline.entries
    return [entry for entry in entries if entry.is_exact and entry.matches(view.name, view.uuid)]


def _terms(view: CapturedDevice, own: list[Entry], model: Entry | None) -> Terms:
    """As a former entry of the device has them; only entries that are equally specific count together."""
    terms = terms_of(view)
    if model is None:
        return terms
    if own:
        terms = replace(terms, name=model.name, uuid=model.uuid)
    return replace(
        terms,
        required=model.required,
        allow=model.allow,
        severity=model.severity,
        staged_severity=model.staged_severity,
    )


def _file_of(entry: Entry | None) -> Path | None:
    return None if entry is None else Path(entry.origin.rpartition(":")[0])


def _new_file(view: CapturedDevice, settings: Settings) -> Path:
    """Named after the device, as far as that can be the name of a file."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", view.name).lstrip(".")[:MAX_FILE_NAME_CHARS]
    if name != view.name:
        name += "-" + hashlib.sha256(view.device.name).hexdigest()[:8]
    return Path(settings.baseline.directory) / f"{name}.toml"


def _text(file: Path, data: bytes | None) -> str:
    try:
        return "" if data is None else data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BaselineError(str(file), "is not UTF-8 text") from error


def _comments(view: CapturedDevice, table: CapturedTable, now: float, *, staged: bool) -> str:
    what = "approved while it was staged" if staged else "approved"
    about = f"{view.name} ({view.key}): {describe(view.uuid, table)}; {what} at {moment_text(now)}"
    return "".join(f"{comment_line(line)}\n" for line in (about, *remarks(view, table)))


def _notes(baseline: Baseline, entries: tuple[Entry, ...], own: list[Entry]) -> tuple[str, ...]:
    if not baseline.entries:
        return ("this is the first entry: from now on every device without one is unexpected",)
    if own:
        return ()
    return tuple(
        f"the entry {entry.origin} ({entry.label}) does not speak for this device any more"
        for entry in entries
    )


# -- what people see -----------------------------------------------------------------------


def _show(
    plan: _Plan, view: CapturedDevice, table: CapturedTable, files: dict[Path, Baseline], now: float
) -> None:
    write = sys.stdout.write
    write(f"{plain(view.name)} ({view.key}): {plain(describe(view.uuid, table))}\n\n")
    before = compare_device(view, merge(files.values()), now)
    if before.result is not Result.NOT_JUDGED:
        sys.stdout.writelines(f"{line}\n" for line in device_lines(before, look()))
        write("\n")
    removed = plan.edit.removed
    if removed:
        write(f"{removed} former entr{'y is' if removed == 1 else 'ies are'} to be removed, and this one ")
    where = "to be added to" if plan.former is not None else "to be written to the new file"
    write(f"{where} {plain(str(plan.file))}:\n\n")
    sys.stdout.writelines(f"    {line}".rstrip() + "\n" for line in plan.entry.splitlines())
    write("\n")
    sys.stdout.writelines(f"note: {plain(note)}\n" for note in plan.notes)
    sys.stdout.flush()


def _is_wanted() -> bool:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("there is no terminal to ask on; if this is right, give --yes")
    sys.stdout.write("Approve this? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _tell(plan: _Plan, settings: Settings) -> None:
    file = shlex.quote(str(plan.file))
    sys.stdout.write(f"approved: {plain(file)}\n")
    if plan.edit.serial is not None:
        sys.stdout.write(f"its serial is {plan.edit.serial} now\n")
    if settings.baseline.trusted_keys or plan.file.with_name(plan.file.name + SUFFIX).exists():
        sys.stdout.write(f"it must be signed again: dmimad baseline sign --key KEY {plain(file)}\n")
