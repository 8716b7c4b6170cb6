"""The catalog's table of access tokens: rows out and in.

A table of the catalog's database, so that a token made or revoked at the primary holds on
every node as soon as it has that commit. Times are ISO 8601 in UTC, lists are JSON.
"""

import json
import logging
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from d1server.access.grants import NEVER, AccessToken, Scope
from proto.api import SqlValue, Statement, StatementResult

logger = logging.getLogger(__name__)

CREATE_TOKENS: Final = Statement(
    "CREATE TABLE IF NOT EXISTS tokens (id TEXT PRIMARY KEY, name TEXT NOT NULL, "
    "hash BLOB NOT NULL, scopes TEXT NOT NULL, databases TEXT, created_at TEXT NOT NULL, "
    "expires_at TEXT, revoked_at TEXT, last_used_at TEXT) STRICT, WITHOUT ROWID"
)
HAS_TOKENS: Final = Statement(
    "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'tokens'"
)
"""Whether the catalog has the table: one that an older primary made has not."""
SELECT_TOKENS: Final = Statement("SELECT * FROM tokens")

_SCOPES: Final = {scope.value: scope for scope in Scope}


def insert_token(token: AccessToken) -> Statement:
    """The statement that adds a token."""
    databases = None
    if token.databases is not None:
        databases = json.dumps(sorted(str(uuid.UUID(bytes=one)) for one in token.databases))
    values: dict[str, SqlValue] = {
        "id": token.id,
        "name": token.name,
        "hash": token.hash,
        "scopes": json.dumps(sorted(scope.value for scope in token.scopes)),
        "databases": databases,
        "created_at": to_iso(token.created_at),
        "expires_at": to_iso(token.expires_at) if token.expires_at != NEVER else None,
    }
    columns, places = ", ".join(values), ", ".join("?" * len(values))
    return Statement(f"INSERT INTO tokens ({columns}) VALUES ({places})", tuple(values.values()))


def revoke_token(key: str, now: float) -> Statement:
    """The statement that ends a token's life; its row stays."""
    return Statement(
        "UPDATE tokens SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL", (to_iso(now), key)
    )


def note_uses(uses: Mapping[str, float]) -> list[Statement]:
    """The statements that store when tokens were last used; an older time changes nothing."""
    return [
        Statement(
            "UPDATE tokens SET last_used_at = ?1 WHERE id = ?2 AND coalesce(last_used_at, '') < ?1",
            (to_iso(at), key),
        )
        for key, at in uses.items()
    ]


def read_tokens(found: StatementResult) -> Iterator[AccessToken]:
    """The tokens in the rows of `SELECT_TOKENS`."""
    for row in found.rows:
        values = dict(zip(found.columns, row, strict=True))
        try:
            yield _token(values)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            # It may be a newer program's: it grants nothing here, and is still there.
            logger.warning("token %r of the catalog cannot be read: %r", values.get("id"), exc)
            yield AccessToken(
                id=str(values.get("id")),
                name="",
                hash=b"",
                scopes=frozenset(),
                databases=frozenset(),
                created_at=0.0,
                revoked_at=0.0,
            )


def _token(row: Mapping[str, SqlValue]) -> AccessToken:
    databases, expires_at = row["databases"], _time(row.get("expires_at"))
    return AccessToken(
        id=_text(row["id"]),
        name=_text(row["name"]),
        hash=_hash(row["hash"]),
        scopes=frozenset(_known_scopes(json.loads(_text(row["scopes"])))),
        databases=None if databases is None else _uuids(json.loads(_text(databases))),
        created_at=_time(row["created_at"]) or 0.0,
        expires_at=NEVER if expires_at is None else expires_at,
        revoked_at=_time(row.get("revoked_at")),
        last_used_at=_time(row.get("last_used_at")),
    )


def _known_scopes(names: Iterable[str]) -> Iterator[Scope]:
    return (_SCOPES[name] for name in names if name in _SCOPES)


def _uuids(texts: Iterable[str]) -> frozenset[bytes]:
    return frozenset(uuid.UUID(text).bytes for text in texts)


def _hash(value: SqlValue) -> bytes:
    if not isinstance(value, bytes) or len(value) != 32:
        raise ValueError("no hash")
    return value


def _text(value: SqlValue) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _time(value: SqlValue) -> float | None:
    return None if value is None else datetime.fromisoformat(_text(value)).timestamp()


def to_iso(at: float) -> str:
    """A time as text; sorts by age."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
