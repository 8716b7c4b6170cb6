"""Who waits for which commit to become durable.

No answer leaves the primary before the state that it speaks of is durable: a write's
acknowledgement waits for its own commit, a read for the newest commit that it may have
seen, and so does an error ("UNIQUE constraint failed" tells of a row, too).

Invariant: places are taken in the order of their sequence numbers, so the queue is
sorted. Bounded by the number of requests in flight. Owned by the log's `Flusher`, on the loop.
"""

import asyncio
from collections import deque


class DurabilityQueue:
    """Requests that wait, oldest commit first."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def place(self, seq: int) -> "asyncio.Future[None]":
        """A future that is done when commit `seq` is durable."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((seq, future))
        return future

    def release(self, durable_seq: int) -> None:
        """All commits up to `durable_seq` are durable."""
        waiting = self._waiting
        while waiting and waiting[0][0] <= durable_seq:
            future = waiting.popleft()[1]
            if not future.done():
                future.set_result(None)

    def release_all(self) -> None:
        """Nothing is on its way to the disk: whatever was seen is durable, or undone."""
        while self._waiting:
            future = self._waiting.popleft()[1]
            if not future.done():
                future.set_result(None)

    def fail(self, error: Exception) -> None:
        """The log failed: nobody who waits gets what they wait for."""
        while self._waiting:
            future = self._waiting.popleft()[1]
            if not future.done():
                future.set_exception(error)
