"""A node that is a replica: it follows a primary, serves reads, forwards the rest."""

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import apsw

from d1server.access.exposure import NodeExposed, check_exposure, may_be_open
from d1server.access.grants import Access, hash_of, id_of
from d1server.access.token_table import HAS_TOKENS, SELECT_TOKENS, read_tokens
from d1server.access.token_uses import TOKEN_USES_OP, encode_uses, tell_uses
from d1server.catalog import SELECT_ALL, Catalog, ReplicationMode, catalog_uuid
from d1server.config import NodeConfig
from d1server.datadir import DataDir
from d1server.idle import close_idle
from d1server.insights.cost_batch import QUERY_COSTS_OP
from d1server.insights.cost_sender import CostSender
from d1server.insights.stored_costs import StoredCosts
from d1server.link import PeerLink, dial
from d1server.node_status import node_status, replica_database_status
from d1server.node_tls import NodeTls
from d1server.nodedb import open_node_db
from d1server.query import INSIGHT_OPS, AdminRequest, Answer
from d1server.refusals import answer_refusal
from d1server.replica_queries import ReplicaQueries
from d1server.results import to_reply_answer
from d1server.router import BookmarkAge, age_of
from d1server.tasks import Tasks
from d1server.transfers.file_relay import FileRelay
from engine.errors import EngineError
from engine.log import CommitLog
from engine.ondemand import OnDemand, Retired
from engine.resources import Resources
from engine.transaction import steps_of
from proto.api import ServedBy
from proto.handshake import LinkCredential
from proto.messages import PROTOCOL_VERSION, Forward, Hello, Reply, Welcome
from proto.tokens import FIRST_EPOCH, Bookmark
from replica.bootstrap import AHEAD_SUFFIX, remove_folder, remove_leftovers
from replica.database import NotHere, ReplicaDatabase, ReplicaHooks
from replica.errors import ForwardFailed, OutcomeUnknown, ReplicaError
from replica.receiver import Receiver, ReceiverState

logger = logging.getLogger(__name__)

_TELL_S_MAX: Final = 10.0
_ADMIN_S_MAX: Final = 3600.0  # a VACUUM of a large database takes its time
_DISABLED: Final = ReplicationMode.DISABLED  # looked up once, for every query


class ReplicaNode:
    """See the module's head; a `NodeView` and the receiver's `Follower`."""

    def __init__(self, config: NodeConfig, data: DataDir, resources: Resources) -> None:
        """Nothing is opened yet."""
        self._config = config
        self._data = data
        self._resources = resources
        self._tasks = Tasks()
        self._catalog = Catalog()
        self._catalog_database: ReplicaDatabase | None = None
        self._catalog_read: Bookmark | None = None  # the state that `_catalog` was read from
        self._catalog_reading = False
        self._databases: dict[bytes, ReplicaDatabase] = {}
        self._started_at = time.monotonic()
        self._life = secrets.token_hex(8)
        self._access = Access(may_be_open=may_be_open(config))
        self.tls: Final = NodeTls(config.tls, is_primary=False)
        self._receiver = Receiver(self._dial, self, _credential(config))
        self._relay: FileRelay | None = None
        if config.public_url is not None:
            self._relay = FileRelay(self._receiver.forwarder, config.public_url)
        self._hooks = ReplicaHooks(on_moved=self._on_moved, follow=self._follow_one)
        self._costs = StoredCosts(self._catalog)
        self._cost_sender = CostSender(self._costs, self._send_costs)
        self._queries = ReplicaQueries(
            self.find_served,
            self._receiver.forwarder,
            ServedBy(config.name, config.region, is_primary=False),
            self._costs.statistics,
            read_wait_s=config.read_wait_s,
            query_deadline_s=config.query_deadline_s,
        )
        self._active: dict[bytes, ReplicaDatabase] = {}
        self._has_been_ready = False

    # --- life

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The node from the catalog that it has to the closing of its last database."""
        remove_leftovers(self._data.databases)
        if self._data.identity.cluster:
            await self._open_catalog(self._data.identity.cluster)
        try:
            check_exposure(self._config, has_tokens=any(self._access.tokens))
        except NodeExposed:
            await self._close_databases()
            raise
        self._tasks.spawn(tell_uses(self._access, self._tell_uses), "token uses")
        following = self._tasks.spawn(self._receiver.run(), "receiver")
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
                self._costs.running(db),
                self._cost_sender.running(),
            ):
                yield
        finally:
            self._receiver.say_goodbye("the replica is stopping")
            following.cancel()
            await asyncio.wait([following])
            await self._close_databases()
            await self._tasks.cancel_all()

    async def _dial(self) -> PeerLink:
        primary = self._config.primary
        assert primary is not None, "a replica has a primary"
        shown = self.tls.link
        return await dial(primary.host, primary.port, None if shown is None else shown.context)

    async def _tell_uses(self, uses: Mapping[str, float]) -> None:
        message = Forward(0, TOKEN_USES_OP, "", encode_uses(uses))
        await self._receiver.forwarder.ask(message, timeout_s=_TELL_S_MAX, held_s_max=0)

    async def _send_costs(self, body: bytes) -> Reply:
        message = Forward(0, QUERY_COSTS_OP, "", body)
        return await self._receiver.forwarder.ask(message, timeout_s=_TELL_S_MAX, held_s_max=0)

    async def _open_catalog(self, cluster: str) -> None:
        self._catalog_database = catalog = self._database(catalog_uuid(cluster))
        if catalog.is_here:
            self._catalog_reading = True
            await self._follow_catalog()

    def _database(self, key: bytes) -> ReplicaDatabase:
        return ReplicaDatabase(
            self._data.folder(key), key, self._resources, spawn=self._tasks.spawn, hooks=self._hooks
        )

    async def _close_databases(self) -> None:
        for database in list(self.databases()):
            try:
                await database.demand.retire()
            except (EngineError, ReplicaError, OSError, apsw.Error) as exc:
                logger.warning("closing %s: %s", database.uuid.hex(), exc)

    def _idle_candidates(self) -> Iterable[OnDemand[Any]]:
        return [database.demand for database in self._databases.values()]

    # --- the catalog

    def _on_moved(self, database: ReplicaDatabase) -> None:
        """Something of this database was written or applied."""
        if database is not self._catalog_database:
            self._acknowledge(database)
        elif not self._catalog_reading:
            self._catalog_reading = True
            self._tasks.spawn(self._follow_catalog(), "catalog")

    def _acknowledge(self, database: ReplicaDatabase) -> None:
        self._active[database.uuid] = database
        self._receiver.ack_soon()

    async def _follow_catalog(self) -> None:
        """Read it; only then acknowledge it.

        Whoever deletes a database or revokes a token waits for that.
        """
        catalog = self._catalog_database
        assert catalog is not None
        try:
            while catalog.applied_bookmark != self._catalog_read:
                if not await self._read_catalog():
                    break  # it is asked again when the catalog has moved
        finally:
            self._catalog_reading = False
            self._acknowledge(catalog)

    async def _read_catalog(self) -> bool:
        """Begin to follow the catalog's new databases, forget deleted ones; whether it was read."""
        catalog = self._catalog_database
        assert catalog is not None
        try:
            async with catalog.demand.used() as opened:
                read_at = catalog.applied_bookmark
                has_tokens = (await opened.reads.run(steps_of([HAS_TOKENS])))[0].rows[0][0]
                wanted = [SELECT_ALL, SELECT_TOKENS] if has_tokens else [SELECT_ALL]
                found, *tokens = await opened.reads.run(steps_of(wanted))
                is_set_back = self._is_set_back(read_at, opened.log)
        except (NotHere, Retired, EngineError) as exc:
            logger.debug("the catalog cannot be read yet: %s", exc)
            return False
        is_first = self._catalog_read is None
        self._catalog_read = read_at
        self._access.update(token for rows in tokens for token in read_tokens(rows))
        change = self._catalog.update(found)
        for entry in change.removed:
            self._forget(entry.uuid, is_lost=is_set_back)
        added = []
        for entry in change.added:
            self._databases[entry.uuid] = database = self._database(entry.uuid)
            added.append(database)
        self._receiver.follow(added)
        if is_first:
            self._remove_strangers()
        return True

    def _is_set_back(self, now: Bookmark, log: CommitLog) -> bool:
        """The catalog's history lacks what was read before: the primary lost commits of it."""
        read = self._catalog_read
        if read is None:
            return False
        return age_of(read, now, log.digest_at) is not BookmarkAge.REACHED

    def _forget(self, key: bytes, *, is_lost: bool) -> None:
        database = self._databases.pop(key)
        self._active.pop(key, None)
        self._receiver.unfollow([key])
        self._tasks.spawn(self._remove(database, is_lost=is_lost), f"remove:{key.hex()}")

    async def _remove(self, database: ReplicaDatabase, *, is_lost: bool) -> None:
        """Remove what was deleted; what the primary has lost is the only copy, and is kept."""
        seq = database.applied_bookmark.seq
        await database.retire()
        if not is_lost:
            await self._resources.io.call(self._data.delete, database.uuid)
            return
        suffix = f"{AHEAD_SUFFIX}-{seq}"
        aside = await self._resources.io.call(self._data.set_aside, database.uuid, suffix)
        if aside is not None:
            logger.error("the primary has lost a whole database; what was here is kept: %s", aside)

    def _remove_strangers(self) -> None:
        """Remove folders of databases that were deleted while this node was away."""
        known = {str(uuid.UUID(bytes=database.uuid)) for database in self.databases()}
        for name in self._resources.disk.list(self._data.databases):
            if name.partition(".")[0] not in known and AHEAD_SUFFIX not in name:
                remove_folder(self._data.databases / name)

    # --- Follower

    def hello(self) -> Hello:
        """Who we are."""
        return Hello(
            PROTOCOL_VERSION,
            self._data.identity.cluster,
            self._config.name,
            self._config.region,
            self._config.url,
            node_id=self._data.identity.node,
            life=self._life,
        )

    async def welcomed(self, welcome: Welcome) -> None:
        """The primary took us on: its cluster is ours from the first time on."""
        if not self._data.identity.cluster:
            self._data.join(welcome.cluster)
        if self._catalog_database is None:
            await self._open_catalog(welcome.cluster)

    def databases(self) -> Iterable[ReplicaDatabase]:
        """All databases, the catalog first."""
        if self._catalog_database is not None:
            yield self._catalog_database
        yield from self._databases.values()

    def active(self) -> Iterable[ReplicaDatabase]:
        """The databases that moved since they were last asked, or have a reason to be watched."""
        active, self._active = self._active, {}
        return active.values()

    def find(self, name: str) -> ReplicaDatabase | None:
        """The database of this name or uuid."""
        entry = self._catalog.find(name)
        return self._databases.get(entry.uuid) if entry is not None else None

    def find_served(self, name: str) -> ReplicaDatabase | None:
        """The same, if its reads may be served here: else they are the primary's."""
        entry = self._catalog.find(name)
        if entry is None or entry.replication is _DISABLED:
            return None
        return self._databases.get(entry.uuid)

    def find_uuid(self, uuid: bytes) -> ReplicaDatabase | None:
        """The database of this uuid, the catalog included."""
        catalog = self._catalog_database
        if catalog is not None and catalog.uuid == uuid:
            return catalog
        return self._databases.get(uuid)

    def _follow_one(self, database: ReplicaDatabase, is_copy_wanted: bool) -> None:
        self._receiver.follow([database], is_copy_wanted=is_copy_wanted)

    # --- NodeView

    @property
    def access(self) -> Access:
        """Who may come in."""
        return self._access

    @property
    def queries(self) -> ReplicaQueries:
        """Where queries go."""
        return self._queries

    @property
    def costs(self) -> StoredCosts:
        """What the queries that ran here have cost, until the primary has it."""
        return self._costs

    @property
    def transfers(self) -> FileRelay | None:
        """Exports and imports are the primary's, and so are the URLs, unless this node has one."""
        return self._relay

    async def administer(self, request: AdminRequest) -> Answer:
        """Administration is the primary's, and so are statistics, which are of all nodes."""
        if request.op in INSIGHT_OPS:
            await self._cost_sender.send_soon()
        try:
            reply = await self._receiver.forwarder.ask(
                Forward(
                    0,
                    request.op,
                    request.database,
                    request.body,
                    caller=request.grant.caller,
                    hops=request.hops + 1,
                ),
                timeout_s=_ADMIN_S_MAX,
            )
        except OutcomeUnknown as exc:
            if request.op not in INSIGHT_OPS:
                return answer_refusal(exc)
            return answer_refusal(ForwardFailed(f"{exc}; it only reads: send it again"))
        except ReplicaError as exc:
            return answer_refusal(exc)
        answer = to_reply_answer(reply)
        if self._relay is not None and request.op in ("export", "import"):
            return self._relay.rebased(answer)
        return answer

    def readiness(self) -> tuple[bool, list[str]]:
        """Ready: connected, lag below the limit, every database here and verified."""
        receiver = self._receiver
        reasons = []
        if receiver.state is not ReceiverState.FOLLOWING:
            reasons.append(f"not connected to the primary: {receiver.reason}")
        elif not receiver.has_heads or self._catalog_database is None:
            reasons.append("the primary has not said yet how far it is")
        for database in self.databases():
            name = self._catalog.name_of(database.uuid)
            if database.problem:
                reasons.append(f"database {name}: {database.problem}")
            elif (copied := database.copied) is not None:
                reasons.append(f"database {name} is being copied: {copied[0]} of {copied[1]} bytes")
            elif database.lag_ms > self._config.ready_lag_s_max * 1000:
                reasons.append(f"database {name} is {database.lag_ms / 1000:.1f} s behind")
            elif database.is_late if self._has_been_ready else not database.is_here:
                reasons.append(f"database {name} has not come from the primary yet")
        # A node that was ready stays so while a database made a moment ago is on its way.
        self._has_been_ready = self._has_been_ready or not reasons
        return not reasons, reasons

    def status(self) -> dict[str, object]:
        """What `/status` shows."""
        receiver, catalog = self._receiver, self._catalog_database
        status = node_status(
            self._config,
            cluster=self._data.identity.cluster,
            epoch=catalog.position.token.epoch if catalog is not None else FIRST_EPOCH,
            started_at=self._started_at,
        )
        status["primary"] = {
            "address": str(self._config.primary),
            "state": receiver.state.value,
            "reason": receiver.reason,
            "silent_ms": round((time.monotonic() - receiver.contact_at) * 1000, 1),
        }
        status["query_costs_waiting"] = self._cost_sender.waiting
        status["databases"] = {
            self._catalog.name_of(key): replica_database_status(database)
            for key, database in list(self._databases.items())
        }
        return status


def _credential(config: NodeConfig) -> LinkCredential | None:
    text = config.link_secret or config.replication_token
    return LinkCredential(id_of(text), hash_of(text)) if text is not None else None
