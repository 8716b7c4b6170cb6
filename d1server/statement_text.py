"""A statement's text without its values: what equal queries have in common.

Literals become `?`, comments go, white space is one blank, and rows of parameters beyond the
first become `...`. What a person may see in statistics holds nothing of anybody's data.

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
    r"(?P<name>\"[^\"]*+\"|`[^`]*+`|\[[^\]]*+\])"
    r"|(?P<literal>(?:(?<![\w$])[xX])?'(?:[^']++|'')*+(?:'|\Z)"
    r"|(?<![\w$.?@:])(?:0[xX][0-9a-fA-F]++|(?:\d[\d_]*+(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)?))"
    rf"|(?:\s{{2,}}+|[\t\r\n\f]|{_COMMENT})(?:\s++|{_COMMENT})*+)"
)
_MORE_ROWS: Final = re.compile(r"(\((?:\?(?:, ?)?)++\))(?:, ?\((?:\?(?:, ?)?)++\))++")
_MORE_VALUES: Final = re.compile(r"\?(?:, ?\?){7,}+")


@lru_cache(maxsize=_CACHE_MAX)
def normalised(sql: str) -> str:
    """The text without values, at most `SHOWN_CHARS_MAX` characters of it.

    Of a long text, give `READ_CHARS_MAX` characters: texts are remembered.
    """
    text = _TOKENS.sub(_shown, sql[:READ_CHARS_MAX]).replace("  ", " ").strip()
    text = _MORE_ROWS.sub(r"\1, ...", text)
    text = _MORE_VALUES.sub("?, ...", text)
    return text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 3] + "..."


def _shown(token: re.Match[str]) -> str:
    kind = token.lastgroup
    if kind == "literal":
        return "?"
    return token[0] if kind == "name" else " "
