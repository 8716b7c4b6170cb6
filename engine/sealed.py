"""The segments of a log that are complete: where a commit is in them, and trimming.

Invariants:

1. Ascending by the first commit's number. A segment counts up to where the next one begins;
   what stands behind that in its file was left by a failed sync and is no part of the history.
2. `tail` is the state before the oldest commit held.

Changed by the log's I/O thread, read by any: the list is replaced, never edited.
"""

import threading
from bisect import bisect_right
from collections import OrderedDict
from pathlib import Path
from typing import Final, NamedTuple

from engine.errors import PositionTrimmed
from engine.files import Disk
from engine.log_survey import Segment, sealed_header, sealed_index
from engine.segment_index import INDEX_SUFFIX, SegmentIndex
from proto.tokens import Bookmark

_INDEXES_MAX: Final = 4
"""Indexes kept in memory, about 100 KiB each for a full segment."""


class Extent(NamedTuple):
    """A run of complete, durable commits in one file."""

    path: Path
    offset: int
    limit: int


class SealedSegments:
    """See the module's head."""

    __slots__ = ("_disk", "_indexes", "_lock", "_segments", "_uuid", "bytes_total", "tail")

    tail: Bookmark
    bytes_total: int

    def __init__(self, disk: Disk, uuid: bytes, segments: list[Segment], tail: Bookmark) -> None:
        """Begin with these, oldest first."""
        self._disk = disk
        self._uuid = uuid
        self._segments = tuple(segments)
        self._indexes: OrderedDict[Path, SegmentIndex] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes_total = sum(segment.bytes for segment in segments)
        self.tail = tail

    def add(self, segment: Segment, index: SegmentIndex) -> None:
        """Take the segment that was written until now."""
        with self._lock:
            self._segments = (*self._segments, segment)
            self.bytes_total += segment.bytes
        self._keep_index(segment.path, index)

    def digest_of(self, seq: int, *, before: int) -> bytes:
        """The digest of a commit in here; `before` begins the first segment that is not.

        Raises `PositionTrimmed`, `LogCorrupt`, `OSError`.
        """
        return self._find(seq, before)[1].digest_of(seq)

    def locate(self, seq: int, *, before: int) -> Extent:
        """Where the commits from `seq` on stand, up to the end of that segment.

        Raises `PositionTrimmed`, `LogCorrupt`, `OSError`.
        """
        segment, index, end = self._find(seq, before)
        return Extent(segment.path, index.offset_of(seq), index.offset_of(end))

    def trim(self, keep: Bookmark, *, end: Bookmark, excess: int) -> int:
        """Remove the oldest segments until `excess` bytes are gone; those up to `keep` only.

        `end`: the state before the first segment that is not in here. Gives the bytes
        removed. Raises `OSError`, `LogCorrupt`.
        """
        removed = 0
        while removed < excess and self._segments:
            oldest, *rest = self._segments
            tail = sealed_header(rest[0], self._uuid, self._disk).after.position if rest else end
            if tail.seq > keep.seq or tail.seq < oldest.first.seq:
                break  # needed, or sealed since `end` was read: a flush may run beside this
            self.tail = tail  # before the file is gone: readers must not be promised it
            self._remove(oldest)
            removed += oldest.bytes
        return removed

    def forget_indexes(self) -> None:
        """Give memory back; indexes are read again when they are needed."""
        with self._lock:
            self._indexes.clear()

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments, oldest first."""
        return self._segments

    def _remove(self, segment: Segment) -> None:
        """Remove the oldest segment.

        Durably, before the next one may go: neither a crash nor a disk that refuses leaves a
        hole.
        """
        self._disk.remove(segment.path.with_suffix(INDEX_SUFFIX))
        self._disk.remove(segment.path)
        self._disk.sync_folder(segment.path.parent)
        with self._lock:
            self._segments = self._segments[1:]
            self._indexes.pop(segment.path, None)
            self.bytes_total -= segment.bytes

    def _find(self, seq: int, before: int) -> tuple[Segment, SegmentIndex, int]:
        """The segment that holds `seq`, its index, and where the next segment begins."""
        segments = self._segments
        at = bisect_right(segments, seq, key=lambda segment: segment.first.seq) - 1
        if at < 0:
            raise PositionTrimmed(f"commit {seq} is older than the log, which follows {self.tail}")
        segment = segments[at]
        end = segments[at + 1].first.seq if at + 1 < len(segments) else before
        with self._lock:
            index = self._indexes.get(segment.path)
            if index is not None:
                self._indexes.move_to_end(segment.path)
        if index is None:
            try:
                index = sealed_index(segment, self._uuid, self._disk, before=end)
            except FileNotFoundError as exc:
                raise PositionTrimmed(f"commit {seq} was trimmed a moment ago") from exc
            self._keep_index(segment.path, index)
        return segment, index, end

    def _keep_index(self, path: Path, index: SegmentIndex) -> None:
        with self._lock:
            self._indexes[path] = index
            while len(self._indexes) > _INDEXES_MAX:
                self._indexes.popitem(last=False)
