"""Where one SQL statement ends and the next begins.

A text may hold many megabytes of statements, each of which must obey the limit on the
length of one statement. SQLite would refuse the text as a whole, so it is cut here, by
SQLite's own lexical rules (`tokenize.c`, `complete.c`):

1. Quotes `'..' ".." `..` [..]`, comments `-- ..` and `/* .. */`, and variables with a
   suffix `$name(..)` hide what they hold. Unterminated ones reach to the end of the text.
2. A semicolon ends a statement, except that CREATE TRIGGER ends with `; END ;`.
3. Blank and comment-only pieces are not statements.

Linear in the length of the text: each character is looked at by at most two patterns,
and none of them backtracks. The planner checks against SQLite that each piece is one
statement, so a cut in the wrong place can refuse a statement but never hide one.
"""

import re
from collections.abc import Iterator
from typing import Final

_WORD: Final = r"[A-Za-z0-9_$\x80-\U0010ffff]"
_COMMENT: Final = r"--[^\n]*+|/\*[^*]*+(?:\*(?!/)[^*]*+)*+(?:\*/|\Z)"
_BLANK: Final = rf"(?:[ \t\n\f\r][ \t\n\v\f\r]*+|\ufeff|{_COMMENT})"

_QUOTED: Final = (
    r"'[^']*+(?:'|\Z)"
    r'|"[^"]*+(?:"|\Z)'
    r"|`[^`]*+(?:`|\Z)"
    r"|\[[^\]]*+(?:\]|\Z)"
)
# Whatever is looked at is taken, so that no character is looked at again. `$` within a word
# belongs to the word.
_VARIABLE: Final = rf"(?:(?<!{_WORD})\$|[@:#])(?:{_WORD}|::)*+(?:\([^) \t\n\v\f\r]*+\)?+)?+"

_BEFORE_STATEMENT: Final = re.compile(rf"(?:;|{_BLANK})*+")
# Everything up to the semicolon, in one match: half the time of an import is spent here.
_PLAIN: Final = re.compile(rf"(?:[^'\"`\[\-/$@:#;]++|{_QUOTED}|{_COMMENT}|{_VARIABLE}|[\-/$])*+")
_OPAQUE_OR_END: Final = re.compile(rf"{_QUOTED}|{_COMMENT}|{_VARIABLE}|(?P<end>;)")
_TRIGGER: Final = re.compile(
    rf"(?:EXPLAIN{_BLANK}++(?:QUERY{_BLANK}++PLAN{_BLANK}++)?+)?+"
    rf"CREATE{_BLANK}++(?:TEMP(?:ORARY)?+{_BLANK}++)?+TRIGGER(?!{_WORD})",
    re.IGNORECASE,
)
_TRIGGER_BEGINS: Final = frozenset("CcEe")
_TRIGGER_END: Final = re.compile(rf"{_BLANK}*+END(?!{_WORD}){_BLANK}*+(?P<end>;|\Z)", re.IGNORECASE)
_TRANSACTION: Final = re.compile(
    r"(?:BEGIN(?:\s+(?:DEFERRED|IMMEDIATE|EXCLUSIVE))?|COMMIT|END)(?:\s+TRANSACTION)?\s*",
    re.IGNORECASE,
)
_TRANSACTION_BEGINS: Final = frozenset("BbCcEe")
_TRANSACTION_CHARS_MAX: Final = 80
_NAME: Final = rf"(?:{_WORD}++|{_QUOTED})"
_LITERAL: Final = re.compile(rf"'[^']*+(?:'|\Z)|(?<!{_WORD})[0-9][0-9A-Za-z_.]*+")
_INSERT: Final = (
    rf"(?:INSERT(?:\s++OR\s++[a-z]++)?+|REPLACE)\s++INTO\s*+{_NAME}(?:\.{_NAME})?+\s*+"
    rf"(?:\([^()]*+\)\s*+)?+VALUES\s*+\("
)
_HEAD_OF_INSERT: Final = re.compile(_INSERT, re.IGNORECASE)
_FIRST_ROW: Final = re.compile(
    rf"{_INSERT}(?:[^'\"`\[()\-/]++|{_QUOTED}|{_COMMENT}|[\-/])*+\)", re.IGNORECASE
)
_SINGLE: Final = re.compile(r"[A-Za-z(][^;]*+\Z")


def split(text: str) -> tuple[str, ...]:
    """Cut a text into its statements, without the semicolons between them."""
    if _SINGLE.match(text) is not None:
        return (text,)
    return tuple([text[start:end] for start, end in spans(text)])


def spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each statement begins and ends.

    If a semicolon stands at its end, nothing that follows in a longer text would change it.
    """
    at = _after(_BEFORE_STATEMENT, text, 0)
    while at < len(text):
        is_trigger = text[at] in _TRIGGER_BEGINS and _TRIGGER.match(text, at)
        end = _end_of_trigger(text, at) if is_trigger else _after(_PLAIN, text, at)
        yield at, end
        at = _after(_BEFORE_STATEMENT, text, end)


def is_transaction(sql: str) -> bool:
    """Whether a statement only begins or commits one, which a file that is loaded is anyway."""
    if len(sql) > _TRANSACTION_CHARS_MAX or sql[0] not in _TRANSACTION_BEGINS:
        return False
    return _TRANSACTION.fullmatch(sql) is not None


def shape(sql: str) -> str:
    """The text without its literals: what is left is the same for many, and planned alike."""
    return _LITERAL.sub("?", sql)


def head_of_insert(sql: str) -> str | None:
    """Of INSERT .. VALUES: all up to the first value. None for other statements."""
    found = _HEAD_OF_INSERT.match(sql)
    return found[0] if found is not None else None


def first_row(sql: str) -> str | None:
    """Of INSERT .. VALUES: the same for the first row alone.

    None for other statements, and where that row has brackets in it.
    """
    found = _FIRST_ROW.match(sql)
    return found[0] if found is not None else None


def is_complete(text: str) -> bool:
    """Whether every statement in a text has its semicolon."""
    ends = [end for _, end in spans(text)]
    return not ends or ends[-1] < len(text)


def opening_of_comment(text: str) -> str | None:
    """What may stand for a text of nothing but blanks and comments, before more of it.

    Empty, or how the comment begins that the text ends in. None: it may be more than that.
    """
    if _after(_BEFORE_STATEMENT, text, 0) < len(text) or text.endswith("*"):
        return None
    if _after(_BEFORE_STATEMENT, text + "x", 0) == len(text):
        return ""
    return "--" if _after(_BEFORE_STATEMENT, text + "\nx", 0) == len(text) + 1 else "/*"


def _end_of_trigger(text: str, start: int) -> int:
    """The semicolon behind the first `; END` whose next token is a semicolon or nothing."""
    for token in _OPAQUE_OR_END.finditer(text, start):
        if token["end"] is not None:
            end = _TRIGGER_END.match(text, token.end())
            if end is not None:
                return end.start("end")
    return len(text)


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    assert found is not None, "the pattern matches the empty text"
    return found.end()
