"""A mirrored list file: growth, truncation, replacement, absence; each heard by inotify and found by looking.

Where `check_interval_seconds` is `NEVER`, nothing but inotify can have told; where inotify is refused,
nothing but the slow check.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import structlog
from asyncinotify import Inotify
from structlog.testing import capture_logs
from structlog.typing import FilteringBoundLogger

from dmimad.adapters.file_list import (
    DIRECT_READ_BYTES,
    FINGERPRINT_BYTES,
    READ_PIECE_BYTES,
    FileList,
    _Run,
)
from dmimad.core.errors import AdapterError
from dmimad.core.source import CaughtUp, Chunk, Restarted, SourceEvent, Unavailable

NEVER = 3600.0
DEADLINE_SECONDS = 20.0

Events = AsyncGenerator[SourceEvent, None]


def logger() -> FilteringBoundLogger:
    log: FilteringBoundLogger = structlog.get_logger()
    return log


def no_inotify() -> Inotify:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def heard(path: Path) -> FileList:
    """Told by inotify alone."""
    return FileList(path, log=logger(), check_interval_seconds=NEVER)


def checked(path: Path) -> FileList:
    """Told by the slow check alone."""
    return FileList(path, log=logger(), check_interval_seconds=0.01, inotify=no_inotify)


async def following(events: Events) -> SourceEvent:
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await anext(events)


async def batch(events: Events) -> list[SourceEvent]:
    """Everything up to and with the next CaughtUp or Unavailable."""
    found = [await following(events)]
    while not isinstance(found[-1], CaughtUp | Unavailable):
        found.append(await following(events))
    return found


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def descriptors() -> list[str]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except OSError:
            continue  # the one of the listing itself
    return sorted(found)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "list"


class TestGrowth:
    async def test_what_is_there_comes_first_then_what_is_added(self, path: Path) -> None:
        path.write_bytes(b"abc")
        async with aclosing(heard(path).events(0)) as events:
            assert await batch(events) == [Chunk(b"abc", 0), CaughtUp(None)]
            append(path, b"de")
            assert await batch(events) == [Chunk(b"de", 3), CaughtUp(None)]
            append(path, b"f")
            assert await batch(events) == [Chunk(b"f", 5), CaughtUp(None)]

    async def test_slow_check_finds_what_inotify_does_not_tell(self, path: Path) -> None:
        path.write_bytes(b"abc")
        async with aclosing(checked(path).events(0)) as events:
            assert await batch(events) == [Chunk(b"abc", 0), CaughtUp(None)]
            append(path, b"de")
            assert await batch(events) == [Chunk(b"de", 3), CaughtUp(None)]

    async def test_empty_file_is_caught_up_with(self, path: Path) -> None:
        path.touch()
        async with aclosing(heard(path).events(0)) as events:
            assert await batch(events) == [CaughtUp(None)]
            append(path, b"a")
            assert await batch(events) == [Chunk(b"a", 0), CaughtUp(None)]

    async def test_a_write_that_stays_open_is_heard(self, path: Path) -> None:
        with path.open("ab", buffering=0) as writer:
            async with aclosing(heard(path).events(0)) as events:
                assert await batch(events) == [CaughtUp(None)]
                for offset, piece in ((0, b"half a rec"), (10, b"ord")):
                    writer.write(piece)
                    assert await batch(events) == [Chunk(piece, offset), CaughtUp(None)]

    async def test_starts_in_the_middle(self, path: Path) -> None:
        path.write_bytes(b"0123456789")
        async with aclosing(heard(path).events(7)) as events:
            assert await batch(events) == [Chunk(b"789", 7), CaughtUp(None)]

    async def test_starts_at_the_end(self, path: Path) -> None:
        path.write_bytes(b"0123456789")
        async with aclosing(heard(path).events(10)) as events:
            assert await batch(events) == [CaughtUp(None)]
            append(path, b"x")
            assert await batch(events) == [Chunk(b"x", 10), CaughtUp(None)]

    @pytest.mark.parametrize("start", [11, 10 + FINGERPRINT_BYTES, 1 << 40])
    async def test_shorter_than_the_start_is_read_from_the_beginning(self, path: Path, start: int) -> None:
        path.write_bytes(b"0123456789")
        async with aclosing(heard(path).events(start)) as events:
            assert await batch(events) == [Restarted("truncated"), Chunk(b"0123456789", 0), CaughtUp(None)]

    async def test_a_long_file_comes_in_bounded_pieces(self, path: Path) -> None:
        data = random.Random(1).randbytes(2 * READ_PIECE_BYTES + 12_345)
        path.write_bytes(data)
        async with aclosing(heard(path).events(0)) as events:
            *chunks, end = await batch(events)
            assert end == CaughtUp(None)
            received = b""
            for chunk in chunks:
                assert isinstance(chunk, Chunk)
                assert chunk.offset == len(received)
                assert 0 < len(chunk.data) <= READ_PIECE_BYTES
                received += chunk.data
            assert received == data
            append(path, b"x")
            assert await batch(events) == [Chunk(b"x", len(data)), CaughtUp(None)]

    @pytest.mark.parametrize("extra", [-1, 0, 1])
    @pytest.mark.parametrize("size", [DIRECT_READ_BYTES, READ_PIECE_BYTES])
    async def test_sizes_around_the_limits(self, path: Path, size: int, extra: int) -> None:
        data = random.Random(2).randbytes(size + extra)
        path.write_bytes(data)
        async with aclosing(heard(path).events(0)) as events:
            found = await batch(events)
        assert b"".join(event.data for event in found if isinstance(event, Chunk)) == data
        assert found[-1] == CaughtUp(None)

    async def test_other_files_of_the_directory_say_nothing(self, path: Path) -> None:
        looks = 0

        class Counted(FileList):
            async def _look(self, run: _Run) -> None:
                nonlocal looks
                looks += 1
                await super()._look(run)

        path.write_bytes(b"a")
        source = Counted(path, log=logger(), check_interval_seconds=NEVER)
        async with aclosing(source.events(0)) as events:
            assert await batch(events) == [Chunk(b"a", 0), CaughtUp(None)]
            more = asyncio.create_task(batch(events))
            for number in range(50):
                path.with_name(f"list{number}").write_bytes(b"noise")
                for _ in range(5):
                    await asyncio.sleep(0)  # it takes notice
            append(path, b"b")
            assert await more == [Chunk(b"b", 1), CaughtUp(None)]
            assert looks == 2

    async def test_wake_looks_at_once(self, path: Path) -> None:
        path.write_bytes(b"a")
        source = FileList(path, log=logger(), check_interval_seconds=NEVER, inotify=no_inotify)
        source.wake()  # nobody waits: no harm
        async with aclosing(source.events(0)) as events:
            assert await batch(events) == [Chunk(b"a", 0), CaughtUp(None)]
            more = asyncio.create_task(batch(events))
            await asyncio.sleep(0)  # let it begin to wait
            append(path, b"b")
            source.wake()
            source.wake()
            assert await more == [Chunk(b"b", 1), CaughtUp(None)]


class TestTruncation:
    async def test_shorter(self, path: Path) -> None:
        path.write_bytes(b"a long list")
        async with aclosing(heard(path).events(0)) as events:
            await batch(events)
            path.write_bytes(b"short")  # opens with O_TRUNC: the same inode
            assert await batch(events) == [Restarted("truncated"), Chunk(b"short", 0), CaughtUp(None)]

    async def test_to_nothing_then_grows_again(self, path: Path) -> None:
        path.write_bytes(b"a long list")
        async with aclosing(heard(path).events(0)) as events:
            await batch(events)
            os.truncate(path, 0)
            assert await batch(events) == [Restarted("truncated"), CaughtUp(None)]
            append(path, b"new")
            assert await batch(events) == [Chunk(b"new", 0), CaughtUp(None)]

    @pytest.mark.parametrize("data", [b"another list, longer", b"one as long"])
    async def test_rewritten_to_a_size_that_does_not_show_it(self, path: Path, data: bytes) -> None:
        path.write_bytes(b"a long list")
        async with aclosing(heard(path).events(0)) as events:
            await batch(events)
            path.write_bytes(data)
            assert await batch(events) == [Restarted("truncated"), Chunk(data, 0), CaughtUp(None)]

    async def test_rewritten_before_a_start_in_the_middle_moves_on(self, path: Path) -> None:
        path.write_bytes(b"0123456789")
        async with aclosing(heard(path).events(5)) as events:
            assert await batch(events) == [Chunk(b"56789", 5), CaughtUp(None)]
            path.write_bytes(b"abcdefghijkl")
            assert await batch(events) == [Restarted("truncated"), Chunk(b"abcdefghijkl", 0), CaughtUp(None)]

    async def test_rewritten_with_the_same_content_and_more_just_grows(self, path: Path) -> None:
        data = random.Random(3).randbytes(3 * FINGERPRINT_BYTES)
        path.write_bytes(data)
        async with aclosing(heard(path).events(0)) as events:
            await batch(events)
            path.write_bytes(data + b"more")
            assert await batch(events) == [Chunk(b"more", len(data)), CaughtUp(None)]

    async def test_a_writer_that_leaves_a_hole(self, path: Path) -> None:
        """The truncated file's writer does not append, but goes on at its old position."""
        with path.open("wb", buffering=0) as writer:
            writer.write(b"abcd")
            async with aclosing(heard(path).events(0)) as events:
                await batch(events)
                os.truncate(path, 0)
                writer.write(b"e")
                assert await batch(events) == [
                    Restarted("truncated"),
                    Chunk(b"\0\0\0\0e", 0),
                    CaughtUp(None),
                ]

    async def test_fingerprint_ends_at_the_position(self, path: Path) -> None:
        """One byte changed just before the position is seen, however the bytes before it arrived."""
        path.write_bytes(b"x" * 5)
        async with aclosing(heard(path).events(0)) as events:
            await batch(events)
            for _ in range(4):
                append(path, b"y" * 400)
                await batch(events)
            with path.open("r+b") as file:
                file.seek(-FINGERPRINT_BYTES, os.SEEK_END)
                file.write(b"z")
            assert await following(events) == Restarted("truncated")


class TestReplacement:
    async def test_rotation_delivers_the_old_end_first(self, path: Path) -> None:
        path.write_bytes(b"old")
        async with aclosing(heard(path).events(0)) as events:
            await batch(events)
            append(path, b" end")
            path.rename(path.with_name("list.1"))
            path.write_bytes(b"new")
            assert await batch(events) == [
                Chunk(b" end", 3),
                Restarted("replaced"),
                Chunk(b"new", 0),
                CaughtUp(None),
            ]
            append(path, b"er")
            assert await batch(events) == [Chunk(b"er", 3), CaughtUp(None)]

    async def test_rotation_found_by_the_slow_check(self, path: Path) -> None:
        path.write_bytes(b"old")
        async with aclosing(checked(path).events(0)) as events:
            await batch(events)
            append(path, b" end")
            path.rename(path.with_name("list.1"))
            path.write_bytes(b"new")
            assert await batch(events) == [
                Chunk(b" end", 3),
                Restarted("replaced"),
                Chunk(b"new", 0),
                CaughtUp(None),
            ]

    async def test_a_long_old_end(self, path: Path) -> None:
        end = random.Random(4).randbytes(READ_PIECE_BYTES + 5)
        path.write_bytes(b"old")
        async with aclosing(heard(path).events(0)) as events:
            await batch(events)
            append(path, end)
            path.rename(path.with_name("list.1"))
            path.write_bytes(b"new")
            found = await batch(events)
        restarted = found.index(Restarted("replaced"))
        assert b"".join(event.data for event in found[:restarted] if isinstance(event, Chunk)) == end
        assert found[restarted + 1 :] == [Chunk(b"new", 0), CaughtUp(None)]

    async def test_moved_over(self, path: Path) -> None:
        """How rsync and careful writers do it; the beginning is the same and comes again."""
        path.write_bytes(b"abc")
        async with aclosing(heard(path).events(0)) as events:
            await batch(events)
            new = path.with_name("list.new")
            new.write_bytes(b"abcdef")
            new.rename(path)
            assert await batch(events) == [Restarted("replaced"), Chunk(b"abcdef", 0), CaughtUp(None)]

    async def test_moved_away_while_its_writer_goes_on(self, path: Path) -> None:
        with path.open("ab", buffering=0) as writer:
            writer.write(b"abc")
            async with aclosing(heard(path).events(0)) as events:
                await batch(events)
                path.rename(path.with_name("list.1"))
                gone = await following(events)
                assert isinstance(gone, Unavailable)
                writer.write(b"d")
                path.write_bytes(b"new")
                assert await batch(events) == [
                    Chunk(b"d", 3),
                    Restarted("replaced"),
                    Chunk(b"new", 0),
                    CaughtUp(None),
                ]

    async def test_moved_away_and_back_is_the_same_file(self, path: Path) -> None:
        path.write_bytes(b"abc")
        aside = path.with_name("list.1")
        async with aclosing(heard(path).events(0)) as events:
            await batch(events)
            path.rename(aside)
            assert isinstance(await following(events), Unavailable)
            append(aside, b"d")
            aside.rename(path)
            assert await batch(events) == [Chunk(b"d", 3), CaughtUp(None)]

    async def test_additions_to_an_absent_file_are_delivered_and_it_is_still_absent(self, path: Path) -> None:
        with path.open("ab", buffering=0) as writer:
            writer.write(b"abc")
            async with aclosing(checked(path).events(0)) as events:
                await batch(events)
                path.unlink()
                gone = await following(events)
                writer.write(b"d")
                assert [await following(events) for _ in range(3)] == [Chunk(b"d", 3), CaughtUp(None), gone]

    async def test_deleted_and_created_again(self, path: Path) -> None:
        path.write_bytes(b"abc")
        async with aclosing(heard(path).events(0)) as events:
            await batch(events)
            path.unlink()
            assert await batch(events) == [
                Unavailable(f"{path}: no such file; it is read as soon as something mirrors a list there")
            ]
            path.write_bytes(b"xyz!")
            assert await batch(events) == [Restarted("replaced"), Chunk(b"xyz!", 0), CaughtUp(None)]

    async def test_a_symbolic_link_is_followed_where_it_leads(self, tmp_path: Path) -> None:
        for name in ("links", "one", "two"):
            (tmp_path / name).mkdir()
        path = tmp_path / "links" / "list"
        path.symlink_to("../one/real")
        (tmp_path / "one" / "real").write_bytes(b"one")
        (tmp_path / "two" / "real").write_bytes(b"two")
        async with aclosing(heard(path).events(0)) as events:
            assert await batch(events) == [Chunk(b"one", 0), CaughtUp(None)]
            append(tmp_path / "one" / "real", b"+")
            assert await batch(events) == [Chunk(b"+", 3), CaughtUp(None)]
            new = path.with_name("new")
            new.symlink_to("../two/real")
            new.rename(path)
            assert await batch(events) == [Restarted("replaced"), Chunk(b"two", 0), CaughtUp(None)]
            for offset in range(3, 10):  # more often than hints may be left over
                append(tmp_path / "two" / "real", b"+")
                assert await batch(events) == [Chunk(b"+", offset), CaughtUp(None)]

    async def test_the_whole_directory_is_replaced(self, tmp_path: Path) -> None:
        directory = tmp_path / "mirror"
        directory.mkdir()
        path = directory / "list"
        path.write_bytes(b"abc")
        source = FileList(path, log=logger(), check_interval_seconds=0.02)
        async with aclosing(source.events(0)) as events:
            await batch(events)
            directory.rename(tmp_path / "before")
            assert isinstance(await following(events), Unavailable)
            directory.mkdir()
            path.write_bytes(b"new")
            assert await batch(events) == [Restarted("replaced"), Chunk(b"new", 0), CaughtUp(None)]

    @pytest.mark.parametrize("make", [heard, checked])
    async def test_whatever_a_writer_does_the_last_restart_begins_the_present_file(
        self, path: Path, make: Callable[[Path], FileList]
    ) -> None:
        chance = random.Random(5)
        path.touch()
        received = b""
        async with aclosing(make(path).events(0)) as events:
            await batch(events)
            for step in range(150):
                data = chance.randbytes(chance.choice((1, 30, 2_000, 70_000))) + b"%d" % step
                match chance.randrange(6):
                    case 0:
                        path.rename(path.with_name("list.1"))
                        path.write_bytes(data)
                    case 1:
                        path.write_bytes(data)
                    case 2:
                        path.unlink()
                        path.write_bytes(data)
                    case _:
                        append(path, data)
                wanted = path.read_bytes()
                while received != wanted:
                    for event in await batch(events):
                        match event:
                            case Restarted():
                                received = b""
                            case Chunk(data, offset):
                                assert offset == len(received)
                                received += data
                            case Unavailable():
                                pytest.fail(f"never absent for long enough to be seen: {event.problem}")


class TestAbsence:
    async def test_absent_at_start(self, path: Path) -> None:
        async with aclosing(heard(path).events(0)) as events:
            first = await following(events)
            assert isinstance(first, Unavailable)
            assert first.problem.startswith(f"{path}: no such file")
            path.write_bytes(b"abc")
            found = await batch(events)
            assert found == [Chunk(b"abc", 0), CaughtUp(None)]

    async def test_absent_at_start_with_a_position(self, path: Path) -> None:
        async with aclosing(heard(path).events(2)) as events:
            assert isinstance(await following(events), Unavailable)
            new = path.with_name("new")
            new.write_bytes(b"abc")
            new.rename(path)
            assert await batch(events) == [Chunk(b"c", 2), CaughtUp(None)]

    async def test_its_directory_is_absent_at_start(self, tmp_path: Path) -> None:
        path = tmp_path / "not" / "yet" / "list"
        source = FileList(path, log=logger(), check_interval_seconds=0.01)
        async with aclosing(source.events(0)) as events:
            assert isinstance(await following(events), Unavailable)
            path.parent.mkdir(parents=True)
            path.write_bytes(b"abc")
            assert await batch(events) == [Chunk(b"abc", 0), CaughtUp(None)]

    async def test_is_said_once(self, path: Path) -> None:
        looks = 0

        def refuse(_: Path) -> int:
            nonlocal looks
            looks += 1
            number = errno.EACCES if looks < 20 else errno.EIO
            raise OSError(number, os.strerror(number))

        path.touch()
        source = FileList(path, log=logger(), check_interval_seconds=0.001, inotify=no_inotify, opener=refuse)
        async with aclosing(source.events(0)) as events:
            assert await following(events) == Unavailable(
                f"{path}: not allowed to read it; give the daemon's user the right to"
            )
            assert await following(events) == Unavailable(f"{path}: Input/output error")
            assert looks == 20

    async def test_a_problem_that_ends_is_followed_by_caught_up(self, path: Path) -> None:
        """Also if nothing new came meanwhile: this is how the end of the problem is told."""
        path.write_bytes(b"abc")
        aside = path.with_name("aside")
        async with aclosing(heard(path).events(0)) as events:
            await batch(events)
            path.rename(aside)
            assert isinstance(await following(events), Unavailable)
            aside.rename(path)
            assert await batch(events) == [CaughtUp(None)]
            path.rename(aside)
            assert isinstance(await following(events), Unavailable)

    async def test_a_failing_read_goes_on_where_it_was(self, path: Path) -> None:
        """The descriptor of the first opening cannot be read: the file is opened again."""
        path.write_bytes(b"abc")
        openings = 0

        def opener(which: Path) -> int:
            nonlocal openings
            openings += 1
            return os.open(which, os.O_WRONLY if openings == 1 else os.O_RDONLY)

        source = FileList(path, log=logger(), check_interval_seconds=0.01, inotify=no_inotify, opener=opener)
        async with aclosing(source.events(1)) as events:
            assert await following(events) == Unavailable(f"{path}: Bad file descriptor")
            assert await batch(events) == [Chunk(b"bc", 1), CaughtUp(None)]

    async def test_a_file_replaced_while_it_could_not_be_read(self, path: Path) -> None:
        """Seen when it is opened: the position belongs to another file."""
        path.write_bytes(b"abc")
        openings = 0

        def opener(which: Path) -> int:
            nonlocal openings
            openings += 1
            if openings == 1:
                return os.open(which, os.O_WRONLY)
            if openings == 2:
                new = which.with_name("new")
                new.write_bytes(b"xyz!")
                new.rename(which)
            return os.open(which, os.O_RDONLY)

        source = FileList(path, log=logger(), check_interval_seconds=0.01, inotify=no_inotify, opener=opener)
        async with aclosing(source.events(1)) as events:
            assert isinstance(await following(events), Unavailable)
            assert await batch(events) == [Restarted("replaced"), Chunk(b"xyz!", 0), CaughtUp(None)]
            assert openings == 2

    async def test_a_fifo_put_there_between_looking_and_opening(self, path: Path) -> None:
        path.write_bytes(b"abc")
        openings = 0

        def opener(which: Path) -> int:
            nonlocal openings
            openings += 1
            if openings == 1:
                which.unlink()
                os.mkfifo(which)
                return os.open(which, os.O_RDONLY | os.O_NONBLOCK)
            return os.open(which, os.O_RDONLY)

        source = FileList(path, log=logger(), check_interval_seconds=0.01, inotify=no_inotify, opener=opener)
        async with aclosing(source.events(0)) as events:
            assert await following(events) == Unavailable(
                f"{path}: is a FIFO now, not a file; reading goes on when a file is there"
            )
            path.unlink()
            path.write_bytes(b"abc")
            assert await batch(events) == [Chunk(b"abc", 0), CaughtUp(None)]

    async def test_a_directory_in_its_place_later_is_a_problem_that_may_pass(self, path: Path) -> None:
        path.write_bytes(b"abc")
        async with aclosing(heard(path).events(0)) as events:
            await batch(events)
            path.unlink()
            path.mkdir()
            assert await following(events) == Unavailable(
                f"{path}: is a directory now, not a file; reading goes on when a file is there"
            )
            path.rmdir()
            path.write_bytes(b"xyz")
            found = await batch(events)
            while isinstance(found[-1], Unavailable):
                found = await batch(events)
            assert found == [Restarted("replaced"), Chunk(b"xyz", 0), CaughtUp(None)]


class TestRefusal:
    @pytest.mark.parametrize("kind", ["a directory", "a FIFO", "a socket", "a device"])
    async def test_what_is_not_a_file(self, path: Path, kind: str) -> None:
        match kind:
            case "a directory":
                path.mkdir()
            case "a FIFO":
                os.mkfifo(path)
            case "a socket":
                with socket.socket(socket.AF_UNIX) as server:
                    server.bind(str(path))
            case _:
                path = Path("/dev/null")
        before = descriptors()
        async with aclosing(heard(path).events(0)) as events:
            with pytest.raises(AdapterError) as refusal:
                await following(events)
        assert refusal.value.where == str(path)
        assert refusal.value.what == f"is {kind}, not a file"
        assert refusal.value.remedy == "set source.path to the file that a list is mirrored into, or to auto"
        assert descriptors() == before

    async def test_a_path_no_file_can_have(self) -> None:
        async with aclosing(heard(Path("/tmp/\0")).events(0)) as events:
            with pytest.raises(AdapterError, match=r"correct source\.path"):
                await following(events)


class TestMeans:
    async def test_missing_inotify_is_logged_once(self, path: Path) -> None:
        path.write_bytes(b"a")
        with capture_logs() as logs:
            async with aclosing(checked(path).events(0)) as events:
                await batch(events)
                for _ in range(3):
                    append(path, b"b")
                    await batch(events)
        assert logs == [
            {
                "event": "inotify_unavailable",
                "log_level": "warning",
                "path": str(path),
                "problem": "Too many open files",
            }
        ]

    @pytest.mark.parametrize("size", [10, 3 * READ_PIECE_BYTES])
    async def test_no_descriptor_is_left_after_cancellation(self, path: Path, size: int) -> None:
        before = descriptors()
        path.write_bytes(b"x" * size)
        got = asyncio.Event()

        async def consume() -> None:
            async with aclosing(heard(path).events(0)) as events:
                async for _ in events:
                    got.set()

        task = asyncio.create_task(consume())
        async with asyncio.timeout(DEADLINE_SECONDS):
            await got.wait()
            assert str(path) in descriptors()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert descriptors() == before

    async def test_cancelled_it_waits_for_the_read_and_closes_then(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path.write_bytes(b"x" * (2 * READ_PIECE_BYTES))
        before = descriptors()
        reading, go_on = threading.Event(), threading.Event()
        pread = os.pread

        def slow(descriptor: int, length: int, offset: int) -> bytes:
            reading.set()
            go_on.wait(DEADLINE_SECONDS)
            return pread(descriptor, length, offset)

        async def consume() -> None:
            async with aclosing(heard(path).events(0)) as events:
                await anext(events)

        monkeypatch.setattr(os, "pread", slow)
        task = asyncio.create_task(consume())
        assert await asyncio.to_thread(reading.wait, DEADLINE_SECONDS)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
            assert str(path) in descriptors()
        go_on.set()
        async with asyncio.timeout(DEADLINE_SECONDS):
            with pytest.raises(asyncio.CancelledError):
                await task
        assert descriptors() == before
