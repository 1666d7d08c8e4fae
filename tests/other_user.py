"""Asking the control socket as a user who is not root, in a process of that user."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65534
DEADLINE_SECONDS = 60.0
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

OTHER_USER = """
import os, sys
sys.path[:0] = {path!r}
from pathlib import Path
from dmimad.adapters.control.client import ask
from dmimad.core.errors import AdapterError
os.setgroups([]); os.setgid({uid}); os.setuid({uid})  # who may not read where Python is, perhaps
for request in {requests!r}:
    try:
        print(ask(Path({socket!r}), request)["ok"])
    except AdapterError as error:
        print(error)
"""


async def as_user(uid: int, path: Path, *requests: dict[str, object]) -> list[str]:
    """What a process of that user is answered."""
    program = OTHER_USER.format(uid=uid, path=sys.path, requests=list(requests), socket=str(path))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(DEADLINE_SECONDS):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode().splitlines()


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A directory that everybody can enter, which pytest's are not."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path
