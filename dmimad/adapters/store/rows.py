"""The content of the tables, each type and number checked as it is read: the file's bytes are not trusted."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from dmimad.adapters.store.failures import distrusting
from dmimad.core.commit import Document, Stored
from dmimad.core.errors import MalformedError
from dmimad.core.signed_baseline import ApprovedFile

MAX_SEQ = 2**62
"""Above this a row number is damage: SQLite could soon not number the next one."""
MAX_SERIAL_DIGITS = 19
"""Of a baseline file's serial, which has 63 bits."""

_MESSAGE_COLUMNS: tuple[tuple[str, type], ...] = (
    ("seq", int),
    ("topic", str),
    ("payload", bytes),
    ("content_type", str),
    ("attempts", int),
)
_COLUMNS: Mapping[str, tuple[tuple[str, type], ...]] = {
    "checkpoint": (("id", int), ("document", str)),
    "device": (("key", str), ("document", str)),
    "alert": (("key", str), ("document", str)),
    "fact": (("kind", str), ("value", bytes)),
    "outbox": _MESSAGE_COLUMNS,
    "dead_letter": (*_MESSAGE_COLUMNS, ("reason", str)),
    "retained": (("topic", str),),
    "approved": (
        ("path", bytes),
        ("serial", str),
        ("data", bytes),
        ("signatures", bytes),
        ("in_force", int),
    ),
    "history": (("key", str), ("document", str)),
}


def read_all(db: sqlite3.Connection, path: Path) -> Stored:
    """Everything, every row of every table checked; MalformedError at the first wrong one."""
    with distrusting(path):
        checkpoints = [decode(document) for _, document in checked_rows(db, "checkpoint")]
        devices = {str(key): decode(document) for key, document in checked_rows(db, "device")}
        alerts = {str(key): decode(document) for key, document in checked_rows(db, "alert")}
        facts = cast("tuple[tuple[str, bytes], ...]", tuple(checked_rows(db, "fact")))
        for table in ("outbox", "dead_letter", "retained", "approved"):
            for _ in checked_rows(db, table):
                pass
        (seq,) = db.execute("SELECT max(seq) FROM sqlite_sequence").fetchone()
        if seq is not None and (not isinstance(seq, int) or not 0 <= seq < MAX_SEQ):
            raise MalformedError("damaged: sqlite_sequence")
    return Stored(checkpoints[0] if checkpoints else None, devices, alerts, facts)


def checked_rows(db: sqlite3.Connection, table: str) -> Iterator[tuple[object, ...]]:
    """All of a table; MalformedError at the first with a wrong type or number."""
    columns = _COLUMNS[table]
    names = ", ".join(name for name, _ in columns)
    for row in db.execute(f"SELECT {names} FROM {table}"):
        for (name, kind), value in zip(columns, row, strict=True):
            least = 1 if name == "seq" else 0
            if type(value) is not kind or (isinstance(value, int) and not least <= value < MAX_SEQ):
                raise MalformedError(f"damaged: {table}.{name}")
        yield row


def approved_file(row: tuple[object, ...]) -> ApprovedFile:
    """One row of the table of that name."""
    path, serial, data, signatures, in_force = cast("tuple[bytes, str, bytes, bytes, int]", row)
    if not (serial.isascii() and serial.isdecimal() and len(serial) <= MAX_SERIAL_DIGITS):
        raise MalformedError("damaged: approved.serial")
    return ApprovedFile(os.fsdecode(path), int(serial), data, signatures, bool(in_force))


def put_documents(db: sqlite3.Connection, table: str, documents: Mapping[str, Document | None]) -> None:
    """Store these documents by their keys; None: there is none any more."""
    kept = [(key, encode(document)) for key, document in documents.items() if document is not None]
    gone = [(key,) for key, document in documents.items() if document is None]
    db.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", kept)
    db.executemany(f"DELETE FROM {table} WHERE key = ?", gone)


def encode(document: Document) -> str:
    """As JSON, which `decode` reads."""
    return json.dumps(dict(document), separators=(",", ":"), allow_nan=False)


def decode(text: object) -> Document:
    """MalformedError: it is no JSON object."""
    try:
        document = json.loads(str(text), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise MalformedError("damaged: a document that is not JSON") from exc
    if not isinstance(document, dict):
        raise MalformedError("damaged: a document that is not a JSON object")
    return document


def _refuse_constant(name: str) -> float:
    raise ValueError(name)
