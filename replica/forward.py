"""Requests that only the primary can answer, over the replica's one link.

Many are under way at the same time; replies come in any order and are matched by id. A
request that could not be sent was surely not done, and is held until the link is back if that
is soon (`replica/redial.py`). One whose reply is lost may have been done: the client is told so,
unless an idempotency key makes asking again safe.
"""

import asyncio
import itertools
from collections.abc import Callable
from typing import Final

import msgspec

from proto.errors import RequestInvalid
from proto.framing import BODY_BYTES_MAX
from proto.link import Link
from proto.messages import Forward, Reply
from replica.errors import ForwardFailed, OutcomeUnknown
from replica.redial import HELD_S, Redial

_WAITING_MAX: Final = 4096
_UNSENT_BYTES_MAX: Final = 64 * 1024 * 1024


class Forwarder:
    """See the module's head; on the event loop. Lives as long as the node, over many links."""

    def __init__(self, link: Callable[[], Link | None], redial: Redial) -> None:
        """Send over what `link()` gives, None while there is no connection: `redial` ends that."""
        self._link = link
        self._redial = redial
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}

    @property
    def waiting(self) -> int:
        """Requests under way."""
        return len(self._waiting)

    async def ask(self, request: Forward, *, timeout_s: float, held_s_max: float = HELD_S) -> Reply:
        """The primary's reply to `request`, whose `id` is set here.

        It is held for `held_s_max` at most, then answered within `timeout_s`.
        Raises `ForwardFailed` if it surely was not done, `OutcomeUnknown` otherwise;
        `RequestInvalid` if it is too large for the link.
        """
        if len(request.body) > BODY_BYTES_MAX:
            raise RequestInvalid(
                f"a body of {len(request.body)} bytes; a replica hands on at most {BODY_BYTES_MAX}:"
                " split it, or send it to the primary"
            )
        number = next(self._ids)
        numbered = msgspec.structs.replace(request, id=number)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        try:
            if not self._is_sent(numbered, reply):
                self._refuse_if_crowded(self._redial.held)
                if not await self._redial.is_back(held_s_max):
                    raise ForwardFailed("the primary cannot be reached now")
                if not self._is_sent(numbered, reply):
                    raise ForwardFailed("the link to the primary has just been lost")
            async with asyncio.timeout(timeout_s):
                return await reply
        except TimeoutError as exc:
            raise OutcomeUnknown(f"the primary did not answer within {timeout_s:g} s") from exc
        finally:
            self._waiting.pop(number, None)

    def _is_sent(self, request: Forward, reply: asyncio.Future[Reply]) -> bool:
        """Send it, if there is a link; its `reply` is waited for from then on."""
        link = self._link()
        if link is None:
            return False
        self._refuse_if_crowded(len(self._waiting), link.unsent_bytes)
        try:
            is_sent = bool(link.send(request))
        except UnicodeEncodeError as exc:
            raise RequestInvalid("a name in the request holds half a character") from exc
        if is_sent:
            self._waiting[request.id] = reply
        return is_sent

    def _refuse_if_crowded(self, count: int, unsent_bytes: int = 0) -> None:
        if count >= _WAITING_MAX or unsent_bytes > _UNSENT_BYTES_MAX:
            raise ForwardFailed("too many requests are already waiting for the primary")

    def on_reply(self, message: Reply) -> None:
        """The primary answered. An answer that nobody waits for any more is dropped."""
        waiting = self._waiting.get(message.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    def on_link_lost(self) -> None:
        """No reply to what was sent will come."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(
                    OutcomeUnknown("the link to the primary broke before its answer came")
                )
