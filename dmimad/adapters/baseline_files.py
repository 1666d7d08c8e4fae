"""The baseline directory: every ``*.toml`` in it, in the order of names, as one baseline.

Source: none; the format of a file is `dmimad.core.baseline`'s.  A file that cannot be read or is
refused fails the whole reading, so that half a baseline is never in force.
"""

from __future__ import annotations

from pathlib import Path

from dmimad.core.baseline import MAX_BASELINE_BYTES, Baseline, merge, parse_baseline
from dmimad.core.errors import AdapterError, BaselineError

#: Files in one directory; more is not a baseline but an accident.
MAX_FILES = 1000


def read_baseline(directory: Path) -> Baseline:
    """The baseline in ``directory``; an empty one if there is no such directory.

    Raises:
        BaselineError: a file is refused; says which, and where.
        AdapterError: the directory cannot be listed.
    """
    try:
        files = sorted(path for path in directory.iterdir() if path.suffix == ".toml" and path.name[0] != ".")
    except FileNotFoundError:
        return Baseline()
    except OSError as error:
        raise AdapterError(
            f"cannot be listed: {error.strerror}", str(directory), "check baseline.directory"
        ) from error
    if len(files) > MAX_FILES:
        raise AdapterError(f"more than {MAX_FILES} baseline files", str(directory))
    return merge(read_baseline_file(path) for path in files)


def read_baseline_file(path: Path) -> Baseline:
    """One baseline file; raises BaselineError."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BASELINE_BYTES + 1)
    except OSError as error:
        raise BaselineError(str(path), f"cannot be read: {error.strerror}") from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BaselineError(str(path), "is not UTF-8 text", line=line) from error
    return parse_baseline(text, str(path))
