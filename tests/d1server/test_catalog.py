"""The catalog: what rows of any age mean, and which statements bring a table up to date."""

from pathlib import Path

import apsw
import pytest

from d1server.catalog import (
    CREATE_TABLE,
    SELECT_ALL,
    SELECT_COLUMNS,
    Catalog,
    CatalogEntry,
    ReplicationMode,
    change,
    insert,
    missing_columns,
    remove,
)
from proto.api import Statement, StatementResult

OLD = CatalogEntry(uuid=bytes(15) + b"\1", name="old", created_at="2026-01-01T00:00:00.000+00:00")
NEW = CatalogEntry(
    uuid=bytes(15) + b"\2",
    name="new",
    created_at="2026-02-02T00:00:00.000+00:00",
    jurisdiction="eu",
    location_hint="weur",
    created_in_region="WEUR",
    replication=ReplicationMode.DISABLED,
)


class Table:
    """The catalog's table in a database of its own."""

    def __init__(self, path: Path) -> None:
        self.connection = apsw.Connection(str(path))
        self.run(CREATE_TABLE)

    def run(self, statement: Statement) -> StatementResult:
        cursor = self.connection.execute(statement.sql, statement.params)
        try:
            columns = tuple(column[0] for column in cursor.get_description())
        except apsw.ExecutionCompleteError:
            columns = ()
        return StatementResult(columns, cursor.fetchall(), 0, 0, 0, 0, 0.0, False)

    def migrate(self) -> int:
        statements = missing_columns(self.run(SELECT_COLUMNS))
        for statement in statements:
            self.run(statement)
        return len(statements)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path / "catalog.sqlite")


def test_a_table_of_the_first_version_is_altered_in_place(table: Table) -> None:
    """Its rows stay, and get the defaults; a second start finds nothing to do."""
    table.run(
        Statement("INSERT INTO databases VALUES (?, ?, ?)", (OLD.id, OLD.name, OLD.created_at))
    )
    assert table.migrate() == 5
    assert table.migrate() == 0
    table.run(insert(NEW))
    catalog = Catalog()
    catalog.update(table.run(SELECT_ALL))
    assert catalog.by_name == {"old": OLD, "new": NEW}


def test_rows_of_the_first_version_are_read_as_they_are(table: Table) -> None:
    """A replica may run a newer program than its primary."""
    table.run(
        Statement("INSERT INTO databases VALUES (?, ?, ?)", (OLD.id, OLD.name, OLD.created_at))
    )
    catalog = Catalog()
    assert catalog.update(table.run(SELECT_ALL)).added == (OLD,)
    assert catalog.find("old") == OLD


def test_columns_and_modes_of_a_newer_program_are_borne(table: Table) -> None:
    """A mode that this program does not know leaves the reads to the primary."""
    table.migrate()
    table.run(insert(NEW))
    table.run(Statement("ALTER TABLE databases ADD COLUMN colour TEXT"))
    table.run(Statement("UPDATE databases SET replication_mode = 'some', colour = 'red'"))
    catalog = Catalog()
    catalog.update(table.run(SELECT_ALL))
    assert catalog.by_name["new"].replication is ReplicationMode.DISABLED


def test_a_changed_database_neither_comes_nor_goes(table: Table) -> None:
    """Else a replica would throw its copy away for a change of the replication mode."""
    table.migrate()
    table.run(insert(OLD))
    catalog = Catalog()
    assert catalog.update(table.run(SELECT_ALL)).added == (OLD,)
    changed = CatalogEntry(
        uuid=OLD.uuid,
        name=OLD.name,
        created_at=OLD.created_at,
        replication=ReplicationMode.DISABLED,
    )
    table.run(change(changed))
    found = catalog.update(table.run(SELECT_ALL))
    assert (found.added, found.removed) == ((), ())
    assert catalog.by_uuid[OLD.uuid] == changed
    table.run(remove(changed))
    assert catalog.update(table.run(SELECT_ALL)).removed == (changed,)


def test_a_database_is_found_by_name_and_by_uuid(table: Table) -> None:
    table.migrate()
    table.run(insert(NEW))
    catalog = Catalog()
    catalog.update(table.run(SELECT_ALL))
    assert catalog.find("new") == catalog.find(NEW.id) == NEW
    assert catalog.find("NEW") is None
    assert catalog.find("") is None
