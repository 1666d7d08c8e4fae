"""SQLite's errors in our terms: what is wrong, and what to do.

Source: SQLite's "Result and Error Codes".
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from dmimad.core.errors import AdapterError, DamagedError, MalformedError

MAX_ROW_BYTES = 64 * 1024 * 1024
"""Largest row that is written or read; SQLite enforces it."""
MAX_REASON_CHARS = 200
WRITABLE = "make file and directory writable for dmimad"
ASIDE = "dmimad moves it aside and begins anew; look for disk errors"
_REMEDIES: Mapping[int, tuple[str, str]] = {
    sqlite3.SQLITE_FULL: ("the disk is full", "free some space on that file system"),
    sqlite3.SQLITE_READONLY: ("not writable", WRITABLE),
    sqlite3.SQLITE_PERM: ("not accessible", WRITABLE),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", WRITABLE),
    sqlite3.SQLITE_IOERR: ("reading or writing failed", "look for disk errors and a full disk or quota"),
    sqlite3.SQLITE_NOMEM: ("not enough memory", "give dmimad more memory"),
    sqlite3.SQLITE_BUSY: ("another program has locked it", "end the program that has the database open"),
    sqlite3.SQLITE_LOCKED: ("another program has locked it", "end the program that has the database open"),
    sqlite3.SQLITE_TOOBIG: (f"a row over {MAX_ROW_BYTES} bytes", "report this: no device should need that"),
    sqlite3.SQLITE_CORRUPT: ("the database is damaged", ASIDE),
    sqlite3.SQLITE_NOTADB: ("the database is damaged", ASIDE),
    sqlite3.SQLITE_ERROR: ("the database is damaged", ASIDE),
}
"""SQLite's primary result codes -> what is wrong, what to do."""
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
_SURROUNDINGS = frozenset(_REMEDIES) - _DAMAGE - {sqlite3.SQLITE_TOOBIG}
"""The codes that never speak of the file's content."""


def _code(exc: sqlite3.Error) -> int:
    """The primary result code; without one the sqlite3 module did not like the text it found."""
    return getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """An error of SQLite is an AdapterError, and a DamagedError where it speaks of the file."""
    try:
        yield
    except sqlite3.ProgrammingError as exc:  # not the file's fault: used after close
        raise AdapterError(str(exc), str(path), "report this") from exc
    except (sqlite3.Error, UnicodeDecodeError) as exc:  # the latter when SQLite quotes damaged text
        code = _code(exc) if isinstance(exc, sqlite3.Error) else sqlite3.SQLITE_CORRUPT
        what, remedy = _REMEDIES.get(code, (str(exc), "report this"))
        kind = DamagedError if code in _DAMAGE else AdapterError
        raise kind(what, str(path), remedy) from exc


@contextlib.contextmanager
def distrusting(path: Path) -> Iterator[None]:
    """While looking at stored bytes: an error that speaks of them is a MalformedError."""
    with translated(path):
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as exc:
            if isinstance(exc, sqlite3.Error) and _code(exc) in _SURROUNDINGS:
                raise
            raise MalformedError(f"damaged: {exc}") from exc
