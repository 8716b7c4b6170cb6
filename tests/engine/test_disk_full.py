"""SQLite says "database or disk is full" for two reasons; only one of them passes by itself."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from engine.errors import DiskFull, StatementRefused
from engine.sandbox import SqlLimits
from engine.transaction import SqlConnection, steps_of, write
from proto.api import Statement


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
