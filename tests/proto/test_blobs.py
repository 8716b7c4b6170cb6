"""Large blobs as JSON: the same as small ones, only in pieces."""

import json

import orjson
import pytest

from proto import blobs
from proto.api import LARGE_BODY_BYTES, Dialect, decode_query
from proto.errors import RequestInvalid

EVERY_BYTE = bytes(range(256))
LARGE = EVERY_BYTE * 2000
MANY = "1," * LARGE_BODY_BYTES


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 131072, 131073, len(LARGE)])
def test_a_blob_goes_out_and_comes_in_again(size: int) -> None:
    blob = LARGE[:size]
    text = orjson.dumps([blob], default=blobs.to_json)
    assert text == orjson.dumps([list(blob)])
    assert blobs.from_json(text[1:-1]) == blob
    assert blobs.from_json(json.dumps(list(blob), indent=1).encode()) == blob


@pytest.mark.parametrize("dialect", Dialect)
def test_large_bodies_mean_what_small_ones_mean(dialect: Dialect) -> None:
    """Method: the same values beside a small and a large blob, in each form of a body."""
    others = ["a\ufffdé", None, True, 5, 2.5, [1, 2], [], "[1,2]"]
    for blob in (b"\1\2", LARGE):
        member = {"sql": "SELECT ?", "params": [list(blob), *others]}
        bodies: list[object] = [member, {"batch": [member, {"sql": "SELECT 1"}]}]
        if dialect is Dialect.BINDING:
            bodies.append([member])
        for body in bodies:
            first = decode_query(json.dumps(body).encode(), dialect)[0]
            assert first.sql == "SELECT ?"
            assert first.params[0] == blob
            wanted = decode_query(json.dumps({"sql": "", "params": others}).encode(), dialect)
            assert [(type(v), v) for v in first.params[1:]] == [
                (type(v), v) for v in wanted[0].params
            ]


@pytest.mark.parametrize(
    "array",
    [
        f"[{MANY}true]", f"[{MANY}256]", f"[{MANY}-1]", f"[{MANY}1.0]", f"[{MANY}null]",
        f'[{MANY}"a"]', f"[[{MANY}1]]", f'[{MANY}{{"a":1}}]', f"[{MANY}1e1]",
    ],
)  # fmt: skip
def test_what_is_no_blob_is_refused_as_ever(array: str) -> None:
    with pytest.raises(RequestInvalid, match="stands for a blob") as refused:
        decode_query(f'{{"sql":"SELECT ?1","params":[1,{array}]}}'.encode())
    assert str(refused.value).startswith("params[1]: ")


@pytest.mark.parametrize("array", [f"[{MANY}]", f"[{MANY},1]", f"[{MANY}1", f"[{MANY}1]x"])
def test_what_is_no_json_is_refused_as_ever(array: str) -> None:
    with pytest.raises(RequestInvalid, match="not JSON"):
        decode_query(f'{{"sql":"SELECT ?1","params":[{array}]}}'.encode())


def test_half_a_surrogate_pair_in_a_large_body() -> None:
    body = f'{{"sql":"SELECT ?","params":["\\ud800",[{MANY}1]]}}'.encode()
    assert decode_query(body)[0].params == ("\ufffd" * 3, b"\1" * (LARGE_BODY_BYTES + 1))
