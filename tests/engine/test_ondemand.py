"""Opened when used, closed when idle: never twice, never under anybody's feet."""

import asyncio
import threading

import pytest

from engine.ondemand import OnDemand, Retired
from engine.threads import Threads, until_done


class Counted:
    """Opens numbers, slowly, and remembers what was open at the same time."""

    def __init__(self) -> None:
        self.opened = 0
        self.open_now: set[int] = set()
        self.fails = False

    async def open(self) -> int:
        await asyncio.sleep(0)
        if self.fails:
            raise ValueError("no")
        self.opened += 1
        assert not self.open_now
        self.open_now.add(self.opened)
        return self.opened

    async def close(self, number: int) -> None:
        await asyncio.sleep(0)
        self.open_now.remove(number)


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
def demand(counted: Counted) -> OnDemand[int]:
    return OnDemand(counted.open, counted.close)


async def use(demand: OnDemand[int], turns: int = 3) -> int:
    async with demand.used() as number:
        for _ in range(turns):
            await asyncio.sleep(0)
            assert demand.is_used
        return number


async def test_many_users_share_one(demand: OnDemand[int], counted: Counted) -> None:
    assert set(await asyncio.gather(*(use(demand) for _ in range(20)))) == {1}
    assert counted.opened == 1
    assert not demand.is_used


async def test_used_things_are_not_closed(demand: OnDemand[int]) -> None:
    async with demand.used():
        assert not await demand.close_if_unused()
    assert await demand.close_if_unused()
    assert demand.current is None


async def test_closing_waits_for_those_inside(demand: OnDemand[int], counted: Counted) -> None:
    users = [asyncio.create_task(use(demand, 10)) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    async with demand.closed():
        assert all(user.done() for user in users)
        assert not counted.open_now
        late = asyncio.create_task(use(demand))
        await asyncio.sleep(0)
        assert not late.done()
    assert await late == 2


async def test_opening_that_fails_is_tried_again(demand: OnDemand[int], counted: Counted) -> None:
    counted.fails = True
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            await use(demand)
    counted.fails = False
    assert await use(demand) == 1
    assert not demand.is_used


async def test_a_cancelled_user_leaves_nothing(demand: OnDemand[int]) -> None:
    users = [asyncio.create_task(use(demand, 1000)) for _ in range(4)]
    await asyncio.sleep(0)
    users[0].cancel()  # while it is opened for all
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    users[1].cancel()  # while inside
    await asyncio.wait(users[:2])
    users[2].cancel()
    users[3].cancel()
    await asyncio.wait(users)
    assert not demand.is_used
    assert await demand.close_if_unused()


async def test_retired_is_for_good(demand: OnDemand[int], counted: Counted) -> None:
    user = asyncio.create_task(use(demand, 10))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await demand.retire()
    assert user.done()
    assert demand.is_retired
    with pytest.raises(Retired):
        await use(demand)
    assert not counted.open_now
    await demand.retire()


async def test_a_user_who_waits_when_it_is_retired_is_told(demand: OnDemand[int]) -> None:
    async with demand.closed():
        user = asyncio.create_task(use(demand))
        retiring = asyncio.create_task(demand.retire())
        await asyncio.sleep(0)
    await retiring
    with pytest.raises(Retired):
        await user


async def test_work_on_a_thread_is_waited_for_when_cancelled() -> None:
    """The cancellation goes on when the thread is through, however often it is repeated."""
    threads = Threads("work", 1)
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    done = False

    def work() -> int:
        nonlocal done
        loop.call_soon_threadsafe(begun.set)
        go_on.wait()
        done = True
        return 7

    calling = asyncio.create_task(threads.call(work))
    await begun.wait()
    for _ in range(3):
        calling.cancel()
        await asyncio.sleep(0)
    assert not calling.done()
    go_on.set()
    await asyncio.wait([calling])
    assert calling.cancelled()
    assert done
    assert await threads.call(lambda: 8) == 8
    threads.close()


async def test_work_that_can_be_stopped_is_asked_until_it_ends() -> None:
    threads = Threads("work", 1)
    asked = threading.Event()
    times = 0

    def stop() -> None:
        nonlocal times
        times += 1
        if times == 3:
            asked.set()

    waiting = asyncio.create_task(until_done(threads.start(asked.wait), stop=stop))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert times == 3
    threads.close()


async def test_an_opening_goes_on_when_its_user_is_cancelled() -> None:
    """Nothing half open is left behind by a client that hangs up; the next user finds it open."""
    may_open = asyncio.Event()
    opened: list[str] = []

    async def open_it() -> str:
        await may_open.wait()
        opened.append("open")
        return "open"

    async def close_it(thing: str) -> None:
        opened.remove(thing)

    demand = OnDemand(open_it, close_it)

    async def use() -> None:
        async with demand.used():
            raise AssertionError("cancelled before it was open")

    user = asyncio.create_task(use())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    user.cancel()
    await asyncio.sleep(0)
    assert not user.done()  # it waits for the opening, which no one else knows of
    may_open.set()
    await asyncio.wait([user])
    assert user.cancelled()
    assert demand.current == "open"
    async with demand.used():
        assert opened == ["open"]  # once
    await demand.retire()
    assert not opened


async def test_a_closing_goes_on_when_it_is_cancelled() -> None:
    """Whoever is let in next finds it closed whole, and opens it anew."""
    may_close = asyncio.Event()
    count = [0, 0]

    async def open_it() -> str:
        count[0] += 1
        return "open"

    async def close_it(_thing: str) -> None:
        await may_close.wait()
        count[1] += 1

    demand = OnDemand(open_it, close_it)
    async with demand.used():
        pass
    closing = asyncio.create_task(demand.close_if_unused())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    closing.cancel()
    may_close.set()
    async with demand.used():
        assert count == [2, 1]
