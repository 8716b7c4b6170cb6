"""What the shell does with a line: SQL, or a command that begins with a dot.

Knows nothing of terminals: text in, text out. A session carries its bookmark, so it sees its
own writes whichever node answers.
"""

import csv
import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import click

from d1server.call import AnswerForeign, NodeConnection, NodeRefused, NodeUnreachable, database_path
from d1server.cli.output import advice, cell, escaped, print_records, print_table
from d1server.cli.shell_schema import SELECT_SCHEMA, Schema, read_schema, unquoted

MODES: Final = ("table", "json", "csv", "line")
SESSIONS: Final = ("first-unconstrained", "first-primary")
_TABLES: Final = (
    "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND substr(name, 1, 7) <>"
    " 'sqlite_' AND lower(substr(name, 1, 4)) NOT IN ('_cf_', '_d1_') ORDER BY name"
)
_SCHEMA_OF: Final = (
    "SELECT sql || ';' FROM sqlite_schema WHERE sql IS NOT NULL"
    " AND (?1 = '' OR tbl_name = ?1 COLLATE NOCASE)"
    " AND lower(substr(tbl_name, 1, 4)) NOT IN ('_cf_', '_d1_')"
    " ORDER BY tbl_name, type = 'table' DESC, name"
)
_CHANGES_SCHEMA: Final = ("create", "alter", "drop")


class Quit(Exception):
    """The user wants to leave."""


class Failed(Exception):
    """A line that could not be done; the message says why."""


@dataclass(slots=True)
class Session:
    """One shell on one database."""

    node: NodeConnection
    database: str
    mode: str = "table"
    has_timer: bool = False
    bookmark: str = SESSIONS[0]  # or empty: every read is the primary's newest
    served_by: str = ""
    schema: Schema = field(default_factory=Schema)

    def run(self, text: str) -> None:
        """Do one complete input. Raises `Quit`, `Failed`."""
        text = text.strip()
        try:
            if text.startswith("."):
                self._command(text)
            elif text.strip("; \t\n"):
                self._sql(text)
        except NodeRefused as exc:
            raise Failed(advice(exc)) from exc
        except (NodeUnreachable, AnswerForeign) as exc:
            raise Failed(str(exc)) from exc

    def check(self) -> None:
        """See that the node and the database are there. Raises what a call does."""
        self._ask("SELECT 1")

    def read_schema(self) -> None:
        """Learn the names to complete; without them nothing else is lost."""
        try:
            self.schema = read_schema(self._ask(SELECT_SCHEMA)[0]["results"]["rows"])
        except (NodeRefused, NodeUnreachable, AnswerForeign):
            self.schema = Schema()

    def _sql(self, text: str) -> None:
        started = time.perf_counter()
        results = self._ask(text)
        took_ms = (time.perf_counter() - started) * 1000
        for result in results:
            self._show(result)
        if self.has_timer:
            ran_ms = sum(result["meta"].get("duration", 0.0) for result in results)
            click.echo(f"{took_ms:.1f} ms, of which SQL {ran_ms:.1f} ms; {self.served_by}")
        if any(word in text.lower() for word in _CHANGES_SCHEMA):
            self.read_schema()

    def _ask(self, sql: str, *params: str) -> list[dict[str, Any]]:
        headers = {"x-d1-bookmark": self.bookmark} if self.bookmark else {}
        body = {"sql": sql, "params": params} if params else {"sql": sql}
        reply = self.node.post(database_path(self.database, "raw"), body, headers=headers)
        results = reply.result_objects()
        if self.bookmark and reply.bookmark:
            self.bookmark = reply.bookmark
        if results:
            meta = results[-1].get("meta", {})
            role = "primary" if meta.get("served_by_primary") else "replica"
            self.served_by = escaped(
                f"{meta.get('served_by')} ({role}, {meta.get('served_by_region')})"
            )
        return results

    def _show(self, result: Mapping[str, Any]) -> None:
        columns, rows = result["results"]["columns"], result["results"]["rows"]
        if columns:
            _PRINTERS[self.mode](columns, rows)
        elif self.mode == "table":
            changes = result["meta"].get("changes", 0)
            click.echo(f"{changes} row{'' if changes == 1 else 's'} changed")

    # --- dot commands

    def _command(self, text: str) -> None:
        word, *argument = text.rstrip("; \t").split(None, 1)
        command = COMMANDS.get(word)
        if command is None:
            raise Failed(f"there is no {escaped(word)}; .help lists what there is")
        command.run(self, argument[0] if argument else "")

    def tables(self, _argument: str) -> None:
        for (name,) in self._ask(_TABLES)[0]["results"]["rows"]:
            click.echo(escaped(name))

    def show_schema(self, table: str) -> None:
        table = unquoted(table)
        rows = self._ask(_SCHEMA_OF, table)[0]["results"]["rows"]
        if table and not rows:
            raise Failed(f"there is no table {escaped(table)}")
        for (sql,) in rows:
            click.echo("\n".join(escaped(line) for line in sql.split("\n")))

    def set_mode(self, mode: str) -> None:
        if mode and mode not in MODES:
            raise Failed(f"usage: .mode {'|'.join(MODES)}")
        self.mode = mode or self.mode
        click.echo(f"mode {self.mode}")

    def set_timer(self, wanted: str) -> None:
        if wanted not in ("", "on", "off"):
            raise Failed("usage: .timer on|off")
        self.has_timer = wanted == "on" if wanted else self.has_timer
        click.echo(f"timer {'on' if self.has_timer else 'off'}")

    def set_bookmark(self, wanted: str) -> None:
        before = self.bookmark
        if wanted:
            self.bookmark = "" if wanted == "off" else wanted
        try:
            if wanted and self.bookmark:
                self.check()  # the node may not take it
        except NodeRefused:
            self.bookmark = before
            raise
        click.echo(f"bookmark {self.bookmark}" if self.bookmark else "no bookmark")

    def region(self, _argument: str) -> None:
        self.check()
        click.echo(f"reads are served by {self.served_by}")

    def help(self, _argument: str) -> None:
        for name, command in COMMANDS.items():
            click.echo(f"{name + ' ' + command.usage:<24} {command.says}")
        click.echo("SQL ends with a semicolon. Ctrl-C cancels the line, Ctrl-D leaves.")

    def quit(self, _argument: str) -> None:
        raise Quit


@dataclass(frozen=True, slots=True)
class DotCommand:
    """One command of the shell."""

    usage: str
    says: str
    run: Callable[[Session, str], None]


COMMANDS: Final[Mapping[str, DotCommand]] = {
    ".tables": DotCommand("", "list tables and views", Session.tables),
    ".schema": DotCommand("[TABLE]", "show how they were made", Session.show_schema),
    ".mode": DotCommand("|".join(MODES), "how rows are shown", Session.set_mode),
    ".timer": DotCommand("on|off", "show how long statements take", Session.set_timer),
    ".bookmark": DotCommand(
        "[B]",
        f"show or set the session's: a bookmark, {', '.join(SESSIONS)}, off",
        Session.set_bookmark,
    ),
    ".region": DotCommand("", "show which node serves reads", Session.region),
    ".help": DotCommand("", "show this", Session.help),
    ".quit": DotCommand("", "leave", Session.quit),
    ".exit": DotCommand("", "leave", Session.quit),
}

Columns = list[str]
Rows = list[list[Any]]


def _print_json(columns: Columns, rows: Rows) -> None:
    objects = [dict(zip(columns, row, strict=True)) for row in rows]
    click.echo(json.dumps(objects, ensure_ascii=False))


def _print_csv(columns: Columns, rows: Rows) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_csv_value(value) for value in row])
    click.echo(text.getvalue(), nl=False)


def _csv_value(value: object) -> object:
    return cell(value) if isinstance(value, list) else "" if value is None else value


_PRINTERS: Final[Mapping[str, Callable[[Columns, Rows], None]]] = {
    "table": print_table,
    "json": _print_json,
    "csv": _print_csv,
    "line": print_records,
}
assert tuple(_PRINTERS) == MODES
