"""What a commit changed, read from the WAL: replayed elsewhere it gives the same file, always."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.capture import PageImages, WalCapture
from engine.checksum import PageChecksums
from engine.errors import DatabaseDamaged
from engine.files import Disk, HeldFiles
from engine.limits import SqlLimits
from engine.sandbox import Sandbox
from engine.wal import PAGE_SIZE

_WHOLE = 1 << 20  # frames: more than any commit here


class Captured:
    """A writer, and a file in memory that is made of captured pages alone."""

    def __init__(self, path: Path, *, cache_pages: int = 0) -> None:
        self.sandbox = Sandbox.open_writer(path, SqlLimits())
        self.connection = self.sandbox.connection
        self.connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 1)  # for VACUUM
        self.connection.authorizer = None
        if cache_pages:
            self.connection.pragma("cache_size", cache_pages)
        self.connection.execute("SELECT 1 FROM sqlite_schema").fetchall()
        self.files = HeldFiles(path, Disk())
        self.capture = WalCapture(self.files, Disk())
        self.end = 0
        self.salts = b""
        self.connection.set_wal_hook(self._on_wal)
        self.path = path
        self.pages = {1: path.read_bytes()[:PAGE_SIZE]}
        self.page_count = 1
        self.checksums = PageChecksums()
        self.checksums.replace([1], [self.pages[1]], 1)

    def _on_wal(self, _connection: apsw.Connection, _name: str, frames: int) -> int:
        self.end = frames
        return apsw.SQLITE_OK

    def commit(self, sql: str, *, pieces: int = 0) -> int:
        """Run one transaction and take over its pages; how many frames it wrote."""
        self.end = 0
        self.connection.execute(sql)
        if self.end == 0:
            return 0
        salts = os.pread(self.files.wal_fd, 8, 16)
        frames = self.end - self.capture.frames_captured if salts == self.salts else self.end
        self.salts = salts
        images = self.capture.read(self.end, frames_max=pieces or _WHOLE)
        assert (images is None) == (frames > (pieces or _WHOLE))
        if images is not None:
            self._take(images)
        else:
            for piece in self.capture.read_in_pieces(self.end, pages_max=pieces):
                assert len(piece.pgnos) <= pieces
                self._take(piece)
        assert self.capture.frames_captured == self.end
        return frames

    def _take(self, images: PageImages) -> None:
        assert len(set(images.pgnos)) == len(images.pgnos) == len(images.pages)
        assert max(images.pgnos, default=0) <= images.page_count
        self.page_count = images.page_count
        self.pages |= zip(images.pgnos, map(bytes, images.pages), strict=True)
        self.pages = {pgno: page for pgno, page in self.pages.items() if pgno <= images.page_count}
        self.checksums.replace(images.pgnos, images.pages, images.page_count)

    def check(self) -> None:
        """The captured pages are SQLite's own file, after a checkpoint of all of it."""
        self.connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE)
        made = b"".join(self.pages[pgno] for pgno in range(1, self.page_count + 1))
        assert made == self.path.read_bytes()[: len(made)]
        fresh = PageChecksums.from_file(self.files.db_fd, self.page_count)
        assert fresh.rolling == self.checksums.rolling

    def close(self) -> None:
        self.connection.close()
        self.files.close()


@pytest.fixture
def captured(tmp_path: Path) -> Iterator[Captured]:
    made = Captured(tmp_path / "db")
    made.commit("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
    yield made
    made.check()
    made.close()


ROWS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) "


def insert(rows: int, size: int = 900) -> str:
    return ROWS.format(rows) + f"INSERT INTO t (x) SELECT randomblob({size}) FROM n"


def test_each_commit_alone(captured: Captured) -> None:
    for number in range(30):
        assert captured.commit(insert(number + 1)) > 0
    captured.check()


def test_several_statements_are_one_commit(captured: Captured) -> None:
    frames = captured.commit(f"BEGIN; {insert(20)}; UPDATE t SET x = 1; DELETE FROM t; COMMIT")
    assert 0 < frames < 40


def test_a_commit_that_changes_nothing_writes_no_frame(captured: Captured) -> None:
    assert captured.commit("UPDATE t SET x = 1 WHERE id = -1") == 0


def test_a_rollback_leaves_frames_that_are_not_taken(tmp_path: Path) -> None:
    """Spilled frames of a transaction that was undone stand in the WAL, behind the commit."""
    made = Captured(tmp_path / "db", cache_pages=10)
    made.commit("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
    made.commit(insert(10))
    size = (tmp_path / "db-wal").stat().st_size
    made.connection.execute(f"BEGIN; {insert(400)}")
    assert (tmp_path / "db-wal").stat().st_size > size, "the test wants a spill"
    made.connection.execute("ROLLBACK")
    made.check()
    made.commit(insert(3))
    made.commit("UPDATE t SET x = 'short'")
    made.check()
    made.close()


@pytest.mark.parametrize("pieces", [0, 7])
def test_spilled_pages_count_once_with_their_last_image(tmp_path: Path, pieces: int) -> None:
    """A transaction larger than the cache writes some pages several times."""
    made = Captured(tmp_path / "db", cache_pages=10)
    made.commit("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
    made.commit("CREATE INDEX i ON t (x)")
    frames = made.commit(
        f"BEGIN; {insert(300)}; UPDATE t SET x = randomblob(400) WHERE id % 3; "
        f"{insert(50)}; COMMIT",
        pieces=pieces,
    )
    assert frames > made.page_count, "the test wants pages written twice"
    made.check()
    made.close()


def test_vacuum_drops_pages_beyond_the_end(captured: Captured) -> None:
    captured.commit(insert(200))
    captured.commit("DELETE FROM t WHERE id % 20")
    before = captured.page_count
    captured.commit("VACUUM")
    assert captured.page_count < before / 4
    captured.check()
    captured.commit(insert(100))


@pytest.mark.parametrize("pieces", [0, 7])
def test_spilled_pages_beyond_the_end_are_dropped(tmp_path: Path, pieces: int) -> None:
    """A transaction that grew the file, spilled, and cut it again leaves frames of no page."""
    made = Captured(tmp_path / "db", cache_pages=10)
    made.connection.pragma("auto_vacuum", 1)
    made.commit("VACUUM")
    made.commit("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
    frames = made.commit(f"BEGIN; {insert(400)}; DELETE FROM t WHERE id > 5; COMMIT", pieces=pieces)
    assert frames > 10 * made.page_count, "the test wants a spill"
    made.check()
    made.close()


def test_a_wal_that_begins_anew_is_noticed(captured: Captured) -> None:
    """After a whole checkpoint the next write starts at frame 1 again."""
    for size in (1, 5, 60, 2, 200, 1):
        captured.commit(insert(size))
        captured.connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_RESTART)
    captured.check()


def test_a_new_wal_whose_first_commit_is_larger_than_the_old_wal(captured: Captured) -> None:
    """The frame count alone goes on growing; only the salts tell."""
    captured.commit(insert(2))
    old = captured.end
    captured.connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_RESTART)
    frames = captured.commit(insert(300))
    assert captured.end == frames > old


def test_a_wal_cut_to_nothing_by_a_truncating_checkpoint(captured: Captured) -> None:
    captured.commit(insert(50))
    captured.connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE)
    captured.commit(insert(2))
    captured.connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE)
    captured.commit(insert(80))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    cache_pages=st.sampled_from([0, 10]),
    pieces=st.sampled_from([0, 1, 3, 50]),
)
def test_any_history(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cache_pages: int, pieces: int
) -> None:
    """Random transactions, rollbacks, VACUUMs and checkpoints; in pieces or in one."""
    rng = random.Random(seed)
    made = Captured(tmp_path_factory.mktemp("any") / "db", cache_pages=cache_pages)
    made.commit("CREATE TABLE t (id INTEGER PRIMARY KEY, x)", pieces=pieces)
    for _ in range(12):
        kind = rng.randrange(8)
        if kind < 3:
            made.commit(insert(rng.randrange(1, 150), rng.randrange(1, 3000)), pieces=pieces)
        elif kind == 3:
            made.commit(f"DELETE FROM t WHERE id % {rng.randrange(2, 5)} = 0", pieces=pieces)
        elif kind == 4:
            made.commit("VACUUM", pieces=pieces)
        elif kind == 5:
            made.connection.execute(f"BEGIN; {insert(rng.randrange(1, 200))}; ROLLBACK")
        elif kind == 6:
            made.commit("UPDATE t SET x = randomblob(length(x) / 2)", pieces=pieces)
        else:
            mode = rng.choice([apsw.SQLITE_CHECKPOINT_PASSIVE, apsw.SQLITE_CHECKPOINT_RESTART])
            made.connection.wal_checkpoint("main", mode)
    made.check()
    made.close()


def test_a_wal_that_is_not_what_was_reported_is_refused(captured: Captured) -> None:
    """A file cut or overwritten under us: an error that names it, never wrong pages."""
    captured.end = 0
    captured.connection.execute(insert(5))
    beyond = WalCapture(captured.files, Disk())
    with pytest.raises(DatabaseDamaged, match="frame"):
        beyond.read(captured.end + 400, frames_max=_WHOLE)
    again = WalCapture(captured.files, Disk())
    with pytest.raises(DatabaseDamaged):
        again.read(captured.end - 1, frames_max=_WHOLE)
    images = captured.capture.read(captured.end, frames_max=_WHOLE)
    assert images is not None
    captured._take(images)
    with pytest.raises(DatabaseDamaged, match="frame"):  # neither gone on nor begun anew
        captured.capture.read(captured.end, frames_max=_WHOLE)
    with pytest.raises(DatabaseDamaged, match="frame"):
        captured.capture.read(captured.end + 400, frames_max=_WHOLE)
