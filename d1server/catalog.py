"""Which databases there are: a database itself, replicated like every other.

Its commits are the creates and deletes, so replicas learn of them through the log, in
order. The catalog in memory is what the newest commit that this node has says.
"""

import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from proto.api import SqlValue, Statement

CATALOG_NAME: Final = "_catalog"
NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)

CREATE_TABLE: Final = Statement(
    "CREATE TABLE IF NOT EXISTS databases (uuid TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, "
    "created_at TEXT NOT NULL) STRICT, WITHOUT ROWID"
)
SELECT_ALL: Final = Statement("SELECT uuid, name, created_at FROM databases")


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One database."""

    uuid: bytes
    name: str
    created_at: str  # ISO 8601, UTC


@dataclass(frozen=True, slots=True)
class CatalogChange:
    """What one newer state of the catalog means for a node."""

    added: tuple[CatalogEntry, ...]
    removed: tuple[CatalogEntry, ...]


class Catalog:
    """The entries by name and by uuid; see the module's head."""

    def __init__(self) -> None:
        """Know of no database."""
        self.by_name: dict[str, CatalogEntry] = {}
        self.by_uuid: dict[bytes, CatalogEntry] = {}

    def update(self, rows: Iterable[Sequence[SqlValue]]) -> CatalogChange:
        """Take the rows of `SELECT_ALL` as the truth; what is different now."""
        now = {entry.uuid: entry for entry in map(_entry, rows)}
        added = tuple(entry for key, entry in now.items() if self.by_uuid.get(key) != entry)
        removed = tuple(entry for key, entry in self.by_uuid.items() if now.get(key) != entry)
        self.by_uuid = now
        self.by_name = {entry.name: entry for entry in now.values()}
        return CatalogChange(added, removed)


def catalog_uuid(cluster: str) -> bytes:
    """The catalog's own uuid in the cluster of this name."""
    return uuid.uuid5(uuid.UUID(cluster), CATALOG_NAME).bytes


def insert(entry: CatalogEntry) -> Statement:
    """The statement that adds a database."""
    return Statement(
        "INSERT INTO databases (uuid, name, created_at) VALUES (?, ?, ?)",
        (str(uuid.UUID(bytes=entry.uuid)), entry.name, entry.created_at),
    )


def remove(entry: CatalogEntry) -> Statement:
    """The statement that removes a database."""
    return Statement("DELETE FROM databases WHERE uuid = ?", (str(uuid.UUID(bytes=entry.uuid)),))


def _entry(row: Sequence[SqlValue]) -> CatalogEntry:
    key, name, created_at = row
    assert isinstance(key, str)
    assert isinstance(name, str)
    assert isinstance(created_at, str)
    return CatalogEntry(uuid.UUID(key).bytes, name, created_at)
