"""The kernel's list, with files in place of securityfs: a count, and a list that grows before the count does.

What a file cannot show (short reads, positioning by formatting) is shown with another seq_file that every
kernel has, /proc/kallsyms; errors come from an opener; the real list is read in the tests on real kernels.
Where `poll_interval_seconds` is `NEVER`, nothing but `wake()` can have made it look.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from dmimad.adapters.ima_list import (
    BUSY_PATIENCE_SECONDS,
    DIRECT_READ_BYTES,
    DIRECT_READ_MAX_RECORDS,
    FINGERPRINT_BYTES,
    READ_PIECE_BYTES,
    KernelList,
    Opener,
    Passed,
    count,
    is_kernel_list,
    open_read_only,
)
from dmimad.core.source import CaughtUp, Chunk, Restarted, SourceEvent, Unavailable

NEVER = 3600.0
OFTEN = 0.002
DEADLINE_SECONDS = 20.0

Events = AsyncGenerator[SourceEvent, None]


class Securityfs:
    """What the kernel shows; the list is always at least as long as the count says."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ima = root / "integrity" / "ima"
        self.ima.mkdir(parents=True)
        self.list = self.ima / "binary_runtime_measurements"
        self.ascii = self.ima / "ascii_runtime_measurements"
        self.count = self.ima / "runtime_measurements_count"
        self.openings: list[Path] = []
        self.records = 0
        self.list.touch()
        self.count_is(0)

    def count_is(self, records: int) -> None:
        self.records = records
        # As one write into the same file: the kernel's count is never seen half-written.
        with self.count.open("r+b" if self.count.exists() else "wb", buffering=0) as file:
            text = b"%d\n" % records
            file.write(text)
            file.truncate(len(text))

    def append(self, data: bytes, records: int = 1) -> None:
        with self.list.open("ab") as file:
            file.write(data)
        self.count_is(self.records + records)

    def trim(self, data: bytes, records: int) -> None:
        self.list.write_bytes(data)
        self.count_is(records)

    def opener(self, path: Path) -> int:
        self.openings.append(path)
        return open_read_only(path)

    def source(
        self,
        path: str = "auto",
        *,
        poll: float = OFTEN,
        hold_open: bool = True,
        opener: Opener | None = None,
        retry: float = OFTEN,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> KernelList:
        return KernelList(
            path,
            poll_interval_seconds=poll,
            hold_open=hold_open,
            securityfs=self.root,
            retry_interval_seconds=retry,
            opener=opener or self.opener,
            monotonic=monotonic,
        )


class Refusals:
    """An opener that fails with the given numbers in turn, and works when they are used up.

    Its clock goes on by `pace` at each attempt.
    """

    def __init__(self, *numbers: int, pace: float = 0.0) -> None:
        self.numbers = list(numbers)
        self.asked = 0
        self.pace = pace

    def monotonic(self) -> float:
        return 1000.0 + self.pace * self.asked

    def __call__(self, path: Path) -> int:
        self.asked += 1
        if self.numbers:
            number = self.numbers.pop(0)
            raise OSError(number, os.strerror(number), str(path))
        return open_read_only(path)


async def following(events: Events) -> SourceEvent:
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await anext(events)


async def batch(events: Events) -> list[SourceEvent]:
    """Everything up to and with the next CaughtUp or Unavailable."""
    found = [await following(events)]
    while not isinstance(found[-1], CaughtUp | Unavailable):
        found.append(await following(events))
    return found


def joined(found: list[SourceEvent], offset: int = 0) -> bytes:
    """The bytes of chunks that are contiguous and bounded."""
    data = b""
    for event in found:
        if isinstance(event, Chunk):
            assert event.offset == offset + len(data)
            assert 0 < len(event.data) <= READ_PIECE_BYTES
            data += event.data
    return data


def descriptors() -> list[str]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except OSError:
            continue  # the one of the listing itself
    return sorted(found)


@pytest.fixture
def kernel(tmp_path: Path) -> Securityfs:
    return Securityfs(tmp_path / "security")


@pytest.fixture(params=[True, False], ids=["held", "visited"])
def hold_open(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class TestGrowth:
    async def test_what_is_there_comes_first_then_what_is_added(
        self, kernel: Securityfs, hold_open: bool
    ) -> None:
        kernel.append(b"boot_aggregate", 1)
        async with aclosing(kernel.source(hold_open=hold_open).events(0)) as events:
            assert await batch(events) == [Chunk(b"boot_aggregate", 0), CaughtUp(1)]
            kernel.append(b"second")
            assert await batch(events) == [Chunk(b"second", 14), CaughtUp(2)]
            kernel.append(b"third, fourth", 2)
            assert await batch(events) == [Chunk(b"third, fourth", 20), CaughtUp(4)]

    async def test_what_is_still_to_be_read_is_counted_before_it_is_read(
        self, kernel: Securityfs, hold_open: bool
    ) -> None:
        kernel.append(b"a, b", 2)
        source = kernel.source(hold_open=hold_open)
        counted = [source.count]
        async with aclosing(source.events(0)) as events:
            for expected in (Chunk(b"a, b", 0), CaughtUp(2), Chunk(b"c", 4)):
                assert await anext(events) == expected
                counted.append(source.count)
                if expected == Chunk(b"a, b", 0):
                    kernel.append(b"c", 3)
        assert counted == [None, 2, 2, 5]

    async def test_an_empty_list_is_caught_up_with(self, kernel: Securityfs, hold_open: bool) -> None:
        async with aclosing(kernel.source(hold_open=hold_open).events(0)) as events:
            assert await batch(events) == [CaughtUp(0)]

    async def test_wake_looks_at_once(self, kernel: Securityfs, hold_open: bool) -> None:
        kernel.append(b"a")
        source = kernel.source(poll=NEVER, hold_open=hold_open)
        source.wake()  # nobody waits: no harm
        async with aclosing(source.events(0)) as events:
            assert await batch(events) == [Chunk(b"a", 0), CaughtUp(1)]
            for number in range(1, 20):
                more = asyncio.create_task(batch(events))
                await asyncio.sleep(0)
                source.wake()  # too early, as a uevent may be
                await asyncio.sleep(0)
                kernel.append(b"b")
                source.wake()
                source.wake()
                assert await more == [Chunk(b"b", number), CaughtUp(number + 1)]

    async def test_a_record_that_came_while_others_were_handled_is_not_waited_for(
        self, kernel: Securityfs
    ) -> None:
        kernel.append(b"a")
        async with aclosing(kernel.source(poll=NEVER).events(0)) as events:
            assert await batch(events) == [Chunk(b"a", 0), CaughtUp(1)]
            kernel.append(b"b")
            assert await batch(events) == [Chunk(b"b", 1), CaughtUp(2)]

    async def test_the_count_is_older_than_what_was_read(self, kernel: Securityfs) -> None:
        """The kernel adds to the list first: a record may be read before it is counted."""
        kernel.append(b"a")
        async with aclosing(kernel.source().events(0)) as events:
            await batch(events)
            kernel.append(b"b")
            with kernel.list.open("ab") as file:
                file.write(b"c")
            assert await batch(events) == [Chunk(b"bc", 1), CaughtUp(2)]
            kernel.count_is(3)
            assert await batch(events) == [CaughtUp(3)]

    @pytest.mark.parametrize("extra", [-1, 0, 1])
    @pytest.mark.parametrize("size", [DIRECT_READ_BYTES, READ_PIECE_BYTES, 3 * READ_PIECE_BYTES])
    @pytest.mark.parametrize("records", [1, DIRECT_READ_MAX_RECORDS + 1])
    async def test_sizes_around_the_limits(
        self, kernel: Securityfs, hold_open: bool, size: int, extra: int, records: int
    ) -> None:
        """As a first read and as an addition, whatever the count made it expect."""
        data = random.Random(1).randbytes(size + extra)
        kernel.append(data, records)
        async with aclosing(kernel.source(hold_open=hold_open).events(0)) as events:
            found = await batch(events)
            assert found[-1] == CaughtUp(records)
            assert joined(found) == data
            kernel.append(data, records)
            found = await batch(events)
            assert found[-1] == CaughtUp(2 * records)
            assert joined(found, len(data)) == data

    async def test_starts_in_the_middle(self, kernel: Securityfs, hold_open: bool) -> None:
        kernel.append(b"0123456789", 3)
        async with aclosing(kernel.source(hold_open=hold_open).events(7)) as events:
            assert await batch(events) == [Chunk(b"789", 7), CaughtUp(3)]
            kernel.append(b"x")
            assert await batch(events) == [Chunk(b"x", 10), CaughtUp(4)]

    async def test_starts_at_the_end(self, kernel: Securityfs, hold_open: bool) -> None:
        kernel.append(b"0123456789", 3)
        async with aclosing(kernel.source(hold_open=hold_open).events(10)) as events:
            assert await batch(events) == [CaughtUp(3)]

    @pytest.mark.parametrize("start", [11, 10 + FINGERPRINT_BYTES, 1 << 40])
    async def test_shorter_than_the_start_is_read_from_the_beginning(
        self, kernel: Securityfs, hold_open: bool, start: int
    ) -> None:
        kernel.append(b"0123456789", 3)
        async with aclosing(kernel.source(hold_open=hold_open).events(start)) as events:
            assert await batch(events) == [Restarted("truncated"), Chunk(b"0123456789", 0), CaughtUp(3)]
            kernel.append(b"x")
            assert await batch(events) == [Chunk(b"x", 10), CaughtUp(4)]


class TestHoldingOpen:
    async def test_held_open_it_is_opened_once_and_never_read_again(self, kernel: Securityfs) -> None:
        kernel.append(b"a" * 10)
        async with aclosing(kernel.source().events(0)) as events:
            await batch(events)
            assert str(kernel.list) in descriptors()
            with kernel.list.open("r+b") as file:
                file.write(b"z" * 10)  # who reads it again would see it
            for number in range(5):
                kernel.append(b"b")
                assert await batch(events) == [Chunk(b"b", 10 + number), CaughtUp(2 + number)]
        assert kernel.openings == [kernel.list]

    async def test_otherwise_it_is_open_only_while_it_is_read(self, kernel: Securityfs) -> None:
        kernel.append(b"a")
        async with aclosing(kernel.source(hold_open=False).events(0)) as events:
            for number in range(3):
                await batch(events)
                assert str(kernel.list) not in descriptors()
                assert kernel.openings == [kernel.list] * (number + 1)
                kernel.append(b"b")

    async def test_polls_do_not_open_the_list(self, kernel: Securityfs) -> None:
        kernel.append(b"a")
        polls = 0

        source = kernel.source(hold_open=False)
        read = source._count.read
        enough = threading.Event()

        def counted() -> bytes:
            nonlocal polls
            polls += 1
            if polls == 20:
                enough.set()
            return read()

        source._count.read = counted  # type: ignore[method-assign]  # counts the polls
        async with aclosing(source.events(0)) as events:
            await batch(events)
            more = asyncio.create_task(batch(events))
            assert await asyncio.to_thread(enough.wait, DEADLINE_SECONDS)
            assert kernel.openings == [kernel.list]
            kernel.append(b"b")
            assert await more == [Chunk(b"b", 1), CaughtUp(2)]


class TestTrimming:
    async def test_a_smaller_count_begins_again(self, kernel: Securityfs, hold_open: bool) -> None:
        kernel.append(b"aabbcc", 3)
        async with aclosing(kernel.source(hold_open=hold_open).events(0)) as events:
            await batch(events)
            kernel.trim(b"cc", 1)
            assert await batch(events) == [Restarted("trimmed"), Chunk(b"cc", 0), CaughtUp(1)]
            kernel.append(b"dd")
            assert await batch(events) == [Chunk(b"dd", 2), CaughtUp(2)]

    async def test_trimmed_to_nothing(self, kernel: Securityfs, hold_open: bool) -> None:
        kernel.append(b"aabbcc", 3)
        async with aclosing(kernel.source(hold_open=hold_open).events(0)) as events:
            await batch(events)
            kernel.trim(b"", 0)
            assert await batch(events) == [Restarted("trimmed"), CaughtUp(0)]

    async def test_grown_beyond_the_former_count_since(self, kernel: Securityfs) -> None:
        """The count alone does not show it; what lies before the position does."""
        kernel.append(b"aabbcc", 3)
        async with aclosing(kernel.source(hold_open=False).events(0)) as events:
            await batch(events)
            kernel.trim(b"ccddeeffgg", 5)
            assert await batch(events) == [Restarted("trimmed"), Chunk(b"ccddeeffgg", 0), CaughtUp(5)]
            kernel.append(b"hh")
            assert await batch(events) == [Chunk(b"hh", 10), CaughtUp(6)]

    async def test_shorter_than_the_position_though_more_are_counted(self, kernel: Securityfs) -> None:
        kernel.append(b"a long one", 1)
        async with aclosing(kernel.source(hold_open=False).events(0)) as events:
            await batch(events)
            kernel.trim(b"b", 2)
            assert await batch(events) == [Restarted("trimmed"), Chunk(b"b", 0), CaughtUp(2)]

    async def test_trimmed_between_count_and_list_is_told_once(self, kernel: Securityfs) -> None:
        """The count taken before does not belong to the list that was read."""

        def opener(path: Path) -> int:
            if kernel.records == 4:
                kernel.trim(b"dd", 1)
            return open_read_only(path)

        kernel.append(b"aabbcc", 3)
        source = kernel.source(hold_open=False, opener=opener)
        async with aclosing(source.events(0)) as events:
            await batch(events)
            kernel.append(b"dd")
            assert await batch(events) == [Restarted("trimmed"), Chunk(b"dd", 0), CaughtUp(1)]
            kernel.append(b"ee")
            assert await batch(events) == [Chunk(b"ee", 2), CaughtUp(2)]

    async def test_trimming_is_told_although_the_list_cannot_be_opened(self, kernel: Securityfs) -> None:
        kernel.append(b"aabbcc", 3)
        refusals = Refusals()
        async with aclosing(kernel.source(hold_open=False, opener=refusals).events(0)) as events:
            await batch(events)
            refusals.numbers = [errno.EIO] * 3
            kernel.trim(b"cc", 1)
            restarted, problem = await batch(events)
            assert restarted == Restarted("trimmed")
            assert isinstance(problem, Unavailable)
            assert await batch(events) == [Chunk(b"cc", 0), CaughtUp(1)]

    async def test_trimming_while_the_writer_is_still_there(self, kernel: Securityfs) -> None:
        kernel.append(b"aabbcc", 3)
        refusals = Refusals()
        async with aclosing(kernel.source(hold_open=False, opener=refusals).events(0)) as events:
            await batch(events)
            refusals.numbers = [errno.EBUSY] * 3
            kernel.trim(b"cc", 1)
            assert await batch(events) == [Restarted("trimmed"), Chunk(b"cc", 0), CaughtUp(1)]

    async def test_as_many_records_as_before(self, kernel: Securityfs) -> None:
        """Trimmed and grown while the count was not looked at: what lies before the position shows it."""
        kernel.append(b"aabbcc", 3)
        source = kernel.source(hold_open=False, poll=NEVER)
        async with aclosing(source.events(0)) as events:
            await batch(events)
            kernel.trim(b"bbccdd", 3)
            more = asyncio.create_task(batch(events))
            await asyncio.sleep(0)
            source.wake()
            await asyncio.sleep(0)
            assert not more.done()  # the count is as it was: the list is not looked at
            kernel.append(b"ee")
            source.wake()
            assert await more == [Restarted("trimmed"), Chunk(b"bbccddee", 0), CaughtUp(4)]
            kernel.append(b"ff")
            source.wake()
            assert await batch(events) == [Chunk(b"ff", 8), CaughtUp(5)]

    async def test_as_many_records_as_before_between_count_and_list(self, kernel: Securityfs) -> None:
        def opener(path: Path) -> int:
            if kernel.list.read_bytes() == b"aabbccdd":
                kernel.trim(b"bbccddee", 4)
            return open_read_only(path)

        kernel.append(b"aabbcc", 3)
        async with aclosing(kernel.source(hold_open=False, opener=opener).events(0)) as events:
            await batch(events)
            kernel.append(b"dd")
            assert await batch(events) == [Restarted("trimmed"), Chunk(b"bbccddee", 0), CaughtUp(4)]

    async def test_trimmed_to_nothing_and_grown_to_as_many(self, kernel: Securityfs) -> None:
        kernel.append(b"aabb", 2)
        async with aclosing(kernel.source(hold_open=False).events(0)) as events:
            await batch(events)
            kernel.trim(b"", 0)
            assert await batch(events) == [Restarted("trimmed"), CaughtUp(0)]
            kernel.append(b"ccdd", 2)
            assert await batch(events) == [Chunk(b"ccdd", 0), CaughtUp(2)]
            kernel.trim(b"", 0)
            assert await batch(events) == [Restarted("trimmed"), CaughtUp(0)]
            kernel.count_is(1)  # counted before it can be read: nothing was there to be trimmed
            assert await batch(events) == [CaughtUp(1)]

    async def test_the_fingerprint_is_what_was_read_last(self, kernel: Securityfs) -> None:
        """However it arrived: one byte changed at its very beginning or end is seen."""
        data = random.Random(2).randbytes(5_000)
        for changed in (-1, -FINGERPRINT_BYTES):
            kernel.trim(data[:700], 1)
            async with aclosing(kernel.source(hold_open=False).events(0)) as events:
                await batch(events)
                for begin in range(700, 5_000, 430):
                    kernel.append(data[begin : begin + 430])
                    assert joined(await batch(events), begin) == data[begin : begin + 430]
                other = bytearray(data)
                other[changed] ^= 1
                kernel.trim(bytes(other), kernel.records)
                kernel.append(b"more")
                assert await following(events) == Restarted("trimmed")

    async def test_nothing_read_nothing_to_begin_again(self, kernel: Securityfs) -> None:
        refusals = Refusals(*[errno.EIO] * 3)
        kernel.append(b"aabbcc", 3)
        async with aclosing(kernel.source(opener=refusals).events(0)) as events:
            assert isinstance(await following(events), Unavailable)
            kernel.trim(b"cc", 1)
            assert await batch(events) == [Chunk(b"cc", 0), CaughtUp(1)]


class TestLooking:
    async def test_an_answer_although_nothing_is_new(self, kernel: Securityfs, hold_open: bool) -> None:
        kernel.append(b"a")
        source = kernel.source(poll=NEVER, hold_open=hold_open)
        async with aclosing(source.events(0)) as events:
            assert await batch(events) == [Chunk(b"a", 0), CaughtUp(1)]
            for asked in (0, 3, 6):
                more = asyncio.create_task(batch(events))
                await asyncio.sleep(0)  # it waits for the count to move
                assert source.look() == asked + 1
                assert source.look() == asked + 2
                assert await more == [CaughtUp(1, asked + 2)]
                assert source.look() == asked + 3  # nobody waits yet
                assert await batch(events) == [CaughtUp(1, asked + 3)]
            assert kernel.openings == [kernel.list]

    async def test_what_is_new_comes_first(self, kernel: Securityfs, hold_open: bool) -> None:
        source = kernel.source(poll=NEVER, hold_open=hold_open)
        async with aclosing(source.events(0)) as events:
            assert await batch(events) == [CaughtUp(0)]
            for number in range(3):
                more = asyncio.create_task(batch(events))
                await asyncio.sleep(0)
                kernel.append(b"a")
                source.look()
                assert await more == [Chunk(b"a", number), CaughtUp(number + 1, number + 1)]

    async def test_before_the_first_round(self, kernel: Securityfs, hold_open: bool) -> None:
        """The first full read is the answer; there is no second one."""
        kernel.append(b"a")
        source = kernel.source(poll=NEVER, hold_open=hold_open)
        source.look()
        async with aclosing(source.events(0)) as events:
            assert await batch(events) == [Chunk(b"a", 0), CaughtUp(1, 1)]
            more = asyncio.create_task(batch(events))
            await asyncio.sleep(0)
            kernel.append(b"b")
            source.wake()
            assert await more == [Chunk(b"b", 1), CaughtUp(2, 1)]

    @pytest.mark.parametrize("size", [1, READ_PIECE_BYTES, 2 * READ_PIECE_BYTES + 1])
    async def test_a_round_under_way_is_no_answer(
        self, kernel: Securityfs, hold_open: bool, size: int
    ) -> None:
        """It took its count before it was asked, and may have passed the end of the list."""
        data = bytes(size)
        kernel.append(data)
        source = kernel.source(poll=NEVER, hold_open=hold_open)
        async with aclosing(source.events(0)) as events:
            assert isinstance(await following(events), Chunk)
            source.look()
            found = await batch(events)  # of the round that was under way
            assert found[-1] == CaughtUp(1, 0)
            assert await batch(events) == [CaughtUp(1, 1)]
            kernel.append(data)
            source.wake()
            assert isinstance(await following(events), Chunk)
            kernel.append(b"b")
            source.look()
            found = await batch(events)
            assert found[-1] == CaughtUp(2, 1)
            found += await batch(events)
            assert found[-1] == CaughtUp(3, 2)
            assert any(isinstance(event, Chunk) and event.data.endswith(b"b") for event in found)

    async def test_an_unchanged_count_is_enough_only_if_all_it_counts_was_delivered(
        self, kernel: Securityfs
    ) -> None:
        kernel.append(b"a")
        refusals, used_up = Refusals(), asyncio.Event()

        def opener(path: Path) -> int:
            if len(refusals.numbers) == 1:
                used_up.set()
            return refusals(path)

        source = kernel.source(poll=NEVER, hold_open=False, opener=opener, retry=NEVER)
        async with aclosing(source.events(0)) as events:
            assert await batch(events) == [Chunk(b"a", 0), CaughtUp(1)]
            kernel.append(b"b")
            refusals.numbers = [errno.EIO, errno.EIO]
            more = asyncio.create_task(batch(events))
            await asyncio.sleep(0)
            source.wake()
            assert await more == [Unavailable(f"{kernel.list}: Input/output error")]
            more = asyncio.create_task(batch(events))
            await asyncio.sleep(0)
            source.look()  # refused again, which is no news
            async with asyncio.timeout(DEADLINE_SECONDS):
                await used_up.wait()
            source.look()
            assert await more == [Chunk(b"b", 1), CaughtUp(2, 2)]
            source.look()
            assert await batch(events) == [CaughtUp(2, 3)]
            assert refusals.asked == 4

    async def test_without_a_count_it_reads(self, kernel: Securityfs, hold_open: bool) -> None:
        kernel.count.unlink()
        source = kernel.source(poll=NEVER, hold_open=hold_open)
        async with aclosing(source.events(0)) as events:
            assert await batch(events) == [CaughtUp(None)]
            more = asyncio.create_task(batch(events))
            await asyncio.sleep(0)
            kernel.list.write_bytes(b"a")
            source.look()
            assert await more == [Chunk(b"a", 0), CaughtUp(None, 1)]
            source.look()
            assert await batch(events) == [CaughtUp(None, 2)]

    async def test_trimmed_meanwhile(self, kernel: Securityfs) -> None:
        kernel.append(b"aabb", 2)
        source = kernel.source(poll=NEVER, hold_open=False)
        async with aclosing(source.events(0)) as events:
            await batch(events)
            kernel.trim(b"bb", 1)
            source.look()
            assert await batch(events) == [Restarted("trimmed"), Chunk(b"bb", 0), CaughtUp(1, 1)]

    async def test_questions_are_answered_by_another_iteration_too(
        self, kernel: Securityfs, hold_open: bool
    ) -> None:
        """Who asked before the list was begun anew is not left without an answer."""
        kernel.append(b"aabb", 2)
        source = kernel.source(poll=NEVER, hold_open=hold_open)
        async with aclosing(source.events(0)) as events:
            await batch(events)
            source.look()
        async with aclosing(source.events(0)) as events:
            assert await batch(events) == [Chunk(b"aabb", 0), CaughtUp(2, 1)]


class TestUnavailable:
    async def test_a_writer_has_it_for_a_moment(self, kernel: Securityfs, hold_open: bool) -> None:
        kernel.append(b"a")
        refusals = Refusals(*[errno.EBUSY] * 5)
        source = kernel.source(
            hold_open=hold_open, opener=refusals, monotonic=refusals.monotonic, retry=NEVER
        )
        async with aclosing(source.events(0)) as events:
            assert await batch(events) == [Chunk(b"a", 0), CaughtUp(1)]
            assert refusals.asked == 6

    async def test_a_writer_keeps_it(self, kernel: Securityfs, hold_open: bool) -> None:
        """It is told of once it has lasted, and the next one is as much of a moment as the first."""
        kernel.append(b"a")
        refusals = Refusals(pace=BUSY_PATIENCE_SECONDS / 4)
        source = kernel.source(hold_open=hold_open, opener=refusals, monotonic=refusals.monotonic)
        told = Unavailable(
            f"{kernel.list}: another process has the list open for writing, which trims it; "
            "reading goes on when it is closed"
        )
        refusals.numbers = [errno.EBUSY] * 9
        async with aclosing(source.events(0)) as events:
            assert await following(events) == told
            assert refusals.asked == 5
            assert await batch(events) == [Chunk(b"a", 0), CaughtUp(1)]
            assert refusals.asked == 10
            if hold_open:
                return  # it is not opened again
            refusals.numbers = [errno.EBUSY] * 4
            kernel.append(b"b")
            assert await batch(events) == [Chunk(b"b", 1), CaughtUp(2)]
            refusals.numbers = [errno.EBUSY] * 5
            kernel.append(b"c")
            assert await batch(events) == [told]
            assert await batch(events) == [Chunk(b"c", 2), CaughtUp(3)]

    async def test_patience_begins_anew_after_another_problem(self, kernel: Securityfs) -> None:
        kernel.append(b"a")
        refusals = Refusals(*[errno.EBUSY] * 4, errno.EIO, *[errno.EBUSY] * 4, pace=BUSY_PATIENCE_SECONDS / 4)
        source = kernel.source(str(kernel.list), opener=refusals, monotonic=refusals.monotonic)
        async with aclosing(source.events(0)) as events:
            assert await following(events) == Unavailable(f"{kernel.list}: Input/output error")
            assert refusals.asked == 5
            assert await batch(events) == [Chunk(b"a", 0), CaughtUp(1)]
            assert refusals.asked == 10

    @pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
    async def test_no_right_to_read(self, kernel: Securityfs, number: int) -> None:
        refusals = Refusals(*[number] * 8)
        async with aclosing(kernel.source(opener=refusals).events(0)) as events:
            assert await following(events) == Unavailable(
                f"{kernel.list}: not allowed to read the list; run as root or with CAP_DAC_READ_SEARCH, "
                "as the systemd unit dmimad.service does",
                lasting=True,
            )
            assert await batch(events) == [CaughtUp(0)]

    async def test_each_problem_is_told_once_and_its_end_too(self, kernel: Securityfs) -> None:
        kernel.append(b"abc")
        refusals = Refusals()
        async with aclosing(kernel.source(hold_open=False, opener=refusals).events(0)) as events:
            await batch(events)
            for _ in range(2):
                refusals.numbers = [errno.EIO] * 3 + [errno.ENODEV] * 3 + [errno.EIO]
                kernel.count_is(kernel.records + 1)
                assert [await following(events) for _ in range(4)] == [
                    Unavailable(f"{kernel.list}: Input/output error"),
                    Unavailable(f"{kernel.list}: No such device"),
                    Unavailable(f"{kernel.list}: Input/output error"),
                    CaughtUp(kernel.records),
                ]

    async def test_securityfs_is_not_mounted(self, tmp_path: Path) -> None:
        root = tmp_path / "security"
        root.mkdir()
        source = KernelList(securityfs=root, poll_interval_seconds=OFTEN, retry_interval_seconds=OFTEN)
        assert source.path is None
        async with aclosing(source.events(0)) as events:
            assert await following(events) == Unavailable(
                f"{root}/integrity/ima/binary_runtime_measurements: no such file: securityfs is not mounted; "
                f"mount it with: mount -t securityfs securityfs {root}",
                lasting=True,
            )
            kernel = Securityfs(root)
            kernel.append(b"a")
            assert await batch(events) == [Chunk(b"a", 0), CaughtUp(1)]
            assert source.path == kernel.list

    async def test_there_is_no_securityfs_at_all(self, tmp_path: Path) -> None:
        root = tmp_path / "security"
        async with aclosing(KernelList(securityfs=root).events(0)) as events:
            told = await following(events)
        assert isinstance(told, Unavailable)
        assert told.lasting
        assert told.problem.endswith(f"mount it with: mount -t securityfs securityfs {root}")

    async def test_no_ima(self, tmp_path: Path) -> None:
        (tmp_path / "lockdown").touch()
        source = KernelList(securityfs=tmp_path)
        async with aclosing(source.events(0)) as events:
            assert await following(events) == Unavailable(
                f"{tmp_path}/integrity/ima/binary_runtime_measurements: no such file: the running kernel has "
                "no IMA; boot one built with CONFIG_IMA=y, with ima_policy=critical_data",
                lasting=True,
            )

    async def test_a_path_that_is_not_there(self, kernel: Securityfs, tmp_path: Path) -> None:
        for path in (kernel.ima / "binary_runtime_measurements_sha3", tmp_path / "elsewhere"):
            async with aclosing(kernel.source(str(path)).events(0)) as events:
                assert await following(events) == Unavailable(
                    f"{path}: no such file; check source.path, or set it to auto",
                    lasting=True,
                )

    async def test_wake_tries_again_at_once(self, kernel: Securityfs) -> None:
        kernel.append(b"a")
        source = kernel.source(opener=Refusals(errno.EACCES, errno.EACCES), retry=NEVER)
        async with aclosing(source.events(0)) as events:
            assert isinstance(await following(events), Unavailable)
            more = asyncio.create_task(batch(events))
            await asyncio.sleep(0)
            source.wake()
            source.wake()
            assert await more == [Chunk(b"a", 0), CaughtUp(1)]

    async def test_a_failing_read_goes_on_where_it_was(self, kernel: Securityfs) -> None:
        """The first opening gives a descriptor that cannot be read."""
        openings = 0

        def opener(path: Path) -> int:
            nonlocal openings
            openings += 1
            return os.open(path, os.O_WRONLY if openings == 1 else os.O_RDONLY)

        kernel.append(b"abc")
        async with aclosing(kernel.source(opener=opener).events(1)) as events:
            assert await following(events) == Unavailable(f"{kernel.list}: Bad file descriptor")
            assert await batch(events) == [Chunk(b"bc", 1), CaughtUp(1)]

    async def test_what_was_read_before_a_read_failed_is_delivered(
        self, kernel: Securityfs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kernel.append(b"abcdef")
        results: list[bytes | int] = [b"abc", errno.EIO, errno.EIO]
        readv = os.readv

        def failing(descriptor: int, buffers: list[memoryview]) -> int:
            if not results:
                return readv(descriptor, buffers)
            result = results.pop(0)
            if isinstance(result, int):
                raise OSError(result, os.strerror(result))
            buffers[0][: len(result)] = result
            return len(result)

        monkeypatch.setattr(os, "readv", failing)
        async with aclosing(kernel.source().events(0)) as events:
            assert [await following(events) for _ in range(4)] == [
                Chunk(b"abc", 0),
                Unavailable(f"{kernel.list}: Input/output error"),
                Chunk(b"def", 3),
                CaughtUp(1),
            ]


class TestWithoutCount:
    async def test_each_poll_tries_to_read(self, kernel: Securityfs, hold_open: bool) -> None:
        kernel.count.unlink()
        kernel.list.write_bytes(b"a")
        async with aclosing(kernel.source(hold_open=hold_open).events(0)) as events:
            assert await batch(events) == [Chunk(b"a", 0), CaughtUp(None)]
            for number in range(1, 4):
                with kernel.list.open("ab") as file:
                    file.write(b"b")
                assert await batch(events) == [Chunk(b"b", number), CaughtUp(None)]

    async def test_wake(self, kernel: Securityfs, hold_open: bool) -> None:
        kernel.count.unlink()
        source = kernel.source(hold_open=hold_open, poll=NEVER)
        async with aclosing(source.events(0)) as events:
            assert await batch(events) == [CaughtUp(None)]
            more = asyncio.create_task(batch(events))
            await asyncio.sleep(0)
            kernel.list.write_bytes(b"a")
            source.wake()
            assert await more == [Chunk(b"a", 0), CaughtUp(None)]

    async def test_the_end_of_a_problem_is_told(self, kernel: Securityfs) -> None:
        kernel.count.unlink()
        refusals = Refusals()
        async with aclosing(kernel.source(hold_open=False, opener=refusals).events(0)) as events:
            assert await batch(events) == [CaughtUp(None)]
            refusals.numbers = [errno.EIO]
            assert isinstance(await following(events), Unavailable)
            assert await following(events) == CaughtUp(None)

    async def test_the_count_appears(self, kernel: Securityfs) -> None:
        kernel.count.unlink()
        async with aclosing(kernel.source().events(0)) as events:
            assert await batch(events) == [CaughtUp(None)]
            kernel.append(b"a", 7)
            found = await batch(events)
            while found[-1] == CaughtUp(None):  # the list is read before the count is there
                found += await batch(events)
            assert joined(found) == b"a"
            assert found[-1] == CaughtUp(7)

    @pytest.mark.parametrize("text", [b"", b"many\n", b"-3\n", b"9" * 31])
    async def test_what_the_count_file_may_say(self, kernel: Securityfs, text: bytes) -> None:
        kernel.count.write_bytes(text)
        kernel.list.write_bytes(b"a")
        count = 10**31 - 1 if text.startswith(b"9") else None
        async with aclosing(kernel.source().events(0)) as events:
            assert await batch(events) == [Chunk(b"a", 0), CaughtUp(count)]


class TestWhichList:
    async def test_auto_prefers_binary(self, kernel: Securityfs) -> None:
        kernel.ascii.write_bytes(b"10 ascii")
        kernel.append(b"binary")
        source = kernel.source()
        assert source.path is None
        async with aclosing(source.events(0)) as events:
            assert await batch(events) == [Chunk(b"binary", 0), CaughtUp(1)]
        assert source.path == kernel.list

    async def test_auto_takes_ascii_if_that_is_all_and_stays_with_it(self, kernel: Securityfs) -> None:
        kernel.list.unlink()
        kernel.ascii.write_bytes(b"10 ascii")
        source = kernel.source(hold_open=False)
        async with aclosing(source.events(0)) as events:
            assert await batch(events) == [Chunk(b"10 ascii", 0), CaughtUp(0)]
            assert source.path == kernel.ascii
            kernel.append(b"binary")
            kernel.ascii.write_bytes(b"10 ascii+")
            assert await batch(events) == [Chunk(b"+", 8), CaughtUp(1)]

    async def test_auto_does_not_take_ascii_while_binary_is_being_trimmed(self, kernel: Securityfs) -> None:
        kernel.ascii.write_bytes(b"10 ascii")
        kernel.append(b"binary")
        async with aclosing(kernel.source(opener=Refusals(errno.EBUSY)).events(0)) as events:
            assert await batch(events) == [Chunk(b"binary", 0), CaughtUp(1)]

    async def test_a_bank_of_its_own(self, kernel: Securityfs) -> None:
        path = kernel.ima / "binary_runtime_measurements_sha256"
        path.write_bytes(b"sha256")
        kernel.append(b"sha1", 5)
        source = kernel.source(str(path))
        assert source.path == path
        async with aclosing(source.events(0)) as events:
            assert await batch(events) == [Chunk(b"sha256", 0), CaughtUp(5)]

    def test_kernel_lists_are_told_from_files(self, tmp_path: Path) -> None:
        security = tmp_path / "security"
        (security / "integrity").mkdir(parents=True)
        (security / "ima").symlink_to("integrity")
        inside = security / "integrity" / "list"
        inside.touch()
        link = tmp_path / "link"
        link.symlink_to(inside)
        elsewhere = tmp_path / "list"
        elsewhere.touch()
        nothing = tmp_path / "mountinfo"
        nothing.touch()

        def kernels(path: Path | str) -> bool:
            return is_kernel_list(str(path), securityfs=security, mountinfo=nothing)

        assert kernels("auto")
        assert kernels(inside)
        assert kernels(security / "ima" / "list")
        assert kernels(security / "absent" / "list")
        assert kernels(link)
        assert kernels(security / "integrity" / ".." / "ima" / "list")
        assert not kernels(elsewhere)
        assert not kernels(security / ".." / "list")
        assert not kernels(tmp_path / "absent")
        assert not kernels(tmp_path / "security-not")
        assert not kernels("/tmp/\0")
        assert is_kernel_list("/sys/kernel/security/integrity/ima/ascii_runtime_measurements")
        assert not is_kernel_list(str(elsewhere))

    def test_a_securityfs_mounted_elsewhere(self, tmp_path: Path) -> None:
        mirror = tmp_path / "host" / "list"
        mirror.parent.mkdir()
        mirror.touch()
        device = mirror.stat().st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
        mountinfo = tmp_path / "mountinfo"

        def mounted(kind: str, which: str) -> bool:
            lines = [
                "22 1 0:1 / /proc rw - proc proc rw",
                f"30 22 {which} / /h rw shared:1 - {kind} none rw",
                "odd",
            ]
            mountinfo.write_text("\n".join(lines))
            return is_kernel_list(str(mirror), securityfs=tmp_path / "none", mountinfo=mountinfo)

        assert mounted("securityfs", number)
        assert not mounted("ext4", number)
        assert not mounted("securityfs", "0:0")
        mountinfo.unlink()
        assert not is_kernel_list(str(mirror), securityfs=tmp_path / "none", mountinfo=mountinfo)


class TestSeqFile:
    """Reads of about a page, and a position that the kernel finds by formatting everything before it."""

    SYMBOLS = Path("/proc/kallsyms")

    @pytest.fixture
    def symbols(self) -> bytes:
        if not self.SYMBOLS.exists():
            pytest.skip("this kernel shows no symbols")
        return self.SYMBOLS.read_bytes()

    def source(self, hold_open: bool = True) -> KernelList:
        return KernelList(str(self.SYMBOLS), poll_interval_seconds=OFTEN, hold_open=hold_open)

    async def test_all_of_it(self, symbols: bytes) -> None:
        async with aclosing(self.source().events(0)) as events:
            found = await batch(events)
        assert found[-1] == CaughtUp(None)
        assert joined(found) == symbols
        pieces = [len(event.data) for event in found if isinstance(event, Chunk)]
        assert pieces[:-1] == [READ_PIECE_BYTES] * (len(pieces) - 1)

    async def test_from_somewhere_within_a_line(self, symbols: bytes) -> None:
        start = len(symbols) // 2 + 7
        async with aclosing(self.source(hold_open=False).events(start)) as events:
            assert joined(await batch(events), start) == symbols[start:]

    async def test_beyond_its_end(self, symbols: bytes) -> None:
        async with aclosing(self.source().events(len(symbols) + 1)) as events:
            restarted, *found = await batch(events)
        assert restarted == Restarted("truncated")
        assert joined(found) == symbols


class TestTheLoop:
    async def test_a_long_read_does_not_stop_it(self, kernel: Securityfs) -> None:
        """The list is a FIFO here: a read waits until the loop, which therefore runs, writes."""
        kernel.list.unlink()
        os.mkfifo(kernel.list)
        rescued = threading.Event()

        def opener(path: Path) -> int:
            return os.open(path, os.O_RDWR)

        writer = os.open(kernel.list, os.O_RDWR)

        def rescue() -> None:
            rescued.set()
            os.write(writer, b"x" * READ_PIECE_BYTES)

        timer = threading.Timer(DEADLINE_SECONDS, rescue)  # or a failure would wait for ever
        timer.start()
        pipe_bytes = 4096
        async with aclosing(kernel.source(opener=opener).events(0)) as events:
            first = asyncio.create_task(following(events))
            for _ in range(READ_PIECE_BYTES // pipe_bytes):
                await asyncio.to_thread(os.write, writer, b"x" * pipe_bytes)
            assert await first == Chunk(b"x" * READ_PIECE_BYTES, 0)
        assert not rescued.is_set()
        timer.cancel()
        os.close(writer)

    async def test_cancelled_it_waits_for_the_read_and_closes_then(self, kernel: Securityfs) -> None:
        kernel.list.unlink()
        os.mkfifo(kernel.list)
        before = descriptors()
        opened: list[int] = []

        def opener(path: Path) -> int:
            opened.append(os.open(path, os.O_RDWR))
            return opened[-1]

        async def consume() -> None:
            async with aclosing(kernel.source(opener=opener).events(0)) as events:
                await anext(events)

        task = asyncio.create_task(consume())
        await asyncio.sleep(0)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
            assert str(kernel.list) in descriptors()
        os.write(opened[0], b"x")  # the read that is under way ends; no other begins
        async with asyncio.timeout(DEADLINE_SECONDS):
            with pytest.raises(asyncio.CancelledError):
                await task
        assert descriptors() == before

    @pytest.mark.parametrize("count", ["counted", "uncounted"])
    @pytest.mark.parametrize("size", [1, 3 * READ_PIECE_BYTES])
    async def test_no_descriptor_or_thread_is_left_after_cancellation(
        self, kernel: Securityfs, hold_open: bool, size: int, count: str
    ) -> None:
        before = descriptors()
        kernel.append(b"x" * size)
        if count == "uncounted":
            kernel.count.unlink()
        got = asyncio.Event()
        source = kernel.source(poll=NEVER, hold_open=hold_open)

        async def consume() -> None:
            async with aclosing(source.events(0)) as events:
                async for _ in events:
                    got.set()

        for _ in range(2):  # and it can be iterated again
            task = asyncio.create_task(consume())
            async with asyncio.timeout(DEADLINE_SECONDS):
                await got.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert descriptors() == before
            got.clear()
        for thread in threading.enumerate():
            if thread.name.startswith("ima-list"):
                await asyncio.to_thread(thread.join, DEADLINE_SECONDS)
                assert not thread.is_alive()

    async def test_an_error_that_is_no_system_error_is_not_hidden(self, kernel: Securityfs) -> None:
        def opener(_: Path) -> int:
            raise ZeroDivisionError

        async with aclosing(kernel.source(opener=opener).events(0)) as events:
            with pytest.raises(ZeroDivisionError):
                await following(events)


class TestPassedDescriptors:
    """What the service manager has opened for a daemon that may not open it."""

    @pytest.fixture
    def passed(self, kernel: Securityfs) -> Iterator[Passed]:
        """Of a list with one record; somewhere in it, for who knows who has read before."""
        kernel.append(b"a")
        found = Passed(open_read_only(kernel.list), open_read_only(kernel.count))
        os.lseek(found.list, 1, os.SEEK_SET)
        yield found
        for descriptor in (found.list, found.count):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def source(self, kernel: Securityfs, passed: Passed, **options: Any) -> KernelList:
        """One that is allowed nothing more: neither the list nor the count is where they are looked for."""
        options.setdefault("opener", Refusals(*[errno.EACCES] * 99))
        return KernelList(poll_interval_seconds=OFTEN, securityfs=kernel.root, passed=passed, **options)

    async def test_they_are_read_and_nothing_is_opened(self, kernel: Securityfs, passed: Passed) -> None:
        kernel.list.chmod(0)
        before = descriptors()
        refusals = Refusals(errno.EACCES)
        source = self.source(kernel, passed, opener=refusals)
        for _ in range(2):  # the daemon begins again where another list turns up
            async with aclosing(source.events(0)) as events:
                assert await batch(events) == [Chunk(b"a", 0), CaughtUp(1)]
        async with aclosing(source.events(1)) as events:
            assert await batch(events) == [CaughtUp(1)]
            kernel.append(b"b")
            assert await batch(events) == [Chunk(b"b", 1), CaughtUp(2)]
        assert refusals.asked == 0
        assert descriptors() == before
        assert source.path == kernel.list

    async def test_a_trimmed_list_is_rewound(self, kernel: Securityfs, passed: Passed) -> None:
        kernel.append(b"bc", 2)
        async with aclosing(self.source(kernel, passed).events(0)) as events:
            assert await batch(events) == [Chunk(b"abc", 0), CaughtUp(3)]
            kernel.trim(b"c", 1)
            assert await batch(events) == [Restarted("trimmed"), Chunk(b"c", 0), CaughtUp(1)]

    async def test_shorter_than_the_start(self, kernel: Securityfs, passed: Passed) -> None:
        async with aclosing(self.source(kernel, passed).events(9)) as events:
            assert await batch(events) == [Restarted("truncated"), Chunk(b"a", 0), CaughtUp(1)]

    async def test_without_the_count_it_is_looked_at_all_the_same(
        self, kernel: Securityfs, passed: Passed
    ) -> None:
        kernel.count.unlink()
        async with aclosing(self.source(kernel, Passed(passed.list)).events(0)) as events:
            assert await batch(events) == [Chunk(b"a", 0), CaughtUp(None)]
            with kernel.list.open("ab") as file:
                file.write(b"b")
            assert await batch(events) == [Chunk(b"b", 1), CaughtUp(None)]

    async def test_without_the_list_it_is_opened(self, kernel: Securityfs, passed: Passed) -> None:
        opened = self.source(kernel, Passed(count=passed.count), opener=kernel.opener)
        kernel.count.unlink()
        async with aclosing(opened.events(0)) as events:
            assert await batch(events) == [Chunk(b"a", 0), CaughtUp(1)]
        assert kernel.openings == [kernel.list]

    async def test_others_may_trim_only_if_it_is_not_kept_open(
        self, kernel: Securityfs, passed: Passed
    ) -> None:
        source = self.source(kernel, passed, hold_open=False)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(passed.list)
        async with aclosing(source.events(0)) as events:
            (told,) = await batch(events)
        assert isinstance(told, Unavailable)
        assert told.lasting
        assert told.problem == (
            f"{kernel.list}: not allowed to open the list, which source.hold_open = false asks for again and "
            "again; give the daemon CAP_DAC_READ_SEARCH, as dmimad.service does without its drop-in "
            "10-systemd-253.conf, or set source.hold_open to true"
        )

    async def test_of_another_list_than_the_settings_name(self, kernel: Securityfs, passed: Passed) -> None:
        kernel.ascii.write_bytes(b"10 abc\n")
        source = self.source(kernel, passed, path=str(kernel.ascii), opener=kernel.opener)
        async with aclosing(source.events(0)) as events:
            assert await batch(events) == [Chunk(b"10 abc\n", 0), CaughtUp(1)]

    async def test_of_the_list_the_settings_name(self, kernel: Securityfs, passed: Passed) -> None:
        """Also by another name: from 6.10 on the plain name is a link."""
        other = kernel.ima / "binary_runtime_measurements_sha1"
        other.symlink_to(kernel.list)
        async with aclosing(self.source(kernel, passed, path=str(other)).events(0)) as events:
            assert await batch(events) == [Chunk(b"a", 0), CaughtUp(1)]


class TestTurns:
    """What shows that it gets on."""

    async def test_each_look_and_each_wait_is_one(self, kernel: Securityfs, hold_open: bool) -> None:
        source = kernel.source(hold_open=hold_open)
        assert source.turns == 0
        async with aclosing(source.events(0)) as events:
            await batch(events)
            waiting = asyncio.create_task(batch(events))
            await grown(source, 20)  # nothing is new
            kernel.append(b"a")
            await waiting
        await asyncio.sleep(0)
        still = source.turns
        assert still > 20
        await asyncio.sleep(0)
        assert source.turns == still, "nobody iterates"

    async def test_a_list_that_cannot_be_read_is_one_that_is_tried(self, kernel: Securityfs) -> None:
        source = kernel.source(opener=Refusals(*[errno.EACCES] * 1000))
        async with aclosing(source.events(0)) as events:
            await batch(events)
            waiting = asyncio.create_task(batch(events))
            await grown(source, 20)
            waiting.cancel()
            await asyncio.wait([waiting])

    async def test_a_long_wait_is_cut_into_turns(
        self, kernel: Securityfs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(count, "MAX_SLEEP_SECONDS", OFTEN)
        source = kernel.source(poll=NEVER)
        async with aclosing(source.events(0)) as events:
            await batch(events)
            waiting = asyncio.create_task(batch(events))
            await grown(source, 20)
            kernel.append(b"a")
            source.wake()
            assert await waiting == [Chunk(b"a", 0), CaughtUp(1)]

    async def test_and_so_is_a_long_pause(self, kernel: Securityfs, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(count, "MAX_SLEEP_SECONDS", OFTEN)
        refusals = Refusals(errno.EACCES, errno.EACCES)
        source = kernel.source(poll=NEVER, retry=NEVER, opener=refusals)
        async with aclosing(source.events(0)) as events:
            await batch(events)
            waiting = asyncio.create_task(batch(events))
            await grown(source, 20)
            assert refusals.asked == 2, "both lists, once"
            source.wake()
            assert await waiting == [CaughtUp(0)]

    async def test_who_holds_up_what_was_read_holds_up_the_turns(self, kernel: Securityfs) -> None:
        source = kernel.source()
        kernel.append(b"a")
        async with aclosing(source.events(0)) as events:
            await following(events)
            still = source.turns
            await asyncio.to_thread(kernel.append, b"b")
            assert source.turns == still


async def grown(source: KernelList, turns: int) -> None:
    """Until it has made so many more turns; nothing tells of one."""
    until = source.turns + turns
    async with asyncio.timeout(DEADLINE_SECONDS):
        while source.turns < until:  # noqa: ASYNC110  # see above
            await asyncio.sleep(OFTEN)
