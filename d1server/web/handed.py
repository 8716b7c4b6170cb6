"""aiohttp's own connection, with this server's bounds and JSON errors.

aiohttp limits sizes, not times: a dripped head, a client that does not read, and a body
that stalls would each keep a connection for as long as they like. Here the first two get a
deadline; the body's is where the body is read (`app.py`).
"""

import asyncio
import logging
from time import monotonic
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError, TransferEncodingError

from d1server.web.errors import Fault, answer_exception, refuse
from d1server.web.front import Front
from d1server.web.limits import (
    HEAD_S_MAX,
    IDLE_S_MAX,
    LINGER_S_MAX,
    NEVER,
    WRITE_BYTES_MIN,
    WRITE_STALL_S_MAX,
)
from d1server.web.response import answer_headers

logger = logging.getLogger(__name__)


class HandedConnection(web.RequestHandler):
    """A connection that the fast path has given away."""

    __slots__ = ("_busy", "_front", "_idle_since", "_unsent_bytes", "deadline")

    def __init__(self, manager: web.Server, front: Front) -> None:
        super().__init__(
            manager,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=IDLE_S_MAX,
            lingering_time=LINGER_S_MAX,
            access_log=None,  # type: ignore[arg-type]  # how aiohttp spells: no log
        )
        self._front = front
        self._busy = False  # between `begin_request` and `end_request`
        self._unsent_bytes = 0
        self.deadline = NEVER
        self._idle_since = NEVER

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._front.clients.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._front.on_lost(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._idle_since = NEVER
        if not self._busy and self.deadline == NEVER:
            self.deadline = monotonic() + HEAD_S_MAX  # `begin_request` lifts it
        super().data_received(data)

    def begin_request(self) -> None:
        """A whole head is here, and its handler begins."""
        self._busy = True
        self._idle_since = NEVER
        if not self.writing_paused:
            self.deadline = NEVER

    def end_request(self) -> None:
        """The handler is done."""
        self._busy = False
        self._idle_since = monotonic()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.transport is not None:
            self._unsent_bytes = self.transport.get_write_buffer_size()
        self.deadline = monotonic() + WRITE_STALL_S_MAX
        self._front.on_slow(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._front.unread.discard(self)
        self.deadline = NEVER

    def on_deadline(self, now: float) -> None:
        if self.transport is None:
            self.deadline = NEVER
        elif self.writing_paused:
            unsent = self.transport.get_write_buffer_size()
            if unsent > self._unsent_bytes - WRITE_BYTES_MIN:
                self.drop()
            self._unsent_bytes = unsent
            self.deadline = now + WRITE_STALL_S_MAX
        else:
            self.force_close()

    @property
    def owes_answer(self) -> bool:
        """No: aiohttp's own clean-up waits for its handlers."""
        return False

    @property
    def idle_since(self) -> float:
        """When its last request was answered; NEVER while it has one."""
        return NEVER if self._busy or self.writing_paused else self._idle_since

    @property
    def unread_bytes(self) -> int:
        """What the client has not taken yet of its answers."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def stop_when_answered(self) -> None:
        self.close()

    def drop(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """Log what aiohttp did not expect, but for a body that does not decompress.

        It was answered 400; aiohttp tries to read the rest, and ends the connection.
        """
        if isinstance(kwargs.get("exc_info"), web.RequestPayloadError | TransferEncodingError):
            logger.debug("a body could not be read: %s", kwargs["exc_info"])
        else:
            super().log_exception(*args, **kwargs)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what aiohttp itself refuses or fails at, in JSON; the connection closes."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer is under way: nothing else can be said")
        if status < 500:
            logger.debug("refused: %s", message)
            if isinstance(exc, ContentEncodingError):  # aiohttp lacks a library for it
                text = "the body's Content-Encoding is none that is read here: send it plain"
            else:
                text = f"this is not HTTP as it should be: {message or 'bad request'}"
            answer = refuse(Fault.REQUEST_INVALID, text)
        else:
            answer = answer_exception(exc if isinstance(exc, Exception) else Exception(message))
        self._front.meter.answers[answer.status] += 1
        response = web.Response(
            status=answer.status, body=answer.body, headers=answer_headers(answer, "")
        )
        response.force_close()
        return response
