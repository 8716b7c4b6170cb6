"""`d1server migrations`: numbered files of SQL, each applied once, in order.

What has been applied stands in the table that wrangler uses, so both tools can be used on one
database. Each file and the note of it are one transaction.
"""

import re
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from d1server.call import NodeConnection, NodeRefused, NodeUnreachable, database_path, encode
from d1server.cli.options import common_options, wishes
from d1server.cli.output import Failure, advice, escaped, print_json, print_table
from engine.sqltext import split

TABLE: Final = "d1_migrations"
CREATE_TABLE: Final = f"""CREATE TABLE IF NOT EXISTS "{TABLE}"(
\t\tid         INTEGER PRIMARY KEY AUTOINCREMENT,
\t\tname       TEXT UNIQUE,
\t\tapplied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL
);"""
SELECT_APPLIED: Final = f'SELECT *\n\t\tFROM "{TABLE}"\n\t\tORDER BY id'
INSERT_APPLIED: Final = f'INSERT INTO "{TABLE}" (name)\nvalues (?);'

RETRY_PAUSES_S: Final = (0.0, 0.5, 1.0, 2.0)  # before each attempt; a primary starts meanwhile
_NUMBER: Final = re.compile(r"\d{1,9}")
_DIGITS: Final = 4

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group("migrations")
@common_options
def migrations() -> None:
    """Create, list and apply numbered files of SQL."""


def dir_option(command: Command) -> Command:
    """Give a command `--dir`."""
    option = click.option(
        "--dir",
        "folder",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("migrations"),
        show_default=True,
        help="Where the files are.",
    )
    return option(command)


@migrations.command("create")
@click.argument("name")
@click.argument("message")
@dir_option
@common_options
def create(name: str, message: str, folder: Path) -> None:
    """Make an empty migration for the database NAME, with the next number."""
    words = re.sub(r"[^\w.-]+", "_", message).strip("_") or "migration"
    number = max((number_of(path.name) or 0 for path in files_in(folder)), default=0) + 1
    path = folder / f"{number:0{_DIGITS}}_{words}.sql"
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(f"-- Migration number: {number:0{_DIGITS}} \t {now}\n")
    except OSError as exc:
        raise Failure(f"{path} cannot be written: {exc.strerror}") from exc
    if wishes().as_json:
        print_json({"success": True, "database": name, "path": str(path)})
    else:
        click.echo(f"made {path}; write SQL into it, then `d1server migrations apply {name}`")


@migrations.command("list")
@click.argument("name")
@dir_option
@common_options
def list_migrations(name: str, folder: Path) -> None:
    """List the migrations of the database NAME, and when each was applied."""
    with wishes().connect() as node:
        applied = applied_to(node, name)
    names = [path.name for path in files_in(folder)]
    gone = [one for one in applied if one not in names]
    found = [(one, applied.get(one)) for one in (*gone, *names)]
    if wishes().as_json:
        print_json([{"name": one, "applied_at": at} for one, at in found])
    elif found:
        print_table(("name", "applied at"), [(one, at or "not yet") for one, at in found])
    else:
        click.echo(f"no migrations in {folder}; `d1server migrations create` makes one", err=True)


@migrations.command("apply")
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Only say what would be applied.")
@dir_option
@common_options
def apply(name: str, dry_run: bool, folder: Path) -> None:
    """Apply to the database NAME what has not been applied yet, in order.

    Each file is one transaction. The first that fails ends it: those before it stay applied.
    """
    files = files_in(folder)
    if not folder.is_dir():
        raise Failure(f"there is no folder {folder}; name another with --dir")
    done: list[str] = []
    with wishes().connect() as node:
        applied = applied_to(node, name)
        waiting = [path for path in files if path.name not in applied]
        if not dry_run:
            if waiting:
                node.post(database_path(name, "query"), {"sql": CREATE_TABLE})
            for path in waiting:
                has_sql = apply_one(node, name, path, done)
                done.append(path.name)
                if not wishes().as_json:
                    note = "" if has_sql else ", which has no SQL statements"
                    click.echo(f"applied {escaped(path.name)}{note}")
    if wishes().as_json:
        names = [path.name for path in waiting] if dry_run else done
        print_json({"success": True, "dry_run": dry_run, "migrations": names})
    elif not waiting:
        click.echo("nothing to apply", err=True)
    elif dry_run:
        for path in waiting:
            click.echo(escaped(path.name))


def apply_one(node: NodeConnection, name: str, path: Path, done: Sequence[str]) -> bool:
    """Run one file and note it, exactly once also when an answer is lost; whether it has SQL."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeError) as exc:
        raise Failure(f"{path} cannot be read: {exc}") from exc
    noted = {"sql": INSERT_APPLIED, "params": [path.name]}
    has_sql = bool(split(text))
    batch = [{"sql": text}, noted] if has_sql else [noted]
    body, key = encode({"batch": batch}), {"Idempotency-Key": uuid.uuid4().hex}
    stands = f"; applied before it: {', '.join(done)}" if done else ""
    lost: NodeRefused | NodeUnreachable | None = None
    for pause_s in RETRY_PAUSES_S:
        time.sleep(pause_s)
        try:
            node.call("POST", database_path(name, "query"), body=body, headers=key)
            return has_sql
        except NodeRefused as exc:
            if exc.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                message = f"{path.name} failed and was undone{stands}\n{advice(exc)}"
                raise Failure(message, code=exc.code) from exc
            lost = exc
        except NodeUnreachable as exc:
            lost = exc
    raise Failure(
        f"no answer says that {path.name} was applied{stands}; `d1server migrations list {name}` "
        f"tells whether it was\n{escaped(str(lost))}"
    ) from lost


def applied_to(node: NodeConnection, name: str) -> dict[str, str]:
    """The names of what was applied, and when."""
    try:
        reply = node.post(database_path(name, "query"), {"sql": SELECT_APPLIED})
    except NodeRefused as exc:
        if exc.message.startswith(f"no such table: {TABLE}"):
            return {}
        raise
    return {row["name"]: row["applied_at"] for row in reply.result_objects()[0]["results"]}


def files_in(folder: Path) -> list[Path]:
    """The migrations of a folder, by their numbers."""
    return sorted(folder.glob("*.sql"), key=lambda path: (number_of(path.name) or 0, path.name))


def number_of(name: str) -> int | None:
    """The number that a migration's name begins with."""
    found = _NUMBER.match(name)
    return int(found[0]) if found else None
