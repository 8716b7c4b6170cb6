"""A commit's pages into a live SQLite database, under its readers.

An `Injector` does what a SQLite writer does, in SQLite's documented formats (`wal.py`):
frames behind the last commit's in the `-wal` file, their entries in the WAL-index
(`-shm`), then the WAL-index header, which makes the commit visible. Readers keep
their snapshots, are never blocked by it and never block it.

Invariants:

1. A *guard* connection holds SQLite's write lock (`BEGIN IMMEDIATE`) from before the
   header is read until after it is written.
2. Frames and index entries go beyond what the header names, where no reader looks; the
   header goes last, its second copy first: readers take the first, then compare the second.
3. The guard ends with `ROLLBACK`, which cannot write, and then drops its page cache: it
   did not see the commit happen and would compare an old page 1 with the new page count.
4. Nothing stays of an aborted commit: a stale hash slot would point a later commit's
   readers at wrong frames.

A WAL begins anew only from an empty one. So only a checkpoint of mode TRUNCATE lets it
shrink: after one of mode RESTART it is SQLite's own writers who begin anew, under locks
that are not ours to take.

Owned by the replica's applier (or a restore); one thread at a time.
"""

import mmap
import os
import struct
from collections.abc import Sequence
from typing import Final

import apsw

from engine.errors import DatabaseDamaged
from engine.files import Disk, HeldFiles
from engine.frames import MARK_AT, encode_frames, mark_commit
from engine.wal import (
    BLOCK_BYTES,
    FRAME_HEADER_BYTES,
    INDEX_HEADER_BYTES,
    INDEX_PREFIX_BYTES,
    LOCK_PAGE,
    SLOTS_AT,
    WORD_MASK,
    Checksum,
    IndexBlock,
    WalIndexHeader,
    block_of,
    check_byte_order,
    decode_frames,
    decode_index_prefix,
    encode_wal_header,
    frame_offset,
    salts_after,
)
from proto.record import Buffer

_RUN_FRAMES: Final = 256  # frames built and written at once: about 1 MiB
_SINGLE_SLOTS: Final = 12  # more changed slots than that: the block's whole table at once
_REGION_BYTES: Final = max(BLOCK_BYTES, mmap.PAGESIZE)  # what SQLite maps at once


class _Unpublished:
    """The commit under way: how far it has come in the WAL."""

    __slots__ = ("frames", "salts", "sums")

    def __init__(self, frames: int, salts: bytes, sums: Checksum) -> None:
        self.frames = frames
        self.salts = salts
        self.sums = sums


class Injector:
    """Writes commits into one live database; see the module's head.

    `inject` is one commit from its pages. A commit that is too large for that is `begin`,
    any number of `append`, then `publish` or `abort`; after an exception of `append`
    or `publish` only `abort` is right (it does nothing if there is nothing to abort).
    """

    __slots__ = (
        "_block",
        "_commit",
        "_disk",
        "_guard",
        "_header",
        "_seen",
        "_sequence",
        "_shm",
        "_wal",
    )

    def __init__(self, guard: apsw.Connection, files: HeldFiles, disk: Disk | None = None) -> None:
        """Use `guard` for the write lock; nobody else may run SQL on it, ever."""
        check_byte_order()
        self._guard = guard
        self._wal = files.wal_fd
        self._shm = files.shm_fd
        self._disk = disk if disk is not None else Disk()
        self._header = WalIndexHeader(0, 0, 0, Checksum(0, 0), bytes(8))
        self._block: IndexBlock | None = None
        self._commit: _Unpublished | None = None
        self._seen = b""  # both copies of `_header`, as last read or written
        self._sequence = 0

    @property
    def wal_frames(self) -> int:
        """Frames of published commits in the WAL now; 0 after a TRUNCATE checkpoint."""
        return decode_frames(self._disk.pread(self._shm, INDEX_HEADER_BYTES, 0))

    def inject(self, pgnos: Sequence[int], pages: Sequence[Buffer], page_count: int) -> None:
        """Make one commit of `pages`, after which the database has `page_count` pages.

        Raises `apsw.BusyError` if someone else holds the write lock, `OSError`, or
        `DatabaseDamaged`; then the commit did not happen, or (the last only) the message says
        that nobody knows, and the database must be opened anew.
        """
        self.begin()
        try:
            self._write(pgnos, pages, page_count)
            self._publish(page_count)
        except BaseException:
            self.abort()
            raise

    def begin(self) -> None:
        """Take the write lock for a commit in pieces. Raises as `inject` does."""
        assert self._commit is None, "the commit before was neither published nor aborted"
        self._guard.execute("BEGIN IMMEDIATE")
        try:
            self._commit = self._start()
        except BaseException:
            self._release()
            raise

    def append(self, pgnos: Sequence[int], pages: Sequence[Buffer]) -> None:
        """Add pages to the commit. Of a page given more than once the last image counts."""
        self._write(pgnos, pages, 0)

    def publish(self, page_count: int) -> None:
        """Make the commit visible; the database now has `page_count` pages."""
        commit = self._commit
        assert commit is not None
        assert commit.frames > self._header.frames, "a commit has at least one page"
        mark, commit.sums = mark_commit(page_count, commit.salts, commit.sums)
        self._disk.pwrite(self._wal, mark, frame_offset(commit.frames) + MARK_AT)
        self._publish(page_count)

    def abort(self) -> None:
        """Forget the commit under way, if there is one, without a trace. Raises `OSError`."""
        if self._commit is None:
            return
        try:
            self._erase()
        finally:
            self._release()

    def _start(self) -> _Unpublished:
        """Look where the WAL ends; begin a new one if it is empty."""
        data = self._disk.pread(self._shm, INDEX_PREFIX_BYTES, 0)
        if data[: 2 * INDEX_HEADER_BYTES] != self._seen:  # the first time, or after a checkpoint
            self._header = decode_index_prefix(data)
            self._seen = data[: 2 * INDEX_HEADER_BYTES]
            self._block = None
        header = self._header
        if header.frames:
            return _Unpublished(header.frames, header.salts, header.sums)
        self._block = None
        self._sequence += 1
        salts = salts_after(header.salts, os.urandom(4))
        wal_header, sums = encode_wal_header(salts, self._sequence)
        self._disk.pwrite(self._wal, wal_header, 0)
        return _Unpublished(0, salts, sums)

    def _write(self, pgnos: Sequence[int], pages: Sequence[Buffer], page_count: int) -> None:
        """Frames and index entries; `page_count` is 0 unless these pages end the commit."""
        commit = self._commit
        assert commit is not None
        if LOCK_PAGE in pgnos:
            pairs = [pair for pair in zip(pgnos, pages, strict=True) if pair[0] != LOCK_PAGE]
            pgnos, pages = [pgno for pgno, _ in pairs], [page for _, page in pairs]
        assert pgnos or not page_count, "a commit has at least one page"
        count = len(pgnos)
        for start in range(0, count, _RUN_FRAMES):
            end = min(start + _RUN_FRAMES, count)
            some = pgnos if count <= _RUN_FRAMES else pgnos[start:end]
            images = pages if count <= _RUN_FRAMES else pages[start:end]
            marked = page_count if end == count else 0
            run = encode_frames(some, images, commit.salts, commit.sums, page_count=marked)
            self._disk.pwrite(self._wal, run.data, frame_offset(commit.frames + 1))
            commit.sums = run.sums
            self._index(some, commit.frames + 1)
            commit.frames += len(some)

    def _index(self, pgnos: Sequence[int], frame: int) -> None:
        """Enter the pages of the frames from `frame` on, block by block."""
        while pgnos:
            block = self._block
            if block is None or block.count == block.capacity:
                block = self._block = self._open_block(frame)
            assert block.first_frame + block.count == frame, "the index lags behind the frames"
            some = pgnos[: block.capacity - block.count]
            assert some, f"block {block.number} is full"
            at = block.offset + 4 * block.count
            self._disk.pwrite(self._shm, struct.pack(f"={len(some)}I", *some), at)
            self._write_slots(block, block.add(some))
            pgnos = pgnos[len(some) :]
            frame += len(some)

    def _write_slots(self, block: IndexBlock, changed: Sequence[int]) -> None:
        """Put changed slots into the `-shm` file while readers walk over them.

        In aligned 8-byte words: the kernel may copy less than that byte by byte, and half of
        a slot's two bytes would be a valid, wrong frame.
        """
        table = memoryview(block.slots).cast("B")
        if len(changed) > _SINGLE_SLOTS:
            self._disk.pwrite(self._shm, table, block.slots_offset)
            return
        for slot in changed:
            at = 2 * slot & ~7
            self._disk.pwrite(self._shm, table[at : at + 8], block.slots_offset + at)

    def _open_block(self, frame: int) -> IndexBlock:
        """The block where `frame` is entered next: a new one, or a part-filled one as it stands."""
        block = IndexBlock(block_of(frame))
        if frame != block.first_frame:
            return self._load_block(frame - 1)
        end = (block.number + 1) * BLOCK_BYTES
        self._disk.pwrite(self._shm, bytes(end - block.offset), block.offset)
        # Readers map whole regions and do not extend the file themselves.
        region_end = -(-end // _REGION_BYTES) * _REGION_BYTES
        if self._disk.size(self._shm) < region_end:
            self._disk.pwrite(self._shm, bytes(region_end - end), end)
        return block

    def _load_block(self, last: int) -> IndexBlock:
        """The block of frame `last` from the `-shm` file, rid of entries for later frames."""
        start = block_of(last) * BLOCK_BYTES
        data = self._disk.pread(self._shm, BLOCK_BYTES, start)
        block = IndexBlock.decode(data, last)
        clean = memoryview(block.slots).cast("B")
        if clean != data[SLOTS_AT:]:
            self._disk.pwrite(self._shm, clean, block.slots_offset)
        unused = block.offset + 4 * block.count
        if any(data[unused - start : SLOTS_AT]):
            self._disk.pwrite(
                self._shm, bytes(block.number * BLOCK_BYTES + SLOTS_AT - unused), unused
            )
        return block

    def _publish(self, page_count: int) -> None:
        """Write the header that names the commit's frames, and let the write lock go."""
        commit, old = self._commit, self._header
        assert commit is not None
        header = WalIndexHeader(
            (old.change + 1) & WORD_MASK, commit.frames, page_count, commit.sums, commit.salts
        )
        copy = header.encode()
        self._commit = None  # a reader may see it from here on: no way back
        try:
            self._disk.pwrite(self._shm, copy, INDEX_HEADER_BYTES)
            self._disk.pwrite(self._shm, copy, 0)
        except OSError as exc:
            raise DatabaseDamaged(
                f"the WAL-index header could not be written ({exc}): whether the commit is "
                "visible is unknown; reopen the database from its log"
            ) from exc
        finally:
            self._release()
        self._header = header
        self._seen = copy + copy

    def _erase(self) -> None:
        """Take the unpublished frames out of the index, and break their chain in the WAL."""
        published = self._header.frames
        self._block = None
        if published:
            self._block = self._load_block(published)
        self._disk.pwrite(self._wal, bytes(FRAME_HEADER_BYTES), frame_offset(published + 1))

    def _release(self) -> None:
        """Let the write lock go; see invariant 3."""
        self._commit = None
        self._guard.execute("ROLLBACK")
        self._guard.release_memory()
