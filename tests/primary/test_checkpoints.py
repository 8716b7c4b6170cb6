"""When the WAL is moved into the file: never ahead of the log."""

import asyncio
import contextlib
import threading
import time
from pathlib import Path

import apsw
import pytest

import primary.committer
from engine.errors import DatabaseDamaged
from engine.files import Disk
from engine.live import Checkpointed, LiveDatabase
from engine.recovery import DB_NAME, read_base
from tests.engine.synced_disk import SyncedDisk
from tests.primary.opened_primary import opened_primary
from tests.waiting import until


class SlowDisk(Disk):
    """Its syncs take so long that writes collect behind every one."""

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        time.sleep(0.005)


async def test_a_checkpoint_moves_only_what_the_log_holds_durably(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page in the file that no durable commit has could never be taken back after a crash.

    Method: writes arrive all the time on a slow disk, a checkpoint follows every few frames, and
    the log's state is noted as each one begins.
    """
    monkeypatch.setattr(primary.committer, "CHECKPOINT_FRAMES", 20)
    async with opened_primary(tmp_path / "db", SlowDisk()) as made:
        opened = await made.open()
        begun: list[bool] = []
        checkpoint = LiveDatabase.checkpoint

        def noted(self: LiveDatabase, *, restart: bool = False) -> Checkpointed:
            begun.append(opened.log.durable == opened.log.head)
            return checkpoint(self, restart=restart)

        monkeypatch.setattr(LiveDatabase, "checkpoint", noted)

        writes = []
        for number in range(200):
            writes.append(asyncio.create_task(made.write("INSERT INTO t VALUES (?)", number)))
            await asyncio.sleep(0.001)  # some of them run while others are being synced
        await asyncio.gather(*writes)
    assert len(begun) > 3
    assert all(begun)


async def test_nothing_has_its_place_before_it_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base that is newer than the synced file would be believed after a power cut.

    Method: a database is made, filled until its base advances beside the writes, rebuilt, closed
    and opened again, on a disk that knows what is synced.
    """
    monkeypatch.setattr(primary.committer, "CHECKPOINT_FRAMES", 20)
    monkeypatch.setattr(primary.committer, "BASE_LOG_BYTES", 100_000)
    disk = SyncedDisk()
    async with opened_primary(tmp_path / "new" / "db", disk) as made:
        opened = await made.open()
        created = opened.live.base
        filled = 0
        while opened.live.base == created:
            await made.write("INSERT INTO t VALUES (zeroblob(9000))")
            filled += 1
        bases = disk.bases
        opened.committer.give_up(DatabaseDamaged("the test says so"))
        assert await made.read("SELECT count(*) FROM t") == [(filled,)]
        assert disk.bases > bases, "recovery wrote one"
        await made.write("INSERT INTO t VALUES (1)")
        await made.reopen()
        assert await made.read("SELECT count(*) FROM t") == [(filled + 1,)]
    assert not disk.late
    assert not disk.unsynced_folders


class SlowBase(Disk):
    """A disk on which the database's file is synced when the test wants."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.is_held = False
        self.database = -1

    def fsync(self, fd: int) -> None:
        if fd == self.database:
            self.is_held = True
            self.gate.wait()
        super().fsync(fd)


@pytest.mark.parametrize("is_pinned", [False, True])
async def test_a_log_is_trimmed_up_to_the_base_and_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_pinned: bool
) -> None:
    """The file cannot be patched with commits that are gone, nor a copy that is under way.

    Method: many segments are written while the base advances, in a log that keeps no more than it
    must.
    """
    monkeypatch.setattr(primary.committer, "CHECKPOINT_FRAMES", 20)
    monkeypatch.setattr(primary.committer, "BASE_LOG_BYTES", 100_000)
    disk = SlowBase()
    async with opened_primary(tmp_path / "db", disk, log_bytes_max=1) as made:
        opened = await made.open()
        disk.database = opened.live.files.db_fd
        disk.gate.clear()
        first = opened.live.base
        tail = opened.log.tail
        with made.database.pinned(tail) if is_pinned else contextlib.nullcontext():
            while not disk.is_held:
                await made.write("INSERT INTO t VALUES (zeroblob(9000))")
            for _ in range(40):
                await made.write("INSERT INTO t VALUES (zeroblob(9000))")
            disk.gate.set()
            await until(
                lambda: opened.live.base != first and opened.committer._advancing is None,
                "a base that has advanced",
            )
            assert opened.log.tail.seq <= opened.live.base.position.seq
            assert (opened.log.tail == tail) is is_pinned
        disk.database = -1


async def test_a_base_is_not_advanced_over_the_reader_of_another_program(tmp_path: Path) -> None:
    """It keeps the WAL from the file, and the WAL is thrown away: the log must be patched in."""
    async with opened_primary(tmp_path / "db") as made:
        await made.write("INSERT INTO t VALUES (1)")
        base = (await made.open()).live.base
        other = apsw.Connection(str(made.folder / DB_NAME), flags=apsw.SQLITE_OPEN_READONLY)
        other.execute("BEGIN")
        assert other.execute("SELECT count(*) FROM t").fetchall() == [(1,)]
        await made.write("INSERT INTO t VALUES (2)")
        await made.close()
        assert read_base(made.folder, made.key, made.resources.disk) == base
        assert other.execute("SELECT count(*) FROM t").fetchall() == [(1,)]
        other.close()
        assert await made.read("SELECT count(*) FROM t") == [(2,)]
        await made.close()
        assert read_base(made.folder, made.key, made.resources.disk) != base


async def test_a_late_interrupt_of_a_write_does_not_reach_the_checkpoint_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite keeps an interrupt that meets no statement, and a checkpoint is none that clears it.

    Method: each checkpoint finds the connection as a stopped write may leave it; writes go on,
    and a closed database has its WAL in the file.
    """
    monkeypatch.setattr(primary.committer, "CHECKPOINT_FRAMES", 5)
    checkpoint = LiveDatabase.checkpoint
    moved: list[Checkpointed] = []

    def interrupted(self: LiveDatabase, *, restart: bool = False) -> Checkpointed:
        self.writer.sandbox.interrupt()
        moved.append(checkpoint(self, restart=restart))
        return moved[-1]

    async with opened_primary(tmp_path / "db", Disk()) as made:
        monkeypatch.setattr(LiveDatabase, "checkpoint", interrupted)
        for number in range(20):
            await made.write("INSERT INTO t VALUES (?)", number)
    assert len(moved) > 2
    assert all(done.is_whole for done in moved)
