"""Which databases there are: a database itself, replicated like every other.

Its commits are the creates, changes and deletes, so replicas learn of them through the log, in
order. The catalog in memory is what the newest commit that this node has says.

Columns are read by name: a node takes the defaults for those that a table made by an older
program does not have yet, and leaves out those that it does not know. The primary adds
missing ones when it starts (`missing_columns`).
"""

import enum
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from proto.api import SqlValue, Statement, StatementResult

CATALOG_NAME: Final = "_catalog"
NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
UUID_PATTERN: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", re.ASCII)

CREATE_TABLE: Final = Statement(
    "CREATE TABLE IF NOT EXISTS databases (uuid TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, "
    "created_at TEXT NOT NULL) STRICT, WITHOUT ROWID"
)
SELECT_COLUMNS: Final = Statement("SELECT name FROM pragma_table_info('databases')")
SELECT_ALL: Final = Statement("SELECT * FROM databases")

_ADDED_COLUMNS: Final = {
    "version": "TEXT NOT NULL DEFAULT 'production'",
    "jurisdiction": "TEXT",
    "primary_location_hint": "TEXT",
    "created_in_region": "TEXT",
    "replication_mode": "TEXT NOT NULL DEFAULT 'auto'",
}


class ReplicationMode(enum.Enum):
    """Who serves a database's reads."""

    AUTO = "auto"  # every replica
    DISABLED = "disabled"  # the primary only: replicas follow, but forward


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One database."""

    uuid: bytes
    name: str
    created_at: str  # ISO 8601, UTC
    version: str = "production"  # what D1 calls every database that is not an alpha one
    jurisdiction: str | None = None  # as the caller asked; the node is where it is
    location_hint: str | None = None  # the same
    created_in_region: str | None = None  # of the primary at that time
    replication: ReplicationMode = ReplicationMode.AUTO

    @property
    def id(self) -> str:
        """The uuid as text, as clients name it."""
        return str(uuid.UUID(bytes=self.uuid))


@dataclass(frozen=True, slots=True)
class CatalogChange:
    """What one newer state of the catalog means for a node's databases."""

    added: tuple[CatalogEntry, ...]
    removed: tuple[CatalogEntry, ...]


class Catalog:
    """The entries by name and by uuid; see the module's head."""

    def __init__(self) -> None:
        """Know of no database."""
        self.by_name: dict[str, CatalogEntry] = {}
        self.by_uuid: dict[bytes, CatalogEntry] = {}
        self._by_text: dict[str, CatalogEntry] = {}  # names and uuids; a uuid is no name

    def update(self, found: StatementResult) -> CatalogChange:
        """Take the rows of `SELECT_ALL` as the truth; which databases came and went."""
        entries = [_entry(dict(zip(found.columns, row, strict=True))) for row in found.rows]
        now = {entry.uuid: entry for entry in entries}
        added = tuple(entry for key, entry in now.items() if key not in self.by_uuid)
        removed = tuple(entry for key, entry in self.by_uuid.items() if key not in now)
        self.by_uuid = now
        self.by_name = {entry.name: entry for entry in entries}
        self._by_text = self.by_name | {entry.id: entry for entry in entries}
        return CatalogChange(added, removed)

    def find(self, text: str) -> CatalogEntry | None:
        """The database of this name or uuid."""
        return self._by_text.get(text)

    def name_of(self, key: bytes) -> str:
        """The name of the database with this uuid; of one that is not listed: the catalog's own."""
        entry = self.by_uuid.get(key)
        return entry.name if entry is not None else CATALOG_NAME


def catalog_uuid(cluster: str) -> bytes:
    """The catalog's own uuid in the cluster of this name."""
    return uuid.uuid5(uuid.UUID(cluster), CATALOG_NAME).bytes


def missing_columns(found: StatementResult) -> list[Statement]:
    """The statements that bring the table to this program's form; `found`: `SELECT_COLUMNS`."""
    known = {name for (name,) in found.rows}
    return [
        Statement(f"ALTER TABLE databases ADD COLUMN {name} {form}")
        for name, form in _ADDED_COLUMNS.items()
        if name not in known
    ]


def insert(entry: CatalogEntry) -> Statement:
    """The statement that adds a database."""
    values: dict[str, SqlValue] = {
        "uuid": entry.id,
        "name": entry.name,
        "created_at": entry.created_at,
        "version": entry.version,
        "jurisdiction": entry.jurisdiction,
        "primary_location_hint": entry.location_hint,
        "created_in_region": entry.created_in_region,
        "replication_mode": entry.replication.value,
    }
    columns, places = ", ".join(values), ", ".join("?" * len(values))
    sql = f"INSERT INTO databases ({columns}) VALUES ({places})"
    return Statement(sql, tuple(values.values()))


def change(entry: CatalogEntry) -> Statement:
    """The statement that stores what can change of a database."""
    return Statement(
        "UPDATE databases SET replication_mode = ? WHERE uuid = ?",
        (entry.replication.value, entry.id),
    )


def remove(entry: CatalogEntry) -> Statement:
    """The statement that removes a database."""
    return Statement("DELETE FROM databases WHERE uuid = ?", (entry.id,))


def _entry(row: Mapping[str, SqlValue]) -> CatalogEntry:
    return CatalogEntry(
        uuid=uuid.UUID(_text(row["uuid"])).bytes,
        name=_text(row["name"]),
        created_at=_text(row["created_at"]),
        version=_text(row.get("version") or "production"),
        jurisdiction=_text_or_none(row.get("jurisdiction")),
        location_hint=_text_or_none(row.get("primary_location_hint")),
        created_in_region=_text_or_none(row.get("created_in_region")),
        replication=_mode(row.get("replication_mode")),
    )


def _text(value: SqlValue) -> str:
    assert isinstance(value, str), value
    return value


def _text_or_none(value: SqlValue) -> str | None:
    return None if value is None else _text(value)


def _mode(value: SqlValue) -> ReplicationMode:
    """A mode of a newer program that this one does not know: leave the reads to the primary."""
    if value is None:
        return ReplicationMode.AUTO
    known = {mode.value: mode for mode in ReplicationMode}
    return known.get(_text(value), ReplicationMode.DISABLED)
