"""A database with one writer and one reader, used as the node uses them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.limits import SqlLimits
from engine.sandbox import Sandbox
from engine.sqltext import split
from engine.statements import Planner, run
from proto.api import SqlValue, StatementResult

HIDDEN_TABLE = "CREATE TABLE _d1_secret(key TEXT PRIMARY KEY, value)"


class SqlSession:
    """Runs texts as requests: one transaction each, all pieces of a text in order."""

    def __init__(self, folder: Path, limits: SqlLimits) -> None:
        self.folder = folder
        self.path = folder / "db.sqlite"
        self.writer = Sandbox.open_writer(self.path, limits)
        self.writer.execute_internal(HIDDEN_TABLE)
        self.writer.execute_internal("INSERT INTO _d1_secret VALUES ('k', 'hidden')")
        self.reader = Sandbox.open_reader(self.path, limits)
        self.writes = Planner(self.writer, plans_max=100)
        self.reads = Planner(self.reader, plans_max=100)

    def write(self, sql: str, *params: SqlValue, budget_s: float = 5.0) -> list[StatementResult]:
        """Run a text on the writer in one transaction; on any error nothing of it remains."""
        sandbox = self.writer
        with sandbox.limit_time(budget_s):
            sandbox.execute_internal("BEGIN IMMEDIATE")
            try:
                results = [run(sandbox, self.writes.plan(piece), params) for piece in split(sql)]
                sandbox.execute_internal("COMMIT")
            except BaseException:
                if sandbox.connection.in_transaction:
                    sandbox.execute_internal("ROLLBACK")
                raise
        return results

    def read(self, sql: str, *params: SqlValue, budget_s: float = 5.0) -> StatementResult:
        """Run one statement on the reader, without a transaction of its own."""
        with self.reader.limit_time(budget_s):
            return run(self.reader, self.reads.plan(sql), params)

    def rows(self, sql: str, *params: SqlValue) -> list[tuple[SqlValue, ...]]:
        return self.read(sql, *params).rows

    def hidden(self) -> list[tuple[SqlValue, ...]]:
        """What the server's own table holds."""
        return self.writer.execute_internal("SELECT * FROM _d1_secret ORDER BY key")

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


@contextmanager
def open_session(folder: Path, limits: SqlLimits | None = None) -> Iterator[SqlSession]:
    """Open a new database in `folder`."""
    session = SqlSession(folder, limits or SqlLimits())
    try:
        yield session
    finally:
        session.close()
