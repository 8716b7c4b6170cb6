"""Reads of a live database: short ones inline, long ones on threads, all stopped when asked."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.errors import BudgetExceeded, DatabaseClosed, DeadlineExceeded, StatementRefused
from engine.files import Disk
from engine.live import POOL_READERS_MAX, LiveDatabase
from engine.reads import Reads
from engine.transaction import Step, steps_of
from proto.api import Statement, StatementResult
from tests.primary.opened_primary import PrimaryUnderTest, opened_primary, turns
from tests.waiting import until

FOREVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
LONG = FOREVER.replace("FROM n) SELECT", "FROM n WHERE i < 100000) SELECT")


def steps(*texts: str) -> list[Step]:
    return steps_of([Statement(text) for text in texts])


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[PrimaryUnderTest]:
    async with opened_primary(tmp_path / "db", deadline_s=20.0) as made:
        yield made


@pytest.fixture
async def reads(made: PrimaryUnderTest) -> Reads:
    return (await made.open()).reads


async def test_a_read_over_its_budget_goes_on_on_a_thread(reads: Reads) -> None:
    with pytest.raises(BudgetExceeded):
        reads.now(steps(LONG))
    assert (await reads.run(steps(LONG)))[0].rows == [(100_000,)]


async def test_the_loop_goes_on_meanwhile(reads: Reads) -> None:
    slow = asyncio.create_task(reads.run(steps(FOREVER)))
    for _ in range(20):
        assert reads.now(steps("SELECT count(*) FROM t"))[0].rows == [(0,)]
        await asyncio.sleep(0)
    assert not slow.done()
    slow.cancel()
    await asyncio.wait([slow])


async def test_a_read_past_its_deadline_is_stopped(tmp_path: Path) -> None:
    async with opened_primary(tmp_path / "db", deadline_s=2.0) as made:
        reads = (await made.open()).reads
        with pytest.raises(DeadlineExceeded, match="2 s"):
            await reads.run(steps(FOREVER))


async def test_a_cancelled_read_is_stopped_at_once(made: PrimaryUnderTest, reads: Reads) -> None:
    """Its thread and its connection are free again, long before the deadline."""
    opened = await made.open()
    read = asyncio.create_task(reads.on_thread(steps(FOREVER)))
    await turns()
    assert opened.live.readers_out == 1
    read.cancel()
    async with asyncio.timeout(10.0):
        await asyncio.wait([read])
    assert read.cancelled()
    assert opened.live.readers_out == 0
    assert (await reads.on_thread(steps("SELECT 1")))[0].rows == [(1,)]


async def test_places_on_threads_are_bounded(made: PrimaryUnderTest, reads: Reads) -> None:
    def reading(sql: str) -> list[asyncio.Task[list[StatementResult]]]:
        return [asyncio.create_task(reads.on_thread(steps(sql))) for _ in range(POOL_READERS_MAX)]

    opened = await made.open()
    endless, behind = reading(FOREVER), reading(LONG)
    await until(lambda: opened.live.readers_out == POOL_READERS_MAX, "all places taken")
    await turns()
    assert opened.live.readers_out == POOL_READERS_MAX
    assert not any(read.done() for read in behind)
    for read in endless:
        read.cancel()
    await asyncio.wait(endless)
    assert {(await read)[0].rows[0] for read in behind} == {(100_000,)}


async def test_a_refused_statement_gives_its_place_back(
    made: PrimaryUnderTest, reads: Reads
) -> None:
    for _ in range(2 * POOL_READERS_MAX):
        with pytest.raises(StatementRefused):
            await reads.on_thread(steps("SELECT * FROM nowhere"))
    assert (await made.open()).live.readers_out == 0


async def test_while_the_gate_is_held_nobody_is_inside(reads: Reads) -> None:
    """Who is inside leaves first; who comes waits; inline reads need no gate."""
    inside = asyncio.create_task(reads.on_thread(steps(LONG)))
    await turns()
    entered = asyncio.Event()
    release = asyncio.Event()

    async def hold() -> None:
        async with reads.held():
            assert inside.done()
            entered.set()
            await release.wait()

    holding = asyncio.create_task(hold())
    await entered.wait()
    later = asyncio.create_task(reads.on_thread(steps("SELECT 1")))
    await turns()
    assert not later.done()
    assert reads.now(steps("SELECT 1"))[0].rows == [(1,)]
    release.set()
    assert (await later)[0].rows == [(1,)]
    await holding


async def test_whoever_gives_up_holding_the_gate_opens_it(reads: Reads) -> None:
    """A checkpoint that is cancelled while it waits, or fails, must not end all reads."""

    async def hold() -> None:
        async with reads.held():
            raise AssertionError("somebody is inside")

    async with reads.inside():
        holding = asyncio.create_task(hold())
        await turns()
        holding.cancel()
        await asyncio.wait([holding])
    assert (await reads.on_thread(steps("SELECT 1")))[0].rows == [(1,)]
    with pytest.raises(OSError, match="no room"):
        async with reads.held():
            raise OSError("no room")
    assert (await reads.on_thread(steps("SELECT 1")))[0].rows == [(1,)]


async def test_finishing_waits_for_those_inside_and_lets_nobody_in(reads: Reads) -> None:
    inside = asyncio.create_task(reads.on_thread(steps(LONG)))
    queued = [asyncio.create_task(reads.on_thread(steps(LONG))) for _ in range(POOL_READERS_MAX)]
    await turns()
    await reads.finish()
    assert inside.done()
    with pytest.raises(DatabaseClosed):
        await reads.on_thread(steps("SELECT 1"))
    done = await asyncio.gather(*queued, return_exceptions=True)
    assert isinstance(done[-1], DatabaseClosed)


class ClosingOrder(Disk):
    """Notes which connections are open when the descriptor of the database is closed."""

    live: LiveDatabase | None = None
    left: int | None = None

    def close(self, fd: int) -> None:
        live = self.live
        if live is not None and fd == live.files.db_fd:
            self.left = len(live._connections) + len(live._idle_readers)
        super().close(fd)


async def test_descriptors_are_closed_after_the_last_connection(tmp_path: Path) -> None:
    """Or SQLite's locks would go with the first of them, under whoever still reads."""
    disk = ClosingOrder()
    async with opened_primary(tmp_path / "db", disk) as made:
        opened = await made.open()
        await opened.reads.on_thread(steps("SELECT 1"))
        disk.live = opened.live
        await made.close()
        assert disk.left == 0


async def test_a_connection_that_cannot_be_opened_takes_no_place(
    made: PrimaryUnderTest, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many descriptors, say: later reads, and closing, are as ever."""
    opened = await made.open()

    def refuse(*_arguments: object) -> None:
        raise OSError(24, "too many open files")

    with monkeypatch.context() as patched:
        patched.setattr("engine.live.SqlConnection.reader", refuse)
        for _ in range(POOL_READERS_MAX + 1):
            with pytest.raises(OSError, match="too many"):
                await reads.on_thread(steps("SELECT 1"))
    assert opened.live.readers_out == 0
    assert (await reads.on_thread(steps("SELECT 1")))[0].rows == [(1,)]
    await made.close()
