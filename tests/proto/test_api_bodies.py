"""D1's JSON bodies: what comes in, what goes out, and what is said about bad input."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.api import (
    Dialect,
    MetaExtras,
    ServedBy,
    Shape,
    SqlValue,
    Statement,
    StatementResult,
    decode_query,
    encode_answer,
    encode_error,
)
from proto.errors import RequestInvalid

HALF = "\ufffd\ufffd\ufffd"  # half of a surrogate pair, as D1 gives it back

SERVED = ServedBy(node="node-1", region="WEUR", is_primary=True)
EXTRAS = MetaExtras(size_after=12288, total_attempts=1, waited_ms=1.5, lag_ms=0.25)


@pytest.mark.parametrize(
    ("body", "statements"),
    [
        ('{"sql":"SELECT 1"}', [("SELECT 1", ())]),
        ('{"sql":"SELECT 1","params":[]}', [("SELECT 1", ())]),
        ('{"sql":"SELECT 1","params":null}', [("SELECT 1", ())]),
        ('{"sql":"","params":[]}', [("", ())]),
        (
            '{"sql":"a","params":[1,2.0,"x",null,-0.0,1e2]}',
            [("a", (1, 2.0, "x", None, -0.0, 100.0))],
        ),
        ('{"sql":"a","params":[true,false]}', [("a", (1, 0))]),
        ('{"sql":"a","params":[[],[0,255]]}', [("a", (b"", b"\x00\xff"))]),
        (
            '{"sql":"a","params":[9223372036854775807,-9223372036854775808]}',
            [("a", (2**63 - 1, -(2**63)))],
        ),
        ('{"batch":[{"sql":"a"},{"sql":"b","params":[1]}]}', [("a", ()), ("b", (1,))]),
        ('{"sql":"a","params":[1],"unknown":{"x":[1]},"batch":null}', [("a", (1,))]),
        ('  {"sql":"\\u00e9\\ud83d\\ude00\\u0000"}\n', [("é\U0001f600\0", ())]),
        ('{"sql":"a \\ud800 b","params":["\\udc00x"]}', [(f"a {HALF} b", (f"{HALF}x",))]),
        ('{"sql":"a","params":["\\ud800",9223372036854775807]}', [("a", (HALF, 2**63 - 1))]),
    ],
)
def test_query_bodies(body: str, statements: list[tuple[str, tuple[SqlValue, ...]]]) -> None:
    decoded = decode_query(body.encode())
    assert [(statement.sql, statement.params) for statement in decoded] == statements
    for statement, (_, params) in zip(decoded, statements, strict=True):
        kinds = [type(value) for value in statement.params]
        assert kinds == [type(value) for value in params], "5 is not 5.0, nor 1 true"


REFUSED = {
    b"": "not JSON",
    b"SELECT 1": "not JSON",
    b"{": "not JSON",
    b'{"sql":"a"} trailing': "not JSON",
    b'{"sql":"\xff"}': "not valid UTF-8",
    b'\xef\xbb\xbf{"sql":"a"}': "not JSON",
    b'{"sql":"a","params":[NaN]}': "not JSON",
    b'{"sql":"\\ud800","params":[NaN]}': "NaN",
    b'{"sql":"\\ud800","params":[-Infinity]}': "Infinity",
    b'{"sql":"\\ud800" x': "not JSON",
    b'{"sql":"\\ud800","params":5}': "params: expected",
    b"[]": "the body: expected `object`, got `array`",
    b'[{"sql":"a"}]': "the body: expected `object`",
    b"null": "the body: expected `object`",
    b'"SELECT 1"': "the body: expected `object`",
    b"{}": 'neither "sql" nor "batch"',
    b'{"params":[1]}': 'neither "sql" nor "batch"',
    b'{"sql":null}': "sql: expected `str`, got `null`",
    b'{"sql":5}': "sql: expected `str`, got `int`",
    b'{"sql":["a"]}': "sql: expected `str`, got `array`",
    b'{"sql":"a","params":5}': "params: expected `array",
    b'{"sql":"a","params":"x"}': "params: expected `array",
    b'{"sql":"a","params":{"a":1}}': "params: expected `array",
    b'{"sql":"a","params":[1,{"a":1}]}': "params[1]: expected a string, a number",
    b'{"sql":"a","params":[[1,256]]}': "params[0]: an array stands for a blob",
    b'{"sql":"a","params":[[-1]]}': "params[0]: an array stands for a blob",
    b'{"sql":"a","params":[["a"]]}': "params[0]: an array stands for a blob",
    b'{"sql":"a","params":[[true]]}': "params[0]: an array stands for a blob",
    b'{"sql":"a","params":[[1.0]]}': "params[0]: an array stands for a blob",
    b'{"sql":"a","params":[[[]]]}': "params[0]: an array stands for a blob",
    b'{"sql":"a","params":[9223372036854775808]}': "params[0]: the integer has more than 64 bits",
    b'{"sql":"a","params":[-9223372036854775809]}': "params[0]: the integer has more than",
    b'{"sql":"a","params":[1,1e999]}': "params[",
    b'{"sql":"a","params":[' + b"9" * 5000 + b"]}": "params[",
    b'{"sql":"a","batch":[{"sql":"b"}]}': "not both",
    b'{"params":[1],"batch":[{"sql":"b"}]}': "not both",
    b'{"batch":[]}': "No SQL statements detected.",
    b'{"batch":{"sql":"a"}}': "batch: expected `array",
    b'{"batch":["a"]}': "batch[0]: expected `object`, got `str`",
    b'{"batch":[{"sql":"a"},{"params":[]}]}': "batch[1]: object missing required field `sql`",
    b'{"batch":[{"sql":"a"},{"sql":1}]}': "batch[1].sql: expected `str`",
    b'{"batch":[{"sql":"a","params":[[300]]}]}': "batch[0].params[0]: an array",
    b'{"batch":[{"sql":"a","params":1}]}': "batch[0].params: expected `array",
    b'{"sql":"a","params":' + b"[" * 5000 + b"]" * 5000 + b"}": "",
    b"[" * 100_000: "",
    b'{"a":' * 100_000: "",
    b'{"sql":"\\ud800","x":' + b"[" * 100_000: "",
}


@pytest.mark.parametrize("body", REFUSED, ids=lambda body: repr(body[:40]))
def test_bad_bodies_are_refused_with_their_place(body: bytes) -> None:
    """The text names the member and what it should be."""
    with pytest.raises(RequestInvalid) as refused:
        decode_query(body)
    assert REFUSED[body] in str(refused.value)
    assert len(str(refused.value)) < 500


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_answered(body: bytes) -> None:
    """Nothing but a decoded query or `RequestInvalid` comes out."""
    try:
        decode_query(body)
    except RequestInvalid:
        pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(sql=JSON | st.text(), params=JSON | st.lists(JSON, max_size=5), batch=JSON)
def test_any_json_is_answered(sql: object, params: object, batch: object) -> None:
    for body in (
        {"sql": sql, "params": params},
        {"batch": batch},
        {"batch": [{"sql": sql, "params": params}]},
    ):
        try:
            statements = decode_query(json.dumps(body).encode())
        except RequestInvalid:
            continue
        for statement in statements:
            assert isinstance(statement, Statement)
            statement.sql.encode()
            for value in statement.params:
                assert type(value) in {int, float, str, bytes, type(None)}


PARAMS = st.lists(
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary(max_size=10),
    max_size=8,
)


@settings(max_examples=300, deadline=None)
@given(sql=st.text(), params=PARAMS)
def test_values_arrive_unchanged(sql: str, params: list[SqlValue]) -> None:
    """What a client encodes is what is bound, to the type."""
    body = json.dumps(
        {"sql": sql, "params": [list(v) if isinstance(v, bytes) else v for v in params]}
    )
    (statement,) = decode_query(body.encode())
    assert statement.sql == sql
    assert list(map(repr, statement.params)) == list(map(repr, params))


def result_of(
    columns: tuple[str, ...], rows: list[tuple[SqlValue, ...]], **others: int
) -> StatementResult:
    return StatementResult(
        columns=columns,
        rows=rows,
        changes=others.get("changes", 0),
        last_row_id=others.get("last_row_id", 0),
        rows_read=others.get("rows_read", len(rows)),
        rows_written=others.get("changes", 0),
        duration_ms=0.125,
        changed_db=others.get("changes", 0) > 0,
    )


def test_answer_is_d1s_envelope() -> None:
    answer = encode_answer(
        [
            result_of(("id", "name"), [(1, "a"), (2, None)], rows_read=9),
            result_of((), [], changes=3, last_row_id=7),
        ],
        Shape.OBJECTS,
        SERVED,
        EXTRAS,
    )
    meta = {
        "served_by": "node-1",
        "served_by_region": "WEUR",
        "served_by_primary": True,
        "duration": 0.125,
        "timings": {"sql_duration_ms": 0.125},
        "changes": 0,
        "last_row_id": 0,
        "changed_db": False,
        "size_after": 12288,
        "rows_read": 9,
        "rows_written": 0,
        "total_attempts": 1,
        "waited_ms": 1.5,
        "lag_ms": 0.25,
    }
    wrote = {"changes": 3, "last_row_id": 7, "changed_db": True, "rows_read": 0, "rows_written": 3}
    assert json.loads(answer) == {
        "result": [
            {
                "results": [{"id": 1, "name": "a"}, {"id": 2, "name": None}],
                "success": True,
                "meta": meta,
            },
            {"results": [], "success": True, "meta": meta | wrote},
        ],
        "success": True,
        "errors": [],
        "messages": [],
    }


def test_raw_answer_keeps_columns() -> None:
    """Also of an empty result, and also equal ones; objects keep the last of those."""
    result = result_of(("a", "a", "b"), [(1, 2, 3)])
    empty = result_of(("a", "b"), [])
    raw = json.loads(encode_answer([result, empty], Shape.ARRAYS, SERVED, EXTRAS))["result"]
    assert raw[0]["results"] == {"columns": ["a", "a", "b"], "rows": [[1, 2, 3]]}
    assert raw[1]["results"] == {"columns": ["a", "b"], "rows": []}
    objects = json.loads(encode_answer([result], Shape.OBJECTS, SERVED, EXTRAS))["result"]
    assert objects[0]["results"] == [{"a": 2, "b": 3}]


@pytest.mark.parametrize("shape", Shape)
def test_values_in_json(shape: Shape) -> None:
    """Blobs are arrays of bytes, what JSON has no number for is null, integers are exact."""
    values = (b"", b"\x00\xff", math.inf, -math.inf, math.nan, 2**63 - 1, -(2**63), 'é"\0', 0.1)
    result = result_of(tuple(f"c{n}" for n in range(len(values))), [values])
    results = json.loads(encode_answer([result], shape, SERVED, EXTRAS))["result"][0]["results"]
    row = results["rows"][0] if shape is Shape.ARRAYS else list(results[0].values())
    assert row == [[], [0, 255], None, None, None, 2**63 - 1, -(2**63), 'é"\0', 0.1]


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("shape", Shape)
def test_many_rows_are_written_as_few_are(shape: Shape, dialect: Dialect) -> None:
    """They are encoded some at a time; the pieces join to the same text."""
    rows = [(n, n / 2, "x" * (n % 500), bytes(n % 90), None) for n in range(3000)]
    columns = ("a", "b", "c", "d", "a")

    def results(rows: list[tuple[SqlValue, ...]]) -> Any:
        answer = encode_answer([result_of(columns, rows)], shape, SERVED, EXTRAS, dialect)
        found = json.loads(answer)["result"][0]["results"]
        return found["rows"] if shape is Shape.ARRAYS else found

    assert results([*rows]) == [row for one in rows for row in results([one])]


def test_node_names_are_escaped() -> None:
    served = ServedBy(node='a"b\\', region="\n", is_primary=False)
    meta = json.loads(encode_answer([result_of((), [])], Shape.OBJECTS, served, EXTRAS))
    assert meta["result"][0]["meta"]["served_by"] == 'a"b\\'


def test_error_is_d1s_envelope() -> None:
    """D1's text stands alone in `errors`; advice of our own stands beside it."""
    assert json.loads(encode_error(7500, "no such table: x: SQLITE_ERROR")) == {
        "result": [],
        "success": False,
        "errors": [{"code": 7500, "message": "no such table: x: SQLITE_ERROR"}],
        "messages": [],
    }
    hinted = json.loads(encode_error(7500, "not authorized: SQLITE_AUTH", "PRAGMA x is not there"))
    assert hinted["messages"] == [{"code": 7500, "message": "PRAGMA x is not there"}]
    assert hinted["errors"] == [{"code": 7500, "message": "not authorized: SQLITE_AUTH"}]


def test_error_of_half_a_character() -> None:
    """A message that quotes bad input is still JSON."""
    assert json.loads(encode_error(7400, "near \ud800"))["success"] is False
