"""Options that every command has, and that may stand before or after its name."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click

from d1server.call import DEFAULT_URL, NodeConnection, UrlInvalid, normal_url

URL_VARIABLE: Final = "D1SERVER_URL"
KEY: Final = "d1server.cli.options"

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(slots=True)
class Wishes:
    """What was said about the node and the output, wherever it stood on the line."""

    url: str | None = None
    as_json: bool = False

    def node_url(self) -> str:
        """Return the URL of the node that this command is about."""
        try:
            return normal_url(self.url or os.environ.get(URL_VARIABLE) or DEFAULT_URL)
        except UrlInvalid as exc:
            raise click.UsageError(str(exc)) from exc

    def connect(self) -> NodeConnection:
        """Return a connection to the node; it opens with its first call."""
        return NodeConnection(self.node_url())


def wishes() -> Wishes:
    """Return the wishes of the command that runs; `ctx.meta` is shared by all its levels."""
    context = click.get_current_context(silent=True)
    return context.meta.setdefault(KEY, Wishes()) if context else Wishes()


def _keep_url(_context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        wishes().url = value


def _keep_json(_context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        wishes().as_json = True


url_option = click.option(
    "--url",
    metavar="URL",
    expose_value=False,
    is_eager=True,
    callback=_keep_url,
    help=f"The node to talk to (or {URL_VARIABLE}; else {DEFAULT_URL}).",
)
json_option = click.option(
    "--json",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_keep_json,
    help="Write JSON to standard output.",
)


def common_options(command: Command) -> Command:
    """Give a command `--url` and `--json`."""
    return url_option(json_option(command))
