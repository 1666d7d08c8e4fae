"""By hand.

python -m tests.vm prepare [MACHINE …]                        fill the cache
python -m tests.vm boot MACHINE [SCENARIO …] --out DIRECTORY  run scenarios on one machine

A machine is a kernel (6.1), with the scenarios of `scenarios/`, or a release with systemd (debian12), with
the checks of `systemd/`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

from tests.vm.cache import Cache, cache_directory
from tests.vm.disk import prepare_disk
from tests.vm.image import Image, prepare
from tests.vm.machine import COMMAND_LINE, Hardware, boot, environment_timeout
from tests.vm.packages import SERIES
from tests.vm.programs import VmError, unfit
from tests.vm.report import summary
from tests.vm.scenario_names import scenario_names
from tests.vm.sources import find_mirror
from tests.vm.systemd.groups import check_names
from tests.vm.userland import RELEASES

_KERNELS = tuple(one.name for one in SERIES)
_RELEASES = tuple(one.name for one in RELEASES)
_MACHINES = (*_KERNELS, *_RELEASES)


def say(text: str) -> None:
    """Progress, for whoever waits."""
    sys.stderr.write(f"vm: {text}\n")


def main() -> int:
    """0 if every scenario asked for passed or was skipped."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # with the machines and folders cleaned up
    if reason := unfit():
        say(reason)
        return 0 if arguments.command == "prepare" else 2
    cache = Cache(cache_directory(os.environ), say)
    try:
        with tempfile.TemporaryDirectory(prefix="dmimad-vm-") as name:
            if arguments.command == "prepare":
                for machine in arguments.machines or _MACHINES:
                    _prepare(machine, Path(name) / machine, cache)
                return 0
            return _boot(arguments, cache, Path(name))
    except VmError as error:
        say(str(error))
        return 2


def _prepare(machine: str, directory: Path, cache: Cache) -> Image:
    make = prepare_disk if machine in _RELEASES else prepare
    return make(machine, directory, cache, find_mirror)


def _boot(arguments: argparse.Namespace, cache: Cache, scratch: Path) -> int:
    image = _prepare(arguments.machine, scratch / "image", cache)
    names = arguments.scenarios or (check_names() if arguments.machine in _RELEASES else scenario_names())
    hardware = Hardware(
        command_line=arguments.command_line,
        tpm_banks=tuple(filter(None, arguments.tpm_banks.split(","))),
        timeout_seconds=arguments.timeout,
    )
    report = boot(arguments.machine, image, names, arguments.out.absolute(), hardware)
    fine = {name for name, result in report.results.items() if result.status in ("passed", "skipped")}
    wrong = [name for name in names if name not in fine]
    without = [name for name in wrong if name not in report.results]
    for name in [name for name in wrong if name not in without[1:]]:
        say(report.explain(name))
    if without[1:]:
        say(f"no result either: {', '.join(without[1:])}")
    say(summary([report]))
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description="Machines with real kernels.")
    commands = parser.add_subparsers(dest="command", required=True)
    preparing = commands.add_parser("prepare", help="make what the machines boot; all or those named")
    preparing.add_argument("machines", nargs="*", metavar="MACHINE", help=" ".join(_MACHINES))
    booting = commands.add_parser("boot", help="boot a machine and run scenarios, all or those named")
    booting.add_argument("machine", choices=_MACHINES)
    booting.add_argument("scenarios", nargs="*", metavar="SCENARIO")
    booting.add_argument("--out", type=Path, required=True, help="emptied, and then filled with all results")
    booting.add_argument("--timeout", type=float, default=environment_timeout(os.environ), help="seconds")
    booting.add_argument("--command-line", default=COMMAND_LINE, help="of the kernel (default: %(default)s)")
    booting.add_argument("--tpm-banks", default="sha1,sha256", help="empty: no TPM (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
