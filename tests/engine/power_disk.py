"""A disk that forgets: real files for what a process sees, a model for what survives.

Every write is remembered until a sync. `cut_power` makes the folder that a machine finds
after a power cut: what was synced, and of everything else any subset of 512-byte sectors;
of the folder's own changes any prefix (a journal keeps their order).

Faults are asked for by the name of the operation. A sync that fails loses the pages for
good, as Linux does: they read well from the cache and are never written again.
"""

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from engine.files import Disk
from proto.record import Buffer

SECTOR_BYTES = 512

# (offset, bytes) of a write, or the size of a truncation.
Change = tuple[int, bytes] | int


@dataclass
class Inode:
    """One file: what is on the platter, and what only the cache has."""

    durable: bytearray = field(default_factory=bytearray)
    changes: list[Change] = field(default_factory=list)

    def settle(self, keep: Callable[[], bool]) -> None:
        """Apply each sector of each change that `keep` says."""
        for change in self.changes:
            if isinstance(change, int):
                if keep():
                    del self.durable[change:]
                    self.durable += bytes(change - len(self.durable))
                continue
            offset, data = change
            at = 0
            while at < len(data):
                size = min(SECTOR_BYTES - (offset + at) % SECTOR_BYTES, len(data) - at)
                if keep():
                    start = offset + at
                    if len(self.durable) < start + size:
                        self.durable += bytes(start + size - len(self.durable))
                    self.durable[start : start + size] = data[at : at + size]
                at += size
        self.changes = []


class PowerDisk(Disk):
    """See the module's head. One folder level; paths are told apart by name."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.faults: dict[str, int] = {}
        """Operation -> how many of its calls to let pass before one fails."""
        self.calls: list[str] = []
        self._names: dict[str, Inode] = {}
        self._durable_names: dict[str, Inode] = {}
        self._name_changes: list[tuple[str, Inode | None]] = []
        self._open: dict[int, Inode] = {}

    @property
    def open_count(self) -> int:
        return len(self._open)

    def fail(self, operation: str, *, after: int = 0) -> None:
        """Let the call of `operation` after the next `after` ones fail."""
        self.faults[operation] = after

    def cut_power(self, folder: Path) -> None:
        """Make `folder` (new) what this disk holds after a power cut, and be that disk."""
        self.end_process()
        keep = self._coin()
        kept = self._name_changes[: self.random.randint(0, len(self._name_changes))]
        for name, inode in kept:
            self._apply_name(self._durable_names, name, inode)
        self._names = dict(self._durable_names)
        self._name_changes = []
        folder.mkdir()
        for name, inode in self._names.items():
            inode.settle(keep)
            (folder / name).write_bytes(inode.durable)

    def end_process(self) -> None:
        """Close what a killed process had open; nothing else happens."""
        for fd in self._open:
            os.close(fd)
        self._open = {}

    def open(self, path: Path, *, create: bool = False) -> int:
        self._maybe_fail("open", errno.EMFILE)
        is_new = not path.exists()
        fd = super().open(path, create=create)
        if is_new:
            self._change_name(path.name, Inode())
        self._open[fd] = self._names[path.name]
        return fd

    def close(self, fd: int) -> None:
        self._open.pop(fd, None)
        super().close(fd)

    def pwrite(self, fd: int, data: Buffer, offset: int) -> None:
        self.pwritev(fd, [data], offset)

    def pwritev(self, fd: int, pieces: Sequence[Buffer], offset: int) -> None:
        data = b"".join(pieces)
        try:
            self._maybe_fail("write", errno.ENOSPC)
        except OSError:
            data = data[: self.random.randint(0, len(data))]
            os.pwrite(fd, data, offset)
            self._open[fd].changes.append((offset, data))
            raise
        os.pwrite(fd, data, offset)
        self._open[fd].changes.append((offset, data))

    def fdatasync(self, fd: int) -> None:
        self._sync(fd)

    def fsync(self, fd: int) -> None:
        self._sync(fd)

    def truncate(self, fd: int, size: int) -> None:
        self._maybe_fail("truncate", errno.EIO)
        super().truncate(fd, size)
        self._open[fd].changes.append(size)

    def sync_folder(self, folder: Path) -> None:
        self._maybe_fail("sync_folder", errno.EIO)
        self._durable_names = dict(self._names)
        self._name_changes = []

    def rename(self, source: Path, target: Path) -> None:
        self._maybe_fail("rename", errno.EIO)
        super().rename(source, target)
        inode = self._names[source.name]
        self._change_name(target.name, inode)
        # One change with the removal of the old name: a rename is atomic.
        self._names.pop(source.name, None)
        self._name_changes[-1] = (f"{source.name}>{target.name}", inode)

    def remove(self, path: Path) -> None:
        self._maybe_fail("remove", errno.EIO)
        if path.exists():
            super().remove(path)
            self._change_name(path.name, None)

    def _sync(self, fd: int) -> None:
        inode = self._open[fd]
        try:
            self._maybe_fail("sync", errno.EIO)
        except OSError:
            inode.settle(self._coin())  # what is lost here no later sync brings back
            raise
        inode.settle(lambda: True)

    def _coin(self) -> Callable[[], bool]:
        likely = self.random.choice((0.0, 0.2, 0.5, 0.8, 1.0))
        return lambda: self.random.random() < likely

    def _maybe_fail(self, operation: str, code: int) -> None:
        self.calls.append(operation)
        left = self.faults.get(operation)
        if left is None:
            return
        if left:
            self.faults[operation] = left - 1
            return
        del self.faults[operation]
        raise OSError(code, f"{operation}: {os.strerror(code)}")

    def _change_name(self, name: str, inode: Inode | None) -> None:
        self._apply_name(self._names, name, inode)
        self._name_changes.append((name, inode))

    @staticmethod
    def _apply_name(names: dict[str, Inode], name: str, inode: Inode | None) -> None:
        source, _, target = name.rpartition(">")
        names.pop(source, None)
        if inode is None:
            names.pop(target, None)
        else:
            names[target] = inode
