"""Password and TLS of a connection to a broker: from files to what paho takes, and TLS failures in words.

Source: RFC 8446 for the alerts, OpenSSL's x509_vfy.h for the codes of verification; aiomqtt 2.5.1 and
paho-mqtt 2.2, which tell of a failure in the handshake at most OpenSSL's words.

The broker's name and chain are always verified.  Does not decide whether TLS is used: `core.transport`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from dmimad.core.errors import AdapterError
from dmimad.core.transport import Access, sends_password_in_clear, unusable_chain, uses_tls
from dmimad.system.files import read_file_of_setting

MAX_PASSWORD_BYTES = 65535
"""What the length field of a CONNECT packet can say."""
MAX_FILE_BYTES = 4 << 20
"""Of a file with certificates; a system's bundle has some 200 KiB."""

_EXPIRED, _NOT_YET_VALID = 10, 9
_OTHER_NAME = (62, 64)
_UNKNOWN_ISSUER = (2, 18, 19, 20, 21)
_SHOWN_NAMES, _SHOWN_CHARACTERS = 5, 200


@dataclass(frozen=True, slots=True)
class Credentials:
    """What lets one in; `digest` is another one if any of the files is."""

    password: str | None = field(repr=False)
    tls: ssl.SSLContext | None
    digest: str = field(repr=False)


def read_credentials(access: Access, where: str, users: Collection[int] | None = None) -> Credentials:
    """Password and TLS as they are in the files now.

    Secrets must belong to root or one of the `users`; None: to whoever runs this.

    Raises:
        AdapterError: a file is not usable, or the password would be sent in the clear.
    """
    if sends_password_in_clear(access):
        remedy = "use TLS (mqtt.tls), or allow it with mqtt.allow_plain_password"
        raise AdapterError("user name and password would cross the network in the clear", where, remedy)
    files: list[bytes] = []
    users = (os.geteuid(),) if users is None else users
    password = _password(access.password_file, files, users) if access.password_file else None
    context = _context(access, files, users) if uses_tls(access) else None
    digests = b"".join(hashlib.sha256(content).digest() for content in files)
    return Credentials(password, context, hashlib.sha256(digests).hexdigest())


def _password(path: str, files: list[bytes], users: Collection[int]) -> str:
    remedy = "put the broker's password there, in one line readable for dmimad only"
    content = read_file_of_setting(path, "mqtt.password_file", remedy, MAX_PASSWORD_BYTES, secret_of=users)
    files.append(content)
    try:
        password = content.decode().rstrip("\r\n")
    except UnicodeDecodeError as exc:
        raise AdapterError("mqtt.password_file: not UTF-8", path, remedy) from exc
    if not password or "\n" in password:  # half written, perhaps
        problem = "more than one line" if password else "empty"
        raise AdapterError(f"mqtt.password_file: {problem}", path, remedy)
    return password


def _context(access: Access, files: list[bytes], users: Collection[int]) -> ssl.SSLContext:
    remedy = "put the certificate of the broker's CA there (PEM), readable for dmimad"
    if access.tls_ca_file:
        files.append(read_file_of_setting(access.tls_ca_file, "mqtt.tls_ca_file", remedy, MAX_FILE_BYTES))
    elif bundle := ssl.get_default_verify_paths().cafile:
        with contextlib.suppress(OSError):  # then it is no use to OpenSSL either
            files.append(Path(bundle).read_bytes())
    try:
        context = ssl.create_default_context(cafile=access.tls_ca_file or None)
    except OSError as exc:  # SSLError is one; another: it has gone since
        text = "mqtt.tls_ca_file: there is no certificate in it (PEM)"
        raise AdapterError(text, access.tls_ca_file, remedy) from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # What a failure is told with; paho makes the socket.
    files_used = {"trusted": access.tls_ca_file, "certificate": access.tls_cert_file}
    context.sslsocket_class = type("TlsSocket", (TlsSocket,), files_used)
    if access.tls_cert_file or access.tls_key_file:
        _show_certificate(context, access, files, users)
    return context


def _show_certificate(
    context: ssl.SSLContext, access: Access, files: list[bytes], users: Collection[int]
) -> None:
    """The client's own."""
    certificate, key = access.tls_cert_file, access.tls_key_file or access.tls_cert_file
    remedy = "put certificate and unencrypted key there (PEM), readable for dmimad"
    shown = read_file_of_setting(certificate, "mqtt.tls_cert_file", remedy, MAX_FILE_BYTES)
    secret = read_file_of_setting(key, "mqtt.tls_key_file", remedy, MAX_FILE_BYTES, secret_of=users)
    files += [shown, secret]
    try:
        # The empty password: OpenSSL would ask the terminal for that of an encrypted key.
        context.load_cert_chain(certificate, key, password="")
    except OSError as exc:  # SSLError is one
        problem = unusable_chain(shown, secret, getattr(exc, "reason", None) or str(exc.strerror))
        where = f"{certificate} {key}"
        raise AdapterError(f"mqtt.tls_cert_file, mqtt.tls_key_file: {problem}", where, remedy) from exc


class TlsSocket(ssl.SSLSocket):
    """Says why TLS failed, which paho does not, and closes its descriptor when the handshake fails."""

    trusted: ClassVar[str] = ""
    certificate: ClassVar[str] = ""
    failure: AdapterError | None = None  # after the handshake: the broker has refused us

    def do_handshake(self, block: bool = False) -> None:
        try:
            where = f"{self.server_hostname}:{self.getpeername()[1]}"
            try:
                super().do_handshake(block)
            except ssl.SSLCertVerificationError as exc:
                raise _unverified(exc, self._certificate(), where, self.trusted) from exc
            except (ssl.SSLError, ConnectionError) as exc:
                raise _refused(exc, where, self.certificate) from exc
        except BaseException:
            self.close()
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as exc:  # with TLS 1.3 it is only now that the broker looks at our certificate
            self.failure = _refused(exc, f"{self.server_hostname}", self.certificate)
            raise

    def send(self, data: Any, flags: int = 0) -> int:
        try:
            return super().send(data, flags)
        except ConnectionError:
            with contextlib.suppress(OSError):  # the reason may have come before the end
                self.recv(1)
            raise

    def _certificate(self) -> Mapping[str, Any]:
        """The one that was refused; public only since Python 3.13, and there without its fields."""
        try:
            info: Mapping[str, Any] = self._sslobj.get_unverified_chain()[0].get_info()  # type: ignore[attr-defined]
        except Exception:  # it is only for the message
            return {}
        return info


def _unverified(
    exc: ssl.SSLCertVerificationError, certificate: Mapping[str, Any], where: str, trusted: str
) -> AdapterError:
    """Of the certificate's fields nothing is sure but that the broker has sent them."""
    code = exc.verify_code
    ends, begins = _moment(certificate.get("notAfter")), _moment(certificate.get("notBefore"))
    remedy = "look at the broker's certificate"
    if code == _EXPIRED and ends is not None and ends < datetime.now(UTC):
        what, remedy = f"expired {ends:%Y-%m-%d %H:%M} UTC", "renew it, unless this host's clock is wrong"
    elif code == _EXPIRED:
        what, remedy = "that of its CA has expired", "renew that, unless this host's clock is wrong"
    elif code == _NOT_YET_VALID:
        since = "later" if begins is None else f"{begins:%Y-%m-%d %H:%M} UTC"
        what, remedy = f"begins {since}", "is this host's clock right?"
    elif code in _OTHER_NAME:
        what = f"it is for {_names(certificate)}"
        remedy = "set mqtt.host to a name that is in it, or give the broker one with mqtt.host in it"
    elif code in _UNKNOWN_ISSUER:
        store = trusted or "the system's CAs"
        what = f"it is signed by {_issuer(certificate)}, which is not in {store}"
        remedy = "put the CA that signed it into mqtt.tls_ca_file"
    else:
        what = _plain(exc.verify_message)
    return AdapterError(f"the broker's certificate is not valid: {what}", where, remedy)


_ALERTS: tuple[tuple[str, str, str], ...] = (
    (
        "CERTIFICATE_REQUIRED",
        "the broker wants a client certificate",
        "set mqtt.tls_cert_file and mqtt.tls_key_file",
    ),
    (
        "HANDSHAKE_FAILURE",
        "the broker refuses the handshake",
        "does it want a client certificate (mqtt.tls_cert_file), and has it TLS 1.2 or later?",
    ),
    (
        "UNKNOWN_CA",
        "the broker does not know the CA of our certificate",
        "make the broker trust the CA of mqtt.tls_cert_file",
    ),
    ("CERTIFICATE_REVOKED", "our certificate is revoked", "renew mqtt.tls_cert_file"),
    ("CERTIFICATE_EXPIRED", "our certificate has expired", "renew mqtt.tls_cert_file"),
    (
        "BAD_CERTIFICATE",
        "the broker refuses our certificate",
        "check mqtt.tls_cert_file, and the broker's log",
    ),
    ("CERTIFICATE", "the broker refuses our certificate", "check mqtt.tls_cert_file, and the broker's log"),
    ("PROTOCOL", "the broker has no TLS 1.2 or later", "raise the broker's version of TLS"),
    ("VERSION_NUMBER", "it does not speak TLS", "set mqtt.port to the broker's port for TLS"),
)
"""Part of OpenSSL's name of it, problem, remedy; the first that fits."""


def _refused(exc: OSError, where: str, certificate: str) -> AdapterError:
    reason = (getattr(exc, "reason", None) or "").upper()
    for part, problem, remedy in _ALERTS:
        if part in reason:
            when = _expiry(certificate) if part == "CERTIFICATE_EXPIRED" else ""
            return AdapterError(problem + when, where, remedy)
    if isinstance(exc, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionError):
        remedy = "is mqtt.port the broker's port for TLS?"
        return AdapterError("hung up during the TLS handshake", where, remedy)
    detail = _plain(reason.replace("_", " ").lower() or str(exc))
    return AdapterError(f"TLS failed: {detail}", where, "is mqtt.port the broker's port for TLS?")


def _expiry(file: str) -> str:
    """When the certificate in the file did, if that can be told."""
    from cryptography import x509  # noqa: PLC0415  # 9 MB, for a message

    try:
        found = x509.load_pem_x509_certificate(Path(file).read_bytes())
    except (OSError, ValueError):
        return f" ({file})"
    return f" ({file}: {found.not_valid_after_utc:%Y-%m-%d %H:%M} UTC)"


def _moment(text: object) -> datetime | None:
    try:
        return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(text)), UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _names(certificate: Mapping[str, Any]) -> str:
    names = [str(value) for _, value in certificate.get("subjectAltName", ())]
    shown = ", ".join(names[:_SHOWN_NAMES]) + (", …" if len(names) > _SHOWN_NAMES else "")
    return _plain(shown) or "no name at all (subjectAltName)"


def _issuer(certificate: Mapping[str, Any]) -> str:
    parts = [f"{key}={value}" for group in certificate.get("issuer", ()) for key, value in group]
    return _plain(", ".join(parts)) or "an unknown CA"


def _plain(text: str) -> str:
    """What the other side sent, on one line."""
    shown = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + "…"
