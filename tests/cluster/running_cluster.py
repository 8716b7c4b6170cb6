"""A whole cluster in one event loop: real nodes, real files, real TCP links between them.

Each replica reaches the primary through a `Relay` of its own, so that a test can hold, slow
or cut its link. Requests go to a node the way HTTP hands them over: `answer_now`, then `answer`.
Waiting is for conditions of the nodes, never for time alone.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from d1server.access.grants import EVERYTHING
from d1server.config import Address, NodeConfig, Role
from d1server.datadir import open_data_dir
from d1server.primary_node import PrimaryNode
from d1server.query import AdminRequest, Answer, Constraint, OnTimeout, QueryRequest, answered
from d1server.replica_node import ReplicaNode
from engine.files import Disk
from engine.resources import Resources
from engine.threads import Threads
from primary.database import PrimaryDatabase
from proto.api import Shape, decode_query
from proto.tokens import Bookmark
from replica.database import ReplicaDatabase
from replica.receiver import ReceiverState
from tests.cluster.relay import Relay, relaying
from tests.waiting import EVENT_S_MAX, until

_CONSTRAINTS = {one.value: one for one in Constraint}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, taken apart."""

    status: int
    results: list[list[list[Any]]]  # of each statement its rows
    meta: dict[str, Any]  # of the last statement
    message: str
    bookmark: Bookmark | None
    answer: Answer

    @property
    def rows(self) -> list[list[Any]]:
        return self.results[-1]

    @property
    def mark(self) -> Bookmark:
        assert self.bookmark is not None
        return self.bookmark

    @property
    def value(self) -> Any:
        return self.rows[0][0]


class NodeUnderTest:
    """A node that can be asked, stopped and started again."""

    def __init__(self, config: NodeConfig, disk: Disk) -> None:
        self.config = config
        self.disk = disk
        self.relay: Relay | None = None
        self.grant = EVERYTHING  # of whoever asks
        self._stack: AsyncExitStack | None = None
        self.node: PrimaryNode | ReplicaNode

    async def start(self) -> None:
        async with AsyncExitStack() as stack:
            config = self.config
            data = stack.enter_context(open_data_dir(config.data_dir, config.role.value, self.disk))
            io, readers = Threads(f"io-{config.name}", 4), Threads(f"read-{config.name}", 4)
            stack.callback(io.close)
            stack.callback(readers.close)
            resources = Resources(
                disk=self.disk,
                limits=config.sql,
                io=io,
                readers=readers,
                query_deadline_s=config.query_deadline_s,
                log_bytes_max=config.log_bytes_max,
            )
            kind = PrimaryNode if config.role is Role.PRIMARY else ReplicaNode
            self.node = kind(config, data, resources)
            await stack.enter_async_context(self.node.running())
            self._stack = stack.pop_all()

    async def stop(self) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def link(self) -> Relay:
        """What stands between this replica and its primary."""
        assert self.relay is not None
        return self.relay

    @property
    def primary(self) -> PrimaryNode:
        assert isinstance(self.node, PrimaryNode)
        return self.node

    @property
    def replica(self) -> ReplicaNode:
        assert isinstance(self.node, ReplicaNode)
        return self.node

    # --- asking

    async def ask(
        self,
        body: object,
        *,
        db: str = "shop",
        session: Bookmark | str | None = None,
        wait_ms: int | None = None,
        on_timeout: OnTimeout = OnTimeout.PRIMARY,
        key: str | None = None,
    ) -> Reply:
        """Send a decoded body as a client would."""
        request = request_of(body, db=db, session=session)
        request.grant = self.grant
        request.max_wait_s = None if wait_ms is None else wait_ms / 1000
        request.on_timeout, request.idempotency_key = on_timeout, key
        answer = await answered(self.node.queries, request)
        await asyncio.sleep(0)  # as HTTP between two requests of a connection
        return reply_of(answer)

    async def sql(
        self,
        sql: str,
        *params: object,
        db: str = "shop",
        session: Bookmark | str | None = None,
        wait_ms: int | None = None,
        on_timeout: OnTimeout = OnTimeout.PRIMARY,
        key: str | None = None,
    ) -> Reply:
        """Run one statement; the reply may be a refusal."""
        return await self.ask(
            {"sql": sql, "params": params},
            db=db,
            session=session,
            wait_ms=wait_ms,
            on_timeout=on_timeout,
            key=key,
        )

    async def run(self, sql: str, *params: object, db: str = "shop") -> Bookmark:
        """Run one statement that must work; its bookmark."""
        reply = await self.sql(sql, *params, db=db)
        assert reply.status == 200, reply
        return reply.mark

    async def administer(self, op: str, database: str = "", body: object = None) -> Reply:
        encoded = b"" if body is None else json.dumps(body).encode()
        request = AdminRequest(op=op, database=database, body=encoded, hops=0, grant=self.grant)
        return reply_of(await self.node.administer(request))

    async def create(self, name: str) -> Reply:
        return await self.administer("create", body={"name": name})

    # --- looking

    def database(self, name: str = "shop") -> PrimaryDatabase | ReplicaDatabase:
        found = self.node.find(name)
        assert found is not None, f"{self.name} does not know {name}"
        return found

    def replica_of(self, name: str = "shop") -> ReplicaDatabase:
        found = self.database(name)
        assert isinstance(found, ReplicaDatabase)
        return found

    def folder(self, name: str = "shop") -> Path:
        return self.database(name).folder

    def shown(self, name: str = "shop") -> dict[str, Any]:
        """What /status says of a database."""
        databases: Any = self.node.status()["databases"]
        shown: dict[str, Any] = databases[name]
        return shown

    @property
    def waiting(self) -> int:
        """Reads of this replica that wait: for a commit, or for the primary's word on one."""
        forwarder = self.replica._receiver.forwarder
        return self.replica_of().waiter.waiting + forwarder.waiting

    @property
    def is_following(self) -> bool:
        return self.replica._receiver.state is ReceiverState.FOLLOWING

    def has_reached(self, seq: int, db: str = "shop") -> bool:
        found = self.node.find(db)
        return isinstance(found, ReplicaDatabase) and found.is_here and found.applied >= seq


class Cluster:
    """See the module's head; made by `running_cluster`."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self.replicas: list[NodeUnderTest] = []
        self.primary: NodeUnderTest

    @property
    def nodes(self) -> list[NodeUnderTest]:
        return [self.primary, *self.replicas]

    async def add_primary(self, disk: Disk | None = None, **settings: Any) -> NodeUnderTest:
        config = NodeConfig(
            role=Role.PRIMARY,
            data_dir=self.folder / "primary",
            replication=Address("127.0.0.1", 0),
            name="primary",
            **settings,
        )
        self.primary = NodeUnderTest(config, disk or Disk())
        await self.primary.start()
        self._stack.push_async_callback(self.primary.stop)
        return self.primary

    async def add_replica(
        self, disk: Disk | None = None, *, starts: bool = True, **settings: Any
    ) -> NodeUnderTest:
        relay = await self._stack.enter_async_context(relaying())
        relay.aim(*self.primary.primary.replication_address)
        name = f"replica-{len(self.replicas) + 1}"
        config = NodeConfig(
            role=Role.REPLICA,
            data_dir=self.folder / name,
            primary=Address("127.0.0.1", relay.port),
            name=name,
            region="WEUR",
            **{"read_wait_s": EVENT_S_MAX} | settings,
        )
        replica = NodeUnderTest(config, disk or Disk())
        replica.relay = relay
        self.replicas.append(replica)
        self._stack.push_async_callback(replica.stop)
        if starts:
            await replica.start()
        return replica

    async def start_primary(self) -> None:
        """Start the stopped primary again; it has a new port, which the relays learn."""
        await self.primary.start()
        for replica in self.replicas:
            replica.link.aim(*self.primary.primary.replication_address)

    def configure(self, node: NodeUnderTest, **settings: Any) -> None:
        """Change settings of a stopped node."""
        node.config = replace(node.config, **settings)

    async def create(self, name: str = "shop") -> None:
        reply = await self.primary.create(name)
        assert reply.status == 200, reply

    async def caught_up(
        self, db: str = "shop", *, nodes: Sequence[NodeUnderTest] | None = None
    ) -> None:
        """Return when the replicas have what the primary has now."""
        seq = self.primary.database(db).durable.seq
        for replica in self.replicas if nodes is None else nodes:
            await until(partial(replica.has_reached, seq, db), f"{replica.name} at {seq}")

    async def equal(self, db: str = "shop") -> str:
        """Wait until all nodes have the same state; its checksum."""
        await self.caught_up(db)
        shown = [node.shown(db) for node in self.nodes]
        states = {(one["applied"], one["checksum"], one["size_bytes"]) for one in shown}
        assert len(states) == 1, shown
        checksum: str = shown[0]["checksum"]
        return checksum


@asynccontextmanager
async def running_cluster(folder: Path) -> AsyncIterator[Cluster]:
    """A cluster without nodes yet; whatever is added to it ends with the block."""
    async with AsyncExitStack() as stack:
        yield Cluster(folder, stack)


async def settle() -> None:
    """Let what is ready run, a few turns long."""
    for _ in range(20):
        await asyncio.sleep(0)


def request_of(
    body: object, *, db: str = "shop", session: Bookmark | str | None = None
) -> QueryRequest:
    """A request as HTTP would decode it."""
    encoded = json.dumps(body).encode()
    constraint, bookmark = Constraint.NONE, None
    if isinstance(session, Bookmark):
        constraint, bookmark = Constraint.BOOKMARK, session
    elif session is not None:
        constraint = _CONSTRAINTS[session]
    return QueryRequest(
        database=db,
        statements=decode_query(encoded),
        shape=Shape.ARRAYS,
        constraint=constraint,
        bookmark=bookmark,
        max_wait_s=None,
        on_timeout=OnTimeout.PRIMARY,
        idempotency_key=None,
        hops=0,
        body=encoded,
        grant=EVERYTHING,
    )


def reply_of(answer: Answer) -> Reply:
    """An answer, taken apart."""
    body = json.loads(answer.body)
    results, meta = [], {}
    if body["success"] and isinstance(body["result"], list):
        for one in body["result"]:
            if "results" in one:
                results.append(one["results"]["rows"])
                meta = one["meta"]
    message = "; ".join(error["message"] for error in body["errors"])
    bookmark = Bookmark.parse(answer.bookmark) if answer.bookmark else None
    return Reply(answer.status, results, meta, message, bookmark, answer)
