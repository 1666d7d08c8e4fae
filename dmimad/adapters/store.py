"""What must survive the process: one SQLite database in the state directory.

Source: SQLite's own documentation of WAL, PRAGMA synchronous and "How To Corrupt"; the
records are those of `dmimad.core.commit`.

A commit is one transaction, on disk (fsync) when `commit` returns.  Acknowledgements are
transactions too, but not forced to the disk: they survive the death of the process, and
what a power failure can undo is sent again under the same alert id, which subscribers
drop.  So the only calls that wait for a disk are those that must.

Calls are short (one transaction) and meant to be made directly, without a thread: nothing
the daemon does next may happen before its commit has.  They are locked all the same, so
that a metrics thread or `asyncio.to_thread` may use them.

The file's bytes are not trusted: schema, types and sizes are checked before use, and a
database that fails is moved aside, kept, and begun anew with those messages of its outbox
that can still be read.  One that is damaged or taken away while it is used says so with
`DamagedError`: close it, and open it again.  Someone who can write the file
can still write a well-formed lie; that is for the state directory's permissions, and the
PCR replay, to prevent.  Does not decide what is stored, and does not publish.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from dmimad.core.commit import Commit, Document, Message, Outgoing, Stored
from dmimad.core.errors import AdapterError, DamagedError, MalformedError, StateRefusedError
from dmimad.core.signed_baseline import ApprovedFile

DATABASE_NAME = "dmimad.db"
LOCK_NAME = "dmimad.lock"
SCHEMA_VERSION = 3
MAX_ROW_BYTES = 64 * 1024 * 1024
"""Largest row that is written or read; SQLite enforces it."""
MAX_SEQ = 2**62
"""Above this a row number is damage: SQLite could soon not number the next one."""
MAX_REASON_CHARS = 200
MAX_SERIAL_DIGITS = 19
"""Of a baseline file's serial, which has 63 bits."""
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

_WRITABLE = "make file and directory writable for dmimad"
_ASIDE = "dmimad moves it aside and begins anew; look for disk errors"
_REMEDIES: Mapping[int, tuple[str, str]] = {
    sqlite3.SQLITE_FULL: ("the disk is full", "free some space on that file system"),
    sqlite3.SQLITE_READONLY: ("not writable", _WRITABLE),
    sqlite3.SQLITE_PERM: ("not accessible", _WRITABLE),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", _WRITABLE),
    sqlite3.SQLITE_IOERR: ("reading or writing failed", "look for disk errors and a full disk or quota"),
    sqlite3.SQLITE_NOMEM: ("not enough memory", "give dmimad more memory"),
    sqlite3.SQLITE_BUSY: ("another program has locked it", "end the program that has the database open"),
    sqlite3.SQLITE_LOCKED: ("another program has locked it", "end the program that has the database open"),
    sqlite3.SQLITE_TOOBIG: (f"a row over {MAX_ROW_BYTES} bytes", "report this: no device should need that"),
    sqlite3.SQLITE_CORRUPT: ("the database is damaged", _ASIDE),
    sqlite3.SQLITE_NOTADB: ("the database is damaged", _ASIDE),
    sqlite3.SQLITE_ERROR: ("the database is damaged", _ASIDE),
}
"""SQLite's primary result codes -> what is wrong, what to do."""
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
_SURROUNDINGS = frozenset(_REMEDIES) - _DAMAGE - {sqlite3.SQLITE_TOOBIG}
"""The codes that never speak of the file's content."""


class Store:
    """The daemon's memory; the only user of its state directory."""

    def __init__(self, directory: Path, lock: int) -> None:
        """Use `open`."""
        self._path = directory / DATABASE_NAME
        self._lock = lock
        self._mutex = threading.RLock()
        self._notice = ""
        self._history_damaged = False
        try:
            self._db = _connect(self._path)
        except MalformedError as exc:
            self._db = self._begin_anew(exc.reason)
        self._identity = _identity(self._path)
        self._pending = self._count("outbox")
        self._dead = self._count("dead_letter")

    @classmethod
    def open(cls, directory: Path) -> Store:
        """Open, or create, the state in `directory`; the parent directory must exist.

        Raises:
            StateRefusedError: another daemon uses it, or it was written by a newer version.
            AdapterError: it cannot be used for now.
        """
        _make_directory(directory)
        lock = _lock(directory)
        try:
            return cls(directory, lock)
        except BaseException:
            os.close(lock)
            raise

    def close(self) -> None:
        """Close the database and let another daemon have the directory; may be called twice."""
        with self._mutex:
            if self._lock < 0:
                return
            with contextlib.suppress(sqlite3.Error):  # nothing is lost: every commit is already on disk
                self._db.close()
            os.close(self._lock)
            self._lock = -1

    # What the monitor needs

    def load(self) -> Stored:
        """What is stored, checked; damaged content is moved aside and reported in `notice`."""
        with self._mutex:
            try:
                stored = self._with_history(_read(self._db, self._path))
            except MalformedError as exc:
                self._db = self._begin_anew(exc.reason, self._db)
                stored = Stored()
            return replace(stored, notice=self._notice)

    def _with_history(self, stored: Stored) -> Stored:
        """Nothing else depends on it: if only its content is odd, it alone begins anew."""
        with _distrusting(self._path):
            try:
                rows = {str(key): _decode(document) for key, document in _rows(self._db, "history")}
            except MalformedError as exc:
                self._history_damaged = True
                return replace(stored, history_lost=f"{self._path}: {exc.reason}")
        return replace(stored, history=rows)

    def approved(self) -> tuple[ApprovedFile, ...]:
        """The baseline files that were accepted last; damaged content is treated as `load` does."""
        with self._mutex:
            try:
                with _distrusting(self._path):
                    return tuple(map(_approved_file, _rows(self._db, "approved")))
            except MalformedError as exc:
                self._db = self._begin_anew(exc.reason, self._db)
                return ()

    def set_approved(self, files: Iterable[ApprovedFile]) -> None:
        """Remember these baseline files in the place of those before; on disk when it returns."""
        rows = [
            (os.fsencode(file.path), str(file.serial), file.data, file.signatures, int(file.in_force))
            for file in files
        ]
        with self._transaction(durable=True) as db:
            db.execute("DELETE FROM approved")
            db.executemany("INSERT INTO approved VALUES (?, ?, ?, ?, ?)", rows)

    def commit(self, commit: Commit, seqs: Sequence[int] | None = None) -> None:
        """Store all of `commit` or, with AdapterError, nothing; on disk when it returns.

        `seqs`: the numbers of its messages in the outbox, from `next_seq` on; without, the next ones.
        """
        numbers: Sequence[int | None] = [None] * len(commit.messages) if seqs is None else seqs
        with self._mutex:
            with self._transaction(durable=True) as db:
                if commit.fresh:
                    db.execute("DELETE FROM device")
                    db.execute("DELETE FROM fact")
                if commit.anew or self._history_damaged:
                    db.execute("DELETE FROM history")
                _put_documents(db, "device", commit.devices)
                _put_documents(db, "alert", commit.alerts)
                _put_documents(db, "history", commit.history)
                db.executemany("INSERT OR IGNORE INTO fact VALUES (?, ?)", commit.facts)
                db.executemany(
                    "INSERT INTO outbox (seq, topic, payload, content_type) VALUES (?, ?, ?, ?)",
                    [
                        (seq, message.topic, message.payload, message.content_type)
                        for seq, message in zip(numbers, commit.messages, strict=True)
                    ],
                )
                db.execute("INSERT OR REPLACE INTO checkpoint VALUES (1, ?)", (_encode(commit.checkpoint),))
            self._history_damaged = False
            self._pending += len(commit.messages)

    def probe(self) -> None:
        """Write something, if only what is there already; raises AdapterError where that is not possible."""
        with self._transaction(durable=True) as db:
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def facts(self) -> tuple[tuple[str, bytes], ...]:
        """All facts that are stored; raises AdapterError where not all of them can be read."""
        with self._mutex, _translated(self._path):
            try:
                return cast("tuple[tuple[str, bytes], ...]", tuple(_rows(self._db, "fact")))
            except MalformedError as exc:
                raise DamagedError(exc.reason, str(self._path), _ASIDE) from exc

    def next_seq(self) -> int:
        """The number that the next message in the outbox has, if it is given none."""
        with self._mutex, _translated(self._path):
            row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
        return 1 if row is None else int(row[0]) + 1

    # What the publisher needs

    def pending(self, after: int, limit: int) -> list[Outgoing]:
        """The oldest `limit` messages of the outbox with a `seq` above `after`, in order."""
        with self._mutex, _translated(self._path):
            rows = self._db.execute(
                "SELECT seq, topic, payload, content_type, attempts FROM outbox"
                " WHERE seq > ? ORDER BY seq LIMIT ?",
                (after, limit),
            ).fetchall()
        return [
            Outgoing(seq, Message(topic, payload, content_type), attempts)
            for seq, topic, payload, content_type, attempts in rows
        ]

    def acknowledged(self, seqs: Iterable[int]) -> None:
        """The broker has these; they leave the outbox."""
        with self._mutex:
            with self._transaction(durable=False) as db:
                gone = db.executemany("DELETE FROM outbox WHERE seq = ?", [(seq,) for seq in seqs]).rowcount
            self._pending -= max(gone, 0)

    def rejected(self, seq: int, reason: str, max_attempts: int) -> bool:
        """The broker refused it, for the last time if it has been refused `max_attempts` times.

        Returns whether it was moved to the dead letters now.
        """
        with self._mutex:
            with self._transaction(durable=False) as db:
                db.execute("UPDATE outbox SET attempts = attempts + 1 WHERE seq = ?", (seq,))
                moved = db.execute(
                    "INSERT OR REPLACE INTO dead_letter"
                    " SELECT seq, topic, payload, content_type, attempts, ? FROM outbox"
                    " WHERE seq = ? AND attempts >= ?",
                    (reason[:MAX_REASON_CHARS], seq, max_attempts),
                ).rowcount
                if moved:
                    db.execute("DELETE FROM outbox WHERE seq = ?", (seq,))
            self._pending -= moved
            self._dead += moved
        return moved > 0

    def pending_count(self) -> int:
        """Messages that wait for an acknowledgement."""
        return self._pending

    def dead_count(self) -> int:
        """Messages that were given up on; they are kept in the table dead_letter."""
        return self._dead

    def retained(self) -> frozenset[str]:
        """Topics that may hold a retained message of this host."""
        with self._mutex, _translated(self._path):
            return frozenset(topic for (topic,) in self._db.execute("SELECT topic FROM retained"))

    def set_retained(self, *, published: Iterable[str] = (), cleared: Iterable[str] = ()) -> None:
        """Note topics, all in one transaction.

        `published`: before the first publish, or a crash between the two would leave a
        retained message nobody knows of.  `cleared`: after the acknowledgement.
        """
        with self._transaction(durable=True) as db:
            db.executemany("INSERT OR IGNORE INTO retained VALUES (?)", [(topic,) for topic in published])
            db.executemany("DELETE FROM retained WHERE topic = ?", [(topic,) for topic in cleared])

    # Inside

    @contextlib.contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        with self._mutex, _translated(self._path):
            if _identity(self._path) != self._identity:  # SQLite would go on writing to what nobody can find
                raise DamagedError("the database was taken away or replaced", str(self._path), _ASIDE)
            db = self._db
            # In WAL mode NORMAL writes without waiting for the disk; consistent after a power failure, too.
            db.execute("PRAGMA synchronous = FULL" if durable else "PRAGMA synchronous = NORMAL")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                    db.execute("ROLLBACK")
                raise

    def _begin_anew(self, reason: str, damaged: sqlite3.Connection | None = None) -> sqlite3.Connection:
        messages = _salvage(self._path)
        kept = _move_aside(self._path)
        self._notice = f"{self._path}: {reason}; kept as {kept.name}, everything begins anew"
        if messages:
            self._notice += f", {len(messages)} messages of its outbox taken over"
        if damaged is not None:
            # Between the two: closing removes the WAL by name, which must not be the new one's yet.
            with contextlib.suppress(sqlite3.Error):
                damaged.close()
        try:
            db = _connect(self._path)
        except MalformedError as exc:  # a new file: the storage itself is broken
            raise AdapterError(exc.reason, str(self._path), "look for disk errors") from exc
        with _translated(self._path):
            db.executemany(
                "INSERT INTO outbox (topic, payload, content_type) VALUES (?, ?, ?)",
                [(message.topic, message.payload, message.content_type) for message in messages],
            )
        self._identity = _identity(self._path)
        self._pending, self._dead = len(messages), 0
        return db

    def _count(self, table: str) -> int:
        with _translated(self._path):
            (count,) = self._db.execute(f"SELECT count(*) FROM {table}").fetchone()
            return int(count)


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file is there; None: there is none."""
    try:
        found = path.stat(follow_symlinks=False)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _salvage(path: Path) -> list[Message]:
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
        for _, topic, payload, content_type, _ in _rows(db, "outbox"):
            messages.append(Message(str(topic), cast("bytes", payload), str(content_type)))
    return messages


def _make_directory(directory: Path) -> None:
    try:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        if not directory.is_dir():
            raise AdapterError("not a directory", str(directory), "set state.directory to a directory")
    except FileNotFoundError as exc:
        remedy = f"create {directory.parent}, or set state.directory"
        raise AdapterError("its parent directory does not exist", str(directory), remedy) from exc
    except OSError as exc:
        raise AdapterError(_reason(exc), str(directory), "make it usable, or set state.directory") from exc


def _lock(directory: Path) -> int:
    path = directory / LOCK_NAME
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        broken = exc.errno == errno.EIO
        remedy = "look for disk errors" if broken else "make the directory writable for dmimad"
        raise AdapterError(_reason(exc), str(path), remedy) from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(lock)
        if isinstance(exc, BlockingIOError):
            what, remedy = "another dmimad uses this directory", "stop it, or set another state.directory"
            raise StateRefusedError(what, str(directory), remedy) from exc
        raise AdapterError(_reason(exc), str(path), "use a local file system as state.directory") from exc
    return lock


def _reason(exc: OSError) -> str:
    return (exc.strerror or type(exc).__name__).lower()


def _move_aside(path: Path) -> Path:
    """Rename the database with its WAL to the first free name; keep the names SQLite expects."""
    try:
        number = 1
        while path.with_name(f"{path.name}.corrupt-{number}").exists():
            number += 1
        kept = path.with_name(f"{path.name}.corrupt-{number}")
        for suffix in ("-wal", "-shm", ""):  # the database last: until it has moved, this can be done again
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(kept.with_name(kept.name + suffix))
    except OSError as exc:
        raise AdapterError(f"damaged, and {_reason(exc)}", str(path), "move it away by hand") from exc
    return kept


def _code(exc: sqlite3.Error) -> int:
    """The primary result code; without one the sqlite3 module did not like the text it found."""
    return getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
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
def _distrusting(path: Path) -> Iterator[None]:
    """While looking at stored bytes: an error that speaks of them is a MalformedError."""
    with _translated(path):
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as exc:
            if isinstance(exc, sqlite3.Error) and _code(exc) in _SURROUNDINGS:
                raise
            raise MalformedError(f"damaged: {exc}") from exc


def _connect(path: Path) -> sqlite3.Connection:
    """Open and check, or create; MalformedError: there is something, and it is not ours."""
    try:
        # SQLite would create it readable for everyone; its other files take over this mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError as exc:
        raise AdapterError(_reason(exc), str(path), "make file and directory writable for dmimad") from exc
    with _distrusting(path):
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


def _approved_file(row: tuple[object, ...]) -> ApprovedFile:
    path, serial, data, signatures, in_force = cast("tuple[bytes, str, bytes, bytes, int]", row)
    if not (serial.isascii() and serial.isdecimal() and len(serial) <= MAX_SERIAL_DIGITS):
        raise MalformedError("damaged: approved.serial")
    return ApprovedFile(os.fsdecode(path), int(serial), data, signatures, bool(in_force))


def _read(db: sqlite3.Connection, path: Path) -> Stored:
    """Everything, every row of every table checked; MalformedError at the first wrong one."""
    with _distrusting(path):
        checkpoints = [_decode(document) for _, document in _rows(db, "checkpoint")]
        devices = {str(key): _decode(document) for key, document in _rows(db, "device")}
        alerts = {str(key): _decode(document) for key, document in _rows(db, "alert")}
        facts = cast("tuple[tuple[str, bytes], ...]", tuple(_rows(db, "fact")))  # the types _rows has checked
        for table in ("outbox", "dead_letter", "retained", "approved"):
            for _ in _rows(db, table):
                pass
        (seq,) = db.execute("SELECT max(seq) FROM sqlite_sequence").fetchone()
        if seq is not None and (not isinstance(seq, int) or not 0 <= seq < MAX_SEQ):
            raise MalformedError("damaged: sqlite_sequence")
    return Stored(checkpoints[0] if checkpoints else None, devices, alerts, facts)


def _rows(db: sqlite3.Connection, table: str) -> Iterator[tuple[object, ...]]:
    columns = _COLUMNS[table]
    names = ", ".join(name for name, _ in columns)
    for row in db.execute(f"SELECT {names} FROM {table}"):
        for (name, kind), value in zip(columns, row, strict=True):
            least = 1 if name == "seq" else 0
            if type(value) is not kind or (isinstance(value, int) and not least <= value < MAX_SEQ):
                raise MalformedError(f"damaged: {table}.{name}")
        yield row


def _put_documents(db: sqlite3.Connection, table: str, documents: Mapping[str, Document | None]) -> None:
    kept = [(key, _encode(document)) for key, document in documents.items() if document is not None]
    gone = [(key,) for key, document in documents.items() if document is None]
    db.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", kept)
    db.executemany(f"DELETE FROM {table} WHERE key = ?", gone)


def _encode(document: Document) -> str:
    return json.dumps(dict(document), separators=(",", ":"), allow_nan=False)


def _decode(text: object) -> Document:
    try:
        document = json.loads(str(text), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise MalformedError("damaged: a document that is not JSON") from exc
    if not isinstance(document, dict):
        raise MalformedError("damaged: a document that is not a JSON object")
    return document


def _refuse_constant(name: str) -> float:
    raise ValueError(name)
