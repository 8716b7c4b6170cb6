"""In which order writes run, and when the WAL is checkpointed.

    write()  ->  Writer.execute                 inline, on the event loop
                   SQLite transaction, capture, log.append
             ->  Flusher                        fdatasync on an I/O thread, in groups
             <-  acknowledged once durable

Writes run one after the other, each as its own SQLite transaction and commit record. A
write that exceeds the inline budget is rolled back and run again on a thread; the writes
behind it wait their turn. The same worker runs checkpoints and VACUUM.

Invariants:

1. Nobody hears of a commit before the log holds it durably: acknowledgements, reads and
   errors wait for it, feeds read only the durable part of the log.
2. A checkpoint runs only while everything executed is durable, so the file never holds
   what the log does not.
3. When the log fails, this committer is finished (FENCED): nothing more is executed, the
   owner rebuilds the SQLite files from the log and makes a new committer.
4. At most `_QUEUE_MAX` writes wait, and at most `_PENDING_BYTES_MAX` and one commit are
   executed and not yet on their way to the disk.
"""

import asyncio
import contextlib
import enum
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import apsw

from engine.durability import Reached
from engine.durations import Histogram
from engine.errors import (
    BudgetExceeded,
    DatabaseDamaged,
    DeadlineExceeded,
    EngineError,
    LogCorrupt,
    LogFailed,
)
from engine.flusher import Flusher
from engine.live import LiveDatabase
from engine.load import SqlLoad
from engine.log import CommitLog
from engine.reads import Reads
from engine.recovery import Base
from engine.threads import Threads
from engine.transaction import Step
from primary.errors import Overloaded, WriteFenced, WriteUnknown
from primary.writer import CheckedWrite, KeyedWrite, Writer, Written
from proto.tokens import Bookmark

logger = logging.getLogger(__name__)

INLINE_BUDGET_S: Final = 0.004
_TURN_S: Final = 0.005  # the worker lets the event loop breathe after this
_QUEUE_MAX: Final = 4096
_PENDING_BYTES_MAX: Final = 32 * 1024 * 1024
CHECKPOINT_FRAMES: Final = 4000  # 16 MB of WAL: some 10 ms of checkpoint
WAL_FRAMES_MAX: Final = 16 * CHECKPOINT_FRAMES  # then reads on threads are held back
SNAPSHOT_FRAMES_MAX: Final = 16 * WAL_FRAMES_MAX  # 4 GiB: then an export is stopped
BASE_LOG_BYTES: Final = 64 * 1024 * 1024  # so much log is patched in well under a second

Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]


class CommitterState(enum.Enum):
    """What happens to a write that comes now."""

    READY = "ready"  # it runs at once
    BUSY = "busy"  # it queues: a thread has the writer, or others queue before it
    PAUSED = "paused"  # it is refused: the log failed a moment ago, and may fail again
    FENCED = "fenced"  # it is refused


Wish: TypeAlias = KeyedWrite | CheckedWrite
LongWork: TypeAlias = Callable[[Writer, Callable[[], None]], Written]
"""A write for a thread from the start; its second argument is to be called after each part."""


@dataclass(slots=True)
class _Job:
    """A write that waits for its turn: either `steps`, or `long`."""

    steps: Sequence[Step]
    wish: Wish | None
    long: LongWork | None
    done: "asyncio.Future[Written]"
    is_large: bool = False
    has_begun: bool = False


class Committer:
    """See the module's head. One per live database; lives and dies with it."""

    def __init__(
        self,
        live: LiveDatabase,
        log: CommitLog,
        reads: Reads,
        *,
        threads: Threads,
        durations: Histogram,
        spawn: Spawn,
        deadline_s: float,
        on_durable: Callable[[], None],
        on_fenced: Callable[[Exception], None],
        keep: Callable[[Bookmark], Bookmark],
        pause_s: float = 0.0,
    ) -> None:
        """Take over the writer of `live`; a write longer than `deadline_s` is stopped.

        Writes are refused for the first `pause_s` seconds.
        """
        self._live = live
        self._log = log
        self._reads = reads
        self._threads = threads
        self._spawn = spawn
        self._deadline_s = deadline_s
        self._on_durable = on_durable
        self._on_fenced = on_fenced
        self._keep = keep
        self._writer = Writer(live, log)
        self._flusher = Flusher(
            log, threads, durations=durations, on_durable=self._flushed, on_failed=self._fence
        )
        self._queue: deque[_Job] = deque()
        self._state = CommitterState.READY
        self._resuming: asyncio.TimerHandle | None = None
        if pause_s > 0:
            self._state = CommitterState.PAUSED
            self._resuming = asyncio.get_running_loop().call_later(pause_s, self._resume)
        self._worker: asyncio.Task[None] | None = None
        self._advancing: asyncio.Task[None] | None = None  # the base, beside the writes
        self._moved = 0  # frames of the WAL when it was last checkpointed, whole or in part
        self._base_at_bytes = log.bytes_total

    @property
    def state(self) -> CommitterState:
        """What happens to a write that comes now."""
        return self._state

    @property
    def page_count(self) -> int:
        """Pages of the database after the newest commit."""
        return self._writer.page_count

    @property
    def is_settled(self) -> bool:
        """Everything that a read can see now is durable."""
        return self._log.durable == self._log.head and not self._writer.is_publishing

    @property
    def visible(self) -> Bookmark | None:
        """The commit that a read which begins now sees; None while a thread publishes one."""
        return None if self._writer.is_publishing else self._log.head

    async def wait_durable(self) -> Bookmark:
        """Return once all that a read could have seen by now is durable; the durable bookmark.

        Raises `WriteUnknown` if the log fails meanwhile.
        """
        await self._wait_durable(self._log.head.seq + self._writer.is_publishing)
        return self._log.durable

    async def _wait_durable(self, seq: int) -> None:
        try:
            await self._flusher.wait_durable(seq)
        except LogFailed as exc:
            raise WriteUnknown(
                f"the commit log failed ({exc}); whether the last writes are kept is decided when "
                "the database has been rebuilt from its log: read before you retry"
            ) from exc

    async def write(
        self, steps: Sequence[Step], wish: Wish | None = None, *, is_large: bool = False
    ) -> Written:
        """Run the steps as one transaction; return once it is durable.

        `is_large`: do not try it in the event loop first. SQLite looks at the clock between its
        steps, and one that copies megabytes is one step.
        Raises `StatementRefused`, `DeadlineExceeded`, `KeyReused`, `Overloaded`,
        `WriteFenced`, `WriteUnknown`. Cancelling gives up the answer, not a write begun.
        """
        try:
            written = await self._executed(steps, wish, is_large=is_large)
        except (Overloaded, WriteFenced, WriteUnknown):
            raise
        except Exception:
            await self.wait_durable()  # an error, too, may tell of rows that are not durable yet
            raise
        await self._wait_durable(written.bookmark.seq)
        return written

    def write_now(self, steps: Sequence[Step], check: CheckedWrite | None = None) -> Written | None:
        """Run the steps inline if the writer is free; None: use `write`, nothing was done.

        What it did is not durable yet: answer when `when_durable` says so. Raises
        `StatementRefused` (nothing was done), `WriteUnknown`.
        """
        if self._state is not CommitterState.READY:
            return None
        try:
            return self._run_inline(steps, check)
        except BudgetExceeded:
            return None

    def when_durable(self, seq: int, reached: Reached) -> None:
        """Have `reached` called when commit `seq` is durable, or cannot become so."""
        self._flusher.when_durable(seq, reached)

    async def vacuum(self) -> Written:
        """Run VACUUM on a thread, as one commit; return once it is durable."""
        return await self._long(lambda writer, flush: writer.vacuum(flush))

    async def load(self, source: SqlLoad, keyed: KeyedWrite, *, budget_s: float) -> Written:
        """Run a file on a thread, as one commit; return once it is durable.

        Other writes wait meanwhile. It goes on when this is cancelled: `stop_load` ends it.
        Raises as `write` does, `OSError` if the file cannot be read.
        """
        return await self._long(
            lambda writer, flush: writer.load(source, keyed, budget_s=budget_s, after_part=flush)
        )

    def stop_load(self, source: SqlLoad) -> None:
        """Have `load` give up, if it has not committed yet. To be repeated until it has."""
        source.stop()
        self._writer.interrupt()

    async def _long(self, work: LongWork) -> Written:
        written = await self._queued((), None, work)
        await self._wait_durable(written.bookmark.seq)
        return written

    def give_up(self, error: DatabaseDamaged) -> None:
        """A read found the file damaged: no more from this state; the owner rebuilds it."""
        self._flusher.fail(error)

    async def close(self) -> None:
        """Let what was begun end, make all durable, move the WAL into the file."""
        if self._resuming is not None:
            self._resuming.cancel()
        while (task := self._worker or self._advancing) is not None:
            await asyncio.wait([task])
        if self._state is CommitterState.FENCED:
            await self._flusher.finish()
            return
        self._state = CommitterState.BUSY
        try:
            await self._flusher.idle()
        except LogFailed:
            return  # fenced meanwhile: the owner rebuilds
        finally:
            await self._flusher.finish()
        try:
            await self._threads.call(self._checkpoint_whole)
        except (EngineError, OSError, apsw.Error) as exc:  # the log has everything
            logger.warning("%s: no checkpoint at closing: %s", self._live.uuid.hex(), exc)
        self._state = CommitterState.FENCED

    # --- order

    async def _executed(
        self, steps: Sequence[Step], wish: Wish | None, *, is_large: bool
    ) -> Written:
        """Run inline if the writer is free and the write is short, else in turn."""
        if is_large or self._state is not CommitterState.READY:
            return await self._queued(steps, wish, is_large=is_large)
        try:
            return self._run_inline(steps, wish)
        except BudgetExceeded:
            return await self._queued(steps, wish)

    async def _queued(
        self,
        steps: Sequence[Step],
        wish: Wish | None,
        long: LongWork | None = None,
        *,
        is_large: bool = False,
    ) -> Written:
        if self._state is CommitterState.FENCED:
            raise WriteFenced("the database takes no writes now; try again shortly")
        if self._state is CommitterState.PAUSED:
            raise WriteFenced(
                "the commit log failed a moment ago (is the disk full?): no writes for a while, "
                "this one was not started; reads go on"
            )
        if len(self._queue) >= _QUEUE_MAX:
            raise Overloaded("D1 DB is overloaded. Too many requests queued.")
        loop = asyncio.get_running_loop()
        job = _Job(steps, wish, long, loop.create_future(), is_large)
        self._queue.append(job)
        self._work()
        if long is not None:
            return await job.done
        giving_up = loop.call_later(self._deadline_s, _give_up, job)
        try:
            return await job.done
        finally:
            giving_up.cancel()

    def _run_inline(self, steps: Sequence[Step], wish: Wish | None) -> Written:
        try:
            written = self._writer.execute(steps, wish, budget_s=INLINE_BUDGET_S)
        except (LogFailed, DatabaseDamaged) as exc:
            self._flusher.fail(exc)
            raise WriteUnknown(str(exc)) from exc
        self._flusher.ask()
        if self._log.pending_bytes > _PENDING_BYTES_MAX:
            self._work()
        return written

    def _resume(self) -> None:
        """The pause is over."""
        if self._state is CommitterState.PAUSED:
            self._state = CommitterState.READY

    def _work(self) -> None:
        """Have the worker take over: from now on writes queue."""
        if self._worker is None and self._state is CommitterState.READY:
            self._state = CommitterState.BUSY
            self._worker = self._spawn(self._run_worker(), f"committer:{self._live.uuid.hex()}")

    async def _run_worker(self) -> None:
        """Run what queues, and the checkpoint if it is due, until nothing is left."""
        try:
            turn_ends = time.perf_counter() + _TURN_S
            while self._state is CommitterState.BUSY:
                if self._log.pending_bytes > _PENDING_BYTES_MAX or self._is_checkpoint_due():
                    await self._flusher.idle()
                if self._is_checkpoint_due():
                    await self._checkpoint()
                if not self._queue:
                    self._state = CommitterState.READY
                    return
                await self._run_job(self._queue.popleft())
                if time.perf_counter() > turn_ends:
                    await asyncio.sleep(0)
                    turn_ends = time.perf_counter() + _TURN_S
        except (EngineError, OSError, apsw.Error) as exc:
            self._flusher.fail(exc)
        finally:
            self._worker = None
            if self._state is CommitterState.BUSY:
                self._flusher.fail(LogFailed("the committer was stopped"))

    async def _run_job(self, job: _Job) -> None:
        """Run one queued write: inline if it is short, else on a thread."""
        if job.done.done():
            return
        job.has_begun = True
        try:
            written = await self._run_somewhere(job)
            if not job.done.done():
                job.done.set_result(written)
        except (LogFailed, DatabaseDamaged) as exc:
            if not job.done.done():
                job.done.set_exception(WriteUnknown(str(exc)))
            raise
        except asyncio.CancelledError:
            job.done.cancel()
            raise
        except Exception as exc:
            if not job.done.done():
                job.done.set_exception(exc)

    async def _run_somewhere(self, job: _Job) -> Written:
        if job.long is None and not job.is_large:
            try:
                return self._run_inline(job.steps, job.wish)
            except BudgetExceeded:
                pass
        await self._flusher.idle()  # the thread appends to the log and flushes it by itself
        try:
            return await self._threads.call(self._run_on_thread, job)
        except BudgetExceeded as exc:
            raise DeadlineExceeded(
                f"the write took longer than {self._deadline_s:g} s and was undone; "
                "split it into smaller ones"
            ) from exc
        except (LogFailed, DatabaseDamaged) as exc:
            self._flusher.fail(exc)  # at once: who saw the commit must not be let go below
            raise
        finally:
            self._flusher.note_flushed(self._log.durable)
            self._flusher.release_all()
            self._flusher.ask()

    def _run_on_thread(self, job: _Job) -> Written:
        def flush() -> None:
            self._log.mark_durable(self._log.flush())

        try:
            if job.long is not None:
                written = job.long(self._writer, flush)
            else:
                written = self._writer.execute(
                    job.steps, job.wish, budget_s=self._deadline_s, after_part=flush
                )
        except (LogFailed, DatabaseDamaged):
            raise
        except Exception:
            with contextlib.suppress(OSError):
                self._live.cut_wal(self._writer.wal_frames)
            raise
        flush()
        return written

    # --- durability and the WAL

    def _flushed(self) -> None:
        self._on_durable()
        if self._is_checkpoint_due():
            self._work()

    def _fence(self, error: Exception) -> None:
        self._state = CommitterState.FENCED
        while self._queue:
            job = self._queue.popleft()
            if not job.done.done():
                job.done.set_exception(
                    WriteFenced(f"the commit log failed ({error}); this write was not started")
                )
        self._on_fenced(error)

    def _is_checkpoint_due(self) -> bool:
        frames = self._writer.wal_frames
        if frames < self._moved:
            self._moved = 0  # the WAL has begun anew
        return frames - self._moved >= CHECKPOINT_FRAMES

    async def _checkpoint(self) -> None:
        """Move the WAL into the file; everything is durable and the writer is ours."""
        frames = self._writer.wal_frames
        if frames >= SNAPSHOT_FRAMES_MAX and self._reads.has_snapshots:
            await self._reads.stop_snapshots()
        try:
            if frames >= WAL_FRAMES_MAX and not self._reads.has_snapshots:
                async with self._reads.held():
                    done = await self._threads.call(self._live.checkpoint, restart=True)
            else:
                done = await self._threads.call(self._live.checkpoint)
        except apsw.FullError as exc:  # nothing is lost: the WAL stays, and grows
            logger.warning("%s: no room for a checkpoint: %s", self._live.uuid.hex(), exc)
            self._moved = frames
            return
        # A reader may have held some up, or may keep the WAL from beginning anew: the next
        # try comes after as many frames again.
        self._moved = self._writer.wal_frames = done.frames
        is_far = self._log.bytes_total - self._base_at_bytes >= BASE_LOG_BYTES
        if done.is_whole and is_far and self._advancing is None:
            self._advancing = self._spawn(
                self._advance_base(self._present()), f"base:{self._live.uuid.hex()}"
            )

    async def _advance_base(self, base: Base) -> None:
        """Make the file durable as of `base`, beside the writes that go on; then trim the log."""
        try:
            await self._threads.call(self._live.advance_base, base)
            await self._threads.call(self._log.trim, self._keep(base.position))
            self._base_at_bytes = self._log.bytes_total
        except (LogFailed, LogCorrupt, OSError) as exc:
            logger.warning("%s: the base stays where it was: %s", self._live.uuid.hex(), exc)
        finally:
            self._advancing = None

    def _checkpoint_whole(self) -> None:
        if self._live.checkpoint(restart=True).is_whole:
            base = self._present()
            self._live.advance_base(base)
            self._log.trim(self._keep(base.position))

    def _present(self) -> Base:
        assert self.is_settled
        return Base(self._log.head, self._live.pages.rolling, self.page_count)


def _give_up(job: _Job) -> None:
    """Somebody else has had the writer for as long as a request may take."""
    if not job.has_begun and not job.done.done():
        job.done.set_exception(Overloaded("D1 DB is overloaded. Requests queued for too long."))
