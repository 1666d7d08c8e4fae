"""Files that a setting names: what is read of them, and each way in which they are not usable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dmimad.core.errors import AdapterError
from dmimad.system.files import read_file_of_setting

ME = (os.geteuid(),)


def refusal(path: Path, limit: int = 10, *, secret: bool = False) -> str:
    with pytest.raises(AdapterError) as caught:
        read_file_of_setting(
            str(path), "mqtt.password_file", "put it there", limit, secret_of=ME if secret else None
        )
    return str(caught.value).replace(f"{path}", "FILE")


def test_all_of_it_up_to_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"0123456789")
    assert read_file_of_setting(str(file), "s", "r", 10) == b"0123456789"
    assert refusal(file, 9) == "FILE: mqtt.password_file: too long; put it there"


def test_no_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent") == (
        "FILE: mqtt.password_file: No such file or directory; put it there"
    )
    assert refusal(tmp_path) == "FILE: mqtt.password_file: Is a directory; put it there"


def test_a_fifo_holds_nobody_up(tmp_path: Path) -> None:
    """Neither one that nobody writes nor one that somebody has open."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert refusal(fifo) == "FILE: mqtt.password_file: is no file; put it there"
    writer = os.open(fifo, os.O_RDWR)
    try:
        assert refusal(fifo) == "FILE: mqtt.password_file: is no file; put it there"
    finally:
        os.close(writer)


def test_a_secret_that_others_can_read_is_none(tmp_path: Path) -> None:
    """It says so rather than that it is too long: that it was exposed matters more."""
    file = tmp_path / "file"
    file.write_bytes(b"0123456789")
    file.chmod(0o644)
    assert read_file_of_setting(str(file), "s", "r", 10) == b"0123456789"
    assert refusal(file, 9, secret=True) == (
        "FILE: mqtt.password_file: everybody may access it (mode 0644); chmod o= FILE"
    )
    file.chmod(0o600)
    assert read_file_of_setting(str(file), "s", "r", 10, secret_of=ME) == b"0123456789"
