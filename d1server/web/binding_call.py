"""The protocol between a Worker's `env.DB` and what serves it: heads and bodies. Pure.

A call is `POST /query`, `/execute` or `/dump` with `?resultsFormat=`; its body is one
`{"sql", "params"}` or an array of them, which is one transaction. The answer is an array with
one element per statement sent, or one object `{"success": false, "error"}`: the client
looks at the body only, and for nothing else than `error`.

The binding says neither who it is nor which database it means. Both come in headers that
workerd is configured to add (`x-d1-database`), or with Miniflare's proxied form, which
wraps the call: its URL in `MF-URL`, its headers as `MF-Header-*`.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import orjson

from d1server.query import Answer, Constraint
from d1server.web.headers import (
    BOOKMARK_NAMES,
    MAX_WAIT_HEADER,
    ON_TIMEOUT_HEADER,
    Wishes,
    read_wishes,
)
from d1server.web.query_head import QueryHead
from proto.api import ANSWER_BEGIN, ANSWER_END, Dialect, Shape
from proto.errors import RequestInvalid

TOKEN_HEADER: Final = "x-cf-d1-session-commit-token"
DATABASE_HEADER: Final = "x-d1-database"
PROXIED_URL: Final = "mf-url"
PROXIED_HEADER: Final = "mf-header-"
PATHS: Final = ("/query", "/execute")
DUMP: Final = "/dump"

_ROWS: Final = "ROWS_AND_COLUMNS"
# A key would be the same for every call: workerd adds the same headers to each.
_WISHES: Final = BOOKMARK_NAMES | {MAX_WAIT_HEADER, ON_TIMEOUT_HEADER}
# The text that clients take as leave to try again.
_NO_SESSION: Final = Constraint.NONE  # looked up once, for every answer
_KEPT: Final = frozenset({401, 403, 429})
_RETRY: Final = "Network connection lost."

Pairs = Sequence[tuple[str, str]]


class Head(NamedTuple):
    """A call's path, query parameters and headers (names in lower case)."""

    path: str
    query: Pairs
    headers: Pairs


def unwrap(head: Head) -> Head | None:
    """The call that Miniflare has wrapped, None if it is no such call.

    The database may be named in the wrapper, as a header or as a parameter of the URL that
    Miniflare was given: the calls themselves do not name it.
    """
    url = dict(head.headers).get(PROXIED_URL)
    if url is None:
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    headers = [
        (name.removeprefix(PROXIED_HEADER), value)
        for name, value in head.headers
        if name.startswith(PROXIED_HEADER)
    ]
    outer = [*head.headers, *head.query]
    headers += [pair for pair in outer if pair[0] == DATABASE_HEADER]
    return Head(parts.path, parse_qsl(parts.query), headers)


def read_call(head: Head, only_database: str = "") -> QueryHead:
    """Which database, which shape, which session. Raises `RequestInvalid`.

    `only_database`: the one that the caller's token is for, empty if it is for several.
    """
    if head.path not in PATHS:
        raise RequestInvalid(f"the binding's calls are {' and '.join(PATHS)}, not {head.path!r}")
    database = next(
        (value for name, value in head.headers if name == DATABASE_HEADER), only_database
    )
    if not database:
        raise RequestInvalid(
            f"which database? have workerd add the header {DATABASE_HEADER} with its name or uuid "
            f"(injectRequestHeaders), put ?{DATABASE_HEADER}=NAME behind Miniflare's proxy URL, or "
            "use a token for one database only"
        )
    if not database.isprintable():  # half a character, a control character: no name has one
        raise RequestInvalid(f"there is no database named {database!r}")
    shape = shape_of(dict(head.query).get("resultsFormat", ""))
    return QueryHead(database, shape, _read_wishes(head.headers), Dialect.BINDING)


def shape_of(results_format: str) -> Shape:
    """The form of rows that `resultsFormat` asks for: any but one, also NONE, means objects."""
    return Shape.ARRAYS if results_format == _ROWS else Shape.OBJECTS


def _read_wishes(headers: Pairs) -> Wishes:
    """A blank token is what `withSession()` means without a word: any state will do."""
    wanted: Iterable[tuple[str, str]] = (
        (name, value.strip() or Constraint.UNCONSTRAINED.value if name == TOKEN_HEADER else value)
        for name, value in headers
        if name in _WISHES
    )
    return read_wishes(wanted)


def to_binding_answer(answer: Answer, wishes: Wishes) -> Answer:
    """What the binding's client is sent, with status 200 unless it may not ask at all.

    The elements, or the one error; the new bookmark, but not for a client without session.
    """
    bookmark = None if wishes.constraint is _NO_SESSION else answer.bookmark
    status = answer.status if answer.status in _KEPT else 200
    return Answer(status, _to_body(answer), bookmark, answer.should_retry, answer.retry_after_s)


def to_lost_answer(answer: Answer) -> Answer:
    """What the binding's client is sent for a call that the node has given up.

    The text begins as its own does when the connection breaks, which is what it would see else.
    """
    message = f"{_RETRY} {_message(answer)}"
    body = orjson.dumps({"success": False, "error": message})
    return Answer(200, body, None, answer.should_retry)


def _message(answer: Answer) -> str:
    message: str = orjson.loads(answer.body)["errors"][0]["message"]
    return message


def _to_body(answer: Answer) -> bytes:
    if answer.status == 200:
        assert answer.body.startswith(ANSWER_BEGIN), "only a query is answered so"
        assert answer.body.endswith(ANSWER_END), "only a query is answered so"
        return b"[%b]" % answer.body[len(ANSWER_BEGIN) : -len(ANSWER_END)]
    message = _message(answer)
    if answer.should_retry:
        message = f"{_RETRY} {message}"
    return orjson.dumps({"success": False, "error": message})
