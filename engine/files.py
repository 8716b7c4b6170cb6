"""The one seam between the engine and the file system.

`Disk` is what the engine may ask of files; tests put a faulty one in its place.
`HeldFiles` are the descriptors of one live SQLite database.

Rule of POSIX locks (DESIGN section 2): closing *any* descriptor of a database file
or its `-shm` drops all of SQLite's locks on it in this process. `HeldFiles` are
therefore opened once, after SQLite has made the files, and closed only after the last
connection is closed. The `-wal` file carries no locks, but is held all the same.
"""

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from proto.record import Buffer

_IOV_MAX: Final = 512  # below every system's limit (Linux: 1024)
_FILE_MODE: Final = 0o600  # user data: nobody else's business
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

ROOM_KEPT_BYTES: Final = 16 * 1024 * 1024
"""Files of clients leave so much of the disk to the commits."""


def is_no_room(error: OSError) -> bool:
    """The disk is full, or the file may not grow."""
    return error.errno in _NO_ROOM


class Disk:
    """Blocking file operations, each all or an `OSError`. Stateless; shared by all databases."""

    def open(self, path: Path, *, create: bool = False) -> int:
        """Open `path` for reading and writing; the descriptor is the caller's to close."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        return os.open(path, flags, _FILE_MODE)

    def close(self, fd: int) -> None:
        """Give a descriptor back."""
        os.close(fd)

    def size(self, fd: int) -> int:
        """Bytes of the open file."""
        return os.fstat(fd).st_size

    def pread(self, fd: int, count: int, offset: int) -> bytes:
        """Read `count` bytes, fewer only at the end of the file."""
        data = os.pread(fd, count, offset)
        if len(data) == count or not data:
            return data
        pieces = [data]
        missing = count - len(data)
        while missing and data:
            data = os.pread(fd, missing, offset + count - missing)
            pieces.append(data)
            missing -= len(data)
        return b"".join(pieces)

    def pwrite(self, fd: int, data: Buffer, offset: int) -> None:
        """Write all of `data` at `offset`."""
        done = os.pwrite(fd, data, offset)
        if done == len(data):
            return
        view = memoryview(data)
        while done < len(view):
            done += os.pwrite(fd, view[done:], offset + done)

    def pwritev(self, fd: int, pieces: Sequence[Buffer], offset: int) -> None:
        """Write `pieces` one after the other from `offset` on, all of them."""
        for start in range(0, len(pieces), _IOV_MAX):
            group = pieces[start : start + _IOV_MAX]
            wanted = sum(map(len, group))
            done = os.pwritev(fd, group, offset)
            if done < wanted:
                self.pwrite(fd, memoryview(b"".join(group))[done:], offset + done)
            offset += wanted

    def fdatasync(self, fd: int) -> None:
        """Make the file's bytes durable."""
        _fdatasync(fd)

    def fsync(self, fd: int) -> None:
        """Make the file's bytes and its size durable."""
        os.fsync(fd)

    def truncate(self, fd: int, size: int) -> None:
        """Cut or extend the file to `size` bytes."""
        os.ftruncate(fd, size)

    def check_room(self, folder: Path, count: int) -> None:
        """Raise `OSError` (ENOSPC) unless `count` bytes more leave `ROOM_KEPT_BYTES` free."""
        found = os.statvfs(folder)
        if found.f_bavail * found.f_frsize < count + ROOM_KEPT_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    def list(self, folder: Path) -> list[str]:
        """Names in `folder`, sorted; none if it does not exist."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(path.name for path in folder.iterdir())
        return []

    def make_folder(self, folder: Path) -> None:
        """Create `folder` (and its parents) if it is not there, durably."""
        if folder.is_dir():
            return
        self.make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        self.sync_folder(folder.parent)

    def sync_folder(self, folder: Path) -> None:
        """Make creations, renames and removals in `folder` durable."""
        fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Put `source` in the place of `target`, atomically; not durable by itself."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Remove a file if it is there."""
        path.unlink(missing_ok=True)

    def replace_file(self, path: Path, data: bytes) -> None:
        """Give `path` the content `data`: after a crash it has the old or the new one, whole."""
        beside = path.with_name(path.name + ".new")
        fd = self.open(beside, create=True)
        try:
            self.truncate(fd, 0)
            self.pwrite(fd, data, 0)
            self.fsync(fd)
        finally:
            self.close(fd)
        self.rename(beside, path)
        self.sync_folder(path.parent)


def _fdatasync(fd: int) -> None:
    sync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync
    sync(fd)


class HeldFiles:
    """Descriptors of a live database's three files; see the rule in the module's head.

    Opened after SQLite made all three (a first read transaction does), closed by
    `close` after the last connection is closed, never before.
    """

    __slots__ = ("_disk", "db_fd", "path", "shm_fd", "wal_fd")

    def __init__(self, path: Path, disk: Disk) -> None:
        """Open the files of the database at `path`.

        Raises `OSError`; a descriptor that was opened before the failure is lost then: to
        close it would drop the locks of the connections that are open.
        """
        self.path = path
        self._disk = disk
        self.db_fd = disk.open(path)
        self.wal_fd = disk.open(path.with_name(path.name + "-wal"))
        self.shm_fd = disk.open(path.with_name(path.name + "-shm"))

    def close(self) -> None:
        """Give the descriptors back. No connection may be open on the database."""
        for fd in (self.db_fd, self.wal_fd, self.shm_fd):
            self._disk.close(fd)
