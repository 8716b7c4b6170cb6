"""Names that the shell completes: of tables and columns, by where in the statement one stands.

Pure.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

SELECT_SCHEMA: Final = (
    "SELECT m.name, p.name FROM sqlite_schema AS m LEFT JOIN pragma_table_info(m.name) AS p"
    " WHERE m.type IN ('table', 'view') AND lower(substr(m.name, 1, 4)) NOT IN ('_cf_', '_d1_')"
)
_KEYWORDS: Final = """
SELECT FROM WHERE GROUP BY ORDER HAVING LIMIT OFFSET INSERT INTO VALUES UPDATE SET DELETE CREATE
TABLE INDEX UNIQUE VIEW TRIGGER VIRTUAL DROP ALTER ADD COLUMN RENAME TO PRIMARY KEY REFERENCES
FOREIGN CHECK DEFAULT NOT NULL AND OR IN IS LIKE BETWEEN EXISTS CASE WHEN THEN ELSE END CAST AS
DISTINCT UNION ALL EXCEPT INTERSECT JOIN LEFT INNER CROSS ON USING WITH RECURSIVE RETURNING
CONFLICT DO NOTHING REPLACE EXPLAIN QUERY PLAN PRAGMA ANALYZE REINDEX ASC DESC COLLATE NOCASE
INTEGER TEXT REAL BLOB STRICT WITHOUT ROWID AUTOINCREMENT COUNT SUM AVG MIN MAX COALESCE IFNULL
"""
KEYWORDS: Final = tuple(_KEYWORDS.split())

_WORD: Final = re.compile(r"[\w$]*\Z")
_QUALIFIER: Final = re.compile(r"(?:\"([^\"]+)\"|([\w$]+))\.[\w$]*\Z")
_WANTS_TABLE: Final = re.compile(r"\b(?:from|join|into|update|table)\s+[\w$]*\Z", re.IGNORECASE)
_MENTION: Final = re.compile(
    r"\b(?:from|join|into|update)\s+(?:\"([^\"]+)\"|([\w$]+))(?:\s+(?:as\s+)?([\w$]+))?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Schema:
    """Columns of each table and view, in their order."""

    tables: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_schema(rows: Sequence[Sequence[Any]]) -> Schema:
    """The schema from the rows of SELECT_SCHEMA."""
    tables: dict[str, list[str]] = {}
    for table, column in rows:
        columns = tables.setdefault(str(table), [])
        if column is not None:
            columns.append(str(column))
    return Schema(tables)


def completions(schema: Schema, before: str, after: str = "") -> tuple[str, list[str]]:
    """The word that the cursor is at, and what it may become, likeliest first.

    `before` and `after`: the statement on both sides of the cursor.
    """
    found = _WORD.search(before)
    word = found[0] if found is not None else ""
    wanted = list(dict.fromkeys(_candidates(schema, before, before + after)))
    prefix = word.lower()
    fitting = [one for one in wanted if one.lower().startswith(prefix) and one.lower() != prefix]
    return word, [quoted(one) if one not in KEYWORDS else one for one in fitting]


def _candidates(schema: Schema, before: str, statement: str) -> Iterator[str]:
    mentioned = _mentioned(schema, statement)
    qualifier = _QUALIFIER.search(before)
    if qualifier is not None:
        yield from mentioned.get((qualifier[1] or qualifier[2]).lower(), ())
        return
    if _WANTS_TABLE.search(before) is not None:
        yield from schema.tables
        return
    for columns in mentioned.values():
        yield from columns
    yield from KEYWORDS
    yield from schema.tables
    if not mentioned:
        for columns in schema.tables.values():
            yield from columns


def _mentioned(schema: Schema, statement: str) -> dict[str, Sequence[str]]:
    """Columns of the tables that a statement names, by name and by alias, in lower case."""
    known = {name.lower(): columns for name, columns in schema.tables.items()}
    found = {}
    for quoted_name, plain_name, alias in _MENTION.findall(statement):
        name = (quoted_name or plain_name).lower()
        if name in known:
            found[name] = known[name]
            if alias and alias.upper() not in KEYWORDS:
                found[alias.lower()] = known[name]
    return found


def quoted(name: str) -> str:
    """A name as SQL wants it: quoted only if it must be."""
    is_plain = re.fullmatch(r"[A-Za-z_][\w$]*", name, re.ASCII) and name.upper() not in KEYWORDS
    return name if is_plain else '"' + name.replace('"', '""') + '"'


def unquoted(name: str) -> str:
    """A name as SQLite keeps it, which may be written with SQL's quotes around it."""
    quote = {'"': '"', "[": "]", "`": "`", "'": "'"}.get(name[:1])
    if quote is None or len(name) < 2 or not name.endswith(quote):
        return name
    return name[1:-1].replace(quote * 2, quote)
