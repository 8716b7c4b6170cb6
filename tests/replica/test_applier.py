"""A replica's database follows commit by commit, and never shows what is not the primary's."""

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import replica.applier
import replica.database
from engine.files import Disk
from engine.inject import Injector
from engine.live import Checkpointed, LiveDatabase
from engine.recovery import DB_NAME
from engine.wal import PAGE_SIZE
from replica.bootstrap import COPY_SUFFIX
from tests.engine.gated_disk import GatedDisk
from tests.engine.synced_disk import SyncedDisk
from tests.primary.opened_primary import numbers, turns
from tests.replica.following_replica import Following, following
from tests.waiting import until

COUNT = "SELECT count(*) FROM t"
LARGE = numbers(12) + "INSERT INTO t SELECT randomblob(1900000) FROM n"


@pytest.fixture
async def fed(tmp_path: Path) -> AsyncIterator[Following]:
    async with following(tmp_path) as made:
        yield made


def left_of_copies(fed: Following) -> list[str]:
    """Folders of copies beside the database's."""
    return [path.name for path in fed.database.folder.parent.iterdir() if "." in path.name]


async def test_it_begins_with_its_first_commits(fed: Following) -> None:
    """Of nothing: the log, the file and the base come from the first message."""
    assert fed.database.applied == 0
    await fed.feed()
    await fed.equal()
    assert fed.database.is_here
    assert fed.moved > 0, "the first commits are told, too"
    news = fed.database.news()
    assert news is not None
    assert (news.received, news.applied) == (2, 2)


@pytest.mark.parametrize("each", [0, 1, 7])
async def test_commits_in_messages_of_any_size(fed: Following, each: int) -> None:
    await fed.feed()
    for number in range(40):
        await fed.write("INSERT INTO t VALUES (randomblob(?))", 10 + 150 * number)
        if number % 10 == 9:
            await fed.write("DELETE FROM t WHERE rowid % 3 = 0")
    await fed.feed(each=each)
    await fed.equal()
    news = fed.database.news()
    assert news is not None
    assert news.applied == 46


async def test_what_one_turn_brings_is_one_injection(
    fed: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens between are never visible, the last image of each page wins."""
    injected = 0
    inject = Injector.inject

    def counted(self: Injector, *arguments: object) -> None:
        nonlocal injected
        injected += 1
        inject(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Injector, "inject", counted)
    await fed.feed()
    await fed.reached(2)
    before = injected
    for _ in range(30):
        await fed.write("INSERT INTO t VALUES (1)")
    parts = await fed.parts()
    for part in parts:
        fed.database.receive([part.raw])
    await fed.equal()
    assert injected == before + 1


async def test_shrinking_and_growing_within_one_injection(fed: Following) -> None:
    """Pages beyond an end that moved down and up again: as if each commit were applied alone."""
    await fed.feed()
    await fed.write(numbers(300) + "INSERT INTO t SELECT randomblob(2000) FROM n")
    await fed.feed()
    await fed.equal()
    await fed.write("UPDATE t SET x = randomblob(2000) WHERE rowid > 250")
    await fed.write("DELETE FROM t WHERE rowid > 20")
    await (await fed.source.committer()).vacuum()
    await fed.write(numbers(100) + "INSERT INTO t SELECT randomblob(2000) FROM n")
    await fed.feed()
    await fed.equal()
    assert await fed.read("PRAGMA quick_check") == [("ok",)]


async def test_a_large_commit_goes_through_the_log_in_parts(fed: Following) -> None:
    """Readers see nothing of it, then all."""
    await fed.feed()
    await fed.reached(2)
    await fed.write(LARGE)
    await fed.write("INSERT INTO t VALUES (1)")
    parts = await fed.parts()
    assert [part.part for part in parts if not part.is_last] == [0, 1]
    for part in parts[:-2]:
        fed.database.receive([part.raw])
        await turns()
        assert await fed.read(COUNT) == [(0,)]
    for part in parts[-2:]:
        fed.database.receive([part.raw])
    await fed.equal()
    assert await fed.read(COUNT) == [(13,)]


async def test_a_large_commit_whose_rest_does_not_come_is_dropped(fed: Following) -> None:
    """The link broke in its middle: it comes again from its beginning."""
    await fed.feed()
    await fed.reached(2)
    await fed.write(LARGE)
    parts = await fed.parts()
    for broken_after in (1, 2):
        for part in parts[:broken_after]:
            fed.database.receive([part.raw])
        assert fed.database.restart_feed().seq == 2
    await fed.feed()
    await fed.equal()
    assert not fed.database.problem


async def test_a_partial_commit_is_dropped_while_it_is_being_written(tmp_path: Path) -> None:
    """The feed begins again while a sync of the parts is under way.

    Method: hold that sync; the parts come again at once, before it is through.
    """
    disk = GatedDisk()
    async with following(tmp_path, disk) as fed:
        await fed.feed()
        await fed.reached(2)
        await fed.open()
        await fed.write(LARGE)
        parts = await fed.parts()
        with disk.syncs_held():
            fed.database.receive([parts[0].raw])
            await until(lambda: disk.held > 0, "a sync")
            fed.database.receive([parts[1].raw])
            assert fed.database.restart_feed().seq == 2
            fed.database.receive([parts[0].raw, parts[1].raw])
            await turns()
        fed.database.receive([part.raw for part in parts[2:]])
        await fed.equal()
        assert not fed.database.problem
        await fed.closed()
        await fed.equal()


async def test_commits_that_came_already_are_passed_over(fed: Following) -> None:
    for _ in range(5):
        await fed.write("INSERT INTO t VALUES (1)")
    parts = await fed.parts()
    await fed.feed()
    await fed.reached(7)
    fed.database.receive([part.raw for part in parts])
    await fed.write("INSERT INTO t VALUES (1)")
    fed.database.receive([part.raw for part in [*parts, *await fed.parts()]])
    await fed.equal()
    assert not fed.copies_wanted


async def test_first_commits_that_are_not_the_first_make_nothing(fed: Following) -> None:
    """The catalog told of a database whose beginning the primary has not sent: it asks for all."""
    await fed.write("INSERT INTO t VALUES (1)")
    parts = await fed.parts()
    fed.database.receive([part.raw for part in parts[1:]])
    await until(lambda: fed.copies_wanted > 0, "asked for a copy")
    assert not fed.database.is_here
    await fed.copy()
    await fed.equal()


@pytest.mark.parametrize("fault", ["gap", "flip", "other pages"])
async def test_what_is_not_the_primary_s_history_is_not_shown(
    fed: Following, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gap, a damaged part, pages that differ: stopped before any reader sees it, and healed."""
    monkeypatch.setattr(replica.database, "_ASK_AGAIN_S", 0.01)
    await fed.feed()
    await fed.reached(2)
    await fed.write("INSERT INTO t VALUES (1)")
    await fed.write("INSERT INTO t VALUES (2)")
    parts = await fed.parts()
    if fault == "gap":
        fed.database.receive([parts[1].raw])
    elif fault == "flip":
        raw = bytearray(parts[0].raw)
        raw[-1] ^= 1
        fed.database.receive([bytes(raw)])
    else:
        async with fed.database.demand.used() as opened:
            opened.live.pages.rolling ^= 1
        fed.database.receive([parts[0].raw])
    await until(lambda: not fed.database.is_here, "stopped")
    assert fed.database.applied == 2
    await until(lambda: fed.copies_wanted > 0, "a copy asked for")
    await fed.copy()
    await fed.equal()
    assert not fed.database.problem
    assert await fed.read(COUNT) == [(2,)]


async def copy_in_vain(fed: Following) -> None:
    """A copy that fails, and is asked for again."""
    asked = fed.copies_wanted
    await fed.copy()
    await until(lambda: fed.copies_wanted > asked, "asked again")


async def test_a_copy_that_fails_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full for a while: asked again and again, not for ever stopped."""
    monkeypatch.setattr(replica.database, "_ASK_AGAIN_S", 0.02)
    disk = GatedDisk()
    async with following(tmp_path, disk) as fed:
        await fed.feed()
        await fed.reached(2)
        fed.database.stop_because(ValueError("told to"))
        await until(lambda: fed.copies_wanted > 0, "asked")
        with disk.broken():
            for _ in range(2):
                await copy_in_vain(fed)
        await fed.copy()
        await fed.equal()
        assert not fed.database.problem
        assert not left_of_copies(fed)


class SyncFailsOnce(Disk):
    """A disk that fails to sync a copy's file, once; knows which descriptors are open."""

    def __init__(self) -> None:
        self.opened: dict[int, Path] = {}
        self.failures = 1

    def open(self, path: Path, *, create: bool = False) -> int:
        fd = super().open(path, create=create)
        self.opened[fd] = path
        return fd

    def close(self, fd: int) -> None:
        del self.opened[fd]
        super().close(fd)

    def fsync(self, fd: int) -> None:
        path = self.opened[fd]
        if self.failures and path.name == DB_NAME and COPY_SUFFIX in path.parent.name:
            self.failures -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().fsync(fd)


async def test_a_copy_that_cannot_be_made_durable_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a file nor a descriptor; and it does not take the database's place."""
    monkeypatch.setattr(replica.database, "_ASK_AGAIN_S", 0.02)
    disk = SyncFailsOnce()
    async with following(tmp_path, disk) as fed:
        await fed.feed()
        await fed.reached(2)
        await fed.copy()
        await until(lambda: fed.copies_wanted > 0, "asked again")
        assert not disk.failures
        assert not [path for path in disk.opened.values() if COPY_SUFFIX in str(path)]
        assert not left_of_copies(fed)
        await fed.copy()
        await fed.equal()


async def test_nothing_has_its_place_before_it_is_durable(tmp_path: Path) -> None:
    """A copy whose pages are not on the disk would be believed after a power cut, for one."""
    disk = SyncedDisk()
    async with following(tmp_path, disk) as fed:
        await fed.feed()
        await fed.equal()
        await fed.closed()
        assert disk.bases == 2, "one of the first commits, one of the end"
        await fed.write("INSERT INTO t VALUES (zeroblob(100000))")
        await fed.source.reopen()
        await fed.copy(pages_each=7)
        await fed.equal()
        await fed.write("INSERT INTO t VALUES (1)")
        await fed.feed()
        await fed.equal()
    assert disk.bases > 3
    assert not disk.late
    assert not disk.unsynced_folders


@pytest.mark.parametrize("pages", [0, 50])
async def test_copies_begun_anew_do_not_collide(fed: Following, pages: int) -> None:
    """The one given up is removed while the next one is written, however far it has come."""
    await fed.feed()
    await fed.write(numbers(400) + "INSERT INTO t SELECT randomblob(2000) FROM n")
    await fed.source.reopen()
    for _ in range(5):
        await fed.copy(ends=False)
        await turns(3)
        await until(lambda: (fed.database.copied or (0, 0))[0] >= pages * PAGE_SIZE, "so far")
    await fed.copy()
    await fed.equal()
    await until(lambda: not left_of_copies(fed), "the ones given up removed")


async def test_a_copy_of_a_file_that_changes_meanwhile(fed: Following) -> None:
    """Some pages are newer than the base: the commits up to the end of the copy make it whole."""
    await fed.write(numbers(400) + "INSERT INTO t SELECT randomblob(2000) FROM n")
    await fed.source.reopen()
    opened = await fed.source.open()
    base = opened.live.base
    await fed.write("UPDATE t SET x = randomblob(1000) WHERE rowid % 3 = 0")
    assert opened.live.checkpoint().is_whole  # the file is newer than its base now
    await fed.write("DELETE FROM t WHERE rowid > 300")
    assert opened.live.base == base
    await fed.copy(pages_each=7)
    await fed.write("INSERT INTO t VALUES (1)")
    await fed.feed()
    await fed.equal()
    assert await fed.read("PRAGMA quick_check") == [("ok",)]


async def test_a_retired_database_is_not_brought_back_by_its_copy(fed: Following) -> None:
    """Deleted while a copy was about to take its place: the folder stays gone."""
    await fed.feed()
    await fed.reached(2)
    release = asyncio.Event()

    async def reading() -> None:
        async with fed.database.demand.used():
            await release.wait()

    reader = asyncio.create_task(reading())
    await turns()
    await fed.copy()
    await asyncio.sleep(0.1)  # complete, and waiting for the reader to leave
    retiring = asyncio.create_task(fed.database.retire())
    await turns()
    release.set()
    await reader
    await retiring
    await until(lambda: not left_of_copies(fed), "nothing left")


async def test_checkpoints_and_the_base(fed: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    """The WAL stays small while commits come, readers read, and the log is trimmed."""
    monkeypatch.setattr(replica.applier, "CHECKPOINT_FRAMES", 60)
    monkeypatch.setattr(replica.applier, "BASE_LOG_BYTES", 200_000)
    await fed.feed()
    frames = []
    for number in range(150):
        await fed.write("INSERT INTO t VALUES (randomblob(3000))")
        await fed.feed()
        if number % 3 == 0:
            await fed.reached(number)
        opened = await fed.open()
        frames.append(opened.live.injector.wal_frames)
        rows = await fed.read(COUNT)
        assert isinstance(rows[0][0], int)
    await fed.equal()
    assert max(frames) < 400
    assert (await fed.open()).live.base.position.seq > 2
    await fed.closed()
    await fed.equal()
    assert await fed.read("PRAGMA quick_check") == [("ok",)]


async def test_what_came_during_a_checkpoint_does_not_wait_for_our_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in memory, and applied from there as soon as the checkpoint is through.

    Method: hold a checkpoint up, let commits come, hold all syncs up, let the checkpoint go on.
    """
    monkeypatch.setattr(replica.applier, "CHECKPOINT_FRAMES", 10)
    begun, may_go_on = threading.Event(), threading.Event()
    checkpoint = LiveDatabase.checkpoint

    def held_up(self: LiveDatabase, *, restart: bool = False) -> Checkpointed:
        if self.folder.name == "replica":
            begun.set()
            assert may_go_on.wait(15)
        return checkpoint(self, restart=restart)

    disk = GatedDisk()
    async with following(tmp_path, disk) as fed:
        await fed.feed()
        await fed.reached(2)
        monkeypatch.setattr(LiveDatabase, "checkpoint", held_up)
        try:
            while not begun.is_set():
                await fed.write("INSERT INTO t VALUES (randomblob(3000))")
                await fed.feed()
                await asyncio.sleep(0.002)
            before = fed.database.applied
            with disk.syncs_held():
                newest = [await fed.write("INSERT INTO t VALUES (1)") for _ in range(5)][-1]
                await fed.feed()
                assert fed.database.applied == before
                may_go_on.set()
                await fed.reached(newest.seq)
                assert fed.database.durable.seq < newest.seq
        finally:
            may_go_on.set()
        await fed.equal()


async def test_a_long_reader_does_not_hold_commits_up(
    fed: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that a reader keeps from ending is left for later, not waited for.

    And the base stays: the file lacks what is in the WAL, which no start would keep.

    Method: SQLite would wait for ten minutes, if it were not told to wait for less.
    """
    for module in ("engine.sandbox", "engine.live"):
        monkeypatch.setattr(f"{module}.BUSY_TIMEOUT_MS", 600_000)
    monkeypatch.setattr(replica.applier, "CHECKPOINT_FRAMES", 20)
    monkeypatch.setattr(replica.applier, "BASE_LOG_BYTES", 0)
    await fed.feed()
    await fed.reached(2)
    opened = await fed.open()
    reader = opened.live.borrow_reader()
    reader.sandbox.execute_internal("BEGIN")
    reader.sandbox.execute_internal("SELECT * FROM t")
    base = opened.live.base
    for _ in range(60):
        session = await fed.write("INSERT INTO t VALUES (randomblob(3000))")
        await fed.feed()
        await fed.reached(session.seq)  # while the reader stays
    assert opened.live.base == base
    reader.sandbox.execute_internal("ROLLBACK")
    opened.live.return_reader(reader)
    await fed.equal()


async def test_it_is_closed_in_the_middle_of_everything(fed: Following) -> None:
    """Closed and opened again, over and over, while commits of all sizes come."""
    await fed.feed()
    done = False

    async def closing() -> None:
        while not done:
            await fed.closed()
            await asyncio.sleep(0.003)

    closer = asyncio.create_task(closing())
    for number in range(60):
        size = 1_900_000 if number % 20 == 19 else 3000
        await fed.write("INSERT INTO t VALUES (randomblob(?))", size)
        await fed.feed()
    done = True
    await closer
    await fed.equal()
    assert not fed.copies_wanted


async def test_a_log_that_cannot_be_written_stops_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed sync on a replica: out of service, a copy is asked for, and all is well again."""
    monkeypatch.setattr(replica.database, "_ASK_AGAIN_S", 0.02)
    disk = GatedDisk()
    async with following(tmp_path, disk) as fed:
        await fed.feed()
        await fed.reached(2)
        await fed.open()
        disk.fail_syncs(1)
        await fed.write("INSERT INTO t VALUES (1)")
        await fed.feed()
        await until(lambda: fed.copies_wanted > 0, "a copy asked for")
        await fed.copy()
        await fed.equal()


async def test_acknowledged_is_what_is_written(tmp_path: Path) -> None:
    """`durable` waits for the disk, `bytes_written` for the write; `applied` for neither."""
    disk = GatedDisk()
    async with following(tmp_path, disk) as fed:
        await fed.feed()
        await fed.reached(2)
        await fed.open()
        fed.database.restart_feed()
        await fed.write("INSERT INTO t VALUES (1)")
        size = sum(map(len, await fed.parts()))
        with disk.syncs_held():
            await fed.feed()
            await fed.reached(3)
            news = fed.database.news()
            assert news is not None
            assert (news.received, news.applied, news.durable) == (3, 3, 2)
            assert news.bytes_written == 0
            assert fed.database.news() is None, "said once"
        await until(lambda: fed.database.durable.seq == 3, "durable")
        news = fed.database.news()
        assert news is not None
        assert (news.durable, news.bytes_written) == (3, size)


async def test_a_reader_never_sees_a_commit_before_it_is_verified(fed: Following) -> None:
    """Readers on threads hammer while commits come: counts only grow, and batches are whole."""
    await fed.write("CREATE TABLE pair (a, b)")
    await fed.write("INSERT INTO pair VALUES (0, 0)")
    await fed.feed()
    opened = await fed.open()
    stop = threading.Event()
    wrong: list[object] = []

    def hammer() -> None:
        reader = opened.live.borrow_reader()
        last = 0
        while not stop.is_set():
            a, b = reader.sandbox.execute_internal("SELECT a, b FROM pair")[0]
            assert isinstance(a, int)
            if a != b or a < last:
                wrong.append((last, a, b))
            last = a
        opened.live.return_reader(reader)

    threads = [threading.Thread(target=hammer) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(1, 200):
        await fed.write("UPDATE pair SET a = ?1, b = ?1", number)
        await fed.feed()
    await fed.equal()
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert (opened.live.folder / DB_NAME).stat().st_size >= PAGE_SIZE
