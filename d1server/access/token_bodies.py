"""Bodies of the calls about access tokens: what is asked for, what is shown.

Pure. A token's text is in exactly one answer, the one to its creation.

    POST /tokens {"name": "app", "scopes": ["edit"], "databases": ["shop"], "expires_in_s": 3600}
    GET /tokens
    DELETE /tokens/{id}
"""

import uuid
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from d1server.access.grants import NEVER, AccessToken, Scope, hash_of, id_of
from d1server.access.token_table import to_iso
from d1server.bodies import decode_body
from d1server.catalog import Catalog, CatalogEntry
from proto.errors import RequestInvalid

NAME_CHARACTERS_MAX = 100
DATABASES_MAX = 1000
EXPIRES_S_MAX = 10 * 366 * 86400.0
TOKENS_MAX = 10_000  # with those that are not live any more: each node has all in memory


_FORM: Final = (
    '{"name": "...", "scopes": ["read"]} to create a token, with "databases" and "expires_in_s" if '
    "it is not for all and for ever"
)


def _schema(**keywords: object) -> Meta:
    """What the document says; `read_new_token` checks it, with words of its own."""
    return Meta(extra_json_schema=keywords)


_Name = Annotated[str, _schema(minLength=1, maxLength=NAME_CHARACTERS_MAX)]
_Scope = Annotated[str, _schema(enum=[scope.value for scope in Scope])]
_Databases = Annotated[list[str], _schema(minItems=1, maxItems=DATABASES_MAX)]
_Seconds = Annotated[float, _schema(exclusiveMinimum=0, maximum=EXPIRES_S_MAX)]


class NewToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a token is to be: for all databases or for those named, for ever or for seconds."""

    name: _Name
    scopes: Annotated[list[_Scope], _schema(minItems=1)]
    databases: _Databases | None = None  # names or uuids; None: all
    expires_in_s: _Seconds | None = None


def read_new_token(body: bytes) -> NewToken:
    """What to create. Raises `RequestInvalid`."""
    asked = decode_body(body, NewToken, _FORM)
    if not 1 <= len(asked.name) <= NAME_CHARACTERS_MAX or not asked.name.isprintable():
        raise RequestInvalid(f"name: send 1 to {NAME_CHARACTERS_MAX} printable characters")
    known = [scope.value for scope in Scope]
    if not asked.scopes or any(scope not in known for scope in asked.scopes):
        raise RequestInvalid(f"scopes: send one or more of {', '.join(known)}")
    if asked.databases is not None and not 1 <= len(asked.databases) <= DATABASES_MAX:
        raise RequestInvalid(
            f"databases: send 1 to {DATABASES_MAX} names, or leave it out for all databases"
        )
    if asked.expires_in_s is not None and not 0 < asked.expires_in_s <= EXPIRES_S_MAX:
        raise RequestInvalid(f"expires_in_s: send seconds, up to {EXPIRES_S_MAX:.0f}")
    return asked


def make_token(asked: NewToken, text: str, catalog: Catalog, now: float) -> AccessToken:
    """The token of this text. Raises `RequestInvalid` if it is for a database that is not there."""
    scopes = frozenset(Scope(scope) for scope in asked.scopes)
    if Scope.REPLICATE in scopes and asked.databases is not None:
        raise RequestInvalid("databases: a replica gets all of them; leave it out for replicate")
    databases = None
    if asked.databases is not None:
        databases = frozenset(_entry(catalog, name).uuid for name in asked.databases)
    return AccessToken(
        id=id_of(text),
        name=asked.name,
        hash=hash_of(text),
        scopes=scopes,
        databases=databases,
        created_at=now,
        expires_at=NEVER if asked.expires_in_s is None else now + asked.expires_in_s,
    )


def _entry(catalog: Catalog, name: str) -> CatalogEntry:
    entry = catalog.find(name)
    if entry is None:
        raise RequestInvalid(f"databases: there is no database {name[:80]!r}; create it first")
    return entry


def describe_token(token: AccessToken, catalog: Catalog, now: float) -> dict[str, object]:
    """What is shown of a token: everything but its text and its hash."""
    state = "live" if token.is_live(now) else "expired"
    databases = None
    if token.databases is not None:
        databases = sorted(_name_of(key, catalog) for key in token.databases)
    return {
        "id": token.id,
        "name": token.name,
        "scopes": sorted(scope.value for scope in token.scopes),
        "databases": databases,
        "state": state if token.revoked_at is None else "revoked",
        "created_at": to_iso(token.created_at),
        "expires_at": None if token.expires_at == NEVER else to_iso(token.expires_at),
        "revoked_at": _iso_or_none(token.revoked_at),
        "last_used_at": _iso_or_none(token.last_used_at),
    }


def _name_of(key: bytes, catalog: Catalog) -> str:
    """The database's name; of a deleted one the uuid, which is never used again."""
    entry = catalog.by_uuid.get(key)
    return entry.name if entry is not None else str(uuid.UUID(bytes=key))


def _iso_or_none(at: float | None) -> str | None:
    return None if at is None else to_iso(at)
