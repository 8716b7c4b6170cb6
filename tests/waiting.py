"""How tests wait: for the thing itself, never for a time in which it should have come."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

EVENT_S_MAX: Final = 60.0  # whatever a test waits for comes long before, or never
SOON_S_MAX: Final = 20.0  # what waits for nothing has come by then; what waits has EVENT_S_MAX
LOOK_S: Final = 0.004


async def until(condition: Callable[[], object], what: str) -> None:
    """Return when the condition has come true."""
    ends = time.monotonic() + EVENT_S_MAX
    while not condition():
        assert time.monotonic() < ends, f"{what}: not within {EVENT_S_MAX} s"
        await asyncio.sleep(LOOK_S)


def block_until(condition: Callable[[], object], what: str) -> None:
    """`until` for tests without an event loop."""
    ends = time.monotonic() + EVENT_S_MAX
    while not condition():
        assert time.monotonic() < ends, f"{what}: not within {EVENT_S_MAX} s"
        time.sleep(LOOK_S)
