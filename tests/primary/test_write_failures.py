"""What a failure within a commit, or a slow disk beside it, does to those who wait."""

import asyncio
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import primary.committer
import primary.database
from engine.errors import LogFailed, StatementRefused
from engine.files import Disk
from engine.recovery import LOG_NAME
from engine.sandbox import Sandbox
from primary.errors import WriteUnknown
from proto.api import SqlValue
from tests.engine.gated_disk import GatedDisk
from tests.primary.opened_primary import opened_primary, steps, turns
from tests.waiting import EVENT_S_MAX, until

COUNT = "SELECT count(*) FROM t"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take writes again at once; `test_write_pauses.py` is of the pauses."""
    monkeypatch.setattr(primary.database, "PAUSE_S_MIN", 0.0)


class UnreadableWal(Disk):
    """A disk that fails to read from the WAL while it is told to."""

    is_failing = False

    def __init__(self) -> None:
        self._wals: set[int] = set()

    def open(self, path: Path, *, create: bool = False) -> int:
        fd = super().open(path, create=create)
        if path.name.endswith("-wal"):
            self._wals.add(fd)
        return fd

    def close(self, fd: int) -> None:
        self._wals.discard(fd)
        super().close(fd)

    def pread(self, fd: int, count: int, offset: int) -> bytes:
        if self.is_failing and fd in self._wals:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().pread(fd, count, offset)


@pytest.mark.parametrize("is_large", [False, True])
async def test_a_commit_that_cannot_be_captured_is_undone(tmp_path: Path, is_large: bool) -> None:
    """SQLite has it and the log has not: no reader is told, no later commit builds on it."""
    disk = UnreadableWal()
    async with opened_primary(tmp_path / "db", disk) as made:
        await made.write("INSERT INTO t VALUES (1)")
        committer = await made.committer()
        disk.is_failing = True
        with pytest.raises(WriteUnknown):
            await committer.write(steps("INSERT INTO t VALUES (2)"), is_large=is_large)
        disk.is_failing = False
        assert await made.read("SELECT x FROM t") == [(1,)]
        await made.write("INSERT INTO t VALUES (3)")
        await made.reopen()
        assert await made.read("SELECT x FROM t ORDER BY x") == [(1,), (3,)]


async def test_whoever_waits_for_a_commit_that_is_undone_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that begins while a thread commits waits for that commit, which then fails.

    Method: a deferred key fails at COMMIT; the thread is held up just before it.
    """
    async with opened_primary(tmp_path / "db") as made:
        await made.write("CREATE TABLE p (id INTEGER PRIMARY KEY)")
        await made.write("CREATE TABLE c (p REFERENCES p DEFERRABLE INITIALLY DEFERRED)")
        committer = await made.committer()
        committing, release = threading.Event(), threading.Event()
        execute = Sandbox.execute_internal

        def held(self: Sandbox, sql: str, *params: Any) -> list[tuple[SqlValue, ...]]:
            if sql == "COMMIT":
                committing.set()
                release.wait()
            return execute(self, sql, *params)

        monkeypatch.setattr(Sandbox, "execute_internal", held)
        write = asyncio.create_task(
            committer.write(steps("INSERT INTO c VALUES (1)"), is_large=True)
        )
        await until(committing.is_set, "about to commit")
        assert committer.visible is None
        waiting = asyncio.create_task(committer.wait_durable())
        await turns()
        assert not waiting.done()
        release.set()
        with pytest.raises(StatementRefused, match="FOREIGN KEY"):
            await write
        async with asyncio.timeout(EVENT_S_MAX):
            assert await waiting == committer.visible


async def test_whoever_asks_when_the_log_has_failed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read whose rows nobody will ever make durable must not wait for ever."""
    monkeypatch.setattr(primary.database, "_TRY_AGAIN_S", 0.05)
    disk = GatedDisk()
    async with opened_primary(tmp_path / "db", disk) as made:
        opened = await made.open()
        with disk.broken():
            with pytest.raises(WriteUnknown):
                await opened.committer.write(steps("INSERT INTO t VALUES (1)"))
            seq = opened.log.head.seq
            assert seq > opened.log.durable.seq
            async with asyncio.timeout(EVENT_S_MAX):
                with pytest.raises(WriteUnknown):
                    await opened.committer.wait_durable()
            told: list[Exception | None] = []
            opened.committer.when_durable(seq, told.append)
            assert [type(error) for error in told] == [LogFailed]


class SlowBlanks(Disk):
    """A disk on which the log's next file takes as long as the test wants."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.is_held = False
        self._blanks: set[int] = set()

    def open(self, path: Path, *, create: bool = False) -> int:
        fd = super().open(path, create=create)
        if path.name.startswith("next-"):
            self._blanks.add(fd)
        return fd

    def close(self, fd: int) -> None:
        self._blanks.discard(fd)
        super().close(fd)

    def fsync(self, fd: int) -> None:
        if fd in self._blanks:
            self.is_held = True
            self.gate.wait()
        super().fsync(fd)


async def test_a_log_is_not_closed_while_its_next_file_is_made(tmp_path: Path) -> None:
    """Neither the file nor its descriptor would be anybody's."""
    disk = SlowBlanks()
    async with opened_primary(tmp_path / "db", disk) as made:
        while not disk.is_held:
            await made.write("INSERT INTO t VALUES (zeroblob(3000))")
        closing = asyncio.create_task(made.close())
        await turns()
        await asyncio.sleep(0.1)
        assert not closing.done()
        disk.gate.set()
        await closing
        assert not list((made.folder / LOG_NAME).glob("*.tmp"))


async def test_what_waits_for_the_disk_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a sync takes long, writes are executed up to a bound; the others queue."""
    monkeypatch.setattr(primary.committer, "_PENDING_BYTES_MAX", 100_000)
    disk = GatedDisk()
    async with opened_primary(tmp_path / "db", disk) as made:
        opened = await made.open()
        sql = "INSERT INTO t VALUES (zeroblob(9000))"
        with disk.syncs_held():
            writes = [asyncio.create_task(made.write(sql)) for _ in range(100)]
            await until(lambda: opened.log.pending_bytes > 100_000, "the bound")
            await turns(300)
            assert opened.log.pending_bytes < 200_000
        await asyncio.gather(*writes)
        assert await made.read(COUNT) == [(100,)]
