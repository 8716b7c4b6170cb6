"""SQLite's errors in D1's words.

Clients match these texts, so SQLite's own message stands first and whole:
`<message>[ at offset <byte in the SQL>]: <code>[ (extended: <extended code>)]`.
"""

from typing import Final

import apsw


def describe_error(exc: apsw.Error) -> str:
    """Write an error of SQLite as D1 does: the text, where in the SQL, and SQLite's codes."""
    text = str(exc)
    offset = _detail(exc, "error_offset", -1)
    if offset >= 0:
        text += f" at offset {offset}"
    extended_code = _detail(exc, "extendedresult", apsw.SQLITE_ERROR)
    code = _code_name(_detail(exc, "result", extended_code & 0xFF))
    extended = _code_name(extended_code)
    return f"{text}: {code}" if extended == code else f"{text}: {code} (extended: {extended})"


def _detail(exc: apsw.Error, name: str, otherwise: int) -> int:
    """Read what apsw sets on its errors, but not on those that it raises for itself."""
    value = getattr(exc, name, otherwise)
    assert isinstance(value, int)
    return value


_NOT_THE_FILE: Final = frozenset(
    {
        apsw.SQLITE_CORRUPT_VTAB,  # an FTS index that its own caller has put out of step
        apsw.SQLITE_IOERR_GETTEMPPATH,  # no folder for temporary files
        apsw.SQLITE_IOERR_NOMEM,
    }
)


def is_damage(exc: apsw.Error) -> bool:
    """Whether the database file, rather than the statement, is at fault."""
    if not isinstance(exc, (apsw.CorruptError, apsw.NotADBError, apsw.IOError)):
        return False
    return _detail(exc, "extendedresult", 0) not in _NOT_THE_FILE


def _code_name(code: int) -> str:
    name = apsw.mapping_extended_result_codes.get(code) or apsw.mapping_result_codes.get(code)
    return str(name) if name is not None else f"SQLITE_ERROR_{code}"


def hint_for(exc: apsw.Error) -> str:
    """Say what to do about an error whose text does not; may be empty."""
    if isinstance(exc, apsw.NoMemError):
        return "the statement is too large to be compiled: split it into several"
    if isinstance(exc, apsw.TooBigError):
        return "split the statement, or store large values in pieces"
    if isinstance(exc, apsw.FullError):
        return "the largest rowid is in use, and AUTOINCREMENT may not go back"
    if "VACUUM" in str(exc):
        return "send POST /db/{name}/vacuum, or run `d1server db vacuum NAME`"
    return ""
