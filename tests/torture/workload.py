"""What the sessions do, in SQL, and what it means in the terms of `history.py`.

Four kinds of values share one database: lists that are appended to, accounts among which money
moves, registers that are replaced and counters that are added to. Every write is one batch:
its changes and its row in the ledger, sometimes with blobs that come and go, so that commits
have few pages and many, and the file grows, shrinks and is worth a VACUUM. A *heavy* load has
commits of up to 12 MB as well: in parts, with checkpoints, trimmed logs and copies of the file.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.torture.history import Add, Append, Assign, Change, Value

ACCOUNTS = tuple(f"account:{index}" for index in range(8))
COUNTERS = tuple(f"counter:{index}" for index in range(3))
REGISTERS = tuple(f"register:{index}" for index in range(3))
BALANCE = 100
NUMBERS: dict[str, Value] = {
    **dict.fromkeys(ACCOUNTS, BALANCE),
    **dict.fromkeys((*COUNTERS, *REGISTERS), 0),
}
LIST_ELEMENTS = 40  # about so many are appended before the lists of this moment are left alone
LISTS = 3  # at a time
BLOBS = 60
BLOB_BYTES_MAX = 9000
HEAVY_SHARE = 0.012  # of the writes under a heavy load
HEAVY_PAGES_MAX = 3000  # of 4 KiB

SCHEMA = """
CREATE TABLE ledger (place INTEGER PRIMARY KEY, id INTEGER NOT NULL);
CREATE TABLE lists (key TEXT PRIMARY KEY, elements TEXT NOT NULL);
CREATE TABLE numbers (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE blobs (id INTEGER PRIMARY KEY, size INTEGER, body BLOB);
CREATE INDEX blobs_size ON blobs (size, id);
"""

APPEND = (
    "INSERT INTO lists (key, elements) VALUES (?1, ?2) "
    "ON CONFLICT (key) DO UPDATE SET elements = elements || ' ' || excluded.elements"
)
ADD = "UPDATE numbers SET value = value + ?2 WHERE key = ?1"
ASSIGN = "UPDATE numbers SET value = ?2 WHERE key = ?1"
LEDGER = "INSERT INTO ledger (id) VALUES (?1)"
PUT_BLOB = "INSERT OR REPLACE INTO blobs (id, size, body) VALUES (?1, ?2, randomblob(?2))"
PUT_MANY_BLOBS = (
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) "
    "INSERT OR REPLACE INTO blobs (id, size, body) SELECT 1000 + i, 4000, randomblob(4000) FROM n"
)
DROP_BLOBS = "DELETE FROM blobs WHERE id % ?1 = 0"
READ_LIST = "SELECT elements FROM lists WHERE key = ?1"
READ_NUMBER = "SELECT value FROM numbers WHERE key = ?1"
READ_ACCOUNTS = "SELECT key, value FROM numbers WHERE key >= 'account:' AND key < 'account;'"
READ_NUMBERS = "SELECT key, value FROM numbers"
READ_LEDGER = "SELECT place, id FROM ledger WHERE place > ?1 ORDER BY place LIMIT 2000"


@dataclass(frozen=True, slots=True)
class Sql:
    """A statement and its parameters, as the request carries them."""

    sql: str
    params: tuple[int | str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """One statement of a read, and the key it asks for ('' where rows name their keys)."""

    statement: Sql
    key: str = ""


def setup_statements() -> list[Sql]:
    """The first transaction of a database."""
    tables = [Sql(text.strip()) for text in SCHEMA.split(";") if text.strip()]
    rows = [
        Sql("INSERT INTO numbers (key, value) VALUES (?1, ?2)", (key, value))
        for key, value in NUMBERS.items()
        if isinstance(value, int)
    ]
    return [*tables, *rows]


class Workload:
    """Random writes and reads of one database; the numbers of writes are their ids."""

    def __init__(self, rng: random.Random, *, is_heavy: bool = False) -> None:
        self._rng = rng
        self._heavy_share = HEAVY_SHARE if is_heavy else 0.0
        self.writes = 0

    def next_write(self) -> tuple[int, tuple[Change, ...], list[Sql]]:
        """Return a new write: its id, what it means, and its batch."""
        self.writes += 1
        changes = self._changes()
        statements = [_change_sql(change) for change in changes]
        statements.insert(self._rng.randint(0, len(statements)), Sql(LEDGER, (self.writes,)))
        luck = self._rng.random()
        if luck < 0.15:
            for _ in range(self._rng.randint(1, 5)):
                size = self._rng.randint(0, BLOB_BYTES_MAX)
                statements.append(Sql(PUT_BLOB, (self._rng.randrange(BLOBS), size)))
        elif luck < 0.18:
            statements.append(Sql(DROP_BLOBS, (self._rng.randint(2, 7),)))
        elif luck > 1 - self._heavy_share:
            statements.append(Sql(PUT_MANY_BLOBS, (self._rng.randint(1, HEAVY_PAGES_MAX),)))
        return self.writes, changes, statements

    def next_read(self) -> list[Question]:
        """Return a new read of one request: one statement, or several at one moment."""
        kind = self._rng.randrange(6)
        if kind == 0:
            return [Question(Sql(READ_ACCOUNTS))]
        if kind == 1:
            return [Question(Sql(READ_NUMBERS)), self._list_question()]
        if kind == 2:
            keys = self._rng.sample(list(NUMBERS), 2)
            return [Question(Sql(READ_NUMBER, (key,)), key) for key in keys]
        if kind == 3:
            return [self._list_question() for _ in range(LISTS)]
        return [self._list_question()]

    def _changes(self) -> tuple[Change, ...]:
        rng = self._rng
        kind = rng.randrange(4)
        if kind == 0:
            giver, taker = rng.sample(ACCOUNTS, 2)
            amount = rng.randint(1, 20)
            return (Add(giver, -amount), Add(taker, amount))
        if kind == 1:
            return (Assign(rng.choice(REGISTERS), self.writes),)
        if kind == 2:
            return (Add(rng.choice(COUNTERS), rng.randint(1, 3)),)
        keys = rng.sample(self._lists(), rng.randint(1, 2))
        return tuple(Append(key, self.writes) for key in keys)

    def _lists(self) -> list[str]:
        age = self.writes // (LIST_ELEMENTS * 4 * LISTS // 2)
        return [f"list:{age}:{index}" for index in range(LISTS)]

    def _list_question(self) -> Question:
        key = self._rng.choice(self._lists())
        return Question(Sql(READ_LIST, (key,)), key)


def _change_sql(change: Change) -> Sql:
    if isinstance(change, Append):
        return Sql(APPEND, (change.key, str(change.element)))
    if isinstance(change, Add):
        return Sql(ADD, (change.key, change.delta))
    return Sql(ASSIGN, (change.key, change.value))


def seen_by(
    questions: Sequence[Question], results: Sequence[Sequence[Mapping[str, object]]]
) -> dict[str, Value]:
    """Translate the rows of a read's statements into keys and values."""
    seen: dict[str, Value] = {}
    for question, rows in zip(questions, results, strict=True):
        if question.key.startswith("list:"):
            text = str(rows[0]["elements"]) if rows else ""
            seen[question.key] = tuple(int(element) for element in text.split())
        else:
            for row in rows:
                seen[str(row.get("key", question.key))] = int(str(row["value"]))
    return seen
