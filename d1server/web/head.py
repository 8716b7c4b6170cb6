"""Reading the head of a query: is it a plain one, and what does it ask for.

Pure: the exact bytes of a request's head in, a `QueryHead` out, or None for anything that is
not beyond doubt a plain query. None is no verdict: aiohttp looks at those, and refuses or serves
them.

Two readers of HTTP behind one socket must never disagree on where a request ends, so a
head is taken here only if llhttp takes it in its strict mode and every rule below holds:

1. the target of a POST with HTTP/1.1 is one of `_TARGETS`: a query's on one of the three surfaces,
   with the database's name in plain characters;
2. exactly one Host, and either exactly one Content-Length of at most FAST_BODY_BYTES_MAX,
   digits only, or exactly one Transfer-Encoding, `chunked` (then see `chunks.py`);
3. no Expect, Upgrade, Content-Encoding, Trailer or TE;
4. at most one Connection, `keep-alive` or `close`;
5. at most HEAD_BYTES_MAX and HEADERS_MAX;
6. the session headers are valid (`headers.py`);
7. on the binding, exactly one header names the database, and there is no idempotency key;
8. at most one Authorization, no Origin and none of the LEGACY_HEADERS.

Keep-alive clients repeat their head, so `HeadCache` keeps what was read under the exact
bytes: a repeated head costs a lookup, a new one the strict reading above.
"""

import re
from typing import Final

import httptools

from d1server.web.binding_call import DATABASE_HEADER, shape_of
from d1server.web.headers import BOOKMARK_NAMES, WISH_NAMES, read_wishes
from d1server.web.limits import FAST_BODY_BYTES_MAX, HEAD_BYTES_MAX, HEADERS_MAX
from d1server.web.query_head import QueryHead
from proto.api import Dialect, Shape
from proto.errors import BookmarkInvalid, RequestInvalid
from proto.tokens import TEXT_LENGTH, Bookmark

HEAD_END: Final = b"\r\n\r\n"
SHAPES: Final = {"query": Shape.OBJECTS, "raw": Shape.ARRAYS}

_PREFIXES: Final = (
    b"POST /db/",
    b"POST /client/v4/accounts/",
    b"POST /accounts/",
    b"POST /query",
    b"POST /execute",
)
_NAME: Final = rb"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_TARGETS: Final = {
    Dialect.NODE: re.compile(rb"/db/(?P<name>%b)/(?P<route>query|raw)" % _NAME),
    Dialect.REST: re.compile(
        rb"(?:/client/v4)?/accounts/[A-Za-z0-9_-]{1,64}/d1/database/"
        rb"(?P<name>%b)/(?P<route>query|raw)" % _NAME
    ),
    Dialect.BINDING: re.compile(
        rb"/(?:query|execute)(?:\?resultsFormat=(?P<route>[A-Za-z_]{1,32}))?"
    ),
}
_PLAIN_NAME: Final = re.compile(_NAME)
_BOOKMARK_LINE: Final = re.compile(
    rb"\r\n(?i:%b):[ \t]*([0-9a-f-]{%d})[ \t]*\r\n"
    % ("|".join(sorted(BOOKMARK_NAMES)).encode(), TEXT_LENGTH)
)
_LENGTH: Final = re.compile(rb"[0-9]{1,9}")
_HOST: Final = re.compile(rb"[A-Za-z0-9_.:\[\]-]{1,255}")
_PLAIN: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection"})
_FRAMING: Final = _PLAIN | {
    b"expect",
    b"upgrade",
    b"content-encoding",
    b"trailer",
    b"te",
}
LEGACY_HEADERS: Final = frozenset({"x-auth-email", "x-auth-key", "x-auth-user-service-key"})
_NOT_HERE: Final = frozenset({b"origin", *(name.encode() for name in LEGACY_HEADERS)})
_WISHES: Final = frozenset(name.encode() for name in WISH_NAMES)
_DATABASE: Final = DATABASE_HEADER.encode()
_KEEPS_OPEN: Final = {b"keep-alive": True, b"close": False}


class _Fields:
    """What llhttp finds in a head."""

    __slots__ = (
        "authorizations",
        "complete",
        "count",
        "databases",
        "framing",
        "is_plain",
        "target",
        "wishes",
    )

    def __init__(self) -> None:
        self.target = b""
        self.databases: list[bytes] = []
        self.count = 0  # of all headers
        self.framing: list[tuple[bytes, bytes]] = []
        self.wishes: list[tuple[str, str]] = []
        self.authorizations: list[bytes] = []
        self.is_plain = True
        self.complete = False

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self.count += 1
        name = name.lower()
        if name in _FRAMING:
            self.framing.append((name, value))
        elif name in _WISHES:
            self.wishes.append((name.decode("ascii"), value.decode("latin-1")))
        elif name == _DATABASE:
            self.databases.append(value)
        elif name == b"authorization":
            self.authorizations.append(value)
        elif name in _NOT_HERE:
            self.is_plain = False

    def on_headers_complete(self) -> None:
        self.complete = True


def may_be_query(data: bytes | bytearray) -> bool:
    """Tell whether bytes that do not end a head yet could become one that is served here."""
    if len(data) > HEAD_BYTES_MAX:
        return False
    if not any(data.startswith(prefix[: len(data)]) for prefix in _PREFIXES):
        return False
    # A lone LF ends a line for lenient readers: do not wait for a CR LF CR LF that never comes.
    return data.count(b"\n") == data.count(b"\r\n")


def read_head(raw: bytes) -> QueryHead | None:
    """Read a whole head, from its first byte to the empty line; None: not beyond doubt ours."""
    if len(raw) > HEAD_BYTES_MAX or not raw.startswith(_PREFIXES):
        return None
    fields = _Fields()
    parser = httptools.HttpRequestParser(fields)
    try:
        parser.feed_data(raw)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    if not fields.complete or parser.get_method() != b"POST":
        return None
    if parser.get_http_version() != "1.1" or parser.should_upgrade():
        return None
    return _read_fields(fields)


def _read_fields(fields: _Fields) -> QueryHead | None:
    if not fields.is_plain or len(fields.authorizations) > 1:
        return None
    asked = _read_target(fields)
    plain = _read_framing(fields.framing)
    if asked is None or plain is None or fields.count > HEADERS_MAX:
        return None
    content_length, keep_alive = plain
    try:
        wishes = read_wishes(fields.wishes)
    except RequestInvalid:
        return None
    database, shape, dialect = asked
    if dialect is Dialect.BINDING and wishes.idempotency_key is not None:
        return None
    head = QueryHead(
        database, shape, wishes, dialect, content_length=content_length, keep_alive=keep_alive
    )
    if fields.authorizations:
        head.authorization = fields.authorizations[0].decode("latin-1")
    named = [name for name, _ in fields.wishes if name in BOOKMARK_NAMES]
    head.has_one_bookmark = len(named) == 1 and wishes.bookmark is not None
    return head


def _read_target(fields: _Fields) -> tuple[str, Shape, Dialect] | None:
    for dialect, pattern in _TARGETS.items():
        target = pattern.fullmatch(fields.target)
        if target is None:
            continue
        route = (target["route"] or b"").decode()
        if dialect is not Dialect.BINDING:
            return target["name"].decode(), SHAPES[route], dialect
        names = fields.databases
        if len(names) != 1 or not _PLAIN_NAME.fullmatch(names[0]):
            return None
        return names[0].decode(), shape_of(route), dialect
    return None


def _read_framing(framing: list[tuple[bytes, bytes]]) -> tuple[int | None, bool] | None:
    """Return the body's length (None: in chunks) and whether the connection stays.

    None for both: a surprise.
    """
    found = dict(framing)
    if len(found) != len(framing) or not found.keys() <= _PLAIN:
        return None
    host, length = found.get(b"host"), found.get(b"content-length")
    coding = found.get(b"transfer-encoding")
    if host is None or not _HOST.fullmatch(host) or (length is None) is (coding is None):
        return None
    connection = found.get(b"connection", b"keep-alive").lower()
    if connection not in _KEEPS_OPEN:
        return None
    if length is None:
        return (None, _KEEPS_OPEN[connection]) if coding == b"chunked" else None
    if not _LENGTH.fullmatch(length) or int(length) > FAST_BODY_BYTES_MAX:
        return None
    return int(length), _KEEPS_OPEN[connection]


class HeadCache:
    """Heads read before, by their exact bytes; at most `2 * heads_max`, recent ones kept.

    Two generations instead of a list in order of use: a hit in the young one is one
    lookup; when it is full it becomes the old one, and what is used again moves back.

    A session that writes sends a new bookmark with each request, in a head that is else the
    same. So of heads with exactly one header about bookmarks, and a bookmark in it, a *template*
    is kept: the bytes around the bookmark. Another bookmark in the same place (as many characters
    of hex digits and dashes, checked by `Bookmark.parse`) changes nothing of what the strict
    reader saw.
    """

    __slots__ = ("_heads_max", "_old", "_raw_bytes_max", "_templates", "_young", "misses")

    def __init__(self, heads_max: int = 512, *, raw_bytes_max: int = 2048) -> None:
        self._heads_max = heads_max
        self._raw_bytes_max = raw_bytes_max
        self._young: dict[bytes, QueryHead] = {}
        self._old: dict[bytes, QueryHead] = {}
        self._templates: dict[tuple[bytes, bytes], QueryHead] = {}
        self.misses = 0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def read(self, raw: bytes) -> QueryHead | None:
        """`read_head`, at the price of a lookup when these bytes were read before."""
        head = self._young.get(raw)
        return head if head is not None else self._read_other(raw)

    def _read_other(self, raw: bytes) -> QueryHead | None:
        head = self._old.get(raw)
        if head is None:
            head = self._read_new(raw)
            # A head with a key of its own does not come again, one of aiohttp's is not kept.
            if head is None or len(raw) > self._raw_bytes_max or head.wishes.idempotency_key:
                return head
        if len(self._young) >= self._heads_max:
            self._old, self._young = self._young, {}
        self._young[raw] = head
        return head

    def _read_new(self, raw: bytes) -> QueryHead | None:
        """Read a head that was not seen before, by its template if there is one."""
        found = _BOOKMARK_LINE.search(raw) if len(raw) <= self._raw_bytes_max else None
        if found is None:
            self.misses += 1
            return read_head(raw)
        around = (raw[: found.start(1)], raw[found.end(1) :])
        template = self._templates.get(around)
        if template is not None:
            try:
                return template.with_bookmark(Bookmark.parse(found[1].decode()))
            except BookmarkInvalid:
                return None
        self.misses += 1
        head = read_head(raw)
        if head is not None and head.has_one_bookmark and not head.wishes.idempotency_key:
            if len(self._templates) >= self._heads_max:
                self._templates.clear()
            self._templates[around] = head
        return head
