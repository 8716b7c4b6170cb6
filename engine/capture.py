"""Which pages did this commit change? Read from the WAL, after COMMIT.

The primary's one writer connection reports each commit's last frame (`set_wal_hook`);
`WalCapture` reads the frames between the commit before and that one.

What makes this right (`docs` of SQLite: walformat.html; tried for each):

1. Frames are read only after COMMIT returned. Before, the WAL holds spilled frames of the
   unfinished transaction, which may still be written over or rolled back.
2. The reported frame count, not the end of the file, bounds the read: after a rollback
   valid-looking frames stand behind the commit.
3. The last frame of a page wins; pages beyond the commit's page count are dropped (VACUUM
   leaves such frames), and so is the lock-byte page.
4. A WAL that was checkpointed whole starts again at frame 1 within the next write. New
   salts tell; the count alone would not, when the new commit is larger than the old WAL.

Owned by the database's writer, used by one thread at a time.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from engine.errors import DatabaseDamaged
from engine.files import Disk, HeldFiles
from engine.wal import FRAME_HEADER_BYTES, LOCK_PAGE, PAGE_SIZE, WAL_HEADER_BYTES

FRAME_BYTES: Final = FRAME_HEADER_BYTES + PAGE_SIZE
_SALTS_AT: Final = 16  # in the WAL header
_FRAME_SALTS_AT: Final = 8
_FRAME_SALTS_END: Final = _FRAME_SALTS_AT + 8
_NUMBERS: Final = struct.Struct(">II")  # page number, page count after the commit or 0


class PageImages(NamedTuple):
    """Distinct pages and their images, and the database's page count after the commit."""

    pgnos: list[int]
    pages: list[memoryview]
    page_count: int


class WalCapture:
    """Reads each commit of one live database from its WAL; see the module's head."""

    __slots__ = ("_captured", "_disk", "_salts", "_wal_fd")

    def __init__(self, files: HeldFiles, disk: Disk) -> None:
        """Start before the first commit of a freshly opened database, with an empty WAL."""
        self._wal_fd = files.wal_fd
        self._disk = disk
        self._captured = 0
        self._salts = b""

    @property
    def frames_captured(self) -> int:
        """Frames of the present WAL that have been read."""
        return self._captured

    def read(self, end: int, *, frames_max: int) -> PageImages | None:
        """The pages of the commit that ended at frame `end`, in one piece.

        None if it has more frames than `frames_max`: then `read_in_pieces`. Notices a WAL that
        started again. Raises `DatabaseDamaged` if the WAL is not the one that SQLite reported.
        """
        start = self._captured
        count = end - start
        if 0 < count <= frames_max:
            at = WAL_HEADER_BYTES + start * FRAME_BYTES
            data = self._disk.pread(self._wal_fd, count * FRAME_BYTES, at)
            if data[_FRAME_SALTS_AT:_FRAME_SALTS_END] == self._salts:
                return self._images(data, end)
        elif count > 0 and self._salts_of_frame(start) == self._salts:
            return None
        self._begin_anew(end)
        if end > frames_max:
            return None
        return self._images(self._pread_frames(0, end), end)

    def _begin_anew(self, end: int) -> None:
        """Go on in a WAL that started again; the commit that ended at `end` is its first."""
        header = self._disk.pread(self._wal_fd, WAL_HEADER_BYTES, 0)
        before, self._salts = self._salts, header[_SALTS_AT : _SALTS_AT + 8]
        self._captured = 0
        if self._salts == before or self._salts_of_frame(0) != self._salts:
            raise DatabaseDamaged(
                f"the WAL is not the one that SQLite wrote to (a commit ended at frame {end}); "
                "restart the node: the database is rebuilt from its commit log"
            )

    def _images(self, data: bytes, end: int) -> PageImages:
        """What these frames, all of the commit's, make of each page."""
        start, self._captured = self._captured, end
        if len(data) != (end - start) * FRAME_BYTES:
            raise DatabaseDamaged(f"the WAL ends within frames {start + 1} to {end}")
        view = memoryview(data)
        images: dict[int, memoryview] = {}
        page_count = 0
        for at in range(0, len(data), FRAME_BYTES):
            pgno, page_count = _NUMBERS.unpack_from(data, at)
            images[pgno] = view[at + FRAME_HEADER_BYTES : at + FRAME_BYTES]
        self._check_commit(data, page_count, end)
        images.pop(LOCK_PAGE, None)
        if max(images) > page_count:
            images = {pgno: page for pgno, page in images.items() if pgno <= page_count}
        return PageImages(list(images), list(images.values()), page_count)

    def read_in_pieces(self, end: int, *, pages_max: int) -> Iterator[PageImages]:
        """The pages in pieces of at most `pages_max`, at least one piece; blocking.

        After `read` has given None. Two passes: the first finds each page's last frame from the
        frame headers alone, the second reads only those images. Memory: one piece and 12 bytes a
        frame.
        """
        start, self._captured = self._captured, end
        pgnos, page_count = self._scan(start, end, frames_max=pages_max)
        _, from_end = np.unique(pgnos[::-1], return_index=True)
        frames = np.sort(len(pgnos) - 1 - from_end)
        numbers = pgnos[frames]
        frames = frames[(numbers <= page_count) & (numbers != LOCK_PAGE)]
        for first in range(0, max(len(frames), 1), pages_max):
            chosen = frames[first : first + pages_max]
            yield self._read_chosen(chosen + start, pgnos[chosen], page_count)

    def _scan(self, start: int, end: int, *, frames_max: int) -> tuple[np.ndarray, int]:
        """Page number of each frame from `start` to `end`, and the commit's page count."""
        numbers = []
        page_count = 0
        for at in range(start, end, frames_max):
            data = self._pread_frames(at, min(at + frames_max, end))
            table = np.frombuffer(data, np.uint8).reshape(-1, FRAME_BYTES)
            heads = np.ascontiguousarray(table[:, :FRAME_HEADER_BYTES]).view(">u4")
            numbers.append(heads[:, 0].astype(np.int64))
            page_count = int(heads[-1, 1])
            self._check_commit(data, page_count or 1, end)
        if page_count == 0:
            raise DatabaseDamaged(f"frame {end} of the WAL does not end a commit")
        return np.concatenate(numbers), page_count

    def _read_chosen(self, frames: np.ndarray, pgnos: np.ndarray, page_count: int) -> PageImages:
        """The images in `frames` (0-based, ascending), neighbours read together."""
        pages: list[memoryview] = []
        breaks = np.flatnonzero(np.diff(frames) != 1) + 1
        for run in np.split(frames, breaks):
            if len(run) == 0:
                continue
            view = memoryview(self._pread_frames(int(run[0]), int(run[-1]) + 1))
            pages += [
                view[at + FRAME_HEADER_BYTES : at + FRAME_BYTES]
                for at in range(0, len(view), FRAME_BYTES)
            ]
        return PageImages([int(pgno) for pgno in pgnos], pages, page_count)

    def _pread_frames(self, start: int, end: int) -> bytes:
        wanted = (end - start) * FRAME_BYTES
        data = self._disk.pread(self._wal_fd, wanted, WAL_HEADER_BYTES + start * FRAME_BYTES)
        if len(data) != wanted:
            raise DatabaseDamaged(f"the WAL ends within frames {start + 1} to {end}")
        return data

    def _salts_of_frame(self, index: int) -> bytes:
        at = WAL_HEADER_BYTES + index * FRAME_BYTES + _FRAME_SALTS_AT
        return self._disk.pread(self._wal_fd, 8, at)

    def _check_commit(self, data: bytes, page_count: int, end: int) -> None:
        """The frames are of this WAL's generation and end a commit."""
        last = len(data) - FRAME_BYTES + _FRAME_SALTS_AT
        if page_count == 0 or data[last : last + 8] != self._salts:
            raise DatabaseDamaged(
                f"frame {end} of the WAL does not end the commit that SQLite reported; "
                "restart the node: the database is rebuilt from its commit log"
            )
