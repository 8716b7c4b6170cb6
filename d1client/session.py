"""Sessions: queries in which each one sees what the ones before it saw and wrote.

The session keeps the largest bookmark that any answer carried and sends it with every
query; a node that has not come so far yet waits, or passes the query to the primary.
Invariant: `_token` never goes back, whatever order answers arrive in. Bookmarks have a
fixed width in lower-case hex, so the order of their texts is their age.
"""

from collections.abc import Sequence

import msgspec

from d1client.readonly import is_surely_read
from d1client.results import D1Result, RawResult, decode_rows, decode_tables
from d1client.retry import Outcome
from d1client.statement import D1PreparedStatement
from d1client.transport import BOOKMARK_HEADER, IDEMPOTENCY_HEADER, Call, Transport

FIRST_PRIMARY = "first-primary"
FIRST_UNCONSTRAINED = "first-unconstrained"
CONSTRAINTS = frozenset({FIRST_PRIMARY, FIRST_UNCONSTRAINED, "first-unconditional"})


class QueryChannel:
    """Runs statements on one database and follows the bookmarks; no public face of its own.

    `token` is what is sent as the bookmark: None (no session: always the primary), a
    constraint for the first query, or the largest bookmark seen.
    """

    def __init__(
        self,
        transport: Transport,
        path: str,
        token: str | None,
        *,
        headers: dict[str, str] | None = None,
    ) -> None:
        self._transport = transport
        self._path = path
        self._token = token
        self._headers = headers or {}

    @property
    def bookmark(self) -> str | None:
        """The largest bookmark seen, if there is one yet."""
        return None if self._token in CONSTRAINTS else self._token

    async def run_rows(
        self,
        statement: D1PreparedStatement,
        *,
        repeatable: bool = False,
        idempotency_key: str | None = None,
    ) -> D1Result:
        """Run one statement; rows as objects."""
        body = _encode_one(statement)
        answer = await self._send("query", body, repeatable=repeatable, key=idempotency_key)
        return decode_rows(answer)[0]

    async def run_table(
        self, statement: D1PreparedStatement, *, repeatable: bool = False
    ) -> RawResult:
        """Run one statement; rows as arrays."""
        answer = await self._send("raw", _encode_one(statement), repeatable=repeatable, key=None)
        return decode_tables(answer)[0]

    async def run_batch(
        self, statements: Sequence[D1PreparedStatement], *, idempotency_key: str | None
    ) -> list[D1Result]:
        """Run statements as one transaction."""
        batch = [{"sql": statement.sql, "params": statement.params} for statement in statements]
        repeatable = all(is_surely_read(statement.sql) for statement in statements)
        body = msgspec.json.encode({"batch": batch})
        return decode_rows(
            await self._send("query", body, repeatable=repeatable, key=idempotency_key)
        )

    async def run_text(self, text: str) -> list[D1Result]:
        """Run the statements of `text` as one transaction; the server splits it."""
        body = msgspec.json.encode({"sql": text})
        return decode_rows(await self._send("query", body, repeatable=False, key=None))

    async def _send(self, verb: str, body: bytes, *, repeatable: bool, key: str | None) -> bytes:
        headers = dict(self._headers)
        if self._token is not None:
            headers[BOOKMARK_HEADER] = self._token
        if key is not None:
            headers[IDEMPOTENCY_HEADER] = key
        reply = await self._transport.call(
            Call(
                path=f"{self._path}/{verb}",
                body=body,
                headers=headers,
                repeatable=repeatable or key is not None,
            )
        )
        self._absorb(reply.bookmark)  # also of an error: its answer saw that state, too
        if reply.outcome is not Outcome.DONE:
            raise reply.as_error()
        return reply.body

    def _absorb(self, bookmark: str | None) -> None:
        if self._token is None or not bookmark:
            return
        if self._token in CONSTRAINTS or bookmark > self._token:
            self._token = bookmark


class D1Session:
    """A database as one session sees it: `prepare`, `batch`, `get_bookmark`."""

    def __init__(self, channel: QueryChannel) -> None:
        self._channel = channel

    def prepare(self, sql: str) -> D1PreparedStatement:
        """Return a statement that runs in this session."""
        return D1PreparedStatement(self._channel, sql)

    async def batch(
        self, statements: Sequence[D1PreparedStatement], *, idempotency_key: str | None = None
    ) -> list[D1Result]:
        """Run the statements as one transaction: all of them, or none."""
        return await self._channel.run_batch(statements, idempotency_key=idempotency_key)

    def get_bookmark(self) -> str | None:
        """Return the largest bookmark that this session has seen; None before the first one.

        Hand it to another process, and `with_session(bookmark)` there continues from here.
        """
        return self._channel.bookmark


def _encode_one(statement: D1PreparedStatement) -> bytes:
    return msgspec.json.encode({"sql": statement.sql, "params": statement.params})
