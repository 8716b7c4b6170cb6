"""How many databases of a node are open at the same time.

An open database costs about a dozen descriptors and some megabytes of caches, so their
number has a bound that holds at every moment, not only after the next sweep: whoever
wants to open one first closes the one that was unused for the longest time.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from engine.errors import DatabaseClosed
from engine.ondemand import OnDemand

_WAIT_S: Final = 0.05
_WAITS_MAX: Final = 100  # five seconds, while all that are open are in use


class Openings:
    """The open databases of a node; see the module's head. On the event loop."""

    def __init__(self, open_max: int) -> None:
        """Let at most `open_max` databases be open."""
        self._open_max = open_max
        self._open: set[OnDemand[Any]] = set()
        self._opening = 0

    def __len__(self) -> int:
        return len(self._open) + self._opening

    @asynccontextmanager
    async def place(self, demand: OnDemand[Any]) -> AsyncIterator[None]:
        """A place for `demand`, which is opened in the block and has it until `give_back`.

        Raises `DatabaseClosed` if no place becomes free in time.
        """
        await self._make_room()
        self._opening += 1
        try:
            yield
            self._open.add(demand)
        finally:
            self._opening -= 1

    def give_back(self, demand: OnDemand[Any]) -> None:
        """It is closed."""
        self._open.discard(demand)

    async def _make_room(self) -> None:
        for _ in range(_WAITS_MAX):
            while len(self) >= self._open_max:
                unused = [demand for demand in self._open if not demand.is_used]
                if not unused:
                    break
                victim = min(unused, key=lambda demand: demand.last_used)
                if not await victim.close_if_unused():
                    break  # somebody was quicker
                self._open.discard(victim)  # not before: while it closes it has all it had
            if len(self) < self._open_max:
                return
            await asyncio.sleep(_WAIT_S)
        raise DatabaseClosed(
            f"{self._open_max} databases are open and in use: try again, or raise "
            "--open-databases-max and the limit of open files"
        )
