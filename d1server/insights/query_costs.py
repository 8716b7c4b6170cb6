"""What the queries of each database cost, counted as they run.

On the path of every query, so a statement costs well below a microsecond: one lookup by its
text and a few additions. Texts are brought to their common form (`statement_text.py`) when
they are first seen; times of day are not looked at. `take` gives what was counted since it
gave last, to be stored (`stored_costs.py`).

Bounds: `TEXTS_MAX` statements of a database between two calls of `take`; what comes beyond
is counted together, as OTHERS.
"""

from collections.abc import Iterable, Sequence
from math import frexp
from typing import Final

from d1server.insights.durations import BUCKET_OF_ONE, BUCKETS, LONG_MS
from d1server.insights.statement_text import READ_CHARS_MAX, normalised
from engine.transaction import Step
from proto.api import StatementResult

TEXTS_MAX: Final = 1000
_TEXT_CHARS_MAX: Final = 4096  # longer ones are not kept, but brought to their form each time
OTHERS: Final = "(other statements)"


class StatementCosts:
    """What one statement has cost."""

    __slots__ = (
        "buckets",
        "count",
        "duration_ms",
        "query",
        "rows_read",
        "rows_returned",
        "rows_written",
        "writes",
    )

    def __init__(self, query: str) -> None:
        """Count the statements of this text."""
        self.query = query
        self.count = 0
        self.writes = 0
        self.duration_ms = 0.0
        self.buckets = [0] * BUCKETS  # of the times of its runs
        self.rows_read = 0
        self.rows_written = 0
        self.rows_returned = 0


class DatabaseCosts:
    """What the queries of one database have cost."""

    __slots__ = ("_by_query", "buckets", "by_text", "response_bytes")

    def __init__(self) -> None:
        """Nothing yet."""
        self.by_text: dict[str, StatementCosts] = {}
        self._by_query: dict[str, StatementCosts] = {}
        self.response_bytes = 0
        self.buckets = [0] * BUCKETS  # of the times of batches

    def statement(self, sql: str) -> StatementCosts:
        """The costs of a text that is not in `by_text`."""
        query = normalised(sql[:READ_CHARS_MAX]) if len(self._by_query) < TEXTS_MAX else OTHERS
        costs = self._by_query.get(query)
        if costs is None:
            costs = self._by_query[query] = StatementCosts(query)
        if len(self.by_text) < TEXTS_MAX and len(sql) <= _TEXT_CHARS_MAX:
            self.by_text[sql] = costs
        return costs

    @property
    def statements(self) -> Iterable[StatementCosts]:
        """One for each text."""
        return self._by_query.values()


class QueryStatistics:
    """See the module's head; on the event loop."""

    def __init__(self) -> None:
        """Nothing is counted yet."""
        self._databases: dict[bytes, DatabaseCosts] = {}

    def note(
        self,
        database: bytes,
        steps: Sequence[Step],
        results: Sequence[StatementResult],
        response_bytes: int,
    ) -> None:
        """Count one request that was run."""
        costs = self._databases.get(database)
        if costs is None:
            costs = self._databases[database] = DatabaseCosts()
        total_ms = 0.0
        for step, result in zip(steps, results):  # noqa: B905  (`strict` costs a third of it all)
            sql = step.sql
            one = costs.by_text.get(sql)
            if one is None:
                one = costs.statement(sql)
            duration_ms = result.duration_ms
            total_ms += duration_ms
            one.count += 1
            one.duration_ms += duration_ms
            one.buckets[frexp(duration_ms)[1] + BUCKET_OF_ONE if duration_ms < LONG_MS else -1] += 1
            one.rows_read += result.rows_read
            one.rows_returned += len(result.rows)
            if result.changed_db:
                one.writes += 1
                one.rows_written += result.rows_written
        costs.response_bytes += response_bytes
        costs.buckets[frexp(total_ms)[1] + BUCKET_OF_ONE if total_ms < LONG_MS else -1] += 1

    def take(self) -> dict[bytes, DatabaseCosts]:
        """What was counted since the last call."""
        taken, self._databases = self._databases, {}
        return taken
