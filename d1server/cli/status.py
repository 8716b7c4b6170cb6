"""`d1server status`: what one node says about itself."""

from collections.abc import Mapping
from typing import Any, Final

import click

from d1server.cli.options import common_options, wishes
from d1server.cli.output import escaped, print_json, print_table

COLUMNS: Final = (
    "database",
    "applied",
    "head",
    "lag commits",
    "lag bytes",
    "lag ms",
    "checksum",
    "problem",
)
KEYS: Final = ("applied", "head", "lag_commits", "lag_bytes", "lag_ms", "checksum", "problem")


@click.command("status")
@common_options
def status() -> None:
    """Show a node's role, region, databases, and how far it is behind."""
    with wishes().connect() as node:
        found = node.call("GET", "/status").json("role")
    if wishes().as_json:
        print_json(found)
        return
    click.echo(headline(wishes().node_url(), found))
    if "databases" in found:
        print_table(COLUMNS, database_rows(found))
    else:
        click.echo("databases are shown to a token that is for all of them", err=True)


def headline(url: str, found: Mapping[str, Any]) -> str:
    """Return the line about the node itself."""
    facts = [f"{key} {found[key]}" for key in ("region", "pid", "epoch") if key in found]
    link = found.get("primary")
    if isinstance(link, dict):  # of a replica
        facts.append(f"{link.get('state')} {link.get('address')} {link.get('reason')}".rstrip())
    return escaped(f"{url}: {found['role']}, {', '.join(facts)}")


def database_rows(found: Mapping[str, Any]) -> list[list[object]]:
    """Return a row for each database, by name."""
    entries: Mapping[str, Mapping[str, Any]] = found["databases"]
    return [[name, *(entry.get(key) for key in KEYS)] for name, entry in sorted(entries.items())]
