"""Keys in files: what other tools make is read, what others could read is not used."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from dmimad.adapters.keys import MAX_KEY_BYTES, PublicKeys, SigningKey, write_pair
from dmimad.core.errors import AdapterError


@pytest.fixture
def pair(tmp_path: Path) -> tuple[SigningKey, Path, Path]:
    key, path = SigningKey.generate(), tmp_path / "key"
    return key, path, write_pair(key, path)


def private_pem(key: object, password: bytes | None = None) -> bytes:
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)  # type: ignore[attr-defined,no-any-return]  # of any kind


def public_pem(key: object) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined,no-any-return]  # of any kind


def written(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_a_written_pair_signs_and_verifies(pair: tuple[SigningKey, Path, Path]) -> None:
    made, path, public = pair
    assert public == path.with_name("key.pub")
    assert [stat.S_IMODE(file.stat().st_mode) for file in (path, public)] == [0o600, 0o644]
    key, keys = SigningKey.load(path), PublicKeys.load([public])
    assert keys.keyids == (key.keyid,) == (made.keyid,)
    signature = key.sign(b"data")
    assert keys.verify(key.keyid, b"data", signature)
    assert key.sign(b"data") == signature
    assert not keys.verify(key.keyid, b"date", signature)
    assert not keys.verify(key.keyid, b"data", signature[:-1])
    assert not keys.verify("ed25519:other", b"data", signature)


def test_the_key_id_is_a_digest_of_the_public_key(pair: tuple[SigningKey, Path, Path]) -> None:
    key, _, public = pair
    parsed = load_pem_public_key(public.read_bytes())
    der = parsed.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert key.keyid == "ed25519:" + hashlib.sha256(der).hexdigest()[:32]


def test_openssl_reads_ours_and_makes_what_is_read(
    pair: tuple[SigningKey, Path, Path], tmp_path: Path
) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key, path, public = pair
    derived = subprocess.run(
        [openssl, "pkey", "-in", path, "-pubout"], check=True, capture_output=True
    ).stdout
    assert derived == public.read_bytes() == key.public_pem
    other = tmp_path / "other"
    subprocess.run([openssl, "genpkey", "-algorithm", "ed25519", "-out", other], check=True)
    other.chmod(0o400)
    assert SigningKey.load(other).keyid.startswith("ed25519:")


@pytest.mark.parametrize("existing", ["key", "key.pub"])
def test_nothing_is_overwritten_and_no_half_pair_left(tmp_path: Path, existing: str) -> None:
    written(tmp_path / existing, b"precious")
    with pytest.raises(AdapterError, match=f"{existing}: exists already; keys are never overwritten"):
        write_pair(SigningKey.generate(), tmp_path / "key")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {existing: b"precious"}


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AdapterError, match="exists already"):
        write_pair(SigningKey.generate(), tmp_path / "key")
    assert not (tmp_path / "elsewhere").exists()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="none/key: no such file or directory; name a file"):
        write_pair(SigningKey.generate(), tmp_path / "none" / "key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666])
def test_a_private_key_that_others_can_use_is_refused(pair: tuple[SigningKey, Path, Path], mode: int) -> None:
    _, path, _ = pair
    path.chmod(mode)
    with pytest.raises(AdapterError, match=rf"others .* have access to this private key \(mode {mode:04o}\)"):
        SigningKey.load(path)
    path.chmod(0o400)
    SigningKey.load(path)


@pytest.mark.parametrize(
    ("mode", "owner", "problem", "remedy"),
    [
        (0o604, 0, "everybody may access it (mode 0604)", "chmod o= "),
        (0o620, 0, "its group may write it (mode 0620)", "chmod g-w "),
        (0o600, 4711, "belongs to user 4711, who could replace it", "chown root "),
    ],
)
def test_a_services_key_in_wrong_hands_is_refused(
    pair: tuple[SigningKey, Path, Path], mode: int, owner: int, problem: str, remedy: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    key, path, _ = pair
    path.chmod(mode)
    os.chown(path, owner, 0)
    with pytest.raises(AdapterError) as refused:
        SigningKey.load(path, users=(0, 4712))
    assert str(refused.value) == f"{path}: private key: {problem}; {remedy}{path}"
    os.chown(path, 4712, 0)
    path.chmod(0o440)  # as systemd gives it
    assert SigningKey.load(path, users=(0, 4712)).keyid == key.keyid


def _fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "cannot be read: no such file"),
    "directory": (lambda path: path.mkdir(mode=0o700), ""),
    "FIFO": (_fifo, "is no file"),
    "empty": (lambda path: written(path, b""), "is no p"),
    "text": (lambda path: written(path, b"\xff key"), "is no p"),
    "large": (lambda path: written(path, bytes(MAX_KEY_BYTES + 1)), "is larger than 16384 bytes"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_is_no_key_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    make, reason = UNUSABLE[kind]
    path = tmp_path / "file"
    make(path)
    for load in (SigningKey.load, lambda path: PublicKeys.load([path])):
        with pytest.raises(AdapterError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: {reason}")
        assert "\n" not in str(caught.value)


def test_keys_of_another_kind_are_refused(tmp_path: Path) -> None:
    curve = generate_private_key(SECP256R1())
    with pytest.raises(AdapterError, match="is no Ed25519 key"):
        SigningKey.load(written(tmp_path / "ec", private_pem(curve)))
    with pytest.raises(AdapterError, match="is no Ed25519 key"):
        PublicKeys.load([written(tmp_path / "ec.pub", public_pem(curve))])
    ours = Ed25519PrivateKey.generate()
    with pytest.raises(AdapterError, match="the key is encrypted"):
        SigningKey.load(written(tmp_path / "encrypted", private_pem(ours, b"secret")))
    with pytest.raises(AdapterError, match="is a private key; give the public one"):
        PublicKeys.load([written(tmp_path / "private", private_pem(ours))])


def test_a_directory_is_its_public_keys(tmp_path: Path) -> None:
    keys = [SigningKey.generate() for _ in range(3)]
    directory = tmp_path / "keys"
    directory.mkdir()
    with pytest.raises(AdapterError, match="no public key in this directory"):
        PublicKeys.load([directory])
    written(directory / "a.pub", keys[0].public_pem)
    written(directory / "b.pem", keys[1].public_pem)
    written(directory / "README", b"not a key")
    single = written(tmp_path / "c", keys[2].public_pem, 0o444)
    loaded = PublicKeys.load([directory, single, single])
    assert loaded.keyids == tuple(sorted(key.keyid for key in keys))
    written(directory / "d.pub", b"broken")
    with pytest.raises(AdapterError, match=r"d\.pub: is no public key"):
        PublicKeys.load([directory])
