"""Statements of a file: the same ones as of the whole text, whatever the pieces it comes in."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.sqlfile import FileStatement, SqlFileInvalid, StatementReader, read_statements
from engine.sqltext import split

TRIGGER = """CREATE TRIGGER stock AFTER INSERT ON orders BEGIN
  UPDATE products SET stock = stock - 1;  -- not the end;
  SELECT CASE WHEN 1 THEN 2 END;
END"""

FILE = f"""-- a shop; with a comment
CREATE TABLE t (a TEXT);
/* INSERT INTO t VALUES ('one'); */ INSERT INTO t VALUES ('one');
-- INSERT INTO t VALUES ('a;
INSERT INTO t VALUES ('a;
b''c');; INSERT INTO t VALUES (x'00'); INSERT INTO t VALUES ("q;q");
{TRIGGER};

SELECT [odd;name], `other;name` FROM t WHERE a = $b(;);
SELECT 'the last, without a semicolon'
"""

LINES = [2, 3, 5, 6, 6, 7, 12, 13]


def read_in_pieces(text: str, size: int) -> list[FileStatement]:
    reader = StatementReader()
    found: list[FileStatement] = []
    for at in range(0, len(text), size):
        found += reader.feed(text[at : at + size])
    return [*found, *reader.finish()]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 10_000])
def test_pieces_of_any_size_give_the_same_statements(size: int) -> None:
    found = read_in_pieces(FILE, size)
    assert [statement.sql for statement in found] == list(split(FILE))
    assert [statement.line for statement in found] == LINES
    assert [statement.number for statement in found] == list(range(1, 9))
    assert found[2].line_last == 6
    assert found[5].sql == TRIGGER


tokens = st.sampled_from(
    [
        *("'", '"', "`", "[", "]", ";", "--", "/*", "*/", "\n", " ", "$a(", ")", "''", "\r\n"),
        *("CREATE TRIGGER", "END", "BEGIN", "SELECT", "a", "\N{LATIN SMALL LETTER E WITH ACUTE}"),
        *("-", "/", "*", "\t", ":x", "EXPLAIN", "\ufeff", "1"),
    ]
)


@given(st.lists(tokens, max_size=40).map("".join), st.integers(1, 12))
def test_any_text_is_cut_as_if_it_were_whole(text: str, size: int) -> None:
    """The reader never sees the whole, and must not cut where the whole is not cut."""
    found = read_in_pieces(text, size)
    assert [statement.sql for statement in found] == list(split(text))


@given(st.lists(tokens, max_size=40).map("".join), st.integers(1, 12))
def test_lines_are_those_of_the_whole_text(text: str, size: int) -> None:
    whole = [(statement.line, statement.sql) for statement in read_in_pieces(text, len(text) + 1)]
    assert [(found.line, found.sql) for found in read_in_pieces(text, size)] == whole


def test_a_statement_without_end_is_refused_before_it_fills_the_memory() -> None:
    reader = StatementReader(statement_chars_max=1000)
    assert len(list(reader.feed("SELECT 1;\nSELECT 2;\n"))) == 2
    assert not list(reader.feed("INSERT INTO t VALUES ('open\n" * 30))
    with pytest.raises(SqlFileInvalid, match="is a quote left open") as caught:
        list(reader.feed("still open\n" * 30))
    assert caught.value.line == 3


def test_a_comment_may_be_as_long_as_it_likes() -> None:
    reader = StatementReader(statement_chars_max=1000)
    found = list(reader.feed("SELECT 1; /* it's\n"))
    for _ in range(1000):
        found += reader.feed("a long; story\n")
    found += reader.feed("end */ SELECT 2;\n")
    assert [(statement.line, statement.sql) for statement in found] == [
        (1, "SELECT 1"),
        (1002, "SELECT 2"),
    ]


def test_file_with_a_byte_order_mark() -> None:
    data = "\ufeffSELECT 'é';\r\nSELECT 2".encode()
    told: list[int] = []
    found = [statement.sql for statement in read_statements(io.BytesIO(data), told.append)]
    assert found == ["SELECT 'é'", "SELECT 2"]
    assert sum(told) == len(data)


@pytest.mark.parametrize("tail", [b"'\xff';\n", b"'\xc3"])
def test_file_that_is_not_utf8_is_refused_with_its_line(tail: bytes) -> None:
    file = io.BytesIO(b"SELECT 1;\nSELECT " + tail)
    with pytest.raises(SqlFileInvalid, match="not UTF-8") as caught:
        list(read_statements(file, lambda _: None))
    assert caught.value.line == 2
