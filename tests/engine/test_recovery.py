"""Whatever is left of the files, recovery gives the log's head exactly, or refuses."""

import random
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from engine.checksum import PageChecksums
from engine.errors import DatabaseDamaged, PositionTrimmed, PositionUnknown
from engine.files import Disk
from engine.limits import SqlLimits
from engine.live import LiveDatabase, Role
from engine.log import CommitLog
from engine.recovery import BASE_NAME, DB_NAME, LOG_NAME, Base, read_base, recover, write_base
from engine.resources import Resources
from engine.threads import Threads
from engine.transaction import steps_of
from engine.wal import PAGE_SIZE
from primary.database import create_database
from primary.writer import Writer
from proto.api import Statement
from proto.tokens import Bookmark, CommitToken

KEY = uuid.UUID(int=7).bytes
DISK = Disk()


class Source:
    """A folder with a history of commits, and the state after each of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        io = Threads("io", 1)
        resources = Resources(
            disk=DISK,
            limits=SqlLimits(),
            io=io,
            readers=io,
            query_deadline_s=1.0,
            log_bytes_max=1 << 30,
        )
        create_database(folder, KEY, resources, time_ms=0)
        io.close()
        self.log = CommitLog.open(folder / LOG_NAME, KEY, DISK, bytes_max=1 << 30)
        self.live = LiveDatabase.open(
            folder, KEY, self.log, role=Role.WRITES, disk=DISK, limits=SqlLimits()
        )
        self.writer = Writer(self.live, self.log)
        self.states: dict[int, int] = {1: self.live.pages.rolling}

    def write(self, *texts: str) -> None:
        steps = steps_of([Statement(text) for text in texts])
        self.writer.execute(steps, None, budget_s=60)
        self._flushed()

    def vacuum(self) -> None:
        self.live.writer.sandbox.connection.execute("SELECT 1")
        self.writer.vacuum(after_part=lambda: None)
        self._flushed()

    def _flushed(self) -> None:
        self.log.mark_durable(self.log.flush())
        self.states[self.log.head.seq] = self.live.pages.rolling

    def advance_base(self) -> None:
        assert self.live.checkpoint(restart=True).is_whole
        base = Base(self.log.head, self.live.pages.rolling, self.live.pages.page_count)
        self.live.advance_base(base)

    def copy(self, target: Path) -> Path:
        """What a kill would leave now."""
        shutil.copytree(self.folder, target)
        return target

    def close(self) -> None:
        self.live.close()
        self.log.close()


@pytest.fixture
def source(tmp_path: Path) -> "Source":
    made = Source(tmp_path / "source")
    made.write("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
    for _ in range(20):
        made.write("INSERT INTO t (x) VALUES (randomblob(3000)), (randomblob(3000))")
    return made


def recovered(folder: Path) -> tuple[Base, PageChecksums]:
    log = CommitLog.open(folder / LOG_NAME, KEY, DISK, bytes_max=1 << 30)
    try:
        return recover(folder, KEY, log, DISK)
    finally:
        log.close()


def check(folder: Path, source: Source, seq: int) -> None:
    """The folder recovers to the state after commit `seq`, to the byte, and SQLite agrees."""
    base, pages = recovered(folder)
    assert base.position.seq == seq
    assert base.checksum == pages.rolling == source.states[seq]
    assert (folder / DB_NAME).stat().st_size == base.page_count * PAGE_SIZE
    assert read_base(folder, KEY, DISK) == base
    assert not list(folder.glob("*-wal")) + list(folder.glob("*-shm"))
    connection = apsw.Connection(str(folder / DB_NAME))
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def no_change(folder: Path) -> None:
    """As it is."""


def lose_wal(folder: Path) -> None:
    """The WAL was in the cache only."""
    for path in folder.glob(DB_NAME + "-*"):
        path.unlink()


def lose_file(folder: Path) -> None:
    """All of the file: its log reaches back to the beginning."""
    (folder / DB_NAME).unlink()
    (folder / BASE_NAME).unlink()


def tear_checkpoint(folder: Path) -> None:
    """A checkpoint that was cut short: some pages of the file are newer than others."""
    connection = apsw.Connection(str(folder / DB_NAME))
    connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.close()
    rng = random.Random(1)
    with (folder / DB_NAME).open("r+b") as file:
        size = file.seek(0, 2)
        for at in range(0, size, PAGE_SIZE):
            if rng.random() < 0.4:
                file.seek(at)
                file.write(rng.randbytes(PAGE_SIZE))


def longer_file(folder: Path) -> None:
    """Pages behind the end, of a commit that never became durable."""
    with (folder / DB_NAME).open("ab") as file:
        file.write(b"\xee" * (5 * PAGE_SIZE + 100))


@pytest.mark.parametrize(
    "left", [no_change, lose_wal, lose_file, tear_checkpoint, longer_file], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("has_base", [False, True])
@pytest.mark.parametrize("vacuums", [False, True])
def test_recovery_is_exact(
    source: Source,
    tmp_path: Path,
    *,
    left: Callable[[Path], None],
    has_base: bool,
    vacuums: bool,
) -> None:
    """With an old base and a newer one, after a VACUUM or not, whatever became of the file."""
    if has_base:
        source.advance_base()
        source.write("UPDATE t SET x = randomblob(100) WHERE id % 3 = 0")
        source.live.checkpoint()
    if vacuums:
        source.write("DELETE FROM t WHERE id % 4")
        source.vacuum()
    source.write("INSERT INTO t (x) VALUES ('the last')")
    folder = source.copy(tmp_path / "copy")
    head = source.log.head.seq
    if left is tear_checkpoint and has_base:
        # Pages that no record since the base holds must be whole: tear only below that.
        (folder / BASE_NAME).unlink()
    left(folder)
    check(folder, source, head)
    check(folder, source, head)  # once more: nothing is left to do
    source.close()


def test_an_old_base_is_safe(source: Source, tmp_path: Path) -> None:
    """Patching from an earlier position gives the same file: page images are idempotent."""
    before = (source.folder / BASE_NAME).read_bytes()
    source.advance_base()
    source.write("DELETE FROM t WHERE id < 5")
    source.advance_base()
    folder = source.copy(tmp_path / "copy")
    (folder / BASE_NAME).write_bytes(before)
    check(folder, source, source.log.head.seq)
    source.close()


@pytest.mark.parametrize("cut", [1, 50, 97, 2000, 5000])
def test_a_torn_tail_of_the_log_ends_before_it(source: Source, tmp_path: Path, cut: int) -> None:
    """What was not whole was told to nobody: the state before it."""
    source.log.close()
    (tail,) = sorted((source.folder / LOG_NAME).glob("*.log"))[-1:]
    folder = source.copy(tmp_path / "copy")
    copied = folder / LOG_NAME / tail.name
    for index in (folder / LOG_NAME).glob("*.idx"):
        index.unlink()
    copied.write_bytes(copied.read_bytes()[:-cut])
    log = CommitLog.open(folder / LOG_NAME, KEY, DISK, bytes_max=1 << 30)
    seq = log.head.seq
    log.close()
    assert seq < max(source.states)
    check(folder, source, seq)
    source.live.close()


def test_a_base_that_the_log_does_not_reach_is_refused(source: Source) -> None:
    """Ahead of the log, of another history, or older than the log: no guess."""
    head = source.log.head
    source.close()
    for position, error in (
        (Bookmark(CommitToken(1, head.seq + 5), head.digest), PositionUnknown),
        (Bookmark(CommitToken(1, head.seq - 5), head.digest), PositionUnknown),
        (Bookmark(CommitToken(1, 0), head.digest), (PositionUnknown, PositionTrimmed)),
    ):
        write_base(source.folder, KEY, Base(position, 0, 1), DISK)
        with pytest.raises(error):
            recovered(source.folder)


def flip(path: Path) -> None:
    """Change one bit of a page that no record since the base holds."""
    with path.open("r+b") as file:
        file.seek(5 * PAGE_SIZE + 77)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))


def shorten(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(3 * PAGE_SIZE)


def without_its_first_commits(source: Source, target: Path) -> Path:
    """The database as it is, with a log that begins at its base: the rest was trimmed."""
    folder = source.copy(target)
    base = read_base(folder, KEY, DISK)
    assert base is not None
    shutil.rmtree(folder / LOG_NAME)
    CommitLog.create(folder / LOG_NAME, KEY, DISK, after=base.position, bytes_max=1 << 30).close()
    return folder


@pytest.mark.parametrize("damage", [flip, shorten])
def test_damage_that_the_log_cannot_mend_is_found(
    source: Source, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """A wrong page or a short file under a trimmed log: refused, whatever SQLite would say."""
    source.advance_base()
    folder = without_its_first_commits(source, tmp_path / "trimmed")
    damage(folder / DB_NAME)
    with pytest.raises(DatabaseDamaged, match=r"do not add up|ends after 3 pages"):
        recovered(folder)
    source.close()


@pytest.mark.parametrize("damage", [flip, shorten, Path.unlink])
@pytest.mark.parametrize("name", [DB_NAME, BASE_NAME])
def test_a_whole_log_mends_any_damage(
    source: Source, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    """The log is the truth: from the first commit on it makes file and base anew."""
    source.advance_base()
    source.write("INSERT INTO t (x) VALUES (1)")
    folder = source.copy(tmp_path / "copy")
    if name == BASE_NAME and damage is not Path.unlink:
        (folder / name).write_bytes(b"not a base")
    else:
        damage(folder / name)
    check(folder, source, source.log.head.seq)
    source.close()


def test_every_flipped_bit_of_the_base_is_found(source: Source) -> None:
    source.close()
    path = source.folder / BASE_NAME
    good = path.read_bytes()
    for bit in range(8 * len(good)):
        changed = bytearray(good)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(DatabaseDamaged, match="damaged"):
            read_base(source.folder, KEY, DISK)
    path.write_bytes(good[:-1])
    with pytest.raises(DatabaseDamaged):
        read_base(source.folder, KEY, DISK)


def test_a_base_of_another_database_is_refused(source: Source) -> None:
    source.close()
    with pytest.raises(DatabaseDamaged, match="belongs to"):
        read_base(source.folder, uuid.UUID(int=8).bytes, DISK)


def test_without_base_and_without_the_first_commits_nothing_is_made_up(tmp_path: Path) -> None:
    after = Bookmark(CommitToken(1, 41), bytes(16))
    log = CommitLog.create(tmp_path / LOG_NAME, KEY, DISK, after=after, bytes_max=1 << 30)
    with pytest.raises(DatabaseDamaged, match="no base"):
        recover(tmp_path, KEY, log, DISK)
    log.close()
