"""`dmimad baseline sign` and `verify`, and what `check-config` says of keys; also by another DSSE."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from dmimad.adapters.keys import SigningKey, write_pair
from dmimad.cli import main

TEXT = "version = 1\nserial = 7\n[[device]]\nname = 'a'\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "b.d" / "main.toml"
    path.parent.mkdir()
    path.write_text(TEXT)
    return path


def new_key(path: Path) -> str:
    key = SigningKey.generate()
    write_pair(key, path)
    return key.keyid


def sign(key: Path, *files: Path) -> int:
    return main(["baseline", "sign", "--key", str(key), *map(str, files)])


def verify(*files: Path, keys: Path) -> int:
    return main(["baseline", "verify", "--keys", str(keys), *map(str, files)])


def envelope(file: Path) -> Envelope:
    """Of the detached signatures, put together as docs/signing.md says."""
    document = json.loads(file.with_name(file.name + ".sig").read_bytes())
    document["payload"] = base64.b64encode(file.read_bytes()).decode()
    return Envelope.from_dict(document)


def test_a_signed_file_is_good_and_another_implementation_says_so(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keyid = new_key(tmp_path / "key")
    assert sign(tmp_path / "key", file) == 0
    assert capsys.readouterr().out == f"signed: {file}.sig by {keyid}\n"
    assert verify(file, keys=tmp_path / "key.pub") == 0
    assert capsys.readouterr().out == f"good: {file}: serial 7, signed by {keyid}\n"
    public = load_pem_public_key((tmp_path / "key.pub").read_bytes())
    assert isinstance(public, Ed25519PublicKey)
    key = SSlibKey.from_crypto(public, keyid=keyid)
    found = envelope(file)
    assert found.payload_type == "application/vnd.dmimad.baseline+toml"
    assert found.verify([key], 1) == {keyid: key}
    file.write_text(TEXT + "#")
    with pytest.raises(VerificationError):
        envelope(file).verify([key], 1)


def test_two_keys_sign_beside_each_other_until_the_file_changes(tmp_path: Path, file: Path) -> None:
    ids = [new_key(tmp_path / name) for name in ("one", "two")]
    for name in ("one", "two", "one"):
        assert sign(tmp_path / name, file) == 0
    assert set(envelope(file).signatures) == set(ids)
    for name in ("one.pub", "two.pub"):
        assert verify(file, keys=tmp_path / name) == 0
    file.write_text(TEXT.replace("7", "8"))
    assert sign(tmp_path / "one", file) == 0
    assert set(envelope(file).signatures) == {ids[0]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("version = 1\n", "main.toml: serial: a signed baseline needs one"),
        ("version = 1\nserial = 1\nx = 1\n", "main.toml:3: x: unknown key"),
    ],
)
def test_what_could_not_be_accepted_is_not_signed(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str], text: str, reason: str
) -> None:
    new_key(tmp_path / "key")
    good = file.with_name("good.toml")
    good.write_text(TEXT)
    file.write_text(text)
    assert sign(tmp_path / "key", good, file) == 2
    assert reason in capsys.readouterr().err
    assert not list(file.parent.glob("*.sig"))


def test_each_file_has_its_line_and_one_that_is_not_good_is_a_finding(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_key(tmp_path / "key")
    sign(tmp_path / "key", file)
    unsigned = file.with_name("new.toml")
    unsigned.write_text(TEXT)
    missing = file.with_name("\x1b[31m.toml")
    capsys.readouterr()
    assert verify(file.parent, missing, keys=tmp_path / "key.pub") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["good", "not good", "not good"]
    assert "new.toml: is not signed" in lines[1]
    assert "\\x1b[31m.toml: cannot be read: No such file" in lines[2]
    assert verify(tmp_path / "b.d", keys=tmp_path / "none.pub") == 2
    (tmp_path / "empty").mkdir()
    assert verify(tmp_path / "empty", keys=tmp_path / "key.pub") == 1


class TestCheckConfig:
    def settings(self, tmp_path: Path, **values: str) -> list[str]:
        path = tmp_path / "dmimad.toml"
        path.write_text(
            f'[baseline]\ndirectory = "b.d"\ntrusted_keys = {values.get("trusted", "[]")}\n'
            f'[alerts]\nsigning_key_file = "{values.get("signing", "")}"\n'
        )
        return ["check-config", "--config", str(path)]

    def test_without_keys(self, tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(self.settings(tmp_path)) == 0
        out = capsys.readouterr().out
        assert "baseline signatures: not demanded\n" in out
        assert "alerts: not signed\n" in out

    def test_with_keys(self, tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        keyid = new_key(tmp_path / "key")
        arguments = self.settings(tmp_path, trusted='["key.pub"]', signing="key")
        assert main(arguments) == 2
        assert f"{file}: is not signed" in capsys.readouterr().err
        sign(tmp_path / "key", file)
        capsys.readouterr()
        assert main(arguments) == 0
        out = capsys.readouterr().out
        assert f"baseline signatures: demanded and valid, trusted: {keyid}\n" in out
        assert f"alerts: signed by {keyid}\n" in out

    def test_unusable_keys(self, tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        new_key(tmp_path / "key")
        (tmp_path / "key").chmod(0o644)
        assert main(self.settings(tmp_path, signing="key")) == 2
        told = capsys.readouterr().err
        assert "everybody may access it (mode 0644)" in told
        assert "set by alerts.signing_key_file" in told
        assert main(self.settings(tmp_path, trusted='["none.pub"]')) == 2
        assert "none.pub: cannot be read: no such file" in (told := capsys.readouterr().err)
        assert "set by baseline.trusted_keys" in told
