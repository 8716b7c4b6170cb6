"""Commits injected into a live database: what readers see, what the files hold, what faults leave.

Every test has two real databases: one is written by SQL, the other follows by injection
(`wal_pair.py`). In the end the two files must be equal byte for byte.
"""

import errno
import os
import random
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import apsw
import pytest

from engine.checksum import PageChecksums
from engine.errors import DatabaseDamaged
from engine.files import Disk
from engine.wal import (
    BLOCK_BYTES,
    BLOCK_FRAMES,
    FIRST_BLOCK_FRAMES,
    INDEX_HEADER_BYTES,
    LOCK_PAGE,
    PAGE_SIZE,
    SLOTS_AT,
    WalIndexHeader,
    decode_index_prefix,
    frame_offset,
)
from proto.record import Buffer
from tests.engine.wal_pair import (
    Commit,
    FollowingDatabase,
    SourceDatabase,
    connect,
    merge,
)


def nothing(_fd: int, _offset: int) -> None:
    """Before or after a write that no test is interested in."""


class WatchedDisk(Disk):
    """Calls `before_write` and `after_write` around each write of the injector."""

    def __init__(self) -> None:
        self.before_write: Callable[[int, int], None] = nothing
        self.after_write: Callable[[int, int], None] = nothing

    def pwrite(self, fd: int, data: Buffer, offset: int) -> None:
        self.before_write(fd, offset)
        super().pwrite(fd, data, offset)
        self.after_write(fd, offset)


class Pair:
    """A source and a follower of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = SourceDatabase(folder / "source.db")
        self.source.run("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
        self.disk = WatchedDisk()
        self.follower = FollowingDatabase(folder / "follower.db", self.source, self.disk)

    def reopen_follower(self) -> None:
        """Close it and open it again as a copy of what the source is now."""
        self.follower.close()
        for suffix in ("-wal", "-shm"):
            Path(f"{self.follower.path}{suffix}").unlink(missing_ok=True)
        self.follower = FollowingDatabase(self.follower.path, self.source, self.disk)

    def fill(self, *, rows: int, bytes_each: int = 900) -> Commit:
        """One commit that replaces all rows by `rows` new ones."""
        return self.source.run(
            "DELETE FROM t",
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
            f"INSERT INTO t SELECT i, randomblob({bytes_each}) FROM n",
        )

    def put(self, key: int) -> Commit:
        return self.source.run(f"REPLACE INTO t VALUES({key}, randomblob(50))")

    def count(self) -> int:
        ((rows,),) = self.follower.rows("SELECT count(*) FROM t")
        assert isinstance(rows, int)
        return rows

    def check(self) -> None:
        """The follower is sound to SQLite and, checkpointed, the same file."""
        assert self.follower.rows("PRAGMA integrity_check") == [("ok",)]
        assert self.follower.rows("SELECT * FROM t") == list(
            self.source.connection.execute("SELECT * FROM t")
        )
        assert self.follower.content() == self.source.content()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.follower.close()
    made.source.close()


def index_of(pair: Pair) -> bytes:
    """The `-shm` file without checkpoint state and lock bytes, which are SQLite's."""
    data = os.pread(pair.follower.files.shm_fd, 1 << 22, 0)
    return data[: 2 * INDEX_HEADER_BYTES] + data[136:]


def test_each_commit_is_seen_at_once(pair: Pair) -> None:
    for key in range(50):
        pair.follower.take(pair.put(key))
        assert pair.count() == key + 1
    pair.check()


def test_an_open_snapshot_stays_as_it_was(pair: Pair) -> None:
    """Not disturbed by commits, a VACUUM that cuts the file, nor a checkpoint beside it."""
    pair.follower.take(pair.fill(rows=300))
    old = connect(pair.follower.path, read_only=True)
    old.execute("BEGIN")
    before = old.execute("SELECT * FROM t").fetchall()
    pair.follower.take(pair.source.run("DELETE FROM t WHERE a % 7"))
    pair.follower.take(pair.source.vacuum())
    for mode in ("PASSIVE", "FULL", "RESTART", "TRUNCATE"):
        pair.follower.guard.set_busy_timeout(1)
        try:
            pair.follower.checkpoint(mode)
        except apsw.BusyError:
            assert mode != "PASSIVE"
    pair.follower.take(pair.put(5))
    assert old.execute("SELECT * FROM t").fetchall() == before
    assert old.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    old.execute("COMMIT")
    assert len(old.execute("SELECT * FROM t").fetchall()) == pair.count()
    old.close()
    pair.check()


@pytest.mark.parametrize("mode", ["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
def test_commits_go_on_after_a_checkpoint_of_any_mode(pair: Pair, mode: str) -> None:
    for key in range(12):
        pair.follower.take(pair.put(key * 100))
        frames, _ = pair.follower.checkpoint(mode)
        assert pair.follower.injector.wal_frames == frames
        assert pair.count() == key + 1
    pair.check()


def test_only_truncate_lets_the_wal_begin_anew(pair: Pair) -> None:
    """RESTART leaves the frame count in the header; TRUNCATE gives an empty WAL, new salts."""
    seen = set()
    for _ in range(3):
        pair.follower.take(pair.put(1))
        frames = pair.follower.injector.wal_frames
        pair.follower.checkpoint("RESTART")
        pair.follower.take(pair.put(1))
        assert pair.follower.injector.wal_frames > frames
        pair.follower.checkpoint("TRUNCATE")
        assert pair.follower.injector.wal_frames == 0
        pair.follower.take(pair.put(1))
        assert 1 <= pair.follower.injector.wal_frames <= frames
        header = os.pread(pair.follower.files.wal_fd, 32, 0)
        assert header[16:24] == os.pread(pair.follower.files.wal_fd, 8, frame_offset(1) + 8)
        seen.add(header[16:24])
    assert len(seen) == 3
    pair.check()


def test_a_large_commit_is_invisible_until_it_is_published(pair: Pair) -> None:
    """In pieces, past three blocks of the index, with readers looking after each piece."""
    pair.follower.take(pair.put(1))
    commit = pair.fill(rows=10_000, bytes_each=3500)
    assert len(commit.pages) > 2 * BLOCK_FRAMES
    injector = pair.follower.injector
    published = injector.wal_frames
    injector.begin()
    for first in range(0, len(commit.pages), 999):
        some = slice(first, first + 999)
        injector.append(commit.pgnos[some], commit.images[some])
        assert (pair.count(), injector.wal_frames) == (1, published)
    injector.publish(commit.page_count)
    assert pair.count() == 10_000
    pair.follower.take(pair.put(77))
    pair.check()


@pytest.mark.parametrize("published", [0, 1, 30, FIRST_BLOCK_FRAMES - 1, FIRST_BLOCK_FRAMES])
def test_an_aborted_commit_leaves_no_trace(pair: Pair, published: int) -> None:
    """Index and later commits are as if it had never begun, wherever in a block it ended.

    Method: publish up to that frame, abort a commit that reaches into the third block, and
    compare the used part of the index; then commit other pages and check everything.
    """
    filler = pair.put(1)
    while (frames := pair.follower.injector.wal_frames) < published:
        some = min(len(filler.pages), published - frames)
        images = dict(list(filler.pages.items())[-some:])
        pair.follower.take(Commit(images, filler.page_count))
    before = index_of(pair)
    injector = pair.follower.injector
    injector.begin()
    noise = [os.urandom(PAGE_SIZE)] * 1000
    for piece in range(9):
        injector.append(range(1 + piece, 1001 + piece), noise)
    injector.abort()
    assert injector.wal_frames == published
    used = len(before) if published else 2 * INDEX_HEADER_BYTES
    assert index_of(pair)[:used] == before[:used]
    injector.abort()  # nothing under way: does nothing

    pair.follower.take(merge([filler, pair.fill(rows=3000, bytes_each=3000), pair.put(9)]))
    assert pair.count() == 3000
    pair.check()


def test_an_aborted_commit_does_not_come_back(pair: Pair) -> None:
    """SQLite's own recovery finds the published commits in the WAL and nothing else.

    Method: copy file and WAL without the index, as after a crash, and open the copy.
    """
    pair.follower.take(pair.put(1))
    lost = pair.source.run("REPLACE INTO t VALUES(2, 2)")
    pair.follower.injector.begin()
    pair.follower.injector.append(lost.pgnos, lost.images)
    pair.follower.injector.abort()
    assert recovered_keys(pair) == [1]
    pair.follower.take(lost)
    assert recovered_keys(pair) == [1, 2]
    pair.follower.take_in_pieces(pair.fill(rows=5000, bytes_each=2000), 700)
    assert recovered_keys(pair) == list(range(1, 5001))
    pair.check()


def test_frames_of_a_commit_that_failed_do_not_come_back(pair: Pair) -> None:
    """Its frames were whole, commit mark and all, when its index entries could not be written."""
    pair.follower.take(pair.put(1))
    lost = pair.put(2)
    fail_at(pair, 2)
    with pytest.raises(Broken):
        pair.follower.take(lost)
    pair.disk.before_write = nothing
    assert recovered_keys(pair) == [1]
    pair.follower.take(lost)
    assert recovered_keys(pair) == [1, 2]
    pair.check()


def test_each_commit_counts_in_the_header(pair: Pair) -> None:
    """One more change, the commit's page count, and the checksum that SQLite goes on from.

    Method: SQLite writes behind an injected commit, and must find all of it on recovery.
    """
    for key in range(1, 6):
        change = header_of(pair).change
        take = pair.follower.take if key % 2 else partial(pair.follower.take_in_pieces, pages_max=1)
        take(pair.put(key))
        assert header_of(pair).change == change + 1
        writer = connect(pair.follower.path)
        writer.execute("UPDATE t SET b = 'by SQL'")
        writer.close()
        assert recovered_keys(pair) == list(range(1, key + 1))
        pair.follower.take(pair.source.run("UPDATE t SET b = 'by SQL'"))
    pair.check()


@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_commit_has_one_mark_at_its_end(pair: Pair, in_pieces: bool) -> None:
    """Else a crash could recover half of it. Method: read the page counts of all frames."""
    commit = pair.fill(rows=3000)
    assert len(commit.pages) > 600
    if in_pieces:
        pair.follower.take_in_pieces(commit, 300)
    else:
        pair.follower.take(commit)
    frames = range(1, pair.follower.injector.wal_frames + 1)
    wal = pair.follower.files.wal_fd
    counts = [int.from_bytes(os.pread(wal, 4, frame_offset(frame) + 4), "big") for frame in frames]
    assert counts == [0] * (len(counts) - 1) + [commit.page_count]
    pair.check()


def header_of(pair: Pair) -> WalIndexHeader:
    """The WAL-index header as it stands."""
    return decode_index_prefix(os.pread(pair.follower.files.shm_fd, 136, 0))


@pytest.mark.parametrize("times", [2, 3, 4, 5])  # one of them fills the last 8-byte word
def test_slots_of_the_wal_before_mislead_no_one(pair: Pair, times: int) -> None:
    """A new WAL clears the first block: else old slots would lead to older frames.

    Method: in the first WAL a page is in frames 1 to 12, in the second in frame 12 and more, so
    an old slot for frame 12 would stand behind the new ones. Each WAL is one commit: SQLite
    itself clears what is beyond the last commit.
    """
    injector = pair.follower.injector
    last = pair.fill(rows=20)
    pair.follower.take(last)
    for keys in ([1] * 12, [20] * 11 + [1] * times):
        pair.follower.checkpoint()
        injector.begin()
        for key in keys:
            commit = pair.source.run(f"UPDATE t SET b = randomblob(900) WHERE a = {key}")
            injector.append(commit.pgnos, commit.images)
        injector.publish(last.page_count)
        assert injector.wal_frames == len(keys)
    pair.check()


def test_a_new_wal_has_salts_of_its_own(pair: Pair) -> None:
    """Also when the one before was given up: its frames must not pass for the new one's."""
    salts = set()
    for _ in range(4):
        commit = pair.put(1)
        pair.follower.injector.begin()
        salts.add(os.pread(pair.follower.files.wal_fd, 8, 16))
        pair.follower.injector.append(commit.pgnos, commit.images)
        pair.follower.injector.abort()
    assert len(salts) == 4


def test_a_damaged_index_is_refused_and_the_lock_let_go(pair: Pair) -> None:
    """A backfill count without frames, as a kill in the midst of a checkpoint could leave it."""
    os.pwrite(pair.follower.files.shm_fd, b"\x05", 96)
    commit = pair.put(1)
    with pytest.raises(DatabaseDamaged, match="checkpointed"):
        pair.follower.take(commit)
    os.pwrite(pair.follower.files.shm_fd, b"\x00", 96)
    pair.follower.take(commit)
    pair.check()


def recovered_keys(pair: Pair) -> list[int]:
    """The rows' keys that SQLite finds when it has to rebuild the index from the WAL."""
    copy = pair.folder / "copy.db"
    for suffix in ("", "-wal", "-shm"):
        Path(f"{copy}{suffix}").unlink(missing_ok=True)
    files = pair.follower.files
    copy.write_bytes(os.pread(files.db_fd, 1 << 26, 0))
    Path(f"{copy}-wal").write_bytes(os.pread(files.wal_fd, 1 << 26, 0))
    connection = connect(copy)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    keys = [int(key) for (key,) in connection.execute("SELECT a FROM t ORDER BY a")]
    connection.close()
    return keys


def test_commits_that_cut_the_file_short(pair: Pair) -> None:
    """The guard must not compare an older page 1 with the new page count.

    Method: the guard first sees a large database, then commits that leave little of it.
    """
    pair.fill(rows=3000)
    pair.reopen_follower()
    for rows in (2000, 10, 500, 1):
        pair.follower.take(pair.fill(rows=rows))
        pair.follower.take(pair.source.vacuum())
        pair.follower.take(pair.put(7))
        assert pair.follower.rows("PRAGMA page_count") == [
            (pair.source.connection.pragma("page_count"),)
        ]
    pair.check()


def test_several_commits_as_one(pair: Pair) -> None:
    """Merged, the last image of each page wins, also when the file shrinks within them."""
    for _ in range(5):
        grown, shrunk = pair.fill(rows=400), pair.source.run("DELETE FROM t WHERE a > 3")
        pair.follower.take(merge([grown, shrunk, pair.source.vacuum(), pair.put(3)]))
        assert pair.count() == 3
    pair.check()


def test_the_last_image_of_a_page_counts_within_a_commit(pair: Pair) -> None:
    commits = [pair.put(1), pair.put(2), pair.put(3)]
    injector = pair.follower.injector
    injector.begin()
    for commit in commits:
        injector.append(commit.pgnos, commit.images)
    injector.publish(commits[-1].page_count)
    assert pair.count() == 3
    pair.check()


def test_a_wal_of_many_blocks_with_hot_and_cold_pages(pair: Pair) -> None:
    """Pages found at their newest frame whether it is in the first block or the fifth."""
    pair.follower.take(pair.fill(rows=1500, bytes_each=3000))
    dice = random.Random(7)
    shm = pair.follower.files.shm_fd
    while pair.follower.injector.wal_frames < 4 * BLOCK_FRAMES + 500:
        some = [pair.put(dice.choice((1, 2, dice.randrange(1500)))) for _ in range(20)]
        for commit in some[:10]:
            pair.follower.take(commit)
        pair.follower.take(merge(some[10:]))
        assert os.fstat(shm).st_size % BLOCK_BYTES == 0, "readers map whole blocks"
    pair.follower.take(pair.fill(rows=1600, bytes_each=3000))
    pair.check()


def test_readers_find_whole_regions_where_memory_pages_are_large(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 64 KiB pages SQLite maps two blocks at once, and a reader does not extend the file."""
    monkeypatch.setattr("engine.inject._REGION_BYTES", 2 * BLOCK_BYTES)
    shm = pair.follower.files.shm_fd
    pair.follower.take(pair.fill(rows=9000, bytes_each=3500))
    assert pair.follower.injector.wal_frames > 2 * BLOCK_FRAMES
    assert os.fstat(shm).st_size % (2 * BLOCK_BYTES) == 0
    pair.check()


def test_the_lock_page_is_never_written(pair: Pair) -> None:
    commit = pair.put(1)
    with_lock = Commit({LOCK_PAGE: bytes(PAGE_SIZE), **commit.pages}, commit.page_count)
    pair.follower.take(with_lock)
    assert pair.follower.injector.wal_frames == len(commit.pages)
    pair.check()


def test_writes_by_sqlite_in_between_are_noticed(pair: Pair) -> None:
    """The follower's file may be written by SQL too (a node that becomes a primary)."""
    pair.follower.take(pair.fill(rows=50))
    writer = connect(pair.follower.path)
    for _ in range(40):
        writer.execute("UPDATE t SET b = randomblob(900) WHERE a = 1")
        # The source changes the same page, and its image replaces the other one.
        pair.follower.take(pair.source.run("UPDATE t SET b = randomblob(900) WHERE a = 1"))
    assert pair.follower.injector.wal_frames >= 80
    writer.close()
    pair.check()


def test_a_lock_held_by_someone_else_is_reported(pair: Pair) -> None:
    writer = connect(pair.follower.path)
    writer.execute("BEGIN IMMEDIATE")
    pair.follower.guard.set_busy_timeout(1)
    commit = pair.put(1)
    with pytest.raises(apsw.BusyError):
        pair.follower.take(commit)
    writer.execute("ROLLBACK")
    writer.close()
    pair.follower.take(commit)
    pair.check()


def test_nothing_shows_before_everything_stands(pair: Pair) -> None:
    """At every single write of a commit, a new reader sees the old state, whole.

    Method: look through SQLite after each write of the injector. The only moment when a reader
    has to wait is between the two copies of the header.
    """
    pair.follower.take(pair.fill(rows=100))
    seen: list[tuple[int, int]] = []
    shm = pair.follower.files.shm_fd

    def look(fd: int, offset: int) -> None:
        if (fd, offset) == (shm, INDEX_HEADER_BYTES):
            assert seen, "the header is the last thing written"
            assert set(seen) == {(100, 1)}
            return
        ((rows,),) = pair.follower.rows("SELECT count(*) FROM t")
        ((ok,),) = pair.follower.rows("SELECT integrity_check = 'ok' FROM pragma_integrity_check")
        assert isinstance(rows, int)
        assert isinstance(ok, int)
        seen.append((rows, ok))

    pair.disk.after_write = look
    pair.follower.take(pair.fill(rows=2000, bytes_each=3000))
    pair.disk.after_write = nothing
    assert seen.pop() == (2000, 1)
    assert len(seen) > 10
    pair.check()


def test_header_copies_are_written_second_one_first(pair: Pair) -> None:
    shm, order = pair.follower.files.shm_fd, []
    pair.disk.before_write = lambda fd, offset: order.append((fd == shm, offset))
    pair.follower.take(pair.put(1))
    assert order[-2:] == [(True, INDEX_HEADER_BYTES), (True, 0)]
    assert (True, 0) not in order[:-2]


class Broken(OSError):
    """A disk fault made here."""


def fail_at(pair: Pair, number: int) -> list[tuple[int, int]]:
    """Let the write with that number fail; returns the list of writes, which grows."""
    writes: list[tuple[int, int]] = []

    def count(fd: int, offset: int) -> None:
        writes.append((fd, offset))
        if len(writes) == number:
            raise Broken(errno.ENOSPC, "no space left on device")

    pair.disk.before_write = count
    return writes


@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_failed_write_leaves_the_commit_undone(pair: Pair, in_pieces: bool) -> None:
    """Whichever write fails: readers see the old state, and the next try succeeds.

    A failure of the header itself leaves the outcome open, and must say so.

    Method: let the first write fail, then the second, and so on until it is the header's.
    """
    take = pair.follower.take
    if in_pieces:
        take = partial(pair.follower.take_in_pieces, pages_max=7)
    pair.follower.take(pair.fill(rows=60))
    header_at = (pair.follower.files.shm_fd, INDEX_HEADER_BYTES)
    for number in range(1, 50):
        commit = pair.fill(rows=60)
        rows = pair.follower.rows("SELECT * FROM t")
        writes = fail_at(pair, number)
        with pytest.raises((Broken, DatabaseDamaged)) as caught:
            take(commit)
        pair.disk.before_write = nothing
        if writes[-1] == header_at:
            assert caught.type is DatabaseDamaged
            assert "reopen" in str(caught.value)
            return
        assert caught.type is Broken
        pair.follower.injector.abort()
        assert recovered_keys(pair) == list(range(1, 61))
        assert pair.follower.rows("SELECT * FROM t") == rows
        pair.follower.take(commit)
        assert slots_used(pair) == min(pair.follower.injector.wal_frames, FIRST_BLOCK_FRAMES)
    pytest.fail("the header was never reached")


def test_a_failed_abort_still_lets_the_write_lock_go(pair: Pair) -> None:
    """And what it left in the index is cleaned up before the next commit."""
    pair.follower.take(pair.put(1))
    commit = pair.fill(rows=300)
    pair.follower.injector.begin()
    pair.follower.injector.append(commit.pgnos, commit.images)
    fail_at(pair, 1)
    with pytest.raises(Broken):
        pair.follower.injector.abort()
    pair.disk.before_write = nothing
    pair.follower.take(commit)
    assert slots_used(pair) == pair.follower.injector.wal_frames
    pair.check()


def slots_used(pair: Pair) -> int:
    """Slots that are taken in the first block's hash."""
    data = os.pread(pair.follower.files.shm_fd, BLOCK_BYTES, 0)
    return sum(slot > 0 for (slot,) in struct.iter_unpack("=H", data[SLOTS_AT:]))


def test_a_database_with_other_pages_is_refused(tmp_path: Path) -> None:
    small = apsw.Connection(str(tmp_path / "f.db"))
    small.pragma("page_size", 1024)
    small.pragma("journal_mode", "wal")
    small.execute("CREATE TABLE t(a)")
    shm = os.open(f"{tmp_path}/f.db-shm", os.O_RDONLY)
    with pytest.raises(DatabaseDamaged, match="1024"):
        decode_index_prefix(os.pread(shm, 136, 0))
    small.close()
    os.close(shm)


def test_page_checksums_follow_the_injected_commits(pair: Pair) -> None:
    """Kept along, and read from the checkpointed file: the same value."""
    pair.follower.checkpoint()
    size = os.fstat(pair.follower.files.db_fd).st_size
    kept = PageChecksums.from_file(pair.follower.files.db_fd, size // PAGE_SIZE)
    for step in range(30):
        commit = pair.fill(rows=20 * (step % 4) + 1)
        commits = [commit, pair.source.vacuum()] if step % 3 == 0 else [commit]
        for one in commits:
            kept.replace(one.pgnos, one.images, one.page_count)
            pair.follower.take(one)
    pair.check()
    read = PageChecksums.from_file(pair.follower.files.db_fd, kept.page_count)
    assert read.rolling == kept.rolling
