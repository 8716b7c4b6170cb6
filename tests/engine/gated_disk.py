"""A real disk whose syncs can be held up, and whose writes can be made to fail.

with disk.syncs_held():  an fdatasync blocks its thread until the block ends
disk.fail_syncs(1)       the next fdatasync fails, after the bytes were written
with disk.broken():      nothing can be written, created, cut, renamed or synced
"""

import contextlib
import errno
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.files import Disk
from proto.record import Buffer


class GatedDisk(Disk):
    """See the module's head."""

    def __init__(self) -> None:
        self.syncs = 0  # begun
        self.held = 0  # waiting now
        self.is_broken = False
        self._failing = self._passing = 0
        self._gate = threading.Event()
        self._gate.set()

    @contextlib.contextmanager
    def syncs_held(self) -> Iterator[None]:
        """Let no fdatasync end while the block runs."""
        self._gate.clear()
        try:
            yield
        finally:
            self._gate.set()

    def fail_syncs(self, count: int, *, after: int = 0) -> None:
        """Let `count` fdatasyncs fail, the next ones `after` so many."""
        self._failing, self._passing = count, after

    @contextlib.contextmanager
    def broken(self) -> Iterator[None]:
        """Let nothing be written while the block runs."""
        self.is_broken = True
        try:
            yield
        finally:
            self.is_broken = False

    def fdatasync(self, fd: int) -> None:
        self.syncs += 1
        self.held += 1
        self._gate.wait()
        self.held -= 1
        if self._passing:
            self._passing -= 1
        elif self._failing:
            self._failing -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._check()
        super().fdatasync(fd)

    def fsync(self, fd: int) -> None:
        self._check()
        super().fsync(fd)

    def pwrite(self, fd: int, data: Buffer, offset: int) -> None:
        self._check()
        super().pwrite(fd, data, offset)

    def pwritev(self, fd: int, pieces: Sequence[Buffer], offset: int) -> None:
        self._check()
        super().pwritev(fd, pieces, offset)

    def truncate(self, fd: int, size: int) -> None:
        self._check()
        super().truncate(fd, size)

    def rename(self, source: Path, target: Path) -> None:
        self._check()
        super().rename(source, target)

    def open(self, path: Path, *, create: bool = False) -> int:
        if create:
            self._check()
        return super().open(path, create=create)

    def _check(self) -> None:
        if self.is_broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
