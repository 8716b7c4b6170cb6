"""A file of SQL as one transaction, however large it is.

The statements are read, run and forgotten one by one. All of them pass the authorizer and the
limits of a request, but for the length of a statement: a row of two megabytes is four as text.
BEGIN and COMMIT are passed over, the file is one transaction anyway: so the dumps of SQLite's
own shell load as they are.

Foreign keys hold as in a request. A dump may, though, fill a table before the one that it
refers to exists, which SQLite refuses even where keys are deferred: such a file is run again
from its beginning without keys, and all of them are checked before the commit.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from engine.counts import RowCounts
from engine.errors import DeadlineExceeded, StatementRefused
from engine.sandbox import Sandbox
from engine.sqlfile import SqlFileInvalid, read_statements
from engine.sqltext import head_of_insert, is_transaction
from engine.statements import row_counts
from proto.api import NO_STATEMENTS, StatementResult

STATEMENT_BYTES_MAX: Final = 8 * 1024 * 1024
_INSERTS_KEPT_MAX: Final = 1000
_HEAD_CHARS_MAX: Final = 4096  # a list of columns may else have megabytes of blanks
_NO_HEAD: Final = "\0"  # no statement begins so

_PARENT_MISSING: Final = ("no such table: main.", "foreign key mismatch")
_KEY_VIOLATED: Final = "FOREIGN KEY constraint failed: SQLITE_CONSTRAINT"


@dataclass(slots=True)
class SqlLoad:
    """One file on its way into a database. The thread counts; anyone may read, and `stop`."""

    path: Path
    statements: int = 0
    bytes_read: int = 0
    line: int = 0  # where the statement stands that runs now, or failed
    is_stopped: bool = False

    def stop(self) -> None:
        """Have it given up before the next statement; interrupt the sandbox, too."""
        self.is_stopped = True


def load(
    sandbox: Sandbox,
    source: SqlLoad,
    *,
    budget_s: float,
    before_commit: Callable[[StatementResult], None],
) -> StatementResult:
    """Run the file and commit; blocking. On any error nothing of it remains.

    Raises `StatementRefused`, `DeadlineExceeded`, `BudgetExceeded`, `DatabaseDamaged`, `OSError`.
    """
    with _long_statements(sandbox):
        try:
            return _attempt(sandbox, source, budget_s, before_commit, has_keys=True)
        except StatementRefused as exc:
            if not exc.message.startswith(_PARENT_MISSING):
                raise
            refused = exc
        try:
            return _attempt(sandbox, source, budget_s, before_commit, has_keys=False)
        except StatementRefused as exc:
            # A table that never came is better told by the statement that missed it.
            raise refused if exc.message == _KEY_VIOLATED else exc from None


def _attempt(
    sandbox: Sandbox,
    source: SqlLoad,
    budget_s: float,
    before_commit: Callable[[StatementResult], None],
    *,
    has_keys: bool,
) -> StatementResult:
    source.statements = source.bytes_read = 0
    with sandbox.limit_time(budget_s), _foreign_keys(sandbox, is_on=has_keys):
        sandbox.execute_internal("BEGIN IMMEDIATE")
        try:
            result = _run_all(sandbox, source)
            if not has_keys:
                _check_keys(sandbox)
            if source.is_stopped:
                raise DeadlineExceeded("the import was stopped")
            before_commit(result)
            sandbox.execute_internal("COMMIT")
        except BaseException:
            if sandbox.connection.in_transaction:
                sandbox.execute_internal("ROLLBACK")
            raise
    return result


def _run_all(sandbox: Sandbox, source: SqlLoad) -> StatementResult:
    connection = sandbox.connection
    changes_before, started = connection.total_changes(), time.perf_counter()
    counting = LoadCounts(sandbox)
    try:
        with source.path.open("rb") as file:
            for statement in read_statements(file, lambda count: _count_bytes(source, count)):
                if source.is_stopped:
                    raise DeadlineExceeded("the import was stopped")
                source.line = statement.line
                if not is_transaction(statement.sql):
                    sandbox.check_time()
                    counting.run(statement.sql)
                    source.statements += 1
    except SqlFileInvalid as exc:
        source.line = exc.line
        raise StatementRefused(str(exc)) from exc
    except StatementRefused as exc:
        exc.statement = source.statements
        raise
    if not source.statements:
        raise StatementRefused(NO_STATEMENTS)
    counting.settle()
    changes = connection.total_changes() - changes_before
    return StatementResult(
        (),
        [],
        changes,
        connection.last_insert_rowid(),
        counting.read,
        counting.written,
        (time.perf_counter() - started) * 1000.0,
        True,
    )


class LoadCounts:
    """Runs the statements of a file and counts their rows, as `run` of `engine/statements.py`.

    Nearly all of them are INSERTs into a few tables, many in a row of the same form: those are
    looked at once, and their changes are counted when another statement comes.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        """Nothing is read or written yet."""
        self.read = 0
        self.written = 0
        self._sandbox = sandbox
        self._of_inserts: dict[str, RowCounts] = {}  # by the text in front of the values
        self._head = _NO_HEAD  # of the INSERTs that are not yet counted
        self._per_change = (0, 0)
        self._changes_before = 0

    def run(self, sql: str) -> None:
        """Run one statement. Raises what `Sandbox.run_once` raises."""
        if sql.startswith(self._head):
            self._sandbox.run_once(sql)
            return
        self.settle()
        head = head_of_insert(sql)
        if head is not None and len(head) > _HEAD_CHARS_MAX:
            head = None
        counts = self._of_inserts.get(head) if head is not None else None
        if counts is None:
            counts = row_counts(self._sandbox, sql)
            if head is None or len(self._of_inserts) >= _INSERTS_KEPT_MAX:
                self._of_inserts.clear()  # it may be another schema now
            if head is not None:
                self._of_inserts[head] = counts
        if head is None or counts.per_change is None:
            self._run_one(sql, counts)
        else:
            self._head, self._per_change = head, counts.per_change
            self._changes_before = self._sandbox.connection.total_changes()
            self._sandbox.run_once(sql)

    def settle(self) -> None:
        """Count what has been run."""
        if self._head != _NO_HEAD:
            changes = self._sandbox.connection.total_changes() - self._changes_before
            self.read += changes * self._per_change[0]
            self.written += changes * self._per_change[1]
            self._head = _NO_HEAD

    def _run_one(self, sql: str, counts: RowCounts) -> None:
        sandbox, connection = self._sandbox, self._sandbox.connection
        before, row_id = connection.total_changes(), connection.last_insert_rowid()
        if counts.is_measured:
            sandbox.start_counting()
        try:
            rows = sandbox.run_once(sql)
        finally:
            if counts.is_measured:
                sandbox.stop_counting()
        changes = connection.total_changes() - before
        own = min(connection.changes(), changes)
        counters = sandbox.counters if counts.is_measured else None
        has_inserted = connection.last_insert_rowid() != row_id
        self.read += counts.read(rows, own, counters)
        self.written += counts.written(own, changes - own, counters, has_inserted=has_inserted)
        if sandbox.has_nested_views:
            sandbox.check_views()


def _count_bytes(source: SqlLoad, count: int) -> None:
    source.bytes_read += count


def _check_keys(sandbox: Sandbox) -> None:
    cursor = sandbox.connection.cursor()
    try:
        if next(cursor.execute("PRAGMA foreign_key_check"), None) is not None:
            raise StatementRefused(_KEY_VIOLATED, "a row refers to one that is not in the file")
    except apsw.Error as exc:
        raise sandbox.refusal(exc) from exc
    finally:
        cursor.close(True)


@contextmanager
def _foreign_keys(sandbox: Sandbox, *, is_on: bool) -> Iterator[None]:
    """Within this, outside of transactions, keys are enforced or not."""
    if is_on:
        yield
        return
    sandbox.execute_internal("PRAGMA foreign_keys=0")
    try:
        yield
    finally:
        sandbox.execute_internal("PRAGMA foreign_keys=1")


@contextmanager
def _long_statements(sandbox: Sandbox) -> Iterator[None]:
    limit = apsw.SQLITE_LIMIT_SQL_LENGTH
    sandbox.connection.limit(limit, STATEMENT_BYTES_MAX)
    try:
        yield
    finally:
        sandbox.connection.limit(limit, sandbox.limits.statement_bytes_max)
