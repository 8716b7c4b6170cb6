"""`d1server token`: make, list and revoke access tokens.

With `--data-dir`, on the folder of a primary that does not run: the way to the first token of a
cluster that listens on a network. Else over HTTP, with a token that has the scope admin.
"""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

import click

from d1server.call import Reply, encode, refusal
from d1server.cli.options import common_options, wishes
from d1server.cli.output import Failure, escaped, print_json, print_table

COLUMNS: Final = ("id", "name", "scopes", "databases", "state", "expires_at", "last_used_at")
SCOPES: Final = ("read", "edit", "admin", "replicate")
DURATION: Final = re.compile(r"(\d{1,6})(s|m|h|d|w)")
SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

Command = TypeVar("Command", bound=Callable[..., Any])


class Duration(click.ParamType[int]):
    """A number and a unit, as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = DURATION.fullmatch(str(value).strip().lower())
        if match is None or not int(match[1]):
            self.fail(f"{value!r} is no time such as 30m, 12h, 7d or 52w", param, ctx)
        return int(match[1]) * SECONDS[match[2]]


@click.group("token")
@common_options
def tokens() -> None:
    """Make, list and revoke access tokens."""


def data_dir_option(command: Command) -> Command:
    """Give a command `--data-dir`."""
    option = click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="The folder of a primary that does not run, instead of a node that does.",
    )
    return option(command)


@tokens.command("create")
@click.option("--name", required=True, help="What it is for, for people.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    required=True,
    help="read, edit (and create databases), admin (and tokens), replicate (be a replica).",
)
@click.option("--database", "databases", metavar="NAME", multiple=True, help="Only for this one.")
@click.option("--expires", type=Duration(), metavar="TIME", help="30m, 12h, 7d; else never.")
@data_dir_option
@common_options
def create(
    name: str,
    scopes: tuple[str, ...],
    databases: tuple[str, ...],
    expires: int | None,
    data_dir: Path | None,
) -> None:
    """Make an access token and print it: once, nobody can show it again."""
    asked = {
        "name": name,
        "scopes": list(scopes),
        "databases": list(databases) or None,
        "expires_in_s": expires,
    }
    if data_dir is not None and not (data_dir / "node.toml").exists():
        click.echo(f"{data_dir} becomes the data directory of a new primary", err=True)
    reply = call(data_dir, "POST", body=asked)
    made = reply.result_object()
    hints = [str(item["message"]) for item in reply.json().get("messages", ())]
    for hint in hints:
        click.echo(escaped(hint), err=True)
    if wishes().as_json:
        print_json(made)
        return
    where = "all databases" if made["databases"] is None else ", ".join(made["databases"])
    until = made["expires_at"] or "it is revoked"
    click.echo(
        f"token {made['id']} ({escaped(name)}): {', '.join(made['scopes'])} for"
        f" {escaped(where)}, until {until}. Keep it, it is not shown again:",
        err=True,
    )
    click.echo(made["token"])


@tokens.command("list")
@data_dir_option
@common_options
def list_tokens(data_dir: Path | None) -> None:
    """List all access tokens, also those that are revoked or expired."""
    found = call(data_dir, "GET").result_objects()
    if wishes().as_json:
        print_json(found)
    elif found:
        print_table(COLUMNS, [[_cell(token.get(name)) for name in COLUMNS] for token in found])
    else:
        click.echo("no access tokens yet; make one with `d1server token create`", err=True)


@tokens.command("revoke")
@click.argument("token_id", metavar="ID")
@data_dir_option
@common_options
def revoke(token_id: str, data_dir: Path | None) -> None:
    """End the access token ID, on every node."""
    reply = call(data_dir, "DELETE", token_id)
    if wishes().as_json:
        print_json(reply.result_object())
        return
    for item in reply.json().get("messages", ()):
        click.echo(escaped(str(item["message"])), err=True)
    click.echo(f"revoked {token_id}")


OPERATIONS: Final = {"POST": "token-create", "GET": "token-list", "DELETE": "token-revoke"}


def call(data_dir: Path | None, method: str, token_id: str = "", body: object = None) -> Reply:
    """Ask a node, or the program itself in a data directory."""
    encoded = b"" if body is None else encode(body)
    if data_dir is not None:
        return call_offline(data_dir, OPERATIONS[method], token_id, encoded)
    path = f"/tokens/{quote(token_id, safe='')}" if token_id else "/tokens"
    with wishes().connect() as node:
        return node.call(method, path, body=encoded or None)


def call_offline(data_dir: Path, op: str, token_id: str, body: bytes) -> Reply:
    """Run the call in the folder; what is wrong with it becomes a message."""
    from d1server.datadir import DataDirRefused, private_files
    from d1server.offline import administer_offline
    from engine.errors import EngineError

    if op != "token-create" and not (data_dir / "node.toml").exists():
        raise Failure(f"{data_dir} is no data directory of a node")
    try:
        with private_files():
            answer = asyncio.run(administer_offline(data_dir, op, name=token_id, body=body))
    except DataDirRefused as exc:
        raise Failure(
            f"{exc}. Access tokens are kept by the primary: ask a running one with --url and a "
            "token that has the scope admin"
        ) from exc
    except (EngineError, OSError) as exc:
        raise Failure(f"{data_dir}: {exc}") from exc
    if answer.status >= 400:
        raise refusal(answer.status, answer.body, {})
    return Reply(str(data_dir), answer.body)


def _cell(value: object) -> object:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return "" if value is None else value
