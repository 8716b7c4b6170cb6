"""`d1server db`: create, list, inspect, delete and vacuum databases."""

import sys
from collections.abc import Mapping
from typing import Any, Final

import click

from d1server.call import database_path
from d1server.cli.options import common_options, wishes
from d1server.cli.output import print_json, print_table
from d1server.cli.progress import working

LIST_COLUMNS: Final = ("name", "uuid", "created_at", "file_size", "running_in_region")


@click.group("db")
@common_options
def databases() -> None:
    """Create, list, inspect, delete and vacuum databases."""


def show_object(value: Mapping[str, Any]) -> None:
    """Print one database, a line per property."""
    if wishes().as_json:
        print_json(value)
        return
    print_table(("property", "value"), [(key, plain(item)) for key, item in value.items()])


def plain(value: object) -> object:
    """Return a property of a database as something that fits a cell."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return value


@databases.command("create")
@click.argument("name")
@common_options
def create(name: str) -> None:
    """Create the database NAME."""
    with wishes().connect() as node:
        show_object(node.post("/db", {"name": name}).result_object())


@databases.command("list")
@common_options
def list_databases() -> None:
    """List all databases."""
    with wishes().connect() as node:
        found = node.call("GET", "/db").result_objects()
    if wishes().as_json:
        print_json(found)
    elif found:
        print_table(LIST_COLUMNS, [[entry.get(name) for name in LIST_COLUMNS] for entry in found])
    else:
        click.echo("no databases yet; create one with `d1server db create NAME`", err=True)


@databases.command("info")
@click.argument("name")
@common_options
def info(name: str) -> None:
    """Show what is known about the database NAME."""
    with wishes().connect() as node:
        show_object(node.call("GET", database_path(name)).result_object())


@databases.command("delete")
@click.argument("name")
@click.option("--yes", "-y", "is_sure", is_flag=True, help="Do not ask.")
@common_options
def delete(name: str, is_sure: bool) -> None:
    """Delete the database NAME on every node. This cannot be undone."""
    if not is_sure:
        if wishes().as_json or not sys.stdin.isatty():
            raise click.UsageError(f"nobody is there to be asked: give --yes to delete {name}")
        click.confirm(f"Delete the database {name} with all its data?", abort=True, err=True)
    with wishes().connect() as node:
        node.call("DELETE", database_path(name))
    if wishes().as_json:
        print_json({"name": name, "deleted": True})
    else:
        click.echo(f"deleted {name}")


@databases.command("vacuum")
@click.argument("name")
@common_options
def vacuum(name: str) -> None:
    """Rewrite the database NAME without its free pages; writes to it wait meanwhile."""
    with wishes().connect() as node, working(f"vacuuming {name} ..."):
        reply = node.post(database_path(name, "vacuum"), {})
    if wishes().as_json:
        print_json(reply.json().get("result"))
    else:
        click.echo(f"vacuumed {name}")
