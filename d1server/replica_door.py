"""The primary's end of one replica's link: greeting, feed, forwarded requests.

A caller is a replica if it proves to know a live token with the scope replicate, or shows a
certificate of the CA that the primary asks for. While the cluster has no tokens, and listens
where that is allowed, everybody is. Forwarded requests are judged here once more, by the token
with which the client came to the replica: the replica is trusted to say which one it was.
"""

import asyncio
import contextlib
import logging
from functools import partial
from logging import DEBUG, INFO
from time import monotonic
from typing import TYPE_CHECKING, Final

from d1server.access.exposure import is_loopback
from d1server.access.grants import Grant, NotAdmitted
from d1server.access.permissions import forbid, not_admitted, refuse_read
from d1server.access.token_uses import TOKEN_USES_OP, decode_uses
from d1server.config import NAME_PATTERN, Address
from d1server.insights.cost_batch import QUERY_COSTS_OP, decode_batch
from d1server.link import GREETING_BYTES_MAX, PeerLink
from d1server.primary_queries import ANSWER_BYTES_MAX, refuse_bookmark, too_large_to_forward
from d1server.query import (
    BOOKMARK_OP,
    QUERY_OPS,
    AdminRequest,
    Answer,
    OnTimeout,
    QueryRequest,
    answered,
)
from d1server.refusals import answer_refusal, unknown_database
from d1server.router import BookmarkAge, age_of
from d1server.transfers.file_relay import FILE_GET, FILE_PUT, answer_piece
from d1server.web.errors import Fault, refuse
from d1server.web.headers import BOOKMARK_HEADER, NO_WISHES, Wishes, read_wishes
from primary.database import PrimaryDatabase
from primary.feed import ReplicaFeed
from proto.api import LARGE_BODY_BYTES, decode_query
from proto.errors import ProofInvalid, RequestInvalid
from proto.handshake import NONCE_BYTES, PrimaryHandshake
from proto.messages import (
    PROTOCOL_VERSION,
    Ack,
    Follow,
    Forward,
    Goodbye,
    Hello,
    Message,
    Proof,
    Refuse,
    Reply,
    Unfollow,
    Welcome,
)

if TYPE_CHECKING:
    from d1server.primary_node import PrimaryNode

logger = logging.getLogger(__name__)

_GREETING_S_MAX: Final = 10.0
_GOODBYE_S_MAX: Final = 1.0  # for requests of a replica that are under way when the primary stops
_NAME_S: Final = 3.5  # for a link to show that it lives; a replica that waits gives up after 5 s
_IN_FLIGHT_S: Final = 1.0  # what comes so late was not sent before the other one came
_LEAVE_S: Final = 1.0  # for the answer to whoever made the first token through a replica
_NO_TOKEN: Final = (
    "this primary asks for an access token: make one there with `d1server token create --scope "
    "replicate` and give it to the replica as --replication-token"
)
_TOKEN_REFUSED: Final = (
    "its --replication-token is no live token with the scope replicate here: make one with "
    "`d1server token create --scope replicate`"
)
_SECRET_IN_CLEAR: Final = (
    "the answer would carry the new token over a link without TLS: ask the primary itself"
)
_FORWARDS_MAX: Final = 4096  # under way for one replica; it sends no more itself
_FORWARDS_BYTES_MAX: Final = 256 * 1024 * 1024  # of their bodies; its HTTP side takes half of that


class ReplicaDoor:
    """See the module's head. One per link, until it is lost."""

    def __init__(self, link: PeerLink, node: "PrimaryNode") -> None:
        """Take the link over; nothing is said before the replica's `Hello`."""
        self._link = link
        self._host = link.host  # also once the link is lost
        self._node = node
        self._feed: ReplicaFeed | None = None
        self._hello: Hello | None = None
        self._handshake: PrimaryHandshake | None = None
        self._leaving: asyncio.Event | None = None  # set when nobody waits for anything any more
        self._is_quiet = False  # the replica has said that it will not ask for more
        self._forwards = 0  # under way
        self._forwards_bytes = 0
        link.on_message = self._on_message
        link.bound_frames(GREETING_BYTES_MAX)

    @property
    def is_welcome(self) -> bool:
        """The replica has said who it is and was taken."""
        return self._feed is not None

    @property
    def name(self) -> str:
        """The replica's name."""
        return self._hello.node if self._hello is not None else self._link.peer

    async def until_lost(self) -> None:
        """Return when the link has ended; nothing of it remains then."""
        late = asyncio.get_running_loop().call_later(_GREETING_S_MAX, self._on_greeting_late)
        try:
            reason = await self._link.wait_lost()
            is_told = self.is_welcome or not self._node.strangers.note(self._host, monotonic())
            logger.log(INFO if is_told else DEBUG, "link with %s ended: %s", self.name, reason)
        finally:
            late.cancel()
            if self._leaving is not None:
                self._leaving.set()
            if self._feed is not None:
                self._feed.close()
            self._link.abort("closed here")

    async def leave(self, reason: str) -> None:
        """Say goodbye; end the link when what was forwarded until the replica knew is answered."""
        if self.is_welcome and not self._link.lost.done():
            self._leaving = asyncio.Event()
            self._link.send(Goodbye(reason))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE_S_MAX):
                    await self._leaving.wait()
        self._end()

    def close(self, reason: str) -> None:
        """Say goodbye and end the link."""
        self._link.send(Goodbye(reason))
        self._end()

    def _end(self) -> None:
        self._link.close()
        if self._feed is not None:
            self._feed.close()  # its tasks hold databases open, which are closed next

    def abort(self, reason: str) -> None:
        """End the link at once."""
        self._link.abort(reason)

    def wake(self, key: bytes) -> None:
        """Commits of this database became durable."""
        if self._feed is not None:
            self._feed.wake(key)

    def forget(self, key: bytes) -> None:
        """This database is deleted."""
        if self._feed is not None:
            self._feed.forget(key)

    def heartbeat(self, databases: list[PrimaryDatabase], *, time_ms: int) -> None:
        """Tell the replica that we are there, and how far."""
        self.check_token()  # it may have expired
        if self._feed is not None:
            self._feed.heartbeat(databases, time_ms=time_ms)

    async def wait_applied(self, key: bytes, seq: int) -> None:
        """Return once the replica has applied this commit, or is gone."""
        if self._feed is not None:
            await self._feed.wait_applied(key, seq)

    def status(self) -> dict[str, object]:
        """The replica, for `/status`."""
        hello, feed = self._hello, self._feed
        assert hello is not None
        assert feed is not None
        return {
            "name": hello.node,
            "region": hello.region,
            "url": hello.url,
            "sent_bytes": self._link.sent_bytes,
            "received_bytes": self._link.received_bytes,
            "lag_ms": feed.lag_ms,
            "link": "tls" if self._link.is_private else "sealed" if hello.token_id else "plain",
            "problems": sum(1 for p in feed.progress.values() if p.problem),
        }

    def _on_message(self, message: Message) -> None:
        if self._feed is None:
            self._greet(message)
        elif isinstance(message, Ack):
            self._feed.acked(message)
        elif isinstance(message, Follow):
            self._feed.follow(message)
        elif isinstance(message, Forward):
            self._take_forward(message)
        elif isinstance(message, Unfollow):
            self._feed.unfollow(message)
        elif isinstance(message, Goodbye):
            self._is_quiet = True
            self._look_whether_done()
        else:
            self._link.abort(f"a replica does not send {type(message).__name__}")

    @property
    def lacks_token(self) -> bool:
        """Whether the replica has nothing to show, and the cluster asks for it."""
        is_known = self._hello is not None and bool(self._hello.token_id)
        return not (is_known or self._node.access.is_open or self._link.peer_certificate)

    def check_token(self) -> None:
        """End the link if its replica may not have it any more."""
        hello, access = self._hello, self._node.access
        if hello is None:
            return
        if hello.token_id:
            if access.link_key(hello.token_id) is None:
                self.close("the token of this replica is revoked or expired")
        elif self.lacks_token:
            close = partial(self.close, "the cluster has tokens now, and this replica has none")
            asyncio.get_running_loop().call_later(_LEAVE_S, close)

    def _on_greeting_late(self) -> None:
        if not self.is_welcome:
            self._link.abort("the greeting took too long")

    def _greet(self, message: Message) -> None:
        if self._handshake is not None:
            self._check_proof(self._handshake, message)
        elif self._hello is not None or not isinstance(message, Hello):
            self._link.abort("the first message was no Hello")
        elif message.version != PROTOCOL_VERSION:
            self._refuse(
                f"it speaks version {message.version} of the link, this primary "
                f"{PROTOCOL_VERSION}: run the same d1server on both"
            )
        elif not NAME_PATTERN.fullmatch(message.node):
            self._refuse("its name is none that a replica can have")
        else:
            self._link.peer = message.node
            self._hello = message
            self._authenticate(message)

    def _authenticate(self, hello: Hello) -> None:
        access, link = self._node.access, self._link
        if hello.token_id:
            key = access.link_key(hello.token_id)
            if key is None or len(hello.nonce) != NONCE_BYTES:
                self._refuse(_TOKEN_REFUSED)
                return
            self._handshake = PrimaryHandshake(key, hello, link.own_certificate)
            link.send(self._handshake.challenge)
            if not link.is_private:
                keys = self._handshake.keys
                link.seal(sent=keys.of_primary, received=keys.of_replica)
        elif access.is_open or link.peer_certificate:
            self._take(hello)
        else:
            self._refuse(_NO_TOKEN)

    def _check_proof(self, handshake: PrimaryHandshake, message: Message) -> None:
        assert self._hello is not None
        try:
            if not isinstance(message, Proof):
                raise ProofInvalid(f"a {type(message).__name__} is no proof")
            handshake.check(message)
        except ProofInvalid as exc:
            logger.warning("%s (%s): %s", self._link.peer, self._link.host, exc)
            self._refuse(_TOKEN_REFUSED)
        else:
            self._take(self._hello)

    def _take(self, hello: Hello) -> None:
        """Welcome a replica, if it is one of this cluster."""
        cluster = self._node.identity[0]
        if hello.cluster not in ("", cluster):
            self._refuse(
                f"it belongs to the cluster {hello.cluster[:64]}, this primary to {cluster}: "
                "start it with an empty --data-dir to have it copy this cluster"
            )
            return
        rival = self._node.door_of(hello.node)
        if rival is None or rival.gives_way_to(hello):
            self._welcome(hello)
        else:
            self._node.tasks.spawn(self._outlast(rival, hello), "name")

    def gives_way_to(self, hello: Hello) -> bool:
        """Whether who says this is the same process over a newer link; then this one ends."""
        assert self._hello is not None
        is_same = bool(hello.life) and hello.life == self._hello.life
        if is_same:
            self._link.abort("the same replica has come back")
        return is_same

    async def _outlast(self, rival: "ReplicaDoor", hello: Hello) -> None:
        """Take the name of a link that is dead; one that lives keeps it, and this one is refused.

        Each of two nodes with one name would show the figures of the other. Whoever lives says
        something every second; after a crash the system may not have told us yet.
        """
        asked_at = asyncio.get_running_loop().time()
        await asyncio.wait([rival.lost, self._link.lost], timeout=_NAME_S)
        if self._link.lost.done():
            return
        if not rival.lost.done() and rival.last_heard > asked_at + _IN_FLIGHT_S:
            self._refuse(rival.told_of(hello))
            return
        rival.abort("nothing is heard of it, and the replica has come back over another link")
        if self._node.door_of(hello.node) in (None, rival):
            self._welcome(hello)
        else:
            self._refuse("other replicas want its name at the same time: give each one a --name")

    @property
    def lost(self) -> "asyncio.Future[str]":
        """Why the link ended, once it has."""
        return self._link.lost

    @property
    def last_heard(self) -> float:
        """When the replica last said anything, on the loop's clock."""
        return self._link.last_heard

    def told_of(self, other: Hello) -> str:
        """Why another replica cannot have this one's name."""
        assert self._hello is not None
        taken = f"a replica named {other.node} is connected from {self._host} ({self._hello.url})"
        if other.node_id and other.node_id == self._hello.node_id:
            return (
                f"{taken}, and the --data-dir of one is a copy of the other's: start this one with "
                "an empty --data-dir and a --name of its own"
            )
        return f"{taken}: give this one a --name of its own"

    def _welcome(self, hello: Hello) -> None:
        cluster, node, region = self._node.identity
        self._link.bound_frames()
        self._link.send(Welcome(PROTOCOL_VERSION, cluster, node, region, ""))
        self._feed = ReplicaFeed(
            self._link, self._node.find_uuid, self._node.resources, self._node.tasks.spawn
        )
        logger.info("replica %s (%s) is connected", hello.node, hello.region)

    def _refuse(self, reason: str) -> None:
        logger.warning("refused the replica %s: %s", self._link.peer, reason)
        self._link.send(Refuse(reason))
        self._link.close()

    def _take_forward(self, forward: Forward) -> None:
        """Run a request, unless too many of this replica's are under way."""
        size = len(forward.body)
        if self._forwards >= _FORWARDS_MAX or self._forwards_bytes + size > _FORWARDS_BYTES_MAX:
            message = "too many requests of this replica are under way at the primary"
            self._reply(forward, refuse(Fault.OVERLOADED, message))
            return
        self._forwards += 1
        self._forwards_bytes += size
        self._node.tasks.spawn(self._answer(forward), f"forward:{forward.id}")

    async def _answer(self, forward: Forward) -> None:
        try:
            self._reply(forward, await self._answered(forward))
        finally:
            self._forwards -= 1
            self._forwards_bytes -= len(forward.body)
            self._look_whether_done()

    async def _answered(self, forward: Forward) -> Answer:
        try:
            answer = await self._run(forward)
        except Exception as exc:
            answer = answer_refusal(exc)
        if len(answer.body) > ANSWER_BYTES_MAX:  # of a read, or it had been refused before COMMIT
            answer = answer_refusal(too_large_to_forward(len(answer.body)), answer.bookmark)
        return answer

    def _look_whether_done(self) -> None:
        """End the link if the replica asks for nothing more, and has all its answers."""
        if not self._is_quiet:
            return
        if self._leaving is None:  # the replica stops: it waits for no answer
            self._link.close()
        elif self._forwards == 0:
            self._leaving.set()

    def _reply(self, forward: Forward, answer: Answer) -> None:
        self._link.send(
            Reply(
                forward.id,
                answer.status,
                answer.body,
                answer.bookmark or "",
                answer.should_retry,
                answer.retry_after_s,
            )
        )

    async def _run(self, forward: Forward) -> Answer:
        if forward.operation == TOKEN_USES_OP:
            await self._node.note_token_uses(decode_uses(forward.body))
            return Answer(200, b"", None)
        if forward.operation == QUERY_COSTS_OP:
            return await self._note_costs(forward.body)
        if forward.operation in (FILE_PUT, FILE_GET):  # the signed URL is their authority
            return await answer_piece(self._node.transfers, forward.operation, forward.body)
        try:
            grant = self._node.access.admit_caller(forward.caller)
        except NotAdmitted:
            return not_admitted()
        if forward.operation == BOOKMARK_OP:
            return self._judge(forward, grant)
        if forward.operation in QUERY_OPS:
            if len(forward.body) <= LARGE_BODY_BYTES:
                query = _query(forward, grant)
            else:
                query = await asyncio.to_thread(_query, forward, grant)
            return await answered(self._node.queries, query)
        if forward.operation == "token-create" and not self._may_carry_secrets:
            return forbid(_SECRET_IN_CLEAR)
        return await self._node.administer(
            AdminRequest(
                op=forward.operation,
                database=forward.database,
                body=forward.body,
                hops=forward.hops,
                grant=grant,
            )
        )

    async def _note_costs(self, body: bytes) -> Answer:
        """200: the replica need not keep this batch; if it was not counted, the body says why."""
        try:
            batch = decode_batch(body)
        except RequestInvalid as exc:
            return Answer(200, str(exc).encode("utf-8", "replace"), None)
        await self._node.costs.note(batch)
        return Answer(200, b"", None)

    @property
    def _may_carry_secrets(self) -> bool:
        is_near = is_loopback(Address(self._link.host, 0))
        return self._link.is_private or is_near or self._node.is_insecure

    def _judge(self, forward: Forward, grant: Grant) -> Answer:
        """Whether a bookmark will ever be satisfied: 200, or the refusal."""
        database = self._node.find(forward.database)
        forbidden = refuse_read(grant, database.uuid if database is not None else None)
        if forbidden is not None:
            return forbidden
        if database is None:
            return unknown_database(forward.database)
        bookmark = _wishes(forward).bookmark
        assert bookmark is not None, "only a bookmark is asked about"
        age = age_of(bookmark, database.head, lambda _seq: None)
        if age is BookmarkAge.REACHED:
            return Answer(200, b"", None)
        return refuse_bookmark(bookmark, age, database.head)


def _wishes(forward: Forward) -> Wishes:
    """The session's wish, in the text of its header."""
    return read_wishes([(BOOKMARK_HEADER, forward.constraint)]) if forward.constraint else NO_WISHES


def _query(forward: Forward, grant: Grant) -> QueryRequest:
    wishes = _wishes(forward)
    dialect, shape = QUERY_OPS[forward.operation]
    return QueryRequest(
        database=forward.database,
        statements=decode_query(forward.body, dialect),
        shape=shape,
        constraint=wishes.constraint,
        bookmark=wishes.bookmark,
        max_wait_s=None,
        on_timeout=OnTimeout.PRIMARY,
        idempotency_key=forward.idempotency_key or None,
        hops=forward.hops,
        body=forward.body,
        grant=grant,
        dialect=dialect,
    )
