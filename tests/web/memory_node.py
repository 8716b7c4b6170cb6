"""A node without a disk: real SQLite in memory behind the seam that HTTP talks to.

It is no replica and no log; it decides like a primary, counts commits as bookmarks, and has
levers for what a test must hold still (`hold`, `busy`).
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import apsw
import orjson

from d1server.access.grants import Access
from d1server.query import AdminRequest, Answer, QueryRequest
from d1server.web.errors import Fault, refuse
from proto.api import Shape
from proto.tokens import Bookmark, CommitToken


class MemoryNode:
    """One node with one database, `shop`."""

    def __init__(self) -> None:
        self.connection = apsw.Connection(":memory:")
        self.access = Access()
        self.commits = 0
        self._changes = 0
        self.seen: list[QueryRequest] = []
        self.administered: list[AdminRequest] = []
        self.reasons: list[str] = []
        self.cancelled = 0
        self.waiting = 0
        self._release = asyncio.Event()
        self._release.set()
        self.answers_now = True

    @property
    def queries(self) -> "MemoryNode":
        return self

    def close(self) -> None:
        self.connection.close()

    # QueryService

    def answer_now(self, request: QueryRequest) -> Answer | None:
        if not self.answers_now or not self._release.is_set():
            return None
        return self._run(request)

    async def answer(self, request: QueryRequest) -> Answer:
        self.waiting += 1
        try:
            await self._release.wait()
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
        return self._run(request)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no query finish while the block runs."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def hold(self) -> None:
        self._release.clear()

    def release(self) -> None:
        self._release.set()

    def _run(self, request: QueryRequest) -> Answer:
        self.seen.append(request)
        if request.database != "shop":
            return refuse(Fault.DATABASE_UNKNOWN, f"no database is named {request.database!r}")
        if request.statements[0].sql == "BUG":
            raise ZeroDivisionError("a bug, on purpose")
        if request.statements[0].sql == "AWAY":
            return refuse(Fault.PRIMARY_AWAY, "the primary is away: try again in a second")
        results = []
        for statement in request.statements:
            try:
                cursor = self.connection.execute(statement.sql, statement.params)
                results.append(_shaped(cursor, request.shape))
            except apsw.Error as exc:
                return refuse(Fault.SQL_REFUSED, f"{exc}: SQLITE_ERROR", self._bookmark())
        if self.connection.total_changes() > self._changes:
            self._changes = self.connection.total_changes()
            self.commits += 1
        body = orjson.dumps({"result": results, "success": True, "errors": [], "messages": []})
        return Answer(200, body, self._bookmark())

    def _bookmark(self) -> str:
        return Bookmark(CommitToken(1, self.commits), bytes(16)).text

    # NodeView

    def status(self) -> dict[str, object]:
        database = {"head": self._bookmark(), "lag_commits": 0, "lag_bytes": 0, "lag_ms": 1.5}
        return {"role": "primary", "region": "ENAM", "epoch": 1, "databases": {"shop": database}}

    def readiness(self) -> tuple[bool, list[str]]:
        return not self.reasons, self.reasons

    transfers = None

    async def administer(self, request: AdminRequest) -> Answer:
        self.administered.append(request)
        shown = {"op": request.op, "name": request.database, "bytes": len(request.body)}
        return Answer(200, orjson.dumps({"result": shown, "success": True}), None)


def _shaped(cursor: apsw.Cursor, shape: Shape) -> dict[str, object]:
    # A cursor of a statement without columns, or of one that is done, has no description.
    try:
        columns = [column[0] for column in cursor.get_description()]
    except apsw.ExecutionCompleteError:
        columns = []
    rows = cursor.fetchall()
    if shape is Shape.ARRAYS:
        return {"results": {"columns": columns, "rows": rows}, "success": True, "meta": {}}
    objects = [dict(zip(columns, row, strict=True)) for row in rows]
    return {"results": objects, "success": True, "meta": {}}
