"""Requests are what they should be, and no wrong answer passes."""

import itertools
import json

import apsw
import pytest

from bench.answers import WrongAnswer
from bench.workloads import (
    FILL_SQL,
    FIRST_ID,
    ROWS,
    SCHEMA_SQL,
    Inserts,
    PointReads,
    Updates,
    keys_of,
    row_of,
    workload_of,
)


def answer_of(row: dict[str, object], **meta: object) -> bytes:
    result = {"results": [row], "success": True, "meta": meta}
    return json.dumps({"result": [result], "success": True}).encode()


def test_filled_rows_are_the_expected_rows() -> None:
    """SQL and Python agree on every column of a row, at both ends of the table."""
    connection = apsw.Connection(":memory:")
    connection.execute(SCHEMA_SQL)
    last = FIRST_ID + ROWS - 1
    connection.execute(FILL_SQL, (FIRST_ID, FIRST_ID + 20))
    connection.execute(FILL_SQL, (last - 20, last))
    rows = connection.execute("SELECT id, name, price, note, stock FROM item").fetchall()
    connection.close()
    assert len(rows) == 42
    for key, name, price, note, stock in rows:
        assert isinstance(key, int)
        assert {"id": key, "name": name, "price": price, "note": note} == row_of(key)
        assert stock == 0


def test_every_key_has_one_connection() -> None:
    """The connections of a run share all keys out among themselves, in random order."""
    parts = [keys_of(index, connections=7, seed=3) for index in range(7)]
    assert sorted(itertools.chain(*parts)) == list(range(FIRST_ID, FIRST_ID + ROWS))
    assert parts[0] != sorted(parts[0])


@pytest.mark.parametrize("name", ["read", "update", "insert"])
def test_bodies_are_json_of_one_length(name: str) -> None:
    """All requests of a workload are valid and equally long, as the pre-encoded heads need."""
    bodies = list(itertools.islice(workload_of(name, 3, connections=16, seed=5).bodies(), 200))
    for body in bodies:
        request = json.loads(body)
        assert request["sql"].count("?") == len(request["params"])
    assert len({len(body) for body in bodies}) == 1


def test_inserted_keys_never_repeat() -> None:
    """Two connections of one run, and two runs, insert under different keys."""
    keys = [
        json.loads(body)["params"][0]
        for seed in (1, 2)
        for connection in (0, 1)
        for body in itertools.islice(Inserts(connection, connections=2, seed=seed).bodies(), 2000)
    ]
    assert len(set(keys)) == len(keys)


def test_read_of_another_row_is_refused() -> None:
    """A read is checked against the row that was asked for, not any row."""
    reads = PointReads([FIRST_ID, FIRST_ID + 1])
    reads.check(answer_of(row_of(FIRST_ID) | {"stock": 5}), 0)
    reads.check(answer_of(row_of(FIRST_ID + 1) | {"stock": 5}), 3)
    with pytest.raises(WrongAnswer):
        reads.check(answer_of(row_of(FIRST_ID) | {"stock": 5}), 1)


@pytest.mark.parametrize(
    "change", [{"name": "another"}, {"price": 1}, {"note": ""}, {"id": 1}, {"stock": "many"}]
)
def test_read_with_a_wrong_column_is_refused(change: dict[str, object]) -> None:
    """Every column of the row counts."""
    with pytest.raises(WrongAnswer):
        PointReads([FIRST_ID]).check(answer_of(row_of(FIRST_ID) | {"stock": 0} | change), 0)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"result":[]}', b'{"success":false}'])
def test_read_without_a_result_is_refused(body: bytes) -> None:
    """What is no answer of a query is an error of the run, not of the benchmark."""
    with pytest.raises(WrongAnswer):
        PointReads([FIRST_ID]).check(body, 0)


def test_forwarded_read_is_refused() -> None:
    """A replica that lets the primary answer must not pass for a fast replica."""
    reads = PointReads([FIRST_ID], "replica")
    row = row_of(FIRST_ID) | {"stock": 0}
    reads.check(answer_of(row, served_by_primary=False), 0)
    with pytest.raises(WrongAnswer, match="did not answer itself"):
        reads.check(answer_of(row, served_by_primary=True), 0)


@pytest.mark.parametrize("changes", [0, 2, None])
def test_write_that_changed_no_row_is_refused(changes: int | None) -> None:
    """A write counts only if it changed one row."""
    updates = Updates([FIRST_ID])
    updates.check(answer_of({}, changes=1), 0)
    with pytest.raises(WrongAnswer):
        updates.check(answer_of({}, changes=changes), 0)


def test_newest_values_are_the_last_written() -> None:
    """What must be read back is the last acknowledged value of each key, not an older one."""
    updates = Updates([1, 2, 3], 100)
    written: dict[int, int] = {}
    for nth, body in enumerate(itertools.islice(updates.bodies(), 11)):
        assert updates.newest(nth, count_max=99) == written
        value, key = json.loads(body)["params"]
        written[key] = value
    assert updates.newest(11, count_max=2) == {1: 109, 2: 110}
