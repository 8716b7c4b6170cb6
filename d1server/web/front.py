"""What all connections of one listening socket share, and who watches their deadlines.

Owned by `serving` (`serve.py`), on the event loop.
"""

import asyncio
from typing import Protocol

from d1server.metrics import HttpMeter
from d1server.query import QueryService
from d1server.web.admission import Admission
from d1server.web.body import BodyRoom
from d1server.web.head import HeadCache
from d1server.web.limits import HttpLimits
from d1server.web.response import date_line


class Client(Protocol):
    """An open connection, as the sweep and the stop see it."""

    @property
    def deadline(self) -> float:
        """When `on_deadline` is due, on the monotonic clock."""

    @property
    def owes_answer(self) -> bool:
        """A request of it is decided, and its answer on the way, without a task."""

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
        self.requests: set[asyncio.Task[None]] = set()  # those that could not be answered at once
        self.stops = False  # set once, by `stop`: every connection closes after what it owes

    def sweep(self, now: float) -> None:
        """Renew the date and tell the clients whose deadline has passed.

        One look at all of them each second is cheaper than a timer set and cancelled per request.
        """
        self.date = date_line()
        for client in [client for client in self.clients if client.deadline <= now]:
            self.meter.timeouts += 1
            client.on_deadline(now)

    def stop(self) -> None:
        """Let every connection finish what it owes, then close."""
        self.stops = True
        for client in list(self.clients):
            client.stop_when_answered()
