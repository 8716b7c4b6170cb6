"""The messages of the replication link, typed; what they mean and who may send them.

One connection per replica node carries all databases. The replica dials, says
`Hello`, and is answered `Welcome` or `Refuse`; if it names an access token, both
prove in between that they know it (`proto/handshake.py`). It then says with `Follow` for
each database where it is; the primary streams `Commits` from there, or, when its log
does not reach back that far, a snapshot (`SnapshotBegin`, `SnapshotPages`...,
`SnapshotEnd`) and then `Commits`. `Ack`s flow back. `Forward` carries what a replica's
clients ask of the primary, `Reply` the answer.

    replica -> primary    Hello  Proof  Follow  Unfollow  Ack  Forward  Goodbye
    primary -> replica    Challenge  Welcome  Refuse  Commits  SnapshotBegin  SnapshotPages
                          SnapshotEnd  Heartbeat  Reply  Goodbye

Encoded as msgpack arrays: the message's name, then its fields in order. Fields are only
ever added at the end, with a default; `PROTOCOL_VERSION` grows when that is not enough.
"""

from typing import Final, TypeAlias

import msgspec

from proto.errors import MessageInvalid
from proto.record import Buffer
from proto.tokens import Bookmark, CommitToken

PROTOCOL_VERSION: Final = 1


class _Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What all messages have in common: their name is their tag."""


class Position(msgspec.Struct, frozen=True, array_like=True):
    """A place in the history of the database `uuid` (16 bytes)."""

    uuid: bytes
    epoch: int
    seq: int
    digest: bytes

    @classmethod
    def at(cls, uuid: bytes, bookmark: Bookmark) -> "Position":
        """`bookmark` in the database `uuid`."""
        return cls(uuid, bookmark.token.epoch, bookmark.token.seq, bookmark.digest)

    @property
    def bookmark(self) -> Bookmark:
        """The place without its database."""
        return Bookmark(CommitToken(self.epoch, self.seq), self.digest)


class Hello(_Message, frozen=True, tag=True, array_like=True):
    """First word of a replica."""

    version: int
    cluster: str
    """The cluster this node belongs to; empty on its first contact."""
    node: str
    region: str
    url: str
    """Where clients reach the replica, for the primary's status page."""
    token_id: str = ""
    """Of the access token that the replica has; empty: none."""
    nonce: bytes = b""
    """32 random bytes, if there is a token."""
    node_id: str = ""
    """Of the replica's data directory."""
    life: str = ""
    """Another text for each process of a replica, empty from older ones."""


class Challenge(_Message, frozen=True, tag=True, array_like=True):
    """The primary proves that it knows the replica's token, and asks for the same."""

    nonce: bytes
    proof: bytes


class Proof(_Message, frozen=True, tag=True, array_like=True):
    """The replica's answer to a `Challenge`."""

    proof: bytes


class Welcome(_Message, frozen=True, tag=True, array_like=True):
    """The primary takes the replica on."""

    version: int
    cluster: str
    node: str
    region: str
    url: str


class Refuse(_Message, frozen=True, tag=True, array_like=True):
    """The primary does not; dialling again does not help."""

    reason: str


class Follow(_Message, frozen=True, tag=True, array_like=True):
    """The replica wants the commits of these databases from these positions on.

    Sent again for a database, it restarts its feed there. `snapshot` asks for a whole
    copy whatever the position: the replica's own copy is damaged.
    """

    positions: list[Position]
    snapshot: bool = False


class Unfollow(_Message, frozen=True, tag=True, array_like=True):
    """The replica does not have these databases any more."""

    uuids: list[bytes]


class Commits(_Message, frozen=True, tag=True, array_like=True):
    """Commit parts (`proto/record.py`) of one database, in order, at least one."""

    uuid: bytes
    parts: list[bytes]


class SnapshotBegin(_Message, frozen=True, tag=True, array_like=True):
    """A copy of the database file follows; it is complete up to `base` at least.

    Pages may be newer than `base` (the copy is made while the file changes): only
    together with the commits after `base` up to the `until` of `SnapshotEnd` it is a database.
    """

    base: Position
    checksum: int
    """Rolling checksum at `base`: of the pages, if no commit follows."""
    page_size: int
    page_count: int


class SnapshotPages(_Message, frozen=True, tag=True, array_like=True):
    """Consecutive pages of the copy, from page `first_pgno` on."""

    uuid: bytes
    first_pgno: int
    data: bytes


class SnapshotEnd(_Message, frozen=True, tag=True, array_like=True):
    """The copy is through; with the commits up to `until` it is a database."""

    until: Position


class Heartbeat(_Message, frozen=True, tag=True, array_like=True):
    """Every second, also when idle: the newest durable commits.

    Of the databases that moved since the last one; of all in the first one on a link.
    """

    time_ms: int
    heads: list[Position]


class Acked(msgspec.Struct, frozen=True, array_like=True):
    """How far a replica is with one database, as sequence numbers of commits."""

    uuid: bytes
    received: int
    durable: int
    applied: int
    bytes_written: int
    """Frames of `Commits` and `SnapshotPages` of this database on this link since its last
    `Follow` whose content is written: frees the primary's window."""
    problem: str = ""
    """Why the replica stopped this database, if it did."""


class Ack(_Message, frozen=True, tag=True, array_like=True):
    """Progress of the databases that moved since the last one."""

    databases: list[Acked]
    lag_ms: float = 0.0


class Forward(_Message, frozen=True, tag=True, array_like=True):
    """A request that only the primary can answer, as the replica's client sent it.

    `operation`: one of those that `d1server/query.py` lists. `constraint` is the text of the
    session header, empty for none.
    """

    id: int
    operation: str
    database: str
    body: bytes
    constraint: str = ""
    idempotency_key: str = ""
    caller: str = ""
    """The id of the access token with which the client came to the replica; empty: none."""
    hops: int = 1


class Reply(_Message, frozen=True, tag=True, array_like=True):
    """The answer to the `Forward` of this id."""

    id: int
    status: int
    body: bytes
    bookmark: str = ""
    should_retry: bool | None = None
    retry_after_s: int | None = None


class Goodbye(_Message, frozen=True, tag=True, array_like=True):
    """The sender stops. A replica closes the link at once.

    A primary closes it when what the replica has asked is answered: a replica that hears the
    goodbye says its own, and asks nothing more over this link.
    """

    reason: str


Message: TypeAlias = (
    Hello
    | Challenge
    | Proof
    | Welcome
    | Refuse
    | Follow
    | Unfollow
    | Commits
    | SnapshotBegin
    | SnapshotPages
    | SnapshotEnd
    | Heartbeat
    | Ack
    | Forward
    | Reply
    | Goodbye
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode_message(message: Message) -> bytes:
    """The payload of the frame that carries `message`."""
    return _encoder.encode(message)


def decode_message(payload: Buffer) -> Message:
    """Read a payload. Raises `MessageInvalid`."""
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise MessageInvalid(f"not a link message: {exc}") from exc
