"""The binding's calls, signed URLs, and what operators ask. Pure."""

from collections.abc import Iterator, Mapping
from typing import Final

from d1server.openapi.calls import query_body
from d1server.openapi.parts import (
    EVERY,
    JSON_TYPE,
    STRING,
    Json,
    Operation,
    answer,
    listed,
    operation,
    parameter,
    ref,
    schema,
)
from d1server.transfers.exports import EXPORTS_PATH
from d1server.transfers.imports import IMPORTS_PATH
from d1server.web.binding_call import PROXIED_HEADER, PROXIED_URL
from d1server.web.openapi import DOCUMENT
from d1server.web.rest import PREFIXES

DOWNLOAD: Final = EXPORTS_PATH + "{file}"
UPLOAD: Final = IMPORTS_PATH + "{file}"

_BINDING: Final = "the Workers binding"
_FILES: Final = "signed URLs"
_OPERATORS: Final = "operators"


def other_paths() -> dict[str, Json]:
    """What stands at each path, beside its operations."""
    signed = {"parameters": [parameter(name) for name in ("File", "Expires", "Signature")]}
    return {
        DOWNLOAD: signed,
        UPLOAD: signed,
        DOCUMENT: {"servers": [{"url": prefix or "/"} for prefix in PREFIXES]},
    }


def other_operations() -> Iterator[Operation]:
    """All of them."""
    yield Operation("post", "/query", _binding("binding-query", "Run SQL for `all` and `batch`"))
    yield Operation("post", "/execute", _binding("binding-execute", "Run SQL for `run`, `exec`"))
    yield Operation("post", "/dump", _dump())
    yield Operation("post", "/", _proxied())
    yield Operation("get", DOWNLOAD, _download())
    yield Operation("put", UPLOAD, _upload())
    yield Operation("get", "/livez", _livez())
    yield Operation("get", "/readyz", _readyz())
    yield Operation("get", "/status", _status())
    yield Operation("get", "/metrics", _metrics())
    yield Operation("get", DOCUMENT, _document())


def _binding_answers() -> Mapping[int, Json]:
    elements = {"anyOf": [listed(schema("QueryResult")), listed(schema("RawResult"))]}
    either: Json = {"anyOf": [*elements["anyOf"], schema("BindingFailure")]}
    session = {"x-cf-d1-session-commit-token": ref("headers", "Bookmark")}
    failure = schema("BindingFailure")
    return {
        200: answer("One element for each text, or the error", either, session),
        401: answer("No live access token", failure),
        403: answer("The token is not for this", failure),
        429: answer("Too many requests without a live access token", failure),
    }


def _binding(key: str, summary: str) -> Json:
    formats: Json = {
        "name": "resultsFormat",
        "in": "query",
        "schema": STRING,
        "description": "`ROWS_AND_COLUMNS`: rows as arrays; any other: as objects",
        "example": "ROWS_AND_COLUMNS",
    }
    body = query_body()
    body["content"][JSON_TYPE]["schema"] = schema("BindingCall")
    return operation(
        key,
        tag=_BINDING,
        summary=summary,
        description="What workerd sends for `env.DB`.",
        parameters=[
            formats,
            *map(parameter, ("BindingDatabase", "BindingSession", "MaxWait", "OnTimeout")),
        ],
        body=body,
        answers=_binding_answers(),
        refusals=(400, 417),
    )


def _dump() -> Json:
    gone = answer("D1 has taken it back, and so it is here", schema("BindingFailure"))
    return operation(
        "binding-dump",
        tag=_BINDING,
        summary="Not available",
        answers={**_refused_binding(), 400: gone},
        refusals=(417,),
    )


def _refused_binding() -> dict[int, Json]:
    return {status: told for status, told in _binding_answers().items() if status != 200}


def _proxied() -> Json:
    url: Json = {
        "name": PROXIED_URL,
        "in": "header",
        "required": True,
        "schema": STRING,
        "description": "the URL of the call; its headers come as "
        f"`{PROXIED_HEADER}<name>`, its database also as `?x-d1-database=`",
        "example": "http://d1/query?resultsFormat=NONE",
    }
    return operation(
        "binding-proxied",
        tag=_BINDING,
        summary="A call that Miniflare has wrapped",
        parameters=[url, parameter("BindingDatabase")],
        body=query_body(),
        answers=_binding_answers(),
        refusals=(400, 404, 417),
    )


def _download() -> Json:
    text: Json = {"application/sql": {"schema": STRING}}
    headers = {name: {"schema": STRING} for name in ("content-disposition", "accept-ranges")}
    ranges = {"content-range": {"required": True, "schema": STRING}}
    whole: Json = {"description": "The file", "content": text, "headers": headers}
    rest: Json = {"description": "The rest of the file", "content": text, "headers": ranges}
    return operation(
        "download",
        tag=_FILES,
        summary="Fetch an export",
        description="The URL is in the answer to the export. `Range: bytes=N-` goes on from "
        "byte N.",
        answers={200: whole, 206: rest},
        refusals=(400, 403, 404, 500),
        is_open=True,
    )


def _upload() -> Json:
    body: Json = {"required": True, "content": {"application/octet-stream": {"schema": {}}}}
    etag: Json = {"etag": {"required": True, "schema": STRING, "description": "MD5 of the file"}}
    part = "A part of it; `Content-Range` said that there is more"
    return operation(
        "upload",
        tag=_FILES,
        summary="Send a file to import",
        description="The URL is in the answer to `init`. `Content-Range: bytes A-B/N` sends a part "
        "of it.",
        body=body,
        answers={
            200: answer("All of it is here, and its MD5 is right", schema("Uploaded"), etag),
            202: answer(part, schema("Uploaded")),
        },
        refusals=(400, 403, 404, 408, 413, 417, 500, 503),
        is_open=True,
    )


def _livez() -> Json:
    return operation(
        "livez",
        tag=_OPERATORS,
        summary="Whether the node lives",
        answers={200: answer("It does", schema("Liveness"))},
        refusals=(400, 500),
        is_open=True,
    )


def _readyz() -> Json:
    verbose: Json = {
        "name": "verbose",
        "in": "query",
        "schema": STRING,
        "allowEmptyValue": True,
        "description": "with the status, for a caller with a token",
    }
    return operation(
        "readyz",
        tag=_OPERATORS,
        summary="Whether the node may be sent requests",
        parameters=[verbose],
        answers={
            200: answer("It may", schema("Readiness")),
            503: answer("It may not; a caller with a token is told why", schema("Readiness")),
        },
        refusals=(400, 500),
        is_open=True,
    )


def _status() -> Json:
    return operation(
        "status",
        tag=_OPERATORS,
        summary="What the node is, and where its databases stand",
        answers={200: answer("With the databases for a token for all", schema("Status"))},
        refusals=EVERY,
    )


def _metrics() -> Json:
    content: Json = {
        "text/plain": {"schema": STRING},
        "application/openmetrics-text": {"schema": STRING},
    }
    return operation(
        "metrics",
        tag=_OPERATORS,
        summary="Metrics for Prometheus",
        answers={200: {"description": "In the format that `Accept` asks for", "content": content}},
        refusals=EVERY,
    )


def _document() -> Json:
    return operation(
        "openapi",
        tag=_OPERATORS,
        summary="This document",
        answers={200: answer("OpenAPI 3.1", {"type": "object"})},
        refusals=(400, 500),
        is_open=True,
    )
