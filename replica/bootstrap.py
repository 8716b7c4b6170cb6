"""A fuzzy copy of the primary's file, and the commits that make a database of it.

The primary reads its file while it changes, so the copy alone is no database: pages may be
newer than its base. The commits after the base, up to the primary's head when the copy
ended, hold every page that changed meanwhile. Both are collected in a folder beside the
database's; only when they are complete does that folder take the database's place, and
the usual recovery patches the one with the other.

    <uuid>.copy-<n>/  a copy under way; worthless after a crash, removed at start
    <uuid>.old/       what it replaced, for the moment of the exchange; removed at start
"""

import itertools
import logging
import shutil
from pathlib import Path
from typing import Final

from engine.log import CommitLog
from engine.recovery import DB_NAME, LOG_NAME, Base, write_base
from engine.resources import Resources
from engine.wal import PAGE_SIZE
from proto.messages import SnapshotBegin, SnapshotPages
from proto.record import CommitPart
from proto.tokens import Bookmark
from replica.errors import HistoryDiverged

logger = logging.getLogger(__name__)

COPY_SUFFIX: Final = ".copy"
OLD_SUFFIX: Final = ".old"
AHEAD_SUFFIX: Final = ".ahead"

_numbers = itertools.count(1)  # a copy given up may still be removed while the next one begins


class FileCopy:
    """One copy under way; all methods block and belong on one thread at a time."""

    def __init__(self, folder: Path, begin: SnapshotBegin, resources: Resources) -> None:
        """Copy for the database in `folder`. Raises `HistoryDiverged`, `OSError`, `LogFailed`."""
        if begin.page_size != PAGE_SIZE:
            raise HistoryDiverged(f"the primary's pages have {begin.page_size} bytes")
        self._target = folder
        self._folder = folder.with_name(f"{folder.name}{COPY_SUFFIX}-{next(_numbers)}")
        self._resources = resources
        self._begin = begin
        self._until: Bookmark | None = None
        self.bytes_copied = 0
        self.bytes_expected = begin.page_count * PAGE_SIZE
        self._chain = begin.base.digest
        remove_folder(self._folder)
        try:
            self._make()
        except BaseException:
            remove_folder(self._folder)
            raise

    def _make(self) -> None:
        disk, begin = self._resources.disk, self._begin
        disk.make_folder(self._folder)
        self._fd = disk.open(self._folder / DB_NAME, create=True)
        try:
            self._log = CommitLog.create(
                self._folder / LOG_NAME,
                begin.base.uuid,
                disk,
                after=begin.base.bookmark,
                bytes_max=self._resources.log_bytes_max,
            )
        except BaseException:
            disk.close(self._fd)
            raise

    @property
    def uuid(self) -> bytes:
        """The database that is copied."""
        return self._begin.base.uuid

    def write_pages(self, message: SnapshotPages) -> None:
        """Take pages of the file."""
        offset = (message.first_pgno - 1) * PAGE_SIZE
        self._resources.disk.pwrite(self._fd, message.data, offset)
        self.bytes_copied += len(message.data)

    def end_pages(self, until: Bookmark) -> None:
        """The file is through; it needs the commits up to `until`."""
        self._until = until

    def append(self, parts: list[CommitPart]) -> None:
        """Take commits that follow the base. Raises `HistoryDiverged`, `LogFailed`."""
        for part in parts:
            if part.prev_digest != self._chain:
                raise HistoryDiverged(f"{part!r} does not follow the copy's commits")
            self._chain = part.digest
        self._log.append(parts)
        self._log.mark_durable(self._log.flush())

    @property
    def is_complete(self) -> bool:
        """File and commits together are a database."""
        return self._until is not None and self._log.durable.seq >= self._until.seq

    def install(self, replaced: Bookmark) -> None:
        """Take the database's place; nobody may have it open.

        `replaced` is where the database is that stood there. One that is ahead of the primary
        holds commits which the primary has lost: it is set aside for the operator. If this
        fails, nothing remains of the copy.
        """
        try:
            self._install(replaced)
        except BaseException:
            remove_folder(self._folder)
            raise

    def _install(self, replaced: Bookmark) -> None:
        disk = self._resources.disk
        try:
            disk.fsync(self._fd)
            self._log.drop_partial()
            is_lost = self._lacks(replaced)
        finally:
            disk.close(self._fd)
            self._log.close()
        begin = self._begin
        base = Base(begin.base.bookmark, begin.checksum, begin.page_count)
        write_base(self._folder, self.uuid, base, disk)
        old = self._target.with_name(self._target.name + OLD_SUFFIX)
        remove_folder(old)
        if self._target.exists():
            if is_lost:
                old = self._set_aside(replaced)
            disk.rename(self._target, old)
        disk.rename(self._folder, self._target)
        disk.sync_folder(self._target.parent)
        if old.suffix == OLD_SUFFIX:
            remove_folder(old)

    def _lacks(self, replaced: Bookmark) -> bool:
        """The copy's history surely does not have this commit."""
        if replaced.token <= self._begin.base.bookmark.token:
            return False  # older than the copy's log can tell: it was only behind
        return self._log.digest_at(replaced.seq) != replaced.digest

    def _set_aside(self, replaced: Bookmark) -> Path:
        """Where the only copy of commits that the primary lost is kept."""
        aside = self._target.with_name(f"{self._target.name}{AHEAD_SUFFIX}-{replaced.seq}")
        logger.error(
            "this replica was at %s, which is not in the primary's history (now at %s): the "
            "primary lost acknowledged commits. What was here is kept in %s",
            replaced,
            self._log.head,
            aside,
        )
        return aside

    def abandon(self) -> None:
        """Forget the copy."""
        self._resources.disk.close(self._fd)
        self._log.close()
        remove_folder(self._folder)


def remove_leftovers(databases: Path) -> None:
    """Remove what copies left in the folder of all databases when the node was killed."""
    for suffix in (COPY_SUFFIX, OLD_SUFFIX):
        for left in databases.glob(f"*{suffix}*"):
            remove_folder(left)


def remove_folder(folder: Path) -> None:
    """Remove a folder and everything in it, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)
