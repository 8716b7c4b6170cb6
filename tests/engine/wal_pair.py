"""A SQLite database that changes, and a second one that follows it by injection alone.

`SourceDatabase` is written through SQLite and gives each commit's pages, read from its
WAL. `FollowingDatabase` starts as a copy of its file. Both are real files with real
connections; the reading of the WAL here is a few plain lines of its own, so that it can be
wrong in other ways than the code under test.
"""

import os
import shutil
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import apsw

from engine.files import Disk, HeldFiles
from engine.inject import Injector

PAGE_BYTES = 4096
FRAME = struct.Struct(">IIII")
CHECKPOINT_MODES = {
    "PASSIVE": apsw.SQLITE_CHECKPOINT_PASSIVE,
    "FULL": apsw.SQLITE_CHECKPOINT_FULL,
    "RESTART": apsw.SQLITE_CHECKPOINT_RESTART,
    "TRUNCATE": apsw.SQLITE_CHECKPOINT_TRUNCATE,
}


class Commit(NamedTuple):
    """What one commit (or several, merged) left: page images and the page count."""

    pages: dict[int, bytes]
    page_count: int

    @property
    def pgnos(self) -> list[int]:
        return list(self.pages)

    @property
    def images(self) -> list[bytes]:
        return list(self.pages.values())


def merge(commits: Sequence[Commit]) -> Commit:
    """One commit with the effect of all of them."""
    pages: dict[int, bytes] = {}
    for commit in commits:
        pages.update(commit.pages)
    last = commits[-1].page_count
    return Commit({pgno: page for pgno, page in pages.items() if pgno <= last}, last)


def connect(path: Path, *, read_only: bool = False) -> apsw.Connection:
    """A connection that never checkpoints by itself, nor when it closes."""
    flags = apsw.SQLITE_OPEN_READONLY if read_only else 0
    flags = flags or apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = apsw.Connection(str(path), flags=flags)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.set_busy_timeout(2000)
    if not read_only:
        connection.pragma("journal_mode", "wal")
    connection.pragma("wal_autocheckpoint", 0)
    connection.pragma("synchronous", "OFF")
    return connection


class SourceDatabase:
    """Written by SQL; tells what each commit wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection = connect(path)
        self.connection.set_wal_hook(self._on_commit)
        self._frames = 0
        self._read = 0
        self._salts = b""
        self.connection.execute("CREATE TABLE began(at INTEGER PRIMARY KEY)")
        self._wal_fd = os.open(f"{path}-wal", os.O_RDONLY)
        self._db_fd = os.open(path, os.O_RDONLY)  # held: closing it would drop SQLite's locks
        self.collect()

    def _on_commit(self, _connection: apsw.Connection, _name: str, frames: int) -> int:
        self._frames = frames
        return apsw.SQLITE_OK

    def run(self, *statements: str) -> Commit:
        """One transaction; what it wrote."""
        self.connection.execute("BEGIN IMMEDIATE")
        for statement in statements:
            self.connection.execute(statement)
        self.connection.execute("COMMIT")
        return self.collect()

    def vacuum(self) -> Commit:
        self.connection.execute("VACUUM")
        return self.collect()

    def collect(self) -> Commit:
        """The pages of the commit that just ended."""
        header = os.pread(self._wal_fd, 32, 0)
        if header[16:24] != self._salts:
            self._salts = header[16:24]
            self._read = 0
        pages: dict[int, bytes] = {}
        page_count = 0
        while self._read < self._frames:
            offset = 32 + self._read * (24 + PAGE_BYTES)
            data = os.pread(self._wal_fd, 24 + PAGE_BYTES, offset)
            pgno, page_count, *_ = FRAME.unpack_from(data)
            assert data[8:16] == self._salts
            pages[pgno] = data[24:]
            self._read += 1
        assert page_count, "the last frame of a commit carries the page count"
        return Commit({n: page for n, page in pages.items() if n <= page_count}, page_count)

    def checkpoint(self, mode: str = "TRUNCATE") -> None:
        self.connection.wal_checkpoint(mode=CHECKPOINT_MODES[mode])

    def content(self) -> bytes:
        """The file, everything checkpointed into it."""
        self.checkpoint()
        return os.pread(self._db_fd, os.fstat(self._db_fd).st_size, 0)

    def close(self) -> None:
        self.connection.close()
        os.close(self._wal_fd)
        os.close(self._db_fd)


class FollowingDatabase:
    """Changed by injection only, read through SQLite."""

    def __init__(self, path: Path, source: SourceDatabase, disk: Disk | None = None) -> None:
        source.checkpoint()
        shutil.copyfile(source.path, path)
        self.path = path
        self.guard = connect(path)
        self.guard.execute("BEGIN IMMEDIATE")  # makes the -wal and -shm files
        self.guard.execute("ROLLBACK")
        self.reader = connect(path, read_only=True)
        self.files = HeldFiles(path, Disk())
        self.injector = Injector(self.guard, self.files, disk)

    def take(self, commit: Commit) -> None:
        self.injector.inject(commit.pgnos, commit.images, commit.page_count)

    def take_in_pieces(self, commit: Commit, pages_max: int) -> None:
        self.injector.begin()
        for pgnos, images in pieces(commit, pages_max):
            self.injector.append(pgnos, images)
        self.injector.publish(commit.page_count)

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        return list(self.reader.execute(sql))

    def checkpoint(self, mode: str = "TRUNCATE") -> tuple[int, int]:
        return self.guard.wal_checkpoint(mode=CHECKPOINT_MODES[mode])

    def content(self) -> bytes:
        """The file, everything checkpointed into it."""
        self.checkpoint()
        size = os.fstat(self.files.db_fd).st_size
        return os.pread(self.files.db_fd, size, 0)

    def close(self) -> None:
        self.reader.close()
        self.guard.close()
        self.files.close()


def pieces(commit: Commit, pages_max: int) -> Iterable[tuple[list[int], list[bytes]]]:
    """A commit's pages in groups of at most `pages_max`."""
    for start in range(0, len(commit.pages), pages_max):
        chosen = slice(start, start + pages_max)
        yield commit.pgnos[chosen], commit.images[chosen]
