"""The program of docs/subscriber.md runs, and does what it says."""

from __future__ import annotations

import asyncio
import re
import sys
import textwrap
from pathlib import Path

from dmimad.adapters.keys import SigningKey
from dmimad.core.finding import Severity
from tests.broker import DEADLINE_SECONDS, Broker
from tests.subscriber.publishing import alert, publish, write_public

PAGE = Path(__file__).parents[2] / "docs/subscriber.md"


def program() -> str:
    """The code below the heading, as it stands there."""
    section = PAGE.read_text("utf-8").partition("## A program\n")[2]
    found = re.match(r"\n((?:    .*\n|\n)+)", section)
    assert found is not None
    return textwrap.dedent(found[1])


async def test_the_program_wakes_somebody_for_what_is_signed(broker: Broker, tmp_path: Path) -> None:
    key = SigningKey.generate()
    keys = write_public(tmp_path / "keys/web-1.pub", key).parent
    file = tmp_path / "pager.py"
    file.write_text(program())
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(file), str(broker.port), str(keys)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(2 * DEADLINE_SECONDS):
            assert b"Connected(" in await process.stderr.readline()
            await publish(
                broker.port,
                alert(1, key=key, severity=Severity.WARNING),
                alert(2, key=SigningKey.generate()),
                alert(2, key=key),
            )
            lines = [(await process.stdout.readline()).decode() for _ in range(2)]
    finally:
        process.kill()
        await process.wait()
    assert lines[0].startswith("LOOK: InvalidAlert(")
    assert lines[1] == "WAKE UP: web-1 linear1 linear1 (254:0) runs a table that is not approved\n"
