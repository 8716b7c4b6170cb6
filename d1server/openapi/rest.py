"""D1's REST API, served with and without `/client/v4`, and its GraphQL. Pure."""

from collections.abc import Iterator
from typing import Final

from d1server.administration import FIELDS, PAGE_MAX, PER_PAGE, PER_PAGE_MAX
from d1server.insights.recommender import FILTER, LIMIT, LIMIT_MAX
from d1server.openapi import calls
from d1server.openapi.calls import NAMED
from d1server.openapi.parameters import database
from d1server.openapi.parts import (
    EVERY,
    WITH_BODY,
    Json,
    Operation,
    answer,
    envelope,
    json_body,
    listed,
    operation,
    parameter,
    schema,
)
from d1server.web.insights import OF_ALL, OF_ONE
from d1server.web.rest import DATABASES, PREFIXES

DATABASE: Final = DATABASES + "/{database}"
GRAPHQL: Final = "/graphql"

_TAG: Final = "D1's REST API"
_CALLS: Final = ("query", "raw", "export", "import")
_SIZES: Final = (
    "{ viewer { accounts { d1StorageAdaptiveGroups(limit: 10) "
    "{ max { databaseSizeBytes } dimensions { databaseId } } } } }"
)
_RECOMMENDS: Final = (
    "From what all nodes have counted in seven days: indexes that the costliest statements would "
    "use, by SQLite's own planner, and estimates of the difference (negative: less)."
)
_NEW: Final = "my-d1"
_AUTO: Final[Json] = {"read_replication": {"mode": "auto"}}


def rest_paths() -> dict[str, Json]:
    """What stands at each path, beside its operations."""
    servers: Json = {"servers": [{"url": prefix or "/"} for prefix in PREFIXES]}
    account = parameter("Account")
    named: Json = {**servers, "parameters": [account, parameter("Database")]}
    return {
        DATABASES: {**servers, "parameters": [account]},
        DATABASE: named,
        **{f"{DATABASE}/{call}": named for call in _CALLS},
        OF_ONE: named,
        OF_ALL: {**servers, "parameters": [account]},
        GRAPHQL: servers,
    }


def rest_operations() -> Iterator[Operation]:
    """All of them, in an order in which the examples can be tried."""
    yield Operation("post", DATABASES, _create())
    yield Operation("get", DATABASES, _list())
    yield Operation("get", DATABASE, _get())
    yield Operation("put", DATABASE, _change("d1-replace", "Change a database"))
    yield Operation("patch", DATABASE, _change("d1-update", "Change a database, or nothing"))
    yield Operation("post", f"{DATABASE}/query", calls.query("d1-query", _TAG))
    yield Operation("post", f"{DATABASE}/raw", calls.raw("d1-raw", _TAG))
    yield Operation("post", f"{DATABASE}/export", calls.export("d1-export", _TAG))
    yield Operation("post", f"{DATABASE}/import", calls.import_("d1-import", _TAG))
    yield Operation("get", OF_ONE, _recommendations())
    yield Operation("get", OF_ALL, _all_recommendations())
    yield Operation("delete", DATABASE, _delete())
    yield Operation("post", GRAPHQL, _graphql())


def _create() -> Json:
    asked: Json = {"name": _NEW, "primary_location_hint": "weur"}
    return operation(
        "d1-create",
        tag=_TAG,
        summary="Create a database",
        body=json_body(schema("CreateDatabase"), plain=asked),
        answers={200: answer("The database", envelope(schema("Database")))},
        refusals=WITH_BODY,
    )


def _list() -> Json:
    page = envelope(listed(schema("Database")), result_info=schema("Page"))
    return operation(
        "d1-list",
        tag=_TAG,
        summary="List the databases that the token is for",
        parameters=[
            _parameter("name", {"type": "string"}, "a part of their names"),
            _parameter("page", _whole(PAGE_MAX, 1), "from 1", is_empty=True),
            _parameter("per_page", _whole(PER_PAGE_MAX, PER_PAGE), "databases", is_empty=True),
        ],
        answers={200: answer("A page; past the end it is empty", page)},
        refusals=WITH_BODY,
    )


def _get() -> Json:
    fields: Json = {"type": "array", "items": {"enum": list(FIELDS)}}
    return operation(
        "d1-get",
        tag=_TAG,
        summary="Show a database",
        parameters=[
            _parameter("fields", fields, "members wanted; also once, with commas")
            | {"style": "form", "explode": True}
        ],
        answers={200: answer("The database", envelope(schema("Database")))},
        refusals=NAMED,
    )


def _change(key: str, summary: str) -> Json:
    return operation(
        key,
        tag=_TAG,
        summary=summary,
        description="With the mode `disabled` replicas forward the database's reads.",
        body=json_body(schema("ChangeDatabase"), auto=_AUTO),
        answers={200: answer("The database", envelope(schema("Database")))},
        refusals=NAMED,
    )


def _delete() -> Json:
    return operation(
        "d1-delete",
        tag=_TAG,
        summary="Delete a database",
        parameters=[database(_NEW)],
        answers={200: answer("It is gone", envelope({"type": "null"}))},
        refusals=NAMED,
    )


def _recommendations() -> Json:
    return operation(
        "d1-insights",
        tag=_TAG,
        summary="Recommend indexes",
        description=f"{_RECOMMENDS} Needs `read`.",
        parameters=[_filter()],
        answers={200: answer("The recommendations", envelope(schema("Recommended")))},
        refusals=(*EVERY, 404, 503),
    )


def _all_recommendations() -> Json:
    limit: Json = {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT}
    cursor: Json = {"type": "string", "pattern": "^[^:]*:[0-9]{1,3}$"}
    page = envelope(schema("Recommended"), result_info=schema("CursorPage"))
    return operation(
        "d1-all-insights",
        tag=_TAG,
        summary="Recommend indexes for all databases that the token is for",
        description=_RECOMMENDS,
        parameters=[
            _filter(),
            _parameter("limit", limit, "recommendations", is_empty=True),
            _parameter("cursor", cursor, "of the answer before", is_empty=True),
        ],
        answers={200: answer("A page; `cursor` is null on the last one", page)},
        refusals=(*EVERY, 503),
    )


def _filter() -> Json:
    kinds: Json = {"enum": [FILTER]}
    return _parameter("filter", kinds, "the only kind that there is", is_empty=True) | {
        "example": FILTER
    }


def _graphql() -> Json:
    told = answer("What was asked for, or errors", schema("GraphqlAnswer"))
    malformed = answer("The body is not a query", schema("GraphqlAnswer"))
    return operation(
        "graphql",
        tag=_TAG,
        summary="Ask what queries have cost, at all nodes together",
        description="D1's datasets d1QueriesAdaptiveGroups, d1AnalyticsAdaptiveGroups and "
        "d1StorageAdaptiveGroups; introspection tells their fields.",
        body=json_body(schema("GraphqlBody"), sizes={"query": _SIZES}),
        answers={200: told, 400: malformed},
        refusals=WITH_BODY,
    )


def _parameter(name: str, of: Json, description: str, *, is_empty: bool = False) -> Json:
    told: Json = {"name": name, "in": "query", "schema": of, "description": description}
    return told | ({"allowEmptyValue": True} if is_empty else {})


def _whole(most: int, default: int) -> Json:
    return {"type": "integer", "minimum": 1, "maximum": most, "default": default}
