"""One database of a node, addressed by its name."""

from collections.abc import Sequence
from urllib.parse import quote

from d1client.errors import D1Refused
from d1client.results import D1ExecResult, D1Result
from d1client.session import FIRST_UNCONSTRAINED, D1Session, QueryChannel
from d1client.statement import D1PreparedStatement
from d1client.transport import Transport

ON_TIMEOUT = frozenset({"primary", "stale", "error"})


class D1Database:
    """A database without a session: every query is answered by the primary.

    With a session (`with_session`) reads may be answered by the nearest replica.
    """

    def __init__(self, transport: Transport, name: str) -> None:
        self.name = name
        self._transport = transport
        self._path = f"/db/{quote(name, safe='')}"
        self._channel = QueryChannel(transport, self._path, None)

    def prepare(self, sql: str) -> D1PreparedStatement:
        """Return a statement that the primary runs."""
        return D1PreparedStatement(self._channel, sql)

    async def batch(
        self, statements: Sequence[D1PreparedStatement], *, idempotency_key: str | None = None
    ) -> list[D1Result]:
        """Run the statements as one transaction: all of them, or none."""
        return await self._channel.run_batch(statements, idempotency_key=idempotency_key)

    async def exec(self, text: str) -> D1ExecResult:
        """Run the statements of `text` as one transaction, without parameters.

        Unlike D1's, a statement may span lines: the server splits the text as SQLite does.
        """
        results = await self._channel.run_text(text)
        return D1ExecResult(len(results), sum(result.meta.duration for result in results))

    def with_session(
        self,
        constraint_or_bookmark: str | None = FIRST_UNCONSTRAINED,
        *,
        max_wait_s: float | None = None,
        on_timeout: str | None = None,
    ) -> D1Session:
        """Begin a session: "first-primary", "first-unconstrained" or an earlier bookmark.

        `max_wait_s` bounds how long a replica may wait for the session's bookmark, and
        `on_timeout` ("primary", "stale" or "error") says what happens then.
        """
        headers: dict[str, str] = {}
        if max_wait_s is not None:
            headers["x-d1-max-wait-ms"] = str(round(max_wait_s * 1000))
        if on_timeout is not None:
            if on_timeout not in ON_TIMEOUT:
                raise D1Refused(f"on_timeout is {on_timeout!r}, not one of {sorted(ON_TIMEOUT)}")
            headers["x-d1-on-timeout"] = on_timeout
        token = (constraint_or_bookmark or "").strip() or FIRST_UNCONSTRAINED
        return D1Session(QueryChannel(self._transport, self._path, token, headers=headers))
