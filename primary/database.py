"""One database on the primary: its log, and while it is used, its open SQLite file.

Closed, it is a folder and a few numbers (`LogEnds`). The first use recovers the file from
the log and opens it; a failed log fences it: what was not durable is undone by the
same recovery, and the next use finds it open again, or is told what is wrong.

A log that fails is likely to fail again (a full disk stays full), and each time costs a
recovery: so after a failure writes are refused for a pause, which grows until one is durable.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from engine.checksum import PageChecksums
from engine.errors import DatabaseClosed, DatabaseDamaged, EngineError
from engine.live import LiveDatabase, Role
from engine.log import CommitLog
from engine.log_survey import LogEnds
from engine.ondemand import OnDemand, Retired
from engine.opening import open_recovered
from engine.reads import Reads
from engine.recovery import DB_NAME, LOG_NAME, Base, write_base
from engine.resources import Resources
from engine.sandbox import Sandbox
from engine.wal import PAGE_SIZE
from primary.committer import Committer, Spawn
from primary.errors import DatabaseStopped
from primary.progress import LogView
from proto.record import encode_part
from proto.tokens import Bookmark, CommitToken, genesis

logger = logging.getLogger(__name__)

_STOPPED: Final = "the database cannot be opened; /status and the primary's log say why"
_TRY_AGAIN_S: Final = 2.0
"""So long a database that cannot be opened answers with the reason, without another try."""
PAUSE_S_MIN: Final = 0.25
PAUSE_S_MAX: Final = 10.0


def next_pause(pause_s: float) -> float:
    """How long to refuse writes when the log has failed again, after a pause of `pause_s`."""
    return min(max(PAUSE_S_MIN, 2 * pause_s), PAUSE_S_MAX)


@dataclass(frozen=True, slots=True)
class OpenPrimary:
    """The parts of an open database on the primary."""

    log: CommitLog
    live: LiveDatabase
    reads: Reads
    committer: Committer


class PrimaryDatabase:
    """See the module's head; on the event loop."""

    def __init__(
        self,
        folder: Path,
        uuid: bytes,
        resources: Resources,
        *,
        spawn: Spawn,
        on_durable: Callable[[bytes], None],
    ) -> None:
        """The database in `folder`, which `create_database` made; not opened yet.

        `on_durable(uuid)` after commits became durable. Raises nothing: see `problem`.
        """
        self.folder = folder
        self.uuid = uuid
        self.problem = ""
        self._resources = resources
        self._spawn = spawn
        self._on_durable = on_durable
        self._ends = self._peeked()
        self._broken: OpenPrimary | None = None  # fenced, not closed yet
        self._failed_log: CommitLog | None = None  # of a fenced one: to be rid of what failed
        self._pins: list[Bookmark] = []
        self._refused_until = 0.0
        self._pause_s = 0.0  # the newest pause; 0 once a write was durable after it
        self._paused_until = 0.0
        self._fenced_at = 0  # the durable sequence number then
        self.demand: OnDemand[OpenPrimary] = OnDemand(self._open, self._close)

    def _peeked(self) -> LogEnds:
        """The ends of the closed log; if it cannot be read, a problem of this database only."""
        try:
            return CommitLog.peek(self.folder / LOG_NAME, self.uuid, self._resources.disk)
        except (EngineError, OSError) as exc:
            self.problem = f"the commit log cannot be read: {exc}"
            logger.error("database %s: %s", self.uuid.hex(), self.problem)
            start = genesis(self.uuid)
            return LogEnds(start, start, bytes=0, page_count=0, checksum=0, time_ms=0)

    @property
    def durable(self) -> Bookmark:
        """The newest commit that anyone outside may hear of."""
        current = self.demand.current
        return current.log.durable if current is not None else self._ends.head

    @property
    def head(self) -> Bookmark:
        """The newest commit executed, maybe not durable yet."""
        current = self.demand.current
        return current.log.head if current is not None else self._ends.head

    @property
    def ends(self) -> LogEnds:
        """Head, tail and size of the log, of the open one or as it was when closed."""
        current = self.demand.current
        return _ends_of(current.log) if current is not None else self._ends

    @contextmanager
    def pinned(self, position: Bookmark) -> Iterator[None]:
        """Within this, the log keeps the commits after `position`."""
        self._pins.append(position)
        try:
            yield
        finally:
            self._pins.remove(position)

    def _keep(self, base: Bookmark) -> Bookmark:
        """What the log must reach back to: the file's base, and copies under way."""
        return min((base, *self._pins), key=lambda bookmark: bookmark.token)

    async def view(self, position: Bookmark) -> LogView:
        """What the log has for a replica at `position`. Raises `DatabaseStopped`, `Retired`."""
        ends = self.ends
        file_bytes = ends.page_count * PAGE_SIZE
        if position == ends.head:
            return LogView(True, 0, file_bytes)
        async with self.demand.used() as opened:
            log = opened.log
            if not log.tail.seq <= position.seq <= log.head.seq:
                return LogView(False, 0, file_bytes)
            known = log.tail if position.seq == log.tail.seq else None
            digest = known.digest if known else log.digest_at(position.seq)
            if digest != position.digest:
                return LogView(False, 0, file_bytes)
            share = (log.head.seq - position.seq) / max(1, log.head.seq - log.tail.seq)
            return LogView(True, int(share * log.bytes_total), file_bytes)

    async def _open(self) -> OpenPrimary:
        if time.monotonic() < self._refused_until:
            raise DatabaseStopped(_STOPPED)
        async with self._resources.openings.place(self.demand):
            opened = await self._opened()
        self.problem = ""
        return opened

    async def _opened(self) -> OpenPrimary:
        try:
            await self._discard_broken()
            return await self._recovered()
        except (EngineError, OSError, apsw.Error) as exc:
            self.problem = f"the database cannot be opened: {exc}"
            self._refused_until = time.monotonic() + _TRY_AGAIN_S
            logger.error("database %s: %s", self.uuid.hex(), self.problem)
            raise DatabaseStopped(_STOPPED) from exc

    async def _recovered(self) -> OpenPrimary:
        resources = self._resources
        log, live = await open_recovered(self.folder, self.uuid, Role.WRITES, resources)
        reads = Reads(live, resources.readers, deadline_s=resources.query_deadline_s)
        committer = Committer(
            live,
            log,
            reads,
            threads=resources.io,
            durations=resources.flush_s,
            spawn=self._spawn,
            deadline_s=resources.query_deadline_s,
            on_durable=self._became_durable,
            on_fenced=self._fenced,
            keep=self._keep,
            pause_s=self._paused_until - time.monotonic(),
        )
        return OpenPrimary(log, live, reads, committer)

    async def _close(self, opened: OpenPrimary) -> None:
        self._ends = _ends_of(opened.log)  # what is told of it while it closes
        await opened.committer.close()
        await opened.reads.finish()
        opened.live.close()
        self._ends = _ends_of(opened.log)
        await self._resources.io.call(opened.log.close)
        self._resources.openings.give_back(self.demand)

    def _became_durable(self) -> None:
        if self._pause_s and self.durable.seq > self._fenced_at:
            self._pause_s = 0.0
        self._on_durable(self.uuid)

    def _fenced(self, error: Exception) -> None:
        """The committer gave up: take the database out of use and have it rebuilt."""
        logger.error("database %s is fenced and rebuilt: %s", self.uuid.hex(), error)
        self.problem = f"fenced: {error}"
        if not isinstance(error, DatabaseDamaged):
            self._pause_s = next_pause(self._pause_s)
            self._paused_until = time.monotonic() + self._pause_s
            self._fenced_at = self.durable.seq
        if (current := self.demand.current) is not None:
            self._ends = _ends_of(current.log)
            self._broken, self.demand.current = current, None
            self._resources.openings.give_back(self.demand)
        self._spawn(self._rebuild(), f"rebuild:{self.uuid.hex()}")

    async def _rebuild(self) -> None:
        try:
            async with self.demand.used():
                logger.warning("database %s was rebuilt from its log", self.uuid.hex())
        except Retired:
            logger.warning("database %s was fenced and is gone", self.uuid.hex())
        except (DatabaseStopped, DatabaseClosed):
            logger.error("database %s stays closed; the next request tries again", self.uuid.hex())

    async def _discard_broken(self) -> None:
        """Close what the failed log left, and forget its commits that are not durable."""
        if (broken := self._broken) is not None:
            await broken.committer.close()
            await broken.reads.finish()
            self._broken, self._failed_log = None, broken.log
            broken.live.close()
        if (log := self._failed_log) is not None:
            await self._resources.io.call(log.drop_undurable)  # may fail: tried at the next opening
            self._ends = _ends_of(log)
            await self._resources.io.call(log.close)
            self._failed_log = None


def _ends_of(log: CommitLog) -> LogEnds:
    return LogEnds(
        log.durable, log.tail, log.bytes_total, log.page_count, log.checksum, log.time_ms
    )


def create_database(folder: Path, uuid: bytes, resources: Resources, *, time_ms: int) -> None:
    """Make the database `uuid` in `folder`: its file, its first commit, its base; blocking.

    The first commit is page 1 of the empty file as SQLite made it, so that a replica can
    build the whole file from the log. A folder left by a crash in the middle is completed.
    """
    disk = resources.disk
    disk.make_folder(folder)
    path = folder / DB_NAME
    for suffix in ("", "-wal", "-shm"):
        disk.remove(path.with_name(path.name + suffix))
    Sandbox.open_writer(path, resources.limits).close()
    start = genesis(uuid)
    fd = disk.open(path)
    try:
        size = disk.size(fd)
        pages = [disk.pread(fd, PAGE_SIZE, at) for at in range(0, size, PAGE_SIZE)]
        disk.fsync(fd)
    finally:
        disk.close(fd)
    checksums = PageChecksums()
    pgnos = list(range(1, len(pages) + 1))
    part = encode_part(
        CommitToken(start.token.epoch, 1),
        start.digest,
        pgnos,
        pages,
        page_count=len(pages),
        page_size=PAGE_SIZE,
        checksum=checksums.replace(pgnos, pages, len(pages)),
        time_ms=time_ms,
        durable_seq=0,
    )
    log = CommitLog.create(
        folder / LOG_NAME, uuid, disk, after=start, bytes_max=resources.log_bytes_max
    )
    log.append([part])
    log.mark_durable(log.flush())
    log.close()
    write_base(folder, uuid, Base(part.bookmark, part.checksum, len(pages)), disk)
