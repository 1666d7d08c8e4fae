"""What certificates in a file say of themselves: how many there are, and when the first expires.

Source: RFC 7468 for PEM, RFC 5280 for the rest.

What this module does not do: verify anything, or read keys; OpenSSL does that where they are used.
"""

from __future__ import annotations

from pathlib import Path

from dmimad.core.errors import AdapterError

MAX_FILE_BYTES = 4 << 20


def expiry(path: str) -> float:
    """When the first certificate in the file expires, in Unix seconds.

    That is the one that is shown; those behind it are of the CAs between.  Raises AdapterError.
    """
    from cryptography import x509  # noqa: PLC0415  # 9 MB, for those who have certificates of their own

    try:
        with Path(path).open("rb") as file:
            found = x509.load_pem_x509_certificate(file.read(MAX_FILE_BYTES))
    except OSError as error:
        raise AdapterError(str(error.strerror), path) from error
    except ValueError as error:
        raise AdapterError("no certificate (PEM)", path) from error
    return found.not_valid_after_utc.timestamp()
