"""Waiting for what other tasks and processes bring about, where no event tells of it."""

import asyncio
import time
from collections.abc import Callable

EVENT_S_MAX = 30.0  # whatever a test waits for comes long before, or never
_LOOK_S = 0.004


async def until(condition: Callable[[], bool], what: str) -> None:
    """Return when a condition has come true."""
    ends = time.monotonic() + EVENT_S_MAX
    while not condition():
        assert time.monotonic() < ends, f"{what}: not within {EVENT_S_MAX} s"
        await asyncio.sleep(_LOOK_S)
