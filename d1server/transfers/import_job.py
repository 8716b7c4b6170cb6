"""One import: its state, as the client is told, and as it is kept in `node.db`."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

import orjson

from d1server.nodedb import Row
from d1server.query import Answer
from d1server.transfers.bodies import job_answer
from d1server.transfers.jobs import Status
from engine.errors import StatementRefused
from engine.load import SqlLoad
from primary.committer import Committer
from primary.idempotency import IdempotencyKey
from proto.api import ServedBy, StatementResult

INTERRUPTED: Final = (
    "The import was interrupted because the server stopped; nothing of it was applied. "
    "Start it again: the file need not be sent again."
)

SAVE: Final = "INSERT OR REPLACE INTO imports VALUES (?, ?, ?, ?, ?, ?, ?)"
"""With the database's uuid and `Import.row`."""
FIND: Final = "SELECT id, filename, bookmark, status, error, result FROM imports WHERE database = ?"
"""For `recall`."""
FORGET: Final = "DELETE FROM imports WHERE database = ?"


@dataclass(slots=True, eq=False)
class Import:
    """See the module's head."""

    id: str
    filename: str
    bookmark: str  # of the database when it was asked for
    status: Status = Status.ACTIVE
    error: str = ""
    hint: str = ""
    result: dict[str, object] | None = None  # once COMPLETE
    is_news: bool = False  # COMPLETE, but nobody was told: the server stopped before
    queries_done: int = 0
    bytes_total: int = 0
    source: SqlLoad | None = None  # None: of an earlier process
    committer: Committer | None = None  # while it has begun and not ended
    task: "asyncio.Task[None] | None" = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def key(self) -> IdempotencyKey:
        """Under which its answer is stored in the database itself."""
        return IdempotencyKey.of(f"d1-import-{self.id}", "import", self.filename.encode())

    def encoded(self, done: StatementResult, served: ServedBy) -> bytes:
        """What is known of the result within the transaction."""
        queries = self.source.statements if self.source is not None else 0
        meta = {
            "served_by": served.node,
            "served_by_region": served.region,
            "served_by_primary": served.is_primary,
            "duration": done.duration_ms,
            "changes": done.changes,
            "last_row_id": done.last_row_id,
            "changed_db": done.changed_db,
            "rows_read": done.rows_read,
            "rows_written": done.rows_written,
        }
        return orjson.dumps({"num_queries": queries, "meta": meta})

    def done(self, encoded: bytes, bookmark: str, size_after: int) -> None:
        """It was committed."""
        result = orjson.loads(encoded)
        self.queries_done = result["num_queries"]
        result["final_bookmark"] = bookmark
        result["meta"]["size_after"] = size_after
        self.result = result
        self.status = Status.COMPLETE

    def refused(self, exc: StatementRefused) -> None:
        """A statement was refused: which one, and why."""
        self.error = exc.message
        place = f"line {self.source.line}" if self.source is not None else ""
        if exc.statement is not None:
            place = f"statement {exc.statement + 1}, {place}"
        self.hint = f"{place}: {exc.hint}" if exc.hint else place

    def fail(self, error: str) -> None:
        """It ended without a commit."""
        self.status = Status.FAILED
        self.error = self.error or error

    def told(self) -> Answer:
        """The state, as D1's clients want it."""
        source = self.source
        queries = source.statements if source is not None else self.queries_done
        messages = [f"Processed {queries} queries." if queries else "Starting import..."]
        progress = {
            "queries": queries,
            "bytes_done": source.bytes_read if source is not None else 0,
            "bytes_total": self.bytes_total,
        }
        if self.hint:
            messages.append(self.hint)
        return job_answer(
            "import",
            self.status.value,
            self.bookmark,
            messages=messages,
            error=self.error,
            result=self.result,
            more={"filename": self.filename, "progress": progress},
        )

    def row(self) -> Row:
        """What is kept of it."""
        result = orjson.dumps(self.result).decode()
        return (self.id, self.filename, self.bookmark, self.status.value, self.error, result)


def recall(row: Row) -> Import:
    """The import that was kept as this row."""
    number, filename, bookmark, status, error, result = row
    job = Import(str(number), str(filename), str(bookmark), Status(status), str(error))
    known = orjson.loads(str(result))
    if known is not None:
        job.result, job.queries_done = known, known["num_queries"]
    if job.status is not Status.ACTIVE:
        job.ended.set()
    return job
