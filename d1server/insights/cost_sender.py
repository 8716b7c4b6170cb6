"""A replica's query costs on their way to the primary, so that one node tells of all.

Every `SEND_S`, and before somebody asks through this replica, what is stored is sent in
batches, one after the other: the next one when the primary has said that it has the last. A
batch whose answer was lost is sent again as it was, which the primary notices. While the
primary is away, what was counted stays in `node.db`, with the bounds of `stored_costs.py`.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, NoReturn

import aiosqlite

from d1server.insights.stored_costs import StoredCosts
from engine.errors import EngineError
from proto.messages import Reply
from replica.errors import ReplicaError

logger = logging.getLogger(__name__)

SEND_S: Final = 5.0
_BATCHES_MAX: Final = 20  # at once; the others wait for the next time
_ASKED_S_MAX: Final = 5.0  # whoever asks for statistics waits so long for this node's own
_REFUSED_S: Final = 60.0
_BUSY: Final = 503  # the primary's word for: not now

Send = Callable[[bytes], Awaitable[Reply]]
"""Hands the primary the body of a batch. Raises `ReplicaError`."""


class CostSender:
    """See the module's head; on the event loop."""

    def __init__(self, costs: StoredCosts, send: Send) -> None:
        """Send what `costs` holds."""
        self._costs = costs
        self._send = send
        self._turn = asyncio.Lock()
        self._not_before = 0.0
        self._refusal = b""  # the last one that was logged
        self.waiting = 0  # rows that the primary has not got yet, as of the last time

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Within this, costs are sent now and then. `costs` must be open meanwhile."""
        sending = asyncio.get_running_loop().create_task(self._send_often(), name="cost sender")
        try:
            yield
        finally:
            sending.cancel()
            await asyncio.wait([sending])

    async def _send_often(self) -> NoReturn:
        while True:
            await asyncio.sleep(SEND_S)
            await self.send()

    async def send_soon(self) -> None:
        """The same for somebody who waits for it."""
        try:
            async with asyncio.timeout(_ASKED_S_MAX):
                await self.send()
        except TimeoutError:
            logger.debug("the primary is asked before it has all of this node's query costs")

    async def send(self) -> None:
        """Send what was counted until now; what cannot be sent now is sent later."""
        async with self._turn:
            try:
                await self._costs.store()
                if time.monotonic() >= self._not_before:
                    await self._send_batches()
            except (EngineError, ReplicaError, aiosqlite.Error) as exc:
                logger.debug("query costs are sent later: %s", exc)
            with contextlib.suppress(EngineError, aiosqlite.Error):
                self.waiting = await self._costs.count_waiting()

    async def _send_batches(self) -> None:
        for _ in range(_BATCHES_MAX):
            batch = await self._costs.next_batch()
            if batch is None or not self._is_taken(await self._send(batch.body)):
                return
            await self._costs.arrived(batch)

    def _is_taken(self, reply: Reply) -> bool:
        """Whether the primary is done with the batch; a refusal is told once."""
        if reply.status == _BUSY:
            return False
        if reply.status != 200:  # it does not know the operation
            self._not_before = time.monotonic() + _REFUSED_S
        if reply.body and reply.body != self._refusal:
            told = reply.body[:500].decode(errors="replace")
            logger.warning("the primary does not count this node's queries: %s", told)
        self._refusal = reply.body
        return reply.status == 200
