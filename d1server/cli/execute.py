"""`d1server execute`: run SQL that stands on the command line or in a file.

A command is one request. A file is one transaction if it is small; a larger one is sent in
batches, each a transaction of its own, so a failure in the middle leaves the batches before it
applied, and the message says which. Batches carry an idempotency key: one whose answer was
lost is sent again and applied once.
"""

import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
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
from d1server.cli.options import common_options, wishes
from d1server.cli.output import (
    CODE_DATABASE_UNKNOWN,
    Failure,
    advice,
    escaped,
    print_json,
    print_table,
)
from d1server.cli.progress import ReadProgress, working
from engine.sqlfile import FileStatement, SqlFileInvalid, read_statements

ATTEMPTS_MAX: Final = 6
RETRY_PAUSE_S: Final = 0.5  # doubles with each attempt


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

    A file up to 8 MiB is one transaction. A larger one is sent in batches of about 1 MiB, each
    a transaction of its own.
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
            run_file(request, path)


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

    def send(self, body: bytes, key: str | None = None) -> Reply:
        """Send one transaction."""
        headers = {**self.headers, **({"Idempotency-Key": key} if key else {})}
        try:
            reply = self.node.call("POST", self.path, body=body, headers=headers)
        except NodeRefused as exc:
            if exc.code == CODE_DATABASE_UNKNOWN:
                raise Failure(
                    f"there is no database {self.name} on {self.node.url};"
                    f" create it with `d1server db create {self.name}`",
                    code=exc.code,
                ) from exc
            raise
        if reply.bookmark and "x-d1-bookmark" in self.headers:
            self.headers["x-d1-bookmark"] = reply.bookmark  # the rest of the session
        return reply


def run_command(request: Request, sql: str) -> None:
    """Run the text of `--command` as one transaction."""
    with working("running ..."):
        reply = request.send(encode({"sql": sql}))
    results = reply.result_objects()
    if wishes().as_json:
        print_json({"result": results, "success": True, "bookmark": reply.bookmark})
        return
    print_results(results)
    totals = Totals()
    totals.add(results, reply.bookmark)
    click.echo(totals.line(), err=True)


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
    """What has been applied so far."""

    statements: int = 0
    transactions: int = 0
    changes: int = 0
    rows_read: int = 0
    rows_written: int = 0
    duration_ms: float = 0.0
    bookmark: str | None = None
    line_last: int = 0  # of the file; 0 before the first batch
    served_by: set[str] = field(default_factory=set)

    def add(self, results: Sequence[dict[str, Any]], bookmark: str | None) -> None:
        """Count one transaction that has been applied."""
        self.transactions += 1
        self.statements += len(results)
        self.bookmark = bookmark or self.bookmark
        for result in results:
            meta = result.get("meta", {})
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
            "transactions": self.transactions,
            "changes": self.changes,
            "rows_read": self.rows_read,
            "rows_written": self.rows_written,
            "duration": self.duration_ms,
            "bookmark": self.bookmark,
        }


def run_file(request: Request, path: str) -> None:
    """Run the statements of a file, in one or more transactions."""
    totals = Totals()
    shown_path = "standard input" if path == "-" else path
    batch: Batch | None = None
    try:
        with ReadProgress(path) as on_read, opened(path) as file:
            statements = read_statements(file, on_read)
            for batch in batches(statements, ONE_REQUEST, BATCH):
                reply = send_batch(request, batch)
                results = reply.result_objects()
                totals.add(results, reply.bookmark)
                totals.line_last = batch.line_last
                show_batch(results, is_only=batch.is_only, bookmark=reply.bookmark)
    except NodeRefused as exc:
        assert batch is not None
        message = f"{place_of(exc, batch, shown_path)}: {advice(exc)}"
        raise Failure(f"{message}\n{applied(totals, batch)}", code=exc.code) from exc
    except NodeUnreachable as exc:
        outcome = "" if batch is None else f"\n{applied(totals, batch, is_known=not exc.was_sent)}"
        raise Failure(f"{exc}{outcome}") from exc
    except SqlFileInvalid as exc:
        raise Failure(f"{shown_path}:{exc.line}: {exc}\n{applied(totals, None)}") from exc
    except KeyboardInterrupt:
        raise Failure(f"interrupted\n{applied(totals, batch, is_known=False)}") from None
    if totals.transactions == 0:
        raise Failure(f"{shown_path} has no SQL statements")
    if not wishes().as_json:
        click.echo(totals.line(), err=True)
    elif totals.transactions > 1:
        print_json(totals.json())


def opened(path: str) -> AbstractContextManager[BinaryIO]:
    """Return a file for reading; "-" is standard input."""
    return nullcontext(sys.stdin.buffer) if path == "-" else Path(path).open("rb")


def show_batch(results: Sequence[dict[str, Any]], *, is_only: bool, bookmark: str | None) -> None:
    """Print the rows that a batch returned; as JSON only if the file is one request."""
    if not wishes().as_json:
        print_results(results)
    elif is_only:
        print_json({"result": results, "success": True, "bookmark": bookmark})


@dataclass(frozen=True, slots=True)
class Batch:
    """Statements that are one transaction."""

    statements: Sequence[FileStatement]
    is_only: bool  # the whole file

    @property
    def line_first(self) -> int:
        return self.statements[0].line

    @property
    def line_last(self) -> int:
        return self.statements[-1].line_last


@dataclass(frozen=True, slots=True)
class Size:
    """How much one transaction may hold; an answer grows with the number of statements."""

    chars_max: int
    statements_max: int

    def has_room(self, chars: int, statements: int) -> bool:
        """Tell whether so much fits."""
        return chars <= self.chars_max and statements <= self.statements_max


ONE_REQUEST: Final = Size(8 * 1024 * 1024, 50_000)  # up to here a file is one transaction
# Beyond: small, so that other writers get a turn. The node keeps the answers of batches for a
# while, in case one is asked for again, as values of at most 2 MB.
BATCH: Final = Size(1024 * 1024, 4_000)


def batches(statements: Iterable[FileStatement], one_request: Size, batch: Size) -> Iterator[Batch]:
    """Cut a file's statements into transactions: one if it is small, else many small ones.

    Holds no more than fits `one_request`, whatever the size of the file.
    """
    waiting: list[FileStatement] = []
    chars = 0
    is_large = False
    for statement in statements:
        waiting.append(statement)
        chars += len(statement.sql)
        is_large = is_large or not one_request.has_room(chars, len(waiting))
        while is_large and not batch.has_room(chars, len(waiting)):
            count, taken = next_cut(waiting, batch)
            yield Batch(waiting[:count], is_only=False)
            del waiting[:count]
            chars -= taken
    if waiting:
        yield Batch(waiting, is_only=not is_large)


def next_cut(waiting: Sequence[FileStatement], size: Size) -> tuple[int, int]:
    """Return how many statements go into the next batch, at least one, and their length."""
    taken = 0
    for count, statement in enumerate(waiting):
        if count and not size.has_room(taken + len(statement.sql), count + 1):
            return count, taken
        taken += len(statement.sql)
    return len(waiting), taken


def send_batch(
    request: Request, batch: Batch, sleep: Callable[[float], None] = time.sleep
) -> Reply:
    """Send one batch until it is surely applied or refused, or the attempts are used up."""
    body = encode({"batch": [{"sql": statement.sql} for statement in batch.statements]})
    key = None if batch.is_only else uuid.uuid4().hex
    was_sent = False
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            return request.send(body, key)
        except NodeRefused as exc:
            if not exc.should_retry or attempt == ATTEMPTS_MAX:
                raise
            pause_s = exc.retry_after_s
        except NodeUnreachable as exc:
            was_sent = was_sent or exc.was_sent
            if attempt == ATTEMPTS_MAX or not may_repeat(batch, was_sent):
                raise NodeUnreachable(str(exc), was_sent=was_sent) from exc
            pause_s = 0.0
        sleep(max(pause_s, RETRY_PAUSE_S * 2 ** (attempt - 1)))
    raise AssertionError("the last attempt returns or raises")


def may_repeat(batch: Batch, was_sent: bool) -> bool:
    """Tell whether to try again when nobody answers.

    A batch of many has a key, and counts once however often it is sent; a file that is one
    transaction has none. Nobody there from the start is a mistake of whoever typed the URL.
    """
    is_under_way = was_sent or batch.statements[0].number > 1
    return is_under_way and not batch.is_only


def place_of(refused: NodeRefused, batch: Batch, path: str) -> str:
    """Return where in the file the refused statement stands, as well as the node told."""
    index = refused.statement
    if index is None and len(batch.statements) == 1:
        index = 0
    if index is not None and 0 <= index < len(batch.statements):
        statement = batch.statements[index]
        return f"{path}:{statement.line}: statement {statement.number} failed"
    lines = f"{batch.line_first}-{batch.line_last}"
    return f"{path}:{batch.line_first}: a statement in lines {lines} failed"


def applied(totals: Totals, batch: Batch | None, *, is_known: bool = True) -> str:
    """Return what stands in the database after a failure, and how to go on."""
    if batch is not None and not is_known:
        fate = f"Whether lines {batch.line_first}-{batch.line_last} were applied is not known."
    elif batch is not None and batch.is_only:
        return "Nothing was applied: the file is one transaction."
    else:
        fate = "The failed batch was rolled back." if batch else ""
    if totals.transactions == 0:
        return f"Nothing was applied before. {fate}".strip() if fate else "Nothing was applied."
    return (
        f"Applied: lines 1-{totals.line_last} ({totals.statements} statements in"
        f" {totals.transactions} transactions). {fate}"
    ).strip()
