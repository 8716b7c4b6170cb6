"""The replica's end of the link: dial, greet, follow, and hand on what comes.

`run` never ends by itself. A lost link is dialled again (`replica/redial.py`); what was applied
stays served meanwhile. A refusal is kept and shown, and tried again seldom:
an operator may cure it at the primary.
"""

import asyncio
import enum
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, NoReturn, Protocol

from proto.handshake import LinkCredential
from proto.link import DialledLink, LinkLost
from proto.messages import (
    Ack,
    Commits,
    Follow,
    Goodbye,
    Heartbeat,
    Hello,
    Message,
    Position,
    Reply,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPages,
    Unfollow,
    Welcome,
)
from replica.database import ReplicaDatabase
from replica.errors import PeerRefused
from replica.forward import Forwarder
from replica.greeting import Greeting
from replica.redial import Redial

logger = logging.getLogger(__name__)

_REFUSED_PAUSE_S: Final = 10.0
_ACK_S: Final = 0.005  # acknowledgements of so long go in one message
_BEAT_S: Final = 1.0  # one goes out at least so often
_UNGREETED: Final = (
    " before it answered; if it goes on: do both ends have TLS, with certificates of the CA that"
    " the other one names as --tls-ca, or neither?"
)


class ReceiverState(enum.Enum):
    """Where the link is."""

    CONNECTING = "connecting"
    FOLLOWING = "following"
    REFUSED = "refused"


class Follower(Protocol):
    """The node that the receiver receives for."""

    def hello(self) -> Hello:
        """Who we are."""

    async def welcomed(self, welcome: Welcome) -> None:
        """The primary has taken us on; from here on `databases` knows the catalog's database."""

    def databases(self) -> Iterable[ReplicaDatabase]:
        """All databases, the catalog first."""

    def active(self) -> Iterable[ReplicaDatabase]:
        """The databases that may have something to acknowledge: not the many idle ones."""

    def find_uuid(self, uuid: bytes) -> ReplicaDatabase | None:
        """The database of this uuid."""


class Receiver:
    """See the module's head; on the event loop."""

    def __init__(
        self,
        dial: Callable[[], Awaitable[DialledLink]],
        follower: Follower,
        credential: LinkCredential | None = None,
    ) -> None:
        """Receive for `follower` over the links that `dial` makes.

        With a credential only from a primary that knows it.
        """
        self._dial = dial
        self._follower = follower
        self._credential = credential
        self._link: DialledLink | None = None
        self._following = False
        self._greeting: Greeting | None = None
        self._ack_asked = False
        self._heads_known = False
        self._redial = Redial()
        self.forwarder = Forwarder(lambda: self._link if self._following else None, self._redial)
        self.state = ReceiverState.CONNECTING
        self.reason = "not connected yet"
        self.contact_at = time.monotonic()

    @property
    def has_heads(self) -> bool:
        """The primary has told its heads on this link: how far we are behind is known."""
        return self._heads_known

    async def run(self) -> NoReturn:
        """Follow the primary until cancelled."""
        while True:
            try:
                link = await self._dial()
                await self._follow_over(link)
            except (LinkLost, OSError) as exc:  # OSError: our own disk, when we are taken on
                self._note(ReceiverState.CONNECTING, str(exc))
            except PeerRefused as exc:
                self._note(ReceiverState.REFUSED, str(exc))
            is_refused = self.state is ReceiverState.REFUSED
            self._redial.on_failed(is_final=is_refused)
            if is_refused:
                await asyncio.sleep(_REFUSED_PAUSE_S)
            else:
                await self._redial.pause()

    def _note(self, state: ReceiverState, reason: str) -> None:
        if (state, reason) != (self.state, self.reason):
            logger.warning("no link to the primary: %s", reason)
        self.state, self.reason = state, reason

    async def _follow_over(self, link: DialledLink) -> None:
        """One link, from the greeting to its end. Raises `LinkLost`, `PeerRefused`."""
        link.on_message = self._on_message
        self._link = link
        beat: asyncio.Task[None] | None = None
        try:
            greeting = Greeting(link, self._follower.hello(), self._credential)
            self._greeting = greeting
            lost = asyncio.ensure_future(link.wait_lost())
            waited: list[asyncio.Future[Any]] = [lost, greeting.welcome]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not greeting.welcome.done():
                reason = lost.result()
                raise LinkLost(reason + _UNGREETED if link.is_cut else reason)
            await self._follower.welcomed(greeting.welcome.result())
            self._note_following()
            self.follow(self._follower.databases())
            beat = asyncio.create_task(self._beat(), name="acks")
            raise LinkLost(await lost)
        finally:
            if beat is not None:
                beat.cancel()
            self._link, self._following, self._heads_known = None, False, False
            self._redial.on_lost()
            link.close()
            self.forwarder.on_link_lost()

    def _note_following(self) -> None:
        logger.info("following the primary")
        self._following = True
        self.state, self.reason = ReceiverState.FOLLOWING, ""
        self._redial.on_following()

    def follow(self, databases: Iterable[ReplicaDatabase], *, is_copy_wanted: bool = False) -> None:
        """Have these databases fed from where they are. Without a link: when there is one."""
        if self._link is None or not self._following:
            return
        sound: list[Position] = []
        unsound: list[Position] = []
        for database in databases:
            position = Position.at(database.uuid, database.restart_feed())
            (unsound if is_copy_wanted or database.problem else sound).append(position)
        if sound:
            self._link.send(Follow(sound))
        if unsound:
            self._link.send(Follow(unsound, snapshot=True))

    def unfollow(self, uuids: list[bytes]) -> None:
        """These databases are gone."""
        if self._link is not None:
            self._link.send(Unfollow(uuids))

    def say_goodbye(self, reason: str) -> None:
        """End the link on purpose."""
        if self._link is not None:
            self._link.send(Goodbye(reason))
            self._link.close()

    def ack_soon(self) -> None:
        """Something was written or applied: tell the primary before long."""
        if not self._ack_asked and self._following:
            self._ack_asked = True
            asyncio.get_running_loop().call_later(_ACK_S, self._ack)

    def _ack(self) -> None:
        self._ack_asked = False
        if self._link is None:
            return
        news = []
        lag_ms = 0.0
        for database in self._follower.active():
            lag_ms = max(lag_ms, database.lag_ms)
            if (said := database.news()) is not None:
                news.append(said)
        self._link.send(Ack(news, lag_ms))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_S)
            self._ack()

    def _on_message(self, message: Message) -> None:
        assert self._greeting is not None
        if not self._greeting.is_welcome:
            self._greeting.take(message)
            return
        self.contact_at = time.monotonic()
        if isinstance(message, Commits):
            if (database := self._follower.find_uuid(message.uuid)) is not None:
                database.receive(message.parts)
        elif isinstance(message, Reply):
            self.forwarder.on_reply(message)
        elif isinstance(message, Heartbeat):
            self._on_heartbeat(message)
        elif isinstance(message, SnapshotPages):
            if (database := self._follower.find_uuid(message.uuid)) is not None:
                database.copy_pages(message)
        else:
            self._on_rare_message(message)

    def _on_rare_message(self, message: Message) -> None:
        if isinstance(message, SnapshotBegin):
            if (database := self._follower.find_uuid(message.base.uuid)) is not None:
                database.begin_copy(message)
        elif isinstance(message, SnapshotEnd):
            if (database := self._follower.find_uuid(message.until.uuid)) is not None:
                database.end_copy(message)
        elif isinstance(message, Goodbye) and self._link is not None:
            logger.info("the primary says goodbye: %s", message.reason)
            self._following = False  # what is asked from now on waits for the next link
            self._link.send(Goodbye("nothing more will come"))

    def _on_heartbeat(self, message: Heartbeat) -> None:
        for head in message.heads:
            if (database := self._follower.find_uuid(head.uuid)) is not None:
                database.note_head(head.bookmark)
        self._heads_known = True
