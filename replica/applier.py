"""Takes a live replica database forward: log, inject, verify, wake the reads that wait.

Small commits are applied inline, all that one turn of the event loop brought as one
injection: their pages merged, the last image of a page wins, and the tokens in between
are never visible, which waits for "at least" allow. What is too large for that is applied by
a worker from the log's files, in bounded memory. The worker also runs the checkpoints, and takes
what came meanwhile from memory, if it is little.

Invariants:

1. Commits enter the log in order, each on the digest of the one before.
2. The rolling checksum of the pages is compared with the record's before the commit is
   published. A difference stops the database: no reader sees it.
3. A checkpoint moves only what the replica's own log holds durably, so its recovery is the
   primary's.
4. `visible` is never older than what a read has seen, the waiter's `applied` never newer.

A replica's log is made durable in the background: a read may see a commit that a power cut
takes from this node again. That is safe: the primary has it, and this node asks for it again
before it answers a bookmark.
"""

import asyncio
import enum
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

import apsw

from engine.durations import Histogram
from engine.errors import DatabaseDamaged, EngineError, LogFailed
from engine.flusher import Flusher
from engine.live import LiveDatabase
from engine.log import CommitLog
from engine.log_reader import LogReader
from engine.reads import Reads
from engine.recovery import Base
from engine.threads import Threads
from proto.record import CommitPart
from proto.tokens import Bookmark
from replica.errors import HistoryDiverged
from replica.waiter import TokenWaiter

logger = logging.getLogger(__name__)

Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]

_INLINE_BYTES_MAX: Final = 1024 * 1024  # some 2 ms of the event loop
_CHUNK_BYTES: Final = 8 * 1024 * 1024  # of log per step of the worker
CHECKPOINT_FRAMES: Final = 4000
WAL_FRAMES_MAX: Final = 16 * CHECKPOINT_FRAMES
BASE_LOG_BYTES: Final = 64 * 1024 * 1024


class ApplierState(enum.Enum):
    """Who applies."""

    INLINE = "inline"  # the event loop, as commits come
    WORKER = "worker"  # a task, from the log; new commits go to the log only
    STOPPED = "stopped"  # nobody: the database is closed, or something is wrong


class Applier:
    """See the module's head. One per live replica database; on the event loop."""

    def __init__(
        self,
        live: LiveDatabase,
        log: CommitLog,
        reads: Reads,
        waiter: TokenWaiter,
        *,
        threads: Threads,
        durations: Histogram,
        spawn: Spawn,
        on_moved: Callable[[], None],
        on_problem: Callable[[Exception], None],
    ) -> None:
        """Go on from the state that `live` was opened with, the log's head."""
        self._live = live
        self._log = log
        self._reads = reads
        self._waiter = waiter
        self._threads = threads
        self._spawn = spawn
        self._on_moved = on_moved
        self._on_problem = on_problem
        self._flusher = Flusher(
            log, threads, durations=durations, on_durable=on_moved, on_failed=self._stop_because
        )
        self._state = ApplierState.INLINE
        self._worker: asyncio.Task[None] | None = None
        self._early: list[CommitPart] | None = None  # what came before a partial commit is dropped
        self._arrived: list[CommitPart] = []
        self._arrived_bytes = 0
        self._is_asked = False
        self._applied = log.head
        self._page_count = live.base.page_count
        self._chain = log.head.digest
        self._checkpoint_at = CHECKPOINT_FRAMES
        self._base_at_bytes = log.bytes_total

    @property
    def visible(self) -> Bookmark:
        """At least as new as anything that a read could have seen until now."""
        return self._log.head if self._state is ApplierState.WORKER else self._applied

    @property
    def applied(self) -> Bookmark:
        """The newest commit that every read sees."""
        return self._applied

    @property
    def page_count(self) -> int:
        """Pages of the database at `applied`."""
        return self._page_count

    def take(self, parts: list[CommitPart]) -> None:
        """Take commit parts that the primary sent. Those we have already are passed over.

        Raises `HistoryDiverged` if they do not follow ours.
        """
        head_seq = self._log.head.seq
        fresh = [part for part in parts if part.token.seq > head_seq]
        for part in fresh:
            if part.prev_digest != self._chain:
                raise HistoryDiverged(f"{part!r} does not follow our {self._log.head}")
            self._chain = part.digest
        if not fresh or self._state is ApplierState.STOPPED:
            return
        if self._early is not None:
            self._early += fresh
        else:
            self._enter(fresh)

    def _enter(self, fresh: list[CommitPart]) -> None:
        self._log.append(fresh)
        self._flusher.ask()
        if self._state is ApplierState.INLINE:
            self._arrived += fresh
            self._arrived_bytes += sum(map(len, fresh))
            if self._arrived_bytes > _INLINE_BYTES_MAX or any(
                part.part or not part.is_last for part in fresh
            ):
                self._work()
            elif not self._is_asked:
                self._is_asked = True
                asyncio.get_running_loop().call_soon(self._apply_arrived)

    def drop_partial(self) -> None:
        """Forget the parts of a commit whose rest will not come (the link broke).

        A flush under way may be writing them: what comes meanwhile is kept until it is through.
        """
        self._chain = self._log.head.digest
        self._early = []
        self._flusher.between_flushes(self._drop_partial_now)

    def _drop_partial_now(self) -> None:
        early, self._early = self._early, None
        if early is not None:
            self._log.drop_partial()
            if early:
                self._enter(early)

    async def close(self) -> None:
        """Apply and write what was taken, move the WAL into the file; blocking threads end."""
        self._apply_arrived()
        while self._worker is not None:
            await asyncio.wait([self._worker])
        try:
            if self._state is not ApplierState.STOPPED:
                self.drop_partial()
                await self._flusher.idle()
                await self._threads.call(self._checkpoint_whole)
        except (EngineError, OSError, apsw.Error) as exc:
            logger.warning("closing %s: %s", self._live.uuid.hex(), exc)
        finally:
            self._state = ApplierState.STOPPED
            await self._flusher.finish()

    # --- inline

    def _apply_arrived(self) -> None:
        """Apply what came in this turn of the loop as one commit."""
        self._is_asked = False
        parts, self._arrived, self._arrived_bytes = self._arrived, [], 0
        if not parts or self._state is not ApplierState.INLINE:
            return
        try:
            self._apply(parts)
        except (EngineError, HistoryDiverged, OSError, apsw.Error) as exc:
            self._stop_because(exc)
            return
        if self._live.injector.wal_frames >= self._checkpoint_at:
            self._work()

    def _apply(self, parts: list[CommitPart]) -> None:
        """Apply these whole commits, which follow what is applied, as one."""
        last = parts[-1]
        pgnos, pages = _merged(parts)
        self._verify(pgnos, pages, last)
        self._live.injector.inject(pgnos, pages, last.page_count)
        self._applied_until(last.bookmark, last.page_count)

    def _verify(self, pgnos: list[int], pages: list[memoryview], last: CommitPart) -> None:
        rolling = self._live.pages.replace(pgnos, pages, last.page_count)
        if last.is_last and rolling != last.checksum:
            raise HistoryDiverged(
                f"after {last.token} the pages' checksum is {rolling:016x} here, "
                f"{last.checksum:016x} at the primary"
            )

    def _applied_until(self, bookmark: Bookmark, page_count: int) -> None:
        self._applied = bookmark
        self._page_count = page_count
        self._waiter.advance(bookmark.seq)
        self._on_moved()

    # --- worker

    def _work(self) -> None:
        """From now on apply from the log, and checkpoint if it is due."""
        if self._state is ApplierState.INLINE:
            self._state = ApplierState.WORKER
            self._arrived, self._arrived_bytes = [], 0
            self._worker = self._spawn(self._run_worker(), f"applier:{self._live.uuid.hex()}")

    async def _run_worker(self) -> None:
        try:
            while self._state is ApplierState.WORKER:
                if self._live.injector.wal_frames >= self._checkpoint_at:
                    await self._checkpoint()
                missed = self._missed()
                if missed is None:
                    await self._apply_from_log()
                elif missed:
                    self._apply(missed)
                else:
                    self._state = ApplierState.INLINE
                    return
        except (EngineError, HistoryDiverged, OSError, apsw.Error) as exc:
            self._stop_because(exc)
        finally:
            self._worker = None
            if self._state is ApplierState.WORKER:
                self._stop_because(DatabaseDamaged("the applier was stopped"))

    def _missed(self) -> list[CommitPart] | None:
        """The commits that are not applied yet; None if they are many, or not in memory.

        What came during a checkpoint is little: read from the log it would wait for our own
        disk, more would come meanwhile, and so on for as long as the primary is busy.
        """
        missed: list[CommitPart] = []
        size = 0
        for seq in range(self._applied.seq + 1, self._log.head.seq + 1):
            part = self._log.recent_part(seq)
            size += 0 if part is None else len(part)
            if part is None or size > _INLINE_BYTES_MAX:
                return None
            missed.append(part)
        return missed

    async def _apply_from_log(self) -> None:
        """Apply up to the newest whole commit that was received."""
        await self._flusher.wait_durable(self._log.head.seq)
        reader = self._log.reader(self._applied)
        try:
            while self._applied.seq < self._log.durable.seq:
                page_count = await self._threads.call(self._apply_chunk, reader)
                if reader.is_between_commits:
                    self._applied_until(reader.position, page_count)
                    if self._live.injector.wal_frames >= self._checkpoint_at:
                        return
        finally:
            await self._threads.call(self._live.injector.abort)
            reader.close()

    def _apply_chunk(self, reader: LogReader) -> int:
        """Inject the next parts, and publish if they end a commit; the page count after them."""
        injector = self._live.injector
        if reader.is_between_commits:
            injector.begin()
        page_count = 0
        images: dict[int, memoryview] = {}
        for part in reader.next(_CHUNK_BYTES):
            page_count = part.page_count
            pgnos, pages = _within(list(part.pgnos), part.pages(), page_count)
            self._verify(pgnos, pages, part)
            images.update(zip(pgnos, pages, strict=True))
        if images:
            injector.append(list(images), list(images.values()))
        if reader.is_between_commits:
            injector.publish(page_count)
        return page_count

    async def _checkpoint(self) -> None:
        """Move the WAL into the file and begin it anew, as far as readers allow."""
        await self._flusher.wait_durable(self._applied.seq)
        call, live = self._threads.call, self._live
        if live.injector.wal_frames >= WAL_FRAMES_MAX:
            async with self._reads.held():
                done = await call(live.checkpoint, restart=True)
        else:
            done = await call(live.checkpoint, restart=True)
        # Held up by a reader: the next try after as many frames again.
        self._checkpoint_at = live.injector.wal_frames + CHECKPOINT_FRAMES
        if done.is_whole and self._log.bytes_total - self._base_at_bytes >= BASE_LOG_BYTES:
            base = self._present()
            await call(live.advance_base, base)
            await call(self._log.trim, base.position)
            self._base_at_bytes = self._log.bytes_total

    def _checkpoint_whole(self) -> None:
        if self._live.checkpoint(restart=True).is_whole:
            self._live.advance_base(self._present())

    def _present(self) -> Base:
        return Base(self._applied, self._live.pages.rolling, self._page_count)

    def _stop_because(self, error: Exception) -> None:
        if self._state is not ApplierState.STOPPED:
            self._state = ApplierState.STOPPED
            if not isinstance(error, LogFailed):
                self._flusher.fail(error)
            self._on_problem(error)


def _merged(parts: list[CommitPart]) -> tuple[list[int], list[memoryview]]:
    """The pages of whole commits as one: of each page the last image."""
    last = parts[-1]
    if len(parts) == 1:
        return list(last.pgnos), last.pages()
    images: dict[int, memoryview] = {}
    for part in parts:
        images.update(zip(part.pgnos, part.pages(), strict=True))
    return _within(list(images), list(images.values()), last.page_count)


def _within(
    pgnos: list[int], pages: list[memoryview], page_count: int
) -> tuple[list[int], list[memoryview]]:
    """Without the pages beyond the end of the database."""
    if max(pgnos, default=0) <= page_count:
        return pgnos, pages
    kept = [pair for pair in zip(pgnos, pages, strict=True) if pair[0] <= page_count]
    return [pgno for pgno, _ in kept], [page for _, page in kept]
