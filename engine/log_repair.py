"""Making a log's last segment fit to be written: new, closed before, or left by a crash."""

from pathlib import Path
from typing import Final

from engine.files import Disk
from engine.log_survey import Survey
from engine.segment import (
    HEADER_BYTES,
    BlankFile,
    SegmentFile,
    SegmentHeader,
    make_blank,
)
from engine.segment_scan import SegmentScan

_REWRITE_BYTES: Final = 1024 * 1024


def write_header(disk: Disk, path: Path, header: SegmentHeader) -> SegmentFile:
    """A durable segment without commits, still under its temporary name. Raises `OSError`."""
    fd, _, _ = make_blank(disk, path, 0)
    try:
        disk.pwrite(fd, header.encode(), 0)
        disk.fsync(fd)
    except OSError:
        disk.close(fd)
        raise
    segment = SegmentFile(disk, BlankFile(fd, path, HEADER_BYTES), header)
    segment.resume(segment.index, 0)
    return segment


def reopen_last(found: Survey, disk: Disk) -> SegmentFile:
    """The last segment, repaired if the log was not closed, ready to be written."""
    for path in found.worthless:
        disk.remove(path)
    path, scan = found.segments[-1].path, found.last
    fd = disk.open(path)
    try:
        if not scan.is_closed:
            _repair(fd, path, scan, disk)
        size = disk.size(fd)
    except OSError:
        disk.close(fd)
        raise
    segment = SegmentFile(disk, BlankFile(fd, path, size), scan.header)
    segment.resume(scan.index, scan.last_part_at)
    return segment


def _repair(fd: int, path: Path, scan: SegmentScan, disk: Disk) -> None:
    """Erase a torn tail and make sure that the rest is on the disk, not only in its cache."""
    end = scan.index.end
    if not scan.is_tail_zero or disk.size(fd) == end:
        # Also where the file ends already: a cut whose sync failed is in the cache only, and is
        # made again by one that changes something.
        disk.truncate(fd, end + 1)
        disk.truncate(fd, end)
    for at in range(scan.unproven_at, end, _REWRITE_BYTES):
        disk.pwrite(fd, disk.pread(fd, min(_REWRITE_BYTES, end - at), at), at)
    disk.fsync(fd)
    disk.sync_folder(path.parent)
