"""Where `dmimad status` and `dmimad maintenance` ask, also when somebody has spoiled the settings."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from dmimad import config
from dmimad.commands.control_socket import socket_path
from dmimad.commands.errors import UsageError
from dmimad.core.errors import SettingsError


def options(file: Path | None = None, socket: Path | None = None) -> argparse.Namespace:
    return argparse.Namespace(config=file, socket=socket)


@pytest.fixture
def usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The usual settings file."""
    file = tmp_path / "dmimad.toml"
    monkeypatch.setattr(config, "DEFAULT_FILE", file)
    return file


def test_as_the_settings_say(usual: Path, tmp_path: Path) -> None:
    assert socket_path(options()) == Path("/run/dmimad/control.sock")
    usual.write_text('[control]\nsocket = "c.sock"\n')
    assert socket_path(options()) == tmp_path / "c.sock"
    assert socket_path(options(socket=Path("/x.sock"))) == Path("/x.sock")


def test_none(usual: Path) -> None:
    usual.write_text('[control]\nsocket = ""\n')
    with pytest.raises(UsageError, match=r"control\.socket is empty"):
        socket_path(options())


def test_spoiled_settings_are_told_and_the_daemon_is_asked_all_the_same(
    usual: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual.write_text('[mqtt]\nprot = "x"\n')
    assert socket_path(options()) == Path("/run/dmimad/control.sock")
    said = capsys.readouterr().err
    assert said.startswith(f"dmimad: {usual}:2: mqtt.prot: unknown setting")
    assert said.endswith("; asking at /run/dmimad/control.sock\n")
    assert said.count("\n") == 1


def test_a_file_that_was_named_must_be_good(usual: Path) -> None:
    usual.write_text('[mqtt]\nprot = "x"\n')
    with pytest.raises(SettingsError):
        socket_path(options(usual))
