"""Bodies of the export and import calls, in the form of D1's clients.

Pure. Every `read_*` raises `RequestInvalid`, with a text that says what to send instead.
The state of a job is told within `result`: D1's clients look there for `success` and `error`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from d1server.administration import success
from d1server.bodies import decode_body
from d1server.query import Answer
from engine.dump import DumpOptions
from proto.errors import RequestInvalid

EXPORT_BUSY: Final = (
    "Currently processing a long-running export. "
    "Cannot start a new export until that completes or times out."
)
IMPORT_BUSY: Final = (
    "Currently processing a long-running import. "
    "Cannot start a new import until that completes or times out."
)
NOT_EXPORTING: Final = "Not currently exporting anything."
NOT_IMPORTING: Final = "Not currently importing anything."

TABLES_MAX: Final = 1000
_ETAG: Final = re.compile(r'"?([0-9a-fA-F]{32})"?', re.ASCII)

_Tables = Annotated[list[str], Meta(extra_json_schema={"maxItems": TABLES_MAX})]
_Md5 = Annotated[str, Meta(extra_json_schema={"pattern": f"^{_ETAG.pattern}$"})]


class DumpCall(msgspec.Struct):
    """What of the database; the default is all of it."""

    no_schema: bool | None = None
    no_data: bool | None = None
    tables: _Tables | None = None


class ExportCall(msgspec.Struct):
    """Begin an export, or with `current_bookmark` ask how far it is."""

    output_format: Literal["polling"] = "polling"
    dump_options: DumpCall | None = None
    current_bookmark: str | None = None


@dataclass(frozen=True, slots=True)
class ExportAsked:
    """A new export with these options, or the state of the one at `poll`."""

    options: DumpOptions
    poll: str | None


class Init(msgspec.Struct, frozen=True, tag="init", tag_field="action"):
    """A file with this MD5 is to be imported: ask where to send it."""

    etag: _Md5


class Ingest(msgspec.Struct, frozen=True, tag="ingest", tag_field="action"):
    """The file has been uploaded: run it."""

    filename: str
    etag: str = ""


class Poll(msgspec.Struct, frozen=True, tag="poll", tag_field="action"):
    """Ask how far it is."""

    current_bookmark: str | None = None


ImportAsked = Init | Ingest | Poll


def read_export(body: bytes) -> ExportAsked:
    """What is asked of the export."""
    form = '{"output_format": "polling", "dump_options": {"tables": ["t"]}} to export a database'
    asked = decode_body(body, ExportCall, form)
    dump = asked.dump_options or DumpCall()
    names = dump.tables or []
    if len(names) > TABLES_MAX:
        raise RequestInvalid(f"dump_options.tables: {len(names)} names, at most {TABLES_MAX}")
    if dump.no_schema and dump.no_data:
        raise RequestInvalid("dump_options: no_schema and no_data together leave nothing")
    options = DumpOptions(
        has_schema=not dump.no_schema, has_data=not dump.no_data, tables=frozenset(names)
    )
    return ExportAsked(options, asked.current_bookmark)


def read_import(body: bytes) -> ImportAsked:
    """What is asked of the import."""
    form = '{"action": "init", "etag": "<md5 of the file>"} (or "ingest", "poll") to import a file'
    kinds: Any = ImportAsked  # a union is no `type` to mypy
    asked: ImportAsked = decode_body(body, kinds, form)
    return asked


def read_etag(text: str) -> str:
    """An MD5 in lower-case hexadecimal, quoted or not."""
    found = _ETAG.fullmatch(text)
    if found is None:
        raise RequestInvalid("etag: send the MD5 of the file, 32 hexadecimal digits")
    return found[1].lower()


def refused(error: str) -> Answer:
    """The answer of a job that there is not: D1 says so within a successful envelope."""
    return success({"success": False, "error": error, "errors": [error], "messages": []})


def job_answer(
    kind: str,
    status: str,
    bookmark: str,
    *,
    messages: Sequence[str],
    error: str = "",
    result: Mapping[str, object] | None = None,
    more: Mapping[str, object] | None = None,
) -> Answer:
    """The state of a job. `error` is there only if it failed: D1's clients may ask just that."""
    told: dict[str, object] = {
        "success": True,
        "type": kind,
        "status": status,
        "at_bookmark": bookmark,
        "messages": list(messages),
        "errors": [error] if error else [],
    }
    if error:
        told["error"] = error
    if result is not None:
        told["result"] = result
    if more is not None:
        told |= more
    return success(told, bookmark=bookmark or None)
