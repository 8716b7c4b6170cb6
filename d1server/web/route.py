"""A route of the aiohttp application, as a value."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Route(NamedTuple):
    """Served with and without a slash at the end of its path: some clients put one there."""

    method: str
    path: str
    handler: Handler
    body_bytes_max: int | None = None  # None: what a query may have
