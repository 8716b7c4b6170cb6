"""Exactly once: what was answered to a write that carried an idempotency key.

The answer is stored in a hidden table of the user's database, in the transaction of the
write itself. So it is there exactly when the write is, is replicated with it, and a
retry after a lost reply gets the first answer instead of a second write.

The table holds 24 hours of answers; older rows go with later keyed writes, a few at a time.
"""

import time
import zlib
from dataclasses import dataclass
from typing import Final

import xxhash

from engine.sandbox import Sandbox
from primary.errors import KeyReused

TABLE: Final = "_d1_idempotency"
KEPT_S: Final = 24 * 3600
ANSWER_BYTES_MAX: Final = 256 * 1024
"""A longer answer (packed) is not kept: the retry is told that the write was done, no more."""
_PACKED_ABOVE: Final = 1024  # bytes; answers of many statements shrink to a twentieth
_EXPIRED_PER_WRITE: Final = 20

_CREATE: Final = (
    f"CREATE TABLE IF NOT EXISTS {TABLE} "
    "(key TEXT PRIMARY KEY, request BLOB NOT NULL, answer BLOB NOT NULL, at INTEGER NOT NULL)"
    " WITHOUT ROWID"
)
_INDEX: Final = f"CREATE INDEX IF NOT EXISTS {TABLE}_at ON {TABLE} (at)"
_FIND: Final = f"SELECT request, answer FROM {TABLE} WHERE key = ?"
_STORE: Final = f"INSERT INTO {TABLE} VALUES (?, ?, ?, ?)"
_EXPIRE: Final = (
    f"DELETE FROM {TABLE} WHERE key IN (SELECT key FROM {TABLE} WHERE at < ? ORDER BY at LIMIT ?)"
)
_TOO_LONG: Final = (
    b'{"result":[],"success":true,"errors":[],"messages":[{"code":0,"message":'
    b'"this write was done by an earlier request with the same idempotency key; '
    b'its answer was too long to be kept"}]}'
)


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's key, and the digest of the request that it came with."""

    key: str
    request: bytes

    @classmethod
    def of(cls, key: str, operation: str, body: bytes) -> "IdempotencyKey":
        """The key of the request with this body, whose answer has the form of `operation`."""
        return cls(key, xxhash.xxh3_128_digest(operation.encode() + b"\0" + body))


def find_answer(sandbox: Sandbox, key: IdempotencyKey) -> bytes | None:
    """The answer that was stored for `key`. Raises `KeyReused` if it was another request."""
    if not sandbox.connection.table_exists("main", TABLE):
        return None
    rows = sandbox.execute_internal(_FIND, (key.key,))
    if not rows:
        return None
    request, answer = rows[0]
    if request != key.request:
        raise KeyReused(
            f"the idempotency key {key.key!r} was used for another request; use a new key"
        )
    assert isinstance(answer, bytes)
    return _unpacked(answer)


def store_answer(sandbox: Sandbox, key: IdempotencyKey, answer: bytes) -> None:
    """Keep `answer`, within the transaction that is open."""
    now = int(time.time())
    sandbox.execute_internal(_CREATE)
    sandbox.execute_internal(_INDEX)
    sandbox.execute_internal(_EXPIRE, (now - KEPT_S, _EXPIRED_PER_WRITE))
    sandbox.execute_internal(_STORE, (key.key, key.request, _packed(answer), now))


def _packed(answer: bytes) -> bytes:
    """What is stored: a byte that says how, then the answer."""
    if len(answer) <= _PACKED_ABOVE:
        return b"=" + answer
    packed = b"z" + zlib.compress(answer, 1)
    return packed if len(packed) <= ANSWER_BYTES_MAX else b"-"


def _unpacked(stored: bytes) -> bytes:
    kind, rest = stored[:1], stored[1:]
    if kind == b"z":
        return zlib.decompress(rest)
    return rest if kind == b"=" else _TOO_LONG
