"""Closes databases that nobody uses, so that a node can hold many more than it keeps open."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, NoReturn

from d1server.memory import give_back_memory
from engine.ondemand import OnDemand
from engine.threads import Threads

logger = logging.getLogger(__name__)

_SWEEP_S: Final = 0.5
_CLOSED_PER_SWEEP: Final = 64  # closing costs two fsyncs; the rest waits for the next sweep


async def close_idle(
    demands: Callable[[], Iterable[OnDemand[Any]]],
    threads: Threads,
    *,
    idle_s: float,
    open_max: int,
) -> NoReturn:
    """Close databases unused for `idle_s`, and the longest unused ones above `open_max`."""
    closed = 0
    while True:
        await asyncio.sleep(min(_SWEEP_S, idle_s / 2))
        now = time.monotonic()
        opened = sorted(
            (demand for demand in demands() if demand.current is not None),
            key=lambda demand: demand.last_used,
        )
        surplus = len(opened) - open_max
        closed_before = closed
        for at, demand in enumerate(opened[:_CLOSED_PER_SWEEP]):
            if at < surplus or now - demand.last_used >= idle_s:
                try:
                    closed += await demand.close_if_unused()
                except Exception:
                    # It is recovered from its log when it is opened again.
                    logger.exception("a database could not be closed in order")
        if closed and closed == closed_before:  # the wave is over
            closed = 0
            await threads.call(give_back_memory)
