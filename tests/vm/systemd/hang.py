"""The daemon as it is installed, but one of its tasks waits for ever: for the watchdog to notice.

Run by the interpreter of the package, with the arguments of `dmimad`.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from typing import Any
from unittest import mock

from dmimad import cli
from dmimad.commands import run
from dmimad.daemon import Daemon
from dmimad.liveness import Allowances
from dmimad.parts import Outside

ALLOWED_SECONDS = 3.0


async def _hang(*_: Any) -> None:
    await asyncio.Event().wait()


if __name__ == "__main__":
    impatient = functools.partial(Outside, allowances=Allowances(alert_timer=ALLOWED_SECONDS))
    with mock.patch.object(Daemon, "_keep_time", _hang), mock.patch.object(run, "Outside", impatient):
        sys.exit(cli.main())
