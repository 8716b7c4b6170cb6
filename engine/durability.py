"""Who waits for which commit to become durable.

No answer leaves the primary before the state that it speaks of is durable: a write's
acknowledgement waits for its own commit, a read for the newest commit that it may have
seen, and so does an error ("UNIQUE constraint failed" tells of a row, too).

Invariant: places are taken in the order of their sequence numbers, so the queue is
sorted. Bounded by the number of requests in flight. Owned by the log's `Flusher`, on the loop.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

Reached: TypeAlias = Callable[[Exception | None], None]
"""Called once: with None when the commit is durable, with the error if it will not be."""


class DurabilityQueue:
    """Requests that wait, oldest commit first."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, Reached]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def call(self, seq: int, reached: Reached) -> None:
        """Have `reached` called when commit `seq` is durable."""
        self._waiting.append((seq, reached))

    def place(self, seq: int) -> "asyncio.Future[None]":
        """A future that is done when commit `seq` is durable."""
        future = asyncio.get_running_loop().create_future()

        def reached(error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        self._waiting.append((seq, reached))
        return future

    def release(self, durable_seq: int) -> None:
        """All commits up to `durable_seq` are durable."""
        waiting = self._waiting
        while waiting and waiting[0][0] <= durable_seq:
            waiting.popleft()[1](None)

    def release_all(self) -> None:
        """Nothing is on its way to the disk: whatever was seen is durable, or undone."""
        while self._waiting:
            self._waiting.popleft()[1](None)

    def fail(self, error: Exception) -> None:
        """The log failed: nobody who waits gets what they wait for."""
        while self._waiting:
            self._waiting.popleft()[1](error)
