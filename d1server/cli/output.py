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
COLUMN_CHARS_MIN: Final = 8  # that a table leaves to a column whose values are longer
_FRAME_CHARS: Final = 3  # of a table, around a column


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
    """Write rows under their column names; as records where a terminal is too narrow for that."""
    if not is_terminal():
        for row in (columns, *rows):
            click.echo("\t".join(cell(value) for value in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    names = [cell(name) for name in columns]
    texts = [[shortened(cell(value)) for value in row] for row in rows]
    if rows and not fits(names, texts, console.width):
        _print_records(names, texts)
        return
    table = Table(header_style="bold")
    for index, name in enumerate(names):
        is_number = all(isinstance(row[index], int | float | None) for row in rows)
        justify = "right" if rows and is_number else "left"
        table.add_column(Text(name), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for shown in texts:
        table.add_row(*(Text(text) for text in shown))
    console.print(table)


def fits(names: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> bool:
    """Tell whether a table of this width leaves to each column its values, or enough of them."""
    longest = [max(map(len, values)) for values in zip(names, *rows, strict=True)]
    return sum(min(chars, COLUMN_CHARS_MIN) + _FRAME_CHARS for chars in longest) < width


def print_records(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write each value on a line of its own, behind the name of its column."""
    _print_records(
        [escaped(name) for name in columns], [[cell(value) for value in row] for row in rows]
    )


def _print_records(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    width = max(map(len, names))
    for number, row in enumerate(rows):
        if number:
            click.echo()
        for name, text in zip(names, row, strict=True):
            click.echo(f"{name:>{width}} = {text}")


def shortened(text: str) -> str:
    """Return what a terminal shows of a long value."""
    if len(text) <= CELL_CHARS_MAX:
        return text
    return f"{text[:CELL_CHARS_MAX]}… ({len(text)} characters)"
