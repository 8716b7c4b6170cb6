"""A statement's text without its values: what equal queries have in common.

Literals become `?`, comments go, white space is one blank, and rows of parameters beyond the
first become `...`. What a person may see in statistics holds nothing of anybody's data.

SQLite takes a text in double quotes for a value where it finds no such name, as D1 does. Without
the schema, the place tells: one that is compared, set, inserted or in a list of values becomes `?`
too, unless a dot makes it a name.

Pure.
"""

import re
from functools import lru_cache
from typing import Final

SHOWN_CHARS_MAX: Final = 2000
READ_CHARS_MAX: Final = 4 * SHOWN_CHARS_MAX  # of a long text the beginning tells enough
_CACHE_MAX: Final = 1024

_COMMENT: Final = r"--[^\n]*+|/\*(?:[^*]++|\*(?!/))*+(?:\*/|\Z)"
_TOKENS: Final = re.compile(
    r"(?=['\"`\[\dxX.\s/-])(?:"  # so that most characters are passed quickly
    r"(?P<quoted>\"(?:[^\"]|\"\")*+(?:\"|\Z))|(?P<name>`[^`]*+`|\[[^\]]*+\])"
    r"|(?P<literal>(?:(?<![\w$])[xX])?'(?:[^']++|'')*+(?:'|\Z)"
    r"|(?<![\w$.?@:])(?:0[xX][0-9a-fA-F_]++|(?:\d[\d_]*+(?:\.[\d_]*+)?|\.\d[\d_]*+)"
    r"(?:[eE][+-]?\d[\d_]*+)?))"
    rf"|(?:\s{{2,}}+|[\t\r\n\f]|{_COMMENT})(?:\s++|{_COMMENT})*+)"
)
_MORE_ROWS: Final = re.compile(r"(\((?:\?(?:, ?)?)++\))(?:, ?\((?:\?(?:, ?)?)++\))++")
_BEFORE_VALUE: Final = re.compile(
    r"(?:[=<>|](?:\s*\()?|[?:@$]\w*+\s*,|\)\s*,\s*\(|\b(?:BETWEEN|ELSE|ESCAPE|GLOB|IS(?:\s+NOT)?"
    r"|LIKE|MATCH|THEN|(?:IN|VALUES)\s*\())\s*\Z",
    re.IGNORECASE,
)
_BEFORE_CHARS: Final = 24  # of a text are looked at
_BETWEEN_VALUES: Final = re.compile(r"\s*,\s*|\s+AND\s+", re.IGNORECASE)
_MORE_VALUES: Final = re.compile(r"\?(?:, ?\?){7,}+")


@lru_cache(maxsize=_CACHE_MAX)
def normalised(sql: str) -> str:
    """The text without values, at most `SHOWN_CHARS_MAX` characters of it.

    Of a long text, give `READ_CHARS_MAX` characters: texts are remembered.
    """
    text = _TOKENS.sub(_Shown().of, sql[:READ_CHARS_MAX]).replace("  ", " ").strip()
    text = _MORE_ROWS.sub(r"\1, ...", text)
    text = _MORE_VALUES.sub("?, ...", text)
    return text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 3] + "..."


class _Shown:
    """What stands for the tokens of one text, from its beginning on."""

    __slots__ = ("_value_end",)

    def __init__(self) -> None:
        self._value_end = 0  # of the newest value

    def of(self, token: re.Match[str]) -> str:
        kind = token.lastgroup
        if kind == "literal" or (kind == "quoted" and self._is_value(token)):
            self._value_end = token.end()
            return "?"
        return " " if kind is None else token[0]

    def _is_value(self, token: re.Match[str]) -> bool:
        text, start, end = token.string, token.start(), token.end()
        if text[end : end + 1] == "." or text[start - 1 : start] == ".":
            return False
        if self._value_end and _BETWEEN_VALUES.fullmatch(text, self._value_end, start):
            return True
        return _BEFORE_VALUE.search(text, max(0, start - _BEFORE_CHARS), start) is not None
