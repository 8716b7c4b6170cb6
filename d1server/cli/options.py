"""Options that every command has, and that may stand before or after its name."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from d1server.call import DEFAULT_URL, NodeConnection, UrlInvalid, normal_url
from d1server.config import parse_access_token
from d1server.tls import TlsInvalid

URL_VARIABLE: Final = "D1SERVER_URL"
TOKEN_VARIABLES: Final = ("D1SERVER_TOKEN", "CLOUDFLARE_API_TOKEN")
CA_VARIABLE: Final = "D1SERVER_TLS_CA"
KEY: Final = "d1server.cli.options"

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(slots=True)
class Wishes:
    """What was said about the node and the output, wherever it stood on the line."""

    url: str | None = None
    token: str | None = None
    tls_ca: str | None = None
    as_json: bool = False

    def node_url(self) -> str:
        """Return the URL of the node that this command is about."""
        try:
            return normal_url(self.url or os.environ.get(URL_VARIABLE) or DEFAULT_URL)
        except UrlInvalid as exc:
            raise click.UsageError(str(exc)) from exc

    def access_token(self) -> str | None:
        """Return the access token to send, if there is one."""
        given = (self.token, *(os.environ.get(name) for name in TOKEN_VARIABLES))
        text = next((text for text in given if text), None)
        try:
            return None if text is None else parse_access_token(text)
        except ValueError as exc:
            raise click.UsageError(f"--token or {TOKEN_VARIABLES[0]}: {exc}") from exc

    def ca_file(self) -> Path | None:
        """Return the certificates to trust, if others than the system's."""
        given = self.tls_ca or os.environ.get(CA_VARIABLE)
        return Path(given) if given else None

    def connect(self) -> NodeConnection:
        """Return a connection to the node; it opens with its first call."""
        try:
            return NodeConnection(self.node_url(), token=self.access_token(), tls_ca=self.ca_file())
        except TlsInvalid as exc:
            raise click.UsageError(str(exc)) from exc


def wishes() -> Wishes:
    """Return the wishes of the command that runs; `ctx.meta` is shared by all its levels."""
    context = click.get_current_context(silent=True)
    return context.meta.setdefault(KEY, Wishes()) if context else Wishes()


def _wish(flag: str, name: str, **how: Any) -> Callable[[Command], Command]:
    """An option that sets the wish of this name, at whichever level of the line it stands."""

    def keep(_context: click.Context, _parameter: click.Parameter, value: object) -> None:
        if value:  # else another level may have said it
            setattr(wishes(), name, value)

    return click.option(flag, name, expose_value=False, is_eager=True, callback=keep, **how)


json_option = _wish("--json", "as_json", is_flag=True, help="Write JSON to standard output.")
_OPTIONS: Final = (
    _wish(
        "--url",
        "url",
        metavar="URL",
        help=f"The node to talk to (or {URL_VARIABLE}; else {DEFAULT_URL}).",
    ),
    _wish(
        "--token",
        "token",
        metavar="TOKEN",
        help=f"Access token, or @FILE with one (or {', '.join(TOKEN_VARIABLES)}).",
    ),
    _wish(
        "--tls-ca",
        "tls_ca",
        metavar="FILE",
        help=f"CA of the node's certificate (or {CA_VARIABLE}; else the system's).",
    ),
    json_option,
)


def common_options(command: Command) -> Command:
    """Give a command `--url`, `--token`, `--tls-ca` and `--json`."""
    for option in reversed(_OPTIONS):  # the last one applied is shown first
        command = option(command)
    return command
