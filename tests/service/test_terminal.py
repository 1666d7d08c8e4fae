"""`dmimad status --watch` of a real daemon on a terminal: as approved, in drift, over a restart, and back."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.broker import free_port
from tests.emulator import LEFT, Emulated
from tests.service.daemon_process import running
from tests.service.host import Host, entry
from tests.service.lists import ascii_records, load_hash

#: Of systematic-6.1: linear1 has an active table, that of record 2; at 7 another one is in its place.
SHOWN, CHANGED = 4, 7


@pytest.fixture
def records(corpus: Path) -> list[bytes]:
    return ascii_records(corpus / "systematic-6.1")


async def test_from_as_approved_to_drift_and_back(tmp_path: Path, records: list[bytes]) -> None:
    host = Host(tmp_path / "host", free_port())
    host.configure(mqtt={"enabled": False}, live={"enabled": False}, tpm={"enabled": False})
    host.approve(entry("linear1", [load_hash(records[2])]))
    host.append(b"".join(records[:SHOWN]))
    command = [sys.executable, "-m", "dmimad.cli", "status", "--watch", "--socket", str(host.socket)]
    async with running(host.settings) as daemon:
        with Emulated(command) as terminal:

            async def shown(*texts: str) -> None:
                await asyncio.to_thread(terminal.until_shown, *texts)

            await shown("AS APPROVED  web-1", "no alert fires; 1 device: 1 approved", "linear1  254:0")
            host.append(b"".join(records[SHOWN:CHANGED]))
            await shown("NOT AS APPROVED  web-1", "CRITICAL  drift.active  linear1", " -> drift, linear ")
            await daemon.kill()
            await shown("NO ANSWER  web-1", "asking again")
            await daemon.start()
            await daemon.ready()
            await shown("NOT AS APPROVED  web-1", "CRITICAL  drift.active  linear1")
            host.approve(entry("linear1"))
            await shown("no alert fires", "resolved drift.active: linear1")
            terminal.type("q")
            assert await asyncio.to_thread(terminal.ended) == 0
            assert terminal.written.endswith(LEFT)
            assert terminal.modes() == terminal.modes_before
