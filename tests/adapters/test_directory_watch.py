"""A directory that changes, comes, goes and is replaced; heard by inotify, or found by looking.

Where `check_interval_seconds` is `NEVER`, nothing but inotify can have told; where inotify is refused,
nothing but the slow check.  Debouncing is tested by the order of things only: a change while it waits
for quiet belongs to the same item.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import struct
import termios
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import structlog
from asyncinotify import Inotify
from structlog.testing import capture_logs
from structlog.typing import FilteringBoundLogger

from dmimad.adapters.directory_watch import MAX_ENTRIES, DirectoryWatch

NEVER = 3600.0
DEADLINE_SECONDS = 20.0

Changes = AsyncGenerator[None, None]
Make = Callable[..., DirectoryWatch]


def logger() -> FilteringBoundLogger:
    log: FilteringBoundLogger = structlog.get_logger()
    return log


def no_inotify() -> Inotify:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def heard(directory: Path, suffix: str = "") -> DirectoryWatch:
    """Told by inotify alone."""
    return DirectoryWatch(
        directory, log=logger(), suffix=suffix, debounce_seconds=0.0, check_interval_seconds=NEVER
    )


def checked(directory: Path, suffix: str = "") -> DirectoryWatch:
    """Told by the slow check alone."""
    return Counted(directory, log=logger(), suffix=suffix, check_interval_seconds=0.01, inotify=no_inotify)


def both(directory: Path) -> DirectoryWatch:
    return DirectoryWatch(directory, log=logger(), debounce_seconds=0.01, check_interval_seconds=0.02)


class Counted(DirectoryWatch):
    """Counts its looks, and tells nothing later than it must."""

    looks = 0

    def _look(self) -> tuple[tuple[str | int, ...], ...] | None:
        self.looks += 1
        return super()._look()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110 - nothing tells that something will not be told
            await asyncio.sleep(0.001)


async def unmoved(watch: DirectoryWatch, told: asyncio.Task[None]) -> None:
    """Let it take notice of everything that happened, and find that it tells nothing."""
    if isinstance(watch, Counted):
        looks = watch.looks
        await until(lambda: watch.looks > looks + 2)
    else:
        await until(lambda: not unread(watch))
        for _ in range(20):  # it is told without a delay, if it is
            await asyncio.sleep(0)
    assert not told.done()


def unread(watch: DirectoryWatch) -> int:
    """Bytes of events that wait in the kernel."""
    assert watch._inotify is not None
    answer = fcntl.ioctl(watch._inotify.fd, termios.FIONREAD, b"\0" * 4)
    return int(struct.unpack("i", answer)[0])


async def begun(watch: DirectoryWatch, changes: Changes) -> None:
    """Let it come to the point where it listens, by one change it must tell."""
    (watch.directory / "first").write_bytes(b"")
    await changed(changes)


async def changed(changes: Changes) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        await anext(changes)


def descriptors() -> list[str]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except OSError:
            continue  # the one of the listing itself
    return sorted(found)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "baseline.d"
    path.mkdir()
    (path / "old.toml").write_bytes(b"old")
    return path


def create(directory: Path) -> None:
    (directory / "new.toml").write_bytes(b"new")


def rewrite(directory: Path) -> None:
    (directory / "old.toml").write_bytes(b"rewritten")


def append(directory: Path) -> None:
    with (directory / "old.toml").open("ab") as file:
        file.write(b"+")


def delete(directory: Path) -> None:
    (directory / "old.toml").unlink()


def move_in(directory: Path) -> None:
    aside = directory.parent / "aside"
    aside.write_bytes(b"moved")
    aside.rename(directory / "old.toml")


def move_out(directory: Path) -> None:
    (directory / "old.toml").rename(directory.parent / "aside")


def rename(directory: Path) -> None:
    (directory / "old.toml").rename(directory / "new.toml")


def protect(directory: Path) -> None:
    (directory / "old.toml").chmod(0o600)


def link(directory: Path) -> None:
    (directory / "new.toml").symlink_to("old.toml")


CHANGES = [create, rewrite, append, delete, move_in, move_out, rename, protect, link]


class TestChanges:
    @pytest.mark.parametrize("make", [heard, checked])
    @pytest.mark.parametrize("change", CHANGES)
    async def test_is_told(self, directory: Path, make: Make, change: Callable[[Path], None]) -> None:
        watch = make(directory)
        async with aclosing(watch.changes()) as changes:
            await begun(watch, changes)
            change(directory)
            await changed(changes)

    async def test_a_change_that_leaves_size_and_time_as_they_were(self, directory: Path) -> None:
        watch = heard(directory)
        async with aclosing(watch.changes()) as changes:
            await begun(watch, changes)
            told = asyncio.create_task(changed(changes))
            await unmoved(watch, told)
            old = directory / "old.toml"
            status = old.stat()
            old.write_bytes(b"new")
            os.utime(old, ns=(status.st_atime_ns, status.st_mtime_ns))
            await told

    @pytest.mark.parametrize("make", [heard, checked])
    async def test_what_changes_before_the_iteration_is_told(self, directory: Path, make: Make) -> None:
        watch = make(directory)
        create(directory)
        async with aclosing(watch.changes()) as changes:
            await changed(changes)

    async def test_nothing_is_told_without_a_change(self, directory: Path) -> None:
        """Many slow checks pass, and reading the files is no change."""
        watch = Counted(directory, log=logger(), debounce_seconds=0.0, check_interval_seconds=0.001)
        async with aclosing(watch.changes()) as changes:
            told = asyncio.create_task(changed(changes))
            for _ in range(10):
                (directory / "old.toml").read_bytes()
                await unmoved(watch, told)
            create(directory)
            await told

    @pytest.mark.parametrize("make", [heard, checked])
    async def test_names_without_the_suffix_do_not_count(self, directory: Path, make: Make) -> None:
        watch = make(directory, suffix=".toml")
        async with aclosing(watch.changes()) as changes:
            create(directory)
            await changed(changes)
            told = asyncio.create_task(changed(changes))
            await asyncio.sleep(0)
            for number in range(20):
                (directory / f".new.toml.{number}.swp").write_bytes(b"noise")
            await unmoved(watch, told)
            append(directory)
            await told

    async def test_a_change_during_the_quiet_belongs_to_the_same_item(self, directory: Path) -> None:
        quiet = 0.05
        watch = DirectoryWatch(
            directory,
            log=logger(),
            debounce_seconds=quiet,
            max_delay_seconds=NEVER,
            check_interval_seconds=NEVER,
        )
        loop = asyncio.get_running_loop()
        last = 0.0
        async with aclosing(watch.changes()) as changes:
            await begun(watch, changes)
            told = asyncio.create_task(changed(changes))
            for number in range(10):
                (directory / f"{number}.toml").write_bytes(b"x")
                last = loop.time()
                await asyncio.sleep(0)
            await told
            assert loop.time() - last >= quiet - 0.001  # it was quiet for so long: a lower bound holds always
            again = asyncio.create_task(changed(changes))
            await unmoved(watch, again)
            append(directory)
            await again

    async def test_endless_change_is_told_all_the_same(self, directory: Path) -> None:
        watch = DirectoryWatch(
            directory,
            log=logger(),
            debounce_seconds=NEVER,
            max_delay_seconds=0.0,
            check_interval_seconds=NEVER,
        )
        assert watch._max_delay == NEVER  # never shorter than the quiet
        watch._max_delay = 0.05
        stop = asyncio.Event()

        async def scribble() -> None:
            while not stop.is_set():
                append(directory)
                await asyncio.sleep(0.001)

        async with aclosing(watch.changes()) as changes, asyncio.TaskGroup() as group:
            group.create_task(scribble())
            await changed(changes)
            await changed(changes)
            stop.set()


class TestTheDirectoryItself:
    @pytest.mark.parametrize("make", [both, checked])
    async def test_absent_at_first(self, tmp_path: Path, make: Make) -> None:
        directory = tmp_path / "etc" / "baseline.d"
        watch = make(directory)
        async with aclosing(watch.changes()) as changes:
            directory.mkdir(parents=True)
            await changed(changes)
            create(directory)
            await changed(changes)

    async def test_inotify_is_back_for_a_directory_that_came_later(self, tmp_path: Path) -> None:
        directory = tmp_path / "baseline.d"
        watch = both(directory)
        async with aclosing(watch.changes()) as changes:
            directory.mkdir()
            await changed(changes)
            watch._check_interval = NEVER
            create(directory)
            await changed(changes)  # at most the check under way may have seen it
            append_to = directory / "new.toml"
            append_to.write_bytes(b"longer than before")
            await changed(changes)

    @pytest.mark.parametrize("make", [heard, checked])
    async def test_removed(self, directory: Path, make: Make) -> None:
        (directory / "old.toml").unlink()
        watch = make(directory)
        async with aclosing(watch.changes()) as changes:
            told = asyncio.create_task(changed(changes))
            await asyncio.sleep(0)  # it listens now
            directory.rmdir()
            await told
            assert watch._look() is None

    @pytest.mark.parametrize("make", [heard, checked])
    async def test_moved_away(self, directory: Path, make: Make) -> None:
        watch = make(directory)
        async with aclosing(watch.changes()) as changes:
            await begun(watch, changes)
            directory.rename(directory.with_name("aside"))
            await changed(changes)

    @pytest.mark.parametrize("make", [heard, checked])
    async def test_replaced(self, directory: Path, make: Make) -> None:
        """What happens in the new one is told, what happens in the old one is not."""
        watch = make(directory)
        aside = directory.with_name("aside")
        async with aclosing(watch.changes()) as changes:
            await begun(watch, changes)
            directory.rename(aside)
            directory.mkdir()
            await changed(changes)
            told = asyncio.create_task(changed(changes))
            await asyncio.sleep(0)
            create(aside)
            await unmoved(watch, told)
            if watch._inotify is not None:
                assert len(watch._inotify.watches) == 1
            create(directory)
            await told

    async def test_removed_and_created_again_while_nobody_listens(self, directory: Path) -> None:
        """The new one may get the old one's inode number."""
        watch = heard(directory)
        async with aclosing(watch.changes()) as changes:
            await begun(watch, changes)
            for entry in list(directory.iterdir()):
                entry.unlink()
            directory.rmdir()
            directory.mkdir()
            await changed(changes)
            create(directory)
            await changed(changes)

    async def test_a_symbolic_link_to_another_directory(self, tmp_path: Path) -> None:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "old.toml").write_bytes(name.encode())
        directory = tmp_path / "baseline.d"
        directory.symlink_to("one")
        watch = both(directory)
        async with aclosing(watch.changes()) as changes:
            create(tmp_path / "one")
            await changed(changes)
            new = tmp_path / "link"
            new.symlink_to("two")
            new.rename(directory)
            await changed(changes)
            watch._check_interval = NEVER
            append(tmp_path / "two")
            await changed(changes)

    async def test_a_file_in_its_place_is_no_directory(self, tmp_path: Path) -> None:
        directory = tmp_path / "baseline.d"
        directory.write_bytes(b"")
        watch = both(directory)
        async with aclosing(watch.changes()) as changes:
            directory.unlink()
            directory.mkdir()
            create(directory)
            await changed(changes)


class TestMeans:
    async def test_missing_inotify_is_logged_once(self, directory: Path) -> None:
        with capture_logs() as logs:
            watch = checked(directory)
            async with aclosing(watch.changes()) as changes:
                for change in (create, append, delete):
                    change(directory)
                    await changed(changes)
        assert logs == [
            {
                "event": "inotify_unavailable",
                "log_level": "warning",
                "path": str(directory),
                "problem": "Too many open files",
            }
        ]

    async def test_a_huge_directory_is_compared_in_part(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert MAX_ENTRIES == 10_000
        monkeypatch.setattr("dmimad.adapters.directory_watch.MAX_ENTRIES", 5)
        for number in range(20):
            (directory / f"{number}.toml").write_bytes(b"")
        signature = heard(directory)._signature
        assert signature is not None
        assert len(signature) == 5

    async def test_a_dangling_link_is_described_by_its_name(self, directory: Path) -> None:
        (directory / "dangling.toml").symlink_to("nowhere")
        signature = heard(directory)._signature
        assert signature is not None
        assert ("dangling.toml",) in signature
        watch = checked(directory)
        async with aclosing(watch.changes()) as changes:
            (directory / "dangling.toml").unlink()
            (directory / "dangling.toml").symlink_to("old.toml")
            await changed(changes)

    @pytest.mark.parametrize("make", [heard, checked])
    async def test_no_descriptor_is_left_after_cancellation(self, directory: Path, make: Make) -> None:
        before = descriptors()
        got = asyncio.Event()
        watch = make(directory)

        async def consume() -> None:
            async with aclosing(watch.changes()) as changes:
                async for _ in changes:
                    got.set()

        create(directory)
        for _ in range(2):  # and it can be iterated again
            task = asyncio.create_task(consume())
            async with asyncio.timeout(DEADLINE_SECONDS):
                append(directory)
                await got.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert descriptors() == before
            got.clear()
