"""Bodies of many values: counted before they are read, whatever stands in their texts and blobs."""

import json

import pytest

from proto.api import VALUES_MAX, decode_query
from proto.errors import RequestInvalid
from proto.value_count import has_more_values

MANY = 20_000
FEW = 5_000
MORE = VALUES_MAX + 5_000
VALUES = ["[]", "[1]", "1", "1.5", "null", '"ab"', r'"\""', r'"\\"', '""', "{}", '{"a":1}', "[[]]"]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("form", ['{"sql":"","params":[%s]}', '{"x" : [ %s ]}', "[%s]", "[1,%s"])
def test_many_values_are_many(value: str, form: str) -> None:
    """However they are written, and also if the text is not valid in the end."""
    if form == "[%s]" and value == "1":
        return  # alone that is a blob
    assert has_more_values((form % ",".join([value] * MANY)).encode(), FEW)
    assert has_more_values((form % " ,\n".join([value] * MANY)).encode(), FEW)
    assert not has_more_values((form % ",".join([value] * (FEW // 5))).encode(), FEW)


@pytest.mark.parametrize(
    "value",
    [
        list(range(256)) * 100,
        "[1,2],{" * MANY,
        '["a", {"b": "c\\"}]' * MANY,
        "\\" * MANY + '",',
        '",[' * MANY,
        json.dumps(json.dumps([["\\", '"', {}]] * MANY)),
    ],
)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" , ", "  :\n")])
def test_what_stands_in_a_text_or_a_blob_is_one(value: object, separators: tuple[str, str]) -> None:
    member = {"sql": "INSERT INTO t VALUES (?, ?)", "params": [value, value]}
    body = json.dumps({"batch": [member] * 5}, separators=separators).encode()
    assert not has_more_values(body, FEW)
    assert has_more_values(body[:-2] + b"," + b"[]," * MANY + b"[]]}", FEW)


@pytest.mark.parametrize("text", ["[" * MANY, '"' * MANY, '",' * MANY, '[",' * MANY, "\\" * MANY])
def test_what_is_no_json_is_counted_to_its_end(text: str) -> None:
    assert has_more_values(text.encode(), FEW) in (False, True)


@pytest.mark.parametrize(
    "body",
    [
        b'{"sql":"SELECT ?","params":[' + b"[]," * MORE + b"[]]}",
        b'{"batch":[' + b'{"sql":""},' * MORE + b'{"sql":""}]}',
        b'{"sql":"\\ud800","params":[' + b"0," * MORE + b"0]}",
    ],
    ids=["params", "batch", "half a pair"],
)
def test_a_body_of_too_many_values_is_refused(body: bytes) -> None:
    with pytest.raises(RequestInvalid, match="more than 1000000 values"):
        decode_query(body)
