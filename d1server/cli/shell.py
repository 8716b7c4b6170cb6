"""`d1server shell`: statements typed at a prompt, or read from a pipe.

On a terminal: completion from the schema, history, lines until a semicolon; an error is shown
and the shell goes on. From a pipe: one statement after the other, and an error ends it.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from d1server.cli.options import common_options, wishes
from d1server.cli.output import Failure
from d1server.cli.shell_session import MODES, Failed, Quit, Session
from engine.sqlfile import SqlFileInvalid, StatementReader
from engine.sqltext import is_complete

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

HISTORY_NAME: Final = "shell_history"


@click.command("shell")
@click.argument("name")
@click.option("--mode", type=click.Choice(MODES), help="How rows are shown.")
@click.option("--bookmark", metavar="B", help="Begin the session at this state.")
@common_options
def shell(name: str, mode: str | None, bookmark: str | None) -> None:
    """Run SQL in the database NAME as it is typed, or as it comes through a pipe."""
    with wishes().connect() as node:
        session = Session(node, name, mode=mode or ("json" if wishes().as_json else "table"))
        if bookmark:
            session.bookmark = bookmark
        if sys.stdin.isatty():
            converse(session)
        else:
            run_pipe(session)


def run_pipe(session: Session) -> None:
    """Run what standard input holds, statement by statement."""
    reader = StatementReader()
    line = 0
    try:
        for text in sys.stdin:
            line = reader.line
            if reader.is_between and text.lstrip().startswith("."):
                session.run(text)
                list(reader.feed("\n"))  # it counts
                continue
            for statement in reader.feed(text):
                line = statement.line
                session.run(statement.sql)
        for statement in reader.finish():
            line = statement.line
            session.run(statement.sql)
    except Quit:
        pass
    except SqlFileInvalid as exc:
        raise Failure(f"line {exc.line}: {exc}") from exc
    except Failed as exc:
        raise Failure(f"line {line}: {exc}") from exc
    except UnicodeDecodeError as exc:
        raise Failure("standard input is not UTF-8 text") from exc


def converse(session: Session) -> None:
    """Prompt until the user leaves."""
    session.check()  # an unknown database or node ends it here
    session.read_schema()
    prompt = open_prompt(session)
    click.echo(f"{session.database} on {session.node.url}; .help says what there is", err=True)
    while True:
        try:
            text = prompt.prompt()
            session.run(text)
        except KeyboardInterrupt:
            session.node.close()  # what was running is stopped with its connection
        except (EOFError, Quit):
            return
        except Failed as exc:
            click.echo(f"Error: {exc}", err=True)


def open_prompt(session: Session) -> "PromptSession[str]":
    """The prompt, with history and completion."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    from d1server.cli.shell_keys import SqlCompleter, bindings

    history: History = InMemoryHistory()
    path = history_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        history = FileHistory(str(path))
    except OSError as exc:
        click.echo(f"no history: {path}: {exc.strerror}", err=True)
    indent = " " * (len(session.database) - 1) + "..> "
    return PromptSession(
        f"{session.database}> ",
        history=history,
        completer=SqlCompleter(session),
        complete_while_typing=False,
        multiline=True,
        key_bindings=bindings(is_whole),
        prompt_continuation=indent,
        enable_history_search=True,
    )


def is_whole(text: str) -> bool:
    """Whether Enter runs the text, instead of beginning another line."""
    return not text.strip() or text.lstrip().startswith(".") or is_complete(text)


def history_path() -> Path:
    """Where what was typed is kept."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "d1server" / HISTORY_NAME
