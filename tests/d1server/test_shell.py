"""The shell: what is completed, what a line does, and a person at a terminal."""

import asyncio
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from d1server.cli import command_line
from d1server.cli.shell import is_whole
from d1server.cli.shell_schema import Schema, completions, read_schema
from tests.waiting import EVENT_S_MAX
from tests.web.real_nodes import open_pair

SCHEMA = read_schema(
    [
        *(("orders", name) for name in ("id", "customer", "amount")),
        *(("customers", name) for name in ("id", "email")),
        ("odd name", "from"),
        ("empty", None),
    ]
)


@pytest.mark.parametrize(
    ("before", "after", "first"),
    [
        ("SELECT * FROM o", "", "orders"),
        ("select * from ", "", "orders"),
        ("INSERT INTO cust", "", "customers"),
        ("SELECT am", " FROM orders", "amount"),
        ("SELECT o.cu", " FROM customers c JOIN orders AS o", "customer"),
        ("SELECT c.", " FROM customers c", "id"),
        ("SEL", "", "SELECT"),
        ("sel", "", "SELECT"),
        ("SELECT em", "", "empty"),
        ("SELECT * FROM odd", "", '"odd name"'),
        ('SELECT "odd name".', ' FROM "odd name"', '"from"'),
        ("SELECT nope.", " FROM orders", None),
        ("SELECT amount", " FROM orders", None),
    ],
)
def test_names_that_fit_are_completed(before: str, after: str, first: str | None) -> None:
    _, found = completions(SCHEMA, before, after)
    assert (found[0] if found else None) == first


def test_nothing_known_completes_keywords() -> None:
    assert completions(Schema(), "WHE")[1] == ["WHERE", "WHEN"]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("", True),
        (".tables", True),
        ("SELECT 1", False),
        ("SELECT 1;", True),
        ("SELECT ';", False),
        ("SELECT 1; SELECT 2", False),
        ("SELECT 1; -- done", True),
        ("CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1;", False),
    ],
)
def test_enter_runs_what_is_whole(text: str, whole: bool) -> None:
    assert is_whole(text) is whole


def d1server(*words: str, stdin: str = "") -> Result:
    return CliRunner().invoke(command_line, words, input=stdin)


PIPE = """CREATE TABLE t(id INTEGER PRIMARY KEY, "a b" TEXT);
INSERT INTO t VALUES (1, 'x,y'), (2,
  NULL); .tables
SELECT * FROM t;
.mode csv
SELECT * FROM t;
.mode json
SELECT * FROM t; SELECT X'00ff' AS blob;
.mode line
SELECT * FROM t WHERE id = 2;
.tables
.schema t
.bookmark first-primary
SELECT count(*) AS n FROM t"""


async def test_a_pipe_is_run_statement_by_statement(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (_, replica):
        base = ("--url", f"http://{replica}")

        async def run(*words: str, stdin: str = "") -> Result:
            return await asyncio.to_thread(d1server, *words, *base, stdin=stdin)

        await run("db", "create", "shop")
        async with asyncio.timeout(EVENT_S_MAX):  # until the replica itself has it
            asked = ".timer on\nSELECT 1;"
            while "; replica (" not in (await run("shell", "shop", stdin=asked)).stdout:
                pass
        done = await run("shell", "shop", stdin=PIPE.replace(" .tables\n", "\n"))
        assert done.exit_code == 0, done.output
        lines = done.stdout.splitlines()
        assert lines[:5] == ["0 rows changed", "2 rows changed", "id\ta b", "1\tx,y", "2\tNULL"]
        assert lines[5:9] == ["mode csv", "id,a b", '1,"x,y"', "2,"]
        assert json.loads(lines[10]) == [{"id": 1, "a b": "x,y"}, {"id": 2, "a b": None}]
        assert json.loads(lines[11]) == [{"blob": [0, 255]}]
        assert lines[12:15] == ["mode line", " id = 2", "a b = NULL"]
        assert lines[15:17] == ["t", 'CREATE TABLE t(id INTEGER PRIMARY KEY, "a b" TEXT);']
        assert lines[17].startswith("bookmark 00000001-")
        assert lines[18] == "n = 2"

        for name in ("T", '"t"', "[t];", "t ;"):
            asked = f".bookmark first-primary\n.schema {name}"
            done = await run("shell", "shop", stdin=asked)
            assert "CREATE TABLE t(" in done.stdout, (name, done.stderr)
        done = await run("shell", "shop", "--json", stdin="SELECT 1 AS a;")
        assert json.loads(done.stdout) == [{"a": 1}]
        done = await run("shell", "shop", stdin="SELECT 1 AS a;\nSELEC;\nSELECT 2;")
        assert (done.exit_code, done.stdout) == (1, "a\n1\n")
        assert 'line 2: near "SELEC": syntax error' in done.stderr
        done = await run("shell", "shop", stdin=".timer on\nSELECT 1;\n.region\n.quit\nSELEC;")
        assert done.exit_code == 0
        assert "of which SQL" in done.stdout
        assert "reads are served by replica (replica, WEUR)" in done.stdout
        for bad in (".nope", ".mode x", ".bookmark yesterday", ".schema nope", ".timer 1 2"):
            assert (await run("shell", "shop", stdin=bad)).exit_code == 1
        assert ".tables" in (await run("shell", "shop", stdin=".help")).stdout


class Terminal:
    """A program on a pseudo-terminal, typed at."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self._shown = ""

    def type(self, text: str) -> None:
        os.write(self._leader, text.encode())

    def sees(self, wanted: str) -> str:
        """Wait for a text; all that came up to it, without the terminal's escapes."""
        deadline = time.monotonic() + EVENT_S_MAX
        while True:
            plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._shown)
            if wanted in plain:
                self._shown = ""
                return plain
            assert time.monotonic() < deadline, f"{wanted!r} does not come: {plain!r}"
            if select.select([self._leader], [], [], 0.2)[0]:
                self._shown += os.read(self._leader, 65536).decode("utf-8", "replace")


@contextmanager
def at_terminal(home: Path, *words: str) -> Iterator[Terminal]:
    leader, follower = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
    env["XDG_STATE_HOME"] = str(home)
    command = [sys.executable, "-m", "d1server", "shell", *words]
    with subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env=env, start_new_session=True
    ) as process:
        os.close(follower)
        try:
            yield Terminal(leader)
            assert process.wait(20) == 0
        finally:
            process.kill()
            os.close(leader)


def converse(home: Path, url: str) -> None:
    with at_terminal(home, "shop", "--url", url) as terminal:
        terminal.sees("shop>")
        terminal.type("SELECT 1 +\r")
        terminal.sees("..>")
        terminal.type("41 AS answer;\r")
        terminal.sees("42")
        terminal.type("SELECT 'never run\x03SELEC;\r")
        terminal.sees("syntax error")
        terminal.type("SELECT count(*) + 4 AS n FROM ord\t")
        terminal.sees("orders")
        terminal.type(";\r")
        terminal.sees("7")
        terminal.type(".quit\r")
    history = home / "d1server" / "shell_history"
    assert "+41 AS answer;" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


async def test_a_person_at_a_terminal(tmp_path: Path) -> None:
    """Lines until the semicolon, Ctrl-C, an error, Tab, history, and the way out."""
    async with open_pair(tmp_path) as (primary, _):
        url = f"http://{primary}"
        await asyncio.to_thread(d1server, "db", "create", "shop", "--url", url)
        sql = "CREATE TABLE orders(id); INSERT INTO orders VALUES (1), (2), (3)"
        await asyncio.to_thread(d1server, "execute", "shop", "-c", sql, "--url", url)
        await asyncio.to_thread(converse, tmp_path / "home", url)
