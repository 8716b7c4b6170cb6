"""This server's own surface: `/db` and `/tokens`. Pure."""

from collections.abc import Iterator
from typing import Final

from d1server.openapi import calls
from d1server.openapi.calls import NAMED
from d1server.openapi.parameters import database
from d1server.openapi.parts import (
    WITH_BODY,
    Json,
    Operation,
    answer,
    envelope,
    json_body,
    listed,
    operation,
    parameter,
    ref,
    schema,
)

_DATABASE: Final = "/db/{database}"
_CALLS: Final = ("query", "raw", "vacuum", "export", "import")

_DATABASES: Final = "databases"
_TOKENS: Final = "access tokens"
_NEW: Final = "my-db"
_ADMIN: Final[Json] = {"name": "admin", "scopes": ["admin"]}


def own_paths() -> dict[str, Json]:
    """What stands at each path, beside its operations."""
    named: Json = {"parameters": [parameter("Database")]}
    return {
        _DATABASE: named,
        **{f"{_DATABASE}/{call}": named for call in _CALLS},
        "/tokens/{id}": {"parameters": [parameter("TokenId")]},
    }


def own_operations() -> Iterator[Operation]:
    """All of them, in an order in which the examples can be tried."""
    yield Operation("post", "/db", _create())
    yield Operation("get", "/db", _list())
    yield Operation("get", _DATABASE, _info())
    yield Operation("post", f"{_DATABASE}/query", calls.query("query", _DATABASES))
    yield Operation("post", f"{_DATABASE}/raw", calls.raw("raw", _DATABASES))
    yield Operation("post", f"{_DATABASE}/vacuum", _vacuum())
    yield Operation("post", f"{_DATABASE}/export", calls.export("export", _DATABASES))
    yield Operation("post", f"{_DATABASE}/import", calls.import_("import", _DATABASES))
    yield Operation("delete", _DATABASE, _delete())
    yield Operation("get", "/tokens", _list_tokens())
    yield Operation("post", "/tokens", _create_token())
    yield Operation("delete", "/tokens/{id}", _revoke())


def _create() -> Json:
    created = answer("The database", envelope(schema("Database")))
    created["links"] = {
        "info": {"operationId": "info", "parameters": {"database": "$response.body#/result/name"}},
        "query": {
            "operationId": "query",
            "parameters": {"database": "$response.body#/result/name"},
        },
        "delete": {
            "operationId": "delete",
            "parameters": {"database": "$response.body#/result/uuid"},
        },
    }
    return operation(
        "create",
        tag=_DATABASES,
        summary="Create a database",
        description="Needs `edit` for all databases.",
        body=json_body(schema("CreateDatabase"), plain={"name": _NEW}),
        answers={200: created},
        refusals=WITH_BODY,
    )


def _list() -> Json:
    return operation(
        "list",
        tag=_DATABASES,
        summary="List the databases that the token is for",
        answers={200: answer("All of them", envelope(listed(schema("Database"))))},
        refusals=WITH_BODY,
    )


def _info() -> Json:
    return operation(
        "info",
        tag=_DATABASES,
        summary="Show a database",
        answers={200: answer("The database", envelope(schema("Database")))},
        refusals=NAMED,
    )


def _delete() -> Json:
    return operation(
        "delete",
        tag=_DATABASES,
        summary="Delete a database",
        description="Needs `edit` for all databases, or `admin` for this one.",
        parameters=[database(_NEW)],
        answers={200: answer("It is gone", envelope({"type": "null"}))},
        refusals=NAMED,
    )


def _vacuum() -> Json:
    headers = {"x-d1-bookmark": ref("headers", "Bookmark")}
    return operation(
        "vacuum",
        tag=_DATABASES,
        summary="Give free pages back to the disk",
        description="Needs `edit`.",
        answers={200: answer("Bytes before and after", envelope(schema("Sizes")), headers)},
        refusals=NAMED,
    )


def _list_tokens() -> Json:
    return operation(
        "list-tokens",
        tag=_TOKENS,
        summary="List the access tokens, without their texts",
        description="Needs `admin` for all databases.",
        answers={200: answer("All of them", envelope(listed(schema("AccessToken"))))},
        refusals=WITH_BODY,
    )


def _create_token() -> Json:
    created = answer("The token, with its text", envelope(schema("AccessToken")))
    link: Json = {"operationId": "revoke", "parameters": {"id": "$response.body#/result/id"}}
    return operation(
        "create-token",
        tag=_TOKENS,
        summary="Make an access token",
        description="Its text is shown here and never again. A node on loopback is open until "
        "there is the first token, which must be an administrator's. Needs `admin` for all.",
        body=json_body(schema("NewToken"), admin=_ADMIN),
        answers={200: created | {"links": {"revoke": link}}},
        refusals=WITH_BODY,
    )


def _revoke() -> Json:
    return operation(
        "revoke",
        tag=_TOKENS,
        summary="Revoke an access token",
        description="It is refused everywhere when this answers. Needs `admin` for all databases.",
        answers={200: answer("The token as it is now", envelope(schema("AccessToken")))},
        refusals=NAMED,
    )
