"""Certificate, key and the clients' CAs of an endpoint, as its files have them now.

What this module does not do: watch the files, or say which of systemd's credentials they are.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Collection
from typing import Protocol

from dmimad.core.errors import AdapterError
from dmimad.core.transport import unusable_chain
from dmimad.system.files import read_file_of_setting

MAX_FILE_BYTES = 4 << 20
_REMEDY = "put it there (PEM), readable for dmimad"


class TlsFiles(Protocol):
    """The part of the settings, [metrics] or [page], that names the files."""

    @property
    def tls_cert_file(self) -> str: ...
    @property
    def tls_key_file(self) -> str: ...
    @property
    def tls_client_ca_file(self) -> str: ...


def server_context(
    files: TlsFiles, users: Collection[int] | None = None, *, section: str = "metrics"
) -> ssl.SSLContext | None:
    """TLS as the files have it now; None without a certificate.  Raises AdapterError: a file is unusable.

    The key must belong to root or one of the `users`; None: to whoever runs this.  `section`: that of the
    settings, for messages.
    """
    if not files.tls_cert_file:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    certificate = _content(files.tls_cert_file, f"{section}.tls_cert_file")
    key = _content(
        files.tls_key_file, f"{section}.tls_key_file", secret_of=(os.geteuid(),) if users is None else users
    )
    try:
        # The empty password: OpenSSL would ask the terminal for that of an encrypted key.
        context.load_cert_chain(files.tls_cert_file, files.tls_key_file, password="")
    except OSError as error:  # SSLError is one
        problem = unusable_chain(certificate, key, getattr(error, "reason", None) or str(error.strerror))
        where = f"{files.tls_cert_file} {files.tls_key_file}"
        what = f"{section}.tls_cert_file, {section}.tls_key_file: {problem}"
        raise AdapterError(what, where, "put certificate and unencrypted key there (PEM)") from error
    if files.tls_client_ca_file:
        _content(files.tls_client_ca_file, f"{section}.tls_client_ca_file")
        try:
            context.load_verify_locations(cafile=files.tls_client_ca_file)
        except OSError as error:
            what = f"{section}.tls_client_ca_file: there is no certificate in it (PEM)"
            remedy = "put the CA of the clients' certificates there"
            raise AdapterError(what, files.tls_client_ca_file, remedy) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _content(path: str, setting: str, secret_of: Collection[int] | None = None) -> bytes:
    return read_file_of_setting(path, setting, _REMEDY, MAX_FILE_BYTES, secret_of=secret_of)
