"""Entries as the journal's socket gets them, and a journal that is absent, slow, new or out of reach."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dmimad.adapters import journal as module
from dmimad.adapters.journal import MAX_ENTRY_BYTES, MAX_FIELD_BYTES, MAX_FIELDS, Journal, encode
from tests.journal import FakeJournal, fake_journal, parse

ENTRY = {"MESSAGE": "a", "PRIORITY": "6"}


@pytest.fixture
def there(tmp_path: Path) -> Iterator[FakeJournal]:
    with fake_journal(tmp_path / "socket") as journal:
        yield journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(str(tmp_path / "socket"))) as sender:
        yield sender


# --- what is sent ---


def test_an_entry_is_one_datagram(there: FakeJournal, journal: Journal) -> None:
    assert journal.send({"MESSAGE": "two words = one", "DMIMAD_A": ""})
    assert journal.send({"MESSAGE": "é"})
    assert there.datagrams() == [b"MESSAGE=two words = one\nDMIMAD_A=\n", b"MESSAGE=\xc3\xa9\n"]


def test_a_value_with_line_feeds_has_its_length_before_it() -> None:
    assert encode({"DMIMAD_EXCEPTION": "a\nPRIORITY=0\n", "PRIORITY": "6"}) == (
        b"DMIMAD_EXCEPTION\n\x0d\0\0\0\0\0\0\0a\nPRIORITY=0\n\nPRIORITY=6\n"
    )


@pytest.mark.parametrize("name", ["", "a", "_PID", "1A", "A-B", "A=B", "A\nB", "Ä", "A" * 65])
def test_a_name_that_is_none_is_left_out(name: str) -> None:
    assert encode({name: "x", "A" * 64: "y"}) == b"A" * 64 + b"=y\n"


def test_what_is_too_much_is_left_out() -> None:
    long = parse(encode({"MESSAGE": "x" + "é" * MAX_FIELD_BYTES, "A": "1"}))
    assert long == [(b"MESSAGE", b"x" + "é".encode() * ((MAX_FIELD_BYTES - 1) // 2)), (b"A", b"1")]
    many = parse(encode({f"A{number}": "" for number in range(MAX_FIELDS + 10)}))
    assert many == [(f"A{number}".encode(), b"") for number in range(MAX_FIELDS)]
    large = encode({f"A{number}": "x" * MAX_FIELD_BYTES for number in range(10)} | {"B": "last"})
    assert [name for name, _ in parse(large)] == [b"A0", b"A1", b"A2", b"B"]
    assert len(large) <= MAX_ENTRY_BYTES


def test_the_largest_entry_fits(there: FakeJournal, journal: Journal) -> None:
    fields = {f"A{number}": "x" * (MAX_ENTRY_BYTES // 8 - 4) for number in range(8)}
    assert len(encode(fields)) == MAX_ENTRY_BYTES
    assert journal.send(fields)
    assert there.entries() == [fields]


@hypothesis_settings(deadline=None)  # a busy machine is no failure
@given(
    st.dictionaries(
        st.from_regex(r"[A-Z][A-Z0-9_]{0,63}", fullmatch=True) | st.text(),
        st.text(st.characters() | st.sampled_from("\n=\0\ud800")),
    )
)
def test_no_value_adds_or_breaks_a_field(fields: dict[str, str]) -> None:
    names = [name.encode() for name in fields if module._NAME.fullmatch(name)]
    entry = parse(encode(fields))
    assert [name for name, _ in entry] == names
    for name, value in entry:
        assert value == fields[name.decode()].encode("utf-8", "backslashreplace")


# --- a journal that does not take it ---


def test_without_a_journal_nothing_is_raised(tmp_path: Path) -> None:
    with closing(Journal(str(tmp_path / "absent"))) as journal:
        assert not journal.send(ENTRY)
        assert not journal.send(ENTRY)
    left = tmp_path / "left"
    with fake_journal(left):
        pass
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(left))  # no journal, but of its name
        with closing(Journal(str(left))) as journal:
            assert not journal.send(ENTRY)
    with closing(Journal("x" * 1000)) as journal:
        assert not journal.send(ENTRY)
    assert journal.dropped == 0


def test_a_full_queue_loses_entries_and_counts_them(there: FakeJournal, journal: Journal) -> None:
    sent = 0
    while not journal.dropped:
        assert journal.send(ENTRY | {"DMIMAD_NUMBER": str(sent)})
        sent += 1
    assert journal.send(ENTRY)
    assert journal.dropped == 2
    assert [entry["DMIMAD_NUMBER"] for entry in there.entries()] == [str(n) for n in range(sent - 1)]
    assert journal.send(ENTRY)
    assert journal.dropped == 0
    assert there.entries() == [ENTRY]


def test_a_journal_that_was_started_again(tmp_path: Path, journal: Journal) -> None:
    for _ in range(2):
        with fake_journal(tmp_path / "socket") as there:
            assert journal.send(ENTRY)
            assert there.entries() == [ENTRY]
        assert not journal.send(ENTRY)


def test_an_entry_that_is_too_large_for_this_host(
    there: FakeJournal, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_QUEUE_BYTES", 1)  # as a small net.core.wmem_max would have it
    assert not journal.send({"MESSAGE": "x" * 20_000})
    assert journal.send(ENTRY)
    assert there.entries() == [ENTRY]


@contextmanager
def no_descriptors() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_no_socket_to_be_had(there: FakeJournal, journal: Journal) -> None:
    with no_descriptors():
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            socket.socket(socket.AF_UNIX)
        assert not journal.send(ENTRY)
    assert journal.send(ENTRY)


def test_closing(there: FakeJournal, journal: Journal) -> None:
    journal.close()
    assert journal.send(ENTRY)
    before = sockets()
    journal.close()
    journal.close()
    assert sockets() == before - 1


def sockets() -> int:
    count = 0
    for descriptor in range(256):
        try:
            count += stat.S_ISSOCK(os.fstat(descriptor).st_mode)
        except OSError:
            continue
    return count
