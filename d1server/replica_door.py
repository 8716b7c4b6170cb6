"""The primary's end of one replica's link: greeting, feed, forwarded requests."""

import logging
from typing import TYPE_CHECKING, Final

from d1server.link import PeerLink
from d1server.primary_queries import refuse_bookmark
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
from d1server.web.errors import Fault, refuse
from d1server.web.headers import BOOKMARK_HEADER, NO_WISHES, Wishes, read_wishes
from primary.database import PrimaryDatabase
from primary.feed import ReplicaFeed
from proto.api import decode_query
from proto.framing import BODY_BYTES_MAX
from proto.messages import (
    PROTOCOL_VERSION,
    Ack,
    Follow,
    Forward,
    Goodbye,
    Hello,
    Message,
    Refuse,
    Reply,
    Unfollow,
    Welcome,
)

if TYPE_CHECKING:
    from d1server.primary_node import PrimaryNode

logger = logging.getLogger(__name__)

_FORWARDS_MAX: Final = 4096  # under way for one replica; more stay unanswered until it hangs up


class ReplicaDoor:
    """See the module's head. One per link, until it is lost."""

    def __init__(self, link: PeerLink, node: "PrimaryNode") -> None:
        """Take the link over; nothing is said before the replica's `Hello`."""
        self._link = link
        self._node = node
        self._feed: ReplicaFeed | None = None
        self._hello: Hello | None = None
        link.on_message = self._on_message

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
        try:
            reason = await self._link.wait_lost()
            logger.info("link with %s ended: %s", self.name, reason)
        finally:
            if self._feed is not None:
                self._feed.close()
            self._link.abort("closed here")

    def close(self, reason: str) -> None:
        """Say goodbye and end the link."""
        self._link.send(Goodbye(reason))
        self._link.close()
        if self._feed is not None:
            self._feed.close()  # its tasks hold databases open, which are closed next

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
            self._node.tasks.spawn(self._answer(message), f"forward:{message.id}")
        elif isinstance(message, Unfollow):
            self._feed.unfollow(message)
        elif isinstance(message, Goodbye):
            self._link.close()
        else:
            self._link.abort(f"a replica does not send {type(message).__name__}")

    def _greet(self, message: Message) -> None:
        cluster, node, region = self._node.identity
        if not isinstance(message, Hello):
            self._link.abort("the first message was no Hello")
        elif message.version != PROTOCOL_VERSION:
            self._refuse(
                f"it speaks version {message.version} of the link, this primary "
                f"{PROTOCOL_VERSION}: run the same d1server on both"
            )
        elif message.cluster not in ("", cluster):
            self._refuse(
                f"it belongs to the cluster {message.cluster}, this primary to {cluster}: "
                "start it with an empty --data-dir to have it copy this cluster"
            )
        else:
            self._link.peer = message.node
            self._hello = message
            self._link.send(Welcome(PROTOCOL_VERSION, cluster, node, region, ""))
            self._feed = ReplicaFeed(
                self._link, self._node.find_uuid, self._node.resources, self._node.tasks.spawn
            )
            logger.info("replica %s (%s) is connected", message.node, message.region)

    def _refuse(self, reason: str) -> None:
        logger.warning("refused the replica %s: %s", self._link.peer, reason)
        self._link.send(Refuse(reason))
        self._link.close()

    async def _answer(self, forward: Forward) -> None:
        try:
            answer = await self._run(forward)
        except Exception as exc:
            answer = answer_refusal(exc)
        if len(answer.body) > BODY_BYTES_MAX:
            answer = refuse(
                Fault.SQL_REFUSED,
                f"the request was run, but its answer of {len(answer.body)} bytes is too large to "
                "pass through a replica: ask for fewer rows at a time, or ask the primary itself",
                answer.bookmark,
            )
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
        if forward.operation == BOOKMARK_OP:
            return self._judge(forward)
        if forward.operation in QUERY_OPS:
            return await answered(self._node.queries, _query(forward))
        return await self._node.administer(
            AdminRequest(
                op=forward.operation,
                database=forward.database,
                body=forward.body,
                hops=forward.hops,
            )
        )

    def _judge(self, forward: Forward) -> Answer:
        """Whether a bookmark will ever be satisfied: 200, or the refusal."""
        database = self._node.find(forward.database)
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


def _query(forward: Forward) -> QueryRequest:
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
        dialect=dialect,
    )
