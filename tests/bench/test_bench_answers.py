"""The load generator's parser finds every answer, however the network cuts them."""

import pytest

from bench.answers import HEAD_BYTES_MAX, AnswerParser, WrongAnswer

BOOKMARK = b"00000001-00000000-00000007-0123456789abcdef0123456789abcdef"


def answer(body: bytes, *, status: bytes = b"200 OK", name: bytes = b"x-d1-bookmark") -> bytes:
    return (
        b"HTTP/1.1 %b\r\ncontent-type: application/json\r\n%b: %b\r\ncontent-length: %d\r\n\r\n%b"
        % (status, name, BOOKMARK, len(body), body)
    )


def test_answer_is_found_only_when_it_is_whole() -> None:
    """No prefix of an answer passes for an answer; the whole one gives body and bookmark."""
    data = answer(b'{"a":1}')
    parser = AnswerParser()
    for cut in range(len(data)):
        assert parser.next_answer(data[:cut]) is None
    found = parser.next_answer(data)
    assert found is not None
    body, end, bookmark = found
    assert (data[body:end], end, bookmark) == (b'{"a":1}', len(data), BOOKMARK)


def test_pipelined_answers_are_found_one_after_the_other() -> None:
    """The end of one answer is the start of the next, also with bodies that hold line ends."""
    bodies = [b"{}", b"x" * 5000, b"\r\n\r\nHTTP/1.1 500 ", b""]
    data = b"".join(map(answer, bodies))
    parser, start, seen = AnswerParser(), 0, []
    while start < len(data):
        found = parser.next_answer(data, start)
        assert found is not None
        body, start, _bookmark = found
        seen.append(data[body:start])
    assert seen == bodies


def test_spelling_of_header_names_is_learned() -> None:
    """Header names are found however the server writes them, and need not all be there."""
    found = AnswerParser().next_answer(
        b"HTTP/1.1 200 OK\r\nX-D1-Bookmark: b\r\nContent-Length: 2\r\n\r\nok"
    )
    assert found is not None
    assert found[2] == b"b"
    found = AnswerParser().next_answer(b"HTTP/1.1 200 OK\r\nCONTENT-LENGTH:2\r\n\r\nok")
    assert found is not None
    assert found[2] == b""


@pytest.mark.parametrize(
    "data",
    [
        answer(b"{}", status=b"500 Internal Server Error"),
        answer(b"{}", status=b"503 Service Unavailable"),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"x" * (HEAD_BYTES_MAX + 1),
    ],
)
def test_what_is_not_a_success_is_an_error(data: bytes) -> None:
    """Errors, unknown framing and endless heads must not be counted as answers."""
    with pytest.raises(WrongAnswer):
        AnswerParser().next_answer(data)
