"""Where each commit of a segment begins, and its digest.

The index of the segment that is being written grows in memory. When a segment is full,
or the log is closed, it is saved beside the segment as `<name>.idx`. A saved index only
ever describes durable commits, so it is two things: a way to find a commit without a
scan, and the proof that a log was closed cleanly (if it ends where the segment's file
ends) or damaged (if the segment now ends before it).

A lost or damaged `.idx` costs a scan and nothing else; it is not synced. It is written in
this machine's byte order: on another machine it reads as damaged.
"""

import struct
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import xxhash

from engine.files import Disk
from proto.tokens import DIGEST_BYTES

INDEX_SUFFIX: Final = ".idx"
_MAGIC: Final = 0x31494C31  # "1LI1"
# magic, unused, seq of the first commit, commits, end of the last, offset of the last part,
# xxh3_64 of the rest.
_HEADER: Final = struct.Struct("=IIQQQQ")
_CHECK: Final = struct.Struct("=Q")
_ENTRY_BYTES: Final = 8 + DIGEST_BYTES
_BYTES_MAX: Final = 64 * 1024 * 1024
"""No index is longer: a commit takes more than 600 bytes of its segment."""


@dataclass(frozen=True, slots=True)
class SavedIndex:
    """An index as it was saved, and where the segment's newest part begins."""

    index: "SegmentIndex"
    last_part_at: int


class SegmentIndex:
    """Offsets and digests of a segment's commits, which are numbered without a gap."""

    __slots__ = ("_digests", "_offsets", "end", "first_seq")

    end: int
    """Offset behind the last commit."""

    def __init__(self, first_seq: int, end: int) -> None:
        """An index of no commits, the first of which will be `first_seq` at offset `end`."""
        self.first_seq = first_seq
        self.end = end
        self._offsets = array("Q")
        self._digests = bytearray()

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def last_seq(self) -> int:
        """The newest commit; one less than `first_seq` if there is none."""
        return self.first_seq + len(self._offsets) - 1

    def add(self, offset: int, digest: bytes, end: int) -> None:
        """Note the next commit: from `offset` to `end`."""
        self._digests += digest
        self._offsets.append(offset)
        self.end = end

    def offset_of(self, seq: int) -> int:
        """Where commit `seq` begins; the end for the one after the last."""
        if seq > self.last_seq:
            assert seq == self.last_seq + 1, f"{seq} is beyond {self.last_seq}"
            return self.end
        return self._offsets[seq - self.first_seq]

    def digest_of(self, seq: int) -> bytes:
        """The digest of commit `seq`."""
        at = (seq - self.first_seq) * DIGEST_BYTES
        assert 0 <= at < len(self._digests), f"{seq} is not in this segment"
        return bytes(self._digests[at : at + DIGEST_BYTES])

    def save(self, disk: Disk, segment: Path, last_part_at: int) -> None:
        """Write the index beside its segment. Raises `OSError`."""
        head = _HEADER.pack(_MAGIC, 0, self.first_seq, len(self), self.end, last_part_at)
        data = head + self._offsets.tobytes() + self._digests
        path = segment.with_suffix(INDEX_SUFFIX)
        beside = path.with_suffix(INDEX_SUFFIX + ".tmp")
        fd = disk.open(beside, create=True)
        try:
            disk.truncate(fd, 0)
            disk.pwrite(fd, data + _CHECK.pack(xxhash.xxh3_64_intdigest(data)), 0)
        finally:
            disk.close(fd)
        disk.rename(beside, path)

    @classmethod
    def load(cls, disk: Disk, segment: Path) -> SavedIndex | None:
        """Read what `save` wrote; None if there is none, or a damaged one."""
        try:
            fd = disk.open(segment.with_suffix(INDEX_SUFFIX))
        except FileNotFoundError:
            return None
        try:
            data = disk.pread(fd, min(disk.size(fd), _BYTES_MAX), 0)
        finally:
            disk.close(fd)
        body, check = data[: -_CHECK.size], data[-_CHECK.size :]
        if len(body) < _HEADER.size or _CHECK.pack(xxhash.xxh3_64_intdigest(body)) != check:
            return None
        magic, _, first_seq, count, end, last_part_at = _HEADER.unpack_from(body)
        if magic != _MAGIC or len(body) != _HEADER.size + count * _ENTRY_BYTES:
            return None
        index = cls(first_seq, end)
        split = _HEADER.size + 8 * count
        index._offsets.frombytes(body[_HEADER.size : split])
        index._digests += body[split:]
        return SavedIndex(index, last_part_at)
