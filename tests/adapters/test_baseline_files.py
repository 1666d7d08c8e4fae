"""The baseline directory: what is read of it, what is refused, how signatures are written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dmimad.adapters.baseline_files import (
    MAX_FILES,
    list_files,
    read_baseline,
    read_baseline_file,
    read_signed,
    read_signed_file,
    write_signatures,
)
from dmimad.core.baseline import MAX_BASELINE_BYTES
from dmimad.core.errors import AdapterError, BaselineError
from dmimad.core.signed_baseline import SignedFile

ENTRY = b"version = 1\n[[device]]\nname = '%s'\n"


def test_all_files_in_order_are_one_baseline(tmp_path: Path) -> None:
    for name in ("b.toml", "a.toml", ".hidden.toml", "c.toml.sig", "notes"):
        (tmp_path / name).write_bytes(ENTRY % name[:1].encode())
    assert [entry.name for entry in read_baseline(tmp_path).entries] == ["a", "b"]
    assert [path.name for path in list_files(tmp_path)] == ["a.toml", "b.toml"]


def test_without_a_directory_nothing_is_approved(tmp_path: Path) -> None:
    assert read_baseline(tmp_path / "none").entries == ()
    assert read_signed(tmp_path / "none") == ()


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AdapterError, match="file: cannot be listed: Not a directory"):
        read_baseline(tmp_path / "file")


def test_too_many_files(tmp_path: Path) -> None:
    for number in range(MAX_FILES + 1):
        (tmp_path / f"{number}.toml").touch()
    with pytest.raises(AdapterError, match="more than 1000 baseline files"):
        list_files(tmp_path)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    for make, reason in (
        (path.mkdir, "cannot be read: Is a directory"),
        (lambda: path.write_bytes(b"version = 1\n\xff"), "not UTF-8"),
    ):
        make()
        with pytest.raises(BaselineError, match=reason):
            read_baseline_file(path)
        if path.is_dir():
            path.rmdir()


def test_a_fifo_does_not_hold_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.toml")
    assert read_signed_file(tmp_path / "a.toml").data == b""
    with (tmp_path / "a.toml").open("r+b", buffering=0):
        assert read_signed_file(tmp_path / "a.toml").data == b""


def test_signatures_are_read_beside_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xff")
    (tmp_path / "b.toml").write_bytes(b"b")
    (tmp_path / "b.toml.sig").write_bytes(b"sig")
    a, b = str(tmp_path / "a.toml"), str(tmp_path / "b.toml")
    assert read_signed(tmp_path) == (SignedFile(a, b"\xff", None), SignedFile(b, b"b", b"sig"))
    (tmp_path / "b.toml.sig").unlink()
    (tmp_path / "b.toml.sig").symlink_to("nowhere")
    with pytest.raises(BaselineError, match=r"b\.toml\.sig: cannot be read"):
        read_signed(tmp_path)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"#" * (MAX_BASELINE_BYTES + 1))
    with pytest.raises(BaselineError, match="larger than 4194304 bytes"):
        read_signed_file(tmp_path / "a.toml")


def test_signatures_are_replaced_at_once(tmp_path: Path) -> None:
    for data in (b"one", b"two"):
        beside = write_signatures(tmp_path / "a.toml", data)
        assert beside == tmp_path / "a.toml.sig"
        assert beside.read_bytes() == data
        assert stat.S_IMODE(beside.stat().st_mode) == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["a.toml.sig"]


def test_signatures_that_cannot_be_written_leave_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a.toml.sig").mkdir()
    with pytest.raises(AdapterError, match=r"a\.toml\.sig: cannot be written: is a directory"):
        write_signatures(tmp_path / "a.toml", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.toml.sig"]
    with pytest.raises(AdapterError, match="no such file or directory"):
        write_signatures(tmp_path / "none" / "a.toml", b"x")
