"""An `Answer` as bytes on the wire, or as header pairs for aiohttp.

A fast answer leaves in one write: status line, headers and body in one piece. (Two writes
cost Nagle and delayed acknowledgements about 50 ms.)
"""

from collections.abc import Iterator
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from aiohttp import web

from d1server.query import Answer
from d1server.web.headers import BOOKMARK_HEADER

CONTENT_TYPE: Final = "application/json"
SERVER: Final = "d1server"

_CONSTANT: Final = (
    f"\r\nserver: {SERVER}\r\ncontent-type: {CONTENT_TYPE}\r\nx-content-type-options: nosniff\r\n"
)
_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}{_CONSTANT}".encode()
    for status in HTTPStatus
}
_OK: Final = _STATUS_LINES[200]
_BOOKMARK_NAME: Final = BOOKMARK_HEADER.encode()


def date_line() -> bytes:
    """The Date header of this second, with its line end."""
    return b"date: " + formatdate(usegmt=True).encode() + b"\r\n"


def render_answer(answer: Answer, alias: bytes, date: bytes, *, keep_alive: bool) -> bytes:
    """Return the whole response; `alias` is the bookmark's second header name or empty."""
    body = answer.body
    bookmark = answer.bookmark
    is_plain = answer.status == 200 and keep_alive and answer.should_retry is None
    if is_plain and bookmark is not None:
        text = bookmark.encode()
        return b"%b%bcontent-length: %d\r\nx-d1-bookmark: %b\r\n%b\r\n%b" % (
            _OK,
            date,
            len(body),
            text,
            b"%b: %b\r\n" % (alias, text) if alias else b"",
            body,
        )
    lines = [_STATUS_LINES[answer.status], date, b"content-length: %d\r\n" % len(body)]
    if bookmark is not None:
        lines.append(b"%b: %b\r\n" % (_BOOKMARK_NAME, bookmark.encode()))
        if alias:
            lines.append(b"%b: %b\r\n" % (alias, bookmark.encode()))
    lines += [f"{name}: {value}\r\n".encode() for name, value in retry_headers(answer)]
    if not keep_alive:
        lines.append(b"connection: close\r\n")
    return b"".join((*lines, b"\r\n", body))


def retry_headers(answer: Answer) -> Iterator[tuple[str, str]]:
    """What the answer says about sending the request again, and with what."""
    if answer.should_retry is not None:
        yield "x-should-retry", "true" if answer.should_retry else "false"
    if answer.retry_after_s is not None:
        yield "retry-after", str(answer.retry_after_s)
    if answer.status == HTTPStatus.UNAUTHORIZED:
        yield "www-authenticate", 'Bearer realm="d1server"'


def answer_headers(answer: Answer, alias: str) -> dict[str, str]:
    """The headers of `answer` for aiohttp, which adds the length and the date."""
    headers = {
        "server": SERVER,
        "content-type": CONTENT_TYPE,
        "x-content-type-options": "nosniff",
    }
    if answer.bookmark is not None:
        headers[BOOKMARK_HEADER] = answer.bookmark
        headers[alias or BOOKMARK_HEADER] = answer.bookmark
    headers.update(retry_headers(answer))
    return headers


def to_response(answer: Answer, alias: str = "") -> web.Response:
    """Return `answer` as aiohttp's; `alias` is the bookmark's second header name or empty."""
    headers = answer_headers(answer, alias)
    return web.Response(status=answer.status, body=answer.body, headers=headers)
