"""The baseline directory: every ``*.toml`` in it, in the order of names, as one baseline.

Source: none; the format of a file is `dmimad.core.baseline`'s, that of signatures
`dmimad.core.signed_baseline`'s.  A file that cannot be read or is refused fails the whole reading, so that
half a baseline is never in force.  Each file is read once: what is verified is what is parsed.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from dmimad.core.baseline import MAX_BASELINE_BYTES, Baseline, merge
from dmimad.core.dsse import MAX_ENVELOPE_BYTES
from dmimad.core.errors import AdapterError, BaselineError
from dmimad.core.signed_baseline import SUFFIX, SignedFile, parse_file
from dmimad.system.files import open_without_waiting

#: Files in one directory; more is not a baseline but an accident.
MAX_FILES = 1000


def read_baseline(directory: Path) -> Baseline:
    """The baseline in ``directory``, signed or not; an empty one if there is no such directory.

    Raises:
        BaselineError: a file is refused; says which, and where.
        AdapterError: the directory cannot be listed.
    """
    return merge(read_baseline_file(path) for path in list_files(directory))


def read_signed(directory: Path) -> tuple[SignedFile, ...]:
    """The files of ``directory`` with their signatures, of which nothing is checked yet; raises as above."""
    return tuple(read_signed_file(path) for path in list_files(directory))


def list_files(directory: Path) -> list[Path]:
    """The directory's baseline files, in order; none if there is no such directory.

    Raises:
        AdapterError: it cannot be listed, or has too many.
    """
    try:
        files = sorted(path for path in directory.iterdir() if path.suffix == ".toml" and path.name[0] != ".")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise AdapterError(
            f"cannot be listed: {error.strerror}", str(directory), "check baseline.directory"
        ) from error
    if len(files) > MAX_FILES:
        raise AdapterError(f"more than {MAX_FILES} baseline files", str(directory))
    return files


def read_baseline_file(path: Path) -> Baseline:
    """One baseline file; raises BaselineError."""
    return parse_file(str(path), _read(path, MAX_BASELINE_BYTES + 1))


def read_signed_file(path: Path) -> SignedFile:
    """One baseline file and its signatures, if it has any; raises BaselineError."""
    # First the signatures: who replaces both files puts these there first.
    beside = path.with_name(path.name + SUFFIX)
    signatures = _read(beside, MAX_ENVELOPE_BYTES + 1) if os.path.lexists(beside) else None
    data = _read(path, MAX_BASELINE_BYTES + 1)
    if len(data) > MAX_BASELINE_BYTES:
        raise BaselineError(str(path), f"larger than {MAX_BASELINE_BYTES} bytes")
    return SignedFile(str(path), data, signatures)


def write_signatures(path: Path, signatures: bytes) -> Path:
    """Write the signatures of the baseline file ``path`` beside it, at once or not at all; returns where.

    Raises:
        AdapterError: they cannot be written.
    """
    beside = path.with_name(path.name + SUFFIX)
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix="." + beside.name, delete=False) as stream:
            try:
                stream.write(signatures)
                os.fchmod(stream.fileno(), 0o644)
                stream.flush()
                os.fsync(stream.fileno())
                os.replace(stream.name, beside)  # noqa: PTH105  # its name is a text
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(stream.name)  # noqa: PTH108  # as above
                raise
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise AdapterError(f"cannot be written: {reason}", str(beside), "see who may write there") from error
    return beside


def _read(path: Path, size: int) -> bytes:
    try:
        with open(path, "rb", opener=open_without_waiting) as stream:
            return stream.read(size) or b""  # None: a FIFO that somebody has open and writes nothing to
    except OSError as error:
        raise BaselineError(str(path), f"cannot be read: {error.strerror}") from error
