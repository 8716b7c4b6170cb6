"""Headers and parts of paths that several operations take, by their names. Pure."""

from typing import Final

from d1server.catalog import NAME_PATTERN
from d1server.openapi.parts import STRING, Json, parameter
from d1server.query import OnTimeout
from d1server.sample_shop import SHOP
from d1server.web.binding_call import DATABASE_HEADER, TOKEN_HEADER
from d1server.web.headers import (
    BOOKMARK_HEADER,
    BOOKMARK_NAMES,
    CONSTRAINTS,
    IDEMPOTENCY_HEADER,
    IDEMPOTENCY_KEY_BYTES_MAX,
    MAX_WAIT_HEADER,
    MAX_WAIT_MS_MAX,
    ON_TIMEOUT_HEADER,
)

BOOKMARK: Final[Json] = {
    "type": "string",
    "pattern": "^[0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{32}$",
    "description": "A commit of one database. Fixed width: text order is age.",
}


def headers() -> dict[str, Json]:
    """Headers of answers."""
    text = "the newest commit that the answer may have seen, or made"
    return {"Bookmark": {"description": text, "schema": {"$ref": "#/components/schemas/Bookmark"}}}


def session_parameters() -> list[Json]:
    """The headers of a query."""
    return [parameter(name) for name in ("Bookmark", "MaxWait", "OnTimeout", "IdempotencyKey")]


def database(example: str) -> Json:
    """Which database, with the name of one that there is."""
    of: Json = {"type": "string", "pattern": f"^{NAME_PATTERN.pattern}$"}
    return _path("database", of, "a database's name or uuid", example)


def parameters() -> dict[str, Json]:
    """All of them."""
    other = " or ".join(f"`{name}`" for name in sorted(BOOKMARK_NAMES - {BOOKMARK_HEADER}))
    key: Json = {"type": "string", "pattern": f"^[!-~]{{1,{IDEMPOTENCY_KEY_BYTES_MAX}}}$"}
    max_wait: Json = {"type": "integer", "minimum": 0, "maximum": MAX_WAIT_MS_MAX, "default": 5000}
    on_timeout: Json = {"enum": [policy.value for policy in OnTimeout], "default": "primary"}
    return {
        "Account": _path("account", STRING, "any: this cluster is every account's", "any"),
        "Database": database(SHOP),
        "TokenId": _path(
            "id", {"type": "string", "pattern": "^[^/]+$"}, "of the access token", None
        ),
        "File": _path("file", {"type": "string", "pattern": "^[^/]+$"}, "as it was given", None),
        "Expires": _query("expires", {"type": "integer"}, "as it was given", is_required=True),
        "Signature": _query("signature", STRING, "as it was given", is_required=True),
        "Bookmark": _header(
            BOOKMARK_HEADER,
            {"anyOf": [{"enum": list(CONSTRAINTS)}, BOOKMARK]},
            "how fresh the state must be: of this commit or a newer one, the primary's newest, or "
            f"whatever the node has; without it the primary answers. {other} are other names",
            "first-unconstrained",
        ),
        "MaxWait": _header(MAX_WAIT_HEADER, max_wait, "ms to wait for the bookmark", 500),
        "OnTimeout": _header(
            ON_TIMEOUT_HEADER,
            {"type": "string", **on_timeout},
            "when the bookmark did not come: ask the primary, answer what is there, or refuse",
            "primary",
        ),
        "IdempotencyKey": _header(
            IDEMPOTENCY_HEADER, key, "a write with this key is done once, for 24 hours", None
        ),
        "BindingSession": _header(
            TOKEN_HEADER,
            {"anyOf": [{"enum": list(CONSTRAINTS)}, BOOKMARK, {"type": "string", "maxLength": 0}]},
            "as `x-d1-bookmark`; an empty one is `first-unconstrained`",
            "first-primary",
        ),
        "BindingDatabase": _header(
            DATABASE_HEADER, STRING, "name or uuid; a token for one database says it, too", SHOP
        ),
    }


def _path(name: str, of: Json, description: str, example: object) -> Json:
    told = {"name": name, "in": "path", "required": True, "schema": of, "description": description}
    return told if example is None else told | {"example": example}


def _query(name: str, of: Json, description: str, *, is_required: bool = False) -> Json:
    told: Json = {"name": name, "in": "query", "schema": of, "description": description}
    return told | ({"required": True} if is_required else {})


def _header(name: str, of: Json, description: str, example: object) -> Json:
    told = {"name": name, "in": "header", "schema": of, "description": description}
    return told if example is None else told | {"example": example}
