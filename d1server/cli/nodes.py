"""`d1server dev | primary | replica`: the commands that run until they are stopped."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from d1server.cli.options import json_option, wishes
from d1server.cli.output import Failure
from d1server.config import (
    GIB,
    MIB,
    SQL_PREFIX,
    ConfigInvalid,
    NodeConfig,
    Role,
    flag,
    read_file,
    resolve,
)
from d1server.signals import end_of_input, run_until_signalled
from engine.limits import SqlLimits

Command = TypeVar("Command", bound=Callable[..., Any])

PORT_MAX: Final = 65535 - 3  # dev needs the next two as well

LISTEN_HELP: Final = "HTTP address, HOST:PORT; port 0 lets the system choose."
DATA_DIR_HELP: Final = "Folder of this node's data; made if it is not there.  [required]"

PUBLIC_URL_HELP: Final = "Where clients reach this node, in signed URLs.  [default: as --listen]"
NAME_HELP: Final = "This node's own name.  [default: ROLE-REGION-ID, the id is --data-dir's]"
REPLICATION_HELP: Final = "Where replicas call this node.  [default: 100 ports above --listen]"

# A node's own, so all nodes should have the same.
SQL_LIMITS: Final = {
    "statement_bytes_max": "Of one SQL statement.",
    "value_bytes_max": "Of a string, a blob or a row.",
    "columns_max": "Of a table or a result.",
    "expression_depth_max": "Of nested expressions.",
    "compound_selects_max": "Of SELECTs joined by UNION and the like.",
    "instructions_max": "Of a statement's program.",
    "function_arguments_max": "Of one function.",
    "pattern_bytes_max": "Of a LIKE or GLOB pattern.",
    "variables_max": "Of a statement's parameters.",
    "trigger_depth_max": "Of triggers that set off triggers.",
    "database_bytes_max": "Of one database.",
    "result_bytes_max": "Of one request's results in memory.",
    "memory_bytes_max": "That one request may take of SQLite.",
    "spill_bytes_max": "Of SQLite's temporary files.",
}


_DEFAULTS: Final = {field.name: field.default for field in fields(NodeConfig)} | {
    SQL_PREFIX + field.name: field.default for field in fields(SqlLimits)
}


def setting(name: str, metavar: str, text: str) -> Callable[[Command], Command]:
    """The option of a setting, whose help ends with what holds without it."""
    shown = f"{text}  [default: {shown_default(_DEFAULTS[name])}]"
    return click.option(flag(name), metavar=metavar, help=shown)


def shown_default(value: object) -> str:
    """A default as one would type it."""
    if isinstance(value, int) and value >= MIB and value % MIB == 0:
        return f"{value // GIB}GiB" if value % GIB == 0 else f"{value // MIB}MiB"
    return f"{value:g}" if isinstance(value, float) else str(value)


def node_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the settings that a primary and a replica share."""
    options = [
        click.option("--config", "config_path", type=click.Path(path_type=Path), help="TOML file."),
        click.option("--data-dir", metavar="DIR", help=DATA_DIR_HELP),
        setting("listen", "HOST:PORT", LISTEN_HELP),
        click.option("--public-url", metavar="URL", help=PUBLIC_URL_HELP),
        setting("region", "NAME", "Shown in every answer's meta."),
        click.option("--name", metavar="NAME", help=NAME_HELP),
        setting("query_deadline_s", "S", "A query is stopped after it."),
        setting("read_wait_s", "S", "How long a read waits for its bookmark."),
        setting("body_bytes_max", "SIZE", "Largest request body."),
        *[setting(SQL_PREFIX + limit, "N", text) for limit, text in SQL_LIMITS.items()],
        setting("log_bytes_max", "SIZE", "Commits kept for replicas."),
        setting("idle_close_s", "S", "An idle database is closed after it."),
        setting("open_databases_max", "N", "Databases open at once."),
        setting("ready_lag_s_max", "S", "A replica further behind is unready."),
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
        setting("log_level", "LEVEL", "debug, info, warning or error."),
        setting("log_format", "FORMAT", "text or json."),
        click.option("--stop-with-stdin", is_flag=True, hidden=True, help="Stop when stdin ends."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command("primary")
@click.option("--replication", metavar="HOST:PORT", help=REPLICATION_HELP)
@node_options
@json_option
def primary(config_path: Path | None, stop_with_stdin: bool, **flags: Any) -> None:
    """Run a primary: it takes the writes, and replicas follow it."""
    run(configure(Role.PRIMARY, config_path, flags), stop_with_stdin)


@click.command("replica")
@click.option(
    "--primary", metavar="HOST:PORT", help="The primary's --replication address.  [required]"
)
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
    renew_tls = asyncio.Event()
    main = run_node(config, renew_tls)
    if stop_with_stdin:
        main = with_stdin(main)
    try:
        with private_files():
            run_until_signalled(main, loop_factory=uvloop.new_event_loop, on_hangup=renew_tls.set)
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
    from d1server.access.exposure import NodeExposed
    from d1server.datadir import DataDirRefused
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
    own = [f"--listen {config.listen}"]
    own += [f"--replication {config.replication}"] if config.replication else []
    where = " or ".join(own)
    if exc.errno == errno.EADDRINUSE:
        if config.listen == config.replication:
            return f"{where}: HTTP and the replicas need a port each"
        return f"{where} is in use; stop what listens there, or give another port"
    if exc.errno == errno.EADDRNOTAVAIL or isinstance(exc, socket.gaierror):
        return f"{where} is no address of this machine; give one that it has, such as 127.0.0.1"
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
