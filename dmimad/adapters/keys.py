"""Ed25519 keys in files: one that signs, and those that are trusted.

Source: RFC 8410 (Ed25519 in PKCS#8 and SubjectPublicKeyInfo), RFC 7468 (PEM); the `cryptography` package.

A key id is ``ed25519:`` and the first 32 hexadecimal digits of SHA-256 over the key's SubjectPublicKeyInfo
(DER): `openssl pkey -pubin -in FILE -outform DER | sha256sum`.

A private key is never in a message or a log.  What is signed, and in which form, is `dmimad.core.dsse`'s.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from dmimad.core.errors import AdapterError
from dmimad.core.transport import exposure
from dmimad.system.files import open_without_waiting

#: A key file; Ed25519's have some hundred bytes.
MAX_KEY_BYTES = 16 * 1024
#: Key files in a directory, and trusted keys in all.
MAX_KEYS = 1000
#: How public keys in a directory are called.
PUBLIC_SUFFIXES = (".pub", ".pem")
_KEYID_DIGITS = 32


class SigningKey:
    """A private key; `generate` or `load`."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.keyid = _keyid(key.public_key())

    @classmethod
    def generate(cls) -> SigningKey:
        """A new one, of the system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path, users: Collection[int] | None = None) -> SigningKey:
        """The key in a PKCS#8 PEM file that nobody but its owner may use.

        Args:
            users: of a service: it must belong to root or one of these, and its group may read it as well.

        Raises:
            AdapterError: it cannot be read, others have access, or it is no Ed25519 key.
        """
        data, state = _read(path)
        mode = stat.S_IMODE(state.st_mode)
        if users is not None:
            problem, command = exposure(str(path), mode, state.st_uid, users)
            if problem:
                raise AdapterError(f"private key: {problem}", str(path), command)
        elif mode & 0o077:
            what = f"others than the owner have access to this private key (mode {mode:04o})"
            raise AdapterError(what, str(path), f"chmod 600 {path}, and make a new key if it was readable")
        try:
            key = load_pem_private_key(data, None)
        except TypeError:
            raise AdapterError("the key is encrypted", str(path), "store it without a passphrase") from None
        except (ValueError, UnsupportedAlgorithm):
            what = "is no private key (PKCS#8 PEM)"
            raise AdapterError(what, str(path), "make one with: dmimad keygen FILE") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise AdapterError("is no Ed25519 key", str(path), "make one with: dmimad keygen FILE")
        return cls(key)

    def sign(self, data: bytes) -> bytes:
        """The signature over ``data``, always the same one."""
        return self._key.sign(data)

    @property
    def public_pem(self) -> bytes:
        """The public key for others, SubjectPublicKeyInfo in PEM."""
        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def private_pem(self) -> bytes:
        """The key itself, PKCS#8 in PEM, not encrypted."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class PublicKeys:
    """Keys that are trusted, by their ids."""

    def __init__(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        self._keys = dict(keys)

    @classmethod
    def load(cls, paths: Iterable[Path]) -> PublicKeys:
        """The keys in files and directories (``*.pub`` and ``*.pem`` in these).

        Raises:
            AdapterError: one cannot be read or is no public Ed25519 key; there is none in a directory.
        """
        keys: dict[str, Ed25519PublicKey] = {}
        for path in paths:
            for file in _files(path):
                key = _load_public(file)
                keys[_keyid(key)] = key
                if len(keys) > MAX_KEYS:
                    raise AdapterError(f"more than {MAX_KEYS} trusted keys", str(path))
        return cls(keys)

    @property
    def keyids(self) -> tuple[str, ...]:
        """Ids of all the keys, in order."""
        return tuple(sorted(self._keys))

    def verify(self, keyid: str, data: bytes, signature: bytes) -> bool:
        """Whether the key of this id is trusted and made the signature over ``data``."""
        key = self._keys.get(keyid)
        if key is None:
            return False
        try:
            key.verify(signature, data)
        except InvalidSignature:
            return False
        return True


def write_pair(key: SigningKey, path: Path) -> Path:
    """Write a new private key to ``path`` (mode 0600) and its public one beside it; returns that one's path.

    Raises:
        AdapterError: a file of either name exists, which is left alone, or cannot be written.
    """
    public = path.with_name(path.name + ".pub")
    _create(path, key.private_pem, 0o600)
    try:
        _create(public, key.public_pem, 0o644)
    except AdapterError:
        with contextlib.suppress(OSError):
            path.unlink()  # half a pair is of no use
        raise
    return public


def _create(path: Path, data: bytes, mode: int) -> None:
    """A file that was not there; whatever the umask, and on disk when this returns."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise AdapterError("exists already", str(path), "keys are never overwritten; name another") from None
    except OSError as error:
        raise AdapterError(_reason(error), str(path), "name a file that can be written") from error
    try:
        with open(descriptor, "wb") as stream:  # noqa: PTH123  # a descriptor
            stream.write(data)
            os.fchmod(descriptor, mode)
            stream.flush()
            os.fsync(descriptor)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise AdapterError(_reason(error), str(path), "see whether the disk is full") from error


def _keyid(key: Ed25519PublicKey) -> str:
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "ed25519:" + hashlib.sha256(der).hexdigest()[:_KEYID_DIGITS]


def _load_public(path: Path) -> Ed25519PublicKey:
    data, _ = _read(path)
    if b"PRIVATE KEY-----" in data:
        raise AdapterError("is a private key", str(path), "give the public one (.pub) instead")
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise AdapterError(
            "is no public key (PEM)", str(path), "dmimad keygen writes one to FILE.pub"
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise AdapterError("is no Ed25519 key", str(path), "dmimad keygen makes such keys")
    return key


def _files(path: Path) -> list[Path]:
    """A directory's public keys, or the file itself."""
    try:
        if not path.is_dir():
            return [path]
        files = sorted(file for file in path.iterdir() if file.suffix in PUBLIC_SUFFIXES)
    except OSError as error:
        raise AdapterError(_reason(error), str(path), "name public keys, or a directory of them") from error
    if not files:
        what = f"no public key in this directory ({', '.join('*' + suffix for suffix in PUBLIC_SUFFIXES)})"
        raise AdapterError(what, str(path), "put one there")
    if len(files) > MAX_KEYS:
        raise AdapterError(f"more than {MAX_KEYS} key files", str(path))
    return files


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    """A key file's bytes and its state, both of the file that was opened."""
    try:
        with open(path, "rb", opener=open_without_waiting) as stream:
            state = os.fstat(stream.fileno())
            data = stream.read(MAX_KEY_BYTES + 1) if stat.S_ISREG(state.st_mode) else b""
    except OSError as error:
        raise AdapterError(f"cannot be read: {_reason(error)}", str(path), "name a key file") from error
    if not stat.S_ISREG(state.st_mode):
        raise AdapterError("is no file", str(path), "name a key file")
    if len(data) > MAX_KEY_BYTES:
        raise AdapterError(f"is larger than {MAX_KEY_BYTES} bytes: no key", str(path))
    return data, state


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
