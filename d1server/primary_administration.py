"""Administration on the primary: creating, listing, changing and deleting databases; insights.

Every operation of `ADMIN_OPS` is a method of one table, for a client of this node and for one
of a replica alike.
"""

import shutil
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import apsw

from d1server.access.permissions import refuse_operation
from d1server.access.token_administration import TokenAdministration
from d1server.administration import (
    FIELDS,
    describe,
    listed,
    read_change,
    read_listing,
    read_new_database,
    read_selection,
    success,
)
from d1server.catalog import CatalogEntry, change, insert
from d1server.insights.recommender import decode_page
from d1server.query import ADMIN_OPS, AdminRequest, Answer
from d1server.refusals import answer_refusal, unknown_database
from d1server.web.errors import Fault, refuse
from engine.errors import EngineError
from engine.transaction import steps_of
from engine.wal import PAGE_SIZE
from primary.database import create_database
from primary.errors import WriteFenced
from proto.api import Statement
from proto.errors import RequestInvalid

if TYPE_CHECKING:
    from d1server.primary_node import PrimaryNode

_COUNT_TABLES: Final = Statement(  # the caller's, without SQLite's own and the server's
    "SELECT count(*) FROM sqlite_schema WHERE type = 'table'"
    " AND lower(substr(name, 1, 4)) NOT IN ('_cf_', '_d1_') AND substr(name, 1, 7) <> 'sqlite_'"
)


class Administration:
    """See the module's head."""

    def __init__(self, node: "PrimaryNode") -> None:
        """Administer the databases of `node`."""
        self._node = node
        self._being_named: set[str] = set()
        self._operations: Mapping[str, Callable[[AdminRequest], Awaitable[Answer]]] = {
            "create": self._create,
            "list": self._list,
            "info": self._info,
            "replace": self._change,
            "update": self._change,
            "delete": self._delete,
            "vacuum": self._vacuum,
            "export": self._export,
            "import": self._import,
            "graphql": self._graphql,
            "recommend": self._recommend,
            "recommend-all": self._recommend_all,
            **TokenAdministration(node).operations,
        }
        assert self._operations.keys() == ADMIN_OPS

    async def answer(self, request: AdminRequest) -> Answer:
        """Run one administration call."""
        try:
            operation = self._operations.get(request.op)
            if operation is None:
                raise RequestInvalid(
                    f"this primary knows no operation {request.op!r}: run the same d1server on "
                    "both nodes"
                )
            entry = self._node.catalog.find(request.database)
            key = entry.uuid if entry is not None else None
            refused = refuse_operation(request.op, request.grant, key)
            return refused if refused is not None else await operation(request)
        except _Unknown as exc:
            return unknown_database(exc.name)
        except Exception as exc:
            return answer_refusal(exc)

    def _entry(self, request: AdminRequest) -> CatalogEntry:
        entry = self._node.catalog.find(request.database)
        if entry is None:
            raise _Unknown(request.database)
        return entry

    async def _create(self, request: AdminRequest) -> Answer:
        asked = read_new_database(request.body)
        node = self._node
        if asked.name in node.catalog.by_name or asked.name in self._being_named:
            return refuse(Fault.DATABASE_EXISTS, "A database with that name already exists")
        now = datetime.now(UTC)
        entry = CatalogEntry(
            uuid=uuid.uuid4().bytes,
            name=asked.name,
            created_at=now.isoformat(timespec="milliseconds"),
            jurisdiction=asked.jurisdiction,
            location_hint=asked.location_hint,
            created_in_region=node.region,
            replication=asked.replication,
        )
        self._being_named.add(asked.name)
        try:
            try:
                await node.resources.io.call(
                    create_database,
                    node.folder(entry.uuid),
                    entry.uuid,
                    node.resources,
                    time_ms=int(now.timestamp() * 1000),
                )
            except (EngineError, OSError, apsw.Error) as exc:
                await node.resources.io.call(shutil.rmtree, node.folder(entry.uuid), True)
                raise WriteFenced(
                    f"the database could not be made ({exc}); see to the disk, then try again"
                ) from exc
            await node.change_catalog(insert(entry))
        finally:
            self._being_named.discard(asked.name)
        return success(await self._described(entry, FIELDS))

    async def _list(self, request: AdminRequest) -> Answer:
        """All that the caller may use at once, or the page of them that the body asks for."""
        wanted = request.grant.databases
        entries = [
            entry
            for entry in self._node.catalog.by_name.values()
            if wanted is None or entry.uuid in wanted
        ]
        if request.body:
            return listed(entries, read_listing(request.body))
        return success([describe(entry, self._measured(entry)) for entry in entries])

    async def _info(self, request: AdminRequest) -> Answer:
        wanted = read_selection(request.body)
        return success(await self._described(self._entry(request), wanted))

    async def _change(self, request: AdminRequest) -> Answer:
        """Set the replication mode; the answer waits until the connected replicas know it."""
        mode = read_change(request.body, is_whole=request.op == "replace")
        entry = self._entry(request)
        hint = ""
        if mode is not None and mode is not entry.replication:
            await self._node.change_catalog(change(replace(entry, replication=mode)))
            late = await self._node.wait_catalog_known()
            hint = f"these replicas do so when they are back: {', '.join(late)}" if late else ""
        return success(await self._described(self._entry(request), FIELDS), hint)

    async def _delete(self, request: AdminRequest) -> Answer:
        entry = self._entry(request)
        late = await self._node.delete_database(entry)
        if late is None:
            raise _Unknown(request.database)  # another delete was quicker
        hint = f"these replicas forget it when they are back: {', '.join(late)}" if late else ""
        return success(None, hint)

    async def _vacuum(self, request: AdminRequest) -> Answer:
        database = self._node.database(self._entry(request))
        async with database.demand.used() as opened:
            before = opened.committer.page_count
            written = await opened.committer.vacuum()
        sizes = {"size_before": before * PAGE_SIZE, "size_after": written.page_count * PAGE_SIZE}
        return success(sizes, bookmark=written.bookmark.text)

    async def _export(self, request: AdminRequest) -> Answer:
        database = self._node.database(self._entry(request))
        return await self._node.transfers.exports.answer(database, request.body)

    async def _import(self, request: AdminRequest) -> Answer:
        entry = self._entry(request)
        return await self._node.transfers.imports.answer(
            self._node.database(entry), entry, request.body
        )

    async def _graphql(self, request: AdminRequest) -> Answer:
        return await self._node.insights.graphql(request.body, request.grant)

    async def _recommend(self, request: AdminRequest) -> Answer:
        return await self._node.recommender.for_database(request.database, request.grant)

    async def _recommend_all(self, request: AdminRequest) -> Answer:
        page = decode_page(request.body)
        return await self._node.recommender.for_all(page, request.grant)

    async def _described(self, entry: CatalogEntry, wanted: Collection[str]) -> dict[str, object]:
        measured = self._measured(entry)
        if "num_tables" in wanted:
            async with self._node.database(entry).demand.used() as opened:
                count = await opened.reads.run(steps_of([_COUNT_TABLES]))
            measured["num_tables"] = count[0].rows[0][0]
        return describe(entry, measured, wanted)

    def _measured(self, entry: CatalogEntry) -> dict[str, object]:
        ends = self._node.database(entry).ends
        return {
            "file_size": ends.page_count * PAGE_SIZE,
            "running_in_region": self._node.region,
        }


class _Unknown(Exception):
    """No database has this name or uuid."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name
