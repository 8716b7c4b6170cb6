"""What a query gives back, and the bytes it is read from.

The envelope is D1's: `{"result": [{"results", "success", "meta"}], "success", "errors"}`.
Blobs come back as D1 sends them, as lists of integers: `bytes(row["photo"])`.
Unknown members are ignored, absent ones have the defaults below.
"""

from typing import Generic, TypeAlias, TypeVar

import msgspec

from d1client.errors import D1OutcomeUnknown

JsonValue: TypeAlias = int | float | str | list[int] | None
Row: TypeAlias = dict[str, JsonValue]


class D1Timings(msgspec.Struct, frozen=True):
    """Where the time went on the server."""

    sql_duration_ms: float = 0.0


class D1Meta(msgspec.Struct, frozen=True):
    """What the server says about one statement; D1's fields, then this server's own."""

    served_by: str = ""
    served_by_region: str = ""
    served_by_primary: bool | None = None
    duration: float = 0.0  # milliseconds, SQL time only
    timings: D1Timings = D1Timings()
    changes: int = 0
    last_row_id: int | None = None
    changed_db: bool = False
    size_after: int = 0
    rows_read: int = 0
    rows_written: int = 0
    total_attempts: int = 1
    waited_ms: float = 0.0  # how long the node waited for the session's bookmark
    lag_ms: float = 0.0  # how far it was behind the primary when it answered


class D1Result(msgspec.Struct, frozen=True):
    """One statement's answer: rows as objects, and what it cost."""

    results: list[Row]
    success: bool = True
    meta: D1Meta = D1Meta()


class RawTable(msgspec.Struct, frozen=True):
    """Rows as arrays, in the order of `columns`; equal names are kept."""

    columns: list[str]
    rows: list[list[JsonValue]]


class RawResult(msgspec.Struct, frozen=True):
    """One statement's answer with rows as arrays."""

    results: RawTable
    success: bool = True
    meta: D1Meta = D1Meta()


class D1ExecResult(msgspec.Struct, frozen=True):
    """What `exec` did: how many statements, in how many milliseconds of SQL time."""

    count: int
    duration: float


ResultT = TypeVar("ResultT")


class Envelope(msgspec.Struct, Generic[ResultT], frozen=True):
    """D1's answer around the results of all statements."""

    result: list[ResultT]
    success: bool = True


class ErrorItem(msgspec.Struct, frozen=True):
    """One entry of an error answer."""

    code: int = 0
    message: str = ""


class ErrorEnvelope(msgspec.Struct, frozen=True):
    """D1's answer to a request that failed."""

    errors: list[ErrorItem] = []


_rows = msgspec.json.Decoder(Envelope[D1Result])
_tables = msgspec.json.Decoder(Envelope[RawResult])
_errors = msgspec.json.Decoder(ErrorEnvelope)


def decode_rows(body: bytes) -> list[D1Result]:
    """Read the answer of `/query`: one result per statement, at least one."""
    return _checked(_rows, body)


def decode_tables(body: bytes) -> list[RawResult]:
    """Read the answer of `/raw`: one result per statement, at least one."""
    return _checked(_tables, body)


def _checked(decoder: "msgspec.json.Decoder[Envelope[ResultT]]", body: bytes) -> list[ResultT]:
    try:
        envelope = decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise D1OutcomeUnknown(f"the answer is not D1's JSON ({exc}): {body[:80]!r}") from exc
    if not envelope.result:
        raise D1OutcomeUnknown("the answer holds no result")
    return envelope.result


def decode_error(status: int, body: bytes) -> ErrorItem:
    """Read an error answer; whatever the body is, something is told."""
    try:
        errors = _errors.decode(body).errors
    except (msgspec.DecodeError, UnicodeDecodeError):
        errors = []
    return errors[0] if errors else ErrorItem(message=f"status {status}: {body[:200]!r}")
