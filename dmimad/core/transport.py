"""When a connection is encrypted, and which files may hold a secret: rules that settings and adapters share.

Source: RFC 5735 and RFC 4291 for loopback addresses; the IANA's ports for MQTT.

What this module does not do: resolve names (one that resolves to a loopback address today may not tomorrow),
open files or connections.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Protocol

PLAIN_PORT, TLS_PORT = 1883, 8883
TLS_MODES = ("auto", "on", "off")

_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
_OTHERS, _GROUP_WRITES = 0o007, 0o020


class Access(Protocol):
    """What decides on encryption, of the settings in [mqtt]."""

    @property
    def host(self) -> str: ...
    @property
    def tls(self) -> str: ...
    @property
    def tls_ca_file(self) -> str: ...
    @property
    def tls_cert_file(self) -> str: ...
    @property
    def tls_key_file(self) -> str: ...
    @property
    def username(self) -> str: ...
    @property
    def password_file(self) -> str: ...
    @property
    def allow_plain_password(self) -> bool: ...


def is_loopback(host: str) -> bool:
    """Whether what is sent to this name or address stays on this host, whatever a name service says."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in _LOOPBACK)


def uses_tls(access: Access) -> bool:
    """Whether the broker is talked to with TLS."""
    if access.tls != "auto":
        return access.tls == "on"
    return not is_loopback(access.host) or bool(
        access.tls_ca_file or access.tls_cert_file or access.tls_key_file
    )


def usual_port(access: Access) -> int:
    """The broker's port where none is given."""
    return TLS_PORT if uses_tls(access) else PLAIN_PORT


def sends_password_in_clear(access: Access) -> bool:
    """Whether others could read on the way what lets one in, and nobody has said that it may be so."""
    return (
        bool(access.username or access.password_file)
        and not is_loopback(access.host)
        and not uses_tls(access)
        and not access.allow_plain_password
    )


def exposure(path: str, mode: int, owner: int, users: Collection[int]) -> tuple[str, str]:
    """Why a file with a secret is in wrong hands, and what to do; two empty texts if it is not.

    `mode` and `owner` are the file's, `users` are those who use it.
    """
    if owner != 0 and owner not in users:
        return f"belongs to user {owner}, who could replace it", f"chown root {path}"
    if mode & _OTHERS:
        return f"everybody may access it (mode {mode & 0o7777:04o})", f"chmod o= {path}"
    if mode & _GROUP_WRITES:
        return f"its group may write it (mode {mode & 0o7777:04o})", f"chmod g-w {path}"
    return "", ""


def unusable_chain(certificate: bytes, key: bytes, reason: str) -> str:
    """Why a certificate and its key cannot be used, in words: `reason` is what OpenSSL calls it."""
    if b"-----BEGIN CERTIFICATE-----" not in certificate:
        return "there is no certificate in it (PEM)"
    if b"PRIVATE KEY-----" not in key:
        return "there is no private key in the key's file (PEM)"
    if b"ENCRYPTED" in key:
        return "the private key is encrypted"
    if "MISMATCH" in reason:
        return "the private key is not that of the certificate"
    return f"damaged ({reason})"
