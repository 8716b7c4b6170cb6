"""Concurrent sessions that hop between nodes at random, and record what they did and saw.

Each session makes one request at a time, each on a node of its own choice, and carries the
largest bookmark it has seen. Now and then it begins anew: with nothing, or with a
bookmark handed over by another session. A request that fails is no violation as long as the
answer tells the truth about what was done; the checker compares it with the ledger.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

import d1client.retry
from d1client import D1OutcomeUnknown, RetryPolicy
from d1client.results import decode_rows
from d1client.transport import BOOKMARK_HEADER, Call, Reply, Transport
from proto.tokens import Bookmark
from tests.torture.cluster import Cluster, NodeProcess, Trouble
from tests.torture.history import Event, History, Outcome, Read, Write
from tests.torture.workload import (
    NUMBERS,
    READ_LEDGER,
    Question,
    Sql,
    Workload,
    seen_by,
    setup_statements,
)

ONE_TRY = RetryPolicy(tries_max=1)
REQUEST_S_MAX = 12.0  # longer than a replica waits for a bookmark
WRITES_SHARE = 0.5
PAUSE_S_MAX = 0.01  # between two requests of a session
AFTER_FAILURE_S = 0.02
LEDGER_PAGES_MAX = 10_000

OUTCOMES = {
    d1client.retry.Outcome.DONE: Outcome.OK,
    d1client.retry.Outcome.REFUSED: Outcome.FAIL,
    d1client.retry.Outcome.NOT_DONE: Outcome.FAIL,
    d1client.retry.Outcome.UNKNOWN: Outcome.INFO,
    d1client.retry.Outcome.FINAL_UNKNOWN: Outcome.INFO,
}


@dataclass(slots=True)
class Session:
    """One session: the largest bookmark it has seen, if any yet."""

    name: str
    seen: Bookmark | None = None


@dataclass(slots=True, kw_only=True)
class Load:
    """The sessions of one database, and everything they did."""

    cluster: Cluster
    database: str
    rng: random.Random
    base: Bookmark
    workload: Workload
    transports: dict[str, Transport]
    events: list[Event] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    answers_by_node: Counter[str] = field(default_factory=Counter)
    tolerated: tuple[bytes, ...] = ()  # texts of 4xx answers that are right under a fault
    handed_over: Bookmark | None = None
    sessions_begun: int = 0

    async def run_session(self) -> None:
        """Make requests until cancelled."""
        session = self._begin()
        while True:
            if self.rng.random() < 0.01:
                session = self._begin()
            node = self.rng.choice(self.cluster.nodes)
            writes = self.rng.random() < WRITES_SHARE
            done = await (self._write(session, node) if writes else self._read(session, node))
            await asyncio.sleep(self.rng.random() * PAUSE_S_MAX if done else AFTER_FAILURE_S)

    def _begin(self) -> Session:
        self.sessions_begun += 1
        inherited = self.handed_over if self.rng.random() < 0.5 else None
        return Session(f"s{self.sessions_begun}", inherited)

    async def _write(self, session: Session, node: NodeProcess) -> bool:
        id_, changes, statements = self.workload.next_write()
        supplied, invoked = session.seen, time.monotonic()
        outcome, bookmark = Outcome.INFO, None  # what stands if we are cancelled in the middle
        try:
            reply = await self._send(node, statements, supplied.text if supplied else None)
            outcome = OUTCOMES[reply.outcome]
            bookmark = self._bookmark(reply, node) if outcome is Outcome.OK else None
        finally:
            write = Write(
                id=id_,
                session=session.name,
                node=node.name,
                invoked=invoked,
                completed=time.monotonic(),
                outcome=outcome,
                changes=changes,
                supplied=supplied,
                bookmark=bookmark,
            )
            self.events.append(write)
        self._saw(session, bookmark)
        return outcome is Outcome.OK

    async def _read(self, session: Session, node: NodeProcess) -> bool:
        questions = self.workload.next_read()
        is_fresh = self.rng.random() < 0.1
        token = session.seen.text if session.seen else "first-unconstrained"
        invoked = time.monotonic()
        reply = await self._send(
            node, [one.statement for one in questions], "first-primary" if is_fresh else token
        )
        if OUTCOMES[reply.outcome] is not Outcome.OK:
            return False
        bookmark = self._bookmark(reply, node)
        self.events.append(
            Read(
                session=session.name,
                node=node.name,
                invoked=invoked,
                completed=time.monotonic(),
                seen=_seen(questions, reply.body),
                supplied=None if is_fresh else session.seen,
                bookmark=bookmark,
                is_fresh=is_fresh,
            )
        )
        self._saw(session, bookmark)
        return True

    async def _send(self, node: NodeProcess, statements: Sequence[Sql], token: str | None) -> Reply:
        headers = {} if token is None else {BOOKMARK_HEADER: token}
        body = encode(statements)
        path = f"/db/{self.database}/query"
        call = Call(path=path, body=body, headers=headers, repeatable=False)
        reply = await self.transports[node.name].call(call)
        if reply.status == 200:
            self.answers_by_node[node.name] += 1
            return reply
        self.failures[f"{node.name}: {reply.status or 'connection lost'}"] += 1
        if reply.status not in (0, 503) and not any(text in reply.body for text in self.tolerated):
            raise Trouble(f"{node.name} answered {reply.status} {reply.body[:300]!r} to {body!r}")
        return reply

    def _bookmark(self, reply: Reply, node: NodeProcess) -> Bookmark:
        if reply.bookmark is None:
            raise Trouble(f"{node.name} answered without a bookmark: {reply.body[:300]!r}")
        return Bookmark.parse(reply.bookmark)

    def _saw(self, session: Session, bookmark: Bookmark | None) -> None:
        if bookmark is None:
            return
        if session.seen is None or bookmark > session.seen:
            session.seen = bookmark
        if self.rng.random() < 0.05:
            self.handed_over = session.seen

    async def history(self) -> History:
        """Return the history, with the ledger as the primary holds it now; no load may run."""
        for _ in range(100):  # a write whose client is gone may still be on its way
            head = await _head(self.cluster, self.database)
            ledger = await self._read_ledger()
            if head == await _head(self.cluster, self.database):
                return History(
                    events=sorted(self.events, key=lambda event: event.completed),
                    ledger=ledger,
                    initial=NUMBERS,
                    base=self.base,
                    head=head,
                )
        raise Trouble(f"{self.database} does not come to rest")

    async def _read_ledger(self) -> list[int]:
        ledger: list[int] = []
        place = 0
        for _ in range(LEDGER_PAGES_MAX):
            primary = self.cluster.primary
            reply = await self._send(primary, [Sql(READ_LEDGER, (place,))], "first-primary")
            if reply.status != 200:
                raise Trouble(f"the primary does not give its ledger: {reply.as_error()}")
            rows = decode_rows(reply.body)[0].results
            if not rows:
                return ledger
            ledger += [int(str(row["id"])) for row in rows]
            place = int(str(rows[-1]["place"]))
        raise Trouble(f"the ledger of {self.database} has no end")

    async def close(self) -> None:
        """Close the connections of all sessions."""
        for transport in self.transports.values():
            await transport.close()


async def open_load(cluster: Cluster, database: str, seed: int, *, is_heavy: bool = False) -> Load:
    """Create a database with its tables, and wait until every node has them."""
    await cluster.create(database)
    transports = {
        node.name: Transport(node.url, policy=ONE_TRY, timeout_s=REQUEST_S_MAX)
        for node in cluster.nodes
    }
    rng = random.Random(seed)
    path = f"/db/{database}/query"
    body = encode(setup_statements())
    call = Call(path=path, body=body, headers={}, repeatable=False)
    reply = await transports[cluster.primary.name].call(call)
    if reply.status != 200:
        raise Trouble(f"the tables were not made: {reply.as_error()}")
    await cluster.wait_equal()
    return Load(
        cluster=cluster,
        database=database,
        rng=rng,
        base=await _head(cluster, database),
        workload=Workload(rng, is_heavy=is_heavy),
        transports=transports,
    )


def encode(statements: Sequence[Sql]) -> bytes:
    """Return the body of a request: the short form for one statement."""
    if len(statements) == 1:
        return msgspec.json.encode(statements[0])
    return msgspec.json.encode({"batch": statements})


def _seen(questions: Sequence[Question], body: bytes) -> dict[str, int | tuple[int, ...]]:
    try:
        return seen_by(questions, [one.results for one in decode_rows(body)])
    except (D1OutcomeUnknown, KeyError, ValueError) as exc:
        raise Trouble(f"a read was answered with {body[:300]!r}") from exc


async def _head(cluster: Cluster, database: str) -> Bookmark:
    status = await cluster.status(cluster.primary)
    head = status.databases[database].head
    if head is None:
        raise Trouble(f"/status of the primary shows no head of {database}")
    return Bookmark.parse(head)
