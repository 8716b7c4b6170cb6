"""A real disk that notes what was given its place before it was durable.

A crash may lose what was not synced. So before a file takes the name under which it is found
after a crash its bytes must be synced, `db.sqlite` before the base that vouches for it, and the
folder after it. `late` has what did not keep to that.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from engine.files import Disk
from engine.recovery import BASE_NAME, DB_NAME
from engine.segment_index import INDEX_SUFFIX
from proto.record import Buffer


class SyncedDisk(Disk):
    """See the module's head."""

    def __init__(self) -> None:
        self.late: list[str] = []
        self.bases = 0  # that were put in place
        self._paths: dict[int, Path] = {}
        self._unsynced: set[int] = set()  # inodes
        self._vouched: dict[int, bool] = {}  # inode of a database: synced since its last base
        self._folders: set[Path] = set()  # with names that are not durable

    @property
    def unsynced_folders(self) -> set[Path]:
        """Folders that exist and have names in them that a crash may lose."""
        return {folder for folder in self._folders if folder.exists()}

    def open(self, path: Path, *, create: bool = False) -> int:
        if create and path.name == DB_NAME and not path.exists():
            self._folders.add(path.parent)
        fd = super().open(path, create=create)
        self._paths[fd] = path
        return fd

    def pwrite(self, fd: int, data: Buffer, offset: int) -> None:
        super().pwrite(fd, data, offset)
        self._unsynced.add(self._inode(fd))

    def pwritev(self, fd: int, pieces: Sequence[Buffer], offset: int) -> None:
        super().pwritev(fd, pieces, offset)
        self._unsynced.add(self._inode(fd))

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        self._unsynced.discard(self._inode(fd))

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        self._unsynced.discard(self._inode(fd))
        if self._paths[fd].name == DB_NAME:
            self._vouched[self._inode(fd)] = True

    def make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            self._folders.add(folder.parent)
        super().make_folder(folder)

    def sync_folder(self, folder: Path) -> None:
        super().sync_folder(folder)
        self._folders.discard(folder)

    def rename(self, source: Path, target: Path) -> None:
        if INDEX_SUFFIX not in source.name:  # a lost index costs a scan
            self._check(source, target)
            self._folders.add(target.parent)
        super().rename(source, target)

    def _check(self, source: Path, target: Path) -> None:
        files = list(source.rglob("*")) if source.is_dir() else [source]
        for path in files:
            if INDEX_SUFFIX not in path.name and path.stat().st_ino in self._unsynced:
                self.late.append(f"{path} when it became {target}")
        if target.name == BASE_NAME:
            self.bases += 1
            database = (target.parent / DB_NAME).stat().st_ino
            if not self._vouched.get(database):
                self.late.append(f"{target.parent / DB_NAME} when its base was written")
            self._vouched[database] = False

    def _inode(self, fd: int) -> int:
        return os.fstat(fd).st_ino
