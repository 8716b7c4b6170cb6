"""Bodies of the administration calls: names in, D1's database objects out."""

import uuid
from typing import Final

import msgspec
import orjson

from d1server.catalog import NAME_PATTERN, CatalogEntry
from d1server.query import Answer
from proto.errors import RequestInvalid

_VERSION: Final = "production"  # what D1 calls every database that is not an alpha one


class _Create(msgspec.Struct):
    name: str


def name_in(body: bytes) -> str:
    """The name of the database to create. Raises `RequestInvalid`."""
    try:
        name = msgspec.json.decode(body, type=_Create).name
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise RequestInvalid(f'send {{"name": "..."}} to create a database: {exc}') from exc
    if not NAME_PATTERN.fullmatch(name):
        raise RequestInvalid(
            f"{name[:80]!r} is no name for a database: 1 to 64 letters, digits, '.', '_' or '-', "
            "beginning with a letter or digit"
        )
    return name


def describe(entry: CatalogEntry, file_bytes: int, region: str) -> dict[str, object]:
    """D1's object for a database."""
    return {
        "uuid": str(uuid.UUID(bytes=entry.uuid)),
        "name": entry.name,
        "created_at": entry.created_at,
        "version": _VERSION,
        "file_size": file_bytes,
        "running_in_region": region,
        "read_replication": {"mode": "auto"},
    }


def success(result: object, hint: str = "", bookmark: str | None = None) -> Answer:
    """An answer in D1's envelope."""
    body = {
        "result": result,
        "success": True,
        "errors": [],
        "messages": [{"code": 0, "message": hint}] if hint else [],
    }
    return Answer(200, orjson.dumps(body), bookmark)
