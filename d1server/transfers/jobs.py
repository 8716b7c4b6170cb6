"""What exports and imports have in common: D1's states, and answers that are held."""

import asyncio
import enum
from typing import Final

HOLD_S: Final = 1.0  # D1's clients ask again at once


class Status(enum.Enum):
    """Where a job is, in D1's words."""

    ACTIVE = "active"
    COMPLETE = "complete"
    FAILED = "error"


async def hold(ended: asyncio.Event) -> None:
    """Return when the job has ended, or after `HOLD_S`."""
    try:
        async with asyncio.timeout(HOLD_S):
            await ended.wait()
    except TimeoutError:
        pass
