"""The database file: made or checked, brought up to this version, and what can be saved of a damaged one.

Source: SQLite's own documentation of WAL, of limits and of "Defense Against The Dark Arts".
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from dmimad.adapters.store.failures import MAX_REASON_CHARS, MAX_ROW_BYTES, WRITABLE, distrusting
from dmimad.adapters.store.place import reason_of
from dmimad.adapters.store.rows import checked_rows
from dmimad.core.commit import Message
from dmimad.core.errors import AdapterError, MalformedError, StateRefusedError

SCHEMA_VERSION = 3
MAX_WAL_BYTES = 16 * 1024 * 1024
LOCK_WAIT_SECONDS = 1.0

_SCHEMA = (
    "CREATE TABLE checkpoint (id INTEGER PRIMARY KEY CHECK (id = 1), document TEXT NOT NULL)",
    "CREATE TABLE device (key TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE alert (key TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE fact (kind TEXT, value BLOB, PRIMARY KEY (kind, value)) WITHOUT ROWID",
    # AUTOINCREMENT: a number must not come back when the outbox has run empty.
    "CREATE TABLE outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL,"
    " content_type TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0)",
    "CREATE TABLE dead_letter (seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL,"
    " content_type TEXT NOT NULL, attempts INTEGER NOT NULL, reason TEXT NOT NULL)",
    "CREATE TABLE retained (topic TEXT PRIMARY KEY) WITHOUT ROWID",
)
#: By the version that brought them: what a database of an older one lacks.
_ADDED: Mapping[int, tuple[str, ...]] = {
    # The path is a BLOB for the names that are not UTF-8, the serial a TEXT for it may have 63 bits.
    2: (
        "CREATE TABLE approved (path BLOB PRIMARY KEY, serial TEXT NOT NULL, data BLOB NOT NULL,"
        " signatures BLOB NOT NULL, in_force INTEGER NOT NULL)",
    ),
    3: ("CREATE TABLE history (key TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID",),
}


def connect(path: Path) -> sqlite3.Connection:
    """Open and check, or create; MalformedError: there is something, and it is not ours."""
    try:
        # SQLite would create it readable for everyone; its other files take over this mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError as exc:
        raise AdapterError(reason_of(exc), str(path), WRITABLE) from exc
    with distrusting(path):
        db = sqlite3.connect(path, timeout=LOCK_WAIT_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_ROW_BYTES)
            db.execute("PRAGMA trusted_schema = OFF")
            db.execute(f"PRAGMA journal_size_limit = {MAX_WAL_BYTES}")
            if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
                remedy = "put state.directory on a local file system"
                raise AdapterError("no write-ahead log possible there", str(path), remedy)
            _check_schema(db, path)
        except BaseException:
            db.close()
            raise
    return db


def salvage(path: Path) -> list[Message]:
    """What can still be read of a damaged database's outbox, up to the first row that cannot."""
    messages: list[Message] = []
    where = f"{path.absolute().as_uri()}?mode=ro"
    with (
        contextlib.suppress(sqlite3.Error, UnicodeDecodeError, MalformedError),
        contextlib.closing(sqlite3.connect(where, uri=True)) as db,
    ):
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_ROW_BYTES)
        db.execute("PRAGMA trusted_schema = OFF")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if not 1 <= version <= SCHEMA_VERSION or _tables(db) != _expected_tables(version):
            return []
        for _, topic, payload, content_type, _ in checked_rows(db, "outbox"):
            messages.append(Message(str(topic), cast("bytes", payload), str(content_type)))
    return messages


def _check_schema(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    found = _tables(db)
    if version == 0 and not found:
        db.execute("BEGIN IMMEDIATE")
        _create_schema(db)
        db.execute("COMMIT")
        return
    if version > SCHEMA_VERSION:
        remedy = "install that version again, or move the file away"
        raise StateRefusedError("written by a newer version of dmimad", str(path), remedy)
    # Exactly ours: a trigger or a view in there would be someone else's program.
    if version < 1 or found != _expected_tables(version):
        raise MalformedError("damaged: not the tables dmimad makes")
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise MalformedError(f"damaged: {verdict!s}"[:MAX_REASON_CHARS])
    if version < SCHEMA_VERSION:
        _upgrade(db, version)


def _tables(db: sqlite3.Connection) -> list[tuple[str, str | None]]:
    return db.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()


def _expected_tables(version: int) -> list[tuple[str, str | None]]:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
        _create_schema(model, version)
        return _tables(model)


def _create_schema(db: sqlite3.Connection, version: int = SCHEMA_VERSION) -> None:
    """The tables of a version, which begins with those of the first."""
    for statement in _SCHEMA:
        db.execute(statement)
    _add_tables(db, 1, version)


def _upgrade(db: sqlite3.Connection, version: int) -> None:
    db.execute("BEGIN IMMEDIATE")
    _add_tables(db, version, SCHEMA_VERSION)
    db.execute("COMMIT")


def _add_tables(db: sqlite3.Connection, before: int, version: int) -> None:
    for added in range(before + 1, version + 1):
        for statement in _ADDED[added]:
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {version}")
