"""The bound on open databases: at every moment, and never in the way of those in use."""

import asyncio
from contextlib import AsyncExitStack

import pytest

import engine.openings
from engine.errors import DatabaseClosed
from engine.ondemand import OnDemand
from engine.openings import Openings


class Shelf:
    """Things that are opened with a place, and how many were open at the same time."""

    def __init__(self, open_max: int) -> None:
        self.openings = Openings(open_max)
        self.open_now = 0
        self.most = 0
        self.demands: list[OnDemand[int]] = []

    def add(self) -> OnDemand[int]:
        """One more thing that can be opened."""
        number = len(self.demands)

        async def open_it() -> int:
            async with self.openings.place(demand):
                self.open_now += 1
                self.most = max(self.most, self.open_now)
                await asyncio.sleep(0)
            return number

        async def close_it(_number: int) -> None:
            await asyncio.sleep(0.001)
            self.open_now -= 1
            self.openings.give_back(demand)

        demand: OnDemand[int] = OnDemand(open_it, close_it)
        self.demands.append(demand)
        return demand


async def use(demand: OnDemand[int], seconds: float = 0.0) -> int:
    async with demand.used() as number:
        await asyncio.sleep(seconds)
        return number


async def test_the_one_unused_for_longest_makes_room() -> None:
    shelf = Shelf(3)
    for _ in range(5):
        shelf.add()
    for number in (0, 1, 2, 0, 3):
        assert await use(shelf.demands[number]) == number
    open_ones = [number for number, one in enumerate(shelf.demands) if one.current is not None]
    assert open_ones == [0, 2, 3]
    assert len(shelf.openings) == 3


async def test_never_more_than_the_bound() -> None:
    """Many at once: each gets its turn, no more than the bound are open at any moment."""
    shelf = Shelf(4)
    for _ in range(40):
        shelf.add()
    numbers = await asyncio.gather(*(use(one, 0.001) for one in shelf.demands))
    assert list(numbers) == list(range(40))
    assert shelf.most == 4


async def test_those_in_use_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.openings, "_WAIT_S", 0.005)
    shelf = Shelf(2)
    for _ in range(3):
        shelf.add()
    async with AsyncExitStack() as stack:
        for number in range(2):
            await stack.enter_async_context(shelf.demands[number].used())
        with pytest.raises(DatabaseClosed, match="2 databases are open"):
            await use(shelf.demands[2])
        waiting = asyncio.create_task(use(shelf.demands[2]))
        await asyncio.sleep(0.02)
        assert not waiting.done()
    assert await waiting == 2
    assert shelf.most == 2


async def test_an_opening_that_fails_gives_its_place_back() -> None:
    openings = Openings(1)

    async def failing() -> int:
        async with openings.place(demand):
            raise ValueError("no")

    async def never(_number: int) -> None:
        raise AssertionError

    demand: OnDemand[int] = OnDemand(failing, never)
    for _ in range(3):
        with pytest.raises(ValueError, match="no"):
            await use(demand)
    assert len(openings) == 0
