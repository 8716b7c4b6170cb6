"""One client's connection: queries are served here, everything else is handed to aiohttp.

    IDLE -> HEAD -> BODY -> answered at once -> IDLE
             |                |
             |                +-> ANSWERING, a task of the connection -> IDLE
             |                +-> BLOCKED, the client does not read --> IDLE
             |                +-> TURN, many requests in one piece ---> IDLE
             +-> aiohttp: the connection, with every byte that was not consumed yet

and from each of them to CLOSING and CLOSED.

Invariants:

1. Answers leave in the order of the requests: at most one is in the making, and what the
   client sends meanwhile waits unread or in `_rest`, bounded by BACKLOG_BYTES_MAX and one read.
2. Every phase but ANSWERING has a deadline; in ANSWERING the node's own deadlines hold.
3. A client that hangs up cancels its request.
4. A connection that was handed over never comes back.

Owned by the event loop.
"""

import asyncio
import enum
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Final, cast

from d1server.query import Answer, PendingAnswer, QueryRequest
from d1server.web.admission import Refused
from d1server.web.binding_call import to_binding_answer, to_lost_answer
from d1server.web.chunks import read_chunks
from d1server.web.errors import Fault, answer_exception, refuse
from d1server.web.front import Front
from d1server.web.head import HEAD_END, may_be_query
from d1server.web.limits import (
    BACKLOG_BYTES_MAX,
    BODY_S_MAX,
    HEAD_S_MAX,
    IDLE_S_MAX,
    LINGER_S_MAX,
    NEVER,
    PIPELINE_TURN,
    WRITE_BYTES_MIN,
    WRITE_STALL_S_MAX,
)
from d1server.web.query_head import QueryHead
from d1server.web.response import render_answer
from engine.durations import Histogram
from proto.api import Dialect

_NO_ALIAS: Final = b""
_HEAD_END_BYTES: Final = len(HEAD_END)
_BINDING: Final = Dialect.BINDING
_TOO_OFTEN: Final = 429  # the next try shall cost the client a connection


class Phase(enum.Enum):
    """What a connection waits for."""

    IDLE = "the first byte of a request"
    HEAD = "the rest of a head"
    BODY = "the rest of a body"
    ANSWERING = "the node's answer"
    BLOCKED = "the client, to read its answers"
    TURN = "the other connections, after many requests in one piece"
    CLOSING = "the client, to take its last answer"
    CLOSED = "nothing: gone, or handed over"


# Looked up once: members of an enumeration cost 0.1 us each time.
_IDLE: Final = Phase.IDLE
_HEAD: Final = Phase.HEAD
_BODY: Final = Phase.BODY
_ANSWERING: Final = Phase.ANSWERING
_BLOCKED: Final = Phase.BLOCKED
_TURN: Final = Phase.TURN
_CLOSING: Final = Phase.CLOSING
_CLOSED: Final = Phase.CLOSED
_LISTENS: Final = frozenset({_IDLE, _HEAD, _BODY})


class FastConnection(asyncio.Protocol):
    """The protocol of a fresh connection."""

    __slots__ = (
        "_front",
        "_head",
        "_head_bytes",
        "_open_aiohttp",
        "_phase",
        "_request",
        "_rest",
        "_transport",
        "_unsent_bytes",
        "_wanted_bytes",
        "deadline",
    )

    _transport: asyncio.Transport

    def __init__(self, front: Front, open_aiohttp: Callable[[], asyncio.Protocol]) -> None:
        self._front = front
        self._open_aiohttp = open_aiohttp
        self._phase = _CLOSED
        self._rest = bytearray()  # received, not consumed
        self._head_bytes = HEAD_END  # the newest head, which begins with no line end
        self._head: QueryHead | None = None  # what it says
        self._wanted_bytes = 0  # `_rest` is not worth a look before it has this many
        self._request: asyncio.Task[None] | None = None
        self._unsent_bytes = 0  # when the present deadline of BLOCKED was set
        self.deadline = NEVER

    @property
    def backlog_bytes(self) -> int:
        """What the client has sent and nobody has looked at yet."""
        return len(self._rest)

    @property
    def _peer(self) -> str:
        name = self._transport.get_extra_info("peername")
        return str(name[0]) if name else ""

    @property
    def is_blocked(self) -> bool:
        """Whether the client does not read its answers."""
        return self._phase is _BLOCKED

    @property
    def owes_answer(self) -> bool:
        """A write is done and its answer waits for the disk."""
        return self._phase is _ANSWERING and self._request is None

    @property
    def idle_since(self) -> float:
        """When its last request was answered; NEVER while it has one."""
        return self.deadline - IDLE_S_MAX if self._phase is _IDLE else NEVER

    @property
    def unread_bytes(self) -> int:
        """What the client has not taken yet of its answers."""
        return self._transport.get_write_buffer_size()

    # What the transport reports.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        front = self._front
        self._transport = cast(asyncio.Transport, transport)
        now = monotonic()
        if front.stops or not front.has_room(now):
            front.meter.connections_refused += 1
            self._refuse(Fault.OVERLOADED, "too many connections are open: try again in a second")
            self._transport.close()
            return
        front.clients.add(self)
        self._phase = _IDLE
        self.deadline = now + IDLE_S_MAX

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._phase = _CLOSED
        self._rest.clear()
        self._front.on_lost(self)
        if self._request is not None:
            self._request.cancel()

    def data_received(self, data: bytes) -> None:
        if self._phase is _IDLE:
            self._serve(data, monotonic())
            return
        if self._phase is _CLOSING:
            return
        rest = self._rest
        rest += data
        if self._phase not in _LISTENS:
            if len(rest) >= BACKLOG_BYTES_MAX:
                self._transport.pause_reading()
        elif len(rest) >= self._wanted_bytes:
            self._serve(self._take_rest(), monotonic())

    def pause_writing(self) -> None:
        if self._phase is _IDLE:
            self._phase = _BLOCKED
            self._transport.pause_reading()
            self._unsent_bytes = self._transport.get_write_buffer_size()
            self.deadline = monotonic() + WRITE_STALL_S_MAX
        self._front.on_slow(self)

    def resume_writing(self) -> None:
        self._front.unread.discard(self)
        if self._phase is _BLOCKED:
            self._continue()

    # What `Front` asks.

    def on_deadline(self, now: float) -> None:
        if self._phase is _IDLE:
            self._close()
        elif self._phase is _CLOSING:
            self.drop()
        elif self._phase is _BLOCKED:
            unsent = self._transport.get_write_buffer_size()
            if unsent > self._unsent_bytes - WRITE_BYTES_MIN:
                self.drop()
            self._unsent_bytes = unsent
            self.deadline = now + WRITE_STALL_S_MAX
        else:
            self._refuse(Fault.REQUEST_SLOW, "the request did not arrive in time: send it again")

    def stop_when_answered(self) -> None:
        if self._phase in _LISTENS:
            self._close()

    def drop(self) -> None:
        self._phase = _CLOSED
        self._transport.abort()

    # Reading.

    def _serve(self, data: bytes, now: float) -> None:
        """Answer the requests in `data`, as far as they are complete."""
        start, size = 0, len(data)
        heads = self._front.heads
        for _ in range(PIPELINE_TURN):
            if data.startswith(self._head_bytes, start):  # keep-alive clients repeat their head
                head, head_end = self._head, start + len(self._head_bytes)
            else:
                head_end = data.find(HEAD_END, start)
                if head_end < 0:
                    self._keep_head(data[start:], now)
                    return
                head_end += _HEAD_END_BYTES
                self._head_bytes = data[start:head_end]
                head = self._head = heads.read(self._head_bytes)
            if head is None:
                self._hand_over(data[start:])
                return
            length = head.content_length
            if length is not None:
                end = head_end + length
                body = data[head_end:end] if end <= size else None
            else:
                chunks = read_chunks(data, head_end)
                if chunks is None:
                    self._hand_over(data[start:])
                    return
                body, end = chunks
            if body is None:
                self._keep_body(data[start:], end - start, now)
                return
            self._phase = _IDLE
            now = self._answer(head, body, now)
            if end == size and self._phase is _IDLE:
                self.deadline = now + IDLE_S_MAX
                return
            start = end
            if self._phase is not _IDLE or self._transport.is_closing():
                self._rest += data[start:]
                return
        self._rest += data[start:]
        self._phase = _TURN
        self.deadline = NEVER
        self._transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._on_turn)

    def _keep_head(self, data: bytes, now: float) -> None:
        if not may_be_query(data):
            self._hand_over(data)
            return
        self._rest += data
        self._wanted_bytes = 0
        if self._phase is not _HEAD:  # a dripped head does not move its own deadline
            self._phase = _HEAD
            self.deadline = now + HEAD_S_MAX

    def _keep_body(self, data: bytes, wanted_bytes: int, now: float) -> None:
        self._rest += data
        self._wanted_bytes = wanted_bytes
        if self._phase is not _BODY:  # a dripped one, in chunks, does not move its own deadline
            self._phase = _BODY
            self.deadline = now + BODY_S_MAX

    def _take_rest(self) -> bytes:
        data = bytes(self._rest)
        self._rest.clear()
        return data

    def _on_turn(self) -> None:
        if self._phase is _TURN:
            self._continue()

    def _continue(self) -> None:
        """Go on with what the client has sent in the meantime."""
        if self._front.stops or self._transport.is_closing():
            self._close()
            return
        now = monotonic()
        self._phase = _IDLE
        self.deadline = now + IDLE_S_MAX
        self._wanted_bytes = 0
        self._transport.resume_reading()
        if self._rest:
            self._serve(self._take_rest(), now)

    def _hand_over(self, data: bytes) -> None:
        """Give the connection and all bytes not consumed yet to aiohttp, for good."""
        front, transport = self._front, self._transport
        self._phase = _CLOSED
        front.on_lost(self)
        front.meter.handed_over += 1
        protocol = self._open_aiohttp()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(data)

    # Answering.

    def _answer(self, head: QueryHead, body: bytes, started: float) -> float:
        """Answer at once, or begin a task that will; return the time."""
        front = self._front
        access = front.access
        try:
            if head.era is not access.era or access.is_expired(head.grant):
                front.admission.admit_head(head, self._peer)
            request = head.request(body, head.grant)
            answer = front.queries.answer_now(request)
        except Refused as exc:
            answer = exc.answer
        except Exception as exc:
            answer = answer_exception(exc)
        else:
            if answer is None:
                self._answer_later(head, request, started)
                return started
            if isinstance(answer, PendingAnswer):
                self._phase = _ANSWERING
                self.deadline = NEVER
                answer.deliver = partial(self._deliver, head, started)
                return started
        return self._send(head, answer, started, front.meter.now)

    def _answer_later(self, head: QueryHead, request: QueryRequest, started: float) -> None:
        self._phase = _ANSWERING
        self.deadline = NEVER
        task = asyncio.get_running_loop().create_task(
            self._wait_answer(head, request, started), name=f"query:{request.database}"
        )
        self._request = task
        requests = self._front.requests
        requests.add(task)
        task.add_done_callback(partial(self._on_request_done, head))

    def _on_request_done(self, head: QueryHead, task: asyncio.Task[None]) -> None:
        self._front.requests.discard(task)
        if task.cancelled() and self._phase is _ANSWERING:  # not by us: the node stops
            message = "the node gave this request up; whether it was done is not known"
            answer = refuse(Fault.OUTCOME_UNKNOWN, message)
            if head.dialect is _BINDING:
                answer = to_lost_answer(answer)
            self._refuse_with(answer)

    def _deliver(self, head: QueryHead, started: float, answer: Answer) -> None:
        """Send an answer that was on its way, and go on, unless the connection has ended."""
        if self._phase is not _ANSWERING:
            return
        if self._transport.is_closing():  # hung up just now; `connection_lost` is on its way
            self._close()
            return
        self._phase = _IDLE
        self._send(head, answer, started, self._front.meter.later)
        if self._phase is _IDLE:
            self._continue()

    async def _wait_answer(self, head: QueryHead, request: QueryRequest, started: float) -> None:
        front = self._front
        try:
            answer = await front.queries.answer(request)
        except Exception as exc:
            answer = answer_exception(exc)
        self._request = None
        self._deliver(head, started, answer)

    def _send(self, head: QueryHead, answer: Answer, started: float, histogram: Histogram) -> float:
        front = self._front
        if head.dialect is _BINDING:
            answer = to_binding_answer(answer, head.wishes)
        stays = head.keep_alive and not front.stops and answer.status != _TOO_OFTEN
        self._transport.write(render_answer(answer, head.alias, front.date, keep_alive=stays))
        if not stays:
            self._close()
        front.meter.answers[answer.status] += 1
        now = monotonic()
        histogram.add(now - started)
        return now

    def _refuse(self, fault: Fault, message: str) -> None:
        """Write an error and close, in a way that lets the client read it first."""
        self._refuse_with(refuse(fault, message))

    def _refuse_with(self, answer: Answer) -> None:
        self._phase = _CLOSING
        self.deadline = monotonic() + LINGER_S_MAX
        self._front.meter.answers[answer.status] += 1
        transport = self._transport
        if transport.is_closing():
            return
        transport.write(render_answer(answer, _NO_ALIAS, self._front.date, keep_alive=False))
        if transport.can_write_eof():
            # Closing with unread bytes in the socket would send a reset, and the client might
            # never see the answer: send the end, and throw away what still comes.
            transport.write_eof()
            transport.resume_reading()
        else:
            transport.close()

    def _close(self) -> None:
        """Close once everything written is sent; nothing more is read."""
        self._phase = _CLOSING
        self.deadline = monotonic() + WRITE_STALL_S_MAX
        self._transport.close()
