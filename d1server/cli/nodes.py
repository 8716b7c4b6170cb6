"""`d1server dev | primary | replica`: the commands that run until they are stopped."""

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from d1server.cli.options import json_option, wishes
from d1server.cli.output import Failure
from d1server.config import SQL_PREFIX, ConfigInvalid, NodeConfig, Role, flag, read_file, resolve
from d1server.signals import end_of_input, run_until_signalled

PORT_MAX: Final = 65535 - 3  # dev needs the next two as well

LISTEN_HELP: Final = "HTTP address, HOST:PORT; port 0 lets the system choose."
DATA_DIR_HELP: Final = "Folder of this node's data; made if it is not there."

# Each with D1's value where D1 has one; a node's own, so all nodes should have the same.
SQL_LIMITS: Final = {
    "statement_bytes_max": "Of one SQL statement: 100000.",
    "value_bytes_max": "Of a string, a blob or a row: 2000000.",
    "columns_max": "Of a table or a result: 100.",
    "expression_depth_max": "Of nested expressions: 200.",
    "compound_selects_max": "Of SELECTs joined by UNION and the like: 5.",
    "instructions_max": "Of a statement's program: 250000.",
    "function_arguments_max": "Of one function: 127.",
    "pattern_bytes_max": "Of a LIKE or GLOB pattern: 50.",
    "variables_max": "Of a statement's parameters: 100.",
    "trigger_depth_max": "Of triggers that set off triggers: 10.",
    "database_bytes_max": "Of one database: 10GiB.",
    "result_bytes_max": "Of one request's results in memory: 32MiB.",
    "memory_bytes_max": "That one request may take of SQLite: 256MiB.",
    "spill_bytes_max": "Of SQLite's temporary files: 2GiB.",
}


def node_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the settings that a primary and a replica share."""
    options = [
        click.option("--config", "config_path", type=click.Path(path_type=Path), help="TOML file."),
        click.option("--data-dir", metavar="DIR", help=DATA_DIR_HELP),
        click.option("--listen", metavar="HOST:PORT", help=LISTEN_HELP),
        click.option("--public-url", metavar="URL", help="Where clients reach this node."),
        click.option("--region", metavar="NAME", help="Shown in every answer's meta."),
        click.option("--name", metavar="NAME", help="This node's own name."),
        click.option("--query-deadline-s", metavar="S", help="A query is stopped after it."),
        click.option("--read-wait-s", metavar="S", help="How long a read waits for its bookmark."),
        click.option("--body-bytes-max", metavar="SIZE", help="Largest request body: 32MiB."),
        *[
            click.option(flag(SQL_PREFIX + limit), metavar="N", help=text)
            for limit, text in SQL_LIMITS.items()
        ],
        click.option("--log-bytes-max", metavar="SIZE", help="Commits kept for replicas: 1GiB."),
        click.option("--idle-close-s", metavar="S", help="An idle database is closed after it."),
        click.option("--open-databases-max", metavar="N", help="Databases open at once."),
        click.option("--ready-lag-s-max", metavar="S", help="A replica further behind is unready."),
        click.option("--tls-cert", metavar="FILE", help="PEM: HTTP and the link are TLS."),
        click.option("--tls-key", metavar="FILE", help="PEM: its key."),
        click.option(
            "--tls-ca", metavar="FILE", help="PEM: the link's ends show certificates of it."
        ),
        click.option(
            "--insecure", is_flag=True, default=None, help="Open to others, without tokens."
        ),
        click.option(
            "--open-metrics", is_flag=True, default=None, help="/metrics without a token."
        ),
        click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error."),
        click.option("--log-format", metavar="FORMAT", help="text or json."),
        click.option("--stop-with-stdin", is_flag=True, hidden=True, help="Stop when stdin ends."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command("primary")
@click.option("--replication", metavar="HOST:PORT", help="Where replicas call this node.")
@node_options
@json_option
def primary(config_path: Path | None, stop_with_stdin: bool, **flags: Any) -> None:
    """Run a primary: it takes the writes, and replicas follow it."""
    run(configure(Role.PRIMARY, config_path, flags), stop_with_stdin)


@click.command("replica")
@click.option("--primary", metavar="HOST:PORT", help="The primary's --replication address.")
@click.option(
    "--replication-token", metavar="@FILE", help="With the scope replicate, or the token itself."
)
@node_options
@json_option
def replica(config_path: Path | None, stop_with_stdin: bool, **flags: Any) -> None:
    """Run a replica: it follows a primary and answers reads."""
    run(configure(Role.REPLICA, config_path, flags), stop_with_stdin)


def configure(role: Role, config_path: Path | None, flags: dict[str, Any]) -> NodeConfig:
    """Return the node's configuration; what is wrong with it is bad usage."""
    if wishes().as_json and flags.get("log_format") is None:
        flags["log_format"] = "json"
    try:
        return resolve(
            role,
            flags=flags,
            env=os.environ,
            file=read_file(config_path) if config_path else {},
            file_name=str(config_path),
        )
    except ConfigInvalid as exc:
        raise click.UsageError(str(exc)) from exc


def run(config: NodeConfig, stop_with_stdin: bool) -> None:
    """Run the node until a signal; a fault of its surroundings becomes a message."""
    import uvloop

    from d1server.datadir import private_files
    from d1server.logs import configure_logs
    from d1server.node import run_node

    configure_logs(config.log_level, config.log_format)
    main = run_node(config)
    if stop_with_stdin:
        main = with_stdin(main)
    try:
        with private_files():
            run_until_signalled(main, loop_factory=uvloop.new_event_loop)
    except Exception as exc:
        raise refusal_to_start(exc, config) from exc


async def with_stdin(main: Any) -> None:
    """Run `main` until it ends or standard input does."""
    running = asyncio.ensure_future(main)
    ending = asyncio.ensure_future(end_of_input())
    try:
        await asyncio.wait([running, ending], return_when=asyncio.FIRST_COMPLETED)
    finally:
        ending.cancel()
        running.cancel()
        await asyncio.wait([running])
    if not running.cancelled():
        running.result()


def refusal_to_start(exc: Exception, config: NodeConfig) -> Exception:
    """Return what a node's end means for who started it; our own bugs stay as they are."""
    from d1server.datadir import DataDirRefused
    from d1server.exposure import NodeExposed
    from d1server.node import SqliteTooOld
    from d1server.tls import TlsInvalid
    from engine.errors import EngineError

    cause: BaseException = exc
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if isinstance(cause, OSError):
        return Failure(explain(cause, config))
    if isinstance(cause, DataDirRefused | NodeExposed | TlsInvalid | SqliteTooOld | EngineError):
        return Failure(str(cause))
    return exc


def explain(exc: OSError, config: NodeConfig) -> str:
    """Return what an error of the system means for who starts a node."""
    if exc.errno == errno.EADDRINUSE:
        where = " or ".join(str(at) for at in (config.listen, config.replication) if at)
        return f"{where} is in use; stop what listens there, or give another --listen"
    if exc.errno in (errno.EACCES, errno.EPERM):
        return f"not permitted: {exc}; check the owner of {config.data_dir} and ports below 1024"
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left for {config.data_dir}; free some and start again"
    return str(exc)


@click.command("dev")
@click.option(
    "--port",
    type=click.IntRange(1, PORT_MAX),
    default=8787,
    show_default=True,
    help="The primary's; the replicas take the next two.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data"),
    show_default=True,
    help="Folder for the data of all three nodes.",
)
@json_option
def dev(port: int, data_dir: Path) -> None:
    """Run a primary and two replicas on this machine, with a sample database."""
    from d1server.dev import ClusterFailed, run_dev

    try:
        run_dev(port, data_dir, as_json=wishes().as_json, token=wishes().access_token())
    except ClusterFailed as exc:
        raise Failure(str(exc)) from exc
