"""The calls that both `/db` and D1's REST API have: queries, exports, imports. Pure."""

from typing import Final

from d1server.openapi.parameters import session_parameters
from d1server.openapi.parts import (
    WITH_BODY,
    Json,
    answer,
    envelope,
    json_body,
    listed,
    operation,
    ref,
    schema,
)
from d1server.sample_shop import EXAMPLE_QUERY

NAMED: Final = (*WITH_BODY, 404)
"""Refusals of a call about one database."""

_MAY_HAVE_BOOKMARK: Final[dict[str, Json]] = {"x-d1-bookmark": ref("headers", "Bookmark")}
_UPDATE: Final[Json] = {"sql": "UPDATE products SET stock = ? WHERE id = ?", "params": [41, 3]}
_BATCH: Final[Json] = {"batch": [_UPDATE, {"sql": "SELECT stock FROM products WHERE id = 3"}]}
_DUMP: Final[Json] = {"output_format": "polling", "dump_options": {"tables": ["products"]}}
_INIT: Final[Json] = {"action": "init", "etag": "0daad6e388a7416983519021f709e963"}


def query(key: str, tag: str) -> Json:
    """Rows as objects."""
    return _query(key, tag, "Run SQL; rows as objects", "QueryResult")


def raw(key: str, tag: str) -> Json:
    """Rows as arrays."""
    return _query(key, tag, "Run SQL; rows as arrays", "RawResult")


def query_body() -> Json:
    """The body of a query, with examples for the sample database."""
    return json_body(schema("Query"), read={"sql": EXAMPLE_QUERY}, write=_UPDATE, batch=_BATCH)


def _query(key: str, tag: str, summary: str, result: str) -> Json:
    bookmark: Json = {"required": True, "schema": schema("Bookmark")}
    told = answer(
        "One element for each statement",
        envelope(listed(schema(result), minItems=1)),
        {"x-d1-bookmark": bookmark},
    )
    return operation(
        key,
        tag=tag,
        summary=summary,
        description="The request is one transaction. Needs `read`, to write `edit`.",
        parameters=session_parameters(),
        body=query_body(),
        answers={200: told},
        refusals=NAMED,
    )


def export(key: str, tag: str) -> Json:
    """Begin an export, or ask about it."""
    jobs = {"anyOf": [schema("ExportJob"), schema("NoJob")]}
    return operation(
        key,
        tag=tag,
        summary="Export as SQL text",
        description="Ask again with `current_bookmark` until `status` is `complete`; then "
        "`result.signed_url` is the file, for an hour. The answer is held for up to a second. "
        "Needs `read`.",
        body=json_body(schema("ExportCall"), begin=_DUMP),
        answers={200: answer("The state of the export", envelope(jobs), _MAY_HAVE_BOOKMARK)},
        refusals=NAMED,
    )


def import_(key: str, tag: str) -> Json:
    """Import a file of SQL."""
    jobs = {"anyOf": [schema("ImportJob"), schema("Upload"), schema("NoJob")]}
    return operation(
        key,
        tag=tag,
        summary="Import a file of SQL",
        description="`init` says where to PUT the file, `ingest` runs it as one transaction, "
        "`poll` tells how far it is. Needs `edit`.",
        body=json_body(schema("ImportCall"), init=_INIT, poll={"action": "poll"}),
        answers={200: answer("The state of the import", envelope(jobs), _MAY_HAVE_BOOKMARK)},
        refusals=NAMED,
    )
