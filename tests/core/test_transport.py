"""What goes over the network in the clear, and files with secrets in wrong hands."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from dmimad.core.transport import (
    exposure,
    is_loopback,
    sends_password_in_clear,
    unusable_chain,
    uses_tls,
    usual_port,
)

CERTIFICATE, KEY = b"-----BEGIN CERTIFICATE-----\n", b"-----BEGIN PRIVATE KEY-----\n"


@dataclass(frozen=True, slots=True)
class Broker:
    """As in [mqtt]."""

    host: str = "broker.example.org"
    tls: str = "auto"
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    username: str = ""
    password_file: str = ""
    allow_plain_password: bool = False


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.1", "::1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    assert (uses_tls(Broker(host)), usual_port(Broker(host))) == (False, 1883)


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "localhost.example.org", "0.0.0.0", "::", "128.0.0.1", "web-1"]
)
def test_elsewhere(host: str) -> None:
    assert not is_loopback(host)
    assert (uses_tls(Broker(host)), usual_port(Broker(host))) == (True, 8883)


def test_what_is_set_decides() -> None:
    assert not uses_tls(Broker(tls="off"))
    assert uses_tls(Broker("localhost", tls="on"))
    assert uses_tls(Broker("localhost", tls_ca_file="ca.crt"))


@pytest.mark.parametrize(
    ("broker", "in_clear"),
    [
        (Broker(tls="off"), False),
        (Broker(username="u"), False),
        (Broker(tls="off", username="u"), True),
        (Broker(tls="off", password_file="p"), True),
        (Broker(tls="off", username="u", allow_plain_password=True), False),
        (Broker("localhost", username="u"), False),
    ],
)
def test_passwords_in_the_clear(broker: Broker, in_clear: bool) -> None:
    assert sends_password_in_clear(broker) is in_clear


@pytest.mark.parametrize(
    ("mode", "owner", "told"),
    [
        (0o600, 0, ("", "")),
        (0o440, 990, ("", "")),
        (0o600, 1000, ("belongs to user 1000, who could replace it", "chown root /k")),
        (0o604, 0, ("everybody may access it (mode 0604)", "chmod o= /k")),
        (0o100660, 990, ("its group may write it (mode 0660)", "chmod g-w /k")),
    ],
)
def test_secrets_in_wrong_hands(mode: int, owner: int, told: tuple[str, str]) -> None:
    assert exposure("/k", mode, owner, {990}) == told


@pytest.mark.parametrize(
    ("certificate", "key", "reason", "told"),
    [
        (b"", KEY, "PEM_LIB", "there is no certificate in it (PEM)"),
        (CERTIFICATE, b"", "PEM_LIB", "there is no private key in the key's file (PEM)"),
        (CERTIFICATE, b"-----BEGIN ENCRYPTED PRIVATE KEY-----", "x", "the private key is encrypted"),
        (CERTIFICATE, KEY, "KEY_VALUES_MISMATCH", "the private key is not that of the certificate"),
        (CERTIFICATE, KEY, "EE_KEY_TOO_SMALL", "damaged (EE_KEY_TOO_SMALL)"),
    ],
)
def test_a_certificate_that_cannot_be_used(certificate: bytes, key: bytes, reason: str, told: str) -> None:
    assert unusable_chain(certificate, key, reason) == told
