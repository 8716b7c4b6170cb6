"""What commands print: tables on a terminal, tab-separated lines in a pipe, JSON on request.

Values come out of databases, so they may hold anything: control characters are written as
escapes, and nothing in them is taken for markup.
"""

import json
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

import click

from d1server.call import NodeRefused
from d1server.cli.options import wishes

UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
NAMED_ESCAPES: Final = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
CODE_DATABASE_UNKNOWN: Final = 7404
CELL_CHARS_MAX: Final = 200  # on a terminal; a pipe gets everything


class Failure(click.ClickException):
    """The server or SQL said no. Exit code 1; the message says what to do."""

    exit_code = 1

    def __init__(self, message: str, *, code: int = 0) -> None:
        super().__init__(message)
        self._code = code
        self._as_json = wishes().as_json

    def show(self, file: Any = None) -> None:
        super().show(file)
        if self._as_json:
            errors = [{"code": self._code, "message": self.message}]
            with suppress(OSError):  # it may be what failed
                print_json({"success": False, "errors": errors})


def advice(refused: NodeRefused) -> str:
    """Return what the node said, and what to do about it."""
    message = escaped(refused.message)
    if refused.status == HTTPStatus.UNAUTHORIZED:
        return f"{message} (give --token, or set D1SERVER_TOKEN)"
    if refused.should_retry:
        return f"{message} (nothing was done; try again)"
    return f"{message}\n{escaped(refused.hint)}" if refused.hint else message


def print_json(value: object) -> None:
    """Write one JSON document and a newline."""
    click.echo(json.dumps(value, ensure_ascii=False))


def is_terminal() -> bool:
    """Tell whether a person looks at standard output."""
    return sys.stdout.isatty()


def cell(value: object) -> str:
    """Return one SQL value as text on one line."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):  # a blob, as JSON has it
        return "x'" + bytes(value).hex() + "'"
    return escaped(str(value))


def escaped(text: str) -> str:
    """Return text in which no character moves the cursor."""
    return UNSAFE.sub(
        lambda found: NAMED_ESCAPES.get(found[0]) or f"\\u{{{ord(found[0]):x}}}", text
    )


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write rows under their column names."""
    if not is_terminal():
        for row in (columns, *rows):
            click.echo("\t".join(cell(value) for value in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    for index, name in enumerate(columns):
        is_number = all(isinstance(row[index], int | float | None) for row in rows)
        justify = "right" if rows and is_number else "left"
        table.add_column(Text(cell(name)), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        texts = (shortened(cell(value)) for value in row)
        table.add_row(*(Text(text) for text in texts))
    Console().print(table)


def shortened(text: str) -> str:
    """Return what a terminal shows of a long value."""
    if len(text) <= CELL_CHARS_MAX:
        return text
    return f"{text[:CELL_CHARS_MAX]}… ({len(text)} characters)"
