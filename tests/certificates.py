"""Certificates for tests: an authority in a directory, and what it signs, in files that may be replaced."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_HOUR = datetime.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Signed:
    """A certificate and its private key."""

    certificate: Path
    key: Path


class Authority:
    """A CA; `file` is its certificate."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        directory.mkdir(exist_ok=True)
        self.file = directory / f"{name}.pem"
        self._directory = directory
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        _write(self.file, _pem(self._build(name, self._key, [], now - _HOUR, now + 24 * _HOUR, ca=True)))

    def sign(
        self,
        name: str,
        *,
        names: Sequence[str] = ("127.0.0.1",),
        begins: datetime.timedelta = -_HOUR,
        ends: datetime.timedelta = 24 * _HOUR,
        password: bytes = b"",
    ) -> Signed:
        """A certificate for these names and addresses; files of the same name are replaced.

        `begins` and `ends` count from now; the key is encrypted with `password`, if there is one.
        """
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
        made = self._build(name, key, names, now + begins, now + ends, ca=False)
        lock: serialization.KeySerializationEncryption = (
            serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        )
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
        found = Signed(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        _write(found.certificate, _pem(made))
        _write(found.key, private)
        return found

    def _build(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        names: Sequence[str],
        begins: datetime.datetime,
        ends: datetime.datetime,
        *,
        ca: bool,
    ) -> x509.Certificate:
        usage = dict.fromkeys(_USES, False) | {
            "digital_signature": True,
            "key_cert_sign": ca,
            "crl_sign": ca,
        }
        issuer = self._key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            # Python 3.13 and later insist on these three.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
            .add_extension(x509.KeyUsage(**usage), critical=True)
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(list(map(_general, names))), critical=False
            )
        return builder.sign(self._key, hashes.SHA256())


_USES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, content: bytes) -> None:
    """In the place of a former one, as a tool that rotates would do it; readable for the owner alone."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(content)
    fresh.chmod(0o600)
    fresh.rename(path)
