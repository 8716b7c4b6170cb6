"""The way in: a client of one node, which names the databases."""

from __future__ import annotations

import os
import ssl
from types import TracebackType

from d1client.database import D1Database
from d1client.retry import RetryPolicy
from d1client.transport import Transport

# Longer than a node's own limits (5 s of waiting, 30 s of SQL), so that its answer comes first.
TIMEOUT_S = 40.0
TOKEN_VARIABLE = "D1SERVER_TOKEN"


class D1Client:
    """A client of one node; an asynchronous context manager that owns its connections."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        tls_ca: str | os.PathLike[str] | None = None,
        retry: RetryPolicy | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Nothing is sent yet. Raises `OSError` if `tls_ca` cannot be read."""
        self._transport = Transport(
            url,
            policy=retry or RetryPolicy(),
            timeout_s=timeout_s,
            token=token if token is not None else os.environ.get(TOKEN_VARIABLE),
            tls=None if tls_ca is None else ssl.create_default_context(cafile=tls_ca),
        )

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
    url: str,
    *,
    token: str | None = None,
    tls_ca: str | os.PathLike[str] | None = None,
    retry: RetryPolicy | None = None,
    timeout_s: float = TIMEOUT_S,
) -> D1Client:
    """Return a client of the node at `url`, such as "http://127.0.0.1:8787".

    `token` is an access token, else the one in D1SERVER_TOKEN if that is set. `tls_ca` names the
    file of the CA that the node's certificate is of; without it, the system's CAs are asked.
    Connections are made by the first query: use it with `async with`, or call `close`.
    """
    return D1Client(url, token=token, tls_ca=tls_ca, retry=retry, timeout_s=timeout_s)
