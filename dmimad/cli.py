"""The command line: finds the command, runs it, turns expected errors into one line and status 2.

Exit status: 0 fine, 1 findings, 2 unusable input or arguments.  A traceback is a bug.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Collection, Sequence
from typing import NoReturn

from dmimad import __version__
from dmimad.commands.errors import UsageError
from dmimad.core.errors import DmimadError

#: Commands by name, each a module of `dmimad.commands` with SUMMARY, add_arguments and run.
COMMANDS = {
    "run": ("run", "the daemon"),
    "demo": ("demo", "the whole pipeline with no set-up"),
    "replay": ("replay", "analyse a measurement list offline"),
    "status": ("status", "what the running daemon knows"),
    "maintenance": ("maintenance", "expect changes of some devices for a while"),
    "baseline": ("baseline", "make, compare, approve, sign and verify what is approved"),
    "keygen": ("keygen", "make a key to sign baselines or alerts with"),
    "listen": ("listen", "show alerts from the broker, verified"),
    "doctor": ("doctor", "is this host able to be monitored, and what is missing"),
    "observe": ("observe", "the privileged observer of the live tables"),
    "check-config": ("check_config", "check the settings and baseline files"),
}
EXIT_UNUSABLE = 2
_EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the ``dmimad`` program; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        options = _parse(arguments)
        module = importlib.import_module(f"dmimad.commands.{COMMANDS[options.command][0]}")
        if sys.stdout is None:  # started with it closed: there is nobody to tell anything
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123  # for the rest of the process
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # names are any bytes, terminals know few
        status: int = module.run(options)
        sys.stdout.flush()
        return status
    except DmimadError as error:
        _complain(str(error))
        return EXIT_UNUSABLE
    except BrokenPipeError:
        # The reader of our output is gone: say nothing, and keep the interpreter from saying something.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_UNUSABLE
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    except OSError as error:
        _complain(f"{error.filename or 'input or output'}: {error.strerror or error}")
        return EXIT_UNUSABLE


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Only the module of the command that is asked for is imported."""
    wanted = next((argument for argument in arguments if argument in COMMANDS), "")
    return parser({wanted}).parse_args(arguments)


def parser(complete: Collection[str] = COMMANDS) -> argparse.ArgumentParser:
    """The program's parser, in which the commands of `complete` have their arguments: man pages need all."""
    program = _Parser(
        prog="dmimad", description="Tells when a device-mapper mapping is not what was approved."
    )
    program.add_argument("--version", action="version", version=f"dmimad {__version__}")
    commands = program.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name in complete:
            importlib.import_module(f"dmimad.commands.{module}").add_arguments(command)
    return program


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error is said."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def _complain(text: str) -> None:
    if sys.stderr is None:
        return
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    sys.stderr.write(f"dmimad: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
