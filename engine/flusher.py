"""Group commit: whatever was appended to the log since the last flush goes to disk as one.

The first append after a quiet time starts a flush at the end of the loop's turn; while it is
under way appends collect; when it is through, the next one starts with all of them. No timer,
no batch size: the disk's own speed sets the size of the groups.

A flush that fails is never tried again and believed: the pages that the kernel could
not write may be marked clean by then. The flusher is finished, its owner is told.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from engine.durability import DurabilityQueue, Reached
from engine.durations import Histogram
from engine.errors import LogFailed
from engine.log import CommitLog
from engine.threads import Threads
from proto.tokens import Bookmark

logger = logging.getLogger(__name__)


class Flusher:
    """Makes one log durable and wakes those who wait for it; on the event loop."""

    def __init__(
        self,
        log: CommitLog,
        threads: Threads,
        *,
        durations: Histogram,
        on_durable: Callable[[], None],
        on_failed: Callable[[Exception], None],
    ) -> None:
        """Flush `log` on `threads`. `on_durable` after each flush, `on_failed` at most once."""
        self._log = log
        self._threads = threads
        self._durations = durations
        self._started_at = 0.0
        self._on_durable = on_durable
        self._on_failed = on_failed
        self._waiting = DurabilityQueue()
        self._running: asyncio.Future[Bookmark] | None = None
        self._preparing: asyncio.Future[None] | None = None
        self._between: list[Callable[[], None]] = []
        self._is_asked = False
        self.failure: Exception | None = None

    def ask(self) -> None:
        """Flush what was appended, soon."""
        if not self._is_asked and self._running is None:
            self._is_asked = True
            asyncio.get_running_loop().call_soon(self._start)

    async def wait_durable(self, seq: int) -> None:
        """Return once commit `seq` is durable. Raises `LogFailed` if the log fails."""
        if self._log.durable.seq < seq:
            if self.failure is not None:
                raise LogFailed(str(self.failure))
            await self._waiting.place(seq)

    def when_durable(self, seq: int, reached: Reached) -> None:
        """Have `reached` called, now or later, when commit `seq` is durable or the log failed."""
        if self._log.durable.seq >= seq:
            reached(None)
        elif self.failure is not None:
            reached(LogFailed(str(self.failure)))
        else:
            self._waiting.call(seq, reached)

    async def idle(self) -> None:
        """Return once nothing is appended that is not durable. Raises `LogFailed`."""
        await self.wait_durable(self._log.head.seq)
        while self._running is not None:
            await asyncio.wait([self._running])
            await asyncio.sleep(0)  # our own done callback comes first

    async def finish(self) -> None:
        """Return once no thread is in the log any more; for its owner before closing it."""
        while (running := self._running or self._preparing) is not None:
            await asyncio.wait([running])
            await asyncio.sleep(0)  # our own done callback comes first, and may start another

    def between_flushes(self, work: Callable[[], None]) -> None:
        """Do this while no flush runs: now, or before the next one. Not after a failure."""
        if self._running is None:
            work()
        else:
            self._between.append(work)

    def note_flushed(self, durable: Bookmark) -> None:
        """Somebody else, a thread with the writer, flushed the log up to `durable`."""
        self._log.mark_durable(durable)
        self._tell()

    def release_all(self) -> None:
        """What waits beyond the head waits for a commit that was undone: let it go."""
        if self._log.durable.seq == self._log.head.seq:
            self._waiting.release_all()

    def fail(self, error: Exception) -> None:
        """The log or the capture failed: nobody who waits gets what they wait for."""
        if self.failure is None:
            self.failure = error
            self._waiting.fail(LogFailed(str(error)))
            self._on_failed(error)

    def _start(self) -> None:
        self._is_asked = False
        if self.failure is None and self._running is None and self._log.pending_bytes:
            self._started_at = time.perf_counter()
            self._running = self._threads.start(self._log.flush)
            self._running.add_done_callback(self._flushed)

    def _flushed(self, flush: "asyncio.Future[Bookmark]") -> None:
        self._running = None
        if flush.cancelled():
            return
        error = flush.exception()
        if error is not None:
            self.fail(error if isinstance(error, Exception) else LogFailed(str(error)))
            return
        self._durations.add(time.perf_counter() - self._started_at)
        self._log.mark_durable(flush.result())
        between, self._between = self._between, []
        for work in between:
            work()
        self._start()  # the disk first, then the replicas, then the answers
        try:
            self._tell()
        finally:
            self._prepare()

    def _tell(self) -> None:
        """Tell the owner, then those who wait.

        In this order: the replicas get in one message what makes a hundred answers, and a
        client that was answered soon asks one of them.
        """
        try:
            self._on_durable()
        finally:
            self._waiting.release(self._log.durable.seq)

    def _prepare(self) -> None:
        """Have the next segment made ahead of need."""
        if self._log.wants_next and self._preparing is None:
            self._preparing = self._threads.start(self._log.prepare_next)
            self._preparing.add_done_callback(self._prepared)

    def _prepared(self, done: "asyncio.Future[None]") -> None:
        self._preparing = None
        if not done.cancelled() and (error := done.exception()) is not None:
            logger.warning("the next log segment could not be prepared: %s", error)
