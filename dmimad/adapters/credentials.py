"""Where to read a secret that only root may read: passed on by the service manager.

Source: systemd.exec(5), LoadCredential=: of a directory given as ``secrets:/etc/dmimad/secrets``, the file
``mqtt/password`` is ``secrets_mqtt_password`` in $CREDENTIALS_DIRECTORY, which only the service may read.

What it does not do: read the secret, or judge who else may read it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dmimad.core.errors import AdapterError

SECRETS = Path("/etc/dmimad/secrets")
CREDENTIAL = "secrets"


def readable(path: Path, environ: Mapping[str, str], secrets: Path = SECRETS) -> Path:
    """The path to read in the place of `path`, a file as the administrator sees it.

    That is `path` itself where this process can open it: it is as of now, the credential as of the
    service's start.  Where neither can be opened it is `path` too: an error is about what the administrator
    knows.
    """
    if _can_open(path):
        return path
    copy = _credential(path, environ, secrets)
    return copy if copy is not None and _can_open(copy) else path


@contextmanager
def explained(environ: Mapping[str, str], secrets: Path = SECRETS) -> Iterator[None]:
    """An error about a secret that the service was not given says that it is given at the start alone."""
    try:
        yield
    except AdapterError as error:
        copy = _credential(Path(error.where), environ, secrets)
        if copy is None or _can_open(Path(error.where)) or _can_open(copy):
            raise
        remedy = f"put it there and restart dmimad, which gets the files in {secrets} when it starts"
        raise AdapterError(error.what, error.where, remedy) from error


def _credential(path: Path, environ: Mapping[str, str], secrets: Path) -> Path | None:
    """Where systemd would have put a copy; None if it is not one of the secrets."""
    directory = environ.get("CREDENTIALS_DIRECTORY", "")
    normal = Path(os.path.normpath(path))  # not resolved: the daemon may not look into the directory
    if not directory or normal == secrets or not normal.is_relative_to(secrets):
        return None
    return Path(directory) / "_".join((CREDENTIAL, *normal.relative_to(secrets).parts))


def _can_open(path: Path) -> bool:
    try:
        # Not to wait for a FIFO's other end.
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK))
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return False
    return True
