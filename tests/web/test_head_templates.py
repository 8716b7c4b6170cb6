"""Heads that differ in their bookmark alone: read once strictly, then by their template."""

import pytest

from d1server.web.head import HeadCache, read_head
from proto.tokens import Bookmark, CommitToken

TAG = b"\x01\x02\x03\x04"


def bookmark(seq: int) -> str:
    """A bookmark of commit `seq`."""
    return Bookmark(CommitToken(1, seq), TAG + seq.to_bytes(12, "big")).text


def head(*lines: str) -> bytes:
    """A query's head with these header lines besides Host and Content-Length."""
    fixed = ("POST /db/shop/query HTTP/1.1", "Host: a", "Content-Length: 2")
    return "\r\n".join((*fixed, *lines, "", "")).encode()


def test_another_bookmark_is_read_as_the_strict_reader_does() -> None:
    """Every field is what `read_head` finds in the same bytes, without another strict read."""
    cache = HeadCache()
    for seq in range(1, 50):
        raw = head(f"x-d1-bookmark: {bookmark(seq)}", "x-d1-max-wait-ms: 7")
        found, strict = cache.read(raw), read_head(raw)
        assert found is not None
        assert strict is not None
        for name in ("database", "shape", "wishes", "content_length", "keep_alive", "alias"):
            assert getattr(found, name) == getattr(strict, name)
    assert cache.misses == 1


@pytest.mark.parametrize(
    "lines",
    [
        ("Authorization: Bearer {number}", "x-d1-bookmark: {bookmark}"),
        ("x-d1-bookmark: {bookmark}", "Authorization: Bearer {number}"),
        ("x-d1-bookmark: {bookmark}", "x-d1-max-wait-ms: {number}"),
        ("x-d1-bookmark: {bookmark}", "Connection: {connection}"),
    ],
)
def test_heads_that_differ_elsewhere_share_nothing(lines: tuple[str, ...]) -> None:
    """What stands before the bookmark and behind it is looked at: the token above all."""
    cache = HeadCache()
    for seq, (number, connection) in enumerate((("1", "close"), ("2", "keep-alive")) * 2):
        values = {"bookmark": bookmark(seq), "number": number, "connection": connection}
        raw = head(*[line.format_map(values) for line in lines])
        found, strict = cache.read(raw), read_head(raw)
        assert found is not None
        assert strict is not None
        assert (found.authorization, found.keep_alive) == (strict.authorization, strict.keep_alive)
        assert found.wishes == strict.wishes


@pytest.mark.parametrize("other", ["x-d1-token", "x-cf-d1-session-commit-token", "X-D1-Bookmark"])
def test_two_bookmark_headers_make_no_template(other: str) -> None:
    """Two that agree are served, two that do not are refused, in whatever order they come."""
    cache = HeadCache()
    agree = head(f"x-d1-bookmark: {bookmark(1)}", f"{other}: {bookmark(1)}")
    assert cache.read(agree) is not None
    for lines in (
        (f"x-d1-bookmark: {bookmark(2)}", f"{other}: {bookmark(1)}"),
        (f"x-d1-bookmark: {bookmark(1)}", f"{other}: {bookmark(2)}"),
    ):
        assert read_head(head(*lines)) is None
        assert cache.read(head(*lines)) is None


def test_what_is_no_bookmark_is_left_to_the_strict_reader() -> None:
    """Characters of the right kind in the wrong order are refused, by template too."""
    cache = HeadCache()
    assert cache.read(head(f"x-d1-bookmark: {bookmark(1)}")) is not None
    for wrong in ("-" * 59, bookmark(1)[::-1], "0" * 59):
        assert cache.read(head(f"x-d1-bookmark: {wrong}")) is None


def test_templates_are_bounded() -> None:
    """Many different heads with bookmarks do not grow the cache without end."""
    cache = HeadCache(heads_max=8)
    for n in range(100):
        assert cache.read(head(f"x-d1-bookmark: {bookmark(n)}", f"x-n: {n}")) is not None
    assert len(cache._templates) <= 8
    assert len(cache) <= 16
