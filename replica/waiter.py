"""Reads that wait until the commit of their bookmark is applied.

An event, not a poll: the applier says `advance`, and exactly those wake whose commit is
there. Invariants: `applied` never goes back; at most `waiters_max` wait; a waiter that is
cancelled gives its place back. Owned by one replica database, on the event loop.
"""

import asyncio
import heapq
import itertools
from typing import Final

from replica.errors import TooManyWaiters

WAITERS_MAX: Final = 10_000


class TokenWaiter:
    """Wakes reads by commit number; see the module's head."""

    __slots__ = ("_heap", "_order", "_waiters_max", "_waiting", "applied")

    applied: int
    """The newest commit that every read from now on sees."""

    def __init__(self, applied: int, *, waiters_max: int = WAITERS_MAX) -> None:
        """Begin at commit `applied`."""
        self.applied = applied
        self._waiters_max = waiters_max
        self._heap: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Reads that wait now."""
        return self._waiting

    async def wait_applied(self, seq: int) -> None:
        """Return once commit `seq` is applied. Cancelling leaves nothing behind.

        Raises `TooManyWaiters`.
        """
        if seq <= self.applied:
            return
        if self._waiting >= self._waiters_max:
            raise TooManyWaiters(f"{self._waiters_max} reads are already waiting for a commit")
        reached = asyncio.get_running_loop().create_future()
        heapq.heappush(self._heap, (seq, next(self._order), reached))
        self._waiting += 1
        try:
            await reached
        finally:
            self._waiting -= 1
            self._drop_done()

    def advance(self, applied: int) -> None:
        """Commit `applied` is visible to readers: wake those who waited for it."""
        assert applied >= self.applied, f"{applied} is older than {self.applied}"
        self.applied = applied
        heap = self._heap
        while heap and heap[0][0] <= applied:
            reached = heapq.heappop(heap)[2]
            if not reached.done():
                reached.set_result(None)

    def reset(self, applied: int) -> None:
        """The database is another one now (a copy): it is at `applied`, maybe earlier."""
        self.applied = min(applied, self.applied)
        self.advance(applied)

    def _drop_done(self) -> None:
        """Forget cancelled waiters once they are most of the heap, at a cost they have paid."""
        if len(self._heap) > 2 * self._waiting + 16:
            self._heap = [entry for entry in self._heap if not entry[2].done()]
            heapq.heapify(self._heap)
