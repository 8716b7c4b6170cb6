"""Reading a segment's parts in order, and finding where it ends.

The end of a segment is where the next part does not stand: it does not decode, or it does
not follow the part before. Two reasons look alike there, and must be told apart:

- *Torn*: a flush was cut short by a crash. Nothing after that point was acknowledged, and
  the log quietly ends.
- *Damaged*: a durable commit was changed by the disk. Then something proves that it was
  there: a later part whose `durable_seq` reaches it, or a saved index that has it.

Beside the end, a scan finds the *unproven* commits: those that no later record calls
durable. After a crash they may stand in the system's cache only (a failed sync leaves
pages that read well and are not on the disk), so they are written again before use.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.errors import LogCorrupt
from engine.files import Disk
from engine.segment import HEADER_BYTES, CommitState, SegmentHeader
from engine.segment_index import SavedIndex, SegmentIndex
from proto.errors import RecordCorrupt, RecordTruncated
from proto.record import HEADER_BYTES as PART_HEADER_BYTES
from proto.record import MAGIC, CommitPart, decode_header, decode_part
from proto.tokens import TAG_BYTES, Bookmark

RESTORE_HINT: Final = (
    "Restore this database's folder from a replica or a backup; "
    "on a replica remove the folder, and it is copied anew"
)
_WINDOW_BYTES: Final = 256 * 1024
_SEARCH_BYTES: Final = 1024 * 1024
_CHECKED_BYTES_MAX: Final = 1024 * 1024 * 1024
"""Bytes of look-alikes of parts that the search behind the end reads, at most: page images
can hold anything."""


class PartStream:
    """Reads parts that stand back to back in a file; owns the descriptor."""

    __slots__ = ("_data", "_data_at", "_disk", "_fd", "limit", "offset", "path")

    offset: int
    """Where the next part begins."""
    limit: int
    """Nothing at or beyond this offset is read: it may be being written."""

    def __init__(self, disk: Disk, path: Path, *, offset: int, limit: int) -> None:
        """Open `path`. Raises `FileNotFoundError` if it is gone, `OSError`."""
        self._disk = disk
        self._fd = -1
        self._fd = disk.open(path)
        self._data = b""
        self._data_at = 0
        self.path = path
        self.offset = offset
        self.limit = limit

    def next(self) -> CommitPart:
        """The part at `offset`, verified by its digest; moves behind it.

        Raises `RecordTruncated` at the limit, `RecordCorrupt`, `OSError`.
        """
        at = self._window(PART_HEADER_BYTES)
        _, length = decode_header(self._data, at)
        at = self._window(length)
        part = decode_part(self._data, at)
        self.offset += length
        return part

    def _window(self, count: int) -> int:
        """Have `count` bytes from `offset` on in memory, if there are so many; where in it."""
        start = self.offset - self._data_at
        if start < 0 or start + count > len(self._data):
            count = min(max(count, _WINDOW_BYTES), self.limit - self.offset)
            self._data = self._disk.pread(self._fd, count, self.offset) if count > 0 else b""
            self._data_at, start = self.offset, 0
        return start

    def read(self, count: int, offset: int) -> bytes:
        """Bytes of the file as they stand."""
        return self._disk.pread(self._fd, count, offset)

    def size(self) -> int:
        """Bytes of the file now."""
        return self._disk.size(self._fd)

    def close(self) -> None:
        """Give the descriptor and the memory back."""
        if self._fd >= 0:
            self._disk.close(self._fd)
        self._data, self._fd = b"", -1

    def __del__(self) -> None:
        """A reader that was dropped in mid-way keeps no descriptor."""
        self.close()


class Chain:
    """What the next part must be to follow the one before; a pure value."""

    __slots__ = ("digest", "epoch", "part", "seq")

    def __init__(self, after: Bookmark) -> None:
        """Start at a commit's end."""
        (self.epoch, self.seq), self.digest = after
        self.part = 0

    def takes(self, part: CommitPart) -> bool:
        """`part` is the next one."""
        epoch, seq = part.token
        in_order = epoch >= self.epoch if self.part == 0 else epoch == self.epoch
        return (
            part.prev_digest == self.digest
            and part.part == self.part
            and seq == self.seq + (self.part == 0)
            and in_order
        )

    def advance(self, part: CommitPart) -> None:
        """Take `part` as the newest."""
        self.epoch, self.seq = part.token
        self.digest = part.digest
        self.part = 0 if part.is_last else self.part + 1

    def expected(self) -> str:
        """What should come next, for a message."""
        return f"commit {self.seq + (self.part == 0)} part {self.part}"


@dataclass(slots=True)
class SegmentScan:
    """What a segment holds."""

    header: SegmentHeader
    index: SegmentIndex
    state: CommitState
    """After the last complete commit."""
    last_part_at: int = 0
    is_closed: bool = False
    """The saved index proved the end: all is durable, and nothing was scanned."""
    is_tail_zero: bool = True
    """Behind the end stand zeros or nothing."""
    unproven_at: int = 0
    """Offset of the first commit that no record calls durable; the end if there is none."""


def state_after(part: CommitPart) -> CommitState:
    """The state that a commit's last part describes."""
    return CommitState(part.bookmark, part.page_count, part.checksum, part.time_ms)


def read_header(disk: Disk, path: Path) -> SegmentHeader | None:
    """The segment's header, None if it is damaged. Raises `OSError`, `LogCorrupt`."""
    fd = disk.open(path)
    try:
        return SegmentHeader.decode(disk.pread(fd, HEADER_BYTES, 0))
    finally:
        disk.close(fd)


def scan_segment(
    disk: Disk, path: Path, header: SegmentHeader, *, before: int | None = None
) -> SegmentScan:
    """Read and verify every part of a segment; `before`: stop at the commit of this number.

    The end may be anything: see `check_end`. Raises `OSError`.
    """
    stream = PartStream(disk, path, offset=HEADER_BYTES, limit=0)
    try:
        stream.limit = stream.size()
        return _scan(stream, header, before)
    finally:
        stream.close()


def _scan(stream: PartStream, header: SegmentHeader, before: int | None) -> SegmentScan:
    scan = SegmentScan(
        header, SegmentIndex(header.after.position.seq + 1, HEADER_BYTES), header.after
    )
    chain = Chain(header.after.position)
    durable_seq = commit_at = 0
    while chain.part or chain.seq + 1 != before:
        start = stream.offset
        try:
            part = stream.next()
        except (RecordCorrupt, RecordTruncated):
            break
        if not chain.takes(part):
            break
        if part.part == 0:
            commit_at = start
        chain.advance(part)
        durable_seq = max(durable_seq, part.durable_seq)
        if part.is_last:
            scan.index.add(commit_at, part.digest, stream.offset)
            scan.state = state_after(part)
            scan.last_part_at = start
    unproven_seq = min(max(durable_seq + 1, scan.index.first_seq), scan.index.last_seq + 1)
    scan.unproven_at = scan.index.offset_of(unproven_seq)
    return scan


def verify_segment(path: Path, disk: Disk, *, after: Bookmark, before: int) -> Bookmark:
    """Check that the segment follows `after` and goes up to commit `before`; its last position.

    Raises `LogCorrupt`, `OSError`.
    """
    header = read_header(disk, path)
    if header is None or header.after.position != after:
        raise LogCorrupt(f"{path}: the header is damaged, or does not follow {after}")
    scan = scan_segment(disk, path, header, before=before)
    if scan.index.last_seq != before - 1:
        raise _damaged(path, scan, f"the history goes on to commit {before - 1}")
    return scan.state.position


def trust_saved_index(
    disk: Disk, path: Path, header: SegmentHeader, saved: SavedIndex
) -> SegmentScan | None:
    """The scan's result without the scan, if the segment was closed cleanly; else None.

    Proof: the file ends where the index does, and its newest part is the one that the
    index names. By its digest it stands for all before it.
    """
    index = saved.index
    stream = PartStream(disk, path, offset=saved.last_part_at, limit=index.end)
    try:
        if stream.size() != index.end or index.first_seq != header.after.position.seq + 1:
            return None
        part = stream.next()
        is_end = stream.offset == index.end and part.is_last and len(index) > 0
    except (RecordCorrupt, RecordTruncated):
        return None
    finally:
        stream.close()
    if not is_end or part.token.seq != index.last_seq:
        return None
    if part.digest != index.digest_of(index.last_seq):
        return None
    return SegmentScan(
        header, index, state_after(part), saved.last_part_at, is_closed=True, unproven_at=index.end
    )


def check_end(disk: Disk, path: Path, scan: SegmentScan, saved: SavedIndex | None) -> None:
    """Tell a torn end from a damaged one; notes in `scan` whether zeros follow.

    Raises `LogCorrupt` if a commit that was durable is missing at the end, `OSError`.
    """
    missing = scan.index.last_seq + 1
    if saved is not None and saved.index.last_seq >= missing:
        raise _damaged(path, scan, f"its index has {saved.index.last_seq - missing + 1} more")
    stream = PartStream(disk, path, offset=scan.index.end, limit=0)
    try:
        stream.limit = stream.size()
        witness = _find_witness(stream, scan, missing)
    finally:
        stream.close()
    if witness is not None:
        raise _damaged(path, scan, f"{witness.token} behind it says that it was durable")


def _damaged(path: Path, scan: SegmentScan, proof: str) -> LogCorrupt:
    missing = scan.index.last_seq + 1
    return LogCorrupt(
        f"{path} is damaged at offset {scan.index.end}: commit {missing} was acknowledged and "
        f"cannot be read ({proof}). {RESTORE_HINT}"
    )


def _find_witness(stream: PartStream, scan: SegmentScan, missing: int) -> CommitPart | None:
    """A part behind the end that was written when commit `missing` was durable, if any."""
    at = _behind_torn_part(stream, scan, missing)
    checked = 0
    while at < stream.limit:
        data = stream.read(min(_SEARCH_BYTES, stream.limit - at), at)
        if data.count(0) != len(data):
            scan.is_tail_zero = False
        found = data.find(MAGIC)
        while found >= 0 and checked < _CHECKED_BYTES_MAX:
            length = _claimed_length(data, found, scan, missing)
            if length and at + found + length <= stream.limit:
                checked += length
                part = _decode_at(stream, at + found)
                if part is not None:
                    return part
            found = data.find(MAGIC, found + 1)
        # Windows overlap by a header less one byte: every header stands whole in one of them.
        at += len(data) if len(data) < _SEARCH_BYTES else _SEARCH_BYTES - PART_HEADER_BYTES + 1
    return None


def _behind_torn_part(stream: PartStream, scan: SegmentScan, missing: int) -> int:
    """Where to search from: behind the part that should stand at the end, if its header does.

    Its page images are skipped, because they may hold anything, also records.
    """
    data = stream.read(_SEARCH_BYTES, stream.offset)
    scan.is_tail_zero = data.count(0) == len(data)
    try:
        part, length = decode_header(data)
    except (RecordCorrupt, RecordTruncated):
        return stream.offset
    is_expected = part.token.seq == missing and part.prev_digest == scan.state.position.digest
    return stream.offset + length if is_expected else stream.offset


def _claimed_length(data: bytes, at: int, scan: SegmentScan, missing: int) -> int:
    """Length of what looks like a part that could be a witness; 0 for anything else."""
    try:
        part, length = decode_header(data, at)
    except (RecordCorrupt, RecordTruncated):
        return 0
    position = scan.state.position
    is_possible = (
        part.prev_digest[:TAG_BYTES] == position.tag
        and missing <= part.durable_seq < part.token.seq
        and part.token.epoch >= position.token.epoch
    )
    return length if is_possible else 0


def _decode_at(stream: PartStream, at: int) -> CommitPart | None:
    stream.offset = at
    try:
        return stream.next()
    except (RecordCorrupt, RecordTruncated):
        return None
