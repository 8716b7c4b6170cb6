"""Bodies of the administration calls: what clients ask, and D1's database objects.

Pure. Every `read_*` raises `RequestInvalid`, whatever the bytes are, with a text that says
what to send instead.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Final

import msgspec
import orjson
from msgspec import Meta

from d1server.bodies import decode_body
from d1server.catalog import NAME_PATTERN, UUID_PATTERN, CatalogEntry, ReplicationMode
from d1server.query import Answer
from proto.errors import RequestInvalid

LOCATION_HINTS: Final = ("wnam", "enam", "weur", "eeur", "apac", "oc")
JURISDICTIONS: Final = ("eu", "fedramp", "us")
FIELDS: Final = (
    "uuid",
    "name",
    "created_at",
    "version",
    "jurisdiction",
    "num_tables",
    "file_size",
    "created_in_region",
    "running_in_region",
    "read_replication",
)
"""Of a database's object."""

PAGE_MAX: Final = 10**9
PER_PAGE_MAX: Final = 10_000
PER_PAGE: Final = 1000  # when the client does not say

_LIST_FIELDS: Final = frozenset({"uuid", "name", "created_at", "version", "jurisdiction"})
_SHOWN_CHARACTERS_MAX: Final = 80

_Location = Annotated[str, Meta(extra_json_schema={"enum": list(LOCATION_HINTS)})]
_Jurisdiction = Annotated[str, Meta(extra_json_schema={"enum": list(JURISDICTIONS)})]
_Mode = Annotated[str, Meta(extra_json_schema={"enum": [mode.value for mode in ReplicationMode]})]
_Name = Annotated[str, Meta(extra_json_schema={"pattern": f"^{NAME_PATTERN.pattern}$"})]


class ReadReplication(msgspec.Struct):
    """Who serves the reads: every replica (auto), or the primary only (disabled)."""

    mode: _Mode


class CreateDatabase(msgspec.Struct):
    """A new database; where it is to be is stored and shown."""

    name: _Name
    primary_location_hint: _Location | None = None
    jurisdiction: _Jurisdiction | None = None
    read_replication: ReadReplication | None = None


class ChangeDatabase(msgspec.Struct):
    """What is to be different."""

    read_replication: ReadReplication | None = None


class NewDatabase(msgspec.Struct, frozen=True):
    """What a database is to be."""

    name: str
    location_hint: str | None
    jurisdiction: str | None
    replication: ReplicationMode


class Listing(msgspec.Struct, frozen=True):
    """Which of the databases are wanted."""

    name: str = ""  # what their names contain; empty: all
    page: int = 1
    per_page: int = PER_PAGE


class Selection(msgspec.Struct, frozen=True):
    """Which members of a database's object are wanted; empty: all."""

    fields: tuple[str, ...] = ()


def read_new_database(body: bytes) -> NewDatabase:
    """What to create."""
    asked = decode_body(body, CreateDatabase, '{"name": "..."} to create a database')
    name = asked.name
    if not NAME_PATTERN.fullmatch(name):
        raise RequestInvalid(
            f"{_shown(name)} is no name for a database: 1 to 64 letters, digits, '.', '_' or '-', "
            "beginning with a letter or digit"
        )
    if UUID_PATTERN.fullmatch(name):
        raise RequestInvalid(f"{name} is no name for a database: it looks like a database's uuid")
    return NewDatabase(
        name,
        _one_of(asked.primary_location_hint, LOCATION_HINTS, "primary_location_hint"),
        _one_of(asked.jurisdiction, JURISDICTIONS, "jurisdiction"),
        _mode(asked.read_replication) or ReplicationMode.AUTO,
    )


def read_change(body: bytes, *, is_whole: bool) -> ReplicationMode | None:
    """The replication mode to set; None: no change, which `is_whole` does not allow."""
    form = '{"read_replication": {"mode": "auto"}} (or "disabled") to change a database'
    mode = _mode(decode_body(body, ChangeDatabase, form).read_replication)
    if mode is None and is_whole:
        raise RequestInvalid(f"send {form}")
    return mode


def read_listing(body: bytes) -> Listing:
    """Which databases to list."""
    asked = decode_body(body, Listing, "a page of the list")
    _check_range("page", asked.page, PAGE_MAX)
    _check_range("per_page", asked.per_page, PER_PAGE_MAX)
    return asked


def read_selection(body: bytes) -> Collection[str]:
    """Which members of the object to answer."""
    if not body:
        return FIELDS
    fields = decode_body(body, Selection, "the fields wanted").fields
    for field in fields:
        _one_of(field, FIELDS, "fields")
    return fields or FIELDS


def listed(entries: Iterable[CatalogEntry], listing: Listing) -> Answer:
    """One page of the list, oldest database first; a name that is the one asked for leads."""
    wanted = listing.name.lower()
    found = [entry for entry in entries if wanted in entry.name.lower()]
    found.sort(key=lambda entry: (entry.name != listing.name, entry.created_at, entry.uuid))
    start = (listing.page - 1) * listing.per_page
    page = found[start : start + listing.per_page]
    info = {
        "page": listing.page,
        "per_page": listing.per_page,
        "count": len(page),
        "total_count": len(found),
    }
    return success([describe(entry, {}, _LIST_FIELDS) for entry in page], result_info=info)


def describe(
    entry: CatalogEntry, measured: Mapping[str, object], wanted: Collection[str] = FIELDS
) -> dict[str, object]:
    """D1's object for a database; `measured`: what the node knows beside the catalog."""
    known: dict[str, object] = {
        "uuid": entry.id,
        "name": entry.name,
        "created_at": entry.created_at,
        "version": entry.version,
        "jurisdiction": entry.jurisdiction,
        "created_in_region": entry.created_in_region,
        "read_replication": {"mode": entry.replication.value},
        **measured,
    }
    return {field: known[field] for field in FIELDS if field in wanted and field in known}


def success(
    result: object,
    hint: str = "",
    bookmark: str | None = None,
    result_info: dict[str, int] | None = None,
) -> Answer:
    """An answer in D1's envelope."""
    body = {
        "result": result,
        "success": True,
        "errors": [],
        "messages": [{"code": 0, "message": hint}] if hint else [],
    }
    if result_info is not None:
        body["result_info"] = result_info
    return Answer(200, orjson.dumps(body), bookmark)


def _mode(asked: ReadReplication | None) -> ReplicationMode | None:
    if asked is None:
        return None
    modes = [mode.value for mode in ReplicationMode]
    _one_of(asked.mode, modes, "read_replication.mode")
    return ReplicationMode(asked.mode)


def _one_of(value: str | None, known: Collection[str], name: str) -> str | None:
    if value is not None and value not in known:
        raise RequestInvalid(f"{name}: {_shown(value)} is none of {', '.join(known)}")
    return value


def _check_range(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise RequestInvalid(f"{name}: {value} is not a whole number from 1 to {most}")


def _shown(value: str) -> str:
    return repr(value[:_SHOWN_CHARACTERS_MAX])
