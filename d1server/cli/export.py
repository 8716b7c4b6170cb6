"""`d1server export`: a database as a file of SQL.

The node makes it from one snapshot; it is fetched into a file beside the output, which then
takes the output's place: what stands there is never half an export.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Final

import click

from d1server.call import NodeConnection, NodeUnreachable, database_path
from d1server.cli.options import common_options, wishes
from d1server.cli.output import Failure, escaped, print_json
from d1server.cli.progress import Bar
from d1server.file_calls import FileUrl

ATTEMPTS_MAX: Final = 6
RETRY_PAUSE_S: Final = 0.5  # doubles with each attempt


@click.command("export")
@click.argument("name")
@click.option(
    "--output", "-o", required=True, metavar="FILE", help="Where to; - is standard output."
)
@click.option("--table", "tables", multiple=True, metavar="T", help="Only this one; repeatable.")
@click.option("--no-data", is_flag=True, help="The schema only.")
@click.option("--no-schema", is_flag=True, help="The rows only.")
@common_options
def export(name: str, output: str, tables: tuple[str, ...], no_data: bool, no_schema: bool) -> None:
    """Write the database NAME to a file of SQL, as it is at one moment."""
    if no_data and no_schema:
        raise click.UsageError("--no-data and --no-schema together leave nothing")
    options = {"no_data": no_data, "no_schema": no_schema, "tables": list(tables)}
    with wishes().connect() as node, writing(output) as file:
        told = made(node, name, {"output_format": "polling", "dump_options": options})
        fetch(told["result"]["signed_url"], file)
        size = file.tell()
    summary = {"success": True, "output": output, "bytes": size, "bookmark": told["at_bookmark"]}
    if wishes().as_json and output != "-":
        print_json(summary)
    else:
        click.echo(f"{size} bytes; state of bookmark {told['at_bookmark']}", err=True)


def made(node: NodeConnection, name: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Have the node make the export; what it says at the end."""
    path = database_path(name, "export")
    told = node.post(path, asked).result_object()
    with Bar("exporting", None) as bar:
        while told.get("status") == "active":
            bar.reach(told.get("progress", {}).get("bytes_done", 0))
            told = node.post(
                path, asked | {"current_bookmark": told["at_bookmark"]}
            ).result_object()
    if told.get("status") != "complete":
        hints = told.get("messages", ())[2:]
        raise Failure("\n".join(escaped(str(text)) for text in (told.get("error"), *hints)))
    return told


def fetch(url: str, file: BinaryIO) -> None:
    """Fetch the file, on from where a connection broke."""
    failures = 0
    with Bar("downloading", None) as bar:
        while True:
            start = file.tell()
            try:
                if FileUrl(url, wishes().ca_file()).receive(file, start, bar.reach):
                    return
                exc = NodeUnreachable("the download broke off", was_sent=True)
            except NodeUnreachable as caught:
                exc = caught
            failures = 1 if file.tell() > start else failures + 1
            if failures > ATTEMPTS_MAX:
                raise exc
            time.sleep(RETRY_PAUSE_S * 2 ** (failures - 1))


@contextmanager
def writing(output: str) -> Iterator[BinaryIO]:
    """A file that takes the place of the output when the block has ended well."""
    if output == "-":
        with TemporaryFile() as file:
            yield file
            file.seek(0)
            shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        return
    path = Path(output)
    beside = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        with beside.open("xb") as file:
            yield file
        beside.replace(path)
    except OSError as exc:
        raise Failure(f"{path} cannot be written: {exc.strerror}") from exc
    finally:
        beside.unlink(missing_ok=True)
