"""A long snapshot is of one commit, which is durable when anybody hears of it."""

import asyncio
from pathlib import Path

import pytest

from primary.errors import WriteUnknown
from primary.snapshot import snapshot_at
from proto.api import SqlValue
from proto.tokens import Bookmark
from tests.engine.gated_disk import GatedDisk
from tests.primary.opened_primary import PrimaryUnderTest, opened_primary, turns
from tests.waiting import until

COUNT = "SELECT count(*) FROM t"


async def taken(made: PrimaryUnderTest) -> tuple[list[tuple[SqlValue, ...]], Bookmark]:
    """What a snapshot sees, and the bookmark that it is told."""
    async with (
        made.database.demand.used() as opened,
        snapshot_at(opened) as (reader, seen),
    ):
        return reader.sandbox.execute_internal(COUNT), seen


async def test_it_is_given_when_what_it_sees_is_durable(tmp_path: Path) -> None:
    disk = GatedDisk()
    async with opened_primary(tmp_path / "db", disk) as made:
        opened = await made.open()
        with disk.syncs_held():
            write = asyncio.create_task(made.write("INSERT INTO t VALUES (1)"))
            await until(lambda: disk.held == 1, "the write's sync")
            taking = asyncio.create_task(taken(made))
            await until(lambda: opened.reads.has_snapshots, "the snapshot")
            await turns()
            assert not taking.done()
        assert await taking == ([(1,)], (await write).bookmark)


async def test_it_is_not_given_of_what_is_undone(tmp_path: Path) -> None:
    disk = GatedDisk()
    async with opened_primary(tmp_path / "db", disk) as made:
        opened = await made.open()
        with disk.syncs_held():
            write = asyncio.create_task(made.write("INSERT INTO t VALUES (1)"))
            await until(lambda: disk.held == 1, "the write's sync")
            taking = asyncio.create_task(taken(made))
            await until(lambda: opened.reads.has_snapshots, "the snapshot")
            disk.fail_syncs(1)
        for task in (write, taking):
            with pytest.raises(WriteUnknown):
                await task
        assert not opened.live.readers_out
        assert (await taken(made))[0] == [(0,)]


async def test_it_ends_with_its_block(tmp_path: Path) -> None:
    """The reader goes back without a transaction: the next one sees what is new."""
    async with opened_primary(tmp_path / "db") as made:
        for number in range(5):
            assert (await taken(made))[0] == [(number,)]
            opened = await made.open()
            async with opened.reads.snapshot() as reader:
                assert not reader.sandbox.connection.in_transaction
            await made.write("INSERT INTO t VALUES (1)")
