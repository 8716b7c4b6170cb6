"""One file of the commit log: its header, its name, and writing at its end.

A segment is a header of 96 bytes, commit parts back to back (`proto/record.py`), and
then nothing but zeros. Byte table: `proto/FORMAT.md`.

Invariants:

1. A segment begins at a commit's first part, and a commit is never split between two
   segments: one that outgrows its segment makes that segment longer.
2. The name is the token of the first commit; the header says which state that commit
   follows. A segment gets its name only when its header and first commits are durable,
   so a crash leaves a nameless file (removed at the next open) or a good segment.
3. Behind `end` stand zeros or nothing. They are written before the space is needed, so
   that `fdatasync` after a commit has no file size to update.

Owned by the `CommitLog`; written by one thread at a time.
"""

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import xxhash

from engine.errors import LogCorrupt
from engine.files import Disk
from engine.segment_index import SegmentIndex
from proto.record import Buffer
from proto.tokens import Bookmark, CommitToken

HEADER_BYTES: Final = 96
SEGMENT_BYTES_MIN: Final = 64 * 1024
SEGMENT_BYTES_MAX: Final = 16 * 1024 * 1024
GROWTH_BYTES: Final = 64 * 1024
"""By how much a reopened segment, cut to its end when it was closed, grows at a time."""

SEGMENT_SUFFIX: Final = ".log"
TEMPORARY_SUFFIX: Final = ".tmp"

_MAGIC: Final = b"D1LG"
_FORMAT: Final = 1
# magic, format, database, epoch of the first commit, epoch before it, seq of the first commit,
# seq before it, digest before it, and of the state before it: rolling checksum, time, page count.
_HEADER: Final = struct.Struct("<4sI16sIIQQ16sQQI4x")
_CHECK: Final = struct.Struct("<Q")
assert _HEADER.size + _CHECK.size == HEADER_BYTES

_NAME = re.compile(r"([0-9a-f]{8})-([0-9a-f]{16})\.log", re.ASCII)
_ZEROS: Final = bytes(GROWTH_BYTES)


class CommitState(NamedTuple):
    """The database just after one commit, as the log knows it."""

    position: Bookmark
    page_count: int
    checksum: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The first 96 bytes of a segment."""

    uuid: bytes
    first: CommitToken
    after: CommitState
    """What the first commit follows; page count, checksum and time are 0 where unknown."""

    def encode(self) -> bytes:
        """The header's bytes."""
        (epoch, seq), digest = self.after.position
        data = _HEADER.pack(
            _MAGIC, _FORMAT, self.uuid, self.first.epoch, epoch, self.first.seq, seq, digest,
            self.after.checksum, self.after.time_ms, self.after.page_count,
        )  # fmt: skip
        return data + _CHECK.pack(xxhash.xxh3_64_intdigest(data))

    @classmethod
    def decode(cls, data: bytes) -> "SegmentHeader | None":
        """Read a header; None if these bytes are not a whole one."""
        if len(data) < HEADER_BYTES or not data.startswith(_MAGIC):
            return None
        if _CHECK.unpack_from(data, _HEADER.size)[0] != xxhash.xxh3_64_intdigest(
            data[: _HEADER.size]
        ):
            return None
        (_, version, uuid, first_epoch, epoch, first_seq, seq, digest, checksum, time, pages) = (
            _HEADER.unpack_from(data)
        )
        if version > _FORMAT:
            raise LogCorrupt(
                f"a log segment of format {version}; this program knows up to {_FORMAT}: "
                "start a newer version of it on this data directory"
            )
        after = CommitState(Bookmark(CommitToken(epoch, seq), digest), pages, checksum, time)
        return cls(uuid, CommitToken(first_epoch, first_seq), after)


def segment_name(first: CommitToken) -> str:
    """The name of the segment whose first commit is `first`."""
    return f"{first}{SEGMENT_SUFFIX}"


def parse_segment_name(name: str) -> CommitToken | None:
    """The token in a segment's name, None for other files."""
    match = _NAME.fullmatch(name)
    return None if match is None else CommitToken(int(match[1], 16), int(match[2], 16))


def segment_bytes_for(count: int) -> int:
    """How large to make a segment for `count` bytes: a power of two, in bounds."""
    return max(SEGMENT_BYTES_MIN, min(1 << max(count - 1, 1).bit_length(), SEGMENT_BYTES_MAX))


class BlankFile(NamedTuple):
    """An open file of durable zeros that will become a segment."""

    fd: int
    path: Path
    bytes: int


def make_blank(disk: Disk, path: Path, zeros: int) -> BlankFile:
    """Create a file of `zeros` durable zero bytes. Raises `OSError`, leaving nothing."""
    fd = disk.open(path, create=True)
    try:
        disk.truncate(fd, 0)
        for at in range(0, zeros, GROWTH_BYTES):
            disk.pwrite(fd, _ZEROS[: zeros - at], at)
        if zeros:
            disk.fsync(fd)
    except OSError:
        disk.close(fd)
        disk.remove(path)
        raise
    return BlankFile(fd, path, zeros)


class SegmentFile:
    """An open segment that can be written at its end."""

    __slots__ = (
        "_allocated",
        "_disk",
        "_fd",
        "_is_cut_pending",
        "capacity",
        "end",
        "header",
        "index",
        "last_part_at",
        "path",
    )

    end: int
    """Where the next part goes; behind the last complete commit if one has begun."""
    capacity: int
    """A flush that does not fit below this goes to a new segment; 0: nothing more goes here."""
    index: SegmentIndex
    """The complete, synced commits of this segment."""
    last_part_at: int
    """Offset of the newest part."""

    def __init__(self, disk: Disk, file: BlankFile, header: SegmentHeader) -> None:
        """Take over a file, to be written from its start, `header` first."""
        self._disk = disk
        self._fd = file.fd
        self._allocated = file.bytes
        self._is_cut_pending = False
        self.path = file.path
        self.header = header
        self.capacity = segment_bytes_for(file.bytes)
        self.index = SegmentIndex(header.first.seq, HEADER_BYTES)
        self.end = 0
        self.last_part_at = 0

    def resume(self, index: SegmentIndex, last_part_at: int) -> None:
        """Go on behind the commits of `index`, in a file that was closed or left by a crash."""
        self.index = index
        self.end = index.end
        self.last_part_at = last_part_at

    def has_room(self, count: int) -> bool:
        """`count` more bytes belong here."""
        return self.end + count <= self.capacity

    def write(self, pieces: list[Buffer], count: int) -> None:
        """Write `pieces`, `count` bytes in all, at the end. Raises `OSError`."""
        if self._is_cut_pending:
            self._disk.truncate(self._fd, self.end)
            self._allocated = self.end
            self._is_cut_pending = False
        end = self.end + count
        if end > self._allocated:
            grown = min(end + GROWTH_BYTES - end % GROWTH_BYTES, self.capacity)
            if grown > end:
                pieces = [*pieces, _ZEROS[: grown - end]]
            self._allocated = max(grown, end)
        self._disk.pwritev(self._fd, pieces, self.end)
        self.end = end

    def sync(self) -> None:
        """Make what was written durable. Raises `OSError`."""
        self._disk.fdatasync(self._fd)

    def forget_partial(self) -> None:
        """Go back to the end of the last complete commit; the next write cuts the rest off."""
        if self.end > self.index.end:
            self.end = self.index.end
            self._is_cut_pending = True

    def cut(self) -> None:
        """Erase, durably, all but the complete synced commits. Raises `OSError`.

        Nothing more is written here: after a failed sync only a new file is to be trusted.
        """
        self.capacity = 0
        self.end = self.index.end
        self._disk.truncate(self._fd, self.end)
        self._allocated = self.end
        self._disk.fsync(self._fd)

    def tidy(self) -> None:
        """Give the zeros behind the last commit back and save the index. Raises `OSError`."""
        if self._allocated > self.index.end:
            self._disk.truncate(self._fd, self.index.end)
            self._allocated = self.index.end
        if len(self.index):
            self.index.save(self._disk, self.path, self.last_part_at)

    def close(self) -> None:
        """Give the descriptor back, if that is not done yet."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._disk.close(fd)
