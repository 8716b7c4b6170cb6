"""Blocking work on threads, awaited to its end.

A thread cannot be cancelled. Whoever awaits `Threads.call` and is cancelled still waits
until the thread is through, so that nobody closes a file or a connection under it; then the
cancellation goes on.
"""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_STOP_AGAIN_S: Final = 0.05


class Threads:
    """A bounded set of threads for one kind of blocking work."""

    def __init__(self, name: str, threads_max: int) -> None:
        """Start no thread yet; at most `threads_max` run."""
        self._pool = ThreadPoolExecutor(threads_max, thread_name_prefix=name)

    def start(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "asyncio.Future[T]":
        """Begin the work; the future is for a done callback or for `asyncio.wait`."""
        loop = asyncio.get_running_loop()
        return asyncio.wrap_future(self._pool.submit(work, *args, **kwargs), loop=loop)

    async def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the work and give its result; see the module's head about cancellation."""
        return await until_done(self.start(work, *args, **kwargs))

    def close(self) -> None:
        """End the threads; waits for work under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)


async def until_done(running: "asyncio.Future[T]", *, stop: Callable[[], None] | None = None) -> T:
    """Wait for work on a thread, to its end also when cancelled meanwhile.

    `stop` asks the work to end early. It is repeated, because the work may not have come
    to the point yet where it can be stopped.
    """
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            if stop is not None:
                stop()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running], timeout=_STOP_AGAIN_S)
        if not running.cancelled():
            running.exception()
        raise
