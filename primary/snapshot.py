"""A long snapshot of an open database, at a bookmark that is known exactly."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from engine.transaction import SqlConnection
from primary.database import OpenPrimary
from primary.errors import Overloaded
from proto.tokens import Bookmark

_TRIES_MAX: Final = 1000
_TRY_AGAIN_S: Final = 0.01


@asynccontextmanager
async def snapshot_at(opened: OpenPrimary) -> AsyncIterator[tuple[SqlConnection, Bookmark]]:
    """A reader in a transaction that sees this very commit, which is durable.

    Raises `Overloaded` if commits on threads leave no gap to begin in; `DatabaseClosed`,
    `WriteUnknown`.
    """
    async with opened.reads.snapshot() as reader:
        try:
            seen = await _begun(opened, reader)
            await opened.committer.wait_durable()
            yield reader, seen
        finally:
            if reader.sandbox.connection.in_transaction:
                reader.sandbox.execute_internal("ROLLBACK")


async def _begun(opened: OpenPrimary, reader: SqlConnection) -> Bookmark:
    """Begin to read. A commit on a thread may become visible meanwhile: then begin again."""
    sandbox, committer = reader.sandbox, opened.committer
    for _ in range(_TRIES_MAX):
        before = committer.visible
        if before is not None:
            sandbox.execute_internal("BEGIN")
            sandbox.execute_internal("SELECT 1 FROM sqlite_schema LIMIT 1")
            if committer.visible == before:
                return before
            sandbox.execute_internal("ROLLBACK")
        await asyncio.sleep(_TRY_AGAIN_S)
    raise Overloaded("D1 DB is overloaded. Requests queued for too long.")
