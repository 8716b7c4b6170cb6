"""SQL values as text that gives the same value back, whatever it is.

The forms are those of D1's dumps: blobs as `X'..'`, infinities as `9e999`, line ends in text
through `replace()`. Text that these forms would change, or that SQL text cannot hold, is
written as the bytes that it is made of.

Pure.
"""

import math
from typing import Final

from proto.api import SqlValue

LITERAL_BYTES_MAX: Final = 2_000_000
"""What `replace()` is given cannot be longer, where values have D1's limit."""
_CERTAINLY_SHORT: Final = LITERAL_BYTES_MAX // 4  # characters: at most four bytes each


def name_literal(name: str) -> str:
    """A table's or column's name, quoted."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: SqlValue) -> str:
    """Any value."""
    if isinstance(value, str):
        return _text(value)
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _real(value)
    return "X'" + value.hex() + "'"


def text_of_bytes(value: bytes) -> str:
    """Text whose bytes may not be UTF-8."""
    try:
        return _text(value.decode())
    except UnicodeDecodeError:
        return _from_bytes(value)


def _real(value: float) -> str:
    if math.isfinite(value):
        return repr(value)  # the shortest text that SQLite reads back as this very number
    return "9e999" if value > 0 else "-9e999"


def _text(value: str) -> str:
    quoted = "'" + value.replace("'", "''") + "'"
    if value.isprintable():
        return quoted
    has_lf, has_cr = "\n" in value, "\r" in value
    is_ambiguous = (has_lf and "\\n" in value) or (has_cr and "\\r" in value)
    if is_ambiguous or "\0" in value:
        return _from_bytes(value.encode())
    if has_cr:
        quoted = "replace(" + quoted.replace("\r", "\\r") + ",'\\r',char(13))"
    if has_lf:
        quoted = "replace(" + quoted.replace("\n", "\\n") + ",'\\n',char(10))"
    is_plain = not (has_lf or has_cr)
    if is_plain or len(quoted) < _CERTAINLY_SHORT or len(quoted.encode()) < LITERAL_BYTES_MAX:
        return quoted
    return _from_bytes(value.encode())


def _from_bytes(value: bytes) -> str:
    return f"CAST(X'{value.hex()}' AS TEXT)"
