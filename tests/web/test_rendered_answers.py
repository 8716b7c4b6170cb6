"""An answer as bytes: the short way says what the long one would."""

import pytest

from d1server.query import Answer
from d1server.web.response import date_line, render_answer

BOOKMARK = f"{1:08x}-{0:08x}-{5:08x}-{7:032x}"


def lines_of(answer: Answer, alias: bytes = b"", *, keep_alive: bool = True) -> set[bytes]:
    head, _, body = render_answer(answer, alias, date_line(), keep_alive=keep_alive).partition(
        b"\r\n\r\n"
    )
    assert body == answer.body
    return set(head.split(b"\r\n"))


@pytest.mark.parametrize("alias", [b"", b"x-d1-token"])
def test_both_ways_of_rendering_write_the_same(alias: bytes) -> None:
    """Method: a connection that closes takes the long way, and says one line more."""
    answer = Answer(200, b"{}", BOOKMARK)
    short, long = lines_of(answer, alias), lines_of(answer, alias, keep_alive=False)
    assert long - short == {b"connection: close"}
    assert short <= long
    assert (b"x-d1-token: " + BOOKMARK.encode() in short) is bool(alias)


@pytest.mark.parametrize("alias", [b"", b"x-d1-token"])
def test_what_may_be_sent_again_says_so(alias: bytes) -> None:
    """The binding's errors have status 200, too."""
    lines = lines_of(Answer(200, b"{}", BOOKMARK, should_retry=True, retry_after_s=2), alias)
    assert {b"x-should-retry: true", b"retry-after: 2"} <= lines
