"""What a log folder holds, found by reading only.

`survey` is what opening a log is based on, and all that `peek` needs: the list of the
segments' names, and the end of the last one. Nothing is repaired here.

Older segments are not read, and need not be: the last one's header names the digest of
the history before it. Where a segment begins before the end of an earlier one (left by
a failed sync), the later segment is the history from its first commit on.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from engine.errors import LogCorrupt
from engine.files import Disk
from engine.segment import (
    SEGMENT_SUFFIX,
    TEMPORARY_SUFFIX,
    SegmentHeader,
    parse_segment_name,
)
from engine.segment_index import INDEX_SUFFIX, SegmentIndex
from engine.segment_scan import (
    RESTORE_HINT,
    SegmentScan,
    check_end,
    read_header,
    scan_segment,
    trust_saved_index,
)
from proto.record import MAGIC
from proto.tokens import Bookmark, CommitToken

_SEARCH_BYTES: Final = 1024 * 1024


class LogEnds(NamedTuple):
    """What can be said of a database that is not open."""

    head: Bookmark
    tail: Bookmark
    bytes: int
    page_count: int
    checksum: int
    time_ms: int


class Segment(NamedTuple):
    """A segment as a log lists it: complete and durable up to where the next one begins."""

    path: Path
    first: CommitToken
    bytes: int


@dataclass(slots=True)
class Survey:
    """The segments of a log, oldest first, and what the last one holds."""

    segments: list[Segment]
    tail: Bookmark
    last: SegmentScan
    worthless: list[Path] = field(default_factory=list)
    """Files without a commit that a crash left."""


def survey(folder: Path, uuid: bytes, disk: Disk) -> Survey:
    """Find a log's ends. Raises `LogCorrupt`, `OSError`."""
    segments, worthless = _list_segments(folder, disk)
    while segments:
        segment = segments[-1]
        header = read_header(disk, segment.path)
        if header is not None:
            _check_header(header, segment, uuid)
            return _survey_last(segments, header, worthless, disk)
        if len(segments) == 1 or not _is_without_commits(segment, disk):
            raise LogCorrupt(f"{segment.path}: the header is damaged. {RESTORE_HINT}")
        worthless.append(segments.pop().path)
    raise LogCorrupt(f"{folder} holds no commit log. {RESTORE_HINT}")


def peek(folder: Path, uuid: bytes, disk: Disk) -> LogEnds:
    """The ends of a log that is not open. Raises `LogCorrupt`, `OSError`."""
    found = survey(folder, uuid, disk)
    sealed = sum(segment.bytes for segment in found.segments[:-1])
    state = found.last.state
    return LogEnds(
        head=state.position,
        tail=found.tail,
        bytes=sealed + found.last.index.end,
        page_count=state.page_count,
        checksum=state.checksum,
        time_ms=state.time_ms,
    )


def sealed_header(segment: Segment, uuid: bytes, disk: Disk) -> SegmentHeader:
    """The header of a segment that must have one. Raises `LogCorrupt`, `OSError`."""
    header = read_header(disk, segment.path)
    if header is None:
        raise LogCorrupt(f"{segment.path}: the header is damaged. {RESTORE_HINT}")
    _check_header(header, segment, uuid)
    return header


def sealed_index(segment: Segment, uuid: bytes, disk: Disk, *, before: int) -> SegmentIndex:
    """The index of a segment that is followed by one that begins with commit `before`.

    Read if it was saved, else made by a scan. Raises `LogCorrupt`, `OSError`.
    """
    saved = SegmentIndex.load(disk, segment.path)
    if (
        saved is not None
        and saved.index.first_seq == segment.first.seq
        and saved.index.last_seq >= before - 1
    ):
        return saved.index
    header = sealed_header(segment, uuid, disk)
    scan = scan_segment(disk, segment.path, header, before=before)
    if scan.index.last_seq != before - 1:
        raise LogCorrupt(
            f"{segment.path} is damaged at offset {scan.index.end}: commit "
            f"{scan.index.last_seq + 1} cannot be read, and the next segment begins with commit "
            f"{before}. {RESTORE_HINT}"
        )
    return scan.index


def _list_segments(folder: Path, disk: Disk) -> tuple[list[Segment], list[Path]]:
    """Segments by age, and what a crash left: unnamed segments, indexes of removed ones."""
    segments, worthless = [], []
    names = disk.list(folder)
    for name in names:
        path = folder / name
        token = parse_segment_name(name)
        if token is not None:
            segments.append(Segment(path, token, path.stat().st_size))
        elif path.suffix == TEMPORARY_SUFFIX or (
            path.suffix == INDEX_SUFFIX and path.with_suffix(SEGMENT_SUFFIX).name not in names
        ):
            worthless.append(path)
    # By number, not by name: a segment keeps the name of a first commit that was erased again,
    # and that one's epoch may be newer than what came in its place.
    segments.sort(key=lambda segment: (segment.first.seq, segment.first.epoch))
    return segments, worthless


def _check_header(header: SegmentHeader, segment: Segment, uuid: bytes) -> None:
    if header.uuid != uuid:
        raise LogCorrupt(
            f"{segment.path} belongs to the database {header.uuid.hex()}, not {uuid.hex()}"
        )
    if header.first != segment.first or header.first.seq != header.after.position.seq + 1:
        raise LogCorrupt(f"{segment.path} was renamed: its first commit is {header.first}")


def _survey_last(
    segments: list[Segment], header: SegmentHeader, worthless: list[Path], disk: Disk
) -> Survey:
    path = segments[-1].path
    first = read_header(disk, segments[0].path) if len(segments) > 1 else header
    if first is None:
        raise LogCorrupt(f"{segments[0].path}: the header is damaged. {RESTORE_HINT}")
    saved = SegmentIndex.load(disk, path)
    scan = trust_saved_index(disk, path, header, saved) if saved is not None else None
    if scan is None:
        scan = scan_segment(disk, path, header)
        check_end(disk, path, scan, saved)
    return Survey(segments, first.after.position, scan, worthless)


def _is_without_commits(segment: Segment, disk: Disk) -> bool:
    """Nothing in this file looks like a commit part."""
    fd = disk.open(segment.path)
    try:
        for at in range(0, segment.bytes, _SEARCH_BYTES):
            if MAGIC in disk.pread(fd, _SEARCH_BYTES + len(MAGIC), at):
                return False
    finally:
        disk.close(fd)
    return True
