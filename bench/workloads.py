"""What the load generator asks, and what the right answer is.

One table, 100,000 rows whose contents follow from their ids, so that any answer can be
checked without asking a second server. Keys and values have a fixed width, so every
request of a workload has the same length and is put together from three pieces of bytes.

Each connection owns a part of the keys (shuffled): a row has one writer, so its last
acknowledged value is known exactly and is read back, from both nodes, after the run.
"""

import functools
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import orjson

from bench.answers import WrongAnswer

DATABASE: Final = "bench"
ROWS: Final = 100_000
FIRST_ID: Final = 100_000  # six digits each: content-length never changes
FIRST_VALUE: Final = 100_000_000
FIRST_INSERT_ID: Final = 1_000_000_000_000
FILL_ROWS: Final = 10_000  # rows that one filling statement makes

SCHEMA_SQL: Final = (
    "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL,"
    " price INTEGER NOT NULL, stock INTEGER NOT NULL, note TEXT NOT NULL)"
)
ADDED_SQL: Final = "CREATE TABLE added (id INTEGER PRIMARY KEY, value INTEGER NOT NULL, note TEXT)"
PROBE_ROW_SQL: Final = "INSERT INTO added (id, value) VALUES (1, 0)"  # no insert uses id 1
FILL_SQL: Final = (
    "WITH RECURSIVE n(id) AS (SELECT ?1 UNION ALL SELECT id + 1 FROM n WHERE id < ?2)"
    " INSERT INTO item SELECT id, 'item ' || id, (id * 7919) % 100000, 0,"
    " printf('%080d', (id * 48271) % 2147483647) FROM n"
)
READ_SQL: Final = "SELECT id, name, price, stock, note FROM item WHERE id = ?"
UPDATE_SQL: Final = "UPDATE item SET stock = ? WHERE id = ?"
INSERT_SQL: Final = "INSERT INTO added (id, value, note) VALUES (?, ?, 'a row of the benchmark')"


def row_of(key: int) -> dict[str, object]:
    """Return the columns of row `key` that no workload changes."""
    return {
        "id": key,
        "name": f"item {key}",
        "price": (key * 7919) % 100_000,
        "note": f"{(key * 48271) % 2147483647:080d}",
    }


def keys_of(connection: int, *, connections: int, seed: int) -> list[int]:
    """Return the keys that `connection` alone uses, in the order of their use."""
    return list(_shuffled_keys(seed)[connection::connections])


@functools.lru_cache(maxsize=1)
def _shuffled_keys(seed: int) -> tuple[int, ...]:
    order = list(range(FIRST_ID, FIRST_ID + ROWS))
    random.Random(seed).shuffle(order)
    return tuple(order)


class Workload(Protocol):
    """One connection's endless sequence of requests, and the judge of their answers."""

    def bodies(self) -> Iterator[bytes]:
        """Return the JSON bodies of the requests, in order and without end."""

    def check(self, body: bytes, nth: int) -> None:
        """Raise WrongAnswer unless `body` answers request `nth` (from 0)."""


class PointReads:
    """`SELECT ... WHERE id = ?`: one row by its primary key."""

    def __init__(self, keys: Sequence[int], server: str = "") -> None:
        self._keys = keys
        self._server = server  # "primary" or "replica" must have answered; empty: anyone

    def bodies(self) -> Iterator[bytes]:
        """Return reads of all keys, again and again."""
        before, after = _pieces_of(READ_SQL)
        return itertools.cycle([b"%b%d%b" % (before, key, after) for key in self._keys])

    def check(self, body: bytes, nth: int) -> None:
        """Compare every column that is constant with what the row must hold."""
        expected = row_of(self._keys[nth % len(self._keys)])
        result = _result_of(body)
        rows, meta = result["results"], result["meta"]
        if not isinstance(rows, list) or len(rows) != 1:
            raise WrongAnswer(f"wanted one row {expected}, got {rows!r}")
        if any(rows[0].get(name, expected) != value for name, value in expected.items()):
            raise WrongAnswer(f"wanted {expected}, got {rows[0]!r}")
        if not isinstance(rows[0].get("stock"), int):
            raise WrongAnswer(f"no stock in {rows[0]!r}")
        by_primary = isinstance(meta, dict) and meta.get("served_by_primary")
        if self._server and by_primary is not (self._server == "primary"):
            raise WrongAnswer(f"the {self._server} did not answer itself: {meta!r}")


class Updates:
    """`UPDATE item SET stock = ? WHERE id = ?`: one row by its primary key."""

    def __init__(self, keys: Sequence[int], first_value: int = FIRST_VALUE) -> None:
        self._keys = keys
        self._first_value = first_value

    def bodies(self) -> Iterator[bytes]:
        """Return updates of all keys, again and again, each to a value not used before."""
        before, after = _pieces_of(UPDATE_SQL)
        values = itertools.count(self._first_value)
        for key, value in zip(itertools.cycle(self._keys), values, strict=False):
            yield b"%b%d,%d%b" % (before, value, key, after)

    def check(self, body: bytes, nth: int) -> None:  # noqa: ARG002
        """The update must have changed exactly one row."""
        _check_one_change(body)

    def newest(self, acknowledged: int, *, count_max: int) -> dict[int, int]:
        """Return key -> value of the newest of the first `acknowledged` updates."""
        first = max(0, acknowledged - min(count_max, len(self._keys)))
        return {
            self._keys[nth % len(self._keys)]: self._first_value + nth
            for nth in range(first, acknowledged)
        }


class Inserts:
    """`INSERT INTO added`: one row under a key that lies anywhere in the table."""

    _SPREAD: Final = 7_919_000_003
    _RANGE: Final = 2**40

    def __init__(self, connection: int, *, connections: int, seed: int) -> None:
        self._first = connection + (seed % 4096) * 2**27  # 2**27 inserts per seed at most
        self._step = connections

    def bodies(self) -> Iterator[bytes]:
        """Return inserts under keys that never repeat, and look random."""
        before, after = _pieces_of(INSERT_SQL)
        for n in itertools.count(self._first, self._step):
            # n * odd modulo a power of two visits every residue once.
            key = FIRST_INSERT_ID + (n * self._SPREAD) % self._RANGE
            yield b"%b%d,%d%b" % (before, key, FIRST_VALUE + n % 100_000, after)

    def check(self, body: bytes, nth: int) -> None:  # noqa: ARG002
        """The insert must have added exactly one row."""
        _check_one_change(body)


def workload_of(
    name: str, connection: int, *, connections: int, seed: int, server: str = ""
) -> Workload:
    """Return the workload `name` ("read", "update" or "insert") of one connection."""
    if name == "insert":
        return Inserts(connection, connections=connections, seed=seed)
    keys = keys_of(connection, connections=connections, seed=seed)
    if name == "read":
        return PointReads(keys, server)
    if name == "update":
        return Updates(keys, FIRST_VALUE + (seed % 800) * 1_000_000)
    raise ValueError(f"workload {name!r}: choose read, update or insert")


def _pieces_of(sql: str) -> tuple[bytes, bytes]:
    return b'{"sql":"%b","params":[' % sql.encode(), b"]}"


def _result_of(body: bytes) -> dict[str, object]:
    try:
        answer = orjson.loads(body)
        result = answer["result"][0]
    except (ValueError, LookupError, TypeError) as exc:
        raise WrongAnswer(f"not an answer of a query ({exc}): {body[:500]!r}") from exc
    if answer.get("success") is not True or result.get("success") is not True:
        raise WrongAnswer(f"not a success: {body[:500]!r}")
    assert isinstance(result, dict)
    return result


def _check_one_change(body: bytes) -> None:
    meta = _result_of(body).get("meta")
    if not isinstance(meta, dict) or meta.get("changes") != 1:
        raise WrongAnswer(f"wanted one changed row: {body[:500]!r}")
