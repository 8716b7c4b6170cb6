"""`d1server export` and `execute --file` against real nodes."""

import asyncio
import json
from pathlib import Path

from click.testing import CliRunner, Result

from d1server.cli import command_line
from d1server.cli import execute as execute_module
from tests.web.real_nodes import open_pair

SHOP = """BEGIN TRANSACTION;
CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, text);
INSERT INTO t(text) VALUES ('it''s'), (char(10)), (X'00');
CREATE INDEX i ON t(text);
COMMIT;
"""


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file()]


async def d1server(url: str, *words: str) -> Result:
    """Run a command, while the nodes run in this event loop."""
    return await asyncio.to_thread(CliRunner().invoke, command_line, [*words, "--url", url])


async def test_out_and_in_again(tmp_path: Path) -> None:
    """A dump of SQLite's shell goes in, comes out, and goes into another database.

    Method: through a replica, whose answers name the primary's URLs.
    """
    script, first, second = (tmp_path / name for name in ("in.sql", "first.sql", "second.sql"))
    script.write_text(SHOP)
    async with open_pair(tmp_path) as (primary, replica):
        url = f"http://{replica}"
        for name in ("one", "two"):
            assert (await d1server(url, "db", "create", name)).exit_code == 0
        done = await d1server(url, "execute", "one", "--file", str(script), "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["statements"] == 3
        done = await d1server(url, "export", "one", "--output", str(first))
        assert done.exit_code == 0, done.output
        assert "bytes; state of bookmark 00000001-" in done.stderr
        done = await d1server(f"http://{primary}", "execute", "two", "-f", str(first))
        assert done.exit_code == 0, done.output
        assert (await d1server(url, "export", "two", "-o", str(second))).exit_code == 0
        assert first.read_text() == second.read_text()
        done = await d1server(url, "export", "two", "-o", "-", "--no-data", "--table", "t")
        assert done.stdout.splitlines()[0] == "PRAGMA defer_foreign_keys=TRUE;"
        assert "INSERT" not in done.stdout
        assert len(files_in(tmp_path)) == 3


async def test_a_failed_export_leaves_the_output_as_it_was(tmp_path: Path) -> None:
    output = tmp_path / "kept.sql"
    output.write_text("kept")
    async with open_pair(tmp_path) as (primary, _):
        url = f"http://{primary}"
        await d1server(url, "db", "create", "one")
        done = await d1server(url, "export", "one", "-o", str(output), "--table", "nope")
        assert done.exit_code == 1
        assert "no such table: nope" in done.stderr
        assert (await d1server(url, "export", "none", "-o", str(output))).exit_code == 1
        done = await d1server(url, "export", "one", "-o", str(tmp_path / "no" / "such"))
        assert (done.exit_code, "cannot be written" in done.stderr) == (1, True)
        done = await d1server(url, "export", "one", "-o", "x", "--no-data", "--no-schema")
        assert done.exit_code == 2
    assert output.read_text() == "kept"
    assert files_in(tmp_path) == ["kept.sql"]


async def test_a_refused_import_says_the_line(tmp_path: Path) -> None:
    script = tmp_path / "bad.sql"
    script.write_text("BEGIN;\nCREATE TABLE t(a);\n\nINSERT INTO nope VALUES (1);\nCOMMIT;\n")
    async with open_pair(tmp_path) as (primary, _):
        url = f"http://{primary}"
        await d1server(url, "db", "create", "one")
        done = await d1server(url, "execute", "one", "-f", str(script))
        assert done.exit_code == 1
        assert f"{script}: statement 2, line 4: no such table: nope: SQLITE_ERROR" in done.stderr
        done = await d1server(url, "execute", "no-such", "-f", str(script))
        assert "create it with `d1server db create no-such`" in done.stderr
        assert execute_module.UNDONE not in done.stderr
