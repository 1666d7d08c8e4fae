"""The site, built once for all workers of a run."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of the built site; a warning fails every test that asks for it."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    built, log = shared / "site", shared / "site.log"
    with (shared / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not log.exists():
            command = (sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q")
            done = subprocess.run(
                [*command, "-c", "docs", "-d", shared / "doctrees", ".", built],
                cwd=ROOT,
                check=False,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            log.write_text(done.stdout if done.returncode or done.stdout else "", "utf-8")
    assert log.read_text("utf-8") == ""
    return built
