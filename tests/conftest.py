"""What tests of every folder share: where the recorded lists are, and the Debian programs some tests need."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

CORPUS = Path(__file__).parent / "corpus"
# Debian keeps daemons where a user's PATH does not look.
PROGRAM_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def pytest_configure() -> None:
    """Programs started here can be interrupted, also where the shell ignores SIGINT for a job behind &."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


#: They wait more than they work: begun first, nothing is left that one worker finishes while the others idle.
LONGEST = (
    "tests/config/test_rules_live.py",
    "tests/config/test_grafana_data.py",
    "tests/service/test_chaos.py",
    "tests/test_quickstart.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


def find_program(name: str, package: str) -> str:
    """The program's path; without it the test is skipped, or fails if DMIMAD_REQUIRE_PROGRAMS is set (CI)."""
    found = shutil.which(name, path=PROGRAM_PATH)
    if found is None:
        message = f"{name} is not installed (Debian package {package})"
        if os.environ.get("DMIMAD_REQUIRE_PROGRAMS"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of recorded lists, see its README."""
    return CORPUS


@pytest.fixture(scope="session")
def mosquitto() -> str:
    """Path of the MQTT broker that tests talk to."""
    return find_program("mosquitto", "mosquitto")


@pytest.fixture(scope="session")
def promtool() -> str:
    """Path of Prometheus' linter."""
    return find_program("promtool", "prometheus")
