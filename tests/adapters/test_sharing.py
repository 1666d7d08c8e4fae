"""Documents that are made one at a time, with pauses, and shared by those who wait for the same one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from dmimad.adapters.control.sharing import REST, Sharing
from dmimad.core.errors import AdapterError

DEADLINE_SECONDS = 10.0


class Clock:
    """It goes on while a document is made, and at no other time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.made: list[str] = []

    def __call__(self) -> float:
        return self.now

    def making(self, name: str, seconds: float = 0.0) -> Callable[[], str]:
        def make() -> str:
            self.now += seconds
            self.made.append(name)
            return f"{name} {len(self.made)}"

        return make


async def test_those_who_wait_for_the_same_share_it_and_others_have_their_turn() -> None:
    clock = Clock()
    sharing: Sharing[str] = Sharing(clock)
    async with asyncio.timeout(DEADLINE_SECONDS):
        found = await asyncio.gather(
            *(sharing.fresh(name, clock.making(name)) for name in ("a", "b", "a", "c", "b", "a"))
        )
        assert found == ["a 1", "b 2", "a 1", "c 3", "b 2", "a 1"]
        assert await sharing.fresh("a", clock.making("a")) == "a 4"


async def test_the_rest_is_that_of_all_together() -> None:
    clock = Clock()
    sharing: Sharing[str] = Sharing(clock)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await sharing.fresh("a", clock.making("a", 60.0))
        other = asyncio.create_task(sharing.fresh("b", clock.making("b")))
        for _ in range(10):
            await asyncio.sleep(0)
        assert clock.made == ["a"]
        assert sharing._rest_until == 1060.0 + REST * 60.0
        sharing.stop()
        assert await other == "b 2"


async def test_what_is_awaited_is_made_alone_too() -> None:
    clock = Clock()
    sharing: Sharing[str] = Sharing(clock)
    done = asyncio.Event()

    async def make() -> str:
        await done.wait()
        return clock.making("a", 60.0)()

    async with asyncio.timeout(DEADLINE_SECONDS):
        first = asyncio.create_task(sharing.fresh("a", make))
        other = asyncio.create_task(sharing.fresh("b", clock.making("b")))
        for _ in range(10):
            await asyncio.sleep(0)
        assert clock.made == []
        done.set()
        assert await first == "a 1"
        assert sharing._rest_until == 1060.0 + REST * 60.0
        sharing.stop()
        assert await other == "b 2"


async def test_what_goes_wrong_is_told_to_all_who_wait_and_the_next_one_tries_again() -> None:
    clock = Clock()
    sharing: Sharing[str] = Sharing(clock)

    def fail() -> str:
        raise AdapterError("no", "here")

    async with asyncio.timeout(DEADLINE_SECONDS):
        found = await asyncio.gather(*(sharing.fresh("a", fail) for _ in range(3)), return_exceptions=True)
        assert [str(error) for error in found] == ["here: no"] * 3
        assert await sharing.fresh("a", clock.making("a")) == "a 1"


async def test_who_asked_first_may_go() -> None:
    clock = Clock()
    sharing: Sharing[str] = Sharing(clock)
    first = asyncio.create_task(sharing.fresh("a", clock.making("a")))
    second = asyncio.create_task(sharing.fresh("a", clock.making("other")))
    await asyncio.sleep(0)
    first.cancel()
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await second == "a 1"
        with pytest.raises(asyncio.CancelledError):
            await first
