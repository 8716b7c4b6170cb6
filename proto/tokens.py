"""Which state of a database is meant: commit tokens and bookmarks.

A *token* numbers the commits of one database. A *bookmark* is the token with the
digest of the history up to it, and the text that clients carry: it names one state
of one database in one history, and nothing else.

Text form, as Cloudflare D1's: `eeeeeeee-hhhhhhhh-llllllll-` and 32 hex digits:
epoch, high and low half of the sequence number, digest. Fixed width and lower case,
so that byte order (and JavaScript's `localeCompare`) is age within one history.

The digest's first four bytes are the *lineage tag* of the database, equal in all of
its bookmarks, so that any node can refuse another database's bookmark by itself,
however old it is. The other twelve are the chain digest of the newest commit
(`proto/record.py`).
"""

import re
import struct
from functools import lru_cache
from typing import Final, NamedTuple, Self

import xxhash

from proto.errors import BookmarkInvalid

DIGEST_BYTES: Final = 16
TAG_BYTES: Final = 4
FIRST_EPOCH: Final = 1
SEQ_MAX: Final = 2**64 - 1

_TEXT = re.compile(r"[0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{32}", re.ASCII)
_BYTES: Final = struct.Struct(">IQ16s")
TEXT_LENGTH: Final = 8 + 1 + 8 + 1 + 8 + 1 + 32


class CommitToken(NamedTuple):
    """The state of a database just after one commit.

    `epoch` grows when a new primary takes over, `seq` by one with each commit.
    Order means "newer" within one history; it does not tell two histories apart.
    """

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch:08x}-{self.seq:016x}"


class Bookmark(NamedTuple):
    """A commit token and the digest of the history that led to it."""

    token: CommitToken
    digest: bytes

    @property
    def text(self) -> str:
        """The form that clients carry; see the module's head."""
        return _text(self)

    @property
    def seq(self) -> int:
        """The sequence number of the token."""
        return self.token.seq

    @property
    def tag(self) -> bytes:
        """The lineage tag: which database this is a bookmark of."""
        return self.digest[:TAG_BYTES]

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form. Raises `BookmarkInvalid` for anything else."""
        if _TEXT.fullmatch(text) is None:
            shown = text if len(text) <= 80 else text[:77] + "..."
            raise BookmarkInvalid(
                f"{shown!r} is not a bookmark: send one exactly as an answer gave it "
                "(8-8-8-32 lower-case hex digits), 'first-primary' or 'first-unconstrained'"
            )
        epoch, seq, digest = _BYTES.unpack(bytes.fromhex(text.replace("-", "")))
        return cls(CommitToken(epoch, seq), digest)


@lru_cache(maxsize=256)  # every read of a quiet database says the same bookmark
def _text(bookmark: Bookmark) -> str:
    (epoch, seq), digest = bookmark
    return f"{epoch:08x}-{seq >> 32:08x}-{seq & 0xFFFFFFFF:08x}-{digest.hex()}"


def lineage_tag(uuid: bytes) -> bytes:
    """The four bytes with which all digests of the database `uuid` (16 bytes) begin."""
    return xxhash.xxh3_64_digest(b"d1server lineage" + uuid)[:TAG_BYTES]


def genesis(uuid: bytes) -> Bookmark:
    """The position of the database `uuid` before its first commit."""
    chain = xxhash.xxh3_128_digest(b"d1server genesis" + uuid)[: DIGEST_BYTES - TAG_BYTES]
    return Bookmark(CommitToken(FIRST_EPOCH, 0), lineage_tag(uuid) + chain)
