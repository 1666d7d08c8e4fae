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
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from dmimad.adapters.store.database import SCHEMA_VERSION, connect, salvage
from dmimad.adapters.store.failures import ASIDE, MAX_REASON_CHARS, distrusting, translated
from dmimad.adapters.store.place import DATABASE_NAME, identity, lock_of, make_directory, move_aside
from dmimad.adapters.store.rows import approved_file, checked_rows, decode, encode, put_documents, read_all
from dmimad.core.commit import Commit, Message, Outgoing, Stored
from dmimad.core.errors import AdapterError, DamagedError, MalformedError
from dmimad.core.signed_baseline import ApprovedFile


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
            self._db = connect(self._path)
        except MalformedError as exc:
            self._db = self._begin_anew(exc.reason)
        self._identity = identity(self._path)
        self._pending = self._count("outbox")
        self._dead = self._count("dead_letter")

    @classmethod
    def open(cls, directory: Path) -> Store:
        """Open, or create, the state in `directory`; the parent directory must exist.

        Raises:
            StateRefusedError: another daemon uses it, or it was written by a newer version.
            AdapterError: it cannot be used for now.
        """
        make_directory(directory)
        lock = lock_of(directory)
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
                stored = self._with_history(read_all(self._db, self._path))
            except MalformedError as exc:
                self._db = self._begin_anew(exc.reason, self._db)
                stored = Stored()
            return replace(stored, notice=self._notice)

    def _with_history(self, stored: Stored) -> Stored:
        """Nothing else depends on it: if only its content is odd, it alone begins anew."""
        with distrusting(self._path):
            try:
                rows = {str(key): decode(document) for key, document in checked_rows(self._db, "history")}
            except MalformedError as exc:
                self._history_damaged = True
                return replace(stored, history_lost=f"{self._path}: {exc.reason}")
        return replace(stored, history=rows)

    def approved(self) -> tuple[ApprovedFile, ...]:
        """The baseline files that were accepted last; damaged content is treated as `load` does."""
        with self._mutex:
            try:
                with distrusting(self._path):
                    return tuple(map(approved_file, checked_rows(self._db, "approved")))
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
                put_documents(db, "device", commit.devices)
                put_documents(db, "alert", commit.alerts)
                put_documents(db, "history", commit.history)
                db.executemany("INSERT OR IGNORE INTO fact VALUES (?, ?)", commit.facts)
                db.executemany(
                    "INSERT INTO outbox (seq, topic, payload, content_type) VALUES (?, ?, ?, ?)",
                    [
                        (seq, message.topic, message.payload, message.content_type)
                        for seq, message in zip(numbers, commit.messages, strict=True)
                    ],
                )
                db.execute("INSERT OR REPLACE INTO checkpoint VALUES (1, ?)", (encode(commit.checkpoint),))
            self._history_damaged = False
            self._pending += len(commit.messages)

    def probe(self) -> None:
        """Write something, if only what is there already; raises AdapterError where that is not possible."""
        with self._transaction(durable=True) as db:
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def facts(self) -> tuple[tuple[str, bytes], ...]:
        """All facts that are stored; raises AdapterError where not all of them can be read."""
        with self._mutex, translated(self._path):
            try:
                return cast("tuple[tuple[str, bytes], ...]", tuple(checked_rows(self._db, "fact")))
            except MalformedError as exc:
                raise DamagedError(exc.reason, str(self._path), ASIDE) from exc

    def next_seq(self) -> int:
        """The number that the next message in the outbox has, if it is given none."""
        with self._mutex, translated(self._path):
            row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
        return 1 if row is None else int(row[0]) + 1

    # What the publisher needs

    def pending(self, after: int, limit: int) -> list[Outgoing]:
        """The oldest `limit` messages of the outbox with a `seq` above `after`, in order."""
        with self._mutex, translated(self._path):
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
        with self._mutex, translated(self._path):
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
        with self._mutex, translated(self._path):
            if identity(self._path) != self._identity:  # SQLite would go on writing to what nobody can find
                raise DamagedError("the database was taken away or replaced", str(self._path), ASIDE)
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
        messages = salvage(self._path)
        kept = move_aside(self._path)
        self._notice = f"{self._path}: {reason}; kept as {kept.name}, everything begins anew"
        if messages:
            self._notice += f", {len(messages)} messages of its outbox taken over"
        if damaged is not None:
            # Between the two: closing removes the WAL by name, which must not be the new one's yet.
            with contextlib.suppress(sqlite3.Error):
                damaged.close()
        try:
            db = connect(self._path)
        except MalformedError as exc:  # a new file: the storage itself is broken
            raise AdapterError(exc.reason, str(self._path), "look for disk errors") from exc
        with translated(self._path):
            db.executemany(
                "INSERT INTO outbox (topic, payload, content_type) VALUES (?, ?, ?)",
                [(message.topic, message.payload, message.content_type) for message in messages],
            )
        self._identity = identity(self._path)
        self._pending, self._dead = len(messages), 0
        return db

    def _count(self, table: str) -> int:
        with translated(self._path):
            (count,) = self._db.execute(f"SELECT count(*) FROM {table}").fetchone()
            return int(count)
