"""Cutting a text into statements, as SQLite would."""

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.sqltext import split
from tests.stopwatch import Stopwatch

TRIGGER = "CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; SELECT CASE 1 WHEN 1 THEN 2 END; END"


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT 1;", ["SELECT 1"]),
        ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
        ("", []),
        (" \t\n\f\r;;-- x;\n/* y; */ ;", []),
        ("\ufeffSELECT 1;\ufeff", ["SELECT 1"]),
        (
            "SELECT ';' ; SELECT \";\";SELECT [;];SELECT `;`",
            ["SELECT ';' ", 'SELECT ";"', "SELECT [;]", "SELECT `;`"],
        ),
        ("SELECT 'it''s; ok'; x", ["SELECT 'it''s; ok'", "x"]),
        ("SELECT 1 /* ; ' */ -- ; '\n; y", ["SELECT 1 /* ; ' */ -- ; '\n", "y"]),
        ("SELECT 1 -- it's;\n; SELECT 2", ["SELECT 1 -- it's;\n", "SELECT 2"]),
        ("SELECT '; x", ["SELECT '; x"]),
        ("SELECT /* ; x", ["SELECT /* ; x"]),
        ("SELECT /*/ ; x */; y", ["SELECT /*/ ; x */", "y"]),
        ("SELECT 1 - - 2; SELECT 4 / 2", ["SELECT 1 - - 2", "SELECT 4 / 2"]),
        ("SELECT $a(';'); y", ["SELECT $a(';')", "y"]),
        ("SELECT a$b(') ; '); y", ["SELECT a$b(') ; ')", "y"]),
        ("SELECT :a::b(;), @c(;'); y", ["SELECT :a::b(;), @c(;')", "y"]),
        (f"{TRIGGER}; SELECT 2", [TRIGGER, "SELECT 2"]),
        (TRIGGER, [TRIGGER]),
        (f"{TRIGGER} /* ; */ ;y", [f"{TRIGGER} /* ; */ ", "y"]),
        (
            "create/*;*/temp --;\n trigger x BEGIN a; end; y",
            ["create/*;*/temp --;\n trigger x BEGIN a; end", "y"],
        ),
        (
            "EXPLAIN QUERY PLAN CREATE TRIGGER x BEGIN a; END; y",
            ["EXPLAIN QUERY PLAN CREATE TRIGGER x BEGIN a; END", "y"],
        ),
        ("CREATE TRIGGER x BEGIN a; ENDED; END; y", ["CREATE TRIGGER x BEGIN a; ENDED; END", "y"]),
        ("CREATE TRIGGERS(a); END; y", ["CREATE TRIGGERS(a)", "END", "y"]),
        ("CREATE TABLE trigger(a); y", ["CREATE TABLE trigger(a)", "y"]),
        ("CREATE TRIGGER x BEGIN a; b; y", ["CREATE TRIGGER x BEGIN a; b; y"]),
    ],
)
def test_pieces(text: str, pieces: list[str]) -> None:
    assert list(split(text)) == pieces


WORDS = ["CREATE", "create", "TRIGGER", "TEMP", "TEMPORARY", "TABLE", "END", "end", "ENDS", "x"]
GAPS = [" ", "\n", "--", "/*", "*/", "-", "/", "*", ";", ";", ";", "(", ")"]
QUOTES = ["'", "''", '"', "`", "[", "]"]
TEXTS = st.lists(st.sampled_from(WORDS + GAPS + QUOTES), max_size=30).map(" ".join) | st.lists(
    st.sampled_from(WORDS + GAPS + QUOTES), max_size=30
).map("".join)


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_cuts_where_sqlite_calls_it_complete(text: str) -> None:
    """Each cut is the first semicolon up to which SQLite's own `sqlite3_complete` is content.

    Method: texts of the tokens that matter, cut here, and cut again by asking SQLite at each
    semicolon whether the statement is complete.
    """
    expected: list[str] = []
    start = 0
    for at, character in enumerate(text):
        if character == ";" and apsw.complete(text[start : at + 1]):
            expected.append(text[start:at])
            start = at + 1
    expected.append(text[start:])
    assert list(split(text)) == [
        piece for piece in (without_blanks(text) for text in expected) if piece
    ]


def without_blanks(text: str) -> str:
    """Drop blanks, comments and semicolons before a statement, in the slow and plain way."""
    while True:
        text = text.lstrip(" \t\n\f\r;")
        if text.startswith("--"):
            text = text.partition("\n")[2]
        elif text.startswith("/*"):
            text = text[2:].partition("*/")[2]
        else:
            return text


HUGE = {
    "semicolons in a string": f"SELECT '{';' * 100_000}{'x' * 4_000_000}'; SELECT 2",
    "statements": "INSERT INTO t VALUES (1, 'abc', 'def');\n" * 50_000,
    "semicolons": ";" * 2_000_000,
    "a trigger of semicolons": f"CREATE TRIGGER x {';' * 1_000_000}",
    "a trigger of ends": f"CREATE TRIGGER x {'; END x' * 200_000}",
    "a trigger of ends and blanks": f"CREATE TRIGGER x {'; END   /**/' * 100_000}",
    "comments": f"CREATE TRIGGER x;{'/*x*/' * 300_000}",
    "stars": f"SELECT 1; /{'*' * 2_000_000}",
    "slashes": f"SELECT 1; {'/ ' * 1_000_000}",
    "dashes": f"SELECT 1; {'- ' * 1_000_000}",
    "quotes": f"SELECT 1; SELECT {chr(39) * 2_000_000}",
    "open quotes": f"SELECT 1; SELECT {chr(34)}{chr(39) * 2_000_000}",
    "brackets": f"SELECT 1; SELECT {'[' * 2_000_000}",
    "dollars": f"SELECT 1; {'$' * 1_000_000}",
    "variables": f"SELECT 1; {'$a(' * 500_000}",
    "colons": f"SELECT 1; {':' * 1_000_000}",
    "double colons": f"SELECT 1; ${'a::' * 300_000}",
    "words after a dollar": f"SELECT 1; $a{'b' * 1_000_000}",
    "many words after dollars": f"SELECT 1; {'$abc' * 300_000}",
    "blanks": f"SELECT 1; {' ' * 2_000_000}",
    "byte order marks": f"SELECT 1; {chr(0xFEFF)} " * 100_000,
    "explains": f"SELECT 1; {'EXPLAIN ' * 200_000}",
    "explained blanks": f"SELECT 1; EXPLAIN {'/**/' * 300_000}",
    "creates": "CREATE ;" * 200_000,
    "temps": f"SELECT 1; CREATE {'TEMP ' * 300_000}",
}


@pytest.mark.parametrize("name", HUGE)
def test_time_is_linear(name: str) -> None:
    """Megabytes of whatever would make a pattern backtrack take seconds at the most."""
    watch = Stopwatch()
    pieces = split(HUGE[name])
    assert watch.seconds < 3.0
    assert all(piece in HUGE[name] for piece in pieces[:3])
