"""Checks of what the daemon needs around it: settings, clock, state, database, baseline."""

from __future__ import annotations

import os
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from dmimad.adapters.store import Store
from dmimad.core.commit import Commit, Message
from dmimad.doctor import examination
from dmimad.doctor.checks import AS_ROOT, Status
from dmimad.doctor.examination import CHECKS, gather
from dmimad.doctor.facts import BrokerFacts, StateFacts, Trouble
from dmimad.doctor.serving import check_broker, check_state
from dmimad.doctor.witnesses import Patience, Witnesses
from tests.doctor.fake_host import FakeHost


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def test_settings_in_bad_hands(host: FakeHost, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("x")
    secret.chmod(0o644)
    host.set("mqtt", username="u", password_file=str(secret))
    check = host.examine()["settings"]
    assert (check.status, check.details["exposed"]) == (Status.ADVICE, [str(secret)])
    secret.chmod(0o640)
    assert host.examine()["settings"].summary == "defaults, no settings file, host web-1"
    file = tmp_path / "dmimad.toml"
    file.write_text("")
    file.chmod(0o644)
    assert host.examine()["settings"].summary == f"{file}, host web-1"
    file.chmod(0o666)
    assert host.examine()["settings"].status is Status.PROBLEM


@pytest.mark.parametrize(
    ("now", "status", "text"),
    [
        (0.0, Status.PROBLEM, "the clock is wrong: 1970-01-01 00:00:00 UTC"),
        (1_704_067_199.0, Status.PROBLEM, "the clock is wrong: 2023-12-31 23:59:59 UTC"),
        (1_704_067_200.0, Status.FINE, "2024-01-01 00:00:00 UTC"),
        (1e30, Status.PROBLEM, "the clock is wrong: 1e+30 s after 1970"),
    ],
)
def test_clock(host: FakeHost, now: float, status: Status, text: str) -> None:
    host.now = now
    check = host.examine()["clock"]
    assert (check.status, check.summary) == (status, text)


# -- the state directory ------------------------------------------------------------------


def test_state_directories(host: FakeHost) -> None:
    assert host.examine()["state.directory"].status is Status.FINE
    host.state.chmod(0o777)
    check = host.examine()["state.directory"]
    assert (check.status, check.details["mode"]) == (Status.PROBLEM, "0777")
    host.state.chmod(0o700)
    host.user = os.getuid() + 1000
    check = host.examine()["state.directory"]
    assert (check.status, check.remedy) == (Status.UNKNOWN, AS_ROOT)
    host.user = 0
    host.state.rmdir()
    check = host.examine()["state.directory"]
    assert (check.status, "the daemon makes it" in check.summary) == (Status.FINE, True)
    assert not host.state.exists()
    host.state.write_text("")
    assert "not a directory" in host.examine()["state.directory"].summary
    host.set("state", directory=str(host.state / "below"))
    assert host.examine()["state.directory"].status is Status.PROBLEM
    host.set("state", directory=str(host.root / "no" / "parent"))
    check = host.examine()["state.directory"]
    assert (check.status, "parent directory does not exist" in check.summary) == (Status.PROBLEM, True)


GOOD = StateFacts("/s", True, True, True, 0, 0o700, True, False, 1 << 30, 1000)


@pytest.mark.parametrize(
    ("state", "status", "says"),
    [
        (GOOD, Status.FINE, "/s: 1.0 GiB free"),
        (replace(GOOD, read_only=True), Status.PROBLEM, "read-only"),
        (replace(GOOD, writable=False), Status.PROBLEM, "not writable for its owner"),
        (replace(GOOD, free_bytes=1000), Status.PROBLEM, "only 1000 B free"),
        (replace(GOOD, free_bytes=20 << 20), Status.ADVICE, "20 MiB free"),
        (replace(GOOD, free_inodes=0), Status.PROBLEM, "no inodes"),
        (replace(GOOD, free_inodes=None), Status.FINE, "free"),
        (replace(GOOD, trouble=Trouble("no answer", "/s")), Status.PROBLEM, "no answer"),
    ],
)
def test_what_can_be_wrong_with_a_state_directory(
    host: FakeHost, state: StateFacts, status: Status, says: str
) -> None:
    facts = gather(host.settings, host.root, host.outside())
    check = check_state(replace(facts, state=state))
    assert (check.status, says in check.summary) == (status, True), check
    assert check.summary.startswith("/s: ")


# -- the database -------------------------------------------------------------------------


def files(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in directory.iterdir()}


def commit(messages: int) -> Commit:
    return Commit({}, messages=tuple(Message("topic", b"x", "") for _ in range(messages)))


def test_a_database_at_rest_and_in_use(host: FakeHost, tmp_path: Path) -> None:
    store = Store.open(host.state)
    store.commit(commit(2))
    # The daemon runs: its lock is there, and a log that is not in the main file yet.
    host.use_real_locks()
    checks = host.examine()
    assert checks["state.directory"].details["daemon_running"] is True
    assert checks["state.directory"].details["daemon_pid"] == os.getpid()
    assert (checks["state.database"].status, checks["state.database"].details["pending"]) == (Status.FINE, 2)
    store.commit(commit(1))
    [first, *_] = store.pending(0, 1)
    store.rejected(first.seq, "no", 1)
    check = host.examine()["state.database"]
    assert (check.status, check.details["pending"], check.details["dead_letters"]) == (Status.ADVICE, 2, 1)
    store.close()
    before = files(host.state)
    check = host.examine()["state.database"]
    assert (check.status, check.details["dead_letters"]) == (Status.ADVICE, 1)
    assert files(host.state) == before
    assert host.examine()["state.directory"].details["daemon_running"] is False


def test_databases_that_cannot_be_used(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    database = host.state / "dmimad.db"
    assert host.examine()["state.database"].summary == "none yet, the daemon makes it"
    database.write_bytes(b"no database" * 1000)
    assert host.examine()["state.database"].status is Status.PROBLEM
    database.write_bytes(b"")
    assert host.examine()["state.database"].status is Status.FINE
    with sqlite3.connect(database) as db:
        db.execute("PRAGMA user_version = 99")
        db.execute("CREATE TABLE later (x)")
    db.close()
    check = host.examine()["state.database"]
    assert (check.status, "newer version" in check.summary) == (Status.PROBLEM, True)
    database.unlink()
    database.symlink_to("/dev/zero")
    assert "not a regular file" in host.examine()["state.database"].summary
    database.unlink()
    Store.open(host.state).close()
    facts = gather(host.settings, host.root, host.outside())
    stranger = replace(facts, database=replace(facts.database, owner=12345))
    [check] = [check for check in (judge(stranger) for judge in CHECKS) if check.id == "state.database"]
    assert (check.status, "chown" in check.remedy) == (Status.ADVICE, True)


# -- the baseline -------------------------------------------------------------------------


def test_baselines(host: FakeHost) -> None:
    assert host.examine()["baseline"].summary == f"{host.baseline}: 1 entry"
    host.baseline.chmod(0o777)
    assert host.examine()["baseline"].status is Status.PROBLEM
    host.baseline.chmod(0o755)
    (host.baseline / "bad.toml").write_text("version = 7")
    check = host.examine()["baseline"]
    assert (check.status, "bad.toml" in check.summary) == (Status.PROBLEM, True)
    for file in host.baseline.iterdir():
        file.unlink()
    assert host.examine()["baseline"].summary == f"{host.baseline}: no entries"
    host.baseline.rmdir()
    assert host.examine()["baseline"].summary == f"{host.baseline}: not there"
    host.baseline.write_text("")
    assert host.examine()["baseline"].status is Status.PROBLEM


# -- the broker ---------------------------------------------------------------------------

BROKER = BrokerFacts(True, "b:1883", 5, tls=False, loopback=True)


@pytest.mark.parametrize(
    ("broker", "root", "status", "summary"),
    [
        (BROKER, True, Status.FINE, "b:1883 lets us in (MQTT 5, no TLS)"),
        (
            replace(BROKER, protocol=3, tls=True, loopback=False),
            True,
            Status.FINE,
            "b:1883 lets us in (MQTT 3.1.1, TLS)",
        ),
        (
            replace(BROKER, loopback=False),
            True,
            Status.ADVICE,
            "b:1883 lets us in (MQTT 5, no TLS): passwords and alerts cross the network in the clear",
        ),
        (replace(BROKER, enabled=False), True, Status.FINE, "not used: mqtt.enabled = false"),
        (replace(BROKER, trouble=Trouble("no", "b", remedy="do")), True, Status.PROBLEM, "b: no"),
        (replace(BROKER, trouble=Trouble("no", "", 13, "do")), False, Status.UNKNOWN, "no"),
        (replace(BROKER, trouble=Trouble("no", "", 13, "do")), True, Status.PROBLEM, "no"),
    ],
)
def test_what_a_broker_can_be_like(
    host: FakeHost, broker: BrokerFacts, root: bool, status: Status, summary: str
) -> None:
    facts = gather(host.settings, host.root, host.outside())
    check = check_broker(replace(facts, broker=broker, root=root))
    assert (check.status, check.summary) == (status, summary)
    assert bool(check.remedy) is (status is not Status.FINE)


# -- time ---------------------------------------------------------------------------------


def test_what_hangs_is_left_behind(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server that is down, in place of every directory."""
    end = threading.Event()

    def hang(*_: object, **__: object) -> None:
        end.wait()

    for name in ("look_at_state", "look_at_database", "look_at_baseline", "look_for_daemon"):
        monkeypatch.setattr(examination, name, hang)
    monkeypatch.setattr(Witnesses, "look", hang)
    host.patience = Patience(0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01)
    try:
        checks = host.examine()
    finally:
        end.set()
    for id in ("ima.list", "tpm.pcr", "live.witness", "state.directory", "state.database", "baseline"):
        assert checks[id].status is Status.PROBLEM
        assert "no answer" in checks[id].summary
