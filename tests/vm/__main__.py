"""By hand.

python -m tests.vm prepare [KERNEL …]                        fill the cache
python -m tests.vm boot KERNEL [SCENARIO …] --out DIRECTORY  run scenarios on one kernel
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

from tests.vm.cache import Cache, cache_directory
from tests.vm.image import prepare
from tests.vm.machine import COMMAND_LINE, Hardware, boot, environment_timeout
from tests.vm.packages import SERIES
from tests.vm.programs import VmError, unfit
from tests.vm.report import summary
from tests.vm.scenario_names import scenario_names
from tests.vm.sources import find_mirror

_KERNELS = tuple(one.name for one in SERIES)


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
                for kernel in arguments.kernels or _KERNELS:
                    prepare(kernel, Path(name) / kernel, cache, find_mirror)
                return 0
            return _boot(arguments, cache, Path(name))
    except VmError as error:
        say(str(error))
        return 2


def _boot(arguments: argparse.Namespace, cache: Cache, scratch: Path) -> int:
    image = prepare(arguments.kernel, scratch / "image", cache, find_mirror)
    names = arguments.scenarios or scenario_names()
    hardware = Hardware(
        command_line=arguments.command_line,
        tpm_banks=tuple(filter(None, arguments.tpm_banks.split(","))),
        timeout_seconds=arguments.timeout,
    )
    report = boot(arguments.kernel, image, names, arguments.out.absolute(), hardware)
    fine = {name for name, result in report.results.items() if result.status in ("passed", "skipped")}
    wrong = [name for name in names if name not in fine]
    for name in wrong:
        say(report.explain(name))
    say(summary([report]))
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description="Machines with real kernels.")
    commands = parser.add_subparsers(dest="command", required=True)
    preparing = commands.add_parser("prepare", help="make what the machines boot; all kernels or those named")
    preparing.add_argument("kernels", nargs="*", metavar="KERNEL", help=" ".join(_KERNELS))
    booting = commands.add_parser("boot", help="boot a kernel and run scenarios, all or those named")
    booting.add_argument("kernel", choices=_KERNELS)
    booting.add_argument("scenarios", nargs="*", metavar="SCENARIO")
    booting.add_argument("--out", type=Path, required=True, help="emptied, and then filled with all results")
    booting.add_argument("--timeout", type=float, default=environment_timeout(os.environ), help="seconds")
    booting.add_argument("--command-line", default=COMMAND_LINE, help="of the kernel (default: %(default)s)")
    booting.add_argument("--tpm-banks", default="sha1,sha256", help="empty: no TPM (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
