"""The way in: a client of one node, which names the databases."""

from __future__ import annotations

from types import TracebackType

from d1client.database import D1Database
from d1client.retry import RetryPolicy
from d1client.transport import Transport

# Longer than a node's own limits (5 s of waiting, 30 s of SQL), so that its answer comes first.
TIMEOUT_S = 40.0


class D1Client:
    """A client of one node; an asynchronous context manager that owns its connections."""

    def __init__(
        self, url: str, *, retry: RetryPolicy | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._transport = Transport(url, policy=retry or RetryPolicy(), timeout_s=timeout_s)

    def database(self, name: str) -> D1Database:
        """Return the database called `name`; the server is not asked."""
        return D1Database(self._transport, name)

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def __aenter__(self) -> D1Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def connect(
    url: str, *, retry: RetryPolicy | None = None, timeout_s: float = TIMEOUT_S
) -> D1Client:
    """Return a client of the node at `url`, such as "http://127.0.0.1:8787".

    Connections are made by the first query: use it with `async with`, or call `close`.
    """
    return D1Client(url, retry=retry, timeout_s=timeout_s)
