"""Which file a secret is read from: the administrator's, or the copy that systemd made of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dmimad.adapters.credentials import explained, readable
from dmimad.core.errors import AdapterError


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    directory = tmp_path / "secrets"
    directory.mkdir()
    return directory


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """As systemd makes them of that directory."""
    directory = tmp_path / "credentials"
    directory.mkdir()
    (directory / "secrets").write_text("none")
    (directory / "secrets_password").write_text("copy")
    (directory / "secrets_tls_web-1.key").write_text("copy")
    return directory


def chosen(path: Path, credentials: Path, secrets: Path) -> Path:
    return readable(path, {"CREDENTIALS_DIRECTORY": str(credentials)}, secrets)


def test_the_file_itself_where_it_can_be_opened(secrets: Path, credentials: Path) -> None:
    path = secrets / "password"
    path.write_text("fresh")
    assert chosen(path, credentials, secrets) == path


def test_else_the_copy(secrets: Path, credentials: Path) -> None:
    assert chosen(secrets / "password", credentials, secrets) == credentials / "secrets_password"
    assert chosen(secrets / "tls/web-1.key", credentials, secrets) == credentials / "secrets_tls_web-1.key"
    assert chosen(secrets / "./tls/../password", credentials, secrets) == credentials / "secrets_password"


def test_the_file_where_neither_can_be(secrets: Path, credentials: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "password"
    for path in (
        secrets / "other",
        elsewhere,
        secrets,
        secrets / "../password",
        tmp_path / "secrets_password",
    ):
        assert chosen(path, credentials, secrets) == path


@pytest.mark.parametrize("environ", [{}, {"CREDENTIALS_DIRECTORY": ""}])
def test_the_file_without_credentials(secrets: Path, environ: dict[str, str]) -> None:
    assert readable(secrets / "password", environ, secrets) == secrets / "password"


def test_a_path_that_cannot_be_is_left_to_its_reader(secrets: Path, credentials: Path) -> None:
    path = secrets / "a\0b"
    assert chosen(path, credentials, secrets) == path


def test_a_fifo_does_not_hold_it_up(secrets: Path, credentials: Path) -> None:
    os.mkfifo(secrets / "password")
    assert chosen(secrets / "password", credentials, secrets) == secrets / "password"


def told_of(path: Path, credentials: Path, secrets: Path) -> str:
    error = AdapterError("Permission denied", str(path), "make it readable")
    with (
        pytest.raises(AdapterError) as raised,
        explained({"CREDENTIALS_DIRECTORY": str(credentials)}, secrets),
    ):
        raise error
    return raised.value.remedy


def test_a_secret_that_came_after_the_start_takes_a_restart(
    secrets: Path, credentials: Path, tmp_path: Path
) -> None:
    """To make it readable for the daemon would be the wrong thing to do."""
    remedy = f"put it there and restart dmimad, which gets the files in {secrets} when it starts"
    assert told_of(secrets / "later", credentials, secrets) == remedy
    (secrets / "fresh").touch()
    for other in (secrets / "fresh", secrets / "password", tmp_path / "elsewhere", secrets):
        assert told_of(other, credentials, secrets) == "make it readable"


def test_the_secrets_of_the_unit() -> None:
    path = Path("/etc/dmimad/secrets/password")
    assert readable(path, {"CREDENTIALS_DIRECTORY": "/nonexistent"}) == path
