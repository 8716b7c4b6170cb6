"""From a commit log and an old file to the database as of the log's end.

The *base* says up to which commit the file alone is complete. Whatever happened to the
file since (a checkpoint cut short, a power cut, a kill), the log's records after the
base hold every page that could have changed, so writing those pages over the file gives
the exact state of the log's head. SQLite must not touch the file before that: between
base and head it is no valid database. `-wal` and `-shm` are thrown away: they hold
nothing that the log does not, except commits that nobody was told of.

A base that is too old is always safe, one that is too new never: it is advanced only after
a checkpoint moved the whole WAL and the file was fsynced.
"""

import logging
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import xxhash

from engine.checksum import PageChecksums
from engine.errors import DatabaseDamaged
from engine.files import Disk
from engine.log import CommitLog
from engine.wal import PAGE_SIZE
from proto.record import CommitPart
from proto.tokens import Bookmark, CommitToken

logger = logging.getLogger(__name__)

DB_NAME: Final = "db.sqlite"
BASE_NAME: Final = "base"
LOG_NAME: Final = "log"
_MAGIC: Final = b"D1BS"
_FORMAT: Final = 1
# magic, format, database, epoch, seq, digest, rolling checksum, page count, page size; then
# xxh3_64 of all that. Byte table: proto/FORMAT.md.
_BASE: Final = struct.Struct("<4sI16sIQ16sQII")
_CHECK: Final = struct.Struct("<Q")
_PATCH_BYTES: Final = 16 * 1024 * 1024
"""Records are patched in groups of about this size: the last image of a page is written once."""


@dataclass(frozen=True, slots=True)
class Base:
    """What `db.sqlite` alone reaches: its state at `position`."""

    position: Bookmark
    checksum: int
    page_count: int


def read_base(folder: Path, uuid: bytes, disk: Disk) -> Base | None:
    """The database's base, None if it has none. Raises `DatabaseDamaged` for a wrong file."""
    path = folder / BASE_NAME
    if not path.exists():
        return None
    fd = disk.open(path)
    try:
        data = disk.pread(fd, _BASE.size + _CHECK.size, 0)
    finally:
        disk.close(fd)
    good = len(data) == _BASE.size + _CHECK.size and _CHECK.unpack_from(data, _BASE.size) == (
        xxhash.xxh3_64_intdigest(data[: _BASE.size]),
    )
    if not good:
        raise DatabaseDamaged(f"{path} is damaged; restore this folder, or let a replica copy anew")
    magic, version, owner, epoch, seq, digest, checksum, page_count, page_size = _BASE.unpack_from(
        data
    )
    if magic != _MAGIC or version > _FORMAT or page_size != PAGE_SIZE:
        raise DatabaseDamaged(f"{path} has format {version}; this program knows up to {_FORMAT}")
    if owner != uuid:
        raise DatabaseDamaged(f"{path} belongs to the database {owner.hex()}, not {uuid.hex()}")
    return Base(Bookmark(CommitToken(epoch, seq), digest), checksum, page_count)


def write_base(folder: Path, uuid: bytes, base: Base, disk: Disk) -> None:
    """Replace the database's base, atomically and durably. Raises `OSError`."""
    (epoch, seq), digest = base.position
    data = _BASE.pack(
        _MAGIC, _FORMAT, uuid, epoch, seq, digest, base.checksum, base.page_count, PAGE_SIZE
    )
    disk.replace_file(folder / BASE_NAME, data + _CHECK.pack(xxhash.xxh3_64_intdigest(data)))


def recover(folder: Path, uuid: bytes, log: CommitLog, disk: Disk) -> tuple[Base, PageChecksums]:
    """Bring `db.sqlite` to the log's durable head and verify every page of it; blocking.

    No connection may be open on the database. Gives the new base and the page
    checksums. A file or base that is damaged is made anew if the log reaches back to the first
    commit. Raises `DatabaseDamaged` if file and log together are not the database that the
    log's head describes.
    """
    for suffix in ("-wal", "-shm"):
        disk.remove(folder / (DB_NAME + suffix))
    try:
        base = read_base(folder, uuid, disk)
        if base is None and log.tail.seq != 0:
            raise DatabaseDamaged(
                f"{folder} has no base and its log begins after {log.tail}: the first commits "
                "are gone"
            )
        recovered, pages = _recover_from(base, folder, log, disk)
    except DatabaseDamaged as exc:
        if log.tail.seq != 0:
            raise
        logger.warning("%s is made anew from the first commit on: %s", folder / DB_NAME, exc)
        base = None
        recovered, pages = _recover_from(None, folder, log, disk)
    if recovered != base:
        write_base(folder, uuid, recovered, disk)
    return recovered, pages


def _recover_from(
    base: Base | None, folder: Path, log: CommitLog, disk: Disk
) -> tuple[Base, PageChecksums]:
    """Patch the file, which is complete up to `base`, or worthless if there is none."""
    start = base.position if base is not None else log.tail
    head = log.durable
    fd = disk.open(folder / DB_NAME, create=True)
    try:
        if base is None:
            disk.truncate(fd, 0)
        last = _patch(fd, start, log, disk)
        if last is not None:
            checksum, page_count = last.checksum, last.page_count
        elif base is not None and base.position == head:
            checksum, page_count = base.checksum, base.page_count
        else:
            raise DatabaseDamaged(f"{folder}: the log ends at {head}, the base says {start}")
        pages = _verified_pages(fd, folder, page_count, checksum)
    finally:
        disk.close(fd)
    return Base(head, checksum, page_count), pages


def _patch(fd: int, start: Bookmark, log: CommitLog, disk: Disk) -> CommitPart | None:
    """Write the pages of all commits after `start` into the file; the last part, if any."""
    reader = log.reader(start)
    last: CommitPart | None = None
    try:
        while parts := reader.next(_PATCH_BYTES):
            images: dict[int, memoryview] = {}
            for part in parts:
                images.update(zip(part.pgnos, part.pages(), strict=True))
            for pgno in sorted(images):
                disk.pwrite(fd, images[pgno], (pgno - 1) * PAGE_SIZE)
            last = parts[-1]
    finally:
        reader.close()
    if last is not None:
        assert last.is_last, "a log ends with a whole commit"
        disk.truncate(fd, last.page_count * PAGE_SIZE)
        disk.fsync(fd)
    return last


def _verified_pages(fd: int, folder: Path, page_count: int, checksum: int) -> PageChecksums:
    pages = PageChecksums.from_file(fd, page_count)
    if pages.rolling != checksum:
        raise DatabaseDamaged(
            f"{folder / DB_NAME} and its commit log do not add up: the pages' checksum is "
            f"{pages.rolling:016x}, the newest commit says {checksum:016x}. On a replica the file "
            "is copied anew; on the primary restore this folder from a replica or a backup"
        )
    return pages
