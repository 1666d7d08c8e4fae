"""The store: one transaction or nothing, over kill and damage, and an outbox that keeps its order."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from dmimad.adapters.store import DATABASE_NAME, SCHEMA_VERSION, Store
from dmimad.core.commit import Commit, Message
from dmimad.core.errors import AdapterError, DamagedError
from dmimad.core.signed_baseline import ApprovedFile


def message(number: int) -> Message:
    return Message(f"dmimad/v1/host/alert/{number % 3}", b"payload \x00\xff %d" % number, "application/json")


def commit(number: int, *, messages: int = 1) -> Commit:
    return Commit(
        checkpoint={"n": number, "nested": {"list": [1, None, "\udcff"]}},
        devices={"253:0": {"n": number}},
        alerts={"drift": {"n": number}},
        facts=[("table", b"hash %d" % number)],
        messages=[message(number)] * messages,
    )


APPROVED = ApprovedFile("/b.d/a\udcff.toml", 2**63 - 1, b"\x00\xff", b"{}", True)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(directory: Path) -> Iterator[Store]:
    with closing(Store.open(directory)) as opened:
        yield opened


def edit(directory: Path, *statements: str) -> None:
    """What someone with the sqlite3 shell could do to a database that is not in use."""
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


class TestApproved:
    def test_the_last_ones_come_back(self, directory: Path) -> None:
        gone = ApprovedFile("/b.d/b.toml", 0, b"", b"", False)
        with closing(Store.open(directory)) as store:
            store.set_approved([APPROVED, gone])
            store.commit(commit(1))
        with closing(Store.open(directory)) as store:
            assert set(store.approved()) == {APPROVED, gone}
            store.set_approved([gone])
            assert store.approved() == (gone,)

    @pytest.mark.parametrize("serial", ["-1", "", "x", "²", "9" * 20])
    def test_a_damaged_one_is_moved_aside_with_everything(self, directory: Path, serial: str) -> None:
        with closing(Store.open(directory)) as store:
            store.set_approved([APPROVED])
            store.commit(commit(1))
        edit(directory, f"UPDATE approved SET serial = '{serial}'")
        with closing(Store.open(directory)) as store:
            assert store.approved() == ()
            assert "approved.serial; kept as dmimad.db.corrupt-1" in store.load().notice
            assert [row.message for row in store.pending(0, 9)] == [message(1)]  # what waits is taken over


class TestCommit:
    def test_new_directory_is_empty_and_private(self, directory: Path) -> None:
        with closing(Store.open(directory)) as store:
            stored = store.load()
            assert (stored.checkpoint, stored.devices, stored.alerts, stored.facts) == (None, {}, {}, ())
            assert stored.notice == ""
            store.commit(commit(1))
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
        assert modes == dict.fromkeys(("dmimad.db", "dmimad.db-wal", "dmimad.db-shm", "dmimad.lock"), 0o600)

    def test_everything_comes_back_after_reopening(self, directory: Path) -> None:
        with closing(Store.open(directory)) as store:
            store.commit(commit(1, messages=2))
            store.set_retained(published=["b", "a"])
        with closing(Store.open(directory)) as store:
            stored = store.load()
            assert stored.checkpoint == {"n": 1, "nested": {"list": [1, None, "\udcff"]}}
            assert stored.devices == {"253:0": {"n": 1}}
            assert stored.alerts == {"drift": {"n": 1}}
            assert stored.facts == (("table", b"hash 1"),)
            assert [(row.seq, row.message, row.attempts) for row in store.pending(0, 10)] == [
                (1, message(1), 0),
                (2, message(1), 0),
            ]
            assert store.retained() == {"a", "b"}
            assert (store.pending_count(), store.dead_count()) == (2, 0)

    def test_documents_are_replaced_added_and_deleted(self, store: Store) -> None:
        store.commit(Commit({"n": 1}, {"a": {"v": 1}, "b": {"v": 1}}, {"x": {"v": 1}, "y": {"v": 1}}))
        store.commit(Commit({"n": 2}, {"a": {"v": 2}, "b": None, "c": {"v": 2}}, {"x": None, "never": None}))
        stored = store.load()
        assert stored.checkpoint == {"n": 2}
        assert stored.devices == {"a": {"v": 2}, "c": {"v": 2}}
        assert stored.alerts == {"y": {"v": 1}}

    def test_facts_are_a_set(self, store: Store) -> None:
        store.commit(Commit({}, facts=[("a", b"1"), ("a", b"1"), ("b", b"1")]))
        store.commit(Commit({}, facts=[("a", b"1"), ("a", b"\x00")]))
        assert sorted(store.load().facts) == [("a", b"\x00"), ("a", b"1"), ("b", b"1")]

    def test_fresh_forgets_devices_and_facts_of_before_and_keeps_alerts_and_outbox(
        self, store: Store
    ) -> None:
        store.commit(commit(1))
        store.commit(Commit({"n": 2}, devices={"253:7": {}}, facts=[("new", b"1")], fresh=True))
        stored = store.load()
        assert stored.devices == {"253:7": {}}
        assert stored.facts == (("new", b"1"),)
        assert stored.alerts == {"drift": {"n": 1}}
        assert [row.message for row in store.pending(0, 10)] == [message(1)]

    def test_the_history_outlives_a_fresh_beginning_but_not_one_that_knows_all_of_it(
        self, store: Store
    ) -> None:
        store.commit(Commit({}, history={"a": {"v": 1}, "b": {"v": 1}}))
        store.commit(Commit({}, history={"a": None, "c": {"v": 2}}, fresh=True))
        assert store.load().history == {"b": {"v": 1}, "c": {"v": 2}}
        store.commit(Commit({}, history={"d": {"v": 3}}, anew=True))
        assert store.load().history == {"d": {"v": 3}}

    def test_hostile_keys_come_back_as_they_were(self, store: Store) -> None:
        keys = ["", "\x00", "a\x00b", "'; DROP TABLE device; --", "ü", "x" * 10_000]
        store.commit(Commit({}, devices={key: {"key": key} for key in keys}))
        assert store.load().devices == {key: {"key": key} for key in keys}

    def test_one_bad_part_and_nothing_is_stored(self, store: Store) -> None:
        store.commit(commit(1))
        bad: dict[str, object] = {"v": float("nan")}
        with pytest.raises(ValueError, match="not JSON compliant"):
            store.commit(Commit({"n": 2}, {"253:0": None}, {"drift": bad}, messages=[message(2)]))
        stored = store.load()
        assert (stored.checkpoint or {})["n"] == 1
        assert stored.devices == {"253:0": {"n": 1}}
        assert store.pending_count() == len(store.pending(0, 10)) == 1

    def test_disk_full_stores_nothing_says_what_to_do_and_is_got_over(self, store: Store) -> None:
        store.commit(commit(1))
        db = store._db  # SQLite itself plays the full disk
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages}")
        large = Commit({"n": 2}, devices={"253:0": {"v": "x" * 100_000}}, messages=[message(2)])
        with pytest.raises(AdapterError, match=r"dmimad\.db: the disk is full; free some space"):
            store.commit(large)
        assert (store.load().checkpoint or {})["n"] == 1
        assert store.pending_count() == 1
        db.execute("PRAGMA max_page_count = 1000000")
        store.commit(large)
        assert (store.load().checkpoint or {})["n"] == 2
        assert store.pending_count() == 2

    def test_read_only_database(self, store: Store) -> None:
        store.commit(commit(1))
        store._db.execute("PRAGMA query_only = ON")
        with pytest.raises(AdapterError, match=r"dmimad\.db: not writable; make file and directory writable"):
            store.acknowledged([1])
        store._db.execute("PRAGMA query_only = OFF")
        assert store.pending_count() == 1

    def test_row_that_could_not_be_read_back_is_refused(self, store: Store) -> None:
        store._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1000)
        with pytest.raises(AdapterError, match="a row over"):
            store.commit(Commit({"v": "x" * 1000}))
        assert store.load().checkpoint is None

    def test_use_after_close_is_an_adapter_error(self, store: Store) -> None:
        store.close()
        store.close()
        with pytest.raises(AdapterError, match="closed"):
            store.commit(commit(1))


class TestOutbox:
    def test_order_window_and_cursor(self, store: Store) -> None:
        for number in range(1, 8):
            store.commit(commit(number))
        assert [row.seq for row in store.pending(0, 3)] == [1, 2, 3]
        assert [row.seq for row in store.pending(3, 3)] == [4, 5, 6]
        store.acknowledged([1, 3, 99])
        assert [row.message for row in store.pending(0, 3)] == [message(2), message(4), message(5)]
        assert store.pending_count() == 5
        store.acknowledged([])
        assert store.pending_count() == 5

    def test_numbers_are_not_used_again(self, directory: Path) -> None:
        with closing(Store.open(directory)) as store:
            store.commit(commit(1, messages=3))
            store.acknowledged([1, 2, 3])
        with closing(Store.open(directory)) as store:
            store.commit(commit(2))
            assert [row.seq for row in store.pending(3, 10)] == [4]

    def test_refused_until_it_is_a_dead_letter(self, directory: Path) -> None:
        with closing(Store.open(directory)) as store:
            store.commit(commit(1, messages=2))
            assert store.rejected(1, "Not authorized", 3) is False
            assert [(row.seq, row.attempts) for row in store.pending(0, 9)] == [(1, 1), (2, 0)]
        with closing(Store.open(directory)) as store:  # refusals are remembered
            assert store.rejected(1, "Not authorized", 3) is False
            assert store.dead_count() == 0
            assert store.rejected(1, "x" * 1000, 3) is True
            assert [row.seq for row in store.pending(0, 9)] == [2]
            assert (store.pending_count(), store.dead_count()) == (1, 1)
            assert store.rejected(1, "gone", 3) is False
            assert store.rejected(2, "at once", 1) is True
        with closing(Store.open(directory)) as store:
            assert (store.pending_count(), store.dead_count()) == (0, 2)
            assert store.load().notice == ""
        with closing(sqlite3.connect(directory / DATABASE_NAME)) as db:
            rows = db.execute(
                "SELECT seq, payload, attempts, reason FROM dead_letter ORDER BY seq"
            ).fetchall()
        assert rows == [(1, message(1).payload, 3, "x" * 200), (2, message(1).payload, 1, "at once")]

    def test_retained_topics(self, store: Store) -> None:
        store.set_retained(published=["a", "b", "a"])
        store.set_retained(published=["c"], cleared=["a", "never"])
        assert store.retained() == {"b", "c"}


class TestDirectory:
    def test_second_daemon_is_refused_with_one_line_until_the_first_has_ended(self, directory: Path) -> None:
        first = Store.open(directory)
        with pytest.raises(AdapterError) as refused:
            Store.open(directory)
        assert str(refused.value) == (
            f"{directory}: another dmimad uses this directory; stop it, or set another state.directory"
        )
        first.commit(commit(1))
        first.close()
        with closing(Store.open(directory)) as second:
            assert second.pending_count() == 1

    @pytest.mark.parametrize(
        ("prepare", "expected"),
        [
            (lambda path: None, "its parent directory does not exist; create"),
            (lambda path: (path.parent.mkdir(), path.touch()), "not a directory; set state.directory"),
            (lambda path: path.parent.touch(), "not a directory; make it usable, or set state.directory"),
            (lambda path: (path / DATABASE_NAME).mkdir(parents=True), "is a directory; make file"),
            (lambda path: (path / "dmimad.lock").mkdir(parents=True), "is a directory; make the directory"),
        ],
    )
    def test_unusable_directory_is_one_line(
        self, tmp_path: Path, prepare: Callable[[Path], object], expected: str
    ) -> None:
        directory = tmp_path / "parent" / "state"
        prepare(directory)
        with pytest.raises(AdapterError, match=expected) as refused:
            Store.open(directory)
        assert "\n" not in str(refused.value)
        assert str(directory) in str(refused.value)

    def test_directory_without_write_permission(self, tmp_path: Path) -> None:
        if os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        tmp_path.chmod(0o500)
        with pytest.raises(AdapterError, match=r"permission denied; make it usable, or set state.directory"):
            Store.open(tmp_path / "state")

    def test_refused_directory_can_be_opened_once_it_is_good(self, directory: Path) -> None:
        (directory / DATABASE_NAME).mkdir(parents=True)
        with pytest.raises(AdapterError):
            Store.open(directory)
        (directory / DATABASE_NAME).rmdir()
        Store.open(directory).close()  # the lock was let go


DAMAGE = {
    "not a database": lambda d: (d / DATABASE_NAME).write_bytes(
        b"no database at all, but long enough " * 200
    ),
    "no tables of ours": lambda d: edit(d, "CREATE TABLE other (x)", "PRAGMA user_version = 0"),
    "version 0": lambda d: edit(d, "PRAGMA user_version = 0"),
    "trigger": lambda d: edit(d, "CREATE TRIGGER t AFTER INSERT ON outbox BEGIN DELETE FROM outbox; END"),
    "missing table": lambda d: edit(d, "DROP TABLE fact"),
    "checkpoint is no JSON": lambda d: edit(d, "UPDATE checkpoint SET document = '{'"),
    "checkpoint is no object": lambda d: edit(d, "UPDATE checkpoint SET document = '[]'"),
    "checkpoint is a blob": lambda d: edit(d, "UPDATE checkpoint SET document = x'7b7d'"),
    "checkpoint is a number": lambda d: edit(d, "UPDATE checkpoint SET document = 7"),
    "infinity": lambda d: edit(d, "UPDATE device SET document = '{\"v\":Infinity}'"),
    "endless number": lambda d: edit(d, f"UPDATE device SET document = '{{\"v\":{'9' * 5000}}}'"),
    "deep nesting": lambda d: edit(d, f"UPDATE alert SET document = '{'[' * 200_000}'"),
    "not UTF-8": lambda d: edit(d, "UPDATE device SET document = CAST(x'7bff7d' AS TEXT)"),
    "key is a blob": lambda d: edit(d, "UPDATE device SET key = x'00'"),
    "fact is text": lambda d: edit(d, "UPDATE fact SET value = 'text'"),
    "payload is text": lambda d: edit(d, "UPDATE outbox SET payload = 'text'"),
    "topic is a blob": lambda d: edit(d, "UPDATE outbox SET topic = x'00'"),
    "attempts negative": lambda d: edit(d, "UPDATE outbox SET attempts = -1"),
    "attempts is text": lambda d: edit(d, "UPDATE outbox SET attempts = 'many'"),
    "seq below the first": lambda d: edit(d, "UPDATE outbox SET seq = -5"),
    "seq at the last": lambda d: edit(d, f"UPDATE outbox SET seq = {2**63 - 1}"),
    "numbers used up": lambda d: edit(d, f"UPDATE sqlite_sequence SET seq = {2**63 - 1}"),
    "retained topic is a blob": lambda d: edit(d, "INSERT INTO retained VALUES (x'00')"),
}


class TestDamage:
    @pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
    def test_damaged_database_is_kept_aside_and_a_new_one_begun(
        self, directory: Path, damage: Callable[[Path], object]
    ) -> None:
        with closing(Store.open(directory)) as store:
            store.commit(commit(1))
        damage(directory)
        before = (directory / DATABASE_NAME).read_bytes()
        with closing(Store.open(directory)) as store:
            stored = store.load()
            assert (stored.checkpoint, stored.devices, stored.alerts, stored.facts) == (None, {}, {}, ())
            assert "damaged" in stored.notice
            assert "dmimad.db.corrupt-1" in stored.notice
            assert "\n" not in stored.notice
            saved = [row.message for row in store.pending(0, 9)]
            assert saved in ([], [message(1)])  # what can be read of what waits is taken over
            assert (store.pending_count(), store.retained()) == (len(saved), frozenset())
            store.commit(commit(2))
        assert (directory / "dmimad.db.corrupt-1").read_bytes() == before
        with closing(Store.open(directory)) as store:
            assert (store.load().checkpoint or {})["n"] == 2
            assert store.load().notice == ""
            assert [row.message for row in store.pending(0, 9)] == [*saved, message(2)]

    def test_what_can_be_read_of_the_outbox_is_taken_over(self, directory: Path) -> None:
        with closing(Store.open(directory)) as store:
            for number in range(5):
                store.commit(commit(number))
        edit(
            directory,
            "UPDATE outbox SET payload = 'text' WHERE seq = 4",
            "UPDATE checkpoint SET document = 7",
        )
        with closing(Store.open(directory)) as store:
            assert store.load().notice.endswith("begins anew, 3 messages of its outbox taken over")
            assert [row.message for row in store.pending(0, 9)] == [message(number) for number in range(3)]

    def test_nothing_is_taken_over_from_tables_that_are_not_ours(self, directory: Path) -> None:
        with closing(Store.open(directory)) as store:
            store.commit(commit(1))
        edit(directory, "CREATE VIEW other AS SELECT * FROM outbox")
        with closing(Store.open(directory)) as store:
            assert store.pending_count() == 0

    @pytest.mark.parametrize("how", ["taken away", "replaced"])
    def test_another_file_in_its_place_is_noticed(self, store: Store, directory: Path, how: str) -> None:
        """SQLite itself goes on writing to the former one."""
        store.commit(commit(1))
        (directory / DATABASE_NAME).rename(directory / "former")
        if how == "replaced":
            (directory / DATABASE_NAME).touch()
        with pytest.raises(DamagedError, match="taken away or replaced"):
            store.commit(commit(2))
        assert [row.message for row in store.pending(0, 9)] == [message(1)]
        assert store.facts() == tuple(commit(1).facts)

    def test_numbers_given_by_the_caller(self, store: Store) -> None:
        store.commit(commit(1))
        assert store.next_seq() == 2
        store.commit(commit(2), [5])
        store.commit(commit(3))
        assert [row.seq for row in store.pending(0, 9)] == [1, 5, 6]
        assert store.next_seq() == 7

    def test_every_damaged_database_is_kept(self, directory: Path) -> None:
        for number in (1, 2, 3):
            directory.mkdir(exist_ok=True)
            (directory / DATABASE_NAME).write_bytes(b"damage %d " % number * 1000)
            with closing(Store.open(directory)) as store:
                assert f"corrupt-{number}," in store.load().notice
        kept = sorted(path.name for path in directory.glob("*.corrupt-*"))
        assert kept == [f"dmimad.db.corrupt-{number}" for number in (1, 2, 3)]

    def test_random_damage_never_raises_anything_but_adapter_errors(self, directory: Path) -> None:
        with closing(Store.open(directory)) as store:
            for number in range(40):
                store.commit(commit(number))
        good = (directory / DATABASE_NAME).read_bytes()
        generator = random.Random(20261101)
        replaced = 0
        for _ in range(60):
            for leftover in directory.glob("dmimad.db*"):
                leftover.unlink()
            content = bytearray(good)
            for _ in range(generator.choice((1, 10, 300))):
                content[generator.randrange(len(content))] = generator.randrange(256)
            content = content[: generator.choice((len(content), generator.randrange(len(content))))]
            (directory / DATABASE_NAME).write_bytes(content)
            try:
                with closing(Store.open(directory)) as store:
                    replaced += store.load().notice != ""
                    store.commit(commit(1000))
                    assert (store.load().checkpoint or {})["n"] == 1000
            except AdapterError as exc:
                assert "newer version" in str(exc) or "damaged" in str(exc), exc  # noqa: PT017 -- or no error
        assert replaced > 30

    def test_newer_schema_is_refused_and_left_alone(self, directory: Path) -> None:
        with closing(Store.open(directory)) as store:
            store.commit(commit(1))
        edit(directory, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        with pytest.raises(AdapterError, match="written by a newer version of dmimad; install that version"):
            Store.open(directory)
        edit(directory, f"PRAGMA user_version = {SCHEMA_VERSION}")
        with closing(Store.open(directory)) as store:
            assert (store.load().checkpoint or {})["n"] == 1

    @pytest.mark.parametrize(("version", "lacks"), [(1, ("approved", "history")), (2, ("history",))])
    def test_older_schema_is_upgraded_in_place(
        self, directory: Path, version: int, lacks: tuple[str, ...]
    ) -> None:
        with closing(Store.open(directory)) as store:
            store.commit(commit(1))
        older = [*(f"DROP TABLE {table}" for table in lacks), f"PRAGMA user_version = {version}"]
        edit(directory, *older)
        for _ in range(2):
            with closing(Store.open(directory)) as store:
                assert store.approved() == ()
                stored = store.load()
                assert (stored.notice, (stored.checkpoint or {})["n"], stored.history) == ("", 1, {})
                if "approved" in lacks:
                    store.set_approved([APPROVED])
                store.commit(replace(commit(1), history={"h": {"n": 1}}))
            edit(directory, *older)

    @pytest.mark.parametrize("value", ["'[]'", "'{'", "X'00'", "7"])
    def test_a_history_whose_content_is_odd_begins_anew_alone(self, directory: Path, value: str) -> None:
        with closing(Store.open(directory)) as store:
            store.commit(replace(commit(1), history={"h": {"n": 1}, "i": {"n": 2}}))
        edit(directory, f"UPDATE history SET document = {value} WHERE key = 'i'")
        with closing(Store.open(directory)) as store:
            stored = store.load()
            assert (stored.history, (stored.checkpoint or {})["n"]) == ({}, 1)
            assert stored.notice == ""
            assert stored.history_lost.startswith(f"{directory / DATABASE_NAME}: damaged: ")
            store.commit(replace(commit(2), history={"j": {"n": 3}}))
        with closing(Store.open(directory)) as store:
            stored = store.load()
            assert (stored.history, stored.notice) == ({"j": {"n": 3}}, "")
            assert stored.history_lost == ""
        assert not list(directory.glob("*.corrupt-*"))

    def test_damage_while_running_is_an_adapter_error(self, store: Store) -> None:
        store.commit(commit(1))
        store._db.execute("UPDATE outbox SET topic = CAST(x'ff' AS TEXT)")
        with pytest.raises(AdapterError, match="the database is damaged; dmimad moves it aside"):
            store.pending(0, 9)

    def test_another_program_that_holds_the_database_is_named_as_the_problem(
        self, store: Store, directory: Path
    ) -> None:
        store._db.execute("PRAGMA busy_timeout = 0")
        with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(AdapterError, match="another program has locked it; end the program"):
                store.commit(commit(1))
            other.execute("ROLLBACK")
        store.commit(commit(2))
        assert (store.load().checkpoint or {})["n"] == 2


WORKER = """
import sys
from pathlib import Path
from dmimad.adapters.store import Store
from dmimad.core.commit import Commit, Message

store = Store.open(Path(sys.argv[1]))
number = (store.load().checkpoint or {"n": 0})["n"]
while True:
    number += 1
    text = str(number)
    store.commit(Commit(
        checkpoint={"n": number},
        devices={f"d{i}": {"n": number} for i in range(20)}
        | {f"once {number}": {}, f"once {number - 1}": None},
        alerts={"a": {"n": number}, f"{number}": {"text": text * 500}},
        facts=[("n", text.encode())],
        messages=[Message("t", f"{number} {part}".encode(), "") for part in range(3)],
    ))
    if number % 5 == 0:
        store.acknowledged([row.seq for row in store.pending(0, 3)])
    print(number, flush=True)
"""


def test_killed_anywhere_in_a_loop_of_commits_everything_agrees(directory: Path) -> None:
    generator = random.Random(7)
    reached = gone = 0
    for _ in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", WORKER, str(directory)], stdout=subprocess.PIPE, text=True
        ) as worker:
            assert worker.stdout is not None
            said = 0
            for _ in range(generator.randrange(1, 40)):
                said = int(worker.stdout.readline())
            worker.send_signal(signal.SIGKILL)  # it is anywhere in the next commits
            for line in worker.stdout:
                said = int(line)
        with closing(Store.open(directory)) as store:
            stored = store.load()
            assert stored.notice == ""
            number = (stored.checkpoint or {})["n"]
            assert isinstance(number, int)
            assert number in (said, said + 1)  # what was said to be stored is
            devices = {f"d{i}": {"n": number} for i in range(20)} | {f"once {number}": {}}
            assert stored.devices == devices
            assert stored.alerts["a"] == {"n": number}
            assert len(stored.alerts) == number + 1
            assert {value for _, value in stored.facts} == {b"%d" % n for n in range(1, number + 1)}
            rows = store.pending(0, 10**6)
            assert len(rows) == store.pending_count()
            acknowledged = rows[0].seq - 1
            due = 3 * (number // 5 - reached // 5)  # three after every fifth commit of this process
            # Killed between a fifth commit and what follows it: nobody does that later.
            killed_before = number % 5 == 0 and said < number
            assert acknowledged - gone in ((due, due - 3) if killed_before else (due,))
            gone = acknowledged
            assert [row.seq for row in rows] == list(range(acknowledged + 1, 3 * number + 1))
            expected = [b"%d %d" % (n, part) for n in range(1, number + 1) for part in range(3)]
            assert [row.message.payload for row in rows] == expected[acknowledged:]
            assert number > reached
            reached = number
