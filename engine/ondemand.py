"""A thing that is opened when somebody uses it, and closed when nobody has for a while.

A node holds many more databases than it can keep open: an idle one costs a few hundred
bytes here instead of connections, caches and descriptors.

Invariants:

1. At most one opening or closing is under way (`_lock`), and users wait for it.
2. It is closed only when nobody is inside, and never opened again after `retire`.
3. An opening or closing that has begun goes on to its end, also when whoever began it is
   cancelled (a client hung up): half an open database would hold descriptors and locks that
   nobody knows of. The cancellation goes on afterwards.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from engine.threads import until_done

T = TypeVar("T")


class Retired(Exception):
    """The thing is gone for good (its database was deleted, or the node stops)."""


class OnDemand(Generic[T]):
    """See the module's head; on the event loop."""

    __slots__ = (
        "_close",
        "_inside",
        "_is_retired",
        "_left",
        "_lock",
        "_open",
        "_users",
        "current",
        "last_used",
    )

    current: T | None
    """The open thing. For use without `used` only until the event loop's next turn."""
    last_used: float
    """When somebody last began or ended to use it, by the monotonic clock."""

    def __init__(
        self, open_it: Callable[[], Awaitable[T]], close_it: Callable[[T], Awaitable[None]]
    ) -> None:
        """Nothing is opened yet."""
        self._open = open_it
        self._close = close_it
        self._lock: asyncio.Lock | None = None  # made when needed: most are idle
        self._left: asyncio.Event | None = None
        self._is_retired = False
        self._inside = 0
        self._users = 0  # inside, or waiting to be
        self.current = None
        self.last_used = 0.0

    def touch(self) -> None:
        """Note a use of `current` without `used`."""
        self.last_used = time.monotonic()

    @property
    def is_retired(self) -> bool:
        """Nobody is let in any more."""
        return self._is_retired

    @property
    def is_used(self) -> bool:
        """Somebody is inside or waits to be."""
        return self._users > 0

    @asynccontextmanager
    async def used(self) -> AsyncIterator[T]:
        """The open thing, for as long as the block lasts. Raises `Retired`, what `open_it` does."""
        self._users += 1
        self.last_used = time.monotonic()
        try:
            while (current := self.current) is None:
                await self._opened()
            self._inside += 1
            try:
                yield current
            finally:
                self._inside -= 1
                if self._inside == 0 and self._left is not None:
                    self._left.set()
        finally:
            self._users -= 1
            self.last_used = time.monotonic()

    async def _opened(self) -> None:
        async with self._locked():
            if self._is_retired:
                raise Retired("the database is gone")
            if self.current is None:
                await until_done(asyncio.ensure_future(self._open_current()))

    async def _open_current(self) -> None:
        self.current = await self._open()

    async def close_if_unused(self) -> bool:
        """Close it unless somebody uses it now; whether it is closed, and no more closing."""
        if self._users:
            return False
        if self.current is not None:
            async with self.closed():
                pass
        elif self._lock is not None:
            async with self._lock:
                pass
        return self.current is None

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Within this it is closed, after those inside have left; others wait."""
        async with self._locked():
            await until_done(asyncio.ensure_future(self._close_current()))
            yield

    async def _close_current(self) -> None:
        current, self.current = self.current, None
        await self._wait_left()
        if current is not None:
            await self._close(current)

    async def retire(self) -> None:
        """Let nobody in any more, wait for those inside, close it for good."""
        self._is_retired = True
        async with self.closed():
            pass

    async def _wait_left(self) -> None:
        while self._inside:
            self._left = asyncio.Event()
            await self._left.wait()
        self._left = None

    def _locked(self) -> asyncio.Lock:
        if self._lock is None:
            self._lock = asyncio.Lock()
        return self._lock
