"""What all connections of one listening socket share, and who watches their deadlines.

Owned by `serving` (`serve.py`), on the event loop.
"""

import asyncio
from heapq import nsmallest
from typing import Final, Protocol

from d1server.metrics import HttpMeter
from d1server.query import QueryService
from d1server.web.admission import Admission
from d1server.web.body import BodyRoom
from d1server.web.head import HeadCache
from d1server.web.limits import IDLE_S_MIN, HttpLimits
from d1server.web.response import date_line

# A flood of connections pays a look at all of them seldom: it makes room for many, or waits.
_ROOM_MADE: Final = 64
_LOOK_AGAIN_S: Final = 0.1


class Client(Protocol):
    """An open connection, as the sweep and the stop see it."""

    @property
    def deadline(self) -> float:
        """When `on_deadline` is due, on the monotonic clock."""

    @property
    def owes_answer(self) -> bool:
        """A request of it is decided, and its answer on the way, without a task."""

    @property
    def idle_since(self) -> float:
        """When its last request was answered, on the monotonic clock; NEVER while it has one."""

    @property
    def unread_bytes(self) -> int:
        """What it has not taken yet of its answers, beyond what the socket holds."""

    def on_deadline(self, now: float) -> None:
        """Give up on the client, or set a later deadline because it made progress."""

    def stop_when_answered(self) -> None:
        """Close now if nothing is owed, else after the answer in the making."""

    def drop(self) -> None:
        """Close at once, whatever is owed."""


class Front:
    """The state that the connections of one socket have in common.

    Invariant: `clients` holds every open connection exactly once, also one that was
    handed to aiohttp, so `len(clients) <= limits.connections_max`.
    """

    def __init__(
        self, queries: QueryService, admission: Admission, limits: HttpLimits, meter: HttpMeter
    ) -> None:
        self.address = ("", 0)  # host and port, once bound
        self.queries = queries
        self.admission = admission
        self.access = admission.access
        self.limits = limits
        self.meter = meter
        self.heads = HeadCache()
        self.room = BodyRoom(limits.bodies_bytes_max)
        self.date = date_line()  # of this second; `sweep` renews it
        self.clients: set[Client] = set()
        self.unread: set[Client] = set()  # those that are slow to take their answers
        self.requests: set[asyncio.Task[None]] = set()  # those that could not be answered at once
        self._look_for_room_at = 0.0
        self.stops = False  # set once, by `stop`: every connection closes after what it owes

    def sweep(self, now: float) -> None:
        """Renew the date and tell the clients whose deadline has passed.

        One look at all of them each second is cheaper than a timer set and cancelled per request.
        """
        self.date = date_line()
        for client in [client for client in self.clients if client.deadline <= now]:
            self.meter.timeouts += 1
            client.on_deadline(now)
        self._bound_unread()

    def on_slow(self, client: Client) -> None:
        """A client does not take its answer as fast as it comes."""
        self.unread.add(client)
        self._bound_unread()

    def on_lost(self, client: Client) -> None:
        """A connection has ended, or is no longer this client's."""
        self.clients.discard(client)
        self.unread.discard(client)

    def has_room(self, now: float) -> bool:
        """Whether one more connection may be open; those that were idle longest make room."""
        if len(self.clients) < self.limits.connections_max:
            return True
        if now >= self._look_for_room_at:
            self._look_for_room_at = now + _LOOK_AGAIN_S
            idle = [one for one in self.clients if one.idle_since <= now - IDLE_S_MIN]
            for client in nsmallest(_ROOM_MADE, idle, key=lambda one: one.idle_since):
                self.meter.timeouts += 1
                client.drop()
                self.on_lost(client)
            if idle:
                self._look_for_room_at = now
        return len(self.clients) < self.limits.connections_max

    def _bound_unread(self) -> None:
        """Drop those that leave the most, until all together leave no more than they may.

        Deadlines alone would let each of thousands that take a little now and then keep a large
        answer in memory.
        """
        left = sum([client.unread_bytes for client in self.unread])
        if left <= self.limits.unread_bytes_max:
            return
        for client in sorted(self.unread, key=lambda one: one.unread_bytes, reverse=True):
            left -= client.unread_bytes
            self.meter.dropped_unread += 1
            client.drop()
            self.unread.discard(client)
            if left <= self.limits.unread_bytes_max:
                return

    def stop(self) -> None:
        """Let every connection finish what it owes, then close."""
        self.stops = True
        for client in list(self.clients):
            client.stop_when_answered()
