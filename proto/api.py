"""D1's JSON bodies, as values.

A query comes as `{"sql", "params"}` or `{"batch": [{"sql", "params"}, ...]}`, on the binding
also as the array alone; its answer is D1's envelope with one element per statement.

Values: on this server's own surface JSON integers bind as INTEGER, other numbers as REAL,
booleans as 0 or 1, an array of integers from 0 to 255 as a blob. Blobs go out as such arrays,
infinities as null. On D1's surfaces every number is a double (`proto/doubles.py`); `Dialect`
says which surface it is.

Invariants:

1. `decode_query` raises nothing but `RequestInvalid`, whatever the bytes are, and its text
   names the member that is wrong and what was expected there.
2. What `encode_answer` and `encode_error` return is one complete JSON text.

Pure. `encode_answer` and `decode_query` are on the path of each query: they avoid work.
"""

import enum
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from operator import length_hint
from typing import Any, Final, Never, TypeAlias

import msgspec
import orjson

from proto import blobs
from proto.doubles import Rows, dump_doubles
from proto.errors import RequestInvalid
from proto.value_count import has_more_values

SqlValue: TypeAlias = int | float | str | bytes | None

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1

NO_STATEMENTS: Final = "No SQL statements detected."

_PIECE_ROWS_MIN: Final = 64
_PIECE_ROWS_MAX: Final = 1024
_PIECE_BYTES: Final = 64 * 1024  # of text and blobs: a millisecond or two

LARGE_BODY_BYTES: Final = 256 * 1024
"""A larger body takes long to read: it is decoded on a thread."""

VALUES_MAX: Final = 1_000_000
"""In one body, a blob counted as one: a body of 32 MiB could hold ten times as many, which would be
gigabytes of Python."""

# What stands around the elements of a successful answer.
ANSWER_BEGIN: Final = b'{"result":['
ANSWER_END: Final = b'],"success":true,"errors":[],"messages":[]}'


class Statement(msgspec.Struct, frozen=True):
    """A text of SQL, and values for the parameters of its last statement."""

    sql: str
    params: tuple[SqlValue, ...] = ()


class Shape(enum.Enum):
    """How rows are written."""

    OBJECTS = "objects"  # /query: one object per row, so the last of equal names wins
    ARRAYS = "arrays"  # /raw: {"columns": [...], "rows": [[...]]}


class Dialect(enum.Enum):
    """Whose rules a query and its answer follow."""

    NODE = "node"  # this server's own: integers are integers, one element per SQL statement
    REST = "rest"  # D1's REST API: numbers are doubles, one element per SQL statement
    BINDING = "binding"  # D1's binding: numbers are doubles, one element per member of the batch


_ARRAYS: Final = Shape.ARRAYS  # looked up once: members of an enumeration cost 0.1 us each time
_NODE: Final = Dialect.NODE
_BINDING: Final = Dialect.BINDING


class StatementResult(msgspec.Struct):
    """What one statement returned and did."""

    columns: tuple[str, ...]
    rows: list[tuple[SqlValue, ...]]
    changes: int
    last_row_id: int
    rows_read: int
    rows_written: int
    duration_ms: float
    changed_db: bool


@dataclass(frozen=True, slots=True)
class ServedBy:
    """The node that ran a query."""

    node: str
    region: str
    is_primary: bool
    encoded: bytes = field(init=False, repr=False, compare=False)  # the same as members of `meta`

    def __post_init__(self) -> None:
        """Encode once what each answer says."""
        encoded = b'"served_by":%b,"served_by_region":%b,"served_by_primary":%b' % (
            orjson.dumps(_valid(self.node)),
            orjson.dumps(_valid(self.region)),
            b"true" if self.is_primary else b"false",
        )
        object.__setattr__(self, "encoded", encoded)


class MetaExtras(msgspec.Struct, gc=False):
    """What the node knows of an answer beyond its statements."""

    size_after: int  # bytes of the database
    total_attempts: int = 1
    waited_ms: float = 0.0  # for a bookmark
    lag_ms: float = 0.0  # behind the primary


class _Body(msgspec.Struct, gc=False):
    sql: str | msgspec.UnsetType = msgspec.UNSET
    params: list[Any] | None = None
    batch: list["_Member"] | None = None


class _Member(msgspec.Struct, gc=False):
    sql: str
    params: list[Any] | None = None


class _RawMember(msgspec.Struct, gc=False):
    sql: str
    params: list[msgspec.Raw] | None = None


class _RawBody(msgspec.Struct, gc=False):
    sql: str | msgspec.UnsetType = msgspec.UNSET
    params: list[msgspec.Raw] | None = None
    batch: list[_RawMember] | None = None


_Read: TypeAlias = _Body | list[_Member]
_RawRead: TypeAlias = _RawBody | list[_RawMember]

_BODY: Final = msgspec.json.Decoder[_Read](_Body)
_BODY_OR_MEMBERS: Final = msgspec.json.Decoder[_Read](_Read)
_RAW_BODY: Final = msgspec.json.Decoder[_RawRead](_RawBody)
_RAW_BODY_OR_MEMBERS: Final = msgspec.json.Decoder[_RawRead](_RawRead)
_PLAIN: Final = frozenset({str, float, type(None)})


def decode_query(body: bytes, dialect: Dialect = _NODE) -> tuple[Statement, ...]:
    """Read a query's statements; the binding's may be an array. Raises `RequestInvalid`."""
    decoder = _BODY_OR_MEMBERS if dialect is _BINDING else _BODY
    query = None
    if len(body) > LARGE_BODY_BYTES:
        if has_more_values(body, VALUES_MAX):
            raise RequestInvalid(
                f"the body holds more than {VALUES_MAX} values: send the statements in parts"
            )
        query = _decode_large(body, dialect)
    if query is None:
        try:
            query = decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
            query = _decode_again(body, decoder, exc)
    if isinstance(query, list):
        return _batch(query, dialect)
    sql = query.sql
    if query.batch is not None:
        if sql is not msgspec.UNSET or query.params is not None:
            raise RequestInvalid('send either "sql" with "params", or "batch", not both')
        return _batch(query.batch, dialect)
    if isinstance(sql, str):
        return (Statement(sql, _params(query.params, dialect) if query.params else ()),)
    raise RequestInvalid(
        'the body has neither "sql" nor "batch"; send {"sql": "SELECT ?", "params": [1]} '
        'or {"batch": [{"sql": ..., "params": [...]}, ...]}'
    )


def _decode_large(body: bytes, dialect: Dialect) -> _Read | None:
    """Decode it value by value, large blobs in pieces; None if something is wrong with it."""
    decoder = _RAW_BODY_OR_MEMBERS if dialect is _BINDING else _RAW_BODY
    try:
        query = decoder.decode(body)
        if isinstance(query, list):
            return _members(query)
        batch = None if query.batch is None else _members(query.batch)
        return _Body(query.sql, _values(query.params), batch)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _members(members: list[_RawMember]) -> list[_Member]:
    return [_Member(member.sql, _values(member.params)) for member in members]


def _values(params: list[msgspec.Raw] | None) -> list[Any] | None:
    return None if params is None else [_value(bytes(param)) for param in params]


def _value(text: bytes) -> object:
    blob = blobs.from_json(text) if len(text) > blobs.LARGE_BYTES else None
    return msgspec.json.decode(text) if blob is None else blob


def _batch(members: list[_Member], dialect: Dialect) -> tuple[Statement, ...]:
    if not members:
        raise RequestInvalid(NO_STATEMENTS)
    return tuple(
        [
            Statement(member.sql, _params(member.params, dialect, at) if member.params else ())
            for at, member in enumerate(members)
        ]
    )


def _params(values: list[Any], dialect: Dialect, member: int | None = None) -> tuple[SqlValue, ...]:
    """What is bound for `values`, of one statement or of this member of a batch."""
    has_integers = dialect is _NODE
    for at, value in enumerate(values):
        kind = type(value)
        if kind in _PLAIN:
            continue
        if kind is int and INT64_MIN <= value <= INT64_MAX:
            if not has_integers:
                values[at] = float(value)
            continue
        place = f"params[{at}]" if member is None else f"batch[{member}].params[{at}]"
        values[at] = _param(value, place) if has_integers else _as_double(value, place)
    return tuple(values)


def _as_double(value: object, place: str) -> SqlValue:
    """Convert a value of JavaScript, where a number is a double and a boolean a number."""
    if isinstance(value, int):
        try:
            return float(value)
        except OverflowError:
            raise RequestInvalid(f"{place}: the number is beyond what a double holds") from None
    return _param(value, place)


def _param(value: object, place: str) -> SqlValue:
    """Check and convert a value that is not bound as it came."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        raise RequestInvalid(
            f"{place}: the integer has more than 64 bits; send it as a string or as a number "
            "with a fraction"
        )
    if isinstance(value, bytes):  # of a large body
        return value
    if isinstance(value, list):
        try:
            if bool in set(map(type, value)):
                raise TypeError
            return bytes(value)
        except (TypeError, ValueError):
            raise RequestInvalid(
                f"{place}: an array stands for a blob and holds integers from 0 to 255 only"
            ) from None
    raise RequestInvalid(
        f"{place}: expected a string, a number, a boolean, null or an array of bytes, "
        "got an object; send JSON.stringify(value) to store it as text"
    )


def _decode_again(body: bytes, decoder: msgspec.json.Decoder[_Read], error: Exception) -> _Read:
    """Decode what the fast decoder refused, if only for half a surrogate pair; or refuse it.

    JavaScript may send such a half, which is no character: it becomes U+FFFD three times, as at D1.
    """
    if isinstance(error, msgspec.ValidationError):
        raise RequestInvalid(_explained(str(error))) from None
    if rb"\u" not in body:
        raise RequestInvalid(f"the body is not JSON: {_json_error(error)}") from None
    try:
        loaded = json.loads(body.decode("utf-8", "surrogatepass"), parse_constant=_refuse_constant)
        text = json.dumps(loaded, ensure_ascii=False).encode("utf-8", "surrogatepass")
        return decoder.decode(text.decode("utf-8", "replace"))
    except msgspec.ValidationError as exc:
        raise RequestInvalid(_explained(str(exc))) from None
    except (ValueError, RecursionError) as exc:
        raise RequestInvalid(f"the body is not JSON: {_json_error(exc)}") from None


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a value of JSON")


def _json_error(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "it is not valid UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error)


def _explained(text: str) -> str:
    """Say a validation error in the words of this API: `params[0]` instead of `$.params[0]`."""
    problem, _, place = text.partition(" - at ")
    name = place.strip("`").removeprefix("$").removeprefix(".")
    problem = problem[0].lower() + problem[1:]
    return f"{name}: {problem}" if name else f"the body: {problem}"


def encode_error(code: int, message: str, hint: str = "", statement: int | None = None) -> bytes:
    """D1's envelope for an error. The hint goes into `messages`, beside D1's own text.

    `statement`: which of several statements failed, from 0.
    """
    error: dict[str, object] = {"code": code, "message": _valid(message)}
    if statement is not None:
        error["statement"] = statement
    text = {
        "result": [],
        "success": False,
        "errors": [error],
        "messages": [{"code": code, "message": _valid(hint)}] if hint else [],
    }
    return orjson.dumps(text)


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def encode_answer(
    results: Sequence[StatementResult],
    shape: Shape,
    served: ServedBy,
    extras: MetaExtras,
    dialect: Dialect = _NODE,
) -> bytes:
    """D1's envelope for the results of a query's statements."""
    if len(results) == 1:
        elements = _element(results[0], shape, served, extras, dialect)
    else:
        elements = b",".join(
            [_element(result, shape, served, extras, dialect) for result in results]
        )
    return b"%b%b%b" % (ANSWER_BEGIN, elements, ANSWER_END)


def _element(
    result: StatementResult, shape: Shape, served: ServedBy, extras: MetaExtras, dialect: Dialect
) -> bytes:
    duration = b"%.4f" % result.duration_ms
    waited_ms, lag_ms = extras.waited_ms, extras.lag_ms
    return (
        b'{"results":%b,"success":true,"meta":{%b,"duration":%b,'
        b'"timings":{"sql_duration_ms":%b},"changes":%d,"last_row_id":%d,"changed_db":%b,'
        b'"size_after":%d,"rows_read":%d,"rows_written":%d,"total_attempts":%d,'
        b'"waited_ms":%b,"lag_ms":%b}}'
        % (
            _encode_rows(result, shape, dialect),
            served.encoded,
            duration,
            duration,
            result.changes,
            result.last_row_id,
            b"true" if result.changed_db else b"false",
            extras.size_after,
            result.rows_read,
            result.rows_written,
            extras.total_attempts,
            b"%.3f" % waited_ms if waited_ms else b"0.000",
            b"%.3f" % lag_ms if lag_ms else b"0.000",
        )
    )


def _encode_rows(result: StatementResult, shape: Shape, dialect: Dialect) -> bytes:
    columns, rows = result.columns, result.rows
    dumps = _dumps if len(rows) <= _PIECE_ROWS_MIN else _dumps_pieces
    if shape is _ARRAYS:
        return b'{"columns":%b,"rows":%b}' % (orjson.dumps(columns), dumps(rows, list, dialect))
    if not rows:
        return b"[]"
    if dialect is _NODE and dumps is _dumps:
        return orjson.dumps(_objects(columns, rows), default=blobs.to_json)
    return dumps(rows, partial(_objects, columns), dialect)


def _dumps_pieces(rows: Rows, shaped: Callable[[Rows], object], dialect: Dialect) -> bytes:
    """Encode some rows at a time, so that a thread that does this lets the others run between."""
    count = len(rows)
    size = sum(map(length_hint, chain.from_iterable(rows)))  # 0 for numbers and NULL
    step = max(1, min(_PIECE_ROWS_MAX, _PIECE_BYTES * count // (size + 1)))
    pieces = [_dumps(rows[at : at + step], shaped, dialect)[1:-1] for at in range(0, count, step)]
    return b"[%b]" % b",".join(pieces)


def _objects(columns: Sequence[str], rows: Rows) -> list[dict[str, object]]:
    # SQLite gives as many values as columns, and `strict` costs half as much again.
    return [dict(zip(columns, row)) for row in rows]  # noqa: B905


def _dumps(rows: Rows, shaped: Callable[[Rows], object], dialect: Dialect) -> bytes:
    if dialect is _NODE:
        return orjson.dumps(shaped(rows), default=blobs.to_json)  # the only foreign type is bytes
    return dump_doubles(rows, shaped)
