"""What a real journald makes of the daemon's log: fields, ids, priorities, and texts from the catalog.

It runs beside the daemon in namespaces of its own, so neither this host's journal nor its /run is touched.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dmimad.message_ids import MESSAGE_IDS
from tests.conftest import find_program
from tests.other_user import as_root
from tests.service.host import Host, entry
from tests.service.lists import ascii_records

JOURNALD = Path("/usr/lib/systemd/systemd-journald")
CATALOG = Path(__file__).parents[2] / "systemd" / "catalog"
MACHINE_ID = Path("/etc/machine-id")
DEADLINE_SECONDS = 60.0

UNSHARE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
#: The queue's length is what systemd sets it to when a host boots.
#: Audit= and ReadKMsg=: the kernel's logs, which are the host's, are left alone.
SCRIPT = r"""
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs /run
echo 512 >/proc/sys/net/unix/max_dgram_qlen
mount --bind "$1/catalog" /var/lib/systemd/catalog
mkdir -p /run/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\nAudit=\nReadKMsg=no\n' >/run/systemd/journald.conf.d/test.conf
shift
{journald} 2>/dev/null &
until [ -S /run/systemd/journal/socket ] && [ -S /run/systemd/journal/stdout ]; do sleep 0.05; done
systemd-cat --identifier=unit \
    sh -c 'JOURNAL_STREAM=$(stat --dereference --format=%d:%i /proc/self/fd/2) exec "$@"' sh "$@" &
daemon=$!
journalctl --follow --no-tail --output=json &
read -r _
kill -TERM "$daemon"
wait "$daemon"
journalctl --sync || true
journalctl --catalog --no-pager --output=short
"""

Entries = list[dict[str, str]]


class Journald:
    """A journal with a daemon that writes into it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.entries: Entries = []

    async def until(self, **fields: str) -> dict[str, str]:
        """Until the journal has an entry with these fields."""
        while True:
            for found in self.entries:
                if found.items() >= fields.items():
                    return found
            assert self._process.stdout is not None
            line = await self._process.stdout.readline()
            assert line, f"ended without {fields}: {self.entries}"
            self.entries.append(json.loads(line))

    async def stop(self) -> str:
        """End the daemon; the journal with the catalog's texts, as an administrator sees it."""
        out, _ = await self._process.communicate(b"\n")
        assert self._process.returncode == 0
        return out.decode()


@asynccontextmanager
async def journald(directory: Path, *command: str) -> AsyncIterator[Journald]:
    process = await asyncio.create_subprocess_exec(
        *UNSHARE,
        *("sh", "-c", SCRIPT.format(journald=JOURNALD), "sh", str(directory), *command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"},
        limit=1 << 20,
    )
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            yield Journald(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def compiled_catalog(root: Path) -> None:
    shutil.copytree(CATALOG, root / "usr/lib/systemd/catalog")
    (root / "var/lib/systemd").mkdir(parents=True)
    (root / "catalog").mkdir()
    (root / "var/lib/systemd/catalog").symlink_to("../../../catalog")
    process = await asyncio.create_subprocess_exec("journalctl", "--update-catalog", f"--root={root}")
    assert await process.wait() == 0


@pytest.fixture
def journal_can_run() -> None:
    find_program("journalctl", "systemd")
    if subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no namespaces can be made here")


@as_root
@pytest.mark.usefixtures("journal_can_run")
@pytest.mark.skipif(not MACHINE_ID.exists(), reason="journald needs /etc/machine-id")
async def test_the_daemons_log_in_a_real_journal(tmp_path: Path, corpus: Path) -> None:
    await compiled_catalog(tmp_path)
    host = Host(tmp_path / "host", 1)
    host.configure(mqtt={"enabled": False}, metrics={"enabled": False}, log={"format": "auto"})
    host.approve(entry("a\nPRIORITY=0\x1b[2J", required=True))
    host.write_list(b"".join(ascii_records(corpus / "systematic-6.1")))
    command = (sys.executable, "-m", "dmimad.cli", "run", "--config", str(host.settings))
    async with journald(tmp_path, *command) as journal:
        started = await journal.until(DMIMAD_EVENT="started")
        missing = await journal.until(DMIMAD_CODE="device.missing")
        shown = await journal.stop()

    assert started["MESSAGE_ID"] == MESSAGE_IDS["started"]
    assert (started["SYSLOG_IDENTIFIER"], started["_TRANSPORT"]) == ("dmimad", "journal")
    assert (started["DMIMAD_HOST"], started["PRIORITY"]) == ("web-1", "6")
    assert started["MESSAGE"].startswith("started version=")

    assert missing["MESSAGE_ID"] == MESSAGE_IDS["alert_firing"]
    assert missing["PRIORITY"] == "3"
    assert missing["DMIMAD_DEVICE"] == r"a\nPRIORITY=0\u001b[2J"
    assert (missing["DMIMAD_SEVERITY"], missing["DMIMAD_STATUS"]) == ("critical", "firing")
    assert (missing["DMIMAD_ACTUAL"], "DMIMAD_RECORD" in missing) == ("none", False)

    alerts = [found for found in journal.entries if found.get("DMIMAD_EVENT") == "alert"]
    stored = [json.loads(payload) for payload in host.outbox()]
    told = [(alert["DMIMAD_ALERT_ID"], alert["DMIMAD_CODE"]) for alert in alerts]
    assert told == [(event["id"], event["data"]["code"]) for event in stored[: len(told)]]
    assert {"b\\xe9t\\xff", "naïve-设备", "=" * 127} <= {alert["DMIMAD_DEVICE"] for alert in alerts}
    assert [found for found in journal.entries if "DMIMAD_LOST_BEFORE" in found] == []

    # What `journalctl -x` puts below an entry.
    below = shown.partition(" is required, but no such device has an active table")[2].splitlines()
    assert below[1] == "░░ Subject: An alert fires: device.missing"
    assert r"░░ a\nPRIORITY=0\u001b[2J is required, but no such device has an active table" in below
    assert f"░░ as the event {missing['DMIMAD_ALERT_ID']}." in below
    assert "\x1b" not in shown
