"""SQLite says "database or disk is full" for three reasons; only one of them passes by itself."""

import shutil
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest

from engine.errors import DiskFull, StatementRefused
from engine.limits import SqlLimits
from engine.transaction import SqlConnection, read, steps_of, write
from proto.api import Statement, StatementResult


class Usage(NamedTuple):
    """What `shutil.disk_usage` gives."""

    total: int
    used: int
    free: int


@pytest.mark.parametrize("free", [0, 1 << 40])
def test_a_full_disk_is_told_from_rowids_that_ran_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    """Where there is room the statement is at fault, where there is none the disk.

    Method: AUTOINCREMENT at the largest rowid, with the file system's free space given.
    """
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(1 << 41, 0, free))
    writer = SqlConnection.writer(tmp_path / "a.sqlite", SqlLimits())

    def run(sql: str) -> None:
        write(writer, steps_of([Statement(sql)]), budget_s=5.0)

    run("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT)")
    run("INSERT INTO t VALUES (9223372036854775807)")
    with pytest.raises(DiskFull if free == 0 else StatementRefused, match="full"):
        run("INSERT INTO t DEFAULT VALUES")
    writer.close()


def test_a_small_database_is_not_said_to_be_full(tmp_path: Path) -> None:
    """There is room on the disk, but not for us: a quota, or it came back just now.

    Method: SQLite's own error, for databases that are far from their limit and near it.
    """
    for limit, kind in ((2**33, DiskFull), (2**20, StatementRefused)):
        path = tmp_path / f"{limit}.sqlite"
        writer = SqlConnection.writer(path, SqlLimits(database_bytes_max=limit))
        write(writer, steps_of([Statement("CREATE TABLE t(a)")]), budget_s=5.0)
        assert isinstance(writer.sandbox.refusal(apsw.FullError("database or disk is full")), kind)
        writer.close()


def test_a_database_at_its_limit_only_shrinks(tmp_path: Path) -> None:
    """D1's text; nothing of the statement remains, reads go on, and what is deleted makes room.

    Method: fill a database of a megabyte, also in one statement and behind an AUTOINCREMENT.
    """
    limits = SqlLimits(database_bytes_max=2**20)
    writer = SqlConnection.writer(tmp_path / "a.sqlite", limits)

    def run(sql: str) -> list[StatementResult]:
        return write(writer, steps_of([Statement(sql)]), budget_s=5.0)

    run("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a)")
    run("INSERT INTO t(a) VALUES (zeroblob(900000))")
    many = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
    for sql in (
        "INSERT INTO t(a) VALUES (zeroblob(200000))",
        f"INSERT INTO t(a) {many} SELECT zeroblob(1000) FROM n",
        f"CREATE TABLE u AS {many} SELECT x FROM n",
        "UPDATE t SET a = zeroblob(1900000)",
    ):
        with pytest.raises(StatementRefused) as refused:
            run(sql)
        assert refused.value.message == "Exceeded maximum DB size."
        assert "1048576" in refused.value.hint
        assert run("SELECT count(*), sum(length(a)) FROM t")[0].rows == [(1, 900_000)]
    run("DELETE FROM t")
    run("INSERT INTO t(a) VALUES (zeroblob(800000))")
    writer.close()

    smaller = SqlConnection.writer(tmp_path / "a.sqlite", SqlLimits(database_bytes_max=2**18))
    assert read(smaller, steps_of([Statement("SELECT count(*) FROM t")]), budget_s=5.0)[0].rows
    with pytest.raises(StatementRefused, match="Exceeded maximum DB size"):
        write(smaller, steps_of([Statement("INSERT INTO t(a) SELECT a FROM t")]), budget_s=5.0)
    write(smaller, steps_of([Statement("DELETE FROM t")]), budget_s=5.0)
    smaller.close()
