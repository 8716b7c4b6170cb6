"""The command `d1server`: one group, a module per family of commands.

Exit codes: 0 done; 1 the server or SQL said no, or nobody answers; 2 bad usage. A message
goes to standard error and says what to do; with `--json`, standard output holds JSON only.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from d1server import __version__
from d1server.call import AnswerForeign, NodeRefused, NodeUnreachable
from d1server.cli.databases import databases
from d1server.cli.execute import execute as execute_command
from d1server.cli.export import export as export_command
from d1server.cli.insights import insights
from d1server.cli.migrations import migrations
from d1server.cli.nodes import dev, primary, replica
from d1server.cli.options import common_options
from d1server.cli.output import Failure, advice
from d1server.cli.shell import shell
from d1server.cli.status import status as status_command
from d1server.cli.tokens import tokens


class CommandLine(click.Group):
    """The root group: here ends whatever a command could not do."""

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        with no_traceback():  # `--help` and `--version` are printed here
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with no_traceback():
            return super().invoke(ctx)


@contextmanager
def no_traceback() -> Iterator[None]:
    """Make messages of what a command meets; our own bugs stay as they are."""
    try:
        yield
    except (NodeUnreachable, AnswerForeign) as exc:
        raise Failure(str(exc)) from exc
    except NodeRefused as exc:
        raise Failure(advice(exc), code=exc.code) from exc
    except OSError as exc:
        if exc.errno == errno.EPIPE:  # click ends quietly, as `head` wants it
            raise
        place = exc.filename or "the output"
        raise Failure(f"{place}: {exc.strerror or exc}") from exc


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="d1server")
@common_options
def command_line() -> None:
    """A self-hosted, D1-compatible, replicated SQLite server."""


for command in (
    dev,
    primary,
    replica,
    databases,
    execute_command,
    export_command,
    insights,
    migrations,
    shell,
    status_command,
    tokens,
):
    command_line.add_command(command)


def main() -> None:
    """Run the command line of this process."""
    command_line(prog_name="d1server")
