"""`d1server migrations` against a real node: each file once, in order, whole."""

import asyncio
import json
from pathlib import Path

from click.testing import CliRunner, Result

from d1server.cli import command_line
from tests.web.real_nodes import open_pair


def d1server(*words: str) -> Result:
    return CliRunner().invoke(command_line, words)


def test_numbers_follow_one_another(tmp_path: Path) -> None:
    folder = ("--dir", str(tmp_path / "m"))
    assert d1server("migrations", "create", "shop", "first tables!", *folder).exit_code == 0
    (tmp_path / "m" / "0009_by_hand.sql").touch()
    done = d1server("migrations", "create", "shop", "../x", *folder, "--json")
    assert json.loads(done.stdout)["path"] == str(tmp_path / "m" / "0010_.._x.sql")
    names = sorted(path.name for path in (tmp_path / "m").iterdir())
    assert names == ["0001_first_tables.sql", "0009_by_hand.sql", "0010_.._x.sql"]
    assert (tmp_path / "m" / names[0]).read_text().startswith("-- Migration number: 0001 \t 20")


async def test_files_are_applied_once_and_in_order(tmp_path: Path) -> None:
    """By number, not by text; the failing one leaves nothing, those before it stay.

    The table is wrangler's: what it noted is not applied again.
    """
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "2_second.sql").write_text("INSERT INTO t VALUES (2) -- no semicolon")
    (folder / "0001_first.sql").write_text("\ufeffCREATE TABLE t(a); -- and\n")
    (folder / "0010_last.sql").write_text("INSERT INTO t VALUES (10); SELEC;")
    (folder / "0003_empty.sql").write_text("-- nothing\n")
    (folder / "readme.txt").touch()
    async with open_pair(tmp_path) as (primary, _):
        base = ("--url", f"http://{primary}")

        async def run(*words: str) -> Result:
            more = () if words[0] in ("db", "execute") else ("--dir", str(folder))
            return await asyncio.to_thread(d1server, *words, *more, *base)

        await run("db", "create", "shop")
        done = await run("migrations", "list", "shop")
        assert done.stdout.splitlines()[1:] == [
            f"{name}\tnot yet"
            for name in ("0001_first.sql", "2_second.sql", "0003_empty.sql", "0010_last.sql")
        ]
        done = await run("migrations", "apply", "shop", "--dry-run", "--json")
        assert len(json.loads(done.stdout)["migrations"]) == 4
        done = await run("migrations", "apply", "shop")
        assert done.exit_code == 1
        applied = "0001_first.sql, 2_second.sql, 0003_empty.sql"
        assert done.stdout.splitlines() == [
            "applied 0001_first.sql",
            "applied 2_second.sql",
            "applied 0003_empty.sql, which has no SQL statements",
        ]
        assert f"0010_last.sql failed and was undone; applied before it: {applied}" in done.stderr
        done = await run("execute", "shop", "-c", "SELECT a FROM t")
        assert done.stdout == "a\n2\n"

        note = "INSERT INTO d1_migrations (name) VALUES ('0010_last.sql')"
        assert (await run("execute", "shop", "-c", note)).exit_code == 0
        done = await run("migrations", "apply", "shop")
        assert (done.exit_code, done.stderr) == (0, "nothing to apply\n")
        (folder / "2_second.sql").unlink()
        listed = json.loads((await run("migrations", "list", "shop", "--json")).stdout)
        assert [one["name"] for one in listed] == [
            "2_second.sql",
            "0001_first.sql",
            "0003_empty.sql",
            "0010_last.sql",
        ]
        assert all(one["applied_at"] for one in listed)


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    done = d1server("migrations", "apply", "shop", "--dir", str(tmp_path / "none"))
    assert (done.exit_code, "there is no folder" in done.stderr) == (1, True)
