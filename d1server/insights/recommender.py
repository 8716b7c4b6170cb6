"""Recommendations on request: from what the nodes have counted, and the primary's database.

A database's SQL runs nowhere here but for bounded samples, as any read does; planning has a
thread.

Bounds: one request at a time, `_WAITING_MAX` more wait; see `recommendations.py` for the rest.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Final, NamedTuple, Protocol

import msgspec

from d1server.access.grants import Grant, Level
from d1server.access.permissions import refuse_read
from d1server.administration import success
from d1server.bodies import decode_body
from d1server.catalog import Catalog, CatalogEntry
from d1server.insights.recommendations import (
    INSIGHTS_MAX,
    Insight,
    Ran,
    Recommendations,
    Recommended,
    Sample,
    insight_of,
    propose,
    sample_of,
)
from d1server.insights.stored_costs import StoredCosts
from d1server.query import Answer
from d1server.refusals import answer_refusal, unknown_database
from engine.ondemand import Retired
from engine.reads import Reads
from engine.transaction import steps_of
from primary.errors import Overloaded
from proto.api import SqlValue, Statement
from proto.errors import RequestInvalid

FILTER: Final = "recommendations"
LIMIT_MAX: Final = 100
LIMIT: Final = 20
_WAITING_MAX: Final = 16
_PAGE_S_MAX: Final = 10.0
_HOURS: Final = 7 * 24
_COSTLIEST: Final = 40
_WRITING: Final = 100
_SCHEMA_MAX: Final = 5000

_RAN: Final = """
SELECT query, sum(count), sum(duration_ms), sum(rows_read), sum(rows_written), sum(rows_returned)
FROM queries WHERE database = ? AND hour >= ? AND rows_written >= ? GROUP BY query
"""
_BY_READS: Final = f"{_RAN} ORDER BY sum(rows_read) DESC, query LIMIT {_COSTLIEST}"
_BY_WRITES: Final = f"{_RAN} ORDER BY sum(rows_written) DESC, query LIMIT {_WRITING}"
_COUNTED: Final = "SELECT DISTINCT database FROM queries WHERE hour >= ?"
_SCHEMA: Final = Statement(f"SELECT type, name, sql FROM sqlite_schema LIMIT {_SCHEMA_MAX}")
_STATISTICS: Final = Statement(f"SELECT tbl, idx, stat FROM sqlite_stat1 LIMIT {_SCHEMA_MAX}")


class Opened(Protocol):
    """An open database."""

    @property
    def reads(self) -> Reads:
        """Where its reads run."""


Used = Callable[[bytes], AbstractAsyncContextManager[Opened]]
"""Opens the database of a uuid for a while. Raises `Retired`, `EngineError`."""


class Page(NamedTuple):
    """Which part of the recommendations for all databases."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=LIMIT_MAX)]
    after: str  # uuid of the database to go on with, and how many of it were told; or empty
    told: Annotated[int, msgspec.Meta(ge=0, le=999)]


class Recommender:
    """See the module's head."""

    def __init__(self, costs: StoredCosts, catalog: Catalog, used: Used) -> None:
        """Recommend for the databases of `catalog`."""
        self._costs = costs
        self._catalog = catalog
        self._used = used
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def for_database(self, name: str, grant: Grant) -> Answer:
        """The recommendations for one database."""
        entry = self._catalog.find(name)
        refused = refuse_read(grant, entry.uuid if entry is not None else None)
        if refused is not None:
            return refused
        if entry is None:
            return unknown_database(name)
        return await self._answered(partial(self._one, entry))

    async def for_all(self, page: Page, grant: Grant) -> Answer:
        """A page of those for the databases that the caller may read."""
        entries = [one for one in self._catalog.by_uuid.values() if grant.may(Level.READ, one.uuid)]
        return await self._answered(partial(self._page, entries, page))

    async def _answered(self, work: Callable[[], Awaitable[Answer]]) -> Answer:
        if self._waiting >= _WAITING_MAX:
            return answer_refusal(Overloaded("too many ask for recommendations: try again later"))
        self._waiting += 1
        try:
            async with self._turn:
                return await work()
        except Exception as exc:
            return answer_refusal(exc)
        finally:
            self._waiting -= 1

    async def _one(self, entry: CatalogEntry) -> Answer:
        await self._costs.store()
        return _told(await self._insights_of(entry))

    async def _page(self, entries: list[CatalogEntry], page: Page) -> Answer:
        """Databases one after the other, until the page is full or has taken long."""
        await self._costs.store()
        counted = {row[0] for row in await self._costs.db.rows(_COUNTED, (_since(),))}
        ends = time.monotonic() + _PAGE_S_MAX
        told: list[Insight] = []
        cursor: str | None = None
        for entry in sorted(entries, key=lambda one: one.id):
            if entry.id < page.after or entry.id not in counted:
                continue
            if time.monotonic() > ends:
                cursor = f"{entry.id}:0"
                break
            skipped = page.told if entry.id == page.after else 0
            try:
                found = (await self._insights_of(entry))[skipped:]
            except Retired:
                continue  # deleted meanwhile
            room = page.limit - len(told)
            told += found[:room]
            if len(found) > room:
                cursor = f"{entry.id}:{skipped + room}"
                break
        return _told(told, {"count": len(told), "per_page": page.limit, "cursor": cursor})

    async def _insights_of(self, entry: CatalogEntry) -> list[Insight]:
        costliest = await self._ran(_BY_READS, entry.id, 0)
        if not costliest:
            return []
        writing = await self._ran(_BY_WRITES, entry.id, 1)
        async with self._used(entry.uuid) as opened:
            reads = opened.reads
            schema = await _rows(reads, _SCHEMA)
            has_statistics = any(row[1] == "sqlite_stat1" for row in schema)
            statistics = await _rows(reads, _STATISTICS) if has_statistics else []
            proposals = await reads.aside(partial(propose, schema, statistics, costliest, writing))
            found: list[Insight] = []
            for proposal in proposals[:INSIGHTS_MAX]:
                ((rows, sampled, values),) = await _rows(reads, sample_of(proposal.index))
                sample = Sample(int(rows or 0), int(sampled or 0), int(values or 0))
                insight = insight_of(proposal, sample, (entry.id, entry.name))
                if insight is not None:
                    found.append(insight)
        found.sort(key=lambda one: one.suggestions[0].cost_impact.query_duration_ms)
        return found

    async def _ran(self, sql: str, database: str, written: int) -> list[Ran]:
        rows: Any = await self._costs.db.rows(sql, (database, _since(), written))
        return [Ran(*row) for row in rows]


def _since() -> int:
    return int(time.time()) // 3600 - _HOURS


async def _rows(reads: Reads, statement: Statement) -> list[tuple[SqlValue, ...]]:
    return (await reads.run(steps_of([statement])))[0].rows


def _told(insights: list[Insight], info: dict[str, Any] | None = None) -> Answer:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    told = Recommended(Recommendations(now, insights))
    return success(msgspec.to_builtins(told), result_info=info)


def read_filter(value: str) -> None:
    """Raise `RequestInvalid` for what is not known here."""
    if value not in ("", FILTER):
        raise RequestInvalid(f"filter: {value[:80]!r} is not {FILTER}")


def read_page(limit: str, cursor: str) -> Page:
    """Which page. Raises `RequestInvalid`."""
    is_number = limit.isascii() and limit.isdigit() and len(limit) <= len(str(LIMIT_MAX))
    if limit and not (is_number and 1 <= int(limit) <= LIMIT_MAX):
        raise RequestInvalid(f"limit: {limit[:80]!r} is not a whole number from 1 to {LIMIT_MAX}")
    after, _, told = cursor.partition(":")
    if cursor and not (told.isascii() and told.isdigit() and len(told) < 4):
        raise RequestInvalid("cursor: send the one that an answer gave")
    return Page(int(limit or LIMIT), after, int(told or 0))


def encode_page(page: Page) -> bytes:
    """The body of the operation `recommend-all`."""
    return msgspec.json.encode(page)


def decode_page(body: bytes) -> Page:
    """Read it. Raises `RequestInvalid`."""
    return decode_body(body, Page, "a page of recommendations")
