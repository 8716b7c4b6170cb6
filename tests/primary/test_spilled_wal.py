"""What a large write that was undone has spilled into the WAL is given back."""

import asyncio
from pathlib import Path

import pytest

import engine.live
import engine.sandbox
from engine.errors import DeadlineExceeded, StatementRefused
from engine.load import SqlLoad
from primary.idempotency import IdempotencyKey
from primary.writer import KeyedWrite
from tests.primary.opened_primary import numbers, opened_primary

ROWS = 3000
SUM = "SELECT count(*), sum(length(x)) FROM t"


@pytest.fixture(autouse=True)
def small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SQLite spill early."""
    monkeypatch.setattr(engine.sandbox, "CACHE_KIB_WRITER", 256)
    monkeypatch.setattr(engine.live, "_SPILL_BYTES_MAX", 0)


async def test_an_import_that_fails_leaves_a_wal_as_it_was(tmp_path: Path) -> None:
    """Readers in the middle, writes behind and recovery see the state from before.

    Method: commits into the WAL, then a file whose last statement is refused, twice.
    """
    file = tmp_path / "file.sql"
    row = "INSERT INTO t VALUES (hex(zeroblob(2000)));\n"
    file.write_text(row * ROWS + "INSERT INTO no VALUES (1);")
    async with opened_primary(tmp_path / "db") as made:
        await made.write(
            "INSERT INTO t SELECT zeroblob(1000) FROM (" + numbers(50) + "SELECT * FROM n)"
        )
        before = await made.read(SUM)
        wal = made.folder / "db.sqlite-wal"
        size = wal.stat().st_size
        for tried in range(2):
            keyed = KeyedWrite(IdempotencyKey.of(f"k{tried}", "import", b""), lambda _: b"{}")
            loading = asyncio.create_task(
                (await made.committer()).load(SqlLoad(file), keyed, budget_s=60.0)
            )
            sizes = []
            while not loading.done():
                sizes.append(wal.stat().st_size)
                assert await made.read(SUM) == before
                await asyncio.sleep(0.001)
            with pytest.raises(StatementRefused, match="no such table: no"):
                await loading
            assert max(sizes) > size + 1_000_000, "nothing was spilled"
            assert wal.stat().st_size == size
            assert await made.read(SUM) == before
        await made.write("INSERT INTO t VALUES (zeroblob(100000))")
        assert await made.read("SELECT count(*) FROM t") == [(51,)]
        await made.reopen()
        assert await made.read("SELECT count(*) FROM t") == [(51,)]


async def test_a_write_past_its_deadline_leaves_a_wal_as_it_was(tmp_path: Path) -> None:
    async with opened_primary(tmp_path / "db", deadline_s=2.0) as made:
        wal = made.folder / "db.sqlite-wal"
        size = wal.stat().st_size
        with pytest.raises(DeadlineExceeded):
            await made.write(
                "INSERT INTO t " + numbers(10**9) + "SELECT hex(zeroblob(1000)) FROM n"
            )
        assert wal.stat().st_size == size
        await made.write("INSERT INTO t VALUES (1)")
