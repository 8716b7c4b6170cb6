"""Reads that wait: woken by exactly their commit, and never in anybody's way."""

import asyncio
import random

import pytest

from replica.errors import TooManyWaiters
from replica.waiter import TokenWaiter


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_commit_that_is_there_needs_no_wait() -> None:
    waiter = TokenWaiter(5, waiters_max=0)
    await waiter.wait_applied(5)
    await waiter.wait_applied(1)
    with pytest.raises(TooManyWaiters):
        await waiter.wait_applied(6)


async def test_exactly_those_wake_whose_commit_is_there() -> None:
    waiter = TokenWaiter(0)
    order = list(range(1, 101)) * 2
    random.Random(1).shuffle(order)
    waits = {
        index: asyncio.create_task(waiter.wait_applied(seq)) for index, seq in enumerate(order)
    }
    await settle()
    assert waiter.waiting == 200
    for applied in (1, 2, 50, 99, 100):
        waiter.advance(applied)
        await settle()
        for index, seq in enumerate(order):
            assert waits[index].done() == (seq <= applied)
    assert waiter.waiting == 0
    await asyncio.gather(*waits.values())


async def test_cancelled_read_gives_up_its_place() -> None:
    """A client that hangs up must not keep one of the `waiters_max` places.

    Method: fill the only place, cancel that read, then show that a second read
    gets the place and is woken by the commit it asked for.
    """
    waiter = TokenWaiter(6, waiters_max=1)
    first = asyncio.create_task(waiter.wait_applied(7))
    await settle()
    with pytest.raises(TooManyWaiters):
        await waiter.wait_applied(7)
    first.cancel()
    await asyncio.wait([first])

    second = asyncio.create_task(waiter.wait_applied(7))
    await settle()
    assert not second.done()
    waiter.advance(7)
    await second
    assert waiter.waiting == 0


async def test_cancelled_reads_leave_no_memory_behind() -> None:
    """A bookmark that never comes, asked for over and over by clients that hang up."""
    waiter = TokenWaiter(0)
    patient = asyncio.create_task(waiter.wait_applied(10))
    for _ in range(50):
        waits = [asyncio.create_task(waiter.wait_applied(1_000)) for _ in range(20)]
        await settle()
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
    assert len(waiter._heap) < 100
    waiter.advance(10)
    await patient


async def test_a_read_cancelled_in_the_moment_of_its_commit() -> None:
    waiter = TokenWaiter(0)
    read = asyncio.create_task(waiter.wait_applied(1))
    other = asyncio.create_task(waiter.wait_applied(1))
    await settle()
    waiter.advance(1)
    read.cancel()
    await asyncio.wait([read, other])
    assert read.cancelled()
    assert other.exception() is None
    assert waiter.waiting == 0


async def test_applied_never_goes_back_but_by_a_reset() -> None:
    waiter = TokenWaiter(9)
    with pytest.raises(AssertionError):
        waiter.advance(8)
    waiter.reset(4)
    assert waiter.applied == 4
    read = asyncio.create_task(waiter.wait_applied(6))
    await settle()
    assert not read.done()
    waiter.reset(7)
    await read
    assert waiter.applied == 7
