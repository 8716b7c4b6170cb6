"""D1's rules for numbers: what a parameter binds as, and how a result is written."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.api import (
    Dialect,
    MetaExtras,
    ServedBy,
    Shape,
    SqlValue,
    StatementResult,
    decode_query,
    encode_answer,
)
from proto.errors import RequestInvalid

D1S = (Dialect.REST, Dialect.BINDING)
SERVED = ServedBy("node", "WEUR", is_primary=True)


def written(value: SqlValue, shape: Shape = Shape.ARRAYS) -> str:
    """The text of `value` in an answer."""
    result = StatementResult(("a",), [(value,)], 0, 0, 1, 0, 0.1, False)
    text = encode_answer([result], shape, SERVED, MetaExtras(0), Dialect.REST).decode()
    start = '"rows":[[' if shape is Shape.ARRAYS else '{"a":'
    end = "]]}" if shape is Shape.ARRAYS else "}]"
    return text.partition(start)[2].partition(f'{end},"success"')[0]


@pytest.mark.parametrize("shape", Shape)
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (9007199254740993, "9007199254740992"),
        (2**63 - 1, "9223372036854776000"),
        (-(2**63), "-9223372036854776000"),
        (2**53, "9007199254740992"),
        (-(2**53) - 2, "-9007199254740994"),
        (5.0, "5"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (math.inf, "null"),
        (-math.inf, "null"),
        (None, "null"),
        ("5.0", '"5.0"'),
        (b"\x01\xff", "[1,255]"),
        (b"", "[]"),
    ],
)
def test_values_are_written_as_javascript_writes_them(
    value: SqlValue, text: str, shape: Shape
) -> None:
    assert written(value, shape) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_double_comes_back_as_itself(value: float) -> None:
    """What is written names the very same double."""
    assert float(json.loads(written(value))) == value


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_integer_becomes_the_double_next_to_it(value: int) -> None:
    assert float(json.loads(written(value))) == float(value)


def test_rows_of_mixed_sizes_keep_their_places() -> None:
    """One large integer makes all rows take the long way: nothing else may change on it."""
    rows: list[tuple[SqlValue, ...]] = [(1, "a", b"x"), (2**62, None, 1.5)]
    result = StatementResult(("a", "b", "b"), rows, 0, 0, 1, 0, 0.1, False)
    for shape, expected in (
        (
            Shape.ARRAYS,
            {"columns": ["a", "b", "b"], "rows": [[1, "a", [120]], [2**62, None, 1.5]]},
        ),
        (Shape.OBJECTS, [{"a": 1, "b": [120]}, {"a": 2**62, "b": 1.5}]),
    ):
        answer = encode_answer([result], shape, SERVED, MetaExtras(0), Dialect.BINDING)
        shown = json.loads(answer, parse_int=lambda text: int(float(text)))
        assert shown["result"][0]["results"] == expected


@pytest.mark.parametrize("dialect", D1S)
def test_every_number_binds_as_a_double(dialect: Dialect) -> None:
    """Also a boolean, which is a number to D1; a string and an array of bytes are none."""
    body = b'{"sql":"a","params":[5,5.5,true,false,null,"5",[1,2,255],[],-0,99999999999999999999]}'
    params = decode_query(body, dialect)[0].params
    assert params == (5.0, 5.5, 1.0, 0.0, None, "5", b"\x01\x02\xff", b"", 0.0, 1e20)
    assert [type(value).__name__ for value in params[:4]] == ["float"] * 4
    batch = b'{"batch":[{"sql":"a","params":[5]},{"sql":"b"}]}'
    assert isinstance(decode_query(batch, dialect)[0].params[0], float)


def test_the_binding_sends_arrays_too() -> None:
    """An array is a batch there, and nowhere else; halves of characters are read in it."""
    body = b'[{"sql":"a","params":[5]},{"sql":"\\ud800"}]'
    assert [(one.sql, one.params) for one in decode_query(body, Dialect.BINDING)] == [
        ("a", (5.0,)),
        ("\ufffd" * 3, ()),
    ]
    for dialect in (Dialect.NODE, Dialect.REST):
        with pytest.raises(RequestInvalid, match=r"expected `object`, got `array`"):
            decode_query(body, dialect)
    with pytest.raises(RequestInvalid, match=r"^No SQL statements detected\.$"):
        decode_query(b"[]", Dialect.BINDING)
    with pytest.raises(RequestInvalid, match="not JSON"):
        decode_query(b'[{"sql":"a"}],"x":1', Dialect.BINDING)


@pytest.mark.parametrize("param", [b"1e999", b"9" * 400, b"{}", b"[256]", b"[true]", b"[[1]]"])
def test_what_is_no_value_is_refused_with_its_place(param: bytes) -> None:
    with pytest.raises(RequestInvalid, match=r"params\[0\]|the body is not JSON|out of range"):
        decode_query(b'{"sql":"a","params":[%b]}' % param, Dialect.REST)
