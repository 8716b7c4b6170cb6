"""Requests that only the primary can answer, over the replica's one link.

Many are under way at the same time; replies come in any order and are matched by id. A
request that could not be sent was surely not done. One whose reply is lost may have been:
the client is told so, unless an idempotency key makes asking again safe.
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

_WAITING_MAX: Final = 4096
_UNSENT_BYTES_MAX: Final = 64 * 1024 * 1024


class Forwarder:
    """See the module's head; on the event loop. Lives as long as the node, over many links."""

    def __init__(self, link: Callable[[], Link | None]) -> None:
        """Send over what `link()` gives, None while there is no connection."""
        self._link = link
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}

    @property
    def waiting(self) -> int:
        """Requests under way."""
        return len(self._waiting)

    async def ask(self, request: Forward, *, timeout_s: float) -> Reply:
        """The primary's reply to `request`, whose `id` is set here.

        Raises `ForwardFailed` if it surely was not done, `OutcomeUnknown` otherwise;
        `RequestInvalid` if it is too large for the link.
        """
        if len(request.body) > BODY_BYTES_MAX:
            raise RequestInvalid(
                f"a body of {len(request.body)} bytes; a replica hands on at most {BODY_BYTES_MAX}:"
                " split it, or send it to the primary"
            )
        link = self._link()
        if link is None:
            raise ForwardFailed("the primary cannot be reached now")
        if len(self._waiting) >= _WAITING_MAX or link.unsent_bytes > _UNSENT_BYTES_MAX:
            raise ForwardFailed("too many requests are already waiting for the primary")
        number = next(self._ids)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        try:
            try:
                is_sent = link.send(msgspec.structs.replace(request, id=number))
            except UnicodeEncodeError as exc:
                raise RequestInvalid("a name in the request holds half a character") from exc
            if not is_sent:
                raise ForwardFailed("the link to the primary has just been lost")
            async with asyncio.timeout(timeout_s):
                return await reply
        except TimeoutError as exc:
            raise OutcomeUnknown(f"the primary did not answer within {timeout_s:g} s") from exc
        finally:
            self._waiting.pop(number, None)

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
