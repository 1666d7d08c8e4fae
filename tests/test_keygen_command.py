"""`dmimad keygen`: a pair of files, and what to do with them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from dmimad.adapters.keys import PublicKeys, SigningKey
from dmimad.cli import main


def test_a_pair_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "site key"
    assert main(["keygen", str(path)]) == 0
    out = capsys.readouterr().out
    key = SigningKey.load(path)
    public = tmp_path / "site key.pub"
    assert PublicKeys.load([public]).keyids == (key.keyid,)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert f"key id       {key.keyid}\n" in out
    assert f"dmimad baseline sign --key '{path}' FILE.toml" in out
    assert "PRIVATE KEY" not in out
    assert "trusted_keys" in out
    assert "signing_key_file" in out


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "key"
    path.write_text("precious")
    assert main(["keygen", str(path)]) == 2
    told = capsys.readouterr()
    assert told.err == f"dmimad: {path}: exists already; keys are never overwritten; name another\n"
    assert told.out == ""
    assert path.read_text() == "precious"
    assert not path.with_name("key.pub").exists()
