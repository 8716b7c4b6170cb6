"""The command `d1server`: one group, a module per family of commands.

Exit codes: 0 done; 1 the server or SQL said no, or nobody answers; 2 bad usage. A message
goes to standard error and says what to do; with `--json`, standard output holds JSON only.
"""

from typing import Any

import click

from d1server import __version__
from d1server.call import NodeRefused, NodeUnreachable
from d1server.cli.databases import CODE_DATABASE_UNKNOWN, databases
from d1server.cli.execute import execute
from d1server.cli.nodes import dev, primary, replica
from d1server.cli.options import common_options
from d1server.cli.output import Failure, escaped
from d1server.cli.status import status


class CommandLine(click.Group):
    """The root group: here ends whatever a command could not do."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except NodeUnreachable as exc:
            raise Failure(str(exc)) from exc
        except NodeRefused as exc:
            raise Failure(advice(exc), code=exc.code) from exc


def advice(refused: NodeRefused) -> str:
    """Return the node's message with what to do about it."""
    message = escaped(refused.message)
    if refused.code == CODE_DATABASE_UNKNOWN and "db create" not in message:
        return f"{message}; `d1server db list` shows what is there, `d1server db create` makes one"
    if refused.should_retry:
        return f"{message} (nothing was done; try again)"
    return message


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="d1server")
@common_options
def command_line() -> None:
    """A self-hosted, D1-compatible, replicated SQLite server."""


for command in (dev, primary, replica, databases, execute, status):
    command_line.add_command(command)


def main() -> None:
    """Run the command line of this process."""
    command_line(prog_name="d1server")
