"""What could not be stored is kept, told once, bounded, and put into the store that comes after."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from dmimad import storing
from dmimad.adapters.store import DATABASE_NAME, Store
from dmimad.baselines import Baselines
from dmimad.storing import Storing
from tests.core.kernel import linear
from tests.core.monitored import BAD, GOOD, Host, approved

SILENT = structlog.wrap_logger(
    structlog.ReturnLogger(), wrapper_class=structlog.make_filtering_bound_logger(50)
)
NOTHING_KNOWN = Baselines((), None)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def kept(directory: Path) -> Iterator[Storing]:
    with_store = Storing(directory, lambda: None, SILENT)
    yield with_store
    with_store.close()


def drifted() -> Host:
    """A host with an alert that nobody has been told of yet."""
    host = Host(approved(d=(GOOD,)))
    host.kernel.create(b"d", BAD)
    host.feed()
    host.monitor.caught_up(100.0)
    return host


def ids(store: Store | Storing) -> list[str]:
    return [json.loads(row.message.payload)["id"] for row in store.pending(0, 99)]


def sequence_numbers(store: Storing) -> list[int]:
    return [int(json.loads(row.message.payload)["sequence"]) for row in store.pending(0, 999)]


def damage(storing: Storing, directory: Path) -> None:
    """Garbage in the place of every page but the first, none of which is in memory."""
    store = storing._store
    assert store is not None
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store._db.execute("PRAGMA cache_size = 0")
    store._db.execute("PRAGMA shrink_memory")
    with (directory / DATABASE_NAME).open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))


def test_damaged_while_it_is_used(kept: Storing, directory: Path) -> None:
    host = drifted()
    assert kept.commit(host.monitor, NOTHING_KNOWN, 100.0)
    waiting = ids(kept)
    assert waiting
    damage(kept, directory)
    host.kernel.remove(b"d")
    host.feed(101.0)
    host.monitor.caught_up(101.0)
    assert kept.commit(host.monitor, NOTHING_KNOWN, 101.0)
    assert "damaged" in kept.problem
    assert ids(kept)  # what came after the damage, and what could be read of the former outbox
    kept._open_again()
    assert kept.reopened.is_set()
    kept.hand_over(host.monitor, NOTHING_KNOWN, 102.0)
    told = ids(kept)
    kept.close()
    assert (directory / f"{DATABASE_NAME}.corrupt-1").exists()
    again = Storing(directory, lambda: None, SILENT)
    assert {*ids(again)} >= {*told}
    checkpoint = again.stored.checkpoint
    assert checkpoint is not None
    assert checkpoint["tracker"]["complete"] is False  # type: ignore[index]  # the facts could not be read
    again.close()


def test_that_it_is_over_is_no_warning_in_the_log(directory: Path) -> None:
    host = drifted()
    with capture_logs() as logs:
        kept = Storing(directory, lambda: None, structlog.get_logger())
        kept.commit(host.monitor, NOTHING_KNOWN, 100.0)
        host.kernel.remove(b"d")
        host.feed(101.0)
        kept.commit(host.monitor, NOTHING_KNOWN, 101.0)
        kept.close()
    alerts = [each for each in logs if each["event"] == "alert"]
    assert {(each["severity"], each["status"], each["log_level"]) for each in alerts} == {
        ("critical", "firing", "error"),
        ("warning", "firing", "warning"),
        ("critical", "resolved", "info"),
        ("warning", "resolved", "info"),
    }


def test_what_is_kept_is_bounded(kept: Storing, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest are kept."""
    monkeypatch.setattr(storing, "MAX_KEPT", 2)
    (directory / DATABASE_NAME).unlink()
    host = drifted()
    assert kept.commit(host.monitor, NOTHING_KNOWN, 100.0)
    numbers = [json.loads(row.message.payload)["sequence"] for row in kept.pending(0, 99)]
    assert len(numbers) == 2
    assert int(numbers[1]) == int(numbers[0]) + 1 > 2
    assert (kept.pending_count(), kept.dead_count()) == (2, int(numbers[1]) - 2)


def test_without_a_broker_the_newest_are_kept_for_one_that_may_come(
    kept: Storing, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "KEPT_WITHOUT_BROKER", 5)
    monkeypatch.setattr(storing, "_DROPPED_AT_ONCE", 3)
    kept.publishing = False
    host = drifted()
    expected = told = 0
    for moment in range(1_000, 21_000, 1_000):
        kept.commit(host.monitor, NOTHING_KNOWN, moment)
        numbers = sequence_numbers(kept)
        before, told = told, numbers[-1]
        expected += told - before
        expected = 5 if expected >= 8 else expected  # several at once, not one by one
        assert numbers == list(range(told - expected + 1, told + 1))
        host.kernel.load(b"d", (linear(moment),))
        host.kernel.resume(b"d")
        host.feed(moment + 500.0)
    assert told > 20
    assert (kept.pending_count(), kept.dead_count()) == (expected, 0)
    kept.publishing = True
    kept.commit(host.monitor, NOTHING_KNOWN, 30_000.0)
    assert kept.pending_count() > expected
    kept.close()
    again = Storing(directory, lambda: None, SILENT)
    assert sequence_numbers(again)[:expected] == numbers
    again.close()


def test_what_was_acknowledged_meanwhile_is_not_stored(kept: Storing, directory: Path) -> None:
    host = drifted()
    (directory / DATABASE_NAME).rename(directory / "elsewhere")
    kept.commit(host.monitor, NOTHING_KNOWN, 100.0)
    first, *rest = kept.pending(0, 99)
    assert rest
    kept.acknowledged([first.seq])
    kept._open_again()
    kept.hand_over(host.monitor, NOTHING_KNOWN, 101.0)
    kept.close()
    again = Storing(directory, lambda: None, SILENT)
    assert [row.message for row in again.pending(0, 99)] == [row.message for row in rest]
    again.close()
