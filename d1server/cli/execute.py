"""`d1server execute`: run SQL that stands on the command line or in a file.

A command is one request, and so is a small file: its rows are shown. A larger file, or one
that a request does not take, is imported (`loading.py`). Either way it is one transaction.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from d1server.call import (
    NodeConnection,
    NodeRefused,
    NodeUnreachable,
    Reply,
    database_path,
    encode,
)
from d1server.cli.loading import ImportRefused, Interrupted, Loading
from d1server.cli.options import common_options, wishes
from d1server.cli.output import (
    CODE_DATABASE_UNKNOWN,
    Failure,
    advice,
    escaped,
    print_json,
    print_table,
)
from d1server.cli.progress import working
from engine.sqlfile import FileStatement, SqlFileInvalid, read_statements
from engine.sqltext import is_transaction

REQUEST_CHARS_MAX: Final = 8 * 1024 * 1024
REQUEST_STATEMENTS_MAX: Final = 50_000  # the answer grows with their number
STATEMENT_CHARS_MAX: Final = 100_000  # what a request takes; an import takes more
UNDONE: Final = "Nothing was applied: the file is one transaction."
UNKNOWN: Final = "Whether the file was applied is not known: all of it, or nothing."
PARENT_MISSING: Final = "no such table: main."
"""SQLite's word for a table filled before the one that its foreign key is of: an import minds
the order less."""


@click.command("execute")
@click.argument("name")
@click.option("--command", "-c", "sql", metavar="SQL", help="The statements to run.")
@click.option(
    "--file",
    "-f",
    "path",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="A file of statements; - is standard input.",
)
@click.option("--bookmark", metavar="B", help="Read a state at least as new as this.")
@common_options
def execute(name: str, sql: str | None, path: str | None, bookmark: str | None) -> None:
    """Run SQL in the database NAME.

    A file is one transaction, however large it is. The rows that it returns are shown up to a
    size of 8 MiB; a larger one is imported.
    """
    if (sql is None) == (path is None):
        raise click.UsageError("give either --command SQL or --file FILE")
    headers = {"x-d1-bookmark": bookmark} if bookmark else {}
    with wishes().connect() as node:
        request = Request(node, name, headers)
        if sql is not None:
            run_command(request, sql)
        else:
            assert path is not None
            with as_file(path) as file:
                run_file(request, file, "standard input" if path == "-" else path)


@dataclass(slots=True)
class Request:
    """Where the statements of this command go."""

    node: NodeConnection
    name: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        # Objects lose columns of the same name, and the names of an empty result.
        return database_path(self.name, "query" if wishes().as_json else "raw")

    def send(self, body: bytes) -> Reply:
        """Send one transaction."""
        try:
            reply = self.node.call("POST", self.path, body=body, headers=self.headers)
        except NodeRefused as exc:
            raise self.unknown(exc) or exc from exc
        if reply.bookmark and "x-d1-bookmark" in self.headers:
            self.headers["x-d1-bookmark"] = reply.bookmark  # the rest of the session
        return reply

    def unknown(self, refused: NodeRefused) -> Failure | None:
        """The failure if the node refused because it has no such database."""
        if refused.code != CODE_DATABASE_UNKNOWN:
            return None
        return Failure(
            f"there is no database {self.name} on {self.node.url};"
            f" create it with `d1server db create {self.name}`",
            code=refused.code,
        )


def run_command(request: Request, sql: str) -> None:
    """Run the text of `--command` as one transaction."""
    _send(request, {"sql": sql})


def print_results(results: Sequence[dict[str, Any]]) -> None:
    """Print the rows of every statement that has columns."""
    shown = 0
    for result in results:
        rows = result["results"]
        if rows["columns"]:
            if shown:
                click.echo()
            print_table(rows["columns"], rows["rows"])
            shown += 1


@dataclass(slots=True)
class Totals:
    """What has been applied."""

    statements: int = 0
    changes: int = 0
    rows_read: int = 0
    rows_written: int = 0
    duration_ms: float = 0.0
    bookmark: str | None = None
    served_by: set[str] = field(default_factory=set)

    def add(self, results: Sequence[dict[str, Any]], bookmark: str | None) -> None:
        """Count a request that has been applied."""
        self.statements += len(results)
        self.bookmark = bookmark or self.bookmark
        for result in results:
            self.add_meta(result.get("meta", {}))

    def add_meta(self, meta: dict[str, Any]) -> None:
        """Count what one `meta` says."""
        self.changes += meta.get("changes", 0)
        self.rows_read += meta.get("rows_read", 0)
        self.rows_written += meta.get("rows_written", 0)
        self.duration_ms += meta.get("duration", 0.0)
        self.served_by.add(f"{meta.get('served_by')} ({meta.get('served_by_region')})")

    def line(self) -> str:
        """Return a summary for people."""
        facts = [
            f"{self.statements} statement{'' if self.statements == 1 else 's'}",
            f"{self.changes} row{'' if self.changes == 1 else 's'} changed",
            f"{self.duration_ms:.1f} ms",
            f"served by {', '.join(sorted(self.served_by))}",
        ]
        if self.bookmark:
            facts.append(f"bookmark {self.bookmark}")
        return escaped("; ".join(facts))

    def json(self) -> dict[str, Any]:
        """Return a summary for programs."""
        return {
            "success": True,
            "statements": self.statements,
            "changes": self.changes,
            "rows_read": self.rows_read,
            "rows_written": self.rows_written,
            "duration": self.duration_ms,
            "bookmark": self.bookmark,
        }


@contextmanager
def as_file(path: str) -> Iterator[Path]:
    """A file that can be read more than once; "-" is standard input."""
    if path != "-":
        yield Path(path)
        return
    with tempfile.NamedTemporaryFile(suffix=".sql") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
        yield Path(copy.name)


def run_file(request: Request, path: Path, shown_path: str) -> None:
    """Run the statements of a file as one transaction."""
    try:
        statements = for_one_request(path)
    except SqlFileInvalid as exc:
        raise Failure(f"{shown_path}:{exc.line}: {exc}") from exc
    if statements is None:
        import_file(request, path, shown_path)
    elif not statements:
        raise Failure(f"{shown_path} has no SQL statements")
    else:
        try:
            send_file(request, statements)
        except NodeRefused as exc:
            is_too_large = exc.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE  # for this node
            if is_too_large or exc.message.startswith(PARENT_MISSING):
                import_file(request, path, shown_path)
                return
            message = f"{place_of(exc, statements, shown_path)}: {advice(exc)}"
            was_judged = exc.status < HTTPStatus.INTERNAL_SERVER_ERROR or exc.should_retry
            outcome = UNDONE if was_judged else UNKNOWN
            raise Failure(f"{message}\n{outcome}", code=exc.code) from exc
        except NodeUnreachable as exc:
            raise Failure(f"{exc}\n{UNKNOWN if exc.was_sent else UNDONE}") from exc


def for_one_request(path: Path) -> list[FileStatement] | None:
    """The statements of a small file; None: it is for an import."""
    found: list[FileStatement] = []
    chars = 0
    with opened(path) as file:
        for statement in read_statements(file, lambda _: None):
            size = len(statement.sql)
            chars += size
            found.append(statement)
            if (
                size > STATEMENT_CHARS_MAX
                or chars > REQUEST_CHARS_MAX
                or len(found) > REQUEST_STATEMENTS_MAX
                or is_transaction(statement.sql)
            ):
                return None
    return found


def opened(path: Path) -> BinaryIO:
    """The file, for reading."""
    try:
        return path.open("rb")
    except OSError as exc:
        raise Failure(f"{path} cannot be read: {exc.strerror}") from exc


def send_file(request: Request, statements: Sequence[FileStatement]) -> None:
    """Run statements as one request and show what they return."""
    _send(request, {"batch": [{"sql": one.sql} for one in statements]})


def _send(request: Request, query: dict[str, Any]) -> None:
    with working("running ..."):
        reply = request.send(encode(query))
    results = reply.result_objects()
    if wishes().as_json:
        print_json({"result": results, "success": True, "bookmark": reply.bookmark})
        return
    print_results(results)
    totals = Totals()
    totals.add(results, reply.bookmark)
    click.echo(totals.line(), err=True)


def import_file(request: Request, path: Path, shown_path: str) -> None:
    """Have a file imported and tell what it did."""
    try:
        result = Loading(request.node, request.name, path).run()
    except ImportRefused as exc:
        place = f"{shown_path}: {exc.place}: " if exc.place else f"{shown_path}: "
        raise Failure(f"{escaped(place)}{escaped(str(exc))}\n{UNDONE}") from exc
    except Interrupted as exc:
        raise Failure(str(exc)) from exc
    except NodeRefused as exc:
        raise request.unknown(exc) or exc from exc
    except KeyboardInterrupt:
        raise Failure(
            "interrupted. If the upload was not through, nothing was applied, and the same command "
            "goes on where it stopped; else the import goes on at the node"
        ) from None
    totals = Totals(statements=result["num_queries"], bookmark=result.get("final_bookmark"))
    totals.add_meta(result["meta"])
    if wishes().as_json:
        print_json(totals.json())
    else:
        click.echo(totals.line(), err=True)


def place_of(refused: NodeRefused, statements: Sequence[FileStatement], path: str) -> str:
    """Return where in the file the refused statement stands, as well as the node told."""
    index = refused.statement
    if index is None and len(statements) == 1:
        index = 0
    if index is None or not 0 <= index < len(statements):
        return path
    return f"{path}:{statements[index].line}: statement {index + 1} failed"
