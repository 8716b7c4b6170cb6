"""A database that is open: its recovered file, its descriptors and its connections.

One connection is the *keeper*: on the primary the writer, on a replica the guard under
which commits are injected. All checkpoints run on it. Readers are an inline one, used on
the event loop, and a bounded pool for threads.

Close order, which the rule of POSIX locks (`engine/files.py`) dictates: readers, keeper,
then the held descriptors.

Invariants:

1. Nothing is copied into the file (checkpoint) that the commit log does not hold
   durably; the owner calls `checkpoint` only then.
2. `pages` describes the state of the newest commit in the WAL, published or being published.
"""

import enum
from pathlib import Path
from typing import Final, NamedTuple, Self, TypeVar

import apsw

from engine.capture import WalCapture
from engine.checksum import PageChecksums
from engine.errors import DatabaseDamaged
from engine.files import Disk, HeldFiles
from engine.inject import Injector
from engine.limits import SqlLimits
from engine.log import CommitLog
from engine.recovery import DB_NAME, Base, recover, write_base
from engine.sandbox import BUSY_TIMEOUT_MS, open_guard
from engine.transaction import SqlConnection
from engine.wal import FRAME_BYTES, WAL_HEADER_BYTES

C = TypeVar("C", SqlConnection, apsw.Connection)

POOL_READERS_MAX: Final = 4
"""Reads on threads at the same time, per database; more wait for their turn."""
_SPILL_BYTES_MAX: Final = 4 * 1024 * 1024  # less is not worth a system call
_READERS_WAIT_MS: Final = 10  # more than a read in the event loop takes


class Role(enum.Enum):
    """Where the commits of a live database come from."""

    WRITES = "writes"  # the primary: SQL on the writer
    INJECTS = "injects"  # a replica: records under the guard


class Checkpointed(NamedTuple):
    """What a checkpoint did: frames in the WAL, and how many of them are now in the file."""

    frames: int
    moved: int

    @property
    def is_whole(self) -> bool:
        """The file alone now has everything."""
        return self.frames == self.moved


class LiveDatabase:
    """One open database; see the module's head.

    Not for two threads at once, but for the connections that `borrow_reader` gives out.
    """

    def __init__(self, folder: Path, uuid: bytes, disk: Disk, limits: SqlLimits) -> None:
        """Use `open`."""
        self.folder = folder
        self.uuid = uuid
        self._disk = disk
        self._limits = limits
        self._idle_readers: list[SqlConnection] = []
        self._connections: list[SqlConnection | apsw.Connection] = []  # the keeper first
        self._files: HeldFiles | None = None
        self.readers_out = 0
        self.base: Base
        self.pages: PageChecksums
        self.files: HeldFiles
        self.keeper: apsw.Connection
        self.reader: SqlConnection

    @classmethod
    def open(
        cls, folder: Path, uuid: bytes, log: CommitLog, *, role: Role, disk: Disk, limits: SqlLimits
    ) -> Self:
        """Recover the database and open it; blocking.

        Raises `DatabaseDamaged` (see `recover`), `OSError`.
        """
        live = cls(folder, uuid, disk, limits)
        live.base, live.pages = recover(folder, uuid, log, disk)
        try:
            live._connect(role)
        except apsw.Error as exc:
            live.close()
            raise DatabaseDamaged(f"SQLite cannot open {live.path}: {exc}") from exc
        except BaseException:
            live.close()
            raise
        return live

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return self.folder / DB_NAME

    def _connect(self, role: Role) -> None:
        if role is Role.WRITES:
            self.writer = self._held(SqlConnection.writer(self.path, self._limits))
            self.keeper = self.writer.sandbox.connection
        else:
            self.keeper = self._held(open_guard(self.path))
        # The first read makes -wal and -shm, which HeldFiles opens.
        self.keeper.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
        self.files = self._files = HeldFiles(self.path, self._disk)
        if role is Role.WRITES:
            self.capture = WalCapture(self.files, self._disk)
        else:
            self.injector = Injector(self.keeper, self.files, self._disk)
        self.reader = self._held(SqlConnection.reader(self.path, self._limits))

    def _held(self, connection: C) -> C:
        self._connections.append(connection)
        return connection

    def borrow_reader(self) -> SqlConnection:
        """A reading connection for a thread; `return_reader` takes it back.

        The caller keeps `readers_out` below `POOL_READERS_MAX`.
        """
        assert self.readers_out < POOL_READERS_MAX
        if self._idle_readers:
            reader = self._idle_readers.pop()
        else:
            reader = SqlConnection.reader(self.path, self._limits)
        self.readers_out += 1
        return reader

    def return_reader(self, reader: SqlConnection) -> None:
        """Take back a connection that `borrow_reader` gave."""
        self.readers_out -= 1
        self._idle_readers.append(reader)

    def checkpoint(self, *, restart: bool = False) -> Checkpointed:
        """Copy the WAL into the file as far as readers allow; blocking, without fsync.

        `restart` also begins the WAL anew if no reader is in it (an injected WAL does not
        begin anew by itself): short ones are waited for, long ones are not, commits wait behind.
        """
        keeper = self.keeper
        # The interrupt of a write that had just ended stays until a statement begins.
        keeper.execute("SELECT 1").fetchall()
        if restart:
            keeper.set_busy_timeout(_READERS_WAIT_MS)
            try:
                return Checkpointed(*keeper.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE))
            except apsw.BusyError:
                pass  # all was moved that may be; say how much
            finally:
                keeper.set_busy_timeout(BUSY_TIMEOUT_MS)
        return Checkpointed(*keeper.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_PASSIVE))

    def cut_wal(self, frames: int) -> None:
        """Give back what a write that was undone has left in the WAL; with the writer only.

        Nobody reads behind the last commit, which is within the first `frames`; SQLite would keep
        the room, gigabytes after a large import, until it has use for it.
        """
        kept = WAL_HEADER_BYTES + frames * FRAME_BYTES
        if self._disk.size(self.files.wal_fd) > kept + _SPILL_BYTES_MAX:
            self._disk.truncate(self.files.wal_fd, kept)

    def read_file(self, count: int, offset: int) -> bytes:
        """Bytes of the SQLite file as it is now, checkpoints under way included; any thread."""
        return self._disk.pread(self.files.db_fd, count, offset)

    def advance_base(self, base: Base) -> None:
        """Record that the file alone reaches `base`; blocking (two fsyncs), any thread.

        Call after a whole checkpoint at `base`. Raises `OSError`.
        """
        self._disk.fsync(self.files.db_fd)
        write_base(self.folder, self.uuid, base, self._disk)
        self.base = base

    def close(self) -> None:
        """Close all connections, then the descriptors. No reader may be out."""
        assert self.readers_out == 0, f"{self.readers_out} readers are still out"
        self._connections += self._idle_readers
        self._idle_readers.clear()
        while self._connections:
            self._connections.pop().close()
        if self._files is not None:
            self._files.close()
            self._files = None
