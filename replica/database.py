"""One database on a replica: where it is, how far behind, and how it comes forward.

    ABSENT    the catalog has it, nothing of it is here; its first commits make it
    PRESENT   a log and a file; open while it is used or commits come
    COPYING   a copy of the primary's file is under way; the old state serves if it is sound

A problem (pages that differ, a history that is not the primary's, a log that cannot be
written) takes the database out of service at once and asks the primary for a copy.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from engine.errors import DatabaseClosed, EngineError
from engine.live import LiveDatabase, Role
from engine.log import CommitLog
from engine.ondemand import OnDemand, Retired
from engine.opening import open_recovered
from engine.reads import Reads
from engine.recovery import LOG_NAME, read_base
from engine.resources import Resources
from proto.errors import ProtoError
from proto.messages import Acked, SnapshotBegin, SnapshotEnd, SnapshotPages
from proto.record import CommitPart, decode_part
from proto.tokens import Bookmark, genesis
from replica.applier import Applier, Spawn
from replica.copying import CopyUnderWay
from replica.errors import HistoryDiverged
from replica.waiter import TokenWaiter

logger = logging.getLogger(__name__)

_ARRIVES_S: Final = 2.0  # a new database is here within this, or says why not
_OPEN_AGAIN_S: Final = 0.5
_ASK_AGAIN_S: Final = 1.0  # a copy is asked for at most so often; then half as often, and so on
_ASK_AGAIN_S_MAX: Final = 60.0


class NotHere(Exception):
    """Nothing of the database is on this replica yet, or it is not sound: ask the primary."""


@dataclass(frozen=True, slots=True)
class OpenReplica:
    """The parts of an open database on a replica."""

    log: CommitLog
    live: LiveDatabase
    reads: Reads
    applier: Applier


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaHooks:
    """Whom a replica database tells."""

    on_moved: Callable[["ReplicaDatabase"], None]  # it wrote or applied something: an Ack is due
    follow: Callable[["ReplicaDatabase", bool], None]  # (it, wants a copy): say Follow for it


class ReplicaDatabase:
    """See the module's head; on the event loop."""

    def __init__(
        self, folder: Path, uuid: bytes, resources: Resources, *, spawn: Spawn, hooks: ReplicaHooks
    ) -> None:
        """The database of `folder`, which need not exist. Raises nothing: see `problem`."""
        self.folder = folder
        self.uuid = uuid
        self.problem = ""
        self._resources = resources
        self._spawn = spawn
        self._hooks = hooks
        self._position = genesis(uuid)
        self._checksum = 0
        self._page_count = 0
        self._log_bytes = 0
        self._known_head = self._position
        self._behind_since: float | None = None
        self._arrived: deque[list[CommitPart]] = deque()  # while closed; the window bounds it
        self._arrived_bytes = 0
        self._received_bytes = 0  # content bytes since the feed began
        self._draining: asyncio.Task[None] | None = None
        self._copying: CopyUnderWay | None = None
        self._copy_asked_at = -_ASK_AGAIN_S
        self._copies_failed = 0  # since the database was last opened
        self._said: Acked | None = None  # in the last `Ack`
        self._known_since = time.monotonic()
        self.waiter = TokenWaiter(0)
        self.demand: OnDemand[OpenReplica] = OnDemand(self._open, self._close)
        self._look()

    # --- where it is

    @property
    def position(self) -> Bookmark:
        """After the newest whole commit in its log."""
        current = self.demand.current
        return current.log.head if current is not None else self._position

    @property
    def durable(self) -> Bookmark:
        """The newest commit that a power cut would leave here."""
        current = self.demand.current
        return current.log.durable if current is not None else self._position

    @property
    def applied(self) -> int:
        """The newest commit that every read sees."""
        return self.waiter.applied

    @property
    def applied_bookmark(self) -> Bookmark:
        """The state that readers see, as a bookmark."""
        current = self.demand.current
        return current.applier.applied if current is not None else self._position

    @property
    def log_bytes(self) -> int:
        """Bytes of commits in the log here."""
        current = self.demand.current
        return current.log.bytes_total if current is not None else self._log_bytes

    @property
    def is_here(self) -> bool:
        """There is a sound state to read from, however old."""
        return self.waiter.applied > 0 and not self.problem

    @property
    def is_late(self) -> bool:
        """It is not here and not brand-new: something holds it up."""
        return not self.is_here and time.monotonic() - self._known_since > _ARRIVES_S

    @property
    def known_head(self) -> Bookmark:
        """The newest commit that the primary is known to have."""
        return self._known_head

    @property
    def checksum(self) -> int:
        """Rolling checksum of the pages as applied."""
        current = self.demand.current
        return current.live.pages.rolling if current is not None else self._checksum

    @property
    def page_count(self) -> int:
        """Pages of the database as applied."""
        current = self.demand.current
        return current.applier.page_count if current is not None else self._page_count

    @property
    def copied(self) -> tuple[int, int] | None:
        """Bytes of the copy under way: done, expected."""
        return self._copying.progress if self._copying is not None else None

    @property
    def lag_commits(self) -> int:
        """Commits that the primary has and no read here sees."""
        return max(0, self._known_head.seq - self.waiter.applied)

    @property
    def lag_bytes(self) -> int:
        """About how much log that is, by the mean commit of the log here."""
        current = self.demand.current
        if self.lag_commits == 0 or current is None:
            return self.lag_commits * 8192
        held = max(1, current.log.head.seq - current.log.tail.seq)
        return self.lag_commits * current.log.bytes_total // held

    @property
    def lag_ms(self) -> float:
        """For how long it has been behind what the primary is known to have."""
        since = self._behind_since
        return 0.0 if since is None else (time.monotonic() - since) * 1000

    def note_head(self, head: Bookmark) -> None:
        """The primary has this commit."""
        if head.token > self._known_head.token:
            self._known_head = head
        self._note_lag()

    def _note_lag(self) -> None:
        if self.waiter.applied >= self._known_head.seq:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = time.monotonic()

    def news(self) -> Acked | None:
        """What an `Ack` says of this database; None if that was said already."""
        current = self.demand.current
        unwritten = self._arrived_bytes
        if current is not None:
            unwritten += current.log.pending_bytes
        if self._copying is not None:
            unwritten += self._copying.unwritten_bytes
        said = Acked(
            self.uuid,
            self.position.seq,
            self.durable.seq,
            self.waiter.applied,
            max(0, self._received_bytes - unwritten),
            self.problem,
        )
        if said == self._said:
            return None
        self._said = said
        return said

    # --- what the primary sends

    def restart_feed(self) -> Bookmark:
        """A new feed begins: forget what the last one left half done; where it must begin."""
        self._drop_copy()
        self._said = None
        self._arrived.clear()
        self._arrived_bytes = self._received_bytes = 0
        if (current := self.demand.current) is not None:
            current.applier.drop_partial()
            self._received_bytes = current.log.pending_bytes
        return self.position

    def receive(self, raw_parts: list[bytes]) -> None:
        """Take commit parts from the link. Parts that are damaged stop the database."""
        try:
            parts = [decode_part(raw) for raw in raw_parts]
        except ProtoError as exc:
            self.stop_because(exc)
            return
        self._received_bytes += sum(map(len, raw_parts))
        if parts[-1].is_last:
            self.note_head(parts[-1].bookmark)
        if self._copying is not None:
            self._copying.put(parts)
        else:
            self._deliver(parts)

    def _deliver(self, parts: list[CommitPart]) -> None:
        current = self.demand.current
        if self.problem:
            return
        if current is not None and self._draining is None:
            self.demand.touch()
            self._take(current, parts)
            return
        self._arrived.append(parts)
        self._arrived_bytes += sum(map(len, parts))
        if self._draining is None:
            self._draining = self._spawn(self._drain(), f"open:{self.uuid.hex()}")

    def _take(self, current: OpenReplica, parts: list[CommitPart]) -> None:
        try:
            current.applier.take(parts)
        except HistoryDiverged as exc:
            self.stop_because(exc)

    async def _drain(self) -> None:
        """Open the database and give it what came while it was closed."""
        try:
            if not await self._drained():
                self._spawn(self._drain_again(), f"open:{self.uuid.hex()}")
        except (NotHere, Retired):
            self._arrived.clear()
            self._arrived_bytes = 0
        finally:
            self._draining = None

    async def _drain_again(self) -> None:
        await asyncio.sleep(_OPEN_AGAIN_S)
        if self._draining is None and self._arrived:
            self._draining = self._spawn(self._drain(), f"open:{self.uuid.hex()}")

    async def _drained(self) -> bool:
        """Whether what came was taken; not, if too many databases are open to open this one."""
        try:
            async with self.demand.used() as current:
                while self._arrived:
                    parts = self._arrived.popleft()
                    self._arrived_bytes -= sum(map(len, parts))
                    self._take(current, parts)
                self._moved()  # also when opening alone brought it forward: its first commits
        except DatabaseClosed as exc:
            logger.warning("%s waits: %s", self.uuid.hex(), exc)
            return False
        return True

    # --- copies

    def begin_copy(self, message: SnapshotBegin) -> None:
        """A copy of the primary's file begins; one under way is worthless now."""
        self._drop_copy()
        self._known_head = message.base.bookmark  # maybe older: the primary was restored
        copying = CopyUnderWay(self.folder, message, self._resources, self._moved)
        self._copying = copying
        copying.task = self._spawn(self._run_copy(copying), f"copy:{self.uuid.hex()}")

    def copy_pages(self, message: SnapshotPages) -> None:
        """Pages of the copy."""
        if self._copying is not None:
            self._received_bytes += len(message.data)
            self._copying.put(message)

    def end_copy(self, message: SnapshotEnd) -> None:
        """The file is through; commits follow."""
        self.note_head(message.until.bookmark)
        if self._copying is not None:
            self._copying.put(message)

    async def _run_copy(self, copying: CopyUnderWay) -> None:
        """Wait for the copy, exchange the old state for it, go on with what came since."""
        try:
            copy = await copying.completed()
            copying.task = None  # from here on it is not to be cancelled
            async with self.demand.closed():
                if self.demand.is_retired:
                    return await self._resources.io.call(copy.abandon)
                await self._resources.io.call(copy.install, self._position)
                self.problem = ""
                self._look()
        except (EngineError, HistoryDiverged, OSError, apsw.Error) as exc:
            self._copies_failed += 1
            self._stop_and_heal(exc)
            return None
        finally:
            if self._copying is copying:
                self._copying = None
        logger.info("%s: copied from the primary, now at %s", self.uuid.hex(), self.position)
        if not copying.is_dropped:
            for parts in copying.rest():
                self._deliver(parts)
        await self._open_now()
        return None

    async def _open_now(self) -> None:
        try:
            async with self.demand.used():
                self._moved()
        except (NotHere, Retired, DatabaseClosed) as exc:
            logger.debug("%s is not opened: %s", self.uuid.hex(), exc)

    async def retire(self) -> None:
        """The database was deleted: stop everything that is under way for it."""
        self._drop_copy()
        self._arrived.clear()
        await self.demand.retire()

    def _drop_copy(self) -> None:
        """Forget a copy under way; its thread ends by itself."""
        copying, self._copying = self._copying, None
        if copying is not None:
            copying.is_dropped = True
            if copying.task is not None:
                copying.task.cancel()

    # --- open and closed

    def _look(self) -> None:
        """Read where the closed database is, from its log."""
        log_folder = self.folder / LOG_NAME
        self._position = genesis(self.uuid)
        try:
            if log_folder.is_dir():
                ends = CommitLog.peek(log_folder, self.uuid, self._resources.disk)
                self._position, self._checksum = ends.head, ends.checksum
                self._page_count, self._log_bytes = ends.page_count, ends.bytes
                if ends.page_count == 0:  # no commit came after the copy
                    base = read_base(self.folder, self.uuid, self._resources.disk)
                    if base is not None and base.position == ends.head:
                        self._checksum, self._page_count = base.checksum, base.page_count
        except (EngineError, OSError) as exc:
            self.problem = str(exc)
        self.waiter.reset(self._position.seq)
        self._note_lag()

    async def _open(self) -> OpenReplica:
        if self.problem:
            raise NotHere(self.problem)
        try:
            if self._position.seq == 0:
                await self._make_first()
            async with self._resources.openings.place(self.demand):
                opened = await self._recovered()
        except DatabaseClosed:
            raise  # no place to open it: later
        except (EngineError, HistoryDiverged, OSError, apsw.Error) as exc:
            self._copies_failed += 1
            self._stop_and_heal(exc)
            raise NotHere(self.problem) from exc
        self._copies_failed = 0
        return opened

    async def _make_first(self) -> None:
        """Begin the log with the first commits that came: there is nothing here yet."""
        if not self._arrived:
            raise NotHere("nothing of the database has come from the primary yet")
        parts = self._arrived.popleft()
        self._arrived_bytes -= sum(map(len, parts))
        await self._resources.io.call(_begin_log, self.folder, self.uuid, parts, self._resources)
        self._look()

    async def _recovered(self) -> OpenReplica:
        resources = self._resources
        log, live = await open_recovered(self.folder, self.uuid, Role.INJECTS, resources)
        reads = Reads(live, resources.readers, deadline_s=resources.query_deadline_s)
        self.waiter.reset(log.head.seq)
        applier = Applier(
            live,
            log,
            reads,
            self.waiter,
            threads=resources.io,
            durations=resources.flush_s,
            spawn=self._spawn,
            on_moved=self._moved,
            on_problem=self.stop_because,
        )
        return OpenReplica(log, live, reads, applier)

    def _moved(self) -> None:
        self._note_lag()
        self._hooks.on_moved(self)

    async def _close(self, opened: OpenReplica) -> None:
        self._note(opened)  # what is told of it while it closes
        await opened.applier.close()
        await opened.reads.finish()
        self._note(opened)
        opened.live.close()
        await self._resources.io.call(opened.log.close)
        self._resources.openings.give_back(self.demand)

    def _note(self, opened: OpenReplica) -> None:
        self._checksum, self._page_count = opened.live.pages.rolling, opened.applier.page_count
        self._position, self._log_bytes = opened.log.durable, opened.log.bytes_total

    def stop_because(self, error: Exception) -> None:
        """Take the database out of service and have the primary send a copy."""
        if not self.problem:  # else a copy was asked for
            self._stop_and_heal(error)

    def _stop_and_heal(self, error: Exception) -> None:
        self.problem = str(error) or repr(error)
        logger.error("database %s is stopped: %s", self.uuid.hex(), self.problem)
        self._spawn(self._ask_for_copy(), f"heal:{self.uuid.hex()}")

    async def _ask_for_copy(self) -> None:
        """Ever more seldom while copies fail: what makes them fail may last (a full disk)."""
        pause = min(_ASK_AGAIN_S * 2 ** min(self._copies_failed, 10), _ASK_AGAIN_S_MAX)
        wait = self._copy_asked_at + pause - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        self._copy_asked_at = time.monotonic()
        if (current := self.demand.current) is not None:
            async with self.demand.closed():
                logger.debug("%s closed, was at %s", self.uuid.hex(), current.log.durable)
        self._hooks.follow(self, True)


def _begin_log(folder: Path, uuid: bytes, parts: list[CommitPart], resources: Resources) -> None:
    """Make the log of a new database with its first commits; blocking."""
    start = genesis(uuid)
    if parts[0].prev_digest != start.digest or not parts[0].is_last:
        raise HistoryDiverged(f"{parts[0]!r} is not the first commit of {uuid.hex()}")
    resources.disk.make_folder(folder)
    log = CommitLog.create(
        folder / LOG_NAME, uuid, resources.disk, after=start, bytes_max=resources.log_bytes_max
    )
    log.append(parts)
    log.mark_durable(log.flush())
    log.drop_partial()
    log.close()
