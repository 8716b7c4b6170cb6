"""A node that is the primary: its databases, its catalog, its replicas' feeds."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

import apsw

from d1server.access.exposure import check_exposure, may_be_open
from d1server.access.grants import Access
from d1server.access.token_table import CREATE_TOKENS, SELECT_TOKENS, note_uses, read_tokens
from d1server.access.token_uses import tell_uses
from d1server.catalog import (
    CREATE_TABLE,
    SELECT_ALL,
    SELECT_COLUMNS,
    Catalog,
    CatalogEntry,
    catalog_uuid,
    missing_columns,
    remove,
)
from d1server.config import NodeConfig
from d1server.datadir import DataDir
from d1server.idle import close_idle
from d1server.insights.graphql_answers import Insights
from d1server.insights.recommender import Opened, Recommender
from d1server.insights.stored_costs import StoredCosts
from d1server.link import PeerLink, listen
from d1server.listener import Listener
from d1server.node_status import node_status, primary_database_status
from d1server.node_tls import NodeTls
from d1server.nodedb import open_node_db
from d1server.primary_administration import Administration
from d1server.primary_queries import PrimaryQueries
from d1server.query import AdminRequest, Answer
from d1server.replica_door import ReplicaDoor
from d1server.tasks import Tasks
from d1server.transfers.node_transfers import Transfers
from d1server.web.failures import FailureBook
from engine.errors import DatabaseDamaged, EngineError
from engine.ondemand import OnDemand, Retired
from engine.resources import Resources
from engine.threads import until_done
from engine.transaction import steps_of
from engine.wal import PAGE_SIZE
from primary.database import PrimaryDatabase, create_database
from primary.errors import PrimaryError
from proto.api import ServedBy, Statement

logger = logging.getLogger(__name__)

_HEARTBEAT_S: Final = 1.0
_STRANGERS_MAX: Final = 64  # links whose replica is not known yet
_KNOWN_S_MAX: Final = 5.0  # a change waits so long for connected replicas to know


class PrimaryNode:
    """See the module's head; a `NodeView`. `running` is its life."""

    def __init__(self, config: NodeConfig, data: DataDir, resources: Resources) -> None:
        """Nothing is opened yet."""
        self._config = config
        self._data = data
        self._resources = resources
        self._tasks = Tasks()
        self._catalog = Catalog()
        self._access = Access(may_be_open=may_be_open(config), link_secret=config.link_secret)
        self._catalog_uuid = catalog_uuid(data.identity.cluster)
        self._databases: dict[bytes, PrimaryDatabase] = {}
        self._reloading = asyncio.Lock()
        self._being_deleted: set[bytes] = set()
        self._started_at = time.monotonic()
        served = ServedBy(config.name, config.region, is_primary=True)
        self._costs = StoredCosts(self._catalog)
        self._insights = Insights(self._costs, self._sizes)
        self._recommender = Recommender(self._costs, self._catalog, self._used)
        self._queries = PrimaryQueries(self.find, served, self._costs.statistics)
        self._administration = Administration(self)
        self._transfers = Transfers(
            data,
            resources,
            served,
            spawn=self._tasks.spawn,
            base_url=config.public_url or config.url,
        )
        self._doors: list[ReplicaDoor] = []
        self.strangers = FailureBook(
            told="many callers of %s at the replication address are no replicas"
        )
        self.tls: Final = NodeTls(config.tls, is_primary=True)
        self.replication_address: tuple[str, int]  # while running: where replicas call

    # --- life

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The node from its catalog's opening to the closing of its last database.

        Stop order: links, background tasks, databases (each made durable and checkpointed).
        """
        async with self.opened():
            check_exposure(self._config, has_tokens=any(self._access.tokens))
            server = await self._listen()
            self.replication_address = server.sockets[0].getsockname()[:2]
            self._tasks.spawn(self._beat(), "heartbeats")
            self._tasks.spawn(tell_uses(self._access, self.note_token_uses), "token uses")
            self._tasks.spawn(
                close_idle(
                    self._idle_candidates,
                    self._resources.io,
                    idle_s=self._config.idle_close_s,
                    open_max=self._config.open_databases_max,
                ),
                "idle databases",
            )
            try:
                async with (
                    open_node_db(self._data.path / "node.db") as db,
                    self._transfers.opened(db),
                    self._costs.running(db),
                ):
                    try:
                        yield
                    finally:
                        server.close()
                        reason = "the primary is stopping"
                        await asyncio.gather(*(door.leave(reason) for door in self._doors))
            finally:
                server.close()
                for door in list(self._doors):
                    door.close("the primary is stopping")

    async def _listen(self) -> Listener:
        address = self._config.replication
        assert address is not None, "a primary has a replication address"
        return await listen(
            address.host,
            address.port,
            self._welcome,
            shown=lambda: self.tls.link,
            strangers=self.strangers,
        )

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """The node as far as nobody else is needed: its catalog, its databases."""
        try:
            await self._open_catalog()
            yield
        finally:
            await self._close_databases()
            await self._tasks.cancel_all()

    async def _open_catalog(self) -> None:
        folder = self._data.folder(self._catalog_uuid)
        if not (folder / "base").exists():
            await self._resources.io.call(
                create_database,
                folder,
                self._catalog_uuid,
                self._resources,
                time_ms=int(time.time() * 1000),
            )
        self._databases[self._catalog_uuid] = catalog = self._database(self._catalog_uuid)
        try:
            async with catalog.demand.used() as opened:
                await opened.committer.write(steps_of([CREATE_TABLE, CREATE_TOKENS]))
                known = (await opened.reads.run(steps_of([SELECT_COLUMNS])))[0]
                if missing := missing_columns(known):
                    await opened.committer.write(steps_of(missing))
            await self._reload_catalog()
        except PrimaryError as exc:
            raise DatabaseDamaged(f"the catalog, {folder}: {exc}") from exc
        await self._resources.io.call(self._data.finish_deletions)
        self._tell_strangers()

    def _tell_strangers(self) -> None:
        """A folder that the catalog does not know is somebody's data: left alone, but told."""
        known = {self._data.folder(key).name for key in self._databases}
        for name in self._resources.disk.list(self._data.databases):
            if name not in known:
                logger.warning(
                    "%s is not in the catalog and is not served; remove it if it is not needed",
                    self._data.databases / name,
                )

    async def _reload_catalog(self) -> None:
        async with self._reloading:  # or an older reading could come last
            async with self._databases[self._catalog_uuid].demand.used() as opened:
                found, tokens = await opened.reads.run(steps_of([SELECT_ALL, SELECT_TOKENS]))
            change = self._catalog.update(found)
            has_moved = self._access.update(read_tokens(tokens))
            for entry in change.added:
                self._databases[entry.uuid] = self._database(entry.uuid)
                self._on_durable(entry.uuid)  # a replica may have asked before we knew it
        if has_moved:
            for door in self._doors:
                door.check_token()

    def _database(self, key: bytes) -> PrimaryDatabase:
        return PrimaryDatabase(
            self._data.folder(key),
            key,
            self._resources,
            spawn=self._tasks.spawn,
            on_durable=self._on_durable,
        )

    async def _close_databases(self) -> None:
        for database in list(self._databases.values()):
            try:
                await database.demand.retire()
            except (EngineError, PrimaryError, OSError, apsw.Error) as exc:
                logger.warning("closing %s: %s", database.uuid.hex(), exc)

    def _idle_candidates(self) -> Iterable[OnDemand[Any]]:
        return [
            database.demand
            for key, database in self._databases.items()
            if key != self._catalog_uuid
        ]

    # --- replicas

    def _welcome(self, link: PeerLink) -> None:
        strangers = [door for door in self._doors if not door.is_welcome]
        if len(strangers) >= _STRANGERS_MAX:  # the newest may be one of ours
            strangers[0].abort("too many callers have not said who they are")
        door = ReplicaDoor(link, self)
        self._doors.append(door)
        self._tasks.spawn(self._keep_door(door), "link")

    def door_of(self, name: str) -> ReplicaDoor | None:
        """The link of the replica with this name."""
        named = (door for door in self._doors if door.is_welcome and door.name == name)
        return next((door for door in named if not door.lost.done()), None)

    async def _keep_door(self, door: ReplicaDoor) -> None:
        try:
            await door.until_lost()
        finally:
            self._doors.remove(door)

    @property
    def identity(self) -> tuple[str, str, str]:
        """Cluster, node, region: what a `Welcome` says."""
        return self._data.identity.cluster, self._config.name, self._config.region

    @property
    def is_insecure(self) -> bool:
        """Whoever started the node trusts everybody on the way."""
        return self._config.insecure

    @property
    def resources(self) -> Resources:
        """What the feeds share with the databases."""
        return self._resources

    @property
    def tasks(self) -> Tasks:
        """Where the feeds' tasks live."""
        return self._tasks

    def find(self, name: str) -> PrimaryDatabase | None:
        """The database of this name or uuid."""
        entry = self._catalog.find(name)
        return self._databases.get(entry.uuid) if entry is not None else None

    def find_uuid(self, key: bytes) -> PrimaryDatabase | None:
        """The database of this uuid, the catalog included."""
        return self._databases.get(key)

    def _on_durable(self, key: bytes) -> None:
        for door in self._doors:
            door.wake(key)

    async def _beat(self) -> NoReturn:
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            databases = list(self._databases.values())
            for door in self._doors:
                door.heartbeat(databases, time_ms=int(time.time() * 1000))

    # --- NodeView

    @property
    def queries(self) -> PrimaryQueries:
        """Where queries go."""
        return self._queries

    @property
    def access(self) -> Access:
        """Who may come in."""
        return self._access

    def readiness(self) -> tuple[bool, list[str]]:
        """Ready while every database can be opened."""
        reasons = [
            f"database {self._catalog.name_of(database.uuid)}: {database.problem}"
            for database in self._databases.values()
            if database.problem
        ]
        return not reasons, reasons

    def status(self) -> dict[str, object]:
        """What `/status` shows."""
        status = node_status(
            self._config,
            cluster=self._data.identity.cluster,
            epoch=self._databases[self._catalog_uuid].durable.token.epoch,
            started_at=self._started_at,
        )
        status["databases"] = {
            self._catalog.name_of(key): primary_database_status(database)
            for key, database in list(self._databases.items())
            if key != self._catalog_uuid
        }
        status["replicas"] = [door.status() for door in self._doors if door.is_welcome]
        return status

    # --- administration

    async def administer(self, request: AdminRequest) -> Answer:
        """Run one administration call, to its end also when the client hangs up."""
        return await until_done(asyncio.ensure_future(self._administration.answer(request)))

    @property
    def costs(self) -> StoredCosts:
        """What queries have cost, at all nodes."""
        return self._costs

    @property
    def insights(self) -> Insights:
        """The GraphQL that asks for it."""
        return self._insights

    @property
    def recommender(self) -> Recommender:
        """What would make them cheaper."""
        return self._recommender

    def _used(self, key: bytes) -> AbstractAsyncContextManager[Opened]:
        database = self._databases.get(key)
        if database is None:
            raise Retired("this database is not here, or not any more")
        return database.demand.used()

    def _sizes(self) -> Iterator[tuple[bytes, str, int]]:
        for entry in self._catalog.by_uuid.values():
            database = self._databases.get(entry.uuid)
            if database is not None:
                yield entry.uuid, entry.id, database.ends.page_count * PAGE_SIZE

    @property
    def transfers(self) -> Transfers:
        """Exports and imports."""
        return self._transfers

    @property
    def catalog(self) -> Catalog:
        """Which databases there are."""
        return self._catalog

    @property
    def region(self) -> str:
        """Where this node is."""
        return self._config.region

    def folder(self, key: bytes) -> Path:
        """Where the database with this uuid is, or is to be."""
        return self._data.folder(key)

    def database(self, entry: CatalogEntry) -> PrimaryDatabase:
        """The database of this entry. Raises `Retired` if it is deleted by now."""
        found = self._databases.get(entry.uuid)
        if found is None:
            raise Retired(f"the database {entry.name} has just been deleted")
        return found

    async def change_catalog(self, *statements: Statement) -> None:
        """Write to the catalog, and take what it says then; also when the caller hangs up."""
        await asyncio.shield(self._tasks.spawn(self._change_catalog(statements), "catalog change"))

    async def _change_catalog(self, statements: Sequence[Statement]) -> None:
        try:
            async with self._databases[self._catalog_uuid].demand.used() as opened:
                await opened.committer.write(steps_of(statements))
        finally:  # also after a failure that leaves open what was done
            await self._reload_catalog()

    async def note_token_uses(self, uses: Mapping[str, float]) -> None:
        """Store when tokens were last used."""
        known = {key: at for key, at in uses.items() if self._access.find(key) is not None}
        if known:
            await self.change_catalog(*note_uses(known))

    async def delete_database(self, entry: CatalogEntry) -> list[str] | None:
        """Out of the catalog first, on all nodes; then the data.

        The replicas that do not know it yet; None if another delete was quicker.
        """
        if entry.uuid in self._being_deleted:
            return None
        self._being_deleted.add(entry.uuid)
        try:
            await self.change_catalog(remove(entry))
        finally:
            self._being_deleted.discard(entry.uuid)
        database = self._databases.pop(entry.uuid)
        late = await self.wait_catalog_known()
        for door in self._doors:
            door.forget(entry.uuid)
        await self._transfers.forget(entry)
        await self._costs.forget(entry.id)
        await database.demand.retire()
        await self._resources.io.call(self._data.delete, entry.uuid)
        return late

    @property
    def has_replicas(self) -> bool:
        """Whether any is connected."""
        return any(door.is_welcome for door in self._doors)

    @property
    def cut_off(self) -> list[str]:
        """The connected replicas that may not stay, now that there are tokens."""
        return sorted(door.name for door in self._doors if door.is_welcome and door.lacks_token)

    async def wait_catalog_known(self) -> list[str]:
        """Until the connected replicas have the catalog's newest commit; those that have not."""
        seq = self._databases[self._catalog_uuid].durable.seq
        doors = [door for door in self._doors if door.is_welcome]
        waits = [
            asyncio.ensure_future(door.wait_applied(self._catalog_uuid, seq)) for door in doors
        ]
        if not waits:
            return []
        await asyncio.wait(waits, timeout=_KNOWN_S_MAX)
        late = [door.name for door, wait in zip(doors, waits, strict=True) if not wait.done()]
        for wait in waits:
            wait.cancel()
        return late
