"""A broker for tests of subscribers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker import Broker


@pytest.fixture
def broker(mosquitto: str, tmp_path: Path) -> Iterator[Broker]:
    """One that runs, and forgets everything when it is killed."""
    directory = tmp_path / "broker"
    directory.mkdir()
    with Broker(mosquitto, directory) as running:
        yield running
