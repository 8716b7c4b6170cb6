"""Who may do what: access tokens, and what each of them grants.

An access token is a random text that its holder sends as `Authorization: Bearer <text>`. Nodes
keep its hash only, in the catalog, so every node knows the tokens of the newest catalog
commit that it has. A token's *id* is derived from the text and is no secret: lists, logs and
other nodes name it so.

Invariants:

1. What is not known to be allowed is not: an unknown scope grants nothing, a row that cannot be
   read grants nothing, and still counts as a token.
2. `Access.era` is another object after every change of what any caller may do. Whoever keeps a
   grant keeps the era beside it, and asks again when it is not `Access.era` any more.
3. A grant whose token is revoked has no level from then on, whoever still holds it.
4. Once there has been a token, requests need one: revoking the last one opens nothing.

Owned by the node, on the event loop. No I/O.
"""

import enum
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

TOKEN_PREFIX: Final = "d1s_"
"""Of every access token, so that people and secret scanners know one when they see it."""
_TOKEN_BYTES: Final = 32
_TEXT_CHARACTERS_MAX: Final = 512  # of what is worth hashing; ours have 47
_USE_TOLD_S: Final = 60.0  # a token's last use is written at most so often
NEVER: Final = float("inf")


class Scope(enum.Enum):
    """What a token is for."""

    READ = "read"  # statements that do not write
    EDIT = "edit"  # all statements; with all databases: create and delete them, too
    ADMIN = "admin"  # edit, and tokens
    REPLICATE = "replicate"  # be a replica: get every commit of every database


class Level(enum.IntEnum):
    """How much of a database somebody may use; each includes the ones below."""

    NONE = 0
    READ = 1
    EDIT = 2
    ADMIN = 3


_LEVEL_OF: Final = {
    Scope.READ: Level.READ,
    Scope.EDIT: Level.EDIT,
    Scope.ADMIN: Level.ADMIN,
    Scope.REPLICATE: Level.NONE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessToken:
    """One row of the catalog's table; times in seconds since 1970."""

    id: str
    name: str
    hash: bytes  # SHA-256 of the text; see `proto/handshake.py` for its use on the link
    scopes: frozenset[Scope]
    databases: frozenset[bytes] | None  # their uuids; None: all
    created_at: float
    expires_at: float = NEVER
    revoked_at: float | None = None
    last_used_at: float | None = None

    def is_live(self, now: float) -> bool:
        """Whether it grants anything at this time."""
        return self.revoked_at is None and now < self.expires_at

    @property
    def level(self) -> Level:
        """The highest level of its scopes."""
        return max((_LEVEL_OF[scope] for scope in self.scopes), default=Level.NONE)


class Grant:
    """What one caller may do, for as long as its token is live."""

    __slots__ = ("caller", "databases", "expires_at", "level", "used_at")

    def __init__(
        self,
        caller: str,
        level: int,
        databases: frozenset[bytes] | None = None,
        expires_at: float = NEVER,
    ) -> None:
        self.caller = caller  # the token's id; empty: nobody in particular
        self.level = level
        self.databases = databases  # None: all
        self.expires_at = expires_at
        self.used_at = 0.0

    def may(self, level: int, database: bytes) -> bool:
        """Whether the caller has this level in the database of this uuid."""
        databases = self.databases
        return self.level >= level and (databases is None or database in databases)

    def may_everywhere(self, level: int) -> bool:
        """Whether the caller has this level in all databases, those to come included."""
        return self.level >= level and self.databases is None

    @property
    def only_database(self) -> bytes | None:
        """The uuid of the one database that it is for, if it is for one."""
        databases = self.databases
        return next(iter(databases)) if databases is not None and len(databases) == 1 else None


NOBODY: Final = Grant("", Level.NONE, frozenset())
"""Of a request to a route that asks for no token."""

EVERYTHING: Final = Grant("", Level.ADMIN)
"""Of what the node itself asks, and of who has its data directory."""


class NotAdmitted(Exception):
    """There is no live token behind this request: 401. Always the same message."""


def new_text() -> str:
    """A new access token."""
    return TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)


def id_of(text: str) -> str:
    """The id of a token. Says nothing about its hash."""
    return hashlib.sha256(b"d1server access token id\0" + text.encode()).hexdigest()[:16]


def hash_of(text: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(text.encode()).digest()


class Access:
    """The tokens that a node knows; see the module's head."""

    def __init__(
        self,
        *,
        may_be_open: bool = True,
        link_secret: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Know of no token. `may_be_open`: without any, everybody may do everything.

        `link_secret` makes a replica of who knows it, and is no token: it grants nothing else.
        """
        self._link_secret = link_secret
        self.era: object = object()
        self._clock = clock
        self._tokens: dict[str, AccessToken] = {}
        self._grants: dict[str, Grant] = {}  # of the live tokens, made when first asked for
        self._open = Grant("", Level.ADMIN) if may_be_open else None

    @property
    def is_open(self) -> bool:
        """Whether requests need no token here."""
        return self._open is not None and not self._tokens

    @property
    def tokens(self) -> Iterable[AccessToken]:
        """All of them, also those that are not live any more."""
        return self._tokens.values()

    def find(self, key: str) -> AccessToken | None:
        """The token of this id."""
        return self._tokens.get(key)

    def update(self, tokens: Iterable[AccessToken]) -> bool:
        """Take these as the truth; whether anybody may do more or less than before."""
        now = {token.id: token for token in tokens}
        is_same = _rights(now) == _rights(self._tokens)
        self._tokens = now
        if is_same:
            return False
        for grant in self._grants.values():
            grant.level = Level.NONE
        self._grants = {}
        if now and self._open is not None:
            self._open.level = Level.NONE
            self._open = None
        self.era = object()
        return True

    def admit(self, authorization: str | None) -> Grant:
        """What the caller with this header may do. Raises `NotAdmitted`."""
        if self.is_open:
            assert self._open is not None
            return self._open
        text = bearer_text(authorization)
        if text is None:
            raise NotAdmitted
        token = self._tokens.get(id_of(text))
        if token is None or not hmac.compare_digest(token.hash, hash_of(text)):
            raise NotAdmitted
        return self._grant(token)

    def admit_caller(self, key: str) -> Grant:
        """The same for a caller whom a replica has admitted under this id, empty for nobody."""
        if not key and self.is_open:
            assert self._open is not None
            return self._open
        token = self._tokens.get(key)
        if token is None:
            raise NotAdmitted
        return self._grant(token)

    def link_key(self, key: str) -> bytes | None:
        """What a replica that names this token must prove to know; None: it may not replicate."""
        secret = self._link_secret
        if secret is not None and hmac.compare_digest(key.encode(), id_of(secret).encode()):
            return hash_of(secret)
        token = self._tokens.get(key)
        if token is None or Scope.REPLICATE not in token.scopes or not token.is_live(self._clock()):
            return None
        return token.hash

    def is_expired(self, grant: Grant) -> bool:
        """Whether the grant's time has passed. Notes the use otherwise."""
        now = self._clock()
        if now >= grant.expires_at:
            return True
        grant.used_at = now
        return False

    def untold_uses(self) -> dict[str, float]:
        """When tokens were last used here, of those whose row is much older."""
        return {
            key: grant.used_at
            for key, grant in self._grants.items()
            if grant.used_at >= (self._tokens[key].last_used_at or 0.0) + _USE_TOLD_S
        }

    def _grant(self, token: AccessToken) -> Grant:
        now = self._clock()
        if not token.is_live(now):
            raise NotAdmitted
        grant = self._grants.get(token.id)
        if grant is None:
            grant = Grant(token.id, token.level, token.databases, token.expires_at)
            self._grants[token.id] = grant
        grant.used_at = now
        return grant


def bearer_text(authorization: str | None) -> str | None:
    """The token in an Authorization header; None: there is none that could be ours."""
    if authorization is None or len(authorization) > _TEXT_CHARACTERS_MAX:
        return None
    scheme, _, text = authorization.strip(" \t").partition(" ")
    text = text.strip(" \t")
    is_bearer = scheme.lower() == "bearer" and bool(text) and text.isascii()
    return text if is_bearer else None


def _rights(tokens: dict[str, AccessToken]) -> dict[str, AccessToken]:
    """The tokens without what changes when they are used."""
    return {key: replace(token, last_used_at=None) for key, token in tokens.items()}
