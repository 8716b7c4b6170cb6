"""A thing that is opened when somebody uses it, and closed when nobody has for a while.

A node holds many more databases than it can keep open: an idle one costs a few hundred
bytes here instead of connections, caches and descriptors.

Invariants:

1. At most one opening or closing is under way, and users wait for it.
2. It is closed only while `users` is 0, and never opened again after `retire`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Retired(Exception):
    """The thing is gone for good (its database was deleted, or the node stops)."""


class OnDemand(Generic[T]):
    """See the module's head; on the event loop."""

    __slots__ = (
        "_close",
        "_is_retired",
        "_lock",
        "_open",
        "_unused",
        "current",
        "last_used",
        "users",
    )

    def __init__(
        self, open_it: Callable[[], Awaitable[T]], close_it: Callable[[T], Awaitable[None]]
    ) -> None:
        """Nothing is opened yet."""
        self._open = open_it
        self._close = close_it
        self._lock: asyncio.Lock | None = None
        self._unused: asyncio.Event | None = None
        self._is_retired = False
        self.current: T | None = None
        self.users = 0
        self.last_used = 0.0

    @asynccontextmanager
    async def used(self) -> AsyncIterator[T]:
        """The open thing, for as long as the block lasts. Raises `Retired`, what `open_it` does."""
        self.users += 1
        self.last_used = time.monotonic()
        try:
            if self.current is None:
                await self._opened()
            if self.current is None:
                raise Retired
            yield self.current
        finally:
            self.users -= 1
            self.last_used = time.monotonic()
            if self.users == 0 and self._unused is not None:
                self._unused.set()

    async def _opened(self) -> None:
        async with self._locked():
            if self._is_retired:
                raise Retired
            if self.current is None:
                self.current = await self._open()

    async def close_if_unused(self) -> bool:
        """Close it unless somebody uses it now; whether it is closed."""
        async with self._locked():
            if self.users == 0 and self.current is not None:
                current, self.current = self.current, None
                await self._close(current)
        return self.current is None

    async def retire(self) -> None:
        """Let nobody in any more, wait for those inside, close it for good."""
        self._is_retired = True
        while self.users:
            self._unused = asyncio.Event()
            await self._unused.wait()
        async with self._locked():
            current, self.current = self.current, None
            if current is not None:
                await self._close(current)

    def _locked(self) -> asyncio.Lock:
        if self._lock is None:
            self._lock = asyncio.Lock()
        return self._lock
