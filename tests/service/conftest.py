"""A broker for each test of the whole daemon, and hosts to monitor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker import Broker
from tests.service.host import Host


@pytest.fixture
def broker(mosquitto: str, tmp_path: Path) -> Iterator[Broker]:
    """One that runs, and forgets everything when it is killed."""
    directory = tmp_path / "broker"
    directory.mkdir()
    with Broker(mosquitto, directory) as running:
        yield running


@pytest.fixture
def host(broker: Broker, tmp_path: Path) -> Host:
    """A host whose daemon is to talk to the broker."""
    return Host(tmp_path / "host", broker.port)
