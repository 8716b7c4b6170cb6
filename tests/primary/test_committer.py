"""Group commit: nothing is told before it is durable, and a log that fails loses nothing told."""

import asyncio
import shutil
import threading
from functools import partial
from pathlib import Path

import apsw
import pytest

import primary.committer
import primary.database
from engine.checksum import PageChecksums
from engine.errors import DeadlineExceeded, StatementRefused
from engine.files import Disk
from engine.live import LiveDatabase
from engine.log import CommitLog
from engine.recovery import DB_NAME, LOG_NAME, recover
from engine.transaction import Step
from primary.database import PrimaryDatabase
from primary.errors import DatabaseStopped, WriteFenced, WriteUnknown
from primary.idempotency import IdempotencyKey
from primary.writer import KeyedWrite
from proto.api import SqlValue
from tests.engine.gated_disk import GatedDisk
from tests.primary.opened_primary import (
    PrimaryUnderTest,
    numbers,
    opened_primary,
    steps,
    turns,
)
from tests.waiting import until

COUNT = "SELECT count(*) FROM t"
LONG = 600_000  # rows of a write that takes long enough for others to be seen beside it


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take writes again at once; `test_write_pauses.py` is of the pauses."""
    monkeypatch.setattr(primary.database, "PAUSE_S_MIN", 0.0)


def is_after(database: PrimaryDatabase, seq: int) -> bool:
    return database.durable.seq >= seq


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def recovered_checksum(made: PrimaryUnderTest, copy: Path) -> tuple[int, int]:
    """What recovery makes of a copied folder: the commit's number and the pages' checksum."""
    disk = Disk()
    log = CommitLog.open(copy / LOG_NAME, made.key, disk, bytes_max=1 << 30)
    try:
        base, pages = recover(copy, made.key, log, disk)
    finally:
        log.close()
    return base.position.seq, pages.rolling


# --- durability


async def test_no_write_is_acknowledged_before_its_sync(tmp_path: Path) -> None:
    disk = GatedDisk()
    async with opened_primary(tmp_path / "db", disk) as made:
        opened = await made.open()
        with disk.syncs_held():
            writes = [asyncio.create_task(made.write("INSERT INTO t VALUES (1)")) for _ in range(8)]
            await until(lambda: disk.held == 1 and opened.log.head.seq == 10, "executed")
            await turns()
            assert not any(write.done() for write in writes)
            assert opened.log.durable.seq < 3
            assert made.database.durable == opened.log.durable
        written = [await write for write in writes]
        assert [one.bookmark.seq for one in written] == list(range(3, 11))


async def test_errors_and_reads_wait_for_what_they_tell_of(tmp_path: Path) -> None:
    """A constraint that failed, or a count, speaks of rows that are not durable yet."""
    disk = GatedDisk()
    async with opened_primary(tmp_path / "db", disk) as made:
        await made.write("CREATE UNIQUE INDEX u ON t (x)")
        committer = await made.committer()
        with disk.syncs_held():
            first = asyncio.create_task(made.write("INSERT INTO t VALUES (1)"))
            await turns()
            second = asyncio.create_task(made.write("INSERT INTO t VALUES (1)"))
            assert not committer.is_settled
            told = asyncio.create_task(committer.wait_durable())
            await turns()
            assert not second.done()
            assert not told.done()
        await first
        with pytest.raises(StatementRefused, match="UNIQUE"):
            await second
        assert (await told).seq == 4
        assert committer.is_settled


async def test_group_commit_syncs_less_than_it_writes(tmp_path: Path) -> None:
    disk = GatedDisk()
    async with opened_primary(tmp_path / "db", disk) as made:
        opened, before = await made.open(), disk.syncs
        last = opened.log.head.seq + 200
        with disk.syncs_held():
            writes = [
                asyncio.create_task(made.write("INSERT INTO t VALUES (1)")) for _ in range(200)
            ]
            await until(lambda: opened.log.head.seq == last, "executed")
        await asyncio.gather(*writes)
        assert disk.syncs - before < 5


async def test_replicas_are_sent_a_commit_before_its_answers(tmp_path: Path) -> None:
    """One message against many answers: a client that was answered soon asks a replica."""
    async with opened_primary(tmp_path / "db") as made:
        told: list[str] = []
        made.woken = lambda _key: told.append("replicas")
        committer = await made.committer()
        for _ in range(3):
            written = committer.write_now(steps("INSERT INTO t VALUES (1)"))
            assert written is not None
            committer.when_durable(written.bookmark.seq, lambda _error: told.append("client"))
        await until(lambda: "client" in told, "durable")
        assert told == ["replicas", "client", "client", "client"]


async def test_a_failed_sync_undoes_what_was_not_told(tmp_path: Path) -> None:
    """The write is answered as unknown, is gone after the rebuild; what was told is there."""
    disk = GatedDisk()
    async with opened_primary(tmp_path / "db", disk) as made:
        for number in range(20):
            await made.write("INSERT INTO t VALUES (?)", number)
        disk.fail_syncs(1)
        with pytest.raises(WriteUnknown):
            await made.write("INSERT INTO t VALUES ('lost')")
        await made.write("INSERT INTO t VALUES ('later')")
        assert not made.database.problem
        assert await made.read("SELECT x FROM t WHERE x = 'lost'") == []
        assert await made.read(COUNT) == [(21,)]
        await made.reopen()
        assert await made.read(COUNT) == [(21,)]


async def test_readers_of_an_undone_commit_are_not_told(tmp_path: Path) -> None:
    """They saw it before its sync failed: they get an error, not rows that never were."""
    disk = GatedDisk()
    async with opened_primary(tmp_path / "db", disk) as made:
        committer = await made.committer()
        with disk.syncs_held():
            write = asyncio.create_task(made.write("INSERT INTO t VALUES ('lost')"))
            await turns()
            assert await made.read(COUNT) == [(1,)]
            seen = asyncio.create_task(committer.wait_durable())
            await turns()
            disk.fail_syncs(1)
        for task in (write, seen):
            with pytest.raises(WriteUnknown):
                await task
        assert await made.read(COUNT) == [(0,)]


async def test_writes_that_wait_behind_a_failing_log_were_not_started(tmp_path: Path) -> None:
    disk = GatedDisk()
    async with opened_primary(tmp_path / "db", disk) as made:
        committer = await made.committer()
        with disk.syncs_held():
            long = asyncio.create_task(
                committer.write(steps(numbers(60000) + "INSERT INTO t SELECT i FROM n"))
            )
            await until(lambda: disk.held == 1, "the long write's sync")
            behind = asyncio.create_task(committer.write(steps("INSERT INTO t VALUES (1)")))
            await turns()
            disk.fail_syncs(1)
        with pytest.raises(WriteUnknown):
            await long
        with pytest.raises(WriteFenced):
            await behind
        with pytest.raises(WriteFenced):
            await committer.write(steps("INSERT INTO t VALUES (1)"))
        assert await made.read(COUNT) == [(0,)]


@pytest.mark.parametrize("syncs_before", [0, 1, 2])
async def test_a_sync_that_fails_within_a_large_commit_undoes_all_of_it(
    tmp_path: Path, syncs_before: int
) -> None:
    """A commit of several parts, each synced: its first parts are no commit.

    A read that saw it, on another thread, before the failure must not be let go either.
    """
    disk = GatedDisk()
    async with opened_primary(tmp_path / "db", disk) as made:
        opened = await made.open()
        sql = numbers(12) + "INSERT INTO t SELECT randomblob(1900000) FROM n"
        with disk.syncs_held():
            write = asyncio.create_task(opened.committer.write(steps(sql)))
            await until(lambda: disk.held == 1, "the first part's sync")
            rows = await opened.reads.on_thread(steps(COUNT))
            assert rows[0].rows == [(12,)]
            assert not opened.committer.is_settled
            seen = asyncio.create_task(opened.committer.wait_durable())
            await turns()
            disk.fail_syncs(1, after=syncs_before)
        for task in (write, seen):
            with pytest.raises(WriteUnknown):
                await task
        assert await made.read(COUNT) == [(0,)]
        await made.write("INSERT INTO t VALUES (1)")
        await made.reopen()
        assert await made.read(COUNT) == [(1,)]


async def test_a_disk_that_is_broken_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be undone while it is: refused with the reason, then all by itself well again.

    Descriptors are counted: closing one twice would close another database's file.
    """
    monkeypatch.setattr(primary.database, "_TRY_AGAIN_S", 0.05)
    disk = GatedDisk()
    async with opened_primary(tmp_path / "db", disk) as made:
        await made.write("INSERT INTO t VALUES (1)")
        await made.close()
        closed = open_descriptors()
        opened = await made.open()
        with disk.broken():
            with pytest.raises(WriteUnknown):
                await opened.committer.write(steps("INSERT INTO t VALUES (2)"))
            for _ in range(3):
                await asyncio.sleep(0.06)
                with pytest.raises(DatabaseStopped):
                    await made.open()
            assert made.database.problem
        await asyncio.sleep(0.06)
        assert await made.read(COUNT) == [(1,)]
        assert not made.database.problem
        await made.write("INSERT INTO t VALUES (3)")
        await made.close()
        assert open_descriptors() == closed


async def test_nothing_told_is_lost_over_many_failures(tmp_path: Path) -> None:
    """Random failing syncs under concurrent writers; afterwards the table is what was told.

    An unknown write may be there or not, a refused one may not, a told one must.
    """
    disk = GatedDisk()
    async with opened_primary(tmp_path / "db", disk) as made:
        told: set[int] = set()
        refused: set[int] = set()

        async def writer(first: int) -> None:
            for number in range(first, first + 60):
                try:
                    await made.write("INSERT INTO t VALUES (?)", number)
                    told.add(number)
                except WriteFenced:
                    refused.add(number)
                except WriteUnknown:
                    pass
                if number % 17 == 0:
                    disk.fail_syncs(1)

        await asyncio.gather(*(writer(1000 * one) for one in range(8)))
        rows: set[SqlValue] = {row[0] for row in await made.read("SELECT x FROM t")}
        assert told <= rows
        assert not refused & rows
        await made.reopen()
        assert {row[0] for row in await made.read("SELECT x FROM t")} == rows


# --- order


async def test_short_writes_wait_behind_a_long_one(tmp_path: Path) -> None:
    """A long write runs on a thread; those behind it keep their order; reads go on meanwhile."""
    async with opened_primary(tmp_path / "db") as made:
        committer = await made.committer()
        long = asyncio.create_task(
            committer.write(steps(numbers(LONG) + "INSERT INTO t SELECT i FROM n"))
        )
        await until(lambda: committer.state is not primary.committer.CommitterState.READY, "busy")
        behind = [
            asyncio.create_task(committer.write([Step("INSERT INTO t VALUES (?)", (-number,))]))
            for number in range(1, 30)
        ]
        reads = 0
        while not long.done():
            assert (await made.read("SELECT max(rowid) FROM t"))[0][0] in (None, LONG)
            reads += 1
            await asyncio.sleep(0)
        assert reads > 2
        first = (await long).bookmark.seq
        after = [(await write).bookmark.seq for write in behind]
        assert after == list(range(first + 1, first + 30))
        rows = await made.read("SELECT x FROM t WHERE x < 0 ORDER BY rowid")
        assert rows == [(-number,) for number in range(1, 30)]


async def test_a_large_write_is_not_tried_in_the_event_loop(tmp_path: Path) -> None:
    """Method: the answer of a write with a key is made where the write runs."""
    async with opened_primary(tmp_path / "db") as made:
        ran_in: list[str] = []

        def encode(_results: object) -> bytes:
            ran_in.append(threading.current_thread().name)
            return b"{}"

        for number, is_large in enumerate((False, True)):
            keyed = KeyedWrite(IdempotencyKey.of(f"key {number}", "query", b""), encode)
            committer = await made.committer()
            await committer.write(steps("INSERT INTO t VALUES (1)"), keyed, is_large=is_large)
        assert ran_in[0] == threading.current_thread().name != ran_in[1]
        assert ran_in[1].startswith("io")
        assert await made.read(COUNT) == [(2,)]


async def test_a_cancelled_write_in_the_queue_is_not_done(tmp_path: Path) -> None:
    async with opened_primary(tmp_path / "db") as made:
        committer = await made.committer()
        long = asyncio.create_task(
            committer.write(steps(numbers(100_000) + "INSERT INTO t SELECT i FROM n"))
        )
        await until(lambda: committer.state is not primary.committer.CommitterState.READY, "busy")
        gone = asyncio.create_task(committer.write(steps("INSERT INTO t VALUES (-1)")))
        stays = asyncio.create_task(committer.write(steps("INSERT INTO t VALUES (-2)")))
        await turns()
        gone.cancel()
        await asyncio.wait([gone])
        await long
        await stays
        assert await made.read("SELECT x FROM t WHERE x < 0") == [(-2,)]


async def test_a_write_past_its_deadline_is_undone(tmp_path: Path) -> None:
    async with opened_primary(tmp_path / "db", deadline_s=2.0) as made:
        endless = (
            "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
            "SELECT i FROM n"
        )
        before = made.database.head
        with pytest.raises(DeadlineExceeded, match="2 s"):
            await made.write(endless)
        assert made.database.head == before
        await made.write("INSERT INTO t VALUES (1)")
        assert await made.read(COUNT) == [(1,)]


async def test_a_write_that_changes_nothing_has_no_commit(tmp_path: Path) -> None:
    async with opened_primary(tmp_path / "db") as made:
        head = made.database.head
        written = await made.write("DELETE FROM t WHERE x = 'nowhere'")
        assert written.bookmark == head == made.database.head


async def test_a_deferred_foreign_key_fails_at_commit_and_leaves_nothing(tmp_path: Path) -> None:
    async with opened_primary(tmp_path / "db") as made:
        await made.write("CREATE TABLE p (id INTEGER PRIMARY KEY)")
        await made.write("CREATE TABLE c (p REFERENCES p (id) DEFERRABLE INITIALLY DEFERRED)")
        head = made.database.head
        with pytest.raises(StatementRefused, match="FOREIGN KEY constraint failed"):
            await made.write("INSERT INTO c VALUES (1)")
        assert made.database.head == head
        committer = await made.committer()
        await committer.write(steps("INSERT INTO c VALUES (2)", "INSERT INTO p VALUES (2)"))
        assert await made.read("SELECT count(*) FROM c") == [(1,)]


# --- the WAL, the base, and what a crash leaves


async def test_checkpoints_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The WAL stays small, the base moves, the log is trimmed, readers see one snapshot each."""
    monkeypatch.setattr(primary.committer, "CHECKPOINT_FRAMES", 100)
    monkeypatch.setattr(primary.committer, "BASE_LOG_BYTES", 400_000)
    async with opened_primary(tmp_path / "db", log_bytes_max=600_000) as made:
        opened = await made.open()
        sizes = []

        async def writer(first: int) -> None:
            for number in range(first, first + 100):
                await made.write("INSERT INTO t VALUES (randomblob(3000))")
                sizes.append(opened.committer._writer.wal_frames)
                if number % 10 == 0:
                    two = await opened.reads.on_thread(steps(COUNT, COUNT))
                    assert two[0].rows == two[1].rows

        await asyncio.gather(*(writer(1000 * one) for one in range(6)))
        assert max(sizes) < 1500
        assert opened.live.base.position.seq > 2
        assert opened.log.tail.seq > 0
        assert await made.read(COUNT) == [(600,)]
        await made.reopen()
        assert await made.read("PRAGMA quick_check") == [("ok",)]
        assert await made.read(COUNT) == [(600,)]


async def test_a_long_reader_does_not_make_each_write_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it keeps the WAL from beginning anew, checkpoints stay as rare as they are.

    And the base stays: the file lacks what is in the WAL, which no start would keep.
    """
    monkeypatch.setattr(primary.committer, "CHECKPOINT_FRAMES", 50)
    monkeypatch.setattr(primary.committer, "BASE_LOG_BYTES", 0)
    async with opened_primary(tmp_path / "db") as made:
        opened = await made.open()
        checkpoints = 0
        checkpoint = LiveDatabase.checkpoint

        def counted(self: LiveDatabase, *, restart: bool = False) -> object:
            nonlocal checkpoints
            checkpoints += 1
            return checkpoint(self, restart=restart)

        monkeypatch.setattr(LiveDatabase, "checkpoint", counted)
        reader = opened.live.borrow_reader()
        reader.sandbox.execute_internal("BEGIN")
        reader.sandbox.execute_internal("SELECT * FROM t")
        base = opened.live.base
        for _ in range(300):
            await made.write("INSERT INTO t VALUES (randomblob(3000))")
        assert opened.live.base == base
        reader.sandbox.execute_internal("ROLLBACK")
        opened.live.return_reader(reader)
        frames = opened.committer._writer.wal_frames
        assert frames > 300
        assert checkpoints <= frames // 50 + 1


@pytest.mark.parametrize("vacuums", [False, True])
async def test_any_moment_recovers_to_an_exact_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vacuums: bool
) -> None:
    """Copies of the folder, made under load as a kill would find it, recover: checksum by checksum.

    Method: first the base, then the file, then the log, each as it is; every page of what
    recovery makes is hashed by `recover` itself and compared with the newest commit.
    """
    monkeypatch.setattr(primary.committer, "CHECKPOINT_FRAMES", 60)
    monkeypatch.setattr(primary.committer, "BASE_LOG_BYTES", 300_000)
    async with opened_primary(tmp_path / "db") as made:
        done = False

        async def writer() -> None:
            number = 0
            while not done:
                number += 1
                await made.write("INSERT INTO t VALUES (randomblob(2000))")
                await made.write("UPDATE t SET x = randomblob(1000) WHERE rowid = ?", number // 2)
                if number % 7 == 0:
                    await made.write("DELETE FROM t WHERE rowid % 5 = 0")
                if vacuums and number % 40 == 0:
                    await (await made.committer()).vacuum()

        writers = [asyncio.create_task(writer()) for _ in range(3)]
        durable = made.database.durable.seq
        for attempt in range(12):
            await until(partial(is_after, made.database, durable + 5), "some commits")
            copy = tmp_path / f"copy-{attempt}"

            def take(copy: Path = copy) -> None:
                copy.mkdir()
                shutil.copy(made.folder / "base", copy)
                shutil.copy(made.folder / DB_NAME, copy)
                for other in made.folder.glob(DB_NAME + "-*"):
                    shutil.copy(other, copy)
                (copy / LOG_NAME).mkdir()
                for segment in sorted((made.folder / LOG_NAME).glob("*.log")):
                    shutil.copy(segment, copy / LOG_NAME)

            durable = made.database.durable.seq
            await asyncio.to_thread(take)
            seq, _ = await asyncio.to_thread(recovered_checksum, made, copy)
            assert seq >= durable
        done = True
        await asyncio.gather(*writers)


async def test_vacuum_is_one_commit_and_shrinks_the_file(tmp_path: Path) -> None:
    async with opened_primary(tmp_path / "db") as made:
        await made.write(numbers(1500) + "INSERT INTO t SELECT randomblob(3000) FROM n")
        await made.write("DELETE FROM t WHERE rowid % 10 > 0")
        committer = await made.committer()
        before = committer.page_count
        head = made.database.head
        written = await committer.vacuum()
        assert written.bookmark.seq == head.seq + 1
        assert committer.page_count < before / 5
        await made.reopen()
        assert await made.read(COUNT) == [(150,)]
        size = (made.folder / DB_NAME).stat().st_size
        assert size < before * 4096 / 5
        live = (await made.open()).live
        fresh = PageChecksums.from_file(live.files.db_fd, live.pages.page_count)
        assert fresh.rolling == live.pages.rolling


async def test_a_commit_of_several_parts_is_recovered_whole(tmp_path: Path) -> None:
    async with opened_primary(tmp_path / "db") as made:
        await made.write(numbers(15) + "INSERT INTO t SELECT randomblob(1900000) FROM n")
        opened = await made.open()
        parts = opened.log.reader(opened.log.tail).next(1 << 30)
        assert max(part.part for part in parts) >= 3
        sums = await made.read("SELECT sum(length(x)) FROM t")
        await made.close()
        for suffix in ("", "-wal", "-shm"):
            path = made.folder / (DB_NAME + suffix)
            path.unlink(missing_ok=True)
        (made.folder / "base").unlink()  # all of it from the log
        await made.reopen()
        assert await made.read("SELECT sum(length(x)) FROM t") == sums


async def test_closing_survives_a_failing_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has everything: the database is closed all the same, and opens again."""
    async with opened_primary(tmp_path / "db") as made:
        await made.write("INSERT INTO t VALUES (1)")
        await made.close()
        closed = open_descriptors()
        await made.write("INSERT INTO t VALUES (2)")
        with monkeypatch.context() as patched:

            def full(self: LiveDatabase, *, restart: bool = False) -> object:
                raise apsw.FullError("database or disk is full")

            patched.setattr(LiveDatabase, "checkpoint", full)
            await made.close()
        assert open_descriptors() == closed
        assert await made.read(COUNT) == [(2,)]


async def test_a_failing_checkpoint_under_load_rebuilds_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(primary.committer, "CHECKPOINT_FRAMES", 20)
    failures = 1
    checkpoint = LiveDatabase.checkpoint

    def failing(self: LiveDatabase, *, restart: bool = False) -> object:
        nonlocal failures
        if failures:
            failures -= 1
            raise apsw.IOError("disk I/O error")
        return checkpoint(self, restart=restart)

    monkeypatch.setattr(LiveDatabase, "checkpoint", failing)
    async with opened_primary(tmp_path / "db") as made:
        told = 0
        for _ in range(60):
            try:
                await made.write("INSERT INTO t VALUES (randomblob(3000))")
                told += 1
            except (WriteFenced, WriteUnknown):
                pass
        assert failures == 0
        assert told >= 58
        assert (await made.read(COUNT))[0][0] in range(told, 61)
        assert not made.database.problem


async def test_a_damaged_log_stops_its_database_and_says_so(tmp_path: Path) -> None:
    """Not the node: opening it is refused with the reason."""
    async with opened_primary(tmp_path / "db") as made:
        for _ in range(30):
            await made.write("INSERT INTO t VALUES (randomblob(2000))")
        await made.close()
        for segment in (made.folder / LOG_NAME).glob("*.log"):
            data = bytearray(segment.read_bytes())
            data[40] ^= 0xFF
            segment.write_bytes(data)
        await made.reopen()
        assert made.database.problem
        with pytest.raises(DatabaseStopped):
            await made.open()
