"""Runs groups of checks inside the machine:  python -m tests.vm.systemd.main --out RESULTS GROUP.CHECK…

A group is a module of ``tests.vm.systemd.checks`` with
  prepare(host)   brings the machine to where the group begins, whatever the groups before have left
  CHECKS          its checks in order; each is a function of the host, and what it needs it makes or asserts
  restore(host)   if there is one: takes away what would be in the way of the groups after it

One JSON line per check is appended to RESULTS. A check that fails does not keep the others from running; if
`prepare` fails, each check of the group has failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.vm.systemd.groups import GROUPS, Group
from tests.vm.systemd.host import Host

MESSAGE_CHARS = 8000
FIRST = next(iter(GROUPS))


def main() -> int:
    """0 if every check has a result, whatever it is."""
    parser = argparse.ArgumentParser(description="Run checks in this machine.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="+")
    arguments = parser.parse_args()
    out: Path = arguments.out
    host = Host(out.parent)
    host.prepare()
    for name, group in GROUPS.items():
        # The first group's are what the others stand on.
        if any(f"{name}.{check.__name__}" in arguments.names for check in group.checks) or name == FIRST:
            run_group(name, group, arguments.names, host, out)
    host.close()
    return 0


def run_group(name: str, group: Group, wanted: Sequence[str], host: Host, out: Path) -> None:
    """One check after the other, each with a line of its own."""
    trouble, seconds = attempt(group.prepare, host)
    say(f"{name}: prepared after {seconds:.1f} s\n{trouble}")
    for check in group.checks:
        full = f"{name}.{check.__name__}"
        if full not in wanted and name != FIRST:
            continue
        message, seconds = (f"its group could not begin: {trouble}", 0.0) if trouble else attempt(check, host)
        status = "failed" if message else "passed"
        say(f"{full}: {status} after {seconds:.1f} s\n{message}")
        line = {
            "scenario": full,
            "status": status,
            "message": message[:MESSAGE_CHARS],
            "seconds": round(seconds, 1),
        }
        with out.open("a", encoding="utf-8") as results:
            results.write(json.dumps(line, ensure_ascii=False) + "\n")
    if group.restore is not None:
        trouble, seconds = attempt(group.restore, host)
        say(f"{name}: put away after {seconds:.1f} s\n{trouble}")


def attempt(act: Callable[[Host], None], host: Host) -> tuple[str, float]:
    """What was wrong, empty if nothing, and how long it took."""
    started, message = time.monotonic(), ""
    try:
        act(host)
    except AssertionError as error:
        message = str(error) or traceback.format_exc()
    except Exception:
        message = traceback.format_exc()
    if message:
        message += f"\n{host.situation()}"
    return message, time.monotonic() - started


def say(text: str) -> None:
    """To the machine's console."""
    print(text.rstrip(), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
